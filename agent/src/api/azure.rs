//! Scoring as Azure ML's first web services do it: `{"data": [rows]}` is answered by a bare list, and
//! `{"Inputs": …}` by `{"Results": …}`. Tensors are the model's own, without transforms.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use muster_proto::manifest::TensorSpec;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answers::Several;
use super::caller::Caller;
use super::error::Error;
use super::exchange::Form;
use super::rows::{self, Inputs};
use super::table::Rules;
use super::{Api, document, provenance, score, verbs};

type Rest = Result<Path<String>, PathRejection>;

/// Its routes, but for `/score`, which the simple form owns.
pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/swagger.json", get(swagger_of_all))
        .route("/api/v1/service/{*rest}", get(swagger_of_one).post(score_one).fallback(refuse))
}

/// `GET /swagger.json`
async fn swagger_of_all(State(api): State<Arc<Api>>, caller: Caller) -> Response {
    let answering = api.answering(caller);
    Json(document::swagger(&answering, document::BASE, answering.len() == 1)).into_response()
}

/// `GET /api/v1/service/{name}/swagger.json`
async fn swagger_of_one(State(api): State<Arc<Api>>, caller: Caller, rest: Rest) -> Result<Response, Error> {
    let rest = text(rest)?;
    let name = match rest.strip_suffix("/swagger.json") {
        Some(name) => name,
        None if rest.ends_with("/score") => return Err(Error::WrongVerb(verbs::WRITE)),
        None => return Err(unknown()),
    };
    let found = api.find(caller, name, None)?;
    let mut response =
        Json(document::swagger(std::slice::from_ref(&found), document::BASE, api.answering(caller).len() == 1))
            .into_response();
    provenance(&found.1, response.headers_mut());
    Ok(response)
}

/// `POST /api/v1/service/{name}/score`
async fn score_one(
    State(api): State<Arc<Api>>,
    caller: Caller,
    rest: Rest,
    request: Request,
) -> Result<Response, Error> {
    let rest = text(rest)?;
    let name = match rest.strip_suffix("/score") {
        Some(name) => name,
        None if rest.ends_with("/swagger.json") => return Err(Error::WrongVerb(verbs::READ)),
        None => return Err(unknown()),
    };
    let found = api.find(caller, name, None)?;
    score::answer(&api, caller, found, request).await
}

/// `/api/v1/service/…` with any other verb.
async fn refuse(rest: Rest) -> Error {
    match text(rest) {
        Ok(rest) if rest.ends_with("/score") => Error::WrongVerb(verbs::WRITE),
        Ok(rest) if rest.ends_with("/swagger.json") => Error::WrongVerb(verbs::READ),
        Ok(_) => unknown(),
        Err(error) => error,
    }
}

fn text(rest: Rest) -> Result<String, Error> {
    let Path(rest) = rest.map_err(|_| Error::NotFound("the service's name is not UTF-8".into()))?;
    Ok(rest.strip_suffix('/').unwrap_or(&rest).to_owned())
}

fn unknown() -> Error {
    Error::NotFound("a service has POST /api/v1/service/NAME/score and GET /api/v1/service/NAME/swagger.json".into())
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, rename = "Inputs")]
    inputs: Option<&'a RawValue>,
}

/// Reads a body of this form; none where it is another, or where the model's own inputs are called so.
pub fn read(body: &[u8], specs: &[TensorSpec]) -> Option<Result<(Inputs, Form), Error>> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let has = |name: &str| specs.iter().any(|spec| spec.name == name);
    let document: Document = serde_json::from_slice(body).ok()?;
    let (read, key) = match document {
        Document { inputs: Some(inputs), .. } if !has("Inputs") => (sections(inputs, specs), Some("Results")),
        Document { data: Some(data), .. } if !has("data") && data.get().starts_with('[') => {
            (rows::instances(data, specs, Rules::Frame), None)
        }
        _ => return None,
    };
    let form = Form { key, several: Several::Lists };
    Some(read.map(|inputs| (inputs, form)).map_err(Error::Input))
}

/// What stands under `Inputs`: inputs by name, or `data` with rows. GlobalParameters mean nothing to a model.
fn sections(raw: &RawValue, specs: &[TensorSpec]) -> Result<Inputs, String> {
    #[derive(Deserialize)]
    struct Sections<'a> {
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    if raw.get().starts_with('[') {
        return rows::instances(raw, specs, Rules::Frame);
    }
    let has_data = specs.iter().any(|spec| spec.name == "data");
    match serde_json::from_str::<Sections>(raw.get()) {
        Ok(Sections { data: Some(rows) }) if !has_data && rows.get().starts_with('[') => {
            rows::instances(rows, specs, Rules::Frame)
        }
        _ => rows::columns(raw, specs, Rules::Frame),
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::manifest::{Dim, Dtype};

    use super::*;

    fn spec(name: &str) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![Dim::Symbol("N".into()), Dim::Fixed(2)] }
    }

    #[test]
    fn bodies_of_this_form_are_told_from_others() {
        let table: [(&str, &str, Option<Option<&str>>); 9] = [
            ("x", r#"{"data": [[1, 2]]}"#, Some(None)),
            ("x", r#" {"data": [{"p": 1, "q": 2}]}"#, Some(None)),
            ("x", r#"{"Inputs": {"x": [[1, 2]]}, "GlobalParameters": 1}"#, Some(Some("Results"))),
            ("x", r#"{"Inputs": {"data": [{"p": 1, "q": 2}]}, "GlobalParameters": {}}"#, Some(Some("Results"))),
            ("x", r#"{"x": [[1, 2]]}"#, None),
            ("data", r#"{"data": [[1, 2]]}"#, None),
            ("x", r#"{"data": {"b64": ""}}"#, None),
            ("x", r#"[[1, 2]]"#, None),
            ("x", "no JSON", None),
        ];
        for (name, body, key) in table {
            let read = read(body.as_bytes(), &[spec(name)]).map(|read| read.expect(body).1.key);
            assert_eq!(read, key, "{body}");
        }
    }
}
