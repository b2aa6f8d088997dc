//! rumqttc's two clients under one roof. Each polls on a task of its own, and ends at its first error.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, NetworkOptions, TlsConfiguration, Transport, v5};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::LIMIT;

const PACKET: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V311,
    V5,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    Clean,
    Kept,
}

/// How to connect.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) addr: SocketAddr,
    /// `None`: plain TCP.
    pub(super) tls: Option<ClientConfig>,
    pub(super) session: Session,
    /// Topic of a last will.
    pub(super) will: Option<String>,
    /// Acknowledge what arrives.
    pub(super) acknowledge: bool,
}

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Connected { session_present: bool },
    Message(Message),
    PublishAcknowledged { refused: bool },
    Subscribed { refused: bool },
    Failed(String),
}

pub(super) struct Client {
    handle: Handle,
    seen: mpsc::UnboundedReceiver<Seen>,
    /// Messages that came while something else was waited for.
    messages: VecDeque<Message>,
    deaf: Arc<AtomicBool>,
    poll: JoinHandle<()>,
}

/// Topic, payload, retained.
type Message = (String, Vec<u8>, bool);

enum Handle {
    V311(AsyncClient),
    V5(v5::AsyncClient),
}

impl Options {
    pub(super) fn new(version: Version, client_id: &str, addr: SocketAddr, tls: Option<ClientConfig>) -> Options {
        let client_id = client_id.to_owned();
        Options { version, client_id, addr, tls, session: Session::Clean, will: None, acknowledge: true }
    }

    fn transport(&self) -> Transport {
        match self.tls.clone() {
            Some(config) => Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))),
            None => Transport::tcp(),
        }
    }
}

impl Client {
    pub(super) fn start(options: Options) -> Client {
        let (sender, seen) = mpsc::unbounded_channel();
        let deaf = Arc::new(AtomicBool::new(false));
        let deafness = Arc::clone(&deaf);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        let (handle, poll) = match options.version {
            Version::V311 => {
                let (client, mut events) = AsyncClient::new(v311_options(&options), 16);
                events.set_network_options(network);
                let poll = async move {
                    while report(&sender, events.poll().await.map(from_v311)) {
                        hear(&deafness).await;
                    }
                };
                (Handle::V311(client), tokio::spawn(poll))
            }
            Version::V5 => {
                let (client, mut events) = v5::AsyncClient::new(v5_options(&options, network), 16);
                let poll = async move {
                    while report(&sender, events.poll().await.map(from_v5)) {
                        hear(&deafness).await;
                    }
                };
                (Handle::V5(client), tokio::spawn(poll))
            }
        };
        Client { handle, seen, messages: VecDeque::new(), deaf, poll }
    }

    pub(super) async fn publish(&self, topic: &str, retain: bool, payload: &[u8]) {
        match &self.handle {
            Handle::V311(client) => {
                client.publish(topic, rumqttc::QoS::AtLeastOnce, retain, payload).await.unwrap();
            }
            Handle::V5(client) => {
                client.publish(topic, v5::mqttbytes::QoS::AtLeastOnce, retain, payload.to_vec()).await.unwrap();
            }
        }
    }

    /// Publishes at QoS 1 and waits for the broker's answer: whether it refused (which 3.1.1 cannot say).
    pub(super) async fn published(&mut self, topic: &str, retain: bool, payload: &[u8]) -> bool {
        self.publish(topic, retain, payload).await;
        self.until(|seen| match seen {
            Seen::PublishAcknowledged { refused } => Some(*refused),
            _ => None,
        })
        .await
    }

    /// Subscribes at QoS 1 and waits for the broker's answer: whether it refused.
    pub(super) async fn subscribed(&mut self, filter: &str) -> bool {
        match &self.handle {
            Handle::V311(client) => client.subscribe(filter, rumqttc::QoS::AtLeastOnce).await.unwrap(),
            Handle::V5(client) => client.subscribe(filter, v5::mqttbytes::QoS::AtLeastOnce).await.unwrap(),
        }
        self.until(|seen| match seen {
            Seen::Subscribed { refused } => Some(*refused),
            _ => None,
        })
        .await
    }

    /// Waits for the connection: whether the broker still had its session.
    pub(super) async fn connected(&mut self) -> bool {
        self.until(|seen| match seen {
            Seen::Connected { session_present } => Some(*session_present),
            _ => None,
        })
        .await
    }

    /// Waits for the next message.
    pub(super) async fn message(&mut self) -> Message {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return message;
            }
            if let Seen::Message(message) = self.next().await {
                return message;
            }
        }
    }

    /// Whether it gets in at all.
    pub(super) async fn gets_in(mut self) -> bool {
        matches!(timeout(LIMIT, self.seen.recv()).await.expect("an answer"), Some(Seen::Connected { .. }))
    }

    /// Waits for the end of the connection. Nothing else may happen before.
    pub(super) async fn failure(&mut self) -> String {
        match timeout(LIMIT, self.seen.recv()).await.expect("an end of the connection") {
            Some(Seen::Failed(error)) => error,
            other => panic!("expected the connection to end, saw {other:?}"),
        }
    }

    /// Stops reading after the next packet, but keeps the connection.
    pub(super) fn stop_reading(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// Vanishes without a word, as a device that loses power.
    pub(super) async fn vanish(mut self) {
        self.poll.abort();
        let _ = (&mut self.poll).await;
    }

    async fn until<T>(&mut self, mut wanted: impl FnMut(&Seen) -> Option<T>) -> T {
        loop {
            let seen = self.next().await;
            if let Some(found) = wanted(&seen) {
                return found;
            }
            if let Seen::Message(message) = seen {
                self.messages.push_back(message);
            }
        }
    }

    async fn next(&mut self) -> Seen {
        match timeout(LIMIT, self.seen.recv()).await.expect("something to happen").expect("a running client") {
            Seen::Failed(error) => panic!("the connection ended: {error}"),
            seen => seen,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

/// Tells the test what was seen. `false` ends the client.
fn report<E: std::fmt::Debug>(sender: &mpsc::UnboundedSender<Seen>, polled: Result<Option<Seen>, E>) -> bool {
    match polled {
        Ok(seen) => seen.is_none_or(|seen| sender.send(seen).is_ok()),
        Err(error) => {
            let _ = sender.send(Seen::Failed(format!("{error:?}")));
            false
        }
    }
}

async fn hear(deaf: &AtomicBool) {
    if deaf.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn v311_options(options: &Options) -> rumqttc::MqttOptions {
    let mut mqtt = rumqttc::MqttOptions::new(&options.client_id, options.addr.ip().to_string(), options.addr.port());
    mqtt.set_transport(options.transport())
        .set_keep_alive(Duration::from_secs(30))
        .set_max_packet_size(PACKET, PACKET)
        .set_clean_session(options.session == Session::Clean)
        .set_manual_acks(!options.acknowledge);
    if let Some(topic) = &options.will {
        mqtt.set_last_will(rumqttc::LastWill::new(topic, "gone", rumqttc::QoS::AtLeastOnce, false));
    }
    mqtt
}

fn v5_options(options: &Options, network: NetworkOptions) -> v5::MqttOptions {
    let mut mqtt = v5::MqttOptions::new(&options.client_id, options.addr.ip().to_string(), options.addr.port());
    mqtt.set_transport(options.transport())
        .set_keep_alive(Duration::from_secs(30))
        .set_max_packet_size(Some(PACKET.try_into().unwrap()))
        .set_clean_start(options.session == Session::Clean)
        .set_outgoing_inflight_upper_limit(100)
        .set_manual_acks(!options.acknowledge)
        .set_network_options(network);
    if options.session == Session::Kept {
        mqtt.set_session_expiry_interval(Some(600));
    }
    if let Some(topic) = &options.will {
        let will = v5::mqttbytes::v5::LastWill::new(topic, "gone", v5::mqttbytes::QoS::AtLeastOnce, false, None);
        mqtt.set_last_will(will);
    }
    mqtt
}

fn from_v311(event: rumqttc::Event) -> Option<Seen> {
    use rumqttc::{Event, Packet, SubscribeReasonCode};
    let Event::Incoming(packet) = event else { return None };
    Some(match packet {
        Packet::ConnAck(ack) => Seen::Connected { session_present: ack.session_present },
        Packet::Publish(m) => Seen::Message((m.topic, m.payload.to_vec(), m.retain)),
        Packet::PubAck(_) => Seen::PublishAcknowledged { refused: false },
        Packet::SubAck(ack) => Seen::Subscribed { refused: ack.return_codes.contains(&SubscribeReasonCode::Failure) },
        _ => return None,
    })
}

fn from_v5(event: v5::Event) -> Option<Seen> {
    use v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
    let v5::Event::Incoming(packet) = event else { return None };
    Some(match packet {
        Packet::ConnAck(ack) => Seen::Connected { session_present: ack.session_present },
        Packet::Publish(m) => {
            Seen::Message((String::from_utf8(m.topic.to_vec()).unwrap(), m.payload.to_vec(), m.retain))
        }
        Packet::PubAck(ack) => Seen::PublishAcknowledged { refused: ack.reason == PubAckReason::NotAuthorized },
        Packet::SubAck(ack) => {
            Seen::Subscribed { refused: ack.return_codes.contains(&SubscribeReasonCode::NotAuthorized) }
        }
        _ => return None,
    })
}
