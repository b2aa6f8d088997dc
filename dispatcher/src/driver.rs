//! Carries out what the rules say: owns the fleet, and is the only one that changes it.
//!
//! One task takes events from a bounded queue, steps the fleet, makes the changes durable in one transaction,
//! and only then publishes, acknowledges and answers. A crash in between costs nothing: reports that were not
//! acknowledged come again, and desired states are published again when the link comes up.

mod inbox;
mod outbox;
mod telemetry;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use muster_proto::id::DeviceId;
use muster_proto::report::SignedReport;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::counters::Counters;
use crate::domain::fleet::step;
use crate::domain::{Effect, Event, Fleet, WatchEvent};
use crate::storage::{self, Change, Fence, Storage};

pub use inbox::Inbox;
pub use outbox::Outbox;
pub use telemetry::TelemetryQueue;

/// Events that may wait. A full queue turns messages of devices away, which they repeat.
const MAX_WAITING: usize = 1024;
/// The most events in one transaction.
const MAX_BATCH: usize = 256;
/// How often time passes for rollouts.
const TICK: Duration = Duration::from_secs(5);

/// What the driver's task is asked.
enum Command {
    /// A device's message.
    Event(Event),
    /// A device's report, not yet verified.
    Report(DeviceId, SignedReport),
    /// A request of the façade, which is answered once its outcome is durable.
    Decide(Decide, Reply),
}

/// Tells whether what was decided is durable.
type Reply = oneshot::Sender<Result<(), Arc<storage::Error>>>;

/// Sees the fleet as it is and says what happens, or that nothing does. Answers on its own channel.
type Decide = Box<dyn FnOnce(&Fleet) -> Option<Event> + Send>;

/// Why an event did not come to pass.
#[derive(Debug, thiserror::Error)]
pub enum Error<R: std::fmt::Debug + std::fmt::Display> {
    /// The request contradicts the fleet as it is.
    #[error("{0}")]
    Refused(R),
    /// It could not be made durable, and so nothing happened; a retry may help.
    #[error("the fleet could not be stored")]
    Storage(#[source] Arc<storage::Error>),
    /// The dispatcher is stopping.
    #[error("the dispatcher is stopping")]
    Stopped,
}

/// The way to the driver. Clones share it.
#[derive(Clone)]
pub struct Driver {
    commands: mpsc::Sender<Command>,
    fleet: Arc<RwLock<Fleet>>,
}

/// What the driver's task works with.
pub struct Parts {
    /// Where the fleet is durable.
    pub storage: Storage,
    /// The right to change it.
    pub fence: Fence,
    /// What goes to devices.
    pub outbox: Outbox,
    /// Who watches.
    pub watch: broadcast::Sender<WatchEvent>,
    /// Counts what is refused.
    pub counters: Counters,
}

impl Driver {
    /// Starts the task over `fleet`.
    pub fn start(fleet: Fleet, parts: Parts) -> (Self, JoinHandle<()>) {
        let (commands, waiting) = mpsc::channel(MAX_WAITING);
        let fleet = Arc::new(RwLock::new(fleet));
        let task = tokio::spawn(Task { fleet: Arc::clone(&fleet), parts }.run(waiting));
        (Self { commands, fleet }, task)
    }

    /// The fleet as it is now. Hold it briefly: the driver waits.
    pub fn fleet(&self) -> RwLockReadGuard<'_, Fleet> {
        self.fleet.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `decide` see the fleet and, if it names an event, returns once that is durable. What `decide` sees is what
    /// the event is applied to.
    pub async fn decide<T, R>(
        &self,
        decide: impl FnOnce(&Fleet) -> Result<(Option<Event>, T), R> + Send + 'static,
    ) -> Result<T, Error<R>>
    where
        T: Send + 'static,
        R: Send + std::fmt::Debug + std::fmt::Display + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let (done, durable) = oneshot::channel();
        let decide: Decide = Box::new(move |fleet| {
            let (event, outcome) = match decide(fleet) {
                Ok((event, outcome)) => (event, Ok(outcome)),
                Err(refusal) => (None, Err(refusal)),
            };
            // Nobody waits any more: then nobody wants it either.
            answer.send(outcome).is_ok().then_some(event).flatten()
        });
        self.commands.send(Command::Decide(decide, done)).await.map_err(|_| Error::Stopped)?;
        let outcome = answered.await.map_err(|_| Error::Stopped)?;
        durable.await.map_err(|_| Error::Stopped)?.map_err(Error::Storage)?;
        outcome.map_err(Error::Refused)
    }

    /// Hands over a device's message; false where the queue is full.
    fn event(&self, event: Event) -> bool {
        self.commands.try_send(Command::Event(event)).is_ok()
    }

    fn report(&self, device: DeviceId, report: SignedReport) -> bool {
        self.commands.try_send(Command::Report(device, report)).is_ok()
    }
}

/// Whether the task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drive {
    On,
    /// Nobody asks any more, or another process has taken over.
    Stop,
}

/// What follows from some commands.
struct Batch {
    effects: Vec<Effect>,
    changes: Vec<Change>,
    replies: Vec<Reply>,
}

struct Task {
    fleet: Arc<RwLock<Fleet>>,
    parts: Parts,
}

impl Task {
    async fn run(self, mut waiting: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let next = tokio::select! {
                count = waiting.recv_many(&mut batch, MAX_BATCH) => match count {
                    0 => Drive::Stop,
                    _ => self.take(batch.drain(..)).await,
                },
                _ = tick.tick() => self.take([Command::Event(Event::Tick)].into_iter()).await,
            };
            if next == Drive::Stop {
                return;
            }
        }
    }

    async fn take(&self, commands: impl Iterator<Item = Command>) -> Drive {
        let Batch { effects, changes, replies } = self.step(commands);
        match self.parts.storage.persist(self.parts.fence, &changes).await {
            Ok(()) => {
                for effect in effects {
                    self.perform(effect);
                }
                for reply in replies {
                    let _ = reply.send(Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(%error, source = ?std::error::Error::source(&error), "the fleet could not be stored; what happened is taken back");
                self.parts.counters.count("storage_failed");
                if matches!(error, storage::Error::Fenced) {
                    let error = Arc::new(error);
                    for reply in replies {
                        let _ = reply.send(Err(Arc::clone(&error)));
                    }
                    return Drive::Stop;
                }
                self.take_back().await;
                let error = Arc::new(error);
                for reply in replies {
                    let _ = reply.send(Err(Arc::clone(&error)));
                }
            }
        }
        Drive::On
    }

    fn step(&self, commands: impl Iterator<Item = Command>) -> Batch {
        let now = crate::now();
        let (mut effects, mut replies) = (Vec::new(), Vec::new());
        let mut fleet = self.fleet.write().unwrap_or_else(PoisonError::into_inner);
        for command in commands {
            let event = match command {
                Command::Event(event) => Some(event),
                Command::Report(device, report) => self.verified(&fleet, &device, &report),
                Command::Decide(decide, reply) => {
                    replies.push(reply);
                    decide(&fleet)
                }
            };
            if let Some(event) = event {
                effects.extend(step(&mut fleet, event, now));
            }
        }
        let changes = Change::of(&fleet, &effects);
        Batch { effects, changes, replies }
    }

    /// A report counts only with the signature of the device's own key.
    fn verified(&self, fleet: &Fleet, device: &DeviceId, report: &SignedReport) -> Option<Event> {
        let Some(known) = fleet.devices.get(device) else {
            self.parts.counters.count("report_of_unknown_device");
            return None;
        };
        match muster_proto::trust::verify_report(&known.public_key, report) {
            Ok(muster_proto::report::Report::V1(content)) if content.device == *device => {
                Some(Event::ReportArrived(Box::new(content)))
            }
            Ok(_) => {
                self.parts.counters.warn("report_of_another_device", device);
                None
            }
            Err(_) => {
                self.parts.counters.warn("report_signature_invalid", device);
                None
            }
        }
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::PublishDesired { device, desired } => self.parts.outbox.publish(device, Some(*desired)),
            Effect::ClearDesired(device) => self.parts.outbox.publish(device, None),
            Effect::Ack { device, ids } => self.parts.outbox.ack(&device, &ids),
            Effect::Notify(event) => {
                // Nobody may be watching.
                let _ = self.parts.watch.send(event);
            }
            Effect::Record { rollout, decision } => {
                tracing::info!(%rollout, stage = decision.stage, what = decision.in_words(), "decided");
                let _ = self.parts.watch.send(WatchEvent::Decision { rollout, decision });
            }
            Effect::SaveFloor(_)
            | Effect::SaveGroup(_)
            | Effect::DeleteGroup(_)
            | Effect::SaveDevice(_)
            | Effect::DeleteDevice(_)
            | Effect::SaveRollout(_)
            | Effect::SaveProgress { .. }
            | Effect::SaveDenied(_)
            | Effect::DeleteRollout(_) => {}
        }
    }

    /// Goes back to what is durable, with who is connected as it was known. Until that works nothing else happens.
    async fn take_back(&self) {
        loop {
            let (workspace, since) = {
                let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
                (fleet.workspace.clone(), fleet.listening_since)
            };
            match self.parts.storage.load_fleet(workspace, since).await {
                Ok(mut durable) => {
                    let mut fleet = self.fleet.write().unwrap_or_else(PoisonError::into_inner);
                    durable.keep_connections(&fleet, crate::now());
                    *fleet = durable;
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the fleet could not be read back");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
