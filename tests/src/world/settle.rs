//! What has to come true when the faults stop: every device runs what is desired of it, or says why it cannot; nothing
//! waits in its outbox; and the dispatcher knows.

use muster_agent::core::Now;
use muster_dispatcher::domain::{DevicePhase, Rollout, RolloutStatus};
use muster_proto::code::Code;
use muster_proto::desired::SlotDesired;
use muster_proto::id::Generation;
use muster_proto::report::{DeviceReport, Phase, SlotReport};

use super::World;
use super::catalogue::{Catalogue, FOR_ARM, FOR_LARGE, FOR_NONE};

/// Within this time after the last fault everything has converged, in milliseconds. The longest pause between two
/// attempts is ten minutes; a rollout that goes from device to device needs the rest.
pub const BOUND_MS: u64 = 3 * 3600 * 1000;
/// For so long nothing happens any more then, in milliseconds.
const REST_MS: u64 = 20 * 60 * 1000;

/// Why a device has not converged that does not yet know of it.
const OFFERS: &str = "the dispatcher has something to offer it";

/// How an update has to end on a device.
#[derive(Debug, PartialEq)]
enum End {
    Healthy,
    Failed(Code),
    /// It waits for something that never comes.
    Waits(Code),
}

/// How things stand by a report. An update that waits takes its turn now and then and finds nothing new, of which
/// nobody has to hear.
pub(super) fn standing(report: &DeviceReport) -> (Generation, Vec<SlotReport>) {
    let mut slots = report.slots.clone();
    for slot in slots.iter_mut().filter(|slot| slot.phase == Phase::Fetching && slot.failure.is_some()) {
        slot.phase = Phase::Offered;
    }
    (report.generation, slots)
}

impl World {
    /// Waits until everything has converged, and then a while longer, in which nothing may change. Returns how long it
    /// took, in milliseconds.
    pub fn settle(&mut self) -> u64 {
        let began = self.now;
        if !self.run_until(BOUND_MS, |world| world.unsettled().is_none()) {
            let (i, why) = self.unsettled().expect("not settled");
            self.breach(Some(i), &format!("liveness: not converged {BOUND_MS} ms after the last fault: {why}"));
        }
        let took = self.now - began;
        self.setup.window_ms = 0;
        let all = || 0..self.devices.len();
        let before: Vec<_> = all().map(|i| (self.devices[i].starts, self.portrait(i))).collect();
        self.run(self.now + REST_MS);
        for (i, before) in before.iter().enumerate() {
            if self.devices[i].process.is_none() || before.0 != self.devices[i].starts {
                self.breach(Some(i), "liveness: its process does not live on");
            }
            let after = self.portrait(i);
            if !before.1.is_same(&after) {
                self.breach(Some(i), &format!("liveness: it does not rest: {:?} became {after:?}", before.1));
            }
        }
        if let Some((i, why)) = self.unsettled() {
            self.breach(Some(i), &format!("liveness: it had converged and then: {why}"));
        }
        took
    }

    /// A device that has not converged, and why; none where all have.
    pub fn unsettled(&self) -> Option<(usize, String)> {
        let astray = (0..self.devices.len()).find_map(|i| self.converged(i).err().map(|why| (i, why)));
        // Only then, because it is a copy of everything that the dispatcher knows.
        astray.or_else(|| {
            self.cloud.still_offers(self.wall_s()).map(|device| (self.index(&device).unwrap_or(0), OFFERS.into()))
        })
    }

    /// Whether a device is where it shall be and the dispatcher knows it; else why not.
    pub fn converged(&self, i: usize) -> Result<(), String> {
        let device = &self.devices[i];
        let Some(process) = &device.process else { return Err("no process runs".into()) };
        let record = self.cloud.fleet.devices.get(&device.id).ok_or("the dispatcher does not know it")?;
        if !self.cloud.up || !record.online {
            return Err("the dispatcher believes it to be away".into());
        }
        let Some(desired) = record.desired(&self.cloud.fleet.workspace, Vec::new(), 0) else { return Ok(()) };
        if process.busy {
            return Err("it waits for its disk".into());
        }
        if !process.engine.queue.is_empty() || !process.engine.short.is_empty() {
            return Err("it loads".into());
        }
        if process.state.durable().slots.values().any(|record| record.trial.is_some()) {
            return Err("a version is on trial".into());
        }
        let report = process.state.describe(Now::default());
        if report.generation != desired.generation {
            return Err(format!("generation {} is desired, {} accepted", desired.generation, report.generation));
        }
        // Invariant 5: the slots that answer are desired, and those that are desired are there.
        if let Some(extra) = process.engine.answers.keys().find(|slot| desired.slot(slot).is_none()) {
            return Err(format!("invariant 5: slot {extra} answers and is not desired"));
        }
        for want in &desired.slots {
            let slot = report.slots.iter().find(|s| s.slot == want.slot);
            let slot = slot.ok_or_else(|| format!("invariant 5: slot {} is not there", want.slot))?;
            self.ended(i, want, slot)?;
        }
        if process.state.outbox_size().0 > 0 || !device.disk.outbox.is_empty() {
            return Err(format!("{} messages wait in the outbox", process.state.outbox_size().0));
        }
        let (known, real) = (record.report.as_ref().map(standing), standing(&report));
        if known.as_ref() != Some(&real) {
            return Err(format!("the dispatcher does not know how things stand: {known:?} instead of {real:?}"));
        }
        Ok(())
    }

    /// Whether the update to `want` has come to the end that it has to come to.
    fn ended(&self, i: usize, want: &SlotDesired, slot: &SlotReport) -> Result<(), String> {
        let answers = self.devices[i].process.as_ref().and_then(|p| p.engine.answers.get(&want.slot));
        let code = slot.failure.as_ref().map(|f| f.code);
        let end = match (slot.phase, code) {
            (Phase::Healthy, None) if answers == Some(&want.digest) => End::Healthy,
            (Phase::Failed, Some(code)) => End::Failed(code),
            (Phase::Offered | Phase::Fetching | Phase::Staged, Some(code)) => End::Waits(code),
            (phase, code) => return Err(format!("slot {} is {phase:?} {code:?}, {answers:?} answers", want.slot)),
        };
        if !self.possible_ends(i, want).contains(&end) {
            let rollout = want.rollout.parse().ok().and_then(|id| self.cloud.fleet.rollouts.get(&id));
            let part = rollout.and_then(|rollout| rollout.parts.get(&self.devices[i].id));
            let status = rollout.map(|rollout| (rollout.status, rollout.stage, rollout.in_flight(), rollout.released));
            let what = format!("slot {} with {} came to {end:?}", want.slot, want.target);
            return Err(format!("{what}; its rollout {status:?}, its part {part:?}"));
        }
        let parsed = want.rollout.parse().ok();
        let progress = parsed.and_then(|id| self.cloud.fleet.rollouts.get(&id)?.parts.get(&self.devices[i].id));
        let Some(progress) = progress else { return Ok(()) };
        let id = want.rollout.parse().ok();
        let goes_back = id.and_then(|id| self.cloud.fleet.rollouts.get(&id)).is_some_and(|r| r.digest != want.digest);
        let known = match &end {
            // Gone back to what it had before, which is no news of the version.
            End::Healthy if goes_back => {
                matches!(progress.phase, DevicePhase::Recalled | DevicePhase::Failed | DevicePhase::Refused)
            }
            End::Healthy => progress.phase == DevicePhase::Healthy,
            End::Failed(code) => {
                matches!(progress.phase, DevicePhase::Failed | DevicePhase::Refused) && progress.code == Some(*code)
            }
            End::Waits(code) => progress.code == Some(*code),
        };
        if known {
            Ok(())
        } else {
            Err(format!("{end:?}, the dispatcher has {:?} {:?}", progress.phase, progress.code))
        }
    }

    fn possible_ends(&self, i: usize, want: &SlotDesired) -> Vec<End> {
        let device = &self.devices[i];
        let catalogue = Catalogue::shared();
        let is = |version| catalogue.get(version).digest == want.digest;
        if is(FOR_NONE) {
            return vec![End::Failed(Code::TooLarge)];
        }
        if is(FOR_ARM) && device.traits.agent.arch != "aarch64" {
            return vec![End::Failed(Code::Incompatible)];
        }
        if is(FOR_LARGE) && device.traits.memory < super::catalogue::HUNGRY {
            return vec![End::Waits(Code::MemoryShort)];
        }
        let mut ends = match self.character(i, &want.digest).code() {
            Some(code) => vec![End::Failed(code)],
            None => vec![End::Healthy],
        };
        // What was fetched beforehand waits for as long as its rollout does, or for a place that others do not free.
        let rollout = want.rollout.parse().ok().and_then(|id| self.cloud.fleet.rollouts.get(&id));
        let full = |rollout: &Rollout| rollout.plan.rate.in_flight.is_some_and(|most| rollout.in_flight() >= most);
        let waits = |rollout: &Rollout| rollout.status == RolloutStatus::Paused || full(rollout);
        if want.terms.hold && rollout.is_some_and(waits) {
            ends.push(End::Waits(Code::Held));
        }
        // Power cuts look like crashes; too many of them in one trial end it.
        let deaths = device.witness.deaths.get(&(want.slot.clone(), want.digest)).copied().unwrap_or(0);
        if deaths >= u32::from(device.traits.limits.max_unclean_ends) {
            ends.push(End::Failed(Code::TrialCrashed));
        }
        ends
    }
}
