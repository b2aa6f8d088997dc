//! What a loaded model did: counters that requests raise and telemetry reads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use muster_proto::report::LATENCY_BOUNDS_US;

use super::sketch::Sketch;

const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// Counters of one loaded model. They only grow, but for the queue's gauge; each is exact, and they are
/// not read at one instant.
#[derive(Debug, Default)]
pub struct SlotStats {
    ok: AtomicU64,
    errors: AtomicU64,
    rejected: AtomicU64,
    latency: [AtomicU64; BUCKETS],
    latency_us: AtomicU64,
    batches: AtomicU64,
    batched: AtomicU64,
    queued: AtomicU32,
    queue_peak: AtomicU32,
    taken: Mutex<Totals>,
    /// What its answers looked like.
    pub sketch: Sketch,
}

/// Counts since the model was loaded, or of one window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inferences that succeeded.
    pub ok: u64,
    /// Inferences that failed. A request that the model's declaration refuses is none.
    pub errors: u64,
    /// Requests refused because the queue was full.
    pub rejected: u64,
    /// Successful inferences per bucket of [`LATENCY_BOUNDS_US`], and one more for the rest.
    pub latency: [u64; BUCKETS],
    /// The time of all successful inferences, in microseconds.
    pub latency_us: u64,
}

/// What happened between two calls of [`SlotStats::take_window`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// The counts of the window.
    pub counts: Totals,
    /// The largest number of requests that waited at once.
    pub queue_peak: u32,
}

impl SlotStats {
    /// Counts an inference that took `time`, without its wait in the queue.
    pub fn succeeded(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < micros);
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_us.fetch_add(micros, Ordering::Relaxed);
        self.ok.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `requests` that were computed at once.
    pub fn batched(&self, requests: usize) {
        if requests > 1 {
            self.batches.fetch_add(1, Ordering::Relaxed);
            self.batched.fetch_add(requests as u64, Ordering::Relaxed);
        }
    }

    /// How often requests were computed together, and how many of them.
    pub fn batches(&self) -> (u64, u64) {
        (self.batches.load(Ordering::Relaxed), self.batched.load(Ordering::Relaxed))
    }

    /// How often the model ran to give the inferences that succeeded: batches count once.
    pub fn executions(&self) -> u64 {
        let (batches, batched) = self.batches();
        self.ok.load(Ordering::Relaxed).saturating_sub(batched.saturating_sub(batches))
    }

    /// Counts an inference that failed.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that found the queue full.
    pub fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// A request began to wait.
    pub fn enqueued(&self) {
        let now = self.queued.fetch_add(1, Ordering::Relaxed) + 1;
        self.queue_peak.fetch_max(now, Ordering::Relaxed);
    }

    /// A request that waited is run or gone.
    pub fn dequeued(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many requests wait now.
    pub fn queued(&self) -> u32 {
        self.queued.load(Ordering::Relaxed)
    }

    /// All counts since the model was loaded.
    pub fn totals(&self) -> Totals {
        Totals {
            ok: self.ok.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            latency: std::array::from_fn(|bucket| self.latency[bucket].load(Ordering::Relaxed)),
            latency_us: self.latency_us.load(Ordering::Relaxed),
        }
    }

    /// What happened since the last call; the totals stay. Windows of concurrent calls do not overlap.
    pub fn take_window(&self) -> Window {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = self.totals();
        let counts = Totals {
            ok: now.ok - taken.ok,
            errors: now.errors - taken.errors,
            rejected: now.rejected - taken.rejected,
            latency: std::array::from_fn(|bucket| now.latency[bucket] - taken.latency[bucket]),
            latency_us: now.latency_us.wrapping_sub(taken.latency_us),
        };
        *taken = now;
        Window { counts, queue_peak: self.queue_peak.swap(self.queued(), Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_differences_and_totals_stay() {
        let stats = SlotStats::default();
        stats.succeeded(Duration::from_micros(10));
        stats.succeeded(Duration::from_micros(11));
        stats.succeeded(Duration::from_secs(9));
        stats.failed();
        let first = stats.take_window();
        assert_eq!((first.counts.ok, first.counts.errors, first.counts.rejected), (3, 1, 0));
        assert_eq!((first.counts.latency[0], first.counts.latency[1], first.counts.latency[BUCKETS - 1]), (1, 1, 1));
        stats.rejected();
        let second = stats.take_window();
        assert_eq!((second.counts.ok, second.counts.errors, second.counts.rejected), (0, 0, 1));
        assert_eq!(stats.take_window(), Window::default());
        assert_eq!((stats.totals().ok, stats.totals().rejected), (3, 1));
    }

    #[test]
    fn the_peak_of_a_window_begins_with_what_still_waits() {
        let stats = SlotStats::default();
        stats.enqueued();
        stats.enqueued();
        stats.dequeued();
        assert_eq!(stats.take_window().queue_peak, 2);
        assert_eq!(stats.take_window().queue_peak, 1);
        stats.dequeued();
        assert_eq!(stats.take_window().queue_peak, 1);
        assert_eq!((stats.take_window().queue_peak, stats.queued()), (0, 0));
    }
}
