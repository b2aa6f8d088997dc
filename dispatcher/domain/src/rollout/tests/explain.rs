use super::bench::{member, report};
use super::{Bench, Kind, device};
use crate::rollout::explain::{Condition, ConditionState};
use crate::rollout::{DevicePhase, Event, Member, RolloutId, Word};

const STAGES: &str = "stages = [{ name = 'canary', size = 2, soak = '60s' }, { size = '100%', soak = '5s' }]";

fn explain(bench: &mut Bench, number: usize) -> Vec<Condition> {
    let now = bench.now;
    bench.rollout.explain(&device(number), None, now)
}

/// What a device waits for, and in which words.
fn waits_for(bench: &mut Bench, number: usize) -> (String, String) {
    let conditions = explain(bench, number);
    let stop = conditions.iter().find(|c| c.state != ConditionState::Met);
    stop.map_or(("nothing".into(), String::new()), |c| (c.condition.clone(), c.value.clone()))
}

fn waiting(bench: &Bench) -> usize {
    (0..10).find(|n| bench.phase(*n) == DevicePhase::Waiting).unwrap()
}

#[test]
fn the_first_condition_that_does_not_hold_is_what_a_device_waits_for() {
    let away = |n| Member { online: n != 0, blocked: (n == 1).then_some(RolloutId(7)), ..member(&device(n)) };
    let mut bench = Bench::start_with(STAGES, 1, (0..10).map(away).collect());
    assert_eq!(waits_for(&mut bench, 0), ("connected".into(), "not connected".into()));
    let goes_first = "r7 goes first: it has a higher priority or is newer";
    assert_eq!(waits_for(&mut bench, 1), ("no other rollout".into(), goes_first.into()));
    let (condition, value) = {
        let later = (2..10).rfind(|n| bench.phase(*n) == DevicePhase::Waiting).unwrap();
        waits_for(&mut bench, later)
    };
    assert_eq!(condition, "stage");
    assert!(value.starts_with("stage canary takes 2 of 10 and has 2; "), "{value}");
    assert_eq!(waits_for(&mut bench, 99).0, "joined");
    bench.say(Word::Pause("a look".into()));
    assert_eq!(waits_for(&mut bench, 0), ("rollout runs".into(), "paused: a look".into()));
    let after = explain(&mut bench, 0).into_iter().skip_while(|c| c.state == ConditionState::Met).skip(1);
    assert!(after.into_iter().all(|c| c.state == ConditionState::NotReached && c.value.is_empty()));
}

#[test]
fn each_limit_is_named() {
    for (rate, condition, value) in [
        ("in_flight = 1", "rate", "1 update now, which is the most"),
        ("per_minute = 1", "rate", "as many as may start per minute have started"),
        ("bytes_per_second = 1", "rate", "the bytes per second are used up"),
        ("site = { in_flight = 1 }", "site", "site \"\": 1 update now, which is the most"),
    ] {
        let text = format!("rate = {{ {rate} }}\nstages = [{{ size = '100%', soak = '60s' }}]");
        let mut bench = Bench::start(&text, 10);
        let number = waiting(&bench);
        assert_eq!(waits_for(&mut bench, number), (condition.into(), value.into()));
    }
}

#[test]
fn each_step_of_a_device_under_way_is_told() {
    let mut bench = Bench::start(STAGES, 1);
    bench.is(0, Kind::Stuck);
    for (phase, waits) in [
        (DevicePhase::Fetching, "fetched and verified"),
        (DevicePhase::Verified, "loaded and probed"),
        (DevicePhase::Staged, "switched"),
        (DevicePhase::Active, "answered well for the soak time"),
        (DevicePhase::Healthy, "nothing"),
        (DevicePhase::Failed, "accepted"),
    ] {
        bench.tell(report(&device(0), phase, None));
        assert_eq!(waits_for(&mut bench, 0).0, waits, "{phase:?}");
    }
    bench.say(Word::Recall { now: false, reason: "bad".into() });
    assert_eq!(waits_for(&mut bench, 0).0, "rollout runs");
    bench.tell(Event::Superseded { device: device(0), by: RolloutId(4) });
    assert_eq!(waits_for(&mut bench, 0), ("no other rollout".into(), "r4 has the slot".into()));
}
