use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::trust::key::count_signers;

/// A key and its signature over `muster`, made by securesystemslib.
#[derive(Deserialize)]
struct Sample {
    keyid: Digest,
    key: KeyEntry,
    sig: String,
}

fn samples() -> Vec<Sample> {
    serde_json::from_str(include_str!("python_keys.json")).expect("json")
}

fn count(sample: &Sample, key: KeyEntry, message: &[u8]) -> u64 {
    let keys = BTreeMap::from([("k".to_owned(), key)]);
    let signature = hex::decode(&sample.sig).expect("hex");
    count_signers(&keys, &["k".to_owned()], 1, message, [("k", signature.as_slice())].into_iter())
}

#[test]
fn keys_and_signatures_of_securesystemslib_verify() {
    for sample in samples() {
        let scheme = &sample.key.scheme;
        assert_eq!(sample.key.id(), Ok(sample.keyid), "{scheme}");
        assert_eq!(count(&sample, sample.key.clone(), b"muster"), 1, "{scheme}");
        assert_eq!(count(&sample, sample.key.clone(), b"Muster"), 0, "{scheme}, another message");
    }
}

#[test]
fn keys_that_cannot_be_used_count_as_absent() {
    type Change = fn(&mut KeyEntry);
    let table: &[(&str, Change)] = &[
        ("unknown key type", |k| k.keytype = "sphincs".into()),
        ("unknown scheme", |k| k.scheme = "none".into()),
        ("no key", |k| k.keyval = serde_json::json!({ "identity": "someone", "issuer": "somewhere" })),
        ("not text", |k| k.keyval = serde_json::json!({ "public": 7 })),
        ("not even an object", |k| k.keyval = serde_json::Value::Null),
        ("empty", |k| k.keyval = serde_json::json!({ "public": "" })),
        ("cut short", |k| {
            let text = k.keyval["public"].as_str().expect("text").to_owned();
            k.keyval = serde_json::json!({ "public": text[..text.len() / 2] });
        }),
        ("hollow PEM", |k| {
            let pem = "-----BEGIN PUBLIC KEY-----\nMIH/MIH/BgEA\n-----END PUBLIC KEY-----\n";
            k.keyval = serde_json::json!({ "public": pem });
        }),
    ];
    for sample in samples() {
        for (what, change) in table {
            let mut key = sample.key.clone();
            change(&mut key);
            assert_eq!(count(&sample, key, b"muster"), 0, "{what}, {}", sample.key.scheme);
        }
    }
}

#[test]
fn each_key_counts_once_however_often_it_is_named_or_signs() {
    let (a, b, c) = (Key::from_seed(1), Key::from_seed(2), Key::from_seed(3));
    let mut shouted = a.entry.clone();
    let public = shouted.keyval["public"].as_str().expect("text").to_uppercase();
    shouted.keyval = serde_json::json!({ "public": public });
    let keys: BTreeMap<String, KeyEntry> = [("a", &a.entry), ("alias", &shouted), ("b", &b.entry), ("c", &c.entry)]
        .into_iter()
        .map(|(id, entry)| (id.to_owned(), entry.clone()))
        .collect();
    let role: Vec<String> = ["a", "alias", "b", "a", "missing"].map(str::to_owned).to_vec();
    let (sa, sb, sc) = (a.sign(b"m").value, b.sign(b"m").value, c.sign(b"m").value);
    type Signatures<'a> = &'a [(&'a str, &'a [u8])];
    let table: &[(&str, Signatures<'_>, u64)] = &[
        ("two keys", &[("a", &sa), ("b", &sb)], 2),
        ("one signature twice", &[("a", &sa), ("a", &sa)], 1),
        ("one key under two names", &[("a", &sa), ("alias", &sa)], 1),
        ("a key of no role", &[("a", &sa), ("c", &sc)], 1),
        ("another key's signature", &[("a", &sb), ("b", &sa)], 0),
        ("an id without a key", &[("missing", &sa)], 0),
        ("a wrong signature before the right one", &[("b", &sa), ("b", &sb), ("a", &sa)], 2),
        ("nothing", &[], 0),
    ];
    for (what, signatures, expected) in table {
        assert_eq!(count_signers(&keys, &role, u64::MAX, b"m", signatures.iter().copied()), *expected, "{what}");
    }
}

#[test]
fn a_threshold_of_two_needs_two_keys_in_every_role() {
    for role in ["timestamp", "snapshot", "targets"] {
        let mut publisher = Publisher::new(EXPIRES);
        let second = Key::from_seed(99);
        publisher.root.keys.insert(second.id().to_string(), second.entry.clone());
        let keys = role_keys(&[&publisher.keys[role], &second], 2);
        let roles = &mut publisher.root.roles;
        match role {
            "timestamp" => roles.timestamp = keys,
            "snapshot" => roles.snapshot = keys,
            _ => roles.targets = keys,
        }
        let mut repository = Repository::new(&publisher.root_bytes()).expect("signed");
        let error = refused(publisher.bring(&mut repository, None), role);
        assert!(matches!(error, Error::Signatures { valid: 1, threshold: 2, .. }), "{role}: {error}");
    }
}
