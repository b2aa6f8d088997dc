//! Protocols of rows: KServe's first one, MLflow's, Azure ML's, and the documents about them.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::support::*;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn rows(value: &Value) -> Vec<f32> {
    fn flatten(value: &Value, into: &mut Vec<f32>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| flatten(item, into)),
            value => into.push(number(value)),
        }
    }
    let mut all = Vec::new();
    flatten(value, &mut all);
    all
}

fn two_models() -> Device {
    Device::new([("digits", digits_model(2)), ("two", fixture_model("two_in_two_out"))])
}

#[tokio::test]
async fn kserve_predicts() {
    let device = two_models();
    let (pixels, want) = seven();
    let nested: Vec<&[f32]> = pixels.chunks(8).collect();
    let paths = [
        "/v1/models/digits:predict",
        "/v1/models/digits%3Apredict",
        "/v1/models/vision/digits:predict",
        "/v1/models/vision%2Fdigits/versions/2:predict",
    ];
    for path in paths {
        for body in [
            json!({"instances": [[nested]]}),
            json!({"instances": [pixels]}),
            json!({"instances": [{"image": [nested]}]}),
            json!({"inputs": [[nested]]}),
            json!({"inputs": {"image": [[nested]]}}),
            json!({"inputs": [{"image": pixels}], "signature_name": "serving_default"}),
        ] {
            let answer = device.post(path, body.to_string()).await;
            let predictions = answer.ok()["predictions"].clone();
            assert_eq!(predictions.as_array().map(Vec::len), Some(1), "{body}");
            assert_near(&rows(&predictions), &want);
            assert_eq!((answer.header("muster-model-version"), answer.header("muster-nonfinite")), ("2", ""));
            assert_eq!(answer.header("muster-bundle-digest").len(), 64);
        }
    }
    let body = json!({"instances": [{"a": [2, 4, 6.5], "b": [1, 5, 3]}, {"b": [9, 9, 9], "a": [0, 0, 10]}]});
    let answer = device.post("/v1/models/two:predict", body.to_string()).await.ok();
    let want = json!([
        {"sum": [3.0, 9.0, 9.5], "larger": [true, false, true]}, {"sum": [9.0, 9.0, 19.0], "larger": [false, false, true]},
    ]);
    assert_eq!(answer, json!({"predictions": want}));
}

#[tokio::test]
async fn kserve_tells_what_answers() {
    let device = two_models();
    assert_eq!(device.get("/v1/models").await.ok(), json!({"models": ["digits", "two"]}));
    let ready = device.get("/v1/models/vision/digits").await.ok();
    assert_eq!(ready, json!({"name": "vision/digits", "ready": true}));
    assert_eq!(device.get("/").await.ok()["status"], "alive");
    let table = [
        ("GET", "/v1/models/letters", StatusCode::NOT_FOUND, "letters"),
        ("GET", "/v1/models/digits:predict", StatusCode::METHOD_NOT_ALLOWED, "Not Allowed"),
        ("POST", "/v1/models/digits", StatusCode::METHOD_NOT_ALLOWED, "Not Allowed"),
        ("POST", "/v1/models/digits:explain", StatusCode::NOT_IMPLEMENTED, "not offered"),
        ("POST", "/v1/models/digits:dance", StatusCode::NOT_FOUND, ":predict"),
        ("POST", "/v1/models/digits/versions/1:predict", StatusCode::NOT_FOUND, "version"),
        ("POST", "/v1/models/digits:predict", StatusCode::BAD_REQUEST, "instances"),
    ];
    for (verb, path, status, words) in table {
        let answer = if verb == "GET" { device.get(path).await } else { device.post(path, "{}").await };
        assert_eq!(answer.status, status, "{path}");
        if status == StatusCode::METHOD_NOT_ALLOWED {
            assert_eq!(answer.header("allow"), if verb == "GET" { "POST" } else { "GET,HEAD" });
        }
        assert!(answer.json()["error"].as_str().is_some_and(|text| text.contains(words)), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_refused_verb_is_told_the_others() {
    let device = two_models();
    let table = [
        ("POST", "/", "GET,HEAD"),
        ("OPTIONS", "/", "GET,HEAD"),
        ("POST", "/v1/veto", "GET,HEAD,PUT,DELETE"),
        ("GET", "/invocations", "POST"),
        ("GET", "/v2/models/digits/infer", "POST"),
        ("POST", "/v2/models/digits", "GET,HEAD"),
        ("DELETE", "/v2/models/digits", "GET,HEAD"),
        ("OPTIONS", "/v2/models/digits/versions/2/infer", "POST"),
        ("OPTIONS", "/v2/models/stats", "GET,HEAD"),
        ("PUT", "/v1/models/digits", "GET,HEAD"),
        ("OPTIONS", "/v1/models/digits%3Apredict", "POST"),
        ("TRACE", "/api/v1/service/digits/score", "POST"),
        ("PATCH", "/api/v1/service/digits/swagger.json", "GET,HEAD"),
        ("PUT", "/score", "GET,HEAD,POST"),
        ("POST", "/api/v1/service/digits/swagger.json", "GET,HEAD"),
    ];
    for (verb, path, allow) in table {
        let request = axum::http::Request::builder().method(verb).uri(path).body(axum::body::Body::empty());
        let answer = device.call(request.expect("a request")).await;
        assert_eq!((answer.status, answer.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, allow), "{verb} {path}");
    }
}

#[tokio::test]
async fn what_is_no_number_is_null_and_counted() {
    let device = Device::new([("nan", fixture_model("nan")), ("all", fixture_model("every_dtype"))]);
    for (path, key) in [("/v1/models/nan:predict", "predictions"), ("/invocations/nan", "predictions")] {
        let answer = device.post_with(path, JSON, r#"{"instances": [[0, 2], [0, null]]}"#).await;
        assert_eq!(answer.ok()[key], json!([[null, 1.0], [null, null]]), "{path}");
        assert_eq!(answer.header("muster-nonfinite"), "3");
    }
    let half = device.post("/v1/models/all:predict", r#"{"inputs": {"in_f16": [[1, 2], [3, 4]]}}"#).await;
    assert_eq!(half.status, StatusCode::BAD_REQUEST);
    assert!(half.text().contains("FP16"), "{}", half.text());
}

#[tokio::test]
async fn mlflow_takes_frames_and_tensors() {
    let device = Device::new([("digits", digits_model(2))]);
    let (pixels, want) = seven();
    let columns: Vec<String> = (0..64).map(|index| format!("pixel{index:02}")).collect();
    let record: Value =
        columns.iter().cloned().zip(pixels.iter().map(|value| json!(value))).collect::<serde_json::Map<_, _>>().into();
    let numbers: Vec<u64> = (0..64).collect();
    let texts: Vec<String> = pixels.iter().map(f32::to_string).collect();
    let bodies = [
        json!({"dataframe_split": {"index": [7], "columns": columns, "data": [pixels]}}),
        json!({"dataframe_split": {"data": [pixels], "columns": numbers}, "params": {}}),
        json!({"dataframe_split": {"columns": ["id", "image"], "data": [["a", pixels]]}}),
        json!({"dataframe_records": [record]}),
        json!({"instances": [pixels]}),
        json!({"inputs": [pixels], "params": {"threshold": 1}, "other": 1}),
        json!({"inputs": {"image": [pixels]}}),
    ];
    for body in bodies {
        for path in ["/invocations", "/invocations/digits", "/invocations/vision/digits"] {
            let kind = [("content-type", "application/json; charset=utf-8")];
            let answer = device.post_with(path, &kind, body.to_string()).await;
            assert_near(&rows(&answer.ok()["predictions"]), &want);
            assert_eq!(answer.header("muster-model-version"), "2");
        }
    }
    let csv = format!("\u{feff}{}\r\n{}\r\n", columns.join(","), texts.join(","));
    let answer = device.post_with("/invocations", &[("content-type", "text/csv")], csv).await;
    assert_near(&rows(&answer.ok()["predictions"]), &want);
}

#[tokio::test]
async fn mlflow_columns_go_by_name() {
    let device = Device::new([("two", fixture_model("two_in_two_out"))]);
    let want = json!({"predictions": [{"sum": [3.0, 9.0, 9.5], "larger": [true, false, true]}]});
    for body in [
        json!({"dataframe_split": {"columns": ["b", "more", "a"], "data": [[[1, 5, 3], null, [2, 4, 6.5]]]}}),
        json!({"dataframe_records": [{"b": [1, 5, 3], "a": [2, 4, 6.5]}]}),
        json!({"inputs": {"b": [[1, 5, 3]], "a": [[2, 4, 6.5]], "more": 1}}),
    ] {
        assert_eq!(device.post_with("/invocations", JSON, body.to_string()).await.ok(), want, "{body}");
    }
    let device = Device::new([("divide", fixture_model("divide")), ("linear", fixture_model("linear"))]);
    let csv = "one,two,three,four\n1,2,,4\n\"1\", NaN,3,4\n";
    let answer = device.post_with("/invocations/linear", &[("content-type", "text/csv")], csv).await;
    assert_eq!(answer.header("muster-nonfinite"), "6", "{}", answer.text());
}

#[tokio::test]
async fn mlflow_errors_have_its_form() {
    let device = two_models();
    let (json, csv) = ("application/json", "text/csv");
    let table = [
        ("", json, "{}", 400, "BAD_REQUEST", "one of digits, two"),
        ("/two", json, "{}", 400, "BAD_REQUEST", "exactly one of dataframe_split"),
        ("/two", json, "[1]", 400, "BAD_REQUEST", "Received a list"),
        ("/two", json, "hello", 400, "BAD_REQUEST", "JSON object"),
        ("/two", json, r#"{"inputs": 1, "instances": 1}"#, 400, "BAD_REQUEST", "exactly one"),
        ("/two", json, r#"{"inputs": {"a": 1}, "params": 3}"#, 400, "BAD_REQUEST", "params has to be an object"),
        ("/two", json, r#"{"inputs": {"a": 1}, "signature_name": "x"}"#, 400, "BAD_REQUEST", "signature_name"),
        ("/two", json, r#"{"inputs": {"a": [[1, 2, 3]]}}"#, 400, "BAD_REQUEST", "input 'b' is missing"),
        ("/two", json, r#"{"dataframe_split": {"columns": ["a"], "data": []}}"#, 400, "BAD_REQUEST", "'b' is missing"),
        ("/two", json, r#"{"dataframe_split": {"columns": ["a", "b"], "data": [[1]]}}"#, 400, "BAD_REQUEST", "1 cells"),
        ("/two", json, r#"{"dataframe_records": [{"a": 1, "b": null}]}"#, 400, "BAD_REQUEST", "column 'b', row 0"),
        ("/two", csv, "a,b\n1,\n", 400, "BAD_REQUEST", "column 'b', row 0: a value is missing"),
        ("/two", csv, "a\n1\n", 400, "BAD_REQUEST", "column 'b' is missing"),
        ("/two", csv, "", 400, "BAD_REQUEST", "header row"),
        ("/two", "application/vnd.apache.parquet", "PAR1", 415, "BAD_REQUEST", "Parquet"),
        ("/two", "application/json; format=pandas-split", "{}", 415, "BAD_REQUEST", "format=pandas-split"),
        ("/two", "text/plain", "{}", 415, "BAD_REQUEST", "only supports"),
        ("/letters", json, "{}", 404, "RESOURCE_DOES_NOT_EXIST", "letters"),
    ];
    for (slot, kind, body, status, code, words) in table {
        let answer = device.post_with(&format!("/invocations{slot}"), &[("content-type", kind)], body).await;
        let told = answer.json();
        assert_eq!((answer.status.as_u16(), &told["error_code"]), (status, &json!(code)), "{body}: {told}");
        assert!(told["message"].as_str().is_some_and(|text| text.contains(words)), "{words}: {told}");
    }
    let wrong_verb = device.get("/invocations").await;
    assert_eq!(
        (wrong_verb.status, &wrong_verb.json()["error_code"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("BAD_REQUEST"))
    );
}

#[tokio::test]
async fn mlflow_tells_whether_something_answers() {
    let device = Device::digits();
    for path in ["/ping", "/health"] {
        let answer = device.get(path).await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "\n"));
        let none = Device::new([]).get(path).await;
        assert_eq!(
            (none.status, &none.json()["error_code"]),
            (StatusCode::NOT_FOUND, &json!("RESOURCE_DOES_NOT_EXIST"))
        );
    }
    assert_eq!(device.get("/version").await.text(), env!("CARGO_PKG_VERSION"));
    let none = Device::new([]).post_with("/invocations", JSON, "{}").await;
    assert_eq!(
        (none.status, &none.json()["error_code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("TEMPORARILY_UNAVAILABLE"))
    );
    assert_eq!(none.header("retry-after"), "5");
}

#[tokio::test]
async fn azure_scores_rows() {
    let device = Device::digits();
    let (pixels, want) = seven();
    for path in ["/score", "/score/digits", "/api/v1/service/digits/score", "/api/v1/service/vision/digits/score"] {
        let answer = device.post_with(path, JSON, json!({"data": [pixels]}).to_string()).await;
        assert!(answer.ok().is_array(), "a bare list");
        assert_near(&rows(&answer.ok()), &want);
        assert_eq!(answer.header("muster-model-version"), "2");
        for inputs in [json!({"data": [pixels]}), json!({"image": [pixels]})] {
            let body = json!({"Inputs": inputs, "GlobalParameters": {"method": "predict"}});
            assert_near(&rows(&device.post_with(path, JSON, body.to_string()).await.ok()["Results"]), &want);
        }
        // Other bodies are answered as ever.
        let image = json!({"image": {"shape": [8, 8, 1], "data": vec![0; 64]}});
        assert_eq!(device.post_with(path, JSON, image.to_string()).await.ok()["model"], "vision/digits");
        let wrong = device.post_with(path, JSON, r#"{"data": [[1, 2]]}"#).await;
        assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{}", wrong.text());
    }
    let device = Device::new([("two", fixture_model("two_in_two_out"))]);
    let body = json!({"data": [{"a": [2, 4, 6.5], "b": [1, 5, 3]}]});
    let answer = device.post("/api/v1/service/two/score", body.to_string()).await.ok();
    assert_eq!(answer, json!({"sum": [[3.0, 9.0, 9.5]], "larger": [[true, false, true]]}));
    let table = [
        ("GET", "/api/v1/service/two/score", StatusCode::METHOD_NOT_ALLOWED),
        ("POST", "/api/v1/service/two/swagger.json", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/api/v1/service/two", StatusCode::NOT_FOUND),
        ("POST", "/api/v1/service/other/score", StatusCode::NOT_FOUND),
    ];
    for (verb, path, status) in table {
        let answer = if verb == "GET" { device.get(path).await } else { device.post(path, "{}").await };
        assert_eq!(answer.status, status, "{verb} {path}");
    }
}

#[tokio::test]
async fn examples_of_the_documents_work_as_they_stand() {
    let device = Device::new([
        ("two", fixture_model("two_in_two_out")),
        ("digits", with_example(digits_model(2))),
        ("all", fixture_model("every_dtype")),
    ]);
    for document in ["/openapi.json", "/openapi/digits", "/openapi/two"] {
        let document = device.get(document).await.ok();
        let mut tried = 0;
        for (path, item) in document["paths"].as_object().expect("paths") {
            if let Some(example) = item["post"]["requestBody"]["content"]["application/json"].get("example") {
                device.post_with(path, JSON, example.to_string()).await.ok();
                tried += 1;
            }
            if item.get("get").is_some() {
                assert_eq!(device.get(path).await.status, StatusCode::OK, "{path}");
            }
        }
        assert!(tried >= 5, "{tried}");
    }
    for (document, count) in [("/swagger.json", 3), ("/api/v1/service/digits/swagger.json", 1)] {
        let document = device.get(document).await.ok();
        assert_eq!(document["swagger"], "2.0");
        let posts = document["paths"].as_object().expect("paths").iter().filter(|(_, item)| item.get("post").is_some());
        assert_eq!(posts.count(), count);
    }
    let answer = device.get("/openapi/digits").await;
    assert_eq!(answer.header("muster-model-version"), "2");
    let data = &answer.json()["paths"]["/v2/models/digits/infer"]["post"]["requestBody"]["content"]["application/json"]
        ["example"];
    assert_near(&rows(&data["inputs"][0]["data"]), &seven().0);
}

#[tokio::test]
async fn browsers_get_a_page() {
    let device = Device::digits();
    let request = |accept: &str| {
        axum::http::Request::get("/").header("accept", accept).body(axum::body::Body::empty()).expect("a request")
    };
    let page = device.call(request("text/html,*/*;q=0.8")).await;
    assert!(page.text().starts_with("<!doctype html>") && page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    assert_eq!(device.get("/ui").await.text(), page.text());
    assert_eq!(device.call(request("application/json")).await.ok()["status"], "alive");
}
