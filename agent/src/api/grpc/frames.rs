//! What happens to a call before its messages are decoded: bodies are taken message by message, counted against
//! the budget as their bytes arrive, unpacked and weighed. A length that a caller claims allocates nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use bytes::BytesMut;
use futures_util::{StreamExt, stream};
use tonic::Status;

use super::super::body::{Budget, Coding, Held};
use super::super::error::{Error, clip};
use super::super::{Api, compute};
use super::status::{Deadline, timeout};
use super::weigh;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const SERVICE: &str = "/inference.GRPCInferenceService/";
/// A flag, and a length in four bytes.
const PREFIX: usize = 5;
/// The largest message where a few words are wanted.
const SMALL: usize = 64 << 10;

/// What calls are checked against.
#[derive(Debug, Clone)]
pub struct Gate {
    api: Arc<Api>,
    small: Budget,
}

impl Gate {
    /// Inferences are counted against the budget of `api`.
    pub fn new(api: Arc<Api>) -> Self {
        Self { api, small: Budget::new(SMALL, SMALL) }
    }
}

/// What kind of messages a method takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A few words.
    Words,
    /// Words one after another.
    ManyWords,
    /// One inference.
    Inference,
    /// Inferences one after another.
    Inferences,
}

impl Kind {
    fn of(path: &str) -> Result<Self, Error> {
        let Some(method) = path.strip_prefix(SERVICE) else {
            let streams = path.ends_with("/ServerReflectionInfo") || path.ends_with("/Watch");
            return Ok(if streams { Kind::ManyWords } else { Kind::Words });
        };
        match method {
            "ModelInfer" => Ok(Kind::Inference),
            "ModelStreamInfer" => Ok(Kind::Inferences),
            "RepositoryModelLoad" | "RepositoryModelUnload" => {
                Err(Error::NotOffered("loading and unloading by request"))
            }
            "TraceSetting" => Err(Error::NotOffered("tracing by request")),
            "LogSettings" => Err(Error::NotOffered("changing the log by request")),
            other if other.contains("SharedMemory") => Err(Error::NotOffered("shared memory")),
            _ => Ok(Kind::Words),
        }
    }

    fn is_stream(self) -> bool {
        matches!(self, Kind::ManyWords | Kind::Inferences)
    }

    fn is_inference(self) -> bool {
        matches!(self, Kind::Inference | Kind::Inferences)
    }
}

/// Prepares a call, and bounds its time.
pub async fn receive(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let refused = |error: Error| Status::from(error).into_http();
    let (kind, request) = match prepare(&gate, request) {
        Ok(prepared) => prepared,
        Err(response) => return *response,
    };
    if kind.is_stream() {
        return next.run(request).await;
    }
    let deadline = request.extensions().get::<Deadline>().copied();
    let deadline = deadline.unwrap_or_else(|| Deadline::after(gate.api.time()));
    deadline.bound(next.run(request)).await.unwrap_or_else(refused)
}

fn prepare(gate: &Gate, request: Request) -> Result<(Kind, Request), Box<Response>> {
    let refused = |error: Error| Box::new(Status::from(error).into_http());
    let (mut head, body) = request.into_parts();
    let content = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !content.starts_with(b"application/grpc") {
        // Whoever does not speak gRPC gets an answer in HTTP.
        let error = Error::MediaType("this route takes gRPC: Content-Type application/grpc over HTTP/2".into());
        return Err(Box::new(axum::response::IntoResponse::into_response(error)));
    }
    let kind = Kind::of(head.uri.path()).map_err(refused)?;
    let coding = coding_of(&head.headers).map_err(|status| Box::new(status.into_http()))?;
    // Messages are unpacked here; answers are packed for those who pack what they ask.
    head.headers.remove(ENCODING);
    match coding {
        Some(coding) => head.headers.insert(ACCEPT, HeaderValue::from_static(coding.name())),
        None => head.headers.remove(ACCEPT),
    };
    let limit = timeout(&head.headers).map_err(refused)?;
    let most = gate.api.time();
    if !kind.is_stream() {
        head.extensions.insert(Deadline::after(limit.map_or(most, |limit| limit.min(most))));
    } else if let Some(limit) = limit {
        head.extensions.insert(Deadline::after(limit));
    }
    let (budget, largest) = match kind.is_inference() {
        true => (&gate.api.budget, gate.api.limits.body),
        false => (&gate.small, SMALL),
    };
    let held = Arc::new(Mutex::new(budget.hold()));
    // What is counted stays counted until the call has been answered.
    head.extensions.insert(Arc::clone(&held));
    let frames =
        Frames { body: body.into_data_stream(), read: BytesMut::new(), rest: None, held, coding, kind, largest, most };
    let body = Body::from_stream(stream::try_unfold(frames, Frames::next));
    Ok((kind, Request::from_parts(head, body)))
}

fn coding_of(headers: &HeaderMap) -> Result<Option<Coding>, Status> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(Coding::Gzip)),
        Some(b"deflate") => Ok(Some(Coding::Deflate)),
        Some(other) => {
            let name = clip(&String::from_utf8_lossy(other));
            let mut status =
                Status::unimplemented(format!("grpc-encoding {name:?} cannot be read, but gzip and deflate"));
            let known = tonic::metadata::MetadataValue::from_static("identity,gzip,deflate");
            status.metadata_mut().insert("grpc-accept-encoding", known);
            Err(status)
        }
    }
}

/// A body's messages, each given on once it is whole.
struct Frames {
    body: BodyDataStream,
    read: BytesMut,
    /// A message whose prefix was given on.
    rest: Option<Bytes>,
    held: Arc<Mutex<Held>>,
    coding: Option<Coding>,
    kind: Kind,
    largest: usize,
    /// How long a message may take from its first byte.
    most: Duration,
}

impl Frames {
    /// The next prefix or message.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Status> {
        if let Some(message) = self.rest.take() {
            return Ok(Some((message, self)));
        }
        // Some clients end with a frame that has nothing in it.
        while self.read.is_empty() {
            if !self.more().await? {
                return Ok(None);
            }
        }
        let message = Deadline::after(self.most).bound(self.message()).await??;
        let length = u32::try_from(message.len()).map_err(|_| Error::TooLarge(self.largest))?;
        let [a, b, c, d] = length.to_be_bytes();
        self.rest = Some(message);
        Ok(Some((Bytes::copy_from_slice(&[0, a, b, c, d]), self)))
    }

    /// A message, plain. The one before was answered, as a stream's requests are answered one by one.
    async fn message(&mut self) -> Result<Bytes, Error> {
        lock(&self.held).release();
        self.fill(PREFIX).await?;
        let prefix = self.read.split_to(PREFIX);
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > self.largest {
            return Err(Error::TooLarge(self.largest));
        }
        self.fill(length).await?;
        let packed = self.read.split_to(length).freeze();
        let coding = match (prefix[0], self.coding) {
            (0, _) => None,
            (1, Some(coding)) => Some(coding),
            (1, None) => {
                return Err(Error::BadRequest("a message is packed, and grpc-encoding does not say how".into()));
            }
            (flag, _) => return Err(Error::BadRequest(format!("a message begins with {flag} in place of 0 or 1"))),
        };
        let (held, is_inference) = (Arc::clone(&self.held), self.kind.is_inference());
        let largest = self.largest;
        compute(coding.is_some() || length > SMALL, move || {
            let mut held = lock(&held);
            let plain = match coding {
                Some(coding) => Bytes::from(coding.unpack(&packed, &mut held)?),
                None => packed,
            };
            if is_inference {
                let weight = weigh::request(&plain)?;
                if weight > largest.saturating_add(SMALL) {
                    return Err(Error::TooLarge(largest));
                }
                held.grow_to(weight.min(largest))?;
            }
            Ok(plain)
        })
        .await
    }

    async fn fill(&mut self, length: usize) -> Result<(), Error> {
        while self.read.len() < length {
            if !self.more().await? {
                return Err(Error::BadRequest("a message broke off".into()));
            }
        }
        Ok(())
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> Result<bool, Error> {
        match self.body.next().await {
            Some(Ok(part)) => {
                let held = (self.read.len() + part.len()).min(self.largest);
                lock(&self.held).grow_to(held)?;
                self.read.extend_from_slice(&part);
                Ok(true)
            }
            Some(Err(_)) => Err(Error::BadRequest("the call broke off".into())),
            None => Ok(false),
        }
    }
}

/// A panic elsewhere leaves the count as it is.
fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
