use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use super::*;
use crate::code::Code;
use crate::desired::*;
use crate::manifest::{self, BundleManifest};
use crate::report::{AgentInfo, DeviceReport, Report, SignedReport};
use crate::wire;

fn manifest() -> BundleManifest {
    let digest = Digest::of(b"").to_string();
    let blob = json!({ "codec": "stored", "size": 0, "digest": digest, "chunk_size": 4096, "chunks": [] });
    let json = json!({
        "schema": manifest::SCHEMA,
        "model": "vision/digits",
        "version": 2,
        "created_at": 0,
        "entry": "model.onnx",
        "files": [{ "path": "model.onnx", "size": 0, "digest": digest, "blob": blob }],
        "engine": { "name": "tract", "version": "0", "load": {} },
        "inputs": [{ "name": "x", "dtype": "f32", "shape": [1] }],
        "outputs": [{ "name": "y", "dtype": "f32", "shape": [1] }],
        "samples": {
            "file": "model.onnx", "count": 0, "outputs_from": "given",
            "tolerance": { "absolute": 0.1, "relative": 0.1 },
        },
        "measured": {},
    });
    BundleManifest::parse(json.to_string().as_bytes()).expect("valid")
}

fn setup() -> (Publisher, Vec<u8>, Desired) {
    let mut publisher = Publisher::new(EXPIRES);
    let bytes = publisher.add_manifest(&manifest());
    publisher.publish();
    let slot = SlotDesired {
        slot: "digits".parse().expect("valid"),
        target: manifest().target_path(),
        digest: Digest::of(&bytes),
        length: bytes.len() as u64,
        trial_seconds: 60,
        rollout: "r1".into(),
        terms: Terms::default(),
    };
    let desired = Desired {
        workspace: "acme".parse().expect("valid"),
        device: "gateway-1".parse().expect("valid"),
        hardware: String::new(),
        generation: Generation(7),
        issued_at: 1_000,
        expires_at: 5_000,
        slots: vec![slot],
        denied: vec![],
    };
    (publisher, bytes, desired)
}

fn verify(publisher: &Publisher, bytes: &[u8], now: Option<u64>) -> Result<Verified<Desired>, Error> {
    let (workspace, device) = ("acme".parse().expect("valid"), "gateway-1".parse().expect("valid"));
    publisher.director().verify(bytes, &workspace, &device, now)
}

/// Invariant 1: from the director's word to a manifest, each step on what the one before has verified.
#[test]
fn a_desired_state_leads_to_its_manifest() {
    let (publisher, bytes, desired) = setup();
    let verified = verify(&publisher, &publisher.sign_desired(&desired), Some(2_000)).expect("signed");
    assert_eq!(*verified, desired);
    let target = agree(&publisher.repository(), &verified, &desired.slots[0].slot).expect("both name it");
    let manifest = verify_manifest(&target, &bytes).expect("the signed bytes");
    assert_eq!(manifest.target_path(), "vision/digits/2/manifest");
}

#[test]
fn a_desired_state_by_any_other_key_is_refused() {
    let (publisher, _, desired) = setup();
    let payload = wire::encode(&desired.to_state(SPEAKS).expect("known")).expect("small");
    let message = |signatures: Vec<Signature>| {
        wire::encode(&SignedDesired::V1 { payload: payload.clone(), signatures }).expect("small")
    };
    let input = sign::desired_signing_input(&payload);
    let director = &publisher.keys["director"];
    let imposter = Signature { key: director.id(), ..Key::from_seed(50).sign(&input) };
    let table = [
        ("no signature", vec![]),
        ("another key", vec![Key::from_seed(50).sign(&input)]),
        ("another key under the director's id", vec![imposter]),
        ("the director's root key", vec![publisher.keys["director-root"].sign(&input)]),
        ("a publisher's key", vec![publisher.keys["targets"].sign(&input)]),
        ("without the prefix", vec![director.sign(&payload)]),
        ("with a report's prefix", vec![director.sign(&sign::report_signing_input(&payload))]),
    ];
    for (what, signatures) in table {
        let error = refused(verify(&publisher, &message(signatures), None), what);
        assert_eq!(error, Error::Signatures { role: Role::Director, valid: 0, threshold: 1 }, "{what}");
        assert_eq!(error.code(), Code::SignatureInvalid, "{what}");
    }
    assert!(verify(&publisher, &message(vec![director.sign(&input)]), None).is_ok());
}

#[test]
fn a_desired_state_for_another_device_is_refused() {
    let (publisher, _, desired) = setup();
    for (workspace, device) in [("acme", "gateway-2"), ("other", "gateway-1")] {
        let mut other = desired.clone();
        other.workspace = workspace.parse().expect("valid");
        other.device = device.parse().expect("valid");
        let error = refused(verify(&publisher, &publisher.sign_desired(&other), None), device);
        assert_eq!(error.code(), Code::WrongDevice);
        assert_eq!(
            error.to_string(),
            format!("desired state is addressed to {workspace}/{device}, this is acme/gateway-1")
        );
    }
}

/// Invariant 11: a desired state expires only by a trusted clock.
#[test]
fn a_desired_state_expires_only_when_time_is_trusted() {
    let (mut publisher, _, mut desired) = setup();
    let expired = Err(Error::Expired { role: Role::Director, at: 5_000 });
    for (now, expected) in [(Some(4_999), Ok(())), (Some(5_000), expired), (None, Ok(()))] {
        assert_eq!(verify(&publisher, &publisher.sign_desired(&desired), now).map(drop), expected, "{now:?}");
    }
    desired.expires_at = 0;
    assert!(verify(&publisher, &publisher.sign_desired(&desired), Some(EXPIRES - 1)).is_ok(), "0 means never");
    publisher.director_root.expires = Expires::at(2_000);
    let error = refused(verify(&publisher, &publisher.sign_desired(&desired), Some(2_000)), "an expired root");
    assert_eq!(error, Error::Expired { role: Role::DirectorRoot, at: 2_000 });
}

#[test]
fn slots_are_few_and_different() {
    let (publisher, _, mut desired) = setup();
    desired.slots.push(desired.slots[0].clone());
    let error = refused(verify(&publisher, &publisher.sign_desired(&desired), None), "a doubled slot");
    assert_eq!(error.to_string(), "desired state is not consistent: slot digits stands twice");
    desired.slots = (0..=MAX_SLOTS)
        .map(|i| SlotDesired { slot: format!("s{i}").parse().expect("valid"), ..desired.slots[0].clone() })
        .collect();
    assert!(verify(&publisher, &publisher.sign_desired(&desired), None).is_err());
}

#[test]
fn terms_have_caps() {
    let shadow = |share_permille, rule| {
        let (cpu_permille, memory_bytes) = (100, 0);
        Some(ShadowTerms { seconds: 1, inferences: 1, share_permille, cpu_permille, memory_bytes, rule })
    };
    let window = |cron: String, seconds| Window { cron, seconds };
    let approval = Approval { key: Digest::of(b"k"), value: vec![] };
    let plan = |count| Some(PlanRef { hash: Digest::of(b"p"), approvals: vec![approval.clone(); count] });
    let tolerance = |t| Agreement::Tolerance { absolute: Real(t) };
    let none = Terms::default;
    let table = [
        (Terms { windows: vec![window("*".repeat(MAX_CRON), 1); MAX_WINDOWS], ..none() }, ""),
        (Terms { windows: vec![window("* * * * *".into(), 1); MAX_WINDOWS + 1], ..none() }, "9 windows, at most 8"),
        (Terms { windows: vec![window("*".repeat(65), 1)], ..none() }, "a cron expression of 65 bytes, at most 64"),
        (Terms { windows: vec![window("* * * * *".into(), 0)], ..none() }, "a window of no length never opens"),
        (Terms { shadow: shadow(1000, tolerance(0.0)), ..none() }, ""),
        (Terms { shadow: shadow(1001, Agreement::Top1), ..none() }, "a share of 1001 thousandths"),
        (Terms { shadow: shadow(1, Agreement::Overlap { permille: 1002 }), ..none() }, "a share of 1002 thousandths"),
        (Terms { shadow: shadow(1, tolerance(f32::NAN)), ..none() }, "a tolerance of NaN"),
        (Terms { shadow: shadow(1, tolerance(-1.0)), ..none() }, "a tolerance of -1"),
        (Terms { plan: plan(MAX_APPROVALS), ..none() }, ""),
        (Terms { plan: plan(MAX_APPROVALS + 1), ..none() }, "17 approvals, at most 16"),
    ];
    for (terms, rule) in table {
        let (publisher, _, mut desired) = setup();
        desired.slots[0].terms = terms;
        let result = verify(&publisher, &publisher.sign_desired(&desired), None).map(Verified::into_inner);
        let want = match rule {
            "" => Ok(desired),
            rule => Err(format!("desired state is not consistent: slot digits: {rule}")),
        };
        assert_eq!(result.map_err(|e| e.to_string()), want);
    }
}

/// Approvals count by key: not twice, not of others, and only for what they were given for.
#[test]
fn a_plan_needs_the_approvals_that_the_owner_asks_for() {
    let keys: Vec<Key> = (1..=4).map(Key::from_seed).collect();
    let approvers = Approvers::new(keys[..3].iter().map(Key::public), 2).expect("keys");
    let statement = ApprovalStatement {
        workspace: "acme".parse().expect("valid"),
        plan: Digest::of(b"plan"),
        target: "vision/digits/2/manifest".into(),
        digest: Digest::of(b"manifest"),
    };
    let by = |i: usize| keys[i].approve(&statement);
    let other = |change: fn(&mut ApprovalStatement)| {
        let mut other = statement.clone();
        change(&mut other);
        keys[1].approve(&other)
    };
    let borrowed = Approval { key: keys[1].id(), ..by(0) };
    let table = [
        (vec![], 0),
        (vec![by(0)], 1),
        (vec![by(0), by(1)], 2),
        (vec![by(2), by(3), by(0)], 2),
        (vec![by(0), by(0)], 1),
        (vec![by(0), by(3)], 1),
        (vec![by(0), borrowed], 1),
        (vec![by(0), other(|s| s.workspace = "other".parse().expect("valid"))], 1),
        (vec![by(0), other(|s| s.plan = Digest::of(b"another"))], 1),
        (vec![by(0), other(|s| s.target.push('x'))], 1),
        (vec![by(0), other(|s| s.digest = Digest::of(b"another"))], 1),
    ];
    for (approvals, valid) in table {
        let want = match valid {
            2 => Ok(()),
            valid => Err(Error::Approvals { target: statement.target.clone(), valid, required: 2 }),
        };
        assert_eq!(approvers.check(&statement, &approvals), want);
    }
    assert_eq!(Approvers::default().check(&statement, &[]), Ok(()));
}

/// Invariant 4 rests on this: the director chooses among what publishers signed, and can add nothing.
#[test]
fn director_and_repository_must_name_the_same_bytes() {
    let (mut publisher, _, desired) = setup();
    let too_large =
        TargetFile { length: manifest::MAX_MANIFEST as u64 + 1, hashes: Hashes::of(Digest::of(b"")), custom: None };
    publisher.targets.targets.insert("big/1/manifest".into(), too_large);
    publisher.publish();
    let repository = publisher.repository();
    type Change = fn(&mut SlotDesired);
    let table: &[(&str, Change, Code)] = &[
        ("another digest", |s| s.digest = Digest::of(b"evil"), Code::DirectorDisagrees),
        ("another length", |s| s.length += 1, Code::DirectorDisagrees),
        ("no such target", |s| s.target = "vision/digits/3/manifest".into(), Code::NotFound),
        (
            "a manifest over its cap",
            |s| {
                s.target = "big/1/manifest".into();
                s.length = manifest::MAX_MANIFEST as u64 + 1;
                s.digest = Digest::of(b"");
            },
            Code::TooLarge,
        ),
    ];
    for (what, change, code) in table {
        let mut desired = desired.clone();
        change(&mut desired.slots[0]);
        let error = refused(agree(&repository, &publisher.verified(&desired), &desired.slots[0].slot), what);
        assert_eq!(error.code(), *code, "{what}: {error}");
    }
    let verified = publisher.verified(&desired);
    let no_slot = agree(&repository, &verified, &"other".parse().expect("valid"));
    assert_eq!(no_slot, Err(Error::NoSuchSlot { slot: "other".into() }));
    let empty = Repository::new(&publisher.root_bytes()).expect("signed");
    assert_eq!(agree(&empty, &verified, &desired.slots[0].slot), Err(Error::Missing { role: Role::Timestamp }));
}

/// Invariant 1: no other bytes than the signed ones become a manifest.
#[test]
fn only_the_signed_bytes_are_read_as_a_manifest() {
    let (mut publisher, bytes, mut desired) = setup();
    let slot = desired.slots[0].slot.clone();
    let target = agree(&publisher.repository(), &publisher.verified(&desired), &slot).expect("both name it");
    let mut changed = bytes.clone();
    changed[17] ^= 1;
    for (what, other) in [
        ("a changed byte", changed),
        ("longer", [&bytes[..], b" "].concat()),
        ("shorter", bytes[1..].to_vec()),
        ("empty", vec![]),
    ] {
        assert_eq!(refused(verify_manifest(&target, &other), what).code(), Code::DigestMismatch);
    }

    // Signed, but under another path than its own, or no manifest at all, or one whose file climbs out of its folder.
    let climbing = String::from_utf8(bytes.clone())
        .expect("JSON")
        .replace("\"version\":2", "\"version\":5")
        .replace("\"model.onnx\"", "\"../model.onnx\"");
    for (path, content, code) in [
        ("vision/digits/3/manifest", bytes.clone(), Code::ManifestInvalid),
        ("vision/other/2/manifest", bytes.clone(), Code::ManifestInvalid),
        ("digits", bytes.clone(), Code::ManifestInvalid),
        ("vision/digits/4/manifest", b"{}".to_vec(), Code::ManifestInvalid),
        ("vision/digits/5/manifest", climbing.into_bytes(), Code::ManifestInvalid),
    ] {
        publisher.add(path, &content);
        publisher.publish();
        let wanted = &mut desired.slots[0];
        (wanted.target, wanted.digest) = (path.into(), Digest::of(&content));
        wanted.length = content.len() as u64;
        let target = agree(&publisher.repository(), &publisher.verified(&desired), &slot).expect("both name it");
        let error = refused(verify_manifest(&target, &content), path);
        assert_eq!(error.code(), code, "{path}: {error}");
    }
}

#[test]
fn a_report_is_taken_only_from_its_devices_key() {
    let rng = SystemRandom::new();
    let pair = || {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &rng).expect("random");
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &rng).expect("just made")
    };
    let (device, other) = (pair(), pair());
    let report = Report::V1(DeviceReport {
        workspace: "acme".parse().expect("valid"),
        device: "gateway-1".parse().expect("valid"),
        incarnation: 1,
        id: 2,
        sent_at: 3,
        generation: Generation(4),
        agent: AgentInfo::default(),
        slots: vec![],
        refused: None,
    });
    let payload = wire::encode(&report).expect("small");
    let signed = |pair: &EcdsaKeyPair, input: &[u8]| SignedReport::V1 {
        payload: payload.clone(),
        signature: pair.sign(&rng, input).expect("signs").as_ref().to_vec(),
    };
    let point = device.public_key().as_ref();
    let input = sign::report_signing_input(&payload);
    assert_eq!(verify_report(point, &signed(&device, &input)), Ok(report));
    for (what, message) in [
        ("another device's key", signed(&other, &input)),
        ("without the prefix", signed(&device, &payload)),
        ("with a desired state's prefix", signed(&device, &sign::desired_signing_input(&payload))),
    ] {
        let error = refused(verify_report(point, &message), what);
        assert_eq!(error, Error::ReportSignature, "{what}");
        assert_eq!(error.code(), Code::SignatureInvalid, "{what}");
    }
    assert_eq!(verify_report(&point[1..], &signed(&device, &input)), Err(Error::ReportSignature));
}
