//! RTT distributions in the kernel's bins: 64 of them, four an octave from 64 µs.

use monitor_ebpf::flow::{RTT_BINS, rtt_bin, rtt_bin_edges};

/// Counts of RTT samples by the kernel's bins; mergeable by addition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RttHistogram {
    bins: [u32; RTT_BINS],
}

/// Samples stand no nearer to their bins' edges than this part of the width on average: sums of
/// wrapping counters may be a little off.
const WITHIN_MIN: f64 = 0.01;

/// What is known exactly of samples besides their bins, µs.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub min_us: u32,
    pub max_us: u32,
    pub mean_us: f64,
}

impl Known {
    /// Between which values the samples of a bin lie; those of the kernel's that are not in it, as
    /// a reading between two of its writes may have them, do not count.
    fn edges(&self, bin: usize) -> (f64, f64) {
        let (lower, upper) = rtt_bin_edges(bin);
        let within = |us: u32| f64::from(us.clamp(lower, upper));
        let (min, max) = (within(self.min_us), within(self.max_us));
        (min.min(max), max)
    }
}

/// A sample's place: its bin, and the how manieth it is of so many there, from 1 on.
struct Ranked {
    bin: usize,
    rank: u64,
    samples: u64,
}

impl Default for RttHistogram {
    fn default() -> Self {
        Self {
            bins: [0; RTT_BINS],
        }
    }
}

impl RttHistogram {
    /// The histogram that [`Self::bins`] tells of.
    ///
    /// # Errors
    /// The first edge that is no bin's.
    pub fn from_bins(bins: impl IntoIterator<Item = (u32, u32)>) -> Result<Self, u32> {
        let mut histogram = Self::default();
        for (lower_us, count) in bins {
            let bin = rtt_bin(lower_us);
            if rtt_bin_edges(bin).0 != lower_us {
                return Err(lower_us);
            }
            histogram.bins[bin] = histogram.bins[bin].saturating_add(count);
        }
        Ok(histogram)
    }

    /// Adds what was counted from `before` to `after`, two readings of wrapping bins.
    pub fn add_difference(&mut self, before: &[u16; RTT_BINS], after: &[u16; RTT_BINS]) {
        for ((bin, before), after) in self.bins.iter_mut().zip(before).zip(after) {
            // Two CPUs may write one half (see monitor_ebpf::flow): a bin that went back is no
            // gain.
            let gain = (after.wrapping_sub(*before) as i16).max(0) as u32;
            *bin = bin.saturating_add(gain);
        }
    }

    /// Takes a sample back; whether there was one in its bin.
    pub fn remove(&mut self, rtt_us: u32) -> bool {
        let bin = &mut self.bins[rtt_bin(rtt_us)];
        let was_there = *bin > 0;
        *bin = bin.saturating_sub(1);
        was_there
    }

    /// Adds every sample of `other`.
    pub fn add(&mut self, other: &Self) {
        for (bin, other) in self.bins.iter_mut().zip(&other.bins) {
            *bin = bin.saturating_add(*other);
        }
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.bins.iter().map(|&count| u64::from(count)).sum()
    }

    /// `(lower edge in µs, count)` of every bin that is not empty.
    pub fn bins(&self) -> impl Iterator<Item = (u32, u32)> {
        self.bins
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bin, &count)| (rtt_bin_edges(bin).0, count))
    }

    /// The `q`-quantile in µs (0 to 1, nearest rank, interpolated within its bin) of samples of
    /// which more is known; `None` without samples. It errs by at most the bin's width: 25 % of its
    /// lower edge, 19 % of the value in the middle of a bin's octave; differences within one bin
    /// are smoothed, not lost.
    ///
    /// Extremes and mean say where in their bins the samples stand: without them, RTTs that hardly
    /// differ and lie at both sides of an edge look as far apart as the bins are wide.
    pub fn quantile(&self, q: f64, known: &Known) -> Option<u32> {
        let Ranked { bin, rank, samples } = self.ranked(q)?;
        let (lower, upper) = known.edges(bin);
        // The k-th of n samples in a bin stands at (k - 1/2) / n of its width, where they are spread
        // evenly; the power of that has any other mean.
        let mean = self.mean_within_bins(known);
        let within = ((rank as f64 - 0.5) / samples as f64).powf((1.0 - mean) / mean);
        let (first, last) = (rtt_bin_edges(bin).0, rtt_bin_edges(bin).1 - 1);
        Some(((lower + (upper - lower) * within) as u32).clamp(first, last))
    }

    /// At which part of their bins' widths the samples stand on average.
    fn mean_within_bins(&self, known: &Known) -> f64 {
        let (mut lowers, mut widths) = (0.0, 0.0);
        let filled = self
            .bins
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        for (bin, &count) in filled {
            let (lower, upper) = known.edges(bin);
            lowers += lower * f64::from(count);
            widths += (upper - lower) * f64::from(count);
        }
        if widths <= 0.0 {
            return 0.5;
        }
        let mean = (known.mean_us * self.samples() as f64 - lowers) / widths;
        mean.clamp(WITHIN_MIN, 1.0 - WITHIN_MIN)
    }

    /// The `q`-quantile in µs (0 to 1, nearest rank); `None` without samples. It errs by at most
    /// a ninth of the exact one (11.2 %) where that lies between 80 µs and 4.2 s, whatever the
    /// samples are: of a bin's values it takes the one that is as far from either edge,
    /// relatively. Shorter ones err by 40 µs at most; longer ones are told as 4 s.
    pub fn bounded_quantile(&self, q: f64) -> Option<u32> {
        let (lower, upper) = rtt_bin_edges(self.ranked(q)?.bin);
        if lower == 0 {
            return Some(upper / 2);
        }
        let (lower, upper) = (f64::from(lower), f64::from(upper));
        Some((2.0 * lower * upper / (lower + upper)).round() as u32)
    }

    /// Where the `q`-quantile stands.
    fn ranked(&self, q: f64) -> Option<Ranked> {
        let samples = self.samples();
        if samples == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * samples as f64).ceil() as u64).clamp(1, samples);
        let mut below = 0;
        for (bin, &count) in self.bins.iter().enumerate() {
            let count = u64::from(count);
            if below + count >= rank {
                return Some(Ranked {
                    bin,
                    rank: rank - below,
                    samples: count,
                });
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANYTHING: Known = Known {
        min_us: 0,
        max_us: u32::MAX,
        mean_us: 0.0,
    };

    fn of(samples: &[u32]) -> RttHistogram {
        let mut bins = [0u16; RTT_BINS];
        for &rtt_us in samples {
            bins[rtt_bin(rtt_us)] += 1;
        }
        let mut histogram = RttHistogram::default();
        histogram.add_difference(&[0; RTT_BINS], &bins);
        histogram
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(RttHistogram::default().quantile(0.5, &ANYTHING), None);
    }

    #[test]
    fn samples_that_hardly_differ_are_told_so_at_an_edge_too() {
        // 20,480 µs is an edge.
        for centre_us in (20_000..21_000).step_by(20) {
            let mut samples: Vec<u32> = (0..30).map(|at| centre_us - 150 + 10 * at).collect();
            // And one that waited.
            samples.push(centre_us + 3_000);
            let known = Known {
                min_us: centre_us - 150,
                max_us: centre_us + 3_000,
                mean_us: samples.iter().map(|&us| f64::from(us)).sum::<f64>() / 31.0,
            };
            let estimate = of(&samples).quantile(0.5, &known).expect("samples");
            let exact = exact(&mut samples, 0.5);
            assert!(
                estimate.abs_diff(exact) <= exact / 50,
                "{estimate} for {exact}"
            );
        }
    }

    #[test]
    fn a_bin_that_is_none_of_ours_is_refused() {
        assert_eq!(RttHistogram::from_bins([(0, 1), (80, 1), (81, 1)]), Err(81));
    }

    #[test]
    fn bins_that_wrapped_between_two_readings_are_counted() {
        let (mut before, mut after) = ([0u16; RTT_BINS], [0u16; RTT_BINS]);
        before[10] = u16::MAX - 1;
        after[10] = 3;
        let mut histogram = RttHistogram::default();
        histogram.add_difference(&before, &after);
        assert_eq!(histogram.samples(), 5);
    }

    /// The value of nearest rank.
    fn exact(samples: &mut [u32], q: f64) -> u32 {
        samples.sort_unstable();
        let rank = ((q * samples.len() as f64).ceil() as usize).clamp(1, samples.len());
        samples[rank - 1]
    }

    /// RTTs of every size alike, or near a bin's edges.
    fn rtts() -> impl Strategy<Value = u32> {
        prop_oneof![
            (80f64.ln()..4_190_000f64.ln()).prop_map(|log| log.exp() as u32),
            (2..RTT_BINS, 0u32..3).prop_map(|(bin, off)| rtt_bin_edges(bin).0 + off - 1),
        ]
    }

    proptest! {
        #[test]
        fn a_bounded_quantile_errs_by_a_ninth_at_most(
            mut samples in prop::collection::vec(rtts(), 1..300),
            q in 0.0f64..=1.0,
        ) {
            let estimate = f64::from(of(&samples).bounded_quantile(q).expect("there are samples"));
            let exact = f64::from(exact(&mut samples, q));
            // Half a microsecond is what rounding adds.
            prop_assert!((estimate - exact).abs() <= exact / 9.0 + 0.5, "{estimate} for {exact}");
        }

        #[test]
        fn a_bounded_quantile_of_less_than_80_us_errs_by_half_of_that(
            mut samples in prop::collection::vec(0u32..80, 1..100),
            q in 0.0f64..=1.0,
        ) {
            let estimate = of(&samples).bounded_quantile(q).expect("there are samples");
            prop_assert!(estimate.abs_diff(exact(&mut samples, q)) <= 40);
        }

        #[test]
        fn a_quantile_is_within_one_bin_of_the_exact_one(
            mut samples in prop::collection::vec(64u32..4_000_000, 1..300),
            q in 0.0f64..=1.0,
            known in (0u32..5_000_000, 0u32..5_000_000, 0.0f64..5_000_000.0),
        ) {
            // Even if none of it is right.
            let (min_us, max_us, mean_us) = known;
            let known = Known { min_us, max_us, mean_us };
            let estimate = of(&samples).quantile(q, &known).expect("there are samples");
            prop_assert_eq!(rtt_bin(estimate), rtt_bin(exact(&mut samples, q)));
        }

        #[test]
        fn bins_tell_all_of_it(samples in prop::collection::vec(0u32..10_000_000, 0..100)) {
            let histogram = of(&samples);
            prop_assert_eq!(RttHistogram::from_bins(histogram.bins()), Ok(histogram));
        }

        #[test]
        fn merging_is_counting_together(
            a in prop::collection::vec(0u32..10_000_000, 0..100),
            b in prop::collection::vec(0u32..10_000_000, 0..100),
        ) {
            let mut merged = of(&a);
            merged.add(&of(&b));
            prop_assert_eq!(merged, of(&[a, b].concat()));
        }
    }
}
