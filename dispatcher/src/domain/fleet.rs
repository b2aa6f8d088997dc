//! The state of a whole workspace, and the one function through which it changes.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::code::Code;
use muster_proto::desired::Desired;
use muster_proto::id::{DeviceId, Digest, Generation, GroupName, Workspace};
use muster_proto::report::DeviceReport;

use super::device::{Device, Freshness, Group};
use super::notice::{DeviceChange, WatchEvent};
use super::rollout::{Audience, Rollout, RolloutId, RolloutStatus};

/// How far apart two notes of a device's life are that are worth keeping, in seconds.
const SEEN_STEP_SECONDS: u64 = 15;

/// A connected device that has not accepted its desired state is sent it again this often, in seconds: the broker may
/// have lost it, and a device whose connection holds does not say hello.
pub(super) const RESEND_SECONDS: u64 = 300;

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
}

/// What follows from `event`. The same event twice leaves the same state (invariant 6).
pub fn step(fleet: &mut Fleet, event: Event, now: u64) -> Vec<Effect> {
    let mut turn = Turn { fleet, now, effects: Vec::new() };
    turn.take(event);
    turn.effects
}

/// One step under way.
pub(super) struct Turn<'a> {
    pub fleet: &'a mut Fleet,
    pub now: u64,
    pub effects: Vec<Effect>,
}

impl Turn<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Enrolled(device) => self.enrolled(*device),
            Event::Removed(device) => self.removed(&device),
            Event::GroupsChanged { device, labels, groups } => self.groups_changed(&device, labels, groups),
            Event::GroupSet(group) => self.group_set(group),
            Event::GroupDeleted(group) => self.group_deleted(&group),
            Event::Online { device, generation } => self.online(&device, generation),
            Event::Offline(device) => self.offline(&device),
            Event::Seen(device) => self.seen(&device),
            Event::ReportArrived(report) => self.report_arrived(*report),
            Event::RolloutStarted(rollout) => {
                if !self.fleet.rollouts.contains_key(&rollout.id) {
                    self.start_rollout(*rollout);
                }
            }
            Event::RolloutCancelled(id) => self.cancel_rollout(id, "cancelled by an operator"),
            Event::VersionDeleted(digest) => self.cancel_where("the version was deleted", |r| r.digest == digest),
            Event::BrokerForgot => {
                let all: Vec<DeviceId> = self.fleet.devices.keys().cloned().collect();
                all.iter().for_each(|device| self.publish(device));
            }
            Event::Tick => {
                self.advance_where(|_| true);
                self.publish_again();
            }
        }
    }

    fn enrolled(&mut self, device: Device) {
        let id = device.id.clone();
        match self.fleet.devices.get(&id) {
            // A repeated request after a lost answer: the record stands.
            Some(known) if known.public_key == device.public_key => return,
            // A name that is taken stays with its key, until an operator removes it.
            Some(_) => return,
            None => {}
        }
        for group in &device.groups {
            self.ensure_group(group);
        }
        let device = Device { floor: self.fleet.floor, ..device };
        self.fleet.devices.insert(id.clone(), device);
        self.effects.push(Effect::SaveDevice(id.clone()));
        self.tell(&id, DeviceChange::Enrolled);
        self.join_rollouts(&id);
    }

    fn removed(&mut self, device: &DeviceId) {
        let Some(record) = self.fleet.devices.remove(device) else { return };
        self.fleet.floor = self.fleet.floor.max(record.generation).max(record.accepted).max(record.floor);
        self.effects.push(Effect::SaveFloor(self.fleet.floor));
        self.effects.push(Effect::DeleteDevice(device.clone()));
        self.effects.push(Effect::ClearDesired(device.clone()));
        self.tell(device, DeviceChange::Removed);
        let rollouts = self.fleet.rollouts.values_mut();
        let touched: Vec<RolloutId> = rollouts.filter_map(|r| r.devices.remove(device).map(|_| r.id)).collect();
        for id in touched {
            self.advance_rollout(id);
        }
    }

    fn groups_changed(&mut self, device: &DeviceId, labels: BTreeMap<String, String>, groups: BTreeSet<GroupName>) {
        let Some(record) = self.fleet.devices.get_mut(device) else { return };
        if record.labels == labels && record.groups == groups {
            return;
        }
        record.labels = labels;
        record.groups = groups.clone();
        for group in &groups {
            self.ensure_group(group);
        }
        self.effects.push(Effect::SaveDevice(device.clone()));
        self.tell(device, DeviceChange::Changed);
        self.join_rollouts(device);
    }

    fn group_set(&mut self, group: Group) {
        if self.fleet.groups.get(&group.name) == Some(&group) {
            return;
        }
        let audience = Audience::Group { group: group.name.clone() };
        self.effects.push(Effect::SaveGroup(group.name.clone()));
        self.fleet.groups.insert(group.name.clone(), group);
        for device in self.fleet.members(&audience) {
            self.join_rollouts(&device);
        }
    }

    fn group_deleted(&mut self, group: &GroupName) {
        if self.fleet.groups.remove(group).is_none() {
            return;
        }
        for device in self.fleet.devices.values_mut() {
            if device.groups.remove(group) {
                self.effects.push(Effect::SaveDevice(device.id.clone()));
            }
        }
        self.effects.push(Effect::DeleteGroup(group.clone()));
        // A later group of this name is another one: its members shall not inherit.
        let was_for = |r: &Rollout| matches!(&r.audience, Audience::Group { group: g } if g == group);
        self.cancel_where("its group was deleted", was_for);
    }

    fn online(&mut self, device: &DeviceId, generation: Generation) {
        let Some(record) = self.fleet.devices.get_mut(device) else { return };
        let (was_online, known) = (record.online, record.accepted);
        record.online = true;
        record.last_seen = self.now;
        let raised = record.accept(generation);
        if raised || known != generation {
            self.effects.push(Effect::SaveDevice(device.clone()));
        }
        // On each hello, because a broker may not have kept the retained one.
        self.publish(device);
        if !was_online {
            self.tell(device, DeviceChange::Online);
        }
        self.advance_where(|r| r.devices.contains_key(device));
    }

    fn offline(&mut self, device: &DeviceId) {
        if let Some(record) = self.fleet.devices.get_mut(device)
            && record.online
        {
            record.online = false;
            self.tell(device, DeviceChange::Offline);
        }
    }

    fn seen(&mut self, device: &DeviceId) {
        let Some(record) = self.fleet.devices.get_mut(device) else { return };
        if record.online && self.now.saturating_sub(record.last_seen) < SEEN_STEP_SECONDS {
            return;
        }
        record.last_seen = self.now;
        if !std::mem::replace(&mut record.online, true) {
            self.tell(device, DeviceChange::Online);
            self.advance_where(|r| r.devices.contains_key(device));
        }
    }

    fn report_arrived(&mut self, report: DeviceReport) {
        if report.workspace != self.fleet.workspace {
            return;
        }
        let Some(record) = self.fleet.devices.get_mut(&report.device) else { return };
        let (device, id) = (report.device.clone(), report.id);
        match record.freshness(&report) {
            Freshness::Newer => {}
            Freshness::Known | Freshness::PastIncarnation => {
                self.effects.push(Effect::Ack { device, ids: vec![id] });
                return;
            }
        }
        let was_online = std::mem::replace(&mut record.online, true);
        record.last_seen = self.now;
        let raised = record.accept(report.generation) || record.outbid(&report);
        let behind = report.generation < record.generation;
        record.replace_report(report.clone());
        self.effects.push(Effect::SaveDevice(device.clone()));
        if raised {
            self.publish(&device);
        }
        for slot in &report.slots {
            self.observe_slot(&device, slot);
        }
        // A refused replay of an older desired state is as it should be; only the newest one matters.
        if let Some(refused) = report.refused.filter(|refused| behind && refused.code != Code::Rollback) {
            self.refuse_offers(&device, refused.code, &refused.detail);
        }
        self.effects.push(Effect::Ack { device: device.clone(), ids: vec![id] });
        self.tell(&device, DeviceChange::Reported);
        if !was_online {
            self.tell(&device, DeviceChange::Online);
            self.advance_where(|r| r.devices.contains_key(&device));
        }
    }

    pub(super) fn publish(&mut self, device: &DeviceId) {
        let (fleet, now) = (&mut *self.fleet, self.now);
        let Some(record) = fleet.devices.get_mut(device) else { return };
        let Some(desired) = record.desired(&fleet.workspace, now) else { return };
        record.sent_at = now;
        self.effects.push(Effect::PublishDesired { device: device.clone(), desired: Box::new(desired) });
    }

    /// Sends desired states again that seem to be lost.
    fn publish_again(&mut self) {
        let now = self.now;
        let lost =
            |d: &&Device| d.online && d.accepted < d.generation && now.saturating_sub(d.sent_at) >= RESEND_SECONDS;
        let behind: Vec<DeviceId> = self.fleet.devices.values().filter(lost).map(|d| d.id.clone()).collect();
        behind.iter().for_each(|device| self.publish(device));
    }

    fn ensure_group(&mut self, name: &GroupName) {
        if !self.fleet.groups.contains_key(name) {
            self.fleet.groups.insert(name.clone(), Group { name: name.clone(), selector: BTreeMap::new() });
            self.effects.push(Effect::SaveGroup(name.clone()));
        }
    }

    fn advance_where(&mut self, which: impl Fn(&Rollout) -> bool) {
        for id in self.rollouts_where(which) {
            self.advance_rollout(id);
        }
    }

    fn cancel_where(&mut self, reason: &str, which: impl Fn(&Rollout) -> bool) {
        for id in self.rollouts_where(which) {
            self.cancel_rollout(id, reason);
        }
    }

    fn rollouts_where(&self, which: impl Fn(&Rollout) -> bool) -> Vec<RolloutId> {
        self.fleet.rollouts.values().filter(|r| which(r)).map(|r| r.id).collect()
    }

    fn tell(&mut self, device: &DeviceId, change: DeviceChange) {
        self.effects.push(Effect::Notify(WatchEvent::Device { device: device.clone(), change }));
    }
}
