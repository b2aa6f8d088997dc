//! The golden samples: where they are, and what the file of them holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Tensor;
use crate::id::FilePath;

/// Where the golden samples are, and how exactly a device has to reproduce them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    /// The file of the bundle that holds them, an encoded [`SampleSet`].
    pub file: FilePath,
    /// How many there are.
    pub count: u32,
    /// Where the expected outputs come from.
    pub outputs_from: OutputsFrom,
    /// How far an output may differ.
    pub tolerance: Tolerance,
}

/// Where the expected outputs of the golden samples come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputsFrom {
    /// From where the model was trained: they prove that the engine computes the right thing.
    Given,
    /// From the engine at registration: they prove only that devices compute the same thing.
    Engine,
}

/// `|got − want| ≤ absolute + relative × |want|`, element by element; NaN equals NaN. For whole numbers and booleans
/// only the absolute part counts: a relative one would let a wrong class pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// The absolute part.
    pub absolute: f32,
    /// The relative part, for floats only.
    pub relative: f32,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { absolute: 1e-3, relative: 1e-3 }
    }
}

/// The content of the samples file, in postcard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SampleSet {
    /// The first version.
    V1(Vec<Sample>),
    /// Samples of a version with a scoring script.
    V2(Vec<ScriptedSample>),
}

impl SampleSet {
    /// The samples, whichever version they are of.
    pub fn into_samples(self) -> Vec<ScriptedSample> {
        let plain = |sample| ScriptedSample { sample, request: None, answer: None };
        match self {
            SampleSet::V1(samples) => samples.into_iter().map(plain).collect(),
            SampleSet::V2(samples) => samples,
        }
    }
}

/// One golden sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its name, for messages.
    pub name: String,
    /// The model's inputs, after the input transforms.
    pub inputs: BTreeMap<String, Tensor>,
    /// The model's outputs, before the output transforms.
    pub outputs: BTreeMap<String, Tensor>,
}

/// One golden sample that also goes through the scoring script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScriptedSample {
    /// What the model gets and gives.
    pub sample: Sample,
    /// What a caller sends, as JSON: `preprocess` has to make the sample's inputs of it.
    pub request: Option<String>,
    /// What a caller gets, as JSON: `postprocess` has to make it of the outputs.
    pub answer: Option<String>,
}

impl crate::wire::Message for SampleSet {
    const NAME: &'static str = "sample set";
    const VARIANTS: u8 = 2;
    const MAX_BYTES: usize = 64 << 20;
}
