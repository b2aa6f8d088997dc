//! The invariants of design.md, section 2, as they can be seen at a device with the real core: 1 (only what was signed), 2
//! (something answers, and the record names it before it does), 3 (generations never go back), 6 (the same desired state
//! twice is once), 7 (no second try in one generation).

use std::collections::BTreeMap;

use muster_agent::core::Durable;
use muster_proto::id::{Digest, Generation};
use muster_proto::manifest::BundleManifest;
use muster_proto::report::Phase;

use super::bundles::{Bundles, slot};
use super::disk::Disk;

/// What was seen of a device.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    generation: Generation,
    failed: BTreeMap<Digest, Generation>,
    breaches: Vec<String>,
}

impl Watch {
    /// Keeps a breach.
    pub fn breach(&mut self, what: impl Into<String>) {
        self.breaches.push(what.into());
    }

    /// What did not hold since this was last asked.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.breaches)
    }

    /// A record was written.
    pub fn persisted(&mut self, durable: &Durable) {
        if durable.generation < self.generation {
            self.breach(format!("invariant 3: generation {} after {}", durable.generation, self.generation));
        }
        self.generation = durable.generation;
        let outcomes = durable.slots.values().filter_map(|record| record.outcome.as_ref());
        for outcome in outcomes.filter(|outcome| outcome.phase == Phase::Failed) {
            self.failed.insert(outcome.want.digest, durable.generation);
        }
    }

    /// A manifest is kept.
    pub fn kept(&mut self, digest: &Digest, bytes: &[u8], bundles: &Bundles) {
        if Digest::of(bytes) != *digest || !bundles.is_manifest(digest) {
            self.breach(format!("invariant 1: manifest {} is kept, which nobody signed", digest.short()));
        }
    }

    /// A chunk is written.
    pub fn wrote(&mut self, data: &[u8], bundles: &Bundles) {
        let is_part =
            |blob: &Vec<u8>| blob.chunks(muster_proto::transfer::MIN_CHUNK as usize).any(|chunk| chunk == data);
        if !bundles.blobs.values().any(is_part) {
            self.breach("invariant 1: bytes are written that are of no signed bundle");
        }
    }

    /// A version is loaded; `first` where it never answered before.
    pub fn loads(&mut self, digest: &Digest, manifest: &BundleManifest, first: bool, disk: &Disk, bundles: &Bundles) {
        let signed = bundles.all.iter().find(|bundle| bundle.digest == *digest);
        if signed.is_none_or(|bundle| bundle.manifest != *manifest) {
            self.breach(format!("invariant 1: {} is loaded, which nobody signed", digest.short()));
        }
        if let Some(file) = manifest.files.iter().find(|file| !disk.files.contains_key(&file.digest)) {
            self.breach(format!("invariant 1: a version is loaded whose {:?} is not whole", file.path));
        }
        if !first {
            return;
        }
        if self.failed.get(digest) == Some(&disk.durable.generation) {
            self.breach("invariant 7: a version that was written off is loaded again in the same generation");
        }
        let staging = disk.durable.slots.get(&slot()).and_then(|record| record.staging.as_ref());
        if staging.is_none_or(|attempt| attempt.digest != *digest) {
            self.breach("invariant 7: loading for the first time is not written down before");
        }
    }

    /// A version answers from now on.
    pub fn switches(&mut self, digest: &Digest, disk: &Disk) {
        let active = disk.durable.slots.get(&slot()).and_then(|record| record.active.as_ref());
        if active.is_none_or(|active| active.digest != *digest) {
            self.breach("invariant 2: a version answers that the record on the disk does not name");
        }
    }

    /// All that followed from an event is done; `answered` and `answers` tell whether anything did before and does now.
    pub fn done(&mut self, answered: bool, answers: bool, cleared: bool) {
        if answered && !answers && !cleared {
            self.breach("invariant 2: it had a working version, and nothing answers any more");
        }
    }

    /// The same desired state came twice.
    pub fn twice(&mut self, once: &Durable, twice: &Durable) {
        if once.slots != twice.slots || once.generation != twice.generation {
            self.breach("invariant 6: the same desired state again changed the record");
        }
    }
}
