//! Status and metrics.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use muster_proto::code::Code;
use muster_proto::id::{Digest, Generation};
use muster_proto::report::{AgentInfo, DeviceReport, Failure, ModelRef, Phase, SlotReport, Transfer};
use serde_json::json;
use tokio::sync::watch;

use super::support::*;
use crate::api::Limits;
use crate::driver::Status;

/// An agent that fetches its first model.
pub fn status() -> (watch::Sender<Status>, watch::Receiver<Status>) {
    let desired = ModelRef { target: "vision/digits/2/manifest".into(), digest: Digest::of(b"2") };
    let slot = SlotReport {
        slot: slot("digits"),
        rollout: "first".into(),
        desired: Some(desired),
        phase: Phase::Fetching,
        active: None,
        previous: None,
        probe: None,
        failure: None,
        transfer: Transfer::default(),
    };
    let report = DeviceReport {
        workspace: "default".parse().expect("valid"),
        device: "pi-1".parse().expect("valid"),
        incarnation: 1,
        id: 2,
        sent_at: 3,
        generation: Generation(12),
        agent: AgentInfo { version: "0.1.0".into(), ..AgentInfo::default() },
        slots: vec![slot],
        refused: None,
    };
    watch::channel(Status {
        report,
        online: true,
        outbox_messages: 3,
        outbox_bytes: 400,
        outbox_dropped: 5,
        settled: false,
    })
}

#[tokio::test]
async fn the_status_is_what_the_agent_last_said() {
    let (sender, receiver) = status();
    let device = Device::with([], 4, Limits::default(), |api| api.with_status(receiver.clone()));
    let got: Status = serde_json::from_value(device.get("/status").await.ok()).expect("a status");
    assert_eq!(got, *sender.borrow());
    sender.send_modify(|status| status.online = false);
    assert_eq!(device.get("/status").await.ok()["online"], false);
}

#[tokio::test]
async fn metrics_have_one_series_per_slot_and_word() {
    let (sender, receiver) = status();
    let folder = tempfile::tempdir().expect("a folder");
    let device = Device::with([("digits", digits_model(2))], 4, Limits::default(), |api| {
        api.with_status(receiver.clone()).with_disk(folder.path().to_owned())
    });
    sender.send_modify(|status| {
        status.report.slots[0].failure = Some(Failure { code: Code::DiskFull, detail: "no \"room\"".into() });
    });
    let input = json!({"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": vec![0; 64]}]});
    device.post("/v2/models/digits/infer", input.to_string()).await.ok();
    let before = device.get("/metrics").await;
    // What callers write never becomes a label.
    for path in ["/v2/models/a\"b", "/x", "/score/y", "/v2/models/digits/versions/77"] {
        let request = Request::post(path.replace('"', "%22")).body(Body::empty()).expect("a request");
        assert!(device.call(request).await.status.is_client_error());
    }
    let page = device.get("/metrics").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8")
    );
    assert_eq!(page.text().lines().count(), before.text().lines().count());

    let digest = Digest::of(b"vision/digits 2").short();
    let labels = format!("slot=\"digits\",digest=\"{digest}\"");
    for line in [
        &format!("muster_slot_info{{{labels},model=\"vision/digits\",version=\"2\"}} 1"),
        &format!("muster_inferences_total{{{labels},outcome=\"ok\"}} 1"),
        &format!("muster_inferences_total{{{labels},outcome=\"error\"}} 0"),
        &format!("muster_inference_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
        &format!("muster_inference_seconds_count{{{labels}}} 1"),
        &format!("muster_slot_queue_depth{{{labels}}} 0"),
        "muster_queue_depth 0",
        "muster_update_phase{slot=\"digits\",phase=\"fetching\"} 1",
        "muster_update_phase{slot=\"digits\",phase=\"healthy\"} 0",
        "muster_update_failed{slot=\"digits\",code=\"disk_full\"} 1",
        "muster_online 1",
        "muster_generation 12",
        "muster_outbox_messages 3",
        "muster_outbox_bytes 400",
        "muster_agent_outbox_dropped_total 5",
    ] {
        assert!(page.text().lines().any(|other| other == line), "{line} is missing in\n{}", page.text());
    }
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "muster_disk_free_bytes"] {
        assert!(page.text().lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
    }
    well_formed(&page.text());
}

/// Each sample follows the type of its family, no series stands twice, and buckets only grow.
fn well_formed(page: &str) {
    let (mut family, mut seen, mut below) = (String::new(), std::collections::BTreeSet::new(), 0.0);
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().expect("a name").to_owned();
            assert!(seen.insert(rest.to_owned()), "{family} has two types");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let value: f64 = value.parse().expect("a number");
            assert!(series.starts_with(&family), "{line} is not of {family}");
            assert!(seen.insert(series.to_owned()), "{series} stands twice");
            if series.contains("_bucket{") {
                assert!(value >= below, "{line}");
                below = if series.contains("+Inf") { 0.0 } else { value };
            }
        }
    }
}

#[tokio::test]
async fn probes_may_ask_for_the_head_alone() {
    let device = Device::digits();
    for path in ["/healthz", "/v2/health/live", "/v2/health/ready"] {
        let request = Request::builder().method(Method::HEAD).uri(path).body(Body::empty()).expect("a request");
        let answer = device.call(request).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0), "{path}");
    }
}

#[tokio::test]
async fn request_ids_are_sent_back() {
    let device = Device::digits();
    let with =
        device.call(Request::get("/v2").header("x-request-id", "job-17").body(Body::empty()).expect("a request"));
    assert_eq!(with.await.header("x-request-id"), "job-17");
    assert_eq!(device.get("/v2").await.header("x-request-id").len(), 36);
    assert_eq!(device.get("/v2").await.header("muster-model-version"), "");
    assert!(device.get("/").await.ok()["routes"].is_object());
}
