//! The scoring script of a bundle: a WebAssembly module around plain scoring. `preprocess` makes of a request what
//! plain scoring takes; `postprocess` makes an answer of the outputs that it gives. Both are JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster_proto::code::Code;
use muster_proto::id::FilePath;
use muster_proto::manifest::{self, Hook, MAX_MODULE, ScriptLimits, Tensor, Transforms};
use serde_json::value::RawValue;

use super::Model;
use super::json::dictionary::{self, Wanted};
use super::transforms::{self, Answer, apply_outputs};

mod register;
mod sandbox;

pub use register::{record, with_inputs};

use sandbox::Sandbox;

/// How long a script may take over a golden sample, for which nobody else waits.
const SAMPLE_TIME: Duration = Duration::from_secs(60);

/// Why a script cannot be loaded, or gives no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read. A retry may help.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The module cannot be used. A retry cannot help.
    #[error("the scoring script cannot be used: {0}")]
    Invalid(String),
    /// The script does not take the request; its own words. A retry with the same cannot help.
    #[error("{0}")]
    Refused(String),
    /// What the script made of the request does not fit the model. A retry with the same cannot help.
    #[error("what the scoring script made of the request does not fit the model: {0}")]
    Input(String),
    /// The script trapped or broke its interface. A retry with the same cannot help.
    #[error("the scoring script failed in {}: {reason}", hook.name())]
    Failed {
        /// What was called.
        hook: Hook,
        /// What happened.
        reason: String,
    },
    /// The fuel was used up. A retry with the same cannot help.
    #[error("the scoring script used up its fuel of {} in {}", limits.fuel, hook.name())]
    OutOfFuel {
        /// What was called.
        hook: Hook,
        /// What it may cost.
        limits: ScriptLimits,
    },
    /// More memory was wanted than allowed. A retry with the same cannot help.
    #[error("the scoring script wanted more than its memory of {} bytes in {}", limits.memory_bytes, hook.name())]
    OutOfMemory {
        /// What was called.
        hook: Hook,
        /// What it may cost.
        limits: ScriptLimits,
    },
    /// A golden sample does not come through.
    #[error("sample {sample:?}: {source}")]
    Sample {
        /// Its name.
        sample: String,
        /// What happened.
        source: Box<Error>,
    },
    /// It was stopped, because nobody wants the result any more. A retry may help.
    #[error("the scoring script was stopped in {}, because its time was over", hook.name())]
    Stopped {
        /// What was called.
        hook: Hook,
    },
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::Read { .. } => Code::StoreFailed,
            Error::Invalid(_) => Code::ScriptInvalid,
            Error::Refused(_) => Code::ScriptRefused,
            Error::Input(_) => Code::InputInvalid,
            Error::Failed { .. } => Code::ScriptFailed,
            Error::OutOfFuel { .. } => Code::ScriptOutOfFuel,
            Error::OutOfMemory { .. } => Code::ScriptOutOfMemory,
            Error::Stopped { .. } => Code::ScriptStopped,
            Error::Sample { source, .. } => source.code(),
        }
    }

    /// Whether the request is at fault, and not the script.
    pub fn is_callers(&self) -> bool {
        matches!(self, Error::Refused(_) | Error::Input(_))
    }
}

/// What stands between a request and an answer.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// The model.
    pub model: &'a Model,
    /// The script around it.
    pub script: Option<&'a Script>,
    /// The declared steps.
    pub transforms: &'a Transforms,
}

impl<'a> Scored<'a> {
    /// What the model takes.
    pub fn wanted(&self) -> Wanted<'a> {
        Wanted { specs: self.model.inputs(), transforms: self.transforms }
    }

    /// Wants a result for as long as a golden sample may take.
    pub fn patience(&self) -> impl Fn() -> bool + use<> {
        let begun = Instant::now();
        move || begun.elapsed() < SAMPLE_TIME
    }
}

/// A loaded scoring script. Threads share it.
#[derive(Debug)]
pub struct Script {
    sandbox: Sandbox,
    hooks: Vec<Hook>,
}

impl Script {
    /// Loads the module at `file` of the bundle in `folder`, with all the hooks that it exports.
    pub fn open(folder: &Path, file: &FilePath, limits: ScriptLimits) -> Result<Self, Error> {
        let path = folder.join(file.as_str());
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_MODULE + 1).read_to_end(&mut bytes));
        read.map_err(|source| Error::Read { path, source })?;
        Self::new(&bytes, limits)
    }

    /// Loads the script of a manifest, whose bundle lies in `folder`, with the hooks that the manifest names.
    pub fn load(folder: &Path, script: &manifest::Script) -> Result<Self, Error> {
        let mut loaded = Self::open(folder, &script.file, script.limits)?;
        if let Some(hook) = script.hooks.iter().find(|hook| !loaded.has(**hook)) {
            return Err(Error::Invalid(format!("the manifest names `{}`, which it does not export", hook.name())));
        }
        loaded.hooks.clone_from(&script.hooks);
        Ok(loaded)
    }

    /// Loads a module.
    pub fn new(bytes: &[u8], limits: ScriptLimits) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_MODULE {
            return Err(Error::Invalid(format!("it is over the limit of {MAX_MODULE} bytes")));
        }
        let sandbox = Sandbox::compile(bytes, limits)?;
        let hooks = sandbox.hooks().to_vec();
        Ok(Self { sandbox, hooks })
    }

    /// The hooks that are called.
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Whether `hook` is called.
    pub fn has(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    /// The model's inputs of `request`, which is JSON; `is_wanted` is asked every few milliseconds.
    pub fn preprocess(
        &self,
        request: &[u8],
        wanted: &Wanted,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<BTreeMap<String, Tensor>, Error> {
        let given = self.sandbox.call(Hook::Preprocess, request, is_wanted)?;
        wanted.read(&given).map_err(|error| match error {
            dictionary::Error::Input(text) => Error::Input(text),
            dictionary::Error::Syntax(_) => {
                Error::Failed { hook: Hook::Preprocess, reason: "it returned no JSON dictionary of inputs".into() }
            }
        })
    }

    /// The answer, as JSON, to a request for which the model gave `outputs`.
    pub fn postprocess(
        &self,
        outputs: &BTreeMap<String, Tensor>,
        transforms: &Transforms,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<u8>, Error> {
        let hook = Hook::Postprocess;
        let failed = |reason: String| Error::Failed { hook, reason };
        let outputs = answers(outputs, transforms).map_err(|error| failed(error.to_string()))?;
        let json = serde_json::to_vec(&outputs).map_err(|error| failed(error.to_string()))?;
        let answer = self.sandbox.call(hook, &json, is_wanted)?;
        serde_json::from_slice::<&RawValue>(&answer)
            .map_err(|error| failed(format!("it returned no JSON: {error}")))?;
        Ok(answer)
    }
}

/// Every output after its output transforms.
pub fn answers<'a>(
    outputs: &'a BTreeMap<String, Tensor>,
    transforms: &Transforms,
) -> Result<BTreeMap<&'a str, Answer>, transforms::Error> {
    let one = |(name, tensor): (&'a String, &Tensor)| {
        let ops = transforms.outputs.get(name).map_or(&[][..], Vec::as_slice);
        Ok((name.as_str(), apply_outputs(ops, tensor)?))
    };
    outputs.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
