//! Signed metadata: what a walk asks for, what ends it, and when director and repository do not agree.

use muster_proto::transfer::{Frame, MAX_CHUNK, Metadata, Object};
use muster_proto::trust::testing::Key;

use super::bench::Bench;
use crate::core::Event;
use crate::core::event::Signed;

/// A frame with the first chunk of a document, claiming `total` bytes.
fn document(which: Metadata, total: u64, data: Vec<u8>) -> Event {
    Event::FrameArrived(Frame::ChunkV1 {
        object: Object::Metadata(which),
        chunk_size: MAX_CHUNK,
        index: 0,
        total,
        data,
    })
}

#[test]
fn what_director_and_repository_do_not_agree_on_fails_at_once() {
    let mut bench = Bench::with("digits/1");
    let mut desired = bench.desired(2, &["digits/2"]);
    desired.slots[0].digest.0[0] ^= 1;
    let bytes = bench.publisher.sign_desired(&desired);
    bench.on(Event::DesiredArrived(bytes));
    bench.settle();
    assert_eq!(bench.slots(), ["digits: Failed director_disagrees, digits/1 answers, before nothing"]);
}

#[test]
fn a_target_that_is_not_there_yet_is_looked_for_again() {
    let mut bench = Bench::with("digits/1");
    let mut later = super::bench::manifest("digits/9");
    later.description = "registered a little later".into();
    bench.bundles.insert("digits/9", later.clone());
    bench.want(2, &["digits/9"]);
    bench.settle();
    assert_eq!(bench.slots(), ["digits: Offered not_found, digits/1 answers, before nothing"]);
    bench.publish("digits/9", |m| m.clone_from(&later));
    for _ in 0..10 {
        bench.wait(1);
        bench.settle();
    }
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/9 answers, before digits/1"]);
}

#[test]
fn metadata_that_cannot_be_trusted_end_the_walk_until_later() {
    type Spoil = fn(&mut Bench);
    let table: [(&str, Spoil); 2] = [
        ("signature_invalid", |b| drop(b.publisher.keys.insert("timestamp", Key::from_seed(99)))),
        ("rollback", |b| b.publisher.timestamp.version = 1.try_into().expect("above 0")),
    ];
    for (code, spoil) in table {
        let mut bench = Bench::with("digits/1");
        spoil(&mut bench);
        bench.want(2, &["digits/9"]);
        let lines = bench.settle();
        let slots = bench.slots();
        assert!(slots[0].contains(code), "{code}: {slots:?} after {lines:?}");
        assert!(slots[0].ends_with("digits/1 answers, before nothing"));
        assert!(bench.wait(600).iter().any(|l| l.starts_with("ask for")), "{code}: it is tried again");
    }
}

/// Invariant 1: no allocation of a claimed size.
#[test]
fn documents_that_claim_to_be_huge_are_not_gathered() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/9"]);
    bench.until("ask for Timestamp");
    bench.answers.clear();
    bench.on(document(Metadata::Timestamp, u64::MAX, vec![0; 100]));
    assert_eq!(bench.slots(), ["digits: Offered too_large, digits/1 answers, before nothing"]);
}

#[test]
fn metadata_that_do_not_come_are_asked_for_again_and_given_up_in_the_end() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.answers.clear();
    assert_eq!(bench.wait(9).len(), 0);
    assert_eq!(bench.wait(1), ["ask for DirectorRoot(2)"]);
    bench.answers.clear();
    bench.wait(295);
    bench.answers.clear();
    // What the device already knows to be signed does not wait any longer.
    assert_eq!(bench.slots(), ["digits: Fetching, digits/1 answers, before nothing"]);
    bench.wait(5);
    bench.settle();
    bench.wait(10);
    bench.settle();
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);
}

#[test]
fn a_connection_that_comes_back_asks_again_at_once() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.answers.clear();
    bench.on(Event::LinkDown);
    assert_eq!(bench.wait(60), [] as [&str; 0], "nobody to ask");
    let lines = bench.on(Event::LinkUp);
    assert!(lines.contains(&"ask for DirectorRoot(2)".to_owned()), "{lines:?}");
}

#[test]
fn a_new_root_drops_from_the_disk_what_it_does_not_cover() {
    let mut bench = Bench::with("digits/1");
    let timestamp = Key::from_seed(99);
    let root = &mut bench.publisher.root;
    root.version = 2.try_into().expect("above 0");
    root.keys.insert(timestamp.id().to_string(), timestamp.entry.clone());
    root.roles.timestamp = muster_proto::trust::testing::role_keys(&[&timestamp], 1);
    bench.publisher.keys.insert("timestamp", timestamp);
    bench.want(2, &["digits/2"]);
    bench.until("keep root.json");
    assert!(!bench.signed.contains_key(&Signed::Timestamp) && bench.signed.contains_key(&Signed::Targets));
    bench.settle();
    assert!(bench.signed.contains_key(&Signed::Timestamp));
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);
}
