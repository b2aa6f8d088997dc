//! Models: list, register, show, download, tag, delete.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_proto::id::{Digest, ModelName, Version};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::{Operator, Viewer};
use super::extract::{At, Json, Params};
use super::problem::{Problem, Result};
use crate::app::{App, Download, ModelFilter, ModelSummary, ModelView, Registered, Registration};

/// A change of a version's tags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({ "set": { "stage": "production" }, "remove": ["candidate"] }))]
pub struct TagChange {
    /// Tags to set.
    pub set: BTreeMap<String, String>,
    /// Tags to remove.
    pub remove: Vec<String>,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, register))
        .routes(routes!(newest))
        .routes(routes!(show, delete))
        .routes(routes!(tag))
        .routes(routes!(manifest))
        .routes(routes!(file))
}

/// List versions
///
/// Every version that matches all filters, by name and then version.
#[utoipa::path(get, path = "/v1/models", operation_id = "listModels", tag = "models",
    params(
        ("name" = Option<String>, Query, description = "Only this model, or with a trailing `*` those whose names begin so."),
        ("tag" = Option<Vec<String>>, Query, description = "Only versions with this tag, as `key=value` or `key`. Repeats.", example = json!(["stage=production"])),
        ("property" = Option<Vec<String>>, Query, description = "Only versions with this property, as `key=value` or `key`. Repeats.")),
    responses((status = 200, description = "The versions.", body = List<ModelSummary>)),
    security(("bearer" = ["viewer"])))]
async fn list(_: Viewer, State(app): State<App>, query: Params) -> Result<axum::Json<List<ModelSummary>>> {
    let query = query.only(&["name", "tag", "property"])?;
    let filter =
        ModelFilter { name: query.one("name")?, tags: query.pairs("tag"), properties: query.pairs("property") };
    Ok(axum::Json(app.list_models(&filter).await?.into()))
}

/// Register a version
///
/// Loads the uploaded files with the devices' engine, runs the samples, signs the result. All or nothing; the same
/// content again answers 200 with the version that has it. Each file has to be uploaded before.
#[utoipa::path(post, path = "/v1/models", operation_id = "registerModel", tag = "models",
    request_body(content = Registration, example = json!({
        "name": "vision/digits",
        "files": [{ "path": "digits.onnx", "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }],
        "description": "8 × 8 handwritten digits",
        "tags": { "stage": "candidate" }
    })),
    responses(
        (status = 201, description = "A new version.", body = Registered),
        (status = 200, description = "The content was registered before.", body = Registered),
        (status = 409, description = "A file is not uploaded.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The engine cannot run it, or an output differs from the one given.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn register(by: Operator, State(app): State<App>, Json(body): Json<Registration>) -> Result<Response> {
    let registered = app.register_model(body, &by.0).await?;
    let status = if registered.already_registered { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, axum::Json(registered)).into_response())
}

/// Show the newest version
#[utoipa::path(get, path = "/v1/models/{name}", operation_id = "showModel", tag = "models",
    params(("name" = String, Path, description = "The model, with `/` written `%2F`.", example = "vision%2Fdigits")),
    responses((status = 200, description = "The version.", body = ModelView)),
    security(("bearer" = ["viewer"])))]
async fn newest(_: Viewer, State(app): State<App>, At(name): At<ModelName>) -> Result<axum::Json<ModelView>> {
    Ok(axum::Json(app.show_model(&name, None).await?))
}

/// Show a version
#[utoipa::path(get, path = "/v1/models/{name}/versions/{version}", operation_id = "showVersion", tag = "models",
    params(
        ("name" = String, Path, description = "The model, with `/` written `%2F`.", example = "vision%2Fdigits"),
        ("version" = u64, Path, description = "The version.", example = 2)),
    responses((status = 200, description = "The version.", body = ModelView)),
    security(("bearer" = ["viewer"])))]
async fn show(
    _: Viewer,
    State(app): State<App>,
    At((name, version)): At<(ModelName, Version)>,
) -> Result<axum::Json<ModelView>> {
    Ok(axum::Json(app.show_model(&name, Some(version)).await?))
}

/// Delete a version
///
/// Refused while any device, rollout or service desires it; `blockers` says which. Its number is never used again.
#[utoipa::path(delete, path = "/v1/models/{name}/versions/{version}", operation_id = "deleteVersion", tag = "models",
    params(
        ("name" = String, Path, description = "The model, with `/` written `%2F`.", example = "vision%2Fdigits"),
        ("version" = u64, Path, description = "The version.", example = 1)),
    responses(
        (status = 204, description = "It is gone."),
        (status = 409, description = "It is still desired.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn delete(
    by: Operator,
    State(app): State<App>,
    At((name, version)): At<(ModelName, Version)>,
) -> Result<StatusCode> {
    app.delete_model(&name, version, &by.0).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change a version's tags
///
/// Tags are notes of the dispatcher: unlike properties they are not signed, and may change at any time.
#[utoipa::path(patch, path = "/v1/models/{name}/versions/{version}/tags", operation_id = "tagVersion", tag = "models",
    params(
        ("name" = String, Path, description = "The model, with `/` written `%2F`.", example = "vision%2Fdigits"),
        ("version" = u64, Path, description = "The version.", example = 2)),
    request_body = TagChange,
    responses((status = 200, description = "All tags.", body = BTreeMap<String, String>)),
    security(("bearer" = ["operator"])))]
async fn tag(
    by: Operator,
    State(app): State<App>,
    At((name, version)): At<(ModelName, Version)>,
    Json(change): Json<TagChange>,
) -> Result<axum::Json<BTreeMap<String, String>>> {
    Ok(axum::Json(app.tag_model(&name, version, change.set, change.remove, &by.0).await?))
}

/// Download the signed manifest
///
/// The exact bytes whose digest the TUF repository names.
#[utoipa::path(get, path = "/v1/models/{name}/versions/{version}/manifest", operation_id = "downloadManifest", tag = "models",
    params(
        ("name" = String, Path, description = "The model, with `/` written `%2F`.", example = "vision%2Fdigits"),
        ("version" = u64, Path, description = "The version.", example = 2)),
    responses((status = 200, description = "The manifest.", body = Object, content_type = "application/json")),
    security(("bearer" = ["viewer"])))]
async fn manifest(
    _: Viewer,
    State(app): State<App>,
    At((name, version)): At<(ModelName, Version)>,
) -> Result<Response> {
    let bytes = app.download_manifest(&name, version).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

/// Download a file of a version
///
/// The raw file. Compare its digest: the header `etag` names it as well.
#[utoipa::path(get, path = "/v1/models/{name}/versions/{version}/files/{digest}", operation_id = "downloadFile", tag = "models",
    params(
        ("name" = String, Path, description = "The model, with `/` written `%2F`.", example = "vision%2Fdigits"),
        ("version" = u64, Path, description = "The version.", example = 2),
        ("digest" = String, Path, description = "The file's SHA-256 as the manifest names it.")),
    responses((status = 200, description = "The file.", body = Vec<u8>, content_type = "application/octet-stream")),
    security(("bearer" = ["viewer"])))]
async fn file(
    _: Viewer,
    State(app): State<App>,
    At((name, version, digest)): At<(ModelName, Version, Digest)>,
) -> Result<Response> {
    Ok(stream(app.download_file(&name, version, digest).await?))
}

/// A file as an answer of known length.
fn stream(download: Download) -> Response {
    let name = download.path.rsplit('/').next().unwrap_or_default();
    // What is not plain ASCII, or could end the quotes, is replaced: the name is a convenience for browsers.
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")).ok();
    let mut response = Body::from_stream(download.body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, download.size.into());
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", download.digest)) {
        headers.insert(header::ETAG, etag);
    }
    if let Some(disposition) = disposition {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}
