//! The file of golden samples that an operator writes:
//! `{"samples": [{"name": "seven", "inputs": {"image": {"dtype": …, "shape": …, "data": …}}, "outputs": {…}}]}`.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::manifest::Tensor;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Error, explicit};

/// A golden sample as it was given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GivenSample {
    /// Its name, unique in its file.
    pub name: String,
    /// The model's inputs, after the input transforms; empty where only the request was given.
    pub inputs: BTreeMap<String, Tensor>,
    /// The outputs from where the model was trained, if they were given.
    pub outputs: Option<BTreeMap<String, Tensor>>,
    /// What a caller sends to the scoring script, as JSON.
    pub request: Option<String>,
    /// What a caller gets of the scoring script, as JSON.
    pub answer: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    samples: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    inputs: BTreeMap<String, Map<String, Value>>,
    outputs: Option<BTreeMap<String, Map<String, Value>>>,
    request: Option<Value>,
    answer: Option<Value>,
}

/// Reads a file of golden samples. Tensors are explicit, because no model is loaded yet; a sample
/// without a name is called after its place, from 1.
pub fn parse_samples(text: &[u8]) -> Result<Vec<GivenSample>, Error> {
    let file: File = serde_json::from_slice(text).map_err(|e| Error::Syntax(e.to_string()))?;
    if file.samples.is_empty() {
        return Err(Error::form("samples", "there is none"));
    }
    let mut names = BTreeSet::new();
    let mut samples = Vec::with_capacity(file.samples.len());
    for (index, entry) in file.samples.into_iter().enumerate() {
        let name = if entry.name.is_empty() { (index + 1).to_string() } else { entry.name };
        if !names.insert(name.clone()) {
            return Err(Error::form("samples", format!("{name:?} stands twice")));
        }
        let read = |kind: &str, given: &BTreeMap<String, Map<String, Value>>| {
            let tensor = |(key, object): (&String, &Map<String, Value>)| {
                let place = format!("sample {name:?}, {kind} {key:?}");
                Ok((key.clone(), explicit(&place, object, None)?))
            };
            given.iter().map(tensor).collect::<Result<BTreeMap<_, _>, Error>>()
        };
        let inputs = read("input", &entry.inputs)?;
        let outputs = entry.outputs.as_ref().map(|outputs| read("output", outputs)).transpose()?;
        let text = |json: Option<Value>| json.map(|json| json.to_string());
        let (request, answer) = (text(entry.request), text(entry.answer));
        if inputs.is_empty() && request.is_none() {
            return Err(Error::form(&format!("sample {name:?}"), "there are neither inputs nor a request"));
        }
        samples.push(GivenSample { name, inputs, outputs, request, answer });
    }
    Ok(samples)
}
