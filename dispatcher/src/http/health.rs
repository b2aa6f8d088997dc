//! Whether the process lives and can work, for supervisors and load balancers.

use axum::extract::State;
use axum::http::StatusCode;
use muster_proto::code::Code;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{Problem, Result};
use crate::app::App;

/// The answer of a healthy dispatcher.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready))
}

/// Is the process alive?
///
/// Answers as long as the process answers anything. Restart it when this fails.
#[utoipa::path(get, path = "/health/live", operation_id = "live", tag = "info",
    responses((status = 200, description = "It is.", body = Health)))]
async fn live() -> axum::Json<Health> {
    axum::Json(Health { status: "ok" })
}

/// Can it work?
///
/// Fails while the database does not answer or the link to the broker is down. Send no requests here while it fails.
#[utoipa::path(get, path = "/health/ready", operation_id = "ready", tag = "info",
    responses(
        (status = 200, description = "It can.", body = Health),
        (status = 503, description = "Not now.", body = Problem, content_type = "application/problem+json")))]
async fn ready(State(app): State<App>) -> Result<axum::Json<Health>> {
    let not_now = |why: &str| {
        Problem::new(Code::Overloaded, why)
            .with_status(StatusCode::SERVICE_UNAVAILABLE)
            .with_next("wait; if it stays so, look at the dispatcher's log")
    };
    match app.info().await {
        Ok(info) if info.link_up => Ok(axum::Json(Health { status: "ok" })),
        Ok(_) => Err(not_now("the link to the broker is down")),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            Err(not_now("the dispatcher's storage does not answer"))
        }
    }
}
