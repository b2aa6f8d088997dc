//! The routes of one model, with its own tensors.

use muster_proto::manifest::{InputOp, TensorSpec};
use serde_json::{Map, Value, json};

use super::super::find::Found;
use super::responses::{Errors, from_model, has_halves, of_inference, of_reading};
use super::schema::{self, Dialect};
use super::{example, operation_id};

const DIALECT: Dialect = Dialect::OpenApi3;

/// Adds them to `paths`.
pub fn add(found: &Found, paths: &mut Map<String, Value>) {
    let (slot, loaded) = found;
    let version = &loaded.manifest.version;
    let mut read = |path: String, what: &str, summary: &str| {
        let success = from_model(summary, json!({"type": "object"}), None);
        let id = operation_id("get", slot.as_str(), what);
        let get = json!({"tags": [slot], "operationId": id, "summary": summary, "responses": of_reading(success)});
        paths.insert(path, json!({"get": get}));
    };
    for (base, of) in
        [(format!("/v2/models/{slot}"), ""), (format!("/v2/models/{slot}/versions/{version}"), "_version")]
    {
        read(base.clone(), &format!("v2_metadata{of}"), "Its name, versions, inputs and outputs.");
        read(format!("{base}/ready"), &format!("v2_model_ready{of}"), "Whether it answers.");
        read(format!("{base}/config"), &format!("v2_config{of}"), "Its configuration in Triton's form.");
        read(format!("{base}/stats"), &format!("v2_stats{of}"), "What it did since it was loaded.");
    }
    read(format!("/v1/models/{slot}"), "v1_ready", "Whether it answers.");
    read(format!("/openapi/{slot}"), "openapi", "This document for this slot alone.");
    read(format!("/score/{slot}"), "usage", "What to send, and an example.");
    read(format!("/api/v1/service/{slot}/swagger.json"), "swagger", "The service in Swagger 2.0.");

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

fn list(specs: &[TensorSpec], one: impl Fn(&TensorSpec) -> Value) -> Value {
    let (count, items): (usize, Vec<Value>) = (specs.len(), specs.iter().map(one).collect());
    json!({"type": "array", "minItems": count, "maxItems": count, "items": {"oneOf": items}})
}

fn object(specs: &[TensorSpec], one: impl Fn(&TensorSpec) -> Value) -> Value {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let properties: Map<String, Value> = specs.iter().map(|spec| (spec.name.clone(), one(spec))).collect();
    json!({"type": "object", "required": names, "properties": properties, "additionalProperties": false})
}

/// `POST /v2/models/{slot}/infer`
fn v2(found: &Found, what: &str) -> Value {
    let loaded = &found.1;
    let data = |spec: &TensorSpec| json!({"anyOf": [schema::nested(spec, DIALECT), schema::flat(spec)]});
    let input = |spec: &TensorSpec| {
        json!({
            "type": "object",
            "required": ["name", "shape", "datatype", "data"],
            "properties": {
                "name": {"const": spec.name}, "datatype": {"const": spec.dtype.oip_name()},
                "shape": schema::shape(spec), "data": data(spec),
            },
            "additionalProperties": false,
        })
    };
    let names: Vec<&str> = loaded.model.outputs().iter().map(|spec| spec.name.as_str()).collect();
    let wanted = json!({"type": "array", "maxItems": names.len(), "uniqueItems": true, "items": {
        "type": "object", "required": ["name"], "properties": {"name": {"enum": names}}, "additionalProperties": false,
    }});
    let request = json!({
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": list(loaded.model.inputs(), input),
            "outputs": wanted,
        },
    });
    let output = |spec: &TensorSpec| {
        json!({
            "type": "object",
            "required": ["name", "datatype", "shape"],
            "properties": {
                "name": {"const": spec.name},
                "datatype": {"enum": [spec.dtype.oip_name(), "BYTES"]},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "data": {"type": "array"},
            },
        })
    };
    let outputs = loaded.model.outputs().iter().map(output).collect::<Vec<_>>();
    let answer = json!({
        "type": "object",
        "required": ["model_name", "model_version", "id", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": {"oneOf": outputs}},
        },
    });
    let halves = has_halves(found);
    let example = example::v2(found).filter(|_| !halves);
    let body = json!({"application/json": media(request, example)});
    let mut success = from_model("The outputs.", answer, example::v2_answer(found).filter(|_| !halves));
    success["content"]["application/octet-stream"] = json!({"schema": {"type": "string", "format": "binary"}});
    post(found, what, "An inference with the model's own tensors, in JSON or as bytes.", body, success, Errors::House)
}

/// One row: an item of the only input, or an object with an item of each.
fn row(found: &Found) -> Value {
    match found.1.model.inputs() {
        [spec] => schema::item(spec, DIALECT),
        specs => object(specs, |spec| schema::item(spec, DIALECT)),
    }
}

/// What comes back as predictions.
fn predictions(found: &Found) -> Value {
    match found.1.model.outputs() {
        [spec] if spec.shape.is_empty() => json!({"type": "array"}),
        [spec] => schema::nested(spec, DIALECT),
        _ => json!({"anyOf": [{"type": "array"}, {"type": "object"}]}),
    }
}

fn predicted(found: &Found) -> Value {
    let schema = json!({
        "type": "object", "required": ["predictions"], "properties": {"predictions": predictions(found)},
    });
    let example = example::predictions(found).map(|rows| json!({"predictions": rows}));
    from_model("The outputs: a list, of objects where there are several.", schema, example)
}

/// `POST /v1/models/{slot}:predict`
fn v1(found: &Found) -> Value {
    let rows = json!({"type": "array", "items": row(found)});
    let schema = json!({
        "type": "object", "required": ["instances"], "properties": {"instances": rows},
    });
    let example = example::rows(found).map(|rows| json!({"instances": rows}));
    let body = json!({"application/json": media(schema, example)});
    post(found, "v1_predict", "An inference as KServe's first protocol has it.", body, predicted(found), Errors::House)
}

/// `POST /invocations/{slot}`
pub fn invocations(found: &Found, what: &str) -> Value {
    let rows = json!({"type": "array", "items": row(found)});
    let record = object(found.1.model.inputs(), |spec| schema::item(spec, DIALECT));
    let records = json!({"type": "array", "minItems": 1, "items": record});
    let form = |name: &str, schema: Value| {
        json!({
            "type": "object", "required": [name],
            "properties": {name: schema, "params": {"type": "object"}},
        })
    };
    let schema = json!({"oneOf": [form("instances", rows), form("dataframe_records", records)]});
    let body = json!({
        "application/json": media(schema, example::rows(found).map(|rows| json!({"instances": rows}))),
        "text/csv": {"schema": {"type": "string", "description": "A header row with the columns' names, then rows."}},
    });
    post(found, what, "An inference as MLflow's scoring server has it.", body, predicted(found), Errors::Mlflow)
}

/// `POST /score/{slot}` and `POST /api/v1/service/{slot}/score`
pub fn score(found: &Found, what: &str) -> Value {
    let (_, loaded) = found;
    let ops = |name: &str| loaded.manifest.transforms.inputs.get(name).map_or(&[][..], Vec::as_slice);
    let takes_images =
        matches!(loaded.model.inputs(), [spec] if matches!(ops(&spec.name).first(), Some(InputOp::DecodeImage { .. })));
    let input = |spec: &TensorSpec| match ops(&spec.name) {
        [] => schema::nested(spec, DIALECT),
        _ => json!({"description": "What the transforms take: numbers, or an image in base64."}),
    };
    let mut forms = vec![object(loaded.model.inputs(), input)];
    if !has_halves(found) {
        let rows = json!({"type": "array", "items": row(found)});
        forms.push(json!({
            "type": "object", "required": ["data"], "properties": {"data": rows},
            "description": "Rows of the model's own tensors, answered by a bare list as in Azure ML.",
        }));
    }
    let mut body = json!({
        "application/json": media(json!({"anyOf": forms}), example::score(found).filter(|_| !has_halves(found))),
        "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
    });
    if takes_images {
        for kind in ["image/png", "image/jpeg"] {
            body[kind] = json!({"schema": {"type": "string", "format": "binary"}});
        }
    }
    let answer = json!({"anyOf": [
        {
            "type": "object", "required": ["model", "version", "digest", "outputs"],
            "properties": {
                "model": {"type": "string"}, "version": {"type": "integer"}, "digest": {"type": "string"},
                "outputs": {"type": "object"},
            },
        },
        predictions(found),
        {"type": "object"},
    ]});
    let success = from_model("The outputs after their transforms; a bare list for rows.", answer, None);
    post(found, what, "An inference in the simple form: what the input transforms take.", body, success, Errors::House)
}
