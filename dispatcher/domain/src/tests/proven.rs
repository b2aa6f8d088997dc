//! The book of what proved well, over several versions.

use muster_proto::report::Phase;

use super::bench::{Bench, LINE, digest, id};
use crate::Assignment;

/// What is proven now and before.
fn book(bench: &Bench) -> [Option<u64>; 2] {
    let proven = bench.fleet.devices[&id("d0")].proven.get(&"digits".parse().unwrap()).cloned().unwrap_or_default();
    let version = |known: &Option<Assignment>| (1..9).find(|v| known.as_ref().is_some_and(|k| k.digest == digest(*v)));
    [version(&proven.now), version(&proven.before)]
}

#[test]
fn only_a_proof_enters_the_book_and_the_last_two_are_kept() {
    let mut bench = Bench::line(1);
    for (number, phase, want) in [
        (1, Phase::Active, [None, None]),
        (1, Phase::Healthy, [Some(1), None]),
        (2, Phase::Active, [Some(1), None]),
        (2, Phase::Healthy, [Some(2), Some(1)]),
        (3, Phase::Failed, [Some(2), Some(1)]),
        (4, Phase::Healthy, [Some(4), Some(2)]),
        (4, Phase::Healthy, [Some(4), Some(2)]),
    ] {
        if !bench.fleet.rollouts.contains_key(&crate::RolloutId(number)) {
            bench.start(number, number, LINE);
        }
        bench.says("d0", phase, Some(number));
        assert_eq!(book(&bench), want, "{number} {phase:?}");
    }
}

#[test]
fn a_version_that_failed_after_all_is_nothing_to_go_back_to() {
    let mut bench = Bench::line(1);
    for number in [1, 2] {
        bench.start(number, number, LINE);
        bench.obeys("d0");
    }
    bench.fails("d0");
    assert_eq!(book(&bench), [Some(1), None]);
    bench.start(3, 3, LINE);
    bench.obeys("d0");
    assert_eq!(book(&bench), [Some(3), Some(1)]);
    bench.roll_back(3);
    assert_eq!(bench.slot("d0"), "r3 v1");
}

#[test]
fn a_version_that_was_recalled_while_the_device_was_away_is_nothing_to_go_back_to() {
    let mut bench = Bench::line(1);
    for number in [1, 2] {
        bench.start(number, number, LINE);
        bench.obeys("d0");
    }
    bench.gone("d0");
    bench.roll_back(2);
    bench.start(3, 3, LINE);
    bench.hello("d0", 3);
    assert_eq!(bench.slot("d0"), "r3 v3");
    bench.obeys("d0");
    assert_eq!(book(&bench), [Some(3), Some(1)]);
    bench.roll_back(3);
    assert_eq!(bench.slot("d0"), "r3 v1");
}

#[test]
fn a_device_that_failed_the_next_one_does_not_go_back_to_what_was_recalled() {
    let mut bench = Bench::line(1);
    for number in [1, 2] {
        bench.start(number, number, LINE);
        bench.obeys("d0");
    }
    bench.gone("d0");
    bench.roll_back(2);
    bench.start(3, 3, LINE);
    bench.hello("d0", 3);
    bench.says("d0", Phase::Fetching, Some(2));
    bench.roll_back(3);
    assert_eq!(bench.slot("d0"), "r3 v1");
}

#[test]
fn after_a_recall_the_one_before_is_proven_and_nothing_before_it() {
    let mut bench = Bench::line(1);
    for number in [1, 2] {
        bench.start(number, number, LINE);
        bench.obeys("d0");
    }
    bench.cancel(1);
    bench.roll_back(2);
    bench.obeys("d0");
    assert_eq!((book(&bench), bench.slot("d0")), ([Some(1), None], "r2 v1".into()));
}

/// Versions 1, 2 and 3 one after the other; then back twice.
#[test]
fn a_recall_of_a_recall_leads_to_an_empty_slot_and_never_in_circles() {
    let mut bench = Bench::line(1);
    for number in [1, 2, 3] {
        bench.start(number, number, LINE);
        bench.obeys("d0");
    }
    bench.roll_back(3);
    bench.obeys("d0");
    assert_eq!(
        (book(&bench), bench.slot("d0")),
        ([Some(2), None], "r2 v2".into()),
        "the rollout before takes it again"
    );
    bench.obeys("d0");
    bench.roll_back(2);
    assert_eq!(bench.slot("d0"), "-", "version 1 is forgotten");
    bench.obeys("d0");
    assert_eq!((book(&bench), bench.slot("d0")), ([None, None], "r1 v1".into()));
}
