//! Swagger 2.0, as Azure ML's first web services describe themselves: `/score` takes rows and gives a list.

use muster_proto::manifest::{Hook, TensorSpec};
use serde_json::{Map, Value, json};

use super::super::find::Found;
use super::example;
use super::schema::{self, Dialect};

const DIALECT: Dialect = Dialect::Swagger2;

/// Swagger 2.0 of the services that `found` are, at `base`; `/score` is one of them where it is `alone`.
pub fn swagger(found: &[Found], base: &str, alone: bool) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    let alive = json!({"200": {"description": "The server answers.", "schema": {"type": "object"}}});
    paths.insert("/".into(), json!({"get": {"operationId": "ServiceHealthCheck", "responses": alive}}));
    for one @ (slot, _) in found {
        let (input, output) = (format!("{slot}_input"), format!("{slot}_output"));
        definitions.insert(input.clone(), asked(one));
        definitions.insert(output.clone(), answered(one));
        let run = |id: String| run(one, &id, &input, &output);
        paths.insert(format!("/api/v1/service/{slot}/score"), run(format!("RunMLService_{slot}")));
        if alone {
            paths.insert("/score".into(), run("RunMLService".into()));
        }
    }
    definitions.insert(
        "ErrorResponse".into(),
        json!({"type": "object", "properties": {
            "error": {"type": "string"}, "code": {"type": "string"}, "next_step": {"type": "string"},
        }}),
    );
    let (title, version) = match found {
        [(slot, loaded)] => (slot.to_string(), loaded.manifest.version.to_string()),
        _ => ("Muster scoring server".into(), env!("CARGO_PKG_VERSION").into()),
    };
    json!({
        "swagger": "2.0",
        "info": {"title": title, "version": version},
        "basePath": base,
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {"Bearer": {
            "type": "apiKey", "name": "Authorization", "in": "header", "description": "Bearer KEY, where keys are set",
        }},
        "paths": paths,
        "definitions": definitions,
    })
}

fn run((slot, loaded): &Found, id: &str, input: &str, output: &str) -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
    let body = json!({"in": "body", "name": "serviceInputPayload", "required": true, "schema": reference(input)});
    let success = json!({"description": "The outputs.", "schema": reference(output)});
    let failure = json!({"description": "Why there is no answer.", "schema": reference("ErrorResponse")});
    json!({"post": {
        "operationId": id,
        "description": format!("Runs {} version {} in the slot {slot}", loaded.manifest.model, loaded.manifest.version),
        "security": [{"Bearer": []}],
        "parameters": [body],
        "responses": {"200": success, "default": failure},
    }})
}

fn object(specs: &[TensorSpec], one: impl Fn(&TensorSpec) -> Value) -> Value {
    let properties: Map<String, Value> = specs.iter().map(|spec| (spec.name.clone(), one(spec))).collect();
    json!({"type": "object", "properties": properties})
}

fn asked(found: &Found) -> Value {
    if schema::is_scripted(found, Hook::Preprocess) {
        return schema::scripted(found.1.request.as_deref());
    }
    let row = match found.1.model.inputs() {
        [spec] => schema::item(spec, DIALECT),
        specs => object(specs, |spec| schema::item(spec, DIALECT)),
    };
    let mut schema = json!({
        "type": "object", "required": ["data"], "properties": {"data": {"type": "array", "items": row}},
    });
    if let Some(rows) = example::rows(found) {
        schema["example"] = json!({"data": rows});
    }
    schema
}

fn answered(found: &Found) -> Value {
    if schema::is_scripted(found, Hook::Postprocess) {
        return schema::scripted(None);
    }
    match found.1.model.outputs() {
        [spec] => {
            let mut schema = schema::nested(spec, DIALECT);
            if let Some(rows) = example::predictions(found) {
                schema["example"] = rows;
            }
            schema
        }
        specs => object(specs, |spec| schema::nested(spec, DIALECT)),
    }
}
