use super::*;
use crate::transfer::Metadata;

fn publisher() -> Publisher {
    let mut publisher = Publisher::new(EXPIRES);
    publisher.add("digits/1/manifest", b"one");
    publisher.publish();
    publisher
}

#[test]
fn a_fresh_client_walks_from_root_to_targets() {
    let publisher = publisher();
    let mut repository = Repository::new(&publisher.root_bytes()).expect("signed");
    assert_eq!(repository.missing(), Some(Metadata::Timestamp));
    assert_eq!(repository.target("digits/1/manifest"), None);
    repository.update_timestamp(&publisher.timestamp_bytes(), Some(1)).expect("fresh");
    assert_eq!(repository.missing(), Some(Metadata::Snapshot(2)));
    repository.update_snapshot(&publisher.snapshot_bytes(), Some(1)).expect("fresh");
    assert_eq!(repository.missing(), Some(Metadata::Targets(2)));
    assert_eq!(repository.update_targets(&publisher.targets_bytes(), Some(1)), Ok(Change::Updated));
    assert_eq!(repository.missing(), None);
    let info = repository.target("digits/1/manifest").expect("published");
    assert_eq!((info.length, info.digest), (3, Digest::of(b"one")));
    assert_eq!(repository.target("digits/2/manifest"), None);
}

#[test]
fn documents_are_only_taken_in_their_order() {
    let publisher = publisher();
    let mut repository = Repository::new(&publisher.root_bytes()).expect("signed");
    let snapshot = repository.update_snapshot(&publisher.snapshot_bytes(), None);
    assert_eq!(snapshot, Err(Error::Missing { role: Role::Timestamp }));
    let targets = repository.update_targets(&publisher.targets_bytes(), None);
    assert_eq!(targets, Err(Error::Missing { role: Role::Snapshot }));
}

#[test]
fn the_same_documents_twice_change_nothing() {
    let publisher = publisher();
    let mut repository = publisher.repository();
    assert_eq!(repository.update_timestamp(&publisher.timestamp_bytes(), None), Ok(Change::Unchanged));
    assert_eq!(repository.update_snapshot(&publisher.snapshot_bytes(), None), Ok(Change::Unchanged));
    assert_eq!(repository.update_targets(&publisher.targets_bytes(), None), Ok(Change::Unchanged));
    assert_eq!(repository.missing(), None);
}

#[test]
fn a_timestamp_of_the_same_version_is_not_looked_into() {
    let mut publisher = publisher();
    let mut repository = publisher.repository();
    publisher.timestamp.meta.snapshot.version = version(100);
    assert_eq!(repository.update_timestamp(&publisher.timestamp_bytes(), None), Ok(Change::Unchanged));
    assert_eq!(repository.snapshot_version().expect("named").version, version(2));
}

/// Invariant 3: nothing goes back, whichever document carries the older version.
#[test]
fn older_versions_are_refused_in_every_role() {
    type Attack = fn(&mut Publisher);
    let table: &[(&str, Attack)] = &[
        ("timestamp", |p| p.timestamp.version = version(1)),
        ("snapshot", |p| {
            p.snapshot.version = version(1);
            p.timestamp.version = version(9);
            p.link();
        }),
        ("targets", |p| {
            p.targets.version = version(1);
            p.snapshot.version = version(9);
            p.timestamp.version = version(9);
            p.link();
        }),
        ("delegated role", |p| {
            let file = MetaFile { version: version(4), length: None, hashes: None };
            p.snapshot.meta.delegated.insert("team.json".into(), file);
            p.snapshot.version = version(9);
            p.timestamp.version = version(9);
            p.link();
        }),
        ("removal of a delegated role", |p| {
            p.snapshot.meta.delegated.clear();
            p.snapshot.version = version(9);
            p.timestamp.version = version(9);
            p.link();
        }),
    ];
    for (what, attack) in table {
        let mut publisher = publisher();
        let file = MetaFile { version: version(5), length: None, hashes: None };
        publisher.snapshot.meta.delegated.insert("team.json".into(), file);
        publisher.link();
        let mut repository = publisher.repository();
        let before = repository.bytes(Role::Targets).map(<[u8]>::to_vec);
        attack(&mut publisher);
        let error = refused(publisher.bring(&mut repository, None), what);
        assert_eq!(error.code(), crate::code::Code::Rollback, "{what}: {error}");
        assert_eq!(repository.bytes(Role::Targets), before.as_deref(), "{what} changed the targets");
    }
}

#[test]
fn documents_of_different_times_are_not_mixed() {
    let mut publisher = publisher();
    let old = (publisher.snapshot_bytes(), publisher.targets_bytes());
    let mut repository = publisher.repository();
    publisher.add("digits/2/manifest", b"two");
    publisher.publish();
    repository.update_timestamp(&publisher.timestamp_bytes(), None).expect("newer");
    // Between the two updates nothing is answered from the old set.
    assert_eq!(repository.target("digits/1/manifest"), None);
    assert_eq!(repository.update_snapshot(&old.0, None), Err(Error::Mismatch { role: Role::Snapshot }));
    repository.update_snapshot(&publisher.snapshot_bytes(), None).expect("named");
    assert_eq!(repository.update_targets(&old.1, None), Err(Error::Mismatch { role: Role::Targets }));
    assert_eq!(repository.target("digits/1/manifest"), None);
    repository.update_targets(&publisher.targets_bytes(), None).expect("named");
    assert!(repository.target("digits/2/manifest").is_some());
}

#[test]
fn versions_bind_where_no_digest_is_named() {
    let mut publisher = publisher();
    let bare = |number| MetaFile { version: version(number), length: None, hashes: None };
    publisher.snapshot.meta.targets = bare(7);
    publisher.timestamp.meta.snapshot = bare(2);
    let mut repository = Repository::new(&publisher.root_bytes()).expect("signed");
    let error = refused(publisher.bring(&mut repository, None), "targets of another version");
    assert_eq!(error, Error::Version { role: Role::Targets, want: 7, got: 2 });
}

/// Invariant 11: what has expired is refused with a trusted time, and taken without one.
#[test]
fn expiry_binds_only_when_time_is_trusted() {
    for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
        let mut publisher = publisher();
        let early = Expires::at(1_000);
        match role {
            Role::Root => publisher.root.expires = early,
            Role::Timestamp => publisher.timestamp.expires = early,
            Role::Snapshot => publisher.snapshot.expires = early,
            _ => publisher.targets.expires = early,
        }
        publisher.link();
        for (now, expected) in [
            (Some(999), Ok(())),
            (Some(1_000), Err(Error::Expired { role, at: 1_000 })),
            (Some(EXPIRES - 1), Err(Error::Expired { role, at: 1_000 })),
            (None, Ok(())),
        ] {
            let mut repository = Repository::new(&publisher.root_bytes()).expect("signed");
            assert_eq!(publisher.bring(&mut repository, now), expected, "{role} at {now:?}");
        }
    }
}

#[test]
fn repeating_an_expired_timestamp_does_not_keep_a_device_content() {
    let mut publisher = publisher();
    publisher.timestamp.expires = Expires::at(1_000);
    let mut repository = publisher.repository();
    let expired = Err(Error::Expired { role: Role::Timestamp, at: 1_000 });
    assert_eq!(repository.update_timestamp(&publisher.timestamp_bytes(), Some(1_000)).map(drop), expired);
    assert_eq!(repository.update_snapshot(&publisher.snapshot_bytes(), Some(1_000)).map(drop), expired);
    assert_eq!(repository.check_expiry(Role::Timestamp, Some(1_000)), expired);
    assert_eq!(repository.check_expiry(Role::Timestamp, None), Ok(()));
}

#[test]
fn oversized_documents_are_not_parsed() {
    let mut repository = publisher().repository();
    let flood = |limit: usize| vec![b'['; limit + 1];
    for (result, role) in [
        (repository.update_root(&flood(MAX_ROOT)), Role::Root),
        (repository.update_timestamp(&flood(MAX_TIMESTAMP), None).map(drop), Role::Timestamp),
    ] {
        assert!(matches!(result, Err(Error::TooLarge { .. })), "{role}");
    }
    let mut publisher = publisher();
    publisher
        .targets
        .targets
        .insert("x".repeat(MAX_TARGETS), TargetFile { length: 1, hashes: Hashes::of(Digest::of(b"x")), custom: None });
    publisher.publish();
    let error = refused(publisher.bring(&mut repository, None), "targets over the cap");
    assert_eq!(error.code(), crate::code::Code::TooLarge);
}

#[test]
fn what_was_stored_comes_back_through_the_same_checks() {
    let publisher = publisher();
    let original = publisher.repository();
    let bytes = |role| original.bytes(role);
    let stored =
        Stored { timestamp: bytes(Role::Timestamp), snapshot: bytes(Role::Snapshot), targets: bytes(Role::Targets) };
    let root = original.bytes(Role::Root).expect("always there");
    let (restored, errors) = Repository::restore(root, stored).expect("restores");
    assert_eq!((errors.len(), restored.missing()), (0, None));
    assert!(restored.target("digits/1/manifest").is_some());

    let damaged = Stored { targets: Some(b"{}"), ..stored };
    let (restored, errors) = Repository::restore(root, damaged).expect("restores");
    assert!(matches!(errors.as_slice(), [(Role::Targets, Error::Malformed { .. })]), "{errors:?}");
    assert_eq!(restored.missing(), Some(Metadata::Targets(2)));
}

/// A power cut between storing the timestamp and the snapshot must not lose the floor of the older snapshot.
#[test]
fn an_older_stored_snapshot_still_protects_from_rollback() {
    let mut publisher = publisher();
    let old = publisher.repository();
    publisher.publish();
    let stored = Stored {
        timestamp: Some(&publisher.timestamp_bytes()),
        snapshot: old.bytes(Role::Snapshot),
        targets: old.bytes(Role::Targets),
    };
    let (mut restored, errors) = Repository::restore(&publisher.root_bytes(), stored).expect("restores");
    assert_eq!((errors.len(), restored.missing()), (0, Some(Metadata::Snapshot(3))));
    publisher.targets.version = version(1);
    publisher.snapshot.version = version(4);
    publisher.timestamp.version = version(4);
    publisher.link();
    let error = refused(publisher.bring(&mut restored, None), "older targets");
    assert_eq!(error, Error::Rollback { role: Role::Targets, trusted: 2, got: 1 });
}

/// Whichever of timestamp and snapshot is left on a damaged disk, its floor holds.
#[test]
fn one_stored_document_is_enough_against_an_older_snapshot() {
    let mut publisher = publisher();
    let newer = publisher.repository();
    publisher.snapshot.version = version(1);
    publisher.timestamp.version = version(9);
    publisher.link();
    let (timestamp, snapshot) = (newer.bytes(Role::Timestamp), newer.bytes(Role::Snapshot));
    for stored in [Stored { timestamp, ..Stored::default() }, Stored { snapshot, ..Stored::default() }] {
        let (mut restored, _) = Repository::restore(&publisher.root_bytes(), stored).expect("restores");
        let error = refused(publisher.bring(&mut restored, None), "an older snapshot");
        assert_eq!(error, Error::Rollback { role: Role::Snapshot, trusted: 2, got: 1 });
    }
}

#[test]
fn a_target_that_only_a_delegated_role_names_is_not_found() {
    let mut publisher = publisher();
    publisher.targets.delegations = Some(serde_json::json!({
        "keys": {}, "roles": [{ "name": "team", "keyids": [], "threshold": 1, "terminating": false, "paths": ["vision/*"] }]
    }));
    publisher.publish();
    let repository = publisher.repository();
    assert_eq!(repository.target("vision/digits/1/manifest"), None);
    assert!(repository.target("digits/1/manifest").is_some());
}

#[test]
fn custom_data_and_other_digests_are_kept() {
    let mut publisher = publisher();
    let sha512 = hex::encode(ring::digest::digest(&ring::digest::SHA512, b"three"));
    let file = |hashes: &[(&str, &str)], custom| TargetFile {
        length: 5,
        hashes: Hashes(hashes.iter().map(|(name, hex)| (name.to_string(), hex.to_string())).collect()),
        custom,
    };
    let sha256 = Digest::of(b"three").to_string();
    let both = file(&[("sha256", &sha256), ("sha512", &sha512)], Some(serde_json::json!({ "floor": 2 })));
    publisher.targets.targets.insert("both".into(), both);
    publisher.targets.targets.insert("sha512".into(), file(&[("sha512", &sha512)], None));
    publisher.targets.targets.insert("unknown".into(), file(&[("blake3", &sha256)], None));
    publisher.targets.targets.insert("conflict".into(), file(&[("sha256", &sha256), ("sha512", "00")], None));
    publisher.publish();
    let repository = publisher.repository();
    assert_eq!(repository.target("both").expect("there").custom, Some(serde_json::json!({ "floor": 2 })));
    assert_eq!(repository.target("sha512"), None);
    for (path, accepts) in [("both", true), ("sha512", true), ("unknown", false), ("conflict", false)] {
        assert_eq!(repository.target_file(path).expect("there").accepts(b"three"), accepts, "{path}");
        assert!(!repository.target_file(path).expect("there").accepts(b"thref"), "{path}");
    }
}
