//! Which messages wait for the dispatcher's word, what is sent when, and what is dropped first. The
//! bytes themselves are in the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A message that was sent is sent again after this time without an acknowledgement.
const RESEND_MS: u64 = 30_000;
/// How many messages may be sent and not yet acknowledged.
const IN_FLIGHT: usize = 8;

/// A message's rank: outcomes go first and are dropped last (invariant 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// The outcome of an update.
    Outcome,
    /// A telemetry window.
    Telemetry,
}

/// The outbox's bounds (invariant 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The most bytes.
    pub bytes: u64,
    /// The most messages.
    pub count: usize,
    /// The greatest age in seconds; outcomes have no age.
    pub age_s: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 8 << 20, count: 4096, age_s: 7 * 24 * 3600 }
    }
}

/// What the outbox knows of one stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its rank.
    pub kind: Kind,
    /// Its size in bytes.
    pub size: u64,
    /// When it was made, in seconds since 1970 by the device's own clock.
    pub made_at: u64,
}

/// The index of the outbox.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    entries: BTreeMap<(Kind, u64), Entry>,
    sent: BTreeMap<u64, u64>,
    bytes: u64,
    bounds: Bounds,
}

impl Outbox {
    /// The index of messages that are already stored.
    pub fn new(bounds: Bounds, stored: impl IntoIterator<Item = (u64, Entry)>) -> Self {
        let mut outbox = Self { bounds, ..Self::default() };
        for (id, entry) in stored {
            outbox.bytes += entry.size;
            outbox.entries.insert((entry.kind, id), entry);
        }
        outbox
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a message and returns the ids that have to go for it: too old, then the oldest telemetry, and
    /// only where there is no more telemetry the oldest outcomes.
    pub fn add(&mut self, id: u64, entry: Entry, wall_s: u64) -> Vec<u64> {
        self.bytes += entry.size;
        self.entries.insert((entry.kind, id), entry);
        let too_old =
            |e: &Entry| e.kind == Kind::Telemetry && e.made_at <= wall_s && wall_s - e.made_at > self.bounds.age_s;
        let mut dropped: Vec<u64> = self.entries.iter().filter(|(_, e)| too_old(e)).map(|((_, id), _)| *id).collect();
        self.remove(&dropped);
        while self.bytes > self.bounds.bytes || self.entries.len() > self.bounds.count {
            let oldest = |kind| self.entries.range((kind, 0)..=(kind, u64::MAX)).next().map(|((_, id), _)| *id);
            let Some(victim) = oldest(Kind::Telemetry).or_else(|| oldest(Kind::Outcome)) else { break };
            self.remove(&[victim]);
            dropped.push(victim);
        }
        dropped
    }

    /// Drops all telemetry but the newest `keep` windows, for when the disk runs full.
    pub fn shed(&mut self, keep: usize) -> Vec<u64> {
        let telemetry: Vec<u64> =
            self.entries.keys().filter(|(k, _)| *k == Kind::Telemetry).map(|(_, id)| *id).collect();
        let dropped = telemetry[..telemetry.len().saturating_sub(keep)].to_vec();
        self.remove(&dropped);
        dropped
    }

    /// Removes messages and returns those that were there.
    pub fn remove(&mut self, ids: &[u64]) -> Vec<u64> {
        let mut removed = Vec::new();
        for id in ids {
            for kind in [Kind::Outcome, Kind::Telemetry] {
                if let Some(entry) = self.entries.remove(&(kind, *id)) {
                    self.bytes = self.bytes.saturating_sub(entry.size);
                    self.sent.remove(id);
                    removed.push(*id);
                }
            }
        }
        removed
    }

    /// The messages to send now: outcomes first, oldest first, a few at a time.
    pub fn due(&mut self, now_ms: u64) -> Vec<(u64, Kind)> {
        self.sent.retain(|_, at| now_ms < at.saturating_add(RESEND_MS));
        let room = IN_FLIGHT.saturating_sub(self.sent.len());
        let due: Vec<(u64, Kind)> = self
            .entries
            .keys()
            .filter(|(_, id)| !self.sent.contains_key(id))
            .take(room)
            .map(|(kind, id)| (*id, *kind))
            .collect();
        self.sent.extend(due.iter().map(|(id, _)| (*id, now_ms)));
        due
    }

    /// What was sent may be lost with the connection: everything is due again.
    pub fn forget_in_flight(&mut self) {
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, size: u64, made_at: u64) -> Entry {
        Entry { kind, size, made_at }
    }

    #[test]
    fn invariant_9_outcomes_go_first_and_stay_until_acknowledged() {
        let mut outbox = Outbox::new(Bounds::default(), []);
        outbox.add(1, entry(Kind::Telemetry, 10, 0), 0);
        outbox.add(2, entry(Kind::Outcome, 10, 0), 0);
        assert_eq!(outbox.due(0), [(2, Kind::Outcome), (1, Kind::Telemetry)]);
        assert!(outbox.due(RESEND_MS - 1).is_empty());
        assert_eq!(outbox.due(RESEND_MS).len(), 2);
        assert_eq!(outbox.remove(&[2, 77]), [2]);
        outbox.forget_in_flight();
        assert_eq!(outbox.due(RESEND_MS), [(1, Kind::Telemetry)]);
    }

    #[test]
    fn invariant_10_the_outbox_is_bounded_and_says_what_it_dropped() {
        let bounds = Bounds { bytes: 100, count: 5, age_s: 60 };
        let mut outbox = Outbox::new(bounds, [(1, entry(Kind::Outcome, 30, 0)), (2, entry(Kind::Telemetry, 30, 0))]);
        assert!(outbox.add(3, entry(Kind::Telemetry, 30, 50), 50).is_empty());
        assert_eq!(outbox.add(4, entry(Kind::Telemetry, 30, 50), 50), [2], "the oldest telemetry goes for bytes");
        assert_eq!(outbox.add(5, entry(Kind::Telemetry, 1, 111), 111), [3, 4], "old telemetry goes by age");
        let mut dropped = Vec::new();
        for id in 6..12 {
            dropped.extend(outbox.add(id, entry(Kind::Outcome, 1, 111), 111));
        }
        assert_eq!(dropped, [5, 1, 6], "telemetry before outcomes, then the oldest outcome");
        assert_eq!(outbox.len(), 5);
        assert_eq!(outbox.bytes(), 5);
    }

    #[test]
    fn few_messages_are_in_flight_at_once() {
        let mut outbox = Outbox::new(Bounds::default(), (0..100).map(|id| (id, entry(Kind::Telemetry, 1, 0))));
        assert_eq!(outbox.due(0).len(), IN_FLIGHT);
        assert!(outbox.due(1).is_empty());
        outbox.remove(&[0]);
        assert_eq!(outbox.due(1), [(8, Kind::Telemetry)]);
        assert_eq!(outbox.shed(3).len(), 96);
    }
}
