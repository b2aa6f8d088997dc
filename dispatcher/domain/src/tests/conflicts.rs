//! Rollouts that want the same slot of the same device.

use super::bench::{Bench, LINE, device, id, report, slot_reports};
use crate::DevicePhase::{Failed, Healthy, Offered, Refused, Superseded, Waiting};
use crate::rollout::Word;
use crate::{Event, RolloutId, RolloutStatus};
use muster_proto::code::Code;
use muster_proto::report::{Failure, Phase};

/// Everybody in the line, before others.
fn first() -> String {
    format!("priority = 5\n{LINE}")
}

#[test]
fn the_newer_one_takes_over_and_of_two_the_one_with_priority() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.start(2, 2, LINE);
    assert_eq!((bench.phases(1), bench.phases(2)), (vec![Superseded], vec![Offered]));
    bench.start(3, 3, &first());
    assert_eq!((bench.phases(2), bench.phases(3)), (vec![Superseded], vec![Offered]));
    bench.start(4, 4, LINE);
    assert_eq!((bench.phases(3), bench.phases(4)), (vec![Offered], vec![Waiting]));
    assert_eq!(bench.part(4, "d0").blocked, Some(3), "the conflict is shown");
    assert_eq!(bench.slot("d0"), "r3 v3");
}

#[test]
fn rollouts_of_other_slots_are_no_rivals() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, &first());
    bench.begin(super::bench::rollout_into("faces", 2, 7, LINE));
    assert_eq!((bench.phases(1), bench.phases(2)), (vec![Offered], vec![Offered]));
}

#[test]
fn of_several_that_go_first_the_one_that_is_paused_holds_nobody_up() {
    let mut bench = Bench::line(1);
    bench.gone("d0");
    bench.start(1, 1, &first());
    bench.start(2, 2, &format!("priority = 9\n{LINE}"));
    bench.pause(2);
    bench.hello("d0", 0);
    assert_eq!(bench.slot("d0"), "r1 v1");
    bench.start(3, 3, LINE);
    assert_eq!((bench.phases(3), bench.part(3, "d0").blocked), (vec![Waiting], Some(1)));
    bench.told(2, Word::Resume);
    assert_eq!((bench.slot("d0"), bench.phases(1)), ("r2 v2".into(), vec![Superseded]));
    assert_eq!(bench.part(3, "d0").blocked, Some(2));
}

#[test]
fn one_that_waits_for_its_time_or_for_approval_holds_nobody_up_and_takes_over_when_it_begins() {
    for (wait, begins) in [
        (
            "approval.need = 1",
            Some(Word::Approve(crate::rollout::Approved { by: "bob".into(), at: 10, key: None, signature: None })),
        ),
        ("schedule.start = '1970-01-01T00:10:00Z'", None),
    ] {
        let mut bench = Bench::line(1);
        bench.start(1, 1, &format!("{wait}\n{}", first()));
        bench.start(2, 2, LINE);
        bench.obeys("d0");
        assert_eq!((bench.slot("d0").as_str(), bench.status(2)), ("r2 v2", RolloutStatus::Completed), "{wait}");
        match begins {
            Some(word) => drop(bench.told(1, word)),
            None => drop(bench.wait(600)),
        }
        assert_eq!((bench.slot("d0").as_str(), bench.phases(2)), ("r1 v1", vec![Superseded]), "{wait}");
    }
}

#[test]
fn a_paused_one_keeps_whom_it_has_begun_with() {
    let mut bench = Bench::line(2);
    bench.start(1, 1, &format!("rate.in_flight = 1\n{}", first()));
    bench.pause(1);
    bench.start(2, 2, LINE);
    let begun = |phase| phase == Offered;
    let has: Vec<bool> = bench.phases(1).into_iter().map(begun).collect();
    assert_eq!(has.iter().filter(|has| **has).count(), 1);
    let other: Vec<bool> = bench.phases(2).into_iter().map(begun).collect();
    assert_eq!(other, has.iter().map(|has| !has).collect::<Vec<_>>());
}

#[test]
fn whoever_was_superseded_comes_back_when_the_winner_is_rolled_back() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.start(2, 2, LINE);
    bench.obeys("d0");
    assert_eq!((bench.slot("d0"), bench.phases(1)), ("r2 v2".into(), vec![Superseded]));
    bench.roll_back(2);
    assert_eq!(
        (bench.slot("d0"), bench.phases(1)),
        ("r2 v1".into(), vec![Superseded]),
        "it proves that it is back first"
    );
    bench.obeys("d0");
    assert_eq!((bench.slot("d0"), bench.phases(1)), ("r1 v1".into(), vec![Offered]));
    bench.obeys("d0");
    assert_eq!(bench.phases(1), [Healthy]);
}

#[test]
fn whoever_was_superseded_comes_back_when_the_device_refuses_the_winner() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.start(2, 2, LINE);
    let mut slots = slot_reports(&bench.desired("d0"), Phase::Failed, Some(1));
    slots[0].failure = Some(Failure { code: Code::Incompatible, detail: String::new() });
    bench.sends(report("d0", 0, 2, slots));
    assert_eq!((bench.phases(2), bench.phases(1), bench.slot("d0")), (vec![Refused], vec![Offered], "r1 v1".into()));
    bench.obeys("d0");
    // A change of anything is no reason to go round in circles.
    bench.feed(Event::GroupsChanged {
        device: id("d0"),
        labels: [("a".into(), "b".into())].into(),
        groups: ["line".parse().unwrap()].into(),
    });
    assert_eq!((bench.phases(2), bench.phases(1)), (vec![Refused], vec![Healthy]));
    bench.told(2, Word::Retry(vec![]));
    assert_eq!((bench.phases(2), bench.phases(1)), (vec![Offered], vec![Superseded]));
}

#[test]
fn one_with_priority_that_was_refused_does_not_come_back_by_itself() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, &first());
    let mut slots = slot_reports(&bench.desired("d0"), Phase::Failed, None);
    slots[0].failure = Some(Failure { code: Code::TooLarge, detail: String::new() });
    bench.sends(report("d0", 0, 1, slots));
    bench.start(2, 2, LINE);
    bench.feed(Event::GroupsChanged {
        device: id("d0"),
        labels: [("a".into(), "b".into())].into(),
        groups: ["line".parse().unwrap()].into(),
    });
    assert_eq!((bench.phases(1), bench.phases(2)), (vec![Refused], vec![Offered]));
}

#[test]
fn a_failed_winner_keeps_the_slot_until_somebody_decides() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.start(2, 2, LINE);
    bench.fails("d0");
    assert_eq!((bench.phases(2), bench.phases(1)), (vec![Failed], vec![Superseded]));
    bench.cancel(2);
    assert_eq!((bench.phases(2), bench.phases(1), bench.slot("d0")), (vec![Failed], vec![Offered], "r1 v1".into()));
}

#[test]
fn a_cancelled_rollout_leaves_its_version_against_older_ones_but_not_against_newer_ones() {
    let mut bench = Bench::line(2);
    bench.gone("d1");
    bench.start(1, 1, LINE);
    bench.start(2, 2, &first());
    bench.obeys("d0");
    bench.cancel(2);
    assert_eq!((bench.slot("d0"), bench.phases(1)), ("r2 v2".into(), vec![Superseded, Waiting]));
    bench.hello("d1", 0);
    assert_eq!(bench.phases(1), [Superseded, Offered], "nothing was left there");
    bench.start(3, 3, LINE);
    assert_eq!((bench.slot("d0"), bench.phases(3)), ("r3 v3".into(), vec![Offered, Offered]));
}

#[test]
fn a_device_that_joins_two_at_once_is_only_told_of_the_one_that_goes_first() {
    let mut bench = Bench::empty();
    bench.start(1, 1, LINE);
    bench.start(2, 2, &first());
    bench.start(3, 3, LINE);
    bench.enrol(device("d0", &["line"]));
    assert_eq!((bench.slot("d0"), bench.desired("d0").generation.0), ("r2 v2".into(), 1));
    bench.enrol(device("late", &[]));
    bench.feed(Event::GroupsChanged {
        device: id("late"),
        labels: Default::default(),
        groups: ["line".parse().unwrap()].into(),
    });
    assert_eq!((bench.slot("late"), bench.desired("late").generation.0), ("r2 v2".into(), 1));
    assert_eq!(bench.part(1, "late").blocked, Some(2));
}

#[test]
fn a_recall_that_a_device_cannot_follow_holds_nobody_up_once_it_is_over() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.start(2, 2, &format!("silence = '60s'\n{}", first()));
    bench.obeys("d0");
    bench.gone("d0");
    bench.roll_back(2);
    bench.start(3, 3, LINE);
    assert_eq!(bench.part(3, "d0").blocked, Some(2), "it goes back first");
    bench.wait(62);
    assert_eq!(bench.status(2), RolloutStatus::Recalled);
    assert_eq!(bench.part(3, "d0").blocked, None);
    bench.hello("d0", 3);
    assert_eq!((bench.slot("d0"), bench.phases(3)), ("r3 v3".into(), vec![Offered]));
}

#[test]
fn a_rollout_that_is_forgotten_is_not_in_the_way() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.fleet.rollouts.remove(&RolloutId(1));
    bench.store = super::store::Store::new(&bench.fleet);
    bench.start(2, 2, LINE);
    assert_eq!(bench.phases(2), [Offered]);
}

#[test]
fn a_rollout_that_is_refused_in_the_same_moment_holds_nobody_up() {
    let mut bench = Bench::empty();
    let old = muster_proto::report::AgentInfo { speaks: (0, 1), ..super::bench::agent() };
    bench.enrol(crate::Device { agent: old, ..device("d0", &["line"]) });
    bench.start(1, 1, &format!("schedule.start = '1970-01-01T00:10:00Z'\n{LINE}"));
    bench.start(2, 2, &format!("schedule.veto = '1h'\n{LINE}"));
    assert_eq!((bench.phases(2), bench.part(1, "d0").blocked), (vec![Refused], None));
    bench.wait(600);
    assert_eq!(bench.phases(1), [Offered]);
}

#[test]
fn a_device_on_its_way_to_an_empty_slot_can_be_taken_over() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.roll_back(1);
    assert_eq!(bench.slot("d0"), "-");
    bench.start(2, 2, LINE);
    assert_eq!((bench.phases(1), bench.phases(2)), (vec![Superseded], vec![Offered]));
    bench.obeys("d0");
    assert_eq!((bench.status(1), bench.status(2)), (RolloutStatus::Recalled, RolloutStatus::Completed));
}

#[test]
fn a_device_that_fails_a_cancelled_rollout_is_free_for_the_one_before() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.start(2, 2, LINE);
    bench.says("d0", Phase::Fetching, Some(1));
    bench.cancel(2);
    assert_eq!((bench.phases(2), bench.phases(1)), (vec![crate::DevicePhase::Fetching], vec![Superseded]));
    bench.fails("d0");
    assert_eq!((bench.phases(2), bench.slot("d0")), (vec![Failed], "r1 v1".into()));
}

/// It goes on with what it holds: nothing failed.
#[test]
fn other_terms_are_no_other_attempt() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, &format!("schedule = {{ prestage = true, switch = 'on_word' }}\n{LINE}"));
    bench.says("d0", Phase::Staged, None);
    bench.told(1, Word::Release);
    assert_eq!(bench.slot("d0"), "r1 v1");
    bench.fails("d0");
    bench.told(1, Word::Retry(vec![]));
    assert_eq!(bench.slot("d0"), "r1.2 v1");
}
