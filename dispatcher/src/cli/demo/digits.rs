//! The embedded model: handwritten digits, three versions, held-out images with labels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use muster_agent::engine::Model;
use muster_proto::id::Version;
use muster_proto::manifest::{Load, Tensor, Transforms};

use crate::app::SampleFile;

const MODEL_1: &[u8] = include_bytes!("../../../../tests/models/digits/digits-1.onnx");
const MODEL_2: &[u8] = include_bytes!("../../../../tests/models/digits/digits-2.onnx");
const MODEL_3: &[u8] = include_bytes!("../../../../tests/models/digits/digits-3.onnx");
const SAMPLE_1: &str = include_str!("../../../../tests/models/digits/sample-1.json");
const SAMPLE_2: &str = include_str!("../../../../tests/models/digits/sample-2.json");
const SAMPLE_3: &str = include_str!("../../../../tests/models/digits/sample-3.json");
const TRANSFORMS: &str = include_str!("../../../../tests/models/digits/transforms.json");
const IMAGES: &[u8] = include_bytes!("../../../../tests/models/digits/heldout-images.bin");
const LABELS: &[u8] = include_bytes!("../../../../tests/models/digits/heldout-labels.bin");
const SEVEN: &[u8] = include_bytes!("../../../../tests/models/digits/seven.png");

/// Pixels of an image of 8 × 8.
const PIXELS: usize = 64;

/// The model's name and slot.
pub(super) const NAME: &str = "digits";

/// Everything that the demo knows of digits.
pub(super) struct Digits {
    folder: PathBuf,
    inputs: Vec<BTreeMap<String, Tensor>>,
    labels: Vec<u8>,
}

impl Digits {
    /// Unpacks the embedded files where commands can use them.
    pub fn embedded(folder: &Path) -> Result<Self> {
        let folder = folder.join(NAME);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in
            [("digits-1.onnx", MODEL_1), ("digits-2.onnx", MODEL_2), ("digits-3.onnx", MODEL_3), ("seven.png", SEVEN)]
        {
            std::fs::write(folder.join(name), bytes)?;
        }
        let tensor = |pixels: &[u8]| {
            let values: Vec<f32> = pixels.iter().map(|p| f32::from(*p) / 255.0).collect();
            Tensor::from_f32(vec![1, 1, 8, 8], &values)
        };
        let images = IMAGES.chunks_exact(PIXELS).map(tensor);
        let inputs: Result<Vec<_>, _> = images.map(|t| Ok(BTreeMap::from([("image".to_owned(), t?)]))).collect();
        let inputs = inputs.map_err(|e: muster_proto::manifest::TensorError| anyhow::anyhow!(e))?;
        Ok(Self { folder, inputs, labels: LABELS.to_vec() })
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn bytes(version: Version) -> Result<&'static [u8]> {
        match version.0 {
            1 => Ok(MODEL_1),
            2 => Ok(MODEL_2),
            3 => Ok(MODEL_3),
            other => bail!("the demo has no digits {other}"),
        }
    }

    pub fn samples(version: Version) -> Result<SampleFile> {
        let text = match version.0 {
            1 => SAMPLE_1,
            2 => SAMPLE_2,
            _ => SAMPLE_3,
        };
        serde_json::from_str(text).context("the embedded samples")
    }

    pub fn transforms() -> Result<Transforms> {
        serde_json::from_str(TRANSFORMS).context("the embedded transforms")
    }

    pub fn seven(&self) -> PathBuf {
        self.folder.join("seven.png")
    }

    /// The held-out images as inputs of the model.
    pub fn inputs(&self) -> &[BTreeMap<String, Tensor>] {
        &self.inputs
    }

    /// Whether `outputs` of image `index` name the right digit.
    pub fn is_right(&self, index: usize, outputs: &BTreeMap<String, Tensor>) -> bool {
        let logits = outputs.get("logits").map(Tensor::to_f64).unwrap_or_default();
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
        best == self.labels.get(index).map(|l| usize::from(*l))
    }

    /// How many images the engine alone gets right, without agent, bundle or network.
    pub fn bare_accuracy(&self, version: Version, load: &Load) -> Result<u32> {
        let path = self.folder.join(format!("digits-{version}.onnx"));
        let model = Model::load(&path, load)?;
        let mut right = 0;
        for (index, inputs) in self.inputs.iter().enumerate() {
            right += u32::from(self.is_right(index, &model.run(inputs)?));
        }
        Ok(right)
    }
}
