//! What the device says of itself. A report is always complete, so the newest one is enough.

use muster_proto::code::Code;
use muster_proto::id::SlotName;
use muster_proto::report::{DeviceReport, Phase, Report, SlotReport, Telemetry};
use muster_proto::wire;

use super::Now;
use super::durable::{Outcome, SlotRecord};
use super::event::{Body, Effect};
use super::outbox::{Entry, Kind};
use super::state::{Job, Stage, State, model_ref};

/// The longest detail of a failure in bytes.
const MAX_DETAIL: usize = 500;
/// Ids are reserved in blocks, so that not every message has to be persisted.
const ID_BLOCK: u64 = 1024;
/// A report of progress that nobody has acknowledged for so long is repeated, in milliseconds.
const UNHEARD_MS: u64 = 5 * 60 * 1000;
/// What a signature and the envelope add to a report, in bytes.
const ENVELOPE: u64 = 96;

/// Cuts a text for a report.
pub(super) fn clip(text: &str) -> String {
    match text.char_indices().map(|(i, _)| i).take_while(|i| *i <= MAX_DETAIL).last() {
        Some(end) if text.len() > MAX_DETAIL => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

impl State {
    /// The next message id; ids of one incarnation only grow, across restarts too.
    pub(super) fn take_id(&mut self, fx: &mut Vec<Effect>) -> u64 {
        if self.next_id >= self.durable.id_ceiling {
            self.durable.id_ceiling = self.next_id + ID_BLOCK;
            self.persist(fx);
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn persist(&self, fx: &mut Vec<Effect>) {
        fx.push(Effect::Persist(Box::new(self.durable.clone())));
    }

    /// The complete reported state.
    pub(super) fn compose_report(&mut self, now: Now, fx: &mut Vec<Effect>) -> DeviceReport {
        let id = self.take_id(fx);
        DeviceReport { id, ..self.describe(now) }
    }

    /// The complete state as a report would say it, under the last id that was used.
    pub fn describe(&self, now: Now) -> DeviceReport {
        let mut slots: Vec<SlotReport> = Vec::new();
        for (slot, record) in &self.durable.slots {
            let job = self.jobs.get(slot);
            let outcome = record.outcome.as_ref();
            let answering = self.answering.get(slot);
            let want = job.map(|j| &j.want).or(outcome.map(|o| &o.want));
            slots.push(SlotReport {
                slot: slot.clone(),
                rollout: want.map(|w| w.rollout.clone()).unwrap_or_default(),
                desired: want.map(model_ref),
                phase: job.map(Job::phase).or(outcome.map(|o| o.phase)).unwrap_or(Phase::Offered),
                // What answers is what the engine has, not what was intended (invariant 12).
                active: record.active.clone().filter(|a| answering == Some(&a.digest)),
                previous: record.previous.clone(),
                probe: job.and_then(|j| j.probe.clone()),
                failure: job.and_then(|j| self.waiting_for(j).or_else(|| j.failure.clone())),
                transfer: job.map(|j| j.transfer).unwrap_or_default(),
            });
        }
        DeviceReport {
            workspace: self.identity.workspace.clone(),
            device: self.identity.device.clone(),
            incarnation: self.durable.incarnation,
            id: self.next_id.saturating_sub(1),
            sent_at: now.wall_s,
            generation: self.durable.generation,
            agent: self.agent.clone(),
            slots,
            refused: self.refused.clone(),
        }
    }

    /// A queued update waits for the metadata, and says why that does not come.
    fn waiting_for(&self, job: &Job) -> Option<muster_proto::report::Failure> {
        let code = job.failure.as_ref().map(|f| f.code);
        let needs_metadata =
            matches!(code, None | Some(Code::NotFound | Code::MetadataInvalid | Code::MetadataExpired));
        self.walk.failure.clone().filter(|_| needs_metadata && matches!(job.stage, Stage::Queued))
    }

    /// A report that is repeated until it is acknowledged (invariant 9).
    pub(super) fn report_outcome(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.report_due = false;
        self.unheard = None;
        let report = self.compose_report(now, fx);
        let id = report.id;
        let size = wire::encode(&Report::V1(report.clone())).map_or(0, |b| b.len() as u64) + ENVELOPE;
        self.put(id, Kind::Outcome, size, Body::Report(report), now, fx);
    }

    /// Tells the outcomes in the record as soon as everything that can answer does, so that the report is a proof: those
    /// of a new desired state, and all of them after each start, because the power may have gone between the record of
    /// an outcome and its message (invariant 9).
    pub(super) fn repeat_outcomes(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if !self.untold {
            return;
        }
        let answers =
            |(slot, record): (&SlotName, &SlotRecord)| record.active.is_none() || self.answering.contains_key(slot);
        if self.durable.slots.iter().all(answers) {
            self.untold = false;
            let phases = self.durable.slots.values().filter_map(|record| Some(record.outcome.as_ref()?.phase));
            if phases.into_iter().any(|p| matches!(p, Phase::Healthy | Phase::Failed | Phase::Removed)) {
                self.report_outcome(now, fx);
            }
        }
    }

    /// A report of progress, if there is something new and somebody to tell.
    /// It is repeated until acknowledged, rarely: it may be the last for a long time.
    pub(super) fn report_progress(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.report_due |= self.unheard.is_some_and(|(_, at)| now.mono_ms >= at.saturating_add(UNHEARD_MS));
        if self.report_due && self.online {
            self.report_due = false;
            let report = self.compose_report(now, fx);
            self.unheard = Some((report.id, now.mono_ms));
            fx.push(Effect::SendReport(Box::new(report)));
        }
    }

    /// Stores a telemetry window.
    pub(super) fn put_telemetry(&mut self, make: impl FnOnce(u64, u64) -> Telemetry, now: Now, fx: &mut Vec<Effect>) {
        let id = self.take_id(fx);
        let telemetry = make(self.durable.incarnation, id);
        let size = wire::encode(&telemetry).map_or(0, |b| b.len() as u64);
        self.put(id, Kind::Telemetry, size, Body::Telemetry(telemetry), now, fx);
    }

    fn put(&mut self, id: u64, kind: Kind, size: u64, body: Body, now: Now, fx: &mut Vec<Effect>) {
        fx.push(Effect::Put { id, kind, body: Box::new(body) });
        let dropped = self.outbox.add(id, Entry { kind, size, made_at: now.wall_s }, now.wall_s);
        self.count_dropped(dropped, fx);
    }

    /// A message that nobody can send any more. The count is written down with the next record: now there may be no room.
    pub(super) fn put_failed(&mut self, id: u64) {
        self.durable.outbox_dropped += self.outbox.remove(&[id]).len() as u64;
    }

    /// Removes messages that had to go unsent, and counts them (invariant 10).
    pub(super) fn count_dropped(&mut self, dropped: Vec<u64>, fx: &mut Vec<Effect>) {
        if !dropped.is_empty() {
            self.durable.outbox_dropped += dropped.len() as u64;
            self.persist(fx);
            fx.push(Effect::Remove(dropped));
        }
    }

    /// Sends what is due.
    pub(super) fn flush_outbox(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if self.online {
            fx.extend(self.outbox.due(now.mono_ms).into_iter().map(|(id, kind)| Effect::Send { id, kind }));
        }
    }
}

impl Outcome {
    pub(super) fn of(job: &Job) -> Self {
        Self {
            want: job.want.clone(),
            phase: job.phase(),
            probe: job.probe.clone(),
            failure: job.failure.clone(),
            transfer: job.transfer,
        }
    }
}
