use muster_proto::code::Code;

use super::bench::report;
use super::{Bench, Kind, device};
use crate::rollout::{DevicePhase, RolloutStatus, Word};

const RETRIED: &str = "
    retry = { attempts = 5, wait = '10s', max_wait = '40s' }
    stages = [{ size = '100%', soak = '5s', gates = { failures = 100 } }]";

#[test]
fn a_failure_that_may_pass_is_tried_again_until_it_goes_well() {
    let mut bench = Bench::start(RETRIED, 10);
    bench.all_are(Kind::DiskFull(3));
    bench.run_to(RolloutStatus::Completed);
    assert_eq!((bench.count(DevicePhase::Healthy), bench.offers.len()), (10, 40));
}

#[test]
fn waits_have_full_jitter_and_a_cap() {
    let mut bench = Bench::start(RETRIED, 200);
    let mut waits: Vec<Vec<u64>> = vec![Vec::new(); 5];
    for n in 0..200 {
        for wait in &mut waits {
            bench.tell(report(&device(n), DevicePhase::Failed, Some(Code::DiskFull)));
            wait.push(bench.part(&device(n)).not_before - bench.now);
            bench.now = bench.part(&device(n)).not_before;
            bench.tell(crate::rollout::Event::Ticked);
        }
    }
    for (attempt, most) in [(0, 10), (1, 20), (2, 40), (3, 40), (4, 40)] {
        let waits = &waits[attempt];
        let mean = waits.iter().sum::<u64>() as f64 / waits.len() as f64;
        assert!(waits.iter().all(|wait| (1..=most).contains(wait)), "attempt {attempt}: {waits:?}");
        let middle = (most + 1) as f64 / 2.0;
        assert!((mean - middle).abs() < most as f64 * 0.09, "attempt {attempt}: {mean} on average, not {middle}");
    }
}

#[test]
fn after_its_attempts_it_has_failed() {
    let mut bench = Bench::start(RETRIED, 3);
    bench.is(0, Kind::DiskFull(99));
    bench.run_to(RolloutStatus::Completed);
    assert_eq!((bench.phase(0), bench.offers.len()), (DevicePhase::Failed, 2 + 6));
}

#[test]
fn what_cannot_pass_is_never_tried_again_by_itself() {
    for code in [Code::ProbeMismatch, Code::TrialCrashed, Code::AlreadyRefused, Code::ModelUnsupported] {
        let mut bench = Bench::start(RETRIED, 3);
        bench.tell(report(&device(0), DevicePhase::Failed, Some(code)));
        bench.toys.get_mut(&device(0)).unwrap().online = false;
        bench.run_to(RolloutStatus::Completed);
        bench.run(100);
        assert_eq!((bench.phase(0), bench.offers.len()), (DevicePhase::Failed, 3), "{code}");
    }
}

#[test]
fn whoever_waits_to_try_again_holds_up_its_stage() {
    let text = RETRIED.replace("10s", "500s").replace("40s", "500s").replace("retry =", "silence = '30s'\nretry =");
    let mut bench = Bench::start(&text, 3);
    bench.is(0, Kind::DiskFull(1));
    bench.run_until(|bench| bench.part(&device(0)).not_before > 0);
    let until = bench.part(&device(0)).not_before;
    bench.run(until - bench.now - 1);
    assert_eq!(bench.rollout.status, RolloutStatus::Running);
    bench.run_to(RolloutStatus::Completed);
    assert_eq!(bench.count(DevicePhase::Healthy), 3);
}

#[test]
fn an_operator_can_have_all_failed_ones_tried_again_or_some() {
    let mut bench = Bench::start(&RETRIED.replace("attempts = 5", "attempts = 0"), 6);
    bench.all_are(Kind::FailsProbe);
    bench.run(20);
    assert_eq!(bench.count(DevicePhase::Failed), 6);
    bench.all_are(Kind::Good);
    bench.say(Word::Retry(vec![device(1), device(2)]));
    bench.run(20);
    assert_eq!((bench.count(DevicePhase::Healthy), bench.count(DevicePhase::Failed)), (2, 4));
    bench.say(Word::Retry(Vec::new()));
    bench.run(20);
    assert_eq!(bench.count(DevicePhase::Healthy), 6);
    let decisions = bench.rollout.decisions.len();
    bench.say(Word::Retry(Vec::new()));
    assert_eq!(bench.rollout.decisions.len(), decisions, "there is nothing left to try again");
}

#[test]
fn a_device_that_refused_and_thinks_better_of_it_is_believed() {
    let mut bench = Bench::start(RETRIED, 3);
    bench.tell(report(&device(0), DevicePhase::Refused, Some(Code::PlanUnapproved)));
    bench.tell(report(&device(0), DevicePhase::Active, None));
    assert_eq!(bench.phase(0), DevicePhase::Active);
}
