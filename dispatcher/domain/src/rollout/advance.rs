//! What follows by itself: begin, offer, look at the gates, go on to the next stage, come to an end.

use muster_proto::id::DeviceId;

use super::engine::Turn;
use super::evidence::{Gate, GateReading, GateState};
use super::pace::site_limit;
use super::plan::{OnBreach, SiteRate, Switch};
use super::{DevicePhase, Effect, PRESTAGE, Rollout, RolloutStatus};

/// The most starts of one step.
const MAX_STARTS: u32 = 10_000;

impl Turn<'_> {
    /// Lets follow what follows, until nothing does.
    pub(super) fn advance(&mut self) {
        if self.rollout.status == RolloutStatus::Pending {
            self.begin();
        }
        // Each turn of the loop begins a stage; there are at most so many.
        for _ in 0..=self.rollout.plan.stages.len() {
            self.look_at_gates();
            if !self.rollout.status.offers() {
                break;
            }
            self.release_by_time();
            self.look_at_shadow();
            if !self.rollout.status.offers() {
                break;
            }
            self.fill_stage();
            self.prestage();
            if !self.stage_ends() {
                break;
            }
        }
        if self.rollout.status == RolloutStatus::Recalling && self.rollout.line.awaited == 0 {
            self.recall_ends();
        }
    }

    fn begin(&mut self) {
        let rollout = &mut *self.rollout;
        let approved = rollout.approvals.len() as u32 >= rollout.plan.approval.need;
        let due = rollout.plan.schedule.start.is_none_or(|at| at.0 <= self.now);
        if !approved || !due {
            return;
        }
        rollout.started_at = self.now;
        self.begin_stage(0);
        self.become_(RolloutStatus::Running, String::new());
        self.look_everywhere();
    }

    fn begin_stage(&mut self, stage: usize) {
        self.rollout.stage = stage;
        let named = self.rollout.plan.stages.get(stage).map(|plan| plan.devices.clone());
        // Whom the stage names was passed over until now.
        for device in named.into_iter().flatten() {
            self.rollout.change(&device, self.now, |_| {});
        }
        let stages = &mut self.rollout.stages;
        let split = stage.min(stages.len());
        let (earlier, later) = stages.split_at_mut(split);
        if let Some(state) = later.first_mut() {
            state.since = self.now;
            if let Some(earlier) = earlier.last() {
                state.evidence.expect_as(&earlier.evidence);
            }
        }
        self.save();
    }

    pub(super) fn next_stage(&mut self) {
        if self.rollout.stage + 1 < self.rollout.plan.stages.len() {
            self.begin_stage(self.rollout.stage + 1);
        }
    }

    /// Acts on the first gate that is breached in any stage that has begun. What is to be aborted is aborted in a pause
    /// as well: devices that got the version before are harmed all the same.
    fn look_at_gates(&mut self) {
        let paused = self.rollout.status == RolloutStatus::Paused;
        if !paused && !self.rollout.status.offers() {
            return;
        }
        for stage in 0..=self.rollout.stage {
            let action = self.on_breach(stage);
            if self.look >> stage & 1 == 0 || (paused && action == OnBreach::Pause) {
                continue;
            }
            let readings = self.rollout.readings(stage);
            if let Some(breach) = readings.iter().find(|r| r.state == GateState::Breached) {
                let reason = format!("stage {}: {}", self.rollout.name_of_stage(stage), breach.describe());
                return self.act(action, reason, readings);
            }
        }
    }

    fn on_breach(&self, stage: usize) -> OnBreach {
        self.rollout.plan.stages.get(stage).and_then(|s| s.gates.on_breach).unwrap_or_default()
    }

    fn act(&mut self, action: OnBreach, reason: String, readings: Vec<GateReading>) {
        match action {
            OnBreach::Pause => self.become_with(RolloutStatus::Paused, reason, readings),
            OnBreach::Abort => self.recall_all(false, reason),
        }
    }

    fn release_by_time(&mut self) {
        let schedule = &self.rollout.plan.schedule;
        let due = match schedule.switch {
            Switch::Directly => true,
            Switch::At(at) => at.0 <= self.now,
            Switch::OnWord => false,
        };
        if schedule.prestage && due && !self.rollout.released {
            self.rollout.released = true;
            self.decide("the stages switch now".into());
        }
    }

    /// Whether the stage under way still waits for its shadow run.
    fn shadows(&self) -> bool {
        self.rollout.stages.get(self.rollout.stage).is_some_and(|state| !state.may_switch)
    }

    /// Ends the shadow run of the stage: to the switch, or to a pause where it had nothing to go by.
    fn look_at_shadow(&mut self) {
        let (stage, now) = (self.rollout.stage, self.now);
        let Some(shadow) = self.rollout.plan.stages.get(stage).and_then(|s| s.shadow.clone()) else { return };
        if !self.shadows() {
            return;
        }
        if self.nothing_to_shadow() {
            let state = &mut self.rollout.stages[stage];
            (state.may_switch, state.shadow_skipped) = (true, true);
            self.decide("there is nothing to shadow: no device that waits runs a version in this slot".into());
            return;
        }
        let state = &self.rollout.stages[stage];
        let elapsed = now.saturating_sub(state.shadow_since) >= shadow.time.0;
        if state.shadow_since == 0 || (self.look >> stage & 1 == 0) {
            return;
        }
        let held = self.rollout.line.held.get(&(stage as u8)).map_or(0, |held| held.len()) as u64;
        let readings = self.rollout.readings(stage);
        let agreement = readings.iter().find(|r| r.gate == Gate::Agreement);
        let agrees = agreement.is_some_and(|r| r.state == GateState::Passing);
        let seen = state.evidence.shadow.compared >= u64::from(shadow.inferences).saturating_mul(held.max(1));
        let name = self.rollout.name_of_stage(stage);
        if agrees && (seen || elapsed) {
            self.rollout.stages[stage].may_switch = true;
            self.decide_on(format!("the shadow run of stage {name} went well; its devices switch"), readings);
            self.let_switch(stage as u8);
        } else if elapsed {
            let gate = agreement.map(GateReading::describe).unwrap_or_default();
            let reason = format!("the shadow run of stage {name} has nothing to go by after {}: {gate}", shadow.time);
            self.become_with(RolloutStatus::Paused, reason, readings);
        }
    }

    /// Whether devices are in line and none of them runs anything that a shadow could be held against. Where some of
    /// those that are away do, they get the time after which a device counts as silent to come back: right after a
    /// restart of the dispatcher all of them are away.
    fn nothing_to_shadow(&mut self) -> bool {
        let (stage, now) = (self.rollout.stage, self.now);
        let lease = self.rollout.plan.silence_seconds();
        let line = &mut self.rollout.line;
        let queue = if self.rollout.plan.schedule.prestage { &line.prestaged } else { &line.ready };
        let bare = !queue.is_empty() && !queue.has_comparable() && self.rollout.stages[stage].counts.total() == 0;
        if !bare {
            line.bare_since = 0;
            return false;
        }
        if line.bare_since == 0 {
            line.bare_since = now;
        }
        line.comparable == 0 || now.saturating_sub(line.bare_since) >= lease
    }

    pub(super) fn let_switch(&mut self, stage: u8) {
        let held: Vec<DeviceId> = self.rollout.line.held.get(&stage).into_iter().flatten().cloned().collect();
        for device in held {
            // The time of the shadow run was not the device's own.
            self.rollout.change(&device, self.now, |part| (part.held, part.started_at) = (false, self.now));
            self.order(&device);
        }
    }

    /// A device that was silent when the shadow run of its stage ended has not heard that it may switch.
    pub(super) fn let_go_on(&mut self, device: &DeviceId) {
        let may_switch = |part: &super::Part| {
            part.held && self.rollout.stages.get(usize::from(part.stage)).is_some_and(|stage| stage.may_switch)
        };
        if self.rollout.parts.get(device).is_some_and(may_switch) {
            self.rollout.change(device, self.now, |part| part.held = false);
            self.order(device);
        }
    }

    fn order(&mut self, device: &DeviceId) {
        self.effects.push(Effect::SavePart(device.clone()));
        self.effects.push(Effect::Offer(device.clone()));
        self.save();
    }

    /// Lets devices fetch the version beforehand, as fast as the limits allow.
    fn prestage(&mut self) {
        if !self.rollout.plan.schedule.prestage {
            return;
        }
        for _ in 0..MAX_STARTS {
            let bytes = self.rollout.expected_bytes();
            let Some(device) = self.rollout.next_in_line(false, false, bytes, self.now) else { return };
            self.start(&device, PRESTAGE, true, bytes);
        }
    }

    /// Offers the version to as many devices as the stage and the limits have room for.
    fn fill_stage(&mut self) {
        let (stage, prestaged) = (self.rollout.stage, self.rollout.plan.schedule.prestage);
        if prestaged && !self.rollout.released {
            return;
        }
        let room = self.rollout.quota(stage).saturating_sub(self.rollout.taken(stage));
        for _ in 0..room.min(MAX_STARTS) {
            let shadows = self.shadows();
            let bytes = if prestaged { 0 } else { self.rollout.expected_bytes() };
            let Some(device) = self.rollout.next_in_line(prestaged, shadows, bytes, self.now) else { return };
            if prestaged {
                self.switch_prestaged(&device, stage as u8, shadows);
            } else {
                self.start(&device, stage as u8, shadows, bytes);
            }
        }
    }

    fn switch_prestaged(&mut self, device: &DeviceId, stage: u8, held: bool) {
        let (now, mut site) = (self.now, 0);
        self.rollout.change(device, now, |part| {
            (part.stage, part.held, part.readings) = (stage, held, 0);
            (part.started_at, part.since, part.heard) = (now, now, now);
            site = part.site;
        });
        self.rollout.take_tokens(site, 0);
        self.joined_stage(device, stage, held);
        self.order(device);
    }

    /// Offers the version to a device.
    fn start(&mut self, device: &DeviceId, stage: u8, held: bool, bytes: u64) {
        let (now, mut site, mut comparable) = (self.now, 0, false);
        self.go_with(device, DevicePhase::Offered, None, None, |part| {
            (part.stage, part.held, part.readings) = (stage, held, 0);
            (part.started_at, part.heard) = (now, now);
            (site, comparable) = (part.site, part.comparable);
        });
        self.rollout.take_tokens(site, bytes);
        self.rollout.starts = self.rollout.starts.saturating_add(1);
        if let Some(state) = self.rollout.stages.get_mut(usize::from(stage)) {
            state.comparable += u32::from(comparable);
        }
        self.effects.push(Effect::Offer(device.clone()));
    }

    /// Says that a device which has the version already counts for a stage now, or runs it there as a shadow.
    pub(super) fn joined_stage(&mut self, device: &DeviceId, stage: u8, shadows: bool) {
        let comparable = self.rollout.parts.get(device).is_some_and(|part| part.comparable);
        if let Some(state) = self.rollout.stages.get_mut(usize::from(stage)) {
            state.comparable += u32::from(comparable);
            if shadows && state.shadow_since == 0 {
                state.shadow_since = self.now;
            }
        }
    }

    /// Whether the stage is over; then the next one has begun, or the rollout is complete.
    fn stage_ends(&mut self) -> bool {
        let (stage, now) = (self.rollout.stage, self.now);
        let last = stage + 1 == self.rollout.plan.stages.len();
        let gone = self.nobody_left();
        let rollout = &*self.rollout;
        if rollout.status != RolloutStatus::Running || self.look >> stage & 1 == 0 {
            return false;
        }
        let Some(state) = rollout.stages.get(stage) else { return false };
        let (members, taken) = (rollout.members(), rollout.taken(stage));
        let everyone = taken + rollout.counts.sum(is_past) >= members;
        let enough = everyone || taken >= rollout.quota(stage) || (gone && taken > 0);
        if !enough || state.counts.sum(DevicePhase::is_updating) > 0 {
            if state.settled_at > 0 {
                self.rollout.stages[stage].settled_at = 0;
                self.save();
            }
            return false;
        }
        let readings = rollout.readings(stage);
        if state.settled_at == 0 {
            self.rollout.stages[stage].settled_at = now;
            self.save();
        }
        let name = self.rollout.name_of_stage(stage);
        // A stage in which nobody new came has nothing to prove, and one that an operator let pass nothing more.
        let state = &self.rollout.stages[stage];
        let asked = state.counts.total() > 0 && state.passed_at == 0;
        if let Some(short) = readings.iter().find(|r| r.gate == Gate::Success && r.state == GateState::Holding && asked)
        {
            let reason = format!("stage {name}: {}", short.describe());
            self.act(self.on_breach(stage), reason, readings);
            return false;
        }
        let is_open = |r: &&GateReading| asked && matches!(r.state, GateState::Waiting | GateState::Holding);
        let open: Vec<String> = readings.iter().filter(is_open).map(GateReading::describe).collect();
        if !open.is_empty() {
            let waited = now.saturating_sub(state.settled_at);
            if waited >= self.rollout.plan.stages[stage].timeout_seconds() {
                let reason = format!("stage {name} waited {waited} s for its gates: {}", open.join("; "));
                self.become_with(RolloutStatus::Paused, reason, readings);
            }
            return false;
        }
        self.rollout.stages[stage].passed_at = now;
        if last {
            self.become_with(RolloutStatus::Completed, String::new(), readings);
            return false;
        }
        self.decide_on(format!("stage {name} passed"), readings);
        self.next_stage();
        self.look_everywhere();
        true
    }

    /// Whether nobody has been in line for as long as a device may be silent: whoever is away does not hold up the
    /// others, and a broken connection of all of them does not end a stage.
    fn nobody_left(&mut self) -> bool {
        let now = self.now;
        let lease = self.rollout.plan.silence_seconds();
        let line = &mut self.rollout.line;
        // Whoever waits to try again holds it up.
        if !line.ready.is_empty() || !line.prestaged.is_empty() || line.prestaging > 0 || line.retrying > 0 {
            line.empty_since = 0;
            return false;
        }
        if line.empty_since == 0 {
            line.empty_since = now;
        }
        now.saturating_sub(line.empty_since) >= lease
    }

    /// A recall is over when everybody who can be heard has gone back.
    fn recall_ends(&mut self) {
        let text = match self.rollout.counts.of(DevicePhase::Recalling) {
            0 => self.rollout.reason.clone(),
            n => format!("{} ({n} devices go back when they are heard again)", self.rollout.reason),
        };
        self.become_(RolloutStatus::Recalled, text);
    }
}

/// Phases that a stage no longer waits for.
fn is_past(phase: DevicePhase) -> bool {
    matches!(phase, DevicePhase::Refused | DevicePhase::Recalled | DevicePhase::Recalling)
}

impl Rollout {
    /// The next device that may start, for which the limits leave room: one that holds the version already, if
    /// `prestaged`; one that runs something in the slot, if `comparable`.
    fn next_in_line(&mut self, prestaged: bool, comparable: bool, bytes: u64, now: u64) -> Option<DeviceId> {
        let queue = if prestaged { &self.line.prestaged } else { &self.line.ready };
        if queue.is_empty() || self.limit(bytes, now).is_some() {
            return None;
        }
        let Rollout { line, plan, sites, .. } = self;
        let rate = &plan.rate.site;
        let limited = *rate != SiteRate::default();
        let queue = if prestaged { &mut line.prestaged } else { &mut line.ready };
        queue.first(comparable, now, |site| {
            !limited || site_limit(rate, &line.site_in_flight, sites, site, bytes, now).is_none()
        })
    }

    fn take_tokens(&mut self, site: u32, bytes: u64) {
        self.buckets.take(bytes as f64);
        if let Some(site) = self.sites.get_mut(site as usize) {
            site.buckets.take(bytes as f64);
        }
    }
}
