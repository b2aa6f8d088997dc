//! Tables first; then seeded runs that count false alarms and how soon a breach is found.

use super::Verdict::{Breached, Holding, Passing, Waiting};
use super::*;

const ALPHA: f64 = 0.05;
const ODD: [f64; 12] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    f64::MIN,
    f64::MIN_POSITIVE,
    5e-324,
    -1.0,
    -0.0,
    0.0,
    0.3,
    1.0,
];

/// A seeded xorshift64*.
struct Random(u64);

impl Random {
    /// In 0…1, without 1.
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn hit(&mut self, rate: f64) -> f64 {
        f64::from(u8::from(self.uniform() < rate))
    }

    /// Near enough standard normal: mean 0, variance 1, within ±6.
    fn bell(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    fn bin(&mut self, shares: &[f64]) -> usize {
        let mut left = self.uniform();
        let found = shares.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        found.unwrap_or(0)
    }
}

fn bets_of(limit: f64, observations: &[f64]) -> Bets {
    let mut bets = Bets::new(limit);
    observations.iter().for_each(|x| bets.observe(*x));
    bets
}

fn counted(limit: f64, hits: u64, of: u64) -> Bets {
    let mut bets = Bets::new(limit);
    bets.observe_counts(hits, of);
    bets
}

#[track_caller]
fn near(got: f64, want: f64, by: f64) {
    assert!((got - want).abs() <= by, "{got} is not {want} ± {by}");
}

/// The share of `runs` for which `run` says yes.
fn share(runs: u32, mut run: impl FnMut() -> bool) -> f64 {
    f64::from((0..runs).filter(|_| run()).count() as u32) / f64::from(runs)
}

#[test]
fn wealth_is_the_even_mixture_over_the_grid() {
    // With a limit of 0.98 bets go from 0.1 to 1 in steps of 10^(1/11); their mean is 0.405434, that of their squares
    // 0.242014.
    let table: [(&[f64], f64); 5] =
        [(&[], 1.0), (&[1.0], 1.008109), (&[0.98], 1.0), (&[0.0], 0.602675), (&[1.0, 0.0], 0.606040)];
    for (observations, wealth) in table {
        near(bets_of(0.98, observations).log_evidence().exp(), wealth, 1e-6);
    }
}

#[test]
fn verdict_follows_sample_mean_and_evidence() {
    let table = [
        (0.05, 0, 0, ALPHA, 0, Waiting),
        (0.05, 9, 9, ALPHA, 10, Waiting),
        (0.05, 9, 9, ALPHA, 9, Breached),
        (0.05, 1, 20, ALPHA, 20, Passing),
        (0.05, 2, 20, ALPHA, 20, Holding),
        (0.05, 8, 20, ALPHA, 20, Breached),
        (0.05, 8, 20, 1e-9, 20, Holding),
        (0.05, 20, 20, 0.0, 1, Holding),
        (0.05, 20, 20, -1.0, 1, Holding),
        (0.05, 20, 20, f64::NAN, 1, Holding),
        (0.05, 1, 20, 7.0, 1, Passing),
        (0.0, 0, 1000, ALPHA, 1, Passing),
        (0.0, 1, 1_000_000, 1e-6, 1, Breached),
        (-3.0, 1, 1000, ALPHA, 1, Breached),
        (1.0, 1000, 1000, ALPHA, 1, Passing),
        (7.0, 1000, 1000, ALPHA, 1, Passing),
        (f64::NAN, 1000, 1000, ALPHA, 1, Passing),
        (0.5, 9, 4, ALPHA, 1, Holding),
    ];
    for (limit, hits, of, alpha, min_sample, want) in table {
        let bets = counted(limit, hits, of);
        assert_eq!(bets.verdict(alpha, min_sample), want, "{hits} of {of} against {limit} at {alpha}");
    }
}

#[test]
fn smallest_breach_of_a_limit_of_zero_is_found() {
    let verdict = |x| bets_of(0.0, &[0.0, 0.0, x, 0.0]).verdict(ALPHA, 4);
    assert_eq!(verdict(1e-9), Breached);
    assert_eq!(verdict(1e-12), Holding);
}

#[test]
fn proof_from_before_the_minimum_sample_stays() {
    let mut bets = Bets::new(0.05);
    bets.observe_counts(5, 5);
    assert_eq!(bets.verdict(ALPHA, 500), Waiting);
    bets.observe_counts(0, 995);
    assert!(bets.log_evidence() < 0.0 && bets.max_log_evidence() > 3.0);
    assert_eq!(bets.verdict(ALPHA, 500), Breached);
}

#[test]
fn order_does_not_matter() {
    let mut random = Random(7);
    let mut observations: Vec<f64> = (0..300).map(|_| random.uniform()).collect();
    let there = bets_of(0.3, &observations).log_evidence();
    observations.reverse();
    near(bets_of(0.3, &observations).log_evidence(), there, 1e-9);
    observations.sort_by(f64::total_cmp);
    near(bets_of(0.3, &observations).log_evidence(), there, 1e-9);
}

#[test]
fn counts_are_as_single_observations() {
    for limit in [0.0, 0.02, 0.5, 1.0] {
        let singles = bets_of(limit, &[[1.0; 3].as_slice(), &[0.0; 40]].concat());
        let counts = counted(limit, 3, 43);
        near(counts.log_evidence(), singles.log_evidence(), 1e-9);
        assert_eq!((counts.n(), counts.mean()), (singles.n(), singles.mean()));
    }
}

#[test]
fn odd_observations_are_cut_and_nan_is_left_out() {
    let bets = bets_of(0.5, &[f64::NAN, 7.0, f64::INFINITY, -2.0, f64::NEG_INFINITY]);
    assert_eq!((bets.n(), bets.mean()), (4, Some(0.5)));
    assert_eq!(bets, bets_of(0.5, &[1.0, 1.0, 0.0, 0.0]));
    assert_eq!(Bets::new(0.5).mean(), None);
}

#[test]
fn huge_counts_neither_overflow_nor_mislead() {
    let table = [(60_000_000_000, Breached), (40_000_000_000, Passing)];
    for (hits, want) in table {
        let bets = counted(0.05, hits, 1_000_000_000_000);
        assert_eq!(bets.verdict(1e-9, 100), want);
        assert!(bets.log_evidence().is_finite());
    }
    let mut bets = Bets::new(0.5);
    (0..3).for_each(|_| bets.observe_counts(u64::MAX, u64::MAX));
    assert!(bets.log_evidence().is_finite());
    assert_eq!((bets.n(), bets.mean()), (u64::MAX, Some(1.0)));
}

#[test]
fn no_input_makes_a_nan() {
    for limit in ODD {
        let mut bets = Bets::new(limit);
        let (mut paired, mut difference) = (Paired::new(limit), Difference::new(limit, f64::MAX));
        for scale in ODD {
            let mut other = Difference::new(limit, scale);
            other.observe(0.0, 1.0);
            other.observe(1.0, 0.0);
            assert!(other.log_evidence().is_finite() && other.difference().is_some_and(f64::is_finite));
            for after in ODD {
                bets.observe(after);
                paired.observe(scale, after);
                difference.observe(scale, after);
                paired.observe_control(scale, after);
                difference.observe_control(scale, after);
            }
        }
        assert!(bets.log_evidence().is_finite() && bets.max_log_evidence().is_finite());
        assert!(paired.log_evidence().is_finite() && paired.ratio().is_some_and(f64::is_finite));
        assert!(difference.log_evidence().is_finite() && difference.difference().is_some_and(f64::is_finite));
    }
}

#[test]
fn ratio_is_adjusted_by_controls_once_there_are_enough() {
    type Figures = [(f64, f64)];
    let table: [(u64, &Figures, f64); 7] = [
        (0, &[(100.0, 200.0)], 2.0),
        (0, &[(1.0, 2.0), (2.0, 1.0)], 1.0),
        (0, &[(1.0, 1000.0)], 4.0),
        (0, &[(1000.0, 1.0)], 0.25),
        (0, &[(5.0, 10.0), (0.0, 3.0), (3.0, 0.0), (-1.0, 9.0), (9.0, f64::NAN), (1.0, f64::INFINITY)], 2.0),
        (MIN_CONTROL - 1, &[(100.0, 200.0)], 2.0),
        (MIN_CONTROL, &[(100.0, 200.0)], 1.6),
    ];
    for (controls, figures, want) in table {
        let mut paired = Paired::new(0.2);
        (0..controls).for_each(|_| paired.observe_control(80.0, 100.0));
        figures.iter().for_each(|(before, after)| paired.observe(*before, *after));
        near(paired.ratio().unwrap(), want, 1e-12);
        assert_eq!(paired.control_n(), controls);
    }
    assert_eq!(Paired::new(0.2).ratio(), None);
}

#[test]
fn difference_is_cut_to_its_scale_and_adjusted() {
    let table = [(0, 50.0, 57.0, 7.0), (0, 50.0, 90.0, 10.0), (0, 50.0, -90.0, -10.0), (8, 50.0, 57.0, 4.0)];
    for (controls, before, after, want) in table {
        let mut difference = Difference::new(5.0, 10.0);
        (0..controls).for_each(|_| difference.observe_control(40.0, 43.0));
        difference.observe(before, after);
        difference.observe(f64::NAN, after);
        near(difference.difference().unwrap(), want, 1e-12);
        assert_eq!((difference.n(), difference.control_n()), (1, controls));
    }
}

#[test]
fn change_is_judged_against_its_tolerance() {
    let table = [
        (0.2, 1.1, 30, Passing),
        (0.2, 1.3, 30, Holding),
        (0.2, 2.0, 30, Breached),
        (0.2, 2.0, 9, Waiting),
        (3.0, 9.0, 900, Passing),
        (f64::NAN, 9.0, 900, Passing),
        (-0.5, 0.9, 30, Breached),
        (-2.0, 0.3, 30, Breached),
    ];
    for (tolerance, ratio, n, want) in table {
        let mut paired = Paired::new(tolerance);
        (0..n).for_each(|_| paired.observe(1.0, ratio));
        assert_eq!(paired.verdict(ALPHA, 10), want, "{ratio} with {tolerance}");
    }
    let table = [
        (5.0, 10.0, 4.0, Passing),
        (5.0, 10.0, 6.0, Holding),
        (5.0, 10.0, 10.0, Breached),
        (10.0, 10.0, 99.0, Passing),
        (5.0, 0.0, 99.0, Passing),
        (f64::NAN, 10.0, 99.0, Passing),
    ];
    for (margin, scale, by, want) in table {
        let mut difference = Difference::new(margin, scale);
        (0..30).for_each(|_| difference.observe(50.0, 50.0 + by));
        assert_eq!(difference.verdict(ALPHA, 10), want, "{by} with {margin} of {scale}");
    }
}

#[test]
fn controls_of_long_ago_are_forgotten() {
    let mut paired = Paired::new(0.2);
    (0..100).for_each(|_| paired.observe_control(1.0, 1.0));
    (0..500).for_each(|_| paired.observe_control(1.0, 2.0));
    paired.observe(1.0, 2.0);
    near(paired.ratio().unwrap(), 1.0, 1e-2);
}

#[test]
fn doubt_about_controls_counts_for_the_update() {
    let evidence = |spread: f64| {
        let mut paired = Paired::new(0.2);
        (0..4).for_each(|_| {
            paired.observe_control(1.0, spread);
            paired.observe_control(spread, 1.0);
        });
        (0..30).for_each(|_| paired.observe(1.0, 2.0));
        near(paired.ratio().unwrap(), 2.0, 1e-9);
        paired.log_evidence()
    };
    // Variance ln² 2 of 8 is a standard error of ln 2 / √7, and twice it leaves 2 to be 1.184.
    assert!(evidence(1.0) > 3.0 && evidence(2.0) < 0.0 && evidence(2.0) > -1.0);
}

#[test]
fn psi_is_as_computed_by_hand() {
    const MANY: u64 = 1_000_000_000_000;
    let table: [(&[u64], &[u64], Option<f64>); 9] = [
        // −0.1 ln(0.8/0.9) + 0.1 ln(0.2/0.1)
        (&[9 * MANY, MANY], &[8 * MANY, 2 * MANY], Some(0.081093)),
        (&[50, 50], &[500, 500], Some(0.0)),
        (&[10, 20, 0], &[10, 20, 0], Some(0.0)),
        // Half per bin, pooled ½: 10.5/11 and 0.5/11, so 2 · 10/11 · ln 21.
        (&[10, 0], &[0, 10], Some(5.535496)),
        (&[], &[], None),
        (&[5], &[5], None),
        (&[5, 5], &[5, 5, 5], None),
        (&[0, 0], &[5, 5], None),
        (&[5, 5], &[0, 0], None),
    ];
    for (expected, actual, want) in table {
        match (psi(expected, actual), want) {
            (Some(got), Some(want)) => near(got, want, 1e-6),
            (got, want) => assert_eq!(got, want),
        }
    }
    assert!(psi(&[u64::MAX, 0, 7], &[0, u64::MAX, u64::MAX]).unwrap().is_finite());
}

#[test]
fn bins_that_are_rare_on_both_sides_are_no_drift() {
    let expected = [600_000, 399_990, 10, 0, 0, 0, 0, 0];
    near(psi(&expected, &[60, 40, 0, 0, 0, 0, 0, 0]).unwrap(), 0.0, 1e-3);
}

#[test]
fn quantiles_are_as_tabulated() {
    let normal =
        [(0.5, 0.0), (0.05, 1.644854), (0.025, 1.959964), (1e-3, 3.090232), (1e-4, 3.719016), (1e-6, 4.753424)];
    for (alpha, want) in normal {
        near(normal_quantile(alpha), want, 4.5e-4);
    }
    let chi_square = [
        (1, 0.05, 3.8415),
        (1, 0.001, 10.828),
        (2, 0.05, 5.9915),
        (2, 0.01, 9.2103),
        (3, 0.05, 7.8147),
        (3, 0.001, 16.266),
        (5, 0.01, 15.086),
        (9, 0.05, 16.919),
        (9, 0.01, 21.666),
        (9, 0.001, 27.877),
        (19, 0.05, 30.144),
        (99, 0.01, 134.642),
    ];
    for (freedom, alpha, want) in chi_square {
        near(chi_square_quantile(freedom, alpha), want, 0.02 * want);
    }
    assert!(chi_square_quantile(9, 0.0).is_infinite() && chi_square_quantile(1, 0.0).is_infinite());
}

#[test]
fn psi_breaches_only_beyond_noise() {
    let expected = [2500, 2500, 2500, 2500];
    let table: [(&[u64], f64, f64, Verdict); 9] = [
        (&[2, 3, 2, 2], 0.1, ALPHA, Waiting),
        (&[26, 24, 25, 25], 0.1, ALPHA, Passing),
        (&[40, 30, 20, 10], 0.1, ALPHA, Holding),
        (&[4000, 3000, 2000, 1000], 0.1, ALPHA, Breached),
        (&[4000, 3000, 2000, 1000], 0.25, ALPHA, Passing),
        (&[4000, 3000, 2000, 1000], 0.1, 0.0, Holding),
        (&[4000, 3000, 2000, 1000], f64::NAN, ALPHA, Passing),
        (&[4000, 3000, 2000, 1000], -1.0, ALPHA, Breached),
        (&[4000, 3000, 2000], 0.1, ALPHA, Waiting),
    ];
    for (actual, limit, alpha, want) in table {
        assert_eq!(psi_verdict(&expected, actual, limit, alpha, 10), want, "{actual:?} against {limit}");
    }
}

#[test]
fn drift_looks_only_when_the_sample_has_doubled() {
    let mut drift = Drift::new(0.1, ALPHA, 100);
    let table = [(99, 0), (100, 1), (100, 1), (199, 1), (210, 2), (419, 2), (420, 3), (10_000, 4)];
    for (n, looks) in table {
        drift.look(&[500, 500], &[n / 2, n - n / 2]);
        assert_eq!(drift.looks(), looks, "at {n}");
    }
    assert_eq!(drift.look(&[500, 500], &[20_000, 0]), Breached);
    assert_eq!(drift.look(&[500, 500], &[20_000, 20_000]), Breached, "a breach stays");
}

#[test]
fn each_drift_look_spends_less() {
    let (expected, clear, moved) = ([500_000, 500_000], [500, 500], [1105, 895]);
    let mut late = Drift::new(0.0, 0.05, 1000);
    let mut early = late.clone();
    assert_eq!(late.look(&expected, &clear), Passing);
    assert_eq!(late.look(&expected, &moved), Holding, "the second look has a third of what the first has");
    assert_eq!(early.look(&expected, &moved), Breached);
}

#[test]
fn false_alarms_at_the_limit_stay_under_alpha() {
    let mut random = Random(0x5eed_0001);
    for limit in [0.02, 0.2, 0.5] {
        let alarms = share(2000, || {
            let mut bets = Bets::new(limit);
            (0..200).any(|_| {
                bets.observe(random.hit(limit));
                bets.verdict(ALPHA, 1) == Breached
            })
        });
        assert!(alarms > 0.0 && alarms <= ALPHA, "{alarms} at {limit}");
    }
}

#[test]
fn false_alarms_stay_under_alpha_where_devices_remember() {
    // Ten devices; after a hit a device's next are rare and great, after a miss common and small, the mean given all
    // before is the limit each time.
    let (limit, mut random) = (0.1, Random(0x5eed_0002));
    let alarms = share(2000, || {
        let (mut bets, mut great) = (Bets::new(limit), [false; 10]);
        (0..200).any(|turn| {
            let device = turn % great.len();
            let size = if great[device] { 1.0 } else { 2.0 * limit };
            let x = size * random.hit(limit / size);
            great[device] = x > 0.0;
            bets.observe(x);
            bets.verdict(ALPHA, 1) == Breached
        })
    });
    assert!(alarms > 0.0 && alarms <= ALPHA, "{alarms}");
}

#[test]
fn false_alarms_of_changes_at_the_tolerance_are_few() {
    // The controls' own error comes on top of alpha.
    let mut random = Random(0x5eed_0003);
    for (controls, most) in [(0, ALPHA), (MIN_CONTROL, ALPHA + 0.04)] {
        let alarms = share(500, || {
            let mut paired = Paired::new(0.2);
            (0..controls).for_each(|_| paired.observe_control(1.0, 1.5 * (0.3 * random.bell()).exp()));
            let common = if controls > 0 { 1.5 } else { 1.0 };
            (0..300).any(|_| {
                paired.observe(1.0, 1.2 * common * (0.3 * random.bell()).exp());
                paired.verdict(ALPHA, 1) == Breached
            })
        });
        assert!(alarms <= most, "{alarms} with {controls} controls");
    }
}

#[test]
fn false_alarms_of_drift_at_the_limit_stay_under_alpha() {
    let mut random = Random(0x5eed_0004);
    let table: [(&[f64], &[f64]); 5] = [
        (&[0.5, 0.5], &[0.5, 0.5]),
        (&[0.1; 10], &[0.1; 10]),
        (&[0.5, 0.5], &[0.3, 0.7]),
        (&[0.99, 0.01], &[0.9, 0.1]),
        (&[0.01, 0.99], &[0.0001, 0.9999]),
    ];
    for (before, now) in table {
        let limit = before.iter().zip(now).map(|(e, a)| (a - e) * f64::ln(a / e)).sum();
        let alarms = share(400, || {
            let (mut expected, mut actual) = (vec![0; before.len()], vec![0; now.len()]);
            (0..1000).for_each(|_| expected[random.bin(before)] += 1);
            let mut drift = Drift::new(limit, ALPHA, 50);
            (0..400).any(|_| {
                actual[random.bin(now)] += 1;
                drift.look(&expected, &actual) == Breached
            })
        });
        assert!(alarms <= ALPHA, "{alarms} for {before:?} to {now:?}");
    }
}

#[test]
fn clear_breaches_are_found_soon() {
    let mut random = Random(0x5eed_0005);
    // (limit, true rate, within how many observations, in which share of runs)
    let table = [(0.05, 0.5, 15, 0.95), (0.05, 0.2, 60, 0.84), (0.05, 0.2, 90, 0.95), (0.02, 0.1, 150, 0.95)];
    for (limit, rate, within, least) in table {
        let found = share(2000, || {
            let mut bets = Bets::new(limit);
            (0..within).for_each(|_| bets.observe(random.hit(rate)));
            bets.verdict(ALPHA, 1) == Breached
        });
        assert!(found >= least, "{rate} against {limit} within {within}: {found}");
    }
    let found = share(200, || {
        let mut paired = Paired::new(0.2);
        (0..64).for_each(|_| paired.observe_control(1.0, 0.7 * (0.1 * random.bell()).exp()));
        (0..60).for_each(|_| paired.observe(1.0, 1.05 * (0.1 * random.bell()).exp()));
        paired.verdict(ALPHA, 10) == Breached
    });
    assert!(found >= 0.95, "half as much again, hidden by what moved all: {found}");
    let found = share(200, || {
        let (mut actual, mut drift) = ([0; 4], Drift::new(0.1, ALPHA, 100));
        (0..400).any(|_| {
            actual[random.bin(&[0.5, 0.3, 0.15, 0.05])] += 1;
            drift.look(&[2500; 4], &actual) == Breached
        })
    });
    assert!(found >= 0.95, "an index of 0.5 against 0.1: {found}");
}
