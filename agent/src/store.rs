//! What the device keeps: an index in sled (state, signed metadata, outbox) and content-addressed files
//! beside it. It must not know MQTT or tract.
//!
//! ```text
//! index/       sled: state, signed metadata, outbox
//! signed/      the signed metadata once more, as files, from which a broken index is rebuilt
//! manifests/   verified manifests by digest
//! files/       whole files by digest
//! partial/     blobs on their way
//! bundles/     the files of each loaded version under the names that its manifest gives them (hard links)
//! ```
//!
//! The index is the only user of sled; model bytes never go into it, because sled takes several times
//! their size in memory and on disk.

pub mod atomic;
pub mod files;
pub mod index;

mod rebuild;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use muster_proto::code::Code;
use muster_proto::id::Digest;
use muster_proto::manifest::BundleManifest;
use muster_proto::report::Failure;

use crate::core::event::Signed;

pub use files::Files;
pub use index::Index;
pub use rebuild::rebuild;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed. A retry can help where the disk was full.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, e.g. `cannot write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The index failed. A retry can help where the disk was full.
    #[error("the index at {}", path.display())]
    Index {
        /// Its folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<sled::Error>,
    },
    /// A stored value cannot be read.
    #[error("{what} in {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// What was read.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Content does not have its digest or size.
    #[error("{what} is not what its digest {digest} says")]
    Mismatch {
        /// What was checked.
        what: String,
        /// The digest that it should have.
        digest: Digest,
    },
    /// Another agent uses this folder.
    #[error("{} is in use by another agent: stop it first", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Code::DiskFull,
            Error::Index { source, .. } if is_full(source) => Code::DiskFull,
            Error::Mismatch { .. } => Code::DigestMismatch,
            _ => Code::StoreFailed,
        }
    }

    /// As a failure for reports, with its causes.
    pub fn failure(&self) -> Failure {
        let mut detail = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(source) = cause {
            detail = format!("{detail}: {source}");
            cause = source.source();
        }
        Failure { code: self.code(), detail }
    }
}

fn is_full(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(source) if source.kind() == std::io::ErrorKind::StorageFull)
}

/// Adds what was done to which path.
pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

/// The whole store.
#[derive(Debug)]
pub struct Store {
    /// The index.
    pub index: Index,
    /// The files.
    pub files: Files,
}

/// What was in the store when it was opened.
#[derive(Debug)]
pub struct Contents {
    /// The durable state; none in a new store and after a corruption.
    pub durable: Option<crate::core::Durable>,
    /// Signed metadata.
    pub signed: BTreeMap<Signed, Vec<u8>>,
    /// Manifests whose bytes have their digest.
    pub manifests: BTreeMap<Digest, BundleManifest>,
    /// Whole files with their sizes in bytes.
    pub files: BTreeMap<Digest, u64>,
    /// The outbox.
    pub outbox: Vec<(u64, crate::core::outbox::Entry)>,
    /// Where a broken index was moved to.
    pub moved_aside: Option<PathBuf>,
}

impl Store {
    /// Opens or creates the store in `dir`. A broken index is moved aside, never overwritten.
    pub fn open(dir: &Path) -> Result<(Self, Contents), Error> {
        let files = Files::open(dir)?;
        let (index, moved_aside) = Index::open(&dir.join("index"))?;
        let mut contents = Contents {
            durable: None,
            signed: BTreeMap::new(),
            manifests: files.manifests()?,
            files: files.whole()?,
            outbox: Vec::new(),
            moved_aside,
        };
        match index.load() {
            Ok(loaded) => {
                contents.durable = loaded.durable;
                contents.signed = loaded.signed;
                contents.outbox = loaded.outbox;
                // A crash between the two copies: the index is the newer one.
                if contents.signed.is_empty() {
                    contents.signed = files.signed()?;
                }
                Ok((Self { index, files }, contents))
            }
            Err(error) => {
                drop(index);
                let aside = index::move_aside(&dir.join("index"))?;
                tracing::error!(error = %error.failure().detail, moved_to = %aside.display(), "the index cannot be read");
                let (index, _) = Index::open(&dir.join("index"))?;
                contents.signed = files.signed()?;
                contents.moved_aside = Some(aside);
                Ok((Self { index, files }, contents))
            }
        }
    }
}

#[cfg(test)]
mod tests;
