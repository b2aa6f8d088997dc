//! The state of a whole workspace, and the one function through which it changes.

mod audience;
mod claims;
mod devices;
mod reports;
mod rollouts;
mod telemetry;
mod terms;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use muster_proto::desired::Desired;
use muster_proto::id::{DeviceId, Digest, Generation, GroupName, SlotName, Workspace};
use muster_proto::report::{DeviceReport, TelemetryWindow};
use serde::{Deserialize, Serialize};

use super::device::{Assignment, Device, Group};
use super::notice::WatchEvent;
use super::rollout::{self, Decision, DevicePhase, Rollout, RolloutId, Word};

#[cfg(test)]
pub(super) use devices::RESEND_SECONDS;
#[cfg(test)]
pub(super) use rollouts::MAX_ENDED;

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
    /// Versions that were recalled, by the digest of their manifests: not offered again unless asked for by name.
    pub denied: BTreeMap<Digest, Denied>,
}

/// Why a version is not offered any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The target's path.
    pub target: String,
    /// The rollout that was recalled.
    pub rollout: RolloutId,
    /// Why.
    pub reason: String,
    /// When.
    pub at: u64,
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
    /// A window of a device's telemetry, counted once.
    Measured {
        /// The device.
        device: DeviceId,
        /// The window.
        window: Box<TelemetryWindow>,
    },
    /// An operator started a rollout; its parts are filled in by the step.
    RolloutStarted(Box<Rollout>),
    /// An operator decided something on a rollout.
    RolloutTold(RolloutId, Word),
    /// An operator let a rollout be for another group as well.
    RolloutExtended(RolloutId, GroupName),
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
    /// Store, or delete, that a version is not to be offered.
    SaveDenied(Digest),
    /// Add a decision of a rollout to the audit log.
    Record {
        /// The rollout.
        rollout: RolloutId,
        /// What was decided.
        decision: Decision,
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
            denied: BTreeMap::new(),
        }
    }

    /// The groups that `device` is in, listed or selected.
    pub fn groups_of(&self, device: &Device) -> BTreeSet<GroupName> {
        self.groups.values().filter(|group| group.contains(device)).map(|group| group.name.clone()).collect()
    }

    /// The number of the next rollout.
    pub fn next_rollout(&self) -> RolloutId {
        let last = self.rollouts.keys().next_back().map_or(0, |id| id.0);
        // A rollout that was dropped as too old may still be named by a device's slot.
        let named = self.devices.values().flat_map(|d| d.slots.values().map(|a| a.rollout.0)).max().unwrap_or(0);
        RolloutId(last.max(named) + 1)
    }

    /// Prepares what is kept in memory only, after loading: everybody is as well as heard now.
    pub fn wake(&mut self, now: u64) {
        self.rollouts.values_mut().for_each(|rollout| rollout.rebuild(now));
        let ids: Vec<RolloutId> = self.rollouts.keys().copied().collect();
        for id in ids {
            let Some(rollout) = self.rollouts.get(&id) else { continue };
            let waiting = rollout.parts.iter().filter(|(_, part)| part.phase == DevicePhase::Waiting);
            let waiting: Vec<DeviceId> = waiting.map(|(device, _)| device.clone()).collect();
            let blockers = self.blockers(rollout, waiting.iter());
            let Some(rollout) = self.rollouts.get_mut(&id) else { continue };
            for (device, by) in waiting.iter().zip(blockers) {
                rollout.set_blocked(device, by, now);
            }
        }
    }

    /// Takes over from `known` who is connected, after the records were read again.
    pub fn keep_connections(&mut self, known: &Fleet, now: u64) {
        for (id, device) in &mut self.devices {
            let Some(known) = known.devices.get(id) else { continue };
            device.online = known.online;
            device.last_seen = device.last_seen.max(known.last_seen);
            for rollout in self.rollouts.values_mut() {
                rollout.set_online(id, known.online, now);
            }
        }
    }

    /// What desires the version with manifest `digest`, for people: it may not be deleted.
    pub fn desires(&self, digest: Digest) -> Vec<String> {
        let rollouts = self.rollouts.values().filter(|r| !r.status.has_ended() && r.digest == digest);
        let devices = self.devices.values().flat_map(|device| {
            let place = |(slot, want): (&SlotName, &Assignment)| match want.digest == digest {
                true => Some(format!("device {} (slot {slot})", device.id)),
                false if self.leads_back(device, slot, want) == Some(digest) => {
                    Some(format!("device {} (slot {slot}, if {} is rolled back)", device.id, want.rollout))
                }
                false => None,
            };
            device.slots.iter().filter_map(place)
        });
        rollouts.map(|r| format!("rollout {}", r.id)).chain(devices).collect()
    }

    /// Where a device would go back to from what it shall run, as long as that may still be rolled back.
    fn leads_back(&self, device: &Device, slot: &SlotName, want: &Assignment) -> Option<Digest> {
        let rollout = self.rollouts.get(&want.rollout).filter(|r| r.digest == want.digest)?;
        let recalled = |digest: Digest| self.denied.contains_key(&digest);
        Some(device.proven.get(slot)?.other_than(rollout.digest, recalled)?.digest)
    }
}

/// What follows from `event`. The same event twice leaves the same state (invariant 6).
pub fn step(fleet: &mut Fleet, event: Event, now: u64) -> Vec<Effect> {
    let mut turn = Turn { fleet, now, effects: Vec::new(), queue: VecDeque::new() };
    turn.take(event);
    turn.drain();
    turn.effects
}

/// One step under way.
pub(super) struct Turn<'a> {
    pub fleet: &'a mut Fleet,
    pub now: u64,
    pub effects: Vec<Effect>,
    /// What rollouts are still to be told.
    pub queue: VecDeque<(RolloutId, rollout::Event)>,
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
            Event::Measured { device, window } => self.measured(&device, &window),
            Event::RolloutStarted(rollout) => self.rollout_started(*rollout),
            Event::RolloutTold(id, word) => self.queue.push_back((id, rollout::Event::Told(word))),
            Event::RolloutExtended(id, group) => self.rollout_extended(id, &group),
            Event::VersionDeleted(digest) => self.version_deleted(digest),
            Event::BrokerForgot => {
                let all: Vec<DeviceId> = self.fleet.devices.keys().cloned().collect();
                all.iter().for_each(|device| self.publish(device));
            }
            Event::Tick => {
                let ids: Vec<RolloutId> = self.fleet.rollouts.keys().copied().collect();
                self.queue.extend(ids.into_iter().map(|id| (id, rollout::Event::Ticked)));
                self.publish_again();
            }
        }
    }

    /// Tells rollouts what they are to be told, and does what they order, which may be news for others.
    fn drain(&mut self) {
        while let Some((id, event)) = self.queue.pop_front() {
            self.tell_rollout(id, event);
        }
    }
}
