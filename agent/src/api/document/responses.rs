//! What every route may answer, and how errors look.

use muster_proto::manifest::Dtype;
use serde_json::{Map, Value, json};

use super::super::find::Found;

/// A digest as it is written.
pub const DIGEST: &str = "^[0-9a-f]{64}$";

/// Which form a route's errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// `{"error", "code", "next_step"}`
    House,
    /// `{"error_code", "message"}`
    Mlflow,
}

/// Statuses that are no success, and what each means.
const STATUSES: [(&str, &str); 13] = [
    ("400", "The request breaks a rule of the protocol, or the inputs do not fit the model."),
    ("401", "A key is wanted."),
    ("403", "This caller may not do this, as a web page of another site may not."),
    ("404", "There is no such route, slot, model or version."),
    ("405", "The route exists, with another verb."),
    ("413", "The body is over its limit, as sent or unpacked."),
    ("415", "The body is of a type or encoding that nobody reads here."),
    ("422", "The body can be read and not used."),
    ("429", "This caller asks more than its share."),
    ("500", "The model failed on inputs that fit it, or this program made a mistake."),
    ("501", "The route belongs to the protocol and is not offered."),
    ("503", "No model answers yet, or too much is asked at once; Retry-After says when to try again."),
    ("504", "The answer took too long."),
];

/// The responses of a route that only reads.
pub fn of_reading(success: Value) -> Value {
    with(success, Errors::House, &["400", "401", "403", "404", "405", "429", "500", "503", "504"])
}

/// The responses of an inference.
pub fn of_inference(success: Value, errors: Errors) -> Value {
    let all = ["400", "401", "403", "404", "405", "413", "415", "429", "500", "501", "503", "504"];
    with(success, errors, &all)
}

fn with(success: Value, errors: Errors, statuses: &[&str]) -> Value {
    let mut all = Map::from_iter([("200".to_owned(), success)]);
    for status in statuses {
        let name = if errors == Errors::Mlflow { format!("Mlflow{status}") } else { format!("Error{status}") };
        all.insert((*status).to_owned(), json!({"$ref": format!("#/components/responses/{name}")}));
    }
    Value::Object(all)
}

/// A success in JSON, with the headers that say which bundle answered.
pub fn from_model(description: &str, schema: Value, example: Option<Value>) -> Value {
    let mut success = json_body(description, schema, example);
    success["headers"] = json!({
        "muster-model-version": {"$ref": "#/components/headers/MusterModelVersion"},
        "muster-bundle-digest": {"$ref": "#/components/headers/MusterBundleDigest"},
        "muster-nonfinite": {"$ref": "#/components/headers/MusterNonfinite"},
    });
    success
}

/// A success in JSON.
pub fn json_body(description: &str, schema: Value, example: Option<Value>) -> Value {
    let mut media = json!({"schema": schema});
    if let Some(example) = example {
        media["example"] = example;
    }
    json!({"description": description, "content": {"application/json": media}})
}

/// Whether an output or input has no form in JSON.
pub fn has_halves((_, loaded): &Found) -> bool {
    loaded.model.inputs().iter().chain(loaded.model.outputs()).any(|spec| spec.dtype == Dtype::F16)
}

/// The named schemas.
pub fn schemas() -> Value {
    json!({
        "Error": {
            "type": "object",
            "required": ["error", "code", "next_step"],
            "properties": {
                "error": {"type": "string", "description": "What is wrong, as a sentence."},
                "code": {"type": "string", "description": "A stable name for what is wrong."},
                "next_step": {"type": "string", "description": "What to do about it."},
            },
        },
        "MlflowError": {
            "type": "object",
            "required": ["error_code", "message"],
            "properties": {
                "error_code": {"type": "string", "description": "MLflow's name for what is wrong."},
                "message": {"type": "string", "description": "What is wrong, as a sentence."},
            },
        },
    })
}

/// The named responses: each status in each form.
pub fn responses() -> Value {
    let mut all = Map::new();
    for (status, description) in STATUSES {
        for (prefix, forms) in [("Error", &["Error"][..]), ("Mlflow", &["MlflowError", "Error"][..])] {
            // What is refused before a route is reached is told in the house's own form.
            let one_of = forms.iter().map(|form| json!({"$ref": format!("#/components/schemas/{form}")}));
            let schema = json!({"anyOf": one_of.collect::<Vec<_>>()});
            let mut response = json_body(description, schema, None);
            if matches!(status, "429" | "503") {
                let seconds = json!({"type": "integer", "minimum": 0});
                let header = json!({"description": "Seconds after which a retry may help.", "schema": seconds});
                response["headers"] = json!({"Retry-After": header});
            }
            all.insert(format!("{prefix}{status}"), response);
        }
    }
    Value::Object(all)
}

/// The named headers.
pub fn headers() -> Value {
    json!({
        "MusterModelVersion": {
            "description": "The version that answered.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "MusterBundleDigest": {
            "description": "The SHA-256 digest of the signed manifest of what answered.",
            "schema": {"type": "string", "pattern": DIGEST},
        },
        "HeaderLength": {
            "description": "How many bytes of the answer are JSON, where bytes of tensors are behind it.",
            "schema": {"type": "integer", "minimum": 2},
        },
        "MusterNonfinite": {
            "description": "How many numbers of the answer are NaN or infinite, and so null.",
            "schema": {"type": "integer", "minimum": 1},
        },
    })
}
