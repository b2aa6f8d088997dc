//! A device as the dispatcher knows it: who it is, what it shall run, what it last said.

mod proven;

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::code::Code;
use muster_proto::desired::{Desired, MAX_SLOTS, SlotDesired, Terms};
use muster_proto::id::{DeviceId, Digest, Generation, GroupName, SlotName, Workspace};
use muster_proto::report::{AgentInfo, DeviceReport, Phase, SlotReport};
use serde::{Deserialize, Serialize};

use super::rollout::RolloutId;
use super::rollout::evidence::Usual;
pub use proven::Proven;

/// How long a signed desired state binds a device that has trusted time and has not yet seen it; a connected
/// device is sent a fresh one on each hello.
const DESIRED_LIFETIME_SECONDS: u64 = 30 * 24 * 3600;
/// How many earlier incarnations of a device are remembered, so that their late reports change nothing.
const MAX_PAST_INCARNATIONS: usize = 8;

/// A device's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// Its public key, an uncompressed P-256 point; reports have to verify under it.
    pub public_key: Vec<u8>,
    /// The enrolment token that let it in, so that a repeated request is known as such.
    pub token: String,
    /// When it was enrolled.
    pub enrolled_at: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The groups that list it.
    pub groups: BTreeSet<GroupName>,
    /// What it is.
    pub agent: AgentInfo,
    /// The generation of its newest desired state; it only grows (invariant 3).
    pub generation: Generation,
    /// The newest generation that it said it accepted.
    pub accepted: Generation,
    /// What its desired states have to be above: those of an earlier device of this name may still be on their way.
    pub floor: Generation,
    /// Everything that it shall run.
    pub slots: BTreeMap<SlotName, Assignment>,
    /// What each slot proved to run well.
    #[serde(default)]
    pub proven: BTreeMap<SlotName, Proven>,
    /// What is usual for what each slot proved to run, the newest first.
    #[serde(default)]
    pub usual: BTreeMap<SlotName, Vec<(Digest, Usual)>>,
    /// Its newest report.
    pub report: Option<DeviceReport>,
    /// Incarnations before that of `report`.
    pub past_incarnations: Vec<u64>,
    /// When something was last heard of it; 0 if never.
    pub last_seen: u64,
    /// Whether it is connected, as far as this process knows.
    #[serde(skip)]
    pub online: bool,
    /// When this process last sent it its desired state; 0 if never.
    #[serde(skip)]
    pub sent_at: u64,
}

/// What one slot shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The target's path.
    pub target: String,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The manifest's length in bytes.
    pub length: u64,
    /// The trial period after activation, in seconds.
    pub trial_seconds: u32,
    /// The rollout that asked for it.
    pub rollout: RolloutId,
    /// What binds the switch to it.
    #[serde(default)]
    pub terms: Terms,
    /// How often the rollout had offered it to the device before.
    #[serde(default)]
    pub attempt: u32,
    /// The first generation that says so: reports on earlier ones say nothing on it.
    #[serde(default)]
    pub since: Generation,
}

impl Assignment {
    /// How desired states and reports name the offer: a device does not try again what it failed under the same name.
    pub fn reference(&self) -> String {
        match self.attempt {
            0 => self.rollout.to_string(),
            again => format!("{}.{}", self.rollout, again + 1),
        }
    }
}

/// A group: the devices that list it, and those that its selector matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Labels that a member has, all of them; empty for listed members only.
    pub selector: BTreeMap<String, String>,
}

impl Group {
    /// Whether `device` is a member.
    pub fn contains(&self, device: &Device) -> bool {
        device.groups.contains(&self.name)
            || (!self.selector.is_empty() && labels_match(&self.selector, &device.labels))
    }
}

/// Whether `labels` has all of `wanted`; an empty wanted value matches any.
pub fn labels_match(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key).is_some_and(|have| value.is_empty() || have == value))
}

/// How a report stands to what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It replaces what is known.
    Newer,
    /// What is known is as new or newer: a repetition, or out of order.
    Known,
    /// It is from before the device's store was made anew.
    PastIncarnation,
}

impl Device {
    /// A device that was just enrolled.
    pub fn enrolled(id: DeviceId, public_key: Vec<u8>, token: String, agent: AgentInfo, now: u64) -> Self {
        Self {
            id,
            public_key,
            token,
            enrolled_at: now,
            labels: BTreeMap::new(),
            groups: BTreeSet::new(),
            agent,
            generation: Generation(0),
            accepted: Generation(0),
            floor: Generation(0),
            slots: BTreeMap::new(),
            proven: BTreeMap::new(),
            usual: BTreeMap::new(),
            report: None,
            past_incarnations: Vec::new(),
            last_seen: 0,
            online: false,
            sent_at: 0,
        }
    }

    /// The full desired state (invariant 5), or none where the device was never given anything. `denied` are versions
    /// that were recalled; agents that know of no deny list are not told.
    pub fn desired(&self, workspace: &Workspace, denied: Vec<Digest>, now: u64) -> Option<Desired> {
        if self.generation == Generation(0) {
            return None;
        }
        let slots = self.slots.iter().map(|(slot, assignment)| SlotDesired {
            slot: slot.clone(),
            target: assignment.target.clone(),
            digest: assignment.digest,
            length: assignment.length,
            trial_seconds: assignment.trial_seconds,
            rollout: assignment.reference(),
            terms: assignment.terms.clone(),
        });
        Some(Desired {
            workspace: workspace.clone(),
            device: self.id.clone(),
            hardware: self.agent.arch.clone(),
            generation: self.generation,
            issued_at: now,
            expires_at: now.saturating_add(DESIRED_LIFETIME_SECONDS),
            slots: slots.collect(),
            denied: if self.agent.speaks.0 < 2 { Vec::new() } else { denied },
        })
    }

    /// Whether every slot runs what is desired, healthy, by the newest report.
    pub fn converged(&self) -> bool {
        let Some(report) = &self.report else { return self.slots.is_empty() };
        let healthy =
            |slot: &SlotName, want: &Assignment| report.slots.iter().any(|s| s.slot == *slot && proves(s, want.digest));
        report.generation >= self.generation && self.slots.iter().all(|(slot, want)| healthy(slot, want))
    }

    /// Whether the newest report says that the device failed what it shall run in `slot`.
    pub(super) fn has_failed(&self, slot: &SlotName, want: &Assignment) -> bool {
        let says = |s: &SlotReport| s.slot == *slot && s.rollout == want.reference() && s.phase == Phase::Failed;
        self.report.as_ref().is_some_and(|report| report.slots.iter().any(says))
    }

    /// Puts `assignment` into `slot` and raises the generation; false where the device has no room for one more slot.
    pub(super) fn assign(&mut self, slot: SlotName, assignment: Assignment) -> bool {
        if !self.slots.contains_key(&slot) && self.slots.len() >= MAX_SLOTS {
            return false;
        }
        self.raise_generation();
        self.slots.insert(slot, Assignment { since: self.generation, ..assignment });
        true
    }

    /// Empties `slot` and raises the generation.
    pub(super) fn unassign(&mut self, slot: &SlotName) {
        self.slots.remove(slot);
        self.raise_generation();
    }

    /// Above everything that was sent or that the device has accepted, even from a dispatcher since restored from a
    /// backup.
    fn raise_generation(&mut self) {
        self.generation = Generation(self.generation.max(self.accepted).max(self.floor).0.saturating_add(1));
    }

    /// Notes what the device says it accepted; true where that is beyond what was sent, and the generation was raised.
    pub(super) fn accept(&mut self, accepted: Generation) -> bool {
        self.accepted = accepted;
        let ahead = self.generation > Generation(0) && accepted > self.generation;
        if ahead {
            self.raise_generation();
        }
        ahead
    }

    /// Whether the device accepted other content under the number of its newest desired state: from another dispatcher,
    /// or from this one before it was restored from a backup. Then the generation was raised.
    pub(super) fn outbid(&mut self, report: &DeviceReport) -> bool {
        let refuses = report.refused.as_ref().is_some_and(|refused| refused.code == Code::Rollback);
        let same = |(slot, want): (&SlotName, &Assignment)| {
            let runs = |s: &SlotReport| {
                let desired = s.desired.as_ref().is_some_and(|d| d.digest == want.digest && d.target == want.target);
                s.slot == *slot && s.phase != Phase::Removed && desired && s.rollout == want.reference()
            };
            report.slots.iter().any(runs)
        };
        let wanted = |s: &SlotReport| s.phase == Phase::Removed || self.slots.contains_key(&s.slot);
        let agrees = self.slots.iter().all(same) && report.slots.iter().all(wanted);
        let outbid = refuses && report.generation == self.generation && !agrees;
        if outbid {
            self.raise_generation();
        }
        outbid
    }

    pub(super) fn freshness(&self, report: &DeviceReport) -> Freshness {
        match &self.report {
            None => Freshness::Newer,
            Some(last) if last.incarnation == report.incarnation && report.id > last.id => Freshness::Newer,
            Some(last) if last.incarnation == report.incarnation => Freshness::Known,
            Some(_) if self.past_incarnations.contains(&report.incarnation) => Freshness::PastIncarnation,
            Some(_) => Freshness::Newer,
        }
    }

    /// Takes over a newer report, cut to what is kept.
    pub(super) fn replace_report(&mut self, mut report: DeviceReport) {
        if let Some(last) = &self.report
            && last.incarnation != report.incarnation
        {
            self.past_incarnations.insert(0, last.incarnation);
            self.past_incarnations.truncate(MAX_PAST_INCARNATIONS);
        }
        report.slots.truncate(MAX_SLOTS);
        for slot in &mut report.slots {
            // JSON has no NaN: a record that holds one could not be read again.
            if let Some(probe) = &mut slot.probe
                && !probe.max_abs_error.is_finite()
            {
                probe.max_abs_error = f32::MAX;
            }
        }
        self.agent = report.agent.clone();
        self.report = Some(report);
    }
}

/// Invariant 12: healthy, with the wanted digest answering and no golden sample failed.
pub(super) fn proves(slot: &SlotReport, want: Digest) -> bool {
    slot.phase == Phase::Healthy
        && slot.active.as_ref().is_some_and(|active| active.digest == want)
        && slot.probe.as_ref().is_none_or(|probe| probe.passed == probe.samples)
}
