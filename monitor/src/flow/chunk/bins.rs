//! Sparse logarithmic bins: quantiles of sums of anything, within one percent.

use std::collections::BTreeMap;

/// The edges of a bin are this factor apart, so that its geometric middle is within 1 %.
const FACTOR: f64 = 1.02;

/// How often each value was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bins(BTreeMap<u16, u64>);

impl Bins {
    /// Takes a value; all below 1 are one.
    pub fn push(&mut self, value: u64) {
        let bin = (value.max(1) as f64).ln() / FACTOR.ln();
        // ln(2^64) / ln(1.02) is 2,241.
        *self.0.entry(bin as u16).or_default() += 1;
    }

    /// Adds what others saw.
    pub fn add(&mut self, other: &Self) {
        for (&bin, &count) in &other.0 {
            *self.0.entry(bin).or_default() += count;
        }
    }

    /// The value below which a share `q` of all lies, within 1 %; `None`: there are none.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count: u64 = self.0.values().sum();
        let rank = (q * count.saturating_sub(1) as f64).round() as u64;
        let mut seen = 0;
        let (&bin, _) = self.0.iter().find(|&(_, &in_bin)| {
            seen += in_bin;
            seen > rank
        })?;
        Some(FACTOR.powf(f64::from(bin) + 0.5).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(Bins::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_percent(
            mut values in prop::collection::vec(100u64..1_000_000_000_000, 1..100),
            q in 0.0f64..=1.0,
        ) {
            let (mut bins, mut other) = (Bins::default(), Bins::default());
            for (index, &value) in values.iter().enumerate() {
                if index % 2 == 0 { bins.push(value) } else { other.push(value) }
            }
            bins.add(&other);
            values.sort_unstable();
            let exact = values[(q * (values.len() - 1) as f64).round() as usize] as f64;
            let told = bins.quantile(q).expect("there are values") as f64;
            prop_assert!((told / exact - 1.0).abs() < 0.0151, "{told} for {exact}");
        }
    }
}
