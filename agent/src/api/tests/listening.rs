//! The server on real addresses and sockets.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster_proto::code::Code;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::metrics::status;
use super::support::*;
use crate::api::{Exposure, Server, router, start};
use crate::config::Config;

fn config(http: Option<&str>, socket: Option<&Path>) -> Config {
    let http = http.map(|address| address.parse().expect("an address"));
    Config { http, socket: socket.map(Into::into), ..Config::default() }
}

async fn served(device: &Device, config: &Config) -> Result<Server, crate::run::Error> {
    let vetoes = std::sync::Arc::new(crate::veto::Vetoes::new(config.veto_file()));
    start(config, device.api.executor.clone(), status().1, vetoes).await
}

/// One request, read until the server closes.
async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    String::from_utf8_lossy(&answer).into_owned()
}

const READY: &str = "GET /v2/health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const READY_LOCAL: &str = "GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn an_address_and_a_socket_answer_side_by_side() {
    let (device, folder) = (Device::digits(), tempfile::tempdir().expect("a folder"));
    let socket = folder.path().join("agent.sock");
    let server = served(&device, &config(Some("127.0.0.1:0"), Some(&socket))).await.expect("listens");
    let address = server.address().expect("an address");
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);

    let by_socket = exchange(UnixStream::connect(&socket).await.expect("connected"), READY).await;
    assert!(
        by_socket.starts_with("HTTP/1.1 200 OK\r\n") && by_socket.contains("{\"live\":true,\"ready\":true}"),
        "{by_socket}"
    );
    let by_address = exchange(TcpStream::connect(address).await.expect("connected"), READY_LOCAL).await;
    assert!(by_address.starts_with("HTTP/1.1 200 OK\r\n"), "{by_address}");
    let rebound = exchange(TcpStream::connect(address).await.expect("connected"), READY).await;
    assert!(rebound.starts_with("HTTP/1.1 403"), "{rebound}");

    server.stop().await;
    assert!(!socket.exists());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn taken_addresses_and_sockets_are_told_apart_from_stale_ones() {
    let (device, folder) = (Device::digits(), tempfile::tempdir().expect("a folder"));
    let socket = folder.path().join("agent.sock");
    let first = served(&device, &config(Some("127.0.0.1:0"), Some(&socket))).await.expect("listens");
    let taken = first.address().expect("an address").to_string();
    for config in [config(Some(&taken), None), config(None, Some(&socket))] {
        let error = served(&device, &config).await.expect_err("taken");
        assert_eq!(error.code(), Code::PortInUse, "{error}");
    }
    assert!(UnixStream::connect(&socket).await.is_ok(), "the first still listens");
    first.stop().await;

    // A process that was killed leaves its socket behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    assert!(socket.exists());
    let second = served(&device, &config(None, Some(&socket))).await.expect("replaced");
    assert!(exchange(UnixStream::connect(&socket).await.expect("connected"), READY).await.contains("200 OK"));
    second.stop().await;

    std::fs::write(&socket, "precious").expect("written");
    let error = served(&device, &config(None, Some(&socket))).await.expect_err("a file");
    assert_eq!(error.code(), Code::ConfigInvalid, "{error}");
    assert_eq!(std::fs::read_to_string(&socket).expect("still there"), "precious");
    let error = served(&device, &config(None, Some(Path::new("/nowhere/agent.sock")))).await.expect_err("no folder");
    assert!(error.to_string().starts_with("cannot listen on /nowhere/agent.sock: "), "{error}");
}

#[tokio::test]
async fn requests_under_way_are_answered_before_the_end() {
    let device = Device::digits();
    let server = served(&device, &config(Some("127.0.0.1:0"), None)).await.expect("listens");
    let address = server.address().expect("an address");
    let idle = TcpStream::connect(address).await.expect("connected");
    let mut slow = TcpStream::connect(address).await.expect("connected");
    let body = json!({"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": seven().0}]})
        .to_string();
    let head =
        format!("POST /v2/models/digits/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    slow.write_all(head.as_bytes()).await.expect("sent");
    slow.write_all(&body.as_bytes()[..10]).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    let stopping = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answer = exchange(slow, &body[10..]).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"), "{answer}");
    stopping.await.expect("stopped");
    assert!(began.elapsed() < Duration::from_secs(4), "an idle connection does not hold it up");
    drop(idle);
}

#[tokio::test]
async fn chunks_and_expectations_are_understood() {
    let device = Device::digits();
    let server = served(&device, &config(Some("127.0.0.1:0"), None)).await.expect("listens");
    let mut stream = TcpStream::connect(server.address().expect("an address")).await.expect("connected");
    let body = json!({"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": seven().0}]})
        .to_string();
    let head = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: [::1]\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.expect("answered");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (first, second) = body.split_at(100);
    let chunks = format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    let answer = exchange(stream, &chunks).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    server.stop().await;
}

/// Eight callers over real connections, while the slot is switched from one version to the other and
/// back (invariant 2): every request is answered, by the version that the answer names.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_fails_while_a_slot_is_switched() {
    let models = [digits_model(1), digits_model(2)];
    let device = Arc::new(Device::new([("digits", models[0].clone())]));
    let mut server = Server::default();
    let local = "127.0.0.1:0".parse().expect("an address");
    server.listen(local, router(&device.api, Exposure::Loopback)).await.expect("listens");
    let url = format!("http://{}/v2/models/digits/infer", server.address().expect("an address"));
    let body = json!({"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": seven().0}]})
        .to_string();
    let done = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (url, body, done) = (url.clone(), body.clone(), done.clone());
            let logits = [seven_of(1).1, seven_of(2).1];
            std::thread::spawn(move || {
                let caller = ureq::Agent::new_with_defaults();
                let mut by_version = [0u32; 2];
                while !done.load(Ordering::Relaxed) {
                    let mut answer = caller.post(&url).send(body.as_bytes()).expect("answered");
                    let version = answer.headers()["muster-model-version"].to_str().expect("text").to_owned();
                    let document: serde_json::Value = answer.body_mut().read_json().expect("json");
                    assert_eq!(document["model_version"], version.as_str());
                    let index = if version == "1" { 0 } else { 1 };
                    let data = document["outputs"][0]["data"].as_array().expect("data");
                    assert_near(&data.iter().map(number).collect::<Vec<_>>(), &logits[index]);
                    by_version[index] += 1;
                }
                by_version
            })
        })
        .collect();
    for turn in 0..100 {
        device.slots.activate(slot("digits"), models[(turn + 1) % 2].clone());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    done.store(true, Ordering::Relaxed);
    for caller in callers {
        let [first, second] = tokio::task::spawn_blocking(|| caller.join()).await.expect("joined").expect("no failure");
        assert!(first > 0 && second > 0, "version 1 answered {first} times, version 2 {second} times");
    }
    server.stop().await;
}
