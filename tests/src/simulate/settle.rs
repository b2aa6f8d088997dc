//! The end: everybody who can be reached has to be where the dispatcher wants them, and both have to know it.

use muster_dispatcher::domain::rollout::{DevicePhase, Part, RolloutStatus};
use muster_proto::code::Code;

use super::agent::{Agent, View};
use super::checks::soak_of;
use super::version::NONE;
use super::world::World;
use super::{EPOCH, fleet};

/// A device counts as reachable if it was connected now and this long ago, in seconds.
const REACHABLE: [u32; 5] = [0, 300, 900, 1800, 3600];
/// How long something may still be under way without being a breach, in seconds.
const PATIENCE: u64 = 3600;

impl<A: Agent> World<A> {
    /// Looks at everything once more.
    pub(super) fn settle(&mut self) {
        for index in 0..self.cloud.rollouts.len() {
            let now = self.now;
            self.checks.recount(&self.cloud.rollouts[index].rollout, now);
            self.settle_silence(index);
        }
        for device in 0..self.fleet.len() {
            if !self.is_reachable(device) || self.cloud.told[device as usize].rollout == 0 {
                continue;
            }
            if let Err(what) = self.settle_device(device) {
                self.checks.breach(self.now, Some(device), what);
            }
        }
        self.settle_waiting();
    }

    fn is_reachable(&self, device: u32) -> bool {
        let there = |ago: &u32| self.presence.is_online(&self.fleet, device, self.now.saturating_sub(*ago));
        self.radio.has_power(device) && REACHABLE.iter().all(there)
    }

    /// Invariant 13: nobody updates without being heard.
    fn settle_silence(&mut self, index: usize) {
        let rollout = &self.cloud.rollouts[index].rollout;
        let now = EPOCH + u64::from(self.now);
        let patience = rollout.plan.silence_seconds() * 6 + PATIENCE;
        let open = rollout.status.offers();
        let lost = |part: &Part| open && part.in_flight() && now.saturating_sub(part.heard.max(part.since)) > patience;
        let lost: Vec<u32> = rollout.parts.iter().filter(|(_, p)| lost(p)).map(|(d, _)| fleet::number(d)).collect();
        for device in lost {
            self.checks.breach(
                self.now,
                Some(device),
                "invariant 13: it was not heard for long and still counts as updating",
            );
        }
    }

    fn settle_device(&self, device: u32) -> Result<(), String> {
        let (told, view) = (self.cloud.told[device as usize], self.agents.view(device));
        let index = usize::from(told.rollout) - 1;
        let managed = &self.cloud.rollouts[index];
        let name = fleet::name(device);
        let part =
            managed.rollout.parts.get(&name).ok_or("it was told something by a rollout that does not know it")?;
        let now = EPOCH + u64::from(self.now);
        let recent = now.saturating_sub(part.since.max(part.started_at)) < PATIENCE;
        if recent {
            return Ok(());
        }
        if view.generation != told.generation {
            let (got, want) = (view.generation, told.generation);
            return Err(format!("invariant 5: it was told generation {want} and is at {got}"));
        }
        if view.is_final() && !view.acknowledged {
            return Err("invariant 9: its outcome was never acknowledged".to_owned());
        }
        if told.is_recall() {
            return self.settle_recalled(told.version, &view, part);
        }
        let waits = matches!(view.code, Some(Code::Held | Code::OutsideWindow | Code::Vetoed));
        let soaks = view.phase == DevicePhase::Active && self.now < view.since + soak_of(&self.terms, &view) + TRIAL;
        if !view.is_final() && !waits && !soaks {
            return Err(format!("invariant 5: it is {:?} since {} and gets no further", view.phase, view.since));
        }
        let agrees = match part.phase {
            DevicePhase::Healthy => view.phase == DevicePhase::Healthy && view.active == managed.version,
            DevicePhase::Failed => view.phase == DevicePhase::Failed || part.code == Some(Code::TimedOut),
            DevicePhase::Refused => view.phase == DevicePhase::Refused,
            _ => true,
        };
        if !agrees {
            return Err(format!("invariant 12: the dispatcher has it as {:?}, it is {:?}", part.phase, view.phase));
        }
        Ok(())
    }

    /// Who was called back runs what it had before, from its own disk, and the dispatcher knows it.
    fn settle_recalled(&self, base: u8, view: &View, part: &Part) -> Result<(), String> {
        if view.active != base || view.phase != DevicePhase::Healthy {
            let (active, phase) = (view.active, view.phase);
            return Err(format!("invariant 5: it was called back to {base} and runs {active}, {phase:?}"));
        }
        if view.fetched > 0 && base != NONE {
            return Err(format!("it fetched {} bytes to go back", view.fetched));
        }
        if part.phase == DevicePhase::Recalling {
            return Err("invariant 9: it has gone back and the dispatcher does not know it".to_owned());
        }
        Ok(())
    }

    /// Invariants 5 and 13: who can be reached gets what is for everyone.
    fn settle_waiting(&mut self) {
        let now = EPOCH + u64::from(self.now);
        let mut left = Vec::new();
        for managed in &self.cloud.rollouts {
            let rollout = &managed.rollout;
            if rollout.status != RolloutStatus::Completed {
                continue;
            }
            let waits = |part: &Part| {
                part.phase == DevicePhase::Waiting
                    && part.blocked.is_none()
                    && now.saturating_sub(part.since) > 2 * PATIENCE
            };
            let devices = rollout.parts.iter().filter(|(_, part)| waits(part)).map(|(device, _)| fleet::number(device));
            left.extend(devices.filter(|device| self.is_reachable(*device)));
        }
        let limited = self.cloud.rollouts.iter().any(|m| m.rollout.plan.rate != Default::default());
        for device in left.into_iter().filter(|_| !limited) {
            self.checks.breach(self.now, Some(device), "invariant 5: the rollout is complete, and it waits");
        }
    }
}

/// How much longer than its soak time a trial may take until it is reported, in seconds.
const TRIAL: u32 = 120;
