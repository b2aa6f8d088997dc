//! A server over real sockets, with bundles that a publisher signed.

mod otlp;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use muster_proto::trust::testing::Publisher;
use serde_json::{Value, json};

use super::bundle::{self, MANIFEST, TRUST, Wanted};
use super::config::{Document, Model, Service};
use super::{Scoring, start};
use crate::api::{Hash, Keys, Settings};
use crate::engine::testing;

/// A publisher's signed versions 1 and 2 of digits, in folders.
struct Signed {
    dir: tempfile::TempDir,
    publisher: Publisher,
}

impl Signed {
    fn new() -> Self {
        let mut publisher = Publisher::new(4_000_000_000);
        let bundles = [1, 2].map(testing::Bundle::digits);
        let manifests: Vec<Vec<u8>> = bundles.iter().map(|b| publisher.add_manifest(&b.manifest)).collect();
        publisher.publish();
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("root.json"), publisher.root_bytes()).expect("writes");
        let signed = Self { dir, publisher };
        for (bundle, manifest) in bundles.iter().zip(manifests) {
            signed.lay_out(bundle, &manifest);
        }
        signed
    }

    fn lay_out(&self, bundle: &testing::Bundle, manifest: &[u8]) {
        let folder = self.folder(bundle.manifest.version.0);
        let trust = folder.join(TRUST);
        std::fs::create_dir_all(&trust).expect("makes");
        for file in &bundle.manifest.files {
            let path = file.path.as_str();
            std::fs::copy(bundle.folder.path().join(path), folder.join(path)).expect("copies");
        }
        let documents = [
            (folder.join(MANIFEST), manifest.to_vec()),
            (trust.join("1.root.json"), self.publisher.root_bytes()),
            (trust.join("timestamp.json"), self.publisher.timestamp_bytes()),
            (trust.join("snapshot.json"), self.publisher.snapshot_bytes()),
            (trust.join("targets.json"), self.publisher.targets_bytes()),
        ];
        documents.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("writes"));
    }

    fn folder(&self, version: u64) -> PathBuf {
        self.dir.path().join(format!("digits-{version}"))
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root.json")
    }

    fn model(&self, version: u64, traffic: u8) -> Model {
        let text = Some(format!("digits:{version}"));
        Model { version: text, bundle: Some(self.folder(version)), traffic: Some(traffic), digest: None }
    }

    fn service(&self, models: Vec<Model>) -> Service {
        let keys = Keys(vec![Hash::of("primary"), Hash::of("secondary")]);
        Service {
            name: "digits".parse().expect("a name"),
            models,
            keys,
            keys_file: None,
            settings: Settings::default(),
        }
    }

    fn document(&self, models: Vec<Model>) -> Document {
        Document {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            trust_root: Some(self.root()),
            threads: 2,
            services: vec![self.service(models)],
            ..Document::default()
        }
    }

    async fn serve(&self, models: Vec<Model>) -> Scoring {
        let document = self.document(models);
        let scoring = start(&document).await.expect("starts");
        scoring.desk.apply(&document).await.expect("applied");
        scoring
    }
}

/// One request on a connection of its own: the status, the head and the body.
fn ask(address: SocketAddr, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(address).expect("connects");
    let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{key}content-length: {length}\r\n\r\n{body}"
    )
    .expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn asked(
    address: SocketAddr,
    method: &'static str,
    path: &str,
    key: Option<&'static str>,
    body: Value,
) -> (u16, String, Value) {
    let (path, body) = (path.to_owned(), if body.is_null() { String::new() } else { body.to_string() });
    tokio::task::spawn_blocking(move || ask(address, method, &path, key, &body)).await.expect("joins")
}

fn image() -> Value {
    json!({"image": [[vec![vec![0.5; 8]; 8]]]})
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_a_service_and_nothing_is_told_without_one() {
    let signed = Signed::new();
    let scoring = signed.serve(vec![signed.model(1, 100)]).await;
    let at = scoring.address.expect("listens");
    for key in ["primary", "secondary"] {
        let (status, head, answer) = asked(at, "POST", "/score/digits", Some(key), image()).await;
        assert_eq!(status, 200, "{answer}");
        assert!(head.contains("muster-model-version: 1") && head.contains("muster-bundle-digest: "), "{head}");
    }
    for (key, path) in [(None, "/score/digits"), (Some("wrong"), "/score/digits"), (None, "/score/no-such-name")] {
        let (status, head, answer) = asked(at, "POST", path, key, image()).await;
        assert_eq!((status, answer["code"].as_str()), (401, Some("unauthorized")), "{key:?} {path}");
        assert!(head.to_lowercase().contains("www-authenticate: bearer"), "{head}");
    }
    assert_eq!(asked(at, "GET", "/v2/models", None, Value::Null).await.2, json!({"models": []}));
    assert_eq!(asked(at, "GET", "/v2/models", Some("primary"), Value::Null).await.2, json!({"models": ["digits"]}));
    assert_eq!(asked(at, "GET", "/v2/health/ready", None, Value::Null).await.0, 200);
    assert_eq!(asked(at, "GET", "/metrics", Some("primary"), Value::Null).await.0, 404, "that is the admin's");
    let admin = scoring.admin.expect("listens");
    assert_eq!(asked(admin, "GET", "/metrics", None, Value::Null).await.0, 200);
    scoring.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_costs_no_request_and_a_bad_one_changes_nothing() {
    let signed = Signed::new();
    let scoring = signed.serve(vec![signed.model(1, 100)]).await;
    let (at, admin) = (scoring.address.expect("listens"), scoring.admin.expect("listens"));
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(1);
    let load = std::thread::spawn(move || {
        let mut versions = Vec::new();
        while let Err(std::sync::mpsc::TryRecvError::Empty) = stopped.try_recv() {
            let (status, _, answer) = ask(at, "POST", "/score/digits", Some("primary"), &image().to_string());
            assert_eq!(status, 200, "{answer}");
            versions.push(answer["version"].as_u64().expect("a version"));
        }
        versions
    });
    let put = |models: Vec<Model>| json!({"service": [signed.service(models)]});
    let change = async |models| asked(admin, "PUT", "/v1/services", None, put(models)).await;

    let (status, _, answer) = change(vec![signed.model(1, 90), signed.model(2, 10)]).await;
    assert_eq!((status, &answer["services"][0]["revisions"][1]["traffic"]), (200, &json!(10)), "{answer}");
    let (status, _, answer) = change(vec![signed.model(2, 100)]).await;
    assert_eq!((status, &answer["services"][0]["revisions"][0]["model"]), (200, &json!("digits:2")), "{answer}");

    // A byte of version 1's network is another one.
    let path = signed.folder(1).join("model.onnx");
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let (status, _, answer) = change(vec![signed.model(1, 100)]).await;
    assert_eq!((status, &answer["services"][0]["ready"]), (200, &json!(false)), "{answer}");
    assert!(answer["services"][0]["reason"].as_str().is_some_and(|text| text.contains("digest_mismatch")), "{answer}");
    let (status, head, _) = asked(at, "POST", "/score/digits", Some("primary"), image()).await;
    assert_eq!(status, 200);
    assert!(head.contains("muster-model-version: 2"), "{head}");

    drop(stop);
    let versions = load.join().expect("no request failed");
    assert!(versions.contains(&1) && versions.ends_with(&[2]), "{versions:?}");
    scoring.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_own_limit_of_a_body_holds_at_once() {
    let signed = Signed::new();
    let scoring = signed.serve(vec![signed.model(1, 100)]).await;
    let (at, admin) = (scoring.address.expect("listens"), scoring.admin.expect("listens"));
    for (limit, status) in [(100, 413), (100_000, 200)] {
        let mut service = signed.service(vec![signed.model(1, 100)]);
        service.settings.body_bytes = limit;
        let changed = asked(admin, "PUT", "/v1/services", None, json!({"service": [service]})).await;
        assert_eq!(changed.0, 200, "{changed:?}");
        let answer = asked(at, "POST", "/score/digits", Some("primary"), image()).await;
        assert_eq!(answer.0, status, "{answer:?}");
    }
    scoring.stop().await;
}

#[test]
fn nothing_is_opened_that_does_not_follow_from_the_root() {
    let signed = Signed::new();
    let root = signed.publisher.root_bytes();
    let open = |wanted: &Wanted| bundle::open(&signed.folder(1), &root, wanted).map_err(|error| error.to_string());
    let digest = open(&Wanted::default()).expect("opens").digest;
    assert!(open(&Wanted { digest: Some(digest), model: None }).is_ok());
    let other = Wanted { model: Some(("digits".parse().expect("a name"), muster_proto::id::Version(2))), digest: None };
    assert!(open(&other).expect_err("another").contains("digits:2 was asked for"));

    let stranger = Publisher::new(3_999_999_999);
    let changes: [(&str, Vec<u8>, &str); 4] = [
        ("samples.bin", b"others".to_vec(), "not the file that was signed"),
        (".muster/trust/timestamp.json", stranger.timestamp_bytes(), "snapshot"),
        (".muster/trust/targets.json", b"{}".to_vec(), "targets"),
        (MANIFEST, b"{}".to_vec(), "manifest"),
    ];
    for (name, bytes, part) in changes {
        let path = signed.folder(1).join(name);
        let before = std::fs::read(&path).expect("reads");
        std::fs::write(&path, bytes).expect("writes");
        let error = open(&Wanted::default()).expect_err(name);
        assert!(error.contains(part), "{name}: {error} does not say {part:?}");
        std::fs::write(&path, before).expect("writes");
    }
    std::fs::remove_file(signed.folder(1).join("model.onnx")).expect("removes");
    assert!(open(&Wanted::default()).expect_err("missing").contains("cannot be read"));
    assert!(Path::new(&signed.root()).exists());
}
