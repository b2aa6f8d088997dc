//! Tables: what follows from each event, and what does not.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::code::Code;
use muster_proto::desired::Desired;
use muster_proto::id::{DeviceId, Digest, Generation, GroupName, Version};
use muster_proto::report::{AgentInfo, DeviceReport, Failure, ModelRef, Phase, Probe, SlotReport, Transfer};

use super::fleet::{RESEND_SECONDS, step};
use super::rollout::SILENCE_SECONDS;
use super::*;

pub(super) fn fleet() -> Fleet {
    Fleet::new("default".parse().expect("valid"), 0)
}

pub(super) fn id(name: &str) -> DeviceId {
    name.parse().expect("valid")
}

pub(super) fn group(name: &str) -> GroupName {
    name.parse().expect("valid")
}

pub(super) fn device(name: &str, groups: &[&str]) -> Device {
    let mut device = Device::enrolled(id(name), vec![4; 65], "t".into(), AgentInfo::default(), 1);
    device.groups = groups.iter().map(|g| group(g)).collect();
    device
}

pub(super) fn rollout(number: u64, version: u64, audience: Audience) -> Rollout {
    Rollout {
        id: RolloutId(number),
        model: "digits".parse().expect("valid"),
        version: Version(version),
        target: format!("digits/{version}/manifest"),
        digest: digest(version),
        length: 100,
        slot: "digits".parse().expect("valid"),
        audience,
        canary: 0,
        max_in_flight: 100,
        max_failures: 0,
        trial_seconds: 60,
        status: RolloutStatus::Running,
        reason: String::new(),
        created_at: 1,
        created_by: "test".into(),
        ended_at: 0,
        devices: BTreeMap::new(),
    }
}

pub(super) fn digest(version: u64) -> Digest {
    Digest::of(&version.to_le_bytes())
}

pub(super) fn slot_report(desired: &Desired, phase: Phase, active: Option<u64>) -> Vec<SlotReport> {
    let one = |slot: &muster_proto::desired::SlotDesired| SlotReport {
        slot: slot.slot.clone(),
        rollout: slot.rollout.clone(),
        desired: Some(ModelRef { target: slot.target.clone(), digest: slot.digest }),
        phase,
        active: active.map(|v| ModelRef { target: format!("digits/{v}/manifest"), digest: digest(v) }),
        previous: None,
        probe: None,
        failure: (phase == Phase::Failed).then(|| Failure { code: Code::ProbeMismatch, detail: "sample seven".into() }),
        transfer: Transfer::default(),
    };
    desired.slots.iter().map(one).collect()
}

pub(super) fn report(name: &str, number: u64, generation: u64, slots: Vec<SlotReport>) -> DeviceReport {
    DeviceReport {
        workspace: "default".parse().expect("valid"),
        device: id(name),
        incarnation: 1,
        id: number,
        sent_at: 0,
        generation: Generation(generation),
        agent: AgentInfo::default(),
        slots,
        refused: None,
    }
}

/// A fleet of connected devices `d0`, `d1` … in the group `line`.
fn line(count: usize) -> Fleet {
    let mut fleet = fleet();
    for n in 0..count {
        let name = format!("d{n}");
        step(&mut fleet, Event::Enrolled(Box::new(device(&name, &["line"]))), 1);
        step(&mut fleet, Event::Online { device: id(&name), generation: Generation(0) }, 1);
    }
    fleet
}

fn to_line() -> Audience {
    Audience::Group { group: group("line") }
}

fn start(fleet: &mut Fleet, rollout: Rollout) -> Vec<Effect> {
    step(fleet, Event::RolloutStarted(Box::new(rollout)), 10)
}

fn published(effects: &[Effect]) -> Vec<(String, u64)> {
    let pick = |effect: &Effect| match effect {
        Effect::PublishDesired { device, desired } => Some((device.to_string(), desired.generation.0)),
        _ => None,
    };
    effects.iter().filter_map(pick).collect()
}

fn acks(effects: &[Effect]) -> Vec<u64> {
    let pick = |effect: &Effect| match effect {
        Effect::Ack { ids, .. } => ids.clone(),
        _ => vec![],
    };
    effects.iter().flat_map(pick).collect()
}

fn says(fleet: &mut Fleet, name: &str, number: u64, phase: Phase, active: Option<u64>) -> Vec<Effect> {
    let desired = fleet.devices[&id(name)].desired(&fleet.workspace, 20).expect("has one");
    let slots = slot_report(&desired, phase, active);
    step(fleet, Event::ReportArrived(Box::new(report(name, number, desired.generation.0, slots))), 20)
}

fn phases(fleet: &Fleet, number: u64) -> Vec<DevicePhase> {
    fleet.rollouts[&RolloutId(number)].devices.values().map(|p| p.phase).collect()
}

fn status(fleet: &Fleet, number: u64) -> RolloutStatus {
    fleet.rollouts[&RolloutId(number)].status
}

use DevicePhase::{Failed, Fetching, Healthy, Offered, Pending, Superseded};

#[test]
fn a_rollout_reaches_its_group_and_completes_on_proof() {
    let mut fleet = line(2);
    let effects = start(&mut fleet, rollout(1, 1, to_line()));
    assert_eq!(published(&effects), [("d0".into(), 1), ("d1".into(), 1)]);
    assert_eq!(phases(&fleet, 1), [Offered, Offered]);
    for name in ["d0", "d1"] {
        says(&mut fleet, name, 1, Phase::Fetching, None);
        says(&mut fleet, name, 2, Phase::Healthy, Some(1));
    }
    assert_eq!(phases(&fleet, 1), [Healthy, Healthy]);
    assert_eq!(status(&fleet, 1), RolloutStatus::Completed);
    assert!(fleet.devices.values().all(Device::converged));
}

/// Invariant 12.
#[test]
fn only_the_wanted_digest_answering_with_all_samples_passed_is_success() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 2, to_line()));
    says(&mut fleet, "d0", 1, Phase::Fetching, Some(1));
    for (number, active) in [(2, None), (3, Some(1))] {
        says(&mut fleet, "d0", number, Phase::Healthy, active);
        assert_eq!(phases(&fleet, 1), [Fetching]);
    }
    let desired = fleet.devices[&id("d0")].desired(&fleet.workspace, 20).expect("has one");
    let mut slots = slot_report(&desired, Phase::Healthy, Some(2));
    slots[0].probe = Some(Probe { samples: 4, passed: 3, max_abs_error: f32::NAN, load_us: 1, inference_us: 1 });
    step(&mut fleet, Event::ReportArrived(Box::new(report("d0", 4, 1, slots))), 20);
    assert_eq!(phases(&fleet, 1), [Fetching]);
    assert_eq!(status(&fleet, 1), RolloutStatus::Running);
}

/// Invariant 8.
#[test]
fn a_canary_goes_first_and_failures_halt_the_rest() {
    let mut fleet = line(5);
    let effects = start(&mut fleet, Rollout { canary: 2, ..rollout(1, 1, to_line()) });
    assert_eq!(published(&effects).len(), 2);
    assert_eq!(published(&says(&mut fleet, "d0", 1, Phase::Healthy, Some(1))).len(), 0);
    let effects = says(&mut fleet, "d1", 1, Phase::Failed, None);
    assert_eq!(published(&effects).len(), 0);
    assert_eq!(status(&fleet, 1), RolloutStatus::Halted);
    assert_eq!(phases(&fleet, 1), [Healthy, Failed, Pending, Pending, Pending]);

    let effects = start(&mut fleet, Rollout { canary: 2, ..rollout(2, 2, to_line()) });
    assert_eq!(published(&effects).len(), 2);
    says(&mut fleet, "d0", 2, Phase::Healthy, Some(2));
    let effects = says(&mut fleet, "d1", 2, Phase::Healthy, Some(2));
    assert_eq!(published(&effects).len(), 3, "the canary is healthy, the rest follows");
}

#[test]
fn no_more_than_max_in_flight_update_at_once() {
    let mut fleet = line(5);
    let effects = start(&mut fleet, Rollout { max_in_flight: 2, ..rollout(1, 1, to_line()) });
    assert_eq!(published(&effects).len(), 2);
    assert_eq!(published(&says(&mut fleet, "d0", 1, Phase::Active, Some(1))).len(), 0);
    assert_eq!(published(&says(&mut fleet, "d0", 2, Phase::Healthy, Some(1))), [("d2".into(), 1)]);
}

#[test]
fn later_and_returning_devices_get_the_newest_version_of_each_slot() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    start(&mut fleet, rollout(2, 2, to_line()));
    let mut faces = rollout(3, 7, to_line());
    faces.slot = "faces".parse().expect("valid");
    start(&mut fleet, faces);

    step(&mut fleet, Event::Enrolled(Box::new(device("late", &[]))), 30);
    let joined =
        Event::GroupsChanged { device: id("late"), labels: BTreeMap::new(), groups: BTreeSet::from([group("line")]) };
    assert_eq!(published(&step(&mut fleet, joined, 30)), [], "not offered before it is connected");
    let effects = step(&mut fleet, Event::Online { device: id("late"), generation: Generation(0) }, 31);
    assert!(!published(&effects).is_empty());
    let slots: Vec<u64> = fleet.devices[&id("late")].slots.values().map(|a| a.rollout.0).collect();
    assert_eq!(slots, [2, 3]);
}

#[test]
fn a_label_selector_makes_members() {
    let mut fleet = line(1);
    let selector = BTreeMap::from([("site".to_owned(), "berlin".to_owned())]);
    step(&mut fleet, Event::GroupSet(Group { name: group("berlin"), selector: selector.clone() }), 2);
    start(&mut fleet, rollout(1, 1, Audience::Group { group: group("berlin") }));
    assert_eq!(status(&fleet, 1), RolloutStatus::Completed, "nobody is in it yet");
    let labelled = Event::GroupsChanged { device: id("d0"), labels: selector, groups: BTreeSet::new() };
    assert_eq!(published(&step(&mut fleet, labelled, 3)), [("d0".into(), 1)]);
}

/// Invariant 6.
#[test]
fn repeated_and_late_reports_are_acknowledged_and_change_nothing() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    let desired = fleet.devices[&id("d0")].desired(&fleet.workspace, 20).expect("has one");
    let newest = report("d0", 5, 1, slot_report(&desired, Phase::Healthy, Some(1)));
    let older = report("d0", 4, 1, slot_report(&desired, Phase::Fetching, None));
    let mut reborn = report("d0", 1, 1, slot_report(&desired, Phase::Verified, None));
    reborn.incarnation = 2;

    step(&mut fleet, Event::ReportArrived(Box::new(newest.clone())), 20);
    let known = fleet.clone();
    for late in [newest.clone(), older] {
        let number = late.id;
        assert_eq!(acks(&step(&mut fleet, Event::ReportArrived(Box::new(late)), 20)), [number]);
        assert_eq!(fleet, known);
    }
    step(&mut fleet, Event::ReportArrived(Box::new(reborn)), 20);
    assert_eq!(phases(&fleet, 1), [DevicePhase::Verified], "a new incarnation replaces, whatever its id");
    let known = fleet.clone();
    assert_eq!(acks(&step(&mut fleet, Event::ReportArrived(Box::new(newest)), 20)), [5]);
    assert_eq!(fleet, known, "the earlier incarnation's report came late");
}

#[test]
fn a_report_on_an_earlier_rollout_of_the_same_digest_says_nothing_on_this_one() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    let first = fleet.devices[&id("d0")].desired(&fleet.workspace, 20).expect("has one");
    start(&mut fleet, rollout(2, 2, to_line()));
    start(&mut fleet, rollout(3, 1, to_line()));
    let late = report("d0", 1, 1, slot_report(&first, Phase::Healthy, Some(1)));
    step(&mut fleet, Event::ReportArrived(Box::new(late)), 20);
    assert_eq!(phases(&fleet, 3), [Offered]);
    assert_eq!((phases(&fleet, 1), phases(&fleet, 2)), (vec![Superseded], vec![Superseded]));
}

#[test]
fn a_later_fall_back_reopens_the_case() {
    let mut fleet = line(2);
    start(&mut fleet, rollout(1, 1, to_line()));
    says(&mut fleet, "d0", 1, Phase::Healthy, Some(1));
    says(&mut fleet, "d1", 1, Phase::Healthy, Some(1));
    assert_eq!(status(&fleet, 1), RolloutStatus::Completed);
    says(&mut fleet, "d1", 2, Phase::Failed, None);
    assert_eq!(phases(&fleet, 1), [Healthy, Failed]);
    assert_eq!(status(&fleet, 1), RolloutStatus::Halted);
}

/// Invariant 13.
#[test]
fn silence_frees_a_place_and_counts_until_the_device_is_heard() {
    let mut fleet = line(3);
    start(&mut fleet, Rollout { max_in_flight: 1, max_failures: 1, ..rollout(1, 1, to_line()) });
    step(&mut fleet, Event::Offline(id("d0")), 12);
    assert_eq!(published(&step(&mut fleet, Event::Tick, 10 + SILENCE_SECONDS)), []);
    assert_eq!(published(&step(&mut fleet, Event::Tick, 13 + SILENCE_SECONDS)), [("d1".into(), 1)]);
    step(&mut fleet, Event::Offline(id("d1")), 14 + SILENCE_SECONDS);
    step(&mut fleet, Event::Tick, 100 + 2 * SILENCE_SECONDS);
    assert_eq!(status(&fleet, 1), RolloutStatus::Halted);
    says(&mut fleet, "d0", 1, Phase::Healthy, Some(1));
    assert_eq!(phases(&fleet, 1), [Healthy, Offered, Pending], "it converges all the same");
}

#[test]
fn a_restarted_dispatcher_does_not_take_its_own_absence_for_silence() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    let day = 86_400;
    fleet.listening_since = day;
    for device in fleet.devices.values_mut() {
        device.online = false;
    }
    step(&mut fleet, Event::Tick, day + SILENCE_SECONDS);
    assert_eq!(status(&fleet, 1), RolloutStatus::Running);
    step(&mut fleet, Event::Tick, day + SILENCE_SECONDS + 1);
    assert_eq!(status(&fleet, 1), RolloutStatus::Halted);
}

/// Invariant 3.
#[test]
fn generations_rise_above_what_a_device_has_accepted() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    let hello = |generation| Event::Online { device: id("d0"), generation: Generation(generation) };
    assert_eq!(published(&step(&mut fleet, hello(1), 11)), [("d0".into(), 1)]);
    assert_eq!(published(&step(&mut fleet, hello(40), 12)), [("d0".into(), 41)], "restored from a backup");
    assert_eq!(published(&step(&mut fleet, hello(40), 12)), [("d0".into(), 41)]);
    let effects = start(&mut fleet, rollout(2, 2, to_line()));
    assert_eq!(published(&effects), [("d0".into(), 42)]);
}

/// A broker may lose what it accepted, and a connection that holds says no second hello.
#[test]
fn a_desired_state_that_a_connected_device_does_not_accept_is_sent_again() {
    let mut fleet = line(1);
    let sent = published(&start(&mut fleet, rollout(1, 1, to_line())));
    let began = fleet.devices[&id("d0")].sent_at;
    let again = began + RESEND_SECONDS;
    assert_eq!(published(&step(&mut fleet, Event::Tick, again - 1)), []);
    assert_eq!(published(&step(&mut fleet, Event::Tick, again)), sent);
    assert_eq!(published(&step(&mut fleet, Event::Tick, again)), []);
    step(&mut fleet, Event::Offline(id("d0")), again);
    assert_eq!(published(&step(&mut fleet, Event::Tick, again + RESEND_SECONDS)), [], "it says hello when it is back");
    step(&mut fleet, Event::Online { device: id("d0"), generation: Generation(1) }, again + RESEND_SECONDS);
    assert_eq!(published(&step(&mut fleet, Event::Tick, again + 2 * RESEND_SECONDS)), [], "accepted");
}

/// Invariant 5: another dispatcher, or this one before its restore from a backup, used the number before.
#[test]
fn a_generation_that_the_device_knows_with_other_content_is_raised() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    let desired = fleet.devices[&id("d0")].desired(&fleet.workspace, 0).expect("it was offered something");
    let refused = Some(Failure { code: Code::Rollback, detail: "a second time with other content".into() });
    let ours = report("d0", 1, 1, slot_report(&desired, Phase::Fetching, None));
    let ours = DeviceReport { refused: refused.clone(), ..ours };
    assert_eq!(published(&step(&mut fleet, Event::ReportArrived(Box::new(ours)), 20)), [], "a replay of an older one");
    let theirs = DeviceReport { refused, ..report("d0", 2, 1, vec![]) };
    assert_eq!(published(&step(&mut fleet, Event::ReportArrived(Box::new(theirs)), 20)), [("d0".into(), 2)]);
}

#[test]
fn a_refused_desired_state_fails_what_it_asked_for() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    let refused = |number, code| DeviceReport {
        refused: Some(Failure { code, detail: "no".into() }),
        ..report("d0", number, 0, vec![])
    };
    step(&mut fleet, Event::ReportArrived(Box::new(refused(1, Code::Rollback))), 20);
    assert_eq!(phases(&fleet, 1), [Offered], "a replay was refused, as it should be");
    step(&mut fleet, Event::ReportArrived(Box::new(refused(2, Code::SignatureInvalid))), 20);
    assert_eq!(phases(&fleet, 1), [Failed]);
    assert_eq!(fleet.rollouts[&RolloutId(1)].devices[&id("d0")].code, Some(Code::SignatureInvalid));
}

#[test]
fn removing_a_device_clears_what_it_was_sent_and_frees_the_rollout() {
    let mut fleet = line(2);
    start(&mut fleet, rollout(1, 1, to_line()));
    says(&mut fleet, "d0", 1, Phase::Healthy, Some(1));
    let effects = step(&mut fleet, Event::Removed(id("d1")), 30);
    assert!(effects.contains(&Effect::ClearDesired(id("d1"))));
    assert!(effects.contains(&Effect::DeleteDevice(id("d1"))));
    assert_eq!(status(&fleet, 1), RolloutStatus::Completed);
    assert_eq!(step(&mut fleet, Event::Removed(id("d1")), 30), []);
}

#[test]
fn events_of_unknown_devices_and_rollouts_change_nothing() {
    let mut fleet = line(1);
    let known = fleet.clone();
    let mut foreign = report("d0", 9, 9, vec![]);
    foreign.workspace = "else".parse().expect("valid");
    let nobody = || id("nobody");
    let events = [
        Event::Removed(nobody()),
        Event::GroupsChanged { device: nobody(), labels: BTreeMap::new(), groups: BTreeSet::new() },
        Event::GroupDeleted(group("none")),
        Event::Online { device: nobody(), generation: Generation(3) },
        Event::Offline(nobody()),
        Event::Seen(nobody()),
        Event::ReportArrived(Box::new(report("nobody", 1, 1, vec![]))),
        Event::ReportArrived(Box::new(foreign)),
        Event::RolloutCancelled(RolloutId(9)),
        Event::VersionDeleted(digest(9)),
        Event::BrokerForgot,
        Event::Tick,
        Event::Enrolled(Box::new(Device { public_key: vec![5; 65], ..device("d0", &["thief"]) })),
    ];
    for event in events {
        assert_eq!(step(&mut fleet, event.clone(), 1), [], "{event:?}");
        assert_eq!(fleet, known, "{event:?}");
    }
}

#[test]
fn a_version_is_deleted_only_when_nothing_desires_it_and_nobody_joins_it_then() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    assert_eq!(registry::deletion_blockers(&fleet, digest(1)), ["rollout r1", "device d0 (slot digits)"]);
    start(&mut fleet, rollout(2, 2, to_line()));
    says(&mut fleet, "d0", 1, Phase::Healthy, Some(2));
    assert_eq!(registry::deletion_blockers(&fleet, digest(1)), [] as [&str; 0]);
    step(&mut fleet, Event::VersionDeleted(digest(1)), 30);
    assert_eq!(status(&fleet, 1), RolloutStatus::Cancelled);
}

#[test]
fn old_rollouts_are_forgotten_but_for_those_that_matter() {
    let mut fleet = line(1);
    for number in 1..=(rollout::MAX_ENDED as u64 + 20) {
        start(&mut fleet, rollout(number, number, Audience::Group { group: group("nobody") }));
    }
    assert!(fleet.rollouts.len() <= rollout::MAX_ENDED);
    assert_eq!(fleet.next_rollout(), RolloutId(rollout::MAX_ENDED as u64 + 21));
}

#[test]
fn a_desired_state_holds_every_slot() {
    let mut fleet = line(1);
    start(&mut fleet, rollout(1, 1, to_line()));
    let mut faces = rollout(2, 7, to_line());
    faces.slot = "faces".parse().expect("valid");
    start(&mut fleet, faces);
    let desired = fleet.devices[&id("d0")].desired(&fleet.workspace, 50).expect("has one");
    let slots: Vec<&str> = desired.slots.iter().map(|s| s.slot.as_str()).collect();
    assert_eq!(slots, ["digits", "faces"]);
    assert_eq!((desired.generation, desired.issued_at), (Generation(2), 50));
    assert!(desired.expires_at > 50);
}
