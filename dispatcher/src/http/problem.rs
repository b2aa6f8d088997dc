//! Errors as RFC 9457 problem details, with the stable code and what a person does next.
//!
//! It owns which status a code has. What is internal is logged here and not told to the caller.

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use muster_proto::code::Code;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, and what to do next (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "type": "/problems/not_found",
    "title": "Not found",
    "status": 404,
    "detail": "there is no model digits",
    "code": "not_found",
    "next": "check the name; the content may have been deleted"
}))]
pub struct Problem {
    /// `/problems/` and the code, relative to the dispatcher.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// The stable code.
    #[schema(value_type = String)]
    pub code: Code,
    /// What to do next.
    pub next: String,
    /// What stands in the way, one entry each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
}

/// The outcome of a handler.
pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    /// A problem with the status and the next step that `code` has.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/problems/{code}"),
            title: title(code),
            status: status(code).as_u16(),
            detail: detail.into(),
            code,
            next: code.next_step().to_owned(),
            blockers: Vec::new(),
        }
    }

    /// With a status that says more than the code's own.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status.as_u16();
        self
    }

    /// With a next step that says more than the code's own.
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// A request that breaks a rule.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }
}

impl From<app::Error> for Problem {
    fn from(error: app::Error) -> Self {
        if let app::Error::Internal { what, source } = &error {
            tracing::error!(what, error = %chain(source.as_ref()), "request failed");
        }
        let mut problem = Self::new(error.code(), error.to_string());
        problem.blockers = error.blockers().to_vec();
        if problem.code == Code::DiskFull {
            // The code's own step is for a device.
            problem.next = "free some space where the dispatcher keeps its data, then send the same again".into();
        }
        if let app::Error::Internal { .. } = error {
            problem.next =
                "try again; if it stays so, look for this request's x-request-id in the dispatcher's log".into();
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"muster\""));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// The status that goes with a code.
fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest | Code::InputInvalid | Code::MessageInvalid => StatusCode::BAD_REQUEST,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound | Code::NoModel => StatusCode::NOT_FOUND,
        Code::Conflict | Code::Superseded | Code::AlreadyRefused => StatusCode::CONFLICT,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        Code::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal | Code::StoreFailed | Code::InferenceFailed => StatusCode::INTERNAL_SERVER_ERROR,
        // The rest says what is wrong with the content that the caller sent.
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// `not_found` as "Not found".
fn title(code: Code) -> String {
    let words = code.to_string().replace('_', " ");
    let mut chars = words.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What a problem's `type` leads to: the code's number and next step in words.
pub(super) async fn describe(Path(name): Path<String>) -> Result<String> {
    let code =
        Code::from_name(&name).ok_or_else(|| Problem::new(Code::NotFound, format!("there is no code {name:?}")))?;
    Ok(format!("{} ({}, {})\n\nWhat to do next: {}\n", title(code), code.name(), code.number(), code.next_step()))
}

/// Answers where no route matches.
pub(super) async fn unknown_route(method: Method, uri: Uri) -> Problem {
    Problem::new(Code::NotFound, format!("there is no route {method} {}", uri.path()))
        .with_next("look at /openapi.json for the routes that there are; a / inside a model's name is written %2F")
}

/// Answers where the route has no such method. The caller sees those that it has in `Allow`.
pub(super) async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::bad_request(format!("{} does not take {method}", uri.path()))
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
        .with_next("use a method that the header Allow names")
}
