//! The connection to the broker, embedded or external: the only user of rumqttc in the dispatcher. It must
//! not know what the messages mean.
//!
//! Nothing here is relied upon: desired states are published again when the broker may have forgotten them,
//! devices ask again for chunks and repeat reports until they are acknowledged. The event loop is polled on
//! a task of its own and never cancelled, and nothing it calls waits (both are deadlocks or double
//! connections in rumqttc 0.25).

mod endpoint;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use muster_proto::topic::Topic;
use muster_proto::wire::MAX_MESSAGE;
use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions};
use rumqttc::{Packet, QoS, TlsConfiguration, Transport};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use endpoint::{Endpoint, EndpointError};

/// The largest packet either way: rumqttc's own limit of 10 KiB would retry a larger one for ever.
const MAX_PACKET: usize = 256 * 1024;
/// How many requests wait for the event loop. Few, so that what is urgent does not wait behind many chunks.
const REQUESTS: usize = 32;
/// Messages sent to the broker and not yet acknowledged; each may hold 64 KiB.
const IN_FLIGHT: u16 = 64;
/// Connecting and TLS may take this long, and a flush; less fails on slow links.
const CONNECT_TIMEOUT_SECONDS: u64 = 30;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After so many errors in a row client and session state are made anew, because rumqttc can get into a state in
/// which it collides with itself for ever (bytebeamio/rumqtt#1056).
const REBUILD_AFTER: u32 = 5;
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often a publisher looks for room in case it missed the wake-up.
const ROOM_CHECK: Duration = Duration::from_millis(20);

/// Where and as whom to connect.
#[derive(Clone)]
pub struct Config {
    /// The broker.
    pub endpoint: Endpoint,
    /// Certificates and key; none for a broker without TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Whom the session at the broker belongs to; two clients with the same id throw each other out.
    pub client_id: String,
    /// What to subscribe to, at QoS 1.
    pub filters: Vec<String>,
}

/// What comes from the broker.
#[derive(Debug)]
pub enum Incoming {
    /// Connected and subscribed.
    Up {
        /// Whether what was published or retained before may be lost.
        forgot: bool,
    },
    /// The connection is gone, and why.
    Down(String),
    /// A message on one of Muster's topics.
    Message(Topic, Bytes),
    /// A message on another topic; it was dropped.
    Foreign(String),
}

/// Why a message was not taken. Sending the same again cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes for {topic} is over the limit of {MAX_MESSAGE}")]
pub struct TooLarge {
    /// Its size in bytes.
    pub bytes: usize,
    /// Where it was to go.
    pub topic: String,
}

/// Whether the broker keeps a message for those who come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    /// Only for those who are subscribed now.
    No,
    /// Kept in place of the one before; an empty one deletes it.
    Yes,
}

/// The connection. Clones share it.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    client: RwLock<AsyncClient>,
    up: AtomicBool,
    closing: AtomicBool,
    room: Notify,
    connects: AtomicU64,
}

impl Link {
    /// Connects, and connects again for ever. `handle` is called on the task that polls: it may not wait.
    pub fn start(config: Config, handle: impl FnMut(Incoming) + Send + 'static) -> (Self, JoinHandle<()>) {
        crate::tls::ensure_provider();
        let (client, events) = connect(&config);
        let link = Self(Arc::new(Inner {
            client: RwLock::new(client),
            up: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            room: Notify::new(),
            connects: AtomicU64::new(0),
        }));
        let task = tokio::spawn(link.clone().poll(events, config, handle));
        (link, task)
    }

    /// Whether it is connected.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// How often it has connected.
    pub fn connects(&self) -> u64 {
        self.0.connects.load(Ordering::Relaxed)
    }

    /// Publishes at QoS 1 as soon as the client takes it: while it is busy, or not connected and full, this waits.
    pub async fn publish(&self, topic: &Topic, retain: Retain, payload: Bytes) -> Result<(), TooLarge> {
        let topic = topic.to_string();
        // An oversized message would be tried again on each reconnect, for ever.
        if payload.len() > MAX_MESSAGE {
            return Err(TooLarge { bytes: payload.len(), topic });
        }
        loop {
            let room = self.0.room.notified();
            let sent = self.client().try_publish(&topic, QoS::AtLeastOnce, retain == Retain::Yes, payload.clone());
            if sent.is_ok() || self.0.closing.load(Ordering::Relaxed) {
                return Ok(());
            }
            // The event loop may free a place between the attempt and the wait.
            let _ = tokio::time::timeout(ROOM_CHECK, room).await;
        }
    }

    /// Ends the connection in good order.
    pub fn disconnect(&self) {
        self.0.closing.store(true, Ordering::Relaxed);
        let _ = self.client().try_disconnect();
        self.0.room.notify_waiters();
    }

    fn client(&self) -> AsyncClient {
        self.0.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn poll(self, mut events: EventLoop, config: Config, mut handle: impl FnMut(Incoming)) {
        // A new process has not published what the one before it may have owed.
        let (mut errors, mut rebuilt) = (0u32, true);
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    errors = 0;
                    self.0.up.store(true, Ordering::Relaxed);
                    self.0.connects.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(broker = %config.endpoint, session_present = ack.session_present, "connected to the broker");
                    // Subscriptions are not remembered by rumqttc, and a rebuilt client has sent none.
                    let forgot = !ack.session_present || std::mem::take(&mut rebuilt);
                    if forgot {
                        self.subscribe(&config.filters);
                    }
                    handle(Incoming::Up { forgot });
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => match publish.topic.parse() {
                    Ok(topic) => handle(Incoming::Message(topic, publish.payload)),
                    Err(_) => handle(Incoming::Foreign(publish.topic)),
                },
                Ok(_) => {}
                Err(_) if self.0.closing.load(Ordering::Relaxed) => return,
                Err(error) => {
                    errors += 1;
                    let reason = reason(&error);
                    if self.0.up.swap(false, Ordering::Relaxed) || errors == 1 {
                        tracing::warn!(broker = %config.endpoint, error = %reason, "no connection to the broker");
                        handle(Incoming::Down(reason));
                    }
                    if errors.is_multiple_of(REBUILD_AFTER) {
                        let (client, fresh) = connect(&config);
                        *self.0.client.write().unwrap_or_else(PoisonError::into_inner) = client;
                        (events, rebuilt) = (fresh, true);
                    }
                    tokio::time::sleep(pause(errors)).await;
                }
            }
            self.0.room.notify_waiters();
        }
    }

    fn subscribe(&self, filters: &[String]) {
        let client = self.client();
        for filter in filters {
            // Requests queued while there was no connection may fill the channel; then the missing subscription shows
            // as silence, so it is worth a task that waits.
            if client.try_subscribe(filter, QoS::AtLeastOnce).is_err() {
                let (client, filter) = (client.clone(), filter.clone());
                tokio::spawn(async move { client.subscribe(filter, QoS::AtLeastOnce).await });
            }
        }
    }
}

fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized) => {
            "the broker does not let this client in: check certificate, user name and client id".into()
        }
        other => other.to_string(),
    }
}

/// Between half and all of an exponential that is capped, so that many clients do not return at once.
fn pause(errors: u32) -> Duration {
    let full = Duration::from_millis(200).saturating_mul(1 << errors.saturating_sub(1).min(10)).min(MAX_PAUSE);
    let mut byte = [0u8];
    let _ = getrandom::fill(&mut byte);
    full / 2 + (full / 2) * u32::from(byte[0]) / 255
}

fn connect(config: &Config) -> (AsyncClient, EventLoop) {
    let endpoint = &config.endpoint;
    let mut options = MqttOptions::new(&config.client_id, &endpoint.host, endpoint.port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
    options.set_clean_session(false);
    options.set_inflight(IN_FLIGHT);
    options.set_request_channel_capacity(REQUESTS);
    if let Some((user, password)) = &endpoint.credentials {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &config.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(tls))));
    }
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT_SECONDS);
    events.set_network_options(network);
    (client, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_capped() {
        for errors in 1..100 {
            assert!(pause(errors) <= MAX_PAUSE);
            assert!(pause(errors) >= Duration::from_millis(100));
        }
        assert!(pause(40) >= MAX_PAUSE / 2);
    }
}
