//! What a rollout shall do: to whom, in which stages, how fast, past which gates. It is the content of a rollout's
//! document, and its hash is what approvers sign.

mod check;
mod preset;

use std::collections::BTreeSet;

use muster_proto::id::{DeviceId, Digest, GroupName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use check::Problem;
pub use preset::Preset;

use super::selector::Selector;
use super::units::{Amount, Bytes, Instant, Share, Span};

/// The most stages of a plan.
pub const MAX_STAGES: usize = 32;
/// The most maintenance windows of a plan.
pub const MAX_WINDOWS: usize = 8;

/// A rollout's plan. What is not given comes from its preset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Fills in what the plan leaves open; `standard` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Whom it is for.
    pub target: Target,
    /// Where rollouts want the same slot of a device, the higher priority gets it, and of equal ones the newer.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    /// The stages, in order; the last one has to be for everyone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// How fast.
    #[serde(skip_serializing_if = "is_default")]
    pub rate: Rate,
    /// When.
    #[serde(skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// Who has to agree before it begins.
    #[serde(skip_serializing_if = "is_default")]
    pub approval: Approval,
    /// How long a device that updates, or that is wanted, may be silent before it counts as silent and frees its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence: Option<Span>,
    /// How long one device may take from its start to being healthy, besides the soak time; then it counts as failed
    /// and goes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_timeout: Option<Span>,
    /// What happens to devices that failed.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: Retry,
}

/// Whom a rollout is for. All conditions hold at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Target {
    /// Every device of the workspace.
    #[serde(skip_serializing_if = "is_default")]
    pub all: bool,
    /// The members of any of these groups.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub groups: BTreeSet<GroupName>,
    /// These devices.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub devices: BTreeSet<DeviceId>,
    /// Of those, the ones that this expression holds for: CEL over `labels`, `groups`, `device`, `arch`, `os`, `agent`,
    /// `engine`, `engine_version`, `memory_bytes`, `disk_bytes`, `online` and `site`. Alone it chooses from every device.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "labels.site == \"berlin\" && memory_bytes >= 1073741824")]
    pub filter: Option<Selector>,
    /// But not these.
    #[serde(skip_serializing_if = "is_default")]
    pub except: Except,
    /// Whether only the devices of the moment at which it starts are meant, and no later ones.
    #[serde(skip_serializing_if = "is_default")]
    pub snapshot: bool,
    /// The label that names a device's site; `site` unless given. Each stage takes from every site its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_label: Option<String>,
}

/// Who is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Except {
    /// The members of these groups.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub groups: BTreeSet<GroupName>,
    /// These devices.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub devices: BTreeSet<DeviceId>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name, for people.
    #[serde(default)]
    pub name: String,
    /// How many devices shall have the version when it is done, earlier stages included.
    pub size: Amount,
    /// Devices that come first in this stage.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub devices: BTreeSet<DeviceId>,
    /// How long each device has to answer well before it counts as healthy.
    pub soak: Span,
    /// How long the stage may wait for its gates after its last device has an outcome; then the rollout pauses. A day
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Runs the version beside the active one before any device of the stage switches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// What has to hold.
    #[serde(default)]
    pub gates: Gates,
}

/// What has to hold in a stage. A gate that is not given is not asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// At least this share of the devices with an outcome is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<Share>,
    /// At most so many fail; a share is one of the devices that started, and never of fewer than `min_sample`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Amount>,
    /// At most this share of the devices that started is silent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence: Option<Share>,
    /// The fewest devices that a share of them means anything for; 10 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_sample: Option<u32>,
    /// The error rate may rise by at most this share of all inferences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<Share>,
    /// The 95th percentile of the latency may rise by at most this share of itself, such as 0.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    /// The agent's resident memory may rise by at most this share of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
    /// The hottest sensor may rise by at most so many degrees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The outputs may drift by at most this population stability index; 0.1 is little, 0.25 is much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<f64>,
    /// The mean confidence of the outputs (the largest probability, by softmax where outputs are none) may fall by at most
    /// so much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Share>,
    /// At least this share of shadowed inferences agrees with the active version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Share>,
    /// The fewest readings that a metric gate may pass on; a device gives four over its soak time, and a stage whose
    /// devices have given all of theirs needs no more. 30 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_readings: Option<u64>,
    /// The chance of calling a breach where there is none, of each metric gate over its whole life; 1% unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<Share>,
    /// What happens when a gate is breached; pause unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_breach: Option<OnBreach>,
}

/// What a breached gate leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBreach {
    /// Nothing more is offered until somebody decides.
    #[default]
    Pause,
    /// What has not switched is called off, and what has goes back.
    Abort,
}

/// A shadow run before the switch: the version answers beside the active one, and only their agreement counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shadow {
    /// How long at most.
    #[serde(rename = "for")]
    pub time: Span,
    /// After so many inferences on a device it has seen enough.
    pub inferences: u32,
    /// The share of requests that is shadowed.
    pub share: Share,
    /// The share of one processor that it may use.
    pub cpu: Share,
    /// Memory that has to stay free beside it.
    pub memory: Bytes,
    /// What counts as agreement.
    pub rule: AgreementRule,
}

/// When two answers agree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgreementRule {
    /// The largest element stands at the same place.
    #[default]
    Top1,
    /// No element differs by more than this.
    Tolerance(f32),
    /// At least this share of the outputs overlaps.
    Overlap(Share),
}

/// Limits on starts. All hold at once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rate {
    /// Starts per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<PerMinute>,
    /// Devices that update at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Bytes per second that starts may ask for, by what a device needs on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<Bytes>,
    /// The same for each site.
    #[serde(skip_serializing_if = "is_default")]
    pub site: SiteRate,
}

/// Limits on the starts of each site.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SiteRate {
    /// Starts per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<f64>,
    /// Devices that update at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<Bytes>,
}

/// Starts per minute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PerMinute {
    /// As many all the time.
    Constant(f64),
    /// More and more.
    Growing(Growing),
}

/// A rate that grows by `factor` each time that `every` further devices have come so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Growing {
    /// The rate at first.
    pub base: f64,
    /// How it grows.
    pub factor: f64,
    /// After so many devices each time.
    pub every: u32,
    /// What they have to be.
    #[serde(default)]
    pub on: GrowOn,
    /// Never above this.
    pub max: f64,
}

/// What makes a rate grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrowOn {
    /// Devices that started.
    Started,
    /// Devices that proved healthy.
    #[default]
    Healthy,
}

/// When.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Nothing is offered before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Instant>,
    /// Fetch and verify everywhere first; the stages then only switch.
    #[serde(skip_serializing_if = "is_default")]
    pub prestage: bool,
    /// The stages begin to switch at this time, or at the word of an operator (`muster rollout release`).
    #[serde(skip_serializing_if = "is_default")]
    pub switch: Switch,
    /// Devices switch only while one of these is open; evaluated on the device, in its own time zone, offline too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// How long an application on the device may delay the switch, counted from when the version is ready there.
    #[serde(skip_serializing_if = "is_default")]
    pub veto: Span,
}

/// What begins the switch of a version that was fetched beforehand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Nothing: the stages follow at once.
    #[default]
    Directly,
    /// A time.
    At(Instant),
    /// An operator.
    OnWord,
}

/// A maintenance window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// When it opens: minute, hour, day of month, month, day of week, in the device's own time zone.
    #[schema(example = "0 2 * * MON-FRI")]
    pub cron: String,
    /// How long it stays open.
    #[serde(rename = "for")]
    pub length: Span,
}

/// Who has to agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Approval {
    /// So many different people.
    pub need: u32,
    /// Of these, by the names of their keys; anybody who may operate, but the one who started it, where it is empty.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub by: BTreeSet<String>,
}

/// What happens to devices that failed for a reason that may pass. One that refused the version at its probe is never
/// tried again by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How often; not at all unless given.
    #[serde(skip_serializing_if = "is_default")]
    pub attempts: u8,
    /// The first wait is drawn from zero to this, and each further one from twice as much; 5m unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Span>,
    /// But from no more than this; 6h unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wait: Option<Span>,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            time: Span(3600),
            inferences: 200,
            share: Share(0.2),
            cpu: Share(0.25),
            memory: Bytes(64 << 20),
            rule: AgreementRule::Top1,
        }
    }
}

impl Plan {
    /// How long a device may be silent, in seconds.
    pub fn silence_seconds(&self) -> u64 {
        self.silence.map_or(600, |span| span.0)
    }

    /// How long one device may take, in seconds, besides the soak time.
    pub fn device_timeout_seconds(&self) -> u64 {
        self.device_timeout.map_or(24 * 3600, |span| span.0)
    }

    /// The label that names a device's site.
    pub fn site_label(&self) -> &str {
        self.target.site_label.as_deref().unwrap_or("site")
    }

    /// A stage's name; its number where it has none.
    pub fn stage_name(&self, stage: usize) -> String {
        match self.stages.get(stage) {
            Some(plan) if !plan.name.is_empty() => plan.name.clone(),
            _ => (stage + 1).to_string(),
        }
    }

    /// What approvers sign: SHA-256 over the plan's JSON, with what it brings to which slot.
    pub fn hash(&self, target: &str, digest: Digest, slot: &str) -> Digest {
        let text = serde_json::to_string(&(self, target, digest, slot)).unwrap_or_default();
        Digest::of(text.as_bytes())
    }
}

impl Gates {
    /// The fewest devices that a share means anything for.
    pub fn min_sample(&self) -> u32 {
        self.min_sample.unwrap_or(10)
    }

    /// The fewest readings that a metric gate may pass on.
    pub fn min_readings(&self) -> u64 {
        self.min_readings.unwrap_or(30)
    }

    /// Whether a window without inferences tells them too little.
    pub(super) fn ask_of_inferences(&self) -> bool {
        self.error_rate.is_some() || self.p95.is_some() || self.drift.is_some() || self.confidence.is_some()
    }

    /// The chance of a false breach.
    pub fn alpha(&self) -> f64 {
        self.alpha.map_or(0.01, |share| share.0)
    }
}

impl Stage {
    /// How many of `members` devices shall have the version when it is done.
    pub fn quota(&self, members: u32) -> u32 {
        self.size.of(members).max(self.devices.len() as u32).max(1).min(members)
    }

    /// How long it may wait for its gates, in seconds.
    pub fn timeout_seconds(&self) -> u64 {
        self.timeout.map_or(24 * 3600, |span| span.0)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
