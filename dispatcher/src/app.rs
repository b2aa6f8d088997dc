//! The façade: everything that a person or program can ask of the dispatcher, as typed async methods.
//!
//! HTTP, the CLI's demo and tests call it; it calls the registry, storage, signer and driver. It decides
//! who may be recorded as the cause (every change takes a [`Principal`] and lands in the audit log), but
//! not who may call what: `http` checks [`Principal::require`] before it calls. It must not know HTTP.

pub mod view;

mod access;
mod devices;
mod enroll;
mod models;
mod project;
mod rollouts;
mod services;
mod tuf;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use muster_proto::code::Code;
use muster_proto::id::{Digest, Workspace};
use tokio::sync::broadcast;

use crate::blobs::{self, Blobs};
use crate::ca::Ca;
use crate::counters::Counters;
use crate::domain::Event;
use crate::driver::{self, Driver};
use crate::link::Link;
use crate::registry::{self, Registry};
use crate::services::Services;
use crate::signing::Signing;
use crate::storage::{self, Storage};

pub use services::{DELETION, Delete, Deletion};
pub(crate) use tuf::parse as tuf_file;
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

    fn conflict(message: impl Into<String>) -> Self {
        Error::Conflict { message: message.into(), blockers: Vec::new() }
    }

    fn internal(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Internal { what, source: source.into() }
    }

    /// A failure of the dispatcher itself. A full disk is told, because somebody can mend that; the rest is in the log.
    fn failed(what: &'static str, code: Code, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        if code != Code::DiskFull {
            return Error::internal(what, source);
        }
        let source: Box<dyn std::error::Error + Send + Sync> = source.into();
        tracing::error!(what, error = %source, "the disk is full");
        Error::Refused { code, message: format!("{what} failed: the dispatcher's disk is full") }
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Error::failed("the database", error.code(), error)
    }
}

impl From<blobs::Error> for Error {
    fn from(error: blobs::Error) -> Self {
        match error {
            blobs::Error::Missing { digest, .. } => Error::NotFound(format!("object {digest}")),
            blobs::Error::Digest { .. } | blobs::Error::TooLarge { .. } | blobs::Error::Incoming(_) => {
                Error::Refused { code: error.code(), message: error.to_string() }
            }
            other => Error::failed("the blob store", other.code(), other),
        }
    }
}

impl From<registry::Error> for Error {
    fn from(error: registry::Error) -> Self {
        use registry::Error as E;
        match error {
            E::Request(message) => Error::BadRequest(message),
            E::Refused { code, message } => Error::Refused { code, message },
            E::NotUploaded { .. } => Error::BadRequest(error.to_string()),
            E::Manifest(ref cause) => Error::Refused { code: error.code(), message: cause.to_string() },
            E::Blobs(cause) => cause.into(),
            other => Error::failed("the registration", other.code(), other),
        }
    }
}

impl From<driver::Error<Error>> for Error {
    fn from(error: driver::Error<Error>) -> Self {
        match error {
            driver::Error::Refused(refusal) => refusal,
            driver::Error::Storage(cause) => Error::failed("the database", cause.code(), cause),
            driver::Error::Stopped => Error::internal("the dispatcher", "it is stopping"),
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
pub struct App(Arc<Parts>);

/// What the façade stands before.
pub(crate) struct Parts {
    pub workspace: Workspace,
    pub storage: Storage,
    pub blobs: Blobs,
    pub signing: Signing,
    pub registry: Registry,
    pub ca: Ca,
    pub driver: Driver,
    pub services: Services,
    pub link: Link,
    pub counters: Counters,
    pub watch: broadcast::Sender<WatchEvent>,
    pub addresses: Addresses,
    pub started_at: u64,
    pub upload_limit: u64,
}

/// Where others reach this dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The API, as operators and devices reach it, e.g. `https://hub.example:8420`.
    pub api_url: String,
    /// The broker, as devices reach it.
    pub broker: BrokerAddress,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// What happens from now on. A watcher that lags behind loses the oldest events and is told so.
    pub fn events(&self) -> broadcast::Receiver<WatchEvent> {
        self.0.watch.subscribe()
    }

    /// What this dispatcher is and where it is reached.
    pub async fn info(&self) -> Result<Info> {
        let parts = &self.0;
        let (devices, devices_online) = {
            let fleet = parts.driver.fleet();
            (fleet.devices.len() as u32, fleet.devices.values().filter(|d| d.online).count() as u32)
        };
        Ok(Info {
            version: env!("CARGO_PKG_VERSION").into(),
            workspace: parts.workspace.clone(),
            api_url: parts.addresses.api_url.clone(),
            broker: parts.addresses.broker.clone(),
            ca_fingerprint: Digest(parts.ca.fingerprint()).to_string(),
            started_at: parts.started_at,
            link_up: parts.link.is_up(),
            devices,
            devices_online,
            counters: parts.counters.all(),
        })
    }

    /// The CA's certificate as PEM, which clients have to trust.
    pub fn ca_pem(&self) -> String {
        self.0.ca.certificate_pem()
    }

    /// Stops watching services; local ones go on answering.
    pub(crate) fn leave_services(&self) {
        self.0.services.leave();
    }

    /// Lets the driver decide on the fleet as it is then, and waits until that is durable.
    async fn decide<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&crate::domain::Fleet) -> Result<(Option<Event>, T)> + Send + 'static,
    ) -> Result<T> {
        Ok(self.0.driver.decide(decide).await?)
    }

    /// Runs `work` to its end even if whoever asked goes away meanwhile, so that nothing is left half done.
    async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        tokio::spawn(work).await.unwrap_or_else(|error| Err(Error::internal("a part of the request", error)))
    }

    /// Adds a line to the audit log. What was done stays done if that fails.
    async fn record(&self, by: &Principal, action: &str, subject: &str, detail: &str) {
        let written = self.0.storage.add_audit(crate::now(), &by.name, action, subject, detail).await;
        if let Err(error) = written {
            tracing::error!(%error, actor = by.name, action, subject, "the audit log could not be written");
            self.0.counters.count("audit_lost");
        }
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
    pub body: BoxStream<'static, std::io::Result<Bytes>>,
}

/// Random bytes for secrets, as text.
fn random_text<const N: usize>() -> Result<String> {
    use base64::Engine as _;
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal("the random source", e.to_string()))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// Random letters and digits, for names that nobody has to guess right.
pub(crate) fn random_name() -> String {
    // Without randomness the names repeat; what uses them finds out.
    random_text::<16>().unwrap_or_else(|_| "0".into())
}

/// A short random id, for lists.
fn random_id() -> Result<String> {
    let mut bytes = [0u8; 6];
    getrandom::fill(&mut bytes).map_err(|e| Error::internal("the random source", e.to_string()))?;
    Ok(hex::encode(bytes))
}
