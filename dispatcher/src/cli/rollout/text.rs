//! Rollouts for people to read.

use crate::app::plan::Target;
use crate::app::units::{Bytes, Instant, Span};
use crate::app::{
    Condition, ConditionState, DeniedView, DevicePhase, Explanation, GateReading, GateState, RolloutDetail,
    RolloutDevice, RolloutPreview, RolloutStatus, RolloutView, StageView,
};
use crate::cli::output::{facts, list, size, table, when};
use crate::http::List;

pub(in crate::cli) fn rollouts(all: &List<RolloutView>) -> String {
    let row = |r: &RolloutView| {
        let stage = r.stages.get(r.stage).map(|stage| stage.name.clone()).unwrap_or_default();
        [
            r.id.to_string(),
            format!("{}:{}", r.model, r.version),
            target(&r.plan.target),
            status_name(r.status),
            if r.status.has_ended() { String::new() } else { stage },
            format!("{}/{}", count(r, DevicePhase::Healthy), r.total),
            count(r, DevicePhase::Failed).to_string(),
            when(r.created_at),
        ]
    };
    table(["ID", "MODEL", "FOR", "STATUS", "STAGE", "HEALTHY", "FAILED", "STARTED"], all.items.iter().map(row))
}

fn count(rollout: &RolloutView, phase: DevicePhase) -> u32 {
    rollout.counts.get(&phase).copied().unwrap_or(0)
}

/// `1 device`, `2 devices`.
fn number(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

pub(super) fn target(target: &Target) -> String {
    let mut parts = Vec::new();
    if target.all {
        parts.push("all".to_owned());
    }
    match target.groups.len() {
        0 => {}
        1 => parts.push(format!("group {}", list(&target.groups))),
        _ => parts.push(format!("groups {}", list(&target.groups))),
    }
    match target.devices.len() {
        0 => {}
        1 => parts.push(list(&target.devices)),
        n => parts.push(format!("{n} devices")),
    }
    let mut text = parts.join(" and ");
    if let Some(filter) = &target.filter {
        let all = if text.is_empty() { "all " } else { " " };
        text = format!("{text}{all}where {filter}");
    }
    let left_out = target.except.groups.len() + target.except.devices.len();
    if left_out > 0 {
        text = format!("{text} except {left_out}");
    }
    text
}

/// `3 healthy, 1 failed`.
fn counts(counts: &std::collections::BTreeMap<DevicePhase, u32>) -> String {
    let some = counts.iter().filter(|(_, count)| **count > 0);
    some.map(|(phase, count)| format!("{count} {}", name(*phase))).collect::<Vec<_>>().join(", ")
}

pub(super) fn name(phase: DevicePhase) -> String {
    format!("{phase:?}").to_lowercase()
}

pub(super) fn status_name(status: RolloutStatus) -> String {
    format!("{status:?}").to_lowercase()
}

pub(super) fn summary(r: &RolloutView) -> String {
    let status = status_name(r.status);
    let ended = if r.ended_at == 0 { String::new() } else { when(r.ended_at) };
    let preset = r.plan.preset.map(|preset| format!("{preset:?}").to_lowercase()).unwrap_or_default();
    let approvals = match r.plan.approval.need {
        0 => String::new(),
        need => format!("{} of {need}", r.approvals.len()),
    };
    let head = facts([
        ("rollout", r.id.to_string()),
        ("model", format!("{}:{} in slot {}", r.model, r.version, r.slot)),
        ("for", format!("{} ({} now)", target(&r.plan.target), number(r.total, "device"))),
        ("status", if r.reason.is_empty() { status } else { format!("{status}: {}", r.reason) }),
        ("devices", counts(&r.counts)),
        ("preset", preset),
        ("plan hash", r.plan_hash.to_string()),
        ("approved", approvals),
        ("created", format!("{} by {}", when(r.created_at), r.created_by)),
        ("expected", if r.expected_at == 0 { String::new() } else { when(r.expected_at) }),
        ("ended", ended),
    ]);
    format!("{head}\n\n{}", stages(r))
}

/// A line for each stage, and one for each of its gates.
pub(super) fn stages(r: &RolloutView) -> String {
    let mut lines = Vec::new();
    for (at, stage) in r.stages.iter().enumerate() {
        let mark = match stage {
            StageView { passed_at, .. } if *passed_at > 0 => "✓",
            StageView { since, .. } if *since > 0 && at == r.stage => "▸",
            _ => "·",
        };
        let shadows = if stage.shadows && stage.since > 0 { ", runs as a shadow" } else { "" };
        let counted = counts(&stage.counts);
        let counted = if counted.is_empty() { String::new() } else { format!(": {counted}") };
        lines.push(format!("{mark} {:<12} up to {}{counted}{shadows}", stage.name, number(stage.quota, "device")));
        lines.extend(stage.gates.iter().map(|gate| format!("    {}", gate_line(gate))));
    }
    lines.join("\n")
}

fn gate_line(gate: &GateReading) -> String {
    let state = match gate.state {
        GateState::Waiting => "waiting ",
        GateState::Holding => "holding ",
        GateState::Passing => "passing ",
        GateState::Breached => "BREACHED",
        GateState::NotAsked => "not asked",
    };
    format!("{state} {}", gate.describe())
}

pub(in crate::cli) fn status(detail: &RolloutDetail) -> String {
    let device = |d: &RolloutDevice| {
        let code = d.code.map(|code| format!(" [{code}]")).unwrap_or_default();
        let offline = if d.online { "" } else { "offline" };
        let note = [offline.to_owned(), format!("{}{code}", d.detail)];
        let note = note.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        let stage = d.stage.and_then(|stage| detail.rollout.stages.get(usize::from(stage)));
        let stage = stage.map(|stage| stage.name.clone()).unwrap_or_default();
        let transfer = (size(d.transfer.fetched), size(d.transfer.saved));
        [d.device.to_string(), name(d.phase), stage, when(d.since), transfer.0, transfer.1, note]
    };
    let rows =
        table(["DEVICE", "PHASE", "STAGE", "SINCE", "FETCHED", "SAVED", "NOTE"], detail.devices.iter().map(device));
    let decisions = detail.decisions.iter().map(|d| [Instant(d.at).to_string(), d.in_words()]);
    let decisions = table(["WHEN", "DECIDED"], decisions);
    format!("{}\n\n{decisions}\n\n{rows}", summary(&detail.rollout))
}

pub(super) fn explanation(e: &Explanation) -> String {
    let row = |c: &Condition| {
        let state = match c.state {
            ConditionState::Met => "✓",
            ConditionState::Waits => "… waits",
            ConditionState::NotMet => "✗ not met",
            ConditionState::NotReached => "·",
        };
        [
            state.to_owned(),
            c.condition.clone(),
            c.value.clone(),
            if c.since == 0 { String::new() } else { when(c.since) },
        ]
    };
    let rows = table(["", "CONDITION", "VALUE", "SINCE"], e.conditions.iter().map(row));
    let phase = e.phase.map_or_else(|| "no part in it".to_owned(), name);
    let open = e.conditions.iter().find(|c| matches!(c.state, ConditionState::Waits | ConditionState::NotMet));
    let why = open.map(|c| format!(" because of {:?}: {}", c.condition, c.value)).unwrap_or_default();
    format!("{} in {}: {phase}{why}\n\n{rows}", e.device, e.rollout)
}

pub(super) fn preview(p: &RolloutPreview) -> String {
    let document = &p.document;
    let version = document.version.map(|version| format!(":{version}")).unwrap_or_default();
    let head = facts([
        ("model", format!("{}{version}", document.model)),
        ("for", target(&document.plan.target)),
        ("matching", format!("{}, {} connected", number(p.matching, "device"), p.online)),
        ("first", list(&p.first)),
        ("plan hash", p.plan_hash.to_string()),
        ("bytes", size(p.forecast.bytes)),
        (
            "would end",
            format!(
                "{} ({} from now)",
                when(p.forecast.ends_at),
                Span(p.forecast.ends_at.saturating_sub(crate::now()))
            ),
        ),
        ("refused", p.refused.clone().unwrap_or_default()),
    ]);
    let stages = table(
        ["STAGE", "DEVICES", "SOAK", "BEGINS", "ENDS"],
        p.forecast.stages.iter().zip(&document.plan.stages).map(|(stage, plan)| {
            [
                stage.name.clone(),
                stage.devices.to_string(),
                plan.soak.to_string(),
                when(stage.starts_at),
                when(stage.ends_at),
            ]
        }),
    );
    let transfers = table(
        ["RUNS NOW", "DEVICES", "FULL", "DELTA"],
        p.transfers.iter().map(|t| {
            let delta = t.delta.map(size).unwrap_or_default();
            [t.from.clone().unwrap_or_else(|| "nothing".into()), t.devices.to_string(), size(t.full), delta]
        }),
    );
    let mut text = format!("{head}\n\n{stages}\n\n{transfers}");
    if !p.excluded.is_empty() {
        let rows = p.excluded.iter().map(|e| [e.devices.to_string(), e.reason.clone(), list(&e.examples)]);
        text = format!("{text}\n\n{}", table(["NOT", "WHY", "SUCH AS"], rows));
    }
    for overlap in &p.conflicts {
        let who = if overlap.goes_first { "goes first" } else { "gives way" };
        text = format!(
            "{text}\n\n{} wants the same slot of {} and {who}",
            overlap.rollout,
            number(overlap.devices, "device")
        );
    }
    text
}

pub(super) fn recalled(all: &List<DeniedView>) -> String {
    let row = |d: &DeniedView| [d.target.clone(), d.rollout.to_string(), when(d.at), d.reason.clone()];
    table(["VERSION", "ROLLOUT", "RECALLED", "WHY"], all.items.iter().map(row))
}

/// The head line of the live view.
pub(super) fn headline(r: &RolloutView) -> String {
    let eta = if r.expected_at == 0 { String::new() } else { format!(" · ends about {}", Instant(r.expected_at)) };
    let rate = match r.plan.rate.bytes_per_second {
        Some(Bytes(bytes)) => format!(" · at most {}/s", size(bytes)),
        None => String::new(),
    };
    let reason = if r.reason.is_empty() { String::new() } else { format!(": {}", r.reason) };
    format!(
        "{} {}:{} {}{reason} · {}/{} healthy · {} update now{rate}{eta}",
        r.id,
        r.model,
        r.version,
        status_name(r.status),
        count(r, DevicePhase::Healthy),
        r.total,
        r.in_flight
    )
}
