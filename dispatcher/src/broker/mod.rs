//! The embedded MQTT broker and its mTLS front door.
//!
//! ```text
//! device ──TLS──▶ front door ──loopback──▶ mqtt5
//!                     │                      │
//!                     └── gate: address ▶ name
//! ```
//!
//! The front door takes a client's name from its verified certificate, opens a loopback connection to the broker and
//! enters that connection's address into the gate before a byte is copied. The broker asks the gate about each CONNECT:
//! an address that is not entered is refused (so nobody gets in by the loopback port), and so is a client id that is
//! not exactly the name in the certificate. From there on the client id is the name, and [`Acl`] says what it may do.
//! mqtt5 has TLS of its own, but its certificate provider lets one device log in as another.
//!
//! Owns connections, sessions and queues, all in memory: whatever matters is sent again by the application when the
//! dispatcher starts afresh. It must not know topics or the domain.
//!
//! Each client costs three file descriptors here (TLS and both ends of the loopback connection) and one loopback port.

mod door;
mod gate;
mod inner;
mod relay;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::broker::BrokerShutdownHandle;
use rustls::ServerConfig;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::tls::{self, Subject};
use gate::Gate;

/// Why the broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The front door cannot open its port; the message names the address.
    #[error(transparent)]
    Door(#[from] tls::Error),
    /// The broker behind it does not start.
    #[error("the embedded MQTT broker does not start")]
    Inner(#[source] mqtt5::MqttError),
}

/// What a client may do. Asked for each publish and subscription, so answers have to be quick; a refusal is dropped
/// and acknowledged (3.1.1) or answered with "not authorized" (5), and disturbs nobody else. Last wills are asked
/// about when they are published, and the subscriptions of a persistent session again when it comes back.
pub trait Acl: Send + Sync {
    /// Whether `who` may publish to `topic`.
    fn may_publish(&self, who: &Subject, topic: &str) -> bool;

    /// Whether `who` may subscribe to `filter`, which may hold wildcards or start with `$share/{group}/`.
    ///
    /// Filters without wildcards are much the cheaper ones: the broker looks them up, but tries all others one by
    /// one for each message.
    fn may_subscribe(&self, who: &Subject, filter: &str) -> bool;
}

/// What the broker needs to start.
pub struct Config {
    /// Where devices connect (port 0: any free port).
    pub listen: SocketAddr,
    /// Has to demand client certificates; a client that shows none is turned away in any case.
    pub tls: ServerConfig,
    /// Who may do what.
    pub acl: Arc<dyn Acl>,
    /// How much it may hold.
    pub limits: Limits,
}

/// Bounds, each with what it keeps away. All memory of a client that does not read is at most about
/// `queued_bytes + (2 * in_flight + 2 * lane_messages) * packet_bytes`, and the sockets' buffers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Clients at a time. Keeps a flood of connections from taking all file descriptors (three each).
    pub connections: usize,
    /// Longest MQTT packet in bytes, header included. Keeps one packet from taking the memory; a client that sends a
    /// longer one is cut off.
    pub packet_bytes: usize,
    /// QoS 1 messages kept for a client that is away or slow; then the oldest are dropped.
    pub queued_messages: usize,
    /// The same in bytes.
    pub queued_bytes: usize,
    /// QoS 1 messages sent to a client and not yet acknowledged. Has to exceed the transfer window of a device.
    pub in_flight: u16,
    /// Messages that wait in memory for a client's connection, per QoS, before they are queued (QoS 1) or dropped
    /// (QoS 0).
    pub lane_messages: usize,
    /// Subscriptions of one client. Each wildcard costs time on every message of everybody.
    pub subscriptions: usize,
    /// Retained messages in all.
    pub retained_messages: usize,
    /// Longest payload of a retained message in bytes.
    pub retained_bytes: usize,
    /// How long the session of a client that left is kept, its queue included.
    pub session: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            packet_bytes: 256 * 1024,
            queued_messages: 10_000,
            queued_bytes: 8 * 1024 * 1024,
            in_flight: 64,
            lane_messages: 64,
            subscriptions: 32,
            retained_messages: 65_536,
            retained_bytes: 128 * 1024,
            session: Duration::from_secs(24 * 3600),
        }
    }
}

/// A running broker. Dropping it ends it at once; [`Broker::shutdown`] says good-bye first.
pub struct Broker {
    local_addr: SocketAddr,
    gate: Arc<Gate>,
    inner: BrokerShutdownHandle,
    /// Only for the test that nobody gets in there.
    #[cfg(test)]
    inner_addr: SocketAddr,
    /// Closes the front door when dropped.
    open: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

impl Broker {
    /// Opens the front door and starts the broker behind it, on 127.0.0.1 and a free port.
    ///
    /// # Errors
    /// [`Error::Door`] if the address cannot be listened on, [`Error::Inner`] if the broker does not start.
    pub async fn start(config: Config) -> Result<Broker, Error> {
        let listener = tls::Listener::bind(config.listen, config.tls)?;
        let local_addr = listener.local_addr();
        let gate = Arc::new(Gate::new(config.acl));
        let mut tasks = JoinSet::new();
        let (inner, inner_addr) = inner::start(&config.limits, Arc::clone(&gate), &mut tasks).await?;
        let (open, closed) = oneshot::channel();
        tasks.spawn(door::run(listener, inner_addr, Arc::clone(&gate), config.limits.connections, closed));
        tracing::info!(listen = %local_addr, "MQTT broker started");
        Ok(Broker {
            local_addr,
            gate,
            inner,
            #[cfg(test)]
            inner_addr,
            open,
            tasks,
        })
    }

    /// Where devices connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Clients that are past the front door.
    pub fn connections(&self) -> usize {
        *self.gate.connections().borrow()
    }

    /// Stops accepting, tells MQTT 5 clients that the server goes down, and returns when all connections are closed,
    /// which takes a few seconds at most. Sessions and retained messages are gone then.
    pub async fn shutdown(mut self) {
        drop(self.open);
        self.inner.shutdown();
        while self.tasks.join_next().await.is_some() {}
        tracing::info!(listen = %self.local_addr, "MQTT broker stopped");
    }
}
