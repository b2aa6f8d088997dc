//! The fleet, its storage, the wire and the machines.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::desired::Desired;
use muster_proto::id::{DeviceId, Generation};
use muster_proto::report::DeviceReport;
use proptest::sample::Index;

use super::machine::Machine;
use super::{Op, PLANS};
use crate::fleet::step;
use crate::rollout::{Approved, Word};
use crate::tests::bench::{device, group, id, rollout};
use crate::tests::check;
use crate::tests::store::Store;
use crate::{Device, DevicePhase, Effect, Event, Fleet, Rollout, RolloutId, RolloutStatus};

pub const DEVICES: usize = 5;
/// How many different words operators know.
pub const WORDS: usize = 9;
/// As in the plans.
const SILENCE: u64 = 600;

#[derive(Debug, Clone)]
enum Wire {
    Down(usize, Box<Desired>),
    Up(Box<DeviceReport>),
}

pub struct World {
    fleet: Fleet,
    store: Store,
    machines: Vec<Machine>,
    wire: Vec<Wire>,
    now: u64,
    generations: BTreeMap<DeviceId, Generation>,
    /// The phases as they were after the event before.
    phases: BTreeMap<(RolloutId, DeviceId), DevicePhase>,
    /// Who failed in a rollout, or fell silent, ever.
    harmed: BTreeMap<RolloutId, BTreeSet<DeviceId>>,
    silent: BTreeMap<RolloutId, BTreeSet<DeviceId>>,
    /// How often somebody has looked at a rollout and let it go on, or a device that had it was lost from sight.
    excused: BTreeMap<RolloutId, usize>,
}

fn name(n: usize) -> String {
    format!("d{n}")
}

impl World {
    pub fn new() -> Self {
        let fleet = Fleet::new("default".parse().unwrap(), 0);
        let machine = |n| Machine::new(name(n), n != 1, n + 1 == DEVICES);
        let mut world = World {
            store: Store::new(&fleet),
            fleet,
            machines: (0..DEVICES).map(machine).collect(),
            wire: vec![],
            now: 1,
            generations: BTreeMap::new(),
            phases: BTreeMap::new(),
            harmed: BTreeMap::new(),
            silent: BTreeMap::new(),
            excused: BTreeMap::new(),
        };
        (0..DEVICES).for_each(|n| world.enrol(n));
        world
    }

    fn enrol(&mut self, n: usize) {
        let record = Device { agent: self.machines[n].agent(), ..device(&name(n), &["line"]) };
        self.feed(Event::Enrolled(Box::new(record)));
    }

    fn feed(&mut self, event: Event) -> Vec<Effect> {
        let effects = step(&mut self.fleet, event.clone(), self.now);
        self.store.apply(&self.fleet, &effects);
        check::consistent(&self.fleet);
        self.check(&event);
        check::twice(&self.fleet, event, self.now);
        for effect in &effects {
            if let Effect::PublishDesired { device, desired } = effect {
                let n = (0..DEVICES).find(|n| name(*n) == device.as_str()).unwrap();
                self.wire.push(Wire::Down(n, desired.clone()));
            }
        }
        effects
    }

    fn check(&mut self, event: &Event) {
        for device in self.fleet.devices.values() {
            let before = self.generations.insert(device.id.clone(), device.generation);
            // Invariant 3.
            assert!(before.unwrap_or_default() <= device.generation, "{} went back", device.id);
        }
        for rollout in self.fleet.rollouts.values() {
            for (device, part) in &rollout.parts {
                let before = self.phases.insert((rollout.id, device.clone()), part.phase);
                if before != Some(part.phase) {
                    self.check_proof(rollout, device, part.phase);
                }
                let lists = [(DevicePhase::Failed, &mut self.harmed), (DevicePhase::Silent, &mut self.silent)];
                for (phase, list) in lists {
                    if part.phase == phase {
                        list.entry(rollout.id).or_default().insert(device.clone());
                    }
                }
                // Invariant 13.
                let unheard = self.now.saturating_sub(part.heard.max(part.since));
                let away = part.phase.is_updating() && !part.online && !part.is_held();
                assert!(
                    !away || !matches!(event, Event::Tick) || unheard <= SILENCE,
                    "{device} was not heard for {unheard} s"
                );
            }
            self.check_harm(rollout);
        }
    }

    /// Invariant 12.
    fn check_proof(&self, rollout: &Rollout, device: &DeviceId, phase: DevicePhase) {
        let machine = self.machines.iter().find(|machine| machine.name == device.as_str()).unwrap();
        let record = &self.fleet.devices[device];
        let want = record.slots.get(&rollout.slot).filter(|want| want.rollout == rollout.id);
        let proved = || want.is_some_and(|w| machine.proved.contains(&(w.reference(), w.digest)));
        let emptied =
            || record.report.as_ref().is_some_and(|r| machine.emptied.contains(&r.generation) || r.slots.is_empty());
        let holds = match phase {
            DevicePhase::Healthy => proved() && want.is_some_and(|w| w.digest == rollout.digest),
            DevicePhase::Recalled => match record.slots.get(&rollout.slot) {
                Some(now) if now.rollout != rollout.id => true,
                Some(_) => proved(),
                None => emptied(),
            },
            _ => true,
        };
        assert!(holds, "{device} is {phase:?} in {} without proof: {want:?}, {machine:?}", rollout.id);
    }

    /// Invariant 8: each stage has its budget, and what was in flight when it was spent may fail as well.
    fn check_harm(&self, rollout: &Rollout) {
        let budget = |stage: &crate::rollout::plan::Stage| stage.gates.failures.map_or(0, |most| most.of(100));
        let budgets: u32 = rollout.plan.stages.iter().map(budget).sum();
        let wave = rollout.plan.rate.in_flight.unwrap_or(0);
        let once = (budgets + wave) as usize;
        let count = |all: &BTreeMap<RolloutId, BTreeSet<DeviceId>>| all.get(&rollout.id).map_or(0, BTreeSet::len);
        let excused = self.excused.get(&rollout.id).copied().unwrap_or(0);
        let most = once * (1 + excused) + count(&self.silent);
        assert!(
            count(&self.harmed) <= most,
            "{} harmed {:?}, {most} are allowed",
            rollout.id,
            self.harmed[&rollout.id]
        );
    }

    fn hello(&mut self, n: usize) {
        let generation = self.machines[n].generation();
        self.feed(Event::Online { device: id(&name(n)), generation });
    }

    fn work(&mut self, n: usize) {
        self.machines[n].work();
        let report = self.machines[n].report();
        self.wire.push(Wire::Up(Box::new(report)));
    }

    fn deliver(&mut self, message: Wire) {
        match message {
            Wire::Up(report) => drop(self.feed(Event::ReportArrived(report))),
            Wire::Down(n, desired) => self.machines[n].accept(*desired),
        }
    }

    fn pick(&self, pick: Index) -> Option<RolloutId> {
        let all: Vec<RolloutId> = self.fleet.rollouts.keys().copied().collect();
        (!all.is_empty()).then(|| *pick.get(&all))
    }

    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Hello(n) => self.hello(n),
            Op::Gone(n) => drop(self.feed(Event::Offline(id(&name(n))))),
            Op::Work(n) => self.work(n),
            Op::Crash(n) => self.crash(n),
            Op::Wipe(n) => {
                // One that was never heard of would count as newer than the one that is.
                self.wire.retain(|message| !matches!(message, Wire::Up(said) if said.device.as_str() == name(n)));
                self.machines[n].wipe();
            }
            Op::Deliver(_, _) | Op::Lose(_) if self.wire.is_empty() => {}
            Op::Deliver(pick, again) => {
                let at = pick.index(self.wire.len());
                let message = if again { self.wire[at].clone() } else { self.wire.swap_remove(at) };
                self.deliver(message);
            }
            Op::Lose(pick) => drop(self.wire.swap_remove(pick.index(self.wire.len()))),
            Op::Start { version, plan, all, priority } => self.start(version, plan, all, priority),
            Op::Tell(pick, word) => self.tell(pick, word),
            Op::Extend(pick) => {
                if let Some(id) = self.pick(pick) {
                    self.feed(Event::RolloutExtended(id, group("out")));
                }
            }
            Op::Move(n, inside, out) => {
                let groups = [("line", inside), ("out", out)].into_iter().filter(|(_, is)| *is);
                let groups = groups.map(|(name, _)| group(name)).collect();
                self.feed(Event::GroupsChanged { device: id(&name(n)), labels: BTreeMap::new(), groups });
            }
            Op::Remove(n) => {
                // The record goes and the machine enrols again with what it has on disk.
                self.feed(Event::Removed(id(&name(n))));
                self.generations.remove(&id(&name(n)));
                self.phases.retain(|(_, device), _| device.as_str() != name(n));
                self.enrol(n);
            }
            Op::DeleteGroup(line) => drop(self.feed(Event::GroupDeleted(group(if line { "line" } else { "out" })))),
            Op::Restart => {
                self.store.compare(&self.fleet);
                self.fleet = self.store.load(self.now);
                check::consistent(&self.fleet);
            }
            Op::Wait(seconds) => {
                self.now += seconds;
                self.feed(Event::Tick);
            }
        }
    }

    /// Only where it is known to be healthy: nobody knows yet what to do with one that crashes on its way back.
    fn crash(&mut self, n: usize) {
        let its = self.fleet.rollouts.values().filter_map(|r| r.parts.get(&id(&name(n))));
        let phases: Vec<DevicePhase> = its.map(|part| part.phase).collect();
        if phases.contains(&DevicePhase::Healthy) && !phases.contains(&DevicePhase::Recalling) {
            self.machines[n].crash();
            // No gate foresees it.
            for rollout in self.fleet.rollouts.keys() {
                *self.excused.entry(*rollout).or_default() += 1;
            }
        }
    }

    fn start(&mut self, version: u64, plan: usize, all: bool, priority: i32) {
        let target = if all { "all = true" } else { "groups = ['line']" };
        let text = format!("target.{target}\npriority = {priority}\nsilence = '{SILENCE}s'\n{}", PLANS[plan]);
        let number = self.fleet.next_rollout().0;
        self.feed(Event::RolloutStarted(Box::new(rollout(number, version, &text))));
    }

    fn tell(&mut self, pick: Index, word: usize) {
        let Some(id) = self.pick(pick) else { return };
        let reason = || "because".to_owned();
        let approved = Approved { by: "bob".into(), at: self.now, key: None, signature: None };
        let word = match word {
            0 => Word::Pause(reason()),
            1 | 2 => Word::Resume,
            3 => Word::Recall { now: false, reason: reason() },
            4 => Word::Recall { now: true, reason: reason() },
            5 => Word::Cancel(reason()),
            6 => Word::Skip(reason()),
            7 => Word::Retry(vec![]),
            _ if self.fleet.rollouts[&id].status == RolloutStatus::Pending => Word::Approve(approved),
            _ => Word::Release,
        };
        if matches!(word, Word::Resume | Word::Skip(_) | Word::Retry(_)) {
            *self.excused.entry(id).or_default() += 1;
        }
        self.feed(Event::RolloutTold(id, word));
    }

    /// A quiet network: every device says hello, every message arrives, every device works on, for days.
    pub fn settle(&mut self) {
        for round in 0..80 {
            self.now += if round < 60 { 30 } else { 40_000 };
            for n in 0..DEVICES {
                self.hello(n);
                self.work(n);
                while let Some(message) = (!self.wire.is_empty()).then(|| self.wire.remove(0)) {
                    self.deliver(message);
                }
            }
            self.feed(Event::Tick);
        }
    }

    pub fn is_settled(&mut self) {
        let effects = self.feed(Event::Tick);
        assert_eq!(effects, [], "nothing is left to do");
        self.store.compare(&self.fleet);
        for (n, machine) in self.machines.iter().enumerate() {
            let record = &self.fleet.devices[&id(&name(n))];
            // Who was enrolled again and was not told anything since goes on with what it has.
            let Some(wanted) = record.desired(&self.fleet.workspace, Vec::new(), 0) else { continue };
            // Invariant 5: the device holds the newest desired state.
            let have = machine.accepted.as_ref().expect("accepted one");
            assert_eq!((have.generation, &have.slots), (wanted.generation, &wanted.slots), "{}", machine.name);
            assert!(machine.is_done(), "{machine:?} is still at it");
            assert_eq!(record.converged(), !machine.has_failed() && !held(&self.fleet, record), "{machine:?}");
        }
        for rollout in self.fleet.rollouts.values() {
            self.has_ended(rollout);
        }
    }

    /// Nothing is blocked for ever.
    fn has_ended(&self, rollout: &Rollout) {
        let text = || format!("{} is {:?} {}: {:?}", rollout.id, rollout.status, rollout.reason, rollout.parts);
        let waits_for_word = rollout.plan.schedule.prestage && !rollout.released;
        // Whoever goes before it has them all: it is shown, and may change yet.
        let has_nobody = rollout.parts.values().all(|p| p.phase != DevicePhase::Waiting || p.blocked.is_some());
        // Nobody is left who could run a shadow, and those who refused count as if they could.
        let stage = &rollout.stages[rollout.stage];
        let refused = stage.counts.of(DevicePhase::Refused);
        let has_nobody = has_nobody || (!stage.may_switch && refused > 0 && refused == stage.counts.total());
        assert_ne!(rollout.status, RolloutStatus::Recalling, "{}", text());
        assert!(rollout.status != RolloutStatus::Running || waits_for_word || has_nobody, "{}", text());
        for part in rollout.parts.values() {
            let phase = part.phase;
            assert!(!phase.is_updating() || part.held, "{}", text());
            assert!(!matches!(phase, DevicePhase::Recalling | DevicePhase::Silent), "{}", text());
            let forgotten = phase == DevicePhase::Waiting && part.blocked.is_none();
            assert!(!forgotten || rollout.status != RolloutStatus::Completed, "{}", text());
        }
    }
}

fn held(fleet: &Fleet, device: &Device) -> bool {
    let waits =
        |slot| fleet.rollouts.get(slot).and_then(|rollout| rollout.parts.get(&device.id)).is_some_and(|p| p.held);
    device.slots.values().any(|want| waits(&want.rollout))
}
