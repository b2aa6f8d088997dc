//! The façade: everything that a person or program can ask of the dispatcher, as typed async methods.
//!
//! HTTP, the CLI's demo and tests call it; it calls the registry, storage, signer and driver. It decides
//! who may be recorded as the cause (every change takes a [`Principal`] and lands in the audit log), but
//! not who may call what: `http` checks [`Principal::require`] before it calls. It must not know HTTP.

pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use muster_proto::code::Code;
use muster_proto::id::{DeviceId, Digest, GroupName, ModelName, Version};
use tokio::sync::broadcast;

pub use view::*;

/// Why the dispatcher does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing; a retry cannot help.
    #[error("there is no {0}")]
    NotFound(String),
    /// The request breaks a rule; a retry cannot help.
    #[error("{0}")]
    BadRequest(String),
    /// The request contradicts the present state; it helps to mend what is named.
    #[error("{message}")]
    Conflict {
        /// What stands against what.
        message: String,
        /// What stands in the way, one entry each.
        blockers: Vec<String>,
    },
    /// The key or token is wrong, used up or expired.
    #[error("{0}")]
    Unauthorized(String),
    /// The caller's role does not reach.
    #[error("this needs the role {needed}, the key {name:?} has {role}")]
    Forbidden {
        /// The key's name.
        name: String,
        /// Its role.
        role: Role,
        /// The role that is needed.
        needed: Role,
    },
    /// The content was refused, for a reason with its own code.
    #[error("{message}")]
    Refused {
        /// The code.
        code: Code,
        /// Why, for people.
        message: String,
    },
    /// The dispatcher could not do it now; a retry may help.
    #[error("{what} failed")]
    Internal {
        /// What failed.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::NotFound(_) => Code::NotFound,
            Error::BadRequest(_) => Code::BadRequest,
            Error::Conflict { .. } => Code::Conflict,
            Error::Unauthorized(_) => Code::Unauthorized,
            Error::Forbidden { .. } => Code::Forbidden,
            Error::Refused { code, .. } => *code,
            Error::Internal { .. } => Code::Internal,
        }
    }

    /// What stands in the way, one entry each; empty for most errors.
    pub fn blockers(&self) -> &[String] {
        match self {
            Error::Conflict { blockers, .. } => blockers,
            _ => &[],
        }
    }
}

/// The outcome of what the façade does.
pub type Result<T> = std::result::Result<T, Error>;

impl Principal {
    /// Refuses a caller whose role is below `needed` (invariant 14).
    pub fn require(&self, needed: Role) -> Result<()> {
        if self.role >= needed {
            return Ok(());
        }
        Err(Error::Forbidden { name: self.name.clone(), role: self.role, needed })
    }
}

/// The dispatcher. Clones are the same dispatcher.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    watch: broadcast::Sender<WatchEvent>,
}

fn unfinished<T>() -> Result<T> {
    Err(Error::Internal { what: "an unfinished part of the dispatcher", source: "not written yet".into() })
}

/// Models.
impl App {
    /// Takes a raw file in, piece by piece, and keeps it under `digest` until a registration uses it; what no
    /// registration uses is deleted after a day. Refused where the bytes have another digest or exceed the
    /// configured limit. The same file again is taken without harm.
    pub async fn upload_blob<S, E>(&self, digest: Digest, body: S) -> Result<Uploaded>
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Send + Unpin,
        E: std::error::Error + Send + Sync + 'static,
    {
        let _ = (digest, body);
        unfinished()
    }

    /// The raw file with `digest`, where it is here already and need not be uploaded.
    pub async fn find_blob(&self, digest: Digest) -> Result<Option<Uploaded>> {
        let _ = digest;
        unfinished()
    }

    /// Registers a version: loads it with the devices' engine, probes it, signs it. All or nothing.
    pub async fn register_model(&self, registration: Registration, by: &Principal) -> Result<Registered> {
        let _ = (registration, by);
        unfinished()
    }

    /// Every version that matches, by name and then version.
    pub async fn list_models(&self, filter: &ModelFilter) -> Result<Vec<ModelSummary>> {
        let _ = filter;
        unfinished()
    }

    /// One version; the newest where none is named.
    pub async fn show_model(&self, name: &ModelName, version: Option<Version>) -> Result<ModelView> {
        let _ = (name, version);
        unfinished()
    }

    /// The signed manifest's exact bytes.
    pub async fn download_manifest(&self, name: &ModelName, version: Version) -> Result<Bytes> {
        let _ = (name, version);
        unfinished()
    }

    /// A raw file of a version, by digest, as a stream; the caller compares digest and size.
    pub async fn download_file(&self, name: &ModelName, version: Version, digest: Digest) -> Result<Download> {
        let _ = (name, version, digest);
        unfinished()
    }

    /// Sets the tags in `set` and removes those in `remove`; answers with all tags.
    pub async fn tag_model(
        &self,
        name: &ModelName,
        version: Version,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
        by: &Principal,
    ) -> Result<BTreeMap<String, String>> {
        let _ = (name, version, set, remove, by);
        unfinished()
    }

    /// Deletes a version; refused with [`Error::Conflict`] and what desires it. Its number is never used again.
    pub async fn delete_model(&self, name: &ModelName, version: Version, by: &Principal) -> Result<()> {
        let _ = (name, version, by);
        unfinished()
    }

    /// A file of the TUF metadata as clients ask for it: `timestamp.json`, `3.snapshot.json`, `1.root.json`,
    /// `director/1.root.json`.
    pub async fn tuf_metadata(&self, file: &str) -> Result<Bytes> {
        let _ = file;
        unfinished()
    }

    /// A TUF target by its path, with the digest before the file name (consistent snapshots) or without.
    pub async fn tuf_target(&self, path: &str) -> Result<Bytes> {
        let _ = path;
        unfinished()
    }
}

/// Devices and groups.
impl App {
    /// Makes an enrolment token.
    pub async fn create_enroll_token(&self, request: EnrollTokenRequest, by: &Principal) -> Result<EnrollToken> {
        let _ = (request, by);
        unfinished()
    }

    /// Enrols a device that shows a token's secret. The same request again, as after a lost answer, gives the
    /// device a certificate again and uses the token only once.
    pub async fn enroll(&self, request: EnrollRequest) -> Result<Enrollment> {
        let _ = request;
        unfinished()
    }

    /// Every device that matches, by name.
    pub async fn list_devices(&self, filter: &DeviceFilter) -> Result<Vec<DeviceView>> {
        let _ = filter;
        unfinished()
    }

    /// One device and all that it last said.
    pub async fn show_device(&self, device: &DeviceId) -> Result<DeviceDetail> {
        let _ = device;
        unfinished()
    }

    /// Sets a device's labels, groups, or both.
    pub async fn update_device(&self, device: &DeviceId, update: DeviceUpdate, by: &Principal) -> Result<DeviceView> {
        let _ = (device, update, by);
        unfinished()
    }

    /// Removes a device: from now on its certificate opens nothing.
    pub async fn delete_device(&self, device: &DeviceId, by: &Principal) -> Result<()> {
        let _ = (device, by);
        unfinished()
    }

    /// Every group with its members, by name.
    pub async fn list_groups(&self) -> Result<Vec<GroupView>> {
        unfinished()
    }

    /// One group.
    pub async fn show_group(&self, group: &GroupName) -> Result<GroupView> {
        let _ = group;
        unfinished()
    }

    /// Makes a group or changes its selector; with an empty selector it has listed members only.
    pub async fn set_group(
        &self,
        group: GroupName,
        selector: BTreeMap<String, String>,
        by: &Principal,
    ) -> Result<GroupView> {
        let _ = (group, selector, by);
        unfinished()
    }

    /// Deletes a group; refused while a running rollout is for it. Its devices keep what they run.
    pub async fn delete_group(&self, group: &GroupName, by: &Principal) -> Result<()> {
        let _ = (group, by);
        unfinished()
    }

    /// Telemetry summed per device, slot and version.
    pub async fn telemetry(&self, filter: &TelemetryFilter) -> Result<Vec<TelemetryView>> {
        let _ = filter;
        unfinished()
    }
}

/// Rollouts.
impl App {
    /// Starts a rollout; it takes over from a running one of the same slot, device by device.
    pub async fn start_rollout(&self, request: RolloutRequest, by: &Principal) -> Result<RolloutView> {
        let _ = (request, by);
        unfinished()
    }

    /// Every rollout, newest first.
    pub async fn list_rollouts(&self) -> Result<Vec<RolloutView>> {
        unfinished()
    }

    /// One rollout with each of its devices.
    pub async fn show_rollout(&self, id: RolloutId) -> Result<RolloutDetail> {
        let _ = id;
        unfinished()
    }

    /// Ends a rollout: no further device is offered it. Those that were keep it.
    pub async fn cancel_rollout(&self, id: RolloutId, by: &Principal) -> Result<RolloutView> {
        let _ = (id, by);
        unfinished()
    }

    /// What happens from now on. A watcher that lags behind loses the oldest events and is told so.
    pub fn events(&self) -> broadcast::Receiver<WatchEvent> {
        self.0.watch.subscribe()
    }
}

/// Keys, audit log and the dispatcher itself.
impl App {
    /// Makes an API key.
    pub async fn create_key(&self, request: KeyRequest, by: &Principal) -> Result<CreatedKey> {
        let _ = (request, by);
        unfinished()
    }

    /// Every API key, without secrets.
    pub async fn list_keys(&self) -> Result<Vec<KeyView>> {
        unfinished()
    }

    /// Deletes an API key; refused for the last administrator.
    pub async fn delete_key(&self, id: &str, by: &Principal) -> Result<()> {
        let _ = (id, by);
        unfinished()
    }

    /// Whom a bearer token belongs to; none where it is wrong or expired.
    pub async fn authenticate(&self, token: &str) -> Result<Option<Principal>> {
        let _ = token;
        unfinished()
    }

    /// The newest `limit` lines of the audit log before number `before`, newest first; at most 1000.
    pub async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>> {
        let _ = (before, limit);
        unfinished()
    }

    /// What this dispatcher is and where it is reached.
    pub async fn info(&self) -> Result<Info> {
        unfinished()
    }

    /// The CA's certificate as PEM, which clients have to trust.
    pub fn ca_pem(&self) -> String {
        String::new()
    }
}

/// A file on its way to a caller.
pub struct Download {
    /// Its size in bytes.
    pub size: u64,
    /// The digest that it has to have.
    pub digest: Digest,
    /// Its place in the bundle, whose last part is a file name.
    pub path: String,
    /// Its bytes.
    pub body: std::pin::Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
}
