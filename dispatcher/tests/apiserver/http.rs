//! The server's HTTP: paths, queries, answers, and the streams of watches.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::store::{NAMESPACES, Refusal, Store, is_leaving, merge, not_found};
use super::{Shared, controllers, proxy};

type Queries = BTreeMap<String, String>;

pub fn router(shared: Shared) -> Router {
    Router::new().fallback(answer).with_state(shared)
}

/// A path in parts.
struct Address {
    collection: String,
    /// Empty for nodes and namespaces themselves.
    namespace: String,
    name: Option<String>,
    subresource: String,
    /// What follows a subresource: the path for a proxy.
    rest: String,
}

/// `/api/v1/namespaces/N/P[/NAME[/SUB[/REST]]]` or `/apis/G/V/namespaces/…`; `/api/v1/nodes[/NAME]`,
/// `/api/v1/namespaces[/NAME]`.
fn address(path: &str) -> Option<Address> {
    let mut parts: VecDeque<&str> = path.trim_matches('/').split('/').collect();
    let version = match parts.pop_front()? {
        "api" => parts.pop_front()?.to_owned(),
        "apis" => format!("{}/{}", parts.pop_front()?, parts.pop_front()?),
        _ => return None,
    };
    let mut namespace = String::new();
    if parts.front() == Some(&"namespaces") && parts.len() > 2 {
        parts.pop_front();
        namespace = parts.pop_front()?.to_owned();
    }
    let collection = format!("{version}/{}", parts.pop_front()?);
    let name = parts.pop_front().map(str::to_owned);
    let subresource = parts.pop_front().unwrap_or_default().to_owned();
    Some(Address { collection, namespace, name, subresource, rest: Vec::from(parts).join("/") })
}

/// What a request leads to, once the store was looked at.
enum Next {
    Answer(Result<Value, Refusal>),
    Watch(Address),
    Forward { endpoint: String, path: String },
}

async fn answer(State(shared): State<Shared>, Query(query): Query<Queries>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 4 << 20).await.unwrap_or_default();
    if parts.uri.path() == "/version" {
        return axum::Json(json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.0-test" })).into_response();
    }
    let (next, is_change) = shared.look(|store| {
        let before = store.version();
        let next = act(store, &parts, &query, &body).unwrap_or_else(|refusal| Next::Answer(Err(refusal)));
        (next, store.version() != before)
    });
    if is_change {
        shared.signal.send_modify(|count| *count += 1);
    }
    match next {
        Next::Answer(done) => done.map_or_else(refused, |value| axum::Json(value).into_response()),
        Next::Watch(address) => stream(shared.store, shared.signal.subscribe(), address, query),
        Next::Forward { endpoint, path } => proxy::forward(&endpoint, &path, parts, body).await,
    }
}

fn act(store: &mut Store, parts: &Parts, query: &Queries, body: &Bytes) -> Result<Next, Refusal> {
    let line = format!("{} {}", parts.method, parts.uri);
    store.requests.push(line.clone());
    fault(store, &line)?;
    let address = address(parts.uri.path()).ok_or_else(|| not_found("paths", parts.uri.path()))?;
    let Address { collection, namespace, name, subresource, rest } = &address;
    if store.missing.contains(collection) {
        return Err(Refusal(404, "NotFound", "the server could not find the requested resource".into(), vec![]));
    }
    let within = store.get(NAMESPACES, "", namespace).map(is_leaving);
    if within.is_none() && !namespace.is_empty() {
        return Err(not_found("namespaces", namespace));
    }
    if query.get("watch").map(String::as_str) == Some("true") {
        return Ok(Next::Watch(address));
    }
    let form = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let done = match (parts.method.as_str(), name) {
        (_, Some(name)) if subresource == "proxy" => {
            return Ok(Next::Forward { endpoint: proxy::endpoint(store, namespace, name)?, path: rest.clone() });
        }
        ("GET", None) => list(store, &address, query),
        ("GET", Some(name)) => {
            store.get(collection, namespace, name).cloned().ok_or_else(|| not_found(collection, name))?
        }
        ("POST", Some(name)) if subresource == "eviction" => controllers::evict(store, namespace, name)?,
        ("DELETE", Some(name)) => {
            let options: Value = serde_json::from_slice(body).unwrap_or_default();
            store.delete(collection, namespace, name, options["preconditions"]["uid"].as_str())?
        }
        ("PATCH" | "PUT" | "POST", _) if within == Some(true) && is_new(store, &address) => {
            let words = format!("unable to create new content in namespace {namespace} because it is being terminated");
            return Err(Refusal(403, "Forbidden", words, vec![]));
        }
        ("PATCH" | "PUT" | "POST", _) => write(store, &parts.method, &address, query, form, body)?,
        _ => return Err(Refusal(405, "MethodNotAllowed", "not allowed".into(), vec![])),
    };
    Ok(Next::Answer(Ok(done)))
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
    if !address.namespace.is_empty() {
        object["metadata"]["namespace"] = json!(address.namespace);
    }
    store.update(&address.collection, object, manager, &address.subresource)
}

fn is_new(store: &Store, address: &Address) -> bool {
    address.name.as_ref().is_none_or(|name| store.get(&address.collection, &address.namespace, name).is_none())
}

fn list(store: &Store, address: &Address, query: &Queries) -> Value {
    let all: Vec<&Value> = store
        .list(&address.collection, &address.namespace)
        .into_iter()
        .filter(|object| is_selected(object, query))
        .collect();
    let from: usize = query.get("continue").and_then(|token| token.parse().ok()).unwrap_or_default();
    let limit = store.page.unwrap_or(usize::MAX);
    // As a server does: what a list says of all its items is not said of each. Custom resources say it all the same.
    let kind = all.first().and_then(|object| object["kind"].as_str()).unwrap_or_default();
    let version = all.first().and_then(|object| object["apiVersion"].as_str()).unwrap_or("v1");
    let page: Vec<Value> = all.iter().skip(from).take(limit).map(|object| (*object).clone()).map(untyped).collect();
    let rest = if from + page.len() < all.len() { (from + page.len()).to_string() } else { String::new() };
    json!({
        "kind": format!("{kind}List"), "apiVersion": version, "items": page,
        "metadata": { "resourceVersion": store.version().to_string(), "continue": rest },
    })
}

fn untyped(mut object: Value) -> Value {
    let custom = object["apiVersion"].as_str().is_some_and(|version| version.starts_with("muster.dev/"));
    if let (false, Some(fields)) = (custom, object.as_object_mut()) {
        fields.retain(|name, _| name != "apiVersion" && name != "kind");
    }
    object
}

/// Label selectors of the form `a=b,c=d`, and field selectors of the form `type=…`.
fn is_selected(object: &Value, query: &Queries) -> bool {
    let pairs = |name: &str| -> Vec<(String, String)> {
        let text = query.get(name).map(String::as_str).unwrap_or_default();
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    };
    pairs("labelSelector").iter().all(|(name, value)| object["metadata"]["labels"][name] == value.as_str())
        && pairs("fieldSelector")
            .iter()
            .all(|(name, value)| object.pointer(&format!("/{}", name.replace('.', "/"))) == Some(&json!(value)))
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

fn fault(store: &mut Store, line: &str) -> Result<(), Refusal> {
    match store.faults.iter_mut().find(|fault| fault.times > 0 && line.contains(fault.holds)) {
        None => Ok(()),
        Some(fault) => {
            fault.times -= 1;
            Err(Refusal(fault.code, fault.reason, fault.message.into(), vec![]))
        }
    }
}

fn status(Refusal(code, reason, message, causes): &Refusal) -> Value {
    let cause = |(message, field): &(String, String)| match code {
        429 => json!({ "reason": "DisruptionBudget", "message": message }),
        _ => json!({ "reason": "FieldManagerConflict", "message": message, "field": field }),
    };
    let causes: Vec<Value> = causes.iter().map(cause).collect();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message, "details": { "causes": causes },
    })
}

fn refused(refusal: Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, axum::Json(status(&refusal))).into_response()
}
