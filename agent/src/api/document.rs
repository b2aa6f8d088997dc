//! What this server answers, as a document for programs: OpenAPI 3.1 with every route of the data plane
//! and each model's own tensors, and Swagger 2.0 as Azure ML's first web services had it. It is made of
//! what answers now and asks nobody.
//!
//! The examples are golden samples: what must not be seen by those who may call a model must not be
//! among its samples.

mod example;
mod infer;
mod models;
mod readings;
mod responses;
mod rows;
mod schema;
mod server;
mod simple;
mod swagger;

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::caller::Caller;
use super::error::Error;
use super::find::Found;
use super::{Api, provenance};

pub use swagger::swagger;

/// Where the routes are, seen from where a document lies.
pub const BASE: &str = "/";

/// Its routes.
pub fn routes() -> Router<Arc<Api>> {
    Router::new().route("/openapi.json", get(of_all)).route("/openapi/{*slot}", get(of_one))
}

/// `GET /openapi.json`
async fn of_all(State(api): State<Arc<Api>>, caller: Caller) -> Response {
    let answering = api.answering(caller);
    let scope = Scope { is_alone: answering.len() == 1, is_device: api.services.is_none() };
    Json(openapi(&answering, BASE, scope)).into_response()
}

/// `GET /openapi/{slot}`
async fn of_one(
    State(api): State<Arc<Api>>,
    caller: Caller,
    slot: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    let Path(slot) = slot.map_err(|_| Error::NotFound("the slot's name is not UTF-8".into()))?;
    let found = api.find(caller, slot.strip_suffix('/').unwrap_or(&slot), None)?;
    let scope = Scope { is_alone: api.answering(caller).len() == 1, is_device: api.services.is_none() };
    let mut response = Json(openapi(std::slice::from_ref(&found), BASE, scope)).into_response();
    provenance(&found.1, response.headers_mut());
    Ok(response)
}

/// What a document is about, besides the models.
#[derive(Debug, Clone, Copy)]
struct Scope {
    /// Whether the models are one, and nothing else answers: its name can be left out.
    is_alone: bool,
    /// Whether a device answers, which tells more on the same port than a server of services.
    is_device: bool,
}

/// OpenAPI 3.1 of a server at `base` on which `found` answers.
fn openapi(found: &[Found], base: &str, scope: Scope) -> Value {
    let mut paths = Map::new();
    server::add(found, scope, &mut paths);
    for one in found {
        models::add(one, &mut paths);
    }
    let tag = |found: &Found| json!({"name": found.0, "description": described(found)});
    let mut tags = vec![json!({"name": "server", "description": "The server itself."})];
    tags.extend(found.iter().map(tag));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Muster scoring server",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Each model answers under several protocols; the tag of a slot has them all. \
                `/v2` is the Open Inference Protocol, `/v1` KServe's first one, `/invocations` MLflow's, \
                `/api/v1/service` Azure ML's, and `/score` the simple form with the model's transforms. \
                A slot's name, its model's full name and the last part of that all lead to it.",
        },
        "servers": [{"url": base}],
        "tags": tags,
        // A caller without a key is let in where no keys are set.
        "security": [{}, {"bearerAuth": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer"}},
            "schemas": responses::schemas(),
            "responses": responses::responses(),
            "headers": responses::headers(),
        },
    })
}

/// What a person may know of a model.
fn described((_, loaded): &Found) -> String {
    let manifest = &loaded.manifest;
    let name = format!("{} version {}, bundle {}.", manifest.model, manifest.version, loaded.digest);
    if manifest.description.is_empty() { name } else { format!("{} {name}", manifest.description) }
}

/// A name for an operation, of what OpenAPI's generators make function names of.
fn operation_id(verb: &str, slot: &str, what: &str) -> String {
    let slot: String = slot.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if slot.is_empty() { format!("{verb}_{what}") } else { format!("{verb}_{what}_{slot}") }
}
