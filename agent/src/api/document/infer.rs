//! `POST /v2/models/{slot}/infer` as JSON Schema.

use muster_proto::manifest::TensorSpec;
use serde_json::{Value, json};

use super::super::find::Found;
use super::rows::least;
use super::schema::{self, Dialect, or_null, record};

const DIALECT: Dialect = Dialect::OpenApi3;

/// The body in JSON.
pub fn request(found: &Found) -> Value {
    let (specs, least) = (found.1.model.inputs(), least(found));
    let input = |spec: &TensorSpec| {
        let data = json!({"anyOf": [schema::taken(spec, DIALECT, least), schema::flat(spec, least)]});
        record([
            ("name", json!({"const": spec.name})),
            ("datatype", json!({"const": spec.dtype.oip_name()})),
            ("shape", schema::shape(spec, least)),
            ("data", data),
        ])
    };
    let (count, forms): (usize, Vec<Value>) = (specs.len(), specs.iter().map(input).collect());
    let each = specs.iter().map(|spec| json!({"contains": record([("name", json!({"const": spec.name}))])}));
    let mut inputs = json!({"type": "array", "minItems": count, "maxItems": count, "items": {"anyOf": forms}});
    if count > 1 {
        inputs["allOf"] = each.collect();
    }
    let mut schema = record([("inputs", inputs)]);
    schema["properties"]["id"] = or_null(json!({"type": "string"}));
    schema["properties"]["outputs"] = or_null(wanted(found));
    schema["properties"]["parameters"] = or_null(json!({
        "type": "object",
        "properties": {
            "binary_data_output": or_null(json!({"type": "boolean", "description": "Whether the outputs come as bytes."})),
            "timeout": or_null(json!({
                "type": "integer", "minimum": 0, "maximum": u64::MAX, "description": "How long the caller waits, in microseconds; 0 for as long as it takes.",
            })),
        },
    }));
    schema
}

/// Which outputs a caller wants; none stands for all.
fn wanted(found: &Found) -> Value {
    let names: Vec<&str> = found.1.model.outputs().iter().map(|spec| spec.name.as_str()).collect();
    let mut output = record([("name", json!({"enum": names}))]);
    output["properties"]["parameters"] = or_null(json!({
        "type": "object",
        "properties": {
            "binary_data": or_null(json!({"type": "boolean"})),
            "classification": or_null(json!({
                "type": "integer", "minimum": 0, "maximum": u32::MAX,
                "description": "How many of the best classes are wanted in place of all values; 0 for the values.",
            })),
            "shared_memory_region": {"type": "null"},
        },
    }));
    json!({"type": "array", "maxItems": names.len(), "uniqueItems": true, "items": output})
}

/// The answer in JSON.
pub fn answer(found: &Found) -> Value {
    let text = || json!({"type": "string"});
    let outputs: Vec<Value> = found.1.model.outputs().iter().flat_map(output).collect();
    let mut schema = record([
        ("model_name", text()),
        ("model_version", json!({"type": "string", "pattern": "^[0-9]+$"})),
        ("id", text()),
        ("outputs", json!({"type": "array", "minItems": 1, "items": {"anyOf": outputs}})),
    ]);
    schema["properties"]["parameters"] = json!({
        "type": "object",
        "properties": {"muster_nonfinite": {
            "type": "integer", "minimum": 1, "description": "How many numbers are NaN or infinite, and so null.",
        }},
    });
    schema
}

/// An output: its values, or the best classes as texts.
fn output(spec: &TensorSpec) -> [Value; 2] {
    let name = || json!({"const": spec.name});
    let mut values = record([
        ("name", name()),
        ("datatype", json!({"const": spec.dtype.oip_name()})),
        ("shape", schema::answered_shape(spec)),
        ("data", schema::flat(spec, 0)),
    ]);
    // In an answer with another output's bytes.
    let binary = json!({"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}});
    values["properties"]["parameters"] = binary;
    let classes = record([
        ("name", name()),
        ("datatype", json!({"const": "BYTES"})),
        ("shape", json!({"type": "array", "items": {"type": "integer", "minimum": 0}})),
        (
            "data",
            json!({"type": "array", "items": {"type": "string", "description": "value:index or value:index:label"}}),
        ),
    ]);
    [values, classes]
}
