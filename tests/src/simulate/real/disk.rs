//! What survives a power cut on a device with the real core.

use std::collections::BTreeMap;

use muster_agent::core::Durable;
use muster_agent::core::durable::SlotRecord;
use muster_agent::core::event::Signed;
use muster_agent::core::outbox::Entry;
use muster_agent::core::state::OnDisk;
use muster_proto::id::Digest;
use muster_proto::manifest::BundleManifest;
use muster_proto::report::ModelRef;
use muster_proto::trust::{self, Director, Repository};

use super::bundles::{self, Bundles};

/// A disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The newest durable record.
    pub durable: Durable,
    /// Signed metadata.
    pub signed: BTreeMap<Signed, Vec<u8>>,
    /// Manifests that were verified.
    pub manifests: BTreeMap<Digest, BundleManifest>,
    /// Whole files, with their sizes.
    pub files: BTreeMap<Digest, u64>,
    /// The outbox: each message with the generation that it is about.
    pub outbox: BTreeMap<u64, (Entry, u64)>,
}

impl Disk {
    /// Of a device that has only ever run `version`, or nothing.
    pub fn with(version: u8, bundles: &Bundles) -> Self {
        let mut disk = Self { durable: Durable { incarnation: 1, ..Durable::default() }, ..Self::default() };
        if let Some(bundle) = bundles.get(version) {
            let active = ModelRef { target: bundle.manifest.target_path(), digest: bundle.digest };
            let record = SlotRecord { active: Some(active), ..SlotRecord::default() };
            disk.durable.slots.insert(bundles::slot(), record);
            disk.manifests.insert(bundle.digest, bundle.manifest.clone());
            disk.files.extend(bundle.manifest.files.iter().map(|file| (file.digest, file.size)));
        }
        disk
    }

    /// What a process finds: what it trusts, and the rest.
    pub fn open(&self, bundles: &Bundles) -> (Repository, Director, OnDisk) {
        let bytes = |what| self.signed.get(&what).map(Vec::as_slice);
        let stored = trust::Stored {
            timestamp: bytes(Signed::Timestamp),
            snapshot: bytes(Signed::Snapshot),
            targets: bytes(Signed::Targets),
        };
        let first = bundles.publisher.root_bytes();
        let restored = Repository::restore(bytes(Signed::Root).unwrap_or(&first), stored);
        let repository = restored.map(|(repository, _)| repository);
        let repository = repository.or_else(|_| Repository::new(&first)).expect("the root of the enrolment is sound");
        let director = bytes(Signed::DirectorRoot).and_then(|root| Director::new(root).ok());
        let on_disk = OnDisk {
            durable: self.durable.clone(),
            files: self.files.clone(),
            manifests: self.manifests.clone(),
            outbox: self.outbox.iter().map(|(id, (entry, _))| (*id, *entry)).collect(),
        };
        (repository, director.unwrap_or_else(|| bundles.publisher.director()), on_disk)
    }
}
