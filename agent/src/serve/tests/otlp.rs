//! Traces and metrics of a whole server, at a collector.

use super::*;
use crate::otlp::tests::{Collector, nowhere, texts};
use crate::otlp::{Headers, Settings};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

async fn serving(signed: &Signed, otlp: Option<Settings>) -> Scoring {
    let document = Document { otlp, ..signed.document(vec![signed.model(2, 100)]) };
    let scoring = start(&document).await.expect("starts");
    scoring.desk.apply(&document).await.expect("applied");
    scoring
}

/// Scores an image in a trace of the caller's; the status.
async fn score(at: SocketAddr, path: &'static str) -> u16 {
    let work = move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let request = ureq::Agent::new_with_config(config).post(format!("http://{at}{path}"));
        let request = request.header("authorization", "Bearer primary");
        let request = request.header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
        request.send_json(image()).expect("answered").status().as_u16()
    };
    tokio::task::spawn_blocking(work).await.expect("joins")
}

async fn page(scoring: &Scoring) -> String {
    let admin = scoring.admin.expect("listens");
    let work =
        move || ureq::get(format!("http://{admin}/metrics")).call().expect("answered").body_mut().read_to_string();
    tokio::task::spawn_blocking(work).await.expect("joins").expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scored_request_arrives_in_its_callers_trace_with_the_servers_metrics() {
    let mut collector = Collector::start().await;
    let headers = Headers([("x-collector-key".to_owned(), "abc".to_owned())].into());
    let endpoint = Some(format!("{}/", collector.url));
    let signed = Signed::new();
    let otlp = Settings { endpoint, headers: Some(headers), ..Settings::default() };
    let scoring = serving(&signed, Some(otlp)).await;
    let at = scoring.address.expect("listens");
    assert_eq!(score(at, "/score/digits?secret=1").await, 200);
    assert_eq!(score(at, "/invocations/letters").await, 404);
    assert!(page(&scoring).await.contains("\nmuster_spans_dropped_total 0\n"));
    scoring.stop().await;

    let heap = collector.heap();
    assert!(heap.headers.iter().all(|headers| headers["x-collector-key"] == "abc"));
    let span = heap.span("POST /score/{*slot}");
    assert_eq!((hex::encode(&span.trace_id), hex::encode(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
    let labels = texts(&span.attributes);
    let wanted = [
        ("http.request.method", "POST"),
        ("http.route", "/score/{*slot}"),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("url.path", "/score/digits"),
        ("url.scheme", "http"),
        ("muster.service", "digits"),
        ("muster.model", "digits"),
        ("muster.version", "2"),
    ];
    wanted.iter().for_each(|(key, value)| assert_eq!(labels[*key], *value, "{key}"));
    assert_eq!(labels["muster.digest"].len(), 64);
    for name in ["muster.gate", "muster.inference"] {
        assert_eq!(heap.span(name).parent_span_id, span.span_id, "{name}");
    }
    let refused = texts(&heap.span("POST /invocations/{*slot}").attributes);
    assert_eq!(refused["http.response.status_code"], "404");
    assert!(!refused.contains_key("muster.service"));

    let inferences = heap.values("muster.inferences");
    let ok = inferences.iter().find(|(labels, _)| labels["muster.outcome"] == "ok").expect("counted");
    assert_eq!((ok.0["muster.service"].as_str(), ok.0["muster.version"].as_str(), ok.1), ("digits", "2", 1.0));
    assert!(heap.values("muster.inference.time")[0].1 > 0.0);
    let durations = heap.counts("http.server.request.duration");
    assert_eq!(durations.len(), 2, "{durations:?}");
    assert!(durations.iter().all(|(labels, count)| *count == 1 && !labels.contains_key("url.path")), "{durations:?}");
    for name in ["muster.queue_depth", "muster.service.running", "muster.service.queue_depth", "muster.spans.dropped"] {
        assert_eq!(heap.values(name)[0].1, 0.0, "{name}");
    }
    assert!(heap.values("process.memory.usage")[0].1 > 1e6);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_do_not_care_whether_a_collector_is_there() {
    let signed = Signed::new();
    let scoring = serving(&signed, Some(Settings { endpoint: Some(nowhere()), ..Settings::default() })).await;
    for _ in 0..3 {
        assert_eq!(score(scoring.address.expect("listens"), "/score/digits").await, 200);
    }
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(20), scoring.stop()).await;
    assert!(stopped.is_ok(), "the end waits for the collector");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_noted_where_nothing_is_configured() {
    let signed = Signed::new();
    let scoring = serving(&signed, None).await;
    assert_eq!(score(scoring.address.expect("listens"), "/score/digits").await, 200);
    assert!(!page(&scoring).await.contains("muster_spans"));
    scoring.stop().await;
}

#[tokio::test]
async fn a_server_does_not_start_with_an_address_that_is_none() {
    let signed = Signed::new();
    let otlp = Some(Settings { endpoint: Some("collector:4318".into()), ..Settings::default() });
    let document = Document { otlp, ..signed.document(vec![signed.model(2, 100)]) };
    let error = start(&document).await.expect_err("refused");
    assert!(error.to_string().contains("otlp.endpoint"), "{error}");
    assert_eq!(error.code(), muster_proto::code::Code::ConfigInvalid);
}
