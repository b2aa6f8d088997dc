//! API keys: make, list, delete. Secrets are shown once and kept hashed.

use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::{Admin, Viewer};
use super::extract::{At, Json};
use super::problem::{Problem, Result};
use crate::app::{App, CreatedKey, KeyRequest, KeyView};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(delete))
}

/// List API keys
#[utoipa::path(get, path = "/v1/keys", operation_id = "listKeys", tag = "keys",
    responses((status = 200, description = "The keys, without secrets.", body = List<KeyView>)),
    security(("bearer" = ["viewer"])))]
async fn list(_: Viewer, State(app): State<App>) -> Result<axum::Json<List<KeyView>>> {
    Ok(axum::Json(app.list_keys().await?.into()))
}

/// Make an API key
///
/// The token is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/keys", operation_id = "createKey", tag = "keys",
    request_body(content = KeyRequest, example = json!({ "name": "ci", "role": "operator", "ttl_seconds": 7_776_000 })),
    responses((status = 201, description = "The key with its token.", body = CreatedKey)),
    security(("bearer" = ["admin"])))]
async fn create(
    by: Admin,
    State(app): State<App>,
    Json(request): Json<KeyRequest>,
) -> Result<(StatusCode, axum::Json<CreatedKey>)> {
    Ok((StatusCode::CREATED, axum::Json(app.create_key(request, &by.0).await?)))
}

/// Delete an API key
///
/// Its token opens nothing from now on.
#[utoipa::path(delete, path = "/v1/keys/{id}", operation_id = "deleteKey", tag = "keys",
    params(("id" = String, Path, description = "The key's id, as the list shows it.")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 409, description = "It is the last administrator's.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["admin"])))]
async fn delete(by: Admin, State(app): State<App>, At(id): At<String>) -> Result<StatusCode> {
    app.delete_key(&id, &by.0).await?;
    Ok(StatusCode::NO_CONTENT)
}
