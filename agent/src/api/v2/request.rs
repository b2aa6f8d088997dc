//! An inference request of the protocol: JSON, and behind it the bytes of binary tensors. Every size
//! that a caller claims is checked before anything is allocated for it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use muster_proto::manifest::{Dim, Dtype, Tensor, TensorSpec};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::super::error::{Error, clip};
use super::super::object::Object;
use super::check::{self, Extent};
use crate::engine::Model;
use crate::engine::json::elements;
use crate::engine::json::whole::Whole;

/// How long the JSON at the head of a binary body is.
pub const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// What is to be computed, and how it is to be answered.
#[derive(Debug)]
pub struct Request {
    /// The caller's id for it.
    pub id: Option<String>,
    /// The model's inputs.
    pub inputs: BTreeMap<String, Tensor>,
    /// The outputs, in the order in which they are wanted.
    pub wanted: Vec<Wanted>,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
}

/// An output that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Whether as bytes behind the JSON.
    pub binary: bool,
    /// How many of the best classes are wanted in place of all values.
    pub classes: Option<u32>,
}

#[derive(Deserialize)]
struct Document<'a> {
    id: Option<String>,
    #[serde(borrow)]
    inputs: Vec<Object<Input<'a>>>,
    #[serde(borrow)]
    outputs: Option<Vec<Object<Output<'a>>>>,
    parameters: Option<Object<Parameters>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    binary_data_output: Option<bool>,
    /// In microseconds.
    timeout: Option<Whole<u64>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<Whole<i64>>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    parameters: Option<Object<InputParameters>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct InputParameters {
    binary_data_size: Option<Whole<u64>>,
    shared_memory_region: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    parameters: Option<Object<OutputParameters>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<Whole<u32>>,
    shared_memory_region: Option<IgnoredAny>,
}

/// What the header says of the JSON's length: none where the whole body is JSON.
pub fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Error> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    match (length, values.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(bad("Inference-Header-Content-Length has to be one whole number")),
    }
}

/// Reads a request to `model`, which the caller calls `name`.
pub fn read(body: &[u8], header_length: Option<usize>, name: &str, model: &Model) -> Result<Request, Error> {
    if header_length == Some(0) {
        return raw(body, model);
    }
    let length = header_length.unwrap_or(body.len());
    let Some((json, blobs)) = body.split_at_checked(length) else {
        let text = format!("Inference-Header-Content-Length is {length}, and the body has {} bytes", body.len());
        return Err(bad(text));
    };
    let Object(document): Object<Document> = serde_json::from_slice(json)
        .map_err(|error| bad(format!("the body is not an inference request in JSON: {error}")))?;
    let inputs = inputs(&document.inputs, blobs, name, model.inputs())?;
    let Object(parameters) = document.parameters.unwrap_or_default();
    let binary = parameters.binary_data_output.unwrap_or(false);
    let wanted = match document.outputs.filter(|outputs| !outputs.is_empty()) {
        Some(outputs) => chosen(outputs, binary, model.outputs())?,
        None => all(model.outputs(), binary),
    };
    for wanted in &wanted {
        refuse_halves(wanted, model.outputs())?;
    }
    let timeout = parameters.timeout.map(|Whole(micros)| micros).filter(|micros| *micros > 0);
    let timeout = timeout.map(Duration::from_micros);
    Ok(Request { id: document.id.filter(|id| !id.is_empty()), inputs, wanted, timeout })
}

/// A body that is nothing but the bytes of the model's one input.
fn raw(body: &[u8], model: &Model) -> Result<Request, Error> {
    let [spec] = model.inputs() else {
        return Err(bad(format!(
            "a raw binary request needs a model with 1 input, this one has {}",
            model.inputs().len()
        )));
    };
    let open = spec.shape.iter().filter(|dim| matches!(dim, Dim::Symbol(_))).count();
    if open > 1 {
        return Err(bad(format!("a raw binary request cannot tell the {open} open sizes of input '{}'", spec.name)));
    }
    let fixed = spec.shape.iter().try_fold(spec.dtype.size() as u64, |product, dim| match dim {
        Dim::Fixed(size) => product.checked_mul(*size),
        Dim::Symbol(_) => Some(product),
    });
    let bytes = body.len() as u64;
    let wanted =
        fixed.filter(|fixed| if open == 0 { *fixed == bytes } else { *fixed > 0 && bytes.is_multiple_of(*fixed) });
    let Some(fixed) = wanted else {
        let wanted = fixed.map_or("more".into(), |fixed| fixed.to_string());
        let times = if open == 0 { "" } else { "a multiple of " };
        return Err(Error::Input(format!("input '{}' takes {times}{wanted} bytes, got {bytes}", spec.name)));
    };
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(_) => bytes / fixed,
    };
    let shape = spec.shape.iter().map(size).collect();
    let tensor = Tensor::new(spec.dtype, shape, body.to_vec()).map_err(|error| Error::Input(error.to_string()))?;
    let inputs = BTreeMap::from([(spec.name.clone(), tensor)]);
    Ok(Request { id: None, inputs, wanted: all(model.outputs(), true), timeout: None })
}

/// The tensors of all inputs; those without a `binary_data_size` take no bytes of `blobs`.
fn inputs(
    given: &[Object<Input>],
    mut blobs: &[u8],
    model: &str,
    specs: &[TensorSpec],
) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut tensors = BTreeMap::new();
    for Object(input) in given {
        let spec = check::input(&input.name, specs, model)?;
        check::add(&mut tensors, spec, tensor(input, spec, &mut blobs, model)?)?;
    }
    check::complete(&tensors, specs, model)?;
    if !blobs.is_empty() {
        return Err(bad(format!("unexpected additional input data for model '{}'", clip(model))));
    }
    Ok(tensors)
}

fn tensor(input: &Input, spec: &TensorSpec, blobs: &mut &[u8], model: &str) -> Result<Tensor, Error> {
    let name = &spec.name;
    let invalid = |text: String| Error::Input(text);
    let Object(parameters) = input.parameters.unwrap_or_default();
    if parameters.shared_memory_region.is_some() {
        return Err(Error::NotOffered("shared memory"));
    }
    let claimed: Vec<i64> = input.shape.iter().map(|Whole(size)| *size).collect();
    let Extent { shape, elements, bytes } = check::extent(spec, &input.datatype, &claimed)?;
    let data = match (parameters.binary_data_size, input.data) {
        (Some(Whole(size)), None) => {
            if size != bytes {
                let text = format!("input '{name}' has binary_data_size {size}, shape {shape:?} needs {bytes} bytes");
                return Err(invalid(text));
            }
            let split = usize::try_from(size).ok().and_then(|size| blobs.split_at_checked(size));
            let Some((own, rest)) = split else {
                let short = size.saturating_sub(blobs.len() as u64);
                let model = clip(model);
                let text = format!(
                    "unexpected size for input '{name}', expecting {short} additional bytes for model '{model}'"
                );
                return Err(invalid(text));
            };
            *blobs = rest;
            own.to_vec()
        }
        (None, Some(_)) if spec.dtype == Dtype::F16 => {
            let text = "receiving FP16 data via JSON is not supported. Please use the binary data format for input";
            return Err(invalid(format!("{text} '{name}'")));
        }
        (None, Some(data)) => {
            let read = elements::read(data, spec.dtype, elements)
                .map_err(|text| invalid(format!("input '{name}': {text}")))?;
            let got = read.data.len() / spec.dtype.size();
            if got as u64 != elements {
                return Err(invalid(format!("input '{name}' has {got} elements, shape {shape:?} needs {elements}")));
            }
            read.check_nesting(&shape).map_err(|text| invalid(format!("input '{name}': {text}")))?;
            read.data
        }
        (Some(_), Some(_)) => return Err(invalid(format!("input '{name}' has both data and binary_data_size"))),
        (None, None) => return Err(invalid(format!("input '{name}' has neither data nor binary_data_size"))),
    };
    Tensor::new(spec.dtype, shape, data).map_err(|error| invalid(format!("input '{name}': {error}")))
}

fn chosen(given: Vec<Object<Output>>, binary: bool, specs: &[TensorSpec]) -> Result<Vec<Wanted>, Error> {
    let mut seen = BTreeSet::new();
    let one = |Object(output): Object<Output>| {
        let spec = check::output(&output.name, specs, &mut seen)?;
        let Object(OutputParameters { binary_data, classification, shared_memory_region }) =
            output.parameters.unwrap_or_default();
        if shared_memory_region.is_some() {
            return Err(Error::NotOffered("shared memory"));
        }
        let classes = classification.map(|Whole(count)| count).filter(|count| *count > 0);
        Ok(Wanted { name: spec.name.clone(), binary: binary_data.unwrap_or(binary), classes })
    };
    given.into_iter().map(one).collect()
}

fn all(specs: &[TensorSpec], binary: bool) -> Vec<Wanted> {
    specs.iter().map(|spec| Wanted { name: spec.name.clone(), binary, classes: None }).collect()
}

/// The protocol has no JSON form for FP16; classes are text.
fn refuse_halves(wanted: &Wanted, specs: &[TensorSpec]) -> Result<(), Error> {
    let is_half = specs.iter().any(|spec| spec.name == wanted.name && spec.dtype == Dtype::F16);
    if !is_half || wanted.binary || wanted.classes.is_some() {
        return Ok(());
    }
    let text = "sending FP16 data via JSON is not supported. Please use the binary data format for output";
    Err(Error::Input(format!("{text} '{}'", wanted.name)))
}

fn bad(text: impl Into<String>) -> Error {
    Error::BadRequest(text.into())
}
