//! The private keys of a workspace, and the model repository and desired states that they sign. It does
//! not know HTTP or MQTT: it gives bytes.
//!
//! A folder holds `keys/*.p8` (Ed25519, PKCS#8, mode 0600) and, under `metadata/`, a TUF repository with
//! consistent snapshots as any web server could serve it, and the director's roots in `metadata/director/`.
//! Each file is replaced as a whole, and `timestamp.json` last: after a power cut it names either the old
//! set or the new one, and files of versions above it count for nothing until they are written again.

use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use muster_proto::desired::{Desired, SPEAKS, SignedDesired};
use muster_proto::id::{Digest, Workspace};
use muster_proto::transfer::Metadata;
use muster_proto::trust::{
    Director, Expires, Hashes, MetaFile, Repository, Role, RoleKeys, Roles, Root, RootKind, Snapshot, SnapshotKind,
    SnapshotMeta, SpecVersion, TargetFile, TargetInfo, Targets, TargetsKind, Timestamp, TimestampKind, TimestampMeta,
    sign,
};
use muster_proto::wire;
use serde::Serialize;
use serde_json::Value;

mod error;
mod files;
mod keys;

pub use error::Error;
use keys::{Key, Keys};

const DAY: u64 = 24 * 60 * 60;
/// How long a timestamp is valid: as long as a dispatcher may be down before devices with a trusted time
/// refuse what it serves.
const TIMESTAMP_LIFE: u64 = 7 * DAY;
/// How much of its life a timestamp has left when it is signed again: that is once a day.
const TIMESTAMP_RENEW: u64 = TIMESTAMP_LIFE - DAY;
/// How long snapshot and targets are valid.
const CONTENT_LIFE: u64 = 365 * DAY;
/// How much of their life snapshot and targets have left when they are signed again.
const CONTENT_RENEW: u64 = 90 * DAY;
/// How long a root is valid.
const ROOT_LIFE: u64 = 3650 * DAY;
/// How many versions of snapshot and targets stay, for clients that are in the middle of fetching a set (invariant 10).
const KEPT_VERSIONS: u64 = 16;
/// Stands in the folder from the first key until the first timestamp: what is there may be made again.
const UNFINISHED: &str = "UNFINISHED";

/// The signer of one workspace.
///
/// Every document passes the devices' own verifier before it is written, so that nothing is published that they would
/// refuse. Calls that change something take `&mut self`; one process at a time may have a folder open.
pub struct Signer {
    metadata: PathBuf,
    workspace: Workspace,
    keys: Keys,
    repository: Repository,
    director: Director,
}

/// Whether [`Signer::refresh`] had anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// Nothing is near its expiry.
    Unchanged,
    /// The timestamp was signed again.
    Timestamp,
    /// Targets, snapshot and timestamp were signed again.
    Everything,
}

impl Signer {
    /// Opens the folder `dir`, or makes keys and an empty repository in an empty one; `now` is in seconds since 1970.
    ///
    /// A folder that lacks a file is an error that names it: new keys in the place of lost ones would lock every device
    /// out, and an older repository would be refused as a rollback.
    pub fn load_or_create(dir: &Path, workspace: Workspace, now: u64) -> Result<Self, Error> {
        let metadata = dir.join("metadata");
        if files::is_empty(&dir.join("keys")) && files::is_empty(&metadata) {
            files::create_dir(dir)?;
            files::write(&dir.join(UNFINISHED), b"")?;
        }
        if dir.join(UNFINISHED).exists() {
            files::create_dir(&dir.join("keys"))?;
            files::create_dir(&metadata.join("director"))?;
            let keys = Keys::load_or_create(&dir.join("keys"))?;
            create(&metadata, &keys, &workspace, now)?;
            files::remove(&dir.join(UNFINISHED))?;
        }
        let keys = Keys::load(&dir.join("keys"))?;
        Self::load(metadata, keys, workspace)
    }

    fn load(metadata: PathBuf, keys: Keys, workspace: Workspace) -> Result<Self, Error> {
        let read = |name: String| files::read(&metadata.join(name));
        let damaged = |name: &str| {
            let path = metadata.join(name);
            move |source| Error::Damaged { path, source }
        };
        let mut repository = Repository::new(&read("1.root.json".into())?).map_err(damaged("1.root.json"))?;
        let next = |version: u64| format!("{}.root.json", version + 1);
        while metadata.join(next(repository.root_version())).exists() {
            let name = next(repository.root_version());
            repository.update_root(&read(name.clone())?).map_err(damaged(&name))?;
        }
        let mut director =
            Director::new(&read("director/1.root.json".into())?).map_err(damaged("director/1.root.json"))?;
        let next = |version: u64| format!("director/{}.root.json", version + 1);
        while metadata.join(next(director.root_version())).exists() {
            let name = next(director.root_version());
            director.update_root(&read(name.clone())?).map_err(damaged(&name))?;
        }
        // No clock here: a dispatcher that was off for a year opens its folder and signs again.
        let name = "timestamp.json";
        repository.update_timestamp(&read(name.into())?, None).map_err(damaged(name))?;
        while let Some(missing) = repository.missing() {
            let name = file_name(&missing);
            let bytes = read(name.clone())?;
            match missing {
                Metadata::Snapshot(_) => repository.update_snapshot(&bytes, None),
                _ => repository.update_targets(&bytes, None),
            }
            .map_err(damaged(&name))?;
        }
        if repository.root().workspace.as_deref() != Some(workspace.as_str()) {
            let found = repository.root().workspace.clone().unwrap_or_default();
            return Err(Error::WrongWorkspace { path: metadata, found, workspace });
        }
        keys.check(repository.root(), director.root())?;
        Ok(Self { metadata, workspace, keys, repository, director })
    }

    /// The newest root of the model repository: what a new device begins with.
    pub fn root_bytes(&self) -> &[u8] {
        self.repository.bytes(Role::Root).expect("a repository has a root")
    }

    /// The newest root of the director: what a new device begins with.
    pub fn director_root_bytes(&self) -> &[u8] {
        self.director.root_bytes()
    }

    /// The published document, or none where there is no such version (any more).
    pub fn metadata(&self, which: &Metadata) -> Option<Vec<u8>> {
        let current = |version: NonZeroU64| version.get();
        let newest = match which {
            Metadata::Root(_) => self.repository.root_version(),
            Metadata::DirectorRoot(_) => self.director.root_version(),
            Metadata::Timestamp => return self.repository.bytes(Role::Timestamp).map(<[u8]>::to_vec),
            Metadata::Snapshot(_) => current(self.snapshot().version),
            Metadata::Targets(_) => current(self.content().version),
        };
        let (Metadata::Root(version)
        | Metadata::DirectorRoot(version)
        | Metadata::Snapshot(version)
        | Metadata::Targets(version)) = *which
        else {
            return None;
        };
        // A higher version may lie there, left by a power cut; it is not published.
        if version > newest { None } else { fs::read(self.metadata.join(file_name(which))).ok() }
    }

    /// The target at `path`.
    pub fn target(&self, path: &str) -> Option<TargetInfo> {
        self.content().targets.get(path)?.info()
    }

    /// Every target with its path, in order of path.
    pub fn targets(&self) -> impl Iterator<Item = (&str, TargetInfo)> {
        self.content().targets.iter().filter_map(|(path, file)| Some((path.as_str(), file.info()?)))
    }

    /// Publishes a target. The same target again changes nothing; other content under its path is refused, because a
    /// version's content never changes. `custom` may not hold fractions.
    pub fn add_target(
        &mut self,
        path: &str,
        length: u64,
        digest: Digest,
        custom: Option<Value>,
        now: u64,
    ) -> Result<(), Error> {
        check_path(path)?;
        let file = TargetFile { length, hashes: Hashes::of(digest), custom };
        if let Some(held) = self.content().targets.get(path) {
            return if *held == file { Ok(()) } else { Err(Error::TargetExists { path: path.into() }) };
        }
        let mut targets = self.content().clone();
        targets.targets.insert(path.into(), file);
        self.publish(targets, now)
    }

    /// Takes a target back, so that no device can be told to run it; one that is not there changes nothing.
    pub fn remove_target(&mut self, path: &str, now: u64) -> Result<(), Error> {
        let mut targets = self.content().clone();
        if targets.targets.remove(path).is_none() {
            return Ok(());
        }
        self.publish(targets, now)
    }

    /// Signs again what is near its expiry; to be called at least once a day.
    pub fn refresh(&mut self, now: u64) -> Result<Refreshed, Error> {
        let left = |expires: Expires| expires.seconds().saturating_sub(now);
        if left(self.content().expires).min(left(self.snapshot().expires)) < CONTENT_RENEW {
            self.publish(self.content().clone(), now)?;
            return Ok(Refreshed::Everything);
        }
        if left(self.timestamp().expires) <= TIMESTAMP_RENEW {
            let timestamp = Timestamp {
                version: next(self.timestamp().version),
                expires: Expires::at(now.saturating_add(TIMESTAMP_LIFE)),
                ..self.timestamp().clone()
            };
            let bytes = signed(&timestamp, &self.keys.timestamp)?;
            let mut repository = self.repository.clone();
            repository.update_timestamp(&bytes, Some(now))?;
            files::write(&self.metadata.join("timestamp.json"), &bytes)?;
            self.repository = repository;
            return Ok(Refreshed::Timestamp);
        }
        Ok(Refreshed::Unchanged)
    }

    /// Signs a desired state; it has to be of this workspace.
    pub fn sign_desired(&self, desired: &Desired) -> Result<SignedDesired, Error> {
        let payload = wire::encode(&desired.to_state(SPEAKS).expect("this build speaks what it knows"))?;
        let signatures = vec![self.keys.director.sign(&sign::desired_signing_input(&payload))];
        let signed = SignedDesired::V1 { payload, signatures };
        self.director.verify(&wire::encode(&signed)?, &self.workspace, &desired.device, None)?;
        Ok(signed)
    }

    /// Signs `targets` as a new version, with the snapshot and timestamp that lead to it.
    fn publish(&mut self, targets: Targets, now: u64) -> Result<(), Error> {
        let expires = Expires::at(now.saturating_add(CONTENT_LIFE));
        let targets = Targets { version: next(self.content().version), expires, ..targets };
        let targets_bytes = signed(&targets, &self.keys.targets)?;
        let meta = SnapshotMeta {
            targets: MetaFile::of(targets.version, &targets_bytes),
            delegated: self.snapshot().meta.delegated.clone(),
        };
        let snapshot = Snapshot { version: next(self.snapshot().version), expires, meta, ..self.snapshot().clone() };
        let snapshot_bytes = signed(&snapshot, &self.keys.snapshot)?;
        let timestamp = Timestamp {
            version: next(self.timestamp().version),
            expires: Expires::at(now.saturating_add(TIMESTAMP_LIFE)),
            meta: TimestampMeta { snapshot: MetaFile::of(snapshot.version, &snapshot_bytes) },
            ..self.timestamp().clone()
        };
        let timestamp_bytes = signed(&timestamp, &self.keys.timestamp)?;

        let mut repository = self.repository.clone();
        repository.update_timestamp(&timestamp_bytes, Some(now))?;
        repository.update_snapshot(&snapshot_bytes, Some(now))?;
        repository.update_targets(&targets_bytes, Some(now))?;

        let place = |which: Metadata| self.metadata.join(file_name(&which));
        files::write(&place(Metadata::Targets(targets.version.get())), &targets_bytes)?;
        files::write(&place(Metadata::Snapshot(snapshot.version.get())), &snapshot_bytes)?;
        files::write(&place(Metadata::Timestamp), &timestamp_bytes)?;
        self.repository = repository;
        self.forget_old();
        Ok(())
    }

    /// Deletes versions that no client can be in the middle of. What cannot be deleted is tried again next time.
    fn forget_old(&self) {
        let newest = [
            ("targets", self.content().version.get().saturating_sub(KEPT_VERSIONS)),
            ("snapshot", self.snapshot().version.get().saturating_sub(KEPT_VERSIONS)),
        ];
        let Ok(entries) = fs::read_dir(&self.metadata) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((version, role)) = name.to_str().and_then(|n| n.strip_suffix(".json")?.split_once('.')) else {
                continue;
            };
            let old = |version: u64| newest.iter().any(|(name, limit)| *name == role && version <= *limit);
            if version.parse().is_ok_and(old) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn timestamp(&self) -> &Timestamp {
        self.repository.timestamp().expect("a signer's repository is complete")
    }

    fn snapshot(&self) -> &Snapshot {
        self.repository.snapshot().expect("a signer's repository is complete")
    }

    fn content(&self) -> &Targets {
        self.repository.targets().expect("a signer's repository is complete")
    }
}

/// Writes the first version of everything, the timestamp last.
fn create(metadata: &Path, keys: &Keys, workspace: &Workspace, now: u64) -> Result<(), Error> {
    let version = NonZeroU64::MIN;
    let spec_version = SpecVersion::default();
    let expires = Expires::at(now.saturating_add(CONTENT_LIFE));
    let root = |root: &Key, timestamp: &Key, snapshot: &Key, targets: &Key| Root {
        kind: RootKind::Root,
        spec_version: spec_version.clone(),
        version,
        expires: Expires::at(now.saturating_add(ROOT_LIFE)),
        consistent_snapshot: true,
        keys: [root, timestamp, snapshot, targets].map(|key| (key.id.to_string(), key.entry.clone())).into(),
        roles: Roles {
            root: one_of_one(root),
            timestamp: one_of_one(timestamp),
            snapshot: one_of_one(snapshot),
            targets: one_of_one(targets),
        },
        workspace: Some(workspace.to_string()),
    };
    let director = root(&keys.director_root, &keys.director, &keys.director, &keys.director);
    let repository = root(&keys.root, &keys.timestamp, &keys.snapshot, &keys.targets);
    let targets = Targets {
        kind: TargetsKind::Targets,
        spec_version: spec_version.clone(),
        version,
        expires,
        targets: Default::default(),
        delegations: None,
    };
    let targets = signed(&targets, &keys.targets)?;
    let meta = SnapshotMeta { targets: MetaFile::of(version, &targets), delegated: Default::default() };
    let snapshot =
        Snapshot { kind: SnapshotKind::Snapshot, spec_version: spec_version.clone(), version, expires, meta };
    let snapshot = signed(&snapshot, &keys.snapshot)?;
    let timestamp = Timestamp {
        kind: TimestampKind::Timestamp,
        spec_version: spec_version.clone(),
        version,
        expires: Expires::at(now.saturating_add(TIMESTAMP_LIFE)),
        meta: TimestampMeta { snapshot: MetaFile::of(version, &snapshot) },
    };
    files::write(&metadata.join("director/1.root.json"), &signed(&director, &keys.director_root)?)?;
    files::write(&metadata.join("1.root.json"), &signed(&repository, &keys.root)?)?;
    files::write(&metadata.join("1.targets.json"), &targets)?;
    files::write(&metadata.join("1.snapshot.json"), &snapshot)?;
    files::write(&metadata.join("timestamp.json"), &signed(&timestamp, &keys.timestamp)?)
}

fn signed<T: Serialize>(document: &T, key: &Key) -> Result<Vec<u8>, Error> {
    let envelope = sign::Envelope::new(document)?;
    Ok(envelope.assemble(&[key.sign(envelope.signing_input())]))
}

fn one_of_one(key: &Key) -> RoleKeys {
    RoleKeys { keyids: vec![key.id.to_string()], threshold: NonZeroU64::MIN }
}

/// The version after `version`. It cannot run out: one publication each microsecond takes 584,000 years.
fn next(version: NonZeroU64) -> NonZeroU64 {
    version.checked_add(1).expect("versions do not run out")
}

fn file_name(which: &Metadata) -> String {
    match which {
        Metadata::Root(version) => format!("{version}.root.json"),
        Metadata::DirectorRoot(version) => format!("director/{version}.root.json"),
        Metadata::Timestamp => "timestamp.json".into(),
        Metadata::Snapshot(version) => format!("{version}.snapshot.json"),
        Metadata::Targets(version) => format!("{version}.targets.json"),
    }
}

/// Clients make URLs and file names of target paths.
fn check_path(path: &str) -> Result<(), Error> {
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
    if path.len() <= 300 && path.split('/').all(part_ok) {
        Ok(())
    } else {
        Err(Error::TargetPath { path: path.into() })
    }
}

#[cfg(test)]
mod tests;
