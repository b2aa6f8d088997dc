//! Devices and groups that come, change and go, and what devices are sent.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::desired::MAX_DENIED;
use muster_proto::id::{DeviceId, Digest, Generation, GroupName};

use super::{Denied, Effect, Turn};
use crate::device::{Device, Group};
use crate::notice::{DeviceChange, WatchEvent};
use crate::rollout::{self, Rollout};

/// How far apart two notes of a device's life are that are worth keeping, in seconds.
const SEEN_STEP_SECONDS: u64 = 15;

/// A connected device that has not accepted its desired state is sent it again this often, in seconds: the broker may
/// have lost it, and a device whose connection holds does not say hello.
pub(crate) const RESEND_SECONDS: u64 = 300;

impl Turn<'_> {
    pub(super) fn enrolled(&mut self, device: Device) {
        let id = device.id.clone();
        // A repeated request after a lost answer; and a name that is taken stays with its key, until an operator
        // removes it.
        if self.fleet.devices.contains_key(&id) {
            return;
        }
        for group in &device.groups {
            self.ensure_group(group);
        }
        let device = Device { floor: self.fleet.floor, ..device };
        self.fleet.devices.insert(id.clone(), device);
        self.effects.push(Effect::SaveDevice(id.clone()));
        self.tell(&id, DeviceChange::Enrolled);
        self.settle(&id);
    }

    pub(super) fn removed(&mut self, device: &DeviceId) {
        let Some(record) = self.fleet.devices.remove(device) else { return };
        self.fleet.floor = self.fleet.floor.max(record.generation).max(record.accepted).max(record.floor);
        self.effects.push(Effect::SaveFloor(self.fleet.floor));
        self.effects.push(Effect::DeleteDevice(device.clone()));
        self.effects.push(Effect::ClearDesired(device.clone()));
        self.tell(device, DeviceChange::Removed);
        self.tell_its_rollouts(device, |device| rollout::Event::Removed(device.clone()));
    }

    pub(super) fn groups_changed(
        &mut self,
        device: &DeviceId,
        labels: BTreeMap<String, String>,
        groups: BTreeSet<GroupName>,
    ) {
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
        self.settle(device);
    }

    pub(super) fn group_set(&mut self, group: Group) {
        if self.fleet.groups.get(&group.name) == Some(&group) {
            return;
        }
        self.effects.push(Effect::SaveGroup(group.name.clone()));
        let before = self.fleet.groups.insert(group.name.clone(), group.clone());
        let mut touched: BTreeSet<DeviceId> = self.fleet.members_of_group(&group).into_iter().collect();
        touched.extend(before.map(|before| self.fleet.members_of_group(&before)).unwrap_or_default());
        for device in &touched {
            self.settle(device);
        }
    }

    pub(super) fn group_deleted(&mut self, name: &GroupName) {
        let Some(group) = self.fleet.groups.get(name).cloned() else { return };
        let members = self.fleet.members_of_group(&group);
        self.fleet.groups.remove(name);
        for device in &members {
            if let Some(record) = self.fleet.devices.get_mut(device)
                && record.groups.remove(name)
            {
                self.effects.push(Effect::SaveDevice(device.clone()));
            }
        }
        self.effects.push(Effect::DeleteGroup(name.clone()));
        // A later group of this name is another one: its members shall not inherit. Without its only group a rollout
        // would be for nobody, or for everybody.
        let only = |r: &Rollout| r.plan.target.groups.iter().eq([name]) && r.plan.target.devices.is_empty();
        self.cancel_where("its group was deleted", only);
        self.drain();
        for rollout in self.fleet.rollouts.values_mut().filter(|r| r.status.is_open()) {
            if rollout.plan.target.groups.remove(name) {
                self.effects.push(Effect::SaveRollout(rollout.id));
            }
        }
        for device in &members {
            self.settle(device);
        }
    }

    /// Forgets a version that is no more: nobody is offered it, or goes back to it.
    pub(super) fn version_deleted(&mut self, digest: Digest) {
        self.cancel_where("the version was deleted", |r| r.digest == digest);
        for device in self.fleet.devices.values_mut() {
            let forgotten = device.proven.values_mut().filter_map(|proven| proven.forget(digest).then_some(())).count();
            if forgotten > 0 {
                self.effects.push(Effect::SaveDevice(device.id.clone()));
            }
        }
        if self.fleet.denied.remove(&digest).is_some() {
            self.effects.push(Effect::SaveDenied(digest));
        }
    }

    pub(super) fn online(&mut self, device: &DeviceId, generation: Generation) {
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
        self.connection_changed(device);
    }

    pub(super) fn offline(&mut self, device: &DeviceId) {
        if let Some(record) = self.fleet.devices.get_mut(device)
            && record.online
        {
            record.online = false;
            self.tell(device, DeviceChange::Offline);
            self.connection_changed(device);
        }
    }

    pub(super) fn seen(&mut self, device: &DeviceId) {
        let Some(record) = self.fleet.devices.get_mut(device) else { return };
        if record.online && self.now.saturating_sub(record.last_seen) < SEEN_STEP_SECONDS {
            return;
        }
        record.last_seen = self.now;
        let was_online = std::mem::replace(&mut record.online, true);
        self.heard(device, was_online);
    }

    /// Tells everybody concerned that a device was heard.
    pub(super) fn heard(&mut self, device: &DeviceId, was_online: bool) {
        if was_online {
            self.tell_its_rollouts(device, |device| rollout::Event::Heard(device.clone()));
        } else {
            self.tell(device, DeviceChange::Online);
            self.connection_changed(device);
        }
    }

    /// Tells its rollouts, and those that are for connected devices only.
    fn connection_changed(&mut self, device: &DeviceId) {
        let Some(record) = self.fleet.devices.get(device) else { return };
        let online = record.online;
        self.tell_its_rollouts(device, |device| match online {
            true => rollout::Event::Online(device.clone()),
            false => rollout::Event::Offline(device.clone()),
        });
        let asks = |r: &Rollout| r.plan.target.filter.as_ref().is_some_and(|f| f.as_str().contains("online"));
        if self.fleet.rollouts.values().any(|r| r.status.is_open() && asks(r)) {
            self.settle(device);
        }
    }

    pub(crate) fn publish(&mut self, device: &DeviceId) {
        let (fleet, now) = (&mut *self.fleet, self.now);
        let Some(record) = fleet.devices.get_mut(device) else { return };
        let denied = denied_to(record, &fleet.denied);
        let Some(desired) = record.desired(&fleet.workspace, denied, now) else { return };
        record.sent_at = now;
        self.effects.push(Effect::PublishDesired { device: device.clone(), desired: Box::new(desired) });
    }

    /// Sends desired states again that seem to be lost.
    pub(super) fn publish_again(&mut self) {
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

    fn tell_its_rollouts(&mut self, device: &DeviceId, event: impl Fn(&DeviceId) -> rollout::Event) {
        let its = self.fleet.rollouts.values().filter(|r| r.parts.contains_key(device)).map(|r| r.id);
        self.queue.extend(its.map(|id| (id, event(device))));
    }

    pub(super) fn tell(&mut self, device: &DeviceId, change: DeviceChange) {
        self.effects.push(Effect::Notify(WatchEvent::Device { device: device.clone(), change }));
    }
}

/// The recalled versions of the models that `device` has, the newest [`MAX_DENIED`] of them, by digest.
fn denied_to(device: &Device, denied: &BTreeMap<Digest, Denied>) -> Vec<Digest> {
    // `vision/digits/2/manifest` without version and file.
    let model = |target: &str| target.rsplitn(3, '/').nth(2).map(str::to_owned);
    let models: BTreeSet<Option<String>> = device.slots.values().map(|want| model(&want.target)).collect();
    let mut its: Vec<(u64, Digest)> =
        denied.iter().filter(|(_, d)| models.contains(&model(&d.target))).map(|(digest, d)| (d.at, *digest)).collect();
    its.sort_unstable_by(|one, other| other.cmp(one));
    let mut its: Vec<Digest> = its.into_iter().take(MAX_DENIED).map(|(_, digest)| digest).collect();
    its.sort_unstable();
    its
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Assignment;
    use crate::rollout::RolloutId;

    #[test]
    fn a_device_is_told_of_its_own_models_and_of_the_newest_recalls() {
        let denied = |n: u8, target: &str| {
            let denied = Denied { target: target.into(), rollout: RolloutId(9), reason: String::new(), at: n.into() };
            (Digest([n; 32]), denied)
        };
        let mut all = BTreeMap::from([denied(200, "vision/cats/7/manifest"), denied(201, "digits/7/manifest")]);
        all.extend((10..=10 + MAX_DENIED as u8).map(|n| denied(n, &format!("vision/digits/{n}/manifest"))));
        let mut device = Device::enrolled("pi".parse().expect("valid"), vec![], "t".into(), Default::default(), 1);
        assert_eq!(denied_to(&device, &all), [], "it has no model");
        let want = Assignment {
            target: "vision/digits/2/manifest".into(),
            digest: Digest([2; 32]),
            length: 1,
            trial_seconds: 0,
            rollout: RolloutId(1),
            terms: Default::default(),
            attempt: 0,
            since: Generation(1),
        };
        device.slots.insert("digits".parse().expect("valid"), want);
        let newest: Vec<Digest> = (11..=10 + MAX_DENIED as u8).map(|n| Digest([n; 32])).collect();
        assert_eq!(denied_to(&device, &all), newest);
    }
}
