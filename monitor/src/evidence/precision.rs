//! How often names were right here, by what operators learned later.

use statrs::distribution::{Beta, ContinuousCDF as _};

use super::store::Label;

/// Of verdicts that were labelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precision {
    /// Verdicts that named one segment, and those of them that were right.
    pub names: u64,
    pub names_right: u64,
    /// Verdicts that left several, and those of them that held the truth.
    pub sets: u64,
    pub sets_right: u64,
    /// Verdicts that named none: limits, and what was inconclusive.
    pub others: u64,
}

/// A one-sided bound that is wrong this often.
const RISK: f64 = 0.05;

impl Precision {
    pub fn of<'a>(labels: impl IntoIterator<Item = &'a Label>) -> Self {
        let mut sums = Self::default();
        for label in labels {
            let right = label.said.iter().any(|it| label.truth.contains(it));
            match label.said.len() {
                0 => sums.others += 1,
                1 => {
                    sums.names += 1;
                    sums.names_right += u64::from(right);
                }
                _ => {
                    sums.sets += 1;
                    sums.sets_right += u64::from(right);
                }
            }
        }
        sums
    }

    /// In words.
    pub fn report(&self) -> String {
        let line = |what: &str, right: u64, all: u64| {
            if all == 0 {
                return format!("{what}: none labelled\n");
            }
            format!(
                "{what}: {right} of {all} ({:.1} %; at least {:.1} % with 95 % confidence)\n",
                100.0 * right as f64 / all as f64,
                100.0 * at_least(right, all)
            )
        };
        let mut text = line("names that were right", self.names_right, self.names);
        text += &line("sets that held the truth", self.sets_right, self.sets);
        if self.others > 0 {
            text += &format!("verdicts that named no segment: {} labelled\n", self.others);
        }
        text
    }
}

/// The share that `right` of `all` shows at least: the exact one-sided 95 % bound (Clopper and
/// Pearson, 1934).
pub fn at_least(right: u64, all: u64) -> f64 {
    if right == 0 || right > all {
        return 0.0;
    }
    let beta = Beta::new(right as f64, (all - right + 1) as f64);
    // Both shapes are at least 1.
    beta.map_or(0.0, |beta| beta.inverse_cdf(RISK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Segment::{self, Interconnect, Isp, LastMile};

    fn label(said: &[Segment], truth: &[Segment]) -> Label {
        Label {
            id: "h-1-1".to_owned(),
            truth: truth.to_vec(),
            said: said.to_vec(),
            time_us: 1,
        }
    }

    #[test]
    fn names_sets_and_others_are_counted_apart() {
        let precision = Precision::of(&[
            label(&[Isp], &[Isp]),
            label(&[Isp], &[Interconnect]),
            label(&[LastMile], &[]),
            label(&[Isp, Interconnect], &[Interconnect]),
            label(&[Isp, Interconnect], &[LastMile]),
            label(&[], &[]),
        ]);
        let expected = Precision {
            names: 3,
            names_right: 1,
            sets: 2,
            sets_right: 1,
            others: 1,
        };
        assert_eq!(precision, expected);
        let said = precision.report();
        assert!(
            said.starts_with("names that were right: 1 of 3 (33.3 %; at least 1.7 %"),
            "{said}"
        );
    }

    #[test]
    fn the_bound_is_exact() {
        // For all of n right it is 0.05^(1/n).
        for all in [1, 10, 59] {
            let exact = RISK.powf(1.0 / all as f64);
            assert!((at_least(all, all) - exact).abs() < 1e-9);
        }
        // R: binom.test(8, 10, alternative = "greater")$conf.int[1]
        assert!((at_least(8, 10) - 0.493_099).abs() < 1e-6);
        assert_eq!(at_least(0, 10), 0.0);
    }
}
