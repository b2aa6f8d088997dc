//! The routes that belong to no model.

use serde_json::{Map, Value, json};

use super::super::find::Found;
use super::responses::{Errors, json_body, of_inference, of_reading};
use super::{Scope, models, operation_id, readings};

/// A route that answers GET: path, name, what it tells, and in which form.
type Reading = (&'static str, &'static str, &'static str, Told);

/// The form of what is told.
#[derive(Clone, Copy)]
enum Told {
    Json(fn() -> Value),
    /// JSON, or a page for browsers.
    JsonOrPage(fn() -> Value),
    Text(&'static str),
    /// A line break alone, which is what its callers look for.
    LineBreak,
}

const READINGS: [Reading; 16] = [
    ("/", "index", "Where to go from here; a page for browsers.", Told::JsonOrPage(readings::index)),
    ("/healthz", "healthz", "Whether this process answers.", Told::Json(readings::live)),
    ("/ui", "ui", "A page on which models can be tried.", Told::Text("text/html")),
    ("/openapi.json", "openapi", "This document.", Told::Json(readings::openapi)),
    ("/swagger.json", "swagger", "The same for Azure ML's callers, in Swagger 2.0.", Told::Json(readings::swagger)),
    ("/score", "score_slots", "Which slots answer, and how to ask them.", Told::Json(readings::slots)),
    ("/v2", "v2_server", "The server, in the Open Inference Protocol's form.", Told::Json(readings::server)),
    ("/v2/", "v2_server_slash", "The same as /v2.", Told::Json(readings::server)),
    ("/v2/health/live", "v2_live", "Whether this process answers.", Told::Json(readings::live)),
    ("/v2/health/ready", "v2_ready", "Whether a model answers.", Told::Json(readings::server_ready)),
    ("/v2/models", "v2_models", "The models.", Told::Json(readings::models)),
    (
        "/v2/models/stats",
        "v2_statistics",
        "What all models did since they were loaded.",
        Told::Json(readings::statistics),
    ),
    ("/v1/models", "v1_models", "The models.", Told::Json(readings::models)),
    ("/ping", "mlflow_ping", "Whether a model answers.", Told::LineBreak),
    ("/health", "mlflow_health", "Whether a model answers.", Told::LineBreak),
    ("/version", "mlflow_version", "The server's version.", Told::Text("text/plain")),
];
/// What only a device tells on the same port.
const OF_A_DEVICE: [Reading; 1] = [("/metrics", "metrics", "Figures for Prometheus.", Told::Text("text/plain"))];

/// Adds them to `paths`.
pub fn add(found: &[Found], scope: Scope, paths: &mut Map<String, Value>) {
    let of_a_device = OF_A_DEVICE.iter().filter(|_| scope.is_device);
    for (path, name, summary, told) in READINGS.iter().chain(of_a_device) {
        let id = operation_id("get", "", name);
        let responses = of_reading(success(summary, *told));
        let get = json!({"tags": ["server"], "operationId": id, "summary": summary, "responses": responses});
        paths.insert((*path).to_owned(), json!({"get": get}));
    }
    let asked = json!({"type": "object", "properties": {"ready": {"type": "boolean"}}});
    let index = json_body("The models.", readings::repository(), None);
    paths.insert(
        "/v2/repository/index".into(),
        json!({"post": {
            "tags": ["server"],
            "operationId": "post_v2_index",
            "summary": "What answers, and what is on its way.",
            "requestBody": {"required": false, "content": {"application/json": {"schema": asked, "example": {"ready": true}}}},
            "responses": of_inference(index, Errors::House),
        }}),
    );
    // Where one slot answers, its name can be left out.
    if let (true, Some(only)) = (scope.is_alone, found.first()) {
        if let Some(path) = paths.get_mut("/score") {
            path["post"] = models::score(only, "score_only");
        }
        paths.insert("/invocations".into(), json!({"post": models::invocations(only, "invocations_only")}));
    }
}

fn success(summary: &str, told: Told) -> Value {
    let text = |kind: &str, schema: Value| json!({"description": summary, "content": {kind: {"schema": schema}}});
    match told {
        Told::Json(schema) => json_body(summary, schema(), None),
        Told::JsonOrPage(schema) => {
            let mut success = json_body(summary, schema(), None);
            success["content"]["text/html"] = json!({"schema": {"type": "string"}});
            success
        }
        Told::Text(kind) => text(kind, json!({"type": "string", "minLength": 1})),
        Told::LineBreak => text("text/plain", json!({"const": "\n"})),
    }
}
