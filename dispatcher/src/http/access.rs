//! What every request passes: its id, its line in the log, and the time that it may take.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use muster_proto::code::Code;
use tracing::Instrument as _;

use super::problem::Problem;
use crate::app::Principal;

/// The header that carries a request's id in and out.
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long an ordinary request may take until its answer begins.
const USUAL: Duration = Duration::from_secs(60);
/// How long a registration may take: the engine loads and runs the model, which takes minutes for large ones.
const REGISTRATION: Duration = Duration::from_secs(30 * 60);

/// Gives the request an id, the caller's where it has one, and logs its outcome. Neither headers nor queries are
/// logged: a token may stand in both.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let method = request.method().clone();
    let reads = method.is_safe();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unknown".to_owned());
    let started = Instant::now();
    let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, took_ms) = (response.status().as_u16(), started.elapsed().as_millis() as u64);
    let caller = response.extensions().get::<Principal>().map_or("-", |principal| principal.name.as_str());
    // What changes something is told; dashboards and probes that read every few seconds are not, unless asked for.
    match (status, reads) {
        (500.., _) => tracing::warn!(parent: &span, %method, route, status, took_ms, caller, "answered"),
        (_, true) => tracing::debug!(parent: &span, %method, route, status, took_ms, caller, "answered"),
        (_, false) => tracing::info!(parent: &span, %method, route, status, took_ms, caller, "answered"),
    }
    response.headers_mut().insert(REQUEST_ID.clone(), id);
    response
}

/// Ends a request whose answer does not begin in time, so that a slow body cannot hold a connection for ever.
pub(super) async fn limit_time(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let limit = match (request.method(), route) {
        // It has a limit per piece of its own, since a large file takes its time.
        (&Method::PUT, Some("/v1/uploads/{sha256}")) => return next.run(request).await,
        (&Method::POST, Some("/v1/models")) => REGISTRATION,
        _ => USUAL,
    };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::Overloaded, format!("no answer within {} seconds", limit.as_secs()))
            .with_next("try again; the dispatcher is busy or the connection slow")
            .into_response(),
    }
}

/// The caller's id if it is harmless in a log, else a random one.
fn request_id(request: &Request) -> HeaderValue {
    let harmless = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=64).contains(&bytes.len()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    if let Some(id) = request.headers().get(&REQUEST_ID).filter(harmless) {
        return id.clone();
    }
    let mut random = [0u8; 8];
    // Without randomness the id is all zeros, which harms nothing: it only tells requests apart.
    let _ = getrandom::fill(&mut random);
    HeaderValue::from_str(&hex::encode(random)).expect("hexadecimal digits fit a header")
}
