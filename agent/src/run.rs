//! Puts a running agent together: identity, store, engine, core, link, driver, local API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_proto::code::Code;
use muster_proto::trust::{self, Director, Repository};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::core::event::Signed;
use crate::core::state::OnDisk;
use crate::core::{self, State};
use crate::driver::{Driver, Status};
use crate::engine::{Executor, Slots};
use crate::identity::{self, Identity};
use crate::link::{self, Link};
use crate::store::{self, Contents, Store};
use crate::veto::Vetoes;
use crate::vitals;

/// How many messages from the broker may wait for the driver; beyond that the connection waits.
const INCOMING: usize = 64;
/// Partial blobs that nobody has touched for this long are removed at start.
const PARTIAL_AGE: std::time::Duration = std::time::Duration::from_secs(14 * 24 * 3600);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable identity.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The root of the enrolment cannot be read.
    #[error("the trust root of the enrolment cannot be used: enrol the device again")]
    Trust(#[from] trust::Error),
    /// The device's key and certificate do not fit.
    #[error("the device's certificate cannot be used: enrol the device again")]
    Tls(#[from] rustls::Error),
    /// The threads for inferences cannot be started.
    #[error("cannot start the threads that run inferences")]
    Threads(#[source] std::io::Error),
    /// The folder for samples cannot be used.
    #[error("samples cannot be kept in {}: {source}", folder.display())]
    Collect {
        /// The folder.
        folder: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The local API's address or socket cannot be had.
    #[error("cannot listen on {at}: {reason}")]
    Listen {
        /// The address or path.
        at: String,
        /// The cause.
        reason: String,
        /// Whether somebody else has it.
        in_use: bool,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Identity(error) => error.code(),
            Error::Store(error) => error.code(),
            Error::Trust(error) => error.code(),
            Error::Tls(_) => Code::ConfigInvalid,
            Error::Threads(_) => Code::Internal,
            Error::Collect { .. } => Code::StoreFailed,
            Error::Listen { in_use: true, .. } => Code::PortInUse,
            Error::Listen { .. } => Code::ConfigInvalid,
        }
    }
}

/// The folder with the identity.
pub fn identity_dir(data: &Path) -> PathBuf {
    data.join("identity")
}

/// The folder with the store.
pub fn store_dir(data: &Path) -> PathBuf {
    data.join("store")
}

/// A running agent.
pub struct Agent {
    /// What it does.
    pub status: watch::Receiver<Status>,
    /// Runs inferences on what the slots hold.
    pub executor: Arc<Executor>,
    /// What answers.
    pub slots: Arc<Slots>,
    /// Where the local API listens.
    pub http: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    driver: JoinHandle<()>,
    link: JoinHandle<()>,
    api: Option<crate::api::Server>,
}

/// Starts an agent. What it ran before answers again without waiting for the network.
pub async fn start(config: Config) -> Result<Agent, Error> {
    crate::ensure_crypto_provider();
    let identity = Arc::new(Identity::load(&identity_dir(&config.data))?);
    let (store, contents) = Store::open(&store_dir(&config.data))?;
    store.files.sweep_partial(PARTIAL_AGE)?;
    let (_, disk_bytes) = store.files.disk()?;
    let state = state(&config, &identity, contents, disk_bytes)?;
    let slots = Arc::new(Slots::default());
    let threads = std::num::NonZeroUsize::new(config.inference_threads);
    let executor = Executor::start(slots.clone(), threads, config.inference_queue).map_err(Error::Threads)?;
    let executor = Arc::new(executor);

    let (incoming, messages) = mpsc::channel(INCOMING);
    let broker = &identity.broker;
    let tls = if broker.tls { Some(identity.tls()?) } else { None };
    let (link, link_task) = Link::start(
        link::Config {
            host: broker.host.clone(),
            port: broker.port,
            tls,
            workspace: identity.workspace.clone(),
            device: identity.device.clone(),
            keep_alive: config.keep_alive,
        },
        incoming,
    );
    let vetoes = Arc::new(Vetoes::new(config.veto_file()));
    let (driver, status, results) =
        Driver::new(state, Arc::new(store), slots.clone(), identity, Some(link), vetoes.clone());
    let driver = driver.with_sampler(
        config
            .collect
            .start(&config.data)
            .map_err(|source| Error::Collect { folder: config.data.join(&config.collect.folder), source })?,
    );
    let api = crate::api::start(&config, executor.clone(), status.clone(), vetoes).await?;
    let (stop, stopped) = oneshot::channel();
    let driver = tokio::spawn(driver.run(results, messages, stopped, config.telemetry_window));
    Ok(Agent {
        status,
        executor,
        slots,
        http: api.address(),
        stop: Some(stop),
        driver,
        link: link_task,
        api: Some(api),
    })
}

impl Agent {
    /// Stops in good order: the state says so, the broker hears it, requests under way are answered.
    pub async fn stop(mut self) {
        if let Some(api) = self.api.take() {
            api.stop().await;
        }
        drop(self.stop.take());
        if let Err(error) = (&mut self.driver).await {
            tracing::error!(%error, "the driver did not end in good order");
        }
        // The last messages leave with the event loop; it ends by itself when nobody receives any more.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), &mut self.link).await;
        self.link.abort();
    }

    /// Ends at once, as a crash would.
    pub fn abort(self) {
        self.driver.abort();
        self.link.abort();
    }
}

/// The core's state from what the store holds.
fn state(config: &Config, identity: &Identity, contents: Contents, disk_bytes: u64) -> Result<State, Error> {
    let signed = |what| contents.signed.get(&what).map(Vec::as_slice);
    let root = signed(Signed::Root).unwrap_or(&identity.root);
    let stored = trust::Stored {
        timestamp: signed(Signed::Timestamp),
        snapshot: signed(Signed::Snapshot),
        targets: signed(Signed::Targets),
    };
    let (repository, refused) = match Repository::restore(root, stored) {
        Ok(restored) => restored,
        // A stored root that cannot be read: the one of the enrolment can.
        Err(error) => {
            tracing::error!(%error, "the stored trust root is damaged; going on from the enrolment's");
            (Repository::new(&identity.root)?, Vec::new())
        }
    };
    for (role, error) in refused {
        tracing::error!(?role, %error, "stored metadata were refused and are fetched again");
    }
    let director = match signed(Signed::DirectorRoot).map(Director::new) {
        Some(Ok(director)) => director,
        _ => Director::new(&identity.director_root)?,
    };
    let durable = match contents.durable {
        Some(durable) => durable,
        None => rebuilt(identity, &contents.signed, &contents, &repository, &director),
    };
    let on_disk = OnDisk { durable, files: contents.files, manifests: contents.manifests, outbox: contents.outbox };
    let who = core::Identity { workspace: identity.workspace.clone(), device: identity.device.clone() };
    let agent = vitals::agent_info(disk_bytes);
    Ok(State::new(who, config.limits.clone(), agent, repository, director, on_disk))
}

/// The durable state of a new store, or of one whose index was lost.
fn rebuilt(
    identity: &Identity,
    signed: &std::collections::BTreeMap<Signed, Vec<u8>>,
    contents: &Contents,
    repository: &Repository,
    director: &Director,
) -> core::Durable {
    let mut bytes = [0u8; 8];
    let _ = getrandom::fill(&mut bytes);
    let incarnation = u64::from_le_bytes(bytes);
    let desired = signed.get(&Signed::Desired).and_then(|bytes| {
        let verified = director.verify(bytes, &identity.workspace, &identity.device, None).ok()?;
        Some((verified, bytes.as_slice()))
    });
    let desired = desired.as_ref().map(|(verified, bytes)| (verified, *bytes));
    store::rebuild(desired, repository, &contents.manifests, &contents.files, incarnation)
}
