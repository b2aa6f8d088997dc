//! The whole dispatcher but HTTP, with real MQTT over mTLS, and devices that verify everything themselves.

#![allow(clippy::unwrap_used)]

mod common;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use common::{Device, PATIENCE, enroll, id, request};
use futures_util::{StreamExt as _, stream};
use muster_dispatcher::app::plan::{Plan, Preset, Target};
use muster_dispatcher::app::{
    App, DevicePhase, Error, Principal, Registered, Registration, RegistrationFile, Role, RolloutDocument, RolloutId,
    RolloutStatus, TelemetryFilter, WatchEvent,
};
use muster_dispatcher::serve::{self, BrokerChoice, Config, Running};
use muster_proto::code::Code;
use muster_proto::id::Digest;
use muster_proto::report::{LATENCY_BOUNDS_US, Phase, SlotWindow, Telemetry, Vitals};
use muster_proto::topic::Leaf;
use muster_proto::transfer::Object;

fn config(data: &Path) -> Config {
    Config {
        data: data.to_owned(),
        workspace: "default".parse().expect("valid"),
        hostnames: vec!["127.0.0.1".into()],
        api: "127.0.0.1:8420".parse().expect("valid"),
        api_url: None,
        broker_address: None,
        broker: BrokerChoice::Embedded { listen: "127.0.0.1:0".parse().expect("valid") },
        control: None,
    }
}

async fn start(dir: &tempfile::TempDir) -> Running {
    let running = serve::start(config(&dir.path().join("data"))).await.expect("starts");
    until("the link is up", async || running.app.info().await.expect("answers").link_up).await;
    running
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn digits(name: &str) -> Vec<u8> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/digits");
    std::fs::read(folder.join(name)).expect("is checked in")
}

async fn register(app: &App, version: u32) -> Registered {
    let bytes = digits(&format!("digits-{version}.onnx"));
    let digest = Digest::of(&bytes);
    let body = stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]);
    app.upload_blob(digest, body).await.expect("takes it");
    let registration: Registration = serde_json::from_value(serde_json::json!({
        "name": "vision/digits",
        "files": [RegistrationFile { path: "digits.onnx".parse().expect("valid"), digest }],
        "samples": serde_json::from_slice::<serde_json::Value>(&digits(&format!("sample-{version}.json"))).expect("JSON"),
        "transforms": serde_json::from_slice::<serde_json::Value>(&digits("transforms.json")).expect("JSON"),
    }))
    .expect("a registration");
    app.register_model(registration, &Principal::system()).await.expect("registers")
}

fn to_line(model_version: Option<u64>) -> RolloutDocument {
    let target = Target { groups: ["line".parse().expect("valid")].into(), ..Target::default() };
    RolloutDocument {
        model: "vision/digits".parse().expect("valid"),
        version: model_version.map(muster_proto::id::Version),
        slot: None,
        plan: Plan { preset: Some(Preset::Emergency), target, ..Plan::default() },
    }
}

async fn status(app: &App, id: RolloutId) -> RolloutStatus {
    app.show_rollout(id).await.expect("is there").rollout.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_model_reaches_a_device_and_its_proof_completes_the_rollout() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let app = running.app.clone();
    let token = running.first_token.as_deref().expect("made on the first start");
    let admin = app.authenticate(token).await.expect("answers").expect("is known");
    assert_eq!(admin.role, Role::Admin);
    assert_eq!(app.authenticate("muster_wrong").await.expect("answers"), None);

    let identity = enroll(&app, "pi", "line").await;
    let other = enroll(&app, "other", "elsewhere").await;
    let mut device = Device::connect(&identity).await;
    device.hello(0).await;
    until("the device is online", async || app.info().await.expect("answers").devices_online == 1).await;

    let registered = register(&app, 1).await;
    assert_eq!(registered.warnings, [] as [&str; 0]);
    let mut events = app.events();
    let rollout = app.start_rollout(to_line(None), &admin).await.expect("starts").id;

    let desired = device.desired(1).await;
    assert_eq!(desired.slots[0].digest, registered.digest);
    let (manifest, files) = device.bundle(&desired).await;
    assert_eq!(manifest, registered.manifest);
    assert_eq!(files["digits.onnx"], digits("digits-1.onnx"));

    // A forged report changes nothing and is not acknowledged.
    device.report(&desired, Phase::Healthy, Some(&other)).await;
    let begun = device.report(&desired, Phase::Fetching, None).await;
    device.acknowledged(begun).await;
    let counters = app.info().await.expect("answers").counters;
    assert_eq!(counters.get("report_signature_invalid"), Some(&1));
    assert_eq!(app.show_rollout(rollout).await.expect("is there").devices[0].phase, DevicePhase::Fetching);

    let done = device.report(&desired, Phase::Healthy, None).await;
    device.acknowledged(done).await;
    assert_eq!(status(&app, rollout).await, RolloutStatus::Completed);
    let view = app.show_device(&id("pi")).await.expect("is there");
    assert!(view.view.converged && view.report.is_some());
    let mut phases = vec![];
    while let Ok(event) = events.try_recv() {
        match event {
            WatchEvent::RolloutDevice { phase, .. } => phases.push(phase),
            WatchEvent::Rollout { status: RolloutStatus::Completed, .. } => break,
            _ => {}
        }
    }
    assert_eq!(phases, [DevicePhase::Offered, DevicePhase::Fetching, DevicePhase::Healthy]);

    // What a device desires may not be deleted, and the message says who.
    let name = "vision/digits".parse().expect("valid");
    let refused = app.delete_model(&name, registered.version, &admin).await.expect_err("is refused");
    assert_eq!((refused.code(), refused.blockers()), (Code::Conflict, &["device pi (slot digits)".to_owned()][..]));
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_version_makes_a_small_delta() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let app = running.app.clone();
    let identity = enroll(&app, "pi", "line").await;
    let mut device = Device::connect(&identity).await;
    register(&app, 1).await;
    register(&app, 2).await;
    let (base, want) = (digits("digits-1.onnx"), digits("digits-2.onnx"));
    let held = vec![Digest::of(b"not here"), Digest::of(&base)];
    let offer = device.delta(Digest::of(&want), held.clone()).await.expect("is worth it");
    assert!(offer.size < 20_000, "{}", offer.size);
    assert_eq!(offer.base, Digest::of(&base));
    let delta = device.fetch(Object::Blob(offer.digest), offer.chunk_size).await.expect("is there");
    assert_eq!(Digest::of(&delta), offer.digest);
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(&delta[..], &base).expect("decodes");
    decoder.window_log_max(27).expect("a window");
    let mut got = vec![];
    std::io::Read::read_to_end(&mut decoder, &mut got).expect("decodes");
    assert_eq!(got, want);
    assert_eq!(device.delta(Digest::of(&want), held).await, Some(offer), "from the cache");
    assert_eq!(device.delta(Digest::of(&want), vec![Digest::of(b"not here")]).await, None);
    assert_eq!(device.delta(Digest::of(b"unknown"), vec![Digest::of(&base)]).await, None);
    assert_eq!(device.fetch(Object::Blob(Digest::of(b"unknown")), 4096).await, None, "is said to be missing");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_changes_nothing_and_what_was_retained_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let identity = enroll(&running.app, "pi", "line").await;
    register(&running.app, 1).await;
    {
        let device = Device::connect(&identity).await;
        device.hello(0).await;
        until("the device is online", async || running.app.info().await.expect("answers").devices_online == 1).await;
    }
    let rollout = running.app.start_rollout(to_line(Some(1)), &Principal::system()).await.expect("starts").id;
    let (ca, token) = (running.app.ca_pem(), running.first_token.clone().expect("made on the first start"));
    let second = serve::start(config(&dir.path().join("data"))).await;
    assert!(matches!(second, Err(serve::Error::Locked(_))), "one dispatcher per folder");
    let address = running.broker_addr.expect("is embedded");
    running.shutdown().await;

    // The same port, as a device knows it.
    let mut again = config(&dir.path().join("data"));
    again.broker = BrokerChoice::Embedded { listen: address };
    let running = serve::start(again).await.expect("starts");
    assert_eq!((running.app.ca_pem(), running.first_token.as_ref()), (ca, None));
    assert!(running.app.authenticate(&token).await.expect("answers").is_some());
    let mut device = Device::connect(&identity).await;
    let desired = device.desired(1).await;
    assert_eq!(desired.slots[0].rollout, rollout.to_string());
    let done = device.report(&desired, Phase::Healthy, None).await;
    device.acknowledged(done).await;
    assert_eq!(status(&running.app, rollout).await, RolloutStatus::Completed);
    // The same content again says so, and the delta of nothing is no error.
    assert!(register(&running.app, 1).await.already_registered);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_is_out_even_after_its_name_is_used_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let app = running.app.clone();
    let old = enroll(&app, "pi", "line").await;
    app.delete_device(&id("pi"), &Principal::system()).await.expect("removes");
    let removed = Device::connect(&old).await;
    removed.hello(0).await;
    let new = enroll(&app, "pi", "line").await;
    removed.hello(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.info().await.expect("answers").devices_online, 0);
    drop(removed);
    let device = Device::connect(&new).await;
    device.hello(0).await;
    until("the new one is online", async || app.info().await.expect("answers").devices_online == 1).await;
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_token_lets_one_device_in_however_often_it_asks() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let app = running.app.clone();
    let token = app.create_enroll_token(Default::default(), &Principal::system()).await.expect("makes a token");
    let secret = token.token.parse::<muster_proto::enroll::Invitation>().expect("is one").secret;
    let (_, first) = request("pi", &secret);
    app.enroll(first.clone()).await.expect("enrols");
    app.enroll(first).await.expect("enrols again, as after a lost answer");
    let (_, taken) = request("pi", &secret);
    let taken = app.enroll(taken).await.expect_err("another key");
    assert_eq!(taken.code(), Code::Conflict);
    assert!(taken.to_string().contains("`muster device revoke pi`"), "{taken}");
    let (_, used_up) = request("pi-2", &secret);
    assert_eq!(app.enroll(used_up).await.expect_err("used up").code(), Code::Unauthorized);
    let (_, unknown) = request("pi-2", "guessed");
    assert_eq!(app.enroll(unknown).await.expect_err("unknown").code(), Code::Unauthorized);
    let (_, mut garbled) = request("pi-2", &secret);
    garbled.csr = "AAAA".into();
    assert!(matches!(app.enroll(garbled).await, Err(Error::BadRequest(_))));
    let (_, bundle) = request("bundle", &secret);
    assert!(matches!(app.enroll(bundle).await, Err(Error::BadRequest(_))));
    assert_eq!(app.list_devices(&Default::default()).await.expect("answers").len(), 1);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_many_want_goes_out_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let app = running.app.clone();
    let registered = register(&app, 1).await;
    let blob = registered.manifest.files[0].blob.clone();
    let mut identities = vec![];
    for n in 0..12 {
        identities.push(enroll(&app, &format!("d{n}"), "line").await);
    }
    let mut devices = vec![];
    for identity in &identities {
        let mut device = Device::connect(identity).await;
        device.join_bundle(blob.digest).await;
        devices.push(device);
    }
    let fetches = devices.iter_mut().map(|device| device.fetch(Object::Blob(blob.digest), blob.chunk_size));
    let got: Vec<Option<Vec<u8>>> = futures_util::future::join_all(fetches).await;
    assert!(got.iter().all(|bytes| bytes.as_deref().map(Digest::of) == Some(blob.digest)));
    let shared: usize = devices.iter().map(|device| device.shared()).sum();
    assert!(shared > 0, "nothing went to the bundle topic");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_is_summed_once_and_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let app = running.app.clone();
    let digest = register(&app, 1).await.digest;
    let identity = enroll(&app, "pi", "line").await;
    let mut device = Device::connect(&identity).await;
    let mut latency = vec![0; LATENCY_BOUNDS_US.len() + 1];
    latency[6] = 10;
    let slots = vec![SlotWindow {
        slot: "digits".parse().expect("valid"),
        digest,
        ok: 10,
        errors: 1,
        rejected: 2,
        latency,
        queue_peak: 3,
    }];
    let window = Telemetry::V1 {
        incarnation: 7,
        id: 42,
        started_at: 0,
        length_ms: 1000,
        slots,
        vitals: Vitals { rss_bytes: 9, ..Vitals::default() },
    };
    for _ in 0..3 {
        device.send(Leaf::Telemetry, &window).await;
        device.acknowledged(42).await;
    }
    let view = app.telemetry(&TelemetryFilter::default()).await.expect("answers").remove(0);
    assert_eq!((view.ok, view.errors, view.rejected, view.queue_peak), (10, 1, 2, 3));
    assert_eq!(view.version.version, Some(muster_proto::id::Version(1)));
    assert!((500..=1000).contains(&view.p95_us.expect("there were some")));
    assert_eq!(app.show_device(&id("pi")).await.expect("is there").vitals.map(|v| v.rss_bytes), Some(9));
    // Garbage is counted, and the device goes on.
    device.send_raw(Leaf::Telemetry, &[0, 1, 2]).await;
    device.send_raw(Leaf::Report, &[200, 1, 2]).await;
    device.send(Leaf::Telemetry, &window).await;
    device.acknowledged(42).await;
    let counters = app.info().await.expect("answers").counters;
    assert_eq!((counters["message_invalid"], counters["message_from_the_future"]), (1, 1));
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_registered_is_listed_downloaded_tagged_and_deleted() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let app = running.app.clone();
    let by = Principal::system();
    let registered = register(&app, 1).await;
    let (name, version) = (registered.model.clone(), registered.version);
    let tags = app.tag_model(&name, version, [("stage".into(), "prod".into())].into(), vec![], &by).await;
    assert_eq!(tags.expect("tags").len(), 1);
    let mut filter = muster_dispatcher::app::ModelFilter { name: Some("vision/*".into()), ..Default::default() };
    filter.tags.insert("stage".into(), "prod".into());
    assert_eq!(app.list_models(&filter).await.expect("lists").len(), 1);
    filter.tags.insert("stage".into(), "test".into());
    assert_eq!(app.list_models(&filter).await.expect("lists").len(), 0);

    let file = &registered.manifest.files[0];
    let mut download = app.download_file(&name, version, file.digest).await.expect("is there");
    let mut bytes = vec![];
    while let Some(piece) = download.body.next().await {
        bytes.extend(piece.expect("reads"));
    }
    assert_eq!(Digest::of(&bytes), file.digest);

    let timestamp = app.tuf_metadata("timestamp.json").await.expect("is there");
    assert!(serde_json::from_slice::<serde_json::Value>(&timestamp).expect("JSON")["signatures"].is_array());
    let hashed = format!("vision/digits/1/{}.manifest", registered.digest);
    for path in ["vision/digits/1/manifest", &hashed] {
        assert_eq!(Digest::of(&app.tuf_target(path).await.expect("is there")), registered.digest);
    }
    let wrong = format!("vision/digits/1/{}.manifest", Digest::of(b"x"));
    assert_eq!(app.tuf_target(&wrong).await.expect_err("is refused").code(), Code::NotFound);

    app.delete_model(&name, version, &by).await.expect("deletes");
    assert_eq!(app.show_model(&name, None).await.expect_err("is gone").code(), Code::NotFound);
    assert_eq!(app.tuf_target("vision/digits/1/manifest").await.expect_err("is gone").code(), Code::NotFound);
    let actions: Vec<String> =
        app.audit(None, 10).await.expect("reads").into_iter().map(|entry| entry.action).collect();
    assert_eq!(actions, ["model.delete", "model.tag", "model.register", "key.create"]);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_administrator_is_not_locked_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = start(&dir).await;
    let app = running.app.clone();
    let by = Principal::system();
    let only = app.list_keys().await.expect("lists").remove(0);
    assert_eq!(app.delete_key(&only.id, &by).await.expect_err("is refused").code(), Code::Conflict);
    let request = serde_json::from_str(r#"{"name": "ann", "role": "viewer", "ttl_seconds": 1}"#).expect("JSON");
    let viewer = app.create_key(request, &by).await.expect("makes a key");
    let principal = app.authenticate(&viewer.token).await.expect("answers").expect("is known");
    assert!(matches!(principal.require(Role::Operator), Err(Error::Forbidden { .. })));
    until("the key expires", async || app.authenticate(&viewer.token).await.expect("answers").is_none()).await;
    app.delete_key(&viewer.key.id, &by).await.expect("deletes");
    running.shutdown().await;
}
