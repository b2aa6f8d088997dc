//! Which rollout has which slot of which device.
//!
//! Of all that want a slot the one with the highest priority has it, and of equal ones the newest. A rollout that
//! does not offer at present (paused, or waiting for its time) holds nobody up whom it has not begun with, and one that
//! has ended holds nobody up at all, so that nothing is blocked for ever. When it goes on it takes the slot over.

use muster_proto::id::{DeviceId, SlotName};

use super::audience::member;
use super::{Fleet, Turn};
use crate::rollout::{self, DevicePhase, Part, Rollout, RolloutId, RolloutStatus};

/// What a rollout's part in a device's slot means for the rollouts that would come after it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing.
    Nobody,
    /// It was cancelled and left its version there: older rollouts do not undo that, newer ones may.
    Older,
    /// They wait.
    Everybody,
}

/// What a part means while its rollout stands at `status`.
pub(super) fn hold(status: RolloutStatus, part: &Part) -> Hold {
    use DevicePhase::{Excluded, Recalled, Recalling, Refused, Superseded, Waiting};
    match (status, part.phase) {
        (_, Refused | Recalled | Superseded | Excluded) | (RolloutStatus::Recalled, _) => Hold::Nobody,
        (RolloutStatus::Cancelled, phase) if phase.may_have_it() => Hold::Older,
        (RolloutStatus::Cancelled, _) => Hold::Nobody,
        (status, Waiting) if !status.offers() => Hold::Nobody,
        (RolloutStatus::Recalling, phase) if phase != Recalling => Hold::Nobody,
        _ => Hold::Everybody,
    }
}

/// Who goes before the rollouts that are looked at, from the one that goes first on.
#[derive(Default)]
struct Before {
    holder: Option<RolloutId>,
    left: Option<RolloutId>,
}

impl Before {
    /// Who goes before this rollout.
    fn of(&self, id: RolloutId) -> Option<RolloutId> {
        self.holder.or(self.left.filter(|left| *left > id))
    }

    fn then(&mut self, rollout: &Rollout, part: &Part) {
        match hold(rollout.status, part) {
            Hold::Nobody => {}
            Hold::Older => self.left = self.left.max(Some(rollout.id)),
            Hold::Everybody => self.holder = self.holder.or(Some(rollout.id)),
        }
    }
}

impl Fleet {
    /// The rollouts of a slot, in the order in which they go first.
    fn rivals(&self, slot: &SlotName) -> Vec<&Rollout> {
        let mut rivals: Vec<&Rollout> = self.rollouts.values().filter(|r| r.slot == *slot).collect();
        rivals.sort_by_key(|r| std::cmp::Reverse(r.precedence()));
        rivals
    }

    /// For each of `devices` the rollout that goes before `rollout` there.
    pub(super) fn blockers<'d>(
        &self,
        rollout: &Rollout,
        devices: impl Iterator<Item = &'d DeviceId>,
    ) -> Vec<Option<RolloutId>> {
        let mut first = self.rivals(&rollout.slot);
        first.retain(|r| r.precedence() > rollout.precedence());
        let blocker = |device| {
            let mut before = Before::default();
            for rival in &first {
                if let Some(part) = rival.parts.get(device) {
                    before.then(rival, part);
                }
            }
            before.of(rollout.id)
        };
        devices.map(blocker).collect()
    }

    /// The rollout that goes before `rollout` on a device.
    pub(crate) fn blocker(&self, rollout: &Rollout, device: &DeviceId) -> Option<RolloutId> {
        self.blockers(rollout, std::iter::once(device)).pop().flatten()
    }
}

impl Turn<'_> {
    /// Lets a device come to the rollouts that are for it, and leave those that no longer are.
    pub(super) fn settle(&mut self, device: &DeviceId) {
        let fleet = &*self.fleet;
        let Some(record) = fleet.devices.get(device) else { return };
        let mut superseded = Vec::new();
        // Whoever goes first joins first, so that the others find it there.
        let mut open: Vec<&Rollout> = fleet.rollouts.values().filter(|r| r.status.is_open()).collect();
        open.sort_by_key(|r| std::cmp::Reverse(r.precedence()));
        for rollout in open {
            let invited = || fleet.excluded(rollout, record).is_none();
            let event = match rollout.parts.get(device).map(|part| part.phase) {
                None if rollout.plan.target.snapshot => None,
                None | Some(DevicePhase::Excluded) => {
                    invited().then(|| rollout::Event::Joined(member(rollout, record)))
                }
                Some(DevicePhase::Waiting) => (!invited()).then(|| rollout::Event::Left(device.clone())),
                Some(DevicePhase::Superseded) => {
                    superseded.push(rollout.slot.clone());
                    None
                }
                Some(_) => None,
            };
            self.queue.extend(event.map(|event| (rollout.id, event)));
        }
        superseded.dedup();
        for slot in superseded {
            self.settle_claims(device, &slot);
        }
    }

    /// Tells the rollouts that want a device's slot who goes before them, and lets those come back to whom it is free
    /// again.
    pub(super) fn settle_claims(&mut self, device: &DeviceId, slot: &SlotName) {
        let fleet = &*self.fleet;
        let Some(record) = fleet.devices.get(device) else { return };
        let mut before = Before::default();
        for rollout in fleet.rivals(slot) {
            let Some(part) = rollout.parts.get(device) else { continue };
            let by = before.of(rollout.id);
            match part.phase {
                DevicePhase::Superseded
                    if by.is_none() && rollout.status.is_open() && fleet.excluded(rollout, record).is_none() =>
                {
                    let event = rollout::Event::Joined(member(rollout, record));
                    self.queue.push_back((rollout.id, event));
                    // What it holds once it is back is told then.
                    return;
                }
                DevicePhase::Waiting if part.blocked != by.map(|id| id.0) => {
                    self.queue.push_back((rollout.id, rollout::Event::Blocked { device: device.clone(), by }));
                }
                _ => {}
            }
            before.then(rollout, part);
        }
    }

    /// As [`Self::settle_claims`], for every device on which a rollout means something else to others since it came from
    /// the status `was`.
    pub(super) fn settle_status(&mut self, id: RolloutId, was: RolloutStatus) {
        let fleet = &*self.fleet;
        let Some(rollout) = fleet.rollouts.get(&id) else { return };
        let (status, slot) = (rollout.status, rollout.slot.clone());
        // A rollout that begins to hold has nothing to say to those who have given way already.
        let frees = !status.offers();
        let cares =
            |r: &Rollout| r.counts.of(DevicePhase::Waiting) > 0 || (frees && r.counts.of(DevicePhase::Superseded) > 0);
        let after = |r: &&Rollout| r.slot == slot && r.status.is_open() && r.precedence() < rollout.precedence();
        if !fleet.rollouts.values().filter(after).any(cares) {
            return;
        }
        // Who was moved in this very step meant something else as well.
        let means = |part: &Part| part.since == self.now || hold(was, part) != hold(status, part);
        let changed = rollout.parts.iter().filter(|(_, part)| means(part));
        let changed: Vec<DeviceId> = changed.map(|(device, _)| device.clone()).collect();
        for device in &changed {
            self.settle_claims(device, &slot);
        }
    }
}
