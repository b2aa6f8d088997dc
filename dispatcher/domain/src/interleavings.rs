//! Random interleavings: devices that come and go, messages lost, repeated and out of order, versions that fail, operators
//! who change their minds, dispatchers that start anew from what was stored. After every event what always holds is
//! checked, and once the network is quiet all converges.

mod machine;
mod world;

use proptest::prelude::*;
use proptest::sample::Index;

use world::{DEVICES, World};

/// The plans that operators start, by number; each for the group `line` unless it says otherwise.
const PLANS: [&str; 9] = [
    "rate.in_flight = 2\nstages = [{ size = '100%', soak = '60s', gates.failures = 0 }]",
    "rate.in_flight = 1\nstages = [{ size = 1, soak = '60s', gates = { failures = 0, on_breach = 'abort' } }, { size = '100%', soak = '60s', gates = { failures = 1, on_breach = 'abort' } }]",
    "target.snapshot = true\nrate.in_flight = 3\nstages = [{ size = '50%', soak = '60s', gates.failures = 1 }, { size = '100%', soak = '60s', gates.failures = 1 }]",
    "schedule = { prestage = true, switch = 'on_word' }\nrate.in_flight = 2\nstages = [{ size = 2, soak = '60s', gates.failures = 0 }, { size = '100%', soak = '60s', gates.failures = 0 }]",
    "schedule.prestage = true\nrate.in_flight = 2\nstages = [{ size = '100%', soak = '60s', gates.failures = 1 }]",
    "retry = { attempts = 2, wait = '30s' }\nrate.in_flight = 2\nstages = [{ size = '100%', soak = '60s', gates.failures = 1 }]",
    "rate.in_flight = 2\nstages = [{ size = 1, soak = '60s', gates = { failures = 0, agreement = '90%' }, shadow = { for = '120s' } }, { size = '100%', soak = '60s', gates.failures = 0 }]",
    "approval.need = 1\nrate.in_flight = 2\nstages = [{ size = '100%', soak = '60s', gates.failures = 0 }]",
    "target.except.groups = ['out']\nschedule.veto = '1h'\nrate.in_flight = 2\nstages = [{ size = '100%', soak = '60s', gates.failures = 0 }]",
];

/// Something that happens.
#[derive(Debug, Clone)]
pub enum Op {
    Hello(usize),
    Gone(usize),
    /// The device comes one phase further and reports.
    Work(usize),
    /// A version that was healthy crashes.
    Crash(usize),
    /// The device's store is made anew.
    Wipe(usize),
    /// One message on the wire arrives, and stays if it is repeated.
    Deliver(Index, bool),
    Lose(Index),
    Start {
        version: u64,
        plan: usize,
        all: bool,
        priority: i32,
    },
    /// Somebody says something on one of the rollouts.
    Tell(Index, usize),
    Extend(Index),
    /// The device is in these groups.
    Move(usize, bool, bool),
    Remove(usize),
    DeleteGroup(bool),
    /// The dispatcher starts from what was stored.
    Restart,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let who = || 0..DEVICES;
    prop_oneof![
        60 => who().prop_map(Op::Work),
        60 => (any::<Index>(), prop::bool::weighted(0.2)).prop_map(|(pick, again)| Op::Deliver(pick, again)),
        30 => who().prop_map(Op::Hello),
        10 => who().prop_map(Op::Gone),
        4 => who().prop_map(Op::Crash),
        2 => who().prop_map(Op::Wipe),
        10 => any::<Index>().prop_map(Op::Lose),
        14 => (1u64..8, 0..PLANS.len(), any::<bool>(), 0i32..3).prop_map(
            |(version, plan, all, priority)| Op::Start { version, plan, all, priority }
        ),
        20 => (any::<Index>(), 0usize..world::WORDS).prop_map(|(pick, word)| Op::Tell(pick, word)),
        2 => any::<Index>().prop_map(Op::Extend),
        6 => (who(), any::<bool>(), any::<bool>()).prop_map(|(n, inside, out)| Op::Move(n, inside, out)),
        3 => who().prop_map(Op::Remove),
        1 => any::<bool>().prop_map(Op::DeleteGroup),
        4 => Just(Op::Restart),
        8 => (1u64..900).prop_map(Op::Wait),
    ]
}

proptest! {
    // `PROPTEST_CASES` asks for more.
    #[test]
    fn random_interleavings_converge(ops in prop::collection::vec(op(), 1..160)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.settle();
        world.is_settled();
    }
}
