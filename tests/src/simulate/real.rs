//! The real agent core behind [`Agent`]: devices that run `muster_agent::core::step`, with real signed metadata and real
//! signed desired states, in the same world as the compact ones.
//!
//! What is real: the core, its durable record, its verifiers, the signatures. What is modelled: how long a transfer of a
//! bundle takes (the world says when it is through; the bundle's stand-in then comes chunk by chunk, at once), the engine,
//! and the messages with which devices report, which the world counts and delivers. Metadata and manifests come at once,
//! where there is a connection.
//!
//! `watch` looks at every effect, `takeover` lets a dispatcher that has been taken over try its worst now and then.

mod bundles;
mod device;
mod disk;
mod source;
mod takeover;
mod view;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::agent::{Act, Agent, Env, View};
use super::chance::{Chance, For};
use super::compact::Compact;
use super::desired::Desired;
use super::fleet::Fleet;
use super::scenario::Scenario;
use super::version::Versions;
pub use bundles::Bundles;
use device::Device;
pub use device::windows;

/// How often a dispatcher that was taken over tries its worst at a device that was just told something.
const TAKEOVERS: f64 = 0.05;

/// Which devices run the real core.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// So many, spread over the fleet, but no more than there are.
    Devices(u32),
    /// This share of them.
    Part(f64),
}

impl Default for Share {
    fn default() -> Self {
        Self::Devices(50)
    }
}

impl Share {
    fn of(self, devices: u32) -> u32 {
        match self {
            Share::Devices(count) => count.min(devices),
            Share::Part(part) => (f64::from(devices) * part.clamp(0.0, 1.0)).round() as u32,
        }
    }
}

/// All agents: compact ones, and real cores in the place of some of them.
pub struct Agents {
    compact: Compact,
    cores: HashMap<u32, Box<Device>>,
    bundles: Bundles,
    breaches: Vec<(u32, String)>,
}

impl Agents {
    /// Agents that run the first version, or nothing where the fleet says so.
    pub fn new(fleet: &Fleet, scenario: &Scenario, share: Share, chance: Chance) -> Self {
        let bundles = Bundles::new(&scenario.versions);
        let count = share.of(fleet.len());
        let versions = Versions::new(&scenario.versions, fleet, chance);
        let place = |i: u32| (u64::from(i) * u64::from(fleet.len()) / u64::from(count.max(1))) as u32;
        let mut breaches = Vec::new();
        let env = Env { now: 0, fleet, versions: &versions, terms: &[], chance, faulty: false };
        let made = (0..count).map(place).map(|device| (device, Box::new(Device::new(device, &bundles, &env))));
        let mut cores: HashMap<_, _> = made.collect();
        cores.iter_mut().for_each(|(number, device)| device.drain_breaches(*number, &mut breaches));
        Self { compact: Compact::new(fleet), cores, bundles, breaches }
    }

    fn with(&mut self, number: u32, happen: impl FnOnce(&mut Device, &Bundles)) -> bool {
        let Some(device) = self.cores.get_mut(&number) else { return false };
        happen(device, &self.bundles);
        device.drain_breaches(number, &mut self.breaches);
        true
    }
}

impl Agent for Agents {
    fn told(&mut self, device: u32, desired: Desired, env: &Env, acts: &mut Vec<Act>) {
        let real = self.with(device, |core, bundles| {
            core.told(desired, bundles, env, acts);
            if env.chance.is(For::Takeover, device, u64::from(desired.generation), TAKEOVERS)
                && let Err(what) = takeover::attempt(core, bundles, env)
            {
                core.watch.breach(what);
            }
        });
        if !real {
            self.compact.told(device, desired, env, acts);
        }
    }

    fn fetched(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        if !self.with(device, |core, bundles| core.fetched(bundles, env, acts)) {
            self.compact.fetched(device, env, acts);
        }
    }

    fn tick(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        if !self.with(device, |core, bundles| core.tick(bundles, env, acts)) {
            self.compact.tick(device, env, acts);
        }
    }

    fn crashed(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>) {
        if !self.with(device, |core, bundles| core.crashed(bundles, env, acts)) {
            self.compact.crashed(device, env, acts);
        }
    }

    fn power_cut(&mut self, device: u32, seconds: u32, env: &Env, acts: &mut Vec<Act>) {
        if !self.with(device, |core, bundles| core.power_cut(bundles, env, acts)) {
            self.compact.power_cut(device, seconds, env, acts);
        }
    }

    fn heard(&mut self, device: u32, generation: u32, env: &Env, acts: &mut Vec<Act>) {
        if !self.with(device, |core, bundles| core.heard(generation, bundles, env, acts)) {
            self.compact.heard(device, generation, env, acts);
        }
    }

    fn linked(&mut self, device: u32, up: bool, env: &Env, acts: &mut Vec<Act>) {
        self.with(device, |core, bundles| core.linked(up, bundles, env, acts));
    }

    fn view(&self, device: u32) -> View {
        self.cores.get(&device).map_or_else(|| self.compact.view(device), |core| core.view(&self.bundles))
    }

    fn bytes(&self) -> usize {
        self.compact.bytes() + self.cores.capacity() * size_of::<(u32, Box<Device>)>()
    }

    fn real(&self) -> usize {
        self.cores.len()
    }

    fn breaches(&mut self) -> Vec<(u32, String)> {
        std::mem::take(&mut self.breaches)
    }
}
