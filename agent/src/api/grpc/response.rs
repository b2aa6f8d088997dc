//! An inference's answer: raw for every output, or typed for every output.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::body::Bytes;
use muster_proto::manifest::{Dtype, Tensor};
use prost::Message;

use super::super::error::Error;
use super::super::v2::response::{Classes, best, prefixed};
use super::contents;
use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_response::InferOutputTensor;
use super::proto::{InferParameter, InferTensorContents, ModelInferResponse};
use super::request::{Form, Wanted};
use crate::engine::Loaded;

/// What is answered.
#[derive(Debug)]
pub struct Inference {
    /// What the model is called.
    pub name: String,
    /// The request's id.
    pub id: String,
    /// The model that computed.
    pub loaded: Arc<Loaded>,
    /// All its outputs.
    pub outputs: BTreeMap<String, Tensor>,
    /// Those that are wanted.
    pub wanted: Vec<Wanted>,
    /// How it was asked.
    pub form: Form,
}

/// Writes the answer, of at most `most` bytes.
pub fn write(inference: Inference, most: usize) -> Result<ModelInferResponse, Error> {
    let Inference { name, id, loaded, mut outputs, wanted, form } = inference;
    let is_half = |wanted: &Wanted| {
        wanted.classes.is_none() && outputs.get(&wanted.name).is_some_and(|tensor| tensor.dtype() == Dtype::F16)
    };
    // Clients read either lists or bytes of all outputs, and halves have no list.
    let form = if wanted.iter().any(is_half) { Form::Raw } else { form };
    let parameters = HashMap::from([
        ("muster_digest".to_owned(), text(loaded.digest.to_string())),
        ("muster_version".to_owned(), text(loaded.manifest.version.to_string())),
    ]);
    let model_version = loaded.manifest.version.to_string();
    let mut answer = ModelInferResponse { model_name: name, model_version, id, parameters, ..Default::default() };
    for Wanted { name, classes } in wanted {
        // What is wanted was checked against the model that computed, and stands once.
        let tensor = outputs.remove(&name).ok_or(Error::Internal)?;
        let (datatype, shape, typed, raw) = match classes {
            Some(count) => {
                let Classes { shape, texts } = best(&name, &tensor, count, &loaded)?;
                ("BYTES", shape, None, Some(texts))
            }
            None => (tensor.dtype().oip_name(), tensor.shape().to_vec(), Some(tensor), None),
        };
        let contents = match (form, typed, raw) {
            (Form::Raw, Some(tensor), _) => push(&mut answer, tensor.data().to_vec()),
            (Form::Raw, None, Some(texts)) => push(&mut answer, prefixed(&texts)),
            (Form::Typed, Some(tensor), _) => Some(contents::write(&tensor).ok_or(Error::Internal)?),
            (Form::Typed, None, Some(texts)) => {
                let bytes_contents = texts.into_iter().map(Bytes::from).collect();
                Some(InferTensorContents { bytes_contents, ..Default::default() })
            }
            (_, None, None) => return Err(Error::Internal),
        };
        let shape = shape.into_iter().map(|size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        let output = InferOutputTensor { name, datatype: datatype.into(), shape, contents, ..Default::default() };
        answer.outputs.push(output);
    }
    if answer.encoded_len() > most {
        return Err(Error::TooLarge(most));
    }
    Ok(answer)
}

fn push(answer: &mut ModelInferResponse, bytes: Vec<u8>) -> Option<InferTensorContents> {
    answer.raw_output_contents.push(bytes.into());
    None
}

/// A parameter that is text.
pub fn text(text: String) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::StringParam(text)) }
}
