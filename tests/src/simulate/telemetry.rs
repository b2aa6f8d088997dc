//! Which windows of which devices come to a rollout: those of devices on trial, of devices that run a shadow, and of a few
//! that have not switched.

use muster_dispatcher::domain::rollout::{DevicePhase, Event};

use super::agent::{Agent, View};
use super::chance::For;
use super::checks::soak_of;
use super::queue::{Item, What};
use super::version::NONE;
use super::world::World;
use super::{figures, fleet};

/// Why a device's windows are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// A new version is on trial.
    Trial = 0,
    /// A held version runs as a shadow.
    Shadow = 1,
}

/// The windows that a trial is divided into at least; the engine counts no more readings than these of one device.
const PER_TRIAL: u32 = 4;

impl<A: Agent> World<A> {
    /// Plans the end of the next window.
    pub(super) fn plan_window(&mut self, device: u32, chain: Chain) {
        let seen = chain == Chain::Shadow || self.chance.is(For::Figures, device, 0, self.fleet.spec.figures);
        if !seen {
            return;
        }
        let window = self.fleet.spec.window.0 as u32;
        let view = self.agents.view(device);
        let span = match chain {
            Chain::Trial => (soak_of(&self.terms, &view) / PER_TRIAL).max(window),
            Chain::Shadow => window,
        };
        self.queue.plan(self.now + span.max(1), Item { device, epoch: chain as u16, what: What::Window });
    }

    /// A window of a device has closed.
    pub(super) fn window_closes(&mut self, device: u32, chain: u16) {
        let view = self.agents.view(device);
        let Some(index) = usize::from(view.rollout).checked_sub(1) else { return };
        let version = self.cloud.rollouts[index].version;
        let age = self.now.saturating_sub(view.since);
        let window = self.fleet.spec.window.0 as u32;
        let env = self.env();
        let (chain, reading) = if chain == Chain::Shadow as u16 {
            let stage = self.cloud.rollouts[index].rollout.plan.stages.get(usize::from(view.stage));
            let shadows = stage.is_some_and(|stage| stage.shadow.is_some());
            if view.phase != DevicePhase::Staged || !shadows || view.active == NONE {
                return;
            }
            (Chain::Shadow, figures::shadowed(&env, device, view.active, view.wanted))
        } else {
            let follows = view.trial || age <= soak_of(&self.terms, &view) + window;
            if view.active != version || !follows {
                return;
            }
            (Chain::Trial, figures::reading(&env, device, view.active, age))
        };
        let usual = figures::usual(&env, device, self.cloud.told[device as usize].base);
        self.plan_window(device, chain);
        if self.is_online(device) && self.network.send(device, self.now).first.is_some() && self.cloud.is_up() {
            let event = Event::Measured {
                device: fleet::name(device),
                of_this: view.active == version,
                reading: Box::new(reading),
                usual,
            };
            self.cloud.push(index, event);
        }
    }

    /// Signs of life of a device that is updating. In truth each window is one; as many as make a difference are made here:
    /// a connected device is believed for six leases.
    pub(super) fn plan_beat(&mut self, device: u32, view: &View) {
        let managed = usize::from(view.rollout).checked_sub(1).and_then(|index| self.cloud.rollouts.get(index));
        if let Some(managed) = managed.filter(|_| !view.is_final()) {
            let lease = managed.rollout.plan.silence_seconds() as u32;
            let epoch = view.generation as u16;
            self.queue.plan(self.now + 2 * lease, Item { device, epoch, what: What::Beat });
        }
    }

    /// Time for a sign of life, if the device is still at the desired state for which it was planned.
    pub(super) fn beat(&mut self, device: u32, epoch: u16) {
        let view = self.agents.view(device);
        if view.generation as u16 != epoch {
            return;
        }
        if self.is_online(device) && self.network.send(device, self.now).first.is_some() && self.cloud.is_up() {
            self.cloud.push(usize::from(view.rollout) - 1, Event::Heard(fleet::name(device)));
        }
        self.plan_beat(device, &view);
    }

    /// Windows of a few devices that have not been offered the version.
    pub(super) fn send_telemetry(&mut self) {
        let window = (self.fleet.spec.window.0 as u32).max(1);
        if self.now % window >= super::world::TICK {
            return;
        }
        for index in 0..self.cloud.rollouts.len() {
            if !self.cloud.rollouts[index].rollout.status.offers() {
                continue;
            }
            for i in 0..self.fleet.spec.controls {
                let salt = u64::from(self.now) << 20 | u64::from(i) << 8 | index as u64;
                let device = self.chance.below(For::Control, 0, salt, u64::from(self.fleet.len())) as u32;
                let view = self.agents.view(device);
                if usize::from(self.cloud.told[device as usize].rollout) == index + 1 || !self.is_online(device) {
                    continue;
                }
                if view.active == NONE || view.trial {
                    continue;
                }
                self.network.messages += 1;
                let env = self.env();
                let event = Event::Measured {
                    device: fleet::name(device),
                    of_this: false,
                    reading: Box::new(figures::reading(&env, device, view.active, u32::MAX)),
                    usual: figures::usual(&env, device, view.active),
                };
                self.cloud.push(index, event);
            }
        }
    }
}
