//! Which quality a player takes next: by throughput while its buffer is low, by the buffer itself
//! once it is not.
//!
//! This is what dash.js calls DYNAMIC (Spiteri, Sitaraman, Sparacio: From Theory to Practice,
//! MMSys 2018): BOLA (Spiteri, Urgaonkar, Sitaraman, INFOCOM 2016) needs a buffer to read, and a
//! throughput rule serves until there is one.

use std::time::Duration;

/// A quality is taken when it is below this share of the estimated throughput (dash.js's default).
const SAFETY: f64 = 0.9;
/// How many segments the estimate looks back on (harmonic mean, as in FESTIVE, CoNEXT 2012).
const ESTIMATE_SEGMENTS: usize = 5;
/// From this share of a full buffer on the buffer decides, and below half of that the throughput
/// does again.
const BUFFER_DECIDES: f64 = 0.6;
/// How much BOLA minds a rebuffering against a better picture (gamma p in its paper, there 5).
const GAMMA_P: f64 = 5.0;

/// What a player knows when it chooses.
#[derive(Debug)]
pub struct Abr {
    /// Bit rates on offer, rising.
    ladder_bps: Vec<f64>,
    /// Seconds of video in a full buffer.
    full_s: f64,
    /// Playing time of a segment.
    segment_s: f64,
    /// Throughput of the latest segments, bit/s.
    recent_bps: Vec<f64>,
    by_buffer: bool,
}

impl Abr {
    /// A player that knows nothing yet; `ladder_bps` rises and is not empty.
    #[must_use]
    pub fn new(ladder_bps: Vec<f64>, full_s: f64, segment_s: f64) -> Self {
        Self {
            ladder_bps,
            full_s,
            segment_s,
            recent_bps: Vec::new(),
            by_buffer: false,
        }
    }

    /// Takes note of a segment.
    pub fn fetched(&mut self, bytes: u64, duration: Duration) {
        if self.recent_bps.len() == ESTIMATE_SEGMENTS {
            self.recent_bps.remove(0);
        }
        let seconds = duration.as_secs_f64().max(1e-6);
        self.recent_bps.push(bytes as f64 * 8.0 / seconds);
    }

    /// The next segment's quality, as an index into the ladder, with this much video in the buffer.
    pub fn choose(&mut self, buffer_s: f64) -> usize {
        let decides_s = BUFFER_DECIDES * self.full_s;
        self.by_buffer = if self.by_buffer {
            buffer_s >= decides_s / 2.0
        } else {
            buffer_s >= decides_s
        };
        if self.by_buffer {
            self.by_buffer(buffer_s)
        } else {
            self.by_throughput()
        }
    }

    fn by_throughput(&self) -> usize {
        if self.recent_bps.is_empty() {
            return 0;
        }
        let slowness: f64 = self.recent_bps.iter().map(|bps| 1.0 / bps).sum();
        let affordable = SAFETY * self.recent_bps.len() as f64 / slowness;
        let fitting = self.ladder_bps.iter().filter(|bps| **bps <= affordable);
        fitting.count().saturating_sub(1)
    }

    /// BOLA's choice: the quality with the most utility and safety for its size.
    fn by_buffer(&self, buffer_s: f64) -> usize {
        let lowest = self.ladder_bps[0];
        let utility = |bps: f64| (bps / lowest).ln();
        let highest = utility(self.ladder_bps[self.ladder_bps.len() - 1]);
        let (buffer, full) = (buffer_s / self.segment_s, self.full_s / self.segment_s);
        let v = (full - 1.0).max(1.0) / (highest + GAMMA_P);
        let worth = |bps: f64| (v * (utility(bps) + GAMMA_P) - buffer) / bps;
        let mut best = 0;
        for (index, bps) in self.ladder_bps.iter().enumerate() {
            if worth(*bps) > worth(self.ladder_bps[best]) {
                best = index;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abr() -> Abr {
        Abr::new(vec![5e5, 1e6, 2e6, 3.4e6], 12.0, 2.0)
    }

    fn seen(mut abr: Abr, mbit: f64) -> Abr {
        abr.fetched((mbit * 125_000.0) as u64, Duration::from_secs(1));
        abr
    }

    #[test]
    fn a_player_that_knows_nothing_takes_the_lowest_quality() {
        assert_eq!(abr().choose(0.0), 0);
    }

    #[test]
    fn with_a_low_buffer_throughput_decides() {
        assert_eq!(seen(abr(), 10.0).choose(2.0), 3);
        assert_eq!(seen(abr(), 2.0).choose(2.0), 1);
        assert_eq!(seen(abr(), 0.1).choose(2.0), 0);
    }

    #[test]
    fn one_slow_segment_weighs_more_than_a_fast_one() {
        let mut abr = seen(seen(abr(), 10.0), 0.5);
        assert_eq!(abr.choose(2.0), 0);
    }

    #[test]
    fn with_a_full_buffer_the_buffer_decides_and_rises_with_it() {
        let mut abr = seen(abr(), 0.6);
        let choices: Vec<usize> = [7.5, 9.0, 10.0, 11.5]
            .into_iter()
            .map(|buffer_s| abr.choose(buffer_s))
            .collect();
        assert!(choices.is_sorted(), "{choices:?}");
        assert_eq!(choices[3], 3);
    }

    #[test]
    fn a_buffer_that_runs_low_hands_over_to_throughput() {
        let mut abr = seen(abr(), 0.6);
        abr.choose(11.0);
        assert_eq!(abr.choose(2.0), 0);
    }
}
