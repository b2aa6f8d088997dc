//! Agent cores and the dispatcher's core in a deterministic world: many seeds of everything at once, and named scenarios.
//!
//! `MUSTER_SEEDS` says how many seeds are run and `MUSTER_SEED` which is the first. A seed that fails is run once more
//! with a trace, and the command that repeats it is printed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use muster_dispatcher::domain::DevicePhase;
use muster_proto::code::Code;
use muster_proto::report::{Phase, SlotReport};
use muster_tests::world::World;
use muster_tests::world::authority::YEAR_S;
use muster_tests::world::catalogue::{Catalogue, VERSIONS};
use muster_tests::world::engine::Character;
use muster_tests::world::faults::Fault;
use muster_tests::world::setup::Setup;

/// Longer than any update takes in a calm world, in milliseconds.
const LONG_MS: u64 = 3600 * 1000;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default,
    }
}

/// Runs `story`; where it fails, once more with a trace.
fn told(test: &str, seed: u64, setup: Setup, story: impl Fn(&mut World)) {
    let run = |traced| {
        let mut world = World::new(seed, setup.clone(), traced);
        story(&mut world);
    };
    if let Err(breach) = catch_unwind(AssertUnwindSafe(|| run(false))) {
        eprintln!("\nseed {seed} fails. To run it again:");
        eprintln!("    MUSTER_SEED={seed} MUSTER_SEEDS=1 cargo test --release --workspace --test simulation {test}\n");
        run(true);
        eprintln!("it did not fail again: the world is not deterministic");
        resume_unwind(breach);
    }
}

/// A world in which nothing goes wrong of itself and everything is registered.
fn calm(test: &str, devices: usize, story: impl Fn(&mut World)) {
    told(test, number("MUSTER_SEED", 1), Setup::calm(devices), |world| {
        world.register(VERSIONS.len());
        story(world);
    });
}

fn slot(world: &World, i: usize, slot: &str) -> SlotReport {
    let record = &world.cloud.fleet.devices[&world.devices[i].id];
    let report = record.report.as_ref().expect("it has reported");
    report.slots.iter().find(|s| s.slot.as_str() == slot).cloned().expect("there is such a slot")
}

fn answers(world: &World, i: usize, slot: &str) -> Option<String> {
    let engine = &world.devices[i].process.as_ref()?.engine;
    let digest = engine.answers.get(&slot.parse().expect("valid"))?;
    Some(Catalogue::shared().by_digest(digest)?.target.replace("/manifest", ""))
}

fn set_character(world: &mut World, version: (&str, u64), character: Character) {
    world.characters.insert(Catalogue::shared().get(version).digest, character);
}

/// Everything at once. Every invariant is checked after every event, and liveness at the end.
#[test]
fn mixed_worlds_keep_the_invariants_and_converge() {
    let (first, count) = (number("MUSTER_SEED", 1), number("MUSTER_SEEDS", 300));
    let next = AtomicU64::new(first);
    let events = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    told("mixed_worlds", seed, Setup::mixed(12), |world| {
                        world.run(world.setup.trouble_ms + 1);
                        world.settle();
                        events.fetch_add(world.events, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    println!("{count} seeds from {first}, {} events", events.into_inner());
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let run = || {
        let mut world = World::new(7, Setup::mixed(4), false);
        world.run(world.setup.trouble_ms / 2);
        let starts: Vec<u32> = world.devices.iter().map(|d| d.starts).collect();
        let phases: Vec<String> = world.cloud.fleet.devices.values().map(|d| format!("{:?}", d.report)).collect();
        (world.events, starts, phases)
    };
    assert_eq!(run(), run());
}

/// Invariant 2, for every instant of one update.
#[test]
fn power_may_go_at_every_single_effect_of_an_update() {
    for index_fails in [false, true] {
        let mut after = 0;
        loop {
            let struck = std::cell::Cell::new(true);
            calm("power_may_go", 1, |world| {
                world.roll_out(("digits", 1));
                world.settle();
                world.devices[0].cut_in = Some(after);
                world.devices[0].index_fails = index_fails;
                world.roll_out(("digits", 2));
                world.run_until(LONG_MS, |w| w.devices[0].cut_in.is_none() || w.converged(0).is_ok());
                struck.set(world.devices[0].cut_in.is_none());
                world.devices[0].cut_in = None;
                world.settle();
                assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/2"), "cut after {after} effects");
                assert_eq!(slot(world, 0, "digits").phase, Phase::Healthy);
            });
            if !struck.get() {
                break;
            }
            after += 1;
        }
        assert!(after > 25, "an update has more than {after} effects");
    }
}

#[test]
fn two_slots_are_updated_by_one_desired_state() {
    calm("two_slots", 1, |world| {
        for version in [1, 2] {
            world.roll_out(("digits", version));
            world.roll_out(("faces", version));
            world.settle();
            for model in ["digits", "faces"] {
                assert_eq!(answers(world, 0, model), Some(format!("{model}/{version}")));
            }
        }
        world.roll_out_to(("digits", 1), "spare", &[0]);
        world.settle();
        assert_eq!(answers(world, 0, "spare").as_deref(), Some("digits/1"));
        assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/2"));
    });
}

#[test]
fn a_newer_desired_state_replaces_an_update_in_the_middle_of_its_download() {
    calm("a_newer_desired", 1, |world| {
        world.roll_out(("faces", 1));
        let blob = Catalogue::shared().get(("faces", 1)).manifest.files[0].digest;
        while !world.devices[0].disk.partial.contains_key(&blob) {
            world.run(world.now + 10);
            assert!(world.now < LONG_MS, "the download never begins");
        }
        world.roll_out(("faces", 2));
        world.settle();
        assert_eq!(answers(world, 0, "faces").as_deref(), Some("faces/2"));
        let phases: Vec<DevicePhase> =
            world.cloud.fleet.rollouts.values().flat_map(|r| r.parts.values().map(|p| p.phase)).collect();
        assert_eq!(phases, [DevicePhase::Superseded, DevicePhase::Healthy]);
    });
}

#[test]
fn the_version_before_comes_back_without_a_download() {
    calm("the_version_before", 1, |world| {
        for version in [1, 2, 1] {
            world.roll_out(("digits", version));
            world.settle();
        }
        assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/1"));
        assert_eq!(slot(world, 0, "digits").transfer.fetched, 0);
    });
}

/// Invariant 5.
#[test]
fn a_slot_that_is_taken_away_is_emptied_and_can_come_back() {
    calm("a_slot_that_is_taken_away", 1, |world| {
        world.roll_out(("digits", 1));
        world.roll_out(("faces", 1));
        world.settle();
        world.unassign(0, &"digits".parse().expect("valid"));
        world.settle();
        assert_eq!(answers(world, 0, "digits"), None);
        assert_eq!(answers(world, 0, "faces").as_deref(), Some("faces/1"));
        assert_eq!(slot(world, 0, "digits").phase, Phase::Removed);
        world.roll_out(("digits", 2));
        world.settle();
        assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/2"));
    });
}

/// Invariant 7. Device 1 is one of those that bad versions are bad for.
#[test]
fn a_failed_probe_is_not_repeated_in_the_same_generation() {
    calm("a_failed_probe", 2, |world| {
        world.roll_out(("digits", 1));
        world.settle();
        set_character(world, ("digits", 2), Character::FailsProbe);
        world.roll_out(("digits", 2));
        world.settle();
        for _ in 0..3 {
            world.strike(Fault::Crash(1));
            world.run(world.now + 24 * LONG_MS);
        }
        world.settle();
        let failed = slot(world, 1, "digits");
        assert_eq!((failed.phase, failed.failure.map(|f| f.code)), (Phase::Failed, Some(Code::ProbeMismatch)));
        assert_eq!(answers(world, 1, "digits").as_deref(), Some("digits/1"));
        assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/2"));
        // Somebody asks for it again, in a new generation, and now it is good.
        world.characters.clear();
        world.roll_out(("digits", 2));
        world.settle();
        assert_eq!(answers(world, 1, "digits").as_deref(), Some("digits/2"));
    });
}

#[test]
fn a_version_that_kills_the_process_gives_way_after_the_allowed_ends() {
    for character in [Character::KillsInTrial, Character::KillsOnLoad] {
        for first in [false, true] {
            calm("a_version_that_kills", 2, |world| {
                if !first {
                    world.roll_out(("digits", 1));
                    world.settle();
                }
                set_character(world, ("digits", 2), character);
                world.roll_out(("digits", 2));
                world.settle();
                let failed = slot(world, 1, "digits");
                assert_eq!((failed.phase, failed.failure.map(|f| f.code)), (Phase::Failed, Some(Code::TrialCrashed)));
                assert_eq!(answers(world, 1, "digits").as_deref(), (!first).then_some("digits/1"));
                assert_eq!(world.devices[1].starts, 1 + u32::from(world.devices[1].traits.limits.max_unclean_ends));
                assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/2"));
                world.roll_out(("digits", 3));
                world.settle();
                assert_eq!(answers(world, 1, "digits").as_deref(), Some("digits/3"));
            });
        }
    }
}

/// A version that was never confirmed is nothing to go back to.
#[test]
fn a_killer_that_replaces_a_killer_leads_back_to_what_was_confirmed() {
    calm("a_killer_that_replaces", 2, |world| {
        world.roll_out(("digits", 1));
        world.settle();
        for version in [2, 3] {
            set_character(world, ("digits", version), Character::KillsInTrial);
            world.roll_out(("digits", version));
            let wanted = format!("digits/{version}");
            assert!(world.run_until(LONG_MS, |w| answers(w, 1, "digits").as_deref() == Some(&wanted)));
        }
        world.settle();
        assert_eq!(answers(world, 1, "digits").as_deref(), Some("digits/1"));
    });
}

/// Invariant 3.
#[test]
fn a_replayed_desired_state_changes_nothing() {
    calm("a_replayed", 1, |world| {
        for version in [1, 2, 3] {
            world.roll_out(("digits", version));
            world.settle();
        }
        for _ in 0..20 {
            world.strike(Fault::Replay(0));
            world.run(world.now + 60_000);
            assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/3"));
        }
        world.settle();
    });
}

/// Part of invariant 4: the director alone makes nothing run.
#[test]
fn what_no_publisher_signed_does_not_run_even_if_the_director_asks_for_it() {
    for seed in 1..20 {
        told("what_no_publisher", seed, Setup::calm(1), |world| {
            world.register(VERSIONS.len());
            world.roll_out(("digits", 1));
            world.settle();
            world.strike(Fault::Rogue(0));
            world.run(world.now + 60_000);
            assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/1"));
            world.roll_out(("digits", 2));
            world.settle();
            assert_eq!(answers(world, 0, "digits").as_deref(), Some("digits/2"));
        });
    }
}

/// Invariant 10.
#[test]
fn telemetry_that_nobody_takes_is_dropped_and_counted() {
    let setup = Setup { window_ms: 5 * 60_000, ..Setup::calm(1) };
    told("telemetry_that_nobody", 1, setup, |world| {
        world.register(VERSIONS.len());
        world.roll_out(("digits", 1));
        assert!(world.run_until(LONG_MS, |w| answers(w, 0, "digits").is_some() && w.unsettled().is_none()));
        world.strike(Fault::Cut(0, 12 * LONG_MS));
        world.run(world.now + 11 * LONG_MS);
        let device = &world.devices[0];
        let state = &device.process.as_ref().expect("it runs").state;
        assert!(state.durable().outbox_dropped > 0);
        assert_eq!(state.outbox_size().0, device.traits.limits.outbox.count);
        world.run(world.now + LONG_MS);
        world.settle();
    });
}

#[test]
fn the_directors_keys_change_in_the_middle_of_an_update() {
    let setup = Setup { rotating: true, ..Setup::calm(3) };
    told("the_directors_keys", 1, setup, |world| {
        world.roll_out(("digits", 1));
        world.settle();
        world.roll_out(("faces", 1));
        world.run(world.now + 200);
        world.authority.rotate_director();
        world.roll_out(("digits", 2));
        world.settle();
        world.authority.rotate_director();
        world.authority.rotate_director();
        world.cut_power(0, None);
        world.strike(Fault::Crash(1));
        world.roll_out(("faces", 2));
        world.settle();
        for i in 0..3 {
            assert_eq!(answers(world, i, "digits").as_deref(), Some("digits/2"));
            assert_eq!(answers(world, i, "faces").as_deref(), Some("faces/2"));
        }
    });
}

#[test]
fn a_lost_index_costs_neither_the_model_nor_the_generation() {
    calm("a_lost_index", 2, |world| {
        world.roll_out(("digits", 1));
        world.settle();
        // The wanted version is whole on the disk, and wrong: what is rebuilt has to get over it.
        for (version, character) in
            [(2, Character::FailsProbe), (3, Character::KillsInTrial), (4, Character::KillsOnLoad)]
        {
            set_character(world, ("digits", version), character);
            world.roll_out(("digits", version));
            world.settle();
            let generation = world.devices[1].witness.generation;
            for i in 0..2 {
                world.devices[i].index_fails = true;
                world.cut_power(i, None);
            }
            world.settle();
            assert_eq!(answers(world, 0, "digits"), Some(format!("digits/{version}")));
            assert_eq!(answers(world, 1, "digits").as_deref(), Some("digits/1"));
            assert_eq!(world.devices[1].witness.generation, generation);
        }
    });
}

/// Invariants 5 and 11.
#[test]
fn devices_that_slept_a_year_converge_from_one_message() {
    let setup = Setup { retains: 0, ..Setup::calm(4) };
    told("devices_that_slept", 1, setup, |world| {
        world.register(4);
        for device in &mut world.devices[2..] {
            device.traits.without_clock = true;
        }
        world.roll_out(("digits", 1));
        world.roll_out(("faces", 1));
        world.settle();
        world.sleep(YEAR_S * 1000);
        world.cloud.registered = world.authority.states() - 1;
        for version in [2, 3, 4, 5] {
            world.roll_out(("digits", version));
        }
        for device in &mut world.devices {
            device.witness.desired_states = 0;
        }
        world.settle();
        for i in 0..4 {
            assert_eq!(answers(world, i, "digits").as_deref(), Some("digits/5"));
            assert_eq!(answers(world, i, "faces").as_deref(), Some("faces/1"));
            assert_eq!(world.devices[i].witness.desired_states, 1);
        }
    });
}
