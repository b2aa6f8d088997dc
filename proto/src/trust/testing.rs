//! A publisher and director with keys made from seeds, for tests of whatever needs a [`Verified`]
//! value: they are signed and verified as real ones are. Not compiled into anything that ships.
//!
//! [`Verified`]: super::Verified

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::Serialize;

use super::*;
use crate::desired::{Approval, ApprovalStatement, Desired, SPEAKS, Signature, SignedDesired};
use crate::id::Digest;
use crate::manifest::BundleManifest;
use crate::wire;

/// A signing key made from a seed.
pub struct Key {
    pair: Ed25519KeyPair,
    /// Its public half.
    pub entry: KeyEntry,
}

impl Key {
    /// The key of `seed`.
    pub fn from_seed(seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed");
        let entry = KeyEntry::ed25519(pair.public_key().as_ref());
        Self { pair, entry }
    }

    /// Its TUF key id.
    pub fn id(&self) -> Digest {
        self.entry.id().expect("a key entry of text has a canonical form")
    }

    /// A signature over `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature { key: self.id(), value: self.pair.sign(message).as_ref().to_vec() }
    }
}

impl Key {
    /// The word of this key's owner for a plan.
    pub fn approve(&self, statement: &ApprovalStatement) -> Approval {
        let Signature { key, value } = self.sign(&sign::approval_signing_input(statement));
        Approval { key, value }
    }

    /// The bytes of its public half.
    pub fn public(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes")
    }
}

/// `document` signed by `keys`.
pub fn sign<T: Serialize>(document: &T, keys: &[&Key]) -> Vec<u8> {
    let envelope = sign::Envelope::new(document).expect("documents have a canonical form");
    let signatures: Vec<_> = keys.iter().map(|key| key.sign(envelope.signing_input())).collect();
    envelope.assemble(&signatures)
}

/// A model repository and a director whose documents a test may change before it signs them.
pub struct Publisher {
    /// The keys, by role; the director's is `director`.
    pub keys: BTreeMap<&'static str, Key>,
    /// The model repository's root.
    pub root: Root,
    /// The timestamp.
    pub timestamp: Timestamp,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The top-level targets.
    pub targets: Targets,
    /// The director's root.
    pub director_root: Root,
}

impl Publisher {
    /// An empty repository of version 1 whose documents expire at `expires` seconds since 1970.
    pub fn new(expires: u64) -> Self {
        let names = ["root", "timestamp", "snapshot", "targets", "director-root", "director"];
        let keys: BTreeMap<_, _> =
            names.into_iter().zip(1..).map(|(name, seed)| (name, Key::from_seed(seed))).collect();
        let expires = Expires::at(expires);
        let version = NonZeroU64::MIN;
        let root = |root: &str, timestamp: &str, snapshot: &str, targets: &str| Root {
            kind: RootKind::Root,
            spec_version: SpecVersion::default(),
            version,
            expires,
            consistent_snapshot: true,
            keys: [root, timestamp, snapshot, targets]
                .iter()
                .map(|name| (keys[name].id().to_string(), keys[name].entry.clone()))
                .collect(),
            roles: Roles {
                root: role_keys(&[&keys[root]], 1),
                timestamp: role_keys(&[&keys[timestamp]], 1),
                snapshot: role_keys(&[&keys[snapshot]], 1),
                targets: role_keys(&[&keys[targets]], 1),
            },
            workspace: None,
        };
        let named = MetaFile { version, length: None, hashes: None };
        let mut publisher = Self {
            root: root("root", "timestamp", "snapshot", "targets"),
            director_root: root("director-root", "director", "director", "director"),
            timestamp: Timestamp {
                kind: TimestampKind::Timestamp,
                spec_version: SpecVersion::default(),
                version,
                expires,
                meta: TimestampMeta { snapshot: named.clone() },
            },
            snapshot: Snapshot {
                kind: SnapshotKind::Snapshot,
                spec_version: SpecVersion::default(),
                version,
                expires,
                meta: SnapshotMeta { targets: named, delegated: BTreeMap::new() },
            },
            targets: Targets {
                kind: TargetsKind::Targets,
                spec_version: SpecVersion::default(),
                version,
                expires,
                targets: BTreeMap::new(),
                delegations: None,
            },
            keys,
        };
        publisher.link();
        publisher
    }

    /// Adds a target's bytes under `path`; to be followed by [`Publisher::publish`].
    pub fn add(&mut self, path: &str, bytes: &[u8]) {
        let hashes = Hashes::of(Digest::of(bytes));
        self.targets.targets.insert(path.into(), TargetFile { length: bytes.len() as u64, hashes, custom: None });
    }

    /// Adds a manifest under its own path; gives its bytes.
    pub fn add_manifest(&mut self, manifest: &BundleManifest) -> Vec<u8> {
        let bytes = manifest.to_bytes().expect("tests make consistent manifests");
        self.add(&manifest.target_path(), &bytes);
        bytes
    }

    /// New versions of targets, snapshot and timestamp.
    pub fn publish(&mut self) {
        self.targets.version = next(self.targets.version);
        self.snapshot.version = next(self.snapshot.version);
        self.timestamp.version = next(self.timestamp.version);
        self.link();
    }

    /// Lets snapshot and timestamp name what they are above of, as it is now.
    pub fn link(&mut self) {
        self.snapshot.meta.targets = MetaFile::of(self.targets.version, &self.targets_bytes());
        self.timestamp.meta.snapshot = MetaFile::of(self.snapshot.version, &self.snapshot_bytes());
    }

    /// The signed root.
    pub fn root_bytes(&self) -> Vec<u8> {
        sign(&self.root, &[&self.keys["root"]])
    }

    /// The signed timestamp.
    pub fn timestamp_bytes(&self) -> Vec<u8> {
        sign(&self.timestamp, &[&self.keys["timestamp"]])
    }

    /// The signed snapshot.
    pub fn snapshot_bytes(&self) -> Vec<u8> {
        sign(&self.snapshot, &[&self.keys["snapshot"]])
    }

    /// The signed targets.
    pub fn targets_bytes(&self) -> Vec<u8> {
        sign(&self.targets, &[&self.keys["targets"]])
    }

    /// The signed director's root.
    pub fn director_root_bytes(&self) -> Vec<u8> {
        sign(&self.director_root, &[&self.keys["director-root"]])
    }

    /// A client's repository with everything taken in, without a trusted time.
    pub fn repository(&self) -> Repository {
        let mut repository = Repository::new(&self.root_bytes()).expect("the root is signed");
        self.bring(&mut repository, None).expect("the documents are signed and fit together");
        repository
    }

    /// Offers timestamp, snapshot and targets in turn.
    pub fn bring(&self, repository: &mut Repository, now: Option<u64>) -> Result<(), Error> {
        repository.update_timestamp(&self.timestamp_bytes(), now)?;
        repository.update_snapshot(&self.snapshot_bytes(), now)?;
        repository.update_targets(&self.targets_bytes(), now)?;
        Ok(())
    }

    /// A client's director.
    pub fn director(&self) -> Director {
        Director::new(&self.director_root_bytes()).expect("the root is signed")
    }

    /// `desired` signed by the director, as it travels.
    pub fn sign_desired(&self, desired: &Desired) -> Vec<u8> {
        let payload =
            wire::encode(&desired.to_state(SPEAKS).expect("this build speaks it")).expect("tests make small messages");
        let signatures = vec![self.keys["director"].sign(&sign::desired_signing_input(&payload))];
        wire::encode(&SignedDesired::V1 { payload, signatures }).expect("tests make small messages")
    }

    /// `desired` signed and verified, without a trusted time.
    pub fn verified(&self, desired: &Desired) -> Verified<Desired> {
        let bytes = self.sign_desired(desired);
        self.director().verify(&bytes, &desired.workspace, &desired.device, None).expect("it is signed")
    }
}

/// A role of `keys` with a threshold.
pub fn role_keys(keys: &[&Key], threshold: u64) -> RoleKeys {
    let keyids = keys.iter().map(|key| key.id().to_string()).collect();
    RoleKeys { keyids, threshold: NonZeroU64::new(threshold).expect("a threshold is at least 1") }
}

fn next(version: NonZeroU64) -> NonZeroU64 {
    version.checked_add(1).expect("tests do not count that far")
}
