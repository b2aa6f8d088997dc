//! What an observer is told of requests.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde_json::json;
use tokio::sync::mpsc::Receiver;

use super::support::*;
use crate::api::{End, Limits, Work};

fn watched() -> (Device, Receiver<Seen>) {
    let (observer, told) = observer();
    let change = |api: crate::api::Api| api.with_observer(Arc::clone(&observer));
    (Device::with([("digits", digits_model(2))], 4, Limits::default(), change), told)
}

#[tokio::test]
async fn a_scored_request_is_told_with_what_answered() {
    let (device, mut told) = watched();
    let input = json!({"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": seven().0});
    let body = json!({"inputs": [input]}).to_string();
    let path = "/v2/models/digits/infer";
    device.post_with(&format!("{path}?secret=1"), &[("traceparent", "00-a-b-01")], body).await.ok();
    let seen = told.try_recv().expect("told");
    assert_eq!((seen.path.as_str(), seen.route.as_str()), (path, "/v2/models/{*model}"));
    assert_eq!((seen.end, seen.by), (Some(End::Http(200)), Some(("digits".into(), 2))));
    assert_eq!((seen.traceparent.as_deref(), seen.works), (Some("00-a-b-01"), vec![Work::Inference]));
}

#[tokio::test]
async fn what_is_refused_is_told_and_what_scores_nothing_is_not() {
    let (device, mut told) = watched();
    assert_eq!(device.post("/score/letters", "{}").await.status, 404);
    let seen = told.try_recv().expect("told");
    assert_eq!((seen.end, seen.by, seen.works), (Some(End::Http(404)), None, vec![]));
    for path in ["/healthz", "/score", "/score/digits", "/v2/models/digits", "/nothing"] {
        device.get(path).await;
    }
    device.post("/v2/repository/index", "{}").await;
    device.post("/scored", "{}").await;
    assert!(told.try_recv().is_err(), "{told:?}");
    assert!(device.get("/metrics").await.text().contains("\nmuster_spans_dropped_total 7\n"));
}

#[tokio::test]
async fn a_caller_who_goes_is_told_as_well() {
    let (device, mut told) = watched();
    let endless = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let gone = tokio::time::timeout(Duration::from_millis(1), device.post("/score/digits", endless)).await;
    assert!(gone.is_err());
    let seen = told.try_recv().expect("told");
    assert_eq!((seen.end, seen.by), (None, Some(("digits".into(), 2))));
}
