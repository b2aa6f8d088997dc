//! One event at a time, and what all of them do in the end: move a device, decide something, ask for it to be stored.

use muster_proto::code::Code;
use muster_proto::id::DeviceId;

use super::evidence::GateReading;
use super::plan::MAX_STAGES;
use super::{Decision, DevicePhase, Effect, Event, MAX_DECISIONS, Part, Rollout, RolloutStatus};

/// What follows from `event`. The same event twice leaves the same state (invariant 6).
pub fn step(rollout: &mut Rollout, event: Event, now: u64) -> Vec<Effect> {
    let mut turn = Turn { rollout, now, effects: Vec::new(), save: false, look: 0 };
    turn.take(event);
    turn.advance();
    if turn.save {
        turn.effects.insert(0, Effect::Save);
    }
    turn.effects
}

/// One step under way.
pub(super) struct Turn<'a> {
    pub rollout: &'a mut Rollout,
    pub now: u64,
    pub effects: Vec<Effect>,
    save: bool,
    /// The stages, by bit, in which something came to pass that its gates or its end could depend on.
    pub look: u32,
}

impl Turn<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Started(members) => self.started(members),
            Event::Joined(member) => self.joined(member),
            Event::Left(device) => self.left(&device),
            Event::Removed(device) => self.removed(&device),
            Event::Blocked { device, by } => self.blocked(&device, by.map(|id| id.0)),
            Event::Superseded { device, by } => self.superseded(&device, by),
            Event::Online(device) => self.heard(&device, Some(true)),
            Event::Offline(device) => self.offline(&device),
            Event::Heard(device) => self.heard(&device, None),
            Event::Reported { device, phase, code, detail, transfer } => {
                self.reported(&device, phase, code, &detail, transfer);
            }
            Event::WentBack(device) => {
                self.heard(&device, None);
                if self.phase(&device) == Some(DevicePhase::Recalling) {
                    self.go(&device, DevicePhase::Recalled, None, "");
                }
            }
            Event::Measured { device, of_this, reading, usual } => self.measured(&device, of_this, &reading, &usual),
            Event::Told(word) => {
                self.told(word);
                self.look_everywhere();
            }
            Event::Ticked => {
                self.look_at_timers();
                self.look_everywhere();
            }
        }
    }

    pub(super) fn phase(&self, device: &DeviceId) -> Option<DevicePhase> {
        self.rollout.parts.get(device).map(|part| part.phase)
    }

    /// Moves a device to `phase`.
    pub(super) fn go(&mut self, device: &DeviceId, phase: DevicePhase, code: Option<Code>, detail: &str) {
        self.go_with(device, phase, code, Part::new_text(detail), |_| {});
    }

    /// As [`Self::go`], with what else changes: each look for a device is one in a large map.
    pub(super) fn go_with(
        &mut self,
        device: &DeviceId,
        phase: DevicePhase,
        code: Option<Code>,
        detail: Option<Box<str>>,
        change: impl FnOnce(&mut Part),
    ) {
        let now = self.now;
        let (mut before, mut stage) = (phase, 0);
        let moved = self.rollout.change(device, now, |part| {
            (before, stage) = (part.phase, part.stage);
            if part.phase != phase {
                part.since = now;
            }
            (part.phase, part.code, part.detail) = (phase, code, detail);
            change(part);
        });
        if !moved {
            return;
        }
        self.effects.push(Effect::SavePart(device.clone()));
        self.effects.push(Effect::Moved(device.clone()));
        self.save();
        // On the way to an outcome nothing is for or against the version.
        if !phase.is_updating() || !(before.is_updating() || before == DevicePhase::Waiting) {
            self.look_at(usize::from(stage));
        }
    }

    /// Says that the gates of a stage may stand otherwise now.
    pub(super) fn look_at(&mut self, stage: usize) {
        // A device that belongs to no stage may still have been the last one that was waited for.
        self.look |= 1 << stage.min(self.rollout.stage).min(MAX_STAGES - 1);
    }

    pub(super) fn look_everywhere(&mut self) {
        self.look = u32::MAX;
    }

    pub(super) fn become_(&mut self, status: RolloutStatus, reason: String) {
        let gates = self.rollout.readings(self.rollout.stage);
        self.become_with(status, reason, gates);
    }

    pub(super) fn become_with(&mut self, status: RolloutStatus, reason: String, gates: Vec<GateReading>) {
        let rollout = &mut *self.rollout;
        if rollout.status == status && rollout.reason == reason {
            return;
        }
        (rollout.status, rollout.reason) = (status, reason.clone());
        rollout.ended_at = if status.has_ended() { self.now } else { 0 };
        let name = status.name();
        let what = if reason.is_empty() { name.to_owned() } else { format!("{name}: {reason}") };
        self.decide_on(what, gates);
    }

    pub(super) fn decide(&mut self, what: String) {
        self.decide_on(what, Vec::new());
    }

    pub(super) fn decide_on(&mut self, what: String, gates: Vec<GateReading>) {
        let decision = Decision { at: self.now, stage: self.rollout.stage, what, gates };
        let decisions = &mut self.rollout.decisions;
        decisions.push(decision.clone());
        if decisions.len() > MAX_DECISIONS {
            decisions.remove(0);
        }
        self.effects.push(Effect::Decided(Box::new(decision)));
        self.save();
    }

    /// Asks for the rollout to be stored, once a step and before anything else.
    pub(super) fn save(&mut self) {
        self.save = true;
    }
}
