//! The front door: takes connections that TLS has verified and carries them to the broker.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::gate::Gate;
use super::relay;
use crate::repeats::Repeats;
use crate::tls::{self, Peer};

/// How long connections may take to end once the door is closed; mqtt5 gives its own five seconds.
const FAREWELL: Duration = Duration::from_secs(6);

/// Runs until the sender of `closed` is dropped, and then until the connections have ended.
pub(super) async fn run(
    mut listener: tls::Listener,
    inner: SocketAddr,
    gate: Arc<Gate>,
    connections: usize,
    mut closed: oneshot::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
    let turned_away = Repeats::default();
    let mut carried = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut closed => break,
        };
        while carried.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if let Some(held_back) = turned_away.pass(Instant::now()) {
                tracing::warn!(peer = %peer.addr, connections, held_back, "MQTT connection turned away: no place free");
            }
            continue;
        };
        let gate = Arc::clone(&gate);
        carried.spawn(async move {
            let addr = peer.addr;
            if let Err(reason) = carry(stream, peer, inner, &gate).await {
                tracing::debug!(peer = %addr, %reason, "MQTT connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    // Whoever does not end in time is cut off when the set is dropped.
    let _ = timeout(FAREWELL, async { while carried.join_next().await.is_some() {} }).await;
}

async fn carry(client: TlsStream<TcpStream>, peer: Peer, inner: SocketAddr, gate: &Arc<Gate>) -> io::Result<()> {
    let subject = peer.identity.ok_or_else(|| io::Error::other("it shows no certificate"))?;
    let mut broker = TcpStream::connect(inner).await?;
    broker.set_nodelay(true)?;
    // Declared after the socket, and so dropped before it.
    let pass = gate
        .admit(broker.local_addr()?, subject)
        .ok_or_else(|| io::Error::other("its name has too many connections"))?;
    relay::run(client, &mut broker, pass.displaced()).await
}
