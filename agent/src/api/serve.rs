//! Listening, connections and their patience. It knows no route.
//!
//! axum's own server has neither a time limit for a request's head nor a limit of connections, so the
//! connections are served by hyper directly.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::patience::{Heads, Patient};
use crate::run::Error;

/// The most connections at once, of all listeners; more wait to be accepted.
const CONNECTIONS: usize = 512;
/// How long a connection may rest between requests: longer than balancers and clients keep theirs.
const IDLE: Duration = Duration::from_secs(75);
/// How long a request's head may take from its first byte, and a new connection up to its first head.
const HEAD: Duration = Duration::from_secs(10);
/// The largest head.
const HEAD_BYTES: usize = 64 << 10;
/// How long requests under way may take after the end was announced.
const GRACE: Duration = Duration::from_secs(5);
/// How long a listener rests where the system has no more file descriptors.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// Running listeners, none at first.
#[derive(Debug, Default)]
pub struct Server {
    address: Option<SocketAddr>,
    socket: Option<PathBuf>,
    stop: watch::Sender<bool>,
    connections: Connections,
    listeners: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address`.
    pub async fn listen(&mut self, address: SocketAddr, router: Router) -> Result<(), Error> {
        let failed = |error: io::Error| listen_error(&address.to_string(), &error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        self.address = Some(listener.local_addr().map_err(failed)?);
        let listener = Arc::new(listener);
        let accept = move || {
            let listener = Arc::clone(&listener);
            async move {
                let (stream, _) = listener.accept().await?;
                // Answers are small and complete: waiting for more to send only delays them.
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
        };
        self.spawn(accept, router);
        Ok(())
    }

    /// Listens on a Unix socket at `path`, which its owner and group may use.
    pub async fn listen_socket(&mut self, path: &Path, router: Router) -> Result<(), Error> {
        let listener = bind_socket(path).map_err(|error| listen_error(&path.display().to_string(), &error))?;
        self.socket = Some(path.to_owned());
        let listener = Arc::new(listener);
        let accept = move || {
            let listener = Arc::clone(&listener);
            async move { Ok(listener.accept().await?.0) }
        };
        self.spawn(accept, router);
        Ok(())
    }

    /// Where it listens, with the port that the system chose where 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Takes no more connections, answers what is under way for at most 5 s, and removes the socket.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for listener in self.listeners {
            let _ = listener.await;
        }
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }

    fn spawn<A, F, S>(&mut self, accept: A, router: Router)
    where
        A: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (stop, connections) = (self.stop.subscribe(), self.connections.clone());
        self.listeners.push(tokio::spawn(accept_all(accept, router, connections, stop)));
    }
}

/// How many more connections there may be.
#[derive(Debug, Clone)]
struct Connections(Arc<Semaphore>);

impl Default for Connections {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS)))
    }
}

async fn accept_all<A, F, S>(accept: A, router: Router, free: Connections, mut stop: watch::Receiver<bool>)
where
    A: Fn() -> F,
    F: Future<Output = io::Result<S>>,
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&free.0).acquire_owned().await;
            (permit, accept().await)
        };
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            (permit, stream) = next => match (permit, stream) {
                (Ok(permit), Ok(stream)) => drop(connections.spawn(serve(stream, router.clone(), permit, stop.clone()))),
                (_, Err(error)) if is_of_the_connection(&error) => {}
                (_, Err(error)) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(EXHAUSTED).await;
                }
                (Err(_), Ok(_)) => break,
            },
        }
    }
    drop(accept);
    let all_answered = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, all_answered).await;
}

async fn serve<S>(stream: S, router: Router, permit: OwnedSemaphorePermit, mut stop: watch::Receiver<bool>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let heads = Heads::default();
    let (router, counted) = (TowerToHyperService::new(router), heads.clone());
    let service = service_fn(move |request| {
        let (serving, answer) = (counted.serve(), router.call(request));
        async move {
            let answer = answer.await;
            drop(serving);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, heads, HEAD)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
    drop(permit);
}

/// Waits for the end, which a server that was dropped has come to as well.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Whether `accept` failed because the caller has gone, and not the listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The socket gets its name only once nobody but owner and group can use it.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        // A socket that nobody listens on is left from a process that was killed.
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        _ => {}
    }
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    let named = std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o660))
        .and_then(|()| std::fs::rename(&hidden, path));
    if named.is_err() {
        let _ = std::fs::remove_file(&hidden);
    }
    named.map(|()| listener)
}

fn listen_error(at: &str, error: &io::Error) -> Error {
    let in_use = error.kind() == io::ErrorKind::AddrInUse;
    let reason = if in_use { "somebody listens there already".to_owned() } else { error.to_string() };
    Error::Listen { at: at.to_owned(), reason, in_use }
}
