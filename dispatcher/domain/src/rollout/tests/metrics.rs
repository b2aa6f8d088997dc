use muster_proto::id::DeviceId;

use super::bench::member;
use super::{Bench, device};
use crate::rollout::evidence::{Gate, GateState, Reading, Usual};
use crate::rollout::{DevicePhase, Event, Member, RolloutStatus, Word};

/// A window of a device: how its figures differ from the usual ones.
#[derive(Clone, Copy, Default)]
struct Odd {
    errors: u64,
    slower: f64,
    larger: f64,
    hotter: f64,
    outputs: bool,
}

fn usual() -> Usual {
    Usual { windows: 20, error_rate: 0.0, p95_us: 1_000.0, rss_bytes: 1e8, celsius: Some(50.0) }
}

fn window(odd: Odd) -> Reading {
    Reading {
        ok: 100 - odd.errors,
        errors: odd.errors,
        p95_us: Some(1_000.0 * (1.0 + odd.slower)),
        rss_bytes: 1e8 * (1.0 + odd.larger),
        celsius: Some(50.0 + odd.hotter),
        outputs: if odd.outputs { vec![5, 95] } else { vec![50, 50] },
        confidence: if odd.outputs { vec![100] } else { [vec![0; 9], vec![100]].concat() },
        shadow: None,
    }
}

fn measure(bench: &mut Bench, device: &DeviceId, of_this: bool, reading: Reading) {
    let event = Event::Measured { device: device.clone(), of_this, reading: Box::new(reading), usual: usual() };
    bench.tell(event);
}

/// All devices send a window every ten seconds.
fn run_with_windows(bench: &mut Bench, seconds: u64, odd: Odd) {
    for _ in 0..seconds / 10 {
        bench.run(10);
        let devices: Vec<(DeviceId, bool)> = bench.toys.iter().map(|(d, toy)| (d.clone(), toy.has_it)).collect();
        for (device, has_it) in devices {
            measure(bench, &device, has_it, window(if has_it { odd } else { Odd::default() }));
        }
    }
}

fn fleet(gate: &str, devices: usize) -> Bench {
    let text = format!(
        "stages = [
            {{ name = 'canary', size = 10, soak = '60s', timeout = '10m', gates = {{ {gate} }} }},
            {{ name = 'everyone', size = '100%', soak = '5s' }},
        ]"
    );
    let comparable = |n| Member { comparable: true, ..member(&device(n)) };
    Bench::start_with(&text, 1, (0..devices).map(comparable).collect())
}

const GATES: [(&str, Gate, Odd); 6] = [
    ("error_rate = '2%'", Gate::ErrorRate, Odd { errors: 30, slower: 0.0, larger: 0.0, hotter: 0.0, outputs: false }),
    ("p95 = 0.3", Gate::P95, Odd { errors: 0, slower: 1.5, larger: 0.0, hotter: 0.0, outputs: false }),
    ("memory = 0.3", Gate::Memory, Odd { errors: 0, slower: 0.0, larger: 1.5, hotter: 0.0, outputs: false }),
    ("temperature = 5", Gate::Temperature, Odd { errors: 0, slower: 0.0, larger: 0.0, hotter: 25.0, outputs: false }),
    ("drift = 0.25", Gate::Drift, Odd { errors: 0, slower: 0.0, larger: 0.0, hotter: 0.0, outputs: true }),
    ("confidence = '20%'", Gate::Confidence, Odd { errors: 0, slower: 0.0, larger: 0.0, hotter: 0.0, outputs: true }),
];

#[test]
fn a_version_that_is_worse_breaches_each_metric_gate() {
    for (text, gate, odd) in GATES {
        let mut bench = fleet(text, 30);
        run_with_windows(&mut bench, 300, odd);
        assert_eq!(bench.rollout.status, RolloutStatus::Paused, "{text}");
        let reading = bench.rollout.readings(0).remove(0);
        assert_eq!((reading.gate, reading.state), (gate, GateState::Breached), "{}", reading.describe());
    }
}

#[test]
fn a_version_that_is_as_before_passes_each_metric_gate() {
    for (text, ..) in GATES {
        let mut bench = fleet(text, 30);
        run_with_windows(&mut bench, 300, Odd::default());
        assert_eq!(bench.rollout.status, RolloutStatus::Completed, "{text}: {:?}", bench.rollout.readings(0));
    }
}

#[test]
fn a_metric_gate_without_data_waits_then_pauses_and_never_passes() {
    for (text, ..) in GATES {
        let mut bench = fleet(text, 30);
        bench.run(120);
        assert_eq!((bench.rollout.status, bench.rollout.stage), (RolloutStatus::Running, 0), "{text}");
        bench.run_to(RolloutStatus::Paused);
        assert!(
            bench.rollout.reason.starts_with("stage canary waited 600 s for its gates"),
            "{}",
            bench.rollout.reason
        );
        // The same once more, after somebody said to go on.
        bench.say(Word::Resume);
        bench.run(599);
        assert_eq!((bench.rollout.status, bench.rollout.stage), (RolloutStatus::Running, 0), "{text}");
        bench.run(2);
        assert_eq!(bench.rollout.status, RolloutStatus::Paused, "{text}");
    }
}

#[test]
fn a_metric_gate_is_not_asked_where_nothing_was_there_before() {
    for (text, gate, _) in GATES {
        let text = format!("stages = [{{ size = '100%', soak = '5s', gates = {{ {text} }} }}]");
        let mut bench = Bench::start(&text, 5);
        bench.run_to(RolloutStatus::Completed);
        assert_eq!(bench.rollout.readings(0)[0].state, GateState::NotAsked, "{gate:?}");
    }
}

#[test]
fn three_devices_with_one_odd_window_do_not_make_a_gate_flap() {
    for (text, _, odd) in GATES {
        let mut bench = fleet(text, 3);
        bench.run_until(|bench| bench.count(DevicePhase::Active) == 3);
        for (n, odd) in [(0, odd), (1, Odd::default()), (2, Odd::default())] {
            measure(&mut bench, &device(n), true, window(odd));
        }
        assert_eq!(bench.rollout.status, RolloutStatus::Running, "{text}: {:?}", bench.rollout.readings(0));
    }
}

#[test]
fn three_devices_can_still_pass_by_giving_more_windows_each() {
    for (text, ..) in GATES {
        let mut bench = fleet(text, 3);
        // Long enough for windows of the version before to come in.
        bench.fetch = 30;
        run_with_windows(&mut bench, 500, Odd::default());
        assert_eq!(bench.rollout.status, RolloutStatus::Completed, "{text}: {:?}", bench.rollout.readings(0));
    }
}

#[test]
fn what_moves_the_whole_fleet_is_not_held_against_the_version() {
    let mut bench = fleet("p95 = 0.3", 40);
    let hot_day = Odd { slower: 0.8, ..Odd::default() };
    for _ in 0..20 {
        bench.run(10);
        let devices: Vec<(DeviceId, bool)> = bench.toys.iter().map(|(d, toy)| (d.clone(), toy.has_it)).collect();
        devices.iter().for_each(|(device, has_it)| measure(&mut bench, device, *has_it, window(hot_day)));
    }
    assert_eq!(bench.rollout.status, RolloutStatus::Completed, "{}", bench.rollout.reason);
}

#[test]
fn windows_without_inferences_use_nothing_up() {
    let mut bench = fleet("p95 = 0.3", 30);
    bench.run_until(|bench| bench.count(DevicePhase::Active) == 10);
    let idle = Reading { ok: 1, p95_us: Some(9_000.0), rss_bytes: 1e8, ..Reading::default() };
    for _ in 0..5 {
        bench.run(10);
        bench.offered().iter().for_each(|device| measure(&mut bench, device, true, idle.clone()));
    }
    assert!(bench.offered().iter().all(|device| bench.part(device).readings == 0));
    run_with_windows(&mut bench, 200, Odd::default());
    assert_eq!(bench.rollout.status, RolloutStatus::Completed, "{:?}", bench.rollout.readings(0));
}

#[test]
fn one_device_cannot_speak_for_the_others() {
    let mut bench = fleet("p95 = 0.3", 30);
    bench.run_until(|bench| bench.count(DevicePhase::Active) == 10);
    let chatty = bench.offered()[0].clone();
    for _ in 0..500 {
        measure(&mut bench, &chatty, true, window(Odd { slower: 2.0, ..Odd::default() }));
    }
    assert_eq!(bench.rollout.readings(0)[0].n, 1, "its soak time has hardly begun");
}

#[test]
fn what_shows_after_the_soak_time_is_still_found_on_those_that_have_it_longest() {
    let text = "
        rate = { in_flight = 10 }
        stages = [
            { size = 10, soak = '60s', gates = { p95 = 0.3 } },
            { size = '100%', soak = '120s' },
        ]";
    let comparable = |n| Member { comparable: true, ..member(&device(n)) };
    let mut bench = Bench::start_with(text, 1, (0..200).map(comparable).collect());
    while bench.rollout.stage == 0 {
        run_with_windows(&mut bench, 10, Odd::default());
    }
    run_with_windows(&mut bench, 600, Odd { slower: 3.0, ..Odd::default() });
    assert_eq!(bench.rollout.status, RolloutStatus::Paused, "{:?}", bench.rollout.readings(0));
    assert!(bench.harmed() < 50, "{} of 200 have it", bench.harmed());
}

#[test]
fn after_a_resume_the_same_devices_are_measured_afresh() {
    let mut bench = fleet("p95 = 0.3", 30);
    run_with_windows(&mut bench, 300, Odd { slower: 1.5, ..Odd::default() });
    assert_eq!(bench.rollout.status, RolloutStatus::Paused);
    bench.say(Word::Resume);
    run_with_windows(&mut bench, 300, Odd::default());
    assert_eq!(bench.rollout.status, RolloutStatus::Completed, "{:?}", bench.rollout.readings(0));
}
