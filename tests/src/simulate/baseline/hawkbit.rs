//! Eclipse hawkBit, after "Rollout Management" (<https://eclipse.dev/hawkbit/concepts/rollout-management>,
//! `docs/rollout-management.md` of its repository) and the two conditions that it comes with.
//!
//! Targets are split into groups. The next group starts when the share of finished targets of the group's *total* is at
//! least the success threshold (`THRESHOLD`, action `NEXTGROUP`). When the share of errors of the group's total is
//! above the error threshold, the rollout is paused (`PAUSE`); what devices have begun goes on. Its defaults are 50 and 50.
//!
//! Not modelled: approval, maintenance windows, confirmation, dynamic groups, weights, retries by hand. A pause stays.

use serde::Deserialize;

use super::{Policy, State, Step, Tally};

/// A rollout's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The groups' sizes in percent of all targets; the last one takes who is left.
    pub groups: Vec<f64>,
    /// The success threshold in percent.
    pub success: f64,
    /// The error threshold in percent.
    pub error: f64,
}

impl Default for Settings {
    /// A careful user's: a small first group, and a stop beyond 5 %.
    fn default() -> Self {
        Self { groups: vec![1.0, 9.0, 40.0, 50.0], success: 80.0, error: 5.0 }
    }
}

/// A rollout.
#[derive(Debug)]
pub struct Groups {
    settings: Settings,
    /// Where each group ends.
    ends: Vec<u32>,
    at: usize,
}

impl Groups {
    /// A rollout over `total` targets that has not begun.
    pub fn new(settings: &Settings, total: u32) -> Self {
        let mut sum = 0.0;
        let mut ends: Vec<u32> = Vec::new();
        for share in &settings.groups {
            sum += share;
            let end = (f64::from(total) * sum / 100.0).ceil() as u32;
            ends.push(end.min(total));
        }
        if let Some(last) = ends.last_mut() {
            *last = total;
        }
        Self { settings: settings.clone(), ends, at: 0 }
    }

    /// Whether `finished` of `total` reach the success threshold; an empty group does.
    pub fn succeeds(&self, finished: u32, total: u32) -> bool {
        total == 0 || 100.0 * f64::from(finished) / f64::from(total) >= self.settings.success
    }

    /// Whether `errors` of `total` are beyond the error threshold; those of an empty group are not.
    pub fn fails(&self, errors: u32, total: u32) -> bool {
        total > 0 && 100.0 * f64::from(errors) / f64::from(total) > self.settings.error
    }
}

impl Policy for Groups {
    fn step(&mut self, _now: u32, tally: &Tally) -> Step {
        // Groups that run are all looked at, as an earlier one goes on after the next has started.
        for group in 0..=self.at.min(self.ends.len() - 1) {
            let from = group.checked_sub(1).map_or(0, |before| self.ends[before]);
            let all = &tally.by_place[from as usize..self.ends[group] as usize];
            let count = |which: &[State]| all.iter().filter(|state| which.contains(state)).count() as u32;
            let (total, errors) = (all.len() as u32, count(&[State::Failed, State::Rejected]));
            if self.fails(errors, total) {
                return Step::Pause(format!("group {}: {errors} errors of {total}", group + 1));
            }
            if group == self.at && self.at + 1 < self.ends.len() && self.succeeds(count(&[State::Succeeded]), total) {
                self.at += 1;
            }
        }
        Step::Notify(self.ends[self.at] - tally.notified)
    }
}
