//! Uploads: raw files under their digest, before a registration names them.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use muster_proto::code::Code;
use muster_proto::id::Digest;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Operator;
use super::extract::At;
use super::problem::{Problem, Result};
use crate::app::{App, Uploaded};

/// How long an upload may stand still. There is no limit on the whole: a large file on a slow line takes hours.
const IDLE: Duration = Duration::from_secs(60);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(upload, find))
}

/// Upload a file
///
/// The body is the raw file. It is refused where its bytes have another digest, or are more than the limit. What no
/// registration uses within a day is deleted. The same file again is taken without harm.
#[utoipa::path(put, path = "/v1/uploads/{sha256}", operation_id = "uploadFile", tag = "uploads",
    params(("sha256" = String, Path, description = "The SHA-256 of the file, 64 lower-case hexadecimal digits.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is here.", body = Uploaded),
        (status = 422, description = "Its bytes have another digest.", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "The dispatcher's disk is full.", body = Problem, content_type = "application/problem+json")),
    security(("bearer" = ["operator"])))]
async fn upload(
    _: Operator,
    State(app): State<App>,
    At(digest): At<Digest>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let claimed = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let limit = app.upload_limit();
    // Told before the bytes travel; what comes without a length is cut off while it comes.
    if claimed.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let uploaded = app.upload_blob(digest, Box::pin(guarded(body))).await.map_err(|error| match error.code() {
        Code::TooLarge => too_large(limit),
        _ => error.into(),
    })?;
    Ok((StatusCode::CREATED, axum::Json(uploaded)).into_response())
}

/// The code's own step is for a device.
fn too_large(limit: u64) -> Problem {
    Problem::new(Code::TooLarge, format!("a file of a model has at most {limit} bytes"))
        .with_next("make the model smaller, or split its weights into several files")
}

/// The body's pieces, ended by an error where it stands still.
fn guarded(body: Body) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(body.into_data_stream()), |state| async {
        let mut body = state?;
        match tokio::time::timeout(IDLE, body.next()).await {
            Err(_) => {
                let still = io::Error::new(io::ErrorKind::TimedOut, "the upload stood still for a minute");
                Some((Err(still), None))
            }
            Ok(None) => None,
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
        }
    })
}

/// Is a file here?
#[utoipa::path(head, path = "/v1/uploads/{sha256}", operation_id = "findUpload", tag = "uploads",
    params(("sha256" = String, Path, description = "The SHA-256 of the file, 64 lower-case hexadecimal digits.")),
    responses((status = 200, description = "It is: it need not be uploaded.")),
    security(("bearer" = ["operator"])))]
async fn find(_: Operator, State(app): State<App>, At(digest): At<Digest>) -> Result<StatusCode> {
    match app.find_blob(digest).await? {
        Some(_) => Ok(StatusCode::OK),
        None => Err(Problem::new(Code::NotFound, format!("there is no upload {digest}"))),
    }
}
