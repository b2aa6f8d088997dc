//! How fast: token buckets for starts and bytes. A bucket holds what ten seconds bring, or one start.

use serde::{Deserialize, Serialize};

use super::plan::{GrowOn, PerMinute, Rate, SiteRate};
use super::{Buckets, DevicePhase, Rollout, Site};

/// How much of its rate a bucket holds, in seconds.
pub(super) const BURST_SECONDS: f64 = 10.0;

/// A token bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    level: f64,
    at: u64,
}

impl Bucket {
    /// Lets in what came since, at `rate` per second, and says whether `cost` can be taken.
    pub(super) fn has(&mut self, rate: f64, cost: f64, now: u64) -> bool {
        let cap = (rate * BURST_SECONDS).max(cost);
        self.level = match self.at {
            0 => cap,
            at => (self.level + rate * now.saturating_sub(at) as f64).min(cap),
        };
        self.at = now.max(1);
        // Thirty times two sixtieths is a little less than one.
        self.level >= cost * (1.0 - 1e-9)
    }

    /// Takes `cost`, which may leave a debt.
    pub(super) fn take(&mut self, cost: f64) {
        self.level -= cost;
    }
}

/// Why nothing more starts now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Starts per minute.
    Starts,
    /// Devices that update at once.
    InFlight,
    /// Bytes per second.
    Bytes,
}

impl Buckets {
    /// Whether one more may start that fetches so many bytes, at these rates per second.
    fn limit(&mut self, starts: Option<f64>, bytes: Option<f64>, cost: f64, now: u64) -> Option<Limit> {
        if starts.is_some_and(|rate| !self.starts.has(rate, 1.0, now)) {
            return Some(Limit::Starts);
        }
        (cost > 0.0 && bytes.is_some_and(|rate| !self.bytes.has(rate, cost, now))).then_some(Limit::Bytes)
    }

    pub(super) fn take(&mut self, cost: f64) {
        self.starts.take(1.0);
        self.bytes.take(cost);
    }
}

impl Rollout {
    /// What keeps the next device from starting, which is to fetch so many bytes.
    pub(super) fn limit(&mut self, bytes: u64, now: u64) -> Option<Limit> {
        let Rate { per_minute, in_flight, bytes_per_second, .. } = &self.plan.rate;
        if in_flight.is_some_and(|most| self.line.in_flight >= most) {
            return Some(Limit::InFlight);
        }
        let healthy = self.counts.of(DevicePhase::Healthy);
        let per_second = per_minute.as_ref().map(|rate| rate.per_second(self.starts, healthy));
        self.buckets.limit(per_second, bytes_per_second.map(|rate| rate.0 as f64), bytes as f64, now)
    }

    /// What keeps the next device of a site from starting.
    pub(super) fn site_limit(&mut self, site: u32, bytes: u64, now: u64) -> Option<Limit> {
        site_limit(&self.plan.rate.site, &self.line.site_in_flight, &mut self.sites, site, bytes, now)
    }
}

/// As [`Rollout::site_limit`], by what it depends on.
pub(super) fn site_limit(
    rate: &SiteRate,
    in_flight: &[u32],
    sites: &mut [Site],
    site: u32,
    bytes: u64,
    now: u64,
) -> Option<Limit> {
    let updating = in_flight.get(site as usize).copied().unwrap_or(0);
    if rate.in_flight.is_some_and(|most| updating >= most) {
        return Some(Limit::InFlight);
    }
    let buckets = &mut sites.get_mut(site as usize)?.buckets;
    let per_second = rate.per_minute.map(|rate| rate / 60.0);
    buckets.limit(per_second, rate.bytes_per_second.map(|rate| rate.0 as f64), bytes as f64, now)
}

impl PerMinute {
    /// The rate per second after `started` starts, of which `healthy` proved healthy.
    pub(super) fn per_second(&self, started: u32, healthy: u32) -> f64 {
        let per_minute = match self {
            PerMinute::Constant(rate) => *rate,
            PerMinute::Growing(growing) => {
                let counted = match growing.on {
                    GrowOn::Started => started,
                    GrowOn::Healthy => healthy,
                };
                let steps = (counted / growing.every.max(1)).min(1000);
                (growing.base * growing.factor.powi(steps as i32)).min(growing.max)
            }
        };
        per_minute / 60.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::plan::Growing;

    #[test]
    fn a_bucket_lets_through_its_rate_and_one_burst() {
        let mut bucket = Bucket::default();
        let mut taken = Vec::new();
        for now in 100..220 {
            // Two a minute.
            while bucket.has(2.0 / 60.0, 1.0, now) {
                bucket.take(1.0);
                taken.push(now);
            }
        }
        assert_eq!(taken, [100, 130, 160, 190]);
    }

    #[test]
    fn a_growing_rate_grows_up_to_its_maximum() {
        let growing = Growing { base: 6.0, factor: 2.0, every: 10, on: GrowOn::Healthy, max: 60.0 };
        let rate = PerMinute::Growing(growing);
        for (healthy, want) in [(0, 0.1), (9, 0.1), (10, 0.2), (25, 0.4), (1000, 1.0), (u32::MAX, 1.0)] {
            assert!((rate.per_second(0, healthy) - want).abs() < 1e-9, "{healthy}");
        }
    }
}
