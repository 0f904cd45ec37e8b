//! Is one model better than another on the same documents?

use crate::bootstrap::{mean, resampled_mean};
use crate::python::Random;

/// Resamples of the documents.
const RESAMPLES: usize = 10_000;
/// Of the generator, so that a report is the same each time.
const SEED: u32 = 1234;

/// What pairs of values say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Paired {
    /// Pairs in which only the first is right, and only the second (of values other than 0 and 1: is larger).
    pub(crate) only: (usize, usize),
    /// Mean of second − first.
    pub(crate) difference: f64,
    /// Its 95 % percentile interval.
    pub(crate) interval: (f64, f64),
    /// McNemar's exact test, two-sided.
    pub(crate) p_value: f64,
}

impl Paired {
    /// Of at least one pair (first, second).
    pub(crate) fn new(pairs: &[(f64, f64)]) -> Self {
        let differences: Vec<f64> = pairs.iter().map(|(first, second)| second - first).collect();
        let only = (
            differences.iter().filter(|difference| **difference < 0.0).count(),
            differences.iter().filter(|difference| **difference > 0.0).count(),
        );
        let mut random = Random::new(SEED);
        let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resampled_mean(&mut random, &differences)).collect();
        means.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
        Self { only, difference: mean(&differences), interval: (at(0.025), at(0.975)), p_value: mcnemar(only) }
    }
}

/// P(a split as uneven as this or more | a fair coin) of the pairs that differ.
fn mcnemar((one, other): (usize, usize)) -> f64 {
    let (few, all) = (one.min(other), one + other);
    if all == 0 {
        return 1.0;
    }
    // ln C(all, k) − all·ln 2, by adding one factor after the other: no power of two underflows.
    let mut log = -(all as f64) * std::f64::consts::LN_2;
    let mut tail = log.exp();
    for k in 1..=few {
        log += ((all - k + 1) as f64 / k as f64).ln();
        tail += log.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Holm's step-down correction: which of several null hypotheses are refuted at `level` together.
pub(crate) fn holm(p_values: &[f64], level: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&one, &other| p_values[one].total_cmp(&p_values[other]));
    let mut refuted = vec![false; p_values.len()];
    for (rank, index) in order.into_iter().enumerate() {
        if p_values[index] > level / (p_values.len() - rank) as f64 {
            break;
        }
        refuted[index] = true;
    }
    refuted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.binomtest(min, all, 0.5).pvalue`.
    #[test]
    fn mcnemar_is_a_binomial_test() {
        for (only, expected) in [
            ((0, 0), 1.0),
            ((3, 3), 1.0),
            ((1, 9), 0.021_484_375),
            ((10, 25), 0.016_673_847_800_120_715),
            ((900, 1100), 8.457_089_535_503_81e-6),
        ] {
            let found = mcnemar(only);
            assert!((found - expected).abs() <= 1e-9 * expected, "{only:?}: {found}, not {expected}");
            assert_eq!(found, mcnemar((only.1, only.0)));
        }
    }

    #[test]
    fn holm_stops_at_the_first_that_stands() {
        assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005], 0.05), [true, false, false, true]);
        assert_eq!(holm(&[], 0.05), [false; 0]);
    }

    #[test]
    fn an_interval_holds_the_difference_and_equal_models_differ_by_nothing() {
        let pairs: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i % 2), f64::from(u8::from(i % 5 < 3)))).collect();
        let paired = Paired::new(&pairs);
        assert!((paired.difference - 0.1).abs() < 1e-12);
        assert!(paired.interval.0 < 0.1 && 0.1 < paired.interval.1, "{paired:?}");
        assert_eq!(paired, Paired::new(&pairs), "the same each time");
        let equal: Vec<(f64, f64)> = pairs.iter().map(|pair| (pair.0, pair.0)).collect();
        let paired = Paired::new(&equal);
        assert_eq!((paired.difference, paired.interval, paired.p_value), (0.0, (0.0, 0.0), 1.0));
    }
}
