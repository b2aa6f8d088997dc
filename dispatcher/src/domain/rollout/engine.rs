//! The simple rollout engine: a canary, then everyone, at most so many at once, until too many fail.
//!
//! It offers a version by assigning it to a device's slot, and believes only what a signed report proves
//! (invariant 12). A device that is not connected is not offered anything until it is; one that falls silent while it
//! updates frees its place after [`SILENCE_SECONDS`] and counts as a failure until it is heard again (invariant 13).

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::code::Code;
use muster_proto::id::{DeviceId, SlotName};
use muster_proto::report::{Phase, SlotReport};

use super::{Audience, DevicePhase, Progress, Rollout, RolloutId, RolloutStatus, proves};
use crate::domain::device::Device;
use crate::domain::fleet::{Effect, Turn};
use crate::domain::notice::WatchEvent;

/// How long an updating device may be silent before it counts as failed.
pub(in crate::domain) const SILENCE_SECONDS: u64 = 600;
/// How many ended rollouts are kept, besides those that devices or later members still depend on.
pub(in crate::domain) const MAX_ENDED: usize = 500;
/// The longest text on a failure that is kept, in characters.
const MAX_DETAIL: usize = 500;

impl Turn<'_> {
    /// Begins `rollout` with the devices that its audience has now.
    pub(in crate::domain) fn start_rollout(&mut self, mut rollout: Rollout) {
        let (id, now) = (rollout.id, self.now);
        let members = self.fleet.members(&rollout.audience);
        rollout.devices = members.iter().map(|device| (device.clone(), Progress::pending(now))).collect();
        self.effects.push(Effect::SaveRollout(id));
        self.effects.extend(members.iter().map(|d| Effect::SaveProgress { rollout: id, device: d.clone() }));
        self.effects.push(notice(&rollout));
        self.fleet.rollouts.insert(id, rollout);
        for device in &members {
            self.take_over(id, device);
        }
        // Older ones may have come to their end by that.
        let older: Vec<RolloutId> = self.fleet.rollouts.range(..=id).map(|(id, _)| *id).collect();
        for rollout in older {
            self.advance_rollout(rollout);
        }
        self.forget_old_rollouts();
    }

    /// Ends a rollout at an operator's wish, or because what it is about was deleted.
    pub(in crate::domain) fn cancel_rollout(&mut self, id: RolloutId, reason: &str) {
        if self.fleet.rollouts.get(&id).is_some_and(|r| r.status.offers()) {
            self.end(id, RolloutStatus::Cancelled, reason.to_owned());
        }
    }

    /// Gives `device`, for each slot, a part in the newest rollout that is for it and still offers; also in one that
    /// had to give way to a newer rollout that ended before it reached the device.
    pub(in crate::domain) fn join_rollouts(&mut self, device: &DeviceId) {
        let fleet = &*self.fleet;
        let Some(record) = fleet.devices.get(device) else { return };
        let mut newest: BTreeMap<&SlotName, &Rollout> = BTreeMap::new();
        for rollout in fleet.rollouts.values().filter(|r| r.status.offers()) {
            let newer = record.slots.get(&rollout.slot).is_none_or(|have| have.rollout < rollout.id);
            if newer && fleet.invites(&rollout.audience, record) {
                newest.insert(&rollout.slot, rollout);
            }
        }
        let free = |r: &&Rollout| r.devices.get(device).is_none_or(|p| p.phase == DevicePhase::Superseded);
        let joined: Vec<RolloutId> = newest.into_values().filter(free).map(|r| r.id).collect();
        for id in joined {
            if let Some(rollout) = self.fleet.rollouts.get_mut(&id) {
                rollout.devices.insert(device.clone(), Progress::pending(self.now));
                self.effects.push(Effect::SaveProgress { rollout: id, device: device.clone() });
            }
            self.take_over(id, device);
            self.advance_rollout(id);
        }
    }

    /// Draws from what the device reports of `slot` how far its rollout is there.
    pub(in crate::domain) fn observe_slot(&mut self, device: &DeviceId, slot: &SlotReport) {
        let Some(want) = self.fleet.devices.get(device).and_then(|d| d.slots.get(&slot.slot)) else { return };
        let (id, digest) = (want.rollout, want.digest);
        // A report on an earlier desired state says nothing on this one, even where the digest is the same.
        if slot.rollout != id.to_string() || slot.desired.as_ref().is_none_or(|d| d.digest != digest) {
            return;
        }
        let phase = match slot.phase {
            Phase::Offered => DevicePhase::Offered,
            Phase::Fetching => DevicePhase::Fetching,
            Phase::Verified => DevicePhase::Verified,
            Phase::Staged => DevicePhase::Staged,
            Phase::Active => DevicePhase::Active,
            Phase::Healthy if proves(slot, digest) => DevicePhase::Healthy,
            Phase::Failed => DevicePhase::Failed,
            // Claims success without the proof, or calls a wanted slot removed: not an outcome.
            Phase::Healthy | Phase::Removed => return,
        };
        let failure = slot.failure.as_ref();
        let code = failure.map(|f| f.code).or((phase == DevicePhase::Failed).then_some(Code::Internal));
        let detail = failure.map(|f| f.detail.as_str()).unwrap_or_default();
        if let Some(progress) = self.part(id, device)
            && progress.transfer != slot.transfer
        {
            progress.transfer = slot.transfer;
            self.effects.push(Effect::SaveProgress { rollout: id, device: device.clone() });
        }
        self.note(id, device, phase, code, detail);
        self.advance_rollout(id);
    }

    /// Fails what the device has not begun because it refused the desired state.
    pub(in crate::domain) fn refuse_offers(&mut self, device: &DeviceId, code: Code, detail: &str) {
        let Some(record) = self.fleet.devices.get(device) else { return };
        let asked: Vec<RolloutId> = record.slots.values().map(|a| a.rollout).collect();
        for id in asked {
            if self.part(id, device).is_some_and(|p| p.phase == DevicePhase::Offered) {
                self.note(id, device, DevicePhase::Failed, Some(code), detail);
                self.advance_rollout(id);
            }
        }
    }

    /// Offers the rollout to as many waiting devices as its limits allow, and sees whether it is at an end.
    pub(in crate::domain) fn advance_rollout(&mut self, id: RolloutId) {
        let fleet = &*self.fleet;
        let Some(rollout) = fleet.rollouts.get(&id).filter(|r| r.status.offers()) else { return };
        let (mut updating, mut silent) = (0u32, 0u32);
        for (device, progress) in rollout.devices.iter().filter(|(_, p)| p.phase.in_flight()) {
            let heard = fleet.devices.get(device).is_some_and(|d| !self.is_silent(d, progress));
            *(if heard { &mut updating } else { &mut silent }) += 1;
        }
        let failed = rollout.count(DevicePhase::Failed);
        if failed + silent > rollout.max_failures {
            let reason = format!("{failed} failed and {silent} fell silent, {} are allowed", rollout.max_failures);
            self.end(id, RolloutStatus::Halted, reason);
            return;
        }
        let limit = match rollout.canary.saturating_sub(rollout.count(DevicePhase::Healthy)) {
            0 => rollout.max_in_flight.max(1),
            canaries => canaries.min(rollout.max_in_flight.max(1)),
        };
        let waits = |(device, progress): &(&DeviceId, &Progress)| {
            progress.phase == DevicePhase::Pending && fleet.devices.get(*device).is_some_and(|d| d.online)
        };
        let room = limit.saturating_sub(updating) as usize;
        let next: Vec<DeviceId> = rollout.devices.iter().filter(waits).take(room).map(|(d, _)| d.clone()).collect();
        for device in next {
            self.offer(id, &device);
        }
        let is_done =
            |r: &Rollout| r.status == RolloutStatus::Running && r.devices.values().all(|p| p.phase.is_final());
        if self.fleet.rollouts.get(&id).is_some_and(is_done) {
            self.end(id, RolloutStatus::Completed, String::new());
        }
    }

    fn offer(&mut self, id: RolloutId, device: &DeviceId) {
        let Some(rollout) = self.fleet.rollouts.get(&id) else { return };
        let (slot, assignment) = (rollout.slot.clone(), rollout.assignment());
        let Some(record) = self.fleet.devices.get_mut(device) else { return };
        let before = record.slots.get(&slot).map(|a| a.rollout);
        if let Some(newer) = before.filter(|before| *before > id) {
            self.supersede(id, device, newer);
            return;
        }
        if !record.assign(slot, assignment) {
            let detail = "the device has no room for another slot";
            self.note(id, device, DevicePhase::Failed, Some(Code::Conflict), detail);
            return;
        }
        self.effects.push(Effect::SaveDevice(device.clone()));
        self.publish(device);
        self.note(id, device, DevicePhase::Offered, None, "");
        if let Some(before) = before.filter(|before| *before != id)
            && self.part(before, device).is_some_and(|p| !p.phase.is_final())
        {
            self.supersede(before, device, id);
            self.advance_rollout(before);
        }
    }

    /// Takes `device` away from older rollouts of the slot that have not reached it yet.
    fn take_over(&mut self, id: RolloutId, device: &DeviceId) {
        let Some(slot) = self.fleet.rollouts.get(&id).map(|r| &r.slot) else { return };
        let waits =
            |r: &&Rollout| r.slot == *slot && r.devices.get(device).is_some_and(|p| p.phase == DevicePhase::Pending);
        let older = self.fleet.rollouts.range(..id).map(|(_, r)| r);
        let older: Vec<RolloutId> = older.filter(waits).map(|r| r.id).collect();
        for old in older {
            self.supersede(old, device, id);
        }
    }

    fn supersede(&mut self, id: RolloutId, device: &DeviceId, by: RolloutId) {
        self.note(id, device, DevicePhase::Superseded, None, &format!("{by} took its place"));
    }

    fn part(&mut self, id: RolloutId, device: &DeviceId) -> Option<&mut Progress> {
        self.fleet.rollouts.get_mut(&id)?.devices.get_mut(device)
    }

    /// Records a device's progress where it is a change.
    fn note(&mut self, id: RolloutId, device: &DeviceId, phase: DevicePhase, code: Option<Code>, detail: &str) {
        let now = self.now;
        let detail: String = detail.chars().take(MAX_DETAIL).collect();
        let Some(progress) = self.part(id, device) else { return };
        if progress.phase == phase && progress.code == code && progress.detail == detail {
            return;
        }
        if progress.phase != phase {
            progress.since = now;
        }
        (progress.phase, progress.code, progress.detail) = (phase, code, detail.clone());
        let device = device.clone();
        self.effects.push(Effect::SaveProgress { rollout: id, device: device.clone() });
        self.effects.push(Effect::Notify(WatchEvent::RolloutDevice { rollout: id, device, phase, code, detail }));
    }

    fn end(&mut self, id: RolloutId, status: RolloutStatus, reason: String) {
        let Some(rollout) = self.fleet.rollouts.get_mut(&id) else { return };
        (rollout.status, rollout.reason, rollout.ended_at) = (status, reason, self.now);
        self.effects.push(Effect::SaveRollout(id));
        self.effects.push(notice(rollout));
        if !status.offers() {
            // Who waits in vain gets what the others have.
            let waits = rollout.devices.iter().filter(|(_, p)| p.phase == DevicePhase::Pending);
            let waiting: Vec<DeviceId> = waits.map(|(device, _)| device.clone()).collect();
            for device in waiting {
                self.join_rollouts(&device);
            }
        }
    }

    /// Drops the oldest ended rollouts beyond [`MAX_ENDED`] on which nothing depends (invariant 10).
    fn forget_old_rollouts(&mut self) {
        let fleet = &*self.fleet;
        let ended = fleet.rollouts.values().filter(|r| r.status != RolloutStatus::Running).count();
        let Some(surplus) = ended.checked_sub(MAX_ENDED).filter(|n| *n > 0) else { return };
        let mut needed: BTreeSet<RolloutId> =
            fleet.devices.values().flat_map(|d| d.slots.values().map(|a| a.rollout)).collect();
        for rollout in fleet.rollouts.values().filter(|r| r.status == RolloutStatus::Completed) {
            let heir = fleet.rollouts.values().any(|r| {
                r.id > rollout.id && r.status.offers() && r.slot == rollout.slot && r.audience == rollout.audience
            });
            if !heir && !matches!(rollout.audience, Audience::Devices { .. }) {
                needed.insert(rollout.id);
            }
        }
        let idle = |r: &&Rollout| r.status != RolloutStatus::Running && !needed.contains(&r.id);
        let old: Vec<RolloutId> = fleet.rollouts.values().filter(idle).map(|r| r.id).take(surplus).collect();
        for id in old {
            self.fleet.rollouts.remove(&id);
            self.effects.push(Effect::DeleteRollout(id));
        }
    }

    fn is_silent(&self, device: &Device, progress: &Progress) -> bool {
        let heard = device.last_seen.max(progress.since).max(self.fleet.listening_since);
        // A connection that nobody saw end, or a device in a long trial without telemetry.
        let patience = if device.online { 6 * SILENCE_SECONDS } else { SILENCE_SECONDS };
        self.now.saturating_sub(heard) > patience
    }
}

fn notice(rollout: &Rollout) -> Effect {
    Effect::Notify(WatchEvent::Rollout { rollout: rollout.id, status: rollout.status, reason: rollout.reason.clone() })
}
