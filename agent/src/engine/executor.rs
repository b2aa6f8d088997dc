//! The executor: a fixed number of threads that run inferences, behind one bounded queue (invariant 10).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use muster_proto::code::Code;
use muster_proto::id::SlotName;
use muster_proto::manifest::Tensor;
use tokio::sync::oneshot;

use super::loaded::Loaded;
use super::slots::Slots;
use super::together::Together;
use super::{model, script};

mod job;

use job::{Job, Work};

/// The stack of a worker. Rust's 2 MiB would do for every model seen; a deep one must not end the process.
const STACK_BYTES: usize = 8 << 20;

/// Why a request got no outputs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model answers in the slot. A retry helps once one does.
    #[error("no model answers in slot {0}")]
    NoModel(SlotName),
    /// The queue is full. A retry later helps.
    #[error("{0} requests wait already")]
    Overloaded(usize),
    /// The request does not fit the model, or the model failed on it. A retry cannot help.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The scoring script refuses the request, or failed on it. A retry cannot help.
    #[error(transparent)]
    Script(#[from] script::Error),
    /// The executor is being shut down. A retry helps after the restart.
    #[error("the agent is shutting down")]
    ShuttingDown,
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::NoModel(_) => Code::NoModel,
            Error::Overloaded(_) | Error::ShuttingDown => Code::Overloaded,
            Error::Model(error) => error.code(),
            Error::Script(error) => error.code(),
        }
    }
}

/// Outputs by name, and the model that gave them.
pub type Inference = (Arc<Loaded>, BTreeMap<String, Tensor>);

/// Runs inferences. Dropping it ends its threads after the inferences that they are at.
#[derive(Debug)]
pub struct Executor {
    slots: Arc<Slots>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Versions of which somebody collects a batch: new requests of theirs are left to that one.
    gathering: Vec<Arc<Loaded>>,
    closed: bool,
}

impl Executor {
    /// Starts `threads` workers, or as many as there are processors, with room for `capacity` waiting
    /// requests.
    pub fn start(slots: Arc<Slots>, threads: Option<NonZeroUsize>, capacity: usize) -> io::Result<Self> {
        let threads = threads.map_or_else(thread::available_parallelism, Ok).unwrap_or(NonZeroUsize::MIN);
        let executor = Self::idle(slots, capacity);
        executor.add_workers(threads.get())?;
        Ok(executor)
    }

    /// The slots that it runs.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// An executor that queues and never runs.
    fn idle(slots: Arc<Slots>, capacity: usize) -> Self {
        let shared = Shared { capacity, queue: Mutex::default(), wake: Condvar::new() };
        Self { slots, shared: Arc::new(shared) }
    }

    fn add_workers(&self, count: usize) -> io::Result<()> {
        for index in 0..count {
            let shared = Arc::clone(&self.shared);
            let builder = thread::Builder::new().name(format!("infer-{index}")).stack_size(STACK_BYTES);
            builder.spawn(move || shared.work())?;
        }
        Ok(())
    }

    /// Runs the model that answers in `slot` now. Inputs are checked before they wait; a request whose
    /// future is dropped while it waits is not run.
    pub async fn infer(&self, slot: &SlotName, inputs: BTreeMap<String, Tensor>) -> Result<Inference, Error> {
        let loaded = self.slots.get(slot).ok_or_else(|| Error::NoModel(slot.clone()))?;
        self.infer_on(loaded, inputs).await
    }

    /// Runs `loaded`, whether or not it answers in a slot, as a shadow does not.
    pub async fn infer_on(&self, loaded: Arc<Loaded>, inputs: BTreeMap<String, Tensor>) -> Result<Inference, Error> {
        loaded.model.check(&inputs)?;
        let outputs = self.done(Arc::clone(&loaded), |reply| Work::Infer { inputs, reply }).await?;
        Ok((loaded, outputs))
    }

    /// The inputs that the script of `loaded` makes of `request`. A script whose future is dropped is stopped.
    pub async fn prepare(&self, loaded: Arc<Loaded>, request: Vec<u8>) -> Result<BTreeMap<String, Tensor>, Error> {
        self.done(loaded, |reply| Work::Prepare { request, reply }).await
    }

    /// The answer that the script of `loaded` makes of `outputs`. It is made before anything new is begun.
    pub async fn finish(&self, loaded: Arc<Loaded>, outputs: BTreeMap<String, Tensor>) -> Result<Vec<u8>, Error> {
        self.done(loaded, |reply| Work::Finish { outputs, reply }).await
    }

    async fn done<T, E>(
        &self,
        loaded: Arc<Loaded>,
        work: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Work,
    ) -> Result<T, Error>
    where
        Error: From<E>,
    {
        let (reply, answer) = oneshot::channel();
        self.shared.submit(Job { loaded, work: work(reply), since: Instant::now() })?;
        // The sender is dropped unanswered only with the queue.
        Ok(answer.await.map_err(|_| Error::ShuttingDown)??)
    }

    /// How many requests wait, of all slots.
    pub fn queued(&self) -> usize {
        self.shared.queue().jobs.len()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.queue().close();
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, job: Job) -> Result<(), Error> {
        let mut queue = self.queue();
        if job.is_last_part() {
            job.loaded.stats.enqueued();
            // There are never more of these than threads have just computed.
            queue.jobs.push_front(job);
            drop(queue);
            self.wake.notify_one();
            return Ok(());
        }
        if queue.jobs.len() >= self.capacity {
            queue.drop_abandoned();
        }
        if queue.jobs.len() >= self.capacity {
            job.loaded.stats.rejected();
            return Err(Error::Overloaded(queue.jobs.len()));
        }
        job.loaded.stats.enqueued();
        queue.jobs.push_back(job);
        let is_gathered = !queue.gathering.is_empty();
        drop(queue);
        // Who collects is not told from who idles.
        if is_gathered {
            self.wake.notify_all()
        } else {
            self.wake.notify_one()
        }
        Ok(())
    }

    fn work(&self) {
        while let Some((job, together)) = self.next() {
            match together {
                Some(together) => Job::run_together(self.gather(job, &together), &together),
                None => job.run(),
            }
        }
    }

    /// `first`, and the requests that can be computed with it: those that wait already, and those that come while it has
    /// patience and there is nothing else to do.
    fn gather(&self, first: Job, together: &Together) -> Vec<Job> {
        let until = first.since + together.patience();
        let version = Arc::clone(&first.loaded);
        let mut batch = Batch::new(first, together);
        let mut queue = self.queue();
        loop {
            queue.join(&mut batch);
            let left = until.saturating_duration_since(Instant::now());
            if batch.room == 0 || left.is_zero() || queue.closed || !queue.jobs.is_empty() {
                break;
            }
            queue = self.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(place) = queue.gathering.iter().position(|gathered| Arc::ptr_eq(gathered, &version)) {
            queue.gathering.swap_remove(place);
        }
        if !queue.jobs.is_empty() {
            self.wake.notify_one();
        }
        batch.jobs
    }

    /// The next job that somebody still waits for, and how it is computed with others, for which new ones of its version are
    /// then left to the caller; none when the executor is gone.
    fn next(&self) -> Option<(Job, Option<Arc<Together>>)> {
        let mut queue = self.queue();
        loop {
            match queue.pop() {
                Some(job) => {
                    job.loaded.stats.dequeued();
                    if job.is_wanted() {
                        let together = job.together();
                        if together.is_some() {
                            queue.gathering.push(Arc::clone(&job.loaded));
                        }
                        return Some((job, together));
                    }
                }
                None if queue.closed => return None,
                None => queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Requests that are computed together.
struct Batch<'a> {
    together: &'a Together,
    jobs: Vec<Job>,
    /// How many more items fit.
    room: usize,
}

impl<'a> Batch<'a> {
    fn new(first: Job, together: &'a Together) -> Self {
        let taken = first.joins(&first, together).unwrap_or(1);
        Self { together, jobs: vec![first], room: together.wish().size.saturating_sub(taken) }
    }

    /// How many items `job` would add, if it fits.
    fn fits(&self, job: &Job) -> Option<usize> {
        let first = self.jobs.first()?;
        job.joins(first, self.together).filter(|items| *items <= self.room)
    }
}

impl Queue {
    /// The first job that nobody collects.
    fn pop(&mut self) -> Option<Job> {
        let gathered = |job: &Job| self.gathering.iter().any(|version| Arc::ptr_eq(version, &job.loaded));
        let place = self.jobs.iter().position(|job| !gathered(job))?;
        self.jobs.remove(place)
    }

    /// Takes into `batch` whatever fits, in order of arrival.
    fn join(&mut self, batch: &mut Batch) {
        let mut place = 0;
        while let Some(job) = self.jobs.get(place).filter(|_| batch.room > 0) {
            let Some(items) = batch.fits(job) else {
                place += 1;
                continue;
            };
            let Some(job) = self.jobs.remove(place) else { break };
            job.loaded.stats.dequeued();
            if job.is_wanted() {
                batch.room -= items;
                batch.jobs.push(job);
            }
        }
    }

    /// Forgets the requests whose callers have gone.
    fn drop_abandoned(&mut self) {
        self.jobs.retain(|job| {
            let wanted = job.is_wanted();
            if !wanted {
                job.loaded.stats.dequeued();
            }
            wanted
        });
    }

    fn close(&mut self) {
        self.closed = true;
        self.jobs.drain(..).for_each(|job| job.loaded.stats.dequeued());
    }
}

#[cfg(test)]
mod tests;
