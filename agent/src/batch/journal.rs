//! What is known of a run that may have to go on: where it is, and what it was asked to do.

use std::collections::BTreeMap;
use std::path::Path;

use muster_proto::id::Digest;
use serde::{Deserialize, Serialize};

use super::Error;
use super::progress::Tally;
use super::source::Position;
use super::transfer::Fetched;
use crate::store::atomic;

/// The version of this file.
const FORMAT: u32 = 1;
/// The largest journal that is read, in bytes.
const MAX: u64 = 64 << 20;

/// What a run was asked to do; a run that goes on has to be asked the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The model, as NAME:VERSION.
    pub model: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digest of the inputs' names, sizes and times.
    pub inputs: Digest,
    /// Everything else that changes results, by option.
    pub parameters: BTreeMap<String, String>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Rows are left.
    Running,
    /// All rows are written; the files get their names, or are sent.
    Scored,
    /// Everything is where it belongs.
    Published,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// What the run was asked to do.
    pub asked: Asked,
    /// How far it is.
    pub stage: Stage,
    /// Which row comes next.
    pub next: Position,
    /// Bytes of results that count.
    pub results: u64,
    /// Bytes of errors that count.
    pub errors: u64,
    /// Rows so far.
    pub tally: Tally,
    /// Seconds that the runs so far took.
    pub seconds: f64,
    /// How often it was gone on with.
    pub resumed: u32,
    /// What was fetched from URLs.
    pub fetched: BTreeMap<String, Fetched>,
}

impl Journal {
    /// The journal of a run that begins.
    pub fn new(asked: Asked) -> Self {
        Self {
            format: FORMAT,
            asked,
            stage: Stage::Running,
            next: Position::default(),
            results: 0,
            errors: 0,
            tally: Tally::default(),
            seconds: 0.0,
            resumed: 0,
            fetched: BTreeMap::new(),
        }
    }

    /// Reads the journal at `path`; none where there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let broken = |reason: String| Error::Conflict {
            what: format!("{} cannot be used: {reason}", path.display()),
            next: "begin again with --restart, or name another output".into(),
        };
        let metadata = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| broken(error.to_string()))?,
        };
        if metadata.len() > MAX {
            return Err(broken(format!("it has more than {MAX} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| broken(error.to_string()))?;
        let journal: Self = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if journal.format != FORMAT {
            return Err(broken("another version of this program wrote it".into()));
        }
        Ok(Some(journal))
    }

    /// Writes it, whole or not at all.
    pub fn store(&self, path: &Path) -> Result<(), Error> {
        let failed = |error: crate::store::Error| match error {
            crate::store::Error::Io { path, source, .. } => Error::output(&path, &source),
            other => Error::Internal { what: other.to_string() },
        };
        let bytes = serde_json::to_vec(self).map_err(|error| Error::Internal { what: error.to_string() })?;
        atomic::write(path, &bytes, 0o644).map_err(failed)
    }

    /// Refuses to go on where another thing is asked than before.
    pub fn check(&self, asked: &Asked) -> Result<(), Error> {
        let before = &self.asked;
        let what = if (&before.model, before.digest) != (&asked.model, asked.digest) {
            let (old, new) = (before.digest.short(), asked.digest.short());
            format!("the run there was with {} ({old}), and this one is with {} ({new})", before.model, asked.model)
        } else if before.inputs != asked.inputs {
            "the inputs are others than those of the run there, or were changed since".to_owned()
        } else {
            let keys = before.parameters.keys().chain(asked.parameters.keys());
            let Some(key) = keys.into_iter().find(|key| before.parameters.get(*key) != asked.parameters.get(*key))
            else {
                return Ok(());
            };
            let word = |asked: &Asked| asked.parameters.get(key).cloned().unwrap_or_else(|| "nothing".into());
            format!("the run there had {key} {:?}, and this one has {:?}", word(before), word(asked))
        };
        Err(Error::Conflict { what, next: "begin again with --restart, or name another output".into() })
    }
}
