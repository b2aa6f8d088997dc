//! Whether an update made things worse: tests that may be looked at as often as one likes.
//!
//! A rollout's gate is asked again with every window that arrives, and an ordinary test that is asked until it says
//! yes says yes in the end. [`Bets`] holds its error however often it is read; [`Paired`] and [`Difference`] bring
//! figures into its form; [`Drift`] compares histograms and rations its looks. Nothing here knows devices, rollouts
//! or time, and no input makes a NaN come out.

mod fall;

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

pub use fall::{Fall, fall};

/// Bets on the grid. Each more costs a little evidence, each fewer leaves gaps between them.
const BETS: usize = 12;
/// The smallest bet. A rate is found to be too high only if it exceeds the limit by more than about half of this, as a
/// share of the limit: 5 %.
const SMALLEST_BET: f64 = 0.1;
/// The largest bet as a share of `1/limit`: below 1, so that one observation of 0 does not ruin it for good.
const LARGEST_SHARE: f64 = 0.98;
/// The largest bet of all; it binds only for limits below 1e-12. Where the limit is 0, one observation above 1e-9 is
/// enough evidence for any alpha down to 0.02, and one of 1 for any down to 2e-11.
const LARGEST_BET: f64 = 1e12;
/// A larger alpha counts as this, as no evidence at all would prove anything at 1.
const MAX_ALPHA: f64 = 0.5;
/// Ratios are cut to a quarter and to four times: beyond that, how much is of no matter.
const LN_CUT: f64 = 2.0 * LN_2;
/// What [`psi`] adds to a bin at most, in observations.
const MOST_ADDED: f64 = 0.5;
/// How many control observations are needed before they are subtracted.
pub const MIN_CONTROL: u64 = 8;
/// Over about how many control observations their mean remembers.
const CONTROL_MEMORY: u64 = 64;
/// How many standard errors of the controls' mean are granted to the update: about 4 % for 8 controls (Student), 2.5 %
/// for many.
const CONTROL_DOUBT: f64 = 2.0;

/// How a figure stands against its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too little has been observed.
    Waiting,
    /// Enough has been observed and it is beyond the limit, which may still be chance.
    Holding,
    /// Enough has been observed and it is within the limit.
    Passing,
    /// It is beyond the limit, and chance is no explanation.
    Breached,
}

impl Verdict {
    fn of(n: u64, min_sample: u64, breached: bool, within: bool) -> Self {
        match (n >= min_sample.max(1), breached, within) {
            (false, ..) => Self::Waiting,
            (true, true, _) => Self::Breached,
            (true, false, true) => Self::Passing,
            (true, false, false) => Self::Holding,
        }
    }
}

/// A sequential test of "the mean of these observations in 0…1 is at most `limit`", by betting against it.
///
/// A gambler starts with 1 and stakes on each observation `x`: a bet λ multiplies wealth by `1 + λ (x − limit)`, at
/// least 0 as λ is below `1/limit`. If the claim is true, no bet gains on average, so wealth is a non-negative
/// supermartingale, and the chance that it *ever* reaches `1/alpha` is at most `alpha` (Ville, 1939). Great wealth is
/// therefore evidence against the claim, at any time and however often one looks. The start is split evenly between
/// the bets of a fixed geometric grid from 0.1 to `0.98/limit`: one of them is near the best bet, which nobody knows
/// beforehand, and the sum does not depend on the order of observations. (Waudby-Smith and Ramdas, "Estimating means
/// of bounded random variables by betting", JRSS B, 2024; Ramdas et al., "Game-theoretic statistics and safe
/// anytime-valid inference", Statistical Science, 2023.)
///
/// What one observation is, the caller decides: a shadowed inference, or one device's window. What is needed is that
/// each one's mean *given all earlier ones* is at most the limit if nothing is wrong. Observations need not be
/// independent or alike. But where devices differ and each sends many, a device's first tells what its second will be,
/// and its mean given the earlier ones is no longer the fleet's: then a device is one observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bets {
    limit: f64,
    n: u64,
    sum: f64,
    /// Natural logarithm of each bet's wealth, smallest bet first.
    log_wealth: [f64; BETS],
    max_log_evidence: f64,
}

impl Bets {
    /// Nothing observed. `limit` is cut to 0…1. At 0 a single positive observation breaches, whatever else there is;
    /// at 1, and where it is not a number, nothing does.
    pub fn new(limit: f64) -> Self {
        // Not `clamp`, which would let −0 through, whose largest bet is −∞.
        let limit = if limit.is_nan() { 1.0 } else { limit.min(1.0) };
        let limit = if limit > 0.0 { limit } else { 0.0 };
        Self { limit, n: 0, sum: 0.0, log_wealth: [0.0; BETS], max_log_evidence: 0.0 }
    }

    /// Takes one observation, cut to 0…1. A NaN is left out and not counted.
    pub fn observe(&mut self, x: f64) {
        if !x.is_nan() {
            self.stake(x.clamp(0.0, 1.0), 1);
            self.remember();
        }
    }

    /// Takes `of` observations at once, of which `hits` (at most `of`) are 1 and the others 0. As their order is
    /// unknown, evidence is looked at after the last only, which is never unfair to the claim.
    pub fn observe_counts(&mut self, hits: u64, of: u64) {
        let hits = hits.min(of);
        self.stake(1.0, hits);
        self.stake(0.0, of - hits);
        self.remember();
    }

    /// How many observations were taken.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The limit as it is used, in 0…1.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// Their mean, in 0…1.
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then(|| (self.sum / self.n as f64).min(1.0))
    }

    /// The natural logarithm of present wealth: 0 at the start, and above `ln(1/alpha)` proof at `alpha`.
    pub fn log_evidence(&self) -> f64 {
        // Wealth itself overflows soon.
        let best = self.log_wealth.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let scaled: f64 = self.log_wealth.iter().map(|log| (log - best).exp()).sum();
        best + (scaled / BETS as f64).ln()
    }

    /// The greatest that [`Self::log_evidence`] has been, at least 0. What was proven once stays proven.
    pub fn max_log_evidence(&self) -> f64 {
        self.max_log_evidence
    }

    /// How the mean stands against the limit. Before `min_sample` observations (at least one) it is
    /// [`Verdict::Waiting`]; from then on it is [`Verdict::Breached`] if evidence has reached `1/alpha` at any time,
    /// the first observations included. The chance of ever hearing that although the claim is true is at most
    /// `alpha`. An `alpha` above 0.5 counts as 0.5; with one that is not positive nothing breaches.
    pub fn verdict(&self, alpha: f64, min_sample: u64) -> Verdict {
        let within = self.mean().is_some_and(|mean| mean <= self.limit);
        Verdict::of(self.n, min_sample, self.proves(alpha), within)
    }

    fn proves(&self, alpha: f64) -> bool {
        // An alpha of 0 makes the bar infinite.
        self.max_log_evidence >= -usable_alpha(alpha).ln()
    }

    fn stake(&mut self, x: f64, times: u64) {
        for (log, bet) in self.log_wealth.iter_mut().zip(bets(self.limit)) {
            *log += times as f64 * (bet * (x - self.limit)).ln_1p();
        }
        self.n = self.n.saturating_add(times);
        self.sum += times as f64 * x;
    }

    fn remember(&mut self) {
        self.max_log_evidence = self.max_log_evidence.max(self.log_evidence());
    }
}

/// The grid for a limit in 0…1; all 0 at 1, where there is nothing to win.
fn bets(limit: f64) -> impl Iterator<Item = f64> {
    let largest = (LARGEST_SHARE / limit).min(LARGEST_BET);
    let ratio = (largest / SMALLEST_BET).powf(1.0 / (BETS - 1) as f64);
    let smallest = if limit < 1.0 { SMALLEST_BET } else { 0.0 };
    // The last is cut, lest rounding carries it beyond the largest.
    std::iter::successors(Some(smallest), move |bet| Some((bet * ratio).min(largest)))
}

/// A figure after an update against the same device's before, as a ratio: latency, memory, energy per inference.
///
/// What moves all devices alike (load, season, time of day) is taken out by devices that did not update: the mean of
/// their `ln(after/before)` over the same time is subtracted (difference in differences). The claim tested is that
/// the mean of `ln(after/before)`, so adjusted and cut to ±ln 4, is at most `ln(1 + tolerance)`.
///
/// Give one observation per device: two windows of one device share the noise of its one `before`, and [`Bets`]
/// would take that for two pieces of evidence. Give controls first: what was observed before there are
/// [`MIN_CONTROL`] of them stays unadjusted. The controls' mean is itself an estimate, and alpha does not cover its
/// error: two standard errors are granted to the update before a breach is called, which [`Self::ratio`] leaves out.
/// With a true change just at the tolerance this adds some 4 % to alpha, well below it nothing.
///
/// Devices chosen because their `before` was odd come back to normal with no update's help; the controls have to be
/// chosen the same way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    change: Change,
}

impl Paired {
    /// Nothing observed. `tolerance` is how much more is accepted: 0.2 for 20 %. One of 3 or more never breaches, as
    /// ratios are cut to 4, nor does a NaN; one of −0.75 or less is breached by any ratio above a quarter.
    pub fn new(tolerance: f64) -> Self {
        let limit = if tolerance.is_nan() { f64::INFINITY } else { tolerance.max(-1.0).ln_1p() };
        Self { change: Change::new(limit / LN_CUT) }
    }

    /// Takes a device that did not update. Figures that are not positive and finite are left out.
    pub fn observe_control(&mut self, before: f64, after: f64) {
        if let Some(change) = log_ratio(before, after) {
            self.change.observe_control(change);
        }
    }

    /// Takes a device that updated. Figures that are not positive and finite are left out.
    pub fn observe(&mut self, before: f64, after: f64) {
        if let Some(change) = log_ratio(before, after) {
            self.change.observe(change);
        }
    }

    /// How many updated devices were taken.
    pub fn n(&self) -> u64 {
        self.change.bets.n()
    }

    /// How many controls were taken.
    pub fn control_n(&self) -> u64 {
        self.change.controls
    }

    /// The geometric mean of adjusted ratios, each cut to ¼…4: 1.1 for 10 % more.
    pub fn ratio(&self) -> Option<f64> {
        self.change.mean().map(|mean| (mean * LN_CUT).exp())
    }

    /// As [`Bets::log_evidence`].
    pub fn log_evidence(&self) -> f64 {
        self.change.bets.log_evidence()
    }

    /// As [`Bets::verdict`].
    pub fn verdict(&self, alpha: f64, min_sample: u64) -> Verdict {
        self.change.verdict(alpha, min_sample)
    }
}

/// As [`Paired`], for figures whose difference means something rather than their ratio: a temperature in degrees, an
/// error rate in points.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    scale: f64,
    change: Change,
}

impl Difference {
    /// Nothing observed. `margin` is how much more is accepted and `scale` where differences are cut on both sides, in
    /// the figure's unit. The nearer the scale to what happens in practice, the sooner a breach is found. A margin of
    /// at least the scale never breaches, nor does a margin that is a NaN or a scale that is not positive and finite.
    pub fn new(margin: f64, scale: f64) -> Self {
        if scale.is_finite() && scale > 0.0 {
            Self { scale, change: Change::new(margin / scale) }
        } else {
            Self { scale: 1.0, change: Change::new(f64::INFINITY) }
        }
    }

    /// Takes a device that did not update. Figures that are not finite are left out.
    pub fn observe_control(&mut self, before: f64, after: f64) {
        if before.is_finite() && after.is_finite() {
            self.change.observe_control((after - before) / self.scale);
        }
    }

    /// Takes a device that updated. Figures that are not finite are left out.
    pub fn observe(&mut self, before: f64, after: f64) {
        if before.is_finite() && after.is_finite() {
            self.change.observe((after - before) / self.scale);
        }
    }

    /// How many updated devices were taken.
    pub fn n(&self) -> u64 {
        self.change.bets.n()
    }

    /// How many controls were taken.
    pub fn control_n(&self) -> u64 {
        self.change.controls
    }

    /// The mean of adjusted differences, each cut to ±scale, in the figure's unit.
    pub fn difference(&self) -> Option<f64> {
        self.change.mean().map(|mean| mean * self.scale)
    }

    /// As [`Bets::log_evidence`].
    pub fn log_evidence(&self) -> f64 {
        self.change.bets.log_evidence()
    }

    /// As [`Bets::verdict`].
    pub fn verdict(&self, alpha: f64, min_sample: u64) -> Verdict {
        self.change.verdict(alpha, min_sample)
    }
}

/// Changes in units of where they are cut, so that they lie in −1…1; [`Bets`] sees −1 as 0 and 1 as 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Change {
    bets: Bets,
    /// The sum of adjusted changes, without the doubt that the bets grant.
    sum: f64,
    /// Where `sum` may stand at most per observation, in −1…1.
    limit: f64,
    controls: u64,
    control_mean: f64,
    control_variance: f64,
}

impl Change {
    fn new(limit: f64) -> Self {
        let bets = Bets::new(0.5 + 0.5 * limit);
        let limit = 2.0 * bets.limit() - 1.0;
        Self { bets, sum: 0.0, limit, controls: 0, control_mean: 0.0, control_variance: 0.0 }
    }

    /// A plain mean at first, one that forgets later: what moves all devices changes in the course of a rollout, and
    /// its last wave has nothing to do with the weather of its first.
    fn observe_control(&mut self, change: f64) {
        self.controls = self.controls.saturating_add(1);
        let weight = 1.0 / self.remembered();
        let off = change.clamp(-1.0, 1.0) - self.control_mean;
        self.control_mean += weight * off;
        self.control_variance = (1.0 - weight) * (self.control_variance + weight * off * off);
    }

    fn observe(&mut self, change: f64) {
        let (common, doubt) = self.common();
        self.sum += (change - common).clamp(-1.0, 1.0);
        self.bets.observe(0.5 + 0.5 * (change - common - doubt));
    }

    /// What moved all devices, and what its error may be. An error stays the same for every observation, and the bets
    /// would take it for proof in the end.
    fn common(&self) -> (f64, f64) {
        if self.controls < MIN_CONTROL {
            return (0.0, 0.0);
        }
        let error = (self.control_variance / (self.remembered() - 1.0)).sqrt();
        (self.control_mean, CONTROL_DOUBT * error)
    }

    fn remembered(&self) -> f64 {
        self.controls.min(CONTROL_MEMORY) as f64
    }

    fn mean(&self) -> Option<f64> {
        let n = self.bets.n();
        (n > 0).then(|| (self.sum / n as f64).clamp(-1.0, 1.0))
    }

    fn verdict(&self, alpha: f64, min_sample: u64) -> Verdict {
        let within = self.mean().is_some_and(|mean| mean <= self.limit);
        Verdict::of(self.bets.n(), min_sample, self.bets.proves(alpha), within)
    }
}

/// `ln(after/before)` in units of ln 4. Two logarithms, as the ratio of finite figures can overflow.
fn log_ratio(before: f64, after: f64) -> Option<f64> {
    let usable = |figure: f64| figure.is_finite() && figure > 0.0;
    (usable(before) && usable(after)).then(|| (after.ln() - before.ln()) / LN_CUT)
}

/// Whether a histogram moved away from an expected one by more than a limit, looked at with a growing sample.
///
/// The population stability index has no betting form, so looks are rationed: the first at `min_sample`
/// observations, each further one when the sample has doubled since, and the k-th at `alpha / (k (k + 1))`. These
/// sum up to `alpha` (union bound), however often [`Self::look`] is called. The law behind it holds for large samples
/// of *independent* observations; many inferences of few devices are worth less than their number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    limit: f64,
    alpha: f64,
    min_sample: u64,
    looks: u32,
    next_look: u64,
    breached: bool,
}

impl Drift {
    /// No look taken. `limit` is an index (by custom 0.1 is some drift and 0.25 much), below 0 counts as 0, and a NaN
    /// never breaches. `alpha` is as in [`Bets::verdict`].
    pub fn new(limit: f64, alpha: f64, min_sample: u64) -> Self {
        let (limit, alpha) = (usable_limit(limit), usable_alpha(alpha));
        Self { limit, alpha, min_sample, looks: 0, next_look: min_sample.max(1), breached: false }
    }

    /// How `actual`, all that was counted so far, stands against `expected`: both per bin, the same bins each time.
    /// [`Verdict::Waiting`] too where [`psi`] gives nothing. A breach once found stays.
    pub fn look(&mut self, expected: &[u64], actual: &[u64]) -> Verdict {
        let n = total(actual);
        let Some(index) = psi(expected, actual) else { return Verdict::Waiting };
        if n >= self.next_look {
            self.looks = self.looks.saturating_add(1);
            self.next_look = n.saturating_mul(2);
            let k = f64::from(self.looks);
            let noise = noise(expected, actual, self.limit, self.alpha / (k * (k + 1.0)));
            self.breached |= index > self.limit + noise;
        }
        Verdict::of(n, self.min_sample, self.breached, index <= self.limit)
    }

    /// As [`Self::look`] without taking one.
    pub fn verdict(&self, expected: &[u64], actual: &[u64]) -> Verdict {
        let within = psi(expected, actual).is_some_and(|index| index <= self.limit);
        Verdict::of(total(actual), self.min_sample, self.breached, within)
    }

    /// How many looks were taken.
    pub fn looks(&self) -> u32 {
        self.looks
    }
}

/// The population stability index of `actual` against `expected`, counts over the same bins:
/// `Σ (aᵢ − eᵢ) ln(aᵢ/eᵢ)` over their shares, at least 0. Nothing where the bins differ in number or are fewer than
/// two, or a side is empty.
///
/// So that empty bins give no infinity, half an observation is added to each bin of each side, or as much as the
/// shares of both sides together let expect there if that is less. Without that cap what is added would be drift by
/// itself where a bin is rare: half of one in a hundred is much more than half of one in a million.
pub fn psi(expected: &[u64], actual: &[u64]) -> Option<f64> {
    let shares = shares(expected, actual)?;
    Some(shares.iter().map(|(e, a)| (a - e) * (a / e).ln()).sum())
}

/// One look at [`psi`] with error `alpha`, for a sample whose size was settled beforehand; [`Drift`] takes several.
pub fn psi_verdict(expected: &[u64], actual: &[u64], limit: f64, alpha: f64, min_sample: u64) -> Verdict {
    let Some(index) = psi(expected, actual) else { return Verdict::Waiting };
    let (limit, alpha) = (usable_limit(limit), usable_alpha(alpha));
    let breached = index > limit + noise(expected, actual, limit, alpha);
    Verdict::of(total(actual), min_sample, breached, index <= limit)
}

/// The smoothed shares of each bin that is not empty on both sides, as [`psi`] tells, expected first.
fn shares(expected: &[u64], actual: &[u64]) -> Option<Vec<(f64, f64)>> {
    let (m, n) = (total(expected) as f64, total(actual) as f64);
    if expected.len() != actual.len() || expected.len() < 2 || m == 0.0 || n == 0.0 {
        return None;
    }
    let pairs = expected.iter().zip(actual).map(|(e, a)| (*e as f64, *a as f64)).filter(|(e, a)| e + a > 0.0);
    let smooth = |(e, a): (f64, f64)| {
        let pooled = (e + a) / (m + n);
        (e + (m * pooled).min(MOST_ADDED), a + (n * pooled).min(MOST_ADDED))
    };
    let smoothed: Vec<(f64, f64)> = pairs.map(smooth).collect();
    let (m, n) = smoothed.iter().fold((0.0, 0.0), |(m, n), (e, a)| (m + e, n + a));
    Some(smoothed.iter().map(|(e, a)| (e / m, a / n)).collect())
}

/// How far above `limit` an index may come by chance with probability about `alpha`: the greater of two bounds.
///
/// With nothing moved the index follows `(1/n + 1/m) χ²` with one degree of freedom less than there are bins
/// (Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model
/// Validation 14(4), 2020). That is the squared length of a noise vector; where the shares have truly moved by
/// `limit`, noise is added to a vector of length `√limit`, and both together are at most as long as their sum:
/// `(√limit + √(c χ²))²`. Adding the noise to the limit as it stands would leave out how it grows with the limit.
///
/// Far from "nothing moved" a rare bin makes the index noisier than that law knows. There the delta method gives its
/// variance, from how it changes with each share.
fn noise(expected: &[u64], actual: &[u64], limit: f64, alpha: f64) -> f64 {
    let (m, n) = (total(expected) as f64, total(actual) as f64);
    let (c, freedom) = (1.0 / m + 1.0 / n, expected.len() - 1);
    let length = (c * chi_square_quantile(freedom, alpha)).sqrt();
    let near = length * (length + 2.0 * limit.sqrt());

    let shares = shares(expected, actual).unwrap_or_default();
    let by_actual = variance(shares.iter().map(|(e, a)| (*a, (a / e).ln() + 1.0 - e / a)));
    let by_expected = variance(shares.iter().map(|(e, a)| (*e, (e / a).ln() + 1.0 - a / e)));
    let spread = (by_expected / m + by_actual / n).sqrt();
    let far = c * freedom as f64 + normal_quantile(alpha) * spread;
    near.max(far)
}

/// The variance of values that have these shares, at least 0.
fn variance(shared: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let mean: f64 = shared.clone().map(|(share, value)| share * value).sum();
    shared.map(|(share, value)| share * (value - mean).powi(2)).sum()
}

/// What χ² with `freedom` degrees (at least one) exceeds with probability `alpha`, at most 0.5; infinite for 0.
///
/// Exact for one and two degrees but for the normal quantile, beyond that by Wilson and Hilferty (PNAS 17, 1931): for
/// three degrees 0.5 % too small at an `alpha` of 0.05 and 3.5 % too great at 1e-4, for more of them nearer.
fn chi_square_quantile(freedom: usize, alpha: f64) -> f64 {
    if alpha <= 0.0 {
        return f64::INFINITY;
    }
    match freedom {
        1 => normal_quantile(0.5 * alpha).powi(2),
        2 => -2.0 * alpha.ln(),
        _ => {
            let k = freedom as f64;
            let v = 2.0 / (9.0 * k);
            k * (1.0 - v + normal_quantile(alpha) * v.sqrt()).powi(3)
        }
    }
}

/// What a standard normal figure exceeds with probability `alpha` in (0, 0.5]; infinite for 0. Within 4.5e-4
/// (Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, formula 26.2.23).
fn normal_quantile(alpha: f64) -> f64 {
    if alpha <= 0.0 {
        return f64::INFINITY;
    }
    let t = (-2.0 * alpha.ln()).sqrt();
    let above = 2.515517 + t * (0.802853 + t * 0.010328);
    let below = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
    t - above / below
}

/// A limit of an index: not negative, and finite so that it can be stored as JSON.
fn usable_limit(limit: f64) -> f64 {
    if limit.is_nan() { f64::MAX } else { limit.clamp(0.0, f64::MAX) }
}

/// An alpha in 0…[`MAX_ALPHA`]; 0 never breaches.
fn usable_alpha(alpha: f64) -> f64 {
    if alpha.is_nan() { 0.0 } else { alpha.clamp(0.0, MAX_ALPHA) }
}

fn total(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

#[cfg(test)]
mod tests;
