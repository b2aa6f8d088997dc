//! Where messages from the broker go. Called on the link's task, so nothing here waits: what finds a queue full
//! is counted and dropped, and the device sends it again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_proto::id::{DeviceId, Workspace};
use muster_proto::report::{Presence, SignedReport, Telemetry};
use muster_proto::topic::{Leaf, Topic};
use muster_proto::transfer::Fetch;
use muster_proto::wire::{self, Message};

use super::{Driver, TelemetryQueue};
use crate::counters::Counters;
use crate::domain::Event;
use crate::link::Incoming;
use crate::transfer::Transfer;

/// How often a device's messages count as a sign of life.
const SEEN_EVERY: Duration = Duration::from_secs(15);
/// The most devices whose last sign of life is remembered here.
const MAX_SEEN: usize = 100_000;

/// Takes messages apart.
pub struct Inbox {
    workspace: Workspace,
    driver: Driver,
    transfer: Transfer,
    telemetry: TelemetryQueue,
    counters: Counters,
    seen: HashMap<DeviceId, Instant>,
}

impl Inbox {
    /// Hands messages of `workspace` to those who want them.
    pub fn new(
        workspace: Workspace,
        driver: Driver,
        transfer: Transfer,
        telemetry: TelemetryQueue,
        counters: Counters,
    ) -> Self {
        Self { workspace, driver, transfer, telemetry, counters, seen: HashMap::new() }
    }

    /// Takes what comes from the broker.
    pub fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Up { forgot: true } => {
                if !self.driver.event(Event::BrokerForgot) {
                    self.counters.count("inbox_full");
                }
            }
            Incoming::Up { forgot: false } => {}
            Incoming::Down(_) => self.transfer.forget_all(),
            Incoming::Message(Topic::Device { workspace, device, leaf }, payload) if workspace == self.workspace => {
                self.message(&device, leaf, &payload);
            }
            Incoming::Message(topic, _) => self.counters.warn("message_of_another_workspace", &topic),
            Incoming::Foreign(topic) => self.counters.warn("message_on_a_foreign_topic", &topic),
        }
    }

    fn message(&mut self, device: &DeviceId, leaf: Leaf, payload: &Bytes) {
        let taken = match leaf {
            Leaf::State => match self.decode(device, payload) {
                Some(Presence::OnlineV1 { generation }) => {
                    self.driver.event(Event::Online { device: device.clone(), generation })
                }
                Some(Presence::OfflineV1) => {
                    self.seen.remove(device);
                    self.transfer.forget(device);
                    self.driver.event(Event::Offline(device.clone()))
                }
                None => true,
            },
            Leaf::Report => match self.decode::<SignedReport>(device, payload) {
                Some(report) => self.driver.report(device.clone(), report),
                None => true,
            },
            Leaf::Telemetry => {
                self.saw(device);
                match self.decode::<Telemetry>(device, payload) {
                    Some(window) => self.telemetry.push(device.clone(), window),
                    None => true,
                }
            }
            // An external broker may go on letting in a device that was removed (invariant 14).
            Leaf::Fetch if !self.is_enrolled(device) => {
                self.counters.warn("fetch_of_unknown_device", device);
                true
            }
            Leaf::Fetch => {
                self.saw(device);
                if let Some(fetch) = self.decode::<Fetch>(device, payload) {
                    self.transfer.request(device, fetch);
                }
                true
            }
            // Ours: a broker that sends them back, or a device that may publish what it should not.
            Leaf::Desired | Leaf::Chunk | Leaf::Ack => {
                self.counters.warn("message_on_a_foreign_topic", device);
                true
            }
        };
        if !taken {
            self.counters.count("inbox_full");
        }
    }

    fn is_enrolled(&self, device: &DeviceId) -> bool {
        self.driver.fleet().devices.contains_key(device)
    }

    fn saw(&mut self, device: &DeviceId) {
        let now = Instant::now();
        if self.seen.get(device).is_some_and(|at| now.duration_since(*at) < SEEN_EVERY) {
            return;
        }
        if self.seen.len() >= MAX_SEEN {
            self.seen.clear();
        }
        if self.driver.event(Event::Seen(device.clone())) {
            self.seen.insert(device.clone(), now);
        }
    }

    fn decode<M: Message>(&self, device: &DeviceId, payload: &[u8]) -> Option<M> {
        match wire::decode(payload) {
            Ok(message) => Some(message),
            Err(wire::Error::FromTheFuture { .. }) => {
                self.counters.warn("message_from_the_future", device);
                None
            }
            Err(_) => {
                self.counters.warn("message_invalid", device);
                None
            }
        }
    }
}
