//! Whom a rollout is for: what its target says, and what the version needs.

use muster_proto::id::DeviceId;

use super::Fleet;
use crate::device::{Device, Group};
use crate::rollout::plan::{Plan, Target};
use crate::rollout::selector::{Facts, Match};
use crate::rollout::{Member, Rollout};
use muster_proto::manifest::Requires;

impl Fleet {
    /// Why `device` is not among those whom `rollout` is for; none where it is.
    pub fn excluded(&self, rollout: &Rollout, device: &Device) -> Option<String> {
        self.outside(&rollout.plan, device).or_else(|| lacks(&rollout.requires, device))
    }

    /// Why `device` is not among those whom a plan is for; none where it is.
    pub fn outside(&self, plan: &Plan, device: &Device) -> Option<String> {
        let Target { groups, devices, filter, except, .. } = &plan.target;
        let in_group = |name| self.groups.get(name).is_some_and(|group| group.contains(device));
        let chosen = plan.target.is_for_all() || devices.contains(&device.id) || groups.iter().any(in_group);
        if !chosen {
            let names: Vec<&str> = groups.iter().map(|group| group.as_str()).collect();
            return Some(match names[..] {
                [] => "it is not one of the devices that are named".to_owned(),
                _ => format!("it is in none of the groups {}", names.join(", ")),
            });
        }
        if except.devices.contains(&device.id) {
            return Some("it is named in except.devices".to_owned());
        }
        if let Some(group) = except.groups.iter().find(|group| in_group(group)) {
            return Some(format!("it is in the group {group}, which is left out"));
        }
        let Some(filter) = filter else { return None };
        let (groups, site) = (self.groups_of(device), site(plan, device));
        let facts = Facts::new(&device.id, &device.labels, &groups, &device.agent, device.online, site);
        match filter.matches(&facts) {
            Match::Yes => None,
            Match::No(why) => Some(why),
        }
    }

    /// The devices that a rollout is for, as of now.
    pub fn members_of(&self, rollout: &Rollout) -> Vec<Member> {
        let invited = self.devices.values().filter(|device| self.excluded(rollout, device).is_none());
        invited.map(|device| member(rollout, device)).collect()
    }

    /// The members of a group, as of now.
    pub fn members_of_group(&self, group: &Group) -> Vec<DeviceId> {
        self.devices.values().filter(|device| group.contains(device)).map(|device| device.id.clone()).collect()
    }
}

impl Target {
    /// Whether it chooses from every device.
    pub(super) fn is_for_all(&self) -> bool {
        self.all || (self.groups.is_empty() && self.devices.is_empty() && self.filter.is_some())
    }
}

/// `device` as `rollout` knows it.
pub(super) fn member(rollout: &Rollout, device: &Device) -> Member {
    let comparable = device.proven.get(&rollout.slot).and_then(|proven| proven.now.as_ref()).is_some_and(|now| {
        // The same version once more is nothing to compare with.
        now.digest != rollout.digest
    });
    Member {
        device: device.id.clone(),
        site: site(&rollout.plan, device).into(),
        comparable,
        online: device.online,
        blocked: None,
    }
}

fn site<'a>(plan: &Plan, device: &'a Device) -> &'a str {
    device.labels.get(plan.site_label()).map(String::as_str).unwrap_or_default()
}

/// What the version needs and the device does not have. The device itself has the last word.
fn lacks(requires: &Requires, device: &Device) -> Option<String> {
    let arch = &device.agent.arch;
    if !requires.arch.is_empty() && !arch.is_empty() && !requires.arch.contains(arch) {
        return Some(format!("the version is made for {}, the device is {arch}", requires.arch.join(" or ")));
    }
    let memory = device.agent.memory_bytes;
    if memory > 0 && requires.memory_bytes > memory {
        return Some(format!("the version needs {} bytes of memory, the device has {memory}", requires.memory_bytes));
    }
    None
}
