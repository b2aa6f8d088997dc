//! The server's HTTP: paths, queries, answers, and the streams of watches.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::store::{Refusal, Store, merge, not_found};

type Shared = (Arc<Mutex<Store>>, Arc<watch::Sender<u64>>);
type Queries = BTreeMap<String, String>;

pub fn router(store: Arc<Mutex<Store>>, signal: Arc<watch::Sender<u64>>) -> Router {
    Router::new().fallback(answer).with_state((store, signal))
}

/// A path in parts.
struct Address {
    collection: String,
    namespace: String,
    name: Option<String>,
    subresource: String,
}

/// `/api/v1/namespaces/N/P[/NAME[/SUB]]` or `/apis/G/V/namespaces/…`.
fn address(path: &str) -> Option<Address> {
    let mut parts: VecDeque<&str> = path.trim_matches('/').split('/').collect();
    let version = match parts.pop_front()? {
        "api" => parts.pop_front()?.to_owned(),
        "apis" => format!("{}/{}", parts.pop_front()?, parts.pop_front()?),
        _ => return None,
    };
    (parts.pop_front()? == "namespaces").then_some(())?;
    let namespace = parts.pop_front()?.to_owned();
    let collection = format!("{version}/{}", parts.pop_front()?);
    let name = parts.pop_front().map(str::to_owned);
    Some(Address { collection, namespace, name, subresource: parts.pop_front().unwrap_or_default().into() })
}

async fn answer(State((store, signal)): State<Shared>, Query(query): Query<Queries>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 4 << 20).await.unwrap_or_default();
    let line = format!("{} {}", parts.method, parts.uri);
    let form =
        parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if parts.uri.path() == "/version" {
        return axum::Json(json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.0-test" })).into_response();
    }
    let done = {
        let mut locked = store.lock().expect("not poisoned");
        locked.requests.push(line.clone());
        if let Some(refusal) = fault(&mut locked, &line) {
            return refused(refusal);
        }
        let Some(address) = address(parts.uri.path()) else { return refused(not_found("paths", parts.uri.path())) };
        if locked.missing.contains(&address.collection) {
            return refused(Refusal(
                404,
                "NotFound",
                "the server could not find the requested resource".into(),
                vec![],
            ));
        }
        if !["default", "models"].contains(&address.namespace.as_str()) {
            return refused(not_found("namespaces", &address.namespace));
        }
        if query.get("watch").map(String::as_str) == Some("true") {
            drop(locked);
            return stream(store, signal.subscribe(), address, query);
        }
        match (parts.method.as_str(), &address.name) {
            ("GET", None) => Ok(list(&locked, &address, &query)),
            ("GET", Some(name)) => {
                let found = locked.get(&address.collection, &address.namespace, name).cloned();
                found.ok_or_else(|| not_found(&address.collection, name))
            }
            ("POST", Some(name)) if address.subresource == "eviction" => {
                locked.delete(&address.collection, &address.namespace, name, None)
            }
            ("DELETE", Some(name)) => {
                let options: Value = serde_json::from_slice(&body).unwrap_or_default();
                locked.delete(&address.collection, &address.namespace, name, options["preconditions"]["uid"].as_str())
            }
            ("PATCH" | "PUT" | "POST", _) => write(&mut locked, &parts.method, &address, &query, &form, &body),
            _ => Err(Refusal(405, "MethodNotAllowed", "not allowed".into(), vec![])),
        }
    };
    signal.send_modify(|count| *count += 1);
    done.map_or_else(refused, |value| axum::Json(value).into_response())
}

fn write(
    store: &mut Store,
    method: &axum::http::Method,
    address: &Address,
    query: &Queries,
    form: &str,
    body: &Bytes,
) -> Result<Value, Refusal> {
    let invalid = |message: &str| Refusal(400, "BadRequest", message.into(), vec![]);
    let body: Value = serde_json::from_slice(body).map_err(|_| invalid("the body is no JSON"))?;
    let manager = query.get("fieldManager").map_or("unknown", String::as_str);
    let name = address
        .name
        .clone()
        .or_else(|| body["metadata"]["name"].as_str().map(str::to_owned))
        .ok_or_else(|| invalid("no name"))?;
    if form == "application/apply-patch+yaml" {
        if manager == "unknown" {
            return Err(invalid("fieldManager is required for apply patch"));
        }
        let force = query.get("force").map(String::as_str) == Some("true");
        return store.apply(&address.collection, &address.namespace, &name, &body, manager, force);
    }
    let current = store.get(&address.collection, &address.namespace, &name).cloned();
    let mut object = match (method.as_str(), current) {
        ("POST", Some(_)) => return Err(Refusal(409, "AlreadyExists", format!("{name:?} already exists"), vec![])),
        ("POST", None) => body,
        (_, None) => return Err(not_found(&address.collection, &name)),
        ("PUT", Some(current)) if address.subresource == "status" => {
            let mut object = current;
            object["status"] = body["status"].clone();
            object
        }
        ("PUT", Some(_)) => body,
        (_, Some(mut current)) => {
            merge(&mut current, &body);
            current
        }
    };
    object["metadata"]["namespace"] = json!(address.namespace);
    store.update(&address.collection, object, manager, &address.subresource)
}

fn list(store: &Store, address: &Address, query: &Queries) -> Value {
    let all: Vec<&Value> = store
        .list(&address.collection, &address.namespace)
        .into_iter()
        .filter(|object| is_selected(object, query))
        .collect();
    let from: usize = query.get("continue").and_then(|token| token.parse().ok()).unwrap_or_default();
    let limit = store.page.unwrap_or(usize::MAX);
    let page: Vec<&&Value> = all.iter().skip(from).take(limit).collect();
    let rest = if from + page.len() < all.len() { (from + page.len()).to_string() } else { String::new() };
    json!({
        "kind": "List", "apiVersion": "v1", "items": page,
        "metadata": { "resourceVersion": store.version().to_string(), "continue": rest },
    })
}

/// Label selectors of the form `a=b,c=d`, and the field selector `type=…`.
fn is_selected(object: &Value, query: &Queries) -> bool {
    let pairs = |name: &str| -> Vec<(String, String)> {
        let text = query.get(name).map(String::as_str).unwrap_or_default();
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    };
    pairs("labelSelector").iter().all(|(name, value)| object["metadata"]["labels"][name] == value.as_str())
        && pairs("fieldSelector").iter().all(|(name, value)| object[name] == value.as_str())
}

fn stream(store: Arc<Mutex<Store>>, signal: watch::Receiver<u64>, address: Address, query: Queries) -> Response {
    let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let (bookmarks, cuts) = {
        let store = store.lock().expect("not poisoned");
        (store.bookmarks, store.cuts)
    };
    let start = (store, signal, address, query, from, bookmarks, false);
    let lines = futures_util::stream::unfold(
        start,
        move |(store, mut signal, address, query, mut from, mut seen, ended)| async move {
            if ended {
                return None;
            }
            loop {
                let (text, end) = {
                    let locked = store.lock().expect("not poisoned");
                    if locked.cuts != cuts {
                        return None;
                    }
                    let mut text = String::new();
                    let mut end = false;
                    match locked.after(from) {
                        Err(refusal) => {
                            text.push_str(&format!("{}\n", json!({ "type": "ERROR", "object": status(&refusal) })));
                            end = true;
                        }
                        Ok(events) => {
                            for event in events {
                                from = event.version;
                                let ours =
                                    event.collection == address.collection && event.namespace == address.namespace;
                                if ours && is_selected(&event.object, &query) {
                                    text.push_str(&format!(
                                        "{}\n",
                                        json!({ "type": event.kind, "object": event.object })
                                    ));
                                }
                            }
                        }
                    }
                    if locked.bookmarks != seen {
                        seen = locked.bookmarks;
                        from = from.max(locked.version());
                        let object = json!({ "kind": "Bookmark", "apiVersion": "v1", "metadata": { "resourceVersion": from.to_string() } });
                        text.push_str(&format!("{}\n", json!({ "type": "BOOKMARK", "object": object })));
                    }
                    (text, end)
                };
                if !text.is_empty() {
                    let next = (store, signal, address, query, from, seen, end);
                    return Some((Ok::<_, Infallible>(text), next));
                }
                if signal.changed().await.is_err() {
                    return None;
                }
            }
        },
    );
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

fn fault(store: &mut Store, line: &str) -> Option<Refusal> {
    let fault = store.faults.iter_mut().find(|fault| fault.times > 0 && line.contains(fault.holds))?;
    fault.times -= 1;
    Some(Refusal(fault.code, fault.reason, fault.message.into(), vec![]))
}

fn status(Refusal(code, reason, message, causes): &Refusal) -> Value {
    let causes: Vec<Value> = causes
        .iter()
        .map(|(message, field)| json!({ "reason": "FieldManagerConflict", "message": message, "field": field }))
        .collect();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message, "details": { "causes": causes },
    })
}

fn refused(refusal: Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, axum::Json(status(&refusal))).into_response()
}
