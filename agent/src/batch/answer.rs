//! Lines of results: the outputs of one row, after the manifest's output transforms, as JSON or CSV.

use std::collections::BTreeMap;

use muster_proto::code::Code;
use muster_proto::manifest::{Dim, Dtype, OutputOp, Tensor, TensorSpec};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::error::Fault;
use super::options::{OutputFormat, Transforms};
use crate::api::nested::{Nested, count_nonfinite};
use crate::engine::Loaded;
use crate::engine::transforms::{Answer, apply_outputs};

/// The most columns of CSV that one output is spread over; larger ones are one cell of JSON.
const MAX_SPREAD: u64 = 4096;

/// How results are written.
#[derive(Debug)]
pub struct Layout<'a> {
    format: OutputFormat,
    keep: &'a [String],
    outputs: Vec<Output<'a>>,
}

#[derive(Debug)]
struct Output<'a> {
    spec: &'a TensorSpec,
    ops: &'a [OutputOp],
    form: Form,
}

/// What an output is in CSV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One value.
    One,
    /// So many values, each in a column of its own.
    Spread(u64),
    /// The best one: its place, its label and its value.
    Best,
    /// Anything else, as JSON.
    Json,
}

/// The outputs of some rows.
pub struct Items {
    /// Those of each row, in the model's order.
    pub rows: Vec<Vec<Box<RawValue>>>,
    /// How many numbers JSON has no word for.
    pub nonfinite: u64,
}

impl<'a> Layout<'a> {
    /// The layout of the results of `loaded`.
    pub fn new(loaded: &'a Loaded, format: OutputFormat, keep: &'a [String], transforms: Transforms) -> Self {
        let output = |spec: &'a TensorSpec| {
            let ops = match transforms {
                Transforms::Apply => loaded.manifest.transforms.outputs.get(&spec.name).map_or(&[][..], Vec::as_slice),
                Transforms::Off => &[],
            };
            Output { spec, ops, form: form(spec, ops) }
        };
        Self { format, keep, outputs: loaded.model.outputs().iter().map(output).collect() }
    }

    /// What a file of results begins with.
    pub fn header(&self) -> Vec<u8> {
        if self.format == OutputFormat::Jsonl {
            return Vec::new();
        }
        let mut names = vec!["file".to_owned(), "row".to_owned()];
        names.extend(self.keep.iter().cloned());
        for Output { spec, form, .. } in &self.outputs {
            let name = &spec.name;
            match form {
                Form::One | Form::Json => names.push(name.clone()),
                Form::Spread(count) => names.extend((0..*count).map(|index| format!("{name}.{index}"))),
                Form::Best => names.extend(["index", "label", "value"].map(|part| format!("{name}.{part}"))),
            }
        }
        csv_line(&names)
    }

    /// Cuts the outputs of `count` rows into those of each.
    pub fn items(&self, outputs: &BTreeMap<String, Tensor>, count: usize) -> Result<Items, Fault> {
        let mut items =
            Items { rows: (0..count).map(|_| Vec::with_capacity(self.outputs.len())).collect(), nonfinite: 0 };
        for output in &self.outputs {
            let tensor = outputs.get(&output.spec.name).ok_or_else(|| failed("the model gave no such output"))?;
            let widened = if tensor.dtype() == Dtype::F16 { Some(widen(tensor)?) } else { None };
            let tensor = widened.as_ref().unwrap_or(tensor);
            let is_whole = tensor.shape().first() != Some(&(count as u64));
            if is_whole && count != 1 {
                return Err(failed("the model does not give as many rows as it got"));
            }
            items.nonfinite += count_nonfinite(tensor);
            for (index, row) in items.rows.iter_mut().enumerate() {
                row.push(output.value(tensor, if is_whole { None } else { Some(index) })?);
            }
        }
        Ok(items)
    }

    /// One line.
    pub fn line(&self, (file, row): (&str, u64), keep: &[String], item: &[Box<RawValue>]) -> Vec<u8> {
        match self.format {
            OutputFormat::Jsonl => {
                let line = Line { file, row, layout: self, keep, item };
                // Names are texts and values are JSON already.
                let mut line = serde_json::to_vec(&line).unwrap_or_default();
                line.push(b'\n');
                line
            }
            OutputFormat::Csv => {
                let mut cells = vec![file.to_owned(), row.to_string()];
                cells.extend(keep.iter().map(|cell| cell_of(cell)));
                self.outputs.iter().zip(item).for_each(|(output, value)| output.push_cells(value, &mut cells));
                csv_line(&cells)
            }
        }
    }
}

impl Output<'_> {
    /// The value of row `index`, or of all that the tensor holds.
    fn value(&self, tensor: &Tensor, index: Option<usize>) -> Result<Box<RawValue>, Fault> {
        let raw = |value: serde_json::Result<Box<RawValue>>| value.map_err(|error| failed(&error.to_string()));
        if self.ops.is_empty() {
            return raw(to_raw_value(&index.map_or(Nested::whole(tensor), |index| Nested::item(tensor, index))));
        }
        let item = index.map_or_else(|| Ok(tensor.clone()), |index| cut(tensor, index))?;
        let answer = apply_outputs(self.ops, &item);
        match answer.map_err(|error| failed(&format!("output {:?}: {error}", self.spec.name)))? {
            Answer::Values(values) if index.is_some() => raw(to_raw_value(&Nested::item(&values, 0))),
            Answer::Values(values) => raw(to_raw_value(&Nested::whole(&values))),
            Answer::Best(rows) if rows.len() == 1 => raw(to_raw_value(&rows[0])),
            Answer::Best(rows) => raw(to_raw_value(&rows)),
            Answer::Ranked(rows) if rows.len() == 1 => raw(to_raw_value(&rows[0])),
            Answer::Ranked(rows) => raw(to_raw_value(&rows)),
        }
    }

    fn push_cells(&self, raw: &RawValue, cells: &mut Vec<String>) {
        let value = || serde_json::from_str::<Value>(raw.get()).unwrap_or_default();
        match self.form {
            Form::Json => cells.push(raw.get().to_owned()),
            Form::One | Form::Spread(_) => {
                let wanted = if let Form::Spread(count) = self.form { count as usize } else { 1 };
                let start = cells.len();
                flatten(&value(), cells);
                cells.resize(start + wanted, String::new());
            }
            Form::Best => {
                let value = value();
                cells.extend(["index", "label", "value"].map(|part| scalar(value.get(part).unwrap_or(&Value::Null))));
            }
        }
    }
}

/// What an output is in CSV, by its shape for one row.
fn form(spec: &TensorSpec, ops: &[OutputOp]) -> Form {
    let sizes = spec.shape.iter().skip(1).map(|dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Symbol(_) => None,
    });
    let sizes: Option<Vec<u64>> = sizes.collect();
    let count = sizes.as_ref().and_then(|all| all.iter().try_fold(1u64, |product, size| product.checked_mul(*size)));
    match (ops.last(), count) {
        (Some(OutputOp::ArgMax { .. }), _) if spec.shape.len() <= 2 => Form::Best,
        (Some(OutputOp::ArgMax { .. } | OutputOp::TopK { .. } | OutputOp::Threshold { .. }), _) => Form::Json,
        (_, Some(1)) => Form::One,
        (_, Some(count)) if (2..=MAX_SPREAD).contains(&count) => Form::Spread(count),
        _ => Form::Json,
    }
}

/// Row `index` with a leading 1.
fn cut(tensor: &Tensor, index: usize) -> Result<Tensor, Fault> {
    let mut shape = tensor.shape().to_vec();
    let rows = std::mem::replace(&mut shape[0], 1).max(1);
    let size = tensor.data().len() / rows as usize;
    let data = tensor.data()[index * size..(index + 1) * size].to_vec();
    Tensor::new(tensor.dtype(), shape, data).map_err(|error| failed(&error.to_string()))
}

/// Half floats as f32, which JSON has a form for.
fn widen(tensor: &Tensor) -> Result<Tensor, Fault> {
    let values: Vec<f32> = tensor.to_f64().into_iter().map(|value| value as f32).collect();
    Tensor::from_f32(tensor.shape().to_vec(), &values).map_err(|error| failed(&error.to_string()))
}

fn failed(text: &str) -> Fault {
    Fault { code: Code::InferenceFailed, sentence: text.to_owned() }
}

struct Line<'a> {
    file: &'a str,
    row: u64,
    layout: &'a Layout<'a>,
    keep: &'a [String],
    item: &'a [Box<RawValue>],
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("file", self.file)?;
        line.serialize_entry("row", &self.row)?;
        if !self.keep.is_empty() {
            let kept = self.keep.iter().filter_map(|text| serde_json::from_str::<&RawValue>(text).ok());
            line.serialize_entry("keep", &Pairs(self.layout.keep.iter().map(String::as_str).zip(kept).collect()))?;
        }
        let names = self.layout.outputs.iter().map(|output| output.spec.name.as_str());
        let values = self.item.iter().map(|value| &**value);
        line.serialize_entry("outputs", &Pairs(names.zip(values).collect()))?;
        line.end()
    }
}

/// An object whose members stay in order.
struct Pairs<'a>(Vec<(&'a str, &'a RawValue)>);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// A kept cell: texts without their quotes, anything else as it stands.
fn cell_of(json: &str) -> String {
    match json.starts_with('"') {
        true => serde_json::from_str(json).unwrap_or_default(),
        false if json == "null" => String::new(),
        false => json.to_owned(),
    }
}

fn flatten(value: &Value, cells: &mut Vec<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|value| flatten(value, cells)),
        other => cells.push(scalar(other)),
    }
}

/// A missing or not finite number is an empty cell, which pandas reads as NaN.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv_line(cells: &[String]) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    // Writing to memory does not fail, and a record of any length is allowed where it is the only one.
    let _ = writer.write_record(cells);
    writer.into_inner().unwrap_or_default()
}

#[cfg(test)]
mod tests;
