//! Scoring scripts before and after the model.

use std::time::Duration;

use axum::http::StatusCode;
use muster_proto::manifest::ScriptLimits;
use serde_json::{Value, json};

use super::support::*;
use crate::api::Limits;
use crate::engine::Loaded;
use crate::engine::testing::wasm::{ECHO, hook, hooks, with_alloc};

/// digits without transforms, behind the example script.
fn scripted() -> Device {
    let wasm = std::fs::read(digits("script.wasm")).expect("the module");
    let mut loaded = std::sync::Arc::into_inner(digits_model(2)).expect("nobody else has it");
    loaded.manifest.transforms = Default::default();
    Device::new([("digits", with_script(std::sync::Arc::new(loaded), &wasm, ScriptLimits::default()))])
}

fn with(extra: &str) -> std::sync::Arc<Loaded> {
    let wasm = with_alloc("(i32.const 1024)", extra);
    with_script(fixture_model("two_in_two_out"), &wasm, ScriptLimits { fuel: 20_000_000, memory_bytes: 4 << 20 })
}

fn pixels() -> Vec<Vec<u64>> {
    let pixels: Vec<u64> = seven().0.iter().map(|value| (value * 255.0).round() as u64).collect();
    pixels.chunks(8).map(<[u64]>::to_vec).collect()
}

#[tokio::test]
async fn a_request_in_the_scripts_own_form_is_scored() {
    let device = scripted();
    let body = json!({"pixels": pixels()}).to_string();
    for path in ["/score/digits", "/score", "/api/v1/service/digits/score"] {
        let answer = device.post(path, body.clone()).await;
        assert_eq!(answer.ok()["digit"], 7, "{path}: {}", answer.text());
        assert_eq!((answer.header("muster-model-version"), answer.header("content-type")), ("2", "application/json"));
    }
    let packed = device.post_with("/score", &[("accept-encoding", "gzip")], body).await;
    assert_eq!(packed.ok()["digit"], 7);
}

#[tokio::test]
async fn refusals_and_failures_are_told_apart() {
    let device = scripted();
    let error = |answer: &Answer| (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned());
    let refused = device.post("/score", r#"{"pixels": [[1, 2], [3, 4]]}"#).await;
    assert_eq!(error(&refused), (StatusCode::BAD_REQUEST, "script_refused".into()));
    assert!(refused.json()["error"].as_str().is_some_and(|text| text.starts_with("wanted {\"pixels\": eight rows")));
    let no_json = device.post("/score", "{").await;
    assert_eq!(error(&no_json), (StatusCode::BAD_REQUEST, "bad_request".into()));

    let table = [
        ("(unreachable)", "script_failed"),
        ("(loop (br 0)) (unreachable)", "script_out_of_fuel"),
        ("(drop (memory.grow (i32.const 60000))) (unreachable)", "script_out_of_memory"),
        ("(i64.const 0)", "script_failed"),
    ];
    for (body, code) in table {
        let device = Device::new([("two", with(&hooks(body)))]);
        let answer = device.post("/score/two", "{}").await;
        assert_eq!(error(&answer), (StatusCode::INTERNAL_SERVER_ERROR, code.into()), "{body}: {}", answer.text());
        let totals = device.slots.get(&slot("two")).expect("answers").stats.totals();
        assert_eq!((totals.ok, totals.errors), (0, 1), "a rollout sees it");
    }
    // What the script made of it does not fit the model.
    let device = Device::new([("two", with(&hook("preprocess", ECHO)))]);
    let unfit = device.post("/score/two", r#"{"a": [[1, 2]], "b": [[1, 2]]}"#).await;
    assert_eq!(error(&unfit), (StatusCode::BAD_REQUEST, "input_invalid".into()));
}

#[tokio::test]
async fn half_a_script_leaves_the_other_half_as_it_was() {
    let body = json!({"a": [[2, 4, 6.5]], "b": [[1, 5, 3]]}).to_string();
    let plain = Device::new([("two", fixture_model("two_in_two_out"))]).post("/score/two", body.clone()).await.ok();
    let before = Device::new([("two", with(&hook("preprocess", ECHO)))]).post("/score/two", body.clone()).await.ok();
    assert_eq!(before, plain);
    let device = Device::new([("two", with(&hook("postprocess", ECHO)))]);
    assert_eq!(device.post("/score/two", body.clone()).await.ok(), plain["outputs"]);
    let azure = json!({"Inputs": {"a": [[2, 4, 6.5]], "b": [[1, 5, 3]]}}).to_string();
    assert_eq!(device.post("/score/two", azure).await.ok(), json!({"Results": plain["outputs"]}));
}

#[tokio::test]
async fn bytes_come_to_a_script_in_base64() {
    let twice = "(global $seen (mut i32) (i32.const 0))".to_owned() + &hook("preprocess", &refusal());
    let device = Device::new([("two", with(&twice))]);
    let answer = device.post_with("/score/two", &[("content-type", "image/png")], b"\x89PNG".to_vec()).await;
    assert_eq!(answer.json()["error"], r#"{"b64":"iVBORw=="}"#);
}

/// Refuses with what it was given.
fn refusal() -> String {
    format!("(i64.or (i64.const 2147483648) {ECHO})")
}

#[tokio::test]
async fn protocols_of_tensors_go_to_the_model_itself() {
    let device = Device::new([("two", with(&hooks("(unreachable)")))]);
    let metadata = device.get("/v2/models/two").await.ok();
    assert!(metadata["parameters"]["muster_script"].as_str().is_some_and(|text| text.contains("/score only")));
    let instances = json!({"instances": [{"a": [2, 4, 6.5], "b": [1, 5, 3]}]}).to_string();
    device.post("/v1/models/two:predict", instances).await.ok();
}

#[tokio::test]
async fn documents_tell_of_the_script() {
    let device = scripted();
    let usage = device.get("/score/digits").await.ok();
    assert_eq!(usage["script"]["hooks"], json!(["preprocess", "postprocess"]));
    assert!(usage["example"].as_str().is_some_and(|text| text.contains("pixels")), "{usage}");
    let swagger = device.get("/swagger.json").await.ok();
    assert_eq!(swagger["definitions"]["digits_input"]["example"], json!({"pixels": []}));
    let openapi = device.get("/openapi.json").await.ok();
    let schema = &openapi["paths"]["/score/digits"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(schema["example"], json!({"pixels": []}));
}

#[tokio::test]
async fn a_script_that_takes_too_long_is_stopped_and_leaves_the_threads() {
    let endless = with_alloc("(i32.const 1024)", &hooks("(loop (br 0)) (unreachable)"));
    let limits = ScriptLimits { fuel: u64::MAX, memory_bytes: 4 << 20 };
    let models = [("two", with_script(fixture_model("two_in_two_out"), &endless, limits)), ("digits", digits_model(2))];
    let time = Duration::from_millis(50);
    let device = Device::with(models, 16, Limits { time, ..Limits::default() }, |api| api);
    // More than there are threads.
    for _ in 0..3 {
        let late = device.post("/score/two", "{}").await;
        assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT, "{}", late.text());
    }
    let slow = std::time::Instant::now();
    loop {
        let answer = device.post("/v1/models/digits:predict", json!({"instances": [[pixels()]]}).to_string()).await;
        if answer.status == StatusCode::OK {
            break;
        }
        assert!(slow.elapsed() < Duration::from_secs(20), "the threads never come back: {}", answer.text());
    }
    let _: Value = device.get("/v2/models").await.ok();
}
