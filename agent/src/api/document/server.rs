//! The routes that belong to no model.

use serde_json::{Map, Value, json};

use super::super::find::Found;
use super::models;
use super::operation_id;
use super::responses::{Errors, json_body, of_inference, of_reading};

/// A route that answers GET: path, name, what it tells, and the type of what it tells.
type Reading = (&'static str, &'static str, &'static str, &'static str);

const READINGS: [Reading; 17] = [
    ("/", "index", "Where to go from here; a page for browsers.", "object"),
    ("/healthz", "healthz", "Whether this process answers.", "object"),
    ("/metrics", "metrics", "Figures for Prometheus.", "text/plain"),
    ("/ui", "ui", "A page on which models can be tried.", "text/html"),
    ("/openapi.json", "openapi", "This document.", "object"),
    ("/swagger.json", "swagger", "The same for Azure ML's callers, in Swagger 2.0.", "object"),
    ("/score", "score_slots", "Which slots answer, and how to ask them.", "object"),
    ("/v2", "v2_server", "The server, in the Open Inference Protocol's form.", "object"),
    ("/v2/health/live", "v2_live", "Whether this process answers.", "object"),
    ("/v2/health/ready", "v2_ready", "Whether a model answers.", "object"),
    ("/v2/models", "v2_models", "The models.", "object"),
    ("/v2/models/stats", "v2_statistics", "What all models did since they were loaded.", "object"),
    ("/v1/models", "v1_models", "The models.", "object"),
    ("/ping", "mlflow_ping", "Whether a model answers.", "newline"),
    ("/health", "mlflow_health", "Whether a model answers.", "newline"),
    ("/version", "mlflow_version", "The server's version.", "text/plain"),
    ("/v2/", "v2_server_slash", "The same as /v2.", "object"),
];

/// Adds them to `paths`; `only` is the one model that answers, where there is one.
pub fn add(only: Option<&Found>, paths: &mut Map<String, Value>) {
    for (path, name, summary, kind) in READINGS {
        let success = match kind {
            "object" if path == "/" => {
                let mut success = json_body(summary, json!({"type": "object"}), None);
                success["content"]["text/html"] = json!({"schema": {"type": "string"}});
                success
            }
            "object" => json_body(summary, json!({"type": "object"}), None),
            // A line break alone, which is what its callers look for.
            "newline" => json!({"description": summary, "content": {"text/plain": {"schema": {"type": "string"}}}}),
            text => json!({"description": summary, "content": {text: {"schema": {"type": "string"}}}}),
        };
        let id = operation_id("get", "", name);
        let responses = of_reading(success);
        let get = json!({"tags": ["server"], "operationId": id, "summary": summary, "responses": responses});
        paths.insert(path.into(), json!({"get": get}));
    }
    let index = json!({"type": "object", "required": ["name", "version", "state"], "properties": {
        "name": {"type": "string"}, "version": {"type": "string"}, "state": {"type": "string"}, "reason": {"type": "string"},
    }});
    let asked = json!({"type": "object", "properties": {"ready": {"type": "boolean"}}});
    paths.insert(
        "/v2/repository/index".into(),
        json!({"post": {
            "tags": ["server"],
            "operationId": "post_v2_index",
            "summary": "What answers, and what is on its way.",
            "requestBody": {"required": false, "content": {"application/json": {"schema": asked, "example": {"ready": true}}}},
            "responses": of_inference(json_body("The models.", json!({"type": "array", "items": index}), None), Errors::House),
        }}),
    );
    // Where one slot answers, its name can be left out.
    if let Some(only) = only {
        if let Some(path) = paths.get_mut("/score") {
            path["post"] = models::score(only, "score_only");
        }
        paths.insert("/invocations".into(), json!({"post": models::invocations(only, "invocations_only")}));
    }
}
