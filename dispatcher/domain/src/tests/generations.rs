//! Generations never go back, and a desired state is complete.

use muster_proto::code::Code;
use muster_proto::id::Generation;
use muster_proto::report::{DeviceReport, Failure, Phase};

use super::bench::{Bench, LINE, device, digest, id, published, report, rollout_into, slot_reports};
use crate::{Event, Rollout};

fn faces(number: u64, version: u64) -> Rollout {
    rollout_into("faces", number, version, LINE)
}

/// Invariant 3.
#[test]
fn generations_rise_above_what_a_device_has_accepted() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    assert_eq!(published(&bench.hello("d0", 1)), [("d0".into(), 1)]);
    assert_eq!(published(&bench.hello("d0", 40)), [("d0".into(), 41)], "restored from a backup");
    assert_eq!(published(&bench.hello("d0", 40)), [("d0".into(), 41)]);
    assert_eq!(published(&bench.start(2, 2, LINE)), [("d0".into(), 42)]);
}

/// Invariant 3: what the device before it was sent may still be on its way.
#[test]
fn a_device_that_is_enrolled_again_begins_above_its_predecessor() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.hello("d0", 30);
    bench.feed(Event::Removed(id("d0")));
    bench.feed(Event::Enrolled(Box::new(device("d0", &["line"]))));
    assert_eq!(published(&bench.hello("d0", 0)), [("d0".into(), 32)]);
}

/// Invariant 5.
#[test]
fn a_desired_state_holds_every_slot() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.begin(faces(2, 7));
    bench.now = 50;
    let desired = bench.desired("d0");
    let slots: Vec<(&str, &str)> = desired.slots.iter().map(|s| (s.slot.as_str(), s.rollout.as_str())).collect();
    assert_eq!(slots, [("digits", "r1"), ("faces", "r2")]);
    assert_eq!((desired.generation, desired.issued_at), (Generation(2), 50));
    assert!(desired.expires_at > 50);
}

/// Invariant 5: another dispatcher, or this one before its restore from a backup, used the number before.
#[test]
fn a_generation_that_the_device_knows_with_other_content_is_raised() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    let refused = Some(Failure { code: Code::Rollback, detail: "a second time with other content".into() });
    let ours = report("d0", 0, 1, slot_reports(&bench.desired("d0"), Phase::Fetching, None));
    let ours = DeviceReport { refused: refused.clone(), ..ours };
    assert_eq!(published(&bench.sends(ours)), [], "a replay of an older one");
    let theirs = DeviceReport { refused, ..report("d0", 0, 1, vec![]) };
    assert_eq!(published(&bench.sends(theirs)), [("d0".into(), 2)]);
}

#[test]
fn a_device_with_an_empty_store_is_told_again_and_starts_over() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    assert_eq!(published(&bench.hello("d0", 0)), [("d0".into(), 1)]);
    let fresh = DeviceReport { incarnation: 2, ..report("d0", 0, 0, vec![]) };
    assert_eq!(published(&bench.sends(fresh)), [], "nothing new to tell");
    assert_eq!(published(&bench.wait(300)), [("d0".into(), 1)]);
    let fetching = report("d0", 0, 1, slot_reports(&bench.desired("d0"), Phase::Fetching, None));
    bench.sends(DeviceReport { incarnation: 2, ..fetching });
    assert_eq!(bench.phases(1), [crate::DevicePhase::Fetching]);
}

#[test]
fn one_step_that_changes_several_slots_leaves_the_newest_generation_published() {
    let mut bench = Bench::empty();
    bench.start(1, 1, LINE);
    bench.begin(faces(2, 7));
    let sent = published(&bench.enrol(device("d0", &["line"])));
    assert_eq!(sent.iter().max(), Some(&("d0".into(), bench.fleet.devices[&id("d0")].generation.0)));
    let digests: Vec<_> = bench.desired("d0").slots.iter().map(|s| s.digest).collect();
    assert_eq!(digests, [digest(1), digest(7)]);
}
