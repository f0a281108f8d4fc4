//! Hypothesis 0: is a client served worse than usual at all?
//!
//! Each figure of a client's window is compared with what is usual for its cell. A client is bad
//! when a figure is worse by more than chance explains *and* by enough to harm video:
//!
//! - Chance: Student's t for one more value against the baseline's own spread; for losses and
//!   marks the Poisson tail as well, because a share of few segments is coarse. Over the clients
//!   of a window Benjamini-Hochberg bounds the share of false alarms (Benjamini and Hochberg,
//!   1995).
//! - Harm: the thresholds of the configuration, in the manner of BlameIt's "badness" (Jin et
//!   al., SIGCOMM 2019) and the level shifts of TSLP (Luckie et al., IMC 2014).
//!
//! A client is good only when its RTT and its losses were both measured, and each figure is below
//! half of its threshold, or below the whole of it and within the baseline's own spread.
//! Everything between is neither.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, DiscreteCDF, Poisson, StudentsT};

use crate::config::Thresholds;
use crate::flow::Totals;
use crate::flow::baseline::{Figures, Moments, Usual};

/// Baseline values without which there is no spread to compare with.
const MIN_BASELINE_VALUES: u64 = 3;
/// RTT figures closer than this to each other are the same: the coarse clock of a scheduler tick
/// and the bins of the histogram move them.
const RTT_DEVIATION_FLOOR_US: f64 = 500.0;
/// The same, relative to the RTT: a quarter of a bin.
const RTT_DEVIATION_FLOOR_SHARE: f64 = 0.05;
/// Loss and mark shares closer than this are the same.
const SHARE_DEVIATION_FLOOR: f64 = 0.002;
/// A path that never lost anything may yet lose one segment in a thousand by chance.
const SHARE_MEAN_FLOOR: f64 = 0.001;
/// Rates within 10 % of each other are the same (natural logarithm).
const LOG_RATE_DEVIATION_FLOOR: f64 = 0.1;
/// A chunk of less than this part of the usual size (natural logarithm) ends in slow start, and its
/// rate is held against what slow start leaves of the usual one.
const LOG_CHUNK_SHORTER: f64 = std::f64::consts::LN_2;
/// The RTT quantile that stands for the longest that slowed the rate.
const BUSY_QUANTILE: f64 = 0.9;
/// What TCP sends at once, bytes: ten segments (RFC 6928). Less says nothing about a rate.
const INITIAL_WINDOW_BYTES: f64 = 14_600.0;
/// Part of a threshold below which a figure is clearly good.
const CLEARLY_GOOD: f64 = 0.5;
/// Less than the tail of Student's t beyond 1, whatever its degrees of freedom: the normal
/// distribution, which has the least there, has 0.1587.
const LIKELY: f64 = 0.158;
/// Losses or marks beyond the usual that slow TCP: cubic and Reno are by one in 500 segments on paths of
/// tens of milliseconds.
pub const SLOWING_SHARE: f64 = 0.002;
/// What happens by chance this often is as usual.
const USUAL_CHANCE: f64 = 0.05;

/// One figure against its usual value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sign {
    /// How much worse, in the figure's unit; negative: better.
    pub excess: f64,
    /// The excess from which it does harm.
    pub threshold: f64,
    /// Probability of such an excess by chance; 0.158 where it is that or more.
    pub chance: f64,
}

impl Sign {
    fn harms(&self) -> bool {
        self.excess >= self.threshold
    }

    fn leans(&self) -> bool {
        self.excess >= self.threshold * CLEARLY_GOOD && self.chance < USUAL_CHANCE
    }

    /// Whether there may be no excess of this share at all.
    fn is_none(&self) -> bool {
        self.excess < SLOWING_SHARE || self.chance >= USUAL_CHANCE
    }

    fn is_clearly_good(&self) -> bool {
        self.excess < self.threshold * CLEARLY_GOOD
            || (self.excess < self.threshold && self.chance >= USUAL_CHANCE)
    }
}

/// A client's window against what is usual; `None` where a figure could not be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// µs.
    pub rtt: Option<Sign>,
    /// Share of the segments.
    pub loss: Option<Sign>,
    /// Share of the segments.
    pub ce: Option<Sign>,
    /// Share of the usual rate that is missing.
    pub rate: Option<Sign>,
    /// Share of it that would be missing if the rate had fallen in proportion to the longer RTT
    /// first, as that of a sender limited by losses or its window does: what is left has been slowed
    /// on its way to the client.
    #[serde(default)]
    pub rate_beyond_rtt: Option<f64>,
    /// By how much more than usual the mean RTT was above its minimum, µs.
    #[serde(default)]
    pub rtt_spread_excess_us: Option<f64>,
}

/// Which figures are bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signs {
    pub queue: bool,
    pub loss: bool,
    pub ce: bool,
    pub rate: bool,
}

/// One client in one window, before anything is known about the windows around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw {
    /// Nothing is worse than usual.
    Good,
    /// Neither clearly good nor bad.
    Grey,
    /// The same, and worse than usual by more than chance explains.
    Leaning,
    /// The network does harm.
    Bad,
    /// The rate is low although RTT, losses and marks are as usual: not the network.
    RateOnly,
}

impl Comparison {
    /// Compares `figures`, drawn from `totals`, with what is usual.
    pub fn new(figures: &Figures, totals: &Totals, usual: &Usual, at: &Thresholds) -> Self {
        let rtt = figures.rtt_p10_us.and_then(|rtt_us| {
            let usual = &usual.rtt_p10_us;
            let floor = RTT_DEVIATION_FLOOR_US.max(usual.mean * RTT_DEVIATION_FLOOR_SHARE);
            Some(Sign {
                excess: rtt_us - usual.mean,
                threshold: (at.rtt_excess_ms * 1_000.0).max(at.rtt_excess_share * usual.mean),
                chance: chance(rtt_us, usual, floor, at)?,
            })
        });
        let share = |value: Option<f64>, count: u64, usual: &Moments, threshold: f64| {
            let value = value?;
            let expected = usual.mean.max(SHARE_MEAN_FLOOR) * totals.segments as f64;
            Some(Sign {
                excess: value - usual.mean,
                threshold,
                chance: {
                    let chance = chance(value, usual, SHARE_DEVIATION_FLOOR, at)?;
                    if is_likely(chance, at) {
                        chance
                    } else {
                        chance.max(poisson_tail(count, expected))
                    }
                },
            })
        };
        let rate = figures.log_rate.and_then(|log_rate| {
            let lower = figures
                .log_chunk_bytes
                .and_then(|size| slow_start_cost(size, usual))?;
            let usual = &usual.log_rate;
            let beside = log_rate + lower;
            // Worse is lower: mirrored, so that one test serves all figures.
            let mirrored = usual.mirrored();
            Some(Sign {
                excess: 1.0 - (beside - usual.mean).exp(),
                threshold: at.rate_drop_share,
                chance: chance(-beside, &mirrored, LOG_RATE_DEVIATION_FLOOR, at)?,
            })
        });
        Self {
            rtt,
            loss: share(
                figures.loss_share,
                totals.lost_segments(),
                &usual.loss_share,
                at.loss_excess_share,
            ),
            ce: share(
                figures.ce_share,
                totals.ce_marked_segments,
                &usual.ce_share,
                at.ce_excess_share,
            ),
            rate,
            rate_beyond_rtt: rate.and_then(|rate| {
                if rate.excess <= 0.0 {
                    return Some(rate.excess);
                }
                let longest = f64::from(totals.rtt_quantile_us(BUSY_QUANTILE)?);
                let longer = (longest / usual.rtt_p10_us.mean).max(1.0);
                Some(1.0 - (1.0 - rate.excess) * longer)
            }),
            rtt_spread_excess_us: figures
                .rtt_spread_us
                .filter(|_| usual.rtt_spread_us.count >= MIN_BASELINE_VALUES)
                .map(|spread_us| spread_us - usual.rtt_spread_us.mean),
        }
    }

    /// Whether enough was measured to judge the client at all. Asked of the RTT alone, because
    /// it must not depend on the outcome: whoever has too few segments for a share of losses is
    /// judged too, and can be bad, but not good.
    pub fn is_comparable(&self) -> bool {
        self.rtt.is_some()
    }

    /// The probability of the worst figure by chance, for as many figures as were looked at
    /// (Bonferroni); 1 where none was.
    pub fn chance(&self) -> f64 {
        let signs = [self.rtt, self.loss, self.ce, self.rate];
        let known = signs.iter().flatten();
        // Whatever is as likely as that was not computed, and may be anything up to 1.
        let chances = known.clone().map(|sign| match sign.chance < LIKELY {
            true => sign.chance,
            false => 1.0,
        });
        let smallest = chances.fold(1.0, f64::min);
        (smallest * known.count() as f64).min(1.0)
    }

    /// Which figures are bad, where a chance of `limit` is too small to be one.
    fn signs(&self, limit: f64) -> Signs {
        let figures = [self.rtt, self.loss, self.ce, self.rate];
        let known = figures.iter().flatten().count() as f64;
        let bad = |sign: Option<Sign>| {
            sign.is_some_and(|sign| sign.harms() && sign.chance * known <= limit)
        };
        let rate = bad(self.rate);
        // Losses too few to harm by themselves are what slows whoever is slow.
        let slows = |sign: Option<Sign>| {
            rate && sign
                .is_some_and(|sign| sign.excess >= SLOWING_SHARE && sign.chance * known <= limit)
        };
        Signs {
            queue: bad(self.rtt),
            loss: bad(self.loss) || slows(self.loss),
            ce: bad(self.ce) || slows(self.ce),
            rate,
        }
    }

    /// What to make of the client, where a chance of `limit` is too small to be one.
    pub fn judge(&self, limit: f64) -> (Raw, Signs) {
        let signs = self.signs(limit);
        let good = |sign: Option<Sign>| sign.is_none_or(|sign| sign.is_clearly_good());
        let measured = self.rtt.is_some() && self.loss.is_some();
        let network_good = measured && good(self.rtt) && good(self.loss) && good(self.ce);
        let raw = if signs.queue || signs.loss || signs.ce {
            Raw::Bad
        } else if network_good && signs.rate {
            let none = |sign: Option<Sign>| sign.is_none_or(|sign| sign.is_none());
            match none(self.loss) && none(self.ce) {
                true => Raw::RateOnly,
                // As few losses slow TCP already, and then it is not known who does.
                false => Raw::Grey,
            }
        } else if network_good && good(self.rate) {
            Raw::Good
        } else if [self.rtt, self.loss, self.ce]
            .iter()
            .flatten()
            .any(Sign::leans)
        {
            Raw::Leaning
        } else {
            Raw::Grey
        };
        (raw, signs)
    }
}

/// By how much the rate of chunks of this size (natural logarithm of bytes) is lower than usual
/// where nothing is wrong, natural logarithm; `None` where it says nothing.
///
/// A player that is slowed asks for smaller chunks, so that they must be compared too. A chunk of b
/// bytes takes its time at the usual rate and, before it, the rounds in which the window doubles
/// until it has been sent: log2(b / IW + 1) RTTs, the model of Facebook's HDratio (Schlinker et al.,
/// IMC 2019, section 3.2). The usual rate holds its own slow start already, so that more is allowed
/// for than there was.
fn slow_start_cost(log_bytes: f64, usual: &Usual) -> Option<f64> {
    if log_bytes >= usual.log_chunk_bytes.mean - LOG_CHUNK_SHORTER {
        return Some(0.0);
    }
    let bytes = log_bytes.exp();
    if bytes < INITIAL_WINDOW_BYTES || usual.rtt_p10_us.count == 0 {
        return None;
    }
    let rounds = (bytes / INITIAL_WINDOW_BYTES + 1.0).log2().ceil();
    let slow_start_s = rounds * usual.rtt_p10_us.mean / 1e6;
    let sending_s = bytes * 8.0 / usual.log_rate.mean.exp();
    Some(((sending_s + slow_start_s) / sending_s).ln())
}

/// The chance up to which something counts as bad, over all that were tested, such that at most
/// `share` of those called bad are so by chance (Benjamini and Hochberg, 1995): `share` of the
/// part that is called bad. 0: none is.
///
/// Within those that are called bad each figure is held against the same chance (Benjamini and
/// Bogomolov, "Selective inference on multiple families of hypotheses", 2014): one that is beyond
/// all doubt must not make another's plain evidence look like chance.
pub fn benjamini_hochberg(chances: &[f64], share: f64) -> f64 {
    let mut sorted = chances.to_vec();
    sorted.sort_by(f64::total_cmp);
    let tests = sorted.len() as f64;
    sorted
        .iter()
        .enumerate()
        .rev()
        .map(|(rank, chance)| (share * (rank + 1) as f64 / tests, *chance))
        .find(|(limit, chance)| chance <= limit)
        .map_or(0.0, |(limit, _)| limit)
}

/// Probability that one more value of the baseline is at least `value`: Student's t, with a
/// standard deviation of at least `floor`. `None` with too few values. Where it is so likely that
/// nobody asks how likely, it is [`LIKELY`]: that is most of the figures, and the tail of Student's
/// t is what comparing them takes most of the time for.
fn chance(value: f64, usual: &Moments, floor: f64, at: &Thresholds) -> Option<f64> {
    if usual.count < MIN_BASELINE_VALUES {
        return None;
    }
    let values = usual.count as f64;
    let deviation = usual.deviation().max(floor) * (1.0 + 1.0 / values).sqrt();
    let t = (value - usual.mean) / deviation;
    if t < 1.0 && is_likely(LIKELY, at) {
        return Some(LIKELY);
    }
    let student = StudentsT::new(0.0, 1.0, values - 1.0).ok()?;
    Some(student.sf(t))
}

/// Whether something as likely as that is as usual, whatever else was looked at: it is neither a
/// discovery nor doubtful.
fn is_likely(chance: f64, at: &Thresholds) -> bool {
    chance >= LIKELY && at.false_discovery_share < LIKELY
}

/// Probability of at least `count` where `expected` are expected.
fn poisson_tail(count: u64, expected: f64) -> f64 {
    match (count.checked_sub(1), Poisson::new(expected)) {
        (Some(fewer), Ok(poisson)) => poisson.sf(fewer),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moments(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|&value| moments.push(Some(value)));
        moments
    }

    fn usual() -> Usual {
        Usual {
            rtt_p10_us: moments(&[40_000.0, 40_500.0, 41_000.0, 39_800.0, 40_200.0, 40_100.0]),
            rtt_spread_us: moments(&[4_000.0; 6]),
            loss_share: moments(&[0.0, 0.001, 0.0, 0.002, 0.0, 0.0]),
            ce_share: moments(&[0.0; 6]),
            log_rate: moments(&[16.0, 16.1, 15.9, 16.0, 16.05, 15.95]),
            log_chunk_bytes: moments(&[13.0; 6]),
            ..Usual::default()
        }
    }

    fn figures() -> Figures {
        Figures {
            rtt_p10_us: Some(40_300.0),
            loss_share: Some(0.0),
            ce_share: Some(0.0),
            log_rate: Some(16.0),
            log_chunk_bytes: Some(13.0),
            handshake_rtt_us: None,
            rtt_spread_us: Some(4_000.0),
        }
    }

    fn judge(figures: &Figures, lost: u64) -> Raw {
        let totals = Totals {
            segments: 1_000,
            lost_downstream_segments: lost,
            ..Totals::default()
        };
        let comparison = Comparison::new(figures, &totals, &usual(), &Thresholds::default());
        comparison.judge(0.01).0
    }

    #[test]
    fn the_usual_is_good() {
        assert_eq!(judge(&figures(), 0), Raw::Good);
    }

    #[test]
    fn a_standing_queue_is_bad_and_half_of_one_is_neither() {
        let at = |rtt_p10_us| Figures {
            rtt_p10_us: Some(rtt_p10_us),
            ..figures()
        };
        assert_eq!(judge(&at(60_000.0), 0), Raw::Bad);
        assert_eq!(judge(&at(44_900.0), 0), Raw::Leaning);
        assert_eq!(judge(&at(41_000.0), 0), Raw::Good);
    }

    #[test]
    fn losses_alone_are_bad() {
        let lossy = Figures {
            loss_share: Some(0.03),
            ..figures()
        };
        assert_eq!(judge(&lossy, 30), Raw::Bad);
    }

    #[test]
    fn few_losses_are_bad_where_the_rate_fell_with_them() {
        let lossy = |log_rate| Figures {
            loss_share: Some(0.008),
            log_rate: Some(log_rate),
            ..figures()
        };
        let judge = |figures: &Figures| {
            let totals = Totals {
                segments: 10_000,
                lost_downstream_segments: 80,
                ..Totals::default()
            };
            let comparison = Comparison::new(figures, &totals, &usual(), &Thresholds::default());
            comparison.judge(0.1).0
        };
        assert_eq!(judge(&lossy(14.5)), Raw::Bad);
        assert_eq!(judge(&lossy(16.0)), Raw::Leaning);
    }

    #[test]
    fn a_low_rate_without_queue_or_loss_is_not_the_network() {
        let slow = Figures {
            log_rate: Some(14.5),
            ..figures()
        };
        assert_eq!(judge(&slow, 0), Raw::RateOnly);
        let slow_and_perhaps_queued = Figures {
            rtt_p10_us: Some(44_900.0),
            ..slow
        };
        assert_eq!(judge(&slow_and_perhaps_queued, 0), Raw::Leaning);
    }

    #[test]
    fn the_rate_of_small_chunks_is_what_slow_start_leaves_of_it() {
        // 60 kB at 40 ms: three rounds, 120 ms, and 54 ms at the usual rate.
        let small = |log_rate, log_chunk_bytes| Figures {
            log_rate: Some(log_rate),
            log_chunk_bytes: Some(log_chunk_bytes),
            ..figures()
        };
        assert_eq!(judge(&small(14.8, 11.0), 0), Raw::Good);
        assert_eq!(judge(&small(13.5, 11.0), 0), Raw::RateOnly);
        // What fits into the first window has no rate.
        assert_eq!(judge(&small(12.0, 9.5), 0), Raw::Good);
    }

    #[test]
    fn what_was_not_measured_is_not_good() {
        let no_loss_share = Figures {
            loss_share: None,
            ..figures()
        };
        assert_eq!(judge(&no_loss_share, 0), Raw::Grey);
        let no_rtt = Figures {
            rtt_p10_us: None,
            ..figures()
        };
        assert_eq!(judge(&no_rtt, 0), Raw::Grey);
    }

    #[test]
    fn one_lost_segment_of_a_hundred_proves_nothing() {
        let usual = Usual {
            loss_share: moments(&[0.0; 200]),
            ..usual()
        };
        let totals = Totals {
            segments: 100,
            lost_downstream_segments: 1,
            ..Totals::default()
        };
        let figures = Figures {
            loss_share: Some(0.01),
            ..figures()
        };
        let comparison = Comparison::new(&figures, &totals, &usual, &Thresholds::default());
        assert_eq!(comparison.judge(0.01).0, Raw::Grey);
    }

    #[test]
    fn benjamini_hochberg_as_in_the_paper() {
        // The example of Benjamini and Hochberg (1995), section 3.2: four of fifteen at 0.05.
        let chances = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
            0.5719, 0.6528, 0.7590, 1.000,
        ];
        let limit = benjamini_hochberg(&chances, 0.05);
        assert_eq!(chances.iter().filter(|chance| **chance <= limit).count(), 4);
        assert_eq!(limit, 0.05 * 4.0 / 15.0);
        assert_eq!(benjamini_hochberg(&[0.5, 0.9], 0.05), 0.0);
        assert_eq!(benjamini_hochberg(&[], 0.05), 0.0);
    }

    proptest! {
        #[test]
        fn worse_figures_never_look_better(rtt in 1e3f64..2e5, more in 0f64..1e5) {
            let order = |raw| match raw { Raw::Good => 0, Raw::Grey | Raw::Leaning | Raw::RateOnly => 1, Raw::Bad => 2 };
            let at = |rtt_p10_us| Figures { rtt_p10_us: Some(rtt_p10_us), ..figures() };
            prop_assert!(order(judge(&at(rtt), 0)) <= order(judge(&at(rtt + more), 0)));
        }
    }
}
