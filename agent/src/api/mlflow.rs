//! MLflow's scoring protocol, as its `ScoringServerClient` and `spark_udf` speak it. Columns become the
//! model's own tensors, without transforms.

mod csv;
mod document;
mod kind;

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use muster_proto::manifest::TensorSpec;
use serde_json::json;

use super::answers::Several;
use super::caller::Caller;
use super::error::{Error, Told};
use super::exchange::{Form, exchange};
use super::find::{self, Found};
use super::rows::Inputs;
use super::{Api, guard};
use kind::Kind;

type Slot = Result<Path<String>, PathRejection>;

/// Its client reads a list of records as a data frame of them.
const FORM: Form = Form { key: Some("predictions"), several: Several::Records };

/// Its routes, with errors in its own form.
pub fn routes(api: &Arc<Api>) -> Router<Arc<Api>> {
    Router::new()
        .route("/ping", get(ping))
        .route("/health", get(ping))
        .route("/version", get(version))
        .route("/invocations", post(invoke_only))
        .route("/invocations/{*slot}", post(invoke))
        .method_not_allowed_fallback(|| async { Error::WrongVerb(None) })
        .layer(from_fn_with_state(Arc::clone(api), guard::limit_time))
        .layer(map_response(in_its_form))
}

/// `GET /ping` and `GET /health`
async fn ping(State(api): State<Arc<Api>>) -> Response {
    if !find::is_ready(&api) {
        return Error::NotFound("no slot has a model yet".into()).into_response();
    }
    "\n".into_response()
}

/// `GET /version`
async fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// `POST /invocations`, where there is no doubt about the slot.
async fn invoke_only(State(api): State<Arc<Api>>, caller: Caller, request: Request) -> Result<Response, Error> {
    let found = api.only(caller, "/invocations")?;
    answer(&api, caller, found, request).await
}

/// `POST /invocations/{slot}`
async fn invoke(State(api): State<Arc<Api>>, caller: Caller, slot: Slot, request: Request) -> Result<Response, Error> {
    let Path(slot) = slot.map_err(|_| Error::NotFound("the slot's name is not UTF-8".into()))?;
    let found = api.find(caller, slot.strip_suffix('/').unwrap_or(&slot), None)?;
    answer(&api, caller, found, request).await
}

async fn answer(api: &Api, caller: Caller, found: Found, request: Request) -> Result<Response, Error> {
    let kind = Kind::of(request.headers())?;
    let read = move |_: &Parts, body: &[u8], specs: &[TensorSpec]| -> Result<Inputs, Error> {
        match kind {
            Kind::Json => document::read(body, specs),
            Kind::Csv => csv::read(body, specs),
        }
    };
    exchange(api, caller, found, request, FORM, read).await
}

/// Says what an error says in MLflow's form.
async fn in_its_form(mut response: Response) -> Response {
    let Some(Told { sentence }) = response.extensions_mut().remove() else { return response };
    let status = response.status();
    let body = Json(json!({"error_code": error_code(status), "message": sentence}));
    let mut told = (status, body).into_response();
    for (name, value) in response.headers() {
        if !told.headers().contains_key(name) {
            told.headers_mut().insert(name.clone(), value.clone());
        }
    }
    // The old body's length does not count for the new one.
    told.headers_mut().remove(CONTENT_LENGTH);
    told
}

fn error_code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "UNAUTHENTICATED",
        StatusCode::FORBIDDEN => "PERMISSION_DENIED",
        StatusCode::NOT_FOUND => "RESOURCE_DOES_NOT_EXIST",
        StatusCode::TOO_MANY_REQUESTS => "RESOURCE_EXHAUSTED",
        StatusCode::NOT_IMPLEMENTED => "NOT_IMPLEMENTED",
        StatusCode::SERVICE_UNAVAILABLE => "TEMPORARILY_UNAVAILABLE",
        StatusCode::GATEWAY_TIMEOUT => "DEADLINE_EXCEEDED",
        status if status.is_client_error() => "BAD_REQUEST",
        _ => "INTERNAL_ERROR",
    }
}
