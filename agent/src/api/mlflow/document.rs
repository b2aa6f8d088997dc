//! MLflow's JSON: an object with one of four forms of a frame or tensor, and `params`.

use muster_proto::manifest::TensorSpec;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::error::{Error, clip};
use super::super::object::Object;
use super::super::rows::{self, Inputs};
use super::super::table::{Rules, Table};
use super::super::walk;

const FORMS: &str = "dataframe_split, dataframe_records, instances, inputs";

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    dataframe_split: Option<&'a RawValue>,
    #[serde(borrow)]
    dataframe_records: Option<&'a RawValue>,
    #[serde(borrow)]
    instances: Option<&'a RawValue>,
    #[serde(borrow)]
    inputs: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    signature_name: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Split<'a> {
    columns: Option<Vec<serde_json::Value>>,
    /// pandas also sends its index, which is no column.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Reads the model's inputs.
pub fn read(body: &[u8], specs: &[TensorSpec]) -> Result<Inputs, Error> {
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(bad(format!("a JSON object with one of {FORMS} is wanted. Received a list.")));
    }
    let document: Document = serde_json::from_slice(body)
        .map_err(|error| bad(format!("a JSON object with one of {FORMS} is wanted: {error}")))?;
    if document.signature_name.is_some() {
        return Err(bad("signature_name is not supported: a model has one signature"));
    }
    if document.params.is_some_and(|params| !params.get().starts_with('{')) {
        return Err(bad("params has to be an object"));
    }
    let Document { dataframe_split, dataframe_records, instances, inputs, .. } = document;
    match (dataframe_split, dataframe_records, instances, inputs) {
        (Some(frame), None, None, None) => split(frame, specs),
        (None, Some(list), None, None) => {
            if !list.get().starts_with('[') {
                return Err(bad("dataframe_records has to be a list of objects"));
            }
            Table::records(list, specs, Rules::Frame).map_err(|text| within("dataframe_records", &text))
        }
        (None, None, Some(list), None) => {
            rows::instances(list, specs, Rules::Frame).map_err(|text| within("instances", &text))
        }
        (None, None, None, Some(tensors)) => {
            rows::columns(tensors, specs, Rules::Frame).map_err(|text| within("inputs", &text))
        }
        _ => Err(bad(format!("exactly one of {FORMS} is wanted"))),
    }
}

fn split(frame: &RawValue, specs: &[TensorSpec]) -> Result<Inputs, Error> {
    let wanted = "wanted {\"columns\": [names], \"data\": [rows]}";
    let Object(Split { columns, data: Some(data) }) =
        serde_json::from_str(frame.get()).map_err(|error| bad(format!("dataframe_split: {wanted}: {error}")))?
    else {
        return Err(bad(format!("dataframe_split: {wanted}, data is missing")));
    };
    let Some(columns) = columns else {
        // pandas numbers columns that have no names.
        return rows::instances(data, specs, Rules::Frame).map_err(|text| within("dataframe_split", &text));
    };
    let name = |name: serde_json::Value| match name {
        serde_json::Value::String(name) => Ok(name),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        other => Err(bad(format!("dataframe_split: column {} has no name", clip(&other.to_string())))),
    };
    let columns = columns.into_iter().map(name).collect::<Result<_, _>>()?;
    let read = || {
        let mut table = Table::new(columns, specs, Rules::Frame)?;
        walk::items(data, |row| table.row(row))?;
        table.inputs()
    };
    read().map_err(|text| within("dataframe_split", &text))
}

fn within(form: &str, text: &str) -> Error {
    Error::Input(format!("Invalid input. {form}: {text}"))
}

fn bad(text: impl AsRef<str>) -> Error {
    Error::BadRequest(format!("Invalid input. {}", text.as_ref()))
}
