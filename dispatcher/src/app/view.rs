//! What callers hand to the façade and get back: plain values that serialise, with nothing behind them.
//!
//! Times are seconds since 1970, sizes bytes, durations carry their unit in the name.

mod rollouts;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use muster_proto::enroll::{BrokerAddress, EnrollRequest, Enrollment};
use muster_proto::id::{DeviceId, Digest, FilePath, Generation, GroupName, ModelName, SlotName, Version, Workspace};
use muster_proto::manifest::{BundleManifest, OutputsFrom, Requires, ScriptLimits, Tolerance, Transforms};
use muster_proto::report::{AgentInfo, DeviceReport, Failure, Phase, Transfer, Vitals};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::domain::{DeviceChange, DevicePhase, RolloutId, RolloutStatus, WatchEvent};
pub use rollouts::*;
pub use services::*;

/// What a caller may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads everything but secrets.
    Viewer,
    /// Registers models, enrols devices and starts rollouts.
    Operator,
    /// Makes and deletes keys as well.
    Admin,
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "operator" => Ok(Role::Operator),
            "admin" => Ok(Role::Admin),
            other => Err(format!("{other:?} is not a role; there are viewer, operator and admin")),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        })
    }
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Principal {
    /// The key's name, for the audit log.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

impl Principal {
    /// The process itself, for what no caller asked for.
    pub fn system() -> Self {
        Self { name: "system".into(), role: Role::Admin }
    }
}

/// A raw file that has been uploaded and verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Uploaded {
    /// The digest of its bytes.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// One uploaded file and its place in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistrationFile {
    /// Its place in the bundle.
    #[schema(value_type = String)]
    pub path: FilePath,
    /// The digest under which it was uploaded.
    #[schema(value_type = String)]
    pub digest: Digest,
}

/// The samples that a model is registered with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleFile {
    /// The samples, at most 64.
    pub samples: Vec<SampleInput>,
}

/// One sample: inputs after the input transforms, outputs before the output transforms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleInput {
    /// Its name, for messages; its place from 1 where there is none.
    #[serde(default)]
    pub name: String,
    /// The inputs by name; none where there is a request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, TensorInput>,
    /// The outputs where the model was trained, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, TensorInput>,
    /// What a caller sends to the scoring script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<serde_json::Value>,
    /// What a caller gets of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<serde_json::Value>,
}

/// A tensor in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorInput {
    /// The element type, e.g. `f32`.
    pub dtype: String,
    /// The dimensions.
    pub shape: Vec<u64>,
    /// The elements, row-major, flat; numbers or booleans.
    #[schema(value_type = Vec<f64>)]
    pub data: Vec<serde_json::Value>,
}

/// A request to register a version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The model's name.
    #[schema(value_type = String)]
    pub name: ModelName,
    /// Its files; each has to be uploaded before.
    pub files: Vec<RegistrationFile>,
    /// The file that the engine loads; needed only where several files end in `.onnx`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub entry: Option<FilePath>,
    /// What people shall know of it.
    #[serde(default)]
    pub description: String,
    /// Tags, which may change later.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Properties, which are signed with the content.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// Samples, best with the outputs from where the model was trained.
    #[serde(default)]
    pub samples: Option<SampleFile>,
    /// Concrete shapes for inputs that declare none, by input name.
    #[serde(default)]
    pub input_shapes: BTreeMap<String, Vec<u64>>,
    /// What happens before the inputs and after the outputs.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub transforms: Option<Transforms>,
    /// How far a device's outputs may differ from the golden ones.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub tolerance: Option<Tolerance>,
    /// What the model needs of a device.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub requires: Requires,
    /// The scoring script; one of the files.
    #[serde(default)]
    pub script: Option<RegistrationScript>,
}

/// A scoring script of a version to be registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistrationScript {
    /// The WebAssembly module.
    #[schema(value_type = String)]
    pub file: FilePath,
    /// What one call may cost.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub limits: ScriptLimits,
}

/// The outcome of a registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Registered {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its version.
    #[schema(value_type = u64)]
    pub version: Version,
    /// Whether this very content was registered before; then nothing was done.
    pub already_registered: bool,
    /// The digest of the signed manifest.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// The signed manifest.
    #[schema(value_type = Object)]
    pub manifest: BundleManifest,
    /// What a person should read before trusting the version.
    pub warnings: Vec<String>,
    /// What was found; none for content that was registered before.
    pub report: Option<RegistrationReport>,
}

/// What a registration found out beyond the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegistrationReport {
    /// How the model had to be loaded, for people.
    pub load_notes: Vec<String>,
    /// Golden samples stored.
    pub samples: u32,
    /// Where their outputs come from.
    #[schema(value_type = String)]
    pub outputs_from: OutputsFrom,
    /// The largest absolute difference between a given output and the engine's.
    pub max_abs_error: Option<f32>,
    /// Size of all files in bytes.
    pub size: u64,
    /// Bytes that a device without an earlier version fetches.
    pub blob_size: u64,
    /// How long all of it took, in milliseconds.
    pub took_ms: u64,
}

/// Which versions to list; empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ModelFilter {
    /// Only this model, or with a trailing `*` those whose names begin so.
    pub name: Option<String>,
    /// Only versions with all of these tags; an empty value matches any.
    pub tags: BTreeMap<String, String>,
    /// Only versions with all of these properties; an empty value matches any.
    pub properties: BTreeMap<String, String>,
}

/// One version in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelSummary {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The version.
    #[schema(value_type = u64)]
    pub version: Version,
    /// The digest of the signed manifest.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Its description.
    pub description: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its signed properties.
    pub properties: BTreeMap<String, String>,
    /// When it was registered.
    pub created_at: u64,
    /// Who registered it.
    pub created_by: String,
    /// How many files it has, the golden samples included.
    pub files: u32,
    /// Size of all files in bytes.
    pub size: u64,
    /// Size as it travels, in bytes.
    pub blob_size: u64,
    /// Number of parameters.
    pub parameters: u64,
    /// Median time of one inference at registration, in microseconds.
    pub inference_us: u64,
}

/// One version in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelView {
    /// What a list shows.
    pub summary: ModelSummary,
    /// The signed manifest.
    #[schema(value_type = Object)]
    pub manifest: BundleManifest,
    /// Its path in the TUF repository.
    pub target: String,
    /// What desires it now, e.g. `device pi-4 (slot digits)`; at most 100 entries.
    pub desired_by: Vec<String>,
}

/// A request for an enrolment token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EnrollTokenRequest {
    /// The groups that a device joins with it.
    #[schema(value_type = Vec<String>)]
    pub groups: BTreeSet<GroupName>,
    /// The labels that a device gets with it.
    pub labels: BTreeMap<String, String>,
    /// How long it is good, in seconds; an hour by default, at most 30 days.
    pub ttl_seconds: Option<u64>,
    /// How many devices may use it; one by default, at most 10,000.
    pub uses: Option<u32>,
}

/// A new enrolment token. It is shown once: only a hash of its secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrollToken {
    /// Its id, for lists.
    pub id: String,
    /// What `muster-agent enroll` takes: address, CA fingerprint and secret in one word.
    pub token: String,
    /// The groups that a device joins with it.
    #[schema(value_type = Vec<String>)]
    pub groups: BTreeSet<GroupName>,
    /// The labels that a device gets with it.
    pub labels: BTreeMap<String, String>,
    /// Until when it is good.
    pub expires_at: u64,
    /// How many devices may use it.
    pub uses: u32,
}

/// A device as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceView {
    /// The device.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// Whether it is connected, as far as is known.
    pub online: bool,
    /// When something was last heard of it; 0 if never.
    pub last_seen: u64,
    /// When it was enrolled.
    pub enrolled_at: u64,
    /// The groups that it is listed in, or that its labels select.
    #[schema(value_type = Vec<String>)]
    pub groups: BTreeSet<GroupName>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it is.
    #[schema(value_type = Object)]
    pub agent: AgentInfo,
    /// The generation of its newest desired state.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// The newest generation that it has accepted.
    #[schema(value_type = u64)]
    pub reported_generation: Generation,
    /// Whether every slot runs what is desired, healthy.
    pub converged: bool,
    /// Every slot that is desired or reported.
    pub slots: Vec<SlotView>,
    /// A desired state that the device refused, and why.
    #[schema(value_type = Option<Object>)]
    pub refused: Option<Failure>,
}

/// A slot of a device: desired and reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SlotView {
    /// The slot.
    #[schema(value_type = String)]
    pub slot: SlotName,
    /// What it shall run.
    pub desired: Option<VersionRef>,
    /// The rollout that asked for it.
    pub rollout: Option<String>,
    /// What answers, by the device's last report.
    pub active: Option<VersionRef>,
    /// What a fall-back would answer with.
    pub previous: Option<VersionRef>,
    /// How far the desired version has come.
    #[schema(value_type = Option<String>)]
    pub phase: Option<Phase>,
    /// Why it failed or waits.
    #[schema(value_type = Option<Object>)]
    pub failure: Option<Failure>,
    /// What its transfer moved.
    #[schema(value_type = Object)]
    pub transfer: Transfer,
}

/// A version of a model by name and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionRef {
    /// The model, where the target's path names one.
    #[schema(value_type = Option<String>)]
    pub model: Option<ModelName>,
    /// The version, where the target's path names one.
    #[schema(value_type = Option<u64>)]
    pub version: Option<Version>,
    /// The digest of the manifest.
    #[schema(value_type = String)]
    pub digest: Digest,
}

/// A device and all that it last said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetail {
    /// What a list shows.
    pub view: DeviceView,
    /// Its last signed report.
    #[schema(value_type = Option<Object>)]
    pub report: Option<DeviceReport>,
    /// What the agent used at the end of its last telemetry window.
    #[schema(value_type = Option<Object>)]
    pub vitals: Option<Vitals>,
}

/// Which devices to list; empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DeviceFilter {
    /// Only members of this group.
    #[schema(value_type = Option<String>)]
    pub group: Option<GroupName>,
    /// Only devices with all of these labels; an empty value matches any.
    pub labels: BTreeMap<String, String>,
    /// Only connected, or only unconnected ones.
    pub online: Option<bool>,
}

/// A change of a device's labels and groups; none leaves them as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceUpdate {
    /// The new labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// The groups that it shall be listed in, all of them.
    #[schema(value_type = Option<Vec<String>>)]
    pub groups: Option<BTreeSet<GroupName>>,
}

/// A group of devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// Its name.
    #[schema(value_type = String)]
    pub group: GroupName,
    /// The labels that select members besides the listed ones; empty for a static list.
    pub selector: BTreeMap<String, String>,
    /// Its members.
    #[schema(value_type = Vec<String>)]
    pub devices: Vec<DeviceId>,
}

/// A request for an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// A name for people and the audit log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// How long it is good, in seconds; for ever where there is none.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: u64,
    /// Until when it is good; 0 for ever.
    pub expires_at: u64,
}

/// A new API key. It is shown once: only a hash is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    /// The key.
    pub key: KeyView,
    /// What goes into `Authorization: Bearer`.
    pub token: String,
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number; they only grow.
    pub seq: u64,
    /// When.
    pub at: u64,
    /// Who.
    pub actor: String,
    /// What, e.g. `model.register`.
    pub action: String,
    /// To what, e.g. `digits:2`.
    pub subject: String,
    /// Details for people.
    pub detail: String,
}

/// Telemetry of one model version in one slot of one device, summed over all its windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TelemetryView {
    /// The device.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// The slot.
    #[schema(value_type = String)]
    pub slot: SlotName,
    /// The version, as far as its digest is known here.
    pub version: VersionRef,
    /// Inferences that succeeded.
    pub ok: u64,
    /// Inferences that failed.
    pub errors: u64,
    /// Requests refused because the queue was full.
    pub rejected: u64,
    /// Median latency in microseconds.
    pub p50_us: Option<u64>,
    /// 95th percentile of the latency in microseconds.
    pub p95_us: Option<u64>,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: Option<u64>,
    /// The most requests that waited at once.
    pub queue_peak: u32,
    /// When the last window came.
    pub updated_at: u64,
}

/// Which telemetry to list; empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TelemetryFilter {
    /// Only this device.
    #[schema(value_type = Option<String>)]
    pub device: Option<DeviceId>,
    /// Only this slot.
    #[schema(value_type = Option<String>)]
    pub slot: Option<SlotName>,
    /// Only the version with this manifest.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
}

/// What this dispatcher is and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// The workspace.
    #[schema(value_type = String)]
    pub workspace: Workspace,
    /// Where devices and operators reach the API.
    pub api_url: String,
    /// Where devices reach the broker.
    #[schema(value_type = Object)]
    pub broker: BrokerAddress,
    /// The SHA-256 fingerprint of the CA's certificate.
    pub ca_fingerprint: String,
    /// Since when it runs.
    pub started_at: u64,
    /// Whether the link to the broker is up.
    pub link_up: bool,
    /// Devices enrolled.
    pub devices: u32,
    /// Devices connected.
    pub devices_online: u32,
    /// What was refused or dropped since the start, by reason.
    pub counters: BTreeMap<String, u64>,
}
