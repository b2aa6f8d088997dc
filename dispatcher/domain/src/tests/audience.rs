//! Whom a rollout is for.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::manifest::Requires;
use muster_proto::report::AgentInfo;

use super::bench::{Bench, LINE, agent, device, group, id, report, rollout};
use crate::DevicePhase::{Excluded, Offered, Waiting};
use crate::{Device, Event, Group, RolloutId, RolloutStatus};

const STAGE: &str = "stages = [{ size = '100%', soak = '60s' }]";

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn labelled(name: &str, groups: &[&str], pairs: &[(&str, &str)]) -> Device {
    Device { labels: labels(pairs), ..device(name, groups) }
}

/// Four devices: two in `a`, of which one in `b` too, one in `b`, one in none.
fn few() -> Bench {
    let mut bench = Bench::empty();
    bench.enrol(labelled("a", &["a"], &[("site", "berlin")]));
    bench.enrol(labelled("ab", &["a", "b"], &[("site", "hamburg")]));
    bench.enrol(labelled("b", &["b"], &[("site", "berlin")]));
    bench.enrol(labelled("none", &[], &[]));
    let selector = labels(&[("site", "berlin")]);
    bench.feed(Event::GroupSet(Group { name: group("berlin"), selector }));
    bench
}

fn members(bench: &Bench, number: u64) -> Vec<String> {
    let parts = bench.fleet.rollouts[&RolloutId(number)].parts.iter();
    parts.filter(|(_, part)| part.phase != Excluded).map(|(device, _)| device.to_string()).collect()
}

fn change(name: &str, pairs: &[(&str, &str)], groups: &[&str]) -> Event {
    let groups: BTreeSet<_> = groups.iter().map(|name| group(name)).collect();
    Event::GroupsChanged { device: id(name), labels: labels(pairs), groups }
}

#[test]
fn a_target_chooses_by_all_of_its_conditions() {
    for (target, want) in [
        ("all = true", vec!["a", "ab", "b", "none"]),
        ("groups = ['a']", vec!["a", "ab"]),
        ("groups = ['a', 'b']", vec!["a", "ab", "b"]),
        ("groups = ['berlin']", vec!["a", "b"]),
        ("groups = ['nobody']", vec![]),
        ("devices = ['b', 'none', 'unknown']", vec!["b", "none"]),
        ("groups = ['a']\ntarget.devices = ['none']", vec!["a", "ab", "none"]),
        ("where = 'labels.site == \"berlin\"'", vec!["a", "b"]),
        ("where = '\"b\" in groups'", vec!["ab", "b"]),
        ("where = '\"berlin\" in groups'", vec!["a", "b"]),
        ("where = 'memory_bytes > 1'\ntarget.groups = ['a']", vec!["a", "ab"]),
        ("where = 'memory_bytes == 1'", vec![]),
        ("all = true\ntarget.except.groups = ['b']", vec!["a", "none"]),
        ("all = true\ntarget.except.groups = ['berlin']\ntarget.except.devices = ['none']", vec!["ab"]),
    ] {
        let mut bench = few();
        bench.start(1, 1, &format!("target.{target}\n{STAGE}"));
        assert_eq!(members(&bench, 1), want, "{target}");
    }
}

#[test]
fn whoever_is_left_out_is_told_why() {
    let bench = few();
    for (target, name, want) in [
        ("groups = ['a', 'x']", "b", "it is in none of the groups a, x"),
        ("devices = ['a']", "b", "it is not one of the devices that are named"),
        ("all = true\ntarget.except.devices = ['b']", "b", "it is named in except.devices"),
        ("all = true\ntarget.except.groups = ['b']", "b", "it is in the group b, which is left out"),
    ] {
        let rollout = rollout(1, 1, &format!("target.{target}\n{STAGE}"));
        let why = bench.fleet.excluded(&rollout, &bench.fleet.devices[&id(name)]);
        assert_eq!(why.as_deref(), Some(want), "{target}");
    }
}

#[test]
fn what_the_manifest_requires_the_device_has_as_far_as_that_is_known() {
    let bare = AgentInfo { speaks: (1, 1), ..AgentInfo::default() };
    for (arch, memory, agent, want) in [
        (vec![], 0, agent(), None),
        (vec!["aarch64"], 1 << 30, agent(), None),
        (vec!["armv7", "x86_64"], 0, agent(), Some("the version is made for armv7 or x86_64, the device is aarch64")),
        (vec![], 2 << 30, agent(), Some("the version needs 2147483648 bytes of memory, the device has 1073741824")),
        (vec!["armv7"], 2 << 30, bare, None),
    ] {
        let mut bench = Bench::empty();
        bench.enrol(Device { agent, ..device("d0", &["line"]) });
        let arch = arch.into_iter().map(str::to_owned).collect();
        let mut rollout = rollout(1, 1, LINE);
        rollout.requires = Requires { arch, memory_bytes: memory };
        let why = bench.fleet.excluded(&rollout, &bench.fleet.devices[&id("d0")]);
        assert_eq!(why.as_deref(), want);
        bench.begin(rollout);
        assert_eq!(members(&bench, 1).is_empty(), want.is_some());
    }
}

#[test]
fn what_a_device_reports_of_itself_may_bring_it_in() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, &format!("target.where = 'agent == \"2.0\"'\n{STAGE}"));
    assert_eq!(members(&bench, 1), [] as [&str; 0]);
    let mut newer = report("d0", 0, 0, vec![]);
    newer.agent.version = "2.0".into();
    bench.sends(newer);
    assert_eq!(bench.phases(1), [Offered]);
}

#[test]
fn a_rollout_for_connected_devices_comes_to_them_when_they_connect() {
    let mut bench = Bench::line(2);
    bench.gone("d1");
    bench.start(1, 1, &format!("target.where = 'online'\n{STAGE}"));
    assert_eq!(members(&bench, 1), ["d0"]);
    bench.hello("d1", 0);
    assert_eq!(bench.phase(1, "d1"), Offered);
}

#[test]
fn later_members_come_in_unless_only_those_of_the_moment_are_meant() {
    for (target, want) in [("groups = ['line']", Some(Offered)), ("groups = ['line']\ntarget.snapshot = true", None)] {
        let mut bench = Bench::line(1);
        bench.start(1, 1, &format!("target.{target}\n{STAGE}"));
        bench.obeys("d0");
        assert_eq!(bench.status(1), RolloutStatus::Completed);
        bench.enrol(device("late", &[]));
        bench.feed(change("late", &[], &["line"]));
        let part = bench.fleet.rollouts[&RolloutId(1)].parts.get(&id("late")).map(|part| part.phase);
        assert_eq!(part, want, "{target}");
    }
}

#[test]
fn a_changed_label_takes_out_who_waits_and_nobody_else() {
    let mut bench = Bench::line(3);
    bench.gone("d1");
    bench.gone("d2");
    bench.start(1, 1, &format!("target.where = '!has(labels.out)'\n{STAGE}"));
    assert_eq!(bench.phases(1), [Offered, Waiting, Waiting]);
    for name in ["d0", "d1"] {
        bench.feed(change(name, &[("out", "")], &["line"]));
    }
    assert_eq!(bench.phases(1), [Offered, Excluded, Waiting]);
    bench.hello("d1", 0);
    assert_eq!(bench.phases(1), [Offered, Excluded, Waiting]);
    bench.feed(change("d1", &[], &["line"]));
    assert_eq!(bench.phases(1), [Offered, Offered, Waiting], "and back");
}

#[test]
fn a_group_whose_selector_changes_brings_in_and_lets_go() {
    let mut bench = few();
    bench.gone("a");
    bench.gone("ab");
    bench.start(1, 1, &format!("target.groups = ['berlin']\n{STAGE}"));
    let selector = labels(&[("site", "hamburg")]);
    bench.feed(Event::GroupSet(Group { name: group("berlin"), selector }));
    assert_eq!(bench.phases(1), [Excluded, Waiting, Offered], "b has it already");
}

#[test]
fn an_extended_rollout_is_for_the_members_of_the_other_group_too() {
    for (target, after, later) in [
        ("groups = ['a']", vec!["a", "ab", "b"], true),
        ("groups = ['a']\ntarget.snapshot = true", vec!["a", "ab", "b"], false),
        ("devices = ['none']", vec!["ab", "b", "none"], true),
        // These choose from everybody: a group would leave out some of them.
        ("where = 'device != \"b\"'", vec!["a", "ab", "none"], true),
        ("all = true", vec!["a", "ab", "b", "none"], true),
    ] {
        let mut bench = few();
        bench.start(1, 1, &format!("target.{target}\n{STAGE}"));
        bench.feed(Event::RolloutExtended(RolloutId(1), group("b")));
        assert_eq!(members(&bench, 1), after, "{target}");
        bench.enrol(device("z", &["b"]));
        assert_eq!(members(&bench, 1).contains(&"z".to_owned()), later, "{target}");
    }
}
