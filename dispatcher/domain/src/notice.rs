//! What watchers are told as it happens. Losing a notice costs nothing but freshness.

use muster_proto::code::Code;
use muster_proto::id::{DeviceId, ModelName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rollout::{Decision, DevicePhase, RolloutId, RolloutStatus};

/// Something that a watcher wants to know at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WatchEvent {
    /// Something happened to a device.
    Device {
        /// The device.
        #[schema(value_type = String)]
        device: DeviceId,
        /// What happened.
        change: DeviceChange,
    },
    /// A device of a rollout came further.
    RolloutDevice {
        /// The rollout.
        #[schema(value_type = String)]
        rollout: RolloutId,
        /// The device.
        #[schema(value_type = String)]
        device: DeviceId,
        /// How far it is.
        phase: DevicePhase,
        /// The code of a failure.
        #[schema(value_type = Option<String>)]
        code: Option<Code>,
        /// What happened, for people.
        detail: String,
    },
    /// A rollout was started or ended.
    Rollout {
        /// The rollout.
        #[schema(value_type = String)]
        rollout: RolloutId,
        /// How it stands.
        status: RolloutStatus,
        /// Why, where there is a reason.
        reason: String,
    },
    /// Something was decided in a rollout.
    Decision {
        /// The rollout.
        #[schema(value_type = String)]
        rollout: RolloutId,
        /// What, and on what.
        decision: Decision,
    },
    /// A registration came to its next step.
    Registration {
        /// The model.
        #[schema(value_type = String)]
        model: ModelName,
        /// What is being done, for people.
        step: String,
    },
}

/// What happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceChange {
    /// It was enrolled.
    Enrolled,
    /// It was removed.
    Removed,
    /// It connected.
    Online,
    /// It is gone.
    Offline,
    /// Its labels or groups changed.
    Changed,
    /// It reported.
    Reported,
}
