//! A bundle that is loaded and has passed its probe: the only thing that a slot can hold.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use muster_proto::code::Code;
use muster_proto::id::Digest;
use muster_proto::manifest::{BundleManifest, Sample, SampleSet, ScriptedSample, TensorSpec};
use muster_proto::report;
use muster_proto::wire::{self, Message};

use super::model::{self, Model};
use super::probe::{self, Mismatch};
use super::script::{self, Scored, Script};
use super::shadow::Mirror;
use super::stats::SlotStats;
use super::together::{self, Together, Wish};

/// The largest golden sample that is kept as an example, in elements of all its tensors.
const EXAMPLE_ELEMENTS: usize = 4096;
/// The largest request of a golden sample that is kept as an example, in bytes.
const EXAMPLE_BYTES: usize = 64 << 10;

/// Why a bundle cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The scoring script cannot be loaded.
    #[error(transparent)]
    Script(#[from] script::Error),
    /// The manifest asks for another engine. A retry cannot help.
    #[error("the bundle is for engine {wanted:?}, this is {}", super::NAME)]
    OtherEngine {
        /// The engine that the manifest names.
        wanted: String,
    },
    /// The samples file cannot be read. A retry may help.
    #[error("{path} cannot be read")]
    ReadSamples {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The samples file holds no usable samples. A retry cannot help.
    #[error("golden samples cannot be used: {0}")]
    Samples(String),
    /// The manifest declares other inputs or outputs than the model has. A retry cannot help.
    #[error("the manifest declares {kind} that the model does not have")]
    OtherTensors {
        /// `inputs` or `outputs`.
        kind: &'static str,
    },
    /// Requests cannot be computed together. A retry cannot help.
    #[error("requests are computed one by one: {0}")]
    Together(#[from] together::Error),
    /// A golden sample gave another answer than recorded. A retry cannot help.
    #[error("probe failed, {} of {} samples passed: {mismatch}", probe.passed, probe.samples)]
    ProbeMismatch {
        /// What is reported.
        probe: report::Probe,
        /// The first difference.
        mismatch: Box<Mismatch>,
    },
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::Model(error) => error.code(),
            Error::Script(error) => error.code(),
            Error::OtherEngine { .. } | Error::Together(_) => Code::Incompatible,
            Error::ReadSamples { .. } => Code::StoreFailed,
            Error::Samples(_) | Error::OtherTensors { .. } => Code::ManifestInvalid,
            Error::ProbeMismatch { .. } => Code::ProbeMismatch,
        }
    }

    /// The probe, where it came to that: it is reported even when it failed.
    pub fn probe(&self) -> Option<&report::Probe> {
        if let Error::ProbeMismatch { probe, .. } = self { Some(probe) } else { None }
    }
}

/// A bundle that is loaded and has passed its probe.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// The script around it.
    pub script: Option<Script>,
    /// Its manifest.
    pub manifest: BundleManifest,
    /// The digest of the manifest's bytes.
    pub digest: Digest,
    /// The outcome of its probe.
    pub probe: report::Probe,
    /// A small golden sample, to show callers what to send.
    pub example: Option<Sample>,
    /// The same of what its script takes, as JSON.
    pub request: Option<String>,
    /// What it did since it was loaded.
    pub stats: SlotStats,
    /// Where a shadow gets its requests.
    pub mirror: Mirror,
    /// How requests are computed together, and what was asked for last.
    pub together: RwLock<(Option<Wish>, Option<Arc<Together>>)>,
}

impl Loaded {
    /// Loads the bundle of `manifest`, whose files lie in `folder` under their manifest paths, as the
    /// recipe says, and probes it. The files have to be verified already (invariant 1).
    ///
    /// This takes as long as loading does, up to seconds: call it where blocking is allowed.
    pub fn load(folder: &Path, manifest: &BundleManifest, digest: Digest) -> Result<Self, Error> {
        if manifest.engine.name != super::NAME {
            return Err(Error::OtherEngine { wanted: manifest.engine.name.clone() });
        }
        let samples = read_samples(folder, manifest)?;
        let script = manifest.script.as_ref().map(|script| Script::load(folder, script)).transpose()?;
        let model = Model::load(&folder.join(manifest.entry.as_str()), &manifest.engine.load)?;
        same_tensors("inputs", &manifest.inputs, model.inputs())?;
        same_tensors("outputs", &manifest.outputs, model.outputs())?;
        let scored = Scored { model: &model, script: script.as_ref(), transforms: &manifest.transforms };
        let outcome = probe::run_scored(&scored, &samples, manifest.samples.tolerance);
        if let Some(mismatch) = outcome.mismatch {
            return Err(Error::ProbeMismatch { probe: outcome.probe, mismatch: Box::new(mismatch) });
        }
        let manifest = manifest.clone();
        let (stats, mirror, together) = Default::default();
        let small = |text: &String| text.len() <= EXAMPLE_BYTES;
        let request = samples.iter().find_map(|scripted| scripted.request.clone().filter(small));
        let example = samples.into_iter().map(|scripted| scripted.sample).find(is_small);
        Ok(Self { model, script, manifest, digest, probe: outcome.probe, example, request, stats, mirror, together })
    }

    /// How requests are computed together, if they are.
    pub fn together(&self) -> Option<Arc<Together>> {
        self.together.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Has requests computed together as `wish` says, or one by one again. The bundle lies in what `folder` gives, verified.
    /// An error is the reason why they are computed one by one; it is told once for each wish.
    ///
    /// This takes as long as loading does: call it where blocking is allowed.
    pub fn compute_together<E: From<Error>>(
        &self,
        wish: Option<Wish>,
        folder: impl FnOnce() -> Result<PathBuf, E>,
    ) -> Result<(), E> {
        if self.together.read().unwrap_or_else(PoisonError::into_inner).0 == wish {
            return Ok(());
        }
        let built = wish.map(|wish| {
            let folder = folder()?;
            let samples = read_samples(&folder, &self.manifest)?;
            let samples: Vec<_> = samples.iter().map(|s| (&s.sample.inputs, &s.sample.outputs)).collect();
            let built = Together::build(&self.model, &folder, &self.manifest, &samples, wish);
            built.map_err(|error| E::from(Error::Together(error)))
        });
        let (together, told) = match built {
            None => (None, Ok(())),
            Some(Ok(together)) => (Some(Arc::new(together)), Ok(())),
            Some(Err(error)) => (None, Err(error)),
        };
        *self.together.write().unwrap_or_else(PoisonError::into_inner) = (wish, together);
        told
    }
}

/// Whether a sample costs little to keep, and to show.
fn is_small(sample: &Sample) -> bool {
    let tensors = || sample.inputs.values().chain(sample.outputs.values());
    tensors().map(|tensor| tensor.len()).sum::<usize>() <= EXAMPLE_ELEMENTS
}

fn read_samples(folder: &Path, manifest: &BundleManifest) -> Result<Vec<ScriptedSample>, Error> {
    let path = folder.join(manifest.samples.file.as_str());
    let mut bytes = Vec::new();
    // One byte over the limit is enough for the decoder to refuse it.
    let read = File::open(&path).and_then(|file| file.take(SampleSet::MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|source| Error::ReadSamples { path, source })?;
    let samples: SampleSet = wire::decode(&bytes).map_err(|error| Error::Samples(error.to_string()))?;
    let samples = samples.into_samples();
    match samples.len() {
        0 => Err(Error::Samples("there is none, so nothing would be proven".into())),
        count if count as u64 != u64::from(manifest.samples.count) => {
            Err(Error::Samples(format!("{count} in the file, {} in the manifest", manifest.samples.count)))
        }
        _ => Ok(samples),
    }
}

/// Shapes are left to the probe: a newer engine may know more sizes than the one at registration.
fn same_tensors(kind: &'static str, declared: &[TensorSpec], loaded: &[TensorSpec]) -> Result<(), Error> {
    let key = |spec: &TensorSpec| (spec.name.clone(), spec.dtype);
    if declared.iter().map(key).eq(loaded.iter().map(key)) { Ok(()) } else { Err(Error::OtherTensors { kind }) }
}

#[cfg(test)]
mod tests;
