//! What devices report, held against what they were asked for.

use muster_proto::code::Code;
use muster_proto::id::{DeviceId, Digest, Generation};
use muster_proto::report::{DeviceReport, Phase, SlotReport};

use super::{Effect, Turn};
use crate::device::{Freshness, proves};
use crate::notice::DeviceChange;
use crate::rollout::{self, DevicePhase, Rollout, RolloutId};

impl Turn<'_> {
    pub(super) fn report_arrived(&mut self, report: DeviceReport) {
        if report.workspace != self.fleet.workspace {
            return;
        }
        let Some(record) = self.fleet.devices.get_mut(&report.device) else { return };
        let (device, id) = (report.device.clone(), report.id);
        match record.freshness(&report) {
            Freshness::Newer => {}
            Freshness::Known | Freshness::PastIncarnation => {
                self.effects.push(Effect::Ack { device, ids: vec![id] });
                return;
            }
        }
        let was_online = std::mem::replace(&mut record.online, true);
        record.last_seen = self.now;
        let raised = record.accept(report.generation) || record.outbid(&report);
        let behind = report.generation < record.generation;
        let facts_changed = record.agent != report.agent;
        record.replace_report(report.clone());
        self.effects.push(Effect::SaveDevice(device.clone()));
        if raised {
            self.publish(&device);
        }
        for slot in &report.slots {
            self.observe_slot(&device, report.generation, slot);
        }
        if !behind {
            let its = self.fleet.rollouts.values().filter(|r| is_recalling(r, &device)).map(|r| r.id);
            for id in its.collect::<Vec<_>>() {
                self.look_at_emptied(id, &device);
            }
        }
        // A refused replay of an older desired state is as it should be; only the newest one matters.
        if let Some(refused) = report.refused.filter(|refused| behind && refused.code != Code::Rollback) {
            self.refuse_offers(&device, refused.code, &refused.detail);
        }
        self.effects.push(Effect::Ack { device: device.clone(), ids: vec![id] });
        self.tell(&device, DeviceChange::Reported);
        self.heard(&device, was_online);
        if facts_changed {
            self.settle(&device);
        }
    }

    /// Draws from what the device reports of a slot how far its rollout is there.
    fn observe_slot(&mut self, device: &DeviceId, generation: Generation, slot: &SlotReport) {
        let fleet = &mut *self.fleet;
        let Some(record) = fleet.devices.get_mut(device) else { return };
        let Some(want) = record.slots.get(&slot.slot) else { return };
        // A report on an earlier desired state, or on an earlier attempt, says nothing on this one.
        let desired = slot.desired.as_ref().is_some_and(|desired| desired.digest == want.digest);
        if !desired || generation < want.since || slot.rollout != want.reference() {
            return;
        }
        let healthy = proves(slot, want.digest);
        if healthy {
            let recalled = |digest: Digest| fleet.denied.contains_key(&digest);
            record.proven.entry(slot.slot.clone()).or_default().prove(want, recalled);
        } else if slot.phase == Phase::Failed
            && let Some(proven) = record.proven.get_mut(&slot.slot)
        {
            proven.forget(want.digest);
        }
        let id = want.rollout;
        let Some(rollout) = fleet.rollouts.get(&id) else { return };
        if want.digest != rollout.digest {
            // It was told to go back.
            if healthy {
                self.queue.push_back((id, rollout::Event::WentBack(device.clone())));
            }
            return;
        }
        let failure = slot.failure.as_ref();
        let code = failure.map(|f| f.code);
        let phase = match slot.phase {
            Phase::Offered => DevicePhase::Offered,
            Phase::Fetching => DevicePhase::Fetching,
            Phase::Verified => DevicePhase::Verified,
            Phase::Staged => DevicePhase::Staged,
            Phase::Active => DevicePhase::Active,
            Phase::Healthy if healthy => DevicePhase::Healthy,
            Phase::Failed if code.is_some_and(is_refusal) => DevicePhase::Refused,
            Phase::Failed => DevicePhase::Failed,
            // Claims success without the proof, or calls a wanted slot removed: not an outcome.
            Phase::Healthy | Phase::Removed => return,
        };
        let code = code.or((phase == DevicePhase::Failed).then_some(Code::Internal));
        let detail = failure.map(|f| f.detail.clone()).unwrap_or_default();
        let (device, transfer) = (device.clone(), slot.transfer);
        self.queue.push_back((id, rollout::Event::Reported { device, phase, code, detail, transfer }));
    }

    /// Lets a device have gone back that had nothing before, once it says under its newest desired state that its slot is
    /// empty again.
    pub(super) fn look_at_emptied(&mut self, id: RolloutId, device: &DeviceId) {
        let fleet = &mut *self.fleet;
        let (Some(rollout), Some(record)) = (fleet.rollouts.get(&id), fleet.devices.get_mut(device)) else { return };
        let slot = &rollout.slot;
        let says = |report: &DeviceReport| {
            let is_empty = |s: &SlotReport| s.phase == Phase::Removed && s.active.is_none();
            report.generation >= record.generation && report.slots.iter().all(|s| s.slot != *slot || is_empty(s))
        };
        if !record.slots.contains_key(slot) && record.report.as_ref().is_some_and(says) {
            record.proven.remove(slot);
            record.usual.remove(slot);
            self.effects.push(Effect::SaveDevice(device.clone()));
            self.queue.push_back((id, rollout::Event::WentBack(device.clone())));
        }
    }

    /// Ends what the device has not begun because it refused the desired state.
    fn refuse_offers(&mut self, device: &DeviceId, code: Code, detail: &str) {
        let Some(record) = self.fleet.devices.get(device) else { return };
        for id in record.slots.values().map(|assignment| assignment.rollout) {
            let part = self.fleet.rollouts.get(&id).and_then(|rollout| rollout.parts.get(device));
            if let Some(part) = part.filter(|part| part.phase == DevicePhase::Offered) {
                let (device, detail, transfer) = (device.clone(), detail.to_owned(), part.transfer);
                let phase = DevicePhase::Refused;
                let event = rollout::Event::Reported { device, phase, code: Some(code), detail, transfer };
                self.queue.push_back((id, event));
            }
        }
    }
}

/// Whether a failure says that the device cannot or may not take the version, and nothing of the version itself.
fn is_refusal(code: Code) -> bool {
    matches!(code, Code::Incompatible | Code::TooLarge | Code::PlanUnapproved)
}

fn is_recalling(rollout: &Rollout, device: &DeviceId) -> bool {
    rollout.parts.get(device).is_some_and(|part| part.phase == DevicePhase::Recalling)
}
