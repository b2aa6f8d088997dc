//! The Allow header of answers with 405, which RFC 9110 asks for, on routes for many paths that have GET
//! and POST, of which each path takes one. axum names the verbs of the others.

use axum::extract::Request;
use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

/// Names the other verb where one of the two is refused.
pub async fn allow(request: Request, next: Next) -> Response {
    let other = match *request.method() {
        Method::POST => "GET,HEAD",
        Method::GET | Method::HEAD => "POST",
        // Both are named for any other, by axum.
        _ => return next.run(request).await,
    };
    let mut response = next.run(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(other));
    }
    response
}
