use muster_proto::code::Code;

use super::{Bench, Kind, device};
use crate::rollout::{DevicePhase, Event, RolloutStatus, Word};

const QUICK: &str = "
    silence = '30s'
    device_timeout = '100s'
    rate = { in_flight = 1 }
    stages = [{ size = '100%', soak = '5s' }]";

#[test]
fn silence_frees_the_place_and_is_counted() {
    let mut bench = Bench::start(QUICK, 5);
    let first = bench.offered()[0].clone();
    bench.toys.get_mut(&first).unwrap().kind = Kind::Mute;
    bench.connect(&first, false);
    bench.run(30);
    assert_eq!(bench.offers.len(), 1, "its lease has not ended");
    bench.run(2);
    assert_eq!((bench.count(DevicePhase::Silent), bench.offers.len()), (1, 2));
    bench.run_to(RolloutStatus::Completed);
    assert_eq!((bench.count(DevicePhase::Healthy), bench.count(DevicePhase::Silent)), (4, 1));
}

#[test]
fn a_device_that_comes_back_is_taken_up_with_all_its_time() {
    let mut bench = Bench::start(QUICK, 5);
    let first = bench.offered()[0].clone();
    bench.connect(&first, false);
    bench.run_to(RolloutStatus::Completed);
    bench.run(5_000);
    assert_eq!(bench.part(&first).phase, DevicePhase::Silent);
    bench.fetch = 60;
    bench.connect(&first, true);
    assert_eq!(bench.part(&first).phase, DevicePhase::Offered);
    bench.run(100);
    assert_eq!(bench.part(&first).phase, DevicePhase::Healthy, "{:?}", bench.part(&first));
}

#[test]
fn whoever_is_heard_is_not_silent() {
    let mut bench = Bench::start(QUICK, 1);
    bench.is(0, Kind::Waits);
    bench.run(10);
    bench.connect(&device(0), false);
    for _ in 0..20 {
        bench.run(20);
        bench.tell(Event::Heard(device(0)));
    }
    assert_eq!(bench.phase(0), DevicePhase::Staged);
    bench.run(31);
    assert_eq!(bench.phase(0), DevicePhase::Silent);
}

#[test]
fn an_open_connection_is_believed_for_longer() {
    let mut bench = Bench::start(QUICK, 1);
    bench.toys.get_mut(&device(0)).unwrap().online = false;
    bench.is(0, Kind::Waits);
    bench.run(90);
    assert_eq!(bench.phase(0), DevicePhase::Offered);
    bench.run(10_000);
    assert_ne!(bench.phase(0), DevicePhase::Offered);
}

#[test]
fn after_a_restart_everybody_has_the_whole_lease() {
    let mut bench = Bench::start(QUICK, 1);
    bench.connect(&device(0), false);
    bench.now += 5_000;
    let now = bench.now;
    bench.rollout.rebuild(now);
    bench.run(30);
    assert_eq!(bench.phase(0), DevicePhase::Offered);
    bench.run(2);
    assert_eq!(bench.phase(0), DevicePhase::Silent);
}

#[test]
fn a_device_that_takes_too_long_has_failed_and_goes_back() {
    let mut bench = Bench::start(QUICK, 2);
    let first = bench.offered()[0].clone();
    bench.toys.get_mut(&first).unwrap().kind = Kind::Stuck;
    // Its silence is not the reason.
    for _ in 0..12 {
        bench.run(10);
        bench.tell(Event::Heard(first.clone()));
    }
    let part = bench.part(&first);
    assert_eq!((part.phase, part.code), (DevicePhase::Failed, Some(Code::TimedOut)));
    assert_eq!(bench.recalls, std::slice::from_ref(&first));
    assert!(!bench.toys[&first].has_it);
    bench.run_to(RolloutStatus::Completed);
}

#[test]
fn whoever_waits_as_it_was_told_is_on_nobodys_time() {
    let mut bench = Bench::start(QUICK, 2);
    let first = bench.offered()[0].clone();
    bench.toys.get_mut(&first).unwrap().kind = Kind::Waits;
    for _ in 0..100 {
        bench.run(10);
        bench.tell(Event::Heard(first.clone()));
    }
    assert_eq!(bench.part(&first).phase, DevicePhase::Staged);
    // Its window opens, and it takes some more steps before it answers.
    bench.tell(super::bench::report(&first, DevicePhase::Staged, None));
    bench.run(40);
    assert_eq!(bench.part(&first).phase, DevicePhase::Staged);
    bench.toys.get_mut(&first).unwrap().kind = Kind::Good;
    bench.run(20);
    assert_eq!(bench.part(&first).phase, DevicePhase::Healthy);
}

#[test]
fn a_silent_device_is_not_excused_for_ever() {
    let text =
        "silence = '30s'\nstages = [{ size = '100%', soak = '5s', gates = { silence = '10%', min_sample = 1 } }]";
    let mut bench = Bench::start(text, 10);
    let gone = [device(0), device(1)];
    gone.iter().for_each(|device| bench.connect(device, false));
    bench.run_to(RolloutStatus::Paused);
    bench.say(Word::Resume);
    bench.run_to(RolloutStatus::Completed);
    for device in &gone {
        bench.tell(Event::Heard(device.clone()));
    }
    bench.run_to(RolloutStatus::Paused);
    assert_eq!(bench.rollout.reason, "stage 1: silence 20% of 10 started, at most 10%");
}
