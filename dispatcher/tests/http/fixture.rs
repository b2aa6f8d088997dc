//! A dispatcher in a temporary folder, and requests to its router.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use muster_dispatcher::app::{KeyRequest, Principal, Role};
use muster_dispatcher::serve::{self, BrokerChoice, Config, Running};
use muster_dispatcher::{control, http};
use muster_proto::id::Digest;
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub struct Dispatcher {
    pub running: Running,
    pub router: Router,
    pub admin: String,
    _folder: tempfile::TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a problem with `code`, and gives its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("/problems/{code}"));
        assert_eq!(problem["status"], status);
        assert!(!problem["next"].as_str().unwrap().is_empty() && !problem["title"].as_str().unwrap().is_empty());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

impl Dispatcher {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// One that keeps the ModelServices of a cluster as well.
    pub async fn start_with(control: Option<control::Config>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data: folder.path().join("data"),
            workspace: "default".parse().unwrap(),
            hostnames: vec!["127.0.0.1".into()],
            api: "127.0.0.1:8420".parse().unwrap(),
            api_url: None,
            broker_address: None,
            broker: BrokerChoice::Embedded { listen: "127.0.0.1:0".parse().unwrap() },
            control,
        };
        let running = serve::start(config).await.unwrap();
        let admin = running.first_token.clone().unwrap();
        Self { router: http::router(running.app.clone()), running, admin, _folder: folder }
    }

    pub async fn token(&self, role: Role) -> String {
        let request = KeyRequest { name: role.to_string(), role, ttl_seconds: None };
        self.running.app.create_key(request, &Principal::system()).await.unwrap().token
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A request by the administrator.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = request(method, path).header(header::AUTHORIZATION, format!("Bearer {}", self.admin));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    /// Without any token.
    pub async fn anonymous(&self, method: &str, path: &str) -> Answer {
        self.send(request(method, path).body(Body::empty()).unwrap()).await
    }

    pub async fn upload(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let request = request("PUT", &format!("/v1/uploads/{digest}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.admin))
            .body(Body::from(bytes.to_vec()))
            .unwrap();
        let answer = self.send(request).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        assert_eq!(answer.json(), json!({ "digest": digest, "size": bytes.len() }));
        digest
    }

    /// Registers digits under `name`.
    pub async fn register(&self, name: &str, version: u32) -> Answer {
        let digest = self.upload(&digits(&format!("digits-{version}.onnx"))).await;
        let sample: Value = serde_json::from_slice(&digits(&format!("sample-{version}.json"))).unwrap();
        let registration = json!({
            "name": name,
            "files": [{ "path": "digits.onnx", "digest": digest }],
            "samples": sample,
            "tags": { "stage": "candidate" },
            "properties": { "data": "optdigits" },
        });
        self.call("POST", "/v1/models", Some(registration)).await
    }
}

pub fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path)
}

pub fn digits(name: &str) -> Vec<u8> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/digits");
    std::fs::read(folder.join(name)).unwrap()
}
