//! The bundle manifest: what a version consists of, how it is loaded, fed, read and probed. It holds
//! the digest of every file, so a version is one indivisible set. It does not know keys or storage.
//!
//! A manifest is JSON, because it is a TUF target that any TUF client may download and a person may
//! read; its digest is that of its exact bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{Digest, FilePath, ModelName, Version};
use crate::transfer::{MAX_CHUNK, MIN_CHUNK, chunk_count, chunk_len};

mod samples;
mod script;
mod tensor;

pub use samples::{OutputsFrom, Sample, SampleSet, Samples, ScriptedSample, Tolerance};
pub use script::{Hook, MAX_FUEL, MAX_MEMORY, MAX_MODULE, MIN_MEMORY, Script, ScriptLimits};
pub use tensor::{Dtype, Tensor, TensorError};

/// The largest manifest in bytes.
pub const MAX_MANIFEST: usize = 1024 * 1024;
/// The most files in a bundle.
pub const MAX_FILES: usize = 1000;
/// The largest file in a bundle, in bytes.
pub const MAX_FILE: u64 = 8 << 30;
/// The schema of a manifest without a script.
pub const SCHEMA: u32 = 1;
/// The schema of a manifest with a script, so that agents which cannot run one say that they have to be updated.
pub const SCHEMA_WITH_SCRIPT: u32 = 2;

/// Everything that is signed of one version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleManifest {
    /// The schema's version; [`SCHEMA`], or [`SCHEMA_WITH_SCRIPT`] where there is one.
    pub schema: u32,
    /// The model.
    pub model: ModelName,
    /// Its version.
    pub version: Version,
    /// What people shall know of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Free properties that belong to the content, such as lineage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// When it was registered, in seconds since 1970.
    pub created_at: u64,
    /// The file that the engine loads.
    pub entry: FilePath,
    /// All files.
    pub files: Vec<File>,
    /// The engine, and how it had to load the model.
    pub engine: Engine,
    /// The model's inputs, in order.
    pub inputs: Vec<TensorSpec>,
    /// The model's outputs, in order.
    pub outputs: Vec<TensorSpec>,
    /// What happens between a request and the inputs, and between the outputs and an answer.
    #[serde(default)]
    pub transforms: Transforms,
    /// The golden samples.
    pub samples: Samples,
    /// What was measured at registration.
    pub measured: Measured,
    /// What the model needs of a device.
    #[serde(default)]
    pub requires: Requires,
    /// The scoring script, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Script>,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its place in the bundle.
    pub path: FilePath,
    /// Its size in bytes.
    pub size: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// How it travels.
    pub blob: Blob,
}

/// The compressed form in which a file travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// How the file is encoded.
    pub codec: Codec,
    /// The blob's size in bytes.
    pub size: u64,
    /// The digest of the blob's bytes.
    pub digest: Digest,
    /// The chunk size in bytes.
    pub chunk_size: u32,
    /// The digest of each chunk, in order.
    pub chunks: Vec<Digest>,
}

/// How a file is encoded as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// One zstd frame (RFC 8878).
    Zstd,
    /// The bytes as they are, where compression gains nothing.
    Stored,
}

/// The engine, and how it had to load the model at registration; a device does the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// The engine's name: `tract`.
    pub name: String,
    /// Its version at registration, e.g. `0.23.9`.
    pub version: String,
    /// How the model was loaded.
    pub load: Load,
}

/// How a model is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// Shapes that replace the declared ones, by input name.
    pub input_shapes: BTreeMap<String, Vec<u64>>,
    /// Ignore the exporter's shapes of inner values.
    pub ignore_value_info: bool,
    /// Ignore the declared output shapes.
    pub ignore_output_shapes: bool,
    /// Ignore the declared output dtypes.
    pub ignore_output_types: bool,
}

/// A tensor's name, dtype and shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// The name in the model.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// The dimensions; a symbol may stand where any size is accepted.
    pub shape: Vec<Dim>,
}

/// One dimension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// A fixed size.
    Fixed(u64),
    /// Any size, under the exporter's name for it.
    Symbol(String),
}

/// Declarative transforms, by input and output name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transforms {
    /// From what a caller sends to the model's input.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Vec<InputOp>>,
    /// From the model's output to what a caller gets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, Vec<OutputOp>>,
}

/// One step before the model. Images are height × width × channels of f32, 0 to 255, until `layout`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum InputOp {
    /// PNG or JPEG bytes to pixels.
    DecodeImage {
        /// The channels that the model wants.
        color: Color,
    },
    /// To an exact size in pixels.
    Resize {
        /// The new width.
        width: u32,
        /// The new height.
        height: u32,
        /// The filter.
        #[serde(default)]
        filter: Filter,
    },
    /// The middle part, in pixels.
    CenterCrop {
        /// The new width.
        width: u32,
        /// The new height.
        height: u32,
    },
    /// Multiplies by `factor`, then adds `offset`.
    Scale {
        /// The factor.
        factor: f32,
        /// The offset.
        #[serde(default)]
        offset: f32,
    },
    /// Subtracts `mean` and divides by `std`, per channel.
    Normalize {
        /// The mean of each channel.
        mean: Vec<f32>,
        /// The standard deviation of each channel.
        std: Vec<f32>,
    },
    /// Height × width × channels to a batch of one in this order.
    Layout {
        /// The order.
        to: Layout,
    },
}

/// The channels of a decoded image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Color {
    /// One channel (ITU-R BT.709 luma).
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// The filter of a resize.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Linear.
    #[default]
    Triangle,
    /// Cubic.
    CatmullRom,
    /// Lanczos with window 3.
    Lanczos3,
}

/// The order of an image tensor's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// 1 × channels × height × width.
    Nchw,
    /// 1 × height × width × channels.
    Nhwc,
}

/// One step after the model, over the last dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum OutputOp {
    /// Exponentials that sum to one.
    Softmax,
    /// The index, or label, of the largest value.
    ArgMax {
        /// One label per index, or none.
        #[serde(default)]
        labels: Vec<String>,
    },
    /// The `k` largest values, with index and label.
    TopK {
        /// How many.
        k: u32,
        /// One label per index, or none.
        #[serde(default)]
        labels: Vec<String>,
    },
    /// Only values of at least `min`, with index and label.
    Threshold {
        /// The smallest value that is kept.
        min: f32,
        /// One label per index, or none.
        #[serde(default)]
        labels: Vec<String>,
    },
}

/// What was measured at registration, on the dispatcher's machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Measured {
    /// How often each operator occurs in the model file.
    pub operators: BTreeMap<String, u64>,
    /// How many parameters the model has.
    pub parameters: u64,
    /// How much memory the loaded model takes, in bytes.
    pub memory_bytes: u64,
    /// The median time of one inference, in microseconds.
    pub inference_us: u64,
    /// How long loading and optimising took, in microseconds.
    pub load_us: u64,
}

/// What the model needs of a device; empty means anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requires {
    /// Processor architectures, e.g. `aarch64`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arch: Vec<String>,
    /// Free memory in bytes.
    pub memory_bytes: u64,
}

/// Why bytes are not a usable manifest. Retrying with the same bytes cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_MANIFEST`].
    #[error("manifest of {0} bytes is over its limit of {MAX_MANIFEST}")]
    TooLarge(usize),
    /// Not JSON of this schema.
    #[error("manifest cannot be read: {0}")]
    Json(String),
    /// Of a schema that this build does not know.
    #[error("manifest has schema {0}, this build knows {SCHEMA} to {SCHEMA_WITH_SCRIPT}: update the agent")]
    Schema(u32),
    /// Breaks a rule.
    #[error("manifest is not consistent: {0}")]
    Inconsistent(String),
}

impl BundleManifest {
    /// Reads and checks a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Probe {
            schema: u32,
        }
        if bytes.len() > MAX_MANIFEST {
            return Err(Error::TooLarge(bytes.len()));
        }
        let probe: Probe = serde_json::from_slice(bytes).map_err(|e| Error::Json(e.to_string()))?;
        if !(SCHEMA..=SCHEMA_WITH_SCRIPT).contains(&probe.schema) {
            return Err(Error::Schema(probe.schema));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| Error::Json(e.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes that are signed: compact JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let bytes = serde_json::to_vec(self).map_err(|e| Error::Json(e.to_string()))?;
        if bytes.len() > MAX_MANIFEST { Err(Error::TooLarge(bytes.len())) } else { Ok(bytes) }
    }

    /// The target's path in the model repository.
    pub fn target_path(&self) -> String {
        target_path(&self.model, self.version)
    }

    /// The file at `path`.
    pub fn file(&self, path: &FilePath) -> Option<&File> {
        self.files.iter().find(|f| f.path == *path)
    }

    /// The sizes of all files in bytes, summed.
    pub fn total_size(&self) -> u64 {
        self.files.iter().fold(0, |sum, f| sum.saturating_add(f.size))
    }

    /// The sizes of all blobs in bytes, summed.
    pub fn blob_size(&self) -> u64 {
        self.files.iter().fold(0, |sum, f| sum.saturating_add(f.blob.size))
    }

    fn check(&self) -> Result<(), Error> {
        let fail = |text: String| Err(Error::Inconsistent(text));
        if self.files.is_empty() || self.files.len() > MAX_FILES {
            return fail(format!("{} files, 1 to {MAX_FILES} are allowed", self.files.len()));
        }
        let mut paths = BTreeSet::new();
        for file in &self.files {
            if !paths.insert(file.path.as_str()) {
                return fail(format!("file {} stands twice", file.path));
            }
            file.check().map_err(|text| Error::Inconsistent(format!("file {}: {text}", file.path)))?;
        }
        for path in [&self.entry, &self.samples.file] {
            if self.file(path).is_none() {
                return fail(format!("{path} is not among the files"));
            }
        }
        if self.inputs.is_empty() || self.outputs.is_empty() {
            return fail("no inputs or no outputs".into());
        }
        let names = |specs: &[TensorSpec]| specs.iter().map(|s| s.name.clone()).collect::<BTreeSet<_>>();
        let (inputs, outputs) = (names(&self.inputs), names(&self.outputs));
        if inputs.len() != self.inputs.len() || outputs.len() != self.outputs.len() {
            return fail("an input or output name stands twice".into());
        }
        let unknown_in = self.transforms.inputs.keys().chain(self.engine.load.input_shapes.keys());
        if let Some(name) = unknown_in.into_iter().find(|name| !inputs.contains(*name)) {
            return fail(format!("{name:?} is not an input of the model"));
        }
        if let Some(name) = self.transforms.outputs.keys().find(|name| !outputs.contains(*name)) {
            return fail(format!("{name:?} is not an output of the model"));
        }
        let schema = if self.script.is_some() { SCHEMA_WITH_SCRIPT } else { SCHEMA };
        if self.schema != schema {
            return fail(format!("schema {}, and what it holds is of schema {schema}", self.schema));
        }
        let Some(script) = &self.script else { return Ok(()) };
        let Some(file) = self.file(&script.file) else {
            return fail(format!("the script {} is not among the files", script.file));
        };
        script.check(file.size).map_err(|text| Error::Inconsistent(format!("script {}: {text}", script.file)))
    }
}

impl File {
    fn check(&self) -> Result<(), String> {
        if self.size > MAX_FILE || self.blob.size > MAX_FILE {
            return Err(format!("larger than {MAX_FILE} bytes"));
        }
        self.blob.check()
    }
}

impl Blob {
    fn check(&self) -> Result<(), String> {
        if !(MIN_CHUNK..=MAX_CHUNK).contains(&self.chunk_size) {
            return Err(format!("chunk size {} is not within {MIN_CHUNK} to {MAX_CHUNK}", self.chunk_size));
        }
        if chunk_count(self.size, self.chunk_size) != self.chunks.len() as u64 {
            return Err(format!("{} chunk digests do not cover {} bytes", self.chunks.len(), self.size));
        }
        Ok(())
    }

    /// Describes `bytes` cut into chunks of `chunk_size` bytes.
    pub fn describe(codec: Codec, bytes: &[u8], chunk_size: u32) -> Self {
        let chunks = bytes.chunks(chunk_size.max(1) as usize).map(Digest::of).collect();
        Self { codec, size: bytes.len() as u64, digest: Digest::of(bytes), chunk_size, chunks }
    }

    /// Whether `data` is chunk `index`, whole and unchanged (invariant 1).
    pub fn accepts(&self, index: u32, data: &[u8]) -> bool {
        data.len() as u64 == chunk_len(self.size, self.chunk_size, index)
            && self.chunks.get(index as usize).is_some_and(|want| Digest::of(data) == *want)
    }
}

/// The path of a version's manifest in the model repository.
pub fn target_path(model: &ModelName, version: Version) -> String {
    format!("{model}/{version}/manifest")
}

/// The model and version that a target path names.
pub fn parse_target_path(path: &str) -> Option<(ModelName, Version)> {
    let (model, version) = path.strip_suffix("/manifest")?.rsplit_once('/')?;
    Some((model.parse().ok()?, version.parse().ok()?))
}

#[cfg(test)]
mod tests;
