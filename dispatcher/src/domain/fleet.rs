//! The state of a whole workspace, and the one function through which it changes.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::code::Code;
use muster_proto::desired::Desired;
use muster_proto::id::{DeviceId, Digest, Generation, GroupName, Workspace};
use muster_proto::report::DeviceReport;

use super::device::{Device, Freshness, Group};
use super::notice::{DeviceChange, WatchEvent};
use super::rollout::{self, Audience, Progress, Rollout, RolloutId, RolloutStatus};

/// How far apart two notes of a device's life are that are worth keeping, in seconds.
const SEEN_STEP_SECONDS: u64 = 15;

/// Every device, group and rollout of a workspace.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// The workspace.
    pub workspace: Workspace,
    /// Since when this process hears devices: silence before that proves nothing.
    pub listening_since: u64,
    /// The highest generation that any device that was removed was sent or accepted.
    pub floor: Generation,
    /// Devices by name.
    pub devices: BTreeMap<DeviceId, Device>,
    /// Groups by name.
    pub groups: BTreeMap<GroupName, Group>,
    /// Rollouts by number, oldest first.
    pub rollouts: BTreeMap<RolloutId, Rollout>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A device was let in.
    Enrolled(Box<Device>),
    /// An operator removed a device.
    Removed(DeviceId),
    /// An operator set a device's labels and the groups that list it.
    GroupsChanged {
        /// The device.
        device: DeviceId,
        /// All of its labels.
        labels: BTreeMap<String, String>,
        /// All groups that list it.
        groups: BTreeSet<GroupName>,
    },
    /// An operator made a group or changed its selector.
    GroupSet(Group),
    /// An operator deleted a group.
    GroupDeleted(GroupName),
    /// A device said hello.
    Online {
        /// The device.
        device: DeviceId,
        /// The newest generation that it has accepted.
        generation: Generation,
    },
    /// The broker says that a device is gone.
    Offline(DeviceId),
    /// A device was heard, whatever it said.
    Seen(DeviceId),
    /// A device's verified report arrived.
    ReportArrived(Box<DeviceReport>),
    /// An operator started a rollout; `devices` is filled in by the step.
    RolloutStarted(Box<Rollout>),
    /// An operator ended a rollout.
    RolloutCancelled(RolloutId),
    /// A version was deleted from the registry: nobody joins its rollouts any more.
    VersionDeleted(Digest),
    /// The broker may have lost what it retained.
    BrokerForgot,
    /// Time passed.
    Tick,
}

/// What is to be done. All `Save…` and `Delete…` of a step are made durable together before the rest is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store a device's record.
    SaveDevice(DeviceId),
    /// Delete a device's record and its parts in rollouts.
    DeleteDevice(DeviceId),
    /// Store the generation that new devices begin above.
    SaveFloor(Generation),
    /// Store a group.
    SaveGroup(GroupName),
    /// Delete a group.
    DeleteGroup(GroupName),
    /// Store a rollout without its devices.
    SaveRollout(RolloutId),
    /// Store one device's part in a rollout.
    SaveProgress {
        /// The rollout.
        rollout: RolloutId,
        /// The device.
        device: DeviceId,
    },
    /// Delete a rollout with all parts.
    DeleteRollout(RolloutId),
    /// Sign and publish a desired state, retained.
    PublishDesired {
        /// The device.
        device: DeviceId,
        /// Its full desired state.
        desired: Box<Desired>,
    },
    /// Make the broker forget the desired state of a device that is no more.
    ClearDesired(DeviceId),
    /// Tell a device which messages are safe.
    Ack {
        /// The device.
        device: DeviceId,
        /// The messages' ids.
        ids: Vec<u64>,
    },
    /// Tell watchers.
    Notify(WatchEvent),
}

impl Fleet {
    /// An empty fleet.
    pub fn new(workspace: Workspace, listening_since: u64) -> Self {
        Self {
            workspace,
            listening_since,
            floor: Generation(0),
            devices: BTreeMap::new(),
            groups: BTreeMap::new(),
            rollouts: BTreeMap::new(),
        }
    }

    /// The groups that `device` is in, listed or selected.
    pub fn groups_of(&self, device: &Device) -> BTreeSet<GroupName> {
        self.groups.values().filter(|group| group.contains(device)).map(|group| group.name.clone()).collect()
    }

    /// Whether `audience` has `device`.
    pub fn invites(&self, audience: &Audience, device: &Device) -> bool {
        match audience {
            Audience::All => true,
            Audience::Group { group } => self.groups.get(group).is_some_and(|g| g.contains(device)),
            Audience::Devices { devices } => devices.contains(&device.id),
        }
    }

    /// The devices of `audience` as of now.
    pub fn members(&self, audience: &Audience) -> Vec<DeviceId> {
        self.devices.values().filter(|device| self.invites(audience, device)).map(|device| device.id.clone()).collect()
    }

    /// The number of the next rollout.
    pub fn next_rollout(&self) -> RolloutId {
        let last = self.rollouts.keys().next_back().map_or(0, |id| id.0);
        // A rollout that was dropped as too old may still be named by a device's slot.
        let named = self.devices.values().flat_map(|d| d.slots.values().map(|a| a.rollout.0)).max().unwrap_or(0);
        RolloutId(last.max(named) + 1)
    }

    /// What desires the version with manifest `digest`, for people: it may not be deleted.
    pub fn desires(&self, digest: Digest) -> Vec<String> {
        let rollouts = self.rollouts.values().filter(|r| r.status == RolloutStatus::Running && r.digest == digest);
        let devices = self.devices.values().flat_map(|device| {
            let slots = device.slots.iter().filter(|(_, want)| want.digest == digest);
            slots.map(|(slot, _)| format!("device {} (slot {slot})", device.id))
        });
        rollouts.map(|r| format!("rollout {}", r.id)).chain(devices).collect()
    }

    pub(super) fn progress(&self, rollout: RolloutId, device: &DeviceId) -> Option<&Progress> {
        self.rollouts.get(&rollout)?.devices.get(device)
    }

    pub(super) fn publish(&self, device: &DeviceId, now: u64) -> Option<Effect> {
        let desired = self.devices.get(device)?.desired(&self.workspace, now)?;
        Some(Effect::PublishDesired { device: device.clone(), desired: Box::new(desired) })
    }
}

/// What follows from `event`. The same event twice leaves the same state (invariant 6).
pub fn step(fleet: &mut Fleet, event: Event, now: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    match event {
        Event::Enrolled(device) => enrolled(fleet, *device, now, &mut effects),
        Event::Removed(device) => removed(fleet, &device, now, &mut effects),
        Event::GroupsChanged { device, labels, groups } => {
            groups_changed(fleet, &device, labels, groups, now, &mut effects);
        }
        Event::GroupSet(group) => group_set(fleet, group, now, &mut effects),
        Event::GroupDeleted(group) => group_deleted(fleet, &group, now, &mut effects),
        Event::Online { device, generation } => online(fleet, &device, generation, now, &mut effects),
        Event::Offline(device) => {
            if let Some(record) = fleet.devices.get_mut(&device)
                && record.online
            {
                record.online = false;
                effects.push(told(&device, DeviceChange::Offline));
            }
        }
        Event::Seen(device) => seen(fleet, &device, now, &mut effects),
        Event::ReportArrived(report) => report_arrived(fleet, *report, now, &mut effects),
        Event::RolloutStarted(rollout) => {
            if !fleet.rollouts.contains_key(&rollout.id) {
                rollout::start(fleet, *rollout, now, &mut effects);
            }
        }
        Event::RolloutCancelled(id) => rollout::cancel(fleet, id, "cancelled by an operator", now, &mut effects),
        Event::VersionDeleted(digest) => {
            let gone: Vec<RolloutId> = fleet.rollouts.values().filter(|r| r.digest == digest).map(|r| r.id).collect();
            for id in gone {
                rollout::cancel(fleet, id, "the version was deleted", now, &mut effects);
            }
        }
        Event::BrokerForgot => effects.extend(fleet.devices.keys().filter_map(|device| fleet.publish(device, now))),
        Event::Tick => advance_all(fleet, now, &mut effects),
    }
    effects
}

fn enrolled(fleet: &mut Fleet, device: Device, now: u64, effects: &mut Vec<Effect>) {
    let id = device.id.clone();
    match fleet.devices.get_mut(&id) {
        // A repeated request after a lost answer: the record stands.
        Some(known) if known.public_key == device.public_key => return,
        // A name that is taken stays with its key, until an operator removes it.
        Some(_) => return,
        None => {}
    }
    for group in &device.groups {
        ensure_group(fleet, group, effects);
    }
    fleet.devices.insert(id.clone(), Device { floor: fleet.floor, ..device });
    effects.push(Effect::SaveDevice(id.clone()));
    effects.push(told(&id, DeviceChange::Enrolled));
    rollout::join(fleet, &id, now, effects);
}

fn removed(fleet: &mut Fleet, device: &DeviceId, now: u64, effects: &mut Vec<Effect>) {
    let Some(record) = fleet.devices.remove(device) else { return };
    fleet.floor = fleet.floor.max(record.generation).max(record.accepted).max(record.floor);
    effects.push(Effect::SaveFloor(fleet.floor));
    effects.push(Effect::DeleteDevice(device.clone()));
    effects.push(Effect::ClearDesired(device.clone()));
    effects.push(told(device, DeviceChange::Removed));
    let touched: Vec<RolloutId> =
        fleet.rollouts.values_mut().filter_map(|r| r.devices.remove(device).map(|_| r.id)).collect();
    for id in touched {
        rollout::advance(fleet, id, now, effects);
    }
}

fn groups_changed(
    fleet: &mut Fleet,
    device: &DeviceId,
    labels: BTreeMap<String, String>,
    groups: BTreeSet<GroupName>,
    now: u64,
    effects: &mut Vec<Effect>,
) {
    let Some(record) = fleet.devices.get_mut(device) else { return };
    if record.labels == labels && record.groups == groups {
        return;
    }
    record.labels = labels;
    record.groups = groups.clone();
    for group in &groups {
        ensure_group(fleet, group, effects);
    }
    effects.push(Effect::SaveDevice(device.clone()));
    effects.push(told(device, DeviceChange::Changed));
    rollout::join(fleet, device, now, effects);
}

fn group_set(fleet: &mut Fleet, group: Group, now: u64, effects: &mut Vec<Effect>) {
    if fleet.groups.get(&group.name) == Some(&group) {
        return;
    }
    let audience = Audience::Group { group: group.name.clone() };
    effects.push(Effect::SaveGroup(group.name.clone()));
    fleet.groups.insert(group.name.clone(), group);
    for device in fleet.members(&audience) {
        rollout::join(fleet, &device, now, effects);
    }
}

fn group_deleted(fleet: &mut Fleet, group: &GroupName, now: u64, effects: &mut Vec<Effect>) {
    if fleet.groups.remove(group).is_none() {
        return;
    }
    for device in fleet.devices.values_mut() {
        if device.groups.remove(group) {
            effects.push(Effect::SaveDevice(device.id.clone()));
        }
    }
    effects.push(Effect::DeleteGroup(group.clone()));
    // A later group of this name is another one: its members shall not inherit.
    let orphans: Vec<RolloutId> = fleet
        .rollouts
        .values()
        .filter(|r| matches!(&r.audience, Audience::Group { group: g } if g == group))
        .map(|r| r.id)
        .collect();
    for id in orphans {
        rollout::cancel(fleet, id, "its group was deleted", now, effects);
    }
}

fn online(fleet: &mut Fleet, device: &DeviceId, generation: Generation, now: u64, effects: &mut Vec<Effect>) {
    let Some(record) = fleet.devices.get_mut(device) else { return };
    let (was_online, known) = (record.online, record.accepted);
    record.online = true;
    record.last_seen = now;
    let raised = record.accept(generation);
    if raised || known != generation {
        effects.push(Effect::SaveDevice(device.clone()));
    }
    // On each hello, because a broker may not have kept the retained one.
    effects.extend(fleet.publish(device, now));
    if !was_online {
        effects.push(told(device, DeviceChange::Online));
    }
    advance_rollouts_of(fleet, device, now, effects);
}

fn seen(fleet: &mut Fleet, device: &DeviceId, now: u64, effects: &mut Vec<Effect>) {
    let Some(record) = fleet.devices.get_mut(device) else { return };
    if record.online && now.saturating_sub(record.last_seen) < SEEN_STEP_SECONDS {
        return;
    }
    record.last_seen = now;
    if !record.online {
        record.online = true;
        effects.push(told(device, DeviceChange::Online));
        advance_rollouts_of(fleet, device, now, effects);
    }
}

fn report_arrived(fleet: &mut Fleet, report: DeviceReport, now: u64, effects: &mut Vec<Effect>) {
    if report.workspace != fleet.workspace {
        return;
    }
    let Some(record) = fleet.devices.get_mut(&report.device) else { return };
    let (device, id) = (report.device.clone(), report.id);
    match record.freshness(&report) {
        Freshness::Newer => {}
        Freshness::Known | Freshness::PastIncarnation => {
            effects.push(Effect::Ack { device, ids: vec![id] });
            return;
        }
    }
    let was_online = std::mem::replace(&mut record.online, true);
    record.last_seen = now;
    let raised = record.accept(report.generation);
    let behind = report.generation < record.generation;
    record.replace_report(report.clone());
    effects.push(Effect::SaveDevice(device.clone()));
    if raised {
        effects.extend(fleet.publish(&device, now));
    }
    for slot in &report.slots {
        rollout::observe(fleet, &device, slot, now, effects);
    }
    // A refused replay of an older desired state is as it should be; only the newest one matters.
    if let Some(refused) = report.refused.filter(|refused| behind && refused.code != Code::Rollback) {
        rollout::refuse(fleet, &device, refused.code, &refused.detail, now, effects);
    }
    effects.push(Effect::Ack { device: device.clone(), ids: vec![id] });
    effects.push(told(&device, DeviceChange::Reported));
    if !was_online {
        effects.push(told(&device, DeviceChange::Online));
        advance_rollouts_of(fleet, &device, now, effects);
    }
}

fn ensure_group(fleet: &mut Fleet, name: &GroupName, effects: &mut Vec<Effect>) {
    if !fleet.groups.contains_key(name) {
        fleet.groups.insert(name.clone(), Group { name: name.clone(), selector: BTreeMap::new() });
        effects.push(Effect::SaveGroup(name.clone()));
    }
}

fn advance_rollouts_of(fleet: &mut Fleet, device: &DeviceId, now: u64, effects: &mut Vec<Effect>) {
    let parts: Vec<RolloutId> =
        fleet.rollouts.values().filter(|r| r.devices.contains_key(device)).map(|r| r.id).collect();
    for id in parts {
        rollout::advance(fleet, id, now, effects);
    }
}

fn advance_all(fleet: &mut Fleet, now: u64, effects: &mut Vec<Effect>) {
    let all: Vec<RolloutId> = fleet.rollouts.keys().copied().collect();
    for id in all {
        rollout::advance(fleet, id, now, effects);
    }
}

fn told(device: &DeviceId, change: DeviceChange) -> Effect {
    Effect::Notify(WatchEvent::Device { device: device.clone(), change })
}
