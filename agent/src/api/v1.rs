//! KServe's first protocol, as its client and TensorFlow Serving's callers speak it. Tensors are the
//! model's own, without transforms.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use muster_proto::manifest::TensorSpec;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::answers::Several;
use super::caller::Caller;
use super::error::Error;
use super::exchange::{Form, exchange};
use super::object::Object;
use super::rows::{self, Inputs};
use super::table::Rules;
use super::{Api, provenance, verbs};

type Name = Result<Path<String>, PathRejection>;

const FORM: Form = Form { key: Some("predictions"), several: Several::Records };

/// Its routes.
pub fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/models", get(list)).route("/v1/models/{*model}", get(ready).post(act).fallback(refuse))
}

/// `GET /v1/models`
async fn list(State(api): State<Arc<Api>>, caller: Caller) -> impl IntoResponse {
    let names: Vec<_> = api.answering(caller).into_iter().map(|(slot, _)| slot).collect();
    Json(json!({"models": names}))
}

/// `GET /v1/models/{model}`: whether it answers.
async fn ready(State(api): State<Arc<Api>>, caller: Caller, name: Name) -> Result<Response, Error> {
    let path = text(name)?;
    let address = Address::parse(&path);
    if address.verb.is_some() {
        return Err(Error::WrongVerb(verbs::WRITE));
    }
    let found = api.find(caller, address.name, address.version)?;
    let mut response = Json(json!({"name": address.name, "ready": true})).into_response();
    provenance(&found.1, response.headers_mut());
    Ok(response)
}

/// `POST /v1/models/{model}:predict`
async fn act(State(api): State<Arc<Api>>, caller: Caller, name: Name, request: Request) -> Result<Response, Error> {
    let path = text(name)?;
    let address = Address::parse(&path);
    match address.verb {
        Some("predict") => {
            let found = api.find(caller, address.name, address.version)?;
            exchange(&api, caller, found, request, FORM, |_, body, specs| read(body, specs)).await
        }
        Some("explain") => Err(Error::NotOffered("explaining")),
        Some(_) => Err(Error::NotFound("a model takes :predict; GET /v1/models lists the models".into())),
        None => Err(Error::WrongVerb(verbs::READ)),
    }
}

/// `/v1/models/{model}` with any other verb.
async fn refuse(name: Name) -> Error {
    match text(name) {
        Ok(path) if Address::parse(&path).verb.is_some() => Error::WrongVerb(verbs::WRITE),
        Ok(_) => Error::WrongVerb(verbs::READ),
        Err(error) => error,
    }
}

fn text(name: Name) -> Result<String, Error> {
    let Path(path) = name.map_err(|_| Error::NotFound("the model's name is not UTF-8".into()))?;
    Ok(path)
}

/// What the rest of a path behind `/v1/models/` names.
#[derive(Debug, PartialEq, Eq)]
struct Address<'a> {
    name: &'a str,
    version: Option<&'a str>,
    verb: Option<&'a str>,
}

impl<'a> Address<'a> {
    /// Reads `NAME[/versions/VERSION][:VERB]`, where the name may have slashes of its own.
    fn parse(path: &'a str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        let (rest, verb) = match path.rsplit_once(':') {
            Some((rest, verb)) if !verb.contains('/') => (rest, Some(verb)),
            _ => (path, None),
        };
        match rest.rsplit_once("/versions/") {
            Some((name, version)) if !version.contains('/') => Self { name, version: Some(version), verb },
            _ => Self { name: rest, version: None, verb },
        }
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    instances: Option<&'a RawValue>,
    #[serde(borrow)]
    inputs: Option<&'a RawValue>,
}

/// Reads the rows of a request, or its columns.
fn read(body: &[u8], specs: &[TensorSpec]) -> Result<Inputs, Error> {
    let wanted = "{\"instances\": [one row for each item]} or {\"inputs\": [the same]}";
    let Object(document): Object<Document> =
        serde_json::from_slice(body).map_err(|error| Error::BadRequest(format!("wanted {wanted}: {error}")))?;
    match (document.instances, document.inputs) {
        (Some(rows), None) => rows::instances(rows, specs, Rules::Inputs).map_err(Error::Input),
        // Some callers write rows here as well.
        (None, Some(rows)) if is_list_of_objects(rows) => {
            rows::instances(rows, specs, Rules::Inputs).map_err(Error::Input)
        }
        (None, Some(columns)) => rows::columns(columns, specs, Rules::Inputs).map_err(Error::Input),
        (Some(_), Some(_)) => Err(Error::BadRequest("instances and inputs stand side by side: send one".into())),
        (None, None) => Err(Error::BadRequest(format!("wanted {wanted}, got neither"))),
    }
}

fn is_list_of_objects(raw: &RawValue) -> bool {
    raw.get().strip_prefix('[').is_some_and(|inside| inside.trim_ascii_start().starts_with('{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_model_version_and_verb() {
        let table = [
            ("digits", "digits", None, None),
            ("digits/", "digits", None, None),
            ("digits:predict", "digits", None, Some("predict")),
            ("vision/digits:predict", "vision/digits", None, Some("predict")),
            ("vision/digits/versions/2:predict", "vision/digits", Some("2"), Some("predict")),
            ("a:b/digits", "a:b/digits", None, None),
            ("digits:", "digits", None, Some("")),
        ];
        for (path, name, version, verb) in table {
            assert_eq!(Address::parse(path), Address { name, version, verb }, "{path}");
        }
    }
}
