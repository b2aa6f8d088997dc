//! The fleet's records as views. Pure.

use std::collections::BTreeMap;

use muster_proto::id::Digest;
use muster_proto::manifest::parse_target_path;
use muster_proto::report::{ModelRef, SlotReport};

use super::view::{DeviceView, GroupView, RolloutDetail, RolloutDevice, RolloutView, SlotView, VersionRef};
use crate::domain::{Assignment, Audience, Device, Fleet, Group, Rollout};

/// A device, desired and reported.
pub fn device(fleet: &Fleet, device: &Device) -> DeviceView {
    let reported = device.report.as_ref().map(|r| r.slots.as_slice()).unwrap_or_default();
    let find = |slot| reported.iter().find(|r| r.slot == slot);
    let desired = device.slots.iter().map(|(name, want)| slot(name, Some(want), find(name.clone())));
    let others = reported.iter().filter(|r| !device.slots.contains_key(&r.slot)).map(|r| slot(&r.slot, None, Some(r)));
    DeviceView {
        device: device.id.clone(),
        online: device.online,
        last_seen: device.last_seen,
        enrolled_at: device.enrolled_at,
        groups: fleet.groups_of(device),
        labels: device.labels.clone(),
        agent: device.agent.clone(),
        generation: device.generation,
        reported_generation: device.accepted,
        converged: device.converged(),
        slots: desired.chain(others).collect(),
        refused: device.report.as_ref().and_then(|r| r.refused.clone()),
    }
}

/// A group with its members.
pub fn group(fleet: &Fleet, group: &Group) -> GroupView {
    let audience = Audience::Group { group: group.name.clone() };
    GroupView { group: group.name.clone(), selector: group.selector.clone(), devices: fleet.members(&audience) }
}

/// A rollout in a list.
pub fn rollout(rollout: &Rollout) -> RolloutView {
    let mut counts = BTreeMap::new();
    for progress in rollout.devices.values() {
        *counts.entry(progress.phase).or_default() += 1;
    }
    RolloutView {
        id: rollout.id,
        model: rollout.model.clone(),
        version: rollout.version,
        digest: rollout.digest,
        slot: rollout.slot.clone(),
        audience: rollout.audience.clone(),
        status: rollout.status,
        reason: rollout.reason.clone(),
        canary: rollout.canary,
        max_in_flight: rollout.max_in_flight,
        max_failures: rollout.max_failures,
        created_at: rollout.created_at,
        created_by: rollout.created_by.clone(),
        ended_at: rollout.ended_at,
        total: rollout.devices.len() as u32,
        counts,
    }
}

/// A rollout with its devices.
pub fn rollout_detail(fleet: &Fleet, record: &Rollout) -> RolloutDetail {
    let devices = record.devices.iter().map(|(device, progress)| RolloutDevice {
        device: device.clone(),
        phase: progress.phase,
        online: fleet.devices.get(device).is_some_and(|d| d.online),
        since: progress.since,
        code: progress.code,
        detail: progress.detail.clone(),
        transfer: progress.transfer,
    });
    RolloutDetail { rollout: rollout(record), devices: devices.collect() }
}

fn slot(name: &muster_proto::id::SlotName, want: Option<&Assignment>, report: Option<&SlotReport>) -> SlotView {
    // What the device says of an earlier desired state is not how far this one is.
    let current = report.filter(|r| {
        want.is_none_or(|want| {
            r.rollout == want.rollout.to_string() && r.desired.as_ref().is_some_and(|d| d.digest == want.digest)
        })
    });
    SlotView {
        slot: name.clone(),
        desired: want.map(|want| version(&want.target, want.digest)),
        rollout: want.map(|want| want.rollout.to_string()),
        active: report.and_then(|r| reference(r.active.as_ref())),
        previous: report.and_then(|r| reference(r.previous.as_ref())),
        phase: current.map(|r| r.phase),
        failure: current.and_then(|r| r.failure.clone()),
        transfer: current.map(|r| r.transfer).unwrap_or_default(),
    }
}

fn reference(model: Option<&ModelRef>) -> Option<VersionRef> {
    model.map(|model| version(&model.target, model.digest))
}

fn version(target: &str, digest: Digest) -> VersionRef {
    let (model, version) = parse_target_path(target).unzip();
    VersionRef { model, version, digest }
}
