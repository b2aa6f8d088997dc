//! A device's disk as the store uses it, and what a power cut leaves of it.
//!
//! It follows `muster_agent::store`: the index flushes every write but the removal of messages; a file gets its name
//! only when it is whole and synced; chunks of partial blobs are never synced.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_agent::core::Durable;
use muster_agent::core::durable::Stored;
use muster_agent::core::event::{Signed, Source};
use muster_agent::core::outbox::Entry;
use muster_proto::code::Code;
use muster_proto::id::Digest;
use muster_proto::manifest::{Blob, BundleManifest, File};
use muster_proto::report::Failure;
use muster_proto::transfer::chunk_len;
use muster_proto::wire;

use super::catalogue::apply_delta;
use super::rng::Rng;

/// What a write of the index needs to be free, in bytes.
const PAGE: u64 = 8 << 10;

/// A message of the outbox with its bytes.
#[derive(Debug, Clone)]
pub struct Message {
    /// What the index knows of it.
    pub entry: Entry,
    /// What is sent.
    pub payload: Vec<u8>,
}

/// A whole file, named by a digest.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// Whether the bytes still have the digest.
    pub sound: bool,
}

/// A blob on its way.
#[derive(Debug, Default)]
pub struct Partial {
    bytes: Vec<u8>,
    /// Offset and length of what a power cut may still damage.
    unsynced: Vec<(usize, usize)>,
}

/// The disk.
#[derive(Debug, Default)]
pub struct Disk {
    /// The durable record, as it was written.
    record: Option<Vec<u8>>,
    /// The same, decoded.
    durable: Option<Durable>,
    /// Signed metadata in the index.
    pub signed: BTreeMap<Signed, Vec<u8>>,
    /// The outbox.
    pub outbox: BTreeMap<u64, Message>,
    /// Messages whose removal has not been flushed, oldest removal first.
    removed: Vec<(u64, Message)>,
    /// The copies of signed metadata beside the index.
    pub copies: BTreeMap<Signed, Vec<u8>>,
    /// Verified manifests.
    pub manifests: BTreeMap<Digest, Arc<Vec<u8>>>,
    /// Whole files.
    pub files: BTreeMap<Digest, Whole>,
    /// Blobs on their way.
    pub partial: BTreeMap<Digest, Partial>,
    /// The disk's size in bytes.
    pub capacity: u64,
    /// Bytes that somebody else uses.
    pub hog: u64,
}

fn full(what: &str) -> Failure {
    Failure { code: Code::DiskFull, detail: format!("cannot write {what}: no space left on device") }
}

fn failed(what: &str) -> Failure {
    Failure { code: Code::StoreFailed, detail: format!("cannot open {what}: no such file") }
}

impl Disk {
    /// The durable record, as the next start would read it.
    pub fn durable(&self) -> Option<&Durable> {
        self.durable.as_ref()
    }

    /// Bytes that the agent takes.
    pub fn used(&self) -> u64 {
        let files = self.files.values().map(|f| f.bytes.len());
        let manifests = self.manifests.values().map(|m| m.len());
        let partial = self.partial.values().map(|p| p.bytes.len());
        let outbox = self.outbox.values().map(|m| m.payload.len());
        files.chain(manifests).chain(partial).chain(outbox).fold(0, |sum, n| sum + n as u64)
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.hog).saturating_sub(self.used())
    }

    /// Writes the durable record; false where there is no room.
    pub fn save(&mut self, durable: &Durable) -> bool {
        if self.free() < PAGE {
            return false;
        }
        self.record = Some(wire::encode(&Stored::V2(durable.clone())).expect("within the cap"));
        self.durable = Some(durable.clone());
        self.removed.clear();
        true
    }

    /// Reads the durable record as the next start does.
    pub fn load(&self) -> Option<Durable> {
        Some(wire::decode::<Stored>(self.record.as_ref()?).expect("as it was written").into_durable())
    }

    /// Keeps copies of the first `count` documents.
    pub fn keep_copies(&mut self, signed: &[(Signed, Option<Vec<u8>>)], count: usize) {
        if self.free() < PAGE {
            return;
        }
        for (what, bytes) in signed.iter().take(count) {
            replace(&mut self.copies, *what, bytes);
        }
    }

    /// Keeps documents in the index, all or none; false where there is no room.
    pub fn keep_signed(&mut self, signed: &[(Signed, Option<Vec<u8>>)]) -> bool {
        if self.free() < PAGE {
            return false;
        }
        for (what, bytes) in signed {
            replace(&mut self.signed, *what, bytes);
        }
        self.removed.clear();
        true
    }

    /// Keeps a manifest; false where there is no room.
    pub fn keep_manifest(&mut self, digest: Digest, bytes: &[u8]) -> bool {
        let room = self.free() >= bytes.len() as u64;
        if room {
            self.manifests.insert(digest, Arc::new(bytes.to_vec()));
        }
        room
    }

    /// The manifests that have their digests.
    pub fn sound_manifests(&self) -> BTreeMap<Digest, BundleManifest> {
        let read = |(digest, bytes): (&Digest, &Arc<Vec<u8>>)| {
            let sound = Digest::of(bytes) == *digest;
            Some((*digest, BundleManifest::parse(bytes).ok().filter(|_| sound)?))
        };
        self.manifests.iter().filter_map(read).collect()
    }

    /// Opens or creates a partial blob and tells which chunks are whole.
    pub fn open_blob(&mut self, blob: &Blob) -> Result<Vec<bool>, Failure> {
        if !self.partial.contains_key(&blob.digest) && self.free() == 0 {
            return Err(full("a partial blob"));
        }
        let partial = self.partial.entry(blob.digest).or_default();
        let whole = |index: usize| {
            let start = index * blob.chunk_size as usize;
            let length = chunk_len(blob.size, blob.chunk_size, index as u32) as usize;
            partial.bytes.get(start..start + length).is_some_and(|chunk| blob.accepts(index as u32, chunk))
        };
        Ok((0..blob.chunks.len()).map(whole).collect())
    }

    /// Writes a chunk. It is not synced.
    pub fn write_chunk(&mut self, blob: &Digest, offset: u64, data: &[u8]) -> Result<(), Failure> {
        let room = self.free();
        let partial = self.partial.get_mut(blob).ok_or_else(|| failed("a partial blob"))?;
        let end = offset as usize + data.len();
        if end.saturating_sub(partial.bytes.len()) as u64 > room {
            return Err(full("a chunk"));
        }
        if partial.bytes.len() < end {
            partial.bytes.resize(end, 0);
        }
        partial.bytes[offset as usize..end].copy_from_slice(data);
        partial.unsynced.push((offset as usize, data.len()));
        Ok(())
    }

    /// Makes a file out of its blob; it gets its name only where it has its digest.
    pub fn assemble(&mut self, file: &File, source: &Source) -> Result<(), Failure> {
        let blob = match source {
            Source::Full => file.blob.digest,
            Source::Delta { delta, .. } => *delta,
        };
        let room = self.free();
        let partial = self.partial.get(&blob).ok_or_else(|| failed("a partial blob"))?;
        let made = match source {
            Source::Full => Some(partial.bytes.clone()),
            Source::Delta { base, .. } => {
                let base = self.files.get(base).ok_or_else(|| failed("the base of a delta"))?;
                apply_delta(&base.bytes, &partial.bytes)
            }
        };
        let sound = |bytes: &Vec<u8>| bytes.len() as u64 == file.size && Digest::of(bytes) == file.digest;
        let Some(bytes) = made.filter(sound) else {
            let detail = format!("{} is not what its digest says", file.path);
            return Err(Failure { code: Code::DigestMismatch, detail });
        };
        if room < file.size {
            return Err(full("a file"));
        }
        self.files.insert(file.digest, Whole { bytes: Arc::new(bytes), sound: true });
        self.partial.remove(&blob);
        Ok(())
    }

    /// Checks a version's files as they are laid out before loading, and removes those that are damaged.
    pub fn lay_out(&mut self, manifest: &BundleManifest) -> Vec<Digest> {
        let digests = manifest.files.iter().map(|f| f.digest);
        let damaged: Vec<Digest> = digests.filter(|d| self.files.get(d).is_none_or(|f| !f.sound)).collect();
        for digest in &damaged {
            self.files.remove(digest);
        }
        damaged
    }

    /// Puts a message into the outbox; false where there is no room.
    pub fn put(&mut self, id: u64, message: Message) -> bool {
        let room = self.free() >= message.payload.len() as u64 + PAGE;
        if room {
            self.outbox.insert(id, message);
            self.removed.clear();
        }
        room
    }

    /// Removes messages, without flushing.
    pub fn remove(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(message) = self.outbox.remove(id) {
                self.removed.push((*id, message));
            }
        }
    }

    /// The power goes: what was not synced may be gone, torn, or back.
    pub fn lose_power(&mut self, rng: &mut Rng) {
        let kept = rng.below(self.removed.len() as u64 + 1) as usize;
        self.outbox.extend(self.removed.drain(kept..));
        self.removed.clear();
        for partial in self.partial.values_mut() {
            for (offset, length) in std::mem::take(&mut partial.unsynced) {
                match rng.below(6) {
                    0 => partial.bytes[offset..offset + length].fill(0),
                    1 => {
                        let torn = offset + rng.below(length as u64) as usize;
                        let garbage = rng.bytes(offset + length - torn);
                        partial.bytes[torn..offset + length].copy_from_slice(&garbage);
                    }
                    _ => {}
                }
            }
            if rng.chance(100) {
                let length = rng.below(partial.bytes.len() as u64 + 1) as usize;
                partial.bytes.truncate(length);
            }
        }
    }

    /// The index is lost altogether: record, signed metadata and outbox. What is beside it stays.
    pub fn lose_index(&mut self) {
        self.record = None;
        self.durable = None;
        self.signed.clear();
        self.outbox.clear();
        self.removed.clear();
    }

    /// One file or manifest silently goes bad. Returns which.
    pub fn rot(&mut self, rng: &mut Rng) -> Option<Digest> {
        let all: Vec<Digest> = self.files.keys().chain(self.manifests.keys()).copied().collect();
        if all.is_empty() {
            return None;
        }
        let digest = *rng.pick(&all);
        if let Some(file) = self.files.get_mut(&digest) {
            file.sound = false;
        }
        if let Some(manifest) = self.manifests.get_mut(&digest) {
            *manifest = Arc::new(b"{}".to_vec());
        }
        Some(digest)
    }
}

fn replace(map: &mut BTreeMap<Signed, Vec<u8>>, what: Signed, bytes: &Option<Vec<u8>>) {
    match bytes {
        Some(bytes) => drop(map.insert(what, bytes.clone())),
        None => drop(map.remove(&what)),
    }
}
