//! Starts: what is counted, what is put aside, what is told again.

use super::bench::Bench;
use crate::core::Event;

/// How often the process ends until what it was trying is put aside.
const ENDS: usize = 3;

#[test]
fn what_answered_answers_again_without_a_network() {
    let mut bench = Bench::with("digits/1");
    let lines = bench.restart();
    assert_eq!(lines, ["persist", "load digits/1 in digits"]);
    bench.settle();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before nothing"]);
}

/// Invariant 9: the power may go between the record of an outcome and its message.
#[test]
fn outcomes_are_told_again_once_what_they_claim_is_proved() {
    let mut bench = Bench::with("digits/1");
    bench.outbox.clear();
    assert!(!bench.restart().iter().any(|line| line.starts_with("put")));
    assert!(bench.settle().contains(&"put digits/1 Healthy".to_owned()));
    assert_eq!(bench.outbox.len(), 1);
}

/// Invariant 7.
#[test]
fn a_version_that_kills_the_process_while_it_is_loaded_is_put_aside() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.until("stage");
    for _ in 0..ENDS {
        let answers = bench.slots();
        assert!(!answers[0].contains("trial_crashed"), "{answers:?}");
        bench.restart();
        bench.until("stage");
    }
    bench.settle();
    assert_eq!(bench.slots(), ["digits: Failed trial_crashed, digits/1 answers, before nothing"]);
}

/// Invariant 2.
#[test]
fn a_version_on_trial_that_kills_the_process_gives_way() {
    for (first, left) in [(true, "nothing"), (false, "digits/1")] {
        let mut bench = if first { Bench::new() } else { Bench::with("digits/1") };
        bench.want(2, &["digits/2"]);
        bench.settle();
        for _ in 0..ENDS {
            bench.restart();
            bench.settle();
        }
        let answers = if first { "nothing answers".to_owned() } else { format!("{left} answers") };
        assert_eq!(bench.slots(), [format!("digits: Failed trial_crashed, {answers}, before nothing")]);
    }
}

/// Invariant 2.
#[test]
fn a_version_on_trial_is_not_blamed_for_what_another_one_does_while_it_is_loaded() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.settle();
    bench.want(3, &["digits/2", "faces/1"]);
    bench.on(Event::LinkUp);
    bench.until("stage");
    for _ in 0..ENDS {
        bench.restart();
        bench.until("stage");
    }
    bench.settle();
    assert_eq!(bench.slots()[0], "digits: Active, digits/2 answers, before digits/1");
    assert_eq!(bench.slots()[1], "faces: Failed trial_crashed, nothing answers, before nothing");
}

#[test]
fn an_end_in_good_order_counts_for_nothing() {
    let mut bench = Bench::new();
    bench.want(1, &["digits/1"]);
    bench.settle();
    for _ in 0..2 * ENDS {
        bench.on(Event::Stopping);
        bench.restart();
        bench.settle();
    }
    assert_eq!(bench.slots(), ["digits: Active, digits/1 answers, before nothing"]);
}
