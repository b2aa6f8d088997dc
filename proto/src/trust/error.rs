use std::fmt;

use crate::code::Code;
use crate::{manifest, wire};

/// A signed document: the roles of the model repository, and the two of the director.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The model repository's root: which keys may sign what.
    Root,
    /// The timestamp: which snapshot is the newest.
    Timestamp,
    /// The snapshot: which targets metadata belong together.
    Snapshot,
    /// The top-level targets: length and digest of every target.
    Targets,
    /// The director's root.
    DirectorRoot,
    /// The director's desired states; its keys are those of the role `targets` in the director's root.
    Director,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Root => "root",
            Role::Timestamp => "timestamp",
            Role::Snapshot => "snapshot",
            Role::Targets => "targets",
            Role::DirectorRoot => "director root",
            Role::Director => "desired state",
        })
    }
}

/// Why something is not trusted. What was trusted before stays so. Unless a variant says otherwise,
/// trying the same bytes again cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes than the cap of its kind, or a manifest that claims so; nothing of it was parsed.
    #[error("{subject} of {bytes} bytes is over its limit of {limit}")]
    TooLarge {
        /// The document, or the target's path.
        subject: String,
        /// Its size in bytes.
        bytes: u64,
        /// The cap in bytes.
        limit: u64,
    },
    /// Not JSON, without a canonical form, or not what the specification asks of this role.
    #[error("{role} metadata cannot be read: {reason}")]
    Malformed {
        /// The document.
        role: Role,
        /// What the parser said.
        reason: String,
    },
    /// A value that shall be signed cannot be written as canonical JSON, e.g. because it holds a fraction.
    #[error("this has no canonical form: {reason}")]
    NotCanonical {
        /// What the writer said.
        reason: String,
    },
    /// Too few different keys of the role have signed it.
    #[error("{role} is signed by {valid} of the {threshold} keys that it needs")]
    Signatures {
        /// The document.
        role: Role,
        /// How many different keys have signed.
        valid: u64,
        /// How many have to.
        threshold: u64,
    },
    /// Older than what is trusted.
    #[error("{role} version {got} is older than the trusted version {trusted}")]
    Rollback {
        /// The document that went back.
        role: Role,
        /// The version that was trusted.
        trusted: u64,
        /// The version that was offered.
        got: u64,
    },
    /// The snapshot no longer lists a role that the trusted one lists.
    #[error("snapshot no longer lists {name}")]
    RoleRemoved {
        /// The role's file name.
        name: String,
    },
    /// Not the version that was due: a root out of turn, or another one than the role above names.
    #[error("{role} has version {got}, version {want} was expected")]
    Version {
        /// The document.
        role: Role,
        /// The version that was due.
        want: u64,
        /// The version that was offered.
        got: u64,
    },
    /// Length or digest is not what the role above names; fetching it again may help.
    #[error("{role} metadata has another length or digest than the role above names")]
    Mismatch {
        /// The document.
        role: Role,
    },
    /// Expired by the trusted time; a newer one may be had.
    #[error("{role} expired at {at} seconds since 1970")]
    Expired {
        /// The document.
        role: Role,
        /// When it expired, in seconds since 1970.
        at: u64,
    },
    /// The document has to be there before the one that was offered or asked for; fetch it and try again.
    #[error("{role} is not there yet")]
    Missing {
        /// The document to fetch.
        role: Role,
    },
    /// Addressed to another device or workspace.
    #[error("desired state is addressed to {addressee}, this is {this}")]
    WrongDevice {
        /// Workspace and device in the message.
        addressee: String,
        /// Workspace and device that it came to.
        this: String,
    },
    /// A signed desired state that makes no sense.
    #[error("desired state is not consistent: {reason}")]
    Inconsistent {
        /// The rule that it breaks.
        reason: String,
    },
    /// The desired state has no such slot.
    #[error("desired state has no slot {slot}")]
    NoSuchSlot {
        /// The slot.
        slot: String,
    },
    /// The model repository does not know the target; newer metadata may.
    #[error("target {path} is not in the model repository")]
    TargetNotFound {
        /// The target's path.
        path: String,
    },
    /// Director and model repository name different content for one target.
    #[error("director and model repository disagree about target {path}")]
    DirectorDisagrees {
        /// The target's path.
        path: String,
    },
    /// A manifest's bytes are not the signed ones; fetching them again may help.
    #[error("manifest {path} has another length or digest than the signed one")]
    ManifestMismatch {
        /// The target's path.
        path: String,
    },
    /// The signed bytes are not a manifest.
    #[error("manifest {path} is signed but unusable")]
    Manifest {
        /// The target's path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: manifest::Error,
    },
    /// The manifest speaks of another model or version than its path.
    #[error("manifest {path} calls itself {found}")]
    ManifestElsewhere {
        /// The target's path.
        path: String,
        /// The path that its content belongs to.
        found: String,
    },
    /// Too few of those whom the device asks have approved of the plan.
    #[error("the plan for {target} is approved by {valid} of the {required} keys that this device asks for")]
    Approvals {
        /// The target's path.
        target: String,
        /// How many different keys have approved.
        valid: u64,
        /// How many have to.
        required: u64,
    },
    /// A message could not be decoded.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// A report is not signed by the device's key.
    #[error("report is not signed by its device's key")]
    ReportSignature,
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::TooLarge { .. } => Code::TooLarge,
            Error::Malformed { .. } | Error::Version { .. } | Error::Inconsistent { .. } => Code::MetadataInvalid,
            Error::NotCanonical { .. } => Code::BadRequest,
            Error::Signatures { .. } | Error::ReportSignature => Code::SignatureInvalid,
            Error::Rollback { .. } | Error::RoleRemoved { .. } => Code::Rollback,
            Error::Mismatch { .. } | Error::ManifestMismatch { .. } => Code::DigestMismatch,
            Error::Expired { .. } => Code::MetadataExpired,
            Error::Missing { .. } | Error::NoSuchSlot { .. } | Error::TargetNotFound { .. } => Code::NotFound,
            Error::WrongDevice { .. } => Code::WrongDevice,
            Error::DirectorDisagrees { .. } => Code::DirectorDisagrees,
            Error::Manifest { source: manifest::Error::TooLarge(_), .. } => Code::TooLarge,
            Error::Manifest { .. } | Error::ManifestElsewhere { .. } => Code::ManifestInvalid,
            Error::Approvals { .. } => Code::PlanUnapproved,
            Error::Wire(error) => error.code(),
        }
    }
}
