//! What rollouts order, carried out on the records of devices.

use std::collections::BTreeSet;

use muster_proto::code::Code;
use muster_proto::desired::Terms;
use muster_proto::id::{DeviceId, Digest, GroupName};
use muster_proto::report::Transfer;

use super::claims::{Hold, hold};
use super::{Denied, Effect, Turn};
use crate::device::Assignment;
use crate::notice::WatchEvent;
use crate::rollout::{self, DevicePhase, Rollout, RolloutId, RolloutStatus, Word};

/// How many ended rollouts are kept, besides those that devices or later members still depend on.
pub(crate) const MAX_ENDED: usize = 500;
/// The trial of a version that a device goes back to, in seconds.
const RECALL_TRIAL_SECONDS: u32 = 30;

impl Turn<'_> {
    pub(super) fn rollout_started(&mut self, rollout: Rollout) {
        let id = rollout.id;
        if self.fleet.rollouts.contains_key(&id) {
            return;
        }
        // Somebody asked for it by name.
        if self.fleet.denied.remove(&rollout.digest).is_some() {
            self.effects.push(Effect::SaveDenied(rollout.digest));
        }
        let mut members = self.fleet.members_of(&rollout);
        let blockers = self.fleet.blockers(&rollout, members.iter().map(|member| &member.device));
        for (member, by) in members.iter_mut().zip(blockers) {
            member.blocked = by;
        }
        self.fleet.rollouts.insert(id, rollout);
        self.tell_rollout(id, rollout::Event::Started(members));
        self.forget_old_rollouts();
    }

    /// Lets a rollout be for another group as well. One that chooses from every device needs no group for that.
    pub(super) fn rollout_extended(&mut self, id: RolloutId, group: &GroupName) {
        let Some(rollout) = self.fleet.rollouts.get_mut(&id) else { return };
        if !rollout.status.is_open() || rollout.plan.target.is_for_all() {
            return;
        }
        let target = &mut rollout.plan.target;
        if !target.groups.insert(group.clone()) {
            return;
        }
        // Where only the devices of the moment were meant, only those of this moment come to them.
        let snapshot = std::mem::replace(&mut target.snapshot, false);
        self.effects.push(Effect::SaveRollout(id));
        let members = self.fleet.groups.get(group).map(|group| self.fleet.members_of_group(group));
        for device in members.unwrap_or_default() {
            self.settle(&device);
        }
        self.drain();
        if let Some(rollout) = self.fleet.rollouts.get_mut(&id) {
            rollout.plan.target.snapshot = snapshot;
        }
    }

    /// Tells one rollout what happened and does what it orders.
    pub(super) fn tell_rollout(&mut self, id: RolloutId, mut event: rollout::Event) {
        let now = self.now;
        let Some(rollout) = self.fleet.rollouts.get(&id) else { return };
        let mut joined = None;
        // Who goes before it may have changed while this was in the queue.
        match &mut event {
            rollout::Event::Joined(member) => {
                member.blocked = self.fleet.blocker(rollout, &member.device);
                joined = Some((member.device.clone(), rollout.slot.clone()));
            }
            rollout::Event::Blocked { device, by } => *by = self.fleet.blocker(rollout, device),
            _ => {}
        }
        let Some(rollout) = self.fleet.rollouts.get_mut(&id) else { return };
        let before = rollout.status;
        let effects = rollout::step(rollout, event, now);
        let after = rollout.status;
        let recalled = |status| matches!(status, RolloutStatus::Recalling | RolloutStatus::Recalled);
        if recalled(after) && !recalled(before) {
            // Before devices are told to go back, so that they are told as well from what. One that nobody has to go
            // back from is over at once.
            self.deny(id);
        }
        for effect in effects {
            match effect {
                rollout::Effect::Offer(device) => self.offer(id, &device),
                rollout::Effect::Recall(device) => self.recall(id, &device),
                rollout::Effect::Save => self.effects.push(Effect::SaveRollout(id)),
                rollout::Effect::SavePart(device) => {
                    self.effects.push(Effect::SaveProgress { rollout: id, device });
                }
                rollout::Effect::Moved(device) => self.moved(id, device),
                rollout::Effect::Decided(decision) => {
                    self.effects.push(Effect::Record { rollout: id, decision: *decision });
                }
            }
        }
        if before != after {
            self.status_changed(id, before);
        }
        if let Some((device, slot)) = joined {
            self.settle_claims(&device, &slot);
        }
    }

    fn moved(&mut self, id: RolloutId, device: DeviceId) {
        let Some(rollout) = self.fleet.rollouts.get(&id) else { return };
        let Some(part) = rollout.parts.get(&device) else { return };
        let slot = rollout.slot.clone();
        let may_free = part.phase == DevicePhase::Waiting || hold(rollout.status, part) != Hold::Everybody;
        self.effects.push(Effect::Notify(WatchEvent::RolloutDevice {
            rollout: id,
            device: device.clone(),
            phase: part.phase,
            code: part.code,
            detail: part.detail.as_deref().unwrap_or_default().to_owned(),
        }));
        if may_free {
            self.settle_claims(&device, &slot);
        }
    }

    fn status_changed(&mut self, id: RolloutId, before: RolloutStatus) {
        let Some(rollout) = self.fleet.rollouts.get(&id) else { return };
        let (status, reason) = (rollout.status, rollout.reason.clone());
        self.effects.push(Effect::Notify(WatchEvent::Rollout { rollout: id, status, reason }));
        self.settle_status(id, before);
    }

    /// Takes a rollout's version off what is offered, in other rollouts as well.
    fn deny(&mut self, id: RolloutId) {
        let Some(rollout) = self.fleet.rollouts.get(&id) else { return };
        let (digest, target, reason) = (rollout.digest, rollout.target.clone(), rollout.reason.clone());
        let denied = Denied { target, rollout: id, reason, at: self.now };
        self.cancel_where(&format!("its version was recalled by {id}"), |r| r.id != id && r.digest == digest);
        self.fleet.denied.insert(digest, denied);
        self.effects.push(Effect::SaveDenied(digest));
    }

    fn offer(&mut self, id: RolloutId, device: &DeviceId) {
        let fleet = &*self.fleet;
        let (Some(rollout), Some(record)) = (fleet.rollouts.get(&id), fleet.devices.get(device)) else { return };
        let Some(part) = rollout.parts.get(device).filter(|part| part.phase.is_updating()) else { return };
        let (slot, mut assignment) = (rollout.slot.clone(), rollout.assignment(part));
        if let Some(current) = record.slots.get(&slot).filter(|current| current.rollout == id) {
            // Whoever goes on with what it holds, on other terms, does not begin again.
            let goes_on = current.digest == assignment.digest
                && current.terms != assignment.terms
                && !record.has_failed(&slot, current);
            let again = part.phase == DevicePhase::Offered && part.since == self.now && !goes_on;
            assignment.attempt = current.attempt.saturating_add(again.into());
            assignment.since = current.since;
            if *current == assignment {
                return;
            }
        } else if let Some(by) = fleet.blocker(rollout, device) {
            let event = rollout::Event::Superseded { device: device.clone(), by };
            return self.queue.push_back((id, event));
        }
        if !assignment.terms.is_none() && record.agent.speaks.0 < 1 {
            let detail = "its agent is too old for the terms of this plan: update the agent";
            return self.refuse(id, device, Code::Incompatible, detail);
        }
        let Some(record) = self.fleet.devices.get_mut(device) else { return };
        if !record.assign(slot.clone(), assignment) {
            return self.refuse(id, device, Code::Conflict, "it has no room for another slot");
        }
        self.send(device);
        // That it failed or refused another one, or went back from it, stays true.
        let loses = |r: &&Rollout| {
            let phase = r.parts.get(device).map(|part| part.phase);
            r.id != id && r.slot == slot && phase.is_some_and(|p| p.may_have_it() || p == DevicePhase::Recalling)
        };
        let others = self.fleet.rollouts.values().filter(loses).map(|r| r.id);
        let superseded = || rollout::Event::Superseded { device: device.clone(), by: id };
        self.queue.extend(others.map(|other| (other, superseded())));
    }

    fn refuse(&mut self, id: RolloutId, device: &DeviceId, code: Code, detail: &str) {
        let (device, detail, transfer) = (device.clone(), detail.to_owned(), Transfer::default());
        let (phase, code) = (DevicePhase::Refused, Some(code));
        self.queue.push_back((id, rollout::Event::Reported { device, phase, code, detail, transfer }));
    }

    /// Names again what the device ran well before, or nothing where it had nothing.
    fn recall(&mut self, id: RolloutId, device: &DeviceId) {
        let fleet = &mut *self.fleet;
        let Some(rollout) = fleet.rollouts.get(&id) else { return };
        let (slot, digest, terms) = (rollout.slot.clone(), rollout.digest, rollout.recall_terms());
        let soaks = rollout.plan.stages.iter().map(|stage| stage.soak.0);
        let trial = soaks.max().map_or(0, |soak| u32::try_from(soak).unwrap_or(u32::MAX));
        let Some(record) = fleet.devices.get_mut(device) else { return };
        let Some(current) = record.slots.get(&slot) else { return self.look_at_emptied(id, device) };
        // Another rollout has the slot by now.
        if current.rollout != id {
            return self.queue.push_back((id, rollout::Event::WentBack(device.clone())));
        }
        let recalled = |other: Digest| fleet.denied.contains_key(&other);
        match record.proven.get(&slot).and_then(|proven| proven.other_than(digest, recalled)).cloned() {
            Some(before) => {
                let terms = if record.agent.speaks.0 < 1 { Terms::default() } else { terms };
                let (attempt, since) = (current.attempt, current.since);
                // It has proved itself before: no longer than a new version has to.
                let trial_seconds = RECALL_TRIAL_SECONDS.min(trial);
                let back = Assignment { rollout: id, trial_seconds, terms, attempt, since, ..before };
                if *current == back {
                    return;
                }
                record.assign(slot, back);
            }
            None => record.unassign(&slot),
        }
        self.send(device);
    }

    /// Stores what a device shall run and tells it.
    fn send(&mut self, device: &DeviceId) {
        self.effects.push(Effect::SaveDevice(device.clone()));
        self.publish(device);
    }

    pub(super) fn cancel_where(&mut self, reason: &str, which: impl Fn(&Rollout) -> bool) {
        let open = self.fleet.rollouts.values().filter(|r| r.status.is_open() && which(r));
        let tell = |r: &Rollout| (r.id, rollout::Event::Told(Word::Cancel(reason.to_owned())));
        self.queue.extend(open.map(tell));
    }

    /// Drops the oldest ended rollouts beyond [`MAX_ENDED`] on which nothing depends (invariant 10).
    fn forget_old_rollouts(&mut self) {
        let fleet = &*self.fleet;
        let ended = fleet.rollouts.values().filter(|r| r.status.has_ended()).count();
        let Some(surplus) = ended.checked_sub(MAX_ENDED).filter(|n| *n > 0) else { return };
        let mut needed: BTreeSet<RolloutId> =
            fleet.devices.values().flat_map(|d| d.slots.values().map(|a| a.rollout)).collect();
        for rollout in fleet.rollouts.values().filter(|r| r.status == RolloutStatus::Completed) {
            let heir = fleet.rollouts.values().any(|r| {
                r.precedence() > rollout.precedence()
                    && r.status.offers()
                    && r.slot == rollout.slot
                    && r.plan.target == rollout.plan.target
            });
            if !heir && !rollout.plan.target.snapshot {
                needed.insert(rollout.id);
            }
        }
        let idle = |r: &&Rollout| r.status.has_ended() && !needed.contains(&r.id);
        let old: Vec<RolloutId> = fleet.rollouts.values().filter(idle).map(|r| r.id).take(surplus).collect();
        for id in old {
            self.fleet.rollouts.remove(&id);
            self.effects.push(Effect::DeleteRollout(id));
        }
    }
}
