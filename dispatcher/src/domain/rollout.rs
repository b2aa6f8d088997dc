//! A rollout's record: what goes to whom within which limits, and how far each device is. What happens when is
//! decided by the engine below it, which a richer one can replace.

mod engine;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use muster_proto::code::Code;
use muster_proto::id::{DeviceId, Digest, GroupName, ModelName, SlotName, Version};
use muster_proto::report::{Phase, SlotReport, Transfer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::device::Assignment;

#[cfg(test)]
pub(super) use engine::{MAX_ENDED, SILENCE_SECONDS};

/// A rollout's number, written `r12`. A greater one is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RolloutId(pub u64);

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for RolloutId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix('r').and_then(|n| n.parse().ok());
        number.map(RolloutId).ok_or_else(|| format!("{text:?} is not a rollout's id, such as r12"))
    }
}

impl TryFrom<String> for RolloutId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RolloutId> for String {
    fn from(id: RolloutId) -> String {
        id.to_string()
    }
}

/// Whom a rollout is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Audience {
    /// Every device of the workspace, later ones too.
    All,
    /// The members of a group, later ones too.
    Group {
        /// The group.
        #[schema(value_type = String)]
        group: GroupName,
    },
    /// These devices.
    Devices {
        /// The devices.
        #[schema(value_type = Vec<String>)]
        devices: BTreeSet<DeviceId>,
    },
}

/// How a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStatus {
    /// Devices are offered it.
    Running,
    /// Every device has an outcome; later members still get it.
    Completed,
    /// Too many failed: no new device is offered it.
    Halted,
    /// An operator ended it: no new device is offered it.
    Cancelled,
}

impl RolloutStatus {
    /// Whether new devices are offered it.
    pub fn offers(self) -> bool {
        matches!(self, RolloutStatus::Running | RolloutStatus::Completed)
    }
}

/// How far one device of a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DevicePhase {
    /// Not yet offered.
    Pending,
    /// Offered; nothing heard.
    Offered,
    /// Fetching.
    Fetching,
    /// All files are whole.
    Verified,
    /// Loaded and probed.
    Staged,
    /// Answers; its trial runs.
    Active,
    /// Answers, and proved it.
    Healthy,
    /// Failed, with a code.
    Failed,
    /// A newer rollout took its place.
    Superseded,
}

impl DevicePhase {
    /// Whether it is an outcome.
    pub fn is_final(self) -> bool {
        matches!(self, DevicePhase::Healthy | DevicePhase::Failed | DevicePhase::Superseded)
    }

    /// Whether the device is updating.
    pub fn in_flight(self) -> bool {
        !self.is_final() && self != DevicePhase::Pending
    }
}

/// One device's part in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How far it is.
    pub phase: DevicePhase,
    /// Since when.
    pub since: u64,
    /// The code of a failure.
    pub code: Option<Code>,
    /// What happened, for people.
    pub detail: String,
    /// What its transfer moved.
    pub transfer: Transfer,
}

/// A rollout's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its number.
    pub id: RolloutId,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// The target's path.
    pub target: String,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The manifest's length in bytes.
    pub length: u64,
    /// The slot that it fills.
    pub slot: SlotName,
    /// Whom it is for.
    pub audience: Audience,
    /// So many devices have to be healthy before the others are offered it.
    pub canary: u32,
    /// The most devices that update at once.
    pub max_in_flight: u32,
    /// The most failures before it halts.
    pub max_failures: u32,
    /// The trial period after activation, in seconds.
    pub trial_seconds: u32,
    /// How it stands.
    pub status: RolloutStatus,
    /// Why, where there is a reason.
    pub reason: String,
    /// When it was started.
    pub created_at: u64,
    /// Who started it.
    pub created_by: String,
    /// When it ended; 0 while it runs.
    pub ended_at: u64,
    /// Each device's part; stored row by row.
    #[serde(skip)]
    pub devices: BTreeMap<DeviceId, Progress>,
}

impl Rollout {
    /// How many devices are in `phase`.
    pub fn count(&self, phase: DevicePhase) -> u32 {
        self.devices.values().fold(0, |n, p| n + u32::from(p.phase == phase))
    }

    fn assignment(&self) -> Assignment {
        Assignment {
            target: self.target.clone(),
            digest: self.digest,
            length: self.length,
            trial_seconds: self.trial_seconds,
            rollout: self.id,
        }
    }
}

impl Progress {
    fn pending(now: u64) -> Self {
        let (code, detail, transfer) = (None, String::new(), Transfer::default());
        Self { phase: DevicePhase::Pending, since: now, code, detail, transfer }
    }
}

/// Invariant 12: healthy, with the wanted digest answering and no golden sample failed.
pub(super) fn proves(slot: &SlotReport, want: Digest) -> bool {
    slot.phase == Phase::Healthy
        && slot.active.as_ref().is_some_and(|active| active.digest == want)
        && slot.probe.as_ref().is_none_or(|probe| probe.passed == probe.samples)
}
