//! Waves by the clock alone: each begins so long after the one before, whatever came of it. What many a script does; no
//! product's documentation is followed.

use muster_dispatcher::domain::rollout::units::Span;
use serde::Deserialize;

use super::{Policy, Step, Tally};

/// The waves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many percent of the devices have been told when each wave has begun.
    pub percent: Vec<f64>,
    /// How long after the wave before each one begins.
    pub every: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self { percent: vec![1.0, 10.0, 50.0, 100.0], every: Span(3600) }
    }
}

/// A rollout in waves.
#[derive(Debug)]
pub struct Waves(Settings);

impl Waves {
    /// One that has not begun.
    pub fn new(settings: &Settings) -> Self {
        Self(settings.clone())
    }
}

impl Policy for Waves {
    fn step(&mut self, now: u32, tally: &Tally) -> Step {
        let wave = (u64::from(now) / self.0.every.0.max(1)) as usize;
        let percent = self.0.percent.get(wave).or(self.0.percent.last()).copied().unwrap_or(100.0);
        let end = (f64::from(tally.total) * percent / 100.0).ceil() as u32;
        Step::Notify(end.min(tally.total).saturating_sub(tally.notified))
    }
}
