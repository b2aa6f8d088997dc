//! The versions of a scenario as signed bundles, and who signs: a publisher, a director, and their metadata.
//!
//! A bundle's file is a stand-in of a few chunks: how long the real one takes to fetch is the world's business.

use std::collections::BTreeMap;

use muster_proto::desired::{Desired, SlotDesired, Terms};
use muster_proto::id::{DeviceId, Digest, Generation, SlotName, Version, Workspace};
use muster_proto::manifest::{
    Blob, BundleManifest, Codec, Dim, Dtype, Engine, File, Load, Measured, OutputsFrom, Requires, SCHEMA, Samples,
    TensorSpec, Tolerance, Transforms,
};
use muster_proto::transfer::{MIN_CHUNK, Metadata};
use muster_proto::trust::testing::{Key, Publisher};

use crate::simulate::EPOCH;
use crate::simulate::scenario::VersionSpec;

/// How long signed metadata are good for, in seconds.
const YEARS: u64 = 20 * 366 * 86_400;

/// The seed of an intruder's own key.
const INTRUDER: u8 = 66;

/// A version as it was signed.
pub struct Bundle {
    /// Its manifest.
    pub manifest: BundleManifest,
    /// The manifest's bytes.
    pub bytes: Vec<u8>,
    /// The manifest's digest.
    pub digest: Digest,
}

/// All versions, and who signs.
pub struct Bundles {
    /// The publisher, whose director signs desired states.
    pub publisher: Publisher,
    /// The versions; the first one is version 1.
    pub all: Vec<Bundle>,
    /// Everything that can be fetched: manifests and files.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
}

/// The slot of every device.
pub fn slot() -> SlotName {
    "model".parse().expect("a slot's name")
}

/// The workspace of every device.
pub fn workspace() -> Workspace {
    "default".parse().expect("a workspace's name")
}

/// A manifest of version `version` with `content` as its only file.
pub fn manifest(version: u64, content: &[u8], needs: u64) -> BundleManifest {
    let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![Dim::Fixed(1)] };
    let file = |path: &str, bytes: &[u8]| File {
        path: path.parse().expect("a path"),
        size: bytes.len() as u64,
        digest: Digest::of(bytes),
        blob: Blob::describe(Codec::Stored, bytes, MIN_CHUNK),
    };
    BundleManifest {
        schema: SCHEMA,
        model: "sim/model".parse().expect("a model's name"),
        version: Version(version),
        description: String::new(),
        properties: BTreeMap::new(),
        created_at: EPOCH,
        entry: "model.onnx".parse().expect("a path"),
        files: vec![file("model.onnx", content), file("samples.bin", b"samples")],
        engine: Engine { name: "tract".into(), version: "0.23.9".into(), load: Load::default() },
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        transforms: Transforms::default(),
        samples: Samples {
            file: "samples.bin".parse().expect("a path"),
            count: 2,
            outputs_from: OutputsFrom::Given,
            tolerance: Tolerance::default(),
        },
        measured: Measured::default(),
        requires: Requires { arch: Vec::new(), memory_bytes: needs },
        script: None,
    }
}

impl Bundles {
    /// Signs the versions of a scenario.
    pub fn new(specs: &[VersionSpec]) -> Self {
        let mut blobs = BTreeMap::from([(Digest::of(b"samples"), b"samples".to_vec())]);
        let mut all = Vec::new();
        for (version, spec) in (1u64..).zip(specs) {
            let content: Vec<u8> = (0..3 * u64::from(MIN_CHUNK)).map(|i| ((i + version) % 251) as u8).collect();
            let manifest = manifest(version, &content, spec.needs.0);
            let bytes = manifest.to_bytes().expect("the manifest is consistent");
            let digest = Digest::of(&bytes);
            blobs.insert(Digest::of(&content), content);
            blobs.insert(digest, bytes.clone());
            all.push(Bundle { manifest, bytes, digest });
        }
        Self { publisher: publish(&all), all, blobs }
    }

    /// The publisher's metadata once more, for somebody to change who holds what a dispatcher holds: its own keys, and not
    /// the publisher's.
    pub fn taken_over(&self) -> Publisher {
        let mut publisher = publish(&self.all);
        publisher.keys.insert("targets", Key::from_seed(INTRUDER));
        publisher
    }

    /// A version, counted from 1.
    pub fn get(&self, version: u8) -> Option<&Bundle> {
        self.all.get(usize::from(version).checked_sub(1)?)
    }

    /// The version whose manifest has `digest`.
    pub fn version(&self, digest: &Digest) -> Option<u8> {
        self.all.iter().position(|bundle| bundle.digest == *digest).map(|at| at as u8 + 1)
    }

    /// Whether `digest` is that of a manifest.
    pub fn is_manifest(&self, digest: &Digest) -> bool {
        self.version(digest).is_some()
    }

    /// What a slot shall run.
    pub fn want(&self, version: u8, rollout: String, trial_seconds: u32, terms: Terms) -> Option<SlotDesired> {
        let bundle = self.get(version)?;
        Some(SlotDesired {
            slot: slot(),
            target: bundle.manifest.target_path(),
            digest: bundle.digest,
            length: bundle.bytes.len() as u64,
            trial_seconds,
            rollout,
            terms,
        })
    }

    /// A desired state.
    pub fn desired(&self, device: DeviceId, generation: u64, issued_at: u64, slots: Vec<SlotDesired>) -> Desired {
        let generation = Generation(generation);
        let (workspace, hardware, denied) = (workspace(), String::new(), Vec::new());
        Desired { workspace, device, hardware, generation, issued_at, expires_at: 0, slots, denied }
    }
}

fn publish(all: &[Bundle]) -> Publisher {
    let mut publisher = Publisher::new(EPOCH + YEARS);
    for bundle in all {
        publisher.add(&bundle.manifest.target_path(), &bundle.bytes);
    }
    publisher.publish();
    publisher
}

/// A document of `publisher`.
pub fn metadata(publisher: &Publisher, which: Metadata) -> Option<Vec<u8>> {
    match which {
        Metadata::Root(1) => Some(publisher.root_bytes()),
        Metadata::DirectorRoot(1) => Some(publisher.director_root_bytes()),
        Metadata::Root(_) | Metadata::DirectorRoot(_) => None,
        Metadata::Timestamp => Some(publisher.timestamp_bytes()),
        Metadata::Snapshot(version) => {
            (version == publisher.snapshot.version.get()).then(|| publisher.snapshot_bytes())
        }
        Metadata::Targets(version) => (version == publisher.targets.version.get()).then(|| publisher.targets_bytes()),
    }
}
