//! What happens when the process starts: versions that seem to have killed it are put aside, what
//! answered before answers again without waiting for the network, and unfinished work is taken up.

use std::collections::BTreeSet;

use muster_proto::code::Code;
use muster_proto::id::{Digest, SlotName};
use muster_proto::report::{Failure, ModelRef, Phase};

use super::Now;
use super::backoff;
use super::durable::Outcome;
use super::event::{Effect, LoadFailure};
use super::state::{Job, Stage, State};

/// How long a version on trial has to answer that nobody wants any more, in milliseconds.
pub(super) const PROBATION_MS: u64 = 10 * 60 * 1000;

impl State {
    pub(super) fn started(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.known_time = (self.durable.time_floor, now.mono_ms);
        let signed = std::mem::take(&mut self.durable.signed_desired);
        if !signed.is_empty() {
            let (workspace, device) = (&self.identity.workspace, &self.identity.device);
            match self.director.verify(&signed, workspace, device, None) {
                Ok(desired) => self.desired = Some(desired),
                Err(error) => {
                    self.refused = Some(Failure { code: error.code(), detail: super::report::clip(&error.to_string()) })
                }
            }
        }
        self.durable.signed_desired = signed;
        self.count_unclean_ends();
        let wants = self.desired.as_ref().map(|d| d.slots.clone()).unwrap_or_default();
        for want in wants {
            let slot = want.slot.clone();
            let job = self.job_from_record(want);
            self.jobs.insert(slot, job);
        }
        self.put_aside_killers(now, fx);
        self.persist(fx);
        let failed = self.jobs.values().filter(|j| matches!(j.stage, Stage::Failed)).map(|j| j.want.digest);
        for digest in failed.collect::<Vec<Digest>>() {
            self.forget_version(digest, fx);
        }
        let slots: Vec<SlotName> = self.durable.slots.keys().cloned().collect();
        for slot in slots {
            self.load_active(&slot, now, fx);
        }
        self.report_due = true;
        self.untold = true;
    }

    /// Holds the end of the last process against what may have caused it: what was being loaded for the first time, or
    /// else what was on trial. A version on trial that answers well is not blamed for another one's loading.
    fn count_unclean_ends(&mut self) {
        if !self.durable.clean_stop {
            let loading = self.durable.slots.values().any(|record| record.staging.is_some());
            for record in self.durable.slots.values_mut() {
                let suspect = if loading { &mut record.staging } else { &mut record.trial };
                if let Some(attempt) = suspect {
                    attempt.unclean_ends = attempt.unclean_ends.saturating_add(1);
                }
            }
        }
        self.durable.clean_stop = false;
    }

    fn job_from_record(&mut self, want: muster_proto::desired::SlotDesired) -> Job {
        let record = self.durable.slots.entry(want.slot.clone()).or_default();
        let mut job = Job::new(want);
        let same = record.outcome.as_ref().filter(|o| o.want == job.want);
        if let Some(outcome) = same {
            job.probe = outcome.probe.clone();
            job.failure = outcome.failure.clone();
            job.transfer = outcome.transfer;
        }
        let is_active = record.active.as_ref().is_some_and(|a| a.digest == job.want.digest);
        // Whose approval is asked for here may have changed since.
        let unapproved = job.failure.as_ref().is_some_and(|f| f.code == Code::PlanUnapproved);
        job.stage = match same.map(|o| o.phase) {
            Some(Phase::Failed) if !unapproved => Stage::Failed,
            // The trial begins again when the model answers.
            _ if is_active && record.trial.is_some() => Stage::Trial { until_ms: u64::MAX },
            _ if is_active => Stage::Healthy,
            _ => Stage::Queued,
        };
        job
    }

    /// Whoever was on trial, or being loaded for the first time, at too many unclean ends goes.
    fn put_aside_killers(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let max = self.limits.max_unclean_ends;
        let slots: Vec<SlotName> = self.durable.slots.keys().cloned().collect();
        for slot in slots {
            let Some(record) = self.durable.slots.get_mut(&slot) else { continue };
            let on_trial = record.trial.clone().filter(|a| a.unclean_ends >= max);
            let staging = record.staging.clone().filter(|a| a.unclean_ends >= max);
            if on_trial.is_some() {
                record.go_back();
            }
            if staging.is_some() {
                record.staging = None;
            }
            for killer in on_trial.into_iter().chain(staging) {
                let detail = format!("the process ended {} times without being told to", killer.unclean_ends);
                self.end_failed(&slot, killer.digest, Failure { code: Code::TrialCrashed, detail }, now, fx);
            }
        }
    }

    /// Loads what the slot's record names; where its manifest is gone, what came before.
    pub(super) fn load_active(&mut self, slot: &SlotName, now: Now, fx: &mut Vec<Effect>) {
        let active = self.durable.slots.get(slot).and_then(|r| r.active.clone());
        let Some(active) = active else { return };
        match self.manifests.get(&active.digest) {
            Some(manifest) => fx.push(Effect::Load {
                slot: slot.clone(),
                manifest: Box::new(manifest.clone()),
                digest: active.digest,
            }),
            None => {
                let detail = format!("the manifest of {} is gone from the store", active.target);
                let failure = Failure { code: Code::StoreFailed, detail };
                self.fall_back(slot, &active, LoadFailure { failure, damaged: vec![active.digest] }, now, fx);
            }
        }
    }

    pub(super) fn loaded(
        &mut self,
        slot: SlotName,
        digest: Digest,
        result: Result<muster_proto::report::Probe, LoadFailure>,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        let active = self.durable.slots.get(&slot).and_then(|r| r.active.clone());
        let Some(active) = active.filter(|a| a.digest == digest) else { return };
        match result {
            Ok(probe) => {
                self.answering.insert(slot.clone(), digest);
                self.reload.remove(&slot);
                if let Some(job) = self.jobs.get_mut(&slot).filter(|j| j.want.digest == digest) {
                    job.probe = Some(probe);
                    // What kept it from answering is over.
                    if matches!(job.stage, Stage::Trial { .. } | Stage::Healthy) {
                        job.failure = None;
                    }
                }
                self.report_due = true;
            }
            Err(failure) if self.may_pass(&slot, &failure) => {
                let attempts = self.reload.get(&slot).map_or(0, |(attempts, _)| *attempts) + 1;
                let seed = format!("{}/{slot}", self.identity.device);
                self.reload.insert(slot.clone(), (attempts, now.mono_ms + backoff::delay_ms(attempts, &seed)));
                if let Some(job) = self.jobs.get_mut(&slot).filter(|j| j.want.digest == digest) {
                    job.failure = Some(failure.failure);
                    self.report_due = true;
                }
            }
            Err(failure) => self.fall_back(&slot, &active, failure, now, fx),
        }
    }

    /// Whether what keeps the active version from being loaded lies in the device and may pass: a confirmed version is
    /// not given up for that, nor one that has nothing to go back to (invariant 2).
    fn may_pass(&self, slot: &SlotName, LoadFailure { failure, damaged }: &LoadFailure) -> bool {
        let record = self.durable.slots.get(slot);
        damaged.is_empty()
            && lies_in_the_device(failure.code)
            && record.is_some_and(|r| r.trial.is_none() || r.previous.is_none())
    }

    /// Tries again to load what could not be loaded for a while.
    pub(super) fn load_again(&mut self, now: Now, fx: &mut Vec<Effect>) {
        for (slot, (_, not_before)) in self.reload.clone() {
            let waits = !self.answering.contains_key(&slot) && self.durable.slots.contains_key(&slot);
            if !waits {
                self.reload.remove(&slot);
            } else if not_before <= now.mono_ms {
                // Until the result is there.
                self.reload.entry(slot.clone()).and_modify(|(_, not_before)| *not_before = u64::MAX);
                self.load_active(&slot, now, fx);
            }
        }
    }

    /// The active version cannot be loaded: the previous one takes its place (invariant 2).
    fn fall_back(
        &mut self,
        slot: &SlotName,
        failed: &ModelRef,
        LoadFailure { failure, damaged }: LoadFailure,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        let damaged: BTreeSet<Digest> = damaged.into_iter().collect();
        self.files.retain(|d, _| !damaged.contains(d));
        let Some(record) = self.durable.slots.get_mut(slot) else { return };
        record.go_back();
        self.answering.remove(slot);
        let wanted = self.jobs.get(slot).filter(|j| j.want.digest == failed.digest);
        match wanted {
            // Damaged files are fetched again, and what the device lacks now it may have later; that is no verdict on
            // the version.
            Some(_) if !damaged.is_empty() || lies_in_the_device(failure.code) => {
                record.outcome = None;
                self.persist(fx);
                self.retry_later(slot, failure, now);
            }
            _ => self.end_failed(slot, failed.digest, failure, now, fx),
        }
        self.load_active(slot, now, fx);
    }

    /// Ends the update to `digest` for good, writes that down, and reports it (invariant 7).
    pub(super) fn end_failed(
        &mut self,
        slot: &SlotName,
        digest: Digest,
        failure: Failure,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        if let Some(job) = self.jobs.get_mut(slot).filter(|j| j.want.digest == digest) {
            job.stage = Stage::Failed;
            job.failure = Some(failure);
            let outcome = Outcome::of(job);
            let record = self.durable.slots.entry(slot.clone()).or_default();
            record.staging = None;
            record.held = None;
            record.outcome = Some(outcome);
        }
        self.persist(fx);
        self.report_outcome(now, fx);
        self.forget_version(digest, fx);
    }

    /// A version that failed is not left where a start without the index would take it for a good one.
    fn forget_version(&mut self, digest: Digest, fx: &mut Vec<Effect>) {
        if !self.manifests_in_use().contains(&digest) && self.manifests.remove(&digest).is_some() {
            fx.push(Effect::Collect { manifests: vec![digest], files: Vec::new() });
        }
    }
}

/// Whether a failure to load says something of the device at this moment, and nothing of the version.
pub(super) fn lies_in_the_device(code: Code) -> bool {
    matches!(code, Code::MemoryShort | Code::StoreFailed | Code::DiskFull)
}
