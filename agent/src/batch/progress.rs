//! How a run tells how far it is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Rows so far, with those of the runs that it goes on from.
    pub rows: u64,
    /// Rows of them without an answer.
    pub failed: u64,
    /// Bytes of the inputs that are behind, of [`Snapshot::total`].
    pub done: u64,
    /// Bytes of the inputs; files behind URLs count once they were fetched.
    pub total: u64,
}

/// Whoever is told how far a run is. It is called while others wait, so it has to be quick.
pub trait Progress: Sync {
    /// So far it is now.
    fn advanced(&self, now: Snapshot);
    /// Something that a person should know; the run goes on.
    fn note(&self, text: &str);
}

/// Counts of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// All.
    pub rows: u64,
    /// With an answer.
    pub ok: u64,
    /// Without one.
    pub failed: u64,
    /// Numbers of answers for which JSON has no word.
    pub nonfinite: u64,
}

impl Tally {
    /// Adds `other`.
    pub fn add(&mut self, other: Tally) {
        self.rows += other.rows;
        self.ok += other.ok;
        self.failed += other.failed;
        self.nonfinite += other.nonfinite;
    }
}

/// Lines on stderr, one every few seconds.
#[derive(Debug)]
pub struct Lines {
    every: Duration,
    started: Instant,
    /// When the last line was, and the rows that were there at the start.
    last: Mutex<(Instant, Option<u64>)>,
}

impl Lines {
    /// A line for each `every` that has passed.
    pub fn new(every: Duration) -> Self {
        let now = Instant::now();
        Self { every, started: now, last: Mutex::new((now, None)) }
    }
}

impl Progress for Lines {
    fn advanced(&self, now: Snapshot) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *last.1.get_or_insert(now.rows);
        if last.0.elapsed() < self.every {
            return;
        }
        last.0 = Instant::now();
        let speed = (now.rows - before) as f64 / self.started.elapsed().as_secs_f64();
        eprintln!("{}", line(now, speed));
    }

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }
}

fn line(now: Snapshot, speed: f64) -> String {
    let share = if now.total == 0 { 0 } else { (now.done.min(now.total) as u128 * 100 / u128::from(now.total)) as u64 };
    format!("{} rows, {} failed, {speed:.0} rows/s, {share}% of the input", now.rows, now.failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rows_failures_and_share() {
        let now = Snapshot { rows: 1500, failed: 2, done: 30, total: 120 };
        assert_eq!(line(now, 12.4), "1500 rows, 2 failed, 12 rows/s, 25% of the input");
        assert_eq!(line(Snapshot::default(), 0.0), "0 rows, 0 failed, 0 rows/s, 0% of the input");
    }
}
