//! The routes of one model, with its own tensors.

use muster_proto::manifest::Hook;
use serde_json::{Map, Value, json};

use super::super::find::Found;
use super::responses::{Errors, from_model, has_halves, of_inference, of_reading};
use super::schema::{self, Dialect, record};
use super::{example, infer, operation_id, readings, rows, simple};

const DIALECT: Dialect = Dialect::OpenApi3;

/// Adds them to `paths`.
pub fn add(found: &Found, paths: &mut Map<String, Value>) {
    let (slot, loaded) = found;
    let version = &loaded.manifest.version;
    let mut read = |path: String, what: &str, summary: &str, schema: Value| {
        let success = from_model(summary, schema, None);
        let id = operation_id("get", slot.as_str(), what);
        let get = json!({"tags": [slot], "operationId": id, "summary": summary, "responses": of_reading(success)});
        paths.insert(path, json!({"get": get}));
    };
    for (base, of) in
        [(format!("/v2/models/{slot}"), ""), (format!("/v2/models/{slot}/versions/{version}"), "_version")]
    {
        let name = |what: &str| format!("{what}{of}");
        read(base.clone(), &name("v2_metadata"), "Its name, versions, inputs and outputs.", readings::metadata(found));
        read(format!("{base}/ready"), &name("v2_model_ready"), "Whether it answers.", readings::ready(found));
        read(
            format!("{base}/config"),
            &name("v2_config"),
            "Its configuration in Triton's form.",
            readings::config(found),
        );
        read(format!("{base}/stats"), &name("v2_stats"), "What it did since it was loaded.", readings::statistics());
    }
    read(format!("/v1/models/{slot}"), "v1_ready", "Whether it answers.", readings::ready(found));
    read(format!("/openapi/{slot}"), "openapi", "This document for this slot alone.", readings::openapi());
    read(format!("/score/{slot}"), "usage", "What to send, and an example.", readings::usage(found));
    let swagger = format!("/api/v1/service/{slot}/swagger.json");
    read(swagger, "swagger", "The service in Swagger 2.0.", readings::swagger());

    paths.insert(format!("/v2/models/{slot}/infer"), json!({"post": v2(found, "v2_infer")}));
    paths.insert(format!("/v2/models/{slot}/versions/{version}/infer"), json!({"post": v2(found, "v2_infer_version")}));
    if let Some(path) = paths.get_mut(&format!("/score/{slot}")) {
        path["post"] = score(found, "score");
    }
    paths.insert(format!("/api/v1/service/{slot}/score"), json!({"post": score(found, "azure_score")}));
    if !has_halves(found) {
        paths.insert(format!("/v1/models/{slot}:predict"), json!({"post": v1(found)}));
        paths.insert(format!("/invocations/{slot}"), json!({"post": invocations(found, "invocations")}));
    }
}

fn post(found: &Found, what: &str, summary: &str, body: Value, success: Value, errors: Errors) -> Value {
    let slot = &found.0;
    json!({
        "tags": [slot],
        "operationId": operation_id("post", slot.as_str(), what),
        "summary": summary,
        "requestBody": {"required": true, "content": body},
        "responses": of_inference(success, errors),
    })
}

fn media(schema: Value, example: Option<Value>) -> Value {
    let mut media = json!({"schema": schema});
    if let Some(example) = example {
        media["example"] = example;
    }
    media
}

/// `POST /v2/models/{slot}/infer`
fn v2(found: &Found, what: &str) -> Value {
    let halves = has_halves(found);
    let example = example::v2(found).filter(|_| !halves);
    let body = json!({"application/json": media(infer::request(found), example)});
    let answered = example::v2_answer(found).filter(|_| !halves);
    let mut success = from_model("The outputs.", infer::answer(found), answered);
    success["content"]["application/octet-stream"] = json!({"schema": {"type": "string", "format": "binary"}});
    success["headers"]["inference-header-content-length"] = json!({"$ref": "#/components/headers/HeaderLength"});
    let summary = "An inference with the model's own tensors, in JSON or as bytes.";
    let mut post = post(found, what, summary, body, success, Errors::House);
    post["description"] = "`data` has as many elements as the sizes of `shape` multiplied. Tensors may also come as bytes \
        behind the JSON, as the protocol's extension for binary tensors has it: the header Inference-Header-Content-Length \
        tells the length of the JSON, and binary_data_size stands in place of data."
        .into();
    post
}

/// The outputs in the form of all protocols of rows.
fn predictions(found: &Found) -> Value {
    match found.1.model.outputs() {
        // Callers read a list, also of a model that gives one number.
        [spec] if spec.shape.is_empty() => json!({"type": "array", "items": schema::nested(spec, DIALECT)}),
        [spec] => schema::nested(spec, DIALECT),
        specs => {
            let item = schema::of_each(specs, |spec| schema::answered_item(spec, DIALECT));
            let lists = schema::of_each(specs, |spec| schema::nested(spec, DIALECT));
            json!({"anyOf": [{"type": "array", "items": item}, lists]})
        }
    }
}

fn predicted(found: &Found) -> Value {
    let example = example::predictions(found).map(|rows| json!({"predictions": rows}));
    let schema = record([("predictions", predictions(found))]);
    from_model("The outputs: a list, of objects where there are several.", schema, example)
}

/// `POST /v1/models/{slot}:predict`
fn v1(found: &Found) -> Value {
    let example = example::rows(found).map(|rows| json!({"instances": rows}));
    let body = json!({"application/json": media(rows::kserve(found), example)});
    post(found, "v1_predict", "An inference as KServe's first protocol has it.", body, predicted(found), Errors::House)
}

/// `POST /invocations/{slot}`
pub fn invocations(found: &Found, what: &str) -> Value {
    let example = example::rows(found).map(|rows| json!({"instances": rows}));
    let mut body = json!({"application/json": media(rows::mlflow(found), example)});
    if let Some(table) = rows::csv(found) {
        body["text/csv"] = json!({"schema": table});
    }
    post(found, what, "An inference as MLflow's scoring server has it.", body, predicted(found), Errors::Mlflow)
}

/// `POST /score/{slot}` and `POST /api/v1/service/{slot}/score`
pub fn score(found: &Found, what: &str) -> Value {
    let example = example::score(found).filter(|_| !has_halves(found));
    let mut body = json!({"application/json": media(simple::request(found), example)});
    let binary = || json!({"schema": {"type": "string", "format": "binary"}});
    if let [_] = found.1.model.inputs() {
        body["application/x-npy"] = binary();
    }
    if simple::takes_images(found) {
        body["image/png"] = binary();
        body["image/jpeg"] = binary();
    }
    if schema::is_scripted(found, Hook::Preprocess) {
        body = json!({"application/json": media(schema::scripted(found.1.request.as_deref()), None)});
    }
    let answer = match schema::is_scripted(found, Hook::Postprocess) {
        true => schema::scripted(None),
        false => simple::answer(found, || predictions(found)),
    };
    let success = from_model("The outputs after their transforms; a bare list for rows.", answer, None);
    post(found, what, "An inference in the simple form: what the input transforms take.", body, success, Errors::House)
}
