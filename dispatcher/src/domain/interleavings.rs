//! Random interleavings: devices that come and go, messages lost, repeated and out of order, versions
//! that fail. After every event the invariants hold, and once the network is quiet all converges.

use std::collections::BTreeMap;

use muster_proto::desired::Desired;
use muster_proto::id::Generation;
use muster_proto::report::{DeviceReport, Phase};
use proptest::prelude::*;

use super::fleet::step;
use super::tests::{device, fleet, group, id, report, rollout, slot_report};
use super::*;

const DEVICES: usize = 5;
/// Versions that no device can run.
fn is_bad(target: &str) -> bool {
    ["digits/3/manifest", "digits/6/manifest"].contains(&target)
}

#[derive(Debug, Clone)]
enum Op {
    Hello(usize),
    Gone(usize),
    /// The device comes one phase further and reports.
    Work(usize),
    /// One message on the wire arrives, and stays if it is repeated.
    Deliver {
        pick: usize,
        again: bool,
    },
    Lose(usize),
    Start {
        version: u64,
        to_all: bool,
        canary: u32,
        max_in_flight: u32,
        max_failures: u32,
    },
    Cancel(u64),
    Move(usize, bool),
    Remove(usize),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..DEVICES;
    prop_oneof![
        3 => who.clone().prop_map(Op::Hello),
        1 => who.clone().prop_map(Op::Gone),
        8 => who.clone().prop_map(Op::Work),
        12 => (any::<prop::sample::Index>(), prop::bool::weighted(0.2))
            .prop_map(|(pick, again)| Op::Deliver { pick: pick.index(1 << 20), again }),
        2 => any::<prop::sample::Index>().prop_map(|pick| Op::Lose(pick.index(1 << 20))),
        2 => (1u64..7, any::<bool>(), 0u32..3, 1u32..4, 0u32..2).prop_map(
            |(version, to_all, canary, max_in_flight, max_failures)| Op::Start {
                version, to_all, canary, max_in_flight, max_failures
            }
        ),
        1 => (1u64..6).prop_map(Op::Cancel),
        1 => (who.clone(), any::<bool>()).prop_map(|(d, inside)| Op::Move(d, inside)),
        1 => who.prop_map(Op::Remove),
        1 => (1u64..900).prop_map(Op::Wait),
    ]
}

#[derive(Debug, Clone)]
enum Wire {
    Down(usize, Box<Desired>),
    Up(Box<DeviceReport>),
}

/// A device as simple as one can be: it accepts newer generations, works through the phases, remembers what answers.
#[derive(Debug, Default, Clone)]
struct Machine {
    accepted: Option<Desired>,
    phase: Option<Phase>,
    active: Option<u64>,
    last_report: u64,
}

struct World {
    fleet: Fleet,
    machines: Vec<Machine>,
    wire: Vec<Wire>,
    now: u64,
    generations: BTreeMap<muster_proto::id::DeviceId, Generation>,
}

fn name(n: usize) -> String {
    format!("d{n}")
}

impl World {
    fn new() -> Self {
        let mut world = World {
            fleet: fleet(),
            machines: vec![Machine::default(); DEVICES],
            wire: vec![],
            now: 1,
            generations: BTreeMap::new(),
        };
        for n in 0..DEVICES {
            world.feed(Event::Enrolled(Box::new(device(&name(n), &["line"]))));
        }
        world
    }

    fn feed(&mut self, event: Event) {
        let effects = step(&mut self.fleet, event.clone(), self.now);
        self.check_twice(event);
        self.check();
        for effect in effects {
            if let Effect::PublishDesired { device, desired } = effect {
                let n = (0..DEVICES).find(|n| name(*n) == device.as_str()).expect("one of ours");
                self.wire.push(Wire::Down(n, desired));
            }
        }
    }

    /// Invariant 6.
    fn check_twice(&mut self, event: Event) {
        let mut again = self.fleet.clone();
        step(&mut again, event.clone(), self.now);
        assert_eq!(again, self.fleet, "twice: {event:?}");
    }

    fn check(&mut self) {
        for device in self.fleet.devices.values() {
            let before = self.generations.insert(device.id.clone(), device.generation);
            // Invariant 3.
            assert!(before.unwrap_or_default() <= device.generation, "{} went back", device.id);
        }
        for rollout in self.fleet.rollouts.values() {
            let updating = rollout.devices.values().filter(|p| p.phase.in_flight()).count();
            let failed = rollout.count(DevicePhase::Failed) as usize;
            // Invariant 8: whoever is silent has left the wave, but is within the budget.
            assert!(updating + failed <= (rollout.max_failures + rollout.max_in_flight) as usize, "{rollout:?}");
            for (device, progress) in &rollout.devices {
                let slot = self.fleet.devices[device].slots.get(&rollout.slot);
                // Who is in flight has been assigned exactly that.
                assert!(!progress.phase.in_flight() || slot.is_some_and(|a| a.rollout == rollout.id));
            }
        }
    }

    fn hello(&mut self, n: usize) {
        let generation = self.machines[n].accepted.as_ref().map(|d| d.generation).unwrap_or_default();
        self.feed(Event::Online { device: id(&name(n)), generation });
    }

    fn send_report(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        let Some(desired) = machine.accepted.clone() else { return };
        machine.last_report += 1;
        let phase = machine.phase.unwrap_or(Phase::Offered);
        let slots = slot_report(&desired, phase, machine.active);
        let report = report(&name(n), machine.last_report, desired.generation.0, slots);
        self.wire.push(Wire::Up(Box::new(report)));
    }

    fn work(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        let Some(slot) = machine.accepted.as_ref().and_then(|d| d.slots.first().cloned()) else { return };
        let version = slot.target.split('/').nth(1).and_then(|v| v.parse().ok()).expect("a version");
        machine.phase = match machine.phase {
            None => Some(Phase::Offered),
            Some(Phase::Offered) => Some(Phase::Fetching),
            Some(Phase::Fetching) => Some(Phase::Verified),
            Some(Phase::Verified) if is_bad(&slot.target) => Some(Phase::Failed),
            Some(Phase::Verified) => Some(Phase::Staged),
            Some(Phase::Staged) => {
                machine.active = Some(version);
                Some(Phase::Active)
            }
            Some(Phase::Active) => Some(Phase::Healthy),
            done => done,
        };
        self.send_report(n);
    }

    fn deliver(&mut self, message: Wire) {
        match message {
            Wire::Up(report) => self.feed(Event::ReportArrived(report)),
            Wire::Down(n, desired) => {
                let machine = &mut self.machines[n];
                let newest = machine.accepted.as_ref().map(|d| d.generation).unwrap_or_default();
                if desired.generation > newest {
                    let same = machine.accepted.as_ref().is_some_and(|d| d.slots == desired.slots);
                    machine.phase = if same { machine.phase } else { None };
                    machine.accepted = Some(*desired);
                }
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Hello(n) => self.hello(n),
            Op::Gone(n) => self.feed(Event::Offline(id(&name(n)))),
            Op::Work(n) => self.work(n),
            Op::Deliver { pick, again } if !self.wire.is_empty() => {
                let at = pick % self.wire.len();
                let message = if again { self.wire[at].clone() } else { self.wire.swap_remove(at) };
                self.deliver(message);
            }
            Op::Lose(pick) if !self.wire.is_empty() => {
                let at = pick % self.wire.len();
                self.wire.swap_remove(at);
            }
            Op::Deliver { .. } | Op::Lose(_) => {}
            Op::Start { version, to_all, canary, max_in_flight, max_failures } => {
                let audience = if to_all { Audience::All } else { Audience::Group { group: group("line") } };
                let number = self.fleet.next_rollout().0;
                let started = Rollout { canary, max_in_flight, max_failures, ..rollout(number, version, audience) };
                self.feed(Event::RolloutStarted(Box::new(started)));
            }
            Op::Cancel(number) => self.feed(Event::RolloutCancelled(RolloutId(number))),
            Op::Move(n, inside) => {
                let groups = if inside { [group("line")].into() } else { Default::default() };
                self.feed(Event::GroupsChanged { device: id(&name(n)), labels: BTreeMap::new(), groups });
            }
            Op::Remove(n) => {
                // The record goes and the machine enrols again with what it has on disk.
                self.feed(Event::Removed(id(&name(n))));
                self.generations.remove(&id(&name(n)));
                self.feed(Event::Enrolled(Box::new(device(&name(n), &["line"]))));
            }
            Op::Wait(seconds) => {
                self.now += seconds;
                self.feed(Event::Tick);
            }
        }
    }

    /// A quiet network: every device says hello, every message arrives, every device works on.
    fn settle(&mut self) {
        for _ in 0..(12 * DEVICES) {
            self.now += 1;
            for n in 0..DEVICES {
                self.hello(n);
                while let Some(message) = (!self.wire.is_empty()).then(|| self.wire.remove(0)) {
                    self.deliver(message);
                }
                self.work(n);
            }
            self.feed(Event::Tick);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_interleavings_converge(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.settle();
        for n in 0..DEVICES {
            let record = &world.fleet.devices[&id(&name(n))];
            let wanted = record.desired(&world.fleet.workspace, 0);
            let have = world.machines[n].accepted.as_ref();
            if let Some(wanted) = wanted {
                // Invariant 5: the device holds the newest desired state.
                prop_assert_eq!(&have.expect("accepted one").slots, &wanted.slots);
                let bad = wanted.slots.iter().any(|s| is_bad(&s.target));
                prop_assert!(bad || record.converged(), "{} did not converge", record.id);
            }
        }
        for record in world.fleet.devices.values() {
            let newest = world.fleet.rollouts.values().rfind(|r| r.status.offers() && world.fleet.invites(&r.audience, record));
            let has = record.slots.values().map(|a| a.rollout).max();
            prop_assert!(newest.is_none_or(|r| has >= Some(r.id)), "{} has {has:?}, not {newest:?}", record.id);
        }
        for rollout in world.fleet.rollouts.values() {
            prop_assert!(rollout.status != RolloutStatus::Running, "{} hangs: {:?}", rollout.id, rollout.devices);
            if rollout.status == RolloutStatus::Completed {
                prop_assert!(rollout.devices.values().all(|p| p.phase.is_final()));
            }
        }
    }
}
