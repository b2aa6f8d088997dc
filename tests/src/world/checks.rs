//! The invariants of design.md, section 2, as they can be seen from outside of the cores. Each check names its number.

use std::collections::BTreeSet;

use muster_agent::core::durable::SlotRecord;
use muster_agent::core::event::Signed;
use muster_agent::core::outbox::Kind;
use muster_agent::core::{Durable, Effect, Event};
use muster_proto::desired::{Desired, DesiredState, SignedDesired, Window};
use muster_proto::id::{Digest, SlotName};
use muster_proto::manifest::BundleManifest;
use muster_proto::report::{DeviceReport, Phase, Report, SignedReport};
use muster_proto::transfer::{Fetch, Frame, Object, WINDOW};
use muster_proto::wire;

use super::World;
use super::catalogue::Catalogue;
use super::cloud::Outcome;
use super::device::{Device, essence};
use super::settle::standing;

/// What can be seen of a core and may not change for nothing.
#[derive(PartialEq)]
pub(super) struct Portrait {
    durable: Durable,
    report: DeviceReport,
}

/// One thing per line, and nothing that nobody reads.
impl std::fmt::Debug for Portrait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Durable { generation, time_floor, clean_stop, outbox_dropped, .. } = &self.durable;
        writeln!(f, "generation {generation}, time {time_floor}, clean {clean_stop}, dropped {outbox_dropped}")?;
        self.durable.slots.iter().try_for_each(|slot| writeln!(f, "  {slot:?}"))?;
        self.report.slots.iter().try_for_each(|slot| writeln!(f, "  {slot:?}"))?;
        writeln!(f, "  refused {:?}", self.report.refused)
    }
}

impl Portrait {
    /// Whether both show the same, but for the time and what the trace of a message leaves.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.durable.slots == other.durable.slots && standing(&self.report) == standing(&other.report)
    }
}

impl World {
    /// Everything that is checked when the driver has done all that followed from an event.
    pub(super) fn check_device(&self, i: usize) {
        let checks =
            [invariant_2_something_answers, invariant_12_what_is_claimed_answers, invariant_10_everything_is_bounded];
        for check in checks {
            if let Err(what) = check(&self.devices[i]) {
                self.breach(Some(i), &what);
            }
        }
        if let Err(what) = self.invariant_9_outcomes_wait_until_told(i) {
            self.breach(Some(i), &what);
        }
    }

    /// What is checked whenever the durable record, or what it names, may have changed.
    pub(super) fn check_record(&mut self, i: usize) {
        let device = &self.devices[i];
        let result = invariant_2_the_record_names_whole_versions(device).and(invariant_3_never_back(device));
        if let Err(what) = result {
            self.breach(Some(i), &what);
        }
        let device = &mut self.devices[i];
        let Some(durable) = device.disk.durable() else { return };
        device.witness.generation = durable.generation;
        for (slot, record) in &durable.slots {
            // What waits for its terms has been loaded well: only ends in a row count.
            if let Some(held) = record.held.as_ref().filter(|_| record.staging.is_none()) {
                device.witness.deaths_staging.retain(|(s, digest, _), _| s != slot || *digest != held.digest);
            }
            if let Some(outcome) = record.outcome.as_ref().filter(|o| o.phase == Phase::Failed) {
                device.witness.failed.insert((slot.clone(), outcome.want.digest), durable.generation);
            }
        }
    }

    /// Invariant 1: only what was signed is kept as a manifest.
    pub(super) fn check_manifest(&self, i: usize, digest: Digest, bytes: &[u8]) {
        if Digest::of(bytes) != digest {
            self.breach(Some(i), "invariant 1: a manifest is kept under another digest");
        }
        self.check_signed(i, digest);
    }

    /// Invariant 1: what is loaded is exactly what was signed.
    pub(super) fn check_bundle(&self, i: usize, digest: Digest, manifest: &BundleManifest) {
        self.check_signed(i, digest);
        if Catalogue::shared().by_digest(&digest).is_none_or(|bundle| bundle.manifest != *manifest) {
            self.breach(Some(i), "invariant 1: another manifest is loaded than was signed");
        }
    }

    /// Invariant 1: a publisher signed it, and the device has the metadata that say so.
    pub(super) fn check_signed(&self, i: usize, digest: Digest) {
        let catalogue = Catalogue::shared();
        let index = catalogue.bundles.iter().position(|bundle| bundle.digest == digest);
        if !index.is_some_and(|index| self.authority.has_target(index, self.cloud.registered)) {
            self.breach(Some(i), &format!("invariant 1: {} was signed by no publisher", digest.short()));
        }
        let disk = &self.devices[i].disk;
        let held = disk.signed.get(&Signed::Targets);
        let held = held.or(disk.copies.get(&Signed::Targets));
        let named = digest.to_string();
        let proof = held.is_some_and(|bytes| bytes.windows(named.len()).any(|w| w == named.as_bytes()));
        if !proof {
            self.breach(Some(i), &format!("invariant 1: the device cannot prove that {} was signed", digest.short()));
        }
    }

    /// Invariant 2: the switch is written down before it is made.
    pub(super) fn check_switch(&self, i: usize, slot: &SlotName, digest: Digest) {
        let record = self.devices[i].disk.durable().and_then(|d| d.slots.get(slot));
        if record.and_then(|r| r.active.as_ref()).is_none_or(|active| active.digest != digest) {
            self.breach(Some(i), "invariant 2: a version answers that the record on the disk does not name");
        }
    }

    /// Invariant 7: what was written off is not tried again in the same generation, and what kills is tried only so often.
    pub(super) fn check_staging(&mut self, i: usize, slot: &SlotName, digest: Digest, manifest: &BundleManifest) {
        self.check_bundle(i, digest, manifest);
        let device = &mut self.devices[i];
        device.witness.staging.insert((slot.clone(), digest));
        let device = &self.devices[i];
        let Some(durable) = device.disk.durable() else { self.breach(Some(i), "loads before it has a record") };
        let key = (slot.clone(), digest);
        if device.witness.failed.get(&key) == Some(&durable.generation) {
            self.breach(Some(i), "invariant 7: a version that was written off is loaded again in the same generation");
        }
        let key = (slot.clone(), digest, durable.generation);
        let deaths = device.witness.deaths_staging.get(&key).copied().unwrap_or(0);
        if deaths >= u32::from(device.traits.limits.max_unclean_ends) {
            self.breach(Some(i), &format!("invariant 7: a version is loaded again that has killed {deaths} times"));
        }
        let staging = durable.slots.get(slot).and_then(|r| r.staging.as_ref());
        if staging.is_none_or(|s| s.digest != digest) {
            self.breach(Some(i), "invariant 7: loading for the first time is not written down before");
        }
    }

    /// A switch that the terms of the desired state forbid. Devices without a clock may be wrong about windows.
    pub(super) fn check_terms(&self, i: usize, effects: &[Effect]) {
        let mut durable = None;
        for effect in effects {
            match effect {
                Effect::Persist(written) => durable = Some(written),
                Effect::Activate { slot, digest } => {
                    let desired = durable.and_then(|d| desired_of(&d.signed_desired));
                    let Some(want) = desired.as_ref().and_then(|d| d.slot(slot)).filter(|w| w.digest == *digest) else {
                        continue;
                    };
                    let wall_s = self.devices[i].now(self.now).wall_s;
                    let minutes =
                        |w: &Window| w.cron.split(',').next().and_then(|m| m.parse::<u64>().ok()).unwrap_or(0);
                    let closed = |w: &Window| (wall_s + 1800 - minutes(w) * 60) % 1800 >= u64::from(w.seconds);
                    let by_clock = wall_s < want.terms.not_before || want.terms.windows.iter().any(closed);
                    if want.terms.hold || (by_clock && !self.devices[i].traits.without_clock) {
                        self.breach(Some(i), &format!("terms: at {wall_s} it switches to what is bound by {want:?}"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Invariant 9: outcomes are sent before telemetry. Invariant 10: requests are within their bounds.
    pub(super) fn check_effects(&self, i: usize, effects: &[Effect]) {
        let mut telemetry = false;
        for effect in effects {
            match effect {
                Effect::Send { kind: Kind::Telemetry, .. } => telemetry = true,
                Effect::Send { kind: Kind::Outcome, .. } if telemetry => {
                    self.breach(Some(i), "invariant 9: telemetry was sent before an outcome");
                }
                Effect::Request(Fetch::ChunksV1 { indices, .. }) if indices.is_empty() || indices.len() > WINDOW => {
                    self.breach(Some(i), &format!("invariant 10: a request for {} chunks", indices.len()));
                }
                _ => {}
            }
        }
    }

    /// Invariant 9: the outcome of an update is in the outbox until the dispatcher has stored it.
    fn invariant_9_outcomes_wait_until_told(&self, i: usize) -> Result<(), String> {
        let device = &self.devices[i];
        let Some(durable) = device.disk.durable() else { return Ok(()) };
        // Nothing can be proved until everything is loaded.
        if device.process.as_ref().is_some_and(|process| !process.loading().is_empty()) {
            return Ok(());
        }
        for (slot, record) in &durable.slots {
            let Some(outcome) = &record.outcome else { continue };
            if !matches!(outcome.phase, Phase::Healthy | Phase::Failed | Phase::Removed) {
                continue;
            }
            let want = &outcome.want;
            let owed: Outcome = (slot.clone(), want.rollout.clone(), want.digest, outcome.phase);
            let told = self.cloud.told.get(&device.id).is_some_and(|told| told.contains(&owed));
            let waits = || device.disk.outbox.values().any(|m| says(&m.payload, &owed));
            if !told && !waits() {
                return Err(format!("invariant 9: nobody will be told of {owed:?}"));
            }
        }
        Ok(())
    }

    /// Whether this event is given to the core a second time (invariant 6). Only what can come twice: messages, and
    /// results of work that may have been done twice.
    pub(super) fn is_repeated(&mut self, event: &Event) -> bool {
        // A manifest that came damaged may have been asked for by another slot meanwhile, and then it is news again.
        if let Event::FrameArrived(Frame::ChunkV1 { object: Object::Blob(digest), data, .. }) = event
            && Catalogue::shared().by_digest(digest).is_some_and(|bundle| *bundle.bytes != *data)
        {
            return false;
        }
        let repeatable = matches!(
            event,
            Event::DesiredArrived(_)
                | Event::FrameArrived(_)
                | Event::Acknowledged(_)
                | Event::BlobOpened { .. }
                | Event::FileAssembled { .. }
                | Event::ModelStaged { .. }
                | Event::ModelLoaded { .. }
                | Event::Activated { .. }
        );
        repeatable && self.rng.chance(self.setup.repeated)
    }

    /// Whether this event is a desired state that is no newer than the accepted one (invariant 3).
    pub(super) fn is_outdated(&self, i: usize, event: &Event) -> bool {
        let Event::DesiredArrived(bytes) = event else { return false };
        let Some(desired) = desired_of(bytes) else { return false };
        let device = &self.devices[i];
        let Some(durable) = device.process.as_ref().map(|p| p.state.durable()) else { return false };
        // A device without a clock learns from what is signed anew what time it is, and that may open a window.
        let brings_time = desired.generation == durable.generation && desired.issued_at > durable.time_floor;
        desired.generation <= durable.generation && !(self.setup.terms && device.traits.without_clock && brings_time)
    }

    /// What can be seen of a core.
    pub(super) fn portrait(&self, i: usize) -> Portrait {
        let process = self.devices[i].process.as_ref().expect("the process runs");
        let now = self.devices[i].now(self.now);
        let report = DeviceReport { id: 0, ..process.state.describe(now) };
        Portrait { durable: essence(process.state.durable()), report }
    }

    /// Invariant 3: an older or repeated desired state changes nothing but what is said of it.
    pub(super) fn check_outdated_changed_nothing(&self, i: usize, before: Portrait) {
        let mut after = self.portrait(i);
        after.report.refused = before.report.refused.clone();
        if before != after {
            self.breach(Some(i), &format!("invariant 3: an outdated desired state changed {before:?} to {after:?}"));
        }
    }

    /// Invariant 6: the same event twice leaves the same state.
    pub(super) fn check_twice_is_once(&self, i: usize, once: Portrait) {
        let twice = self.portrait(i);
        if once != twice {
            self.breach(Some(i), &format!("invariant 6: the same event again changed {once:?} to {twice:?}"));
        }
    }

    /// Before a start, and where files turn out to be bad in the middle of one: where nothing on the disk can answer any more, nothing has to.
    pub(super) fn witness_start(&mut self, i: usize) {
        let device = &mut self.devices[i];
        let Some(durable) = device.disk.durable() else { return };
        let max = device.traits.limits.max_unclean_ends;
        let can_answer = |slot: &SlotName| {
            let Some(record) = durable.slots.get(slot) else { return false };
            let loading = durable.slots.values().any(|record| record.staging.is_some());
            let ends = u8::from(!durable.clean_stop && !loading);
            let killer = record.trial.as_ref().is_some_and(|t| t.unclean_ends.saturating_add(ends) >= max);
            let active = record.active.as_ref().filter(|_| !killer);
            active.into_iter().chain(&record.previous).any(|version| is_whole(device, &version.digest))
        };
        let answered: BTreeSet<SlotName> = device.witness.answered.iter().filter(|s| can_answer(s)).cloned().collect();
        device.witness.answered = answered;
    }

    /// Before a start without the index: what answered has to answer again, or another version of its model.
    pub(super) fn witness_lost_index(&mut self, i: usize) {
        let device = &mut self.devices[i];
        let whole = |record: &SlotRecord| record.active.as_ref().is_some_and(|a| is_whole(device, &a.digest));
        let durable = device.disk.durable();
        let desired = device.disk.copies.get(&Signed::Desired).and_then(|bytes| desired_of(bytes));
        // Nothing but the desired state tells which model a slot is for.
        let same_model = |slot: &SlotName, record: &SlotRecord| {
            let model = |target: &str| target.split('/').next().map(str::to_owned);
            let wanted = desired.as_ref().and_then(|d| d.slot(slot)).and_then(|want| model(&want.target));
            record.active.as_ref().is_some_and(|active| model(&active.target) == wanted)
        };
        let keeps = |slot: &SlotName| {
            durable.and_then(|d| d.slots.get(slot)).is_some_and(|record| whole(record) && same_model(slot, record))
        };
        let answered: BTreeSet<SlotName> = device.witness.answered.iter().filter(|s| keeps(s)).cloned().collect();
        device.witness.answered = answered;
        device.witness.lost_index();
    }
}

/// Whether manifest and files of a version are on the disk and unharmed.
fn is_whole(device: &Device, digest: &Digest) -> bool {
    let Some(bundle) = Catalogue::shared().by_digest(digest) else { return false };
    let sound = |file: &muster_proto::manifest::File| device.disk.files.get(&file.digest).is_some_and(|f| f.sound);
    let manifest = device.disk.manifests.contains_key(digest) && !device.witness.damaged.contains(digest);
    manifest && bundle.manifest.files.iter().all(sound)
}

/// Whether a part of a version went bad through no fault of the agent.
fn is_excused(device: &Device, digest: &Digest) -> bool {
    let damaged = &device.witness.damaged;
    let bundle = Catalogue::shared().by_digest(digest);
    damaged.contains(digest) || bundle.is_some_and(|b| b.manifest.files.iter().any(|f| damaged.contains(&f.digest)))
}

fn desired_of(bytes: &[u8]) -> Option<Desired> {
    let SignedDesired::V1 { payload, .. } = wire::decode(bytes).ok()?;
    let desired = wire::decode::<DesiredState>(&payload).ok()?.into_desired();
    Some(desired)
}

fn says(payload: &[u8], owed: &Outcome) -> bool {
    let Ok(SignedReport::V1 { payload, .. }) = wire::decode::<SignedReport>(payload) else { return false };
    let Ok(Report::V1(report)) = wire::decode::<Report>(&payload) else { return false };
    let (slot, rollout, digest, phase) = owed;
    report.slots.iter().any(|s| {
        let desired = s.desired.as_ref().map(|d| d.digest);
        let proved = *phase != Phase::Healthy || s.active.as_ref().map(|a| a.digest) == desired;
        s.slot == *slot && s.rollout == *rollout && desired == Some(*digest) && s.phase == *phase && proved
    })
}

/// Where something has answered, something answers, once the start is over.
fn invariant_2_something_answers(device: &Device) -> Result<(), String> {
    let Some(process) = &device.process else { return Ok(()) };
    for slot in &device.witness.answered {
        if !process.engine.answers.contains_key(slot) && !process.loading().contains(slot) {
            return Err(format!("invariant 2: nothing answers in slot {slot} any more"));
        }
    }
    Ok(())
}

/// At any instant the record on the disk names versions that are whole: the active one, and the one to go back to.
fn invariant_2_the_record_names_whole_versions(device: &Device) -> Result<(), String> {
    let Some(durable) = device.disk.durable() else { return Ok(()) };
    for (slot, record) in &durable.slots {
        for version in record.active.iter().chain(&record.previous) {
            if !is_whole(device, &version.digest) && !is_excused(device, &version.digest) {
                let target = &version.target;
                return Err(format!("invariant 2: slot {slot} names {target}, which is not whole on the disk"));
            }
        }
    }
    Ok(())
}

/// The accepted generation on the disk only grows.
fn invariant_3_never_back(device: &Device) -> Result<(), String> {
    let now = device.disk.durable().map(|d| d.generation);
    match now.filter(|now| *now < device.witness.generation) {
        Some(now) => Err(format!("invariant 3: from generation {} back to {now}", device.witness.generation)),
        None => Ok(()),
    }
}

/// The outbox keeps its bounds, and what it drops is counted.
fn invariant_10_everything_is_bounded(device: &Device) -> Result<(), String> {
    let Some(process) = &device.process else { return Ok(()) };
    let bounds = device.traits.limits.outbox;
    let (count, bytes) = process.state.outbox_size();
    if count > bounds.count || bytes > bounds.bytes {
        return Err(format!("invariant 10: {count} messages of {bytes} bytes in the outbox"));
    }
    let stored: u64 = device.disk.outbox.values().map(|m| m.payload.len() as u64).sum();
    if device.disk.outbox.len() > bounds.count || stored > bounds.bytes {
        return Err(format!("invariant 10: {} messages of {stored} bytes on the disk", device.disk.outbox.len()));
    }
    let counted = process.state.durable().outbox_dropped;
    let dropped = device.witness.dropped + device.witness.unstored;
    if counted < dropped {
        return Err(format!("invariant 10: {dropped} messages dropped, {counted} counted"));
    }
    Ok(())
}

/// What the core says to answer is what the engine answers with.
fn invariant_12_what_is_claimed_answers(device: &Device) -> Result<(), String> {
    let Some(process) = &device.process else { return Ok(()) };
    if *process.state.answering() != process.engine.answers {
        let (said, real) = (process.state.answering(), &process.engine.answers);
        return Err(format!("invariant 12: {said:?} is said to answer, {real:?} does"));
    }
    Ok(())
}
