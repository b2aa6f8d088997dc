//! Carries out effects and turns results into events. It decides nothing: that is the core's.
//!
//! One task owns the state. What takes long (assembling, loading, probing) runs on blocking threads and
//! comes back as an event, so that the device goes on answering and talking meanwhile.

mod perform;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_proto::id::{Digest, SlotName};
use muster_proto::report::{DeviceReport, ShadowWindow, Telemetry};
use muster_proto::topic::Leaf;
use muster_proto::transfer::{Ack, Frame};
use muster_proto::wire;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::core::{self, Event, Now, State, Veto};
use crate::engine::sample::Sampler;
use crate::engine::shadow::Run;
use crate::engine::{Loaded, Slots};
use crate::identity::Identity;
use crate::link::{Incoming, Link};
use crate::store::Store;
use crate::veto::Vetoes;
use crate::vitals;

/// How often the core is told that time has passed.
const TICK: Duration = Duration::from_millis(500);
/// How often a write to a full or broken disk is tried again.
const PERSIST_RETRY: Duration = Duration::from_secs(2);
/// How many results may wait for the driver.
const RESULTS: usize = 64;

/// What others may see of the agent at any time.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// The complete reported state.
    pub report: DeviceReport,
    /// Whether the connection to the broker is up.
    pub online: bool,
    /// How many messages wait for the dispatcher.
    pub outbox_messages: usize,
    /// Their size in bytes.
    pub outbox_bytes: u64,
    /// How many messages were dropped for want of room or for their age, since the store was made (invariant 10).
    #[serde(default)]
    pub outbox_dropped: u64,
    /// Whether every slot has reached an end.
    pub settled: bool,
}

/// The driver and everything that it drives.
pub struct Driver {
    state: State,
    store: Arc<Store>,
    slots: Arc<Slots>,
    identity: Arc<Identity>,
    link: Option<Link>,
    /// Loaded beside the active versions, waiting for the word to switch.
    staged: BTreeMap<SlotName, (Digest, Arc<Loaded>)>,
    /// Staged versions that run beside the active ones.
    shadows: BTreeMap<SlotName, Arc<Run>>,
    /// The last figures of those that have ended since the last telemetry window.
    past_shadows: Vec<ShadowWindow>,
    /// What takes samples of requests, where the owner wants them.
    sampler: Option<Arc<Sampler>>,
    vetoes: Arc<Vetoes>,
    /// The veto that the core knows of.
    veto: Option<Veto>,
    results: mpsc::Sender<Outcome>,
    /// One model at a time is loaded: memory is what small devices lack.
    loading: Arc<Semaphore>,
    status: watch::Sender<Status>,
    started: Instant,
    window: Window,
}

struct Window {
    started_at: u64,
    since: Instant,
    cpu: Duration,
}

/// A result, and the model that came with it.
struct Outcome {
    event: Event,
    loaded: Option<(SlotName, Digest, Arc<Loaded>)>,
}

impl Driver {
    /// A driver for `state`; [`Driver::run`] starts it.
    pub fn new(
        state: State,
        store: Arc<Store>,
        slots: Arc<Slots>,
        identity: Arc<Identity>,
        link: Option<Link>,
        vetoes: Arc<Vetoes>,
    ) -> (Self, watch::Receiver<Status>, Results) {
        let (results, receiver) = mpsc::channel(RESULTS);
        let (status, watched) = watch::channel(status_of(&state, now_at(Instant::now())));
        let window = Window { started_at: wall_s(), since: Instant::now(), cpu: vitals::cpu_time() };
        let driver = Self {
            state,
            store,
            slots,
            identity,
            link,
            staged: BTreeMap::new(),
            shadows: BTreeMap::new(),
            past_shadows: Vec::new(),
            sampler: None,
            vetoes,
            veto: None,
            results,
            loading: Arc::new(Semaphore::new(1)),
            status,
            started: Instant::now(),
            window,
        };
        (driver, watched, Results(receiver))
    }

    /// Lets `sampler` take samples of what is answered from now on.
    pub fn with_sampler(self, sampler: Option<Arc<Sampler>>) -> Self {
        Self { sampler, ..self }
    }

    /// Runs until `stop` fires or its sender is gone.
    pub async fn run(
        mut self,
        Results(mut results): Results,
        mut incoming: mpsc::Receiver<Incoming>,
        mut stop: oneshot::Receiver<()>,
        window: Duration,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut windows = tokio::time::interval_at(tokio::time::Instant::now() + window, window);
        self.step(Event::Started).await;
        loop {
            tokio::select! {
                _ = &mut stop => break,
                Some(outcome) = results.recv() => self.finished(outcome).await,
                Some(message) = incoming.recv() => self.received(message).await,
                _ = windows.tick() => self.close_window().await,
                _ = tick.tick() => self.tick().await,
            }
        }
        self.step(Event::Stopping).await;
        if let Some(link) = &self.link {
            link.disconnect();
        }
    }

    async fn step(&mut self, event: Event) {
        let now = now_at(self.started);
        let effects = core::step(&mut self.state, event, now);
        let quiet = effects.is_empty();
        for effect in effects {
            self.perform(effect).await;
        }
        if !quiet || self.status.borrow().settled != self.state.is_settled() {
            let status = status_of(&self.state, now);
            self.status.send_if_modified(|old| {
                let changed = *old != status;
                if changed {
                    log_changes(old, &status);
                    *old = status;
                }
                changed
            });
        }
    }

    async fn tick(&mut self) {
        let veto = self.vetoes.current();
        if veto != self.veto {
            self.veto.clone_from(&veto);
            self.step(Event::VetoChanged(veto)).await;
        }
        let over = self.shadows.iter().filter(|(_, run)| run.is_over());
        let over: Vec<_> = over.map(|(slot, run)| (slot.clone(), run.shadow().digest)).collect();
        for (slot, digest) in over {
            self.end_shadow(&slot);
            self.step(Event::ShadowEnded { slot, digest, refused: None }).await;
        }
        self.step(Event::Ticked).await;
    }

    async fn finished(&mut self, Outcome { event, loaded }: Outcome) {
        if let (Some((_, _, model)), Some(sampler)) = (&loaded, &self.sampler) {
            model.mirror.sample(Arc::clone(sampler));
        }
        let stays = matches!(event, Event::ModelStaged { .. });
        if let (true, Some((slot, digest, model))) = (stays, &loaded) {
            self.staged.insert(slot.clone(), (*digest, model.clone()));
        }
        self.step(event).await;
        // A version that was loaded because nothing answered: only if that is still what is wanted.
        if let (false, Some((slot, digest, model))) = (stays, loaded)
            && self.state.answering().get(&slot) == Some(&digest)
        {
            if let Some(run) = self.shadows.get(&slot) {
                model.mirror.set(Some(run.clone()));
            }
            self.slots.activate(slot.clone(), model);
            self.step(Event::Activated { slot, digest }).await;
        }
    }

    async fn received(&mut self, message: Incoming) {
        let event = match message {
            Incoming::Up => Ok(Event::LinkUp),
            Incoming::Down(_) => Ok(Event::LinkDown),
            Incoming::Message(Leaf::Desired, bytes) if bytes.is_empty() => return,
            Incoming::Message(Leaf::Desired, bytes) => Ok(Event::DesiredArrived(bytes)),
            Incoming::Message(Leaf::Chunk, bytes) | Incoming::Bundle(bytes) => {
                wire::decode::<Frame>(&bytes).map(Event::FrameArrived)
            }
            Incoming::Message(Leaf::Ack, bytes) => {
                wire::decode::<Ack>(&bytes).map(|Ack::V1 { ids }| Event::Acknowledged(ids))
            }
            Incoming::Message(..) => return,
        };
        match event {
            Ok(event) => self.step(event).await,
            Err(error) => tracing::warn!(code = %error.code(), %error, "a message cannot be read"),
        }
    }

    async fn close_window(&mut self) {
        let cpu = vitals::cpu_time();
        let window = Window { started_at: wall_s(), since: Instant::now(), cpu };
        let before = std::mem::replace(&mut self.window, window);
        let disk_free_bytes = self.store.files.disk().map_or(0, |(free, _)| free);
        let vitals = muster_proto::report::Vitals {
            rss_bytes: vitals::rss_bytes(),
            cpu_ms: millis(cpu.saturating_sub(before.cpu)),
            disk_free_bytes,
            memory_available_bytes: vitals::memory_available(),
            temperature_millicelsius: vitals::temperature_millicelsius(),
            outbox_dropped: 0,
        };
        let slots = self.slots.take_windows();
        let mut shadows = std::mem::take(&mut self.past_shadows);
        shadows.extend(self.shadows.values().map(|run| run.take_window()));
        let event = Event::WindowClosed {
            started_at: before.started_at,
            length_ms: millis(before.since.elapsed()),
            slots,
            shadows,
            vitals,
        };
        self.step(event).await;
    }
}

/// Where results arrive; belongs to [`Driver::run`].
pub struct Results(mpsc::Receiver<Outcome>);

fn status_of(state: &State, now: Now) -> Status {
    let (outbox_messages, outbox_bytes) = state.outbox_size();
    Status {
        report: state.describe(now),
        online: state.is_online(),
        outbox_messages,
        outbox_bytes,
        outbox_dropped: state.durable().outbox_dropped,
        settled: state.is_settled(),
    }
}

/// Logs what changed, once.
fn log_changes(old: &Status, new: &Status) {
    for slot in &new.report.slots {
        let before = old.report.slots.iter().find(|s| s.slot == slot.slot);
        if before.map(|b| (b.phase, &b.failure)) == Some((slot.phase, &slot.failure)) {
            continue;
        }
        let digest = slot.desired.as_ref().map(|d| d.digest.short()).unwrap_or_default();
        let generation = new.report.generation.0;
        match &slot.failure {
            Some(failure) => tracing::warn!(
                slot = %slot.slot, generation, digest, phase = ?slot.phase, code = %failure.code,
                detail = failure.detail, "update"
            ),
            None => tracing::info!(slot = %slot.slot, generation, digest, phase = ?slot.phase, "update"),
        }
    }
}

fn now_at(started: Instant) -> Now {
    Now { mono_ms: millis(started.elapsed()), wall_s: wall_s() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wall_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A telemetry window or report as it goes over the wire.
fn encode_body(identity: &Identity, body: &core::event::Body) -> Result<Vec<u8>, wire::Error> {
    match body {
        core::event::Body::Report(report) => identity.sign(&muster_proto::report::Report::V1(report.clone())),
        core::event::Body::Telemetry(telemetry) => wire::encode::<Telemetry>(telemetry),
    }
}
