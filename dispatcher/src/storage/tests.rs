//! With a real database in a temporary folder.

use std::collections::BTreeMap;

use muster_proto::id::{DeviceId, Generation};
use muster_proto::report::AgentInfo;

use super::*;
use crate::domain::fleet::step;
use crate::domain::rollout::Order;
use crate::domain::rollout::plan::{Plan, Preset, Target};
use crate::domain::telemetry::{DeviceTelemetry, Totals};
use crate::domain::{Device, Effect, Event, Rollout, RolloutId};

async fn open(dir: &tempfile::TempDir) -> Storage {
    Storage::open(&dir.path().join("muster.db")).await.expect("opens")
}

fn device(name: &str) -> DeviceId {
    name.parse().expect("valid")
}

fn rollout() -> Rollout {
    let mut plan = Plan { target: Target { all: true, ..Target::default() }, ..Plan::default() };
    Preset::Standard.complete(&mut plan);
    let order = Order {
        model: "digits".parse().expect("valid"),
        version: muster_proto::id::Version(1),
        target: "digits/1/manifest".into(),
        digest: muster_proto::id::Digest::of(b"1"),
        length: 9,
        bytes: 100,
        slot: "digits".parse().expect("valid"),
        requires: Default::default(),
        plan,
        by: "test".into(),
    };
    Rollout::new(RolloutId(1), order, 1)
}

#[tokio::test]
async fn a_fleet_comes_back_as_it_was_stored() {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = open(&dir).await;
    let fence = storage.take_fence().await.expect("takes it");
    let mut fleet = storage.load_fleet("default".parse().expect("valid"), 7).await.expect("loads");
    let enrolled = |name: &str| {
        let mut device = Device::enrolled(device(name), vec![4; 65], "t".into(), AgentInfo::default(), 1);
        device.groups = [("line".parse().expect("valid"))].into();
        Event::Enrolled(Box::new(device))
    };
    let events = [
        enrolled("a"),
        enrolled("b"),
        Event::RolloutStarted(Box::new(rollout())),
        Event::Online { device: device("a"), generation: Generation(0) },
        Event::Removed(device("b")),
    ];
    for event in events {
        let effects = step(&mut fleet, event, 7);
        storage.persist(fence, &Change::of(&fleet, &effects)).await.expect("stores");
    }
    storage.close().await;

    let mut again = open(&dir).await.load_fleet("default".parse().expect("valid"), 7).await.expect("loads");
    again.keep_connections(&fleet, 7);
    // What is kept in memory only is made anew.
    again.wake(7);
    fleet.wake(7);
    again.devices.get_mut(&device("a")).expect("is there").sent_at = 7;
    assert_eq!(again, fleet);
    assert_eq!(again.devices[&device("a")].generation, Generation(1));
}

#[tokio::test]
async fn each_record_is_stored_once_however_often_it_changed() {
    let mut fleet = crate::domain::Fleet::new("default".parse().expect("valid"), 0);
    let added = Device::enrolled(device("a"), vec![], "t".into(), AgentInfo::default(), 1);
    let effects = step(&mut fleet, Event::Enrolled(Box::new(added)), 1);
    let twice: Vec<Effect> = effects.iter().chain(&effects).cloned().collect();
    assert_eq!(Change::of(&fleet, &twice).len(), 1);
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_named_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("muster.db");
    let text = b"this is a text of more than a hundred bytes, and surely not a database of SQLite, whatever it is called by its name";
    std::fs::write(&path, text).expect("writes");
    let error = Storage::open(&path).await.err().expect("is refused");
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("muster.db"));
    assert_eq!(std::fs::read(&path).expect("reads"), text);
}

#[tokio::test]
async fn a_damaged_or_newer_database_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("muster.db");
    let storage = Storage::open(&path).await.expect("opens");
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&storage.write).await.expect("sets");
    storage.close().await;
    let error = Storage::open(&path).await.err().expect("is refused");
    assert!(matches!(error, Error::Newer { found: 99, .. }), "{error:?}");

    let mut bytes = std::fs::read(&path).expect("reads");
    let end = bytes.len();
    bytes[4096..end].fill(0xff);
    std::fs::write(&path, &bytes).expect("writes");
    let error = Storage::open(&path).await.err().expect("is refused");
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert_eq!(std::fs::read(&path).expect("reads"), bytes);
}

#[tokio::test]
async fn numbers_of_versions_are_never_given_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = open(&dir).await;
    let model = "vision/digits".parse().expect("valid");
    let digest = muster_proto::id::Digest::of(b"m");
    let record = VersionRecord {
        model: "vision/digits".parse().expect("valid"),
        version: muster_proto::id::Version(1),
        digest,
        content: digest,
        summary: "{}".into(),
        tags: BTreeMap::from([("a".into(), "b".into())]),
    };
    let file = FileRecord { path: "m.onnx".into(), digest, size: 1, blob: digest, blob_size: 1 };
    storage.insert_version(&record, b"{}", std::slice::from_ref(&file)).await.expect("stores");
    assert_eq!(storage.versions().await.expect("reads"), std::slice::from_ref(&record));
    assert_eq!(storage.version(&model, record.version).await.expect("reads"), Some(record.clone()));
    assert_eq!(storage.file(digest).await.expect("reads"), Some(file));
    assert!(storage.insert_version(&record, b"{}", &[]).await.is_err());
    assert!(storage.delete_version(&model, record.version).await.expect("deletes"));
    assert!(!storage.delete_version(&model, record.version).await.expect("deletes"));
    assert_eq!(storage.files().await.expect("reads"), [], "files go with their version");
    let known = storage.model(&model).await.expect("reads");
    assert_eq!((known.last_version, known.versions.len()), (1, 0));
    storage.use_up_version(&model, muster_proto::id::Version(5)).await.expect("stores");
    storage.use_up_version(&model, muster_proto::id::Version(3)).await.expect("stores");
    assert_eq!(storage.model(&model).await.expect("reads").last_version, 5);
}

#[tokio::test]
async fn an_enrolment_token_is_used_as_often_as_it_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = open(&dir).await;
    let hash = muster_proto::id::Digest::of(b"secret");
    let grant = EnrollGrant {
        id: "t1".into(),
        groups: [("line".parse().expect("valid"))].into(),
        labels: BTreeMap::new(),
        expires_at: 100,
        uses_left: 1,
    };
    storage.insert_grant(&grant, hash, 1).await.expect("stores");
    assert_eq!(storage.grant(hash).await.expect("reads"), Some(grant));
    assert!(!storage.use_grant("t1", 100).await.expect("asks"), "expired");
    assert!(storage.use_grant("t1", 99).await.expect("asks"));
    assert!(!storage.use_grant("t1", 99).await.expect("asks"), "used up");
    storage.return_grant("t1").await.expect("stores");
    assert!(storage.use_grant("t1", 99).await.expect("asks"));
}

#[tokio::test]
async fn telemetry_is_summed_and_bounded_and_goes_with_its_device() {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = open(&dir).await;
    let id = device("a");
    let totals = |n: u64| Totals::new("digits".parse().expect("valid"), muster_proto::id::Digest::of(&n.to_le_bytes()));
    let batch = |n: u64| vec![(id.clone(), DeviceTelemetry::default(), vec![totals(n)])];
    storage.store_telemetry(&batch(0), 1).await.expect("a device that is not there is passed over");
    assert_eq!(storage.telemetry(None).await.expect("reads").len(), 0);

    let record = Device::enrolled(id.clone(), vec![], "t".into(), AgentInfo::default(), 1);
    let fence = storage.take_fence().await.expect("takes it");
    storage.persist(fence, &[Change::Device(Box::new(record))]).await.expect("stores");
    for n in 0..20 {
        storage.store_telemetry(&batch(n), 10 + n).await.expect("stores");
    }
    let kept = storage.telemetry(Some(&id)).await.expect("reads");
    assert_eq!(kept.len(), 8);
    assert!(kept.iter().all(|(_, _, at)| *at >= 22));
    storage.persist(fence, &[Change::NoDevice(id.clone())]).await.expect("deletes");
    assert_eq!(storage.telemetry(None).await.expect("reads").len(), 0);
    assert_eq!(storage.device_telemetry(&id).await.expect("reads"), None);
}

#[tokio::test]
async fn the_audit_log_is_read_from_the_newest() {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = open(&dir).await;
    for n in 0..5u64 {
        storage.add_audit(n, "ann", "model.register", &format!("digits:{n}"), "").await.expect("writes");
    }
    let page = storage.audit(None, 2).await.expect("reads");
    assert_eq!(page.iter().map(|e| e.at).collect::<Vec<_>>(), [4, 3]);
    let next = storage.audit(Some(page[1].seq), 100).await.expect("reads");
    assert_eq!(next.iter().map(|e| e.at).collect::<Vec<_>>(), [2, 1, 0]);
}

#[tokio::test]
async fn a_full_disk_has_its_own_code_and_what_was_there_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = open(&dir).await;
    storage.add_audit(1, "ann", "model.register", "digits:1", "").await.expect("writes");
    // SQLite takes this as the size that the file has now.
    sqlx::raw_sql("PRAGMA max_page_count = 1").execute(&storage.write).await.expect("sets");
    let large = "x".repeat(1 << 20);
    let error = storage.add_audit(2, "ann", "model.register", "digits:2", &large).await.expect_err("is full");
    assert_eq!(error.code(), Code::DiskFull, "{error:?}");
    sqlx::raw_sql("PRAGMA max_page_count = 1000000").execute(&storage.write).await.expect("sets");
    storage.add_audit(3, "ann", "model.register", "digits:3", &large).await.expect("writes again");
    let kept = storage.audit(None, 10).await.expect("reads");
    assert_eq!(kept.iter().map(|e| e.at).collect::<Vec<_>>(), [3, 1]);
}

/// Whoever took the right to change the fleet first and lost it without noticing changes nothing any more.
#[tokio::test]
async fn a_later_process_makes_an_earlier_one_void() {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = open(&dir).await;
    let earlier = storage.take_fence().await.expect("takes it");
    let later = storage.take_fence().await.expect("takes it over");
    let change = [Change::Floor(Generation(9))];
    assert!(matches!(storage.persist(earlier, &change).await, Err(Error::Fenced)));
    let floor =
        async |storage: &Storage| storage.load_fleet("default".parse().expect("valid"), 7).await.expect("loads").floor;
    assert_eq!(floor(&storage).await, Generation(0));
    storage.persist(later, &change).await.expect("stores");
    assert_eq!(floor(&storage).await, Generation(9));
}
