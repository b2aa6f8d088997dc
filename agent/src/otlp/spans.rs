//! Spans of requests, by the semantic conventions of OpenTelemetry for HTTP and for gRPC servers.

use axum::http::Version;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

use crate::api::{End, Finished, Head, Work};

/// The names of gRPC's status codes, in their order.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Those that are the server's fault, by the conventions.
const FAULTS: [&str; 6] = ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];

/// Makes spans.
#[derive(Debug)]
pub struct Spans {
    tracer: SdkTracer,
    scheme: &'static str,
}

impl Spans {
    /// Spans of `tracer`, of requests over `scheme`.
    pub fn new(tracer: SdkTracer, scheme: &'static str) -> Self {
        Self { tracer, scheme }
    }

    /// Makes the span of `request`, and one below it for each of its parts.
    pub fn record(&self, request: &Finished) {
        let head = request.head;
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Carrier(head));
        let name = match head.is_grpc {
            true => method(head).to_owned(),
            false => format!("{} {}", head.method, head.route),
        };
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Server).with_start_time(head.at);
        let mut span = builder.start_with_context(&self.tracer, &parent);
        if !span.is_recording() {
            return;
        }
        span.set_attributes(common(request, self.scheme));
        span.set_attribute(KeyValue::new("url.path", head.path.clone()));
        span.set_attribute(KeyValue::new("network.protocol.version", protocol(head.version)));
        span.set_attribute(KeyValue::new("muster.request_id", head.id.clone()));
        if let Some((_, loaded)) = request.by {
            span.set_attribute(KeyValue::new("muster.digest", loaded.digest.to_string()));
        }
        if is_fault(request.end) {
            span.set_status(Status::error(""));
        }
        let inside = Context::new().with_remote_span_context(span.span_context().clone());
        for part in request.parts {
            let begun = head.at + part.after;
            let name = match part.work {
                Work::Gate => "muster.gate",
                Work::Inference => "muster.inference",
                Work::Script => "muster.script",
            };
            let builder = self.tracer.span_builder(name).with_kind(SpanKind::Internal).with_start_time(begun);
            builder.start_with_context(&self.tracer, &inside).end_with_timestamp(begun + part.took);
        }
        span.end_with_timestamp(head.at + request.took);
    }
}

/// What span and metric of a request have in common. Nothing of it is a caller's own word.
pub fn common(request: &Finished, scheme: &'static str) -> Vec<KeyValue> {
    let head = request.head;
    let mut all = match head.is_grpc {
        true => vec![KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", method(head).to_owned())],
        false => vec![
            KeyValue::new("http.request.method", head.method.as_str().to_owned()),
            KeyValue::new("http.route", head.route.clone()),
            KeyValue::new("url.scheme", scheme),
        ],
    };
    match request.end {
        Some(End::Http(status)) => all.push(KeyValue::new("http.response.status_code", i64::from(status))),
        Some(End::Grpc(code)) => all.push(KeyValue::new("rpc.response.status_code", code_name(code))),
        None => all.push(KeyValue::new("error.type", "cancelled")),
    }
    match request.end {
        Some(End::Http(status)) if is_fault(request.end) => all.push(KeyValue::new("error.type", status.to_string())),
        Some(End::Grpc(code)) if code != 0 => all.push(KeyValue::new("error.type", code_name(code))),
        _ => {}
    }
    if let Some((service, loaded)) = request.by {
        all.push(KeyValue::new("muster.service", service.to_string()));
        all.push(KeyValue::new("muster.model", loaded.manifest.model.to_string()));
        all.push(KeyValue::new("muster.version", loaded.manifest.version.to_string()));
    }
    all
}

/// A call's full method, of the few that are noted.
fn method(head: &Head) -> &str {
    head.path.trim_start_matches('/')
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn code_name(code: i32) -> &'static str {
    usize::try_from(code).ok().and_then(|code| CODES.get(code)).copied().unwrap_or("UNKNOWN")
}

fn is_fault(end: Option<End>) -> bool {
    match end {
        Some(End::Http(status)) => status >= 500,
        Some(End::Grpc(code)) => FAULTS.contains(&code_name(code)),
        None => false,
    }
}

/// The headers of a trace, for the propagator.
struct Carrier<'a>(&'a Head);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.0.traceparent.as_deref(),
            "tracestate" => self.0.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
