//! What came of a world, for people and for machines, and held against what was expected.

use std::fmt::Write;

use muster_dispatcher::domain::rollout::units::Span;
use muster_dispatcher::domain::rollout::{Decision, DevicePhase, RolloutStatus};
use serde::Serialize;

use super::agent::Agent;
use super::checks::Breach;
use super::fleet::Fleet;
use super::memory;
use super::scenario::Expect;
use super::world::World;

/// What came of a world.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Which engine.
    pub engine: String,
    /// The seed.
    pub seed: u64,
    /// How many devices there were.
    pub devices: u32,
    /// How long it took to compute.
    pub seconds: f64,
    /// Processor time of it, on a machine that others use as well.
    pub cpu_seconds: f64,
    /// Devices with the real agent core.
    pub cores: usize,
    /// Growth of resident memory at its highest, per device.
    pub bytes_per_device: u64,
    /// The same, only looked at once an hour of virtual time.
    pub hourly_bytes_per_device: u64,
    /// What the simulator's own tables take of it, by own counting, without the engine.
    pub own_bytes_per_device: u64,
    /// Devices on which something bad for them answered, or nothing any more.
    pub harmed: u32,
    /// Devices that proved the newest version.
    pub healthy: u32,
    /// Devices that went back.
    pub recalled: u32,
    /// Messages.
    pub messages: u64,
    /// Of those, lost ones.
    pub lost: u64,
    /// Bytes of bundles.
    pub bytes: u64,
    /// When the last rollout had ended or paused, in seconds of virtual time; none where that never was.
    pub finished_at: Option<u32>,
    /// Steps of the engine.
    pub steps: u64,
    /// How often the dispatcher died.
    pub crashes: u32,
    /// Writes of stale replicas that were refused.
    pub refused_writes: u64,
    /// Checks that were made.
    pub checks: u64,
    /// Invariants that did not hold.
    pub breaches: u64,
    /// The first ones.
    pub first_breaches: Vec<Breach>,
    /// How each rollout stands.
    pub status: Vec<RolloutStatus>,
    /// Why.
    pub reasons: Vec<String>,
    /// How many devices are in each phase, per rollout.
    pub phases: Vec<Vec<(DevicePhase, u32)>>,
    /// What was decided, per rollout, at which second of virtual time.
    #[serde(skip)]
    pub decisions: Vec<Vec<(u32, Decision)>>,
}

impl Outcome {
    /// What came of `world`, which took `seconds`; `before` was resident at the start.
    pub fn of<A: Agent>(world: &World<A>, seed: u64, seconds: f64, before: u64) -> Self {
        let devices = world.fleet.len();
        let per_device = |bytes: u64| bytes / u64::from(devices.max(1));
        let rollouts = &world.cloud.rollouts;
        let own = world.agents.bytes() + world.radio.bytes() + world.cloud.bytes() + world.checks.bytes();
        let own = own + world.presence.bytes() + Fleet::bytes_per_device() * devices as usize;
        let phases = |m: &super::cloud::Managed| {
            let counted = DevicePhase::ALL.into_iter().map(|phase| (phase, m.rollout.counts.of(phase)));
            counted.filter(|(_, count)| *count > 0).collect::<Vec<_>>()
        };
        Self {
            engine: "muster".to_owned(),
            seed,
            devices,
            seconds,
            cpu_seconds: 0.0,
            cores: world.agents.real(),
            bytes_per_device: per_device(memory::peak().saturating_sub(before)),
            hourly_bytes_per_device: per_device(world.resident.saturating_sub(before)),
            own_bytes_per_device: per_device(own as u64),
            harmed: world.harmed(),
            healthy: world.healthy(),
            recalled: rollouts.iter().map(|m| m.rollout.counts.of(DevicePhase::Recalled)).sum(),
            messages: world.network.messages,
            lost: world.network.lost,
            bytes: world.network.bytes,
            finished_at: world.over_at,
            steps: world.cloud.steps,
            crashes: world.cloud.crashes,
            refused_writes: rollouts.iter().map(|m| m.store.refused).sum(),
            checks: world.checks.made,
            breaches: world.checks.count,
            first_breaches: world.checks.breaches.clone(),
            status: rollouts.iter().map(|m| m.rollout.status).collect(),
            reasons: rollouts.iter().map(|m| m.rollout.reason.clone()).collect(),
            phases: rollouts.iter().map(phases).collect(),
            decisions: rollouts.iter().map(|m| m.decided.clone()).collect(),
        }
    }

    /// What was expected and did not come.
    pub fn disappoints(&self, expect: &Expect) -> Vec<String> {
        let mut wrong = Vec::new();
        for (i, allowed) in expect.status.iter().enumerate() {
            if self.status.get(i).is_none_or(|status| !allowed.contains(status)) {
                wrong.push(format!("rollout {} is {:?}, one of {allowed:?} was expected", i + 1, self.status.get(i)));
            }
        }
        let share = |count: u32| f64::from(count) / f64::from(self.devices.max(1));
        if let Some(most) = expect.harmed_at_most.filter(|most| self.harmed > most.of(self.devices)) {
            wrong.push(format!("{} devices are harmed, at most {most} was expected", self.harmed));
        }
        if let Some(least) = expect.healthy_at_least.filter(|least| share(self.healthy) < *least) {
            wrong.push(format!("{} devices are healthy, at least a share of {least} was expected", self.healthy));
        }
        if let Some(most) = expect.healthy_at_most.filter(|most| share(self.healthy) > *most) {
            wrong.push(format!("{} devices are healthy, at most a share of {most} was expected", self.healthy));
        }
        if let Some(by) = expect.within.filter(|by| self.finished_at.is_none_or(|at| u64::from(at) > by.0)) {
            wrong.push(format!("it was over at {:?}, within {by} was expected", self.finished_at));
        }
        for text in &expect.says {
            if !self.decisions.iter().flatten().any(|(_, decision)| decision.what.contains(text)) {
                wrong.push(format!("no decision says {text:?}"));
            }
        }
        if self.refused_writes < expect.refused_writes_at_least {
            let least = expect.refused_writes_at_least;
            wrong.push(format!("{} writes were refused, at least {least} was expected", self.refused_writes));
        }
        wrong
    }

    /// For people.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (i, decisions) in self.decisions.iter().enumerate() {
            for (at, decision) in decisions {
                let _ = writeln!(text, "{:>12}  r{} {}", Span(u64::from(*at)).to_string(), i + 1, decision.what);
                for gate in &decision.gates {
                    let _ = writeln!(text, "{:>12}       {:?}: {}", "", gate.state, gate.describe());
                }
            }
        }
        for (i, status) in self.status.iter().enumerate() {
            let phases: Vec<String> = self.phases[i].iter().map(|(p, n)| format!("{n} {p:?}").to_lowercase()).collect();
            let _ = writeln!(text, "r{} {status:?}: {}", i + 1, phases.join(", "));
        }
        let time = self.finished_at.map_or("never".to_owned(), |at| Span(u64::from(at)).to_string());
        let _ = writeln!(
            text,
            "{} devices: {} harmed, {} healthy, {} went back; over after {time}\n{} messages ({} lost), {} MB, {} steps, \
             {} crashes, {} refused writes\n{:.1} s ({:.1} s of the processor), {} bytes/device at the peak ({} hour by hour, own tables {}), {} real cores",
            self.devices,
            self.harmed,
            self.healthy,
            self.recalled,
            self.messages,
            self.lost,
            self.bytes / 1_000_000,
            self.steps,
            self.crashes,
            self.refused_writes,
            self.seconds,
            self.cpu_seconds,
            self.bytes_per_device,
            self.hourly_bytes_per_device,
            self.own_bytes_per_device,
            self.cores,
        );
        for Breach { at, device, what } in &self.first_breaches {
            let device = device.map_or(String::new(), |device| format!(", device d{device:07}"));
            let _ = writeln!(text, "BREACH seed {} at {at} s{device}: {what}", self.seed);
        }
        text
    }
}
