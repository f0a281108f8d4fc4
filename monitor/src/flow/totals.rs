//! What one direction's data did over any span: a difference of two states, a window, a flow's
//! life, a whole cell. All of them add up.

use monitor_ebpf::flow::{EpochRtt, Half};

use super::histogram::{Known, RttHistogram};

/// Sums for one direction's data. RTT, acknowledgements and busy time are those that the other
/// side's packets revealed about this data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Payload on the wire, retransmissions included.
    pub bytes: u64,
    /// Packets with payload, as captured.
    pub frames: u64,
    /// Wire segments with payload.
    pub segments: u64,
    pub retransmitted_segments: u64,
    pub retransmitted_bytes: u64,
    /// Sent again though they had arrived: they were acknowledged already, or the receiver
    /// reported them as received twice (DSACK, RFC 2883).
    pub spurious_segments: u64,
    pub ce_marked_segments: u64,
    /// Sent again after they had passed here; what turned out spurious later is in
    /// `disproved_segments` (see [`Self::lost_segments`]).
    pub lost_downstream_segments: u64,
    /// Taken for lost downstream in an earlier span, and shown to have arrived in this one.
    pub disproved_segments: u64,
    pub lost_upstream_segments: u64,
    pub reordered_segments: u64,
    /// Retransmissions by a tail-loss probe and by timeout, as far as they are told apart.
    pub tail_loss_probes: u64,
    pub retransmission_timeouts: u64,
    /// SYNs or SYN-ACKs sent again; they are no segments.
    pub syns_retransmitted: u64,
    /// Segments sent when the receiver's window was full.
    pub rwnd_limited_segments: u64,
    pub acked_bytes: u64,
    /// Time with data outstanding, a period that is not over included, µs.
    pub busy_us: u64,
    /// Busy periods that ended.
    pub bursts: u64,
    pub rtt: RttHistogram,
    pub rtt_sum_us: u64,
    pub rtt_samples: u64,
    /// Of the samples, those taken from TCP timestamps.
    pub rtt_timestamp_samples: u64,
    /// RTT samples left out because the ACK was delayed.
    pub delayed_acks: u64,
    pub rtt_min_us: Option<u32>,
    pub rtt_max_us: Option<u32>,
}

/// One reading of the two halves that together describe one direction's data.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Written by the packets that carry the data.
    pub sender: &'a Half,
    /// Written by the packets that acknowledge it.
    pub receiver: &'a Half,
    /// When it was read, wrapping monotonic µs.
    pub read_us: u32,
}

impl Reading<'_> {
    /// `(spurious, lost downstream)` segments so far. Of those that were sent again after they
    /// had passed here, as many had arrived as the receiver reports to have received twice, but
    /// for those that were known as spurious when they passed. (A DSACK does not say which
    /// retransmission it is about, and both may have been counted in either order.)
    fn repeated(&self) -> (u32, u32) {
        let spurious = self.sender.spurious_segments;
        let all = spurious.wrapping_add(self.sender.lost_downstream_segments);
        let twice = self.receiver.dsacks.min(all).max(spurious);
        (twice, all.wrapping_sub(twice))
    }

    /// How long data has been outstanding at the time of reading, µs; 0 if none is.
    fn outstanding_us(&self) -> u64 {
        use monitor_ebpf::flow::half_flags as is;
        let (sender, receiver) = (self.sender, self.receiver);
        if !sender.has(is::SEQUENCE_KNOWN) || !receiver.has(is::ACK_KNOWN) || sender.bytes == 0 {
            return 0;
        }
        let (highest_sent, since_us) = ((sender.burst >> 32) as u32, sender.burst as u32);
        let acked = (receiver.acked >> 32) as u32;
        let unacked = highest_sent.wrapping_sub(acked) as i32;
        let elapsed = self.read_us.wrapping_sub(since_us) as i32;
        if unacked > 0 && elapsed > 0 {
            elapsed as u64
        } else {
            0
        }
    }
}

impl Totals {
    /// What happened from `before` to `after`, two readings of the same generation.
    pub fn between(before: &Reading<'_>, after: &Reading<'_>) -> Self {
        let (from, to) = (before.sender, after.sender);
        let (from_ack, to_ack) = (before.receiver, after.receiver);
        // Two CPUs may write one half (see monitor_ebpf::flow): a count that went back is no gain.
        let count = |from: u32, to: u32| u64::from((to.wrapping_sub(from) as i32).max(0) as u32);
        let count_16 = |from: u16, to: u16| u64::from((to.wrapping_sub(from) as i16).max(0) as u16);
        let sum = |from: u64, to: u64| (to.wrapping_sub(from) as i64).max(0) as u64;
        let mut rtt = RttHistogram::default();
        rtt.add_difference(&from_ack.rtt_bins, &to_ack.rtt_bins);
        let rtt_samples = count(from_ack.rtt_samples, to_ack.rtt_samples);
        let extremes = new_extremes(from_ack, to_ack, rtt_samples);
        let ((from_spurious, from_lost), (to_spurious, to_lost)) =
            (before.repeated(), after.repeated());
        let busy_us = sum(from_ack.busy_us, to_ack.busy_us);
        Self {
            bytes: sum(from.bytes, to.bytes),
            frames: count(from.frames, to.frames),
            segments: count(from.segments, to.segments),
            retransmitted_segments: count(from.retransmitted_segments, to.retransmitted_segments),
            retransmitted_bytes: sum(from.retransmitted_bytes, to.retransmitted_bytes),
            spurious_segments: count(from_spurious, to_spurious),
            ce_marked_segments: count(from.ce_marked_segments, to.ce_marked_segments),
            lost_downstream_segments: count(from_lost, to_lost),
            disproved_segments: count(to_lost, from_lost),
            lost_upstream_segments: count(from.lost_upstream_segments, to.lost_upstream_segments),
            reordered_segments: count(from.reordered_segments, to.reordered_segments),
            tail_loss_probes: count_16(from.tail_loss_probes, to.tail_loss_probes),
            retransmission_timeouts: count_16(
                from.retransmission_timeouts,
                to.retransmission_timeouts,
            ),
            syns_retransmitted: count_16(from.syns_retransmitted, to.syns_retransmitted),
            rwnd_limited_segments: count(from.rwnd_limited_segments, to.rwnd_limited_segments),
            acked_bytes: sum(from_ack.acked_bytes, to_ack.acked_bytes),
            // A period that was outstanding at `before` was counted up to then.
            busy_us: (busy_us + after.outstanding_us()).saturating_sub(before.outstanding_us()),
            bursts: count(from_ack.bursts, to_ack.bursts),
            rtt,
            rtt_sum_us: sum(from_ack.rtt_sum_us, to_ack.rtt_sum_us),
            rtt_samples,
            rtt_timestamp_samples: count(
                from_ack.rtt_timestamp_samples,
                to_ack.rtt_timestamp_samples,
            ),
            delayed_acks: count_16(from_ack.delayed_acks, to_ack.delayed_acks),
            rtt_min_us: extremes.map(|(min, _)| min),
            rtt_max_us: extremes.map(|(_, max)| max),
        }
    }

    /// Adds what another span, flow or host saw.
    pub fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.frames += other.frames;
        self.segments += other.segments;
        self.retransmitted_segments += other.retransmitted_segments;
        self.retransmitted_bytes += other.retransmitted_bytes;
        self.spurious_segments += other.spurious_segments;
        self.ce_marked_segments += other.ce_marked_segments;
        self.lost_downstream_segments += other.lost_downstream_segments;
        self.disproved_segments += other.disproved_segments;
        self.lost_upstream_segments += other.lost_upstream_segments;
        self.reordered_segments += other.reordered_segments;
        self.tail_loss_probes += other.tail_loss_probes;
        self.retransmission_timeouts += other.retransmission_timeouts;
        self.syns_retransmitted += other.syns_retransmitted;
        self.rwnd_limited_segments += other.rwnd_limited_segments;
        self.acked_bytes += other.acked_bytes;
        self.busy_us += other.busy_us;
        self.bursts += other.bursts;
        self.rtt.add(&other.rtt);
        self.rtt_sum_us += other.rtt_sum_us;
        self.rtt_samples += other.rtt_samples;
        self.rtt_timestamp_samples += other.rtt_timestamp_samples;
        self.delayed_acks += other.delayed_acks;
        self.rtt_min_us = self.rtt_min_us.into_iter().chain(other.rtt_min_us).min();
        self.rtt_max_us = self.rtt_max_us.into_iter().chain(other.rtt_max_us).max();
    }

    /// Whether nothing was sent or acknowledged.
    pub fn is_empty(&self) -> bool {
        self.segments == 0 && self.acked_bytes == 0 && self.rtt_samples == 0
    }

    /// Segments lost beyond us: what was lost before it came to us is nobody's fault on the way
    /// that is judged. Spurious retransmissions and reordering are no losses.
    pub fn lost_segments(&self) -> u64 {
        self.lost_downstream_segments
            .saturating_sub(self.disproved_segments)
    }

    /// Stretches of data: busy periods that ended, or the one that is not over.
    pub fn chunks(&self) -> u64 {
        if self.bursts == 0 && self.acked_bytes > 0 {
            1
        } else {
            self.bursts
        }
    }

    /// Takes back a sample of which it is known that it is of another way.
    pub fn forget_rtt(&mut self, rtt_us: u32) {
        if !self.rtt.remove(rtt_us) {
            return;
        }
        self.rtt_samples = self.rtt_samples.saturating_sub(1);
        self.rtt_sum_us = self.rtt_sum_us.saturating_sub(u64::from(rtt_us));
        if self.rtt_min_us == Some(rtt_us) {
            // The next one is at least this.
            self.rtt_min_us = self.rtt.bins().next().map(|(lower_us, _)| lower_us);
        }
        if self.rtt.samples() == 0 {
            self.rtt_max_us = None;
        }
    }

    /// A quantile of the RTT in µs that moves smoothly with the samples, for comparisons; held
    /// between the exact minimum and maximum.
    pub fn rtt_quantile_us(&self, q: f64) -> Option<u32> {
        let (min_us, max_us) = self.extremes();
        let known = Known {
            min_us,
            max_us,
            mean_us: self.rtt_sum_us as f64 / self.rtt.samples().max(1) as f64,
        };
        self.rtt
            .quantile(q, &known)
            .map(|rtt_us| self.within_extremes(rtt_us))
    }

    /// A quantile of the RTT in µs that errs by at most a ninth of itself, for people; held
    /// between the exact minimum and maximum.
    pub fn rtt_percentile_us(&self, q: f64) -> Option<u32> {
        self.rtt
            .bounded_quantile(q)
            .map(|rtt_us| self.within_extremes(rtt_us))
    }

    fn within_extremes(&self, estimate: u32) -> u32 {
        let (min, max) = self.extremes();
        estimate.clamp(min, max)
    }

    /// The minimum and maximum RTT as far as they are known, µs.
    fn extremes(&self) -> (u32, u32) {
        let min = self.rtt_min_us.unwrap_or(0);
        (min, self.rtt_max_us.unwrap_or(u32::MAX).max(min))
    }

    /// Delivered rate while data was outstanding, bit/s.
    pub fn delivered_bps(&self) -> Option<f64> {
        (self.busy_us > 0 && self.acked_bytes > 0)
            .then(|| self.acked_bytes as f64 * 8e6 / self.busy_us as f64)
    }
}

/// Minimum and maximum RTT of samples that are new in `after`, as far as the epochs tell: the
/// epoch under way may also hold samples from before, but none from before its window.
fn new_extremes(before: &Half, after: &Half, samples: u64) -> Option<(u32, u32)> {
    if samples == 0 {
        return None;
    }
    let known = |epoch: &EpochRtt| epoch.rtt_max_us != 0;
    let current = after.rtt_current;
    let mut extremes = known(&current).then_some((current.rtt_min_us, current.rtt_max_us))?;
    let previous = after.rtt_previous;
    // An epoch that began and ended between the two readings is all new.
    let unseen = known(&previous)
        && (!known(&before.rtt_current)
            || previous.epoch.wrapping_sub(before.rtt_current.epoch) as i32 > 0);
    if unseen {
        extremes.0 = extremes.0.min(previous.rtt_min_us);
        extremes.1 = extremes.1.max(previous.rtt_max_us);
    }
    Some(extremes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use monitor_ebpf::flow::{RTT_BINS, half_flags, rtt_bin};
    use proptest::prelude::*;

    fn reading<'a>(sender: &'a Half, receiver: &'a Half, read_us: u32) -> Reading<'a> {
        Reading {
            sender,
            receiver,
            read_us,
        }
    }

    /// Data up to `sent`, outstanding since `since_us`, acknowledged up to `acked`.
    fn busy(sent: u32, since_us: u32, acked: u32) -> (Half, Half) {
        let (mut sender, mut receiver) = (Half::EMPTY, Half::EMPTY);
        sender.flags = half_flags::SEQUENCE_KNOWN;
        sender.bytes = 1;
        sender.burst = u64::from(sent) << 32 | u64::from(since_us);
        receiver.flags = half_flags::ACK_KNOWN;
        receiver.acked = u64::from(acked) << 32;
        (sender, receiver)
    }

    #[test]
    fn a_sample_that_is_taken_back_leaves_the_others() {
        let samples = [10_000, 30_000, 31_000];
        let mut totals = Totals {
            rtt_samples: 3,
            rtt_sum_us: samples.iter().map(|us| u64::from(*us)).sum(),
            rtt_min_us: Some(10_000),
            rtt_max_us: Some(31_000),
            ..Totals::default()
        };
        let mut bins = [0; RTT_BINS];
        for rtt_us in samples {
            bins[rtt_bin(rtt_us)] += 1;
        }
        totals.rtt.add_difference(&[0; RTT_BINS], &bins);
        totals.forget_rtt(10_000);
        assert_eq!((totals.rtt_samples, totals.rtt_sum_us), (2, 61_000));
        let min_us = totals.rtt_min_us.expect("two are left");
        assert!((20_000..=30_000).contains(&min_us), "{min_us}");
        let standing_us = totals.rtt_quantile_us(0.1).expect("two are left");
        assert!((25_000..=31_000).contains(&standing_us), "{standing_us}");
        // Of another window: there is none.
        let before = totals.rtt_samples;
        totals.forget_rtt(10_000);
        assert_eq!(totals.rtt_samples, before);
    }

    #[test]
    fn a_busy_period_counts_while_it_lasts_and_only_once() {
        let (sender, receiver) = busy(5_000, 1_000, 2_000);
        let (ended, mut at_end) = busy(5_000, 1_000, 5_000);
        at_end.busy_us = 8_000;
        let before = (Half::EMPTY, Half::EMPTY);
        let start = reading(&before.0, &before.1, 500);
        let (during, later) = (
            reading(&sender, &receiver, 4_000),
            reading(&sender, &receiver, 7_000),
        );
        let over = reading(&ended, &at_end, 20_000);
        let spans = [(&start, &during), (&during, &later), (&later, &over)];
        let busy: Vec<u64> = spans
            .iter()
            .map(|(from, to)| Totals::between(from, to).busy_us)
            .collect();
        assert_eq!(busy, [3_000, 3_000, 2_000]);
    }

    #[test]
    fn the_minimum_of_an_epoch_that_was_read_before_is_not_read_again() {
        let epoch = |epoch, rtt_min_us, rtt_max_us| EpochRtt {
            epoch,
            rtt_min_us,
            rtt_max_us,
        };
        let (mut before, mut after) = (Half::EMPTY, Half::EMPTY);
        before.rtt_current = epoch(7, 10, 20);
        after.rtt_previous = epoch(7, 10, 20);
        after.rtt_current = epoch(8, 30, 40);
        assert_eq!(new_extremes(&before, &after, 1), Some((30, 40)));
        // An epoch nobody read is all new.
        after.rtt_previous = epoch(8, 25, 50);
        after.rtt_current = epoch(9, 30, 40);
        assert_eq!(new_extremes(&before, &after, 1), Some((25, 50)));
        assert_eq!(new_extremes(&before, &after, 0), None);
    }

    /// Halves after so many repeated segments of either kind, and so many DSACKs.
    fn repeated(spurious: u32, downstream: u32, dsacks: u32) -> (Half, Half) {
        let (mut sender, mut receiver) = (Half::EMPTY, Half::EMPTY);
        sender.spurious_segments = spurious;
        sender.lost_downstream_segments = downstream;
        receiver.dsacks = dsacks;
        (sender, receiver)
    }

    #[test]
    fn what_arrived_twice_was_not_lost() {
        for (spurious, downstream, dsacks, expected) in [
            (0, 3, 0, (0, 3)),
            (0, 3, 2, (2, 1)),
            // Known already, when they passed: reported twice for the same reason.
            (2, 3, 2, (2, 3)),
            (2, 3, 4, (4, 1)),
            // Receivers without SACK report nothing, and networks duplicate too.
            (2, 0, 0, (2, 0)),
            (1, 2, 9, (3, 0)),
        ] {
            let (sender, receiver) = repeated(spurious, downstream, dsacks);
            assert_eq!(reading(&sender, &receiver, 0).repeated(), expected);
        }
    }

    #[test]
    fn a_loss_that_a_later_report_disproves_is_taken_back() {
        let steps = [
            repeated(0, 0, 0),
            repeated(0, 2, 0),
            repeated(0, 2, 1),
            repeated(1, 2, 2),
        ];
        let mut life = Totals::default();
        for pair in steps.windows(2) {
            let [(sender, receiver), (later, later_receiver)] = pair else {
                continue;
            };
            let (from, to) = (
                reading(sender, receiver, 0),
                reading(later, later_receiver, 1),
            );
            life.add(&Totals::between(&from, &to));
        }
        assert_eq!((life.spurious_segments, life.lost_segments()), (2, 1));
    }

    #[test]
    fn a_count_that_went_back_is_no_gain() {
        let (mut before, mut after) = (Half::EMPTY, Half::EMPTY);
        (before.segments, after.segments) = (10, 9);
        (before.bytes, after.bytes) = (10_000, 9_000);
        let none = Half::EMPTY;
        let totals = Totals::between(&reading(&before, &none, 0), &reading(&after, &none, 1));
        assert_eq!((totals.segments, totals.bytes), (0, 0));
    }

    proptest! {
        /// Whatever reports were lost on the way, the sum of the differences is the difference.
        #[test]
        fn differences_add_up(
            start in any::<u32>(),
            steps in prop::collection::vec((0u32..1_000_000, 0u16..1_000), 1..20),
        ) {
            let mut halves = vec![Half { segments: start, ..Half::EMPTY }];
            for (segments, samples) in &steps {
                let mut next = halves[halves.len() - 1];
                next.segments = next.segments.wrapping_add(*segments);
                next.rtt_bins[12] = next.rtt_bins[12].wrapping_add(*samples);
                halves.push(next);
            }
            let mut sum = Totals::default();
            for pair in halves.windows(2) {
                sum.add(&Totals::between(&reading(&pair[0], &pair[0], 0), &reading(&pair[1], &pair[1], 1)));
            }
            prop_assert_eq!(sum.segments, steps.iter().map(|step| u64::from(step.0)).sum::<u64>());
            prop_assert_eq!(sum.rtt.samples(), steps.iter().map(|step| u64::from(step.1)).sum::<u64>());
        }
    }
}
