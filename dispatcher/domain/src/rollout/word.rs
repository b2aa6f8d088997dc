//! What operators say.

use muster_proto::id::DeviceId;

use super::engine::Turn;
use super::evidence::{Evidence, GateState};
use super::{DevicePhase, Effect, Part, RolloutStatus, Word};

impl Turn<'_> {
    pub(super) fn told(&mut self, word: Word) {
        let status = self.rollout.status;
        match word {
            Word::Pause(reason) if status.offers() => self.become_(RolloutStatus::Paused, reason),
            Word::Resume if status == RolloutStatus::Paused => self.resume(),
            Word::Recall { now, reason } => self.recall_all(now, reason),
            Word::Cancel(reason) if status.is_open() => self.cancel(reason),
            Word::Approve(approved) if status == RolloutStatus::Pending => {
                let known = self.rollout.approvals.iter().any(|a| a.by == approved.by);
                if !known && self.rollout.may_approve(&approved.by) {
                    let text = format!("approved by {}", approved.by);
                    self.rollout.approvals.push(approved);
                    self.decide(text);
                }
            }
            Word::Skip(reason) if status.offers() || status == RolloutStatus::Paused => self.skip(&reason),
            Word::Retry(devices) if status.is_open() => self.retry(&devices),
            Word::Release if status.is_open() && self.rollout.plan.schedule.prestage && !self.rollout.released => {
                self.rollout.released = true;
                self.decide("released: the stages switch now".into());
            }
            Word::Pause(_)
            | Word::Resume
            | Word::Cancel(_)
            | Word::Approve(_)
            | Word::Skip(_)
            | Word::Retry(_)
            | Word::Release => {}
        }
    }

    fn resume(&mut self) {
        for stage in 0..self.rollout.stages.len() {
            self.excuse(stage);
            let state = &mut self.rollout.stages[stage];
            state.settled_at = 0;
            if !state.may_switch && state.shadow_since > 0 {
                state.shadow_since = self.now;
            }
        }
        (self.rollout.line.empty_since, self.rollout.line.bare_since) = (0, 0);
        self.become_(RolloutStatus::Running, String::new());
    }

    /// What was held against a stage has been looked at and does not count again; what comes is measured afresh. Where
    /// nothing was, everything counts on, or each pause would be a fresh start for a version that fails a little.
    fn excuse(&mut self, stage: usize) {
        let readings = self.rollout.readings(stage);
        let state = &mut self.rollout.stages[stage];
        let settled = state.settled_at > 0;
        let is_against = |state| state == GateState::Breached || (settled && state == GateState::Holding);
        if !readings.iter().any(|reading| is_against(reading.state)) {
            return;
        }
        state.excused_failures = state.counts.of(DevicePhase::Failed);
        state.excused_silence = state.counts.of(DevicePhase::Silent);
        state.evidence = Evidence::new(&self.rollout.plan.stages[stage].gates);
        let parts = self.rollout.restart_readings(stage as u8);
        self.effects.extend(parts.into_iter().map(Effect::SavePart));
    }

    fn skip(&mut self, reason: &str) {
        let at = self.rollout.stage;
        if self.rollout.status == RolloutStatus::Completed {
            return;
        }
        for stage in 0..self.rollout.stages.len() {
            self.excuse(stage);
        }
        self.rollout.stages[at].may_switch = true;
        self.rollout.stages[at].passed_at = self.now;
        self.let_switch(at as u8);
        self.decide(format!("stage {} was passed without its gates: {reason}", self.rollout.name_of_stage(at)));
        self.become_(RolloutStatus::Running, String::new());
        self.next_stage();
    }

    fn retry(&mut self, devices: &[DeviceId]) {
        let failed = |phase| matches!(phase, DevicePhase::Failed | DevicePhase::Refused);
        let chosen: Vec<DeviceId> = match devices {
            [] => self.rollout.parts.iter().filter(|(_, p)| failed(p.phase)).map(|(d, _)| d.clone()).collect(),
            some => some.iter().filter(|d| self.phase(d).is_some_and(failed)).cloned().collect(),
        };
        for device in &chosen {
            self.rollout.change(device, self.now, |part| (part.attempts, part.not_before, part.held) = (0, 0, false));
            self.go(device, DevicePhase::Waiting, None, "tried again on an operator's word");
        }
        if !chosen.is_empty() {
            self.decide(format!("{} devices are tried again", chosen.len()));
        }
    }

    /// Devices that wait for a word to switch will not hear it any more; what others have or get stays.
    fn cancel(&mut self, reason: String) {
        let waits = |part: &Part| part.held && (part.phase.is_updating() || part.phase == DevicePhase::Silent);
        let held = self.rollout.parts.iter().filter(|(_, part)| waits(part));
        let held: Vec<DeviceId> = held.map(|(device, _)| device.clone()).collect();
        for device in held {
            self.recall(&device);
        }
        self.become_(RolloutStatus::Cancelled, reason);
    }

    /// Calls everybody back who may have the version.
    pub(super) fn recall_all(&mut self, urgent: bool, reason: String) {
        if matches!(self.rollout.status, RolloutStatus::Recalling | RolloutStatus::Recalled) {
            let hurry = urgent && !self.rollout.urgent && self.rollout.counts.of(DevicePhase::Recalling) > 0;
            if !hurry {
                return;
            }
        }
        self.rollout.urgent |= urgent;
        let told = self.rollout.parts.iter().filter(|(_, part)| part.was_told());
        let devices: Vec<DeviceId> = told.map(|(device, _)| device.clone()).collect();
        let gates = self.rollout.readings(self.rollout.stage);
        for device in devices {
            self.recall(&device);
        }
        self.rollout.stages.iter_mut().for_each(|stage| stage.settled_at = 0);
        self.become_with(RolloutStatus::Recalling, reason, gates);
    }

    /// A device that failed or refused does not have the version, but its desired state may name it still, and it would
    /// try again.
    fn recall(&mut self, device: &DeviceId) {
        self.effects.push(Effect::Recall(device.clone()));
        if self.phase(device).is_some_and(DevicePhase::may_have_it) {
            self.go(device, DevicePhase::Recalling, None, "told to go back");
        }
    }
}
