//! A toy fleet that does as it is told, on a clock that the test turns.

use std::collections::BTreeMap;

use muster_proto::code::Code;
use muster_proto::id::{DeviceId, Digest};
use muster_proto::report::Transfer;

use super::recount;
use crate::rollout::plan::Plan;
use crate::rollout::{DevicePhase, Effect, Event, Member, Order, Part, Rollout, RolloutId, RolloutStatus, Word, step};

/// What a device does with the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs it well.
    Good,
    /// Runs it, and crashes two seconds later.
    Crashes,
    /// Fails it at its probe, before it answers anything.
    FailsProbe,
    /// Cannot take it.
    Refuses,
    /// Is never heard again once it was offered it.
    Mute,
    /// Has the full disk so often before it goes well.
    DiskFull(u32),
    /// Runs it and never comes to be healthy.
    Stuck,
    /// Waits for a window before it switches.
    Waits,
}

#[derive(Debug, Clone)]
pub struct Toy {
    pub kind: Kind,
    pub online: bool,
    /// The bad or good version has answered here at some time.
    pub had_it: bool,
    pub has_it: bool,
    pub fetched: u32,
    told: Told,
    phase: DevicePhase,
    since: u64,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Version,
    Held,
    Back,
}

pub struct Bench {
    pub rollout: Rollout,
    pub now: u64,
    pub toys: BTreeMap<DeviceId, Toy>,
    /// When whom was offered the version, and whether only to hold it.
    pub offers: Vec<(u64, DeviceId, bool)>,
    pub recalls: Vec<DeviceId>,
    pub decisions: Vec<String>,
    /// Seconds that a device takes to fetch.
    pub fetch: u64,
}

pub fn device(number: usize) -> DeviceId {
    format!("gw-{number:05}").parse().unwrap()
}

pub fn plan(text: &str) -> Plan {
    let plan: Plan = toml::from_str(&format!("target = {{ all = true }}\n{text}")).unwrap();
    assert_eq!(plan.check(), Ok(()));
    plan
}

pub fn member(device: &DeviceId) -> Member {
    Member { device: device.clone(), site: "".into(), comparable: false, online: true, blocked: None }
}

pub fn order(plan: Plan) -> Order {
    Order {
        model: "vision/digits".parse().unwrap(),
        version: "2".parse().unwrap(),
        target: "vision/digits/2/manifest".into(),
        digest: Digest::of(b"manifest"),
        length: 100,
        bytes: 1_000,
        slot: "default".parse().unwrap(),
        requires: Default::default(),
        plan,
        by: "ada".into(),
    }
}

impl Bench {
    /// So many connected devices of one site, on which nothing answers yet.
    pub fn start(text: &str, devices: usize) -> Self {
        Self::start_with(text, 1, (0..devices).map(|n| member(&device(n))).collect())
    }

    pub fn start_with(text: &str, id: u64, members: Vec<Member>) -> Self {
        Self::start_plan(plan(text), id, members)
    }

    pub fn start_plan(plan: Plan, id: u64, members: Vec<Member>) -> Self {
        let mut bench = Self {
            rollout: Rollout::new(RolloutId(id), order(plan), 1_000),
            now: 1_000,
            toys: BTreeMap::new(),
            offers: Vec::new(),
            recalls: Vec::new(),
            decisions: Vec::new(),
            fetch: 1,
        };
        for member in &members {
            bench.toys.insert(member.device.clone(), Toy::new(member.online));
        }
        bench.tell(Event::Started(members));
        bench
    }

    pub fn join(&mut self, member: Member) {
        self.toys.insert(member.device.clone(), Toy::new(member.online));
        self.tell(Event::Joined(member));
    }

    pub fn all_are(&mut self, kind: Kind) {
        self.toys.values_mut().for_each(|toy| toy.kind = kind);
    }

    pub fn is(&mut self, number: usize, kind: Kind) {
        self.toys.get_mut(&device(number)).unwrap().kind = kind;
    }

    /// One event, with everything that has to hold after it.
    pub fn tell(&mut self, event: Event) {
        let effects = step(&mut self.rollout, event, self.now);
        recount::check(&self.rollout, self.now);
        for effect in effects {
            match effect {
                Effect::Offer(device) => {
                    let held = self.part(&device).held;
                    self.offers.push((self.now, device.clone(), held));
                    self.toys.get_mut(&device).unwrap().take(if held { Told::Held } else { Told::Version }, self.now);
                }
                Effect::Recall(device) => {
                    self.recalls.push(device.clone());
                    self.toys.get_mut(&device).unwrap().take(Told::Back, self.now);
                }
                Effect::Decided(decision) => self.decisions.push(decision.what.clone()),
                Effect::Save | Effect::SavePart(_) | Effect::Moved(_) => {}
            }
        }
    }

    pub fn say(&mut self, word: Word) {
        self.tell(Event::Told(word));
    }

    pub fn connect(&mut self, device: &DeviceId, online: bool) {
        self.toys.get_mut(device).unwrap().online = online;
        self.tell(if online { Event::Online(device.clone()) } else { Event::Offline(device.clone()) });
    }

    /// Lets so many seconds pass.
    pub fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 1;
            let devices: Vec<DeviceId> = self.toys.keys().cloned().collect();
            for device in devices {
                let soak = self.rollout.plan.stages.get(usize::from(self.part(&device).stage)).map_or(0, |s| s.soak.0);
                let (now, fetch) = (self.now, self.fetch);
                if let Some(event) = self.toys.get_mut(&device).unwrap().act(&device, now, fetch, soak) {
                    self.tell(event);
                }
            }
            self.tell(Event::Ticked);
        }
    }

    /// Lets time pass until `done`, a day at most.
    pub fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = self.now + 100_000;
        while !done(self) {
            assert!(self.now < deadline, "never came: {:?} {}", self.rollout.status, self.rollout.reason);
            self.run(1);
        }
    }

    pub fn run_to(&mut self, status: RolloutStatus) {
        self.run_until(|bench| bench.rollout.status == status);
    }

    pub fn part(&self, device: &DeviceId) -> &Part {
        &self.rollout.parts[device]
    }

    pub fn phase(&self, number: usize) -> DevicePhase {
        self.part(&device(number)).phase
    }

    pub fn count(&self, phase: DevicePhase) -> u32 {
        self.rollout.counts.of(phase)
    }

    pub fn harmed(&self) -> u32 {
        self.toys.values().filter(|toy| toy.had_it).count() as u32
    }

    /// Who was offered the version, first come first.
    pub fn offered(&self) -> Vec<DeviceId> {
        self.offers.iter().map(|(_, device, _)| device.clone()).collect()
    }
}

impl Toy {
    fn new(online: bool) -> Self {
        Self {
            kind: Kind::Good,
            online,
            had_it: false,
            has_it: false,
            fetched: 0,
            told: Told::Nothing,
            phase: DevicePhase::Waiting,
            since: 0,
            failures: 0,
        }
    }

    fn take(&mut self, told: Told, now: u64) {
        let goes_on = told == Told::Version && self.told == Told::Held && self.phase.is_updating();
        let is_news = self.told != told || (told == Told::Version && !self.phase.is_updating());
        if is_news && !goes_on {
            (self.phase, self.since) = (DevicePhase::Offered, now);
        }
        self.told = told;
        if self.kind == Kind::Mute && told != Told::Back {
            self.online = false;
        }
    }

    /// What it says next, if anything.
    fn act(&mut self, device: &DeviceId, now: u64, fetch: u64, soak: u64) -> Option<Event> {
        if !self.online {
            return None;
        }
        let took = now - self.since;
        let next = match (self.told, self.phase) {
            (Told::Nothing, _) => return None,
            (Told::Back, DevicePhase::Recalled) => return None,
            (Told::Back, _) => {
                (self.phase, self.has_it) = (DevicePhase::Recalled, false);
                return Some(Event::WentBack(device.clone()));
            }
            (_, DevicePhase::Offered) if self.kind == Kind::Refuses => (DevicePhase::Refused, Some(Code::Incompatible)),
            (_, DevicePhase::Offered) => (DevicePhase::Fetching, None),
            (_, DevicePhase::Fetching) if took < fetch => return None,
            (_, DevicePhase::Fetching) => match self.kind {
                Kind::DiskFull(times) if self.failures < times => {
                    self.failures += 1;
                    (DevicePhase::Failed, Some(Code::DiskFull))
                }
                _ => (DevicePhase::Verified, None),
            },
            (_, DevicePhase::Verified) if self.kind == Kind::FailsProbe => {
                (DevicePhase::Failed, Some(Code::ProbeMismatch))
            }
            (Told::Held, DevicePhase::Verified) => (DevicePhase::Staged, Some(Code::Held)),
            (_, DevicePhase::Verified) if self.kind == Kind::Waits => (DevicePhase::Staged, Some(Code::OutsideWindow)),
            (_, DevicePhase::Verified) => (DevicePhase::Staged, None),
            (Told::Held, DevicePhase::Staged) => return None,
            (_, DevicePhase::Staged) if self.kind == Kind::Waits => return None,
            (_, DevicePhase::Staged) => (DevicePhase::Active, None),
            (_, DevicePhase::Active) => match self.kind {
                Kind::Crashes if took >= 2 => (DevicePhase::Failed, Some(Code::TrialCrashed)),
                Kind::Crashes | Kind::Stuck => return None,
                _ if took >= soak => (DevicePhase::Healthy, None),
                _ => return None,
            },
            _ => return None,
        };
        self.fetched += u32::from(next.0 == DevicePhase::Verified);
        self.has_it = matches!(next.0, DevicePhase::Active | DevicePhase::Healthy);
        self.had_it |= self.has_it;
        (self.phase, self.since) = (next.0, now);
        Some(report(device, next.0, next.1))
    }
}

pub fn report(device: &DeviceId, phase: DevicePhase, code: Option<Code>) -> Event {
    let transfer = Transfer { fetched: 500, ..Transfer::default() };
    Event::Reported { device: device.clone(), phase, code, detail: String::new(), transfer }
}
