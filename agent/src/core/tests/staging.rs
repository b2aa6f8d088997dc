//! Loading, the switch, the trial, and what takes the place of a version that does not make it.

use muster_proto::code::Code;
use muster_proto::report::Failure;

use super::bench::{Bench, TRIAL_S, passed};
use crate::core::Event;
use crate::core::event::LoadFailure;

fn failed(code: Code) -> LoadFailure {
    LoadFailure { failure: Failure { code, detail: "on the bench".into() }, damaged: vec![] }
}

fn staged(bench: &Bench, name: &str, result: Result<(), LoadFailure>) -> Event {
    let slot = "digits".parse().expect("valid");
    Event::ModelStaged { slot, digest: bench.digest(name), result: result.map(|()| passed()) }
}

fn loaded(bench: &Bench, name: &str, result: Result<(), LoadFailure>) -> Event {
    let slot = "digits".parse().expect("valid");
    Event::ModelLoaded { slot, digest: bench.digest(name), result: result.map(|()| passed()) }
}

/// A device that runs `digits/1` and is about to load `digits/2` for the first time.
fn about_to_stage() -> Bench {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.until("stage");
    bench.answers.clear();
    bench
}

/// Invariant 7.
#[test]
fn a_failed_probe_ends_the_update_and_leaves_nothing_behind() {
    let mut bench = about_to_stage();
    let event = staged(&bench, "digits/2", Err(failed(Code::ProbeMismatch)));
    assert_eq!(
        bench.on(event),
        ["persist", "put digits/2 Failed probe_mismatch", "remove manifest of digits/2", "send outcome"]
    );
    assert_eq!(bench.wait(3600), ["send outcome"; 120]);
    bench.restart();
    bench.settle();
    assert_eq!(bench.slots(), ["digits: Failed probe_mismatch, digits/1 answers, before nothing"]);
}

#[test]
fn what_the_device_lacks_for_now_is_no_verdict_on_the_version() {
    for code in [Code::MemoryShort, Code::StoreFailed, Code::DiskFull] {
        let mut bench = about_to_stage();
        let event = staged(&bench, "digits/2", Err(failed(code)));
        bench.on(event);
        assert_eq!(bench.slots(), [format!("digits: Offered {code}, digits/1 answers, before nothing")]);
        bench.wait(3);
        bench.settle();
        bench.confirm();
        assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);
    }
}

/// A trial that waited for a full disk has not begun.
#[test]
fn the_trial_begins_when_the_version_answers() {
    let mut bench = about_to_stage();
    let event = staged(&bench, "digits/2", Ok(()));
    bench.on(event);
    let answers = std::mem::take(&mut bench.answers);
    bench.wait(10 * TRIAL_S);
    assert_eq!(bench.slots(), ["digits: Active, digits/2 answers, before digits/1"]);
    bench.answers = answers;
    bench.settle();
    bench.wait(TRIAL_S - 1);
    assert_eq!(bench.slots(), ["digits: Active, digits/2 answers, before digits/1"]);
    bench.wait(1);
    assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);
}

/// Invariant 2: only what was confirmed is worth more than what was confirmed before.
#[test]
fn a_version_that_was_never_confirmed_does_not_drive_out_one_that_was() {
    let mut bench = Bench::with("digits/1");
    for (generation, name) in [(2, "digits/2"), (3, "digits/3")] {
        bench.want(generation, &[name]);
        bench.settle();
    }
    assert_eq!(bench.slots(), ["digits: Active, digits/3 answers, before digits/1"]);
}

/// Invariant 2.
#[test]
fn a_version_on_trial_that_cannot_be_loaded_gives_way_to_the_one_before() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.settle();
    bench.restart();
    bench.answers.clear();
    let event = loaded(&bench, "digits/2", Err(failed(Code::ProbeMismatch)));
    let lines = bench.on(event);
    assert!(lines.contains(&"load digits/1 in digits".to_owned()), "{lines:?}");
    bench.settle();
    assert_eq!(bench.slots(), ["digits: Failed probe_mismatch, digits/1 answers, before nothing"]);
}

/// Invariant 2.
#[test]
fn a_confirmed_version_is_loaded_again_when_there_was_no_memory_for_it() {
    let mut bench = Bench::with("digits/1");
    bench.restart();
    bench.answers.clear();
    let event = loaded(&bench, "digits/1", Err(failed(Code::MemoryShort)));
    bench.on(event);
    assert_eq!(bench.slots(), ["digits: Healthy memory_short, nothing answers, before nothing"]);
    bench.wait(3);
    bench.settle();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before nothing"]);
}

/// Until the version that took its place has proved itself, even a recalled one is better than nothing (invariant 2).
#[test]
fn a_recalled_version_is_nothing_to_go_back_to_once_another_has_proved_itself() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.settle();
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);

    let mut back = bench.desired(3, &["digits/1"]);
    back.denied = vec![bench.digest("digits/2")];
    let signed = bench.publisher.sign_desired(&back);
    bench.on(Event::DesiredArrived(signed));
    bench.settle();
    assert_eq!(bench.slots(), ["digits: Active, digits/1 answers, before digits/2"]);
    bench.restart();
    bench.settle();
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before nothing"]);
}

#[test]
fn a_version_that_is_recalled_later_is_no_longer_kept_to_go_back_to() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.settle();
    bench.confirm();
    for (generation, other, before) in [(3, "digits/2", "digits/1"), (4, "digits/1", "nothing")] {
        let mut desired = bench.desired(generation, &["digits/2"]);
        desired.denied = vec![bench.digest(other)];
        let signed = bench.publisher.sign_desired(&desired);
        bench.on(Event::DesiredArrived(signed));
        bench.settle();
        // What answers is never taken away, whoever denies it.
        assert_eq!(bench.slots(), [format!("digits: Healthy, digits/2 answers, before {before}")]);
    }
}
