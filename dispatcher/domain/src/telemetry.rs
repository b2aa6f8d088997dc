//! Telemetry as it is kept: sums per device, slot and version, each window counted once.

use muster_proto::id::{Digest, SlotName};
use muster_proto::report::{LATENCY_BOUNDS_US, SlotWindow, Vitals};
use serde::{Deserialize, Serialize};

/// How far below the highest id a late window is still told from a repeated one.
const REMEMBERED: u64 = 256;

/// Sums over all windows of one version in one slot of one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// The slot.
    pub slot: SlotName,
    /// The digest of the manifest that answered.
    pub digest: Digest,
    /// Inferences that succeeded.
    pub ok: u64,
    /// Inferences that failed.
    pub errors: u64,
    /// Requests refused because the queue was full.
    pub rejected: u64,
    /// The most requests that waited at once.
    pub queue_peak: u32,
    /// Inferences per bucket of [`LATENCY_BOUNDS_US`] and one more.
    pub latency: Vec<u64>,
}

impl Totals {
    /// Nothing yet.
    pub fn new(slot: SlotName, digest: Digest) -> Self {
        let latency = vec![0; LATENCY_BOUNDS_US.len() + 1];
        Self { slot, digest, ok: 0, errors: 0, rejected: 0, queue_peak: 0, latency }
    }

    /// Adds a window; buckets that this build does not know go into the last.
    pub fn add(&mut self, window: &SlotWindow) {
        self.ok = self.ok.saturating_add(window.ok);
        self.errors = self.errors.saturating_add(window.errors);
        self.rejected = self.rejected.saturating_add(window.rejected);
        self.queue_peak = self.queue_peak.max(window.queue_peak);
        let last = LATENCY_BOUNDS_US.len();
        self.latency.resize(last + 1, 0);
        for (index, count) in window.latency.iter().enumerate() {
            let bucket = &mut self.latency[index.min(last)];
            *bucket = bucket.saturating_add(*count);
        }
    }
}

/// What is kept of a device beside its totals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceTelemetry {
    /// Which windows are in the totals.
    pub seen: Seen,
    /// The vitals of the newest window.
    pub vitals: Vitals,
    /// When it came.
    pub updated_at: u64,
}

/// Which ids of a device's newest incarnation have been counted (invariant 6).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    incarnation: u64,
    highest: u64,
    /// Ids of at least `highest − 256`, ascending.
    recent: Vec<u64>,
}

impl Seen {
    /// Whether `id` has not been counted yet; from now on it has. Too late counts as seen: a gap is better than
    /// counting twice.
    pub fn insert(&mut self, incarnation: u64, id: u64) -> bool {
        if self.incarnation != incarnation {
            *self = Self { incarnation, highest: 0, recent: Vec::new() };
        }
        if id.saturating_add(REMEMBERED) < self.highest {
            return false;
        }
        let Err(place) = self.recent.binary_search(&id) else { return false };
        self.recent.insert(place, id);
        self.highest = self.highest.max(id);
        let floor = self.highest.saturating_sub(REMEMBERED);
        self.recent.retain(|id| *id >= floor);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant 6.
    #[test]
    fn each_window_counts_once_in_whatever_order() {
        let mut seen = Seen::default();
        for (incarnation, id, want) in [
            (1, 5, true),
            (1, 5, false),
            (1, 3, true),
            (1, 3, false),
            (1, 300, true),
            (1, 40, false), // too late to tell
            (1, 44, true),
            (2, 5, true), // the store was made anew
            (2, 5, false),
        ] {
            assert_eq!(seen.insert(incarnation, id), want, "{incarnation}/{id}");
        }
        for id in 0..10_000 {
            seen.insert(3, id);
        }
        assert!(seen.recent.len() <= 257);
    }

    #[test]
    fn windows_of_a_newer_agent_with_more_buckets_are_not_lost() {
        let mut totals = Totals::new("digits".parse().expect("valid"), Digest::of(b"m"));
        let window = SlotWindow {
            slot: totals.slot.clone(),
            digest: totals.digest,
            ok: 3,
            errors: u64::MAX,
            rejected: 1,
            latency: vec![1; 30],
            queue_peak: 4,
        };
        totals.add(&window);
        totals.add(&window);
        assert_eq!(totals.latency.iter().sum::<u64>(), 60);
        assert_eq!((totals.ok, totals.errors, totals.queue_peak), (6, u64::MAX, 4));
    }
}
