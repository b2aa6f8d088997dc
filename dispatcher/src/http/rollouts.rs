//! Rollouts: start, look at, steer, end.

use axum::extract::State;
use axum::http::StatusCode;
use muster_proto::id::DeviceId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::{Operator, Viewer};
use super::extract::{At, Json};
use super::problem::{Problem, Result};
use crate::app::{
    App, DeniedView, Explanation, RolloutApproval, RolloutDetail, RolloutDocument, RolloutExtension, RolloutId,
    RolloutPreview, RolloutReason, RolloutRetry, RolloutView,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    let words = OpenApiRouter::new()
        .routes(routes!(pause))
        .routes(routes!(abort))
        .routes(routes!(rollback))
        .routes(routes!(skip))
        .routes(routes!(retry))
        .routes(routes!(approve))
        .routes(routes!(extend))
        .routes(routes!(resume))
        .routes(routes!(release))
        .routes(routes!(cancel));
    OpenApiRouter::new()
        .routes(routes!(list, start))
        .routes(routes!(preview))
        .routes(routes!(show))
        .routes(routes!(export))
        .routes(routes!(explain))
        .routes(routes!(denied))
        .merge(words)
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
/// Where an older one of the same slot is under way it takes over, device by device.
#[utoipa::path(post, path = "/v1/rollouts", operation_id = "startRollout", tag = "rollouts",
    request_body(content = RolloutDocument, example = json!({
        "model": "vision/digits",
        "version": 2,
        "preset": "standard",
        "target": { "groups": ["line-a"], "where": "labels.site == \"berlin\"" }
    })),
    responses(
        (status = 201, description = "It stands, and runs unless it waits for approval or its time.", body = RolloutView),
        (status = 409, description = "The state of the fleet stands against it.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn start(
    by: Operator,
    State(app): State<App>,
    Json(document): Json<RolloutDocument>,
) -> Result<(StatusCode, axum::Json<RolloutView>)> {
    Ok((StatusCode::CREATED, axum::Json(app.start_rollout(document, &by.0).await?)))
}

/// Say what a rollout would do
///
/// Nothing is changed.
#[utoipa::path(post, path = "/v1/rollouts/plan", operation_id = "planRollout", tag = "rollouts",
    request_body(content = RolloutDocument),
    responses((status = 200, description = "Who matches and who does not, the stages, the bytes, and when it would end.", body = RolloutPreview)),
    security(("bearer" = ["operator"])))]
async fn preview(
    by: Operator,
    State(app): State<App>,
    Json(document): Json<RolloutDocument>,
) -> Result<axum::Json<RolloutPreview>> {
    Ok(axum::Json(app.preview_rollout(document, &by.0).await?))
}

/// Show a rollout
#[utoipa::path(get, path = "/v1/rollouts/{id}", operation_id = "showRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    responses((status = 200, description = "The rollout with each of its devices.", body = RolloutDetail)),
    security(("bearer" = ["viewer"])))]
async fn show(_: Viewer, State(app): State<App>, At(id): At<RolloutId>) -> Result<axum::Json<RolloutDetail>> {
    Ok(axum::Json(app.show_rollout(id).await?))
}

/// Export a rollout
#[utoipa::path(get, path = "/v1/rollouts/{id}/document", operation_id = "exportRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    responses((status = 200, description = "The document that would start the same again.", body = RolloutDocument)),
    security(("bearer" = ["viewer"])))]
async fn export(_: Viewer, State(app): State<App>, At(id): At<RolloutId>) -> Result<axum::Json<RolloutDocument>> {
    Ok(axum::Json(app.export_rollout(id).await?))
}

/// Explain a device
///
/// Every condition between the device and the version in order, with its value and since when it stands so.
#[utoipa::path(get, path = "/v1/rollouts/{id}/devices/{device}", operation_id = "explainRollout", tag = "rollouts",
    params(
        ("id" = String, Path, description = "The rollout.", example = "r12"),
        ("device" = String, Path, description = "The device.", example = "gateway-17")),
    responses((status = 200, description = "The conditions; the first that does not hold is what it waits for.", body = Explanation)),
    security(("bearer" = ["viewer"])))]
async fn explain(
    _: Viewer,
    State(app): State<App>,
    At((id, device)): At<(RolloutId, DeviceId)>,
) -> Result<axum::Json<Explanation>> {
    Ok(axum::Json(app.explain_rollout(id, &device).await?))
}

/// List recalled versions
///
/// They are not offered again unless they are asked for by name.
#[utoipa::path(get, path = "/v1/recalled-versions", operation_id = "listRecalledVersions", tag = "rollouts",
    responses((status = 200, description = "The versions, by digest.", body = List<DeniedView>)),
    security(("bearer" = ["viewer"])))]
async fn denied(_: Viewer, State(app): State<App>) -> Result<axum::Json<List<DeniedView>>> {
    Ok(axum::Json(app.denied_versions().await?.into()))
}

/// Pause a rollout
///
/// Nothing more is offered until somebody resumes it.
#[utoipa::path(post, path = "/v1/rollouts/{id}/pause", operation_id = "pauseRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    request_body(content = RolloutReason),
    responses(
        (status = 200, description = "It is paused.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn pause(
    by: Operator,
    State(app): State<App>,
    At(id): At<RolloutId>,
    Json(body): Json<RolloutReason>,
) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.pause_rollout(id, body, &by.0).await?))
}

/// Abort a rollout
///
/// What has not switched is called off; what has goes back to what it had before, from its own store. Its version is not offered again unless it is asked for by name.
#[utoipa::path(post, path = "/v1/rollouts/{id}/abort", operation_id = "abortRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    request_body(content = RolloutReason),
    responses(
        (status = 200, description = "Devices are going back.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn abort(
    by: Operator,
    State(app): State<App>,
    At(id): At<RolloutId>,
    Json(body): Json<RolloutReason>,
) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.abort_rollout(id, body, &by.0).await?))
}

/// Roll a rollout back
///
/// The same for one that is complete or was ended.
#[utoipa::path(post, path = "/v1/rollouts/{id}/rollback", operation_id = "rollbackRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    request_body(content = RolloutReason),
    responses(
        (status = 200, description = "Devices are going back.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn rollback(
    by: Operator,
    State(app): State<App>,
    At(id): At<RolloutId>,
    Json(body): Json<RolloutReason>,
) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.roll_back_rollout(id, body, &by.0).await?))
}

/// Pass a stage without its gates
#[utoipa::path(post, path = "/v1/rollouts/{id}/skip", operation_id = "skipRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    request_body(content = RolloutReason),
    responses(
        (status = 200, description = "The next stage is under way.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn skip(
    by: Operator,
    State(app): State<App>,
    At(id): At<RolloutId>,
    Json(body): Json<RolloutReason>,
) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.skip_rollout(id, body, &by.0).await?))
}

/// Try failed devices again
#[utoipa::path(post, path = "/v1/rollouts/{id}/retry", operation_id = "retryRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    request_body(content = RolloutRetry),
    responses(
        (status = 200, description = "They are in line again.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn retry(
    by: Operator,
    State(app): State<App>,
    At(id): At<RolloutId>,
    Json(body): Json<RolloutRetry>,
) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.retry_rollout(id, body, &by.0).await?))
}

/// Approve a plan
///
/// It has to be the plan that was looked at, by its hash.
#[utoipa::path(post, path = "/v1/rollouts/{id}/approve", operation_id = "approveRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    request_body(content = RolloutApproval),
    responses(
        (status = 200, description = "The approval counts.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn approve(
    by: Operator,
    State(app): State<App>,
    At(id): At<RolloutId>,
    Json(body): Json<RolloutApproval>,
) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.approve_rollout(id, body, &by.0).await?))
}

/// Extend a rollout to another group
///
/// Its devices come after everybody who is in line.
#[utoipa::path(post, path = "/v1/rollouts/{id}/extend", operation_id = "extendRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    request_body(content = RolloutExtension),
    responses(
        (status = 200, description = "They are in line.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn extend(
    by: Operator,
    State(app): State<App>,
    At(id): At<RolloutId>,
    Json(body): Json<RolloutExtension>,
) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.extend_rollout(id, body, &by.0).await?))
}

/// Resume a rollout
///
/// What the gates hold against it counts as looked at; what comes is measured afresh.
#[utoipa::path(post, path = "/v1/rollouts/{id}/resume", operation_id = "resumeRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    responses(
        (status = 200, description = "It goes on.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn resume(by: Operator, State(app): State<App>, At(id): At<RolloutId>) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.resume_rollout(id, &by.0).await?))
}

/// Switch to what was fetched beforehand
#[utoipa::path(post, path = "/v1/rollouts/{id}/release", operation_id = "releaseRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    responses(
        (status = 200, description = "The stages switch now.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn release(by: Operator, State(app): State<App>, At(id): At<RolloutId>) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.release_rollout(id, &by.0).await?))
}

/// Cancel a rollout
///
/// No further device is offered it. Those that were keep it.
#[utoipa::path(post, path = "/v1/rollouts/{id}/cancel", operation_id = "cancelRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    responses(
        (status = 200, description = "It ended.", body = RolloutView),
        (status = 409, description = "It does not apply to the rollout as it stands.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn cancel(by: Operator, State(app): State<App>, At(id): At<RolloutId>) -> Result<axum::Json<RolloutView>> {
    Ok(axum::Json(app.cancel_rollout(id, &by.0).await?))
}
