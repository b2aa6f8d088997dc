//! What answers look like, cheaply: where the largest value of each row of the first floating-point output stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use muster_proto::manifest::{Dtype, Tensor, TensorSpec};
use muster_proto::report::{CONFIDENCE_BINS, OutputSketch, TOP1_BINS};
use tract_onnx::tract_core::internal::tract_data::half::f16;

/// How many rows of one answer are looked at.
const MAX_ROWS: usize = 64;
/// How many elements of one answer are looked at.
const MAX_ELEMENTS: usize = 65_536;

/// One row of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    /// Where its largest value stands.
    pub top1: usize,
    /// How sure the row is of it: the largest value where all lie in 0 to 1, and else its softmax, as for logits.
    pub confidence: Option<f32>,
}

/// The rows of the first floating-point output that `specs` declare: its last axis, at most the first 64 of them.
pub(super) fn rows(specs: &[TensorSpec], outputs: &BTreeMap<String, Tensor>) -> Vec<Row> {
    let is_float = |spec: &&TensorSpec| matches!(spec.dtype, Dtype::F16 | Dtype::F32 | Dtype::F64);
    let Some(tensor) = specs.iter().find(is_float).and_then(|spec| outputs.get(&spec.name)) else { return Vec::new() };
    let length = tensor.shape().last().copied().unwrap_or(1) as usize;
    if length == 0 || length > MAX_ELEMENTS {
        return Vec::new();
    }
    let bytes = length * tensor.dtype().size();
    let rows = MAX_ROWS.min(MAX_ELEMENTS / length);
    tensor.data().chunks_exact(bytes).take(rows).map(|row| look(tensor.dtype(), row)).collect()
}

fn look(dtype: Dtype, row: &[u8]) -> Row {
    let mut best = (0, f32::NEG_INFINITY);
    let mut probable = true;
    let values = || row.chunks_exact(dtype.size()).map(float);
    for (index, value) in values().enumerate() {
        probable &= (0.0..=1.0).contains(&value);
        if value > best.1 {
            best = (index, value);
        }
    }
    let confidence = match probable {
        true => Some(best.1),
        false if row.len() <= dtype.size() => None,
        false => {
            Some(1.0 / values().map(|value| (value - best.1).exp()).sum::<f32>()).filter(|share| share.is_finite())
        }
    };
    Row { top1: best.0, confidence }
}

fn float(bytes: &[u8]) -> f32 {
    match *bytes {
        [a, b] => f16::from_le_bytes([a, b]).to_f32(),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
        _ => f32::NAN,
    }
}

/// Counters of what answers looked like.
#[derive(Debug, Default)]
pub struct Sketch {
    top1: [AtomicU32; TOP1_BINS],
    confidence: [AtomicU32; CONFIDENCE_BINS],
}

impl Sketch {
    /// Counts an answer.
    pub fn observe(&self, specs: &[TensorSpec], outputs: &BTreeMap<String, Tensor>) {
        for row in rows(specs, outputs) {
            self.top1[row.top1 % TOP1_BINS].fetch_add(1, Relaxed);
            if let Some(confidence) = row.confidence {
                let bin = (confidence * CONFIDENCE_BINS as f32) as usize;
                self.confidence[bin.min(CONFIDENCE_BINS - 1)].fetch_add(1, Relaxed);
            }
        }
    }

    /// What was counted since the last call, with no more bins than are needed.
    pub fn take(&self) -> OutputSketch {
        let mut top1: Vec<u32> = self.top1.iter().map(|bin| bin.swap(0, Relaxed)).collect();
        let used = top1.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        top1.truncate(used);
        let confidence: Vec<u32> = self.confidence.iter().map(|bin| bin.swap(0, Relaxed)).collect();
        let confidence = if confidence.iter().any(|n| *n > 0) { confidence } else { Vec::new() };
        OutputSketch { top1, confidence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{f32s, named};

    fn spec(name: &str, dtype: Dtype) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: vec![] }
    }

    #[test]
    fn rows_of_the_first_float_output_are_counted() {
        let specs = [spec("label", Dtype::I64), spec("scores", Dtype::F32), spec("more", Dtype::F32)];
        let sketch = Sketch::default();
        let scores = f32s(&[3, 3], &[0.1, 0.7, 0.2, 1.0, 0.0, 0.0, -3.0, 9.0, 40.0]);
        sketch.observe(&specs, &named([("scores", scores), ("more", f32s(&[1], &[0.5]))]));
        let mut confidence = vec![0; CONFIDENCE_BINS];
        (confidence[7], confidence[9]) = (1, 2);
        assert_eq!(sketch.take(), OutputSketch { top1: vec![1, 1, 1], confidence });
        assert_eq!(sketch.take(), OutputSketch::default(), "it is taken once");
    }

    #[test]
    fn odd_outputs_are_no_trouble() {
        let specs = [spec("x", Dtype::F32)];
        let looked = |shape: &[u64], values: &[f32]| rows(&specs, &named([("x", f32s(shape, values))]));
        assert_eq!(looked(&[], &[0.5]), [Row { top1: 0, confidence: Some(0.5) }]);
        assert_eq!(looked(&[2, 0], &[]), []);
        assert_eq!(looked(&[0, 2], &[]), []);
        assert_eq!(looked(&[2], &[f32::NAN, f32::NAN]), [Row { top1: 0, confidence: None }]);
        assert_eq!(looked(&[100, 1], &[0.0; 100]).len(), MAX_ROWS);
        assert_eq!(looked(&[70_000], &vec![0.0; 70_000]), []);
        assert_eq!(rows(&specs, &BTreeMap::new()), []);
        let sketch = Sketch::default();
        let mut wide = vec![0.0; 100];
        wide[97] = 2.0;
        sketch.observe(&specs, &named([("x", f32s(&[100], &wide))]));
        let unsure = [vec![1], vec![0; CONFIDENCE_BINS - 1]].concat();
        assert_eq!(sketch.take(), OutputSketch { top1: vec![0, 1], confidence: unsure }, "97 modulo 32 is 1");
    }
}
