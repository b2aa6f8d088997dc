//! Rollouts that want the same slot of a device: the higher (priority, number) goes first. One that is complete stands in
//! the way of older ones only, and one that was recalled or cancelled in nobody's: so nothing is blocked for ever that is
//! not meant to be. The real fleet has to do the same.

use muster_dispatcher::domain::rollout::{DevicePhase, Event, Member, Rollout, RolloutId, RolloutStatus};

use super::cloud::Cloud;
use super::fleet;

impl Cloud {
    /// The rollout that goes before `index` now.
    pub fn blocker(&self, index: usize) -> Option<RolloutId> {
        let own = &self.rollouts[index].rollout;
        let others = self.rollouts.iter().map(|m| &m.rollout).filter(|other| other.id != own.id);
        let before = |other: &&Rollout| {
            let done = other.status == RolloutStatus::Completed && other.id > own.id;
            (done || stands_in_the_way(other.status)) && other.precedence() > own.precedence()
        };
        others.filter(before).max_by_key(|r| r.precedence()).map(|r| r.id)
    }

    /// Tells the others when a rollout has ended, and gives back what it had taken from them.
    pub(super) fn arbitrate(&mut self, index: usize) {
        let managed = &mut self.rollouts[index];
        let (before, status) = (managed.known, managed.rollout.status);
        if before == status {
            return;
        }
        managed.known = status;
        if self.rollouts.len() > 1 {
            self.reblock(index, status);
        }
    }

    /// Lets every other rollout know what stands in its way now.
    pub(super) fn reblock(&mut self, index: usize, status: RolloutStatus) {
        for other in (0..self.rollouts.len()).filter(|other| *other != index) {
            if self.rollouts[other].rollout.status.has_ended() && !self.rollouts[other].rollout.status.offers() {
                continue;
            }
            let by = self.blocker(other);
            let parts: Vec<_> =
                self.rollouts[other].rollout.parts.iter().map(|(d, p)| (d.clone(), p.phase, p.blocked)).collect();
            for (device, phase, blocked) in parts {
                if phase == DevicePhase::Superseded && status == RolloutStatus::Recalled {
                    let member = self.member(&device, by);
                    self.push(other, Event::Joined(member));
                } else if blocked != by.map(|id| id.0) {
                    self.push(other, Event::Blocked { device, by });
                }
            }
        }
    }

    fn member(&self, device: &muster_proto::id::DeviceId, blocked: Option<RolloutId>) -> Member {
        let number = fleet::number(device);
        let part = self.rollouts.iter().find_map(|m| m.rollout.parts.get(device));
        Member {
            device: device.clone(),
            site: "".into(),
            comparable: self.told[number as usize].proven != 0,
            online: part.is_some_and(|part| part.online),
            blocked,
        }
    }
}

fn stands_in_the_way(status: RolloutStatus) -> bool {
    matches!(status, RolloutStatus::Pending | RolloutStatus::Running | RolloutStatus::Paused | RolloutStatus::Recalling)
}
