//! What was refused or dropped since the start, by reason: invariant 10 wants it counted and reported.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::repeats::Repeats;

/// Counts by reason. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<&'static str, Count>>>);

#[derive(Debug, Default)]
struct Count {
    total: u64,
    log: Repeats,
}

impl Counters {
    /// One more of `reason`.
    pub fn count(&self, reason: &'static str) {
        self.add(reason, 1);
    }

    /// `count` more of `reason`.
    pub fn add(&self, reason: &'static str, count: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default().total += count;
    }

    /// One more of `reason`, from `who`; logged, but not each time.
    pub fn warn(&self, reason: &'static str, who: &dyn Display) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(reason).or_default();
        count.total += 1;
        if let Some(held_back) = count.log.pass(Instant::now()) {
            tracing::warn!(reason, %who, held_back, "message refused");
        }
    }

    /// All counts.
    pub fn all(&self) -> BTreeMap<String, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(reason, count)| ((*reason).to_owned(), count.total)).collect()
    }
}
