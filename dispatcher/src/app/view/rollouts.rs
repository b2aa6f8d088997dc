//! Rollouts as others see them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use muster_proto::code::Code;
use muster_proto::id::{DeviceId, Digest, GroupName, ModelName, SlotName, Version};
use muster_proto::report::Transfer;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Schema};
use utoipa::openapi::{RefOr, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{DevicePhase, RolloutId, RolloutStatus};
pub use crate::domain::rollout::evidence::{Gate, GateReading, GateState};
pub use crate::domain::rollout::explain::{Condition, ConditionState};
pub use crate::domain::rollout::forecast::{Forecast, StageForecast};
pub use crate::domain::rollout::plan::{self, Plan, Preset};
pub use crate::domain::rollout::units;
pub use crate::domain::rollout::{Approved, Decision};

/// A rollout as a document: which version to which slot, and the plan. As JSON, TOML or YAML it is the same.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutDocument {
    /// The model.
    pub model: ModelName,
    /// The version; the newest that was not recalled where there is none.
    pub version: Option<Version>,
    /// The slot; the last part of the model's name where there is none.
    pub slot: Option<SlotName>,
    /// What it shall do.
    pub plan: Plan,
}

impl Serialize for RolloutDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            model: &'a ModelName,
            #[serde(skip_serializing_if = "Option::is_none")]
            version: Option<Version>,
            #[serde(skip_serializing_if = "Option::is_none")]
            slot: &'a Option<SlotName>,
            #[serde(flatten)]
            plan: &'a Plan,
        }
        Flat { model: &self.model, version: self.version, slot: &self.slot, plan: &self.plan }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RolloutDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By hand, because serde cannot refuse unknown keys of a flattened struct.
        let mut map = serde_json::Map::deserialize(deserializer)?;
        let model = map.remove("model").ok_or_else(|| D::Error::missing_field("model"))?;
        let take = |value: Option<serde_json::Value>| value.filter(|value| !value.is_null());
        let (version, slot) = (take(map.remove("version")), take(map.remove("slot")));
        let model = serde_json::from_value(model).map_err(|e| D::Error::custom(format!("model: {e}")))?;
        let version = version.map(serde_json::from_value).transpose();
        let version = version.map_err(|e| D::Error::custom(format!("version: {e}")))?;
        let slot = slot.map(serde_json::from_value).transpose().map_err(|e| D::Error::custom(format!("slot: {e}")))?;
        let plan = serde_json::from_value(serde_json::Value::Object(map)).map_err(D::Error::custom)?;
        Ok(Self { model, version, slot, plan })
    }
}

impl ToSchema for RolloutDocument {
    fn name() -> Cow<'static, str> {
        "RolloutDocument".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Plan::schemas(schemas);
    }
}

impl PartialSchema for RolloutDocument {
    fn schema() -> RefOr<Schema> {
        let text = |text: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(text)).build();
        let mut object = match Plan::schema() {
            RefOr::T(Schema::Object(object)) => object,
            _ => Default::default(),
        };
        object.description = Some("A rollout: which version to which slot, and the plan.".into());
        object.properties.insert("model".into(), text("The model.").into());
        let version = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .description(Some("The version; the newest that was not recalled where there is none."));
        object.properties.insert("version".into(), version.build().into());
        let slot = text("The slot on the devices; the last part of the model's name where there is none.");
        object.properties.insert("slot".into(), slot.into());
        object.required.push("model".into());
        RefOr::T(Schema::Object(object))
    }
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// Its id, e.g. `r12`.
    #[schema(value_type = String)]
    pub id: RolloutId,
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The version.
    #[schema(value_type = u64)]
    pub version: Version,
    /// The digest of the manifest.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// The slot.
    #[schema(value_type = String)]
    pub slot: SlotName,
    /// Its plan, complete.
    pub plan: Plan,
    /// The plan's hash, which approvers sign.
    #[schema(value_type = String)]
    pub plan_hash: Digest,
    /// Who approved it.
    pub approvals: Vec<Approved>,
    /// How it stands.
    pub status: RolloutStatus,
    /// Why it stands so, where there is a reason.
    pub reason: String,
    /// When it was created.
    pub created_at: u64,
    /// Who created it.
    pub created_by: String,
    /// When devices were first offered it; 0 before.
    pub started_at: u64,
    /// When it ended; 0 while it runs.
    pub ended_at: u64,
    /// When it will end at the pace so far; 0 where that cannot be said.
    pub expected_at: u64,
    /// The stage under way, counted from 0.
    pub stage: usize,
    /// What came of each stage.
    pub stages: Vec<StageView>,
    /// Whom it is for, as of now.
    pub total: u32,
    /// Devices that update now.
    pub in_flight: u32,
    /// How many devices are in each phase; absent ones have none.
    #[schema(value_type = std::collections::HashMap<String, u32>)]
    pub counts: BTreeMap<DevicePhase, u32>,
}

/// A stage of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageView {
    /// Its name.
    pub name: String,
    /// How many devices shall have the version when it is done, earlier stages included.
    pub quota: u32,
    /// When it began; 0 before.
    pub since: u64,
    /// When its gates let it pass; 0 before.
    pub passed_at: u64,
    /// Whether its devices run the version as a shadow.
    pub shadows: bool,
    /// How many of its devices are in each phase.
    #[schema(value_type = std::collections::HashMap<String, u32>)]
    pub counts: BTreeMap<DevicePhase, u32>,
    /// Its gates with their numbers, once it has begun.
    pub gates: Vec<GateReading>,
}

/// A device of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutDevice {
    /// The device.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// How far it is.
    pub phase: DevicePhase,
    /// The stage in which it was offered the version, counted from 0; none before, or while it fetches beforehand.
    pub stage: Option<u8>,
    /// Whether it is connected.
    pub online: bool,
    /// Since when it is in this phase.
    pub since: u64,
    /// The code of a failure, or of what it waits for.
    #[schema(value_type = Option<String>)]
    pub code: Option<Code>,
    /// What happened, for people.
    pub detail: String,
    /// What its transfer moved.
    #[schema(value_type = Object)]
    pub transfer: Transfer,
}

/// A rollout with each of its devices and what was decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutDetail {
    /// The rollout.
    pub rollout: RolloutView,
    /// What was decided, newest last.
    pub decisions: Vec<Decision>,
    /// Its devices in order of name.
    pub devices: Vec<RolloutDevice>,
}

/// Why a device is where it is in a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The rollout.
    #[schema(value_type = String)]
    pub rollout: RolloutId,
    /// The device.
    #[schema(value_type = String)]
    pub device: DeviceId,
    /// How far it is; none where it has no part in the rollout.
    pub phase: Option<DevicePhase>,
    /// The conditions in order: the first that does not hold is what it waits for.
    pub conditions: Vec<Condition>,
}

/// What a rollout would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutPreview {
    /// The document, complete: version, slot and plan.
    pub document: RolloutDocument,
    /// The plan's hash, which approvers sign.
    #[schema(value_type = String)]
    pub plan_hash: Digest,
    /// How many devices match.
    pub matching: u32,
    /// Of these, how many are connected.
    pub online: u32,
    /// The first devices in line, with the stage that reaches them.
    #[schema(value_type = Vec<String>)]
    pub first: Vec<DeviceId>,
    /// Why other devices do not match, the most frequent reason first.
    pub excluded: Vec<Excluded>,
    /// Rollouts that want the same slot of some of these devices.
    pub conflicts: Vec<Overlap>,
    /// What the devices run now, and what they would have to fetch.
    pub transfers: Vec<TransferForecast>,
    /// When it would do what, if all goes well.
    pub forecast: Forecast,
    /// Why it could not be started now, where it could not.
    pub refused: Option<String>,
}

/// Devices that a rollout is not for, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Excluded {
    /// Why.
    pub reason: String,
    /// How many.
    pub devices: u32,
    /// Some of them.
    #[schema(value_type = Vec<String>)]
    pub examples: BTreeSet<DeviceId>,
}

/// Another rollout of the same slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overlap {
    /// The rollout.
    #[schema(value_type = String)]
    pub rollout: RolloutId,
    /// On so many devices.
    pub devices: u32,
    /// Whether it goes first there.
    pub goes_first: bool,
}

/// What devices that run the same version would have to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferForecast {
    /// What they run: the target's path; none where nothing.
    pub from: Option<String>,
    /// How many.
    pub devices: u32,
    /// Bytes for each, without a delta.
    pub full: u64,
    /// Bytes for each with deltas, where they have been computed.
    pub delta: Option<u64>,
}

/// A word to a rollout that needs a reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutReason {
    /// Why, for the audit log.
    pub reason: String,
    /// Abort and rollback: wait neither for windows nor for vetoes.
    pub now: bool,
}

/// Agreement to a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutApproval {
    /// The hash of the plan that was looked at.
    #[schema(value_type = String)]
    pub plan: Digest,
    /// The id of the Ed25519 key that signed, for devices to check.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub key: Option<Digest>,
    /// The signature in hexadecimal.
    #[serde(default)]
    pub signature: Option<String>,
}

/// Devices to try again; all that failed where none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutRetry {
    /// The devices.
    #[schema(value_type = Vec<String>)]
    pub devices: Vec<DeviceId>,
}

/// A further group for a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutExtension {
    /// The group.
    #[schema(value_type = String)]
    pub group: GroupName,
}

/// A version that was recalled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeniedView {
    /// The digest of its manifest.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// The target's path.
    pub target: String,
    /// The rollout that was recalled.
    #[schema(value_type = String)]
    pub rollout: RolloutId,
    /// Why.
    pub reason: String,
    /// When.
    pub at: u64,
}
