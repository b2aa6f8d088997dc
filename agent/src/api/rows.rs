//! Tensors as lists of rows, the form that most scoring servers take: from JSON to a model's own inputs,
//! without transforms.

use std::collections::BTreeMap;

use muster_proto::manifest::{Dim, Dtype, Tensor, TensorSpec};
use serde_json::value::RawValue;

use super::error::clip;
use super::table::{Rules, Table};
use super::walk;
use crate::engine::json::elements;

/// A model's inputs by name.
pub type Inputs = BTreeMap<String, Tensor>;

/// Reads a list of rows: arrays or numbers for the only input, or objects with a value for each input.
/// The error is a sentence.
pub fn instances(raw: &RawValue, specs: &[TensorSpec], rules: Rules) -> Result<Inputs, String> {
    let text = raw.get();
    let Some(inside) = text.strip_prefix('[') else { return Err("a list of rows is wanted".into()) };
    if !inside.trim_ascii_start().starts_with('{') {
        return one(raw, specs);
    }
    refuse_halves(specs)?;
    Table::records(raw, specs, rules)
}

/// Reads the columns of all rows: an array for the only input, or an object with an array for each.
pub fn columns(raw: &RawValue, specs: &[TensorSpec], rules: Rules) -> Result<Inputs, String> {
    if !raw.get().starts_with('{') {
        return one(raw, specs);
    }
    let mut given: Vec<(String, &RawValue)> = Vec::new();
    walk::members(raw, |name, value| {
        given.push((name.into_owned(), value));
        if given.len() > MAX_INPUTS { Err(format!("more than {MAX_INPUTS} inputs")) } else { Ok(()) }
    })?;
    let is_there = |spec: &TensorSpec| given.iter().any(|(name, _)| *name == spec.name);
    if rules == Rules::Frame && specs.len() == 1 && !specs.iter().any(is_there) {
        return side_by_side(&given, specs);
    }
    let mut inputs = BTreeMap::new();
    for (name, value) in given {
        let Some(spec) = specs.iter().find(|spec| spec.name == name) else {
            if rules == Rules::Frame {
                continue;
            }
            return Err(format!("the model has no input '{}', but {}", clip(&name), names(specs)));
        };
        if inputs.insert(name, tensor(value, spec)?).is_some() {
            return Err(format!("input '{}' stands twice", spec.name));
        }
    }
    match specs.iter().find(|spec| !inputs.contains_key(&spec.name)) {
        Some(missing) => Err(format!("input '{}' is missing; the model takes {}", missing.name, names(specs))),
        None => Ok(inputs),
    }
}

/// The most names that are read where each is an input or a column of its own.
const MAX_INPUTS: usize = 4096;

/// Columns that together are the only input.
fn side_by_side(given: &[(String, &RawValue)], specs: &[TensorSpec]) -> Result<Inputs, String> {
    refuse_halves(specs)?;
    let mut table = Table::new(given.iter().map(|(name, _)| name.clone()).collect(), specs, Rules::Frame)?;
    for (place, (_, column)) in given.iter().enumerate() {
        table.column(place, column)?;
    }
    table.inputs()
}

/// The inputs of a model that has one.
fn one(raw: &RawValue, specs: &[TensorSpec]) -> Result<Inputs, String> {
    match specs {
        [spec] => Ok(BTreeMap::from([(spec.name.clone(), tensor(raw, spec)?)])),
        _ => Err(format!("the model has {} inputs: name each of {}", specs.len(), names(specs))),
    }
}

fn tensor(raw: &RawValue, spec: &TensorSpec) -> Result<Tensor, String> {
    refuse_halves(std::slice::from_ref(spec))?;
    let read = elements::read(raw, spec.dtype, u64::MAX).map_err(|text| format!("input '{}': {text}", spec.name))?;
    let tensor = Tensor::new(spec.dtype, fit(read.shape, spec), read.data);
    tensor.map_err(|error| format!("input '{}': {error}", spec.name))
}

/// Rows of numbers take the form of the model's items where they fill it exactly; otherwise the shape
/// stays, and the model's check says what it wants.
pub fn fit(shape: Vec<u64>, spec: &TensorSpec) -> Vec<u64> {
    let (Some(rows), Some(items)) = (shape.first().copied(), spec.shape.get(1..)) else { return shape };
    let sizes: Option<Vec<u64>> = items
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Symbol(_) => None,
        })
        .collect();
    let product = |sizes: &[u64]| sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    match sizes {
        Some(sizes) if shape.len() != spec.shape.len() && (rows == 0 || product(&shape[1..]) == product(&sizes)) => {
            [rows].into_iter().chain(sizes).collect()
        }
        _ => shape,
    }
}

/// No protocol here has a JSON form for FP16.
fn refuse_halves(specs: &[TensorSpec]) -> Result<(), String> {
    let Some(half) = specs.iter().find(|spec| spec.dtype == Dtype::F16) else { return Ok(()) };
    let text = "receiving FP16 data via JSON is not supported. Please use the binary data format for input";
    Err(format!("{text} '{}' with POST /v2/models/MODEL/infer", half.name))
}

/// The names, as a sentence goes on.
pub fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
