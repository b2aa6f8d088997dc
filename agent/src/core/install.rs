//! From a queued update to files on the disk: agree, manifest, room, then file after file.

use muster_proto::code::Code;
use muster_proto::id::{Digest, SlotName};
use muster_proto::manifest::{BundleManifest, File};
use muster_proto::report::Failure;
use muster_proto::transfer::{Delta, Fetch, MAX_CHUNK, MAX_DELTA_CHUNKS, MIN_CHUNK, Object, chunk_count};
use muster_proto::trust;

use super::Now;
use super::event::{Effect, Source};
use super::fetch::{Arrival, Download, Gather, Gathered};
use super::report::clip;
use super::state::{FileJob, FileStep, Stage, State};

/// A delta that is not offered within this time is done without.
const DELTA_TIMEOUT_MS: u64 = 20_000;
/// A file whose blob is smaller than this is not worth asking for a delta.
const MIN_DELTA_BLOB: u64 = 8 * 1024;
/// How many held files are named when asking for a delta.
const MAX_HELD: usize = 16;

impl State {
    /// Gives the one working place to the first update that may go on.
    pub(super) fn schedule(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if self.walk.is_pending() && self.walk.failure.is_none() && self.online {
            return;
        }
        while !self.jobs.values().any(|j| j.is_working()) {
            let ready = |stage: &Stage, not_before: u64| matches!(stage, Stage::Queued) && not_before <= now.mono_ms;
            let next = self.jobs.iter().find(|(_, j)| ready(&j.stage, j.not_before)).map(|(s, _)| s.clone());
            let Some(slot) = next else { return };
            self.begin(&slot, now, fx);
        }
    }

    /// Starts with what director and model repository agree upon (invariant 1).
    fn begin(&mut self, slot: &SlotName, now: Now, fx: &mut Vec<Effect>) {
        let Some(desired) = &self.desired else { return self.retry_later(slot, no_desired(), now) };
        let agreed = trust::agree(&self.repository, desired, slot);
        let refused = self.jobs.get(slot).and_then(|job| self.refuses(&job.want));
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let digest = job.want.digest;
        if let Some(failure) = refused {
            return self.end_failed(slot, digest, failure, now, fx);
        }
        match agreed {
            Ok(_) if self.manifests.contains_key(&digest) => {
                job.stage = Stage::Room { swept: false };
                fx.push(Effect::MeasureRoom);
            }
            Ok(target) => {
                let gather = Gather::new(Object::Blob(digest), target.length, now.mono_ms);
                job.stage = Stage::Manifest { gather, target: Box::new(target) };
                self.report_due = true;
                self.advance_jobs(now, fx);
            }
            Err(error) => {
                let failure = Failure { code: error.code(), detail: clip(&error.to_string()) };
                match error.code() {
                    // The repository may have been updated since: look again, later and later.
                    Code::NotFound | Code::MetadataInvalid | Code::MetadataExpired => {
                        self.retry_later(slot, failure, now);
                        self.want_walk();
                    }
                    _ => self.end_failed(slot, digest, failure, now, fx),
                }
            }
        }
    }

    fn slot_where(&self, test: impl Fn(&Stage) -> bool) -> Option<SlotName> {
        self.jobs.iter().find(|(_, j)| test(&j.stage)).map(|(s, _)| s.clone())
    }

    fn file_job(&mut self, test: impl Fn(&FileJob) -> bool) -> Option<(SlotName, &mut FileJob)> {
        self.jobs.iter_mut().find_map(|(slot, job)| match &mut job.stage {
            Stage::Files(file) if test(file) => Some((slot.clone(), file.as_mut())),
            _ => None,
        })
    }

    /// A chunk that belongs to a manifest or a file.
    pub(super) fn install_chunk(
        &mut self,
        object: &Object,
        (chunk_size, index, total): (u32, u32, u64),
        data: Vec<u8>,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        let is_manifest = |s: &Stage| matches!(s, Stage::Manifest { gather, .. } if gather.object() == object);
        if let Some(slot) = self.slot_where(is_manifest) {
            let Some(job) = self.jobs.get_mut(&slot) else { return };
            let Stage::Manifest { gather, target } = &mut job.stage else { return };
            match gather.arrived(object, chunk_size, index, total, &data) {
                Gathered::Ignored | Gathered::More => {}
                Gathered::TooLarge { total } => {
                    let detail = format!("the manifest claims {total} bytes, {} are signed", target.length);
                    self.retry_later(&slot, Failure { code: Code::TooLarge, detail }, now);
                }
                Gathered::Whole(bytes) => {
                    let verified = trust::verify_manifest(target, &bytes);
                    job.transfer.fetched += bytes.len() as u64;
                    self.manifest_arrived(&slot, verified, bytes, now, fx);
                }
            }
            return;
        }
        let Object::Blob(digest) = *object else { return };
        self.file_chunk(digest, chunk_size, index, data, now, fx);
    }

    fn manifest_arrived(
        &mut self,
        slot: &SlotName,
        verified: Result<trust::Verified<BundleManifest>, trust::Error>,
        bytes: Vec<u8>,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let digest = job.want.digest;
        match verified {
            Ok(manifest) => {
                fx.push(Effect::KeepManifest { digest, bytes });
                let manifest = manifest.into_inner();
                let held = manifest.files.iter().filter(|f| self.files.contains_key(&f.digest));
                job.transfer.saved = held.map(|f| f.blob.size).sum();
                self.manifests.insert(digest, manifest);
                job.stage = Stage::Room { swept: false };
                fx.push(Effect::MeasureRoom);
            }
            Err(error) => {
                let failure = Failure { code: error.code(), detail: clip(&error.to_string()) };
                match error.code() {
                    Code::DigestMismatch => self.retry_later(slot, failure, now),
                    _ => self.end_failed(slot, digest, failure, now, fx),
                }
            }
        }
    }

    /// The pre-flight: may this version come here, and is there room?
    pub(super) fn room_measured(&mut self, disk_free: u64, memory_available: u64, now: Now, fx: &mut Vec<Effect>) {
        let Some(slot) = self.slot_where(|s| matches!(s, Stage::Room { .. })) else { return };
        let Some(job) = self.jobs.get_mut(&slot) else { return };
        let Stage::Room { swept } = job.stage else { return };
        let digest = job.want.digest;
        let Some(manifest) = self.manifests.get(&digest) else { return };
        if let Some(failure) = self.unfit(manifest) {
            return self.end_failed(&slot, digest, failure, now, fx);
        }
        let missing = || manifest.files.iter().filter(|f| !self.files.contains_key(&f.digest));
        let blob = missing().map(|f| f.blob.size).max().unwrap_or(0);
        let need = missing().fold(blob, |sum, f| sum.saturating_add(f.size));
        let enough = need == 0 || disk_free >= need.saturating_add(self.limits.disk_headroom);
        let memory = manifest.measured.memory_bytes.max(manifest.requires.memory_bytes);
        if !enough && !swept {
            if let Some(job) = self.jobs.get_mut(&slot) {
                job.stage = Stage::Room { swept: true };
            }
            let dropped = self.outbox.shed(16);
            self.count_dropped(dropped, fx);
            self.collect(0, fx);
            fx.push(Effect::MeasureRoom);
        } else if !enough {
            let headroom = self.limits.disk_headroom;
            let detail = format!("needs {need} bytes and {headroom} of headroom, {disk_free} are free");
            self.retry_later(&slot, Failure { code: Code::DiskFull, detail }, now);
        } else if memory_available > 0 && memory > memory_available {
            let detail = format!("needs {memory} bytes of memory, {memory_available} are available");
            self.retry_later(&slot, Failure { code: Code::MemoryShort, detail }, now);
        } else {
            self.next_file(&slot, now, fx);
        }
    }

    /// Why this version can never run here.
    fn unfit(&self, manifest: &BundleManifest) -> Option<Failure> {
        let total = manifest.total_size();
        if total > self.limits.max_bundle {
            let detail = format!("the bundle has {total} bytes, {} are allowed here", self.limits.max_bundle);
            return Some(Failure { code: Code::TooLarge, detail });
        }
        let arch = &manifest.requires.arch;
        if !arch.is_empty() && !arch.contains(&self.agent.arch) {
            let detail = format!("made for {}, this is {}", arch.join(" or "), self.agent.arch);
            return Some(Failure { code: Code::Incompatible, detail });
        }
        if self.agent.engine.split(' ').next() != Some(manifest.engine.name.as_str()) {
            let detail = format!("made for engine {:?}, this is {:?}", manifest.engine.name, self.agent.engine);
            return Some(Failure { code: Code::Incompatible, detail });
        }
        None
    }

    /// Takes up the next file that is not here, or stages the version where all are.
    fn next_file(&mut self, slot: &SlotName, now: Now, fx: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let Some(manifest) = self.manifests.get(&job.want.digest) else { return };
        let Some(file) = manifest.files.iter().find(|f| !self.files.contains_key(&f.digest)).cloned() else {
            return self.stage(slot, fx);
        };
        let held = held_for(&file, manifest, self.manifests.values(), |d| self.files.contains_key(d));
        let step = if held.is_empty() || file.blob.size < MIN_DELTA_BLOB || !self.online {
            fx.push(Effect::OpenBlob(Box::new(file.blob.clone())));
            FileStep::Opening { delta: None }
        } else {
            fx.push(Effect::Request(Fetch::DeltaV1 { want: file.digest, held: held.clone() }));
            FileStep::AskedDelta { held, since_ms: now.mono_ms }
        };
        job.stage = Stage::Files(Box::new(FileJob { file, step }));
    }

    /// The answer to the question for a delta. One that is not sound is done without.
    pub(super) fn delta_offered(&mut self, want: Digest, offer: Option<Delta>, now: Now, fx: &mut Vec<Effect>) {
        let asked = |f: &FileJob| f.file.digest == want && matches!(f.step, FileStep::AskedDelta { .. });
        let held: Vec<Digest> = self.files.keys().copied().collect();
        let Some((_, job)) = self.file_job(asked) else { return };
        let sound = |d: &Delta| {
            held.contains(&d.base)
                && d.size < job.file.blob.size
                && (MIN_CHUNK..=MAX_CHUNK).contains(&d.chunk_size)
                && d.chunks.len() <= MAX_DELTA_CHUNKS
                && chunk_count(d.size, d.chunk_size) == d.chunks.len() as u64
        };
        let delta = offer.filter(sound).map(Box::new);
        open(job, delta, fx);
        self.advance_jobs(now, fx);
    }

    pub(super) fn blob_opened(
        &mut self,
        digest: Digest,
        have: Result<Vec<bool>, Failure>,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        let opening = |f: &FileJob| matches!(&f.step, FileStep::Opening { delta } if blob_digest(f, delta) == digest);
        let Some((slot, job)) = self.file_job(opening) else { return };
        let have = match have {
            Ok(have) => have,
            Err(failure) => return self.retry_later(&slot, failure, now),
        };
        let FileStep::Opening { delta } = &mut job.step else { return };
        let delta = delta.take();
        let blob = delta.as_deref().map_or_else(|| job.file.blob.clone(), delta_blob);
        let resumed = have.iter().any(|h| *h);
        let download = Box::new(Download::new(blob, have, now.mono_ms));
        job.step = FileStep::Chunks { delta, download };
        if let Some(job) = self.jobs.get_mut(&slot) {
            job.transfer.resumed += u32::from(resumed);
        }
        fx.push(Effect::Join(digest));
        self.finish_if_complete(&slot, fx);
        self.advance_jobs(now, fx);
    }

    fn file_chunk(
        &mut self,
        digest: Digest,
        chunk_size: u32,
        index: u32,
        data: Vec<u8>,
        now: Now,
        fx: &mut Vec<Effect>,
    ) {
        let on_its_way = |f: &FileJob| {
            matches!(&f.step, FileStep::Chunks { download, .. }
                if download.blob().digest == digest && download.blob().chunk_size == chunk_size)
        };
        let Some((slot, job)) = self.file_job(on_its_way) else { return };
        let FileStep::Chunks { download, .. } = &mut job.step else { return };
        match download.arrived(index, &data, now.mono_ms) {
            Arrival::Duplicate => {}
            Arrival::Accepted => {
                let offset = u64::from(index) * u64::from(chunk_size);
                if let Some(job) = self.jobs.get_mut(&slot) {
                    job.transfer.fetched += data.len() as u64;
                    job.transfer.chunks += 1;
                    // What kept it waiting is over.
                    self.report_due |= job.failure.take().is_some();
                }
                fx.push(Effect::WriteChunk { digest, offset, data });
                self.finish_if_complete(&slot, fx);
            }
            Arrival::Bad if download.is_poisoned() => {
                let detail = format!("chunks of blob {} do not have their signed digests", digest.short());
                self.give_up_blob(&slot, Failure { code: Code::DigestMismatch, detail }, now, fx);
            }
            Arrival::Bad => {}
        }
    }

    fn finish_if_complete(&mut self, slot: &SlotName, fx: &mut Vec<Effect>) {
        let Some(Stage::Files(job)) = self.jobs.get_mut(slot).map(|j| &mut j.stage) else { return };
        let FileStep::Chunks { delta, download } = &mut job.step else { return };
        if !download.is_complete() {
            return;
        }
        fx.push(Effect::Leave(download.blob().digest));
        let delta = delta.take();
        let source = delta.as_ref().map_or(Source::Full, |d| Source::Delta { base: d.base, delta: d.digest });
        fx.push(Effect::Assemble { file: Box::new(job.file.clone()), source });
        job.step = FileStep::Assembling { delta };
    }

    /// A transfer that leads nowhere: a delta gives way to the full file, a full file waits.
    fn give_up_blob(&mut self, slot: &SlotName, failure: Failure, now: Now, fx: &mut Vec<Effect>) {
        let Some(Stage::Files(job)) = self.jobs.get_mut(slot).map(|j| &mut j.stage) else { return };
        let delta = match &mut job.step {
            FileStep::Chunks { delta, download } => {
                fx.push(Effect::Leave(download.blob().digest));
                delta.take()
            }
            FileStep::Assembling { delta } | FileStep::Opening { delta } => delta.take(),
            FileStep::AskedDelta { .. } => None,
        };
        match delta {
            Some(delta) => {
                fx.push(Effect::DropBlob(delta.digest));
                open(job, None, fx);
            }
            None => {
                if failure.code == Code::DigestMismatch {
                    fx.push(Effect::DropBlob(job.file.blob.digest));
                }
                self.retry_later(slot, failure, now);
            }
        }
    }

    pub(super) fn file_assembled(&mut self, file: Digest, result: Result<(), Failure>, now: Now, fx: &mut Vec<Effect>) {
        let assembling = |f: &FileJob| f.file.digest == file && matches!(f.step, FileStep::Assembling { .. });
        let Some((slot, job)) = self.file_job(assembling) else {
            // The update was replaced meanwhile; the file is good all the same.
            let known = self.manifests.values().flat_map(|m| &m.files).find(|f| f.digest == file).map(|f| f.size);
            if let (Ok(()), Some(size)) = (result, known) {
                self.files.insert(file, size);
            }
            return;
        };
        match result {
            Ok(()) => {
                let FileStep::Assembling { delta } = &job.step else { return };
                let saved = delta.as_ref().map_or(0, |d| job.file.blob.size.saturating_sub(d.size));
                let size = job.file.size;
                self.files.insert(file, size);
                if let Some(job) = self.jobs.get_mut(&slot) {
                    job.transfer.saved += saved;
                }
                self.next_file(&slot, now, fx);
            }
            Err(failure) => self.give_up_blob(&slot, failure, now, fx),
        }
    }

    pub(super) fn write_failed(&mut self, digest: Digest, failure: Failure, now: Now, fx: &mut Vec<Effect>) {
        let writing = |f: &FileJob| {
            matches!(&f.step, FileStep::Chunks { download, .. } if download.blob().digest == digest)
                || matches!(&f.step, FileStep::Assembling { delta } if blob_digest(f, delta) == digest)
        };
        if let Some((slot, _)) = self.file_job(writing) {
            fx.push(Effect::Leave(digest));
            self.retry_later(&slot, failure, now);
        }
    }

    /// The dispatcher does not have this blob.
    pub(super) fn install_missing(&mut self, object: &Object, code: Code, now: Now, fx: &mut Vec<Effect>) {
        let is_manifest = |s: &Stage| matches!(s, Stage::Manifest { gather, .. } if gather.object() == object);
        let detail = format!("the dispatcher does not have {object:?}");
        if let Some(slot) = self.slot_where(is_manifest) {
            return self.retry_later(&slot, Failure { code, detail }, now);
        }
        let wanted = |f: &FileJob| matches!(&f.step, FileStep::Chunks { download, .. } if Object::Blob(download.blob().digest) == *object);
        if let Some((slot, _)) = self.file_job(wanted) {
            self.give_up_blob(&slot, Failure { code, detail }, now, fx);
        }
    }

    /// Asks for what is due and gives up what takes too long.
    pub(super) fn advance_jobs(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if !self.online {
            return;
        }
        let mut stalled = None;
        for (slot, job) in &mut self.jobs {
            match &mut job.stage {
                Stage::Manifest { gather, .. } if gather.is_stalled(now.mono_ms) => stalled = Some(slot.clone()),
                Stage::Manifest { gather, .. } => fx.extend(gather.request(now.mono_ms).map(Effect::Request)),
                Stage::Files(file) => match &mut file.step {
                    FileStep::AskedDelta { since_ms, .. }
                        if now.mono_ms.saturating_sub(*since_ms) > DELTA_TIMEOUT_MS =>
                    {
                        open(file, None, fx);
                    }
                    FileStep::Chunks { download, .. } if download.is_stalled(now.mono_ms) => {
                        stalled = Some(slot.clone());
                    }
                    FileStep::Chunks { download, .. } => {
                        fx.extend(download.request(now.mono_ms).map(Effect::Request));
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        if let Some(slot) = stalled {
            let failure = Failure { code: Code::TransferStalled, detail: "nothing arrived for five minutes".into() };
            match self.jobs.get(&slot).map(|j| &j.stage) {
                Some(Stage::Files(_)) => self.give_up_blob(&slot, failure, now, fx),
                _ => self.retry_later(&slot, failure, now),
            }
        }
    }

    /// The connection is back: what was asked for is lost, what arrived is not.
    pub(super) fn jobs_regained_link(&mut self, now: Now, fx: &mut Vec<Effect>) {
        for job in self.jobs.values_mut() {
            match &mut job.stage {
                Stage::Manifest { gather, .. } => gather.forget_in_flight(),
                Stage::Files(file) => match &mut file.step {
                    FileStep::AskedDelta { held, since_ms } => {
                        *since_ms = now.mono_ms;
                        let (want, held) = (file.file.digest, held.clone());
                        fx.push(Effect::Request(Fetch::DeltaV1 { want, held }));
                    }
                    FileStep::Chunks { download, .. } => {
                        job.transfer.resumed += u32::from(download.has_some());
                        // The broker may have lost the session, and with it the subscription.
                        fx.push(Effect::Join(download.blob().digest));
                        download.forget_in_flight(now.mono_ms);
                    }
                    _ => {}
                },
                // Nobody should wait out a pause that a lost connection caused.
                Stage::Queued => job.not_before = job.not_before.min(now.mono_ms + 1_000),
                _ => {}
            }
        }
    }
}

fn no_desired() -> Failure {
    Failure { code: Code::NotFound, detail: "there is no desired state".into() }
}

/// Opens the blob of a delta, or of the full file.
fn open(job: &mut FileJob, delta: Option<Box<Delta>>, fx: &mut Vec<Effect>) {
    let blob = delta.as_deref().map_or_else(|| job.file.blob.clone(), delta_blob);
    fx.push(Effect::OpenBlob(Box::new(blob)));
    job.step = FileStep::Opening { delta };
}

fn blob_digest(job: &FileJob, delta: &Option<Box<Delta>>) -> Digest {
    delta.as_ref().map_or(job.file.blob.digest, |d| d.digest)
}

fn delta_blob(delta: &Delta) -> muster_proto::manifest::Blob {
    muster_proto::manifest::Blob {
        codec: muster_proto::manifest::Codec::Zstd,
        size: delta.size,
        digest: delta.digest,
        chunk_size: delta.chunk_size,
        chunks: delta.chunks.clone(),
    }
}

/// Held files that may serve as a base: the same path in versions of the same model first, newest first.
fn held_for<'a>(
    file: &File,
    manifest: &BundleManifest,
    all: impl Iterator<Item = &'a BundleManifest>,
    is_held: impl Fn(&Digest) -> bool,
) -> Vec<Digest> {
    let mut others: Vec<&BundleManifest> = all.filter(|m| m.model == manifest.model).collect();
    others.sort_by_key(|m| std::cmp::Reverse(m.version));
    let mut held: Vec<Digest> = Vec::new();
    for same_path in [true, false] {
        for other in &others {
            let fits = |f: &&File| (f.path == file.path) == same_path && f.size >= 1024 && is_held(&f.digest);
            held.extend(other.files.iter().filter(fits).map(|f| f.digest));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    held.retain(|d| seen.insert(*d));
    held.truncate(MAX_HELD);
    held
}
