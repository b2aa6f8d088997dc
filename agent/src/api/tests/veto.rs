use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::json;

use super::support::*;
use crate::api::Limits;
use crate::veto::Vetoes;

fn device(file: &std::path::Path) -> (Arc<Vetoes>, Device) {
    let vetoes = Arc::new(Vetoes::new(file.to_owned()));
    let device = Device::with([], 4, Limits::default(), |api| api.with_vetoes(vetoes.clone()));
    (vetoes, device)
}

fn request(method: Method, body: &str) -> Request<Body> {
    Request::builder().method(method).uri("/v1/veto").body(Body::from(body.to_owned())).expect("a request")
}

#[tokio::test]
async fn a_veto_is_asked_for_shown_and_taken_back() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (vetoes, device) = device(&dir.path().join("veto"));
    assert_eq!(device.get("/v1/veto").await.ok(), json!({"veto": false, "asked": null, "file": null}));
    let body = r#"{"seconds": 600, "reason": "a demonstration"}"#;
    let asked = device.call(request(Method::PUT, body)).await.ok();
    assert_eq!((&asked["veto"], &asked["asked"]["reason"]), (&json!(true), &json!("a demonstration")));
    assert!(asked["asked"]["seconds"].as_f64().is_some_and(|s| (590.0..=600.0).contains(&s)), "{asked}");
    assert_eq!(vetoes.current().map(|v| v.reason).as_deref(), Some("a demonstration"));
    std::fs::write(vetoes.file(), "harvest").expect("written");
    let left = device.call(request(Method::DELETE, "")).await.ok();
    assert_eq!((&left["asked"], &left["file"]["reason"]), (&json!(null), &json!("harvest")), "the file stays");
}

#[tokio::test]
async fn mistakes_are_named_and_change_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (vetoes, device) = device(&dir.path().join("veto"));
    let long = format!(r#"{{"seconds": 1, "reason": "{}"}}"#, "x".repeat(201));
    for body in ["", "{}", r#"{"seconds": 0}"#, r#"{"seconds": 86401}"#, r#"{"seconds": 1, "hours": 2}"#, &long] {
        let answer = device.call(request(Method::PUT, body)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.text());
    }
    let answer = device.call(request(Method::PUT, &" ".repeat(5000))).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(vetoes.current(), None);
    let pod = Device::digits();
    assert_eq!(pod.get("/v1/veto").await.status, StatusCode::NOT_FOUND);
}
