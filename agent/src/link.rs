//! The connection to the broker: the only user of rumqttc. It must not know the store or the engine.
//!
//! Nothing here is relied upon: what gets lost is asked for or sent again by the core. The event loop is
//! polled on a task of its own and never cancelled, and nothing else ever waits for it (both are
//! deadlocks or double connections in rumqttc 0.25).

use std::sync::{Arc, RwLock};
use std::time::Duration;

use muster_proto::id::{DeviceId, Digest, Workspace};
use muster_proto::report::Presence;
use muster_proto::topic::{self, Leaf, Topic};
use muster_proto::wire::{self, MAX_MESSAGE};
use rumqttc::{
    AsyncClient, Event, EventLoop, LastWill, MqttOptions, NetworkOptions, Packet, QoS, TlsConfiguration, Transport,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A frame's payload, its topic and MQTT's header.
const MAX_PACKET: usize = MAX_MESSAGE + 1024;
/// How many requests may wait for the event loop.
const REQUESTS: usize = 64;
/// Connecting and TLS may take this long; less fails on slow links.
const CONNECT_TIMEOUT_S: u64 = 30;
/// After so many errors in a row client and session state are made anew, because rumqttc can get into a
/// state in which it collides with itself for ever.
const REBUILD_AFTER: u32 = 5;
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Where and as whom to connect.
#[derive(Clone)]
pub struct Config {
    /// Host name or address of the broker.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Certificates and key; none for a broker without TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The device's workspace.
    pub workspace: Workspace,
    /// The device, which is the client id as well.
    pub device: DeviceId,
    /// How often the broker hears at least something.
    pub keep_alive: Duration,
}

/// What comes from the broker.
#[derive(Debug)]
pub enum Incoming {
    /// Connected and subscribed.
    Up,
    /// The connection is gone, and why.
    Down(String),
    /// A payload on one of the device's topics.
    Message(Leaf, Vec<u8>),
    /// A payload on a bundle topic.
    Bundle(Vec<u8>),
}

/// The connection.
#[derive(Clone)]
pub struct Link {
    client: Arc<RwLock<AsyncClient>>,
    workspace: Workspace,
    device: DeviceId,
}

impl Link {
    /// Connects, and connects again for ever. Messages arrive in `incoming`.
    pub fn start(config: Config, incoming: mpsc::Sender<Incoming>) -> (Self, JoinHandle<()>) {
        let (client, events) = connect(&config);
        let link = Self {
            client: Arc::new(RwLock::new(client)),
            workspace: config.workspace.clone(),
            device: config.device.clone(),
        };
        let task = tokio::spawn(link.clone().poll(events, config, incoming));
        (link, task)
    }

    /// Publishes to one of the device's topics. Returns whether it is on its way; if not, the core sends it
    /// again in its time.
    pub fn publish(&self, leaf: Leaf, payload: Vec<u8>) -> bool {
        let topic = Topic::device(self.workspace.clone(), self.device.clone(), leaf).to_string();
        // An oversized message would be tried again on each reconnect, for ever.
        payload.len() <= MAX_MESSAGE && self.client().try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok()
    }

    /// Receives the chunks of a blob that are sent to many.
    pub fn join(&self, digest: Digest) {
        let topic = Topic::Bundle { workspace: self.workspace.clone(), digest };
        let _ = self.client().try_subscribe(topic.to_string(), QoS::AtMostOnce);
    }

    /// No longer receives them.
    pub fn leave(&self, digest: Digest) {
        let topic = Topic::Bundle { workspace: self.workspace.clone(), digest };
        let _ = self.client().try_unsubscribe(topic.to_string());
    }

    /// Ends the connection in good order, so that the broker does not publish the last will.
    pub fn disconnect(&self) {
        let offline = wire::encode(&Presence::OfflineV1).unwrap_or_default();
        self.publish(Leaf::State, offline);
        let _ = self.client().try_disconnect();
    }

    fn client(&self) -> AsyncClient {
        self.client.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    async fn poll(self, mut events: EventLoop, config: Config, incoming: mpsc::Sender<Incoming>) {
        let mut errors = 0u32;
        let mut up = false;
        loop {
            let message = match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    errors = 0;
                    up = true;
                    // rumqttc does not remember subscriptions, and a session may be gone at any time.
                    tracing::info!(session_present = ack.session_present, "connected to the broker");
                    for filter in topic::device_filters(&config.workspace, &config.device) {
                        let _ = self.client().try_subscribe(filter, QoS::AtLeastOnce);
                    }
                    Some(Incoming::Up)
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => match publish.topic.parse() {
                    Ok(Topic::Device { leaf, .. }) => Some(Incoming::Message(leaf, publish.payload.to_vec())),
                    Ok(Topic::Bundle { .. }) => Some(Incoming::Bundle(publish.payload.to_vec())),
                    Err(_) => None,
                },
                Ok(_) => None,
                Err(error) => {
                    errors += 1;
                    if errors == 1 {
                        tracing::warn!(%error, "no connection to the broker");
                    }
                    if errors.is_multiple_of(REBUILD_AFTER) {
                        let (client, fresh) = connect(&config);
                        *self.client.write().unwrap_or_else(std::sync::PoisonError::into_inner) = client;
                        events = fresh;
                    }
                    if std::mem::take(&mut up) && incoming.send(Incoming::Down(error.to_string())).await.is_err() {
                        return;
                    }
                    if incoming.is_closed() {
                        return;
                    }
                    tokio::time::sleep(pause(errors)).await;
                    None
                }
            };
            if let Some(message) = message
                && incoming.send(message).await.is_err()
            {
                return;
            }
        }
    }
}

/// Between half and all of an exponential that is capped at a minute, so that a fleet does not return at once.
fn pause(errors: u32) -> Duration {
    let full = Duration::from_millis(500).saturating_mul(1 << errors.saturating_sub(1).min(7)).min(MAX_PAUSE);
    let mut byte = [0u8];
    let _ = getrandom::fill(&mut byte);
    full / 2 + (full / 2) * u32::from(byte[0]) / 255
}

fn connect(config: &Config) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(config.device.as_str(), config.host.clone(), config.port);
    options.set_keep_alive(config.keep_alive);
    options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
    options.set_clean_session(false);
    options.set_inflight(32);
    options.set_request_channel_capacity(REQUESTS);
    let topic = Topic::device(config.workspace.clone(), config.device.clone(), Leaf::State).to_string();
    let will = wire::encode(&Presence::OfflineV1).unwrap_or_default();
    options.set_last_will(LastWill::new(topic, will, QoS::AtLeastOnce, false));
    if let Some(tls) = &config.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT_S);
    events.set_network_options(network);
    (client, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_capped() {
        for errors in 1..100 {
            assert!(pause(errors) <= MAX_PAUSE);
            assert!(pause(errors) >= Duration::from_millis(250));
        }
    }
}
