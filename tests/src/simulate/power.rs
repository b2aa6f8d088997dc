//! What happens to a device between messages: its transfer, its power, and a version that brings it down.

use super::agent::Agent;
use super::chance::For;
use super::queue::{Item, What};
use super::radio::KEEPALIVE;
use super::scenario::DefectKind;
use super::version::NONE;
use super::world::World;

/// How long a device is without power after a cut, in seconds.
const DARK: u64 = 300;

impl<A: Agent> World<A> {
    /// Goes on with a transfer where it stopped.
    pub(super) fn resume_transfer(&mut self, device: u32) {
        let online = self.is_online(device);
        let link = &mut self.radio.0[device as usize];
        link.fetches = true;
        if online {
            link.epoch = link.epoch.wrapping_add(1);
            let seconds = (f64::from(link.left) * 1024.0 / self.fleet.speed(device)).ceil() as u32;
            self.plan(device, self.now + seconds.max(1), What::Fetched);
        }
    }

    /// Half of what is left has come when a transfer is cut, on average.
    pub(super) fn cut_transfer(&mut self, device: u32) {
        let share = self.chance.unit(For::Delay, device, u64::from(self.now));
        let link = &mut self.radio.0[device as usize];
        if link.fetches {
            let came = (f64::from(link.left) * share) as u32;
            link.left -= came;
            link.epoch = link.epoch.wrapping_add(1);
            self.network.bytes += u64::from(came) * 1024;
        }
    }

    pub(super) fn stop_transfer(&mut self, device: u32) {
        self.cut_transfer(device);
        self.radio.0[device as usize].fetches = false;
    }

    pub(super) fn transfer_ends(&mut self, device: u32, epoch: u16) {
        let link = &mut self.radio.0[device as usize];
        if link.epoch != epoch || !link.fetches || link.dark {
            return;
        }
        self.network.bytes += u64::from(link.left) * 1024;
        if self.network.damages(device, self.now) {
            let wanted = self.agents.view(device);
            self.radio.0[device as usize].left =
                (self.versions.bytes(wanted.wanted, wanted.active != NONE) / 1024) as u32;
            return self.resume_transfer(device);
        }
        link.fetches = false;
        let wanted = self.agents.view(device).wanted;
        self.checks.fetched(device, wanted);
        self.with_agent(device, |agents, env, acts| agents.fetched(device, env, acts));
    }

    pub(super) fn crash(&mut self, device: u32) {
        let view = self.agents.view(device);
        let after = self.versions.defect(&self.fleet, view.active, device, DefectKind::Crash).map(|d| d.after.0 as u32);
        if self.radio.has_power(device) && after.is_some_and(|after| self.now >= view.since + after) {
            self.with_agent(device, |agents, env, acts| agents.crashed(device, env, acts));
        }
    }

    /// A device that begins an update may lose its power within the hour.
    pub(super) fn plan_power_cut(&mut self, device: u32) {
        let rate = self.fleet.spec.faults.power_cuts_per_day;
        if self.luck(For::Power, device, rate / 24.0) {
            let at = self.now + 1 + self.chance.below(For::Power, device, u64::from(self.now) << 1, 3600) as u32;
            self.plan(device, at, What::PowerCut);
        }
    }

    pub(super) fn cut_power(&mut self, device: u32) {
        if !self.radio.has_power(device) || !self.faulty {
            return;
        }
        let was_online = self.is_online(device);
        self.cut_transfer(device);
        self.radio.0[device as usize].dark = true;
        let seconds = 20 + self.chance.below(For::Power, device, u64::from(self.now), DARK) as u32;
        self.queue.plan(self.now + seconds, Item { device, epoch: seconds as u16, what: What::PowerBack });
        if was_online {
            self.plan(device, self.now + KEEPALIVE, What::Will);
        }
    }

    pub(super) fn return_power(&mut self, device: u32, seconds: u32) {
        self.radio.0[device as usize].dark = false;
        self.with_agent(device, |agents, env, acts| agents.power_cut(device, seconds, env, acts));
        if self.is_online(device) {
            self.connects(device);
        }
    }
}
