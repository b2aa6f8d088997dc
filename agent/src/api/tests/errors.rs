//! Every way in which a request is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use muster_proto::manifest::Transforms;
use serde_json::{Value, json};

use super::metrics::status;
use super::support::*;
use crate::api::{Exposure, Limits};

const INFER: &str = "/v2/models/digits/infer";
const LENGTH: &str = "Inference-Header-Content-Length";

fn image(change: impl Fn(&mut Value)) -> String {
    let mut input = json!({"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": seven().0});
    change(&mut input);
    json!({"inputs": [input]}).to_string()
}

fn assert_error(answer: &Answer, status: StatusCode, code: &str, words: &str) {
    let body = answer.json();
    assert_eq!((answer.status, &body["code"]), (status, &json!(code)), "{words}: {body}");
    assert!(body["error"].as_str().expect("a sentence").contains(words), "{words}: {body}");
    assert!(body["next_step"].as_str().is_some_and(|step| !step.is_empty()), "{body}");
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn requests_that_do_not_fit_are_told_what_would() {
    let device = Device::digits();
    let table: [(String, &str, &str); 28] = [
        ("".into(), "bad_request", "EOF"),
        ("{".into(), "bad_request", "not an inference request"),
        ("\u{feff}{}".into(), "bad_request", "line 1"),
        (image(|_| {}) + "x", "bad_request", "trailing"),
        ("[]".into(), "bad_request", "not an inference request"),
        ("{}".into(), "bad_request", "inputs"),
        (json!({"inputs": []}).to_string(), "input_invalid", "expected input 'image'"),
        (format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)), "bad_request", "not an inference request"),
        (image(|i| i["name"] = json!("picture")), "input_invalid", "unexpected inference input 'picture'"),
        (image(|i| i["name"] = json!("x".repeat(5000))), "input_invalid", "…"),
        (image(|i| i["datatype"] = json!("INT64")), "input_invalid", "datatype FP32, got INT64"),
        (image(|i| i["datatype"] = json!("BYTES")), "input_invalid", "datatype FP32, got BYTES"),
        (image(|i| i["shape"] = json!([1, 64])), "input_invalid", "f32 [N, 1, 8, 8]"),
        (image(|i| i["shape"] = json!([1, 1, 8, 9])), "input_invalid", "64 elements, shape [1, 1, 8, 9] needs 72"),
        (image(|i| i["shape"] = json!([1, 1, 8, 7])), "input_invalid", "more than the 56"),
        (image(|i| i["shape"] = json!([-1, 1, 8, 8])), "input_invalid", "negative size"),
        (image(|i| i["shape"] = json!([u32::MAX, u32::MAX, 8, 8])), "input_invalid", "too large"),
        (image(|i| i["shape"] = json!([1u64 << 62, 1, 1, 1])), "input_invalid", "too large"),
        (image(|i| i["shape"] = json!(vec![1; 100_000])), "input_invalid", "has 100000 dimensions"),
        (image(|i| i["shape"] = json!([1.5, 1, 8, 8])), "bad_request", "1.5"),
        (image(|i| i["data"] = json!(null)), "input_invalid", "neither data nor binary_data_size"),
        (image(|i| i["data"][3] = json!("7")), "input_invalid", "element 3"),
        (image(|i| i["data"][3] = json!([7])), "input_invalid", "side by side"),
        (image(|i| i["data"] = json!(7)), "input_invalid", "1 elements"),
        (image(|_| {}).replacen("[1,1,8,8]", "[1,1,8,8],\"shape\":[1,1,8,8]", 1), "bad_request", "duplicate field"),
        (image(|i| i["parameters"] = json!({"binary_data_size": 256})), "input_invalid", "both data and"),
        (
            json!({"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": 256}}]})
                .to_string(),
            "input_invalid",
            "expecting 256 additional bytes for model 'digits'",
        ),
        (image(|_| {}).replace("1.0,", "1e400,"), "input_invalid", "element"),
    ];
    for (body, code, words) in table {
        assert_error(&device.post(INFER, body).await, StatusCode::BAD_REQUEST, code, words);
    }
    let twice = json!({"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": seven().0});
    let twice = json!({"inputs": [twice, twice]}).to_string();
    assert_error(&device.post(INFER, twice).await, StatusCode::BAD_REQUEST, "input_invalid", "stands twice");
    device.post(INFER, image(|_| {})).await.ok();
}

#[tokio::test]
async fn outputs_have_to_exist() {
    let device = Device::digits();
    let with = |outputs: Value| {
        let mut request: Value = serde_json::from_str(&image(|_| {})).expect("json");
        request["outputs"] = outputs;
        request.to_string()
    };
    let table = [
        (json!([{"name": "scores"}]), "unexpected inference output 'scores', the model has logits"),
        (json!([{"name": "logits"}, {"name": "logits"}]), "stands twice"),
    ];
    for (outputs, words) in table {
        assert_error(&device.post(INFER, with(outputs)).await, StatusCode::BAD_REQUEST, "input_invalid", words);
    }
    let shared = json!([{"name": "logits", "parameters": {"shared_memory_region": "r"}}]);
    assert_eq!(device.post(INFER, with(shared)).await.status, StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn claimed_sizes_are_checked_before_anything_is_taken() {
    let device = Device::digits();
    let request = |size: u64, shape: Value| json!({"inputs": [{"name": "image", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}}]});
    let good = bytes_of(&seven().0);
    let table = [
        (request(256, json!([1, 1, 8, 8])), &good[..255], "expecting 1 additional bytes for model 'digits'"),
        (request(256, json!([1, 1, 8, 8])), &[good.as_slice(), b"x"].concat(), "unexpected additional input data"),
        (request(255, json!([1, 1, 8, 8])), &good[..255], "needs 256 bytes"),
        (request(1 << 40, json!([1, 1, 1 << 19, 1 << 19])), &good, "additional bytes"),
        (request(u64::MAX, json!([1, 1, 8, 8])), &good, "needs 256 bytes"),
        (request(0, json!([u32::MAX, u32::MAX, u32::MAX, 0])), &good[..0], "too large"),
    ];
    for (json, blobs, words) in table {
        let (length, body) = binary(&json, blobs);
        let answer = device.post_with(INFER, &[(LENGTH, &length)], body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{words}");
        assert!(answer.text().contains(words), "{words}: {}", answer.text());
    }
    for length in ["-1", "x", "", "99999", "18446744073709551616", "1.0"] {
        let answer = device.post_with(INFER, &[(LENGTH, length)], image(|_| {})).await;
        assert_error(&answer, StatusCode::BAD_REQUEST, "bad_request", "Inference-Header-Content-Length");
    }
    let answer = device.post_with(INFER, &[(LENGTH, "9"), (LENGTH, "9")], image(|_| {})).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "bad_request", "one whole number");
    // The length holds for the unpacked body.
    let (length, body) = binary(&request(256, json!([1, 1, 8, 8])), &good);
    let answer = device.post_with(INFER, &[(LENGTH, &length), ("content-encoding", "br")], body).await;
    assert_error(&answer, StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_request", "\"br\"");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let device = Device::digits();
    for path in
        ["/nothing", "/v3", "/v2/nothing", "/v2/models/letters", "/v2/models/digits/versions/1", "/score/letters"]
    {
        assert_error(&device.get(path).await, StatusCode::NOT_FOUND, "not_found", "");
    }
    for path in ["/v2/models/letters/infer", "/v2/models/digits/versions/x/infer", "/score/letters"] {
        assert_error(&device.post(path, image(|_| {})).await, StatusCode::NOT_FOUND, "not_found", "");
    }
    assert_error(&device.get("/v2/models/%ff").await, StatusCode::NOT_FOUND, "not_found", "UTF-8");
    assert_error(&device.get("/status").await, StatusCode::NOT_FOUND, "not_found", "no agent");
    device.post("/v2/models/digits/versions/2/infer?unknown=1", image(|_| {})).await.ok();
}

#[tokio::test]
async fn other_verbs_are_refused() {
    let device = Device::digits();
    for (method, path) in [
        (Method::GET, INFER),
        (Method::POST, "/v2/models/digits"),
        (Method::POST, "/v2"),
        (Method::POST, "/healthz"),
        (Method::DELETE, "/v2/models/digits"),
        (Method::GET, "/v2/repository/index"),
        (Method::PUT, "/score/digits"),
    ] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        assert_error(&device.call(request).await, StatusCode::METHOD_NOT_ALLOWED, "bad_request", "Method Not Allowed");
    }
}

#[tokio::test]
async fn what_other_servers_offer_is_said_to_be_missing() {
    let device = Device::digits();
    for path in [
        "/v2/repository/models/digits/load",
        "/v2/repository/models/vision/digits/unload",
        "/v2/systemsharedmemory/region/r/register",
        "/v2/cudasharedmemory/unregister",
        "/v2/models/digits/generate",
        "/v2/models/digits/trace/setting",
        "/v2/logging",
    ] {
        assert_error(&device.post(path, "{}").await, StatusCode::NOT_IMPLEMENTED, "bad_request", "not offered");
    }
    assert_eq!(device.get("/v2/systemsharedmemory/status").await.status, StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn nothing_is_ready_without_a_model() {
    let device = Device::new([]);
    let answer = device.get("/v2/health/ready").await;
    assert_error(&answer, StatusCode::SERVICE_UNAVAILABLE, "no_model", "no slot has a model");
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(device.get("/v2/health/live").await.status, StatusCode::OK);
    assert_eq!(device.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(device.post("/score", "{}").await.status, StatusCode::SERVICE_UNAVAILABLE);

    // The agent knows of a slot, and is still fetching its model.
    let device = Device::with([], 4, Limits::default(), |api| api.with_status(status().1));
    for path in ["/v2/models/digits", "/v2/models/vision/digits/ready"] {
        let answer = device.get(path).await;
        assert_error(&answer, StatusCode::SERVICE_UNAVAILABLE, "no_model", "yet");
    }
    let answer = device.post(INFER, image(|_| {})).await;
    assert_error(&answer, StatusCode::SERVICE_UNAVAILABLE, "no_model", "no model answers in slot digits yet");
    assert_eq!(answer.header("retry-after"), "5");
    let index = device.post("/v2/repository/index", "").await.ok();
    assert_eq!(index, json!([{"name": "digits", "version": "2", "state": "LOADING", "reason": ""}]));
    assert_eq!(device.post("/v2/repository/index", "{\"ready\":true}").await.ok(), json!([]));
}

#[tokio::test]
async fn a_model_in_two_slots_is_asked_for_by_slot() {
    let device = Device::new([("left", digits_model(1)), ("right", digits_model(2))]);
    let answer = device.get("/v2/models/vision/digits").await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "bad_request", "left, right");
    assert_eq!(device.get("/v2/models/right").await.ok()["versions"], json!(["2"]));
    let answer = device.post("/score", "{}").await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "bad_request", "left, right");
}

#[tokio::test]
async fn a_model_that_fails_says_nothing_of_its_insides() {
    let device = Device::new([("divide", fixture_model("divide"))]);
    let tensor = |name: &str, data: [i32; 2]| json!({"name": name, "shape": [1, 2], "datatype": "INT32", "data": data});
    let request = |b| json!({"inputs": [tensor("a", [6, 8]), tensor("b", b)]}).to_string();
    let answer = device.post("/v2/models/divide/infer", request([0, 2])).await;
    assert_error(&answer, StatusCode::INTERNAL_SERVER_ERROR, "inference_failed", "the agent's log");
    assert!(!answer.text().contains("divide") && !answer.text().contains("q_div"), "{}", answer.text());
    let answer = device.post("/v2/models/divide/infer", request([3, 2])).await.ok();
    assert_eq!(answer["outputs"][0]["data"], json!([2, 4]));
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let limits = Limits { body: 2000, ..Limits::default() };
    let device = Device::with([("digits", digits_model(2))], 4, limits, |api| api);
    device.post(INFER, image(|i| i["data"] = json!(vec![0; 64]))).await.ok();
    for body in [Body::from(vec![b' '; 2001]), Body::from_stream(parts(3, 1000))] {
        let answer = device.post(INFER, body).await;
        assert_error(&answer, StatusCode::PAYLOAD_TOO_LARGE, "too_large", "2000 bytes");
    }
    let claimed = device.post_with(INFER, &[("content-length", "99999999999")], "").await;
    assert_error(&claimed, StatusCode::PAYLOAD_TOO_LARGE, "too_large", "2000 bytes");
    let bomb = device.post_with(INFER, &[("content-encoding", "gzip")], gzip(&vec![b' '; 100_000])).await;
    assert_error(&bomb, StatusCode::PAYLOAD_TOO_LARGE, "too_large", "2000 bytes");
}

fn parts(
    count: usize,
    size: usize,
) -> impl futures_util::Stream<Item = Result<Vec<u8>, std::io::Error>> + Send + 'static {
    futures_util::stream::iter((0..count).map(move |_| Ok(vec![b' '; size])))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("packed")
}

#[tokio::test]
async fn late_answers_are_given_up() {
    let limits = Limits { time: Duration::from_millis(50), ..Limits::default() };
    let device = Device::with([("digits", digits_model(2))], 4, limits, |api| api);
    let never = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let answer = device.post(INFER, never).await;
    assert_error(&answer, StatusCode::GATEWAY_TIMEOUT, "overloaded", "within the time");
    assert!(!answer.header("x-request-id").is_empty());

    // The caller's own limit, in microseconds.
    let device = Device::digits();
    let pixels = vec![0u8; 3000 * 256];
    let input = json!({"name": "image", "shape": [3000, 1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": pixels.len()}});
    let (length, body) = binary(&json!({"inputs": [input], "parameters": {"timeout": 1000}}), &pixels);
    let answer = device.post_with(INFER, &[(LENGTH, &length)], body).await;
    assert_error(&answer, StatusCode::GATEWAY_TIMEOUT, "overloaded", "within the time");
}

/// A queue of one and two workers: of many requests at once some are refused, and the others are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_says_when_to_come_again() {
    let device = Arc::new(Device::with([("digits", digits_model(2))], 1, Limits::default(), |api| api));
    let blobs = bytes_of(&seven().0.repeat(200));
    let input = json!({"name": "image", "shape": [200, 1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": blobs.len()}});
    let (length, body) = binary(&json!({"inputs": [input]}), &blobs);
    let began = Instant::now();
    let calls = (0..32).map(|_| {
        let (device, length, body) = (device.clone(), length.clone(), body.clone());
        tokio::spawn(async move { device.post_with(INFER, &[(LENGTH, &length)], body).await })
    });
    let (mut answered, mut refused) = (0, 0);
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.expect("no panic");
        if answer.status == StatusCode::OK {
            answered += 1;
            continue;
        }
        assert_error(&answer, StatusCode::SERVICE_UNAVAILABLE, "overloaded", "wait already");
        assert_eq!(answer.header("retry-after"), "1");
        refused += 1;
    }
    assert!(answered >= 1 && refused >= 1, "{answered} answered, {refused} refused in {:?}", began.elapsed());
    let metrics = device.get("/metrics").await.text();
    assert!(metrics.contains(&format!("outcome=\"rejected\"}} {refused}\n")), "{metrics}");
}

#[tokio::test]
async fn web_pages_are_kept_out() {
    let mut device = Device::digits();
    let origin = [("origin", "https://page.example")];
    let answer = device.post_with(INFER, &origin, image(|_| {})).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "forbidden", "page.example");
    let host = [("host", "rebound.example")];
    assert_error(&device.post_with("/score", &host, "{}").await, StatusCode::FORBIDDEN, "forbidden", "rebound.example");
    device.exposure = Exposure::Socket;
    device.post_with(INFER, &[origin[0], host[0]], image(|_| {})).await.ok();
}

#[tokio::test]
async fn transforms_that_cannot_be_applied_are_the_models_fault() {
    let mut transforms = Transforms::default();
    let labels = vec!["only one".to_owned()];
    transforms.outputs.insert("y".into(), vec![muster_proto::manifest::OutputOp::ArgMax { labels }]);
    let model = std::sync::Arc::into_inner(fixture_model("linear")).expect("just made").model;
    let device = Device::new([("linear", loaded(model, "linear", 1, transforms))]);
    let answer = device.post("/score/linear", r#"{"x": [[1, 2, 3, 4]]}"#).await;
    assert_error(&answer, StatusCode::INTERNAL_SERVER_ERROR, "inference_failed", "the agent's log");
}
