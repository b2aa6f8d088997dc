//! A device as simple as one can be that does what real ones do: it accepts newer generations only, works through the
//! phases, does not try again what it failed under the same name, and remembers what answers.

use muster_proto::code::Code;
use muster_proto::desired::{Desired, SlotDesired};
use muster_proto::id::{Digest, Generation};
use muster_proto::report::{AgentInfo, DeviceReport, Failure, ModelRef, Phase, SlotReport, Transfer};

use crate::tests::bench::{agent, report, version_of};

/// Fails at its probe.
pub const FAILS: u64 = 3;
/// Crashes on trial.
pub const CRASHES: u64 = 6;
/// Is refused by the last device.
pub const REFUSED: u64 = 5;

#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    /// Whether it knows terms.
    pub modern: bool,
    pub picky: bool,
    pub accepted: Option<Desired>,
    phase: Phase,
    failure: Option<Code>,
    pub active: Option<ModelRef>,
    /// The version that was confirmed last, to which it falls back.
    confirmed: Option<ModelRef>,
    incarnation: u64,
    last_report: u64,
    /// What it proved: under which name which version, or under which generation an empty slot.
    pub proved: Vec<(String, Digest)>,
    pub emptied: Vec<Generation>,
}

impl Machine {
    pub fn new(name: String, modern: bool, picky: bool) -> Self {
        Self {
            name,
            modern,
            picky,
            accepted: None,
            phase: Phase::Offered,
            failure: None,
            active: None,
            confirmed: None,
            incarnation: 1,
            last_report: 0,
            proved: Vec::new(),
            emptied: Vec::new(),
        }
    }

    pub fn agent(&self) -> AgentInfo {
        AgentInfo { speaks: (u8::from(self.modern), 1), ..agent() }
    }

    pub fn generation(&self) -> Generation {
        self.accepted.as_ref().map(|desired| desired.generation).unwrap_or_default()
    }

    fn want(&self) -> Option<&SlotDesired> {
        self.accepted.as_ref()?.slots.first()
    }

    pub fn accept(&mut self, desired: Desired) {
        assert!(
            self.modern || desired.slots.iter().all(|slot| slot.terms.is_none()),
            "{} cannot know terms",
            self.name
        );
        if desired.generation <= self.generation() {
            return;
        }
        let same = |a: &SlotDesired, b: &SlotDesired| (&a.rollout, a.digest) == (&b.rollout, b.digest);
        let goes_on = self.want().zip(desired.slots.first()).is_some_and(|(a, b)| same(a, b));
        self.accepted = Some(desired);
        match self.want().map(model_of) {
            None => {
                (self.active, self.confirmed) = (None, None);
                self.emptied.push(self.generation());
            }
            Some(_) if goes_on => {}
            // It has never stopped answering.
            Some(want) if self.confirmed.as_ref() == Some(&want) && self.active == self.confirmed => self.is_healthy(),
            Some(_) => (self.phase, self.failure) = (Phase::Offered, None),
        }
    }

    fn is_healthy(&mut self) {
        let Some(want) = self.want() else { return };
        let proof = (want.rollout.clone(), want.digest);
        (self.phase, self.failure, self.confirmed) = (Phase::Healthy, None, Some(model_of(want)));
        self.active = self.confirmed.clone();
        self.proved.push(proof);
    }

    /// One phase further.
    pub fn work(&mut self) {
        let Some(want) = self.want() else { return };
        let (model, held) = (model_of(want), want.terms.hold);
        let version = version_of(&model.target);
        match self.phase {
            Phase::Offered if self.picky && version == REFUSED => self.fails(Code::Incompatible),
            Phase::Offered => self.phase = Phase::Fetching,
            Phase::Fetching => self.phase = Phase::Verified,
            Phase::Verified if version == FAILS => self.fails(Code::ProbeMismatch),
            Phase::Verified => self.phase = Phase::Staged,
            Phase::Staged if held => self.failure = Some(Code::Held),
            Phase::Staged => (self.phase, self.failure, self.active) = (Phase::Active, None, Some(model)),
            Phase::Active if version == CRASHES => self.fails(Code::TrialCrashed),
            Phase::Active => self.is_healthy(),
            Phase::Healthy | Phase::Failed | Phase::Removed => {}
        }
    }

    fn fails(&mut self, code: Code) {
        (self.phase, self.failure) = (Phase::Failed, Some(code));
        self.active = self.confirmed.clone();
    }

    /// The version that answers crashes after all; another one comes from somewhere, or none.
    pub fn crash(&mut self) {
        if self.phase == Phase::Healthy {
            self.confirmed = None;
            self.fails(Code::TrialCrashed);
        }
    }

    pub fn wipe(&mut self) {
        (self.accepted, self.active, self.confirmed) = (None, None, None);
        (self.phase, self.failure) = (Phase::Offered, None);
        (self.incarnation, self.last_report) = (self.incarnation + 1, 0);
    }

    pub fn is_done(&self) -> bool {
        let held = self.want().is_some_and(|want| want.terms.hold) && self.phase == Phase::Staged;
        self.want().is_none() || held || matches!(self.phase, Phase::Healthy | Phase::Failed)
    }

    pub fn has_failed(&self) -> bool {
        self.want().is_some() && self.phase == Phase::Failed
    }

    pub fn report(&mut self) -> DeviceReport {
        self.last_report += 1;
        let slot = self.want().map(|want| SlotReport {
            slot: want.slot.clone(),
            rollout: want.rollout.clone(),
            desired: Some(model_of(want)),
            phase: self.phase,
            active: self.active.clone(),
            previous: None,
            probe: None,
            failure: self.failure.map(|code| Failure { code, detail: String::new() }),
            transfer: Transfer::default(),
        });
        let said = report(&self.name, self.last_report, self.generation().0, slot.into_iter().collect());
        DeviceReport { incarnation: self.incarnation, agent: self.agent(), ..said }
    }
}

fn model_of(want: &SlotDesired) -> ModelRef {
    ModelRef { target: want.target.clone(), digest: want.digest }
}
