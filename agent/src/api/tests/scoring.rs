//! The simple form.

use axum::http::StatusCode;
use base64::Engine as _;
use serde_json::{Value, json};

use super::support::*;

fn png() -> Vec<u8> {
    std::fs::read(digits("seven.png")).expect("the image")
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), data].concat()
}

fn assert_seven(answer: &Answer) {
    let document = answer.ok();
    assert_eq!((&document["model"], &document["version"]), (&json!("vision/digits"), &json!(2)));
    assert_eq!(document["digest"], answer.header("muster-bundle-digest"));
    let best = &document["outputs"]["logits"][0][0];
    assert_eq!((&best["index"], &best["label"]), (&json!(7), &json!("7")), "{document}");
    assert!(number(&best["value"]) > 0.9, "{document}");
    assert_eq!(document["outputs"]["logits"][0].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn an_image_is_scored_however_it_comes() {
    let device = Device::digits();
    for (kind, path) in
        [("image/png", "/score/digits"), ("image/png", "/score"), ("application/octet-stream", "/score")]
    {
        assert_seven(&device.post_with(path, &[("content-type", kind)], png()).await);
    }
    // What curl says of any data.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_seven(&device.post_with("/score/vision/digits", &form, png()).await);
    let text = base64::engine::general_purpose::STANDARD.encode(png());
    let url = format!("data:image/png;base64,{text}");
    for image in [json!(text), json!(text.trim_end_matches('=')), json!(url), json!({"b64": text})] {
        assert_seven(&device.post("/score/digits", json!({"image": image}).to_string()).await);
    }
    // Pixels that the caller has decoded.
    let pixels: Vec<f32> = seven().0.iter().map(|value| (value * 255.0).round()).collect();
    let rows: Vec<Vec<[f32; 1]>> = pixels.chunks(8).map(|row| row.iter().map(|value| [*value]).collect()).collect();
    let bytes: Vec<u8> = pixels.iter().map(|value| *value as u8).collect();
    for image in [
        json!(rows),
        json!({"dtype": "u8", "shape": [8, 8, 1], "data": bytes}),
        json!({"shape": [8, 8, 1], "data": rows}),
    ] {
        assert_seven(&device.post("/score/digits", json!({"image": image}).to_string()).await);
    }
    assert_seven(&device.post("/score/digits", json!(rows).to_string()).await);
    for kind in ["application/x-npy", "application/octet-stream"] {
        let file = npy("|u1", "(8, 8, 1)", &bytes);
        assert_seven(&device.post_with("/score", &[("content-type", kind)], file).await);
    }
    assert_seven(&device.post_with("/score", &[], npy("<f4", "(8, 8)", &bytes_of(&pixels))).await);
}

#[tokio::test]
async fn models_without_transforms_take_their_own_tensors() {
    let device = Device::new([("two", fixture_model("two_in_two_out")), ("all", fixture_model("every_dtype"))]);
    let b = json!({"dtype": "INT32", "shape": [1, 3], "data": [1, 5, 3]});
    for body in
        [json!({"a": [[2, 4, 6.5]], "b": [[1, 5, 3]]}), json!({"b": b, "a": {"shape": [1, 3], "data": [[2, 4, 6.5]]}})]
    {
        let answer =
            device.post_with("/score/two", &[("content-type", "application/json")], body.to_string()).await.ok();
        assert_eq!(answer["outputs"]["sum"], json!({"dtype": "f32", "shape": [1, 3], "data": [3.0, 9.0, 9.5]}));
        assert_eq!(answer["outputs"]["larger"]["data"], json!([true, false, true]));
    }
    let all: serde_json::Map<String, Value> = muster_proto::manifest::Dtype::ALL
        .iter()
        .map(|dtype| {
            let data =
                if dtype.name() == "bool" { json!([[true, false], [false, true]]) } else { json!([[1, 2], [3, 4]]) };
            (format!("in_{dtype}"), data)
        })
        .collect();
    let answer = device.post("/score/all", Value::Object(all).to_string()).await.ok();
    assert_eq!(answer["outputs"]["out_f16"], json!({"dtype": "f16", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]}));
    assert_eq!(answer["outputs"]["out_u64"]["data"], json!([1, 2, 3, 4]));
}

#[tokio::test]
async fn bad_input_is_told_apart() {
    let device = Device::new([("digits", digits_model(2)), ("two", fixture_model("two_in_two_out"))]);
    type Row = (&'static str, Option<&'static str>, Vec<u8>, StatusCode, &'static str);
    let table: [Row; 18] = [
        ("digits", None, b"".to_vec(), StatusCode::BAD_REQUEST, "not a JSON dictionary"),
        ("digits", None, b"hello".to_vec(), StatusCode::BAD_REQUEST, "not a JSON dictionary"),
        ("digits", None, b"{}".to_vec(), StatusCode::BAD_REQUEST, "input 'image' is missing"),
        ("digits", None, br#"{"picture": [1]}"#.to_vec(), StatusCode::BAD_REQUEST, "no input 'picture', but image"),
        ("digits", None, br#"{"image": [1], "image": [1]}"#.to_vec(), StatusCode::BAD_REQUEST, "stands twice"),
        ("digits", None, br#"{"image": "%%"}"#.to_vec(), StatusCode::BAD_REQUEST, "not base64"),
        ("digits", None, br#"{"image": "aGVsbG8="}"#.to_vec(), StatusCode::BAD_REQUEST, "cannot be decoded"),
        ("digits", None, br#"{"image": [[1, 2], [3]]}"#.to_vec(), StatusCode::BAD_REQUEST, "differ in length"),
        ("digits", None, br#"{"image": {"b64": "", "shape": [1]}}"#.to_vec(), StatusCode::BAD_REQUEST, "wanted {"),
        ("digits", None, br#"{"image": {"shape": [9], "data": [1]}}"#.to_vec(), StatusCode::BAD_REQUEST, "do not fill"),
        (
            "digits",
            None,
            json!({"image": {"shape": vec![1; 100], "data": [1]}}).to_string().into(),
            StatusCode::BAD_REQUEST,
            "100 dimensions",
        ),
        ("digits", None, png()[..60].to_vec(), StatusCode::BAD_REQUEST, "cannot be decoded"),
        ("digits", Some("image/png"), b"hello".to_vec(), StatusCode::BAD_REQUEST, "cannot be decoded"),
        ("digits", Some("application/x-npy"), b"hello".to_vec(), StatusCode::BAD_REQUEST, "not an .npy file"),
        ("digits", Some("text/csv"), b"1,2".to_vec(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/csv"),
        ("two", None, b"[1]".to_vec(), StatusCode::BAD_REQUEST, "2 inputs: send a JSON dictionary with a, b"),
        ("two", Some("image/png"), png(), StatusCode::BAD_REQUEST, "2 inputs"),
        ("two", None, br#"{"a": [[1, 2, 3]], "b": "aGVsbG8="}"#.to_vec(), StatusCode::BAD_REQUEST, "takes numbers"),
    ];
    for (slot, kind, body, status, words) in table {
        let headers: Vec<(&str, &str)> = kind.into_iter().map(|kind| ("content-type", kind)).collect();
        let answer = device.post_with(&format!("/score/{slot}"), &headers, body).await;
        assert_eq!(answer.status, status, "{words}: {}", answer.text());
        assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains(words)), "{words}: {}", answer.text());
    }
    let wrong = device.post("/score/two", r#"{"a": [[1, 2, 3]], "b": [[1, 2]]}"#).await;
    assert!(wrong.text().contains("i32 [N, 3]"), "{}", wrong.text());
}

#[tokio::test]
async fn a_slot_tells_how_to_use_it() {
    let device = Device::new([("digits", digits_model(2)), ("two", fixture_model("two_in_two_out"))]);
    let list = device.get("/score").await.ok();
    assert_eq!(
        list["slots"][0],
        json!({"slot": "digits", "model": "vision/digits", "version": 2, "url": "/score/digits"})
    );
    let usage = device.get("/score/digits").await.ok();
    assert_eq!(usage["inputs"][0]["shape"], json!(["N", 1, 8, 8]));
    assert_eq!(usage["inputs"][0]["transforms"][0]["op"], "decode_image");
    assert!(usage["example"].as_str().is_some_and(|text| text.contains("@image.png")), "{usage}");

    // The example works as it stands.
    let usage = device.get("/score/two").await.ok();
    let example = usage["example"].as_str().expect("an example");
    let body = example.split('\'').nth(3).expect("a body between quotes");
    device.post_with("/score/two", &[("content-type", "application/json")], body.to_owned()).await.ok();
}
