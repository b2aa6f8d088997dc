//! Listening, connections and their patience. It knows no route.
//!
//! axum's own server has neither a time limit for a request's head nor a limit of connections, so the
//! connections are served by hyper directly. A connection that begins with the preface of HTTP/2 is HTTP/2.

use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::HOST;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
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
const HEAD_BYTES: u32 = 64 << 10;
/// The most requests at once, of all connections; more wait. HTTP/1 never gets there.
const REQUESTS: usize = 1024;
/// The most requests at once on a connection of HTTP/2.
const STREAMS: u32 = 128;
/// What a request over HTTP/2 may send before it is read.
const STREAM_WINDOW: u32 = 256 << 10;
/// What a connection of HTTP/2 may send before it is read.
const CONNECTION_WINDOW: u32 = 512 << 10;
/// The largest frame of HTTP/2, which is also the least that the protocol allows.
const FRAME: u32 = 16 << 10;
/// How often a connection of HTTP/2 is asked whether somebody is there, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How long requests under way may take after the end was announced.
const GRACE: Duration = Duration::from_secs(5);
/// How long a listener rests where the system has no more file descriptors.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// Running listeners, none at first.
#[derive(Debug, Default)]
pub struct Server {
    address: Option<SocketAddr>,
    socket: Option<PathBuf>,
    stop: watch::Sender<Option<Duration>>,
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
        self.spawn(accept, |stream| ready(Ok(stream)), router);
        Ok(())
    }

    /// Listens on `address` with TLS.
    pub async fn listen_tls(
        &mut self,
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        router: Router,
    ) -> Result<(), Error> {
        let failed = |error: io::Error| listen_error(&address.to_string(), &error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        self.address = Some(listener.local_addr().map_err(failed)?);
        let (listener, acceptor) = (Arc::new(listener), tokio_rustls::TlsAcceptor::from(tls));
        let accept = move || {
            let listener = Arc::clone(&listener);
            async move {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
        };
        self.spawn(accept, move |stream| acceptor.accept(stream), router);
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
        self.spawn(accept, |stream| ready(Ok(stream)), router);
        Ok(())
    }

    /// Where it listens, with the port that the system chose where 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Takes no more connections, answers what is under way for at most 5 s, and removes the socket.
    pub async fn stop(self) {
        self.stop_within(GRACE).await;
    }

    /// As [`Server::stop`], with another limit for what is under way.
    pub async fn stop_within(self, grace: Duration) {
        self.stop.send_replace(Some(grace));
        for listener in self.listeners {
            let _ = listener.await;
        }
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }

    /// `shake` makes a connection usable; it has as long as a request's head, and holds up no other connection.
    fn spawn<A, F, S, H, G, T>(&mut self, accept: A, shake: H, router: Router)
    where
        A: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: Send + 'static,
        H: Fn(S) -> G + Send + Sync + 'static,
        G: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stop, connections) = (self.stop.subscribe(), self.connections.clone());
        self.listeners.push(tokio::spawn(accept_all(accept, shake, router, connections, stop)));
    }
}

/// How many more connections and requests there may be.
#[derive(Debug, Clone)]
struct Connections {
    free: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

impl Default for Connections {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(CONNECTIONS)), requests: Arc::new(Semaphore::new(REQUESTS)) }
    }
}

async fn accept_all<A, F, S, H, G, T>(
    accept: A,
    shake: H,
    router: Router,
    more: Connections,
    mut stop: watch::Receiver<Option<Duration>>,
) where
    A: Fn() -> F,
    F: Future<Output = io::Result<S>>,
    H: Fn(S) -> G,
    G: Future<Output = io::Result<T>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&more.free).acquire_owned().await;
            (permit, accept().await)
        };
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            (permit, stream) = next => match (permit, stream) {
                (Ok(permit), Ok(stream)) => {
                    let (shaken, router, stop) = (shake(stream), router.clone(), stop.clone());
                    let requests = Arc::clone(&more.requests);
                    connections.spawn(async move {
                        if let Ok(Ok(stream)) = tokio::time::timeout(HEAD, shaken).await {
                            serve(stream, router, requests, permit, stop).await;
                        }
                    });
                }
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
    let grace = stop.borrow().unwrap_or(GRACE);
    let all_answered = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(grace, all_answered).await;
}

async fn serve<S>(
    stream: S,
    router: Router,
    requests: Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
    mut stop: watch::Receiver<Option<Duration>>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let heads = Heads::default();
    let (router, counted) = (TowerToHyperService::new(router), heads.clone());
    let service = service_fn(move |request| {
        let (serving, router, requests) = (counted.serve(), router.clone(), Arc::clone(&requests));
        async move {
            let turn = requests.acquire_owned().await;
            let answer = router.call(with_host(request)).await;
            drop((serving, turn));
            answer
        }
    });
    let stream = Patient::new(stream, heads.clone(), HEAD);
    let builder = builder();
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = heads.idle(IDLE) => {
            connection.as_mut().graceful_shutdown();
            // Whoever has not even asked anything has nothing to be told.
            if heads.count() == 0 { Ok(()) } else { connection.await }
        }
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

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEAD_BYTES)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    builder
}

/// HTTP/2 names the host in the request's target; the checks look for it where HTTP/1 has it (RFC 9113, 8.3.1).
fn with_host(mut request: Request<Incoming>) -> Request<Incoming> {
    if !request.headers().contains_key(HOST)
        && let Some(host) = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok())
    {
        request.headers_mut().insert(HOST, host);
    }
    request
}

/// Waits for the end, which a server that was dropped has come to as well.
async fn stopped(stop: &mut watch::Receiver<Option<Duration>>) {
    let _ = stop.wait_for(Option::is_some).await;
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
