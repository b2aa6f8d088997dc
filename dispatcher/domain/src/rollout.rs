//! Rollouts: what goes to whom in which stages, and what is proven of it.
//!
//! A rollout is a state machine of its own: [`step`] takes what happened and says what is to be done. It knows no
//! devices beyond their names, no desired states and no other rollouts; [`super::fleet`] tells it who is for it and who
//! has another rollout's word, and carries out what it orders.

pub mod evidence;
pub mod explain;
pub mod forecast;
pub mod hash;
pub mod part;
pub mod parts;
pub mod plan;
pub mod selector;
pub mod stats;
pub mod units;

mod advance;
mod connections;
mod engine;
mod enter;
mod line;
mod pace;
mod progress;
mod word;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use muster_proto::code::Code;
use muster_proto::id::{DeviceId, Digest, ModelName, SlotName, Version};
use muster_proto::manifest::Requires;
use muster_proto::report::Transfer;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use engine::step;
use evidence::{Evidence, GateReading};
pub use part::{Counts, DevicePhase, Part};
use plan::Plan;

/// The stage of devices that fetch the version beforehand.
pub(super) const PRESTAGE: u8 = u8::MAX;
/// How many decisions are kept.
const MAX_DECISIONS: usize = 200;
/// The longest text on a failure that is kept, in characters.
const MAX_DETAIL: usize = 500;

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

/// How a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStatus {
    /// It waits for approvals or for its time.
    Pending,
    /// Devices are offered it, stage by stage.
    Running,
    /// Nothing more is offered until somebody decides: a gate was breached or had nothing to go by, or a person asked.
    Paused,
    /// Every device that could be reached has an outcome; later ones still get it.
    Completed,
    /// Devices that have it are going back to what they had before.
    Recalling,
    /// It was aborted or rolled back: whoever had it has gone back, or will when it is heard again.
    Recalled,
    /// It was ended: nothing more is offered, and who has it keeps it.
    Cancelled,
}

impl RolloutStatus {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            RolloutStatus::Pending => "pending",
            RolloutStatus::Running => "running",
            RolloutStatus::Paused => "paused",
            RolloutStatus::Completed => "completed",
            RolloutStatus::Recalling => "recalling",
            RolloutStatus::Recalled => "recalled",
            RolloutStatus::Cancelled => "cancelled",
        }
    }

    /// Whether devices may be offered it now.
    pub fn offers(self) -> bool {
        matches!(self, RolloutStatus::Running | RolloutStatus::Completed)
    }

    /// Whether nothing will come of it any more but stragglers.
    pub fn has_ended(self) -> bool {
        matches!(self, RolloutStatus::Completed | RolloutStatus::Recalled | RolloutStatus::Cancelled)
    }

    /// Whether it can still come to offering.
    pub fn is_open(self) -> bool {
        matches!(
            self,
            RolloutStatus::Pending | RolloutStatus::Running | RolloutStatus::Paused | RolloutStatus::Completed
        )
    }
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
    /// What a device that has nothing of it has to fetch, in bytes.
    pub bytes: u64,
    /// The slot that it fills.
    pub slot: SlotName,
    /// What the version needs of a device.
    pub requires: Requires,
    /// What it shall do.
    pub plan: Plan,
    /// The plan's hash, which approvers sign.
    pub plan_hash: Digest,
    /// Makes the order of devices another one in each rollout.
    pub salt: u64,
    /// How it stands.
    pub status: RolloutStatus,
    /// Why, where there is a reason.
    pub reason: String,
    /// When it was started.
    pub created_at: u64,
    /// Who started it.
    pub created_by: String,
    /// When devices were first offered it; 0 before.
    pub started_at: u64,
    /// When it ended; 0 before.
    pub ended_at: u64,
    /// The stage under way.
    pub stage: usize,
    /// What came of each stage.
    pub stages: Vec<StageState>,
    /// Whether what was fetched beforehand may be switched to.
    pub released: bool,
    /// Whether a recall waits for nothing.
    pub urgent: bool,
    /// Who agreed.
    pub approvals: Vec<Approved>,
    /// The sites that its devices have named.
    pub sites: Vec<Site>,
    /// How many devices are in each phase.
    pub counts: Counts,
    /// Starts, first ones and repeated ones.
    pub starts: u32,
    /// Bytes that devices fetched until they were healthy, for the forecast.
    pub fetched: u64,
    /// Seconds that devices took from their start until they were healthy, without the soak time, for the forecast.
    pub busy_seconds: u64,
    /// How often a device came to be healthy, which is what the two before are sums over.
    pub proven: u32,
    /// What was decided, newest last.
    pub decisions: Vec<Decision>,
    buckets: Buckets,
    /// Each device's part; stored row by row.
    #[serde(skip)]
    pub parts: BTreeMap<DeviceId, Part>,
    #[serde(skip)]
    line: line::Line,
}

/// The rollout's token buckets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Buckets {
    starts: pace::Bucket,
    bytes: pace::Bucket,
}

/// A site, and what it may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its name; empty for devices that name none.
    pub name: String,
    buckets: Buckets,
}

/// What came of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageState {
    /// When it began; 0 before.
    pub since: u64,
    /// When its last device had an outcome, as far as there was any left; 0 before.
    pub settled_at: u64,
    /// When its gates let it pass; 0 before.
    pub passed_at: u64,
    /// The phases of the devices that were offered the version in this stage.
    pub counts: Counts,
    /// How many that ran something in the slot before came to it; one that is tried again comes again.
    pub comparable: u32,
    /// Since when a shadow runs; 0 before.
    pub shadow_since: u64,
    /// Whether devices may switch: there is no shadow run, or it went well, or there was nothing to shadow.
    pub may_switch: bool,
    /// Whether there was nothing to shadow.
    pub shadow_skipped: bool,
    /// Failures that an operator has looked at.
    pub excused_failures: u32,
    /// Silent devices that an operator has looked at.
    pub excused_silence: u32,
    /// What was seen.
    pub evidence: Evidence,
}

/// Somebody's agreement to the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approved {
    /// Who.
    pub by: String,
    /// When.
    pub at: u64,
    /// The id of the key that signed, in hexadecimal, where it was signed for devices to check.
    pub key: Option<String>,
    /// The signature, in hexadecimal.
    pub signature: Option<String>,
}

/// Something that was decided, with what it was decided on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// When.
    pub at: u64,
    /// The stage under way.
    pub stage: usize,
    /// What and why, for people.
    pub what: String,
    /// The gates as they stood.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub gates: Vec<GateReading>,
}

/// A device that a rollout begins with.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub device: DeviceId,
    /// Its site; empty where it names none.
    pub site: Arc<str>,
    /// Whether something answers in the slot, with which the version can be compared.
    pub comparable: bool,
    /// Whether it is connected.
    pub online: bool,
    /// The rollout that has its slot.
    pub blocked: Option<RolloutId>,
}

/// What happened to a rollout.
#[derive(Debug, Clone)]
pub enum Event {
    /// It was started, with these devices.
    Started(Vec<Member>),
    /// A device came to be among those whom it is for.
    Joined(Member),
    /// A device is no longer among them.
    Left(DeviceId),
    /// A device is no more.
    Removed(DeviceId),
    /// Another rollout has the device's slot, or none has any longer.
    Blocked {
        /// The device.
        device: DeviceId,
        /// The other rollout.
        by: Option<RolloutId>,
    },
    /// Another rollout took the device's slot over.
    Superseded {
        /// The device.
        device: DeviceId,
        /// The other rollout.
        by: RolloutId,
    },
    /// A device connected.
    Online(DeviceId),
    /// A device's connection is gone.
    Offline(DeviceId),
    /// A device was heard, whatever it said.
    Heard(DeviceId),
    /// A device reported how far this version is.
    Reported {
        /// The device.
        device: DeviceId,
        /// How far; never waiting, silent or recalled.
        phase: DevicePhase,
        /// Why it failed, refused or waits.
        code: Option<Code>,
        /// The same for people.
        detail: String,
        /// What its transfer moved.
        transfer: Transfer,
    },
    /// A device that was told to go back proved that it has.
    WentBack(DeviceId),
    /// A device's figures over a window.
    Measured {
        /// The device.
        device: DeviceId,
        /// Whether they are of this version.
        of_this: bool,
        /// The figures.
        reading: Box<evidence::Reading>,
        /// What is usual for the device with the version before.
        usual: evidence::Usual,
    },
    /// Somebody decided.
    Told(Word),
    /// Time passed.
    Ticked,
}

/// What an operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Nothing more shall be offered for now.
    Pause(String),
    /// Go on; what the gates hold against it was looked at.
    Resume,
    /// Go back everywhere.
    Recall {
        /// Not waiting for windows or vetoes.
        now: bool,
        /// Why.
        reason: String,
    },
    /// End it and leave everything as it is.
    Cancel(String),
    /// Agree to the plan.
    Approve(Approved),
    /// Pass the stage under way without its gates.
    Skip(String),
    /// Offer it again to devices that failed, or to these.
    Retry(Vec<DeviceId>),
    /// Switch to what was fetched beforehand.
    Release,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Let the device's desired state name the version, on the terms of its part.
    Offer(DeviceId),
    /// Let the device's desired state name what it had before.
    Recall(DeviceId),
    /// Store the rollout without its parts.
    Save,
    /// Store a device's part.
    SavePart(DeviceId),
    /// A device came to another phase.
    Moved(DeviceId),
    /// Something was decided.
    Decided(Box<Decision>),
}

impl Decision {
    /// What was decided, with the gates that count, for people.
    pub fn in_words(&self) -> String {
        let gates: Vec<String> = self.gates.iter().map(GateReading::describe).collect();
        if gates.is_empty() { self.what.clone() } else { format!("{} ({})", self.what, gates.join("; ")) }
    }
}

impl Part {
    fn new_text(text: &str) -> Option<Box<str>> {
        let text: String = text.chars().take(MAX_DETAIL).collect();
        (!text.is_empty()).then(|| text.into_boxed_str())
    }
}

impl StageState {
    fn new(stage: &plan::Stage) -> Self {
        Self {
            since: 0,
            settled_at: 0,
            passed_at: 0,
            counts: Counts::default(),
            comparable: 0,
            shadow_since: 0,
            may_switch: stage.shadow.is_none(),
            shadow_skipped: false,
            excused_failures: 0,
            excused_silence: 0,
            evidence: Evidence::new(&stage.gates),
        }
    }
}

/// What a rollout is made of.
#[derive(Debug, Clone)]
pub struct Order {
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
    /// What a device that has nothing of it has to fetch, in bytes.
    pub bytes: u64,
    /// The slot that it fills.
    pub slot: SlotName,
    /// What the version needs of a device.
    pub requires: Requires,
    /// What it shall do; complete and checked.
    pub plan: Plan,
    /// Who started it.
    pub by: String,
}

impl Rollout {
    /// A rollout that has not begun.
    pub fn new(id: RolloutId, order: Order, now: u64) -> Self {
        let Order { model, version, target, digest, length, bytes, slot, requires, plan, by } = order;
        let plan_hash = plan.hash(&target, digest, slot.as_str());
        let salt = hash::rank(id.0 ^ now.rotate_left(32), &plan_hash.to_string());
        Self {
            id,
            model,
            version,
            target,
            digest,
            length,
            bytes,
            slot,
            requires,
            stages: plan.stages.iter().map(StageState::new).collect(),
            plan,
            plan_hash,
            salt,
            status: RolloutStatus::Pending,
            reason: String::new(),
            created_at: now,
            created_by: by,
            started_at: 0,
            ended_at: 0,
            stage: 0,
            released: false,
            urgent: false,
            approvals: Vec::new(),
            sites: Vec::new(),
            counts: Counts::default(),
            starts: 0,
            fetched: 0,
            busy_seconds: 0,
            proven: 0,
            decisions: Vec::new(),
            buckets: Buckets::default(),
            parts: BTreeMap::new(),
            line: line::Line::default(),
        }
    }

    /// The record alone, as it is stored.
    pub fn without_parts(&self) -> Self {
        // Not a clone of the whole: a fleet's parts would be copied to be thrown away.
        Self {
            id: self.id,
            model: self.model.clone(),
            version: self.version,
            target: self.target.clone(),
            digest: self.digest,
            length: self.length,
            bytes: self.bytes,
            slot: self.slot.clone(),
            requires: self.requires.clone(),
            plan: self.plan.clone(),
            plan_hash: self.plan_hash,
            salt: self.salt,
            status: self.status,
            reason: self.reason.clone(),
            created_at: self.created_at,
            created_by: self.created_by.clone(),
            started_at: self.started_at,
            ended_at: self.ended_at,
            stage: self.stage,
            stages: self.stages.clone(),
            released: self.released,
            urgent: self.urgent,
            approvals: self.approvals.clone(),
            sites: self.sites.clone(),
            counts: self.counts.clone(),
            starts: self.starts,
            fetched: self.fetched,
            busy_seconds: self.busy_seconds,
            proven: self.proven,
            decisions: self.decisions.clone(),
            buckets: self.buckets.clone(),
            parts: BTreeMap::new(),
            line: line::Line::default(),
        }
    }

    /// Whom it is for, as of now: devices that were excluded or given away not counted.
    pub fn members(&self) -> u32 {
        self.counts.sum(|phase| !matches!(phase, DevicePhase::Excluded | DevicePhase::Superseded))
    }

    /// Devices that update now.
    pub fn in_flight(&self) -> u32 {
        self.line.in_flight
    }

    /// How many devices shall have the version when `stage` is done.
    pub fn quota(&self, stage: usize) -> u32 {
        self.plan.stages.get(stage).map_or(0, |plan| plan.quota(self.members()))
    }

    /// How many devices of stages up to `stage` have the version, are getting it, or failed at it.
    pub fn taken(&self, stage: usize) -> u32 {
        let counts = |state: &StageState| state.counts.sum(|p| p.is_updating() || p.is_decided());
        self.stages.iter().take(stage + 1).map(counts).sum()
    }

    /// What a start is expected to fetch, in bytes: what it took so far, or the whole.
    pub fn expected_bytes(&self) -> u64 {
        self.fetched.checked_div(self.proven.into()).unwrap_or(self.bytes)
    }

    /// What takes precedence where two rollouts want the same slot of a device; more is better.
    pub fn precedence(&self) -> (i32, RolloutId) {
        (self.plan.priority, self.id)
    }

    /// The gates of a stage with their numbers.
    pub fn readings(&self, stage: usize) -> Vec<GateReading> {
        match (self.stages.get(stage), self.plan.stages.get(stage)) {
            (Some(state), Some(plan)) => state.readings(plan),
            _ => Vec::new(),
        }
    }
}
