//! The model repository as any TUF client expects it: metadata and targets with consistent snapshots, and beside it
//! the director's root.
//!
//! A client walks the chain of roots until it is answered 404.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderName, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Viewer;
use super::extract::At;
use super::problem::Result;
use crate::app::App;

/// Metadata or a target, not to be kept by any cache in between: freshness is what it is for.
type File = ([(HeaderName, &'static str); 2], Bytes);

fn file(bytes: Bytes) -> File {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], bytes)
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metadata)).routes(routes!(director)).routes(routes!(target))
}

/// TUF metadata
///
/// `timestamp.json`, `N.snapshot.json`, `N.targets.json`, `N.root.json`.
#[utoipa::path(get, path = "/tuf/metadata/{file}", operation_id = "tufMetadata", tag = "tuf",
    params(("file" = String, Path, description = "The file.", example = "timestamp.json")),
    responses((status = 200, description = "Signed metadata.", body = Object, content_type = "application/json")),
    security(("bearer" = ["viewer"])))]
async fn metadata(_: Viewer, State(app): State<App>, At(name): At<String>) -> Result<File> {
    Ok(file(app.tuf_metadata(&name).await?))
}

/// The director's metadata
///
/// `N.root.json`: the keys that sign what each device shall run.
#[utoipa::path(get, path = "/tuf/director/{file}", operation_id = "tufDirector", tag = "tuf",
    params(("file" = String, Path, description = "The file.", example = "1.root.json")),
    responses((status = 200, description = "Signed metadata.", body = Object, content_type = "application/json")),
    security(("bearer" = ["viewer"])))]
async fn director(_: Viewer, State(app): State<App>, At(name): At<String>) -> Result<File> {
    Ok(file(app.tuf_metadata(&format!("director/{name}")).await?))
}

/// A TUF target
///
/// The manifest of a version. The path has slashes: `vision/digits/2/DIGEST.manifest`, or without the digest.
#[utoipa::path(get, path = "/tuf/targets/{*path}", operation_id = "tufTarget", tag = "tuf",
    params(("path" = String, Path, description = "The target's path.", example = "vision/digits/2/manifest")),
    responses((status = 200, description = "The target.", body = Object, content_type = "application/json")),
    security(("bearer" = ["viewer"])))]
async fn target(_: Viewer, State(app): State<App>, At(path): At<String>) -> Result<File> {
    Ok(file(app.tuf_target(&path).await?))
}
