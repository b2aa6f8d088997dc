//! What a caller is told when a request is not answered: `{"error", "code", "next_step"}` with a status.
//! Sentences name what was sent and what was wanted, never a file, a node or another request.

use axum::Json;
use axum::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use muster_proto::code::Code;
use serde_json::json;

use super::gate::Refusal;
use crate::engine::json::dictionary;
use crate::engine::{executor, json as tensors, model, script, transforms};

/// The most characters of what a caller sent that are sent back.
const MAX_QUOTE: usize = 80;
/// The most characters of a sentence, whatever of the request went into it.
const MAX_SENTENCE: usize = 1000;
/// When to try again after a full queue: the queue is emptied faster than that.
const BUSY_SECONDS: u16 = 1;
/// When to try again where a model is on its way.
const LOADING_SECONDS: u16 = 5;

/// What a response to an error carries inside this process, for protocols with a form of their own.
#[derive(Debug, Clone)]
pub struct Told {
    /// What is wrong.
    pub sentence: String,
}

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
    /// The route exists, with other verbs: these, or those that axum knows of.
    #[error("Method Not Allowed")]
    WrongVerb(Option<&'static str>),
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
    /// No key, or one that does not open the service. A retry with the same cannot help.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The caller has more under way than its share. A retry helps once some of it is done.
    #[error("{0}")]
    Share(String),
    /// The answer took longer than caller or service allow. A retry may help.
    #[error("no answer within the time that the request or the service allows")]
    Late,
    /// The scoring script does not take the request; its own words. A retry with the same cannot help.
    #[error("{0}")]
    Refused(String),
    /// The scoring script failed, as the code says. A retry with the same cannot help.
    #[error("the model's scoring script failed on this request ({0}); the agent's log has the details")]
    Script(Code),
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
            Error::BadRequest(_) | Error::Input(_) | Error::Refused(_) => StatusCode::BAD_REQUEST,
            Error::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Error::Share(_) => StatusCode::TOO_MANY_REQUESTS,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::WrongVerb(_) => StatusCode::METHOD_NOT_ALLOWED,
            Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Error::NotOffered(_) => StatusCode::NOT_IMPLEMENTED,
            Error::NotReady(_) | Error::NothingReady | Error::Busy | Error::Overloaded(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Late => StatusCode::GATEWAY_TIMEOUT,
            Error::InferenceFailed | Error::Script(_) | Error::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::BadRequest(_) | Error::WrongVerb(_) | Error::MediaType(_) | Error::NotOffered(_) => Code::BadRequest,
            Error::Input(_) => Code::InputInvalid,
            Error::Forbidden(_) => Code::Forbidden,
            Error::NotFound(_) => Code::NotFound,
            Error::TooLarge(_) => Code::TooLarge,
            Error::NotReady(_) | Error::NothingReady => Code::NoModel,
            Error::Unauthorized(_) => Code::Unauthorized,
            Error::Busy | Error::Overloaded(_) | Error::Share(_) | Error::Late => Code::Overloaded,
            Error::InferenceFailed => Code::InferenceFailed,
            Error::Refused(_) => Code::ScriptRefused,
            Error::Script(code) => *code,
            Error::Internal => Code::Internal,
        }
    }

    /// Seconds after which a retry may help.
    fn retry_after(&self) -> Option<u16> {
        match self {
            Error::NotReady(_) | Error::NothingReady => Some(LOADING_SECONDS),
            Error::Busy | Error::Overloaded(_) | Error::Share(_) => Some(BUSY_SECONDS),
            _ => None,
        }
    }

    /// The model called `name` does not exist here.
    pub fn unknown_model(name: &str) -> Self {
        Error::NotFound(format!("no slot or model is called {:?}; GET /v2/models lists them", clip(name)))
    }

    /// What is wrong, as it is sent.
    pub fn sentence(&self) -> String {
        clip_to(&self.to_string(), MAX_SENTENCE)
    }

    fn next_step(&self) -> &'static str {
        match self {
            Error::NotFound(_) => "GET / lists the routes, GET /v2/models the models",
            Error::WrongVerb(_) => "GET / lists the routes with their verbs",
            Error::Forbidden(_) => "call from a program instead of a web page, or use the Unix socket",
            Error::TooLarge(_) => "send fewer items in one request",
            Error::Unauthorized(_) => {
                "send the service's key as `Authorization: Bearer KEY`; `muster service keys` tells of them"
            }
            Error::Share(_) => "send fewer requests at once with this key",
            Error::Late => "send fewer items in one request, or try again when there is less to do",
            Error::MediaType(_) => "name the body's type in Content-Type and its encoding in Content-Encoding",
            Error::BadRequest(_) => "mend what the message names and send the request again",
            other => other.code().next_step(),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Share(_) => Error::Share(refusal.to_string()),
            Refusal::Full(_) | Refusal::Waited(_) => Error::Overloaded(refusal.to_string()),
            Refusal::Late => Error::Late,
        }
    }
}

impl From<executor::Error> for Error {
    fn from(error: executor::Error) -> Self {
        match error {
            executor::Error::NoModel(slot) => Error::NotReady(slot.to_string()),
            executor::Error::Overloaded(_) | executor::Error::ShuttingDown => Error::Overloaded(error.to_string()),
            executor::Error::Model(error) => error.into(),
            executor::Error::Script(error) => error.into(),
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

impl From<dictionary::Error> for Error {
    fn from(error: dictionary::Error) -> Self {
        match error {
            dictionary::Error::Syntax(text) => Error::BadRequest(text),
            dictionary::Error::Input(text) => Error::Input(text),
        }
    }
}

impl From<script::Error> for Error {
    fn from(error: script::Error) -> Self {
        match error {
            script::Error::Refused(text) => Error::Refused(text),
            script::Error::Input(_) => Error::Input(error.to_string()),
            other => {
                tracing::warn!(code = %other.code(), error = %other, "a scoring script failed");
                Error::Script(other.code())
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
        let sentence = self.sentence();
        let body = json!({"error": sentence, "code": self.code(), "next_step": self.next_step()});
        let mut response = (self.status(), Json(body)).into_response();
        if let Error::Unauthorized(_) = self {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Error::WrongVerb(Some(verbs)) = self {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(verbs));
        }
        response.extensions_mut().insert(Told { sentence });
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
