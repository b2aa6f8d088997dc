//! Everything between a device and the dispatcher: messages, and what is planned of them.
//!
//! A report is read from the agent when it arrives: each one stands for itself and the newest counts, so that one that was
//! overtaken says nothing that the newer one does not.

use muster_dispatcher::domain::rollout::{DevicePhase, Event};
use muster_proto::code::Code;

use super::agent::{Act, Agent, View};
use super::chance::For;
use super::checks::soak_of;
use super::fleet;
use super::presence::SLOT;
use super::queue::{Item, What};
use super::scenario::DefectKind;
use super::telemetry::Chain;
use super::world::World;

/// How long until a message that was not acknowledged is sent again, in seconds; it doubles up to `MOST`.
const AGAIN: u32 = 30;
const MOST: u32 = 900;
/// How long until a report of progress is repeated, in seconds, as the agent does.
const PROGRESS: u32 = 300;
/// How long the broker believes in a connection that is gone, in seconds.
pub(super) const KEEPALIVE: u32 = 45;

/// The state of every device's link and power, 8 bytes each.
#[derive(Debug)]
pub struct Radio(pub(super) Vec<Link>);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    /// KiB that the transfer under way still needs.
    pub left: u32,
    /// Grows with everything that calls off what was planned for the transfer.
    pub epoch: u16,
    /// It has no power.
    pub dark: bool,
    /// A transfer is under way, or waits for a connection.
    pub fetches: bool,
}

impl Radio {
    /// All devices have power and nothing to do.
    pub fn new(devices: u32) -> Self {
        Self(vec![Link::default(); devices as usize])
    }

    /// Whether it has power.
    pub fn has_power(&self, device: u32) -> bool {
        !self.0[device as usize].dark
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Link>()
    }
}

impl<A: Agent> World<A> {
    /// Carries out what an agent wants.
    pub(super) fn act(&mut self, device: u32, view: &View, act: Act) {
        match act {
            Act::Fetch(bytes) => {
                self.radio.0[device as usize].left = (bytes / 1024) as u32;
                self.plan_power_cut(device);
                self.resume_transfer(device);
            }
            Act::GiveUp => self.stop_transfer(device),
            Act::Probe(_) => {}
            Act::Switch { to, .. } => {
                self.switched(device, to, view.wanted);
                let crash = self.versions.defect(&self.fleet, to, device, DefectKind::Crash).map(|d| d.after.0 as u32);
                if let Some(after) = crash {
                    self.plan(device, self.now + after.max(1), What::Crash);
                }
                if view.trial && view.active == to {
                    self.plan_window(device, Chain::Trial);
                }
            }
            Act::Wake(at) => self.plan(device, at, What::Wake),
            Act::Report => {
                if view.code == Some(Code::Held) {
                    self.plan_window(device, Chain::Shadow);
                }
                self.send_report(device, view.is_final());
            }
        }
    }

    pub(super) fn plan(&mut self, device: u32, at: u32, what: What) {
        let epoch = self.radio.0[device as usize].epoch;
        self.queue.plan(at, Item { device, epoch, what });
    }

    /// What was planned happens.
    pub(super) fn take(&mut self, item: Item) {
        let device = item.device;
        match item.what {
            What::Deliver => self.deliver(device),
            What::Replay => self.replay(device, item.epoch),
            What::Resend => {
                let told = self.cloud.told[device as usize];
                if told.accepted < told.generation && self.is_online(device) && self.cloud.is_up() {
                    self.cloud.outbox.push(device);
                }
            }
            What::Fetched => self.transfer_ends(device, item.epoch),
            What::Wake if self.radio.has_power(device) => {
                self.with_agent(device, |a, env, acts| a.tick(device, env, acts))
            }
            What::Wake => {}
            What::Crash => self.crash(device),
            What::PowerCut => self.cut_power(device),
            What::PowerBack => self.return_power(device, u32::from(item.epoch)),
            What::Arrive => self.arrive(device),
            What::Repeat => {
                let view = self.agents.view(device);
                if !self.is_acknowledged(device, &view) && self.is_online(device) {
                    self.send_report(device, view.is_final());
                }
            }
            What::Ack if self.is_online(device) => {
                let generation = self.cloud.told[device as usize].accepted;
                self.with_agent(device, |a, env, acts| a.heard(device, generation, env, acts));
            }
            What::Ack => {}
            What::Window => self.window_closes(device, item.epoch),
            What::Beat => self.beat(device, item.epoch),
            What::Will if !self.is_online(device) => self.cloud.push_all(&Event::Offline(fleet::name(device))),
            What::Will => {}
        }
    }

    /// Sends every desired state that waits to be sent.
    pub(super) fn send_desired(&mut self) {
        for device in std::mem::take(&mut self.cloud.outbox) {
            if !self.is_online(device) {
                continue;
            }
            let fate = self.network.send(device, self.now);
            fate.first.into_iter().chain(fate.second).for_each(|at| self.plan(device, at, What::Deliver));
            self.plan(device, self.now + AGAIN + AGAIN, What::Resend);
        }
    }

    fn deliver(&mut self, device: u32) {
        let told = self.cloud.told[device as usize];
        // Offline meanwhile, or without the root that the new key needs: both hear it later.
        if told.generation == 0 || !self.is_online(device) || !self.has_root(device) {
            return;
        }
        self.tell(device, told.desired());
        if self.luck(For::Replay, device, self.fleet.spec.faults.replays) {
            let back = (told.generation.min(3)) as u16;
            let at = self.now + 1 + self.chance.below(For::Delay, device, 9, 7200) as u32;
            self.queue.plan(at, Item { device, epoch: back, what: What::Replay });
        }
    }

    fn tell(&mut self, device: u32, desired: super::desired::Desired) {
        let before = self.agents.view(device);
        self.with_agent(device, |agents, env, acts| agents.told(device, desired, env, acts));
        let after = self.agents.view(device);
        self.checks.told(device, desired.generation, &before, &after, self.now);
        if after.generation != before.generation {
            self.plan_beat(device, &after);
        }
    }

    /// An old desired state: of a generation before, with other content.
    fn replay(&mut self, device: u32, back: u16) {
        if self.is_online(device) {
            let mut old = self.cloud.told[device as usize].desired();
            old.generation = old.generation.saturating_sub(u32::from(back));
            old.version = old.version.saturating_sub(1).max(1);
            let seen = self.agents.view(device).generation;
            if old.generation < seen {
                // What is due anyhow is not what the old one changes.
                self.with_agent(device, |agents, env, acts| agents.tick(device, env, acts));
                self.tell(device, old);
            }
        }
    }

    pub(super) fn send_report(&mut self, device: u32, is_final: bool) {
        if !self.is_online(device) {
            return;
        }
        let fate = self.network.send(device, self.now);
        fate.first.into_iter().chain(fate.second).for_each(|at| self.plan(device, at, What::Arrive));
        if !is_final {
            self.plan(device, self.now + PROGRESS, What::Repeat);
        } else {
            let waited = self.now.saturating_sub(self.agents.view(device).since).clamp(AGAIN, MOST);
            self.plan(device, self.now + waited, What::Repeat);
        }
    }

    /// Whether its last report was acknowledged. Acknowledgements of mere progress are not sent one by one here.
    fn is_acknowledged(&self, device: u32, view: &View) -> bool {
        let told = &self.cloud.told[device as usize];
        let heard = told.generation != view.generation || told.acknowledged == view.phase as u8;
        if view.is_final() { view.acknowledged } else { heard }
    }

    fn arrive(&mut self, device: u32) {
        if !self.cloud.is_up() {
            return;
        }
        let view = self.agents.view(device);
        if view.is_final() && view.phase == DevicePhase::Healthy && view.rollout > 0 {
            let recall = self.cloud.told[device as usize].is_recall();
            self.checks.healthy(device, &view, soak_of(&self.terms, &view), recall, self.now);
        }
        if self.stale_takes(device, &view) {
            return;
        }
        self.cloud.reported(device, &view);
        self.let_cloud_work();
        if self.network.messages.is_multiple_of(16) {
            self.report_twice(device, &view);
        }
        // A report is acknowledged when it is stored, and not by one who died over it.
        if !self.cloud.is_up() {
            return;
        }
        let told = &mut self.cloud.told[device as usize];
        if told.generation == view.generation {
            told.acknowledged = view.phase as u8;
        }
        if !view.is_final() {
            self.network.messages += 1;
        } else {
            let fate = self.network.send(device, self.now);
            fate.first.into_iter().for_each(|at| self.plan(device, at, What::Ack));
        }
    }

    /// The same report once more, at once (invariant 6).
    fn report_twice(&mut self, device: u32, view: &View) {
        let name = fleet::name(device);
        let phase = |world: &Self| {
            let index = usize::from(view.rollout).checked_sub(1)?;
            world.cloud.rollouts.get(index)?.rollout.parts.get(&name).map(|part| part.phase)
        };
        let before = phase(self);
        // A failure that is tried again is offered anew: then the second report is of an older generation.
        let told = self.cloud.told[device as usize];
        if told.generation == view.generation && self.cloud.is_up() {
            self.cloud.reported(device, view);
            self.let_cloud_work();
            self.checks.twice(device, before, phase(self), self.now);
        }
    }

    /// Devices come and go with their patterns.
    pub(super) fn change_presence(&mut self) {
        let mut changes = Vec::new();
        self.presence.changes(self.now, |device, online| changes.push((device, online)));
        for (device, online) in changes {
            if !online {
                self.with_agent(device, |a, env, acts| a.linked(device, false, env, acts));
                self.cut_transfer(device);
                self.plan(device, self.now + KEEPALIVE, What::Will);
                continue;
            }
            if self.presence.joins_later(&self.fleet, device) {
                self.join(device);
            }
            if self.radio.has_power(device) {
                self.connects(device);
            }
        }
        if self.now.is_multiple_of(SLOT) {
            self.let_cloud_work();
        }
    }

    fn join(&mut self, device: u32) {
        for index in 0..self.cloud.rollouts.len() {
            if !self.versions.fits(&self.fleet, self.cloud.rollouts[index].version, device) {
                continue;
            }
            let blocked = self.cloud.blocker(index);
            let member = self.member(device, blocked);
            self.cloud.push(index, Event::Joined(member));
        }
    }

    /// Hello: the device is told its desired state again, says what was not acknowledged, and goes on fetching.
    pub(super) fn connects(&mut self, device: u32) {
        self.network.messages += 1;
        if self.cloud.is_up() {
            self.cloud.push_all(&Event::Online(fleet::name(device)));
            if self.cloud.told[device as usize].generation > 0 {
                self.cloud.outbox.push(device);
            }
        }
        self.with_agent(device, |a, env, acts| a.linked(device, true, env, acts));
        let view = self.agents.view(device);
        if view.generation > 0 && (!view.is_final() || !view.acknowledged) {
            self.send_report(device, view.is_final());
        }
        if self.radio.0[device as usize].fetches {
            self.resume_transfer(device);
        }
    }
}
