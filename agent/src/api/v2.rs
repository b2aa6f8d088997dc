//! The Open Inference Protocol, version 2, over REST, as tritonclient and kserve speak it. It knows
//! neither transforms nor the simple form of `/score`.

pub mod check;
mod infer;
pub mod model;
mod request;
pub mod response;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::caller::Caller;
use super::error::Error;
use super::find::{self, Action, Address};
use super::object::Object;
use super::{Api, body, provenance, verbs};

type Name = Result<Path<String>, PathRejection>;

/// What works here, of the protocol's extensions.
pub const EXTENSIONS: [&str; 5] =
    ["binary_tensor_data", "classification", "parameters", "model_configuration", "statistics"];
/// The largest body where none or a few words are wanted.
const SMALL_BODY: usize = 64 << 10;

/// `GET /v2`
pub async fn server() -> impl IntoResponse {
    Json(json!({"name": "muster-agent", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS}))
}

/// `GET /v2/health/live` and `/healthz`: this process answers. No model is asked.
pub async fn live() -> impl IntoResponse {
    Json(json!({"live": true}))
}

/// `GET /v2/health/ready`: at least one slot has a model, which has passed its probe.
pub async fn ready(State(api): State<Arc<Api>>) -> Response {
    if !find::is_ready(&api) {
        return Error::NothingReady.into_response();
    }
    Json(json!({"ready": true, "live": true})).into_response()
}

/// `GET /v2/models`
pub async fn models(State(api): State<Arc<Api>>, caller: Caller) -> impl IntoResponse {
    let names: Vec<_> = api.answering(caller).into_iter().map(|(slot, _)| slot).collect();
    Json(json!({"models": names}))
}

/// `GET /v2/models/…`
pub async fn read(State(api): State<Arc<Api>>, caller: Caller, name: Name) -> Result<Response, Error> {
    let address = address(name)?;
    if address.action == Action::Metadata && address.name == "stats" && address.version.is_none() {
        return Ok(Json(model::statistics(&api.answering(caller))).into_response());
    }
    match address.action {
        Action::Infer => return Err(Error::WrongVerb(verbs::WRITE)),
        Action::NotOffered(what) => return Err(Error::NotOffered(what)),
        _ => {}
    }
    let found = api.find(caller, &address.name, address.version.as_deref())?;
    let document = match address.action {
        Action::Ready => json!({"name": found.0, "ready": true}),
        Action::Config => model::config(&found),
        Action::Stats => model::statistics(std::slice::from_ref(&found)),
        _ => model::metadata(&found),
    };
    let mut response = Json(document).into_response();
    provenance(&found.1, response.headers_mut());
    Ok(response)
}

/// `POST /v2/models/…`
pub async fn write(
    State(api): State<Arc<Api>>,
    caller: Caller,
    name: Name,
    request: Request,
) -> Result<Response, Error> {
    let address = address(name)?;
    match address.action {
        Action::Infer => infer::infer(&api, caller, &address, request).await,
        Action::NotOffered(what) => Err(Error::NotOffered(what)),
        _ => Err(Error::WrongVerb(verbs::READ)),
    }
}

/// `/v2/models/…` with any other verb.
pub async fn refuse(name: Name) -> Error {
    match address(name).map(|address| address.action) {
        Ok(Action::Infer) => Error::WrongVerb(verbs::WRITE),
        Ok(Action::NotOffered(what)) => Error::NotOffered(what),
        Ok(_) => Error::WrongVerb(verbs::READ),
        Err(error) => error,
    }
}

fn address(name: Name) -> Result<Address, Error> {
    let Path(path) = name.map_err(|_| Error::NotFound("the model's name is not UTF-8".into()))?;
    Ok(Address::parse(&path))
}

/// What the repository's index may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IndexRequest {
    ready: bool,
}

/// `POST /v2/repository/index`: what answers, and what the agent is still on its way to.
pub async fn index(State(api): State<Arc<Api>>, caller: Caller, request: Request) -> Result<Response, Error> {
    let budget = body::Budget::new(SMALL_BODY, SMALL_BODY);
    let (head, body) = request.into_parts();
    let plain = body::receive(&head.headers, body, &budget).await?.plain()?;
    let Object(asked) = match plain.bytes.trim_ascii() {
        b"" => Object(IndexRequest::default()),
        text => serde_json::from_slice(text)
            .map_err(|error| Error::BadRequest(format!("wanted {{\"ready\": true}} or nothing: {error}")))?,
    };
    Ok(Json(model::index(&api, caller, asked.ready)).into_response())
}

/// A route of the protocol that other servers have.
pub async fn not_offered(what: &'static str) -> (StatusCode, Response) {
    let error = Error::NotOffered(what);
    (error.status(), error.into_response())
}
