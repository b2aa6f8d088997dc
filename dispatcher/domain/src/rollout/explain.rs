//! Why a device is where it is: every condition in order, with its value and since when.

use muster_proto::id::DeviceId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::line::waits;
use super::pace::Limit;
use super::plan::Switch;
use super::units::{Instant, Span};
use super::{DevicePhase, PRESTAGE, Part, Rollout, RolloutStatus};

/// How a condition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConditionState {
    /// It holds.
    Met,
    /// It does not hold yet; this is what the device waits for.
    Waits,
    /// It does not hold, and will not by itself.
    NotMet,
    /// It was not asked, because one before it does not hold.
    NotReached,
}

/// One of the conditions between a device and a healthy new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// What is asked.
    pub condition: String,
    /// How it stands.
    pub state: ConditionState,
    /// The value that it was held against, in words.
    pub value: String,
    /// Since when it stands so; 0 where that is not known.
    pub since: u64,
}

/// A list of conditions, in which the first that does not hold is what counts.
#[derive(Default)]
struct List {
    conditions: Vec<Condition>,
    stopped: bool,
}

impl List {
    fn ask(&mut self, condition: &str, state: ConditionState, value: impl Into<String>, since: u64) {
        let state = if self.stopped { ConditionState::NotReached } else { state };
        let (value, since) = if self.stopped { (String::new(), 0) } else { (value.into(), since) };
        self.stopped |= state != ConditionState::Met;
        self.conditions.push(Condition { condition: condition.to_owned(), state, value, since });
    }

    fn met(&mut self, condition: &str, holds: bool, otherwise: ConditionState, value: impl Into<String>, since: u64) {
        let state = if holds { ConditionState::Met } else { otherwise };
        self.ask(condition, state, value, since);
    }
}

impl Rollout {
    /// Why `device` is where it is, in order. `excluded` says why it is not among those whom the rollout is for, where
    /// it is not.
    pub fn explain(&mut self, device: &DeviceId, excluded: Option<String>, now: u64) -> Vec<Condition> {
        use ConditionState::{NotMet, Waits};
        let mut list = List::default();
        let part = self.parts.get(device).cloned();
        let started = part.as_ref().is_some_and(|part| part.phase.has_started());
        let matches = excluded.is_none() || started;
        list.met("target", matches, NotMet, excluded.unwrap_or_else(|| "it is for this device".into()), 0);
        let Some(part) = part else {
            list.met("joined", false, NotMet, "the rollout is for the devices of the moment at which it started", 0);
            return list.conditions;
        };
        let superseded = part.phase == DevicePhase::Superseded;
        let blocked = part.blocked.map(|id| format!("r{id} goes first: it has a higher priority or is newer"));
        let other = if superseded { Some(part.detail.as_deref().unwrap_or_default().to_owned()) } else { blocked };
        let free = other.is_none() || (started && !superseded);
        list.met("no other rollout", free, Waits, other.unwrap_or_else(|| "none wants the slot".into()), part.since);
        if self.plan.approval.need > 0 {
            let (have, need) = (self.approvals.len() as u32, self.plan.approval.need);
            list.met("approved", have >= need, Waits, format!("{have} of {need} approved"), self.created_at);
        }
        if let Some(start) = self.plan.schedule.start {
            list.met("start time", start.0 <= now, Waits, format!("at {start}"), self.created_at);
        }
        self.explain_status(&mut list, &part, started);
        if !started {
            self.explain_line(&mut list, &part, now);
        }
        explain_progress(&mut list, self, &part, now);
        list.conditions
    }

    fn explain_status(&self, list: &mut List, part: &Part, started: bool) {
        let name = self.status.name();
        let value = if self.reason.is_empty() { name.to_owned() } else { format!("{name}: {}", self.reason) };
        let since = self.decisions.last().map_or(self.created_at, |decision| decision.at);
        let under_way = started && self.status.is_open();
        let state = match self.status {
            RolloutStatus::Running | RolloutStatus::Completed => ConditionState::Met,
            _ if under_way && part.phase.may_have_it() => ConditionState::Met,
            RolloutStatus::Pending | RolloutStatus::Paused => ConditionState::Waits,
            RolloutStatus::Recalling | RolloutStatus::Recalled | RolloutStatus::Cancelled => ConditionState::NotMet,
        };
        list.ask("rollout runs", state, value, since);
    }

    fn explain_line(&mut self, list: &mut List, part: &Part, now: u64) {
        use ConditionState::Waits;
        let connected = if part.online { "connected" } else { "not connected" };
        list.met("connected", part.online, Waits, connected, part.heard);
        if part.attempts > 0 {
            let wait = part.not_before.saturating_sub(now);
            let value = match wait {
                0 => format!("attempt {}", part.attempts + 1),
                _ => format!("attempt {} in {}", part.attempts + 1, Span(wait)),
            };
            list.met("wait after a failure", part.not_before <= now, Waits, value, part.since);
        }
        let stage = self.stage;
        let name = self.name_of_stage(stage);
        let (quota, taken) = (self.quota(stage), self.taken(stage));
        let ahead = self.line.ready.ahead(part.place, 1000);
        if !self.plan.schedule.prestage {
            let room = quota.saturating_sub(taken);
            let reached = (ahead as u32) < room;
            let place = if ahead >= 1000 {
                "more than 1000 devices are before it".into()
            } else {
                format!("{ahead} devices are before it")
            };
            let value = format!("stage {name} takes {quota} of {} and has {taken}; {place} in line", self.members());
            list.met("stage", reached, Waits, value, self.stages.get(stage).map_or(0, |s| s.since));
            if self.stages.get(stage).is_some_and(|s| !s.may_switch) && !part.comparable {
                let value = "it runs no version to compare with, and comes after the shadow run";
                list.met("shadow run", false, Waits, value, part.since);
            }
        }
        let bytes = self.expected_bytes();
        let said = |limit, updating: u32| match limit {
            None => format!("{updating} update now"),
            Some(Limit::InFlight) => format!("{updating} update now, which is the most"),
            Some(Limit::Starts) => "as many as may start per minute have started".to_owned(),
            Some(Limit::Bytes) => "the bytes per second are used up".to_owned(),
        };
        let limit = self.limit(bytes, now);
        list.met("rate", limit.is_none(), Waits, said(limit, self.line.in_flight), 0);
        if self.plan.rate.site != Default::default() {
            let (limit, site) = (self.site_limit(part.site, bytes, now), part.site as usize);
            let updating = self.line.site_in_flight.get(site).copied().unwrap_or(0);
            let name = self.sites.get(site).map(|site| site.name.as_str()).unwrap_or_default();
            let value = format!("site {name:?}: {}", said(limit, updating));
            list.met("site", limit.is_none(), Waits, value, 0);
        }
    }

    /// A stage's name, or its number counted from 1.
    pub fn name_of_stage(&self, stage: usize) -> String {
        self.plan.stage_name(stage)
    }
}

/// From the offer to the end of the soak time.
fn explain_progress(list: &mut List, rollout: &Rollout, part: &Part, now: u64) {
    use ConditionState::{NotMet, Waits};
    let text = || {
        let code = part.code.map(|code| format!(" [{code}]")).unwrap_or_default();
        format!("{}{code}", part.detail.as_deref().unwrap_or_default())
    };
    let phase = part.phase;
    let started = phase.has_started();
    list.met(
        "offered",
        started,
        Waits,
        if started { Instant(part.started_at).to_string() } else { String::new() },
        part.started_at,
    );
    match phase {
        DevicePhase::Failed | DevicePhase::Refused => return list.met("accepted", false, NotMet, text(), part.since),
        DevicePhase::Recalling | DevicePhase::Recalled => {
            let value = if phase == DevicePhase::Recalled { "it went back" } else { "it was told to go back" };
            return list.met("kept", false, NotMet, value, part.since);
        }
        DevicePhase::Silent => {
            let waits = Span(now.saturating_sub(part.since));
            return list.met("heard", false, Waits, format!("silent for {waits}; {}", text()), part.since);
        }
        _ => {}
    }
    let reached = |least: DevicePhase| started && phase >= least;
    let fetched = format!("{} bytes in {} chunks", part.transfer.fetched, part.transfer.chunks);
    list.met("fetched and verified", reached(DevicePhase::Verified), Waits, fetched, part.since);
    list.met("loaded and probed", reached(DevicePhase::Staged), Waits, text(), part.since);
    if phase == DevicePhase::Staged && part.held {
        let value = match rollout.plan.schedule.switch {
            _ if part.stage != PRESTAGE => {
                let state = rollout.stages.get(usize::from(part.stage));
                let seen = state.map_or(0, |s| s.evidence.shadow.compared);
                format!("it runs as a shadow; {seen} inferences of its stage were compared so far")
            }
            _ if rollout.released => "the stages have not reached it".to_owned(),
            Switch::Directly => "the stages have not reached it".to_owned(),
            Switch::At(at) => format!("it was fetched beforehand and switches from {at} on"),
            Switch::OnWord => "it was fetched beforehand and waits for `muster rollout release`".to_owned(),
        };
        return list.met("word to switch", false, Waits, value, part.since);
    }
    let device = if phase == DevicePhase::Staged && part.code.is_some_and(waits) { text() } else { String::new() };
    list.met("switched", reached(DevicePhase::Active), Waits, device, part.since);
    let soak = rollout.plan.stages.get(usize::from(part.stage)).map_or(0, |stage| stage.soak.0);
    let soaked = match phase {
        DevicePhase::Active => format!("{} of {}", Span(now.saturating_sub(part.since)), Span(soak)),
        _ => Span(soak).to_string(),
    };
    list.met("answered well for the soak time", phase == DevicePhase::Healthy, Waits, soaked, part.since);
}
