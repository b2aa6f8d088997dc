//! A dispatcher that dies, and replicas that change the lease. What goes on is what was stored: the rollout as of its last
//! `Save`, each part as of its last `SavePart`; desired states as of when they were told.
//!
//! What a new replica has to do by itself: fill in who is connected and what blocks whom, and give every device the
//! desired state that its part calls for, because the old one may have died between storing a part and telling its device.

use muster_dispatcher::domain::rollout::{DevicePhase, Effect, Event, Part, Rollout, RolloutStatus, step};
use muster_proto::code::Code;
use muster_proto::id::DeviceId;

use super::cloud::Cloud;
use super::{EPOCH, fleet};

/// The most deaths at decisions of one world.
const MOST_DEATHS: u32 = 200;

/// A replica that has lost its lease and does not know it yet.
#[derive(Debug)]
pub struct Stale {
    /// The rollout as it last knew it.
    pub rollout: Rollout,
    /// Its place.
    pub index: usize,
    /// Its token.
    pub token: u64,
    /// Until when it goes on, in seconds since the world began.
    pub until: u32,
}

impl Stale {
    /// Takes an event as if it still had the lease. Says how many writes were refused; anything that was not is a
    /// breach.
    pub fn take(&mut self, event: Event, now: u32, cloud: &mut Cloud) -> Result<u64, String> {
        let store = &mut cloud.rollouts[self.index].store;
        let mut refused = 0;
        for effect in step(&mut self.rollout, event, EPOCH + u64::from(now)) {
            // An effect is carried out after its step was stored, so that none is that was refused.
            if matches!(effect, Effect::Save | Effect::SavePart(_)) {
                if store.admits(self.token) {
                    return Err("a replica that had lost its lease could write".to_owned());
                }
                refused += 1;
            }
        }
        Ok(refused)
    }
}

impl Cloud {
    /// Lets the dispatcher die soon: just before or just after it stores something, as `before` says.
    pub fn die_soon(&mut self, before: bool, saves: u32) {
        match self.rollouts.first_mut().filter(|_| before) {
            Some(managed) => managed.dies_in = Some(saves.max(1)),
            None => self.dies_now = true,
        }
    }

    /// Every other death is before the store, where there is anything in the store to go on with.
    pub(super) fn may_die_at_decision(&self, index: usize, before: bool) -> bool {
        let turn = self.crashes % 2 == u32::from(before);
        turn && self.crashes < MOST_DEATHS && (!before || self.rollouts[index].store.has_rollout())
    }

    /// Starts again, or on another replica: loads every rollout and sets right what was not carried out. Rollouts that did
    /// not die in the middle of anything were stored with their last step.
    pub fn restart(&mut self, now: u32, online: impl Fn(u32) -> bool) -> Result<(), String> {
        self.dead = false;
        for index in 0..self.rollouts.len() {
            let managed = &mut self.rollouts[index];
            if self.lost != Some(index) {
                managed.store.save(&managed.rollout);
            }
            managed.dies_in = None;
            // What the dead one held is gone before the new one takes memory for the same.
            managed.rollout = managed.rollout.without_parts();
            managed.rollout = managed.store.load(|device, part: &mut Part| part.online = online(device))?;
        }
        self.lost = None;
        for index in 0..self.rollouts.len() {
            let by = self.blocker(index).map(|id| id.0);
            let rollout = &mut self.rollouts[index].rollout;
            rollout.parts.values_mut().for_each(|part| part.blocked = by);
            rollout.rebuild(EPOCH + u64::from(now));
            self.reconcile(index);
        }
        // What was told and never sent, or sent and never heard.
        let unheard = self.told.iter().enumerate().filter(|(_, told)| told.accepted < told.generation);
        self.outbox.extend(unheard.map(|(device, _)| device as u32));
        Ok(())
    }

    /// Gives every device the desired state that its part calls for.
    fn reconcile(&mut self, index: usize) {
        let rollout = &self.rollouts[index].rollout;
        // Of two rollouts that both believe to have the slot, the one that offered last has it.
        let taken_by = |device: &DeviceId, owner: u8, started_at: u64| {
            let owner = self.rollouts.get(usize::from(owner).checked_sub(1)?)?;
            let part = owner.rollout.parts.get(device)?;
            (part.phase.has_started() && part.started_at > started_at).then_some(owner.rollout.id)
        };
        let back = matches!(rollout.status, RolloutStatus::Recalling | RolloutStatus::Recalled);
        let urgent = rollout.urgent;
        let (mut offers, mut recalls, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for (device, part) in &rollout.parts {
            let told = &self.told[fleet::number(device) as usize];
            let mine = usize::from(told.rollout) == index + 1;
            let offered = part.phase.is_updating() || matches!(part.phase, DevicePhase::Healthy | DevicePhase::Silent);
            if !mine
                && part.phase.has_started()
                && let Some(by) = taken_by(device, told.rollout, part.started_at)
            {
                lost.push(Event::Superseded { device: device.clone(), by });
                continue;
            }
            let terms = told.is_held() == part.held && told.stage == part.stage;
            if offered && (!mine || told.is_recall() || !terms) {
                offers.push(device.clone());
            }
            let went = matches!(part.phase, DevicePhase::Recalling | DevicePhase::Recalled);
            let failed = part.phase == DevicePhase::Failed && (back || part.code == Some(Code::TimedOut));
            if mine && (went || failed) && (!told.is_recall() || (urgent && went)) {
                recalls.push(device.clone());
            }
        }
        lost.into_iter().for_each(|event| self.push(index, event));
        offers.iter().for_each(|device| self.offer(index, device));
        recalls.iter().for_each(|device| self.recall(index, device));
    }

    /// Gives a rollout's lease to another replica, which loads it. What the old one holds is returned.
    pub fn change_lease(&mut self, index: usize, now: u32, online: impl Fn(u32) -> bool) -> Result<Stale, String> {
        let managed = &mut self.rollouts[index];
        let (rollout, token) = (managed.rollout.clone(), managed.token);
        managed.store.save(&managed.rollout);
        managed.token = managed.store.take_over();
        let managed = &mut self.rollouts[index];
        managed.rollout = managed.store.load(|device, part: &mut Part| part.online = online(device))?;
        let by = self.blocker(index).map(|id| id.0);
        let rollout_now = &mut self.rollouts[index].rollout;
        rollout_now.parts.values_mut().for_each(|part| part.blocked = by);
        rollout_now.rebuild(EPOCH + u64::from(now));
        self.reconcile(index);
        Ok(Stale { rollout, index, token, until: now + 60 })
    }
}
