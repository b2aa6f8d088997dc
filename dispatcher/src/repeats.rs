//! Lets one of many equal log lines through per period and counts the rest, so that a storm of refused connections
//! does not fill the disk. It must not know what is logged.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line of this kind per period.
const PERIOD: Duration = Duration::from_secs(10);

/// The memory of one log line.
#[derive(Debug, Default)]
pub(crate) struct Repeats(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl Repeats {
    /// Asks to log at `now`: `Some(n)` if it may, where `n` is how many were held back since the last that might.
    pub(crate) fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_per_period_and_tells_how_many_did_not() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let asked = [(0, Some(0)), (1, None), (9, None), (10, Some(2)), (19, None), (40, Some(1)), (50, Some(0))];
        for (seconds, expected) in asked {
            assert_eq!(repeats.pass(start + Duration::from_secs(seconds)), expected, "at {seconds} s");
        }
    }
}
