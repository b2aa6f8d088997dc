//! A device's engine: one version is loaded at a time, first come, first served; and each version has a character.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use muster_agent::core::event::LoadFailure;
use muster_proto::code::Code;
use muster_proto::id::{Digest, SlotName};
use muster_proto::manifest::BundleManifest;
use muster_proto::report::{Failure, Probe};

/// What a version does on the devices that it is bad for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Character {
    /// It loads, passes its probe and answers.
    Good,
    /// Its golden samples give other answers.
    FailsProbe,
    /// Loading it ends the process.
    KillsOnLoad,
    /// It answers for a while, then the process ends; always within the trial.
    KillsInTrial,
}

impl Character {
    /// The code that an update to such a version ends with.
    pub fn code(self) -> Option<Code> {
        match self {
            Character::Good => None,
            Character::FailsProbe => Some(Code::ProbeMismatch),
            Character::KillsOnLoad | Character::KillsInTrial => Some(Code::TrialCrashed),
        }
    }
}

/// A version that is to be loaded.
#[derive(Debug)]
pub struct Loading {
    /// The slot.
    pub slot: SlotName,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Box<BundleManifest>,
    /// Whether it is loaded beside the active one.
    pub beside: bool,
}

/// The engine of one process.
#[derive(Debug, Default)]
pub struct Engine {
    /// What is being loaded, and what waits for that.
    pub queue: VecDeque<Loading>,
    /// Loaded beside the active versions.
    pub staged: BTreeMap<SlotName, Digest>,
    /// Slots whose version could not be loaded for lack of memory.
    pub short: BTreeSet<SlotName>,
    /// What answers.
    pub answers: BTreeMap<SlotName, Digest>,
}

/// A probe that passed.
pub fn passed() -> Probe {
    Probe { samples: 4, passed: 4, max_abs_error: 0.0, load_us: 1000, inference_us: 100 }
}

/// Files whose content is not what their digest says.
pub fn damaged(files: Vec<Digest>) -> LoadFailure {
    let detail = format!("{} files are not what their digests say", files.len());
    LoadFailure { failure: Failure { code: Code::DigestMismatch, detail }, damaged: files }
}

/// A failure of the version itself, or of the device at this moment.
pub fn failed(code: Code) -> LoadFailure {
    let detail = match code {
        Code::ProbeMismatch => "sample 2 of 4 gave another answer than recorded",
        _ => "not now",
    };
    LoadFailure { failure: Failure { code, detail: detail.into() }, damaged: Vec::new() }
}
