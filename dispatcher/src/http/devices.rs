//! Devices: list, show, change labels and groups, remove.

use axum::extract::State;
use axum::http::StatusCode;
use muster_proto::id::DeviceId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::{Operator, Viewer};
use super::extract::{At, Json, Params};
use super::problem::Result;
use crate::app::{App, DeviceDetail, DeviceFilter, DeviceUpdate, DeviceView};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, update, delete))
}

/// List devices
///
/// Every device that matches all filters, by name, with its desired and reported state.
#[utoipa::path(get, path = "/v1/devices", operation_id = "listDevices", tag = "devices",
    params(
        ("group" = Option<String>, Query, description = "Only members of this group.", example = "line-a"),
        ("label" = Option<Vec<String>>, Query, description = "Only devices with this label, as `key=value` or `key`. Repeats."),
        ("online" = Option<bool>, Query, description = "Only connected, or only unconnected ones.")),
    responses((status = 200, description = "The devices.", body = List<DeviceView>)),
    security(("bearer" = ["viewer"])))]
async fn list(_: Viewer, State(app): State<App>, query: Params) -> Result<axum::Json<List<DeviceView>>> {
    let query = query.only(&["group", "label", "online"])?;
    let filter =
        DeviceFilter { group: query.one("group")?, labels: query.pairs("label"), online: query.one("online")? };
    Ok(axum::Json(app.list_devices(&filter).await?.into()))
}

/// Show a device
///
/// With its last signed report, and what its agent used at the end of the last telemetry window.
#[utoipa::path(get, path = "/v1/devices/{device}", operation_id = "showDevice", tag = "devices",
    params(("device" = String, Path, description = "The device.", example = "gateway-17")),
    responses((status = 200, description = "The device.", body = DeviceDetail)),
    security(("bearer" = ["viewer"])))]
async fn show(_: Viewer, State(app): State<App>, At(device): At<DeviceId>) -> Result<axum::Json<DeviceDetail>> {
    Ok(axum::Json(app.show_device(&device).await?))
}

/// Change a device's labels and groups
///
/// What is not in the body stays as it is; what is replaces everything of its kind.
#[utoipa::path(patch, path = "/v1/devices/{device}", operation_id = "updateDevice", tag = "devices",
    params(("device" = String, Path, description = "The device.", example = "gateway-17")),
    request_body(content = DeviceUpdate, example = json!({ "labels": { "site": "ulm" }, "groups": ["line-a"] })),
    responses((status = 200, description = "The device.", body = DeviceView)),
    security(("bearer" = ["operator"])))]
async fn update(
    by: Operator,
    State(app): State<App>,
    At(device): At<DeviceId>,
    Json(change): Json<DeviceUpdate>,
) -> Result<axum::Json<DeviceView>> {
    Ok(axum::Json(app.update_device(&device, change, &by.0).await?))
}

/// Revoke a device
///
/// From now on its certificate opens nothing. To let it in again, enrol it again.
#[utoipa::path(delete, path = "/v1/devices/{device}", operation_id = "deleteDevice", tag = "devices",
    params(("device" = String, Path, description = "The device.", example = "gateway-17")),
    responses((status = 204, description = "It is gone.")),
    security(("bearer" = ["operator"])))]
async fn delete(by: Operator, State(app): State<App>, At(device): At<DeviceId>) -> Result<StatusCode> {
    app.delete_device(&device, &by.0).await?;
    Ok(StatusCode::NO_CONTENT)
}
