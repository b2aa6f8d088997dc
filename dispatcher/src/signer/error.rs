use std::io;
use std::path::PathBuf;

use muster_proto::code::Code;
use muster_proto::id::Workspace;
use muster_proto::{trust, wire};

/// Why the signer cannot be opened or cannot sign. Nothing that was published before is changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written; may pass, e.g. when the disk has space again.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file that belongs to the repository is gone; retrying cannot help.
    #[error("{} is missing: restore it from a backup; a new one would lock out every device", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A key file holds no usable key; retrying cannot help.
    #[error("{} holds no Ed25519 key in PKCS#8: restore it from a backup", path.display())]
    KeyUnreadable {
        /// The file.
        path: PathBuf,
    },
    /// A key file holds another key than the root names; retrying cannot help.
    #[error("{} is not the key that the root names: restore keys and metadata from the same backup", path.display())]
    KeyForeign {
        /// The file.
        path: PathBuf,
    },
    /// A metadata file does not pass the devices' checks; retrying cannot help.
    #[error("{} is damaged: restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the verifier said.
        #[source]
        source: trust::Error,
    },
    /// The folder belongs to another workspace.
    #[error("{} belongs to workspace {found:?}, not to {workspace}", path.display())]
    WrongWorkspace {
        /// The folder.
        path: PathBuf,
        /// The workspace that its root names.
        found: String,
        /// The workspace that was asked for.
        workspace: Workspace,
    },
    /// A target's path that clients could not use safely.
    #[error(
        "target path {path:?} is not valid: use at most 300 bytes of parts joined by '/', none of them empty, '.' or '..'"
    )]
    TargetPath {
        /// The path.
        path: String,
    },
    /// The path has other content already; a version's content never changes.
    #[error("target {path} is already published with other content: register a new version")]
    TargetExists {
        /// The path.
        path: String,
    },
    /// The system gave no random numbers; may pass.
    #[error("the system gave no random numbers for a new key")]
    Random,
    /// The document is one that devices would refuse, e.g. because it is too large.
    #[error(transparent)]
    Refused(#[from] trust::Error),
    /// The desired state does not fit a message.
    #[error(transparent)]
    Wire(#[from] wire::Error),
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::DiskFull,
            Error::Io { .. } => Code::StoreFailed,
            Error::Missing { .. }
            | Error::KeyUnreadable { .. }
            | Error::KeyForeign { .. }
            | Error::Damaged { .. }
            | Error::WrongWorkspace { .. } => Code::ConfigInvalid,
            Error::TargetPath { .. } => Code::BadRequest,
            Error::TargetExists { .. } => Code::Conflict,
            Error::Random => Code::Internal,
            Error::Refused(error) => error.code(),
            Error::Wire(error) => error.code(),
        }
    }
}
