use muster_proto::id::DeviceId;

use super::bench::member;
use super::{Bench, Kind, device};
use crate::rollout::evidence::{Reading, ShadowReading, Usual};
use crate::rollout::{Approved, DevicePhase, Event, Member, RolloutStatus, Word};

const STAGES: &str = "
    silence = '60s'
    stages = [{ size = 2, soak = '5s' }, { size = '100%', soak = '5s' }]";

fn on_word() -> String {
    format!("schedule = {{ prestage = true, switch = 'on_word' }}\n{STAGES}")
}

fn approved(by: &str) -> Word {
    Word::Approve(Approved { by: by.into(), at: 1_000, key: None, signature: None })
}

#[test]
fn all_fetch_and_nobody_switches_before_the_word() {
    let mut bench = Bench::start(&on_word(), 10);
    bench.run(500);
    assert_eq!((bench.count(DevicePhase::Staged), bench.rollout.in_flight()), (10, 0));
    assert!(bench.offers.iter().all(|(_, _, held)| *held));
    bench.offers.clear();
    bench.say(Word::Release);
    assert_eq!(bench.offers.len(), 2, "the first stage is of two");
    bench.run_to(RolloutStatus::Completed);
    assert!(bench.toys.values().all(|toy| toy.fetched == 1), "nobody fetches again");
    assert_eq!((bench.count(DevicePhase::Healthy), bench.offers.len()), (10, 10));
}

#[test]
fn all_switch_at_the_time_that_was_set() {
    // 1,000 seconds after 1970 the rollout starts.
    let text = format!("schedule = {{ prestage = true, switch = {{ at = '1970-01-01T00:20:00Z' }} }}\n{STAGES}");
    let mut bench = Bench::start(&text, 10);
    bench.run(199);
    assert_eq!(bench.count(DevicePhase::Staged), 10);
    bench.run(1);
    assert_eq!((bench.now, bench.offers.len()), (1_200, 12));
    bench.run_to(RolloutStatus::Completed);
}

#[test]
fn fetching_beforehand_keeps_the_limits() {
    let mut bench = Bench::start(&format!("rate = {{ in_flight = 2 }}\n{}", on_word()), 10);
    for _ in 0..60 {
        bench.run(1);
        assert!(bench.rollout.in_flight() <= 2);
    }
    assert_eq!(bench.count(DevicePhase::Staged), 10);
    bench.say(Word::Release);
    while bench.rollout.status == RolloutStatus::Running {
        assert!(bench.rollout.in_flight() <= 2);
        bench.run(1);
    }
}

#[test]
fn failures_while_fetching_beforehand_are_held_against_the_stage_under_way() {
    let text = on_word().replace("size = 2, soak = '5s'", "size = 2, soak = '5s', gates = { failures = 1 }");
    let mut bench = Bench::start(&format!("rate = {{ in_flight = 2 }}\n{text}"), 10);
    bench.all_are(Kind::FailsProbe);
    bench.run_to(RolloutStatus::Paused);
    assert_eq!((bench.rollout.reason.as_str(), bench.harmed()), ("stage 1: 2 failed, at most 1", 0));
    assert!(bench.offers.len() <= 4, "{}", bench.offers.len());
}

#[test]
fn named_canaries_switch_first() {
    let text = on_word().replace("size = 2,", "size = 2, devices = ['gw-00006', 'gw-00002'],");
    for id in 1..10 {
        let mut bench = Bench::start_with(&text, id, (0..10).map(|n| member(&device(n))).collect());
        bench.run(20);
        bench.offers.clear();
        bench.say(Word::Release);
        let mut first = bench.offered();
        first.sort();
        assert_eq!(first, [device(2), device(6)]);
    }
}

#[test]
fn a_device_that_has_gone_away_since_takes_no_place() {
    let mut bench = Bench::start(&on_word(), 10);
    bench.run(20);
    let gone: Vec<DeviceId> = bench.offered().into_iter().take(5).collect();
    gone.iter().for_each(|device| bench.connect(device, false));
    bench.say(Word::Release);
    bench.run_to(RolloutStatus::Completed);
    assert_eq!((bench.count(DevicePhase::Healthy), bench.count(DevicePhase::Staged)), (5, 5));
    gone.iter().for_each(|device| bench.connect(device, true));
    bench.run(20);
    assert_eq!(bench.count(DevicePhase::Healthy), 10);
}

#[test]
fn a_shadow_run_goes_before_the_switch_of_what_was_fetched_beforehand() {
    let text = "
        schedule = { prestage = true }
        stages = [
            { size = 2, soak = '5s', shadow = { for = '100s', inferences = 40 }, gates = { agreement = '90%' } },
            { size = '100%', soak = '5s' },
        ]";
    let comparable = |n| Member { comparable: true, ..member(&device(n)) };
    let mut bench = Bench::start_with(text, 1, (0..10).map(comparable).collect());
    bench.run(50);
    let shadows: Vec<DeviceId> = bench.offered().into_iter().filter(|d| bench.part(d).is_shadowing()).collect();
    assert_eq!(shadows.len(), 4, "two devices, offered twice");
    assert_eq!(bench.harmed(), 0);
    for device in &shadows[2..] {
        let shadow = ShadowReading { compared: 100, agreed: 100, ..ShadowReading::default() };
        let reading = Box::new(Reading { shadow: Some(shadow), ..Reading::default() });
        bench.tell(Event::Measured { device: device.clone(), of_this: false, reading, usual: Usual::default() });
    }
    bench.run_to(RolloutStatus::Completed);
    assert!(bench.toys.values().all(|toy| toy.fetched == 1));
}

#[test]
fn approvals_come_before_the_start_time() {
    let text = format!("approval = {{ need = 2 }}\nschedule = {{ start = '1970-01-01T00:20:00Z' }}\n{STAGES}");
    let mut bench = Bench::start(&text, 4);
    for who in ["bob", "bob", "ada"] {
        bench.say(approved(who));
    }
    bench.run(300);
    assert_eq!(bench.rollout.status, RolloutStatus::Pending, "nobody counts twice, nor the one who started it");
    bench.say(approved("eve"));
    assert_eq!((bench.rollout.status, bench.rollout.started_at), (RolloutStatus::Running, 1_300));
    let mut bench = Bench::start(&text, 4);
    bench.say(approved("bob"));
    bench.say(approved("eve"));
    bench.run(199);
    assert_eq!((bench.rollout.status, bench.offers.len()), (RolloutStatus::Pending, 0));
    bench.run(1);
    assert_eq!((bench.rollout.status, bench.offers.len()), (RolloutStatus::Running, 2));
}

#[test]
fn only_those_who_were_named_may_approve() {
    let mut bench = Bench::start(&format!("approval = {{ need = 1, by = ['ops-key'] }}\n{STAGES}"), 4);
    bench.say(approved("bob"));
    assert_eq!((bench.rollout.status, bench.rollout.approvals.len()), (RolloutStatus::Pending, 0));
    bench.say(approved("ops-key"));
    assert_eq!(bench.rollout.status, RolloutStatus::Running);
}

#[test]
fn release_means_nothing_where_nothing_is_fetched_beforehand() {
    let mut bench = Bench::start(STAGES, 4);
    bench.say(Word::Release);
    assert!(!bench.rollout.released && !bench.decisions.iter().any(|what| what.contains("released")));
}
