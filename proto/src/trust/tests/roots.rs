use super::*;

/// One root of a chain: its keys by seed, its threshold, who signs it, and whether it is taken.
struct Step(&'static [u8], u64, &'static [u8], bool);

fn chain(steps: &[Step]) -> Vec<Vec<u8>> {
    let publisher = Publisher::new(EXPIRES);
    let sign_step = |(index, step): (usize, &Step)| {
        let mut root = publisher.root.clone();
        root.version = version(index as u64 + 1);
        let keys: Vec<Key> = step.0.iter().map(|seed| Key::from_seed(*seed)).collect();
        root.keys.extend(keys.iter().map(|key| (key.id().to_string(), key.entry.clone())));
        root.roles.root = role_keys(&keys.iter().collect::<Vec<_>>(), step.1);
        let signers: Vec<Key> = step.2.iter().map(|seed| Key::from_seed(*seed)).collect();
        sign(&root, &signers.iter().collect::<Vec<_>>())
    };
    steps.iter().enumerate().map(sign_step).collect()
}

#[test]
fn a_root_needs_the_threshold_of_the_one_before_and_its_own() {
    let table: &[(&str, &[Step])] = &[
        ("rotation", &[Step(&[11], 1, &[11], true), Step(&[12], 1, &[12, 11], true), Step(&[12], 1, &[12], true)]),
        ("rotation without the old key", &[Step(&[11], 1, &[11], true), Step(&[12], 1, &[12, 13], false)]),
        ("rotation without the new key", &[Step(&[11], 1, &[11], true), Step(&[12], 1, &[11, 13], false)]),
        (
            "3 of 5",
            &[
                Step(&[10, 11, 12, 13, 14], 3, &[10, 12, 14], true),
                Step(&[10, 11, 13, 14, 15], 3, &[10, 14, 11], true),
                Step(&[10, 11, 13, 14, 15], 3, &[15, 10, 14], true),
            ],
        ),
        (
            "3 new of 5, but 2 old",
            &[
                Step(&[10, 11, 12, 13, 14], 3, &[10, 12, 14], true),
                Step(&[10, 11, 13, 14, 15], 3, &[10, 14, 15], false),
            ],
        ),
        (
            "3 old of 5, but 2 new",
            &[
                Step(&[10, 11, 12, 13, 14], 3, &[10, 12, 14], true),
                Step(&[10, 11, 13, 14, 15], 3, &[10, 12, 14], false),
            ],
        ),
        ("threshold raised", &[Step(&[11, 12], 1, &[11], true), Step(&[11, 12], 2, &[11, 12], true)]),
        ("threshold raised, not met", &[Step(&[11, 12], 1, &[11], true), Step(&[11, 12], 2, &[12], false)]),
        (
            "threshold lowered, old one not met",
            &[Step(&[11, 12], 2, &[11, 12], true), Step(&[11, 12], 1, &[11], false)],
        ),
        ("first root below its threshold", &[Step(&[11, 12], 2, &[11, 11], false)]),
    ];
    for (what, steps) in table {
        let roots = chain(steps);
        let mut repository = Repository::new(&roots[0]);
        assert_eq!(repository.is_ok(), steps[0].3, "{what}, first root");
        for (index, (bytes, step)) in roots.iter().zip(*steps).enumerate().skip(1) {
            let repository = repository.as_mut().expect("checked above");
            assert_eq!(repository.update_root(bytes).is_ok(), step.3, "{what}, root {}", index + 1);
            let trusted = if step.3 { index + 1 } else { index };
            assert_eq!(repository.root_version(), trusted as u64, "{what}");
        }
    }
}

#[test]
fn no_root_is_skipped_or_repeated() {
    let step = || Step(&[1], 1, &[1], true);
    let roots = chain(&[step(), step(), step(), step()]);
    let mut repository = Repository::new(&roots[1]).expect("signed");
    for (index, want) in [(3, "version 4"), (1, "version 2"), (0, "version 1")] {
        let error = refused(repository.update_root(&roots[index]), want);
        assert!(error.to_string().contains(want), "{error}");
    }
    repository.update_root(&roots[2]).expect("the next");
    repository.update_root(&roots[3]).expect("the next");
    assert_eq!(repository.bytes(Role::Root), Some(roots[3].as_slice()));
}

/// Invariant 11: the chain is walked through expired roots; the last one's expiry binds at the timestamp.
#[test]
fn an_expired_root_does_not_stop_the_walk() {
    let mut publisher = Publisher::new(EXPIRES);
    publisher.root.expires = Expires::at(10);
    let mut repository = Repository::new(&publisher.root_bytes()).expect("signed");
    let now = Some(1_000);
    assert_eq!(publisher.bring(&mut repository, now), Err(Error::Expired { role: Role::Root, at: 10 }));
    publisher.root.expires = Expires::at(EXPIRES);
    publisher.root.version = version(2);
    repository.update_root(&publisher.root_bytes()).expect("the next");
    assert_eq!(publisher.bring(&mut repository, now), Ok(()));
}

#[test]
fn changed_online_keys_allow_recovery_from_a_fast_forward() {
    for role in ["timestamp", "snapshot"] {
        let mut publisher = Publisher::new(EXPIRES);
        publisher.timestamp.version = version(1_000_000);
        publisher.snapshot.version = version(1_000_000);
        publisher.targets.version = version(1_000_000);
        publisher.link();
        let mut repository = publisher.repository();

        let fresh = Key::from_seed(77);
        publisher.root.version = version(2);
        publisher.root.keys.insert(fresh.id().to_string(), fresh.entry.clone());
        let keys = role_keys(&[&fresh], 1);
        if role == "timestamp" {
            publisher.root.roles.timestamp = keys
        } else {
            publisher.root.roles.snapshot = keys
        }
        publisher.keys.insert(role, fresh);
        repository.update_root(&publisher.root_bytes()).expect("the next");
        assert_eq!((repository.bytes(Role::Timestamp), repository.bytes(Role::Snapshot)), (None, None), "{role}");

        publisher.timestamp.version = version(2);
        publisher.snapshot.version = version(2);
        publisher.targets.version = version(2);
        publisher.link();
        assert_eq!(publisher.bring(&mut repository, None), Ok(()), "{role}");
    }
}

#[test]
fn targets_of_a_revoked_publisher_are_dropped() {
    let mut publisher = Publisher::new(EXPIRES);
    publisher.add("digits/1/manifest", b"one");
    publisher.publish();
    let mut repository = publisher.repository();
    let fresh = Key::from_seed(78);
    publisher.root.version = version(2);
    publisher.root.keys.insert(fresh.id().to_string(), fresh.entry.clone());
    publisher.root.roles.targets = role_keys(&[&fresh], 1);
    repository.update_root(&publisher.root_bytes()).expect("the next");
    assert_eq!(repository.bytes(Role::Targets), None);
    assert_eq!(repository.target("digits/1/manifest"), None);
    // The old key's targets are still what the snapshot names, and still not taken.
    let error = refused(repository.update_targets(&publisher.targets_bytes(), None), "targets by a revoked key");
    assert_eq!(error, Error::Signatures { role: Role::Targets, valid: 0, threshold: 1 });
}

#[test]
fn a_director_walks_its_own_roots() {
    let publisher = Publisher::new(EXPIRES);
    let mut director = publisher.director();
    let mut next = publisher.director_root.clone();
    next.version = version(2);
    let foreign = sign(&next, &[&publisher.keys["root"]]);
    let error = refused(director.update_root(&foreign), "a root by the model repository's key");
    assert_eq!(error, Error::Signatures { role: Role::DirectorRoot, valid: 0, threshold: 1 });
    director.update_root(&sign(&next, &[&publisher.keys["director-root"]])).expect("the next");
    assert_eq!(director.root_version(), 2);
}

#[test]
fn unknown_fields_are_part_of_what_is_signed() {
    let publisher = Publisher::new(EXPIRES);
    let mut root = serde_json::to_value(&publisher.root).expect("json");
    root["from the future"] = serde_json::json!({ "ä": [1, null, true] });
    root["roles"]["mirrors"] = serde_json::json!({ "keyids": [], "threshold": 1 });
    let bytes = sign(&root, &[&publisher.keys["root"]]);
    Repository::new(&bytes).expect("unknown fields are tolerated");
    let changed = String::from_utf8(bytes).expect("utf-8").replace("[1,null,true]", "[2,null,true]");
    let error = refused(Repository::new(changed.as_bytes()), "a changed unknown field");
    assert_eq!(error, Error::Signatures { role: Role::Root, valid: 0, threshold: 1 });
}

#[test]
fn what_is_not_a_root_is_refused() {
    let publisher = Publisher::new(EXPIRES);
    type Change = fn(&mut serde_json::Value);
    let table: &[(&str, Change)] = &[
        ("another kind", |v| v["_type"] = "targets".into()),
        ("another major version", |v| v["spec_version"] = "2.0.0".into()),
        ("no specification version", |v| v["spec_version"] = "1".into()),
        ("version 0", |v| v["version"] = 0.into()),
        ("no version", |v| drop(v.as_object_mut().expect("object").remove("version"))),
        ("threshold 0", |v| v["roles"]["root"]["threshold"] = 0.into()),
        ("no targets role", |v| drop(v["roles"].as_object_mut().expect("object").remove("targets"))),
        ("time without zone", |v| v["expires"] = "2030-01-01T00:00:00".into()),
        ("time with fraction", |v| v["expires"] = "2030-01-01T00:00:0.Z".into()),
        ("time with offset", |v| v["expires"] = "2030-01-01T00:00+00:".into()),
        ("no such day", |v| v["expires"] = "2030-02-30T00:00:00Z".into()),
    ];
    for (what, change) in table {
        let mut root = serde_json::to_value(&publisher.root).expect("json");
        change(&mut root);
        let error = refused(Repository::new(&sign(&root, &[&publisher.keys["root"]])), what);
        assert!(matches!(error, Error::Malformed { role: Role::Root, .. }), "{what}: {error}");
    }
}
