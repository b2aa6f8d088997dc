//! How messages come from one side to the other, and how connections come and go.

use muster_agent::core::Event;
use muster_dispatcher::domain::{Effect, Event as CloudEvent};
use muster_proto::id::DeviceId;
use muster_proto::report::{Presence, Report, SignedReport, Telemetry};
use muster_proto::topic::Leaf;
use muster_proto::transfer::{Ack, Fetch, Frame, Object};
use muster_proto::wire;

use super::{Item, World, transfer};

/// A broken connection is noticed by either side within this time, in milliseconds.
const NOTICED_MS: u64 = 45_000;

impl World {
    /// Publishes for a device. Without a connection it is lost: the core sends it again in its time.
    pub(super) fn send_up(&mut self, i: usize, leaf: Leaf, payload: Result<Vec<u8>, wire::Error>) {
        let payload = payload.unwrap_or_else(|e| self.breach(Some(i), &format!("a message cannot be encoded: {e}")));
        let link = &self.devices[i].link;
        if !link.up {
            return;
        }
        let session = link.session;
        for delay in link.delays(&mut self.rng) {
            self.plan(delay, Item::Up(i, session, leaf, payload.clone()));
        }
    }

    /// Publishes for the dispatcher to one device.
    fn send_down(&mut self, i: usize, leaf: Leaf, payload: Vec<u8>) {
        let link = &self.devices[i].link;
        let session = link.session;
        for delay in link.delays(&mut self.rng) {
            self.plan(delay, Item::Down(i, session, leaf, payload.clone()));
        }
    }

    pub(super) fn arrived_down(&mut self, i: usize, session: u32, leaf: Leaf, payload: Vec<u8>) {
        let link = &mut self.devices[i].link;
        if !link.up || link.session != session {
            if self.rng.chance(self.setup.keeps) {
                link.keep(leaf, payload);
            }
            return;
        }
        let event = match leaf {
            Leaf::Desired if payload.is_empty() => return,
            Leaf::Desired => {
                self.devices[i].witness.desired_states += 1;
                Ok(Event::DesiredArrived(payload))
            }
            Leaf::Chunk => wire::decode::<Frame>(&payload).map(Event::FrameArrived),
            Leaf::Ack => wire::decode::<Ack>(&payload).map(|Ack::V1 { ids }| {
                self.devices[i].witness.acknowledged.extend(&ids);
                Event::Acknowledged(ids)
            }),
            Leaf::Report | Leaf::Telemetry | Leaf::Fetch | Leaf::State => return,
        };
        match event {
            Ok(event) => self.feed(i, event),
            Err(error) => self.breach(Some(i), &format!("the dispatcher sent what cannot be read: {error}")),
        }
    }

    pub(super) fn arrived_up(&mut self, i: usize, session: u32, leaf: Leaf, payload: Vec<u8>) {
        let gone = self.devices[i].link.session != session;
        if !self.cloud.up || (gone && self.rng.chance(500)) {
            return;
        }
        if let Err(error) = self.read_up(i, leaf, &payload) {
            self.breach(Some(i), &format!("it sent what cannot be read: {error}"));
        }
    }

    fn read_up(&mut self, i: usize, leaf: Leaf, payload: &[u8]) -> Result<(), wire::Error> {
        let device = self.devices[i].id.clone();
        match leaf {
            Leaf::State => self.tell_cloud(match wire::decode::<Presence>(payload)? {
                Presence::OnlineV1 { generation } => CloudEvent::Online { device, generation },
                Presence::OfflineV1 => CloudEvent::Offline(device),
            }),
            Leaf::Report => {
                let SignedReport::V1 { payload, .. } = wire::decode(payload)?;
                let Report::V1(report) = wire::decode(&payload)?;
                self.tell_cloud(CloudEvent::ReportArrived(Box::new(report)));
            }
            Leaf::Telemetry => {
                let id = wire::decode::<Telemetry>(payload)?.id();
                self.tell_cloud(CloudEvent::Seen(device));
                self.send_down(i, Leaf::Ack, wire::encode(&Ack::V1 { ids: vec![id] })?);
            }
            Leaf::Fetch => {
                let fetch = wire::decode::<Fetch>(payload)?;
                self.tell_cloud(CloudEvent::Seen(device));
                let sloppy = self.setup.sloppiness;
                for frame in transfer::answer(&mut self.cloud, &self.authority, sloppy, fetch, &mut self.rng) {
                    self.send_frame(i, &frame)?;
                }
            }
            Leaf::Desired | Leaf::Chunk | Leaf::Ack => {}
        }
        Ok(())
    }

    fn send_frame(&mut self, i: usize, frame: &Frame) -> Result<(), wire::Error> {
        let payload = wire::encode(frame)?;
        if let Frame::ChunkV1 { object: Object::Blob(digest), .. } = frame
            && self.devices[i].link.joined.contains(digest)
            && self.rng.chance(self.setup.sloppiness.broadcast)
        {
            let joined: Vec<usize> =
                (0..self.devices.len()).filter(|d| self.devices[*d].link.joined.contains(digest)).collect();
            for other in joined {
                self.send_down(other, Leaf::Chunk, payload.clone());
            }
            return Ok(());
        }
        self.send_down(i, Leaf::Chunk, payload);
        Ok(())
    }

    /// Gives the dispatcher an event and does what follows.
    pub(super) fn tell_cloud(&mut self, event: CloudEvent) {
        if !self.cloud.up {
            return;
        }
        self.events += 1;
        let quiet = matches!(event, CloudEvent::Tick | CloudEvent::Seen(_));
        if !quiet {
            self.trace.note(self.now, || {
                let text = format!("{event:?}");
                format!("cloud ← {}", text.chars().take(160).collect::<String>())
            });
        }
        let twice = self.rng.chance(self.setup.repeated);
        let effects = match self.cloud.step(event, self.wall_s(), twice) {
            Ok(effects) => effects,
            Err(what) => self.breach(None, &what),
        };
        if self.cloud.dies_next {
            return self.stop_cloud();
        }
        for effect in effects {
            self.perform_cloud(effect);
        }
    }

    fn perform_cloud(&mut self, effect: Effect) {
        match effect {
            Effect::PublishDesired { device, mut desired } => {
                self.put_terms(&mut desired);
                let payload = self.authority.sign(&desired);
                self.trace.note(self.now, || format!("cloud → {device}: generation {}", desired.generation));
                self.cloud.history.entry(device.clone()).or_default().push(payload.clone());
                self.cloud.retained.insert(device.clone(), payload.clone());
                if let Some(i) = self.index(&device) {
                    self.send_down(i, Leaf::Desired, payload);
                }
            }
            Effect::ClearDesired(device) => drop(self.cloud.retained.remove(&device)),
            Effect::Ack { device, ids } => {
                if let Some(i) = self.index(&device) {
                    self.send_down(i, Leaf::Ack, wire::encode(&Ack::V1 { ids }).expect("within the cap"));
                }
            }
            // Stored already, or for watchers only.
            _ => {}
        }
    }

    /// The number of a device.
    pub fn index(&self, id: &DeviceId) -> Option<usize> {
        self.devices.iter().position(|d| d.id == *id)
    }

    /// The process tries to connect.
    pub(super) fn connect(&mut self, i: usize) {
        let broker_up = self.cloud.up || !self.cloud.embedded;
        let start = self.devices[i].running().start;
        let away_until = self.devices[i].link.away_until;
        if !broker_up || self.now < away_until {
            let pause = self.rng.within(500, 30_000);
            return self.queue.plan(away_until.max(self.now + pause), Item::Connect(i, start));
        }
        if self.devices[i].link.up {
            return;
        }
        self.send_will(i);
        self.devices[i].link.up = true;
        if self.devices[i].running().clock_set_ms.is_none() {
            let set = self.now + self.rng.within(1_000, 600_000);
            self.devices[i].running().clock_set_ms = Some(set);
        }
        let retained = self.cloud.retained.get(&self.devices[i].id).cloned();
        let kept = self.devices[i].link.kept();
        let remembered = self.rng.chance(700);
        self.feed(i, Event::LinkUp);
        // Not every broker does what it should about retained messages and sessions.
        if let Some(payload) = retained.filter(|_| self.rng.chance(self.setup.retains)) {
            self.send_down(i, Leaf::Desired, payload);
        }
        for (leaf, payload) in kept.into_iter().filter(|_| remembered) {
            self.send_down(i, leaf, payload);
        }
    }

    /// The connection breaks; both sides notice in their time.
    pub(super) fn cut_link(&mut self, i: usize, away_ms: u64, noticed_ms: u64) {
        let away_until = self.now + away_ms;
        let link = &mut self.devices[i].link;
        link.away_until = link.away_until.max(away_until);
        if !std::mem::take(&mut link.up) {
            return;
        }
        link.cut();
        if let Some(process) = &self.devices[i].process {
            let start = process.start;
            self.plan(noticed_ms, Item::Noticed(i, start));
        }
        self.plan_will(i);
    }

    /// The broker says that a device is gone, some time after it is.
    pub(super) fn plan_will(&mut self, i: usize) {
        let link = &mut self.devices[i].link;
        link.will = Some(link.session);
        let session = link.session;
        let delay = self.rng.below(NOTICED_MS);
        self.plan(delay, Item::Will(i, session));
    }

    /// Sends a last will: when the broker finds the connection broken, and at the latest when the device is back, before
    /// anything that it says then.
    pub(super) fn send_will(&mut self, i: usize) {
        if self.devices[i].link.will.take().is_some() {
            let device = self.devices[i].id.clone();
            self.tell_cloud(CloudEvent::Offline(device));
        }
    }

    pub(super) fn noticed(&mut self, i: usize, start: u32) {
        self.feed(i, Event::LinkDown);
        let pause = self.rng.within(250, 5_000);
        self.plan(pause, Item::Connect(i, start));
    }

    /// The dispatcher ends, and with it the embedded broker.
    pub(super) fn stop_cloud(&mut self) {
        self.trace.note(self.now, || "the dispatcher ends".into());
        self.cloud.die();
        if self.cloud.embedded {
            for i in 0..self.devices.len() {
                self.devices[i].link.kept();
                let noticed = self.rng.below(2_000);
                self.cut_link(i, 0, noticed);
            }
        }
        let away = self.rng.within(1_000, 240_000);
        self.plan(away, Item::CloudStart);
    }

    pub(super) fn start_cloud(&mut self) {
        self.trace.note(self.now, || "the dispatcher starts".into());
        let now = self.wall_s();
        self.cloud.start(now);
        if self.cloud.embedded {
            self.tell_cloud(CloudEvent::BrokerForgot);
        }
    }
}
