//! What becomes of a scoring request, for whoever watches: who asked for what, what answered, how long each part took.
//! Nobody watches unless told to, and then nothing is noted. It knows no route but which of them score.
//!
//! A request is finished when nobody works for it any more: a stream of gRPC with its last answer, and a request whose
//! caller has gone in that moment.

use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method, Version};
use axum::response::Response;

use super::find::Found;
use super::grpc;
use crate::engine::Loaded;
use muster_proto::id::SlotName;

/// The most parts of a request that are noted; a stream of gRPC may have any number (invariant 10).
const PARTS: usize = 64;
/// The most bytes of a path that are noted.
const PATH: usize = 256;
/// The longest header of a trace that is read.
const TRACE: usize = 512;
/// How the routes begin at which models are asked over HTTP.
const ROUTES: [&str; 5] = ["/score", "/v2/models/", "/v1/models/", "/invocations", "/api/v1/service/"];
/// The methods of gRPC by which they are.
const CALLS: [&str; 2] =
    ["/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"];

tokio::task_local! {
    static CURRENT: Record;
}

/// Somebody who is told of each scoring request. It is called where the request ends and must not wait.
pub trait Observer: Debug + Send + Sync {
    /// A request is over.
    fn finished(&self, request: &Finished);

    /// Of how many requests or parts of them the word was lost.
    fn dropped(&self) -> u64;
}

/// Who watches, if anybody does.
pub type Watch = Option<Arc<dyn Observer>>;

/// A request that is over.
#[derive(Debug)]
pub struct Finished<'a> {
    /// The method, the path and what came with them.
    pub head: &'a Head,
    /// How it ended; none where the caller has gone before.
    pub end: Option<End>,
    /// What was found to answer it.
    pub by: Option<(&'a SlotName, &'a Loaded)>,
    /// From its head to its end.
    pub took: Duration,
    /// What was waited for, in order of the ends.
    pub parts: &'a [Part],
}

/// What a request begins with.
#[derive(Debug)]
pub struct Head {
    /// The verb.
    pub method: Method,
    /// The path without its query, at most so long that it does no harm.
    pub path: String,
    /// The route that it has met, as the router writes it.
    pub route: String,
    /// The version of HTTP.
    pub version: Version,
    /// Whether it is a call of gRPC; its path is then a method's.
    pub is_grpc: bool,
    /// The id that the caller gets.
    pub id: String,
    /// `traceparent` of W3C's Trace Context.
    pub traceparent: Option<String>,
    /// `tracestate` of the same.
    pub tracestate: Option<String>,
    /// When it came.
    pub at: SystemTime,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this status of HTTP.
    Http(u16),
    /// With this status of gRPC.
    Grpc(i32),
}

/// What a part of a request was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Waiting at the service's gate.
    Gate,
    /// The inference, with its wait for a thread.
    Inference,
    /// The scoring script, with its wait for a thread.
    Script,
}

/// A part of a request.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// What it was spent on.
    pub work: Work,
    /// When it began, counted from the request's begin.
    pub after: Duration,
    /// How long it took.
    pub took: Duration,
}

/// What is noted of a request under way. The last one that is dropped ends it.
#[derive(Debug, Clone)]
pub struct Record(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    observer: Arc<dyn Observer>,
    head: Head,
    started: Instant,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    end: Option<End>,
    by: Option<Found>,
    parts: Vec<Part>,
}

impl Record {
    /// Begins to note `request`, where it is one that scores and somebody watches.
    pub fn begin(watch: &Watch, request: &Request, id: &HeaderValue) -> Option<Self> {
        let observer = Arc::clone(watch.as_ref()?);
        let path = request.uri().path();
        let route = request.extensions().get::<MatchedPath>()?.as_str();
        let headers = request.headers();
        let is_grpc = CALLS.contains(&path) && grpc::is_call(headers);
        let scores = is_grpc || ROUTES.iter().any(|begin| route.starts_with(begin));
        if *request.method() != Method::POST || !scores {
            return None;
        }
        let head = Head {
            method: request.method().clone(),
            path: path.chars().take(PATH).collect(),
            route: route.to_owned(),
            version: request.version(),
            is_grpc,
            id: id.to_str().unwrap_or_default().to_owned(),
            traceparent: header(headers, "traceparent"),
            tracestate: header(headers, "tracestate"),
            at: SystemTime::now(),
        };
        Some(Self(Arc::new(Inner { observer, head, started: Instant::now(), notes: Mutex::default() })))
    }

    /// The record of the request that is worked for here, if it is noted.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Record::clone).ok()
    }

    /// Runs `work` as work for the request of `record`.
    pub async fn within<T>(record: Option<Self>, work: impl Future<Output = T>) -> T {
        match record {
            Some(record) => CURRENT.scope(record, work).await,
            None => work.await,
        }
    }

    /// The request is answered by `response`, as far as its head tells.
    pub fn answered(&self, response: &Response) {
        let end = match self.0.head.is_grpc {
            // Only an answer without a body has its status in the head (gRPC over HTTP/2, "Trailers-Only").
            true => {
                End::Grpc(header(response.headers(), "grpc-status").and_then(|code| code.parse().ok()).unwrap_or(0))
            }
            false => End::Http(response.status().as_u16()),
        };
        self.0.notes().end = Some(end);
    }

    /// A stream has ended with another status than its head told.
    pub fn ended(&self, code: i32) {
        self.0.notes().end = Some(End::Grpc(code));
    }
}

/// Notes that `found` is to answer.
pub fn found(found: &Found) {
    let _ = CURRENT.try_with(|record| record.0.notes().by = Some(found.clone()));
}

/// Notes a part of the request, until what is given back is dropped.
pub fn begin(work: Work) -> Timed {
    Timed(Record::current().map(|record| (record, work, Instant::now())))
}

/// A part of a request under way. Dropping it ends the part.
#[derive(Debug)]
pub struct Timed(Option<(Record, Work, Instant)>);

impl Drop for Timed {
    fn drop(&mut self) {
        let Some((record, work, begun)) = self.0.take() else { return };
        let part = Part { work, after: begun.duration_since(record.0.started), took: begun.elapsed() };
        let mut notes = record.0.notes();
        if notes.parts.len() < PARTS {
            notes.parts.push(part);
        }
    }
}

impl Inner {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let notes = std::mem::take(self.notes.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.observer.finished(&Finished {
            head: &self.head,
            end: notes.end,
            by: notes.by.as_ref().map(|(name, loaded)| (name, &**loaded)),
            took: self.started.elapsed(),
            parts: &notes.parts,
        });
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= TRACE).then(|| value.to_owned())
}
