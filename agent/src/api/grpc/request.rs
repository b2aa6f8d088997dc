//! An inference request of the protocol to a model's tensors, raw or typed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use muster_proto::manifest::{Dtype, Tensor, TensorSpec};

use super::super::error::{Error, clip};
use super::super::v2::check::{self, Extent};
use super::contents;
use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::proto::{InferParameter, ModelInferRequest};

/// How tensors are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As bytes beside the tensors.
    Raw,
    /// As lists of numbers.
    Typed,
}

/// What is to be computed, and how it is to be answered.
#[derive(Debug)]
pub struct Asked {
    /// The model's inputs.
    pub inputs: BTreeMap<String, Tensor>,
    /// The outputs, in the order in which they are wanted.
    pub wanted: Vec<Wanted>,
    /// How it was asked, and how it is answered where that can be.
    pub form: Form,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
}

/// An output that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// How many of the best classes are wanted in place of all values.
    pub classes: Option<u32>,
}

type Parameters = HashMap<String, InferParameter>;

/// Reads a request to a model with these inputs and outputs.
pub fn read(request: ModelInferRequest, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<Asked, Error> {
    let name = request.model_name;
    let raw = request.raw_input_contents;
    let form = if raw.is_empty() { Form::Typed } else { Form::Raw };
    if form == Form::Raw && raw.len() != request.inputs.len() {
        let text = format!(
            "expected raw_input_contents for all {} inputs of model '{}' or for none, got {}",
            request.inputs.len(),
            clip(&name),
            raw.len()
        );
        return Err(Error::BadRequest(text));
    }
    let mut tensors = BTreeMap::new();
    let mut raw = raw.into_iter();
    for input in &request.inputs {
        let spec = check::input(&input.name, inputs, &name)?;
        let tensor = tensor(input, raw.next().as_deref(), spec, &name)?;
        check::add(&mut tensors, spec, tensor)?;
    }
    check::complete(&tensors, inputs, &name)?;
    let wanted = match request.outputs.as_slice() {
        [] => outputs.iter().map(|spec| Wanted { name: spec.name.clone(), classes: None }).collect(),
        given => chosen(given, outputs)?,
    };
    let timeout = whole(&request.parameters, "timeout")?.filter(|micros| *micros > 0).map(Duration::from_micros);
    Ok(Asked { inputs: tensors, wanted, form, timeout })
}

fn tensor(input: &InferInputTensor, raw: Option<&[u8]>, spec: &TensorSpec, model: &str) -> Result<Tensor, Error> {
    let name = &spec.name;
    refuse_regions(&input.parameters)?;
    let Extent { shape, elements, bytes } = check::extent(spec, &input.datatype, &input.shape)?;
    let data = match (raw, &input.contents) {
        (Some(_), Some(_)) => {
            let text = "contents field must not be specified when using raw_input_contents for";
            return Err(Error::BadRequest(format!("{text} '{name}' for model '{}'", clip(model))));
        }
        (Some(raw), None) if raw.len() as u64 != bytes => {
            let got = raw.len();
            return Err(Error::Input(format!("input '{name}' has {got} bytes, shape {shape:?} needs {bytes} bytes")));
        }
        (Some(raw), None) => raw.to_vec(),
        (None, Some(_)) | (None, None) if spec.dtype == Dtype::F16 && elements > 0 => {
            return Err(Error::Input(format!(
                "input '{name}' is FP16, which has no typed form: send raw_input_contents"
            )));
        }
        (None, Some(typed)) => contents::read(typed, spec.dtype, elements)
            .map_err(|text| Error::Input(format!("input '{name}' {text}")))?,
        (None, None) if elements == 0 => Vec::new(),
        (None, None) => {
            return Err(Error::Input(format!("input '{name}' has neither contents nor raw_input_contents")));
        }
    };
    Tensor::new(spec.dtype, shape, data).map_err(|error| Error::Input(format!("input '{name}': {error}")))
}

fn chosen(given: &[InferRequestedOutputTensor], specs: &[TensorSpec]) -> Result<Vec<Wanted>, Error> {
    let mut seen = BTreeSet::new();
    let one = |output: &InferRequestedOutputTensor| {
        let spec = check::output(&output.name, specs, &mut seen)?;
        refuse_regions(&output.parameters)?;
        let classes = whole(&output.parameters, "classification")?.filter(|count| *count > 0);
        let classes = classes.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Ok(Wanted { name: spec.name.clone(), classes })
    };
    given.iter().map(one).collect()
}

fn refuse_regions(parameters: &Parameters) -> Result<(), Error> {
    match parameters.contains_key("shared_memory_region") {
        true => Err(Error::NotOffered("shared memory")),
        false => Ok(()),
    }
}

/// A parameter that is a whole number, in whichever form clients send one.
fn whole(parameters: &Parameters, name: &str) -> Result<Option<u64>, Error> {
    let Some(value) = parameters.get(name) else { return Ok(None) };
    let number = match &value.parameter_choice {
        Some(ParameterChoice::Int64Param(number)) => u64::try_from(*number).ok(),
        Some(ParameterChoice::Uint64Param(number)) => Some(*number),
        _ => None,
    };
    let wrong = || Error::BadRequest(format!("parameter '{name}' has to be a whole number that is not negative"));
    number.map(Some).ok_or_else(wrong)
}
