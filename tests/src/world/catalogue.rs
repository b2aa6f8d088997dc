//! The models of the world: small bundles that are made once per process and shared by all worlds.
//!
//! A file travels as it is (`stored`); zstd has its own tests in the store. A delta has a format of the world's own: the
//! changed blocks with their offsets.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use muster_proto::id::{Digest, Version};
use muster_proto::manifest::{
    Blob, BundleManifest, Codec, Dim, Dtype, Engine, File, Load, Measured, OutputsFrom, Requires, SCHEMA, Samples,
    TensorSpec, Tolerance, Transforms,
};
use muster_proto::transfer::{Delta, MIN_CHUNK, chunk_size_for};

use super::rng::Rng;

/// When every world begins, in seconds since 1970.
pub const EPOCH_S: u64 = 1_800_000_000;
/// The largest bundle that devices of the world accept, in bytes.
pub const MAX_BUNDLE: u64 = 400 << 10;
/// What the memory-hungry version needs, in bytes.
pub const HUNGRY: u64 = 600 << 20;
/// The version that runs on `aarch64` only.
pub const FOR_ARM: (&str, u64) = ("digits", 6);
/// The version that needs [`HUNGRY`] bytes of memory.
pub const FOR_LARGE: (&str, u64) = ("digits", 7);
/// The version that no device accepts, because it is beyond [`MAX_BUNDLE`].
pub const FOR_NONE: (&str, u64) = ("digits", 8);
/// Every version, in the order of registration.
pub const VERSIONS: [(&str, u64); 12] = [
    ("digits", 1),
    ("faces", 1),
    ("digits", 2),
    ("digits", 3),
    ("faces", 2),
    FOR_ARM,
    ("faces", 3),
    FOR_LARGE,
    ("digits", 4),
    FOR_NONE,
    ("digits", 5),
    ("faces", 4),
];
/// Blocks of this size are compared to make a delta.
const BLOCK: usize = 128;

/// One registered version.
#[derive(Debug)]
pub struct Bundle {
    /// Its target's path.
    pub target: String,
    /// Its manifest.
    pub manifest: BundleManifest,
    /// The manifest as it is signed.
    pub bytes: Arc<Vec<u8>>,
    /// The digest of `bytes`.
    pub digest: Digest,
}

/// Everything that can be fetched.
#[derive(Debug)]
pub struct Catalogue {
    /// Every version, in the order of registration.
    pub bundles: Vec<Bundle>,
    /// Manifests and files by digest.
    pub blobs: BTreeMap<Digest, Arc<Vec<u8>>>,
    /// Deltas by base and wanted file.
    pub deltas: BTreeMap<(Digest, Digest), Delta>,
    by_digest: BTreeMap<Digest, usize>,
}

impl Catalogue {
    /// The one of this process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Catalogue> = OnceLock::new();
        SHARED.get_or_init(Self::make)
    }

    /// The version whose manifest has `digest`.
    pub fn by_digest(&self, digest: &Digest) -> Option<&Bundle> {
        self.by_digest.get(digest).map(|index| &self.bundles[*index])
    }

    /// Version `version` of `model`.
    pub fn get(&self, (model, version): (&str, u64)) -> &Bundle {
        let index = VERSIONS.iter().position(|v| *v == (model, version)).expect("one of the world's versions");
        &self.bundles[index]
    }

    fn make() -> Self {
        let mut catalogue =
            Self { bundles: Vec::new(), blobs: BTreeMap::new(), deltas: BTreeMap::new(), by_digest: BTreeMap::new() };
        for (index, (model, version)) in VERSIONS.iter().enumerate() {
            catalogue.register(model, *version, index as u64);
        }
        let entries: Vec<(String, Digest)> =
            catalogue.bundles.iter().map(|b| (b.manifest.model.to_string(), b.manifest.files[0].digest)).collect();
        for (model, want) in &entries {
            for (_, base) in entries.iter().filter(|(m, d)| m == model && d != want) {
                catalogue.offer(*base, *want);
            }
        }
        catalogue
    }

    fn register(&mut self, model: &str, version: u64, index: u64) {
        let entry = content(model, version);
        // The same samples for all versions of a model: a device holds them already.
        let samples = Rng::new(Digest::of(model.as_bytes()).0[0].into()).bytes(1500);
        let file = |path: &str, bytes: &[u8]| File {
            path: path.parse().expect("valid"),
            size: bytes.len() as u64,
            digest: Digest::of(bytes),
            blob: Blob::describe(Codec::Stored, bytes, chunk_size_for(bytes.len() as u64)),
        };
        let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![Dim::Fixed(1)] };
        let arch = if (model, version) == FOR_ARM { vec!["aarch64".to_owned()] } else { Vec::new() };
        let memory = if (model, version) == FOR_LARGE { HUNGRY } else { 20 << 20 };
        let manifest = BundleManifest {
            schema: SCHEMA,
            model: model.parse().expect("valid"),
            version: Version(version),
            description: String::new(),
            properties: BTreeMap::new(),
            created_at: EPOCH_S + index,
            entry: "model.onnx".parse().expect("valid"),
            files: vec![file("model.onnx", &entry), file("samples.bin", &samples)],
            engine: Engine { name: "tract".into(), version: "0.23.9".into(), load: Load::default() },
            inputs: vec![spec("x")],
            outputs: vec![spec("y")],
            transforms: Transforms::default(),
            samples: Samples {
                file: "samples.bin".parse().expect("valid"),
                count: 4,
                outputs_from: OutputsFrom::Given,
                tolerance: Tolerance::default(),
            },
            measured: Measured { memory_bytes: memory, ..Measured::default() },
            requires: Requires { arch, memory_bytes: 0 },
            script: None,
        };
        let bytes = manifest.to_bytes().expect("consistent");
        let digest = Digest::of(&bytes);
        for blob in [entry, samples, bytes.clone()] {
            self.blobs.insert(Digest::of(&blob), Arc::new(blob));
        }
        self.by_digest.insert(digest, self.bundles.len());
        self.bundles.push(Bundle { target: manifest.target_path(), manifest, bytes: Arc::new(bytes), digest });
    }

    fn offer(&mut self, base: Digest, want: Digest) {
        let (Some(old), Some(new)) = (self.blobs.get(&base), self.blobs.get(&want)) else { return };
        let bytes = encode_delta(old, new);
        if bytes.len() * 2 < new.len() {
            let delta = describe_delta(base, &bytes);
            self.blobs.insert(delta.digest, Arc::new(bytes));
            self.deltas.insert((base, want), delta);
        }
    }
}

/// A delta's description, in the smallest chunks, so that it has several.
pub fn describe_delta(base: Digest, bytes: &[u8]) -> Delta {
    let blob = Blob::describe(Codec::Zstd, bytes, MIN_CHUNK);
    Delta { base, digest: blob.digest, size: blob.size, chunk_size: blob.chunk_size, chunks: blob.chunks }
}

/// The entry file: each version changes the one before in a few places, faces 3 was trained anew.
fn content(model: &str, version: u64) -> Vec<u8> {
    let retrained = model == "faces" && version >= 3;
    let seed = Digest::of(format!("{model}/{retrained}").as_bytes()).0[0];
    let size = match (model, version) {
        FOR_NONE => 500 << 10,
        ("faces", _) => 90 << 10,
        _ => 40 << 10,
    };
    let mut bytes = Rng::new(u64::from(seed)).bytes(size);
    for change in 2..=version {
        let mut rng = Rng::new(u64::from(seed) << 8 | change);
        for _ in 0..4 {
            let at = rng.below(size as u64 - 300) as usize;
            bytes[at..at + 300].copy_from_slice(&rng.bytes(300));
        }
    }
    bytes
}

fn encode_delta(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = (new.len() as u32).to_le_bytes().to_vec();
    for (index, block) in new.chunks(BLOCK).enumerate() {
        let at = index * BLOCK;
        if old.get(at..at + block.len()) != Some(block) {
            out.extend_from_slice(&(at as u32).to_le_bytes());
            out.extend_from_slice(block);
        }
    }
    out
}

/// What `delta` makes of `base`; none where it is not a delta at all.
pub fn apply_delta(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let (size, mut rest) = delta.split_at_checked(4)?;
    let size = u32::from_le_bytes(size.try_into().ok()?) as usize;
    let mut out = base.to_vec();
    out.resize(size.min(1 << 20), 0);
    while !rest.is_empty() {
        let (at, after) = rest.split_at_checked(4)?;
        let at = u32::from_le_bytes(at.try_into().ok()?) as usize;
        let length = BLOCK.min(out.len().checked_sub(at)?);
        let (block, after) = after.split_at_checked(length)?;
        out[at..at + length].copy_from_slice(block);
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_give_the_wanted_file_and_some_versions_have_none() {
        let catalogue = Catalogue::shared();
        for ((base, want), delta) in &catalogue.deltas {
            let made = apply_delta(&catalogue.blobs[base], &catalogue.blobs[&delta.digest]).expect("a delta");
            assert_eq!(Digest::of(&made), *want);
        }
        let entry = |version| catalogue.get(("faces", version)).manifest.files[0].digest;
        assert!(catalogue.deltas.contains_key(&(entry(1), entry(2))));
        assert!(!catalogue.deltas.contains_key(&(entry(2), entry(3))));
    }
}
