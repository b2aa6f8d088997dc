//! What keeps a staged version from answering: the terms of its desired state, which the device keeps by itself.

use jiff::Timestamp;
use muster_proto::code::Code;
use muster_proto::desired::{ApprovalStatement, ShadowTerms, SlotDesired};
use muster_proto::id::{Digest, SlotName};
use muster_proto::report::Failure;

use super::Now;
use super::durable::{Attempt, Held};
use super::event::Effect;
use super::report::clip;
use super::state::{Job, Stage, State};
use super::window::{self, Opening};

/// How often the time that a version has waited is written down, in seconds.
const WAITED_S: u64 = 3600;

/// Somebody at the device asks to wait with the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veto {
    /// Why.
    pub reason: String,
}

/// What became of the shadow run that the terms of a held version ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Shadow {
    /// There is none.
    #[default]
    Off,
    /// The engine runs it.
    Running(ShadowTerms),
    /// The engine has refused it.
    Refused(ShadowTerms, Failure),
}

impl State {
    /// The device's best knowledge of the time, in seconds since 1970: its clock, or the newest time in a verified
    /// message and what has passed since, whichever is later. None before the first such message (invariant 11).
    pub(super) fn best_time(&self, now: Now) -> Option<u64> {
        let (known, at_ms) = self.known_time;
        let counted = known.saturating_add(now.mono_ms.saturating_sub(at_ms) / 1000);
        (self.durable.time_floor > 0).then_some(counted.max(now.wall_s))
    }

    /// A verified message was made at `time`: real time is not earlier.
    pub(super) fn learn_time(&mut self, time: u64, now: Now) {
        let (known, at_ms) = self.known_time;
        if time > known.saturating_add(now.mono_ms.saturating_sub(at_ms) / 1000) {
            self.known_time = (time, now.mono_ms);
        }
    }

    /// Why an offer is not taken up at all: its terms make no sense here, or its plan lacks approvals.
    pub(super) fn refuses(&self, want: &SlotDesired) -> Option<Failure> {
        if let Err(detail) = window::check(&want.terms.windows) {
            return Some(Failure { code: Code::MetadataInvalid, detail: clip(&detail) });
        }
        self.unapproved(want)
    }

    fn unapproved(&self, want: &SlotDesired) -> Option<Failure> {
        let plan = want.terms.plan.as_ref();
        let statement = ApprovalStatement {
            workspace: self.identity.workspace.clone(),
            plan: plan.map_or(Digest([0; 32]), |p| p.hash),
            target: want.target.clone(),
            digest: want.digest,
        };
        let approvals = plan.map_or(&[][..], |p| &p.approvals);
        let error = self.limits.approvers.check(&statement, approvals).err()?;
        Some(Failure { code: error.code(), detail: clip(&error.to_string()) })
    }

    /// A version is ready. It answers at once where its terms allow it.
    pub(super) fn ready(&mut self, slot: SlotName, now: Now, fx: &mut Vec<Effect>) {
        let time = self.best_time(now).unwrap_or(0);
        let Some(job) = self.jobs.get_mut(&slot) else { return };
        job.stage = Stage::Held;
        job.held_ms = now.mono_ms;
        let digest = job.want.digest;
        let record = self.durable.slots.entry(slot.clone()).or_default();
        let known = record.held.take().filter(|h| h.digest == digest);
        record.held = Some(known.unwrap_or(Held { digest, since: time, waited_s: 0, shadowed: false }));
        if self.waits_for(&slot, now).is_none() {
            return self.activate(slot, fx);
        }
        self.report_due = true;
        self.release(slot.clone(), now, fx);
        // Waiting harms nobody: from here on the end of the process says nothing of the version, unless it runs as a
        // shadow.
        let runs = self.jobs.get(&slot).is_some_and(|j| matches!(j.shadow, Shadow::Running(_)));
        if !runs && let Some(record) = self.durable.slots.get_mut(&slot) {
            record.staging = None;
            self.persist(fx);
        }
    }

    /// Switches to the staged versions whose terms allow it by now, and tells what the others wait for.
    pub(super) fn release_held(&mut self, now: Now, fx: &mut Vec<Effect>) {
        let held = |(slot, job): (&SlotName, &Job)| matches!(job.stage, Stage::Held).then(|| slot.clone());
        for slot in self.jobs.iter().filter_map(held).collect::<Vec<_>>() {
            self.release(slot, now, fx);
        }
    }

    fn release(&mut self, slot: SlotName, now: Now, fx: &mut Vec<Effect>) {
        let Some(reason) = self.waits_for(&slot, now) else { return self.activate(slot, fx) };
        self.keep_waiting_time(&slot, now, fx);
        self.run_shadow(&slot, reason.code, fx);
        let Some(job) = self.jobs.get_mut(&slot) else { return };
        let reason = match &job.shadow {
            // The gate that the dispatcher keeps waits for figures that do not come.
            Shadow::Refused(_, refused) if reason.code == Code::Held => refused.clone(),
            _ => reason,
        };
        if job.failure.as_ref() != Some(&reason) {
            job.failure = Some(reason);
            self.report_due = true;
        }
    }

    /// What a staged version waits for; none where it may answer.
    fn waits_for(&mut self, slot: &SlotName, now: Now) -> Option<Failure> {
        let time = self.best_time(now);
        let waited_s = self.waited_s(slot, now);
        let since = self.durable.slots.get(slot)?.held.as_ref().map_or(0, |h| h.since);
        let job = self.jobs.get(slot)?;
        if !job.approved {
            if let Some(unapproved) = self.unapproved(&job.want) {
                return Some(unapproved);
            }
            self.jobs.get_mut(slot)?.approved = true;
        }
        let want = &self.jobs.get(slot)?.want;
        let failure = |code, detail: String| Some(Failure { code, detail: clip(&detail) });
        let terms = &want.terms;
        if terms.hold {
            return failure(Code::Held, "the desired state says to wait".into());
        }
        if terms.not_before > 0 {
            match time {
                Some(time) if time >= terms.not_before => {}
                Some(_) => return failure(Code::NotYet, format!("not before {}", moment(terms.not_before))),
                None => {
                    let detail = format!("not before {}; what time it is, is not known here", moment(terms.not_before));
                    return failure(Code::NotYet, detail);
                }
            }
        }
        if !terms.windows.is_empty() && !terms.urgent {
            let Some(time) = time else {
                return failure(Code::OutsideWindow, "what time it is, is not known here".into());
            };
            let zone = &self.limits.zone;
            let job = self.jobs.get_mut(slot)?;
            let known = job.opening.filter(|(found, opening)| opening.holds(*found, time));
            if let Err(detail) = known.map_or_else(|| window::check(&job.want.terms.windows), |_| Ok(())) {
                return failure(Code::MetadataInvalid, detail);
            }
            let (_, opening) = *job
                .opening
                .insert(known.unwrap_or_else(|| (time, window::opening(&job.want.terms.windows, zone, time))));
            match opening {
                Opening::Open { .. } => {}
                Opening::Closed { next: Some(next) } => {
                    let at = i64::try_from(next).ok().and_then(|s| Timestamp::from_second(s).ok());
                    let local = at.map(|at| at.to_zoned(zone.clone()).to_string()).unwrap_or_default();
                    return failure(Code::OutsideWindow, format!("the next window opens at {local}"));
                }
                Opening::Closed { next: None } => {
                    return failure(Code::OutsideWindow, "no window opens within four years".into());
                }
            }
        }
        let terms = &self.jobs.get(slot)?.want.terms;
        let patience = u64::from(terms.veto_seconds);
        let veto = self.veto.as_ref().filter(|_| !terms.urgent && waited_s < patience)?;
        let end = match since {
            0 => format!("after {patience} s of waiting"),
            since => format!("at {}", moment(since.saturating_add(patience))),
        };
        let reason = if veto.reason.is_empty() { "no reason was given" } else { veto.reason.as_str() };
        failure(Code::Vetoed, format!("{reason}; it is switched {end} all the same"))
    }

    /// How long a version has waited since it was ready, by whichever clock knows of more.
    fn waited_s(&self, slot: &SlotName, now: Now) -> u64 {
        let held = self.durable.slots.get(slot).and_then(|r| r.held.as_ref());
        let (Some(held), Some(job)) = (held, self.jobs.get(slot)) else { return 0 };
        let counted = held.waited_s.saturating_add(now.mono_ms.saturating_sub(job.held_ms) / 1000);
        let by_clock = self.best_time(now).filter(|_| held.since > 0).map_or(0, |t| t.saturating_sub(held.since));
        counted.max(by_clock)
    }

    /// Writes down how long a version has waited, so that starts without a clock do not lengthen a veto.
    fn keep_waiting_time(&mut self, slot: &SlotName, now: Now, fx: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let more = now.mono_ms.saturating_sub(job.held_ms) / 1000;
        let counts = job.want.terms.veto_seconds > 0 && !job.want.terms.urgent;
        let held = self.durable.slots.get_mut(slot).and_then(|r| r.held.as_mut());
        if let (Some(held), true, true) = (held, counts, more >= WAITED_S) {
            held.waited_s = held.waited_s.saturating_add(more);
            job.held_ms = now.mono_ms;
            self.persist(fx);
        }
    }

    /// Begins, changes or ends the shadow run of a held version.
    fn run_shadow(&mut self, slot: &SlotName, waits_for: Code, fx: &mut Vec<Effect>) {
        let beside = self.answering.contains_key(slot) && waits_for != Code::PlanUnapproved;
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let Some(record) = self.durable.slots.get_mut(slot) else { return };
        let Some(held) = record.held.as_ref() else { return };
        let terms = job.want.terms.shadow.clone().filter(|_| beside && !held.shadowed);
        match (terms, &job.shadow) {
            (Some(terms), Shadow::Running(old) | Shadow::Refused(old, _)) if terms == *old => {}
            (Some(terms), _) => {
                let digest = job.want.digest;
                let before = record.staging.take().filter(|a| a.digest == digest).map_or(0, |a| a.unclean_ends);
                record.staging = Some(Attempt { digest, unclean_ends: before });
                job.shadow = Shadow::Running(terms.clone());
                // Running it may kill the process, so it is written down first.
                self.persist(fx);
                fx.push(Effect::Shadow { slot: slot.clone(), digest, terms });
            }
            (None, Shadow::Running(_)) => {
                record.staging = None;
                job.shadow = Shadow::Off;
                self.persist(fx);
                fx.push(Effect::EndShadow { slot: slot.clone() });
            }
            (None, _) => job.shadow = Shadow::Off,
        }
    }

    /// A shadow run has come to its end, or could not begin.
    pub(super) fn shadow_ended(
        &mut self,
        slot: &SlotName,
        digest: Digest,
        refused: Option<Failure>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(slot).filter(|j| j.want.digest == digest) else { return };
        let (Stage::Held, Shadow::Running(terms)) = (&job.stage, &job.shadow) else { return };
        let Some(record) = self.durable.slots.get_mut(slot) else { return };
        record.staging = None;
        match refused {
            Some(failure) => job.shadow = Shadow::Refused(terms.clone(), failure),
            None => {
                job.shadow = Shadow::Off;
                record.held.iter_mut().for_each(|h| h.shadowed = true);
            }
        }
        self.persist(fx);
        self.report_due = true;
    }
}

/// A time for people.
fn moment(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    at.map_or_else(|| format!("{seconds} s after 1970"), |at| at.to_string())
}
