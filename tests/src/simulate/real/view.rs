//! How a device with the real core stands, read off its complete report as the dispatcher does.

use muster_agent::core::Now;
use muster_dispatcher::domain::rollout::DevicePhase;
use muster_proto::code::Code;
use muster_proto::report::Phase;

use super::bundles::{Bundles, slot};
use super::device::Device;
use crate::simulate::agent::View;
use crate::simulate::desired::Desired;
use crate::simulate::version::NONE;

impl Device {
    /// How far the update is, as the dispatcher reads a report.
    pub(super) fn phase_now(&self, bundles: &Bundles) -> DevicePhase {
        let report = self.state.describe(Now::default());
        let Some(told) = self.told else { return DevicePhase::Healthy };
        let Some(of_slot) = report.slots.iter().find(|of_slot| of_slot.slot == slot()) else {
            return if told.version == NONE { DevicePhase::Healthy } else { DevicePhase::Offered };
        };
        let wanted = bundles.get(told.version).map(|bundle| bundle.digest);
        let code = of_slot.failure.as_ref().map(|failure| failure.code);
        match of_slot.phase {
            Phase::Offered => DevicePhase::Offered,
            Phase::Fetching => DevicePhase::Fetching,
            Phase::Verified => DevicePhase::Verified,
            Phase::Staged => DevicePhase::Staged,
            Phase::Active => DevicePhase::Active,
            Phase::Healthy if wanted.is_some() && self.answers == wanted => DevicePhase::Healthy,
            // Success without the proof is none.
            Phase::Healthy => DevicePhase::Offered,
            Phase::Failed if matches!(code, Some(Code::Incompatible | Code::TooLarge | Code::PlanUnapproved)) => {
                DevicePhase::Refused
            }
            Phase::Failed => DevicePhase::Failed,
            Phase::Removed => DevicePhase::Healthy,
        }
    }

    /// How it stands.
    pub fn view(&self, bundles: &Bundles) -> View {
        let told = self.told.unwrap_or(Desired {
            generation: 0,
            version: self.answering(bundles),
            rollout: 0,
            stage: 0,
            held: false,
            urgent: false,
            recall: false,
        });
        let report = self.state.describe(Now::default());
        let of_slot = report.slots.iter().find(|of_slot| of_slot.slot == slot());
        let generation = self.generation();
        let previous = self.record().and_then(|record| record.previous.as_ref());
        View {
            generation,
            rollout: told.rollout,
            stage: told.stage,
            wanted: told.version,
            phase: self.phase,
            code: of_slot.and_then(|of_slot| of_slot.failure.as_ref()).map(|failure| failure.code),
            active: self.answering(bundles),
            previous: previous.and_then(|previous| bundles.version(&previous.digest)).unwrap_or(NONE),
            trial: self.phase == DevicePhase::Active,
            since: self.since,
            acknowledged: !self.disk.outbox.values().any(|(_, about)| *about == u64::from(generation)),
            fetched: if of_slot.is_some_and(|of_slot| of_slot.transfer.fetched > 0) { self.fetched } else { 0 },
            lag: 0,
        }
    }
}
