//! Whether a mean fell: for confidences, which a good new version may raise as much as it likes.

use serde::{Deserialize, Serialize};

use super::{Verdict, normal_quantile, total, usable_alpha};

/// Whether the mean of a histogram over equal bins of 0 to 1 fell by more than a limit.
///
/// One-sided z test of two means with their own variances (Welch, Biometrika 34, 1947; large samples), with rationed
/// looks as in [`super::Drift`]: the first at `min_sample` observations, each further one when the sample has doubled,
/// the k-th at `alpha / (k (k + 1))`. The same holds of independence as there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fall {
    limit: f64,
    alpha: f64,
    min_sample: u64,
    looks: u32,
    next_look: u64,
    breached: bool,
}

impl Fall {
    /// No look taken. `limit` is in the unit of the mean, 0 to 1; a NaN never breaches.
    pub fn new(limit: f64, alpha: f64, min_sample: u64) -> Self {
        let limit = if limit.is_nan() { 1.0 } else { limit.clamp(0.0, 1.0) };
        Self { limit, alpha: usable_alpha(alpha), min_sample, looks: 0, next_look: min_sample.max(1), breached: false }
    }

    /// Looks at all that was counted so far. A breach once found stays.
    pub fn look(&mut self, expected: &[u64], actual: &[u64]) {
        let n = total(actual);
        let (Some((before, of_before)), Some((after, of_after))) = (moments(expected), moments(actual)) else { return };
        if n >= self.next_look {
            self.looks = self.looks.saturating_add(1);
            self.next_look = n.saturating_mul(2);
            let k = f64::from(self.looks);
            let error = (of_before / total(expected) as f64 + of_after / n as f64).sqrt();
            self.breached |= before - after - self.limit > normal_quantile(self.alpha / (k * (k + 1.0))) * error;
        }
    }

    /// How it stands.
    pub fn verdict(&self, expected: &[u64], actual: &[u64]) -> Verdict {
        let within = fall(expected, actual).is_some_and(|fall| fall <= self.limit);
        let n = if total(expected) == 0 { 0 } else { total(actual) };
        Verdict::of(n, self.min_sample, self.breached, within)
    }
}

/// By how much the mean of `actual` is below that of `expected`; negative where it rose.
pub fn fall(expected: &[u64], actual: &[u64]) -> Option<f64> {
    Some(moments(expected)?.0 - moments(actual)?.0)
}

/// Mean and variance of a histogram over equal bins of 0 to 1, each observation in the middle of its bin. What lies
/// within a bin is counted as its own variance, so that one full bin is not taken for certainty.
fn moments(bins: &[u64]) -> Option<(f64, f64)> {
    let n = total(bins) as f64;
    if n == 0.0 {
        return None;
    }
    let width = 1.0 / bins.len() as f64;
    let middles = bins.iter().enumerate().map(|(i, count)| ((i as f64 + 0.5) * width, *count as f64 / n));
    let mean: f64 = middles.clone().map(|(x, share)| x * share).sum();
    let variance: f64 = middles.map(|(x, share)| (x - mean).powi(2) * share).sum();
    Some((mean, variance + width * width / 12.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bins(counts: [u64; 4]) -> Vec<u64> {
        counts.to_vec()
    }

    #[test]
    fn only_a_fall_beyond_the_limit_is_a_breach() {
        let sure = bins([0, 0, 0, 1000]);
        for (actual, want) in [
            (bins([0, 0, 0, 100]), Verdict::Passing),
            (bins([0, 0, 100, 0]), Verdict::Breached),
            (bins([100, 0, 0, 0]), Verdict::Breached),
            (bins([0, 0, 9, 0]), Verdict::Waiting),
            // Beyond the limit of 0.2, but so few that it may be chance.
            (bins([10, 0, 0, 20]), Verdict::Holding),
        ] {
            let mut gate = Fall::new(0.2, 0.01, 30);
            gate.look(&sure, &actual);
            assert_eq!(gate.verdict(&sure, &actual), want, "{actual:?}");
        }
        // A version that is surer than the one before is none the worse for it.
        let mut gate = Fall::new(0.0, 0.01, 30);
        gate.look(&bins([1000, 0, 0, 0]), &sure);
        assert_eq!(gate.verdict(&bins([1000, 0, 0, 0]), &sure), Verdict::Passing);
        assert_eq!(gate.verdict(&[], &sure), Verdict::Waiting);
    }

    #[test]
    fn repeated_looks_do_not_inflate_the_error() {
        // The same distribution again and again: never a breach, however often one looks.
        let mut gate = Fall::new(0.0, 0.01, 30);
        let mut actual = bins([0; 4]);
        for round in 0..2_000u64 {
            actual[(round % 4) as usize] += 1;
            gate.look(&bins([250; 4]), &actual);
        }
        assert_ne!(gate.verdict(&bins([250; 4]), &actual), Verdict::Breached);
    }
}
