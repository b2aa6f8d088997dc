use super::bench::report;
use super::{Bench, Kind, device};
use crate::rollout::evidence::{Gate, GateState};
use crate::rollout::{DevicePhase, RolloutStatus, Word};

fn state(bench: &Bench, stage: usize, gate: Gate) -> Option<GateState> {
    bench.rollout.readings(stage).iter().find(|reading| reading.gate == gate).map(|reading| reading.state)
}

fn two_stages(gates: &str) -> String {
    format!(
        "stages = [
            {{ name = 'canary', size = 10, soak = '5s', gates = {{ {gates} }} }},
            {{ name = 'everyone', size = '100%', soak = '5s' }},
        ]"
    )
}

#[test]
fn failures_are_a_share_of_devices_and_never_of_fewer_than_the_sample() {
    // (devices that crash of 10 canaries, most, least sample, whether it pauses)
    for (crash, most, sample, pauses) in [
        (1, "'10%'", 10, false),
        (2, "'10%'", 10, true),
        (2, "'10%'", 20, false),
        (1, "0", 10, true),
        (2, "2", 10, false),
        (3, "2", 10, true),
    ] {
        let gates = format!("failures = {most}, min_sample = {sample}");
        let mut bench = Bench::start(&two_stages(&gates), 20);
        for device in bench.offered().into_iter().take(crash) {
            bench.toys.get_mut(&device).unwrap().kind = Kind::Crashes;
        }
        bench.run_until(|bench| bench.rollout.status != RolloutStatus::Running);
        let paused = bench.rollout.status == RolloutStatus::Paused;
        assert_eq!(paused, pauses, "{crash} of 10, at most {most} of {sample}: {}", bench.rollout.reason);
    }
}

/// Of the first devices with an outcome far too many have failed, because a failure comes at once and a success only
/// after the soak time.
#[test]
fn failures_are_a_share_of_the_devices_that_started() {
    let text = "stages = [{ size = '100%', soak = '1h', gates = { failures = '20%', min_sample = 10 } }]";
    let mut bench = Bench::start(text, 100);
    for n in 0..20 {
        bench.tell(report(&device(n), DevicePhase::Failed, None));
    }
    assert_eq!(bench.rollout.status, RolloutStatus::Running);
    bench.tell(report(&device(20), DevicePhase::Failed, None));
    assert_eq!(bench.rollout.reason, "stage 1: failures 21% of 100 started, at most 20%");
}

#[test]
fn what_cannot_or_may_not_take_the_version_is_no_failure() {
    let mut bench = Bench::start(&two_stages("failures = 0"), 20);
    (0..5).for_each(|n| bench.is(n, Kind::Refuses));
    bench.run_to(RolloutStatus::Completed);
    assert_eq!((bench.count(DevicePhase::Refused), bench.count(DevicePhase::Healthy)), (5, 15));
}

#[test]
fn a_rollout_that_everybody_refuses_ends() {
    let mut bench = Bench::start(&two_stages("failures = 0"), 5);
    bench.all_are(Kind::Refuses);
    bench.run_to(RolloutStatus::Completed);
    assert_eq!(bench.count(DevicePhase::Refused), 5);
}

#[test]
fn success_is_asked_at_the_end_of_the_stage() {
    let mut bench = Bench::start(&two_stages("success = '80%'"), 20);
    for device in bench.offered().into_iter().take(3) {
        bench.toys.get_mut(&device).unwrap().kind = Kind::Crashes;
    }
    bench.run_until(|bench| bench.count(DevicePhase::Failed) == 3);
    assert_eq!(bench.rollout.status, RolloutStatus::Running, "the others may still do");
    bench.run_to(RolloutStatus::Paused);
    assert_eq!(bench.rollout.reason, "stage canary: success 70% of 10 decided, at least 80%");
    assert_eq!(bench.rollout.stage, 0);
}

#[test]
fn silence_beyond_its_share_breaches() {
    let mut bench = Bench::start(&format!("silence = '30s'\n{}", two_stages("silence = '20%'")), 30);
    for device in bench.offered().into_iter().take(3) {
        bench.toys.get_mut(&device).unwrap().kind = Kind::Mute;
        bench.connect(&device, false);
    }
    bench.run_to(RolloutStatus::Paused);
    assert_eq!(bench.rollout.reason, "stage canary: silence 30% of 10 started, at most 20%");
}

#[test]
fn a_breach_after_completion_still_counts() {
    let text =
        "stages = [{ size = '100%', soak = '5s', gates = { failures = '20%', min_sample = 1, on_breach = 'abort' } }]";
    let mut bench = Bench::start(text, 10);
    bench.run_to(RolloutStatus::Completed);
    for n in 0..2 {
        bench.tell(report(&device(n), DevicePhase::Failed, None));
    }
    assert_eq!((bench.count(DevicePhase::Healthy), bench.count(DevicePhase::Failed)), (8, 2));
    assert_eq!(bench.rollout.status, RolloutStatus::Completed);
    bench.tell(report(&device(2), DevicePhase::Failed, None));
    assert_eq!(bench.rollout.status, RolloutStatus::Recalling);
}

#[test]
fn a_breach_in_an_earlier_stage_stops_a_later_one() {
    let mut bench = Bench::start(&two_stages("failures = 1"), 40);
    let canaries = bench.offered();
    bench.run_until(|bench| bench.rollout.stage == 1);
    for device in &canaries[..2] {
        bench.tell(report(device, DevicePhase::Failed, None));
    }
    assert_eq!(bench.rollout.status, RolloutStatus::Paused);
    assert_eq!(bench.rollout.reason, "stage canary: 2 failed, at most 1");
}

#[test]
fn resume_excuses_what_was_looked_at_and_nothing_more() {
    let mut bench = Bench::start(&two_stages("failures = 1"), 40);
    let canaries = bench.offered();
    for device in &canaries[..2] {
        bench.tell(report(device, DevicePhase::Failed, None));
    }
    bench.say(Word::Resume);
    assert_eq!(bench.rollout.status, RolloutStatus::Running);
    bench.tell(report(&canaries[2], DevicePhase::Failed, None));
    assert_eq!(bench.rollout.status, RolloutStatus::Running, "one more is allowed again");
    bench.tell(report(&canaries[3], DevicePhase::Failed, None));
    assert_eq!(bench.rollout.status, RolloutStatus::Paused);
}

#[test]
fn an_excused_failure_that_fails_again_is_no_longer_excused() {
    let mut bench = Bench::start(&two_stages("failures = 1"), 40);
    let canaries = bench.offered();
    for device in &canaries[..2] {
        bench.toys.get_mut(device).unwrap().kind = Kind::Crashes;
    }
    bench.run_to(RolloutStatus::Paused);
    bench.say(Word::Resume);
    bench.say(Word::Retry(Vec::new()));
    bench.run_to(RolloutStatus::Paused);
    assert_eq!(bench.rollout.reason, "stage canary: 2 failed, at most 1");
}

#[test]
fn a_pause_without_a_breach_excuses_nothing() {
    let mut bench = Bench::start(&two_stages("failures = 1"), 40);
    let canaries = bench.offered();
    bench.tell(report(&canaries[0], DevicePhase::Failed, None));
    bench.say(Word::Pause("for the night".into()));
    bench.say(Word::Resume);
    bench.tell(report(&canaries[1], DevicePhase::Failed, None));
    assert_eq!(bench.rollout.status, RolloutStatus::Paused);
}

#[test]
fn nothing_is_offered_in_a_pause() {
    let mut bench = Bench::start(&two_stages("failures = 1"), 40);
    bench.say(Word::Pause("a look".into()));
    bench.run(60);
    assert_eq!((bench.offers.len(), bench.count(DevicePhase::Healthy)), (10, 10));
    bench.say(Word::Resume);
    bench.run_to(RolloutStatus::Completed);
    assert_eq!(bench.count(DevicePhase::Healthy), 40);
}

#[test]
fn what_is_to_be_aborted_is_aborted_in_a_pause_as_well() {
    let mut bench = Bench::start(&two_stages("failures = 1, on_breach = 'abort'"), 40);
    bench.all_are(Kind::Crashes);
    bench.say(Word::Pause("a look".into()));
    bench.run(20);
    assert_eq!(bench.rollout.status, RolloutStatus::Recalled);
}

#[test]
fn a_skipped_stage_is_not_held_against_the_rollout() {
    let mut bench = Bench::start(&two_stages("failures = 0"), 20);
    bench.is(0, Kind::Crashes);
    let first = bench.offered()[0].clone();
    bench.tell(report(&first, DevicePhase::Failed, None));
    assert_eq!(bench.rollout.status, RolloutStatus::Paused);
    bench.say(Word::Skip("known".into()));
    assert_eq!((bench.rollout.status, bench.rollout.stage), (RolloutStatus::Running, 1));
    assert_eq!(state(&bench, 0, Gate::Failures), Some(GateState::Passing));
    bench.run_until(|bench| bench.rollout.status != RolloutStatus::Running || bench.count(DevicePhase::Healthy) > 15);
}

#[test]
fn skipping_the_last_stage_completes_the_rollout() {
    let mut bench = Bench::start("stages = [{ size = '100%', soak = '5s', gates = { success = '99%' } }]", 4);
    bench.all_are(Kind::Crashes);
    bench.run_to(RolloutStatus::Paused);
    bench.say(Word::Skip("the old version is worse".into()));
    assert_eq!(bench.rollout.status, RolloutStatus::Completed);
    bench.say(Word::Skip("again".into()));
    assert_eq!(bench.decisions.iter().filter(|what| what.contains("without its gates")).count(), 1);
}
