//! Devices, groups and versions that are deleted while rollouts run.

use std::collections::BTreeSet;

use super::bench::{Bench, LINE, device, digest, group, id};
use crate::DevicePhase::{Excluded, Healthy, Offered, Recalled, Waiting};
use crate::fleet::MAX_ENDED;
use crate::registry::deletion_blockers;
use crate::{Event, RolloutId, RolloutStatus};

const STAGE: &str = "stages = [{ size = '100%', soak = '60s' }]";

#[test]
fn a_version_is_deleted_only_when_nothing_desires_it_and_nobody_joins_it_then() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    assert_eq!(deletion_blockers(&bench.fleet, digest(1)), ["rollout r1", "device d0 (slot digits)"]);
    bench.start(2, 2, LINE);
    bench.obeys("d0");
    bench.cancel(1);
    assert_eq!(deletion_blockers(&bench.fleet, digest(1)), [] as [&str; 0]);
    bench.feed(Event::VersionDeleted(digest(1)));
    bench.enrol(device("late", &["line"]));
    assert_eq!(bench.slot("late"), "r2 v2");
}

/// Without it a recall would leave the device with nothing.
#[test]
fn a_version_that_a_recall_would_lead_to_is_desired() {
    let mut bench = Bench::line(1);
    for number in [1, 2] {
        bench.start(number, number, LINE);
        bench.obeys("d0");
    }
    let wanted = ["device d0 (slot digits, if r2 is rolled back)"];
    assert_eq!(deletion_blockers(&bench.fleet, digest(1)), wanted);
    bench.cancel(2);
    assert_eq!(deletion_blockers(&bench.fleet, digest(1)), wanted, "it can still be rolled back");
    bench.start(3, 3, LINE);
    bench.obeys("d0");
    assert_eq!(deletion_blockers(&bench.fleet, digest(1)), [] as [&str; 0]);
    assert_eq!(deletion_blockers(&bench.fleet, digest(2)).len(), 1);
}

#[test]
fn a_deleted_version_ends_its_rollouts_and_is_nothing_to_go_back_to() {
    let mut bench = Bench::line(1);
    for number in [1, 2, 3] {
        bench.start(number, number, LINE);
        bench.obeys("d0");
    }
    bench.feed(Event::VersionDeleted(digest(2)));
    assert_eq!(bench.status(2), RolloutStatus::Cancelled);
    bench.roll_back(3);
    assert_eq!(bench.slot("d0"), "-");
}

#[test]
fn a_rollout_goes_on_without_a_device_that_is_removed() {
    let mut bench = Bench::line(3);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.obeys("d1");
    bench.feed(Event::Removed(id("d2")));
    assert_eq!((bench.phases(1), bench.status(1)), (vec![Healthy, Healthy], RolloutStatus::Completed));
    bench.start(2, 2, LINE);
    bench.obeys("d0");
    bench.roll_back(2);
    bench.feed(Event::Removed(id("d1")));
    bench.obeys("d0");
    assert_eq!((bench.phases(2), bench.status(2)), (vec![Recalled], RolloutStatus::Recalled));
}

#[test]
fn the_rollout_of_a_deleted_group_is_cancelled_and_a_later_group_of_this_name_inherits_nothing() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.feed(Event::GroupDeleted(group("line")));
    assert_eq!(bench.status(1), RolloutStatus::Cancelled);
    assert!(bench.fleet.devices[&id("d0")].groups.is_empty());
    bench.enrol(device("late", &["line"]));
    assert_eq!(bench.slot("late"), "-");
}

#[test]
fn a_rollout_for_more_than_the_deleted_group_goes_on_for_the_others() {
    for (target, want) in [
        ("groups = ['a', 'b']", [Some(Offered), Some(Excluded), Some(Waiting)]),
        ("groups = ['b']\ntarget.devices = ['in-a']", [Some(Offered), Some(Excluded), None]),
        // A condition on a group that is no more holds for nobody, and an exception leaves nobody out.
        ("where = '\"b\" in groups || \"a\" in groups'", [Some(Offered), Some(Excluded), Some(Waiting)]),
        ("all = true\ntarget.except.groups = ['b']", [Some(Offered), Some(Waiting), Some(Waiting)]),
    ] {
        let mut bench = Bench::empty();
        bench.enrol(device("in-a", &["a"]));
        bench.enrol(device("in-b", &["b"]));
        bench.enrol(device("later-in-a", &["a", "b"]));
        bench.gone("in-b");
        bench.gone("later-in-a");
        bench.start(1, 1, &format!("target.{target}\n{STAGE}"));
        bench.feed(Event::GroupDeleted(group("b")));
        assert_eq!(bench.status(1), RolloutStatus::Running, "{target}");
        let parts = &bench.fleet.rollouts[&RolloutId(1)].parts;
        let phases = ["in-a", "in-b", "later-in-a"].map(|name| parts.get(&id(name)).map(|part| part.phase));
        if target.contains("devices") {
            assert_eq!(phases[..2], want[..2], "{target}");
        } else {
            assert_eq!(phases, want, "{target}");
        }
    }
}

#[test]
fn a_rollout_that_loses_its_last_group_does_not_become_one_for_everybody() {
    let mut bench = Bench::line(1);
    bench.enrol(device("none", &[]));
    bench.start(1, 1, &format!("target.where = 'memory_bytes > 0'\ntarget.groups = ['line']\n{STAGE}"));
    bench.feed(Event::GroupDeleted(group("line")));
    assert_eq!(bench.status(1), RolloutStatus::Cancelled);
    assert_eq!(bench.slot("none"), "-");
}

#[test]
fn old_rollouts_are_forgotten_but_for_those_that_matter() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    let last = MAX_ENDED as u64 + 20;
    for number in 2..=last {
        let started = super::bench::rollout(number, number, &format!("target.groups = ['nobody']\n{STAGE}"));
        crate::fleet::step(&mut bench.fleet, Event::RolloutStarted(Box::new(started)), bench.now);
        let word = crate::rollout::Word::Cancel("enough".into());
        crate::fleet::step(&mut bench.fleet, Event::RolloutTold(RolloutId(number), word), bench.now);
    }
    assert!(bench.fleet.rollouts.len() <= MAX_ENDED + 1, "{}", bench.fleet.rollouts.len());
    assert!(bench.fleet.rollouts.contains_key(&RolloutId(1)), "a device has it");
    assert_eq!(bench.fleet.next_rollout(), RolloutId(last + 1));
    let groups: BTreeSet<_> = bench.fleet.groups.keys().map(|name| name.to_string()).collect();
    assert_eq!(groups, ["line".to_owned()].into());
}
