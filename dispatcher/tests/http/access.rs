//! Who may call what (invariant 14).

use axum::body::Body;
use axum::http::header;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_dispatcher::app::Role;
use muster_dispatcher::http;
use serde_json::Value;

use crate::fixture::{Dispatcher, request};

/// Every operation of the document as (method, path with its parameters filled in, itself).
fn operations() -> Vec<(String, String, Value)> {
    let document = http::document();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{name}", "vision%2Fdigits")
            .replace("{version}", "1")
            .replace("{digest}", &"0".repeat(64))
            .replace("{sha256}", &"0".repeat(64))
            .replace("{id}", "r1")
            .replace("{file}", "timestamp.json");
        let path = path.replace(['{', '}'], "");
        for (method, operation) in item.as_object().unwrap() {
            found.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    assert!(found.len() > 30);
    found
}

#[tokio::test]
async fn every_documented_route_exists_and_asks_for_a_token_as_it_says() {
    let dispatcher = Dispatcher::start().await;
    for (method, path, operation) in operations() {
        let answer = dispatcher.anonymous(&method, &path).await;
        assert_ne!(answer.status, 405, "{method} {path}");
        if operation["security"].is_null() {
            assert_ne!(answer.status, 401, "{method} {path}");
            continue;
        }
        assert_eq!(answer.status, 401, "{method} {path}: invariant 14");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"muster\"");
        let wrong = request(&method, &path).header(header::AUTHORIZATION, "Bearer muster_wrong");
        let wrong = dispatcher.send(wrong.body(Body::empty()).unwrap()).await;
        assert_eq!(wrong.status, 401, "{method} {path}: invariant 14");
    }
}

#[tokio::test]
async fn each_role_reaches_as_far_as_the_document_says() {
    let dispatcher = Dispatcher::start().await;
    let tokens = [
        (Role::Viewer, dispatcher.token(Role::Viewer).await),
        (Role::Operator, dispatcher.token(Role::Operator).await),
    ];
    for (method, path, operation) in operations() {
        let Some(needed) = operation["security"][0]["bearer"][0].as_str() else { continue };
        let needed: Role = needed.parse().unwrap();
        for (role, token) in &tokens {
            let sent = request(&method, &path).header(header::AUTHORIZATION, format!("Bearer {token}"));
            // Streams that do not end are for another test.
            if path.ends_with("/events") {
                continue;
            }
            let answer = dispatcher.send(sent.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status == 403, *role < needed, "{role} {method} {path}: {}", answer.text());
            if answer.status == 403 && method != "HEAD" {
                let detail = answer.problem(403, "forbidden");
                assert_eq!(detail, format!("this needs the role {needed}, the key \"{role}\" has {role}"));
            }
        }
    }
}

#[tokio::test]
async fn a_token_may_be_the_password_of_basic() {
    let dispatcher = Dispatcher::start().await;
    let basic = |token: &str| format!("Basic {}", STANDARD.encode(format!("anybody:{token}")));
    for (token, status) in [(dispatcher.admin.as_str(), 200), ("muster_wrong", 401)] {
        let sent = request("GET", "/tuf/metadata/timestamp.json").header(header::AUTHORIZATION, basic(token));
        assert_eq!(dispatcher.send(sent.body(Body::empty()).unwrap()).await.status, status);
    }
}

#[tokio::test]
async fn what_is_public_holds_no_data() {
    let dispatcher = Dispatcher::start().await;
    let page = dispatcher.anonymous("GET", "/").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").contains("script-src 'sha256-"));
    assert_eq!(dispatcher.anonymous("GET", "/openapi.json").await.json()["openapi"], "3.1.0");
    assert!(dispatcher.anonymous("GET", "/ca.pem").await.text().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(dispatcher.anonymous("GET", "/health/live").await.status, 200);
    let conflict = dispatcher.anonymous("GET", "/problems/conflict").await;
    assert!(conflict.text().starts_with("Conflict (conflict, 204)\n"), "{}", conflict.text());
    dispatcher.anonymous("GET", "/problems/nonsense").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_deleted_or_expired_key_opens_nothing() {
    let dispatcher = Dispatcher::start().await;
    let made = dispatcher.call("POST", "/v1/keys", Some(serde_json::json!({ "name": "ci", "role": "viewer" }))).await;
    assert_eq!(made.status, 201);
    let (id, token) = (made.json()["key"]["id"].clone(), made.json()["token"].clone());
    let token = token.as_str().unwrap();
    let info = || request("GET", "/v1/info").header(header::AUTHORIZATION, format!("Bearer {token}"));
    assert_eq!(dispatcher.send(info().body(Body::empty()).unwrap()).await.status, 200);
    let listed = dispatcher.get("/v1/keys").await;
    assert!(listed.text().contains("\"ci\"") && !listed.text().contains(token));

    let path = format!("/v1/keys/{}", id.as_str().unwrap());
    assert_eq!(dispatcher.call("DELETE", &path, None).await.status, 204);
    assert_eq!(dispatcher.send(info().body(Body::empty()).unwrap()).await.status, 401);
    dispatcher.call("DELETE", &path, None).await.problem(404, "not_found");

    let last = dispatcher.get("/v1/keys").await.json()["items"][0]["id"].clone();
    let refused = dispatcher.call("DELETE", &format!("/v1/keys/{}", last.as_str().unwrap()), None).await;
    assert!(refused.problem(409, "conflict").contains("last administrator"));
}

#[tokio::test]
async fn enrolment_asks_for_its_secret() {
    let dispatcher = Dispatcher::start().await;
    let body = serde_json::json!({
        "secret": "wrong", "device": "pi", "csr": "AAAA",
        "agent": { "version": "0", "engine": "", "arch": "", "os": "", "memory_bytes": 0, "disk_bytes": 0, "speaks": [0, 0] },
    });
    let sent = request("POST", "/v1/enroll").header(header::CONTENT_TYPE, "application/json");
    dispatcher.send(sent.body(Body::from(body.to_string())).unwrap()).await.problem(401, "unauthorized");
}
