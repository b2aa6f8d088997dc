//! Groups: static lists of devices, label selectors, or both.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use muster_proto::id::GroupName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::{Operator, Viewer};
use super::extract::{At, Json};
use super::problem::{Problem, Result};
use crate::app::{App, GroupView};

/// What a group shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({ "selector": { "site": "ulm" } }))]
pub struct GroupRequest {
    /// The labels that select members besides the listed ones; empty for a static list.
    pub selector: BTreeMap<String, String>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, set, delete))
}

/// List groups
#[utoipa::path(get, path = "/v1/groups", operation_id = "listGroups", tag = "devices",
    responses((status = 200, description = "The groups with their members.", body = List<GroupView>)),
    security(("bearer" = ["viewer"])))]
async fn list(_: Viewer, State(app): State<App>) -> Result<axum::Json<List<GroupView>>> {
    Ok(axum::Json(app.list_groups().await?.into()))
}

/// Show a group
#[utoipa::path(get, path = "/v1/groups/{group}", operation_id = "showGroup", tag = "devices",
    params(("group" = String, Path, description = "The group.", example = "line-a")),
    responses((status = 200, description = "The group.", body = GroupView)),
    security(("bearer" = ["viewer"])))]
async fn show(_: Viewer, State(app): State<App>, At(group): At<GroupName>) -> Result<axum::Json<GroupView>> {
    Ok(axum::Json(app.show_group(&group).await?))
}

/// Make a group, or change its selector
///
/// Devices are listed in a group when they enrol, or by changing the device.
#[utoipa::path(put, path = "/v1/groups/{group}", operation_id = "setGroup", tag = "devices",
    params(("group" = String, Path, description = "The group.", example = "line-a")),
    request_body = GroupRequest,
    responses((status = 200, description = "The group.", body = GroupView)),
    security(("bearer" = ["operator"])))]
async fn set(
    by: Operator,
    State(app): State<App>,
    At(group): At<GroupName>,
    Json(request): Json<GroupRequest>,
) -> Result<axum::Json<GroupView>> {
    Ok(axum::Json(app.set_group(group, request.selector, &by.0).await?))
}

/// Delete a group
///
/// Its devices keep what they run.
#[utoipa::path(delete, path = "/v1/groups/{group}", operation_id = "deleteGroup", tag = "devices",
    params(("group" = String, Path, description = "The group.", example = "line-a")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 409, description = "A running rollout is for it.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn delete(by: Operator, State(app): State<App>, At(group): At<GroupName>) -> Result<StatusCode> {
    app.delete_group(&group, &by.0).await?;
    Ok(StatusCode::NO_CONTENT)
}
