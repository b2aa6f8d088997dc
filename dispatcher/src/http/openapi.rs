//! The OpenAPI 3.1 document: what the handlers declare, and what follows from it for each operation by rule, such as
//! the second way to send a token and the problems that may be answered.

use axum::Router;
use axum::http::header;
use axum::routing::get;
use muster_proto::code::Code;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::problem::{MEDIA_TYPE, Problem};
use crate::app::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Muster dispatcher",
        description = "Registers models, signs them, rolls them out to devices and keeps track of those.\n\n\
            Every operation that names a role asks for a token. Roles: `viewer` reads, `operator` also changes \
            models, devices and rollouts, `admin` also makes keys. Times are seconds since 1970, sizes are bytes. \
            Errors are problem details (RFC 9457) with a stable `code` and a `next` step. Every answer carries \
            `x-request-id`, which the dispatcher's log names as well.",
    ),
    tags(
        (name = "models", description = "Versions of models: their signed content and their tags."),
        (name = "uploads", description = "Raw files, before a registration names them."),
        (name = "devices", description = "Devices, groups, enrolment and telemetry."),
        (name = "rollouts", description = "A version on its way to devices."),
        (name = "services", description = "A version as a REST endpoint."),
        (name = "keys", description = "API keys and the audit log."),
        (name = "tuf", description = "The signed model repository, for any TUF client."),
        (name = "info", description = "The dispatcher itself.")
    ),
    components(schemas(Problem))
)]
struct Base;

/// What there is before any route.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// The document's route; it holds no data, so it asks for no token.
pub(super) fn routes(document: &Value) -> Router<App> {
    let text = document.to_string();
    Router::new().route("/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], text)))
}

/// The whole document.
pub(super) fn finish(document: utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("the document serialises");
    document["info"]["license"] = json!({ "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" });
    document["info"].as_object_mut().map(|info| info.remove("contact"));
    document["servers"] = json!([{ "url": "/", "description": "This dispatcher" }]);
    document["components"]["securitySchemes"] = json!({
        "bearer": {
            "type": "http", "scheme": "bearer",
            "description": "A token of `muster key create`. The roles that an operation lists are the least that it asks for."
        },
        "basic": {
            "type": "http", "scheme": "basic",
            "description": "The same token as the password, with any user name, for clients that send nothing else."
        }
    });
    document["components"]["responses"] = Value::Object(responses());
    let paths = document["paths"].take();
    document["paths"] = Value::Object(finish_paths(paths));
    document
}

/// The problems that any operation may answer, by the name of their component.
fn responses() -> Map<String, Value> {
    let table = [
        (
            "BadRequest",
            Problem::bad_request(
                "device id \"a b\" is not valid: use 1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit",
            ),
            "A parameter or the body breaks a rule.",
        ),
        (
            "Unauthorized",
            Problem::new(Code::Unauthorized, "the token is wrong, expired or deleted"),
            "No token, or a wrong one.",
        ),
        (
            "Forbidden",
            Problem::new(Code::Forbidden, "this needs the role operator, the key \"dashboard\" has viewer"),
            "The token's role does not reach.",
        ),
        ("NotFound", Problem::new(Code::NotFound, "there is no model digits"), "There is no such thing."),
        ("TooLarge", Problem::new(Code::TooLarge, "the body is larger than 33554432 bytes"), "The body is too large."),
        (
            "Internal",
            Problem::new(Code::Internal, "reading the database failed"),
            "The dispatcher failed; its log says why.",
        ),
    ];
    let entry = |(name, problem, description): (&str, Problem, &str)| {
        let content = json!({ "schema": { "$ref": "#/components/schemas/Problem" }, "example": problem });
        (name.to_owned(), json!({ "description": description, "content": { MEDIA_TYPE: content } }))
    };
    table.into_iter().map(entry).collect()
}

fn finish_paths(paths: Value) -> Map<String, Value> {
    let Value::Object(paths) = paths else { return Map::new() };
    let finish = |(path, mut item): (String, Value)| {
        // axum's mark of a parameter that spans slashes means nothing to OpenAPI.
        let path = path.replace("{*", "{");
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            finish_operation(&path, operation);
        }
        (path, item)
    };
    paths.into_iter().map(finish).collect()
}

fn finish_operation(path: &str, operation: &mut Value) {
    let roles = operation["security"][0]["bearer"].clone();
    let mut may_answer = vec![("500", "Internal")];
    if !roles.is_null() {
        operation["security"] = json!([{ "bearer": roles }, { "basic": roles }]);
        may_answer.push(("401", "Unauthorized"));
        if roles != json!(["viewer"]) {
            may_answer.push(("403", "Forbidden"));
        }
    }
    if path.contains('{') {
        may_answer.extend([("400", "BadRequest"), ("404", "NotFound")]);
    } else if operation["parameters"].is_array() || operation["requestBody"].is_object() {
        may_answer.push(("400", "BadRequest"));
    }
    if operation["requestBody"].is_object() {
        may_answer.push(("413", "TooLarge"));
    }
    if path == "/v1/enroll" {
        may_answer.push(("401", "Unauthorized"));
    }
    // Static answers cannot fail.
    if path == "/health/live" || path == "/ca.pem" {
        return;
    }
    for (status, name) in may_answer {
        if operation["responses"][status].is_null() {
            operation["responses"][status] = json!({ "$ref": format!("#/components/responses/{name}") });
        }
    }
}
