//! The fleet's records as views. Pure.

use std::collections::BTreeMap;

use muster_proto::id::Digest;
use muster_proto::manifest::parse_target_path;
use muster_proto::report::{ModelRef, SlotReport};

use super::view::{DeviceView, GroupView, RolloutDetail, RolloutDevice, RolloutView, SlotView, StageView, VersionRef};
use crate::domain::rollout::plan::Stage;
use crate::domain::rollout::{Counts, StageState};
use crate::domain::{Assignment, Device, DevicePhase, Fleet, Group, Rollout, RolloutStatus};

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
    let devices = fleet.members_of_group(group);
    GroupView { group: group.name.clone(), selector: group.selector.clone(), devices }
}

/// A rollout in a list.
pub fn rollout(rollout: &Rollout, now: u64) -> RolloutView {
    let stage = |(at, (plan, state)): (usize, (&Stage, &StageState))| StageView {
        name: rollout.name_of_stage(at),
        quota: rollout.quota(at),
        since: state.since,
        passed_at: state.passed_at,
        shadows: plan.shadow.is_some() && !state.may_switch,
        counts: counts(&state.counts),
        gates: if state.since > 0 { rollout.readings(at) } else { Vec::new() },
    };
    let runs = matches!(rollout.status, RolloutStatus::Pending | RolloutStatus::Running);
    RolloutView {
        id: rollout.id,
        model: rollout.model.clone(),
        version: rollout.version,
        digest: rollout.digest,
        slot: rollout.slot.clone(),
        plan: rollout.plan.clone(),
        plan_hash: rollout.plan_hash,
        approvals: rollout.approvals.clone(),
        status: rollout.status,
        reason: rollout.reason.clone(),
        created_at: rollout.created_at,
        created_by: rollout.created_by.clone(),
        started_at: rollout.started_at,
        ended_at: rollout.ended_at,
        expected_at: if runs { rollout.forecast(now).ends_at } else { 0 },
        stage: rollout.stage,
        stages: rollout.plan.stages.iter().zip(&rollout.stages).enumerate().map(stage).collect(),
        total: rollout.members(),
        in_flight: rollout.in_flight(),
        counts: counts(&rollout.counts),
    }
}

fn counts(counts: &Counts) -> BTreeMap<DevicePhase, u32> {
    DevicePhase::ALL.into_iter().map(|phase| (phase, counts.of(phase))).filter(|(_, count)| *count > 0).collect()
}

/// A rollout with its devices.
pub fn rollout_detail(record: &Rollout, now: u64) -> RolloutDetail {
    let devices = record.parts.iter().map(|(device, part)| RolloutDevice {
        device: device.clone(),
        phase: part.phase,
        stage: (part.phase.has_started() && usize::from(part.stage) < record.stages.len()).then_some(part.stage),
        online: part.online,
        since: part.since,
        code: part.code,
        detail: part.detail.as_deref().unwrap_or_default().to_owned(),
        transfer: part.transfer,
    });
    RolloutDetail { rollout: rollout(record, now), decisions: record.decisions.clone(), devices: devices.collect() }
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
