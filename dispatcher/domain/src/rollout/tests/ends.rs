use std::collections::BTreeSet;

use muster_proto::code::Code;
use muster_proto::id::DeviceId;

use super::bench::report;
use super::{Bench, Kind, device};
use crate::rollout::{DevicePhase, Event, RolloutStatus, Word};

const TWO_STAGES: &str = "
    silence = '60s'
    stages = [
        { name = 'canary', size = 6, soak = '5s', gates = { failures = 1, on_breach = 'abort' } },
        { name = 'everyone', size = '100%', soak = '5s' },
    ]";

fn recall(now: bool) -> Word {
    Word::Recall { now, reason: "it counts wrongly".into() }
}

#[test]
fn abort_calls_back_everybody_who_may_have_it_and_everybody_whom_it_was_offered() {
    let text = TWO_STAGES.replace("size = 6", "size = 7");
    let mut bench = Bench::start(&text, 20);
    let canaries = bench.offered();
    let [silent, failed, refused, healthy, ..] = canaries.as_slice() else { panic!("{canaries:?}") };
    bench.toys.get_mut(silent).unwrap().kind = Kind::Mute;
    bench.connect(silent, false);
    bench.toys.get_mut(refused).unwrap().kind = Kind::Refuses;
    for stuck in &canaries[4..] {
        bench.toys.get_mut(stuck).unwrap().kind = Kind::Stuck;
    }
    bench.run_until(|bench| bench.count(DevicePhase::Silent) == 1);
    // A place was free: others have come.
    let told: BTreeSet<DeviceId> = bench.offered().into_iter().collect();
    assert_eq!(bench.part(healthy).phase, DevicePhase::Healthy);
    bench.tell(report(failed, DevicePhase::Failed, Some(Code::ProbeMismatch)));
    bench.tell(report(&canaries[4], DevicePhase::Failed, Some(Code::TrialCrashed)));
    assert_eq!(bench.rollout.status, RolloutStatus::Recalling);
    assert_eq!(BTreeSet::from_iter(bench.recalls.clone()), told);
    let phase = |device| bench.part(device).phase;
    assert_eq!((phase(silent), phase(healthy)), (DevicePhase::Recalling, DevicePhase::Recalling));
    assert_eq!((phase(failed), phase(refused)), (DevicePhase::Failed, DevicePhase::Refused));
}

#[test]
fn a_recall_is_over_when_all_that_can_be_heard_went_back_and_takes_the_rest_later() {
    let mut bench = Bench::start(TWO_STAGES, 6);
    bench.run_to(RolloutStatus::Completed);
    bench.connect(&device(3), false);
    bench.say(recall(false));
    bench.run(2);
    assert_eq!((bench.rollout.status, bench.count(DevicePhase::Recalled)), (RolloutStatus::Recalling, 5));
    bench.run_to(RolloutStatus::Recalled);
    assert_eq!(bench.rollout.reason, "it counts wrongly (1 devices go back when they are heard again)");
    bench.connect(&device(3), true);
    bench.run(2);
    assert_eq!((bench.rollout.status, bench.count(DevicePhase::Recalled)), (RolloutStatus::Recalled, 6));
    assert!(bench.toys.values().all(|toy| !toy.has_it));
}

#[test]
fn a_device_that_is_heard_again_during_a_recall_is_waited_for_again() {
    let mut bench = Bench::start(TWO_STAGES, 6);
    bench.run_to(RolloutStatus::Completed);
    for n in [3, 4] {
        bench.connect(&device(n), false);
    }
    bench.toys.get_mut(&device(5)).unwrap().online = false;
    bench.say(recall(false));
    bench.run(100);
    assert_eq!(bench.rollout.status, RolloutStatus::Recalling, "device 5 is mute on an open connection");
    bench.run(200);
    bench.tell(Event::Heard(device(3)));
    bench.connect(&device(5), true);
    bench.run(10);
    assert_eq!(bench.rollout.status, RolloutStatus::Recalling, "device 3 was heard a while ago");
    bench.run_to(RolloutStatus::Recalled);
}

#[test]
fn now_on_top_of_a_recall_tells_those_again_that_still_wait() {
    let mut bench = Bench::start(TWO_STAGES, 6);
    bench.run_to(RolloutStatus::Completed);
    bench.connect(&device(2), false);
    bench.say(recall(false));
    bench.run(5);
    bench.recalls.clear();
    bench.say(recall(false));
    assert!(bench.recalls.is_empty() && !bench.rollout.urgent, "the same word twice changes nothing");
    bench.say(recall(true));
    assert_eq!((bench.recalls.as_slice(), bench.rollout.urgent), (&[device(2)][..], true));
    bench.recalls.clear();
    bench.say(recall(true));
    assert!(bench.recalls.is_empty());
}

#[test]
fn now_reaches_stragglers_of_a_recall_that_is_over() {
    let mut bench = Bench::start(TWO_STAGES, 6);
    bench.run_to(RolloutStatus::Completed);
    bench.connect(&device(2), false);
    bench.say(recall(false));
    bench.run_to(RolloutStatus::Recalled);
    bench.recalls.clear();
    bench.say(recall(true));
    assert_eq!(bench.recalls, [device(2)]);
}

#[test]
fn a_completed_rollout_can_be_rolled_back() {
    let mut bench = Bench::start(TWO_STAGES, 12);
    bench.run_to(RolloutStatus::Completed);
    bench.say(recall(true));
    bench.run_to(RolloutStatus::Recalled);
    assert_eq!(bench.count(DevicePhase::Recalled), 12);
    bench.join(super::bench::member(&device(50)));
    bench.run(20);
    assert_eq!((bench.phase(50), bench.offers.len()), (DevicePhase::Waiting, 12), "nobody gets it any more");
}

#[test]
fn a_recall_before_anything_was_offered_is_over_at_once() {
    let mut bench = Bench::start(&format!("approval = {{ need = 1 }}\n{TWO_STAGES}"), 6);
    bench.say(recall(false));
    assert_eq!((bench.rollout.status, bench.recalls.len()), (RolloutStatus::Recalled, 0));
}

#[test]
fn a_device_that_waits_to_try_again_is_called_back_too() {
    let text = format!("retry = {{ attempts = 3 }}\n{TWO_STAGES}");
    let mut bench = Bench::start(&text, 6);
    bench.is(0, Kind::DiskFull(9));
    bench.run_until(|bench| bench.part(&device(0)).not_before > 0);
    bench.say(recall(false));
    assert!(bench.recalls.contains(&device(0)), "its desired state names the version");
    bench.run(2_000);
    assert_eq!((bench.rollout.status, bench.phase(0)), (RolloutStatus::Recalled, DevicePhase::Waiting));
    assert_eq!(bench.toys[&device(0)].fetched, 0);
}

#[test]
fn a_report_of_the_version_during_a_recall_changes_nothing() {
    let mut bench = Bench::start(TWO_STAGES, 6);
    bench.run_to(RolloutStatus::Completed);
    bench.say(recall(false));
    for phase in [DevicePhase::Active, DevicePhase::Healthy, DevicePhase::Failed] {
        bench.tell(report(&device(1), phase, None));
        assert_eq!(bench.phase(1), DevicePhase::Recalling);
    }
    bench.tell(Event::WentBack(device(1)));
    bench.tell(report(&device(1), DevicePhase::Healthy, None));
    assert_eq!(bench.phase(1), DevicePhase::Recalled);
}

#[test]
fn cancel_leaves_everything_as_it_is() {
    let mut bench = Bench::start(TWO_STAGES, 12);
    let failing = bench.offered()[0].clone();
    bench.toys.get_mut(&failing).unwrap().kind = Kind::FailsProbe;
    bench.run_until(|bench| bench.count(DevicePhase::Active) == 5);
    bench.say(Word::Cancel("not needed".into()));
    bench.run(100);
    assert_eq!(bench.rollout.status, RolloutStatus::Cancelled);
    assert_eq!((bench.count(DevicePhase::Healthy), bench.count(DevicePhase::Waiting)), (5, 6));
    assert!(bench.recalls.is_empty());
    for word in [Word::Resume, Word::Skip(String::new()), Word::Retry(Vec::new()), Word::Pause(String::new())] {
        bench.say(word);
        assert_eq!(bench.rollout.status, RolloutStatus::Cancelled);
        assert_eq!(bench.part(&failing).phase, DevicePhase::Failed);
    }
    bench.say(recall(false));
    bench.run_to(RolloutStatus::Recalled);
    assert_eq!(bench.count(DevicePhase::Recalled), 5, "what it left can still be taken back");
}

#[test]
fn cancel_lets_go_of_devices_that_wait_for_a_word() {
    let text = "schedule = { prestage = true, switch = 'on_word' }\nstages = [{ size = '100%', soak = '5s' }]";
    let mut bench = Bench::start(text, 4);
    bench.run(10);
    bench.say(Word::Cancel("not needed".into()));
    bench.run(5);
    assert_eq!((bench.rollout.status, bench.count(DevicePhase::Recalled)), (RolloutStatus::Cancelled, 4));
}

#[test]
fn a_device_that_falls_back_after_it_was_healthy_opens_its_case_again() {
    let mut bench = Bench::start(TWO_STAGES, 12);
    bench.run_to(RolloutStatus::Completed);
    let canary = bench.offered()[0].clone();
    bench.tell(report(&canary, DevicePhase::Failed, Some(Code::TrialCrashed)));
    assert_eq!(bench.rollout.stages[0].counts.of(DevicePhase::Failed), 1);
    bench.tell(report(&canary, DevicePhase::Active, None));
    assert_eq!((bench.rollout.stages[0].counts.of(DevicePhase::Active), bench.rollout.in_flight()), (1, 1));
    bench.tell(report(&canary, DevicePhase::Healthy, None));
    assert_eq!(bench.rollout.stages[0].counts.of(DevicePhase::Healthy), 6);
    assert_eq!(bench.rollout.expected_bytes(), 500, "healthy twice does not double what it fetched");
    let proven = bench.rollout.proven;
    bench.tell(report(&canary, DevicePhase::Healthy, Some(Code::Internal)));
    assert_eq!(bench.rollout.proven, proven, "it is healthy as before");
}

#[test]
fn a_completed_rollout_serves_devices_that_return() {
    let mut bench = Bench::start(TWO_STAGES, 12);
    bench.connect(&device(3), false);
    bench.run_until(|bench| bench.rollout.stage == 1);
    bench.run_to(RolloutStatus::Completed);
    bench.connect(&device(3), true);
    bench.run(20);
    assert_eq!((bench.phase(3), bench.rollout.status), (DevicePhase::Healthy, RolloutStatus::Completed));
}
