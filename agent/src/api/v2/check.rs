//! What holds for tensors in every form of the protocol: names, datatypes and shapes that fit the model.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::manifest::{Dtype, Tensor, TensorSpec};

use super::super::error::{Error, clip};
use crate::engine::json::elements::MAX_RANK;

/// A shape, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The sizes.
    pub shape: Vec<u64>,
    /// Their product.
    pub elements: u64,
    /// What the elements take, each of its dtype's size.
    pub bytes: u64,
}

/// The input called `name` of the model that the caller calls `model`.
pub fn input<'a>(name: &str, specs: &'a [TensorSpec], model: &str) -> Result<&'a TensorSpec, Error> {
    specs.iter().find(|spec| spec.name == name).ok_or_else(|| {
        let (name, model, takes) = (clip(name), clip(model), names(specs));
        Error::Input(format!("unexpected inference input '{name}' for model '{model}', which takes {takes}"))
    })
}

/// Puts an input to the others.
pub fn add(tensors: &mut BTreeMap<String, Tensor>, spec: &TensorSpec, tensor: Tensor) -> Result<(), Error> {
    match tensors.insert(spec.name.clone(), tensor) {
        Some(_) => Err(Error::Input(format!("input '{}' stands twice", spec.name))),
        None => Ok(()),
    }
}

/// Makes sure that no input is missing.
pub fn complete(tensors: &BTreeMap<String, Tensor>, specs: &[TensorSpec], model: &str) -> Result<(), Error> {
    let Some(missing) = specs.iter().find(|spec| !tensors.contains_key(&spec.name)) else { return Ok(()) };
    let (name, model, takes) = (&missing.name, clip(model), names(specs));
    Err(Error::Input(format!("expected input '{name}' for model '{model}', which takes {takes}")))
}

/// What an input's claimed datatype and shape amount to.
pub fn extent(spec: &TensorSpec, datatype: &str, shape: &[i64]) -> Result<Extent, Error> {
    let name = &spec.name;
    let invalid = |text: String| Error::Input(format!("input '{name}' has {text}"));
    if Dtype::from_oip(datatype) != Some(spec.dtype) {
        return Err(invalid(format!("datatype {}, got {}", spec.dtype.oip_name(), clip(datatype))));
    }
    if shape.len() > MAX_RANK {
        return Err(invalid(format!("{} dimensions, at most {MAX_RANK} are read", shape.len())));
    }
    let sizes: Option<Vec<u64>> = shape.iter().map(|size| u64::try_from(*size).ok()).collect();
    let sizes = sizes.ok_or_else(|| invalid(format!("a negative size in shape {shape:?}")))?;
    let elements = sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let bytes = elements.and_then(|elements| elements.checked_mul(spec.dtype.size() as u64));
    match (elements, bytes) {
        (Some(elements), Some(bytes)) => Ok(Extent { shape: sizes, elements, bytes }),
        _ => Err(invalid(format!("shape {sizes:?}, which is too large"))),
    }
}

/// The output called `name`, which is none of those `seen` before.
pub fn output<'a>(name: &str, specs: &'a [TensorSpec], seen: &mut BTreeSet<&'a str>) -> Result<&'a TensorSpec, Error> {
    let Some(spec) = specs.iter().find(|spec| spec.name == name) else {
        let text = format!("unexpected inference output '{}', the model has {}", clip(name), names(specs));
        return Err(Error::Input(text));
    };
    match seen.insert(spec.name.as_str()) {
        true => Ok(spec),
        false => Err(Error::Input(format!("output '{}' stands twice", spec.name))),
    }
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ")
}
