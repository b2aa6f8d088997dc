//! Puts a scoring server together: services, engine, listeners; and takes it down in an order that costs no request.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_proto::code::Code;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::admin;
use super::config::{self, Document, Tls};
use super::desk::{self, Desk};
use crate::api::{Api, Exposure, Limits, Server, Services, router};
use crate::engine::{Executor, Slots};
use crate::otlp::{self, Telemetry};
use crate::run;

/// How many requests of all services may wait for a thread, after they passed their gates.
const QUEUE: usize = 4096;
/// How much memory the bodies of all requests may take, in bytes.
const BODIES: usize = 1 << 30;
/// How long requests under way may take once nothing new is taken.
const GRACE: Duration = Duration::from_secs(30);

/// Why a scoring server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document cannot be used.
    #[error(transparent)]
    Document(#[from] config::Error),
    /// A service cannot be brought up at all.
    #[error(transparent)]
    Desk(#[from] desk::Error),
    /// The threads cannot be started, or an address cannot be had.
    #[error(transparent)]
    Run(#[from] run::Error),
    /// Traces and metrics cannot be exported so.
    #[error(transparent)]
    Otlp(#[from] otlp::Error),
    /// Certificate or key cannot be used.
    #[error("{}: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Document(_) | Error::Otlp(_) | Error::Tls { .. } => Code::ConfigInvalid,
            Error::Desk(error) => error.code(),
            Error::Run(error) => error.code(),
        }
    }
}

/// A running scoring server.
#[derive(Debug)]
pub struct Scoring {
    /// Where REST and gRPC listen.
    pub address: Option<SocketAddr>,
    /// Where the admin listener is.
    pub admin: Option<SocketAddr>,
    /// Changes what is served.
    pub desk: Arc<Desk>,
    services: Arc<Services>,
    telemetry: Option<Arc<Telemetry>>,
    data: Server,
    admin_server: Server,
    drain: Duration,
}

/// Starts what `document` says. Listens first, so that health is told while models load; ready comes after.
pub async fn start(document: &Document) -> Result<Scoring, Error> {
    crate::ensure_crypto_provider();
    document.check()?;
    let tls = document.tls.as_ref().map(tls).transpose()?;
    let threads = NonZeroUsize::new(document.threads).map_or_else(std::thread::available_parallelism, Ok);
    let threads = threads.unwrap_or(NonZeroUsize::MIN);
    let executor = Executor::start(Arc::new(Slots::default()), Some(threads), QUEUE).map_err(run::Error::Threads)?;
    let services = Arc::new(Services::default());
    document.services.iter().for_each(|service| services.expect(&service.name));
    let body = document.services.iter().map(|service| service.settings.body_bytes).max();
    let body = body.unwrap_or(Limits::default().body);
    // The limit of one body is its service's, which may be changed; that of a call over gRPC is the largest at the start.
    let limits = Limits { body, bodies: BODIES.max(body), ..Limits::default() };
    let executor = Arc::new(executor);
    let export = otlp::Export::of(document.otlp.as_ref(), |name| std::env::var(name).ok())?;
    let source = otlp::Source { services: Arc::clone(&services), executor: Arc::downgrade(&executor) };
    let telemetry = export.map(|export| Telemetry::start(export, source, tls.is_some())).transpose()?.map(Arc::new);
    let mut api = Api::new(executor, limits).with_services(Arc::clone(&services));
    if let Some(telemetry) = &telemetry {
        api = api.with_observer(Arc::clone(telemetry) as _);
    }
    let api = Arc::new(api);
    let sampler = document.collect.as_ref().map(|collect| {
        let failed = |source| run::Error::Collect { folder: collect.folder.clone(), source };
        collect.start(Path::new("")).map_err(failed)
    });
    let sampler = sampler.transpose()?.flatten();
    let desk = Arc::new(Desk::new(Arc::clone(&services), threads.get(), sampler));

    let (mut data, mut admin_server) = (Server::default(), Server::default());
    let exposure = |ip: std::net::IpAddr| if ip.is_loopback() { Exposure::Loopback } else { Exposure::Network };
    if let Some(address) = document.admin {
        admin_server.listen(address, admin::router(&api, &desk, document, exposure(address.ip()))).await?;
    }
    if let Some(path) = &document.admin_socket {
        admin_server.listen_socket(path, admin::router(&api, &desk, document, Exposure::Socket)).await?;
    }
    let routes = router(&api, exposure(document.listen.ip()));
    match tls {
        Some(tls) => data.listen_tls(document.listen, Arc::new(tls), routes).await?,
        None => data.listen(document.listen, routes).await?,
    }
    let drain = Duration::from_millis(document.drain_ms);
    let (address, admin) = (data.address(), admin_server.address());
    Ok(Scoring { address, admin, desk, services, telemetry, data, admin_server, drain })
}

impl Scoring {
    /// Not ready at once, so that balancers send nothing new; goes on for the drain time; ends what is under way, and sends
    /// what is known of it.
    pub async fn stop(self) {
        self.services.leave();
        tokio::time::sleep(self.drain).await;
        self.data.stop_within(GRACE).await;
        if let Some(telemetry) = self.telemetry {
            telemetry.stop().await;
        }
        self.admin_server.stop().await;
    }
}

fn tls(files: &Tls) -> Result<ServerConfig, Error> {
    let failed = |path: &Path, reason: String| Error::Tls { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(|all| all.collect::<Result<Vec<_>, _>>())
        .map_err(|error| failed(&files.certificate, format!("not a PEM certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| failed(&files.key, format!("not a PEM key: {error}")))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.map_err(|error| failed(&files.certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
