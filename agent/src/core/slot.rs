//! From a desired state to one update per slot, and from a staged version to a confirmed one.

use muster_proto::code::Code;
use muster_proto::desired::{Desired, SlotDesired};
use muster_proto::id::{Digest, SlotName};
use muster_proto::report::{Failure, Phase, Probe};
use muster_proto::trust::Verified;

use super::Now;
use super::backoff;
use super::boot::{PROBATION_MS, lies_in_the_device};
use super::durable::{Attempt, Outcome};
use super::event::{Effect, LoadFailure, Signed};
use super::hold::Shadow;
use super::report::clip;
use super::state::{FileStep, Job, Stage, State, model_ref};

impl State {
    /// A payload on `desired`. One that this director root cannot prove waits once for newer roots.
    pub(super) fn accept_desired(&mut self, bytes: Vec<u8>, may_wait: bool, now: Now, fx: &mut Vec<Effect>) {
        let time = self.trusted_time(now);
        let verified = self.director.verify(&bytes, &self.identity.workspace, &self.identity.device, time);
        match verified {
            Ok(desired) => self.reconcile(desired, bytes, now, fx),
            Err(error) if may_wait && error.code() == Code::SignatureInvalid => {
                self.unproven = Some(bytes);
                self.want_walk();
            }
            Err(error) => self.refuse(Failure { code: error.code(), detail: clip(&error.to_string()) }),
        }
    }

    fn refuse(&mut self, failure: Failure) {
        if self.refused.as_ref() != Some(&failure) {
            self.refused = Some(failure);
            self.report_due = true;
        }
    }

    fn reconcile(&mut self, desired: Verified<Desired>, bytes: Vec<u8>, now: Now, fx: &mut Vec<Effect>) {
        let known = self.durable.generation;
        if desired.generation < known {
            let detail = format!("generation {} is older than {known}, which is accepted", desired.generation);
            return self.refuse(Failure { code: Code::Rollback, detail });
        }
        if desired.generation == known && self.desired.is_some() {
            if self.desired.as_ref().is_some_and(|d| d.slots != desired.slots) {
                let detail = format!("generation {known} came a second time with other content");
                self.refuse(Failure { code: Code::Rollback, detail });
            } else {
                // Signed anew, it tells a device without a clock what time it is.
                self.learn_time(desired.issued_at, now);
            }
            return;
        }
        self.refused = None;
        self.durable.generation = desired.generation;
        self.durable.time_floor = self.durable.time_floor.max(desired.issued_at);
        self.learn_time(desired.issued_at, now);
        self.durable.signed_desired = bytes.clone();
        fx.push(Effect::KeepSigned(vec![(Signed::Desired, Some(bytes))]));
        let wants = desired.slots.clone();
        self.desired = Some(desired);
        let mut settled = self.remove_unwanted(&wants, fx);
        for want in wants {
            settled |= self.want_slot(want, now, fx);
        }
        self.forget_recalled();
        self.persist(fx);
        if self.jobs.values().any(|j| matches!(j.stage, Stage::Queued)) {
            self.want_walk();
        }
        self.untold |= settled;
        self.report_due = true;
    }

    /// Slots that are no longer listed are emptied (invariant 5). Returns whether that is an outcome of any.
    fn remove_unwanted(&mut self, wants: &[SlotDesired], fx: &mut Vec<Effect>) -> bool {
        let unwanted = |slot: &SlotName| !wants.iter().any(|w| w.slot == *slot);
        let gone: Vec<SlotName> = self.durable.slots.keys().filter(|s| unwanted(s)).cloned().collect();
        let mut removed = false;
        for slot in gone {
            self.abandon(&slot, fx);
            self.answering.remove(&slot);
            fx.push(Effect::Clear { slot: slot.clone() });
            let Some(record) = self.durable.slots.get_mut(&slot) else { continue };
            let was = record.outcome.take();
            if was.as_ref().is_some_and(|o| o.phase == Phase::Removed) {
                self.durable.slots.remove(&slot);
                continue;
            }
            let want = was.map(|o| o.want);
            *record = Default::default();
            record.outcome = want.map(|want| Outcome { phase: Phase::Removed, ..Outcome::of(&Job::new(want)) });
            removed |= record.outcome.is_some();
        }
        removed
    }

    /// Sets what one slot shall run. Returns whether that is already an outcome.
    fn want_slot(&mut self, want: SlotDesired, now: Now, fx: &mut Vec<Effect>) -> bool {
        let slot = want.slot.clone();
        if let Some(job) = self.jobs.get_mut(&slot)
            && continues(job, &want)
        {
            job.want = want.clone();
            (job.opening, job.approved) = (None, false);
            if let Some(outcome) = self.durable.slots.get_mut(&slot).and_then(|r| r.outcome.as_mut()) {
                outcome.want = want;
            }
            return false;
        }
        self.abandon(&slot, fx);
        let answers = self.answering.contains_key(&slot);
        let record = self.durable.slots.entry(slot.clone()).or_default();
        let mut job = Job::new(want);
        if record.active.as_ref().is_some_and(|a| a.digest == job.want.digest) {
            job.stage = match record.trial {
                Some(_) => {
                    let trial = u64::from(job.want.trial_seconds) * 1000;
                    Stage::Trial { until_ms: if answers { now.mono_ms.saturating_add(trial) } else { u64::MAX } }
                }
                None => Stage::Healthy,
            };
        } else if record.trial.is_some() && answers {
            self.probation.insert(slot.clone(), now.mono_ms.saturating_add(PROBATION_MS));
        }
        if !matches!(job.stage, Stage::Queued) {
            job.probe = record.outcome.as_ref().and_then(|o| o.probe.clone());
        }
        record.outcome = Some(Outcome::of(&job));
        let settled = matches!(job.stage, Stage::Healthy);
        self.jobs.insert(slot, job);
        settled
    }

    /// Ends an update that is no longer wanted. What is on disk stays for the next one.
    fn abandon(&mut self, slot: &SlotName, fx: &mut Vec<Effect>) {
        let Some(job) = self.jobs.remove(slot) else { return };
        match job.stage {
            Stage::Staging | Stage::Held => fx.push(Effect::Unstage { slot: slot.clone() }),
            Stage::Files(file) => {
                if let FileStep::Chunks { download, .. } = file.step {
                    fx.push(Effect::Leave(download.blob().digest));
                }
            }
            _ => {}
        }
        if let Some(record) = self.durable.slots.get_mut(slot) {
            record.staging = None;
            record.held = None;
        }
    }

    /// Puts an update back into the queue for later.
    pub(super) fn retry_later(&mut self, slot: &SlotName, failure: Failure, now: Now) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        job.attempts += 1;
        let seed = format!("{}/{slot}", self.identity.device);
        job.not_before = now.mono_ms + backoff::delay_ms(job.attempts, &seed);
        job.stage = Stage::Queued;
        if job.failure.as_ref() != Some(&failure) {
            job.failure = Some(failure);
            self.report_due = true;
        }
    }

    pub(super) fn stage(&mut self, slot: &SlotName, fx: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let Some(manifest) = self.manifests.get(&job.want.digest).cloned() else { return };
        job.stage = Stage::Staging;
        job.failure = None;
        let digest = job.want.digest;
        let record = self.durable.slots.entry(slot.clone()).or_default();
        let before = record.staging.take().filter(|a| a.digest == digest).map_or(0, |a| a.unclean_ends);
        record.staging = Some(Attempt { digest, unclean_ends: before });
        self.report_due = true;
        // Loading may kill the process, so it is written down first.
        self.persist(fx);
        fx.push(Effect::Stage { slot: slot.clone(), manifest: Box::new(manifest), digest });
    }

    pub(super) fn staged(
        &mut self,
        slot: SlotName,
        digest: Digest,
        result: Result<Probe, LoadFailure>,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        let waiting = |j: &&mut Job| matches!(j.stage, Stage::Staging) && j.want.digest == digest;
        let Some(job) = self.jobs.get_mut(&slot).filter(waiting) else {
            // Meant for a desired state that has been replaced meanwhile.
            let needed = |j: &Job| matches!(j.stage, Stage::Staging | Stage::Held);
            if !self.jobs.get(&slot).is_some_and(needed) {
                fx.push(Effect::Unstage { slot });
            }
            return;
        };
        match result {
            Ok(probe) => {
                job.probe = Some(probe);
                self.ready(slot, now, fx);
            }
            Err(LoadFailure { failure, damaged }) if !damaged.is_empty() => {
                self.files.retain(|d, _| !damaged.contains(d));
                self.retry_later(&slot, failure, now);
            }
            Err(LoadFailure { failure, .. }) if lies_in_the_device(failure.code) => {
                self.retry_later(&slot, failure, now);
            }
            Err(LoadFailure { failure, .. }) => self.end_failed(&slot, digest, failure, now, fx),
        }
    }

    /// The one switch: written down first, then made (invariant 2).
    pub(super) fn activate(&mut self, slot: SlotName, fx: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&slot) else { return };
        job.stage = Stage::Trial { until_ms: u64::MAX };
        job.failure = None;
        job.shadow = Shadow::Off;
        let digest = job.want.digest;
        self.probation.remove(&slot);
        let record = self.durable.slots.entry(slot.clone()).or_default();
        let active = model_ref(&job.want);
        if record.active.as_ref() != Some(&active) {
            let before = record.active.replace(active);
            // A version that was never confirmed is something to go back to only where there is nothing better.
            if record.trial.is_none() || record.previous.is_none() || record.previous == record.active {
                (record.previous, record.previous_trial) = (before, record.trial.take());
            }
        }
        record.staging = None;
        record.held = None;
        record.trial = Some(Attempt { digest, unclean_ends: 0 });
        record.outcome = Some(Outcome::of(job));
        self.persist(fx);
        fx.push(Effect::Activate { slot: slot.clone(), digest });
        self.answering.insert(slot, digest);
        self.report_due = true;
    }

    /// A trial begins when the version answers: it may have waited long for the record to be written.
    pub(super) fn activated(&mut self, slot: &SlotName, digest: Digest, now: Now) {
        let record = self.durable.slots.get(slot);
        let on_trial = record.is_some_and(|r| r.trial.as_ref().is_some_and(|t| t.digest == digest));
        if !on_trial || self.answering.get(slot) != Some(&digest) {
            return;
        }
        match self.jobs.get_mut(slot).filter(|j| j.want.digest == digest) {
            Some(Job { stage: Stage::Trial { until_ms }, want, .. }) if *until_ms == u64::MAX => {
                *until_ms = now.mono_ms.saturating_add(u64::from(want.trial_seconds) * 1000);
            }
            Some(_) => {}
            None => {
                self.probation.entry(slot.clone()).or_insert(now.mono_ms.saturating_add(PROBATION_MS));
            }
        }
    }

    /// Confirms versions on trial that answer in the place of those that are wanted.
    fn confirm_unwanted(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let passed: Vec<SlotName> =
            self.probation.iter().filter(|(_, until)| now.mono_ms >= **until).map(|(s, _)| s.clone()).collect();
        for slot in passed {
            self.probation.remove(&slot);
            let watched = self.jobs.get(&slot).is_some_and(|j| matches!(j.stage, Stage::Trial { .. }));
            if let Some(record) = self.durable.slots.get_mut(&slot).filter(|r| !watched && r.trial.is_some()) {
                record.trial = None;
                self.forget_recalled();
                self.persist(fx);
            }
        }
    }

    /// A version that was recalled is nothing to go back to, from the moment that what answers has been confirmed:
    /// until then it is still better than nothing (invariant 2).
    fn forget_recalled(&mut self) {
        let Some(desired) = &self.desired else { return };
        for record in self.durable.slots.values_mut() {
            let recalled = record.previous.as_ref().is_some_and(|before| desired.denied.contains(&before.digest));
            if recalled && record.trial.is_none() && record.active.is_some() {
                (record.previous, record.previous_trial) = (None, None);
            }
        }
    }

    /// Confirms versions whose trial has passed.
    pub(super) fn confirm_trials(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let passed = |j: &Job| matches!(j.stage, Stage::Trial { until_ms } if now.mono_ms >= until_ms);
        let slots: Vec<SlotName> = self.jobs.iter().filter(|(_, j)| passed(j)).map(|(s, _)| s.clone()).collect();
        if slots.is_empty() {
            return self.confirm_unwanted(now, fx);
        }
        for slot in slots {
            let Some(job) = self.jobs.get_mut(&slot) else { continue };
            job.stage = Stage::Healthy;
            let record = self.durable.slots.entry(slot).or_default();
            record.trial = None;
            record.outcome = Some(Outcome::of(job));
        }
        self.forget_recalled();
        self.persist(fx);
        self.report_outcome(now, fx);
        self.collect(self.limits.keep_bytes, fx);
    }
}

/// Whether `want` is what `job` is about, on other terms perhaps: those never restart its transfer or probe.
fn continues(job: &Job, want: &SlotDesired) -> bool {
    let SlotDesired { terms, trial_seconds, .. } = want.clone();
    let same_terms = job.want.terms == terms;
    let mut like = SlotDesired { terms, trial_seconds, ..job.want.clone() };
    match &job.stage {
        // It is ready, whoever wants it.
        Stage::Held => like.rollout.clone_from(&want.rollout),
        // It was refused for its terms.
        Stage::Failed => {
            let code = job.failure.as_ref().map(|f| f.code);
            if !same_terms && matches!(code, Some(Code::PlanUnapproved | Code::MetadataInvalid)) {
                return false;
            }
        }
        _ => {}
    }
    *want == like
}
