//! Requests that are wrong, and what every answer carries.

use axum::body::Body;
use axum::http::header;
use muster_proto::id::Digest;
use serde_json::json;

use crate::fixture::{Dispatcher, request};

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_problems() {
    let dispatcher = Dispatcher::start().await;
    let detail = dispatcher.anonymous("GET", "/v1/nothing?token=secret").await.problem(404, "not_found");
    assert_eq!(detail, "there is no route GET /v1/nothing");
    dispatcher.anonymous("GET", "/v1/models/vision/digits").await.problem(404, "not_found");
    for (method, path) in [("POST", "/"), ("DELETE", "/openapi.json"), ("PUT", "/v1/models"), ("GET", "/v1/enroll")] {
        let answer = dispatcher.call(method, path, None).await;
        assert_eq!(answer.problem(405, "bad_request"), format!("{path} does not take {method}"));
        assert!(!answer.header("allow").is_empty(), "{method} {path}");
    }
}

#[tokio::test]
async fn wrong_bodies_name_what_is_wrong() {
    let dispatcher = Dispatcher::start().await;
    let send = async |path: &str, kind: &str, body: &str| {
        let sent = request("POST", path)
            .header(header::AUTHORIZATION, format!("Bearer {}", dispatcher.admin))
            .header(header::CONTENT_TYPE, kind);
        dispatcher.send(sent.body(Body::from(body.to_owned())).unwrap()).await
    };
    let json = "application/json";
    send("/v1/keys", "text/plain", "{}").await.problem(415, "bad_request");
    let table = [
        ("/v1/keys", "{", "EOF"),
        ("/v1/keys", "{\"name\": \"a\"}", "missing field `role`"),
        ("/v1/keys", "{\"name\": \"a\", \"role\": \"root\"}", "role: unknown variant `root`"),
        ("/v1/keys", "{\"name\": \"a\", \"role\": \"viewer\", \"x\": 1}", "unknown field `x`"),
        ("/v1/models", "{\"name\": \"../a\", \"files\": []}", "name: model name \"../a\" is not valid"),
        (
            "/v1/models",
            "{\"name\": \"a\", \"files\": [{\"path\": \"/etc/passwd\", \"digest\": \"\"}]}",
            "files[0].path: file path",
        ),
        (
            "/v1/models",
            "{\"name\": \"a\", \"files\": [{\"path\": \"w/../../x\", \"digest\": \"\"}]}",
            "files[0].path: file path",
        ),
        ("/v1/enroll-tokens", "{\"uses\": -1}", "uses: invalid value"),
        ("/v1/rollouts", "{\"model\": \"a\", \"target\": {\"al\": true}}", "unknown field `al`"),
    ];
    for (path, body, want) in table {
        let detail = send(path, json, body).await.problem(400, "bad_request");
        assert!(detail.contains(want), "{path} {body} gave {detail:?}");
    }
    let large = format!("\"{}\"", "x".repeat(muster_dispatcher::http::MAX_JSON + 1));
    send("/v1/keys", json, &large).await.problem(413, "too_large");
}

#[tokio::test]
async fn wrong_paths_and_queries_name_what_is_wrong() {
    let dispatcher = Dispatcher::start().await;
    let table = [
        ("/v1/devices/a%20b", "device id \"a b\" is not valid"),
        ("/v1/models/..%2Fx", "model name"),
        ("/v1/models/digits/versions/two", "two"),
        ("/v1/rollouts/12", "is not a rollout's id, such as r12"),
        ("/v1/models?tags=a", "there is no query parameter \"tags\""),
        ("/v1/devices?online=perhaps", "query parameter \"online\""),
        ("/v1/devices?group=a&group=b", "stands twice"),
        ("/v1/audit?limit=-1", "query parameter \"limit\""),
        ("/v1/telemetry?digest=x", "query parameter \"digest\""),
    ];
    for (path, want) in table {
        let detail = dispatcher.get(path).await.problem(400, "bad_request");
        assert!(detail.contains(want), "{path} gave {detail:?}");
    }
    dispatcher.get("/v1/models/none").await.problem(404, "not_found");
    dispatcher.get("/v1/devices/none").await.problem(404, "not_found");
    dispatcher.get("/v1/rollouts/r9").await.problem(404, "not_found");
    dispatcher.get("/v1/groups/none").await.problem(404, "not_found");
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let dispatcher = Dispatcher::start().await;
    let mut seen = std::collections::BTreeSet::new();
    for path in ["/health/live", "/nothing", "/v1/info", "/"] {
        let id = dispatcher.get(path).await.header("x-request-id").to_owned();
        assert_eq!(id.len(), 16, "{path}");
        assert!(seen.insert(id));
    }
    for (sent, kept) in [("trace-17.a_b", true), ("a b", false), ("", false), (&"x".repeat(65), false)] {
        let asked = request("GET", "/health/live").header("x-request-id", sent);
        let answer = dispatcher.send(asked.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.header("x-request-id") == sent, kept, "{sent:?}");
    }
}

#[tokio::test]
async fn uploads_are_checked_before_they_count() {
    let dispatcher = Dispatcher::start().await;
    let put = |path: &str, length: Option<u64>, bytes: &'static [u8]| {
        let mut sent = request("PUT", path).header(header::AUTHORIZATION, format!("Bearer {}", dispatcher.admin));
        if let Some(length) = length {
            sent = sent.header(header::CONTENT_LENGTH, length);
        }
        sent.body(Body::from(bytes)).unwrap()
    };
    let path = format!("/v1/uploads/{}", Digest::of(b"right"));
    assert_eq!(dispatcher.call("HEAD", &path, None).await.status, 404);
    dispatcher.send(put(&path, None, b"wrong")).await.problem(422, "digest_mismatch");
    assert_eq!(dispatcher.call("HEAD", &path, None).await.status, 404);
    let limit = dispatcher.running.app.upload_limit();
    for claimed in [limit + 1, u64::MAX] {
        let refused = dispatcher.send(put(&path, Some(claimed), b"right")).await;
        assert!(refused.problem(413, "too_large").contains(&format!("at most {limit} bytes")), "{claimed}");
        assert!(refused.text().contains("into several files"), "{}", refused.text());
    }
    dispatcher.upload(b"right").await;
    dispatcher.upload(b"right").await;
    assert_eq!(dispatcher.call("HEAD", &path, None).await.status, 200);
    dispatcher.send(put("/v1/uploads/abc", None, b"")).await.problem(400, "bad_request");

    let missing = json!({ "name": "m", "files": [{ "path": "m.onnx", "digest": Digest::of(b"never uploaded") }] });
    let detail = dispatcher.call("POST", "/v1/models", Some(missing)).await;
    assert!(detail.text().contains(&Digest::of(b"never uploaded").to_string()), "{}", detail.text());
    let no_model = json!({ "name": "m", "files": [{ "path": "m.onnx", "digest": Digest::of(b"right") }] });
    dispatcher.call("POST", "/v1/models", Some(no_model)).await.problem(422, "model_invalid");
    assert_eq!(dispatcher.get("/v1/models").await.json(), json!({ "items": [] }));
}
