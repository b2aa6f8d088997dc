//! An inference's answer in the protocol's form: JSON, and behind it the bytes of binary tensors.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use muster_proto::manifest::{OutputOp, Tensor};
use serde::Serialize;

use super::super::body::{self, Coding};
use super::super::error::Error;
use super::super::nested::count_nonfinite;
use super::super::provenance;
use super::request::{HEADER_LENGTH, Wanted};
use crate::engine::Loaded;
use crate::engine::json::Elements;
use crate::engine::transforms::{Answer, Ranked, apply_outputs};

/// The response's parameter that counts the numbers for which JSON has no word.
const NONFINITE: &str = "muster_nonfinite";

/// What is answered.
#[derive(Debug)]
pub struct Inference {
    /// What the model is called.
    pub name: String,
    /// The request's id.
    pub id: String,
    /// The model that computed.
    pub loaded: std::sync::Arc<Loaded>,
    /// All its outputs.
    pub outputs: BTreeMap<String, Tensor>,
    /// Those that are wanted.
    pub wanted: Vec<Wanted>,
}

#[derive(Serialize)]
struct Document<'a> {
    model_name: &'a str,
    model_version: String,
    id: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<&'static str, u64>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Binary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Serialize)]
struct Binary {
    binary_data_size: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Numbers(Elements<'a>),
    Texts(Vec<String>),
}

/// Writes the answer, packed as `coding` says.
pub fn write(inference: &Inference, coding: Option<Coding>) -> Result<Response, Error> {
    let (mut blobs, mut nonfinite) = (Vec::new(), 0);
    let mut outputs = Vec::with_capacity(inference.wanted.len());
    for wanted in &inference.wanted {
        // What is wanted was checked against the model that computed.
        let tensor = inference.outputs.get(&wanted.name).ok_or(Error::Internal)?;
        outputs.push(match wanted.classes {
            Some(count) => classes(wanted, tensor, count, &inference.loaded, &mut blobs)?,
            None => values(wanted, tensor, &mut blobs, &mut nonfinite),
        });
    }
    let parameters = if nonfinite > 0 { BTreeMap::from([(NONFINITE, nonfinite)]) } else { BTreeMap::new() };
    let model_version = inference.loaded.manifest.version.to_string();
    let document = Document { model_name: &inference.name, model_version, id: &inference.id, parameters, outputs };
    let mut bytes = serde_json::to_vec(&document).map_err(|_| Error::Internal)?;
    let mut headers = HeaderMap::new();
    if blobs.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(HEADER_LENGTH, HeaderValue::from(bytes.len()));
        bytes.append(&mut blobs);
    }
    provenance(&inference.loaded, &mut headers);
    let bytes = body::pack(bytes, coding, &mut headers)?;
    let mut response = Response::new(Body::from(bytes));
    *response.headers_mut() = headers;
    Ok(response)
}

fn values<'a>(wanted: &'a Wanted, tensor: &'a Tensor, blobs: &mut Vec<u8>, nonfinite: &mut u64) -> Output<'a> {
    let (name, datatype, shape) = (wanted.name.as_str(), tensor.dtype().oip_name(), tensor.shape().to_vec());
    if wanted.binary {
        blobs.extend_from_slice(tensor.data());
        let parameters = Some(Binary { binary_data_size: tensor.data().len() });
        return Output { name, datatype, shape, parameters, data: None };
    }
    *nonfinite += count_nonfinite(tensor);
    Output { name, datatype, shape, parameters: None, data: Some(Data::Numbers(Elements(tensor))) }
}

/// Triton's classification extension: the best classes of each item as texts `value:index[:label]`.
fn classes<'a>(
    wanted: &'a Wanted,
    tensor: &Tensor,
    count: u32,
    loaded: &Loaded,
    blobs: &mut Vec<u8>,
) -> Result<Output<'a>, Error> {
    let name = wanted.name.as_str();
    let Classes { shape, texts } = best(name, tensor, count, loaded)?;
    if !wanted.binary {
        return Ok(Output { name, datatype: "BYTES", shape, parameters: None, data: Some(Data::Texts(texts)) });
    }
    let bytes = prefixed(&texts);
    let parameters = Some(Binary { binary_data_size: bytes.len() });
    blobs.extend(bytes);
    Ok(Output { name, datatype: "BYTES", shape, parameters, data: None })
}

/// Texts as the elements of a tensor of BYTES: each behind its length.
pub fn prefixed(texts: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        // A label is part of a manifest, which is far smaller than 4 GiB.
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The best classes of each item.
#[derive(Debug)]
pub struct Classes {
    /// [classes] or [batch, classes].
    pub shape: Vec<u64>,
    /// `value:index[:label]`.
    pub texts: Vec<String>,
}

/// The `count` best classes of each item in the output called `name`.
pub fn best(name: &str, tensor: &Tensor, count: u32, loaded: &Loaded) -> Result<Classes, Error> {
    let (batch, width) = match *tensor.shape() {
        [width] => (None, width),
        [batch, width] => (Some(batch), width),
        _ => {
            let text = format!(
                "classification of output '{name}' needs [classes] or [batch, classes], it has shape {:?}",
                tensor.shape()
            );
            return Err(Error::Input(text));
        }
    };
    let labels = Some(labels(loaded, name)).filter(|labels| labels.len() as u64 == width).unwrap_or_default();
    let ranked = match batch {
        Some(0) => Vec::new(),
        _ => match apply_outputs(&[OutputOp::TopK { k: count, labels }], tensor)? {
            Answer::Ranked(rows) => rows,
            _ => return Err(Error::Internal),
        },
    };
    let shape: Vec<u64> = batch.into_iter().chain([u64::from(count).min(width)]).collect();
    let text = |class: &Ranked| match &class.label {
        Some(label) => format!("{:.6}:{}:{label}", class.value, class.index),
        None => format!("{:.6}:{}", class.value, class.index),
    };
    Ok(Classes { shape, texts: ranked.iter().flatten().map(text).collect() })
}

/// The labels that the manifest declares for an output.
fn labels(loaded: &Loaded, output: &str) -> Vec<String> {
    let ops = loaded.manifest.transforms.outputs.get(output).into_iter().flatten();
    let labels = ops.filter_map(|op| match op {
        OutputOp::ArgMax { labels } | OutputOp::TopK { labels, .. } | OutputOp::Threshold { labels, .. } => {
            Some(labels)
        }
        OutputOp::Softmax => None,
    });
    labels.into_iter().next().cloned().unwrap_or_default()
}
