//! A registry on loopback that keeps everything in memory, and counts and refuses what it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::image::document::BlobDigest;

/// How it asks who somebody is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Open,
    Basic,
    Token,
}

/// What it does besides.
#[derive(Clone)]
pub struct Habits {
    pub door: Door,
    /// Whether it lists referrers by itself.
    pub referrers: bool,
    /// Whether it says where a manifest is; Amazon's does not.
    pub location: bool,
    /// The statuses that the next uploads get instead of an answer.
    pub faults: Vec<u16>,
    /// The token that its door gives.
    pub token: String,
}

impl Default for Habits {
    fn default() -> Self {
        Self { door: Door::Open, referrers: true, location: true, faults: Vec::new(), token: "pass.port".to_owned() }
    }
}

/// What it holds and has seen.
#[derive(Default)]
pub struct Kept {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    pub uploads: usize,
    pub scopes: Vec<String>,
    /// The order in which manifests arrived.
    pub order: Vec<String>,
}

pub struct Registry {
    pub host: String,
    pub kept: Arc<Mutex<Kept>>,
}

#[derive(Clone)]
struct Shared {
    host: String,
    habits: Arc<Mutex<Habits>>,
    kept: Arc<Mutex<Kept>>,
}

impl Registry {
    pub async fn start(habits: Habits) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = Shared { host: host.clone(), habits: Arc::new(Mutex::new(habits)), kept: kept.clone() };
        let router = Router::new().fallback(answer).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { host, kept }
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 24).await.expect("a body");
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    if path == "/token" {
        return token(&shared, &parts.headers, &query);
    }
    if let Some(refusal) = at_the_door(&shared, &parts.headers) {
        return refusal;
    }
    serve(&shared, &parts.method, &path, &query, &parts.headers, body)
}

fn token(shared: &Shared, headers: &HeaderMap, query: &str) -> Response {
    if !is_user(headers) {
        return (StatusCode::UNAUTHORIZED, "wrong password").into_response();
    }
    shared.kept.lock().expect("whole").scopes.push(query.to_owned());
    let token = shared.habits.lock().expect("whole").token.clone();
    axum::Json(BTreeMap::from([("access_token", token)])).into_response()
}

fn is_user(headers: &HeaderMap) -> bool {
    let wanted = format!("Basic {}", STANDARD.encode("user:secret"));
    headers.get("authorization").is_some_and(|h| h.as_bytes() == wanted.as_bytes())
}

fn at_the_door(shared: &Shared, headers: &HeaderMap) -> Option<Response> {
    let habits = shared.habits.lock().expect("whole");
    let (fine, challenge) = match habits.door {
        Door::Open => return None,
        Door::Basic => (is_user(headers), "Basic realm=\"registry\"".to_owned()),
        Door::Token => {
            let wanted = format!("Bearer {}", habits.token);
            let fine = headers.get("authorization").is_some_and(|h| h.as_bytes() == wanted.as_bytes());
            (fine, format!("Bearer realm=\"http://{}/token\",service=\"registry\"", shared.host))
        }
    };
    (!fine).then(|| (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response())
}

fn serve(shared: &Shared, method: &Method, path: &str, query: &str, headers: &HeaderMap, body: Bytes) -> Response {
    let habits = &mut *shared.habits.lock().expect("whole");
    let kept = &mut *shared.kept.lock().expect("whole");
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    let at = |place: String| [("location", place)];
    match (method.as_str(), path) {
        ("GET", "/v2/") => StatusCode::OK.into_response(),
        ("POST", p) if p.ends_with("/blobs/uploads/") => match habits.faults.pop() {
            Some(fault) => StatusCode::from_u16(fault).expect("a status").into_response(),
            None => (StatusCode::ACCEPTED, at(format!("{p}1"))).into_response(),
        },
        ("PUT", p) if p.contains("/blobs/uploads/") => {
            let digest = query.split('&').find_map(|q| q.strip_prefix("digest=")).unwrap_or_default();
            let digest = digest.replace("%3A", ":");
            if BlobDigest::of(&body).to_string() != digest {
                return StatusCode::BAD_REQUEST.into_response();
            }
            kept.uploads += 1;
            kept.blobs.insert(digest.clone(), body.to_vec());
            (StatusCode::CREATED, at(format!("/v2/x/blobs/{digest}"))).into_response()
        }
        ("HEAD", p) if p.contains("/blobs/") => match kept.blobs.contains_key(&last) {
            true => StatusCode::OK.into_response(),
            false => StatusCode::NOT_FOUND.into_response(),
        },
        ("PUT", p) if p.contains("/manifests/") => {
            let kind = headers["content-type"].to_str().expect("text").to_owned();
            kept.manifests.insert(BlobDigest::of(&body).to_string(), (kind.clone(), body.to_vec()));
            kept.manifests.insert(last.clone(), (kind, body.to_vec()));
            kept.order.push(last);
            match habits.location {
                true => (StatusCode::CREATED, at(p.to_owned())).into_response(),
                false => StatusCode::CREATED.into_response(),
            }
        }
        ("GET" | "HEAD", p) if p.contains("/manifests/") => match kept.manifests.get(&last) {
            Some((kind, bytes)) => {
                let digest = BlobDigest::of(bytes).to_string();
                let head = [("content-type", kind.clone()), ("docker-content-digest", digest)];
                (head, bytes.clone()).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        },
        ("GET", p) if p.contains("/referrers/") && habits.referrers => {
            let about = |bytes: &[u8]| {
                let json: serde_json::Value = serde_json::from_slice(bytes).expect("json");
                json["subject"]["digest"] == last.as_str()
            };
            let of = |(kind, bytes): &(String, Vec<u8>)| crate::image::document::Descriptor::of(kind, bytes);
            let found = kept.manifests.values().filter(|(_, bytes)| about(bytes)).map(of).collect();
            axum::Json(crate::image::document::Index::new(found, BTreeMap::new())).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
