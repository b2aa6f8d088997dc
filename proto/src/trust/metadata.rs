//! The four kinds of TUF metadata as types (specification 1.0.x, section 4). Fields that are not known
//! here are ignored by the types but stay part of what is verified, because signatures are checked over
//! the received bytes.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::key::KeyEntry;
use crate::id::Digest;

macro_rules! kind {
    ($name:ident, $variant:ident, $text:literal) => {
        /// The document's own word for what it is; nothing else is accepted.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            /// The only value.
            #[default]
            #[serde(rename = $text)]
            $variant,
        }
    };
}

kind!(RootKind, Root, "root");
kind!(TimestampKind, Timestamp, "timestamp");
kind!(SnapshotKind, Snapshot, "snapshot");
kind!(TargetsKind, Targets, "targets");

/// Which keys may sign what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// `root`.
    #[serde(rename = "_type")]
    pub kind: RootKind,
    /// The specification's version.
    pub spec_version: SpecVersion,
    /// This document's version.
    pub version: NonZeroU64,
    /// When it expires.
    pub expires: Expires,
    /// Whether file names carry versions and digests.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// Every key by its id.
    pub keys: BTreeMap<String, KeyEntry>,
    /// The keys of each role.
    pub roles: Roles,
    /// The workspace that it belongs to, where a dispatcher made it.
    #[serde(rename = "x-muster-workspace", default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

/// The keys of each role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Of the root.
    pub root: RoleKeys,
    /// Of the timestamp.
    pub timestamp: RoleKeys,
    /// Of the snapshot.
    pub snapshot: RoleKeys,
    /// Of the top-level targets; in a director's root, of the desired states.
    pub targets: RoleKeys,
}

/// The keys of one role, and how many of them have to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// The ids of the keys.
    pub keyids: Vec<String>,
    /// How many different keys have to sign.
    pub threshold: NonZeroU64,
}

/// Which snapshot is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// `timestamp`.
    #[serde(rename = "_type")]
    pub kind: TimestampKind,
    /// The specification's version.
    pub spec_version: SpecVersion,
    /// This document's version.
    pub version: NonZeroU64,
    /// When it expires.
    pub expires: Expires,
    /// The snapshot.
    pub meta: TimestampMeta,
}

/// What a timestamp names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimestampMeta {
    /// The snapshot.
    #[serde(rename = "snapshot.json")]
    pub snapshot: MetaFile,
}

/// Which targets metadata belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snapshot`.
    #[serde(rename = "_type")]
    pub kind: SnapshotKind,
    /// The specification's version.
    pub spec_version: SpecVersion,
    /// This document's version.
    pub version: NonZeroU64,
    /// When it expires.
    pub expires: Expires,
    /// The top-level targets and every delegated role, by file name.
    pub meta: SnapshotMeta,
}

/// What a snapshot names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The top-level targets.
    #[serde(rename = "targets.json")]
    pub targets: MetaFile,
    /// The delegated roles, by file name.
    #[serde(flatten)]
    pub delegated: BTreeMap<String, MetaFile>,
}

/// A document as the role above names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaFile {
    /// Its version.
    pub version: NonZeroU64,
    /// Its length in bytes, where it is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its digests, where they are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
}

impl MetaFile {
    /// Names `bytes` as `version`, with length and digest.
    pub fn of(version: NonZeroU64, bytes: &[u8]) -> Self {
        Self { version, length: Some(bytes.len() as u64), hashes: Some(Hashes::of(Digest::of(bytes))) }
    }

    /// Whether `bytes` have the length and the digests that are named.
    pub fn accepts(&self, bytes: &[u8]) -> bool {
        self.length.is_none_or(|length| length == bytes.len() as u64)
            && self.hashes.as_ref().is_none_or(|hashes| hashes.accept(bytes))
    }
}

/// Length and digest of every target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// `targets`.
    #[serde(rename = "_type")]
    pub kind: TargetsKind,
    /// The specification's version.
    pub spec_version: SpecVersion,
    /// This document's version.
    pub version: NonZeroU64,
    /// When it expires.
    pub expires: Expires,
    /// The targets by path.
    pub targets: BTreeMap<String, TargetFile>,
    /// The delegations, which are not followed yet: a target that only a delegated role names is not
    /// found. Following them starts here and in `Repository::target_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<serde_json::Value>,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFile {
    /// Its length in bytes.
    pub length: u64,
    /// Its digests.
    pub hashes: Hashes,
    /// What the publisher says of it beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<serde_json::Value>,
}

/// A target for those who go by SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetInfo {
    /// Its length in bytes.
    pub length: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// What the publisher says of it beyond that.
    pub custom: Option<serde_json::Value>,
}

impl TargetFile {
    /// The target by its SHA-256 digest, where it has one.
    pub fn info(&self) -> Option<TargetInfo> {
        Some(TargetInfo { length: self.length, digest: self.hashes.sha256()?, custom: self.custom.clone() })
    }

    /// Whether `bytes` are this target.
    pub fn accepts(&self, bytes: &[u8]) -> bool {
        self.length == bytes.len() as u64 && self.hashes.accept(bytes)
    }
}

/// Digests by algorithm, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hashes(pub BTreeMap<String, String>);

impl Hashes {
    /// Of a SHA-256 digest.
    pub fn of(digest: Digest) -> Self {
        Self(BTreeMap::from([("sha256".into(), digest.to_string())]))
    }

    /// The SHA-256 digest, where there is one.
    pub fn sha256(&self) -> Option<Digest> {
        self.0.get("sha256")?.to_ascii_lowercase().parse().ok()
    }

    /// Whether every digest of a known algorithm, and at least one, is that of `bytes`.
    pub fn accept(&self, bytes: &[u8]) -> bool {
        let known = [("sha256", &ring::digest::SHA256), ("sha512", &ring::digest::SHA512)];
        let mut checked = known.iter().filter_map(|(name, algorithm)| {
            let wanted = self.0.get(*name)?;
            Some(hex::decode(wanted).is_ok_and(|wanted| wanted == ring::digest::digest(algorithm, bytes).as_ref()))
        });
        checked.next().is_some_and(|first| first && checked.all(|ok| ok))
    }
}

/// The version of the specification that a document follows; major version 1 is understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpecVersion(String);

impl Default for SpecVersion {
    fn default() -> Self {
        Self("1.0.31".into())
    }
}

impl TryFrom<String> for SpecVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = text.split('.');
        let numeric = text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        if numeric && parts.next() == Some("1") && parts.next().is_some() {
            Ok(Self(text))
        } else {
            Err(format!("specification version {text:?} is not 1.x"))
        }
    }
}

impl From<SpecVersion> for String {
    fn from(version: SpecVersion) -> String {
        version.0
    }
}

/// When a document expires, in seconds since 1970; as text `2030-01-31T23:59:59Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expires(u64);

impl Expires {
    /// At `seconds` since 1970, at most the end of the year 9999.
    pub fn at(seconds: u64) -> Self {
        Self(seconds.min(253_402_207_200))
    }

    /// In seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0
    }
}

impl TryFrom<String> for Expires {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // jiff reads more than the specification allows: fractions, offsets, other separators.
        let shape = |(have, want): (u8, &u8)| if *want == b'0' { have.is_ascii_digit() } else { have == *want };
        let well_formed = text.len() == 20 && text.bytes().zip(b"0000-00-00T00:00:00Z").all(shape);
        let time = well_formed.then(|| text.parse::<jiff::Timestamp>().ok()).flatten();
        let seconds = time.and_then(|time| u64::try_from(time.as_second()).ok());
        seconds.map(Self).ok_or_else(|| format!("{text:?} is not a time like 2030-01-31T23:59:59Z"))
    }
}

impl From<Expires> for String {
    fn from(expires: Expires) -> String {
        let seconds = i64::try_from(expires.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
    }
}
