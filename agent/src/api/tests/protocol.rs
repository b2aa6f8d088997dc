//! The Open Inference Protocol, as its clients speak it.

use std::io::{Read, Write};

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::support::*;

const INFER: &str = "/v2/models/digits/infer";
const LENGTH: &str = "Inference-Header-Content-Length";

fn seven_json() -> Value {
    json!({"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": seven().0}]})
}

fn logits(answer: &Value) -> Vec<f32> {
    answer["outputs"][0]["data"].as_array().expect("data").iter().map(number).collect()
}

/// The document and the bytes behind it.
fn split(answer: &Answer) -> (Value, Vec<u8>) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let length: usize = answer.header(LENGTH).parse().expect("the header's length");
    let (json, blobs) = answer.body.split_at(length);
    (serde_json::from_slice(json).expect("json"), blobs.to_vec())
}

#[tokio::test]
async fn a_server_and_its_models_describe_themselves() {
    let device = Device::digits();
    for path in ["/v2", "/v2/", "/v2?unknown=1"] {
        assert_eq!(device.get(path).await.ok()["name"], "muster-agent");
    }
    assert_eq!(device.get("/v2/health/live").await.ok(), json!({"live": true}));
    assert_eq!(device.get("/v2/health/ready").await.ok(), json!({"ready": true, "live": true}));
    assert_eq!(device.get("/v2/models").await.ok(), json!({"models": ["digits"]}));

    let names =
        ["digits", "vision/digits", "vision%2Fdigits", "digits/", "digits/versions/2", "vision/digits/versions/2"];
    for name in names {
        let answer = device.get(&format!("/v2/models/{name}")).await;
        let metadata = answer.ok();
        assert_eq!(metadata["versions"], json!(["2"]), "{name}");
        assert_eq!(metadata["inputs"], json!([{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]));
        assert_eq!(metadata["outputs"], json!([{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]));
        assert_eq!(answer.header("muster-model-version"), "2");
        assert_eq!(answer.header("muster-bundle-digest").len(), 64);
    }
    assert_eq!(device.get("/v2/models/digits/ready").await.ok(), json!({"name": "digits", "ready": true}));
    let config = device.get("/v2/models/digits/versions/2/config").await.ok();
    assert_eq!(config["input"], json!([{"name": "image", "data_type": "TYPE_FP32", "dims": [-1, 1, 8, 8]}]));
    assert_eq!(config["max_batch_size"], 0);
}

#[tokio::test]
async fn the_index_lists_what_answers() {
    let device = Device::digits();
    for body in ["", "{}", "{\"ready\": true}"] {
        let index = device.post("/v2/repository/index", body).await.ok();
        assert_eq!(index, json!([{"name": "digits", "version": "2", "state": "READY", "reason": ""}]), "{body}");
    }
    assert_eq!(device.post("/v2/repository/index", "x").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn json_is_answered_in_json_however_it_is_nested() {
    let device = Device::digits();
    let (pixels, want) = seven();
    let rows: Vec<&[f32]> = pixels.chunks(8).collect();
    for data in [json!(pixels), json!([[rows]]), json!(rows)] {
        let mut request = seven_json();
        request["inputs"][0]["data"] = data;
        request["id"] = json!("job-17");
        let answer = device.post(INFER, request.to_string()).await;
        let document = answer.ok();
        assert_near(&logits(&document), &want);
        assert_eq!(document["id"], "job-17");
        assert_eq!((&document["model_name"], &document["model_version"]), (&json!("digits"), &json!("2")));
        assert_eq!(document["outputs"][0]["shape"], json!([1, 10]));
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("muster-model-version"), "2");
        assert_eq!(answer.header(LENGTH), "");
    }
    let first = device.post(INFER, seven_json().to_string()).await.ok();
    let second = device.post(INFER, seven_json().to_string()).await.ok();
    assert!(first["id"].is_string() && first["id"] != second["id"], "ids are made where there is none");
}

#[tokio::test]
async fn bytes_go_both_ways() {
    let device = Device::digits();
    let (pixels, want) = seven();
    let input =
        json!({"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": 256}});
    let output = |binary: bool| json!([{"name": "logits", "parameters": {"binary_data": binary}}]);
    // What is asked for, and whether the output comes as bytes.
    let table = [
        (json!({}), false),
        (json!({"parameters": {"binary_data_output": true}}), true),
        (json!({"outputs": output(true)}), true),
        (json!({"outputs": output(false), "parameters": {"binary_data_output": true}}), false),
        (json!({"outputs": [{"name": "logits"}], "parameters": {"binary_data_output": true}}), true),
        (json!({"outputs": [], "parameters": {"binary_data_output": true, "priority": 3}}), true),
    ];
    for (mut request, as_bytes) in table {
        request["inputs"] = json!([input]);
        let (length, body) = binary(&request, &bytes_of(&pixels));
        // Whatever a client calls the body, the header decides.
        for kind in ["application/octet-stream", "application/json", "application/x-www-form-urlencoded"] {
            let headers = [(LENGTH, length.as_str()), ("content-type", kind)];
            let answer = device.post_with(INFER, &headers, body.clone()).await;
            if as_bytes {
                let (document, blobs) = split(&answer);
                assert_eq!(answer.header("content-type"), "application/octet-stream");
                assert_eq!(document["outputs"][0]["parameters"]["binary_data_size"], 40);
                assert_eq!(document["outputs"][0]["data"], Value::Null);
                assert_near(&floats_of(&blobs), &want);
            } else {
                assert_near(&logits(&answer.ok()), &want);
            }
        }
    }
}

#[tokio::test]
async fn a_raw_body_is_the_only_input() {
    let device = Device::digits();
    let (pixels, want) = seven();
    let two = bytes_of(&[pixels.clone(), pixels].concat());
    let (document, blobs) = split(&device.post_with(INFER, &[(LENGTH, "0")], two.clone()).await);
    assert_eq!(document["outputs"][0]["shape"], json!([2, 10]));
    assert_near(&floats_of(&blobs), &[want.clone(), want].concat());
    assert_eq!(device.post_with(INFER, &[(LENGTH, "0")], two[..255].to_vec()).await.status, StatusCode::BAD_REQUEST);

    let device = Device::new([("two", fixture_model("two_in_two_out"))]);
    let refused = device.post_with("/v2/models/two/infer", &[(LENGTH, "0")], two).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text().contains("1 input"), "{}", refused.text());
}

#[tokio::test]
async fn tensors_lie_in_the_order_in_which_they_are_listed() {
    let device = Device::new([("two", fixture_model("two_in_two_out"))]);
    let b = [1i32, 5, 3].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    // `a` in JSON lies between two binary ones and takes no bytes.
    let request = json!({
        "outputs": [
            {"name": "larger", "parameters": {"binary_data": true}},
            {"name": "sum", "parameters": {"binary_data": true}},
        ],
        "inputs": [
            {"name": "b", "shape": [1, 3], "datatype": "INT32", "parameters": {"binary_data_size": 12}},
            {"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [[2.0, 4.0, 6.5]]},
        ],
    });
    let (length, body) = binary(&request, &b);
    let (document, blobs) = split(&device.post_with("/v2/models/two/infer", &[(LENGTH, &length)], body).await);
    assert_eq!((&document["outputs"][0]["name"], &document["outputs"][1]["name"]), (&json!("larger"), &json!("sum")));
    assert_eq!(document["outputs"][0]["datatype"], "BOOL");
    assert_eq!(blobs[..3], [1, 0, 1]);
    assert_eq!(floats_of(&blobs[3..]), [3.0, 9.0, 9.5]);

    let one = json!({"outputs": [{"name": "larger"}], "inputs": [
        {"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [2, 4, 6.5]},
        {"name": "b", "shape": [1, 3], "datatype": "INT32", "data": [1, 5, 3]},
    ]});
    let answer = device.post("/v2/models/two/infer", one.to_string()).await.ok();
    assert_eq!(answer["outputs"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["outputs"][0]["data"], json!([true, false, true]));
}

#[tokio::test]
async fn empty_batches_have_empty_answers() {
    let device = Device::digits();
    let input =
        json!({"name": "image", "shape": [0, 1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": 0}});
    let (length, body) = binary(&json!({"inputs": [input], "parameters": {"binary_data_output": true}}), &[]);
    let answer = device.post_with(INFER, &[(LENGTH, &length)], body).await;
    assert_eq!(answer.header(LENGTH), "", "there are no bytes behind the JSON");
    assert_eq!(answer.ok()["outputs"][0]["parameters"]["binary_data_size"], 0);
    let input = json!({"name": "image", "shape": [0, 1, 8, 8], "datatype": "FP32", "data": []});
    let answer = device.post(INFER, json!({"inputs": [input]}).to_string()).await.ok();
    assert_eq!((&answer["outputs"][0]["data"], &answer["outputs"][0]["shape"]), (&json!([]), &json!([0, 10])));
}

#[tokio::test]
async fn every_dtype_survives_as_bytes_and_all_but_halves_as_json() {
    let device = Device::new([("all", fixture_model("every_dtype"))]);
    let dtypes = muster_proto::manifest::Dtype::ALL;
    let blob = |size: usize| (0..4 * size).map(|n| u8::from(n % size == 0)).collect::<Vec<u8>>();
    let blobs: Vec<u8> = dtypes.iter().flat_map(|dtype| blob(dtype.size())).collect();
    let inputs: Vec<Value> = dtypes
        .iter()
        .map(|dtype| {
            json!({"name": format!("in_{dtype}"), "shape": [2, 2], "datatype": dtype.oip_name(),
                "parameters": {"binary_data_size": 4 * dtype.size()}})
        })
        .collect();
    let (length, body) = binary(&json!({"inputs": inputs, "parameters": {"binary_data_output": true}}), &blobs);
    let (_, back) = split(&device.post_with("/v2/models/all/infer", &[(LENGTH, &length)], body.clone()).await);
    assert_eq!(back, blobs);

    let (length, body) = binary(&json!({"inputs": inputs}), &blobs);
    let refused = device.post_with("/v2/models/all/infer", &[(LENGTH, &length)], body).await;
    assert!(refused.text().contains("sending FP16 data via JSON is not supported"), "{}", refused.text());
    let half = json!({"name": "in_f16", "shape": [2, 2], "datatype": "FP16", "data": [1, 2, 3, 4]});
    let refused = device.post("/v2/models/all/infer", json!({"inputs": [half]}).to_string()).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let sentence =
        "receiving FP16 data via JSON is not supported. Please use the binary data format for input 'in_f16'";
    assert_eq!(refused.json()["error"], sentence);
}

#[tokio::test]
async fn numbers_stay_exact_in_json() {
    let device = Device::new([("all", fixture_model("every_dtype"))]);
    let values = [
        ("bool", json!([true, false, false, true])),
        ("u8", json!([0, 1, 254, 255])),
        ("u16", json!([0, 1, 2, 65535])),
        ("u32", json!([0, 1, 2, 4294967295u32])),
        ("u64", json!([0, 1, 9007199254740993u64, u64::MAX])),
        ("i8", json!([-128, 0, 1, 127])),
        ("i16", json!([-32768, 0, 1, 32767])),
        ("i32", json!([i32::MIN, 0, 1, i32::MAX])),
        ("i64", json!([i64::MIN, 0, 9007199254740993i64, i64::MAX])),
        ("f32", json!([0.1, -0.0, 1e-38, 3.5])),
        ("f64", json!([0.1, 1e300, -5e-324, 0.30000000000000004])),
    ];
    let mut inputs: Vec<Value> = values
        .iter()
        .map(|(name, data)| {
            let dtype: muster_proto::manifest::Dtype = name.parse().expect("a dtype");
            json!({"name": format!("in_{name}"), "shape": [2, 2], "datatype": dtype.oip_name(), "data": data})
        })
        .collect();
    inputs.push(json!({"name": "in_f16", "shape": [2, 2], "datatype": "FP16", "parameters": {"binary_data_size": 8}}));
    let outputs: Vec<Value> = values.iter().map(|(name, _)| json!({"name": format!("out_{name}")})).collect();
    let (length, body) = binary(&json!({"inputs": inputs, "outputs": outputs}), &[0; 8]);
    let answer = device.post_with("/v2/models/all/infer", &[(LENGTH, &length)], body).await.ok();
    for (output, (name, data)) in answer["outputs"].as_array().expect("outputs").iter().zip(&values) {
        assert_eq!(output["data"], *data, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_number_is_null_and_counted() {
    let device = Device::new([("nan", fixture_model("nan"))]);
    let request =
        json!({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [0.0, 1.0, null, 2.0]}]});
    let answer = device.post("/v2/models/nan/infer", request.to_string()).await.ok();
    assert_eq!(answer["outputs"][0]["data"], json!([null, 1.0, null, 1.0]));
    assert_eq!(answer["parameters"], json!({"muster_nonfinite": 2}));
    let mut request = request;
    request["parameters"] = json!({"binary_data_output": true});
    let (document, blobs) = split(&device.post("/v2/models/nan/infer", request.to_string()).await);
    assert_eq!(document["parameters"], Value::Null);
    assert!(floats_of(&blobs)[0].is_nan() && floats_of(&blobs)[1] == 1.0);
}

#[tokio::test]
async fn the_best_classes_can_be_asked_for() {
    let device = Device::digits();
    let mut request = seven_json();
    request["outputs"] = json!([{"name": "logits", "parameters": {"classification": 2}}]);
    let answer = device.post(INFER, request.to_string()).await.ok();
    let output = &answer["outputs"][0];
    assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([1, 2])));
    let best = output["data"][0].as_str().expect("text");
    assert!(best.ends_with(":7:7") && best.parse::<f32>().is_err(), "{best}");

    request["outputs"][0]["parameters"]["binary_data"] = json!(true);
    let (document, blobs) = split(&device.post(INFER, request.to_string()).await);
    assert_eq!(document["outputs"][0]["parameters"]["binary_data_size"], blobs.len());
    let length = u32::from_le_bytes([blobs[0], blobs[1], blobs[2], blobs[3]]) as usize;
    assert_eq!(&blobs[4..4 + length], best.as_bytes());
}

#[tokio::test]
async fn bodies_are_packed_both_ways() {
    let device = Device::digits();
    let (pixels, want) = seven();
    let batch = 40;
    let blobs = bytes_of(&pixels.repeat(batch));
    let input = json!({"name": "image", "shape": [batch, 1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": blobs.len()}});
    let (length, body) = binary(&json!({"inputs": [input], "parameters": {"binary_data_output": true}}), &blobs);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&body).expect("packed");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(&body).expect("packed");
    for (coding, packed) in [("gzip", gzip.finish().expect("packed")), ("deflate", zlib.finish().expect("packed"))] {
        // The length is that of the JSON before it was packed, both ways.
        let headers = [(LENGTH, length.as_str()), ("content-encoding", coding), ("accept-encoding", coding)];
        let mut answer = device.post_with(INFER, &headers, packed).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (StatusCode::OK, coding));
        let mut plain = Vec::new();
        match coding {
            "gzip" => flate2::read::GzDecoder::new(answer.body.as_slice()).read_to_end(&mut plain),
            _ => flate2::read::ZlibDecoder::new(answer.body.as_slice()).read_to_end(&mut plain),
        }
        .expect("unpacked");
        answer.body = plain;
        let (_, blobs) = split(&answer);
        assert_near(&floats_of(&blobs), &want.repeat(batch));
    }
}

#[tokio::test]
async fn statistics_count_inferences() {
    let device = Device::new([("digits", digits_model(2)), ("divide", fixture_model("divide"))]);
    for _ in 0..3 {
        device.post(INFER, seven_json().to_string()).await.ok();
    }
    let one = device.get("/v2/models/vision/digits/stats").await.ok();
    let stats = &one["model_stats"][0];
    assert_eq!(
        (&stats["name"], &stats["version"], &stats["inference_count"]),
        (&json!("digits"), &json!("2"), &json!(3))
    );
    assert_eq!(stats["inference_stats"]["success"]["count"], 3);
    assert!(stats["inference_stats"]["success"]["ns"].as_u64().expect("a number") > 0);
    let all = device.get("/v2/models/stats").await.ok();
    assert_eq!(all["model_stats"].as_array().map(Vec::len), Some(2));
}
