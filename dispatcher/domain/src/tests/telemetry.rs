//! What devices measure, and who is told.

use muster_proto::id::Digest;
use muster_proto::report::{
    LATENCY_BOUNDS_US, OutputSketch, Phase, ShadowWindow, SlotWindow, SlotWindow2, TelemetryWindow, Vitals,
};

use super::bench::{Bench, LINE, digest, id, rollout_into};
use crate::rollout::evidence::{Gate, GateReading, Usual};
use crate::{Effect, Event, RolloutId};

const GATES: &str = "target.groups = ['line']
    stages = [{ size = '100%', soak = '60s', gates = { error_rate = '5%', min_readings = 1 } }]";
const SHADOW: &str = "target.groups = ['line']
    stages = [{ size = '100%', soak = '60s', gates.agreement = '90%', shadow = { for = '1h' } }]";

/// A hundred inferences of a version, so many of which failed.
fn window(version: u64, errors: u64) -> TelemetryWindow {
    let mut latency = vec![0; LATENCY_BOUNDS_US.len() + 1];
    latency[6] = 100;
    let slot = "digits".parse().unwrap();
    let counts =
        SlotWindow { slot, digest: digest(version), ok: 100 - errors, errors, rejected: 0, latency, queue_peak: 0 };
    let outputs = OutputSketch { top1: vec![10, 90], confidence: vec![] };
    let vitals = Vitals { rss_bytes: 1000, temperature_millicelsius: Some(40_000), ..Vitals::default() };
    let slots = vec![SlotWindow2 { window: counts, outputs }];
    TelemetryWindow { incarnation: 1, id: 1, started_at: 0, length_ms: 60_000, slots, shadows: vec![], vitals }
}

fn measures(bench: &mut Bench, name: &str, window: TelemetryWindow) -> Vec<Effect> {
    bench.now += 15;
    bench.feed(Event::Measured { device: id(name), window: Box::new(window) })
}

fn usual(bench: &Bench, name: &str, version: u64) -> Usual {
    bench.fleet.devices[&id(name)].usual_of(&"digits".parse().unwrap(), digest(version))
}

fn reading(bench: &Bench, number: u64, gate: Gate) -> GateReading {
    let readings = bench.fleet.rollouts[&RolloutId(number)].readings(0);
    readings.into_iter().find(|reading| reading.gate == gate).expect("is asked")
}

/// Devices with version 1 proven and measured.
fn measured(count: usize) -> Bench {
    let mut bench = Bench::line(count);
    bench.start(1, 1, LINE);
    for n in 0..count {
        bench.obeys(&format!("d{n}"));
        (0..4).for_each(|_| drop(measures(&mut bench, &format!("d{n}"), window(1, 0))));
    }
    bench
}

#[test]
fn what_is_usual_is_learnt_of_versions_that_proved_healthy_only() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.says("d0", Phase::Active, Some(1));
    measures(&mut bench, "d0", window(1, 0));
    assert_eq!(usual(&bench, "d0", 1), Usual::default(), "it is on trial");
    bench.obeys("d0");
    measures(&mut bench, "d0", window(1, 2));
    let learnt = usual(&bench, "d0", 1);
    assert_eq!((learnt.windows, learnt.error_rate, learnt.rss_bytes, learnt.celsius), (1, 0.02, 1000.0, Some(40.0)));
    measures(&mut bench, "d0", window(7, 0));
    assert_eq!(usual(&bench, "d0", 1), learnt, "somebody else's figures");
    assert_eq!(usual(&bench, "d0", 7), Usual::default());
}

#[test]
fn what_was_usual_before_is_kept_until_two_later_versions_proved_well() {
    let mut bench = measured(1);
    for number in [2, 3] {
        bench.start(number, number, LINE);
        bench.obeys("d0");
        measures(&mut bench, "d0", window(number, 1));
        let slot = "digits".parse().unwrap();
        let before = bench.fleet.devices[&id("d0")].usual_before(&slot, digest(number));
        assert_eq!(before, usual(&bench, "d0", number - 1), "what version {number} is held against");
        assert!(before.windows > 0);
    }
    assert_eq!(usual(&bench, "d0", 1), Usual::default());
    bench.roll_back(3);
    bench.obeys("d0");
    measures(&mut bench, "d0", window(2, 1));
    let slot = "digits".parse().unwrap();
    let device = &bench.fleet.devices[&id("d0")];
    assert_eq!(device.usual_before(&slot, digest(9)), usual(&bench, "d0", 2), "the one that runs again");
}

/// A version that is proven would else be held against itself.
#[test]
fn a_version_is_held_against_the_one_before_even_after_it_proved_healthy() {
    let mut bench = measured(1);
    bench.start(2, 2, GATES);
    bench.says("d0", Phase::Active, Some(2));
    measures(&mut bench, "d0", window(2, 50));
    let first = reading(&bench, 2, Gate::ErrorRate);
    assert!(first.value.is_some_and(|value| value > 0.2), "{first:?}");
    bench.obeys("d0");
    for _ in 0..20 {
        bench.now += 60;
        measures(&mut bench, "d0", window(2, 50));
    }
    let later = reading(&bench, 2, Gate::ErrorRate);
    assert!(later.n > first.n, "{later:?}");
    assert!(later.value.is_some_and(|value| value > 0.2), "{later:?}");
}

#[test]
fn readings_go_to_the_rollouts_of_their_slot_and_version() {
    let mut bench = measured(2);
    bench.begin(rollout_into("faces", 2, 2, GATES));
    bench.start(3, 3, GATES);
    bench.says("d0", Phase::Active, Some(3));
    for (version, want) in [(3, 1), (1, 1), (2, 1), (3, 2)] {
        measures(&mut bench, "d0", window(version, 0));
        assert_eq!(reading(&bench, 3, Gate::ErrorRate).n, want, "version {version}");
    }
    assert_eq!(reading(&bench, 2, Gate::ErrorRate).n, 0, "another slot");
}

#[test]
fn a_device_that_another_rollout_has_says_nothing_for_or_against_this_one() {
    let mut bench = measured(2);
    bench.start(2, 2, GATES);
    let known = bench.fleet.rollouts[&RolloutId(2)].stages.clone();
    bench.start(3, 3, "priority = 3\ntarget.devices = ['d1']\nstages = [{ size = '100%', soak = '60s' }]");
    let without = bench.fleet.rollouts[&RolloutId(2)].stages.clone();
    assert_ne!(known, without, "d1 is the other one's");
    measures(&mut bench, "d1", window(1, 90));
    let evidence = |stages: &[crate::rollout::StageState]| stages[0].evidence.clone();
    assert_eq!(evidence(&bench.fleet.rollouts[&RolloutId(2)].stages), evidence(&without));
    measures(&mut bench, "d0", window(1, 90));
    assert_ne!(evidence(&bench.fleet.rollouts[&RolloutId(2)].stages), evidence(&without), "d0 is still on the way");
}

#[test]
fn what_a_shadow_did_goes_to_the_rollout_of_its_version() {
    let mut bench = measured(1);
    bench.start(2, 2, SHADOW);
    bench.says("d0", Phase::Staged, Some(1));
    let shadow = |digest: Digest| ShadowWindow {
        slot: "digits".parse().unwrap(),
        digest,
        compared: 40,
        agreed: 39,
        failed: 1,
        skipped: 2,
        confidence_shift: vec![0; 20],
        latency: vec![],
    };
    for (of, want) in [(digest(7), 0), (digest(2), 40), (digest(2), 80)] {
        measures(&mut bench, "d0", TelemetryWindow { shadows: vec![shadow(of)], ..window(1, 0) });
        let seen = &bench.fleet.rollouts[&RolloutId(2)].stages[0].evidence.shadow;
        assert_eq!(seen.compared, want);
    }
}

#[test]
fn what_is_usual_is_stored_often_enough_but_not_with_every_window() {
    let mut bench = measured(1);
    let mut saves = 0;
    for _ in 0..100 {
        saves += measures(&mut bench, "d0", window(1, 0)).iter().filter(|e| matches!(e, Effect::SaveDevice(_))).count();
    }
    assert!((5..=12).contains(&saves), "{saves}");
    let stored = bench.store.load(bench.now);
    let known = stored.devices[&id("d0")].usual_of(&"digits".parse().unwrap(), digest(1));
    assert!(known.windows >= 90, "{}", known.windows);
}

#[test]
fn figures_of_unknown_devices_are_nothing() {
    let mut bench = measured(1);
    let known = bench.fleet.clone();
    assert_eq!(measures(&mut bench, "nobody", window(1, 0)), []);
    assert_eq!(bench.fleet, known);
}
