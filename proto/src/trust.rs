//! Who may say what: TUF (specification 1.0.x) for the model repository, and Uptane's split between it
//! and a director. Bytes come in, [`Verified`] values come out.
//!
//! The model repository ([`Repository`]) tells which bundles publishers have signed; the director
//! ([`Director`]) tells what one device shall run; a device acts only where both name the same bytes
//! ([`agree`]). This module reads no clock, no file and no network: bytes, and the time where it is
//! trusted, are arguments.

mod json;

mod key;
mod metadata;

mod envelope;
mod error;
mod root;
mod verified;

mod approval;
mod director;
mod report;
mod repository;

pub mod sign;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use approval::Approvers;
pub use director::{Director, agree, choose, verify_manifest};
pub use envelope::{MAX_ROOT, MAX_SNAPSHOT, MAX_TARGETS, MAX_TIMESTAMP};
pub use error::{Error, Role};
pub use key::KeyEntry;
pub use metadata::{
    Expires, Hashes, MetaFile, RoleKeys, Roles, Root, RootKind, Snapshot, SnapshotKind, SnapshotMeta, SpecVersion,
    TargetFile, TargetInfo, Targets, TargetsKind, Timestamp, TimestampKind, TimestampMeta,
};
pub use report::verify_report;
pub use repository::{Change, Repository, Stored};
pub use verified::{TargetRef, Verified};

#[cfg(test)]
mod tests;
