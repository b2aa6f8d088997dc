//! What survives a power cut, written as one value before any effect that depends on it.

use std::collections::BTreeMap;

use muster_proto::desired::SlotDesired;
use muster_proto::id::{Digest, Generation, SlotName};
use muster_proto::report::{Failure, ModelRef, Phase, Probe, Transfer};
use muster_proto::wire::Message;
use serde::{Deserialize, Serialize};

/// The stored form of [`Durable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Stored {
    /// The first version.
    V1(Durable),
}

impl Message for Stored {
    const NAME: &'static str = "stored state";
    const VARIANTS: u8 = 1;
    const MAX_BYTES: usize = 4 << 20;
}

/// Everything the agent must not forget, besides signed metadata, manifests, files and the outbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Durable {
    /// Drawn when the store was made.
    pub incarnation: u64,
    /// Message ids below this one may have been used.
    pub id_ceiling: u64,
    /// The newest time in a verified message, in seconds since 1970: real time is not earlier.
    pub time_floor: u64,
    /// The newest accepted generation; 0 before the first. It never goes back (invariant 3).
    pub generation: Generation,
    /// The newest accepted desired state as it was signed; it is verified again at each start.
    #[serde(with = "serde_bytes")]
    pub signed_desired: Vec<u8>,
    /// What each slot runs.
    pub slots: BTreeMap<SlotName, SlotRecord>,
    /// Whether the process ended because it was told to.
    pub clean_stop: bool,
    /// How many messages the outbox dropped.
    pub outbox_dropped: u64,
}

/// One slot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// What answers, or is loaded at the next start.
    pub active: Option<ModelRef>,
    /// What answered before, kept until the active one is confirmed and as long as there is room.
    pub previous: Option<ModelRef>,
    /// The active one has not been confirmed yet.
    pub trial: Option<Attempt>,
    /// The previous one has never been confirmed either: its trial goes on if it comes back.
    pub previous_trial: Option<Attempt>,
    /// A version that is being loaded for the first time.
    pub staging: Option<Attempt>,
    /// How the last update ended, or how far it has come since it answers.
    pub outcome: Option<Outcome>,
}

/// Something that may kill the process, and how often it seems to have done so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The manifest's digest.
    pub digest: Digest,
    /// How often the process ended without being told to.
    pub unclean_ends: u8,
}

impl SlotRecord {
    /// Puts the previous version in the place of the active one, in the state in which it was left.
    pub(super) fn go_back(&mut self) {
        self.active = self.previous.take();
        self.trial = self.previous_trial.take();
    }
}

/// How an update ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was wanted.
    pub want: SlotDesired,
    /// Active, healthy, failed or removed.
    pub phase: Phase,
    /// The probe, if it came to that.
    pub probe: Option<Probe>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What its transfer moved.
    pub transfer: Transfer,
}
