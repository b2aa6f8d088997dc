//! AWS IoT Jobs, after "How job configurations work"
//! (<https://docs.aws.amazon.com/iot/latest/developerguide/jobs-configurations-details.html>) and the API reference of
//! `JobExecutionsRolloutConfig`, `ExponentialRolloutRate`, `AbortCriteria` and `TimeoutConfig`.
//!
//! - `maximumPerMinute` things are notified per minute; or, with `exponentialRate`, `baseRatePerMinute`, which is multiplied
//!   by `incrementFactor` each time that a further `numberOfNotifiedThings` was notified or a further
//!   `numberOfSucceededThings` succeeded.
//! - A criterion of `abortConfig` cancels the job when at least `minNumberOfExecutedThings` were notified and at least
//!   `thresholdPercentage` failed in the way of `failureType`. Cancelling takes back executions that are `QUEUED`;
//!   those `IN_PROGRESS` go on (`force` is not given). The percentage is taken here of the executions that have ended,
//!   which is the reading that aborts soonest.
//! - `inProgressTimeoutInMinutes` ends an execution as `TIMED_OUT`.
//!
//! Not modelled: retries, scheduling and maintenance windows, continuous jobs, limits of an account.

use serde::Deserialize;

use super::{Policy, Step, Tally};

/// A job's configuration, in the words of its API.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The most things that are notified per minute.
    pub maximum_per_minute: f64,
    /// A rate that grows.
    pub exponential_rate: Option<ExponentialRate>,
    /// When the job is cancelled.
    pub abort: Vec<AbortCriteria>,
    /// How long an execution may be in progress.
    pub in_progress_timeout_in_minutes: Option<u32>,
}

/// A rate that grows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExponentialRate {
    /// The rate at first.
    pub base_rate_per_minute: f64,
    /// By what it grows.
    pub increment_factor: f64,
    /// After so many things were notified each time.
    pub number_of_notified_things: Option<u32>,
    /// Or after so many succeeded.
    pub number_of_succeeded_things: Option<u32>,
}

/// When a job is cancelled.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortCriteria {
    /// What counts.
    pub failure_type: FailureType,
    /// The least number of notified things.
    pub min_number_of_executed_things: u32,
    /// The least percentage of failures.
    pub threshold_percentage: f64,
}

/// What counts as a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureType {
    Failed,
    Rejected,
    TimedOut,
    All,
}

impl Default for Settings {
    /// A careful user's: a rate that begins at 1 % of the service's maximum and doubles with successes, and a stop at 5 %.
    fn default() -> Self {
        let exponential_rate = ExponentialRate {
            base_rate_per_minute: 10.0,
            increment_factor: 2.0,
            number_of_notified_things: None,
            number_of_succeeded_things: Some(100),
        };
        let abort = AbortCriteria {
            failure_type: FailureType::All,
            min_number_of_executed_things: 10,
            threshold_percentage: 5.0,
        };
        Self {
            maximum_per_minute: 1000.0,
            exponential_rate: Some(exponential_rate),
            abort: vec![abort],
            in_progress_timeout_in_minutes: Some(60),
        }
    }
}

/// A job.
#[derive(Debug)]
pub struct Jobs {
    settings: Settings,
    increments: u32,
    allowance: f64,
    asked_at: Option<u32>,
}

impl Jobs {
    /// A job that has not begun.
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), increments: 0, allowance: 0.0, asked_at: None }
    }

    /// Things per minute after so many were notified and have succeeded.
    pub fn rate(&mut self, notified: u32, succeeded: u32) -> f64 {
        let Some(rate) = &self.settings.exponential_rate else { return self.settings.maximum_per_minute };
        loop {
            let next = self.increments + 1;
            let reached = |count: u32, each: Option<u32>| each.is_some_and(|each| count >= each.saturating_mul(next));
            let grows = reached(notified, rate.number_of_notified_things)
                || reached(succeeded, rate.number_of_succeeded_things);
            if !grows || self.increments > 1000 {
                break;
            }
            self.increments = next;
        }
        let grown = rate.base_rate_per_minute * rate.increment_factor.powi(self.increments as i32);
        grown.min(self.settings.maximum_per_minute)
    }

    /// The criterion that cancels the job, if there is one.
    pub fn aborts(&self, tally: &Tally) -> Option<String> {
        let ended = tally.succeeded + tally.failed + tally.rejected + tally.timed_out;
        self.settings.abort.iter().find_map(|criterion| {
            let failures = match criterion.failure_type {
                FailureType::Failed => tally.failed,
                FailureType::Rejected => tally.rejected,
                FailureType::TimedOut => tally.timed_out,
                FailureType::All => tally.failed + tally.rejected + tally.timed_out,
            };
            let percentage = 100.0 * f64::from(failures) / f64::from(ended.max(1));
            let enough = tally.notified >= criterion.min_number_of_executed_things && failures > 0;
            (enough && percentage >= criterion.threshold_percentage).then(|| {
                format!("{percentage:.1} % of {ended} failed, the threshold is {} %", criterion.threshold_percentage)
            })
        })
    }
}

impl Policy for Jobs {
    fn step(&mut self, now: u32, tally: &Tally) -> Step {
        if let Some(why) = self.aborts(tally) {
            return Step::Cancel(why);
        }
        let elapsed = now - self.asked_at.replace(now).unwrap_or(now);
        let per_minute = self.rate(tally.notified, tally.succeeded);
        self.allowance = (self.allowance + per_minute * f64::from(elapsed) / 60.0).min(per_minute);
        let count = self.allowance.floor();
        self.allowance -= count;
        Step::Notify((count as u32).min(tally.total - tally.notified))
    }

    fn timeout(&self) -> Option<u32> {
        self.settings.in_progress_timeout_in_minutes.map(|minutes| minutes * 60)
    }
}
