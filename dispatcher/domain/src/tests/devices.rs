//! Devices that come, say hello, change and go.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::id::Generation;

use super::bench::{Bench, LINE, device, digest, group, id, published, report};
use crate::DevicePhase::{Healthy, Offered, Waiting};
use crate::fleet::RESEND_SECONDS;
use crate::notice::{DeviceChange, WatchEvent};
use crate::rollout::Word;
use crate::{Device, DevicePhase, Effect, Event, Group, RolloutId, RolloutStatus};

#[test]
fn a_rollout_reaches_its_group_and_completes_on_proof() {
    let mut bench = Bench::line(2);
    let effects = bench.start(1, 1, LINE);
    assert_eq!(published(&effects), [("d0".into(), 1), ("d1".into(), 1)]);
    assert_eq!(bench.phases(1), [Offered, Offered]);
    bench.obeys("d0");
    bench.obeys("d1");
    assert_eq!((bench.phases(1), bench.status(1)), (vec![Healthy, Healthy], RolloutStatus::Completed));
    assert!(bench.fleet.devices.values().all(Device::converged));
}

#[test]
fn a_name_that_is_taken_stays_with_its_key() {
    let mut bench = Bench::line(1);
    let known = bench.fleet.clone();
    let thief = Device { public_key: vec![5; 65], ..device("d0", &["thieves"]) };
    assert_eq!(bench.feed(Event::Enrolled(Box::new(thief))), []);
    assert_eq!(bench.fleet, known);
}

#[test]
fn events_of_unknown_devices_groups_and_rollouts_change_nothing() {
    let mut bench = Bench::line(1);
    let known = bench.fleet.clone();
    let mut foreign = report("d0", 9, 9, vec![]);
    foreign.workspace = "else".parse().unwrap();
    let nobody = || id("nobody");
    for event in [
        Event::Removed(nobody()),
        Event::GroupsChanged { device: nobody(), labels: BTreeMap::new(), groups: BTreeSet::new() },
        Event::GroupDeleted(group("none")),
        Event::Online { device: nobody(), generation: Generation(3) },
        Event::Offline(nobody()),
        Event::Seen(nobody()),
        Event::ReportArrived(Box::new(report("nobody", 1, 1, vec![]))),
        Event::ReportArrived(Box::new(foreign)),
        Event::RolloutTold(RolloutId(9), Word::Resume),
        Event::RolloutExtended(RolloutId(9), group("line")),
        Event::VersionDeleted(digest(9)),
        Event::BrokerForgot,
        Event::Tick,
    ] {
        assert_eq!(bench.feed(event.clone()), [], "{event:?}");
        assert_eq!(bench.fleet, known, "{event:?}");
    }
}

/// A broker may lose what it accepted, and a connection that holds says no second hello.
#[test]
fn a_desired_state_that_a_connected_device_does_not_accept_is_sent_again() {
    let mut bench = Bench::line(1);
    let sent = published(&bench.start(1, 1, LINE));
    assert_eq!(published(&bench.wait(RESEND_SECONDS - 1)), []);
    assert_eq!(published(&bench.wait(1)), sent);
    assert_eq!(published(&bench.wait(0)), []);
    bench.gone("d0");
    assert_eq!(published(&bench.wait(RESEND_SECONDS)), [], "it says hello when it is back");
    bench.hello("d0", 1);
    assert_eq!(published(&bench.wait(RESEND_SECONDS)), [], "accepted");
}

#[test]
fn every_hello_is_answered_with_the_desired_state_and_told_once() {
    let mut bench = Bench::line(1);
    let online = |effects: &[Effect]| {
        let online = WatchEvent::Device { device: id("d0"), change: DeviceChange::Online };
        effects.contains(&Effect::Notify(online))
    };
    assert_eq!(published(&bench.hello("d0", 0)), [], "nothing to say yet");
    bench.start(1, 1, LINE);
    let again = bench.hello("d0", 1);
    assert_eq!((published(&again), online(&again)), (vec![("d0".into(), 1)], false));
    bench.gone("d0");
    assert!(online(&bench.hello("d0", 1)));
}

#[test]
fn whatever_a_device_says_it_is_heard() {
    let mut bench = Bench::line(1);
    bench.gone("d0");
    bench.start(1, 1, LINE);
    assert_eq!(bench.phases(1), [Waiting], "not offered before it is connected");
    let effects = bench.feed(Event::Seen(id("d0")));
    assert_eq!((bench.phases(1), published(&effects).len()), (vec![Offered], 1));
    assert_eq!(bench.feed(Event::Seen(id("d0"))), [], "a moment later it is nothing new");
}

#[test]
fn silence_frees_a_place_and_a_device_that_comes_back_goes_on() {
    let mut bench = Bench::line(2);
    bench.start(
        1,
        1,
        "rate.in_flight = 1\nsilence = '60s'\ntarget.groups = ['line']\nstages = [{ size = '100%', soak = '60s' }]",
    );
    let first = if bench.phase(1, "d0") == Offered { "d0" } else { "d1" };
    bench.gone(first);
    bench.wait(62);
    // Invariant 13.
    assert_eq!(bench.phase(1, first), DevicePhase::Silent);
    assert_eq!(bench.phases(1).iter().filter(|phase| **phase == Offered).count(), 1, "the other one has its turn");
    bench.hello(first, 1);
    bench.obeys(first);
    assert_eq!(bench.phase(1, first), Healthy);
}

#[test]
fn removing_a_device_clears_what_it_was_sent_and_frees_the_rollout() {
    let mut bench = Bench::line(2);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    let effects = bench.feed(Event::Removed(id("d1")));
    assert!(effects.contains(&Effect::ClearDesired(id("d1"))));
    assert!(effects.contains(&Effect::DeleteDevice(id("d1"))));
    assert_eq!(bench.status(1), RolloutStatus::Completed);
    assert_eq!(bench.feed(Event::Removed(id("d1"))), []);
}

#[test]
fn groups_come_with_the_devices_that_name_them() {
    let mut bench = Bench::line(1);
    assert!(bench.fleet.groups.contains_key(&group("line")));
    let groups = BTreeSet::from([group("line"), group("new")]);
    let change = Event::GroupsChanged { device: id("d0"), labels: BTreeMap::new(), groups };
    let effects = bench.feed(change.clone());
    assert!(effects.contains(&Effect::SaveGroup(group("new"))));
    assert_eq!(bench.feed(change), [], "nothing changed");
    let same = Event::GroupSet(Group { name: group("new"), selector: BTreeMap::new() });
    assert_eq!(bench.feed(same), []);
}

#[test]
fn after_the_broker_forgot_everybody_is_told_again() {
    let mut bench = Bench::line(2);
    bench.start(1, 1, LINE);
    assert_eq!(published(&bench.feed(Event::BrokerForgot)), [("d0".into(), 1), ("d1".into(), 1)]);
}
