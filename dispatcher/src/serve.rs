//! Assembles the dispatcher: folder, keys, database, broker, link, services, façade. `http` serves the façade.
//!
//! On an empty folder everything is made, and an administrator's token with it; restarts change nothing.

mod maintain;

use std::fs::{File, TryLockError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_proto::code::Code;
use muster_proto::id::Workspace;
use muster_proto::topic;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use crate::acl::{self, FleetAcl};
use crate::app::{self, Addresses, App, BrokerAddress};
use crate::blobs::{self, Blobs};
use crate::broker::{self, Broker};
use crate::ca::{self, Ca, Identity};
use crate::control;
use crate::counters::Counters;
use crate::driver::{self, Driver, Inbox, Outbox, TelemetryQueue};
use crate::link::{self, Endpoint, Link};
use crate::registry::{self, Registry};
use crate::services::{self, Services};
use crate::signer::{self, Signer};
use crate::signing::Signing;
use crate::storage::{self, Storage};
use crate::tls::{self, ClientAuth};
use crate::transfer::{self, Transfer};

/// Watchers that lag further behind lose events.
const WATCH_EVENTS: usize = 4096;
/// The largest file that may be uploaded, in bytes.
const UPLOAD_LIMIT: u64 = 2 << 30;
/// How long the link may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_millis(500);

/// What the dispatcher runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder for keys, database and model files.
    pub data: PathBuf,
    /// The workspace.
    pub workspace: Workspace,
    /// Names and addresses under which others reach this machine; the first one goes into enrolment tokens.
    pub hostnames: Vec<String>,
    /// Where the HTTP API is served (port 0: the caller has to say in `api_url`).
    pub api: SocketAddr,
    /// Where others reach the API, if not at the first hostname and the port of `api`.
    pub api_url: Option<String>,
    /// Where devices reach the broker, if not at the first hostname and its port, or the URL's.
    pub broker_address: Option<(String, u16)>,
    /// The broker.
    pub broker: BrokerChoice,
    /// Where ModelService resources are kept; none for no cluster.
    pub control: Option<control::Config>,
}

/// Which broker to use.
#[derive(Debug, Clone)]
pub enum BrokerChoice {
    /// The embedded one.
    Embedded {
        /// Where it listens for devices.
        listen: SocketAddr,
    },
    /// An external one.
    External {
        /// Where it is.
        endpoint: Endpoint,
        /// The authority that signed its certificate, as PEM; the dispatcher's own where there is none.
        ca_file: Option<PathBuf>,
        /// Certificate and key to show it, as PEM; of the dispatcher's own authority where there is none.
        identity_files: Option<(PathBuf, PathBuf)>,
    },
}

/// Why the dispatcher does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder cannot be used.
    #[error("the data folder {} cannot be used", .path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another dispatcher has the folder.
    #[error("another muster serve is using {}: stop it or choose another folder", .0.display())]
    Locked(PathBuf),
    /// The configuration names no hostname.
    #[error("hostnames is empty: name at least one under which devices reach this machine")]
    NoHostname,
    /// A file of the external broker's TLS cannot be used.
    #[error("{} cannot be used for the connection to the broker: {reason}", .path.display())]
    BrokerTls {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate authority.
    #[error(transparent)]
    Ca(#[from] ca::Error),
    /// The signer.
    #[error(transparent)]
    Signer(#[from] signer::Error),
    /// The database.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The blob folder.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The services.
    #[error(transparent)]
    Services(#[from] services::Error),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// TLS or a port.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The embedded broker.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// The first key could not be made.
    #[error("the administrator's token could not be made")]
    App(#[from] app::Error),
    /// A part of the start was lost.
    #[error("a part of the start was lost")]
    Lost(#[from] tokio::task::JoinError),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::NoHostname | Error::BrokerTls { .. } => Code::ConfigInvalid,
            Error::Tls(tls::Error::InUse(_)) | Error::Broker(broker::Error::Door(tls::Error::InUse(_))) => {
                Code::PortInUse
            }
            Error::Locked(_) => Code::Conflict,
            Error::Folder { .. } => Code::StoreFailed,
            Error::Ca(error) => error.code(),
            Error::Signer(error) => error.code(),
            Error::Storage(error) => error.code(),
            Error::Blobs(error) => error.code(),
            Error::Services(error) => error.code(),
            Error::Registry(error) => error.code(),
            Error::App(error) => error.code(),
            Error::Tls(_) | Error::Broker(broker::Error::Door(_)) => Code::ConfigInvalid,
            Error::Broker(broker::Error::Inner(_)) | Error::Lost(_) => Code::Internal,
        }
    }
}

/// A running dispatcher. [`Running::shutdown`] ends it in good order; dropping it ends it at once.
pub struct Running {
    /// The façade: serve it with `http::router(app)`.
    pub app: App,
    /// What the API's listener needs for TLS.
    pub api_identity: Identity,
    /// Where devices connect to the embedded broker.
    pub broker_addr: Option<SocketAddr>,
    /// The administrator's token, on the first start only: it is stored nowhere.
    pub first_token: Option<String>,
    link: Link,
    storage: Storage,
    broker: Option<Broker>,
    tasks: Tasks,
    _lock: File,
}

/// Tasks that end with the dispatcher.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Starts everything but the HTTP server.
pub async fn start(config: Config) -> Result<Running, Error> {
    tls::ensure_provider();
    let first_name = config.hostnames.first().cloned().ok_or(Error::NoHostname)?;
    let now = crate::now();
    let lock = lock(&config.data)?;
    let (ca, signer) = {
        let (data, workspace) = (config.data.clone(), config.workspace.clone());
        let open = tokio::task::spawn_blocking(move || {
            let ca = Ca::load_or_create(&data.join("ca"))?;
            Ok::<_, Error>((ca, Signer::load_or_create(&data.join("signer"), workspace, now)?))
        });
        open.await??
    };
    let signing = Signing::new(signer);
    let storage = Storage::open(&config.data.join("muster.db")).await?;
    let blobs = Blobs::open(&config.data.join("blobs")).await?;
    let registry = Registry::open(storage.clone(), blobs.clone(), signing.clone(), config.data.join("work")).await?;

    let counters = Counters::default();
    let (watch, _) = broadcast::channel(WATCH_EVENTS);
    let outbox = Outbox::default();
    let fleet = storage.load_fleet(config.workspace.clone(), now).await?;
    let parts = driver::Parts {
        storage: storage.clone(),
        fence: storage.take_fence().await?,
        outbox: outbox.clone(),
        watch: watch.clone(),
        counters: counters.clone(),
    };
    let (driver, driving) = Driver::start(fleet, parts);
    let (telemetry, adding) = TelemetryQueue::start(storage.clone(), outbox.clone(), driver.clone());
    let metadata = signing.clone();
    let (transfer, sender) = Transfer::new(transfer::Parts {
        workspace: config.workspace.clone(),
        blobs: blobs.clone(),
        storage: storage.clone(),
        metadata: Arc::new(move |which| metadata.blocking(|signer| signer.metadata(which))),
        counters: counters.clone(),
    });

    let (broker, link_config) = match &config.broker {
        BrokerChoice::Embedded { listen } => {
            let acl = FleetAcl::new(config.workspace.clone(), driver.clone());
            let broker = embedded(&ca, &config, *listen, acl).await?;
            let link = link_to_embedded(&ca, &config.workspace, broker.local_addr())?;
            (Some(broker), link)
        }
        BrokerChoice::External { endpoint, ca_file, identity_files } => {
            let link = link_to_external(&ca, &config.workspace, endpoint, ca_file.as_deref(), identity_files.as_ref())?;
            (None, link)
        }
    };
    let broker_address = broker_address(&config, &first_name, broker.as_ref(), &link_config.endpoint);
    let mut inbox = Inbox::new(config.workspace.clone(), driver.clone(), transfer.clone(), telemetry, counters.clone());
    let (link, polling) = Link::start(link_config, move |incoming| inbox.take(incoming));
    let sending = outbox.start(config.workspace.clone(), signing.clone(), link.clone());
    let serving = sender.start(link.clone());
    let maintaining = maintain::start(signing.clone(), registry.clone());

    let api_url = config.api_url.clone().unwrap_or_else(|| format!("https://{}", at(&first_name, config.api.port())));
    let api_identity = ca.issue_server(&names(&config, config.api.ip()))?;
    let services =
        Services::open(storage.clone(), blobs.clone(), signing.clone(), config.data.join("services")).await?;
    let app = App::new(app::Parts {
        workspace: config.workspace.clone(),
        storage: storage.clone(),
        blobs,
        signing,
        registry,
        ca,
        driver,
        services,
        link: link.clone(),
        counters,
        watch,
        addresses: Addresses { api_url, broker: broker_address },
        started_at: now,
        upload_limit: UPLOAD_LIMIT,
    });
    app.resume_deletions().await?;
    let first_token = app.ensure_first_key().await?;
    let controlling = config.control.map(|control| tokio::spawn(control::run(app.clone(), control)));
    Ok(Running {
        app,
        api_identity,
        broker_addr: broker.as_ref().map(Broker::local_addr),
        first_token,
        link,
        storage,
        broker,
        tasks: Tasks(
            [driving, adding, polling, sending, serving, maintaining].into_iter().chain(controlling).collect(),
        ),
        _lock: lock,
    })
}

impl Running {
    /// Ends everything in good order; stop the HTTP server before.
    pub async fn shutdown(mut self) {
        self.app.leave_services();
        self.link.disconnect();
        tokio::time::sleep(GOOD_BYE).await;
        if let Some(broker) = self.broker.take() {
            broker.shutdown().await;
        }
        for task in std::mem::take(&mut self.tasks.0) {
            task.abort();
            // An error is what an aborted task answers.
            let _ = task.await;
        }
        self.storage.close().await;
    }
}

/// Makes the folder, readable by its owner only, and takes it for this process.
fn lock(data: &Path) -> Result<File, Error> {
    let failed = |source| Error::Folder { path: data.to_owned(), source };
    std::fs::create_dir_all(data).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(data.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(data.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// What a server's certificate is for: the configured names, and how this machine reaches itself.
fn names(config: &Config, listen: IpAddr) -> Vec<String> {
    let mut names = config.hostnames.clone();
    let own = [reachable(listen).to_string(), Ipv4Addr::LOCALHOST.to_string(), "localhost".into()];
    for name in own {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// An address at which this machine reaches what listens on `ip`.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Host and port as a URL has them: an IPv6 address in brackets.
pub(crate) fn at(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn embedded(ca: &Ca, config: &Config, listen: SocketAddr, acl: FleetAcl) -> Result<Broker, Error> {
    let identity = ca.issue_server(&names(config, listen.ip()))?;
    let tls = tls::server_config(&identity, ClientAuth::Required(ca.certificate_der()))?;
    let limits = broker::Limits::default();
    Ok(Broker::start(broker::Config { listen, tls, acl: Arc::new(acl), limits }).await?)
}

fn link_to_embedded(ca: &Ca, workspace: &Workspace, broker: SocketAddr) -> Result<link::Config, Error> {
    let client_id = acl::service(workspace);
    let identity = ca.issue_client(workspace.as_str(), &client_id)?;
    let host = reachable(broker.ip()).to_string();
    Ok(link::Config {
        endpoint: Endpoint { host, port: broker.port(), tls: true, credentials: None },
        tls: Some(Arc::new(tls::client_config(ca.certificate_der(), Some(&identity))?)),
        client_id,
        filters: topic::dispatcher_filters(workspace),
    })
}

fn link_to_external(
    ca: &Ca,
    workspace: &Workspace,
    endpoint: &Endpoint,
    ca_file: Option<&Path>,
    identity_files: Option<&(PathBuf, PathBuf)>,
) -> Result<link::Config, Error> {
    let client_id = acl::service(workspace);
    let tls = if endpoint.tls {
        let authority = match ca_file {
            None => ca.certificate_der(),
            Some(path) => {
                let unusable = |reason| Error::BrokerTls { path: path.to_owned(), reason };
                let pem = read(path)?;
                CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| unusable(e.to_string()))?
            }
        };
        let identity = match identity_files {
            None => ca.issue_client(workspace.as_str(), &client_id)?,
            Some((certificate, key)) => Identity { certificates_pem: read(certificate)?, key_pem: read(key)? },
        };
        Some(Arc::new(tls::client_config(authority, Some(&identity))?))
    } else {
        None
    };
    Ok(link::Config { endpoint: endpoint.clone(), tls, client_id, filters: topic::dispatcher_filters(workspace) })
}

fn read(path: &Path) -> Result<String, Error> {
    let unusable = |e: std::io::Error| Error::BrokerTls { path: path.to_owned(), reason: e.to_string() };
    std::fs::read_to_string(path).map_err(unusable)
}

fn broker_address(config: &Config, first_name: &str, broker: Option<&Broker>, endpoint: &Endpoint) -> BrokerAddress {
    if let Some((host, port)) = &config.broker_address {
        return BrokerAddress { host: host.clone(), port: *port, tls: endpoint.tls };
    }
    match broker {
        Some(broker) => BrokerAddress { host: first_name.to_owned(), port: broker.local_addr().port(), tls: true },
        None => BrokerAddress { host: endpoint.host.clone(), port: endpoint.port, tls: endpoint.tls },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::*;

    #[test]
    fn a_restart_is_tried_only_where_it_may_help() {
        let addr: SocketAddr = "192.0.2.1:8883".parse().expect("valid");
        let unusable = || tls::Error::Listen { addr, source: ErrorKind::AddrNotAvailable.into() };
        let signer_io = |kind: ErrorKind| signer::Error::Io {
            action: "read",
            path: "root.p8".into(),
            source: io::Error::from(kind),
        };
        let ca_io =
            |kind: ErrorKind| ca::Error::File { action: "read", path: "ca.key".into(), source: io::Error::from(kind) };
        let table: [(Error, Code); 12] = [
            (signer::Error::Missing { path: "root.p8".into() }.into(), Code::ConfigInvalid),
            (signer::Error::KeyUnreadable { path: "root.p8".into() }.into(), Code::ConfigInvalid),
            (signer_io(ErrorKind::PermissionDenied).into(), Code::StoreFailed),
            (signer_io(ErrorKind::StorageFull).into(), Code::DiskFull),
            (ca::Error::KeyMissing { key: "ca.key".into(), certificate: "ca.crt".into() }.into(), Code::ConfigInvalid),
            (ca::Error::Damaged { path: "ca.key".into(), reason: "cut off".into() }.into(), Code::ConfigInvalid),
            (ca::Error::Name { name: "a b".into(), reason: "it is no name" }.into(), Code::ConfigInvalid),
            (ca_io(ErrorKind::PermissionDenied).into(), Code::StoreFailed),
            (ca_io(ErrorKind::StorageFull).into(), Code::DiskFull),
            (unusable().into(), Code::ConfigInvalid),
            (broker::Error::Door(unusable()).into(), Code::ConfigInvalid),
            (broker::Error::Door(tls::Error::InUse(addr)).into(), Code::PortInUse),
        ];
        for (error, code) in table {
            assert_eq!(error.code(), code, "{error}");
        }
    }
}
