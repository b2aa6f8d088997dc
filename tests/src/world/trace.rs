//! The last lines of what happened, kept only where somebody wants to read them: a world runs ten times faster without.

use std::collections::VecDeque;

/// How many lines are kept.
const LINES: usize = 6_000;

/// The tail of a trace.
#[derive(Debug, Default)]
pub struct Trace(Option<VecDeque<String>>);

impl Trace {
    /// A trace that is kept, or one that is not.
    pub fn new(kept: bool) -> Self {
        Self(kept.then(VecDeque::new))
    }

    /// Adds a line, which is not even made where nobody keeps it.
    pub fn note(&mut self, at_ms: u64, line: impl FnOnce() -> String) {
        let Some(lines) = &mut self.0 else { return };
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(format!("{:>10.3} {}", at_ms as f64 / 1000.0, line()));
    }

    /// The lines, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }
}
