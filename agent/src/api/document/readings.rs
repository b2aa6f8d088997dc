//! What is read of the server and of models, as JSON Schema.

use muster_proto::manifest::TensorSpec;
use serde_json::{Value, json};

use super::super::find::Found;
use super::responses::DIGEST;
use super::schema::record;

fn text() -> Value {
    json!({"type": "string"})
}

fn whole() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

fn always(value: bool) -> Value {
    json!({"const": value})
}

/// `GET /v2/models/{slot}`
pub fn metadata((slot, loaded): &Found) -> Value {
    record([
        ("name", json!({"const": slot})),
        ("versions", list(text())),
        ("platform", text()),
        ("inputs", tensors(loaded.model.inputs(), "datatype", "shape", "")),
        ("outputs", tensors(loaded.model.outputs(), "datatype", "shape", "")),
        (
            "parameters",
            record([("muster_model", text()), ("muster_digest", json!({"type": "string", "pattern": DIGEST}))]),
        ),
    ])
}

/// `GET /v2/models/{slot}/config`
pub fn config((slot, loaded): &Found) -> Value {
    record([
        ("name", json!({"const": slot})),
        ("platform", text()),
        ("backend", text()),
        ("max_batch_size", json!({"const": 0})),
        ("input", tensors(loaded.model.inputs(), "data_type", "dims", "TYPE_")),
        ("output", tensors(loaded.model.outputs(), "data_type", "dims", "TYPE_")),
        ("default_model_filename", text()),
    ])
}

/// Tensors by name; -1 stands for any size.
fn tensors(specs: &[TensorSpec], datatype: &str, shape: &str, prefix: &str) -> Value {
    let one = |spec: &TensorSpec| {
        let rank = spec.shape.len();
        let sizes =
            json!({"type": "array", "minItems": rank, "maxItems": rank, "items": {"type": "integer", "minimum": -1}});
        let of = format!("{prefix}{}", spec.dtype.oip_name());
        record([("name", json!({"const": spec.name})), (datatype, json!({"const": of})), (shape, sizes)])
    };
    let (count, forms): (usize, Vec<Value>) = (specs.len(), specs.iter().map(one).collect());
    json!({"type": "array", "minItems": count, "maxItems": count, "items": {"anyOf": forms}})
}

/// `GET /v2/models/{slot}/stats`
pub fn statistics() -> Value {
    let timed = || record([("count", whole()), ("ns", whole())]);
    let stats = record([
        ("success", timed()),
        ("fail", timed()),
        ("queue", timed()),
        ("compute_input", timed()),
        ("compute_infer", timed()),
        ("compute_output", timed()),
    ]);
    let model = record([
        ("name", text()),
        ("version", text()),
        ("inference_count", whole()),
        ("execution_count", whole()),
        ("inference_stats", stats),
    ]);
    record([("model_stats", list(model))])
}

/// `GET /v2/models/{slot}/ready` and `GET /v1/models/{slot}`
pub fn ready((slot, _): &Found) -> Value {
    record([("name", json!({"const": slot})), ("ready", always(true))])
}

/// `GET /score/{slot}`
pub fn usage((slot, _): &Found) -> Value {
    let tensor = || {
        record([
            ("name", text()),
            ("dtype", text()),
            ("shape", json!({"type": "array"})),
            ("transforms", json!({"type": "array"})),
        ])
    };
    record([
        ("slot", json!({"const": slot})),
        ("model", text()),
        ("version", whole()),
        ("digest", json!({"type": "string", "pattern": DIGEST})),
        ("description", text()),
        ("inputs", list(tensor())),
        ("outputs", list(tensor())),
        ("example", text()),
        ("more", list(text())),
    ])
}

/// OpenAPI 3.1.
pub fn openapi() -> Value {
    let object = || json!({"type": "object"});
    record([("openapi", json!({"const": "3.1.0"})), ("info", object()), ("paths", object()), ("components", object())])
}

/// Swagger 2.0.
pub fn swagger() -> Value {
    let object = || json!({"type": "object"});
    record([("swagger", json!({"const": "2.0"})), ("info", object()), ("paths", object()), ("definitions", object())])
}

/// `GET /`
pub fn index() -> Value {
    let routes = json!({"type": "object", "additionalProperties": {"type": "string"}});
    record([("status", json!({"const": "alive"})), ("name", text()), ("version", text()), ("routes", routes)])
}

/// `GET /healthz` and `GET /v2/health/live`
pub fn live() -> Value {
    record([("live", always(true))])
}

/// `GET /v2/health/ready`
pub fn server_ready() -> Value {
    record([("ready", always(true)), ("live", always(true))])
}

/// `GET /v2`
pub fn server() -> Value {
    record([("name", text()), ("version", text()), ("extensions", list(text()))])
}

/// `GET /v2/models` and `GET /v1/models`
pub fn models() -> Value {
    record([("models", list(text()))])
}

/// `GET /score`
pub fn slots() -> Value {
    record([("slots", list(record([("slot", text()), ("model", text()), ("version", whole()), ("url", text())])))])
}

/// `POST /v2/repository/index`
pub fn repository() -> Value {
    let state = json!({"enum": ["READY", "LOADING", "UNAVAILABLE"]});
    list(record([("name", text()), ("version", text()), ("state", state), ("reason", text())]))
}
