//! The driver with a real database and no link: what is durable, what is told, what is refused.

use std::collections::BTreeMap;

use muster_proto::id::{Digest, Generation};
use muster_proto::report::{AgentInfo, DeviceReport, Report, SlotWindow, Telemetry, Vitals};
use muster_proto::topic::{Leaf, Topic};
use muster_proto::transfer::{Fetch, Object};
use muster_proto::trust::sign::report_signing_input;
use muster_proto::wire;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;
use crate::blobs::Blobs;
use crate::domain::{Device, DeviceChange};
use crate::link::Incoming;
use crate::transfer::{self, Transfer};

struct World {
    dir: tempfile::TempDir,
    storage: Storage,
    driver: Driver,
    watch: broadcast::Receiver<WatchEvent>,
    counters: Counters,
}

async fn world() -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = Storage::open(&dir.path().join("muster.db")).await.expect("opens");
    let fleet = storage.load_fleet("default".parse().expect("valid"), 1).await.expect("loads");
    let (sender, watch) = broadcast::channel(64);
    let counters = Counters::default();
    let fence = storage.take_fence().await.expect("takes it");
    let parts =
        Parts { storage: storage.clone(), fence, outbox: Outbox::default(), watch: sender, counters: counters.clone() };
    let (driver, _) = Driver::start(fleet, parts);
    World { dir, storage, driver, watch, counters }
}

fn id(name: &str) -> DeviceId {
    name.parse().expect("valid")
}

fn key() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).expect("a key")
}

fn signed(key: &EcdsaKeyPair, report: DeviceReport) -> SignedReport {
    let payload = wire::encode(&Report::V1(report)).expect("encodes");
    let signature = key.sign(&SystemRandom::new(), &report_signing_input(&payload)).expect("signs");
    SignedReport::V1 { payload, signature: signature.as_ref().to_vec() }
}

fn report(device: &str, number: u64) -> DeviceReport {
    DeviceReport {
        workspace: "default".parse().expect("valid"),
        device: id(device),
        incarnation: 1,
        id: number,
        sent_at: 0,
        generation: Generation(0),
        agent: AgentInfo { version: format!("0.{number}"), ..AgentInfo::default() },
        slots: vec![],
        refused: None,
    }
}

async fn enrol(world: &World, name: &str, key: &EcdsaKeyPair) {
    let device = Device::enrolled(id(name), key.public_key().as_ref().to_vec(), "t".into(), AgentInfo::default(), 1);
    let decided: Result<(), Error<String>> =
        world.driver.decide(|_| Ok((Some(Event::Enrolled(Box::new(device))), ()))).await;
    decided.expect("is stored");
}

/// What the watcher sees next of a device.
async fn told(world: &mut World) -> DeviceChange {
    loop {
        if let WatchEvent::Device { change, .. } = world.watch.recv().await.expect("goes on") {
            return change;
        }
    }
}

#[tokio::test]
async fn a_decision_is_durable_when_it_is_answered() {
    let world = world().await;
    enrol(&world, "pi", &key()).await;
    let again = Storage::open(&world.dir.path().join("muster.db")).await.expect("opens");
    let fleet = again.load_fleet("default".parse().expect("valid"), 1).await.expect("loads");
    assert!(fleet.devices.contains_key(&id("pi")));
    let refused: Result<(), Error<String>> = world.driver.decide(|_| Err("no".into())).await;
    assert!(matches!(refused, Err(Error::Refused(reason)) if reason == "no"));
}

#[tokio::test]
async fn what_cannot_be_stored_did_not_happen() {
    let world = world().await;
    world.storage.refuse_writes(true).await;
    let device = Device::enrolled(id("pi"), vec![], "t".into(), AgentInfo::default(), 1);
    let enrolled = device.clone();
    let decided: Result<(), Error<String>> =
        world.driver.decide(|_| Ok((Some(Event::Enrolled(Box::new(enrolled))), ()))).await;
    assert!(matches!(decided, Err(Error::Storage(_))));
    assert!(world.driver.fleet().devices.is_empty());
    world.storage.refuse_writes(false).await;
    let decided: Result<(), Error<String>> =
        world.driver.decide(|_| Ok((Some(Event::Enrolled(Box::new(device))), ()))).await;
    decided.expect("is stored");
    assert_eq!(world.driver.fleet().devices.len(), 1);
}

#[tokio::test]
async fn only_reports_signed_with_the_devices_own_key_count() {
    let mut world = world().await;
    let (pi, other) = (key(), key());
    enrol(&world, "pi", &pi).await;
    enrol(&world, "other", &other).await;
    world.driver.report(id("pi"), signed(&other, report("pi", 1)));
    world.driver.report(id("pi"), signed(&pi, report("other", 2)));
    world.driver.report(id("nobody"), signed(&pi, report("nobody", 3)));
    let SignedReport::V1 { mut payload, signature } = signed(&pi, report("pi", 4));
    payload[0] ^= 1;
    world.driver.report(id("pi"), SignedReport::V1 { payload, signature });
    world.driver.report(id("pi"), signed(&pi, report("pi", 5)));
    let mut changes = vec![];
    while changes.last() != Some(&DeviceChange::Reported) {
        changes.push(told(&mut world).await);
    }
    let counts = world.counters.all();
    assert_eq!(counts["report_signature_invalid"], 2);
    assert_eq!(counts["report_of_another_device"], 1);
    assert_eq!(counts["report_of_unknown_device"], 1);
    assert_eq!(world.driver.fleet().devices[&id("pi")].agent.version, "0.5");
    assert_eq!(world.driver.fleet().devices[&id("other")].report, None);
}

#[tokio::test]
async fn repeated_windows_are_counted_once() {
    let world = world().await;
    enrol(&world, "pi", &key()).await;
    let window = |number| Telemetry::V1 {
        incarnation: 1,
        id: number,
        started_at: 0,
        length_ms: 60_000,
        slots: vec![SlotWindow {
            slot: "digits".parse().expect("valid"),
            digest: Digest::of(b"m"),
            ok: 10,
            errors: 1,
            rejected: 0,
            latency: vec![0, 10],
            queue_peak: 1,
        }],
        vitals: Vitals { rss_bytes: number, ..Vitals::default() },
    };
    let batch = |numbers: &[u64]| BTreeMap::from([(id("pi"), numbers.iter().map(|n| window(*n)).collect::<Vec<_>>())]);
    for numbers in [&[1, 2, 2][..], &[2, 3], &[1]] {
        telemetry::add(&world.storage, &batch(numbers), 7).await.expect("stores");
    }
    let (_, totals, at) = world.storage.telemetry(None).await.expect("reads").remove(0);
    assert_eq!((totals.ok, totals.errors, at), (30, 3, 7));
    let vitals = world.storage.device_telemetry(&id("pi")).await.expect("reads").expect("is there").vitals;
    assert_eq!(vitals.rss_bytes, 3);
}

#[tokio::test]
async fn invariant_14_only_enrolled_devices_may_fetch() {
    let world = world().await;
    enrol(&world, "pi", &key()).await;
    let blobs = Blobs::open(&world.dir.path().join("blobs")).await.expect("opens");
    let (transfer, _sender) = Transfer::new(transfer::Parts {
        workspace: "default".parse().expect("valid"),
        blobs,
        storage: world.storage.clone(),
        metadata: Arc::new(|_| None),
        counters: world.counters.clone(),
    });
    let (telemetry, _) = TelemetryQueue::start(world.storage.clone(), Outbox::default(), world.driver.clone());
    let workspace = "default".parse().expect("valid");
    let mut inbox = Inbox::new(workspace, world.driver.clone(), transfer, telemetry, world.counters.clone());
    // What is taken up is counted too, because no chunk is so small.
    let fetch =
        Fetch::ChunksV1 { object: Object::Blob(Digest::of(b"m")), chunk_size: 1, indices: vec![0], joined: false };
    let mut ask = |device: &str| {
        let topic = Topic::device("default".parse().expect("valid"), id(device), Leaf::Fetch);
        inbox.take(Incoming::Message(topic, wire::encode(&fetch).expect("encodes").into()));
    };
    ask("pi");
    ask("nobody");
    let counts = world.counters.all();
    assert_eq!((counts["fetch_out_of_bounds"], counts["fetch_of_unknown_device"]), (1, 1));
    let removed: Result<(), Error<String>> = world.driver.decide(|_| Ok((Some(Event::Removed(id("pi"))), ()))).await;
    removed.expect("is stored");
    ask("pi");
    let counts = world.counters.all();
    assert_eq!((counts["fetch_out_of_bounds"], counts["fetch_of_unknown_device"]), (1, 2));
}
