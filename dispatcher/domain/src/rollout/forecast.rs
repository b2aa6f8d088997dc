//! When each stage would begin and end if every device did well: closed forms and the steps of a growing rate, never
//! device by device. Limits of single sites, windows and vetoes are left out: nothing is known of them beforehand.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pace::BURST_SECONDS;
use super::plan::{GrowOn, Growing, PerMinute, Plan, Stage, Switch};
use super::{DevicePhase, Rollout, RolloutStatus};

/// What a device is thought to take, in seconds, until one has shown it.
const FIRST_GUESS_SECONDS: u64 = 60;
/// The most steps of a growing rate that are followed; the rate grows no further in the engine either.
const MAX_STEPS: u32 = 1000;

/// When a rollout would end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forecast {
    /// Each stage, in order.
    pub stages: Vec<StageForecast>,
    /// When the last one would end, in seconds since 1970.
    pub ends_at: u64,
    /// What would be fetched, in bytes.
    pub bytes: u64,
}

/// When a stage would begin and end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StageForecast {
    /// Its name, or its number.
    pub name: String,
    /// How many devices come to it that no earlier stage has.
    pub devices: u32,
    /// When it would begin, in seconds since 1970.
    pub starts_at: u64,
    /// When it would end.
    pub ends_at: u64,
}

/// When `plan` would come to which end, for `members` devices that fetch so many bytes and take so many seconds each
/// besides the soak time, if it was started `now`, agreed to at once and released as soon as everybody is ready.
pub fn forecast(plan: &Plan, members: u32, bytes_each: u64, seconds_each: u64, now: u64) -> Forecast {
    let begin = plan.schedule.start.map_or(now, |at| at.0.max(now));
    let walk = Walk { plan, bytes: bytes_each, seconds: seconds_each as f64, begin, to_fetch: members, updating: 0 };
    let mut stages = Vec::new();
    let (mut at, mut taken) = (walk.release(), 0);
    for (i, stage) in plan.stages.iter().enumerate() {
        let quota = stage.quota(members).max(taken);
        let shadow = stage.shadow.as_ref().map(|shadow| shadow.time.0);
        let ends_at = walk.stage(stage, at, taken, quota, shadow);
        stages.push(StageForecast { name: plan.stage_name(i), devices: quota - taken, starts_at: at, ends_at });
        (at, taken) = (ends_at, quota);
    }
    Forecast { stages, ends_at: at, bytes: u64::from(members).saturating_mul(bytes_each) }
}

impl Rollout {
    /// When it would end from `now` on, as fast as its devices were so far, if all that are left were there; stages that
    /// are over stand as they were.
    pub fn forecast(&self, now: u64) -> Forecast {
        let bytes = self.expected_bytes();
        let seconds = self.busy_seconds.checked_div(self.proven.into()).unwrap_or(FIRST_GUESS_SECONDS);
        let begun = self.started_at > 0;
        let begin = if begun { now } else { self.plan.schedule.start.map_or(now, |at| at.0.max(now)) };
        let members = self.members();
        let to_fetch = self.counts.of(DevicePhase::Waiting) + self.line.prestaging;
        let updating = self.line.in_flight;
        let mut walk = Walk { plan: &self.plan, bytes, seconds: seconds as f64, begin, to_fetch, updating };
        let over = self.status.has_ended() || self.status == RolloutStatus::Recalling;
        let mut stages = Vec::new();
        let (mut at, mut taken) = (if self.released { begin } else { walk.release() }, 0);
        for (i, (stage, state)) in self.plan.stages.iter().zip(&self.stages).enumerate() {
            let quota = self.quota(i).max(taken);
            let past = over || (begun && i < self.stage);
            let (starts_at, ends_at) = if past {
                let end = [state.passed_at, state.settled_at, self.ended_at].into_iter().find(|at| *at > 0);
                (state.since, if state.since > 0 { end.unwrap_or(now) } else { 0 })
            } else {
                let has = self.taken(i).clamp(taken, quota);
                let shadow =
                    stage.shadow.as_ref().filter(|_| !state.may_switch).map(|shadow| match state.shadow_since {
                        0 => shadow.time.0,
                        since => (since + shadow.time.0).saturating_sub(now),
                    });
                let busy = state.counts.sum(DevicePhase::is_updating) > 0;
                let rest = if busy { seconds + stage.soak.0 + shadow.unwrap_or(0) } else { 0 };
                let ends_at = walk.stage(stage, at, has, quota, shadow).max(at + rest);
                (if state.since > 0 { state.since } else { at }, ends_at)
            };
            stages.push(StageForecast { name: self.plan.stage_name(i), devices: quota - taken, starts_at, ends_at });
            if !past {
                (at, walk.updating) = (ends_at, 0);
            }
            taken = quota;
        }
        let ends_at = if over { self.ended_at.max(stages.iter().map(|s| s.ends_at).max().unwrap_or(0)) } else { at };
        let left = if over { 0 } else { members.saturating_sub(self.taken(self.stage)) };
        Forecast { stages, ends_at, bytes: u64::from(left).saturating_mul(bytes) }
    }
}

/// What the times of all stages depend on.
struct Walk<'a> {
    plan: &'a Plan,
    bytes: u64,
    seconds: f64,
    begin: u64,
    /// How many devices have to fetch the version yet.
    to_fetch: u32,
    /// How many update already, and are on average halfway.
    updating: u32,
}

impl Walk<'_> {
    /// When the stages begin: at once, or when devices hold what they fetched beforehand.
    fn release(&self) -> u64 {
        let schedule = &self.plan.schedule;
        if !schedule.prestage {
            return self.begin;
        }
        let all = self.fetched(self.to_fetch);
        match schedule.switch {
            Switch::Directly => self.fetched(self.to_fetch.min(1)),
            Switch::At(at) => at.0.max(self.begin),
            Switch::OnWord => all,
        }
    }

    /// When the first `n` devices hold what they fetch beforehand. Those that hold it do not count as updating.
    fn fetched(&self, n: u32) -> u64 {
        if n == 0 {
            return self.begin;
        }
        self.begin + (self.last_start(0, n, self.seconds, true) + self.seconds).ceil() as u64
    }

    /// When a stage that begins `at` with `taken` devices would have taken the rest of `quota` to health.
    fn stage(&self, stage: &Stage, at: u64, taken: u32, quota: u32, shadow: Option<u64>) -> u64 {
        if quota <= taken {
            return at;
        }
        let prestaged = self.plan.schedule.prestage;
        let (seconds, soak) = (if prestaged { 0.0 } else { self.seconds }, stage.soak.0);
        // Shadows do not count as updating.
        let busy = if shadow.is_some() { seconds } else { seconds + soak as f64 };
        let mut ready = at + (self.last_start(taken, quota, busy, !prestaged) + seconds).ceil() as u64;
        if prestaged {
            ready = ready.max(self.fetched(quota.min(self.to_fetch)));
        }
        let shadowed = shadow.map_or(0, |time| at + seconds as u64 + time);
        ready.max(shadowed).saturating_add(soak)
    }

    /// How many seconds after the first of them the last of the devices after `taken` up to `quota` starts, where each
    /// takes a place for `busy` seconds.
    fn last_start(&self, taken: u32, quota: u32, busy: f64, fetches: bool) -> f64 {
        let (rate, n) = (&self.plan.rate, f64::from(quota - taken));
        let ahead = n - 1.0 + f64::from(self.updating);
        let halfway = if self.updating > 0 { 0.5 } else { 0.0 };
        let rounds = rate.in_flight.map_or(0.0, |most| (ahead / f64::from(most.max(1))).floor() - halfway);
        let places = rounds.max(0.0) * busy;
        let starts = match &rate.per_minute {
            None => 0.0,
            Some(PerMinute::Constant(per_minute)) => time_for(n, per_minute / 60.0),
            Some(PerMinute::Growing(growing)) => grow(growing, taken, quota, busy),
        };
        let bytes = match rate.bytes_per_second {
            Some(most) if fetches && self.bytes > 0 => time_for(n, most.0 as f64 / self.bytes as f64),
            _ => 0.0,
        };
        places.max(starts).max(bytes)
    }
}

/// How long the last of `n` starts has to wait at a rate per second, after the burst that a full bucket allows.
fn time_for(n: f64, rate: f64) -> f64 {
    (n - (rate * BURST_SECONDS).max(1.0)).max(0.0) / rate
}

/// As [`time_for`], for a rate that grows with starts, or with devices that are healthy `busy` seconds after their
/// start.
fn grow(growing: &Growing, taken: u32, quota: u32, busy: f64) -> f64 {
    let rate = |step: u32| (growing.base * growing.factor.powi(step.min(MAX_STEPS) as i32)).min(growing.max) / 60.0;
    let every = growing.every.max(1);
    let mut step = taken / every;
    let (mut time, mut started) = (0.0, f64::from(taken) + (rate(step) * BURST_SECONDS).max(1.0));
    // When how many had started, to know when so many are healthy.
    let mut curve = vec![(0.0, started)];
    while started < f64::from(quota) {
        let now = rate(step);
        let next = f64::from(step + 1) * f64::from(every);
        let left = (f64::from(quota) - started) / now;
        let until = match growing.on {
            GrowOn::Started => (next - started).max(0.0) / now,
            GrowOn::Healthy => started_at(&curve, next, (time, started), now) + busy - time,
        };
        if rate(step + 1) <= now || until >= left {
            return time + left;
        }
        let until = until.max(0.0);
        (time, started) = (time + until, started + now * until);
        step += 1;
        curve.push((time, started));
    }
    time
}

/// When `n` had started by a curve of times and starts, or will have at `rate` from its end on.
fn started_at(curve: &[(f64, f64)], n: f64, end: (f64, f64), rate: f64) -> f64 {
    let after = curve.partition_point(|(_, started)| *started < n);
    match (after.checked_sub(1).map(|i| curve[i]), curve.get(after)) {
        (None, _) => 0.0,
        (Some((time, started)), Some((later, more))) => time + (later - time) * (n - started) / (more - started),
        (Some(_), None) => end.0 + (n - end.1).max(0.0) / rate,
    }
}
