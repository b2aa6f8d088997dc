//! Which reports count, and what they prove.

use muster_proto::code::Code;
use muster_proto::report::{DeviceReport, Failure, Phase, Probe};

use super::bench::{Bench, LINE, acks, id, report, slot_reports};
use crate::DevicePhase::{Active, Failed, Fetching, Healthy, Offered, Refused, Staged, Superseded, Verified};
use crate::rollout::Word;
use crate::{Event, RolloutStatus};

#[test]
fn each_phase_that_a_device_reports_is_its_part() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    for (phase, active, want) in [
        (Phase::Offered, None, Offered),
        (Phase::Fetching, None, Fetching),
        (Phase::Verified, None, Verified),
        (Phase::Staged, None, Staged),
        (Phase::Active, Some(1), Active),
        (Phase::Removed, None, Active),
        (Phase::Healthy, Some(1), Healthy),
        (Phase::Failed, None, Failed),
    ] {
        bench.says("d0", phase, active);
        assert_eq!(bench.phase(1, "d0"), want, "{phase:?}");
    }
    let part = bench.part(1, "d0");
    assert_eq!((part.code, part.detail.as_deref()), (Some(Code::ProbeMismatch), Some("sample seven")));
}

/// Invariant 12.
#[test]
fn only_the_wanted_digest_answering_with_all_samples_passed_is_success() {
    let mut bench = Bench::line(1);
    bench.start(1, 2, LINE);
    bench.says("d0", Phase::Fetching, Some(1));
    for active in [None, Some(1)] {
        bench.says("d0", Phase::Healthy, active);
        assert_eq!(bench.phases(1), [Fetching], "{active:?} answers");
    }
    let mut slots = slot_reports(&bench.desired("d0"), Phase::Healthy, Some(2));
    slots[0].probe = Some(Probe { samples: 4, passed: 3, max_abs_error: f32::NAN, load_us: 1, inference_us: 1 });
    bench.sends(report("d0", 0, 1, slots));
    assert_eq!((bench.phases(1), bench.status(1)), (vec![Fetching], RolloutStatus::Running));
    assert!(bench.fleet.devices[&id("d0")].proven.is_empty());
}

/// Invariant 6.
#[test]
fn repeated_and_late_reports_are_acknowledged_and_change_nothing() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    let desired = bench.desired("d0");
    let newest = report("d0", 5, 1, slot_reports(&desired, Phase::Healthy, Some(1)));
    let older = report("d0", 4, 1, slot_reports(&desired, Phase::Fetching, None));
    let mut reborn = report("d0", 1, 1, slot_reports(&desired, Phase::Verified, None));
    reborn.incarnation = 2;

    bench.feed(Event::ReportArrived(Box::new(newest.clone())));
    let known = bench.fleet.clone();
    for late in [newest.clone(), older] {
        let number = late.id;
        assert_eq!(acks(&bench.feed(Event::ReportArrived(Box::new(late)))), [number]);
        assert_eq!(bench.fleet, known);
    }
    bench.feed(Event::ReportArrived(Box::new(reborn)));
    assert_eq!(bench.phases(1), [Verified], "a new incarnation replaces, whatever its id");
    let known = bench.fleet.clone();
    assert_eq!(acks(&bench.feed(Event::ReportArrived(Box::new(newest)))), [5]);
    assert_eq!(bench.fleet, known, "the earlier incarnation's report came late");
}

#[test]
fn a_report_on_an_earlier_rollout_of_the_same_digest_says_nothing_on_this_one() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    let first = bench.desired("d0");
    bench.start(2, 2, LINE);
    bench.start(3, 1, LINE);
    bench.sends(report("d0", 0, 1, slot_reports(&first, Phase::Healthy, Some(1))));
    assert_eq!(bench.phases(3), [Offered]);
    assert_eq!((bench.phases(1), bench.phases(2)), (vec![Superseded], vec![Superseded]));
}

/// The rollout took the device back meanwhile: its word of then proves nothing now.
#[test]
fn a_report_on_an_earlier_desired_state_of_the_same_rollout_says_nothing_on_the_newest() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    let first = bench.desired("d0");
    bench.start(2, 2, LINE);
    bench.roll_back(2);
    bench.sends(report("d0", 0, 2, vec![]));
    assert_eq!(bench.phases(2), [crate::DevicePhase::Recalling], "it has not heard of the recall");
    bench.sends(report("d0", 0, 3, vec![]));
    assert_eq!((bench.phases(1), bench.slot("d0")), (vec![Offered], "r1 v1".into()));
    bench.sends(report("d0", 0, 3, slot_reports(&first, Phase::Healthy, Some(1))));
    assert_eq!(bench.phases(1), [Offered]);
    bench.obeys("d0");
    assert_eq!(bench.phases(1), [Healthy]);
}

/// A device does not try again what it failed, unless the rollout says so in another name.
#[test]
fn a_retry_is_another_attempt_and_reports_on_the_first_say_nothing_on_it() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    let first = bench.desired("d0");
    bench.fails("d0");
    bench.told(1, Word::Retry(vec![]));
    assert_eq!((bench.phases(1), bench.slot("d0")), (vec![Offered], "r1.2 v1".into()));
    assert_eq!(bench.desired("d0").generation.0, 2);
    bench.sends(report("d0", 0, 2, slot_reports(&first, Phase::Failed, None)));
    assert_eq!(bench.phases(1), [Offered]);
    bench.obeys("d0");
    assert_eq!(bench.phases(1), [Healthy]);
}

#[test]
fn a_later_fall_back_reopens_the_case() {
    let mut bench = Bench::line(2);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.obeys("d1");
    assert_eq!(bench.status(1), RolloutStatus::Completed);
    bench.fails("d1");
    assert_eq!(bench.phases(1), [Healthy, Failed]);
}

#[test]
fn a_refused_desired_state_is_refused_for_what_it_asked_for() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    let refused =
        |code| DeviceReport { refused: Some(Failure { code, detail: "no".into() }), ..report("d0", 0, 0, vec![]) };
    bench.sends(refused(Code::Rollback));
    assert_eq!(bench.phases(1), [Offered], "a replay was refused, as it should be");
    bench.sends(refused(Code::SignatureInvalid));
    let part = bench.part(1, "d0");
    assert_eq!((part.phase, part.code, part.detail.as_deref()), (Refused, Some(Code::SignatureInvalid), Some("no")));
    bench.says("d0", Phase::Fetching, None);
    assert_eq!(bench.phases(1), [Fetching], "it took it after all");
}

#[test]
fn what_a_device_cannot_or_may_not_take_is_no_failure_of_the_version() {
    for (code, want) in [
        (Code::Incompatible, Refused),
        (Code::TooLarge, Refused),
        (Code::PlanUnapproved, Refused),
        (Code::ProbeMismatch, Failed),
        (Code::TrialCrashed, Failed),
    ] {
        let mut bench = Bench::line(1);
        bench.start(1, 1, LINE);
        let mut slots = slot_reports(&bench.desired("d0"), Phase::Failed, None);
        slots[0].failure = Some(Failure { code, detail: String::new() });
        bench.sends(report("d0", 0, 1, slots));
        assert_eq!(bench.phases(1), [want], "{code:?}");
    }
}

#[test]
fn a_report_of_a_workspace_or_a_device_that_is_not_ours_is_not_even_acknowledged() {
    let mut bench = Bench::line(1);
    let mut foreign = report("d0", 1, 0, vec![]);
    foreign.workspace = "else".parse().unwrap();
    assert_eq!(acks(&bench.feed(Event::ReportArrived(Box::new(foreign)))), [] as [u64; 0]);
    assert_eq!(acks(&bench.feed(Event::ReportArrived(Box::new(report("nobody", 1, 0, vec![]))))), [] as [u64; 0]);
}
