//! Rollouts: start, list, show, cancel.

use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::{Operator, Viewer};
use super::extract::{At, Json};
use super::problem::{Problem, Result};
use crate::app::{App, RolloutDetail, RolloutId, RolloutRequest, RolloutView};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, start)).routes(routes!(show)).routes(routes!(cancel))
}

/// List rollouts
#[utoipa::path(get, path = "/v1/rollouts", operation_id = "listRollouts", tag = "rollouts",
    responses((status = 200, description = "The rollouts, newest first.", body = List<RolloutView>)),
    security(("bearer" = ["viewer"])))]
async fn list(_: Viewer, State(app): State<App>) -> Result<axum::Json<List<RolloutView>>> {
    Ok(axum::Json(app.list_rollouts().await?.into()))
}

/// Start a rollout
///
/// It takes over from a running one of the same slot, device by device.
#[utoipa::path(post, path = "/v1/rollouts", operation_id = "startRollout", tag = "rollouts",
    request_body(content = RolloutRequest, example = json!({
        "model": "vision/digits",
        "version": 2,
        "audience": { "kind": "group", "group": "line-a" },
        "canary": 1,
        "max_failures": 1
    })),
    responses(
        (status = 201, description = "It runs.", body = RolloutView),
        (status = 409, description = "The state of the fleet stands against it.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn start(
    by: Operator,
    State(app): State<App>,
    Json(request): Json<RolloutRequest>,
) -> Result<(StatusCode, axum::Json<RolloutView>)> {
    Ok((StatusCode::CREATED, axum::Json(app.start_rollout(request, &by.0).await?)))
}

/// Show a rollout
#[utoipa::path(get, path = "/v1/rollouts/{id}", operation_id = "showRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    responses((status = 200, description = "The rollout with each of its devices.", body = RolloutDetail)),
    security(("bearer" = ["viewer"])))]
async fn show(_: Viewer, State(app): State<App>, At(id): At<RolloutId>) -> Result<axum::Json<RolloutDetail>> {
    Ok(axum::Json(app.show_rollout(id).await?))
}

/// Cancel a rollout
///
/// No further device is offered it. Those that were keep it.
#[utoipa::path(post, path = "/v1/rollouts/{id}/cancel", operation_id = "cancelRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    responses(
        (status = 200, description = "It ended.", body = RolloutView),
        (status = 409, description = "It had ended before.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn cancel(by: Operator, State(app): State<App>, At(id): At<RolloutId>) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.cancel_rollout(id, &by.0).await?))
}
