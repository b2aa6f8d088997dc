//! The six signing keys, one file each.

use std::path::{Path, PathBuf};

use muster_proto::desired::Signature;
use muster_proto::id::Digest;
use muster_proto::trust::{KeyEntry, RoleKeys, Root};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::{Error, files};

/// A private key, its public half, and the file that it came from.
pub(super) struct Key {
    path: PathBuf,
    pair: Ed25519KeyPair,
    pub(super) entry: KeyEntry,
    pub(super) id: Digest,
}

/// The keys of a workspace, each in its own file, so that one after the other can move offline.
pub(super) struct Keys {
    pub(super) root: Key,
    pub(super) targets: Key,
    pub(super) snapshot: Key,
    pub(super) timestamp: Key,
    pub(super) director_root: Key,
    pub(super) director: Key,
}

impl Keys {
    /// Reads all keys; a file that is missing is an error.
    pub(super) fn load(dir: &Path) -> Result<Self, Error> {
        Self::each(dir, Key::load)
    }

    /// Reads all keys and makes those that are missing.
    pub(super) fn load_or_create(dir: &Path) -> Result<Self, Error> {
        Self::each(dir, |path| {
            if !path.exists() {
                let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| Error::Random)?;
                files::write(&path, document.as_ref())?;
            }
            Key::load(path)
        })
    }

    fn each(dir: &Path, key: impl Fn(PathBuf) -> Result<Key, Error>) -> Result<Self, Error> {
        let named = |name: &str| key(dir.join(name));
        Ok(Self {
            root: named("root.p8")?,
            targets: named("targets.p8")?,
            snapshot: named("snapshot.p8")?,
            timestamp: named("timestamp.p8")?,
            director_root: named("director-root.p8")?,
            director: named("director.p8")?,
        })
    }

    /// Fails where a key is not the one that its role has in the roots.
    pub(super) fn check(&self, repository: &Root, director: &Root) -> Result<(), Error> {
        let pairs: [(&Key, &RoleKeys); 6] = [
            (&self.root, &repository.roles.root),
            (&self.targets, &repository.roles.targets),
            (&self.snapshot, &repository.roles.snapshot),
            (&self.timestamp, &repository.roles.timestamp),
            (&self.director_root, &director.roles.root),
            (&self.director, &director.roles.targets),
        ];
        let foreign = pairs.into_iter().find(|(key, role)| !role.keyids.contains(&key.id.to_string()));
        foreign.map_or(Ok(()), |(key, _)| Err(Error::KeyForeign { path: key.path.clone() }))
    }
}

impl Key {
    fn load(path: PathBuf) -> Result<Self, Error> {
        let bytes = files::read(&path)?;
        let Ok(pair) = Ed25519KeyPair::from_pkcs8(&bytes) else { return Err(Error::KeyUnreadable { path }) };
        let entry = KeyEntry::ed25519(pair.public_key().as_ref());
        let id = entry.id()?;
        Ok(Self { path, pair, entry, id })
    }

    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        Signature { key: self.id, value: self.pair.sign(message).as_ref().to_vec() }
    }
}
