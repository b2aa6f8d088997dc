//! What people and misfortune do to the dispatcher: words, crashes, lease changes, and a rotated director key.

use muster_dispatcher::domain::rollout::{Approved, Event, Word};
use muster_proto::report::Transfer;

use super::agent::{Agent, View};
use super::chance::For;
use super::scenario::Say;
use super::world::World;
use super::{EPOCH, fleet};

/// A lease changes hands in worlds of up to so many devices only: two replicas hold everything twice.
const MOST_TWICE: u32 = 100_000;

impl<A: Agent> World<A> {
    /// Says what is due to be said.
    pub(super) fn say_words(&mut self) {
        while let Some(word) = self.scenario.words.get(self.words_said) {
            let index = usize::from(word.rollout) - 1;
            if word.at.0 > u64::from(self.now) || index >= self.cloud.rollouts.len() {
                return;
            }
            let at = EPOCH + u64::from(self.now);
            let reason = || "an operator's word".to_owned();
            let said = match word.say {
                Say::Pause => Word::Pause(reason()),
                Say::Resume => Word::Resume,
                Say::Recall => Word::Recall { now: false, reason: reason() },
                Say::RecallNow => Word::Recall { now: true, reason: reason() },
                Say::Cancel => Word::Cancel(reason()),
                Say::Approve => Word::Approve(Approved { by: word.by.clone(), at, key: None, signature: None }),
                Say::Skip => Word::Skip(reason()),
                Say::Retry => Word::Retry(Vec::new()),
                Say::Release => Word::Release,
            };
            self.cloud.push(index, Event::Told(said));
            self.let_cloud_work();
            if !self.cloud.is_up() {
                // Who got no answer says it again.
                return;
            }
            self.words_said += 1;
        }
    }

    /// Lets the dispatcher die, start again, or lose its lease, as planned.
    pub(super) fn trouble_the_dispatcher(&mut self) {
        if self.cloud.dead && self.now >= self.cloud.down_until {
            let online: Vec<bool> = (0..self.fleet.len()).map(|d| self.is_online(d)).collect();
            if let Err(what) = self.cloud.restart(self.now, |d| online[d as usize]) {
                self.checks.breach(self.now, None, format!("the dispatcher cannot go on: {what}"));
            }
            self.let_cloud_work();
        }
        if !self.cloud.is_up() || self.cloud.rollouts.is_empty() {
            return;
        }
        let dispatcher = &self.scenario.dispatcher;
        if dispatcher.crashes.get(self.crashes_done).is_some_and(|at| at.0 <= u64::from(self.now)) {
            self.crashes_done += 1;
            let count = self.crashes_done;
            let saves = 1 + self.chance.below(For::Crash, 0, count as u64, 5) as u32;
            return self.cloud.die_soon(count % 2 == 1, saves);
        }
        if dispatcher.lease_changes.get(self.leases_done).is_some_and(|at| at.0 <= u64::from(self.now)) {
            self.leases_done += 1;
            if self.fleet.len() > MOST_TWICE {
                return;
            }
            let online: Vec<bool> = (0..self.fleet.len()).map(|d| self.is_online(d)).collect();
            match self.cloud.change_lease(0, self.now, |d| online[d as usize]) {
                Ok(stale) => self.stale = Some(stale),
                Err(what) => self.checks.breach(self.now, None, format!("the lease cannot change: {what}")),
            }
        }
        if let Some(mut stale) = self.stale.take().filter(|stale| self.now < stale.until) {
            self.let_stale_take(&mut stale, Event::Ticked);
            self.stale = Some(stale);
        }
    }

    /// Half of the reports go to the replica that has lost its lease, where there is one: to the others they are lost.
    pub(super) fn stale_takes(&mut self, device: u32, view: &View) -> bool {
        let Some(mut stale) = self.stale.take() else { return false };
        let takes = self.now < stale.until && self.chance.is(For::Crash, device, u64::from(self.now), 0.5);
        if takes {
            let event = Event::Reported {
                device: fleet::name(device),
                phase: view.phase,
                code: view.code,
                detail: String::new(),
                transfer: Transfer::default(),
            };
            self.let_stale_take(&mut stale, event);
        }
        if self.now < stale.until {
            self.stale = Some(stale);
        }
        takes
    }

    fn let_stale_take(&mut self, stale: &mut super::crash::Stale, event: Event) {
        if let Err(what) = stale.take(event, self.now, &mut self.cloud) {
            self.checks.breach(self.now, None, what);
        }
    }

    /// Whether the device has the root that names the director's key of now. If not, it asks for it, and believes
    /// nothing until it has come; the desired state is sent again later.
    pub(super) fn has_root(&mut self, device: u32) -> bool {
        let rotated = self.scenario.dispatcher.rotate_key.is_some_and(|at| at.0 <= u64::from(self.now));
        let (word, bit) = (device as usize / 64, 1 << (device % 64));
        if !rotated || self.rooted[word] & bit != 0 {
            return true;
        }
        self.network.messages += 1;
        if self.network.send(device, self.now).first.is_some() {
            self.rooted[word] |= bit;
        }
        false
    }
}
