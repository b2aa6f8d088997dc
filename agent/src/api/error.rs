//! What a caller is told when a request is not answered: `{"error", "code", "next_step"}` with a status.
//! Sentences name what was sent and what was wanted, never a file, a node or another request.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use muster_proto::code::Code;
use serde_json::json;

use crate::engine::{executor, json as tensors, model, transforms};

/// The most characters of what a caller sent that are sent back.
const MAX_QUOTE: usize = 80;
/// The most characters of a sentence, whatever of the request went into it.
const MAX_SENTENCE: usize = 1000;
/// When to try again after a full queue: the queue is emptied faster than that.
const BUSY_SECONDS: u16 = 1;
/// When to try again where a model is on its way.
const LOADING_SECONDS: u16 = 5;

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule of the protocol. A retry with the same cannot help.
    #[error("{0}")]
    BadRequest(String),
    /// The inputs do not fit the model. A retry with the same cannot help.
    #[error("{0}")]
    Input(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such route, model or version.
    #[error("{0}")]
    NotFound(String),
    /// The route exists, with another verb.
    #[error("Method Not Allowed")]
    WrongVerb,
    /// The body is over its limit, as sent or unpacked.
    #[error("the body is over the limit of {0} bytes")]
    TooLarge(usize),
    /// The body is of a type or encoding that nobody reads here.
    #[error("{0}")]
    MediaType(String),
    /// The route belongs to the protocol and is not offered.
    #[error("{0} is not offered here")]
    NotOffered(&'static str),
    /// The slot is known and has no model yet. A retry helps once it has.
    #[error("no model answers in slot {0} yet")]
    NotReady(String),
    /// Nothing is ready at all. A retry helps once something is.
    #[error("no slot has a model yet")]
    NothingReady,
    /// Too much is held for other requests. A retry helps.
    #[error("too many large requests at once")]
    Busy,
    /// The queue is full, or the agent is going away. A retry helps.
    #[error("{0}")]
    Overloaded(String),
    /// The answer took too long. A retry may help.
    #[error("no answer within {0} ms")]
    Late(u128),
    /// The model failed on inputs that fit it. A retry with the same cannot help.
    #[error("the model failed on these inputs; the agent's log has the details")]
    InferenceFailed,
    /// A mistake of this program.
    #[error("something went wrong here; the agent's log has the details")]
    Internal,
}

impl Error {
    /// The status that the caller gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Error::BadRequest(_) | Error::Input(_) => StatusCode::BAD_REQUEST,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::WrongVerb => StatusCode::METHOD_NOT_ALLOWED,
            Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Error::NotOffered(_) => StatusCode::NOT_IMPLEMENTED,
            Error::NotReady(_) | Error::NothingReady | Error::Busy | Error::Overloaded(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            Error::InferenceFailed | Error::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::BadRequest(_) | Error::WrongVerb | Error::MediaType(_) | Error::NotOffered(_) => Code::BadRequest,
            Error::Input(_) => Code::InputInvalid,
            Error::Forbidden(_) => Code::Forbidden,
            Error::NotFound(_) => Code::NotFound,
            Error::TooLarge(_) => Code::TooLarge,
            Error::NotReady(_) | Error::NothingReady => Code::NoModel,
            Error::Busy | Error::Overloaded(_) | Error::Late(_) => Code::Overloaded,
            Error::InferenceFailed => Code::InferenceFailed,
            Error::Internal => Code::Internal,
        }
    }

    /// Seconds after which a retry may help.
    fn retry_after(&self) -> Option<u16> {
        match self {
            Error::NotReady(_) | Error::NothingReady => Some(LOADING_SECONDS),
            Error::Busy | Error::Overloaded(_) => Some(BUSY_SECONDS),
            _ => None,
        }
    }

    /// The model called `name` does not exist here.
    pub fn unknown_model(name: &str) -> Self {
        Error::NotFound(format!("no slot or model is called {:?}; GET /v2/models lists them", clip(name)))
    }

    fn next_step(&self) -> &'static str {
        match self {
            Error::NotFound(_) => "GET / lists the routes, GET /v2/models the models",
            Error::WrongVerb => "GET / lists the routes with their verbs",
            Error::Forbidden(_) => "call from a program instead of a web page, or use the Unix socket",
            Error::TooLarge(_) => "send fewer items in one request",
            Error::Late(_) => "send fewer items in one request, or try again when there is less to do",
            Error::MediaType(_) => "name the body's type in Content-Type and its encoding in Content-Encoding",
            Error::BadRequest(_) => "mend what the message names and send the request again",
            other => other.code().next_step(),
        }
    }
}

impl From<executor::Error> for Error {
    fn from(error: executor::Error) -> Self {
        match error {
            executor::Error::NoModel(slot) => Error::NotReady(slot.to_string()),
            executor::Error::Overloaded(_) | executor::Error::ShuttingDown => Error::Overloaded(error.to_string()),
            executor::Error::Model(error) => error.into(),
        }
    }
}

impl From<model::Error> for Error {
    fn from(error: model::Error) -> Self {
        match error {
            model::Error::InputInvalid { .. } => Error::Input(error.to_string()),
            other => {
                tracing::warn!(code = %other.code(), error = %other, "an inference failed");
                Error::InferenceFailed
            }
        }
    }
}

impl From<tensors::Error> for Error {
    fn from(error: tensors::Error) -> Self {
        Error::Input(error.to_string())
    }
}

impl From<transforms::Error> for Error {
    fn from(error: transforms::Error) -> Self {
        Error::Input(error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = json!({"error": clip_to(&self.to_string(), MAX_SENTENCE), "code": self.code(), "next_step": self.next_step()});
        let mut response = (self.status(), Json(body)).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What a caller sent, short enough to be sent back.
pub fn clip(text: &str) -> String {
    clip_to(text, MAX_QUOTE)
}

fn clip_to(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
