//! Services: versions as REST endpoints.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_proto::code::Code;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::{Operator, Viewer};
use super::extract::{At, Json, Params};
use super::problem::{Problem, Result};
use crate::app::{
    App, CreatedService, DELETION, Delete, Deletion, MadeServiceKey, RenderedFile, ServiceDocument, ServiceForm,
    ServiceKeyView, ServiceUpdate, ServiceView, WhichKey,
};
use crate::services::Request;

/// The longest that a caller may wait for a change.
const MAX_WAIT: u64 = 25;
const MAX_LINES: usize = 10_000;
const USUAL_LINES: usize = 100;
/// The largest body for a service that goes through the dispatcher, in bytes.
const MAX_BODY: usize = 16 << 20;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change, delete))
        .routes(routes!(promote))
        .routes(routes!(roll_back))
        .routes(routes!(keys))
        .routes(routes!(regenerate))
        .routes(routes!(log))
        .routes(routes!(render))
        .merge(OpenApiRouter::new().routes(routes!(score, usage)).layer(DefaultBodyLimit::max(MAX_BODY)))
}

/// List services
#[utoipa::path(get, path = "/v1/services", operation_id = "listServices", tag = "services",
    responses((status = 200, description = "The services and how they are.", body = List<ServiceView>)),
    security(("bearer" = ["viewer"])))]
async fn list(_: Viewer, State(app): State<App>) -> Result<axum::Json<List<ServiceView>>> {
    Ok(axum::Json(app.list_services().await?.into()))
}

/// Make a service
///
/// Its keys are in this answer and nowhere else. It answers once its state is `Healthy`.
#[utoipa::path(post, path = "/v1/services", operation_id = "createService", tag = "services",
    request_body = ServiceDocument,
    responses(
        (status = 201, description = "The service with its keys.", body = CreatedService),
        (status = 409, description = "There is one of that name.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn create(
    by: Operator,
    State(app): State<App>,
    Json(document): Json<ServiceDocument>,
) -> Result<(StatusCode, axum::Json<CreatedService>)> {
    Ok((StatusCode::CREATED, axum::Json(app.create_service(document, &by.0).await?)))
}

/// Show a service
#[utoipa::path(get, path = "/v1/services/{service}", operation_id = "showService", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits"),
        ("wait_seconds" = Option<u64>, Query, description = "Answer only once something changed, or after so many seconds; at most 25.")),
    responses((status = 200, description = "The service and how it is.", body = ServiceView)),
    security(("bearer" = ["viewer"])))]
async fn show(
    _: Viewer,
    State(app): State<App>,
    At(name): At<String>,
    query: Params,
) -> Result<axum::Json<ServiceView>> {
    match query.only(&["wait_seconds"])?.one::<u64>("wait_seconds")?.unwrap_or(0) {
        0 => Ok(axum::Json(app.show_service(&name).await?)),
        seconds => {
            let limit = Duration::from_secs(seconds.min(MAX_WAIT));
            Ok(axum::Json(app.wait_for_service(&name, limit).await?))
        }
    }
}

/// Change a service
///
/// Another version, at first for a share of the requests where `canary` says so, or other settings. Address and keys
/// stay, and no request fails.
#[utoipa::path(patch, path = "/v1/services/{service}", operation_id = "updateService", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits")),
    request_body = ServiceUpdate,
    responses((status = 200, description = "The service.", body = ServiceView)),
    security(("bearer" = ["operator"])))]
async fn change(
    by: Operator,
    State(app): State<App>,
    At(name): At<String>,
    Json(change): Json<ServiceUpdate>,
) -> Result<axum::Json<ServiceView>> {
    Ok(axum::Json(app.update_service(&name, change, &by.0).await?))
}

/// Delete a service
#[utoipa::path(delete, path = "/v1/services/{service}", operation_id = "deleteService", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits"),
        ("forget" = Option<bool>, Query, description = "Do not wait for its cluster, where something of it may stay."),
        ("wait_seconds" = Option<u64>, Query, description = "How long to wait until nothing is left; 20 unless given, at most 25.")),
    responses((status = 204, description = "It answers no more."),
        (status = 202, description = "It is deleted once its cluster answers, also after a restart.")),
    security(("bearer" = ["operator"])))]
async fn delete(by: Operator, State(app): State<App>, At(name): At<String>, query: Params) -> Result<StatusCode> {
    let query = query.only(&["forget", "wait_seconds"])?;
    let forget = query.one("forget")?.unwrap_or(false);
    let limit = query.one::<u64>("wait_seconds")?.map(|seconds| Duration::from_secs(seconds.min(MAX_WAIT)));
    let deletion = Delete { forget, limit: limit.unwrap_or(DELETION) };
    Ok(match app.delete_service(&name, deletion, &by.0).await? {
        Deletion::Done => StatusCode::NO_CONTENT,
        Deletion::UnderWay => StatusCode::ACCEPTED,
    })
}

/// Promote the canary
///
/// It answers all requests from now on.
#[utoipa::path(post, path = "/v1/services/{service}/promote", operation_id = "promoteService", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits")),
    responses(
        (status = 200, description = "The service.", body = ServiceView),
        (status = 409, description = "There is no canary.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn promote(by: Operator, State(app): State<App>, At(name): At<String>) -> Result<axum::Json<ServiceView>> {
    Ok(axum::Json(app.promote_service(&name, &by.0).await?))
}

/// Go back
///
/// The canary is given up; without one, the version before answers again.
#[utoipa::path(post, path = "/v1/services/{service}/rollback", operation_id = "rollBackService", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits")),
    responses(
        (status = 200, description = "The service.", body = ServiceView),
        (status = 409, description = "There is nothing to go back to.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn roll_back(by: Operator, State(app): State<App>, At(name): At<String>) -> Result<axum::Json<ServiceView>> {
    Ok(axum::Json(app.roll_back_service(&name, &by.0).await?))
}

/// List a service's keys
///
/// How they begin and when they were made; keys are stored hashed.
#[utoipa::path(get, path = "/v1/services/{service}/keys", operation_id = "listServiceKeys", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits")),
    responses((status = 200, description = "The keys, without secrets.", body = List<ServiceKeyView>)),
    security(("bearer" = ["viewer"])))]
async fn keys(_: Viewer, State(app): State<App>, At(name): At<String>) -> Result<axum::Json<List<ServiceKeyView>>> {
    Ok(axum::Json(app.service_keys(&name).await?.into()))
}

/// Make a key anew
///
/// The other one goes on, so that callers can be moved without an outage.
#[utoipa::path(post, path = "/v1/services/{service}/keys/{which}", operation_id = "regenerateServiceKey", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits"),
        ("which" = String, Path, description = "Which key: primary or secondary.", example = "secondary")),
    responses((status = 200, description = "The key; it is shown here and nowhere else.", body = MadeServiceKey)),
    security(("bearer" = ["operator"])))]
async fn regenerate(
    by: Operator,
    State(app): State<App>,
    At((name, which)): At<(String, WhichKey)>,
) -> Result<axum::Json<MadeServiceKey>> {
    Ok(axum::Json(app.regenerate_key(&name, which, &by.0).await?))
}

/// Read a service's log
#[utoipa::path(get, path = "/v1/services/{service}/log", operation_id = "readServiceLog", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits"),
        ("lines" = Option<usize>, Query, description = "The last so many lines; 100 by default, at most 10000.")),
    responses((status = 200, description = "The last lines, one JSON object each.", body = String, content_type = "text/plain")),
    security(("bearer" = ["viewer"])))]
async fn log(_: Viewer, State(app): State<App>, At(name): At<String>, query: Params) -> Result<String> {
    let lines = query.only(&["lines"])?.one("lines")?.unwrap_or(USUAL_LINES);
    Ok(app.service_log(&name, lines.min(MAX_LINES)).await?)
}

/// Write a service for another runtime
///
/// The files hold the hashes of its keys, never the keys.
#[utoipa::path(get, path = "/v1/services/{service}/render/{form}", operation_id = "renderService", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits"),
        ("form" = String, Path, description = "The runtime: kubernetes, aci, iot_edge, compose, systemd.", example = "kubernetes"),
        ("image" = Option<String>, Query, description = "The image that holds the version.", example = "registry.example/digits:1")),
    responses((status = 200, description = "The files.", body = List<RenderedFile>)),
    security(("bearer" = ["viewer"])))]
async fn render(
    _: Viewer,
    State(app): State<App>,
    At((name, form)): At<(String, ServiceForm)>,
    query: Params,
) -> Result<axum::Json<List<RenderedFile>>> {
    let image = query.only(&["image"])?.one("image")?;
    Ok(axum::Json(app.render_service(&name, form, image).await?.into()))
}

/// Ask a service as its operator
///
/// Takes what the service's `/score` takes, and needs none of its keys. For trying out: applications ask the service
/// itself.
#[utoipa::path(post, path = "/v1/services/{service}/score", operation_id = "scoreService", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits")),
    request_body(content = Object, description = "A dictionary of the model's inputs."),
    responses(
        (status = 200, description = "The service's answer.", body = Object),
        (status = 503, description = "The service does not answer.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn score(
    _: Operator,
    State(app): State<App>,
    At(name): At<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).map(str::to_owned);
    forward(
        &app,
        &name,
        Request { method: "POST", path: format!("/score/{name}"), key: None, content_type: kind, body },
    )
    .await
}

/// How to ask a service
///
/// What its `/score` takes, and an example from the model's golden samples.
#[utoipa::path(get, path = "/v1/services/{service}/score", operation_id = "serviceUsage", tag = "services",
    params(("service" = String, Path, description = "The service.", example = "digits")),
    responses(
        (status = 200, description = "Inputs, outputs and an example.", body = Object),
        (status = 503, description = "The service does not answer.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["viewer"])))]
async fn usage(_: Viewer, State(app): State<App>, At(name): At<String>) -> Result<Response> {
    let path = format!("/score/{name}");
    forward(&app, &name, Request { method: "GET", path, key: None, content_type: None, body: Bytes::new() }).await
}

async fn forward(app: &App, name: &str, request: Request) -> Result<Response> {
    let answer = app.ask_service(name, request).await?;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    if status.is_success() {
        let kind = answer.content_type.unwrap_or_else(|| "application/json".into());
        return Ok((status, [(header::CONTENT_TYPE, kind)], answer.body).into_response());
    }
    #[derive(Deserialize)]
    struct Told {
        error: String,
        code: Code,
    }
    match serde_json::from_slice::<Told>(&answer.body) {
        Ok(told) => Err(Problem::new(told.code, told.error).with_status(status)),
        Err(_) => Err(Problem::new(Code::Internal, format!("the service answered {status}"))),
    }
}
