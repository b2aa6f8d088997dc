//! Bad input on the way of an update: each has its code, and what answered before goes on answering (invariant 2).

use muster_proto::code::Code;
use muster_proto::id::Digest;
use muster_proto::report::Failure;
use muster_proto::transfer::{Frame, MAX_CHUNK, MIN_CHUNK, Object};

use super::bench::{Bench, content};
use crate::core::Event;

const NEW: &str = "digits/2";

/// A device on which `digits/1` answers and `digits/2` is on its way, up to the effect that begins with `end`.
fn updating(end: &str) -> Bench {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &[NEW]);
    let all = bench.until(end);
    assert!(all.iter().rev().take(2).any(|line| line.starts_with(end)), "{end:?} is not in {all:#?}");
    bench.answers.clear();
    bench
}

/// `digits/1` answers, for the reason that is named.
fn refused(bench: &Bench, code: Code) {
    let slots = bench.slots();
    let reason = format!(" {code}, digits/1 answers");
    assert!(slots.len() == 1 && slots[0].contains(&reason), "{code}: {slots:?}");
}

/// After a pause it is tried again, and ends well where the input does.
fn recovers(bench: &mut Bench) {
    for _ in 0..600 {
        bench.wait(1);
        bench.settle();
    }
    assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);
}

fn chunk(digest: Digest, chunk_size: u32, total: u64, data: Vec<u8>) -> Event {
    Event::FrameArrived(Frame::ChunkV1 { object: Object::Blob(digest), chunk_size, index: 0, total, data })
}

#[test]
fn a_manifest_with_a_changed_byte() {
    let mut bench = updating("ask for manifest of digits/2");
    let (digest, mut bytes) = (bench.digest(NEW), bench.bundles[NEW].to_bytes().expect("consistent"));
    *bytes.last_mut().expect("not empty") ^= 1;
    bench.on(chunk(digest, MAX_CHUNK, bytes.len() as u64, bytes));
    refused(&bench, Code::DigestMismatch);
    recovers(&mut bench);
}

#[test]
fn a_manifest_that_claims_to_be_larger_than_what_is_signed() {
    let mut bench = updating("ask for manifest of digits/2");
    bench.on(chunk(bench.digest(NEW), MAX_CHUNK, 1 << 40, vec![0; MAX_CHUNK as usize]));
    refused(&bench, Code::TooLarge);
    recovers(&mut bench);
}

#[test]
fn chunks_with_changed_bytes() {
    let mut bench = updating("ask for model of digits/2");
    let (digest, total) = (Digest::of(&content(NEW)), content(NEW).len() as u64);
    let wrong = || chunk(digest, MIN_CHUNK, total, vec![9; MIN_CHUNK as usize]);
    for _ in 0..15 {
        assert!(bench.on(wrong()).iter().all(|line| !line.starts_with("write")));
    }
    assert!(bench.on(wrong()).contains(&"drop model of digits/2".to_owned()));
    refused(&bench, Code::DigestMismatch);
    recovers(&mut bench);
}

#[test]
fn a_file_that_is_not_the_signed_one_once_it_is_whole() {
    let mut bench = updating("assemble model of digits/2");
    bench.files.remove(&Digest::of(&content(NEW)));
    let failure = Failure { code: Code::DigestMismatch, detail: "another digest".into() };
    bench.on(Event::FileAssembled { file: Digest::of(&content(NEW)), result: Err(failure) });
    refused(&bench, Code::DigestMismatch);
    recovers(&mut bench);
}

#[test]
fn a_bundle_beyond_what_is_allowed_here() {
    let mut bench = Bench::with("digits/1");
    bench.limits.max_bundle = 9 * u64::from(MIN_CHUNK);
    bench.restart();
    bench.settle();
    bench.on(Event::LinkUp);
    bench.want(2, &[NEW]);
    bench.settle();
    refused(&bench, Code::TooLarge);
    // It does not grow smaller by trying again.
    assert!(bench.wait(3600).iter().all(|line| !line.starts_with("measure")));
}

#[test]
fn a_disk_without_room() {
    let mut bench = updating("measure");
    let first = bench.room(100, 1 << 40);
    assert!(first.iter().any(|line| line.starts_with("measure")), "it looks what can go: {first:?}");
    bench.answers.clear();
    bench.room(100, 1 << 40);
    refused(&bench, Code::DiskFull);
    recovers(&mut bench);
}

#[test]
fn a_disk_that_fills_up_on_the_way() {
    let mut bench = updating("write");
    let failure = Failure { code: Code::DiskFull, detail: "no space left".into() };
    bench.on(Event::WriteFailed { digest: Digest::of(&content(NEW)), failure });
    refused(&bench, Code::DiskFull);
    recovers(&mut bench);
}

#[test]
fn too_little_memory() {
    let mut bench = updating("measure");
    bench.room(1 << 40, 999);
    refused(&bench, Code::MemoryShort);
    recovers(&mut bench);
}

/// Invariant 11.
#[test]
fn a_clock_in_1970_refuses_nothing() {
    let mut bench = Bench::unstarted();
    bench.now.wall_s = 1;
    bench.on(Event::Started);
    bench.on(Event::LinkUp);
    bench.want(1, &["digits/1"]);
    bench.settle();
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before nothing"]);
}
