//! The admin listener: what answers, changes of it, health and metrics. It is for whoever runs the server, never for
//! those who ask: on loopback, a Unix socket, or a port that only the cluster reaches.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use muster_proto::code::Code;
use serde_json::json;

use super::config::{Document, Service};
use super::desk::Desk;
use crate::api::{Api, Exposure, admin_router};

/// The largest document in bytes.
const MAX_BODY: usize = 4 << 20;

/// What the admin listener changes.
#[derive(Debug)]
pub struct Admin {
    desk: Arc<Desk>,
    /// What the process began with: its listeners do not change while it runs.
    document: Document,
}

/// The routes of the admin listener.
pub fn router(api: &Arc<Api>, desk: &Arc<Desk>, document: &Document, exposure: Exposure) -> Router {
    let admin = Arc::new(Admin { desk: Arc::clone(desk), document: document.clone() });
    let mut own = Router::new().route("/v1/services", get(show));
    // On a network the listener asks nobody who they are, so it changes nothing.
    if exposure != Exposure::Network {
        own = Router::new().route("/v1/services", get(show).put(change));
    }
    // Who may end the process is who may use the socket's file.
    if exposure == Exposure::Socket {
        own = own.route("/v1/stop", post(stop));
    }
    let own = own.with_state(admin);
    admin_router(api, own, exposure)
}

/// `GET /v1/services`
async fn show(State(admin): State<Arc<Admin>>) -> Response {
    Json(json!({"services": admin.desk.services().views()})).into_response()
}

/// `PUT /v1/services`: `{"service": […]}`, complete. Answers when everything that can be had answers.
async fn change(State(admin): State<Arc<Admin>>, body: Body) -> Response {
    let Ok(bytes) = axum::body::to_bytes(body, MAX_BODY).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, format!("over {MAX_BODY} bytes"));
    };
    let services: Change = match serde_json::from_slice(&bytes) {
        Ok(change) => change,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, Code::BadRequest, error.to_string()),
    };
    let document = Document { services: services.service, ..admin.document.clone() };
    match admin.desk.apply(&document).await {
        Ok(()) => show(State(admin)).await,
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.code(), error.to_string()),
    }
}

/// `POST /v1/stop`: ends the process in good order.
async fn stop(State(admin): State<Arc<Admin>>) -> Response {
    admin.desk.stop.notify_one();
    Json(json!({"stopping": true})).into_response()
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    service: Vec<Service>,
}

fn refuse(status: StatusCode, code: Code, error: String) -> Response {
    (status, Json(json!({"error": error, "code": code, "next_step": code.next_step()}))).into_response()
}
