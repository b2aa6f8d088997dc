//! A model's own outputs as nested JSON lists, the form that most scoring servers answer in, with the
//! headers that say which bundle computed them.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use muster_proto::manifest::{Dtype, Tensor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::body::{self, Coding};
use super::error::Error;
use super::nested::{Nested, count_nonfinite};
use super::provenance;
use crate::engine::executor::Inference;

/// Counts the numbers of an answer for which JSON has no word, and which stand in it as `null`.
const NONFINITE: HeaderName = HeaderName::from_static("muster-nonfinite");

/// How several outputs are told apart. One alone is its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Several {
    /// A list with an object for each item; an object of lists where the outputs differ in length.
    Records,
    /// An object of lists.
    Lists,
}

/// All outputs of a model, in its order.
#[derive(Debug)]
pub struct Outputs<'a> {
    all: Vec<(&'a str, &'a Tensor)>,
    several: Several,
}

impl<'a> Outputs<'a> {
    /// The outputs of `inference`, where JSON has a form for them.
    pub fn new((loaded, outputs): &'a Inference, several: Several) -> Result<Self, Error> {
        let mut all = Vec::with_capacity(outputs.len());
        for spec in loaded.model.outputs() {
            if spec.dtype == Dtype::F16 {
                let text = "sending FP16 data via JSON is not supported. Please use the binary data format for output";
                return Err(Error::Input(format!("{text} '{}' with POST /v2/models/MODEL/infer", spec.name)));
            }
            all.push((spec.name.as_str(), outputs.get(&spec.name).ok_or(Error::Internal)?));
        }
        Ok(Self { all, several })
    }

    fn nonfinite(&self) -> u64 {
        self.all.iter().map(|(_, tensor)| count_nonfinite(tensor)).sum()
    }

    /// How many items there are, where all outputs agree.
    fn items(&self) -> Option<usize> {
        let mut counts = self.all.iter().map(|(_, tensor)| tensor.shape().first().copied());
        let first = counts.next()??;
        counts.all(|count| count == Some(first)).then(|| usize::try_from(first).ok()).flatten()
    }
}

impl Serialize for Outputs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.all.as_slice(), self.several, self.items()) {
            // Callers read a list, also of a model that gives one number.
            ([(_, tensor)], _, _) if tensor.shape().is_empty() => [Nested::whole(tensor)].serialize(serializer),
            ([(_, tensor)], _, _) => Nested::whole(tensor).serialize(serializer),
            (all, Several::Records, Some(items)) => {
                let mut list = serializer.serialize_seq(Some(items))?;
                for index in 0..items {
                    list.serialize_element(&Named { all, item: Some(index) })?;
                }
                list.end()
            }
            (all, _, _) => Named { all, item: None }.serialize(serializer),
        }
    }
}

/// Outputs by name: of one item, or whole.
struct Named<'a> {
    all: &'a [(&'a str, &'a Tensor)],
    item: Option<usize>,
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.all.len()))?;
        for (name, tensor) in self.all {
            let value = self.item.map_or(Nested::whole(tensor), |index| Nested::item(tensor, index));
            object.serialize_entry(name, &value)?;
        }
        object.end()
    }
}

/// Answers with the outputs under `key`, or alone.
pub fn write(
    inference: &Inference,
    key: Option<&'static str>,
    several: Several,
    coding: Option<Coding>,
) -> Result<Response, Error> {
    let outputs = Outputs::new(inference, several)?;
    let bytes = match key {
        Some(key) => serde_json::to_vec(&std::collections::BTreeMap::from([(key, &outputs)])),
        None => serde_json::to_vec(&outputs),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    provenance(&inference.0, &mut headers);
    let nonfinite = outputs.nonfinite();
    if nonfinite > 0 {
        headers.insert(NONFINITE, HeaderValue::from(nonfinite));
    }
    let bytes = body::pack(bytes.map_err(|_| Error::Internal)?, coding, &mut headers)?;
    let mut response = Response::new(Body::from(bytes));
    *response.headers_mut() = headers;
    Ok(response)
}
