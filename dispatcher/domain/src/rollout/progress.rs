//! What devices say, and what their silence says.

use muster_proto::code::Code;
use muster_proto::id::DeviceId;
use muster_proto::report::Transfer;

use super::engine::Turn;
use super::evidence::{MAX_READINGS, READINGS_PER_DEVICE, Reading, Usual};
use super::hash::rank;
use super::line::{deadline, patience};
use super::{DevicePhase, Effect, PRESTAGE, Part, Rollout};

/// The first wait before another attempt, and the longest one, in seconds, where the plan gives none.
const FIRST_WAIT: u64 = 300;
const MAX_WAIT: u64 = 6 * 3600;

impl Turn<'_> {
    /// A device that was silent is taken up where it was.
    pub(super) fn heard(&mut self, device: &DeviceId, online: Option<bool>) {
        let now = self.now;
        let Some(part) = self.rollout.parts.get_mut(device) else { return };
        part.heard = now;
        let connects = online == Some(true) && !part.online;
        let is_back = part.phase == DevicePhase::Silent;
        // It was given up, and may still go back now.
        let awaited_again = part.phase == DevicePhase::Recalling && part.armed == 0;
        if connects || is_back || awaited_again {
            self.rollout.change(device, now, |part| {
                part.online |= connects;
                // Its time begins anew, or it would have failed while it was away.
                if is_back {
                    part.started_at = now;
                }
            });
        }
        if is_back {
            self.go(device, DevicePhase::Offered, None, "it is back");
            self.let_go_on(device);
        }
    }

    pub(super) fn offline(&mut self, device: &DeviceId) {
        if self.rollout.parts.get(device).is_some_and(|part| part.online) {
            self.rollout.change(device, self.now, |part| part.online = false);
        }
    }

    pub(super) fn reported(
        &mut self,
        device: &DeviceId,
        phase: DevicePhase,
        code: Option<Code>,
        detail: &str,
        transfer: Transfer,
    ) {
        let now = self.now;
        let Some(mut part) = self.rollout.parts.get_mut(device) else { return };
        if part.phase.is_updating() {
            part.heard = now;
        } else {
            self.heard(device, None);
            let Some(found) = self.rollout.parts.get_mut(device) else { return };
            part = found;
        }
        let tells = phase.is_updating() || phase.is_decided() || phase == DevicePhase::Refused;
        // What it says of a version that it shall no longer have, or of which it was told something else, is past.
        if !tells || !takes_reports(part) {
            return;
        }
        let moved = std::mem::replace(&mut part.transfer, transfer) != transfer;
        let detail = Part::new_text(detail);
        if part.phase == phase && part.code == code && part.detail == detail {
            if moved {
                self.effects.push(Effect::SavePart(device.clone()));
            }
            return;
        }
        let (before, started_at) = (part.phase, part.started_at);
        let has_outcome = phase.is_decided() || phase == DevicePhase::Active;
        let beforehand = has_outcome && part.stage == PRESTAGE;
        let (waited, under_way) = (part.waits(), self.rollout.stage as u8);
        let (mut stage, mut shadows) = (0, false);
        self.go_with(device, phase, code, detail, |part| {
            part.held &= !has_outcome;
            if beforehand {
                // What becomes of it while it fetches beforehand is evidence for the stage under way.
                part.stage = under_way;
            }
            if waited && !part.waits() && phase.is_updating() {
                // Waiting as it was told is not on its own time.
                part.started_at = now;
            }
            (stage, shadows) = (part.stage, part.is_shadowing() && phase == DevicePhase::Staged);
        });
        if beforehand || shadows {
            self.joined_stage(device, stage, shadows);
        }
        if phase == DevicePhase::Healthy && before != phase {
            let soak = self.rollout.plan.stages.get(usize::from(stage)).map_or(0, |stage| stage.soak.0);
            let busy = now.saturating_sub(started_at).saturating_sub(soak);
            let rollout = &mut *self.rollout;
            rollout.fetched = rollout.fetched.saturating_add(transfer.fetched);
            rollout.busy_seconds = rollout.busy_seconds.saturating_add(busy);
            rollout.proven = rollout.proven.saturating_add(1);
        }
        if phase == DevicePhase::Failed {
            self.plan_retry(device, code);
        }
        if phase == DevicePhase::Staged && code == Some(Code::Held) {
            self.hold_again(device);
        }
    }

    /// A device that failed and staged the version all the same, as after the loss of its index, waits for a word that
    /// its part no longer knows of.
    fn hold_again(&mut self, device: &DeviceId) {
        let Some(part) = self.rollout.parts.get(device).filter(|part| !part.held) else { return };
        let may_switch = self.rollout.stages.get(usize::from(part.stage)).is_some_and(|stage| stage.may_switch);
        self.rollout.change(device, self.now, |part| part.held = true);
        if may_switch {
            self.let_go_on(device);
        }
    }

    /// A failure that may pass is tried again after a wait with full jitter; a refused probe never is.
    fn plan_retry(&mut self, device: &DeviceId, code: Option<Code>) {
        let retry = &self.rollout.plan.retry;
        let Some(part) = self.rollout.parts.get(device) else { return };
        if part.attempts >= retry.attempts || !self.rollout.status.is_open() || !code.is_some_and(may_pass) {
            return;
        }
        let first = retry.wait.map_or(FIRST_WAIT, |span| span.0).max(1);
        let most = retry.max_wait.map_or(MAX_WAIT, |span| span.0).max(1);
        let cap = first.saturating_mul(1 << u32::from(part.attempts).min(30)).min(most);
        let wait = 1 + rank(self.rollout.salt, &format!("{device} {}", part.attempts)) % cap;
        let at = self.now.saturating_add(wait);
        let text = format!("{} tries again in {wait} s", part.detail.as_deref().unwrap_or_default());
        self.rollout.change(device, self.now, |part| {
            part.attempts += 1;
            part.not_before = at;
        });
        self.go(device, DevicePhase::Waiting, code, text.trim_start());
    }

    /// Figures count a few times per device, spread over its soak time and once it is healthy over the rest of the
    /// rollout; those of devices that have not switched tell what moves all of them alike.
    pub(super) fn measured(&mut self, device: &DeviceId, of_this: bool, reading: &Reading, usual: &Usual) {
        self.heard(device, None);
        let rollout = &mut *self.rollout;
        let Some(part) = rollout.parts.get_mut(device) else { return };
        let own = usize::from(part.stage);
        if of_this {
            let due = rollout.plan.stages.get(own).zip(rollout.stages.get(own));
            let due = due.map_or(0, |(plan, state)| readings_due(part, plan, state.counts.total(), self.now));
            let Some(state) = rollout.stages.get_mut(own) else { return };
            let tells = reading.has_inferences() || !rollout.plan.stages[own].gates.ask_of_inferences();
            if u64::from(part.readings) < due && tells {
                state.evidence.count_outputs(reading);
                if usual.windows > 0 {
                    state.evidence.observe(reading, usual);
                }
                part.readings += 1;
                self.look_at(own);
                self.effects.push(Effect::SavePart(device.clone()));
                self.save();
            }
        } else if rollout.status.offers() {
            let shadows = part.is_shadowing();
            let at = if own < rollout.stages.len() && part.phase.is_updating() { own } else { rollout.stage };
            let Some(state) = rollout.stages.get_mut(at) else { return };
            if usual.windows > 0 {
                state.evidence.observe_control(reading, usual);
            } else {
                state.evidence.expect(reading);
            }
            if let Some(shadow) = reading.shadow.as_ref().filter(|_| shadows) {
                state.evidence.observe_shadow(shadow);
                self.look_at(at);
                self.save();
            }
        }
    }

    /// Looks at devices whose lease, time or wait is over.
    pub(super) fn look_at_timers(&mut self) {
        let now = self.now;
        loop {
            let due = self.rollout.line.timers.first().filter(|(at, _)| *at <= now);
            let Some((device, part)) = due.and_then(|(_, device)| self.rollout.parts.get_key_value(device)) else {
                return;
            };
            let (device, plan) = (device.clone(), &self.rollout.plan);
            let unheard = now.saturating_sub(part.heard);
            let silent = part.phase.is_updating() && unheard > patience(plan, part);
            let late = part.phase.is_updating() && deadline(plan, part, self.rollout.line.loaded_at) <= now;
            let took = now.saturating_sub(part.started_at);
            if part.phase == DevicePhase::Waiting && part.not_before > 0 && part.not_before <= now {
                self.rollout.change(&device, now, |part| part.not_before = 0);
                self.effects.push(Effect::SavePart(device));
            } else if silent {
                self.go(&device, DevicePhase::Silent, None, &format!("not heard for {unheard} s"));
            } else if late {
                self.go(&device, DevicePhase::Failed, Some(Code::TimedOut), &format!("not healthy after {took} s"));
                self.effects.push(Effect::Recall(device));
            } else {
                self.rollout.change(&device, now, |_| {});
            }
        }
    }
}

impl Rollout {
    /// Lets the devices of a stage give all their readings again; says which ones had given some.
    pub(super) fn restart_readings(&mut self, stage: u8) -> Vec<DeviceId> {
        let counted = |part: &Part| part.stage == stage && part.readings > 0;
        let parts = self.parts.iter_mut().filter(|(_, part)| counted(part));
        parts
            .map(|(device, part)| {
                part.readings = 0;
                device.clone()
            })
            .collect()
    }
}

/// Whether what the device reports of the version still changes anything.
fn takes_reports(part: &Part) -> bool {
    let phase = part.phase;
    let called_back = phase == DevicePhase::Failed && part.code == Some(Code::TimedOut);
    (phase.is_updating() || phase.is_decided() || phase == DevicePhase::Refused) && !called_back
}

/// How many windows of a device may have counted by now. Few devices have to give more of them each, or gates would
/// never hear enough; and what shows late shows on those that have it longest.
fn readings_due(part: &Part, stage: &super::plan::Stage, devices: u32, now: u64) -> u64 {
    let needed = stage.gates.min_readings().div_ceil(u64::from(devices.max(1)));
    let (soak, since) = (stage.soak.0.max(1), now.saturating_sub(part.since));
    let each = READINGS_PER_DEVICE.max(needed).min(MAX_READINGS);
    match part.phase {
        DevicePhase::Active => (since.saturating_mul(each) / soak + 1).min(each),
        // After one, two, four … times the soak time.
        DevicePhase::Healthy => each + (since / soak).checked_ilog2().map_or(0, |n| u64::from(n) + 1),
        _ => 0,
    }
}

/// Whether another attempt may end otherwise without anything being mended. A version that crashed the device's agent
/// may do so again, and each time the device answers nothing for a while.
fn may_pass(code: Code) -> bool {
    !matches!(
        code,
        Code::ProbeMismatch
            | Code::AlreadyRefused
            | Code::TrialCrashed
            | Code::Recalled
            | Code::ModelInvalid
            | Code::ModelUnsupported
            | Code::Incompatible
            | Code::ManifestInvalid
            | Code::DirectorDisagrees
            | Code::PlanUnapproved
            | Code::TooLarge
    )
}
