//! How far two medians are apart, whatever the distributions are.

use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};

/// Two medians' difference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Of the first, less that of the second.
    pub estimate: f64,
    /// What it is at least, with the confidence that was asked for.
    pub at_least: f64,
}

/// Fewer values have no order to speak of.
pub const MIN_VALUES: usize = 5;

/// The difference of the medians of two independent samples, with a one-sided bound that holds in
/// `confidence` (0.5 to 1) of the cases: Price and Bonett, "Distribution-free confidence intervals for
/// difference and ratio of medians", Journal of Statistical Computation and Simulation 72 (2002).
/// `None` with fewer than [`MIN_VALUES`] of either.
pub fn difference(mut ones: Vec<f64>, mut others: Vec<f64>, confidence: f64) -> Option<Difference> {
    let (one, one_variance) = median(&mut ones)?;
    let (other, other_variance) = median(&mut others)?;
    let z = Normal::standard().inverse_cdf(confidence);
    let estimate = one - other;
    Some(Difference {
        estimate,
        at_least: estimate - z * (one_variance + other_variance).sqrt(),
    })
}

/// A sample's median, and the variance of that: from the distance of the order statistics that bound
/// it with a probability that the binomial distribution gives exactly.
fn median(values: &mut [f64]) -> Option<(f64, f64)> {
    let count = values.len();
    if count < MIN_VALUES {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let middle = count / 2;
    let median = match count % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    let low = ((count + 1) as f64 / 2.0 - (count as f64).sqrt())
        .round()
        .max(1.0) as usize;
    let outside = Binomial::new(0.5, count as u64).ok()?.cdf(low as u64 - 1);
    let z = Normal::standard().inverse_cdf(1.0 - outside);
    let deviation = (values[count - low] - values[low - 1]) / (2.0 * z);
    Some((median, deviation * deviation))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::Rng as _;
    use proptest::test_runner::{RngAlgorithm, TestRng};

    use super::*;

    #[test]
    fn it_is_as_sure_as_it_says_for_skewed_values_too() {
        let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut unit = || -> f64 { (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 };
        // Exponential, with medians of 10 ln 2 and ln 2.
        let truth = 9.0 * std::f64::consts::LN_2;
        for (ones, others) in [(8, 8), (15, 6), (40, 40)] {
            let trials = 4_000;
            let mut holds = 0;
            for _ in 0..trials {
                let mut sample = |count: usize, scale: f64| -> Vec<f64> {
                    let values = (0..count).map(|_| -scale * (1.0 - unit()).ln());
                    values.collect()
                };
                let found = difference(sample(ones, 10.0), sample(others, 1.0), 0.95);
                let found = found.expect("there are enough");
                holds += u32::from(found.at_least <= truth);
            }
            let share = f64::from(holds) / f64::from(trials);
            assert!(share >= 0.94, "{ones} and {others}: {share}");
        }
    }

    #[test]
    fn what_is_the_same_everywhere_has_no_spread() {
        let found = difference(vec![7.0; 9], vec![4.0; 6], 0.99).expect("there are enough");
        assert_eq!((found.estimate, found.at_least), (3.0, 3.0));
    }

    #[test]
    fn a_few_values_say_nothing() {
        assert_eq!(difference(vec![1.0; 4], vec![2.0; 9], 0.95), None);
        assert_eq!(difference(vec![1.0; 9], Vec::new(), 0.95), None);
    }

    #[test]
    fn the_variance_is_that_of_the_paper() {
        // Nine values: c = round(5 - 3) = 2; P(B(9, 1/2) <= 1) = 10/512, z = 2.0624.
        let mut values: Vec<f64> = (1..=9).map(f64::from).collect();
        let (middle, variance) = median(&mut values).expect("there are enough");
        assert_eq!(middle, 5.0);
        let deviation = (8.0 - 2.0) / (2.0 * 2.0624);
        assert!((variance.sqrt() - deviation).abs() < 1e-3, "{variance}");
    }
}
