//! The world: what there is, and what happens in order of time.

use std::time::Instant;

use muster_dispatcher::domain::rollout::{DevicePhase, Event, Member, RolloutStatus};

use super::agent::{Act, Agent, Env, Terms};
use super::chance::{Chance, For};
use super::checks::Checks;
use super::cloud::Cloud;
use super::crash::Stale;
use super::fleet::Fleet;
use super::network::Network;
use super::outcome::Outcome;
use super::presence::{Presence, SLOT};
use super::queue::Queue;
use super::radio::Radio;
use super::real::{self, Agents, Share};
use super::scenario::Scenario;
use super::version::{NONE, Versions};
use super::windows::Openings;
use super::{EPOCH, fleet, memory};

/// How often the dispatcher is told that time has passed, in seconds.
pub const TICK: u32 = 10;
/// How often the process' memory is looked at, in seconds of virtual time.
const LOOK_AT_MEMORY: u32 = 3600;

/// The world.
pub struct World<A> {
    pub(super) scenario: Scenario,
    pub(super) chance: Chance,
    /// Seconds since it began.
    pub now: u32,
    pub(super) fleet: Fleet,
    pub(super) presence: Presence,
    pub(super) versions: Versions,
    pub(super) agents: A,
    pub(super) terms: Vec<Terms>,
    /// The dispatcher.
    pub cloud: Cloud,
    pub(super) network: Network,
    pub(super) queue: Queue,
    pub(super) radio: Radio,
    /// What did not hold.
    pub checks: Checks,
    pub(super) stale: Option<Stale>,
    pub(super) words_said: usize,
    pub(super) crashes_done: usize,
    pub(super) leases_done: usize,
    pub(super) rooted: Vec<u64>,
    pub(super) faulty: bool,
    pub(super) acts: Vec<Act>,
    /// Devices on which something bad for them answered.
    pub(super) harmed: Vec<u64>,
    /// Since when all is over; none while it is not.
    pub(super) over_at: Option<u32>,
    /// The most memory that was resident.
    pub(super) resident: u64,
}

/// Lets a scenario happen with `devices` devices, or as many as it says, from `seed`.
pub fn simulate(scenario: &Scenario, devices: Option<u32>, seed: u64) -> Outcome {
    simulate_with(scenario, devices, seed, Share::default())
}

/// As [`simulate`], with the real core on this share of the devices.
pub fn simulate_with(scenario: &Scenario, devices: Option<u32>, seed: u64, share: Share) -> Outcome {
    let before = memory::resident();
    let (began, processor) = (Instant::now(), memory::processor());
    let devices = devices.unwrap_or(scenario.world.devices);
    let agents = |fleet: &Fleet| Agents::new(fleet, scenario, share, Chance::new(seed));
    let mut world = World::new(scenario, devices, seed, agents);
    world.run();
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = memory::processor() - processor;
    Outcome { cpu_seconds, ..Outcome::of(&world, seed, seconds, before) }
}

impl<A: Agent> World<A> {
    /// A world in which nothing has happened yet.
    pub fn new(scenario: &Scenario, devices: u32, seed: u64, agents: impl Fn(&Fleet) -> A) -> Self {
        let chance = Chance::new(seed);
        let fleet = Fleet::new(&scenario.world, devices, chance);
        let mut scenario = scenario.clone();
        scenario.words.sort_by_key(|word| word.at);
        Self {
            cloud: Cloud::new(&scenario, &fleet),
            versions: Versions::new(&scenario.versions, &fleet, chance),
            network: Network::new(&scenario.world.network, chance),
            scenario,
            chance,
            now: 0,
            presence: Presence::new(&fleet, chance),
            agents: agents(&fleet),
            terms: Vec::new(),
            queue: Queue::default(),
            radio: Radio::new(devices),
            checks: Checks::new(devices),
            stale: None,
            words_said: 0,
            crashes_done: 0,
            leases_done: 0,
            rooted: vec![0; (devices as usize).div_ceil(64)],
            faulty: true,
            acts: Vec::new(),
            harmed: vec![0; (devices as usize).div_ceil(64)],
            over_at: None,
            resident: 0,
            fleet,
        }
    }

    /// Lets everything happen.
    pub fn run(&mut self) {
        let (horizon, settle) = (self.scenario.world.horizon.0 as u32, self.scenario.world.settle.0 as u32);
        let last = horizon + settle;
        while self.now <= last {
            self.happen();
            let over = self.is_over();
            self.over_at = if over { self.over_at.or(Some(self.now)) } else { None };
            let until = self.scenario.world.faults.until;
            let calm = until.map_or(over || self.now >= horizon, |until| u64::from(self.now) >= until.0);
            (self.faulty, self.network.faulty) = (!calm, !calm);
            if self.over_at.is_some_and(|at| self.now >= at + settle) {
                break;
            }
            self.now += TICK;
        }
        self.resident = self.resident.max(memory::resident());
        self.settle();
    }

    /// One tick: what was planned up to now, who comes and goes, what the dispatcher does.
    fn happen(&mut self) {
        let end = self.now;
        while let Some((at, items)) = self.queue.take(end) {
            self.now = at;
            items.into_iter().for_each(|item| self.take(item));
            self.let_cloud_work();
        }
        self.now = end;
        if end.is_multiple_of(SLOT) {
            self.change_presence();
        }
        self.trouble_the_dispatcher();
        if self.cloud.is_up() {
            self.start_rollouts();
            self.say_words();
            self.send_telemetry();
            for index in 0..self.cloud.rollouts.len() {
                self.cloud.push(index, Event::Ticked);
            }
            self.let_cloud_work();
        }
        if end.is_multiple_of(LOOK_AT_MEMORY) {
            self.resident = self.resident.max(memory::resident());
        }
    }

    pub(super) fn let_cloud_work(&mut self) {
        self.cloud.work(self.now, &mut self.checks);
        self.send_desired();
    }

    fn start_rollouts(&mut self) {
        while let Some(spec) = self.scenario.rollouts.get(self.cloud.rollouts.len()) {
            if spec.at.0 > u64::from(self.now) {
                return;
            }
            let bytes = self.versions.bytes(spec.version, false);
            let spec = spec.clone();
            let index = self.cloud.create(&spec, bytes, self.now);
            let plan = &self.cloud.rollouts[index].rollout.plan;
            let horizon = EPOCH + self.scenario.world.horizon.0 + self.scenario.world.settle.0;
            let windows = &plan.schedule.windows;
            self.terms.push(Terms {
                soak: plan.stages.iter().map(|stage| stage.soak.0 as u32).collect(),
                windows: (!windows.is_empty()).then(|| Openings::new(windows, EPOCH - 86_400, horizon + 86_400)),
                cron: real::windows(windows),
                shadows: plan.stages.iter().map(|stage| stage.shadow.is_some()).collect(),
                veto: plan.schedule.veto.0 as u32,
            });
            let blocked = self.cloud.blocker(index);
            let fits = |device: &u32| self.versions.fits(&self.fleet, spec.version, *device);
            let there = (0..self.fleet.len()).filter(|d| self.presence.exists(&self.fleet, *d, self.now));
            // Whoever cannot take it is not among those whom it is for, as in the dispatcher's fleet.
            let members = there.filter(fits).map(|d| self.member(d, blocked)).collect();
            self.cloud.push(index, Event::Started(members));
            // Others are told once this one is there.
            self.cloud.work(self.now, &mut self.checks);
            if index > 0 {
                self.cloud.reblock(index, RolloutStatus::Pending);
            }
        }
    }

    pub(super) fn member(&self, device: u32, blocked: Option<muster_dispatcher::domain::rollout::RolloutId>) -> Member {
        Member {
            device: fleet::name(device),
            site: self.fleet.site(device),
            comparable: self.cloud.told[device as usize].proven != NONE,
            online: self.is_online(device),
            blocked,
        }
    }

    /// Whether the device has power and a connection now.
    pub(super) fn is_online(&self, device: u32) -> bool {
        self.radio.has_power(device) && self.presence.is_online(&self.fleet, device, self.now)
    }

    fn is_over(&self) -> bool {
        let started = self.cloud.rollouts.len() == self.scenario.rollouts.len();
        let said = self.words_said == self.scenario.words.len();
        let stands = |status: RolloutStatus| {
            status.has_ended() || matches!(status, RolloutStatus::Paused | RolloutStatus::Pending)
        };
        started && said && self.cloud.is_up() && self.cloud.rollouts.iter().all(|m| stands(m.rollout.status))
    }

    /// Does what an agent wants done, and looks at what happened to the device.
    pub(super) fn with_agent(&mut self, device: u32, happen: impl FnOnce(&mut A, &Env, &mut Vec<Act>)) {
        let mut acts = std::mem::take(&mut self.acts);
        let env = Env {
            now: self.now,
            fleet: &self.fleet,
            versions: &self.versions,
            terms: &self.terms,
            chance: self.chance,
            faulty: self.faulty,
        };
        happen(&mut self.agents, &env, &mut acts);
        for (device, what) in self.agents.breaches() {
            self.checks.breach(self.now, Some(device), what);
        }
        let view = self.agents.view(device);
        for act in acts.drain(..) {
            self.checks.acted(device, &view, &act, self.now);
            self.act(device, &view, act);
        }
        self.checks.stands(device, &view);
        self.acts = acts;
    }

    pub(super) fn env(&self) -> Env<'_> {
        Env {
            now: self.now,
            fleet: &self.fleet,
            versions: &self.versions,
            terms: &self.terms,
            chance: self.chance,
            faulty: self.faulty,
        }
    }

    /// Marks a device on which something bad for it answers.
    pub(super) fn switched(&mut self, device: u32, to: u8, wanted: u8) {
        let nothing = to == NONE && wanted != NONE && !self.fleet.is_empty_at_start(device);
        if nothing || self.versions.is_bad(&self.fleet, to, device) {
            self.harmed[device as usize / 64] |= 1 << (device % 64);
        }
    }

    /// How many devices were harmed.
    pub fn harmed(&self) -> u32 {
        self.harmed.iter().map(|word| word.count_ones()).sum()
    }

    /// How many devices run the newest version that was rolled out, and proved it.
    pub fn healthy(&self) -> u32 {
        let newest = self.cloud.rollouts.iter().map(|m| m.version).max().unwrap_or(NONE);
        let runs = |device: &u32| {
            let view = self.agents.view(*device);
            view.active == newest && view.phase == DevicePhase::Healthy
        };
        (0..self.fleet.len()).filter(runs).count() as u32
    }

    /// A number that depends on the device and on what happened before.
    pub(super) fn luck(&self, what: For, device: u32, share: f64) -> bool {
        self.faulty && self.chance.is(what, device, u64::from(self.now), share)
    }
}
