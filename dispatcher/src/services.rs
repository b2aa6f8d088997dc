//! Services on their targets: keeps each as it is to be, and knows how it is. What a service is to be is the domain's
//! matter and stands in the database; here is who makes it so.

mod bundles;
mod clusters;
mod local;
mod process;
mod socket;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_proto::code::Code;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinHandle;

use crate::blobs::{self, Blobs};
use crate::domain::service::{Service, State, Target};
use crate::signing::Signing;
use crate::storage::{self, Storage};
use clusters::Clusters;

pub use bundles::Bundles;
pub use local::scoring_url;

/// Why a service is not what it is to be, as far as that can be told at once.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written. A retry may help.
    #[error("{} cannot be used: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The program that serves cannot be started. A retry helps once it is there.
    #[error("the scoring server cannot be started: {0}")]
    Program(String),
    /// The server does not answer its admin socket. A retry may help.
    #[error("the scoring server does not answer: {0}")]
    Unreachable(String),
    /// The server refuses. A retry with the same cannot help.
    #[error("the scoring server refuses: {message}")]
    Refused {
        /// The code.
        code: Code,
        /// Its words.
        message: String,
    },
    /// The target cannot take it as it is. A retry with the same cannot help.
    #[error("{0}")]
    Planned(String),
    /// It is on a cluster, where only its own clients reach it. A retry with the same cannot help.
    #[error(
        "{0} runs on a cluster and is asked at its own address there with one of its keys, not by way of the dispatcher"
    )]
    Elsewhere(String),
    /// There is no such service.
    #[error("there is no service {0}")]
    Unknown(String),
    /// Files of a version cannot be read.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Disk { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Code::DiskFull,
            Error::Disk { .. } | Error::Program(_) => Code::StoreFailed,
            Error::Unreachable(_) => Code::Overloaded,
            Error::Planned(_) => Code::BadRequest,
            Error::Elsewhere(_) => Code::Conflict,
            Error::Refused { code, .. } => *code,
            Error::Unknown(_) => Code::NotFound,
            Error::Blobs(error) => error.code(),
            Error::Storage(error) => error.code(),
        }
    }
}

/// What is said of a service that is being deleted.
const LEAVING: &str = "it is being deleted";

/// How a service is, as last seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// In Azure ML's words.
    pub state: State,
    /// Why, in a sentence; empty where there is nothing to say.
    pub reason: String,
    /// The generation that this is about.
    pub generation: u64,
    /// Where it answers, once that is known.
    pub url: Option<String>,
    /// Since when it is so.
    pub since: u64,
    /// Requests answered, per version of the service, in its order.
    pub answered: Vec<u64>,
    /// Nothing of it is left.
    pub gone: bool,
}

impl Observed {
    fn new(state: State, reason: impl Into<String>, generation: u64) -> Self {
        Self {
            state,
            reason: reason.into(),
            generation,
            url: None,
            since: crate::now(),
            answered: Vec::new(),
            gone: false,
        }
    }
}

/// Hears of changes of how a service is, from the moment at which it was asked for: whoever looks after that misses none.
pub struct News(watch::Receiver<Observed>);

impl News {
    /// Waits for a change or the service's end, at most `limit`.
    pub async fn wait(mut self, limit: Duration) {
        // Both a lapse and a gone sender end the wait.
        let _ = tokio::time::timeout(limit, self.0.changed()).await;
    }
}

/// What a supervisor is told.
#[derive(Debug, Clone)]
struct Wanted {
    service: Arc<Service>,
    /// No longer wanted: end it.
    gone: bool,
}

#[derive(Debug)]
struct Held {
    wanted: watch::Sender<Wanted>,
    observed: watch::Receiver<Observed>,
    task: JoinHandle<()>,
}

impl Held {
    fn is_leaving(&self) -> bool {
        self.wanted.borrow().gone
    }
}

/// All services of this dispatcher. Clones share them.
#[derive(Clone)]
pub struct Services(Arc<Inner>);

struct Inner {
    storage: Storage,
    bundles: Bundles,
    clusters: Clusters,
    folder: PathBuf,
    held: Mutex<BTreeMap<String, Held>>,
    /// One change at a time, so that records and supervisors agree.
    turn: AsyncMutex<()>,
}

impl Services {
    /// The services under `folder`, brought back to what the database says they are to be.
    pub async fn open(storage: Storage, blobs: Blobs, signing: Signing, folder: PathBuf) -> Result<Self, Error> {
        // The servers have working folders of their own.
        let folder = std::path::absolute(&folder).map_err(|source| Error::Disk { path: folder.clone(), source })?;
        let bundles = Bundles::new(blobs, storage.clone(), signing, folder.join("bundles"));
        let inner = Inner {
            storage,
            bundles,
            clusters: Clusters::default(),
            folder,
            held: Mutex::default(),
            turn: AsyncMutex::default(),
        };
        let services = Self(Arc::new(inner));
        for record in services.0.storage.services().await? {
            services.supervise(record.service, record.leaving);
        }
        Ok(services)
    }

    /// Refuses what the service's target cannot take.
    pub fn check(service: &Service) -> Result<(), Error> {
        match &service.target {
            Target::Local(_) => Ok(()),
            Target::Kubernetes(_) => clusters::check(service),
        }
    }

    /// Holds changes of services back until the guard is dropped.
    pub async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    /// Makes `service` so, from now on and until it is changed or ended.
    pub fn keep(&self, service: Service) {
        self.supervise(service, false);
    }

    fn supervise(&self, service: Service, gone: bool) {
        let wanted = Wanted { service: Arc::new(service), gone };
        let name = wanted.service.name.clone();
        let mut held = self.held();
        if let Some(held) = held.get(&name) {
            held.wanted.send_replace(wanted);
            return;
        }
        let reason = if gone { LEAVING } else { "it is being started" };
        let start = Observed::new(State::Transitioning, reason, wanted.service.generation);
        let (tell, observed) = watch::channel(start);
        let (sender, receiver) = watch::channel(wanted);
        let folder = self.0.folder.join(&name);
        let task = match sender.borrow().service.target {
            Target::Local(_) => tokio::spawn(local::supervise(self.0.bundles.clone(), folder, receiver, tell)),
            Target::Kubernetes(_) => tokio::spawn(self.0.clusters.clone().supervise(receiver, tell)),
        };
        held.insert(name, Held { wanted: sender, observed, task });
    }

    /// Has `name` ended, from now on.
    pub fn let_go(&self, name: &str) {
        if let Some(held) = self.held().get(name) {
            held.wanted.send_modify(|wanted| wanted.gone = true);
        }
    }

    /// Waits until nothing is left of `name`, which was let go. False where that is not so, but nobody works at it now.
    pub async fn ended(&self, name: &str) -> bool {
        let Some(mut observed) = self.held().get(name).map(|held| held.observed.clone()) else { return true };
        observed.wait_for(|observed| observed.gone).await.is_ok()
    }

    /// Forgets `name`, which was let go, whatever may be left of it on a cluster that does not answer.
    pub async fn forget(&self, name: &str) -> Result<(), Error> {
        if let Entry::Occupied(held) = self.held().entry(name.to_owned())
            && held.get().is_leaving()
        {
            let held = held.remove();
            held.task.abort();
            self.0.clusters.release(&held.wanted.borrow().service);
        }
        let folder = self.0.folder.join(name);
        match tokio::fs::remove_dir_all(&folder).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Disk { path: folder, source }),
            _ => Ok(()),
        }
    }

    /// How `name` is.
    pub fn observed(&self, name: &str) -> Option<Observed> {
        self.held().get(name).map(|held| held.observed.borrow().clone())
    }

    /// What hears when how `name` is changes from how it is now.
    pub fn follow(&self, name: &str) -> Option<News> {
        let mut observed = self.held().get(name)?.observed.clone();
        // The clone knows nothing of what others have seen already.
        observed.mark_unchanged();
        Some(News(observed))
    }

    /// The last `lines` lines of the service's log.
    pub async fn log(&self, name: &str, lines: usize) -> Result<String, Error> {
        let path = self.0.folder.join(name).join(process::LOG);
        tokio::task::spawn_blocking(move || process::tail(&path, lines))
            .await
            .map_err(|error| Error::Program(error.to_string()))?
    }

    /// Asks the local service `name` as its operator: a path, and a body with its type.
    pub async fn ask(&self, name: &str, request: socket::Request) -> Result<socket::Answer, Error> {
        let (is_local, observed) = {
            let held = self.held();
            let held = held.get(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
            let is_local = matches!(held.wanted.borrow().service.target, Target::Local(_));
            (is_local, held.observed.borrow().clone())
        };
        if !is_local {
            return Err(Error::Elsewhere(name.to_owned()));
        }
        let Some(url) = observed.url else {
            return Err(Error::Unreachable(format!("it is {}: {}", observed.state, observed.reason)));
        };
        local::ask(&self.0.folder.join(name), &url, request).await
    }

    /// Stops watching. What runs goes on, and is found again at the next start.
    pub fn leave(&self) {
        for held in std::mem::take(&mut *self.held()).into_values() {
            held.task.abort();
        }
    }

    /// The versions that services need, by the digests of their manifests.
    pub async fn needed(&self) -> Result<Vec<(String, String)>, Error> {
        let records = self.0.storage.services().await?;
        let of = |record: storage::ServiceRecord| {
            let name = record.service.name;
            let digests = record.service.revisions.into_iter().chain(record.before).map(|revision| revision.digest);
            digests.map(move |digest| (digest, name.clone())).collect::<Vec<_>>()
        };
        Ok(records.into_iter().flat_map(of).collect())
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub use socket::{Answer, Request};
