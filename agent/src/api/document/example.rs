//! Worked examples: a golden sample in each protocol's form, or zeros where no small one is kept.

use std::collections::BTreeMap;

use muster_proto::manifest::{Dim, Tensor, TensorSpec};
use serde_json::{Map, Value, json};

use super::super::find::Found;
use super::super::nested::Nested;
use crate::engine::Loaded;
use crate::engine::json::{Elements, tensor_to_json};

/// Zeros of more elements are not written out.
const SMALL: u64 = 256;

/// Inputs that the model takes; none where they would be long.
pub fn inputs(loaded: &Loaded) -> Option<BTreeMap<String, Tensor>> {
    if let Some(sample) = &loaded.example {
        return Some(sample.inputs.clone());
    }
    let zeros = |spec: &TensorSpec| {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(_) => 1,
        };
        let shape: Vec<u64> = spec.shape.iter().map(size).collect();
        let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let elements = elements.filter(|elements| *elements <= SMALL)?;
        let tensor = Tensor::new(spec.dtype, shape, vec![0; elements as usize * spec.dtype.size()]);
        Some((spec.name.clone(), tensor.ok()?))
    };
    loaded.model.inputs().iter().map(zeros).collect()
}

/// The body of `POST /v2/models/…/infer`.
pub fn v2((_, loaded): &Found) -> Option<Value> {
    let inputs = inputs(loaded)?;
    let one = |spec: &TensorSpec| {
        let tensor = inputs.get(&spec.name)?;
        let data = tensor_to_json(tensor)["data"].take();
        Some(json!({"name": spec.name, "shape": tensor.shape(), "datatype": spec.dtype.oip_name(), "data": data}))
    };
    let inputs: Option<Vec<Value>> = loaded.model.inputs().iter().map(one).collect();
    Some(json!({"inputs": inputs?}))
}

/// A list of rows: arrays, or objects where there are several inputs.
pub fn rows((_, loaded): &Found) -> Option<Value> {
    let inputs = inputs(loaded)?;
    if let [spec] = loaded.model.inputs() {
        return inputs.get(&spec.name).map(|tensor| json(&Nested::whole(tensor)));
    }
    let items = inputs.values().map(|tensor| tensor.shape().first().copied()).min()??;
    let row = |index: u64| {
        let cell = |(name, tensor): (&String, &Tensor)| (name.clone(), json(&Nested::item(tensor, index as usize)));
        Value::Object(inputs.iter().map(cell).collect())
    };
    Some((0..items).map(row).collect())
}

/// The body of `POST /score/…`, where the model takes its own tensors there; else the rows that it
/// takes as well.
pub fn score(found: &Found) -> Option<Value> {
    let loaded = &found.1;
    if loaded.manifest.transforms.inputs.values().any(|ops| !ops.is_empty()) {
        return rows(found).map(|rows| json!({"data": rows}));
    }
    let inputs = inputs(loaded)?;
    let object: Map<String, Value> =
        inputs.iter().map(|(name, tensor)| (name.clone(), json(&Nested::whole(tensor)))).collect();
    Some(Value::Object(object))
}

/// By way of text, so that an f32 becomes the number that one would write.
fn json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_string(value).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// What a golden sample records as outputs, as rows.
pub fn predictions((_, loaded): &Found) -> Option<Value> {
    let sample = loaded.example.as_ref()?;
    match loaded.model.outputs() {
        [spec] => sample.outputs.get(&spec.name).map(|tensor| json(&Nested::whole(tensor))),
        _ => None,
    }
}

/// The outputs of a golden sample in the Open Inference Protocol's form.
pub fn v2_answer((slot, loaded): &Found) -> Option<Value> {
    let sample = loaded.example.as_ref()?;
    let one = |spec: &TensorSpec| {
        let tensor = sample.outputs.get(&spec.name)?;
        let (datatype, data) = (spec.dtype.oip_name(), json(&Elements(tensor)));
        Some(json!({"name": spec.name, "datatype": datatype, "shape": tensor.shape(), "data": data}))
    };
    let outputs: Option<Vec<Value>> = loaded.model.outputs().iter().map(one).collect();
    let version = loaded.manifest.version.to_string();
    Some(json!({"model_name": slot, "model_version": version, "id": "1", "outputs": outputs?}))
}
