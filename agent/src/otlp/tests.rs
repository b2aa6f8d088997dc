//! What arrives at a collector.

use std::collections::BTreeMap;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Version};
use axum::routing::post;
use muster_proto::id::SlotName;
use opentelemetry::trace::{Span as _, Tracer as _};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue as Pair, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::api::{End, Head, Part, Server, Work};
use crate::engine::Slots;
use crate::engine::testing::Bundle;

/// A collector on a port of this machine.
pub struct Collector {
    _server: Server,
    /// Its address.
    pub url: String,
    arrived: Receiver<Arrived>,
}

/// What has arrived.
#[derive(Debug, Default)]
pub struct Heap {
    /// All spans.
    pub spans: Vec<Span>,
    /// All metrics by name; the last export's of each.
    pub metrics: BTreeMap<String, Metric>,
    /// The resources of the spans.
    pub resources: Vec<BTreeMap<String, String>>,
    /// The headers of each export.
    pub headers: Vec<HeaderMap>,
}

#[derive(Debug)]
enum Arrived {
    Traces(HeaderMap, ExportTraceServiceRequest),
    Metrics(HeaderMap, ExportMetricsServiceRequest),
}

impl Collector {
    /// Listens.
    pub async fn start() -> Self {
        let (sender, arrived) = channel(64);
        let other = sender.clone();
        let traces = move |headers: HeaderMap, body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("traces");
            sender.try_send(Arrived::Traces(headers, request)).expect("the test looks");
            ready(())
        };
        let metrics = move |headers: HeaderMap, body: Bytes| {
            let request = ExportMetricsServiceRequest::decode(body).expect("metrics");
            other.try_send(Arrived::Metrics(headers, request)).expect("the test looks");
            ready(())
        };
        let router = Router::new().route("/v1/traces", post(traces)).route("/v1/metrics", post(metrics));
        let mut server = Server::default();
        server.listen(SocketAddr::from(([127, 0, 0, 1], 0)), router).await.expect("listens");
        let url = format!("http://{}", server.address().expect("listens"));
        Self { _server: server, url, arrived }
    }

    /// What has arrived by now.
    pub fn heap(&mut self) -> Heap {
        let mut heap = Heap::default();
        while let Ok(arrived) = self.arrived.try_recv() {
            match arrived {
                Arrived::Traces(headers, request) => {
                    heap.headers.push(headers);
                    for group in request.resource_spans {
                        heap.resources.push(texts(&group.resource.expect("a resource").attributes));
                        heap.spans.extend(group.scope_spans.into_iter().flat_map(|scope| scope.spans));
                    }
                }
                Arrived::Metrics(headers, request) => {
                    heap.headers.push(headers);
                    let scopes = request.resource_metrics.into_iter().flat_map(|group| group.scope_metrics);
                    heap.metrics.extend(scopes.flat_map(|s| s.metrics).map(|metric| (metric.name.clone(), metric)));
                }
            }
        }
        heap
    }
}

impl Heap {
    /// The only span of this name.
    pub fn span(&self, name: &str) -> &Span {
        let named: Vec<_> = self.spans.iter().filter(|span| span.name == name).collect();
        let [span] = named.as_slice() else { panic!("{} spans {name:?} of {:?}", named.len(), self.names()) };
        span
    }

    fn names(&self) -> Vec<&str> {
        self.spans.iter().map(|span| span.name.as_str()).collect()
    }

    /// The values of a counter or gauge, with what they are marked with.
    pub fn values(&self, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let metric = self.metrics.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.metrics.keys()));
        let points = match metric.data.as_ref().expect("data") {
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Sum(sum) => &sum.data_points,
            other => panic!("{name} is {other:?}"),
        };
        let value = |point: &Option<number_data_point::Value>| match point.expect("a value") {
            number_data_point::Value::AsInt(value) => value as f64,
            number_data_point::Value::AsDouble(value) => value,
        };
        points.iter().map(|point| (texts(&point.attributes), value(&point.value))).collect()
    }

    /// How many requests a histogram counts, with what they are marked with.
    pub fn counts(&self, name: &str) -> Vec<(BTreeMap<String, String>, u64)> {
        let metric = self.metrics.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.metrics.keys()));
        let Some(Data::Histogram(histogram)) = &metric.data else { panic!("{name} is {metric:?}") };
        histogram.data_points.iter().map(|point| (texts(&point.attributes), point.count)).collect()
    }
}

/// Attributes as text.
pub fn texts(pairs: &[Pair]) -> BTreeMap<String, String> {
    let text = |pair: &Pair| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{} is {other:?}", pair.key),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// An address at which nobody listens.
pub fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    format!("http://{}", listener.local_addr().expect("an address"))
}

fn telemetry(endpoint: &str, sample: f64) -> Telemetry {
    let settings = Settings { endpoint: Some(endpoint.into()), sample: Some(sample), ..Settings::default() };
    let export = Export::of(Some(&settings), |_| None).expect("good").expect("some");
    let executor = Executor::start(Arc::new(Slots::default()), std::num::NonZeroUsize::new(1), 1).expect("threads");
    let source = Source { services: Arc::default(), executor: Arc::downgrade(&Arc::new(executor)) };
    Telemetry::start(export, source, false).expect("starts")
}

fn call(traceparent: Option<&str>) -> Head {
    Head {
        method: Method::POST,
        path: "/inference.GRPCInferenceService/ModelInfer".into(),
        route: "/inference.GRPCInferenceService/{method}".into(),
        version: Version::HTTP_2,
        is_grpc: true,
        id: "job-17".into(),
        traceparent: traceparent.map(str::to_owned),
        tracestate: None,
        at: SystemTime::now(),
    }
}

fn finished(head: &Head) -> Finished<'_> {
    Finished { head, end: Some(End::Grpc(0)), by: None, took: Duration::from_millis(5), parts: &[] }
}

#[tokio::test]
async fn a_call_is_a_span_with_its_parts_below_it() {
    let mut collector = Collector::start().await;
    let telemetry = telemetry(&collector.url, 1.0);
    let (name, loaded): (SlotName, _) = ("digits".parse().expect("a name"), Bundle::digits(2).load().expect("loads"));
    let part = |work, after| Part { work, after: Duration::from_millis(after), took: Duration::from_millis(2) };
    let head = call(None);
    let request = Finished {
        end: Some(End::Grpc(14)),
        by: Some((&name, &loaded)),
        parts: &[part(Work::Gate, 1), part(Work::Inference, 3)],
        ..finished(&head)
    };
    telemetry.finished(&request);
    telemetry.stop().await;
    let heap = collector.heap();
    let span = heap.span("inference.GRPCInferenceService/ModelInfer");
    assert_eq!((span.kind, span.end_time_unix_nano - span.start_time_unix_nano), (2, 5_000_000));
    assert_eq!(span.status.as_ref().map(|status| status.code), Some(2), "unavailable is the server's fault");
    let labels = texts(&span.attributes);
    let digest = loaded.digest.to_string();
    let wanted = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "inference.GRPCInferenceService/ModelInfer"),
        ("rpc.response.status_code", "UNAVAILABLE"),
        ("network.protocol.version", "2"),
        ("muster.request_id", "job-17"),
        ("muster.service", "digits"),
        ("muster.model", "digits"),
        ("muster.version", "2"),
        ("muster.digest", &digest),
    ];
    wanted.iter().for_each(|(key, value)| assert_eq!(labels[*key], *value, "{key}"));
    for (name, after) in [("muster.gate", 1_000_000), ("muster.inference", 3_000_000)] {
        let part = heap.span(name);
        assert_eq!((&part.trace_id, &part.parent_span_id), (&span.trace_id, &span.span_id));
        assert_eq!(part.start_time_unix_nano, span.start_time_unix_nano + after);
    }
    assert_eq!(heap.counts("rpc.server.call.duration")[0].1, 1);
    assert_eq!(heap.resources[0]["service.name"], "muster-agent");
}

#[tokio::test]
async fn the_callers_choice_counts_before_the_share() {
    let (kept, left) = ("4bf92f3577b34da6a3ce929d0e0e4736", "5bf92f3577b34da6a3ce929d0e0e4736");
    let mut collector = Collector::start().await;
    let telemetry = telemetry(&collector.url, 0.0);
    let parents = [Some(format!("00-{kept}-00f067aa0ba902b7-01")), Some(format!("00-{left}-00f067aa0ba902b7-00"))];
    for parent in parents.into_iter().chain([None, Some("nonsense".into())]) {
        telemetry.finished(&finished(&call(parent.as_deref())));
    }
    telemetry.stop().await;
    let heap = collector.heap();
    let traces: Vec<String> = heap.spans.iter().map(|span| hex::encode(&span.trace_id)).collect();
    assert_eq!(traces, [kept]);
    assert_eq!(hex::encode(&heap.spans[0].parent_span_id), "00f067aa0ba902b7");
    assert_eq!(heap.counts("rpc.server.call.duration")[0].1, 4, "metrics count what is in no trace");
}

#[tokio::test]
async fn what_no_collector_takes_is_counted() {
    let telemetry = telemetry(&nowhere(), 1.0);
    (0..3).for_each(|_| telemetry.finished(&finished(&call(None))));
    telemetry.stop().await;
    assert_eq!(telemetry.dropped(), 3);
}

/// Takes a batch only when it is told to.
#[derive(Debug)]
struct Stuck(std::sync::Mutex<mpsc::Receiver<()>>);

impl opentelemetry_sdk::trace::SpanExporter for Stuck {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        // Whoever would tell has gone: everything is taken.
        let _ = self.0.lock().expect("not poisoned").recv();
        Ok(())
    }
}

#[test]
fn a_full_queue_drops_and_counts_and_nobody_waits() {
    let tally = Arc::<Tally>::default();
    let (go, told) = mpsc::sync_channel(1);
    let processor = queue::bounded(Stuck(std::sync::Mutex::new(told)), Arc::clone(&tally));
    let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
    let tracer = provider.tracer("test");
    for _ in 0..queue::QUEUE + 10 {
        tracer.start("span").end();
    }
    assert_eq!(tally.dropped(), 10);
    drop(go);
    provider.shutdown().expect("flushed");
    assert_eq!(tally.dropped(), 10);
}
