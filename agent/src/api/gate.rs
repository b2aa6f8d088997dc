//! How many requests of one service run at once, and who waits: a fixed number runs, a fixed number queues in order of
//! arrival, the rest is told at once to come back. It knows neither models nor HTTP.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::keys::Hash;

/// The bounds of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many requests run at once.
    pub concurrency: usize,
    /// How many more wait.
    pub queue: usize,
    /// How long one waits.
    pub wait: Duration,
    /// How many of one key run and wait; none for no limit of its own.
    pub per_key: Option<usize>,
}

/// Why a request may not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its key has its share already. Other servers would say the same: slow down.
    #[error("{0} requests with this key are under way already, which is its share")]
    Share(usize),
    /// The queue is full. Another replica, or a second later, may do.
    #[error("{0} requests wait already")]
    Full(usize),
    /// It has waited as long as requests of this service may.
    #[error("no turn within {} ms", .0.as_millis())]
    Waited(Duration),
    /// Its own deadline has passed while it waited; it is not computed.
    #[error("the deadline has passed before its turn")]
    Late,
}

/// Lets requests of one service through. Its bounds may change while requests wait.
#[derive(Debug)]
pub struct Gate(Mutex<State>);

#[derive(Debug)]
struct State {
    bounds: Bounds,
    running: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
    by_key: BTreeMap<Hash, usize>,
    refused: Refused,
}

#[derive(Debug, Clone, Copy, Default)]
struct Refused {
    share: u64,
    full: u64,
    waited: u64,
    late: u64,
}

/// A request that runs. Dropping it lets the next one through.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    _share: Share,
}

/// A request's place in its key's share.
#[derive(Debug)]
struct Share {
    gate: Arc<Gate>,
    key: Option<Hash>,
}

impl Gate {
    /// A gate that nobody has passed.
    pub fn new(bounds: Bounds) -> Self {
        let (waiting, by_key, refused) = Default::default();
        Self(Mutex::new(State { bounds, running: 0, waiting, by_key, refused }))
    }

    /// From now on other bounds; who waits already keeps its place.
    pub fn set(&self, bounds: Bounds) {
        let mut state = self.state();
        state.bounds = bounds;
        state.let_through();
    }

    /// Waits for a turn, at most as long as the bounds and the caller's `deadline` say.
    pub async fn enter(self: &Arc<Self>, key: Option<Hash>, deadline: Option<Instant>) -> Result<Pass, Refusal> {
        let passed = self.try_enter(key, deadline).await;
        if let Err(refusal) = &passed {
            self.state().refused.count(*refusal);
        }
        passed
    }

    async fn try_enter(self: &Arc<Self>, key: Option<Hash>, deadline: Option<Instant>) -> Result<Pass, Refusal> {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Refusal::Late);
        }
        let share = self.share(key)?;
        let (mut turn, wait) = {
            let mut state = self.state();
            state.waiting.retain(|waiting| !waiting.is_closed());
            if state.running < state.bounds.concurrency && state.waiting.is_empty() {
                state.running += 1;
                return Ok(Pass { gate: Arc::clone(self), _share: share });
            }
            if state.waiting.len() >= state.bounds.queue {
                return Err(Refusal::Full(state.waiting.len()));
            }
            let (sender, turn) = oneshot::channel();
            state.waiting.push_back(sender);
            (turn, state.bounds.wait)
        };
        let most = Instant::now() + wait;
        let until = deadline.map_or(most, |deadline| deadline.min(most));
        let came = tokio::time::timeout_at(until.into(), &mut turn).await;
        turn.close();
        // A turn that came in the very moment of giving up is taken, else it would be lost.
        if matches!(came, Ok(Ok(()))) || turn.try_recv().is_ok() {
            return Ok(Pass { gate: Arc::clone(self), _share: share });
        }
        Err(if until < most { Refusal::Late } else { Refusal::Waited(wait) })
    }

    /// How many run and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.is_closed());
        (state.running, state.waiting.len())
    }

    /// How many requests were refused, by reason.
    pub fn refused(&self) -> [(&'static str, u64); 4] {
        let Refused { share, full, waited, late } = self.state().refused;
        [("share", share), ("full", full), ("waited", waited), ("late", late)]
    }

    fn share(self: &Arc<Self>, key: Option<Hash>) -> Result<Share, Refusal> {
        let mut state = self.state();
        if let (Some(key), Some(most)) = (key, state.bounds.per_key) {
            let held = state.by_key.entry(key).or_default();
            if *held >= most {
                return Err(Refusal::Share(most));
            }
            *held += 1;
            return Ok(Share { gate: Arc::clone(self), key: Some(key) });
        }
        Ok(Share { gate: Arc::clone(self), key: None })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn let_through(&mut self) {
        while self.running < self.bounds.concurrency {
            let Some(next) = self.waiting.pop_front() else { return };
            // Who has gone meanwhile takes no turn.
            if next.send(()).is_ok() {
                self.running += 1;
            }
        }
    }
}

impl Refused {
    fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Share(_) => self.share += 1,
            Refusal::Full(_) => self.full += 1,
            Refusal::Waited(_) => self.waited += 1,
            Refusal::Late => self.late += 1,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.running -= 1;
        state.let_through();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut state = self.gate.state();
        if let Some(held) = state.by_key.get_mut(&key) {
            *held -= 1;
            if *held == 0 {
                state.by_key.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(concurrency: usize, queue: usize) -> Arc<Gate> {
        let wait = Duration::from_secs(3600);
        Arc::new(Gate::new(Bounds { concurrency, queue, wait, per_key: Some(2) }))
    }

    #[tokio::test]
    async fn some_run_some_wait_and_the_rest_is_refused() {
        let gate = gate(1, 1);
        let first = gate.enter(None, None).await.expect("runs");
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(None, None).await }
        });
        while gate.load() != (1, 1) {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.enter(None, None).await.err(), Some(Refusal::Full(1)));
        drop(first);
        let second = waiting.await.expect("joins").expect("its turn");
        assert_eq!(gate.load(), (1, 0));
        drop(second);
        assert_eq!(gate.load(), (0, 0));
    }

    #[tokio::test]
    async fn who_gave_up_takes_no_turn() {
        let gate = gate(1, 4);
        let first = gate.enter(None, None).await.expect("runs");
        let gone = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(None, None).await }
        });
        while gate.load() != (1, 1) {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.is_err());
        drop(first);
        assert_eq!(gate.load(), (0, 0));
        assert!(gate.enter(None, None).await.is_ok());
    }

    #[tokio::test]
    async fn deadlines_and_patience_are_told_apart() {
        let gate = gate(1, 4);
        gate.set(Bounds { concurrency: 1, queue: 4, wait: Duration::from_millis(30), per_key: None });
        let _first = gate.enter(None, None).await.expect("runs");
        assert_eq!(gate.enter(None, None).await.err(), Some(Refusal::Waited(Duration::from_millis(30))));
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(gate.enter(None, Some(soon)).await.err(), Some(Refusal::Late));
        let past = Instant::now() - Duration::from_millis(1);
        assert_eq!(gate.enter(None, Some(past)).await.err(), Some(Refusal::Late), "not even where there is room");
        assert_eq!(gate.load(), (1, 0));
    }

    #[tokio::test]
    async fn a_key_has_its_share() {
        let gate = gate(8, 8);
        let (one, other) = (Hash::of("one"), Hash::of("other"));
        let held = [gate.enter(Some(one), None).await, gate.enter(Some(one), None).await];
        assert_eq!(gate.enter(Some(one), None).await.err(), Some(Refusal::Share(2)));
        assert!(gate.enter(Some(other), None).await.is_ok());
        drop(held);
        assert!(gate.enter(Some(one), None).await.is_ok());
        assert!(gate.state().by_key.is_empty());
    }

    #[tokio::test]
    async fn wider_bounds_let_the_waiting_through() {
        let gate = gate(1, 4);
        let _first = gate.enter(None, None).await.expect("runs");
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(None, None).await }
        });
        while gate.load() != (1, 1) {
            tokio::task::yield_now().await;
        }
        let bounds = gate.state().bounds;
        gate.set(Bounds { concurrency: 2, ..bounds });
        assert!(waiting.await.expect("joins").is_ok());
    }
}
