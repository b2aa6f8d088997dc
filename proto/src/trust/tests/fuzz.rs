use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn publisher() -> Publisher {
    let mut publisher = Publisher::new(EXPIRES);
    publisher.add("digits/1/manifest", b"one");
    // Without digests the content's own signature is all that stands between a mirror and the device.
    let bare = MetaFile { version: version(1), length: None, hashes: None };
    publisher.snapshot.meta.targets = bare.clone();
    publisher.timestamp.meta.snapshot = bare;
    publisher
}

/// A repository that has everything up to, but not including, `role`.
fn before(publisher: &Publisher, role: Role) -> Repository {
    let mut repository = Repository::new(&publisher.root_bytes()).expect("signed");
    if role > Role::Timestamp {
        repository.update_timestamp(&publisher.timestamp_bytes(), None).expect("signed");
    }
    if role > Role::Snapshot {
        repository.update_snapshot(&publisher.snapshot_bytes(), None).expect("named");
    }
    repository
}

fn offer(repository: &mut Repository, role: Role, bytes: &[u8]) -> Result<(), Error> {
    match role {
        Role::Root => Repository::new(bytes).map(|fresh| *repository = fresh),
        Role::Timestamp => repository.update_timestamp(bytes, None).map(drop),
        Role::Snapshot => repository.update_snapshot(bytes, None).map(drop),
        _ => repository.update_targets(bytes, None).map(drop),
    }
}

fn signed_part(bytes: &[u8]) -> Value {
    serde_json::from_slice::<Value>(bytes).expect("accepted, so it is JSON")["signed"].clone()
}

fn original(publisher: &Publisher, role: Role) -> Vec<u8> {
    match role {
        Role::Root => publisher.root_bytes(),
        Role::Timestamp => publisher.timestamp_bytes(),
        Role::Snapshot => publisher.snapshot_bytes(),
        _ => publisher.targets_bytes(),
    }
}

fn any_role() -> impl Strategy<Value = Role> {
    prop::sample::select(vec![Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Invariant 1: a changed byte is refused, or it changed nothing that was signed.
    #[test]
    fn one_changed_byte_is_refused_or_changes_nothing(role in any_role(), at in any::<prop::sample::Index>(), byte: u8) {
        let publisher = publisher();
        let original = original(&publisher, role);
        let mut changed = original.clone();
        changed[at.index(original.len())] = byte;
        let mut repository = before(&publisher, role);
        if offer(&mut repository, role, &changed).is_ok() {
            prop_assert_eq!(signed_part(&changed), signed_part(&original));
        } else {
            prop_assert_ne!(changed, original);
        }
    }

    #[test]
    fn one_changed_byte_of_a_desired_state_is_refused(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let publisher = Publisher::new(EXPIRES);
        let desired = Desired {
            workspace: "acme".parse().expect("valid"),
            device: "gateway-1".parse().expect("valid"),
            hardware: "board".into(),
            generation: Generation(7),
            issued_at: 1_000,
            expires_at: 0,
            slots: vec![],
            denied: vec![],
        };
        let mut changed = publisher.sign_desired(&desired);
        let index = at.index(changed.len());
        changed[index] ^= flip;
        let result = publisher.director().verify(&changed, &desired.workspace, &desired.device, None);
        prop_assert!(result.is_err());
    }

    #[test]
    fn no_bytes_panic(role in any_role(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let publisher = publisher();
        prop_assert!(offer(&mut before(&publisher, role), role, &bytes).is_err());
        let (workspace, device) = ("acme".parse().expect("valid"), "gateway-1".parse().expect("valid"));
        prop_assert!(publisher.director().verify(&bytes, &workspace, &device, None).is_err());
    }

    /// Random bytes rarely get past the parser; documents with parts swapped or cut do.
    #[test]
    fn no_mangled_document_panics(
        role in any_role(),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        what in prop::sample::select(vec!["", "{", "}", "\"", "[", "null", "-1", "1e400", "\\u0000", "\\ud800", "{}"]),
    ) {
        let publisher = publisher();
        let original = original(&publisher, role);
        let (from, to) = (from.index(original.len()), to.index(original.len()));
        let (from, to) = (from.min(to), from.max(to));
        let mangled = [&original[..from], what.as_bytes(), &original[to..]].concat();
        if offer(&mut before(&publisher, role), role, &mangled).is_ok() {
            prop_assert_eq!(signed_part(&mangled), signed_part(&original));
        }
    }
}
