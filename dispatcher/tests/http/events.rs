//! Server-sent events, and the end of a server that serves them.

use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use futures_util::StreamExt as _;
use muster_dispatcher::http;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::fixture::{Dispatcher, request};

const PATIENCE: Duration = Duration::from_secs(20);

/// A rollout that waits for its time.
async fn rollout(dispatcher: &Dispatcher) -> String {
    dispatcher.register("digits", 1).await;
    dispatcher.call("PUT", "/v1/groups/line", Some(json!({}))).await;
    let request =
        json!({ "model": "digits", "target": { "groups": ["line"] }, "schedule": { "start": "2100-01-01T00:00:00Z" } });
    dispatcher.call("POST", "/v1/rollouts", Some(request)).await.json()["id"].as_str().unwrap().to_owned()
}

/// The events of a stream's text as (name, data).
fn parse(text: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let field =
            |name: &str| block.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        Some((field("event")?, serde_json::from_str(&field("data")?).unwrap()))
    };
    text.split("\n\n").filter_map(event).collect()
}

#[tokio::test]
async fn a_watched_rollout_is_told_to_its_end() {
    let dispatcher = Dispatcher::start().await;
    let id = rollout(&dispatcher).await;
    let asked = request("GET", &format!("/v1/rollouts/{id}/events"))
        .header(header::AUTHORIZATION, format!("Bearer {}", dispatcher.admin));
    let response = dispatcher.router.clone().oneshot(asked.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    let first = timeout(PATIENCE, body.next()).await.unwrap().unwrap().unwrap();
    let mut text = String::from_utf8(first.to_vec()).unwrap();
    let status = parse(&text)[0].1["rollout"]["status"].clone();

    if status == "pending" {
        assert_eq!(dispatcher.call("POST", &format!("/v1/rollouts/{id}/cancel"), None).await.status, 200);
    }
    let rest = async {
        while let Some(piece) = body.next().await {
            text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
    };
    timeout(PATIENCE, rest).await.expect("the stream ends with the rollout");
    let events = parse(&text);
    assert_eq!(events[0].0, "snapshot");
    let (name, last) = events.last().unwrap();
    assert_eq!(name, "snapshot");
    assert_ne!(last["rollout"]["status"], "pending");
    if status == "pending" {
        assert!(events.iter().any(|(name, data)| name == "rollout" && data["status"] == "cancelled"), "{text}");
    }
    dispatcher.get("/v1/rollouts/r99/events").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams() {
    let dispatcher = Dispatcher::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(http::serve(listener, dispatcher.router.clone(), async {
        let _ = stopped.await;
    }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let asked = format!("GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", dispatcher.admin);
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("text/event-stream") {
        let count = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    dispatcher.call("PUT", "/v1/groups/line", Some(json!({}))).await;
    stop.send(()).unwrap();
    timeout(PATIENCE, served).await.expect("the server ends though a stream was open").unwrap().unwrap();
    timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("the stream ends").unwrap();
}
