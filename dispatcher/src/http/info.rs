//! What this dispatcher is, and the certificate by which its clients know it.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Viewer;
use super::problem::Result;
use crate::app::{App, Info};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(info))
}

pub(super) fn public_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(ca))
}

/// What is this dispatcher?
#[utoipa::path(get, path = "/v1/info", operation_id = "info", tag = "info",
    responses((status = 200, description = "Version, workspace, addresses, counters.", body = Info)),
    security(("bearer" = ["viewer"])))]
async fn info(_: Viewer, State(app): State<App>) -> Result<axum::Json<Info>> {
    Ok(axum::Json(app.info().await?))
}

/// The certificate of the authority
///
/// Public. Compare its SHA-256 fingerprint with the one that `muster serve` printed before you trust it.
#[utoipa::path(get, path = "/ca.pem", operation_id = "ca", tag = "info",
    responses((status = 200, description = "The certificate.", body = String, content_type = "application/x-pem-file")))]
async fn ca(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], app.ca_pem())
}
