//! A listener whose connections have their handshake behind them.
//!
//! One task accepts; each handshake runs on its own, so that a slow or failing one holds up nobody. At most
//! [`HANDSHAKES`] run at a time; beyond that new connections wait in the kernel's queue, which is what a fleet
//! that reconnects all at once needs: turning it away would only make it come again.

use std::future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Error, Peer, subject};
use crate::repeats::Repeats;

/// Handshakes in progress at a time: about 40 KB of buffers and one file descriptor each.
const HANDSHAKES: usize = 512;
/// How long a peer may take for its handshake. A lossy mobile link needs seconds; a port scanner would stay for ever.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Accepted connections that wait for their user, on top of the handshakes.
const READY: usize = 16;
/// The kernel's queue, cut by it to `net.core.somaxconn` (4096 by default).
const BACKLOG: u32 = 4096;
/// First and longest pause after an accept error that will not go away by itself, such as EMFILE.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Accepts TCP connections and does their TLS handshakes. Dropping it closes the port.
#[derive(Debug)]
pub struct Listener {
    local_addr: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, Peer)>,
    /// Owns the accepting task, and ends it when dropped.
    _task: JoinSet<()>,
}

impl Listener {
    /// Listens on `addr` (port 0: any free port).
    ///
    /// # Errors
    /// [`Error::InUse`] and [`Error::Listen`] name the address.
    pub fn bind(addr: SocketAddr, config: ServerConfig) -> Result<Listener, Error> {
        let listening = listen(addr).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local_addr, listener) = listening.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::InUse(addr),
            _ => Error::Listen { addr, source },
        })?;
        let (sender, ready) = mpsc::channel(READY);
        let mut task = JoinSet::new();
        task.spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), sender));
        Ok(Listener { local_addr, ready, _task: task })
    }

    /// The next connection whose handshake succeeded.
    pub async fn accept(&mut self) -> (TlsStream<TcpStream>, Peer) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The task lives as long as `self`, except while the runtime shuts down.
            None => future::pending().await,
        }
    }

    /// The address listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        Listener::accept(self).await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(Peer { addr: self.local_addr, identity: None })
    }
}

/// Lets HTTP handlers ask for `ConnectInfo<Peer>`.
impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<(TlsStream<TcpStream>, Peer)>) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    let failures = Arc::new(Repeats::default());
    let mut handshakes = JoinSet::new();
    let mut accept_errors = 0;
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        match listener.accept().await {
            Ok((tcp, addr)) => {
                accept_errors = 0;
                let (acceptor, ready, failures) = (acceptor.clone(), ready.clone(), Arc::clone(&failures));
                handshakes.spawn(greet(tcp, addr, acceptor, ready, failures, slot));
            }
            Err(error) => {
                let pause = pause_after(&error, accept_errors);
                if !pause.is_zero() {
                    if accept_errors == 0 {
                        tracing::warn!(%error, "cannot accept connections for now");
                    }
                    accept_errors += 1;
                }
                sleep(pause).await;
            }
        }
        while handshakes.try_join_next().is_some() {}
    }
}

/// How long to wait after the `earlier + 1`st error in a row.
pub(super) fn pause_after(error: &io::Error, earlier: u32) -> Duration {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        // That one connection is gone; the next may be fine.
        return Duration::ZERO;
    }
    let (first, longest) = PAUSE;
    first.saturating_mul(1 << earlier.min(10)).min(longest)
}

async fn greet(
    tcp: TcpStream,
    addr: SocketAddr,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<TcpStream>, Peer)>,
    failures: Arc<Repeats>,
    slot: OwnedSemaphorePermit,
) {
    match shake(tcp, addr, acceptor).await {
        // Keeps its slot until it is taken, which bounds what waits for a slow user.
        Ok(accepted) => drop(ready.send(accepted).await),
        Err(reason) => {
            if let Some(held_back) = failures.pass(Instant::now()) {
                tracing::warn!(peer = %addr, %reason, held_back, "TLS handshake failed");
            }
        }
    }
    drop(slot);
}

async fn shake(tcp: TcpStream, addr: SocketAddr, acceptor: TlsAcceptor) -> io::Result<(TlsStream<TcpStream>, Peer)> {
    // With Nagle on, each request and answer of a transfer would wait about 44 ms.
    tcp.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = certificate.map(subject).transpose().map_err(io::Error::other)?;
    Ok((stream, Peer { addr, identity }))
}
