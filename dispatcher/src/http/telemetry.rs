//! Telemetry: what each version did on each device.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::Viewer;
use super::extract::Params;
use super::problem::Result;
use crate::app::{App, TelemetryFilter, TelemetryView};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// List telemetry
///
/// Counts and latencies, summed per device, slot and version over all windows that came in.
#[utoipa::path(get, path = "/v1/telemetry", operation_id = "listTelemetry", tag = "devices",
    params(
        ("device" = Option<String>, Query, description = "Only this device."),
        ("slot" = Option<String>, Query, description = "Only this slot."),
        ("digest" = Option<String>, Query, description = "Only the version with this manifest.")),
    responses((status = 200, description = "The sums.", body = List<TelemetryView>)),
    security(("bearer" = ["viewer"])))]
async fn list(_: Viewer, State(app): State<App>, query: Params) -> Result<axum::Json<List<TelemetryView>>> {
    let query = query.only(&["device", "slot", "digest"])?;
    let filter =
        TelemetryFilter { device: query.one("device")?, slot: query.one("slot")?, digest: query.one("digest")? };
    Ok(axum::Json(app.telemetry(&filter).await?.into()))
}
