//! Other engines behind the same devices, links and versions, each after its public documentation: how many devices may be
//! told next is theirs ([`Policy`]), what telling a device leads to is the same for all of them.
//!
//! A device that is told installs, lets the version answer, and reports. As their documentation has it, success is
//! "installed" as the device says. In their favour: links lose nothing, disks and power do not fail in the middle,
//! a version that dies within a minute of its start counts as failed and the device puts the old one back. What they do
//! not have is not modelled: golden samples, soak times, figures, recall.

pub mod aws_iot_jobs;
pub mod hawkbit;
pub mod waves;

use muster_dispatcher::domain::rollout::RolloutStatus;
use serde::Deserialize;

use super::chance::Chance;
use super::fleet::Fleet;
use super::outcome::Outcome;
use super::presence::Presence;
use super::queue::{Item, Queue, What};
use super::scenario::{DefectKind, Scenario};
use super::version::{FIRST, NONE, Versions};
use super::world::TICK;

/// How long after its start an installer looks whether a version lives, in seconds.
const START: u64 = 60;

/// Settings of the engines to compare with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Baselines {
    /// AWS IoT Jobs.
    pub aws_iot_jobs: aws_iot_jobs::Settings,
    /// Eclipse hawkBit.
    pub hawkbit: hawkbit::Settings,
    /// Waves by the clock alone.
    pub waves: waves::Settings,
}

/// An engine to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// AWS IoT Jobs.
    AwsIotJobs,
    /// Eclipse hawkBit.
    Hawkbit,
    /// Waves by the clock alone.
    Waves,
}

impl Engine {
    /// Every one, with its name.
    pub const ALL: [(Engine, &str); 3] =
        [(Engine::AwsIotJobs, "aws-iot-jobs"), (Engine::Hawkbit, "hawkbit"), (Engine::Waves, "waves")];

    fn policy(self, settings: &Baselines, total: u32) -> Box<dyn Policy> {
        match self {
            Engine::AwsIotJobs => Box::new(aws_iot_jobs::Jobs::new(&settings.aws_iot_jobs)),
            Engine::Hawkbit => Box::new(hawkbit::Groups::new(&settings.hawkbit, total)),
            Engine::Waves => Box::new(waves::Waves::new(&settings.waves)),
        }
    }
}

/// What an engine sees: how many devices are how far, in the order in which they are told.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// All of them.
    pub total: u32,
    /// Those that were told.
    pub notified: u32,
    /// Of those, the ones that say that it is installed.
    pub succeeded: u32,
    /// The ones that say that it failed.
    pub failed: u32,
    /// The ones that do not want it.
    pub rejected: u32,
    /// The ones that took too long.
    pub timed_out: u32,
    /// Successes and failures by place, so that groups can be counted: running sums are the engine's own.
    pub by_place: Vec<State>,
}

/// How far a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum State {
    #[default]
    Idle,
    Queued,
    InProgress,
    Succeeded,
    Failed,
    Rejected,
    TimedOut,
    Canceled,
}

/// What an engine wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell so many more devices; 0 to wait.
    Notify(u32),
    /// Tell nobody any more, and take back what no device has begun.
    Cancel(String),
    /// Tell nobody any more.
    Pause(String),
}

/// The rule of an engine.
pub trait Policy {
    /// What it wants after looking at `tally`, asked every ten seconds.
    fn step(&mut self, now: u32, tally: &Tally) -> Step;
    /// After how many seconds a device that has begun counts as timed out.
    fn timeout(&self) -> Option<u32> {
        None
    }
}

/// Lets the first rollout of a scenario happen under another engine.
pub fn simulate(engine: Engine, scenario: &Scenario, devices: Option<u32>, seed: u64) -> Outcome {
    let chance = Chance::new(seed);
    let fleet = Fleet::new(&scenario.world, devices.unwrap_or(scenario.world.devices), chance);
    let total = fleet.len();
    let mut world = World {
        presence: Presence::new(&fleet, chance),
        versions: Versions::new(&scenario.versions, &fleet, chance),
        version: scenario.rollouts[0].version,
        queue: Queue::default(),
        tally: Tally { total, by_place: vec![State::Idle; total as usize], ..Tally::default() },
        harmed: 0,
        bytes: 0,
        messages: 0,
        now: 0,
        fleet,
    };
    let began = std::time::Instant::now();
    let mut policy = engine.policy(&scenario.baselines, total);
    let (status, reason, finished_at) =
        world.run(&mut *policy, scenario.rollouts[0].at.0 as u32, scenario.world.horizon.0 as u32);
    let name = Engine::ALL.iter().find(|(e, _)| *e == engine).map_or("", |(_, name)| name);
    Outcome {
        engine: name.to_owned(),
        seed,
        devices: total,
        seconds: began.elapsed().as_secs_f64(),
        bytes_per_device: 0,
        hourly_bytes_per_device: 0,
        cpu_seconds: 0.0,
        cores: 0,
        own_bytes_per_device: 0,
        harmed: world.harmed,
        healthy: world.tally.succeeded,
        recalled: 0,
        messages: world.messages,
        lost: 0,
        bytes: world.bytes,
        finished_at,
        steps: 0,
        crashes: 0,
        refused_writes: 0,
        checks: 0,
        breaches: 0,
        first_breaches: Vec::new(),
        status: vec![status],
        reasons: vec![reason],
        phases: vec![Vec::new()],
        decisions: Vec::new(),
    }
}

struct World {
    fleet: Fleet,
    presence: Presence,
    versions: Versions,
    version: u8,
    queue: Queue,
    tally: Tally,
    harmed: u32,
    bytes: u64,
    messages: u64,
    now: u32,
}

impl World {
    fn run(&mut self, policy: &mut dyn Policy, at: u32, horizon: u32) -> (RolloutStatus, String, Option<u32>) {
        let mut stopped: Option<(RolloutStatus, String)> = None;
        let mut last_change = at;
        for now in (at..=horizon).step_by(TICK as usize) {
            self.now = now;
            while let Some((_, items)) = self.queue.take(now) {
                last_change = now;
                items.into_iter().for_each(|item| self.installed(item));
            }
            if now % 60 < TICK {
                self.wake_the_queued(policy.timeout());
            }
            if stopped.is_none() {
                match policy.step(now - at, &self.tally) {
                    Step::Notify(count) => {
                        last_change = if count > 0 { now } else { last_change };
                        (0..count).for_each(|_| self.notify(policy.timeout()));
                    }
                    Step::Pause(why) => stopped = Some((RolloutStatus::Paused, why)),
                    Step::Cancel(why) => {
                        self.tally
                            .by_place
                            .iter_mut()
                            .filter(|s| **s == State::Queued)
                            .for_each(|s| *s = State::Canceled);
                        stopped = Some((RolloutStatus::Cancelled, why));
                    }
                }
            }
            let idle = self.queue.is_empty();
            if let Some((status, why)) = stopped.clone().filter(|_| idle) {
                return (status, why, Some(now));
            }
            let ended = self.tally.succeeded + self.tally.failed + self.tally.rejected + self.tally.timed_out;
            if ended == self.tally.total {
                return (RolloutStatus::Completed, String::new(), Some(last_change));
            }
        }
        let waiting = self.tally.total - self.tally.succeeded;
        (RolloutStatus::Running, format!("{waiting} devices are not done at the horizon"), None)
    }

    fn notify(&mut self, timeout: Option<u32>) {
        let device = self.tally.notified;
        if device < self.tally.total {
            self.tally.notified += 1;
            self.tally.by_place[device as usize] = State::Queued;
            self.begin(device, timeout);
        }
    }

    fn wake_the_queued(&mut self, timeout: Option<u32>) {
        let queued = |s: &(usize, &State)| *s.1 == State::Queued;
        let all: Vec<u32> = self.tally.by_place.iter().enumerate().filter(queued).map(|(d, _)| d as u32).collect();
        all.into_iter().for_each(|device| self.begin(device, timeout));
    }

    /// A device that is connected begins at once.
    fn begin(&mut self, device: u32, timeout: Option<u32>) {
        if !self.presence.is_online(&self.fleet, device, self.now) {
            return;
        }
        self.messages += 3;
        if !self.versions.fits(&self.fleet, self.version, device) {
            self.tally.rejected += 1;
            self.tally.by_place[device as usize] = State::Rejected;
            return;
        }
        self.tally.by_place[device as usize] = State::InProgress;
        let has_earlier = !self.fleet.is_empty_at_start(device);
        let bytes = self.versions.bytes(self.version, has_earlier);
        let seconds = (bytes as f64 / self.fleet.speed(device)).ceil() as u32 + 2;
        let epoch = u16::from(timeout.is_some_and(|most| seconds > most));
        let at = self.now + if epoch == 1 { timeout.unwrap_or(seconds) } else { seconds };
        self.bytes += if epoch == 1 { 0 } else { bytes };
        self.queue.plan(at, Item { device, epoch, what: What::Fetched });
    }

    /// The installer is done, one way or the other. What answers now harms, or does not.
    fn installed(&mut self, item: Item) {
        let device = item.device;
        let (fleet, version) = (&self.fleet, self.version);
        let before = if fleet.is_empty_at_start(device) { NONE } else { FIRST };
        debug_assert!(before != version, "the first version is there already");
        let state = if item.epoch == 1 {
            self.tally.timed_out += 1;
            State::TimedOut
        } else {
            self.harmed += u32::from(self.versions.is_bad(fleet, version, device));
            let crash = self.versions.defect(fleet, version, device, DefectKind::Crash);
            if crash.is_some_and(|defect| defect.after.0 <= START) {
                self.tally.failed += 1;
                State::Failed
            } else {
                self.tally.succeeded += 1;
                State::Succeeded
            }
        };
        self.tally.by_place[device as usize] = state;
    }
}
