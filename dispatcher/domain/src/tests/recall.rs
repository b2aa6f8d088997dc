//! Back to what ran well before, and the proof of it.

use muster_proto::report::{DeviceReport, Phase, SlotReport};

use super::bench::{Bench, LINE, agent, device, digest, id, published, report, slot_reports, target};
use crate::DevicePhase::{Failed, Healthy, Offered, Recalled, Recalling, Refused, Superseded};
use crate::rollout::Word;
use crate::{Device, Event, RolloutStatus};
use muster_proto::report::{AgentInfo, ModelRef};

/// Devices on which version 1 proved well, version 2 has come to, and did so too if `proven`.
fn updated(count: usize, proven: bool) -> Bench {
    let mut bench = Bench::line(count);
    bench.start(1, 1, LINE);
    (0..count).for_each(|n| bench.obeys(&format!("d{n}")));
    bench.start(2, 2, LINE);
    if proven {
        (0..count).for_each(|n| bench.obeys(&format!("d{n}")));
    }
    bench
}

#[test]
fn each_device_goes_back_to_its_own_version_before_and_proves_it() {
    let mut bench = updated(1, true);
    bench.enrol(device("fresh", &["line"]));
    bench.obeys("fresh");
    bench.feed(Event::RolloutStarted(Box::new(super::bench::rollout(3, 3, LINE))));
    bench.obeys("d0");
    bench.obeys("fresh");
    bench.enrol(device("new", &["line"]));
    bench.obeys("new");
    bench.roll_back(3);
    let slots = ["d0", "fresh", "new"].map(|name| bench.slot(name));
    assert_eq!(slots, ["r3 v2", "r3 v2", "-"]);
    assert_eq!(bench.phases(3), [Recalling; 3]);
    for name in ["d0", "fresh", "new"] {
        bench.obeys(name);
    }
    assert_eq!((bench.phases(3), bench.status(3)), (vec![Recalled; 3], RolloutStatus::Recalled));
}

#[test]
fn a_device_that_never_switched_proves_what_it_has() {
    let mut bench = updated(1, false);
    bench.says("d0", Phase::Fetching, Some(1));
    bench.roll_back(2);
    assert_eq!((bench.slot("d0"), bench.phases(2)), ("r2 v1".into(), vec![Recalling]));
    bench.says("d0", Phase::Active, Some(1));
    assert_eq!(bench.phases(2), [Recalling], "not yet");
    bench.obeys("d0");
    assert_eq!(bench.status(2), RolloutStatus::Recalled);
}

#[test]
fn a_device_that_had_nothing_proves_an_empty_slot() {
    let removed = |rollout: &str| SlotReport {
        desired: Some(ModelRef { target: target(1), digest: digest(1) }),
        phase: Phase::Removed,
        rollout: rollout.into(),
        ..slot_reports(&updated(1, false).desired("d0"), Phase::Removed, None).remove(0)
    };
    let answering = SlotReport { active: Some(ModelRef { target: target(1), digest: digest(1) }), ..removed("r1") };
    let other = SlotReport { phase: Phase::Active, ..answering.clone() };
    // The generation of the report, what it says of the slot, and whether that is a proof.
    for (generation, slots, is_proof) in [
        (2, vec![removed("r1")], true),
        (2, vec![], true),
        (2, vec![removed("")], true),
        (1, vec![], false),
        (1, vec![removed("r1")], false),
        (2, vec![answering], false),
        (2, vec![other], false),
    ] {
        let mut bench = Bench::line(1);
        bench.start(1, 1, LINE);
        bench.roll_back(1);
        assert_eq!((bench.slot("d0"), bench.phases(1)), ("-".into(), vec![Recalling]));
        bench.sends(report("d0", 0, generation, slots.clone()));
        assert_eq!(bench.phases(1) == [Recalled], is_proof, "{generation} {slots:?}");
        assert_eq!(bench.status(1) == RolloutStatus::Recalled, is_proof);
    }
}

#[test]
fn a_second_recall_is_no_proof_of_the_first() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.roll_back(1);
    bench.told(1, Word::Recall { now: true, reason: "hurry".into() });
    assert_eq!(bench.phases(1), [Recalling]);
    bench.sends(report("d0", 0, 2, vec![]));
    assert_eq!(bench.phases(1), [Recalled]);
    assert!(bench.fleet.devices[&id("d0")].proven.is_empty());
}

#[test]
fn a_recall_keeps_windows_and_vetoes_unless_it_cannot_wait() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.start(
        2,
        2,
        &format!("schedule = {{ veto = '1h', windows = [{{ cron = '0 2 * * *', for = '1h' }}] }}\n{LINE}"),
    );
    bench.obeys("d0");
    bench.roll_back(2);
    let patient = bench.desired("d0").slots[0].terms.clone();
    assert_eq!((patient.veto_seconds, patient.windows.len(), patient.urgent), (3600, 1, false));
    let effects = bench.told(2, Word::Recall { now: true, reason: "hurry".into() });
    let urgent = bench.desired("d0").slots[0].terms.clone();
    assert_eq!((urgent.veto_seconds, urgent.windows.len(), urgent.urgent), (0, 0, true));
    assert_eq!(published(&effects).len(), 1);
    assert_eq!(published(&bench.told(2, Word::Recall { now: true, reason: "hurry".into() })).len(), 0);
    bench.obeys("d0");
    assert_eq!(bench.phases(2), [Recalled]);
}

#[test]
fn an_agent_that_does_not_know_terms_goes_back_without() {
    let mut bench = Bench::empty();
    bench.enrol(Device { agent: AgentInfo { speaks: (0, 1), ..agent() }, ..device("d0", &["line"]) });
    bench.start(1, 1, LINE);
    let old = |bench: &mut Bench| {
        let desired = bench.desired("d0");
        let slots = slot_reports(&desired, Phase::Healthy, Some(super::bench::version_of(&desired.slots[0].target)));
        let said = report("d0", 0, desired.generation.0, slots);
        bench.sends(DeviceReport { agent: AgentInfo { speaks: (0, 1), ..agent() }, ..said });
    };
    old(&mut bench);
    bench.start(2, 2, LINE);
    old(&mut bench);
    bench.told(2, Word::Recall { now: true, reason: "hurry".into() });
    assert!(bench.desired("d0").slots[0].terms.is_none());
    old(&mut bench);
    assert_eq!(bench.phases(2), [Recalled]);
}

/// What it had before answers again, but its desired state still names the version.
#[test]
fn a_device_that_failed_or_refused_is_told_to_go_back_and_stays_what_it_was() {
    let mut bench = updated(2, false);
    bench.fails("d0");
    let mut slots = slot_reports(&bench.desired("d1"), Phase::Failed, Some(1));
    slots[0].failure.as_mut().unwrap().code = muster_proto::code::Code::TooLarge;
    bench.sends(report("d1", 0, 2, slots));
    // The one that refused is back with the rollout before.
    assert_eq!((bench.phases(2), bench.slot("d1")), (vec![Failed, Refused], "r1 v1".into()));
    bench.roll_back(2);
    assert_eq!(
        (bench.phases(2), bench.slot("d0"), bench.status(2)),
        (vec![Failed, Refused], "r1 v1".into(), RolloutStatus::Recalled)
    );
    bench.obeys("d0");
    bench.obeys("d1");
    // Invariant 12: version 1 answers, which proves nothing of version 2.
    assert_eq!((bench.phases(2), bench.phases(1)), (vec![Failed, Refused], vec![Healthy, Healthy]));
}

#[test]
fn a_device_that_was_too_slow_goes_back_and_what_it_says_then_is_no_success() {
    let mut bench = updated(1, false);
    bench.cancel(1);
    bench.says("d0", Phase::Fetching, Some(1));
    for _ in 0..300 {
        bench.wait(300);
        bench.feed(Event::Seen(id("d0")));
    }
    assert_eq!((bench.phases(2), bench.slot("d0")), (vec![Failed], "r2 v1".into()));
    bench.obeys("d0");
    assert_eq!(bench.phases(2), [Failed]);
    bench.told(2, Word::Retry(vec![]));
    assert_eq!((bench.phases(2), bench.slot("d0")), (vec![Offered], "r2.2 v2".into()));
}

#[test]
fn a_device_that_another_rollout_has_by_now_is_left_alone() {
    let mut bench = updated(2, true);
    bench.gone("d1");
    bench.start(3, 3, LINE);
    bench.obeys("d0");
    bench.roll_back(2);
    assert_eq!((bench.phases(2), bench.slot("d0")), (vec![Superseded, Recalling], "r3 v3".into()));
    bench.hello("d1", 2);
    // The newer rollout comes before the recall of the older one is done.
    assert_eq!((bench.phases(2), bench.slot("d1")), (vec![Superseded, Superseded], "r3 v3".into()));
    assert_eq!(bench.status(2), RolloutStatus::Recalled);
}

#[test]
fn a_rollout_that_was_cancelled_can_still_be_rolled_back() {
    let mut bench = updated(1, true);
    bench.cancel(2);
    assert_eq!(bench.slot("d0"), "r2 v2");
    bench.roll_back(2);
    bench.obeys("d0");
    assert_eq!((bench.phases(2), bench.slot("d0")), (vec![Recalled], "r1 v1".into()));
}

#[test]
fn devices_that_only_hold_a_cancelled_version_let_it_go() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.start(2, 2, &format!("schedule = {{ prestage = true, switch = 'on_word' }}\n{LINE}"));
    bench.says("d0", Phase::Staged, Some(1));
    bench.cancel(2);
    // Nobody holds the slot any more, so that the rollout before has it again at once.
    assert_eq!((bench.slot("d0"), bench.phases(1), bench.phases(2)), ("r1 v1".into(), vec![Offered], vec![Superseded]));
}

#[test]
fn only_an_ended_recall_is_reported_as_one() {
    let mut bench = updated(1, true);
    bench.gone("d0");
    bench.roll_back(2);
    assert_eq!(bench.status(2), RolloutStatus::Recalling);
    bench.wait(3_601);
    assert_eq!((bench.status(2), bench.phases(2)), (RolloutStatus::Recalled, vec![Recalling]), "a straggler");
    bench.hello("d0", 2);
    bench.obeys("d0");
    assert!(matches!(bench.phase(2, "d0"), Recalled | Superseded));
    assert_eq!(bench.slot("d0"), "r1 v1");
}
