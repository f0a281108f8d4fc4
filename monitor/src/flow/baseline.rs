//! What is usual for a cell: the best of its past.
//!
//! Windows are collected in slots; the best slots of the span are the baseline (design: the best
//! six hours of 14 days; BlameIt, SIGCOMM 2019, compares with past days likewise). Windows in
//! which the cell was bad are never learned, so that a long congestion does not become usual,
//! and a cell that takes another interconnect is another cell with a baseline of its own.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::own::{Lesson, Own};
use crate::cell::ClientTotals;
use crate::config;

/// What a client's traffic looked like in one window; `None` where there was too little of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// 10 % quantile of the RTT, µs: how long the way takes when the queue is at its shortest. A
    /// queue that does harm never empties (RFC 8289, section 3), while a burst that fills its own
    /// queue raises only the higher quantiles.
    pub rtt_p10_us: Option<f64>,
    /// Mean of the RTT less its minimum, µs: how far queues come and go.
    pub rtt_spread_us: Option<f64>,
    /// Lost segments as a share of the segments.
    pub loss_share: Option<f64>,
    /// CE-marked segments as a share of the segments.
    pub ce_share: Option<f64>,
    /// Delivered rate while busy, natural logarithm of bit/s.
    pub log_rate: Option<f64>,
    /// Acknowledged bytes of the mean chunk, natural logarithm.
    pub log_chunk_bytes: Option<f64>,
    /// Smallest handshake RTT of the flows that began, µs.
    pub handshake_rtt_us: Option<f64>,
}

/// Which quantile stands for the shortest queue.
pub const STANDING_QUANTILE: f64 = 0.1;

impl Figures {
    /// The figures of a client, where there is enough traffic for each.
    pub fn of(client: &ClientTotals, min_rtt_samples: u32, min_segments: u32) -> Self {
        let totals = &client.to_client;
        let share = |count: u64| {
            (totals.segments >= u64::from(min_segments))
                .then(|| count as f64 / totals.segments as f64)
        };
        let has_rtts = totals.rtt.samples() >= u64::from(min_rtt_samples);
        let mean_us = totals.rtt_sum_us as f64 / totals.rtt_samples.max(1) as f64;
        let spread_us = |min_us: u32| (mean_us - f64::from(min_us)).max(0.0);
        Self {
            rtt_p10_us: has_rtts
                .then(|| totals.rtt_quantile_us(STANDING_QUANTILE))
                .flatten()
                .map(f64::from),
            rtt_spread_us: totals.rtt_min_us.filter(|_| has_rtts).map(spread_us),
            loss_share: share(totals.lost_segments()),
            ce_share: share(totals.ce_marked_segments),
            log_rate: totals.delivered_bps().map(f64::ln),
            log_chunk_bytes: (totals.acked_bytes > 0)
                .then(|| (totals.acked_bytes as f64 / totals.chunks().max(1) as f64).ln()),
            handshake_rtt_us: client.handshake_rtt_us.map(f64::from),
        }
    }
}

/// Count, mean and variance of one figure, mergeable (Chan, Golub, LeVeque 1979).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    pub count: u64,
    pub mean: f64,
    square_sum: f64,
}

impl Moments {
    /// Adds one value, if there is one.
    pub fn push(&mut self, value: Option<f64>) {
        if let Some(mean) = value {
            self.add(&Self {
                count: 1,
                mean,
                square_sum: 0.0,
            });
        }
    }

    /// Adds every value of `other`.
    pub fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let count = self.count + other.count;
        let difference = other.mean - self.mean;
        let weight = other.count as f64 / count as f64;
        self.square_sum += other.square_sum + difference * difference * self.count as f64 * weight;
        self.mean += difference * weight;
        self.count = count;
    }

    /// Counts what was added so far half.
    pub fn halve(&mut self) {
        self.count /= 2;
        self.square_sum /= 2.0;
    }

    /// The moments of the same values with the other sign.
    pub fn mirrored(&self) -> Self {
        Self {
            mean: -self.mean,
            ..*self
        }
    }

    /// Standard deviation of the values; 0 with fewer than two.
    pub fn deviation(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        (self.square_sum / (self.count - 1) as f64).max(0.0).sqrt()
    }
}

/// What is usual: the moments of each of [`Figures`], over clients and windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    pub rtt_p10_us: Moments,
    #[serde(default)]
    pub rtt_spread_us: Moments,
    pub loss_share: Moments,
    pub ce_share: Moments,
    pub log_rate: Moments,
    pub log_chunk_bytes: Moments,
    pub handshake_rtt_us: Moments,
}

impl Usual {
    fn push(&mut self, figures: &Figures) {
        self.rtt_p10_us.push(figures.rtt_p10_us);
        self.rtt_spread_us.push(figures.rtt_spread_us);
        self.loss_share.push(figures.loss_share);
        self.ce_share.push(figures.ce_share);
        self.log_rate.push(figures.log_rate);
        self.log_chunk_bytes.push(figures.log_chunk_bytes);
        self.handshake_rtt_us.push(figures.handshake_rtt_us);
    }

    fn add(&mut self, other: &Self) {
        self.rtt_p10_us.add(&other.rtt_p10_us);
        self.rtt_spread_us.add(&other.rtt_spread_us);
        self.loss_share.add(&other.loss_share);
        self.ce_share.add(&other.ce_share);
        self.log_rate.add(&other.log_rate);
        self.log_chunk_bytes.add(&other.log_chunk_bytes);
        self.handshake_rtt_us.add(&other.handshake_rtt_us);
    }
}

/// Windows that are ranked together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Slot {
    /// Window number divided by the slot's length.
    number: u64,
    usual: Usual,
}

/// One cell's memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Windows with figures, from the first one on, bad ones included.
    windows_seen: u32,
    slots: VecDeque<Slot>,
    own: Own,
}

/// Slots kept for each one that makes the baseline, so that there are others when the best ones
/// grow too old; what is worse than these is forgotten at once, which bounds the memory.
const SPARE: usize = 2;

impl Baseline {
    /// Notes one window: what its clients looked like, and whether it may be learned from.
    /// `window` numbers windows since 1970.
    pub fn note(
        &mut self,
        window: u64,
        clients: &[Lesson],
        learn: bool,
        settings: &config::Baseline,
    ) {
        let compared = self.is_known(settings);
        let number = window / u64::from(settings.slot_windows);
        let oldest = number.saturating_sub(u64::from(settings.span_slots));
        let was_empty = self.slots.is_empty();
        self.slots.retain(|slot| slot.number >= oldest);
        if self.slots.is_empty() && !was_empty {
            // All that was learned is too old: whatever comes next is not "usual" at once.
            self.windows_seen = 0;
        }
        self.windows_seen = self.windows_seen.saturating_add(1);
        let span = u64::from(settings.span_slots) * u64::from(settings.slot_windows);
        self.own.note(window, clients, compared, span);
        if !learn {
            return;
        }
        if self.slots.back().is_none_or(|slot| slot.number != number) {
            self.drop_worst(settings);
            self.slots.push_back(Slot {
                number,
                usual: Usual::default(),
            });
        }
        if let Some(slot) = self.slots.back_mut() {
            for client in clients {
                slot.usual.push(&client.figures);
            }
        }
    }

    /// Whether there is anything usual.
    fn is_known(&self, settings: &config::Baseline) -> bool {
        let has_rtt = |slot: &Slot| slot.usual.rtt_p10_us.count > 0;
        self.windows_seen >= settings.min_windows && self.slots.iter().any(has_rtt)
    }

    /// What is usual, once the cell is known long enough.
    pub fn usual(&self, settings: &config::Baseline) -> Option<Usual> {
        if !self.is_known(settings) {
            return None;
        }
        let mut slots: Vec<&Slot> = self.slots.iter().collect();
        slots.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        let mut usual = Usual::default();
        for slot in slots.into_iter().take(settings.best_slots as usize) {
            usual.add(&slot.usual);
        }
        Some(usual)
    }

    /// What is usual for the cell's clients, each by itself.
    pub fn own(&self) -> &Own {
        &self.own
    }

    fn drop_worst(&mut self, settings: &config::Baseline) {
        if self.slots.len() < settings.best_slots as usize * SPARE {
            return;
        }
        let worst = self
            .slots
            .iter()
            .enumerate()
            .max_by(|(_, a), (_, b)| rank(a).total_cmp(&rank(b)))
            .map(|(at, _)| at);
        if let Some(at) = worst {
            self.slots.remove(at);
        }
    }
}

/// RTT that does about as much harm as losses or marks of [`HARMFUL_SHARE`].
const HARMFUL_RTT_US: f64 = 5_000.0;
const HARMFUL_SHARE: f64 = 0.01;

/// Lower is better; a slot without RTT samples is the worst. Losses and marks count beside the RTT:
/// a congestion that keeps no queue standing and comes back every evening must not be learned either.
fn rank(slot: &Slot) -> f64 {
    let usual = &slot.usual;
    if usual.rtt_p10_us.count == 0 {
        return f64::INFINITY;
    }
    usual.rtt_p10_us.mean / HARMFUL_RTT_US
        + (usual.loss_share.mean + usual.ce_share.mean) / HARMFUL_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> config::Baseline {
        config::Baseline {
            min_windows: 4,
            slot_windows: 2,
            best_slots: 2,
            span_slots: 10,
        }
    }

    fn rtt(rtt_ms: f64) -> Lesson {
        let figures = Figures {
            rtt_p10_us: Some(rtt_ms * 1_000.0),
            ..Figures::default()
        };
        Lesson::unjudged([10, 0, 0, 1].into(), figures)
    }

    fn usual_ms(baseline: &Baseline) -> Option<f64> {
        baseline
            .usual(&settings())
            .map(|usual| usual.rtt_p10_us.mean / 1_000.0)
    }

    #[test]
    fn nothing_is_usual_before_enough_windows_were_seen() {
        let mut baseline = Baseline::default();
        for window in 0..3 {
            baseline.note(window, &[rtt(20.0)], true, &settings());
            assert_eq!(usual_ms(&baseline), None);
        }
        baseline.note(3, &[rtt(20.0)], true, &settings());
        assert_eq!(usual_ms(&baseline), Some(20.0));
    }

    #[test]
    fn a_congestion_longer_than_the_memory_does_not_become_usual() {
        let mut baseline = Baseline::default();
        for window in 0..4 {
            baseline.note(window, &[rtt(20.0)], true, &settings());
        }
        // Not recognised as bad, and yet: the best slots count.
        for window in 4..16 {
            baseline.note(window, &[rtt(80.0)], true, &settings());
        }
        assert_eq!(usual_ms(&baseline), Some(20.0));
        // Recognised: not learned at all.
        for window in 16..20 {
            baseline.note(window, &[rtt(5.0)], false, &settings());
        }
        assert_eq!(usual_ms(&baseline), Some(20.0));
    }

    #[test]
    fn what_is_older_than_the_span_is_forgotten() {
        let mut baseline = Baseline::default();
        for window in 0..4 {
            baseline.note(window, &[rtt(20.0)], true, &settings());
        }
        for window in 40..44 {
            baseline.note(window, &[rtt(30.0)], true, &settings());
        }
        assert_eq!(usual_ms(&baseline), Some(30.0));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut baseline = Baseline::default();
        for window in 0..1_000 {
            baseline.note(window, &[rtt(20.0)], true, &settings());
            assert!(baseline.slots.len() <= 4);
        }
    }

    proptest! {
        #[test]
        fn moments_merge_to_what_all_values_give(
            values in prop::collection::vec(-1e3f64..1e3, 2..50),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(values.len());
            let of = |values: &[f64]| {
                let mut moments = Moments::default();
                values.iter().for_each(|&value| moments.push(Some(value)));
                moments
            };
            let mut merged = of(&values[..cut]);
            merged.add(&of(&values[cut..]));
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
                / (values.len() - 1) as f64;
            prop_assert!((merged.mean - mean).abs() < 1e-6);
            prop_assert!((merged.deviation() - variance.sqrt()).abs() < 1e-6);
        }
    }
}
