//! Which desired states are accepted, and what becomes of what was wanted before.

use muster_proto::id::Generation;
use muster_proto::trust::testing::{Key, role_keys};

use super::bench::{Bench, SIGNED_S};
use crate::core::Event;

const NOTHING: [&str; 0] = [];

#[test]
fn a_desired_state_for_another_device_or_workspace_is_refused() {
    for change in [0, 1] {
        let mut bench = Bench::with("digits/1");
        let mut desired = bench.desired(2, &["digits/2"]);
        match change {
            0 => desired.device = "other".parse().expect("valid"),
            _ => desired.workspace = "other".parse().expect("valid"),
        }
        let bytes = bench.publisher.sign_desired(&desired);
        assert_eq!(bench.on(Event::DesiredArrived(bytes)), ["report digits/1 Healthy"]);
        assert_eq!(bench.refused().as_deref(), Some("wrong_device"));
        assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before nothing"]);
    }
}

#[test]
fn a_bad_signature_is_refused_once_no_newer_director_root_mends_it() {
    let mut bench = Bench::with("digits/1");
    bench.publisher.keys.insert("director", Key::from_seed(99));
    assert_eq!(bench.want(2, &["digits/2"]), ["ask for DirectorRoot(2)"]);
    assert_eq!(bench.refused(), None);
    let lines = bench.settle();
    assert!(lines.contains(&"report digits/1 Healthy".to_owned()), "{lines:?}");
    assert_eq!(bench.refused().as_deref(), Some("signature_invalid"));
}

#[test]
fn a_desired_state_that_a_newer_director_root_proves_waits_for_it() {
    let mut bench = Bench::with("digits/1");
    let director = Key::from_seed(99);
    let root = &mut bench.publisher.director_root;
    root.version = 2.try_into().expect("above 0");
    root.keys.insert(director.id().to_string(), director.entry.clone());
    root.roles.targets = role_keys(&[&director], 1);
    bench.publisher.keys.insert("director", director);
    bench.want(2, &["digits/2"]);
    let lines = bench.until("stage");
    assert_eq!(lines[..2], ["keep director-root.json", "ask for DirectorRoot(3)"]);
    assert!(lines.contains(&"keep desired.bin".to_owned()));
    assert_eq!(bench.refused(), None);
}

#[test]
fn bytes_that_are_no_desired_state_are_refused() {
    for (bytes, code) in [(vec![], "message_invalid"), (vec![7, 1, 2], "message_from_the_future"), (vec![0; 99], "")] {
        let mut bench = Bench::with("digits/1");
        bench.on(Event::DesiredArrived(bytes));
        bench.settle();
        let refused = bench.refused().expect("refused");
        assert!(code.is_empty() || refused == code, "{refused} instead of {code}");
        assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before nothing"]);
    }
}

/// Invariant 3.
#[test]
fn an_older_or_repeated_generation_changes_nothing() {
    let mut bench = Bench::with("digits/1");
    bench.want(5, &["digits/2"]);
    bench.settle();
    bench.confirm();
    bench.acknowledge();
    assert_eq!(bench.want(4, &["digits/3"]), ["report digits/2 Healthy"]);
    assert_eq!(bench.refused().as_deref(), Some("rollback"));
    assert_eq!(bench.want(4, &["digits/3"]), NOTHING, "said once");
    assert_eq!(bench.want(5, &["digits/2"]), NOTHING);
    assert_eq!(bench.want(5, &["digits/3"]), ["report digits/2 Healthy"], "other content");
    assert_eq!(bench.want(5, &["digits/3"]), NOTHING, "said once");
    assert_eq!(bench.state.durable().generation, Generation(5));
    assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);
    bench.restart();
    bench.settle();
    bench.want(4, &["digits/3"]);
    assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);
}

/// Invariant 11.
#[test]
fn an_expired_desired_state_is_refused_where_the_time_is_trusted() {
    for (wall_s, refused) in [(SIGNED_S + 5_000, Some("metadata_expired")), (1_000, None)] {
        let mut bench = Bench::with("digits/1");
        bench.now.wall_s = wall_s;
        let mut desired = bench.desired(2, &["digits/2"]);
        desired.expires_at = SIGNED_S + 4_000;
        let bytes = bench.publisher.sign_desired(&desired);
        bench.on(Event::DesiredArrived(bytes));
        assert_eq!(bench.refused().as_deref(), refused, "at {wall_s}");
    }
}

/// Invariant 5.
#[test]
fn a_slot_that_is_not_listed_is_emptied_and_forgotten_later() {
    let mut bench = Bench::with("digits/1");
    let lines = bench.want(2, &["faces/1"]);
    assert_eq!(
        lines[..5],
        [
            "keep desired.bin",
            "clear digits",
            "persist",
            "ask for DirectorRoot(2)",
            "put digits/1 Removed, faces/1 Offered"
        ]
    );
    assert_eq!(bench.slots()[0], "digits: Removed, nothing answers, before nothing");
    bench.settle();
    bench.want(3, &["faces/1"]);
    assert_eq!(bench.slots(), ["faces: Active, faces/1 answers, before nothing"]);
}

#[test]
fn a_newer_desired_state_replaces_an_update_in_any_stage() {
    let table = [
        ("ask for manifest of digits/2", ""),
        ("measure", ""),
        ("ask for a delta", ""),
        ("open model", ""),
        ("ask for model of digits/2", "leave model of digits/2"),
        ("assemble", ""),
        ("stage", "unstage digits"),
    ];
    for (stage, left) in table {
        let mut bench = Bench::with("digits/1");
        bench.want(2, &["digits/2"]);
        bench.until(stage);
        bench.answers.clear();
        let lines = bench.want(3, &["digits/3"]);
        assert!(left.is_empty() || lines.contains(&left.to_owned()), "in stage {stage:?}: {lines:?}");
        bench.settle();
        bench.confirm();
        assert_eq!(bench.slots(), ["digits: Healthy, digits/3 answers, before digits/1"], "in stage {stage:?}");
    }
}

#[test]
fn the_version_before_comes_back_without_a_download() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.settle();
    bench.confirm();
    bench.want(3, &["digits/1"]);
    let lines = bench.settle();
    assert!(lines.contains(&"stage digits/1 in digits".to_owned()));
    assert!(!lines.iter().any(|l| l.contains("model of") || l.contains("manifest of digits/1,")), "{lines:?}");
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before digits/2"]);
}

#[test]
fn the_same_version_in_another_rollout_is_an_outcome_at_once() {
    let mut bench = Bench::with("digits/1");
    let lines = bench.want(2, &["digits/1"]);
    assert_eq!(lines[..3], ["keep desired.bin", "persist", "put digits/1 Healthy"]);
}

#[test]
fn the_same_version_in_another_rollout_does_not_shorten_its_trial() {
    let mut bench = Bench::new();
    bench.want(1, &["digits/1"]);
    bench.settle();
    bench.wait(30);
    bench.want(2, &["digits/1"]);
    bench.settle();
    bench.wait(29);
    assert_eq!(bench.slots(), ["digits: Active, digits/1 answers, before nothing"]);
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before nothing"]);
}
