//! Round-trip times: where a completed sample is recorded.

use crate::{
    flow::{EpochRtt, Half, RTT_BINS, rtt_bin},
    sequence::distance,
    timer::TIMEOUT_INITIAL_US,
    verifier::below_64,
};

/// A sample above this is not an RTT but an idle connection or a clock that jumped: Linux gives
/// up on a connection's data long before (RTO at most 120 s, `TCP_RTO_MAX`).
const RTT_MAX_US: i32 = 120_000_000;

/// The RTT from `sent_us` to `now_us`, both wrapping; `None` where it is no RTT.
#[inline(always)]
pub fn elapsed(sent_us: u32, now_us: u32) -> Option<u32> {
    let elapsed = distance(sent_us, now_us);
    // A paced packet may be acknowledged before the departure time its scheduler was given, by
    // less than the scheduler's own slack; then nothing is known.
    if elapsed > 0 && elapsed <= RTT_MAX_US {
        Some(elapsed as u32)
    } else {
        None
    }
}

/// A delayed ACK waits at least this long, less a tick: 40 ms on Linux (`TCP_DELACK_MIN`) and
/// Windows, 100 ms and 200 ms elsewhere ...
pub const ACK_DELAY_MIN_US: u32 = 35_000;
/// ... and at most this long (RFC 1122, 4.2.3.2).
pub const ACK_DELAY_MAX_US: u32 = 500_000;

/// Whether an RTT sample holds the wait of a delayed ACK: for the ACK of a lone segment that is
/// not full, which a receiver may hold back (RFC 5681, 4.2), where it took longer than the flow's
/// shortest RTT by what delayed ACKs wait. (Linux leaves such samples out of its own minimum:
/// `FLAG_ACK_MAYBE_DELAYED`.)
#[inline(always)]
pub fn is_delayed(half: &Half, rtt_us: u32) -> bool {
    let shortest_us = shortest_us(half);
    let excess_us = rtt_us.wrapping_sub(shortest_us);
    shortest_us != 0
        && rtt_us > shortest_us
        && (ACK_DELAY_MIN_US..=ACK_DELAY_MAX_US).contains(&excess_us)
}

/// The flow's shortest RTT that is remembered, µs; 0: none.
#[inline(always)]
pub fn shortest_us(half: &Half) -> u32 {
    let shortest_us = shorter(half.handshake_rtt_us, half.rtt_current.rtt_min_us);
    shorter(shortest_us, half.rtt_previous.rtt_min_us)
}

/// The lesser of two RTTs of which 0 is none.
#[inline(always)]
fn shorter(a_us: u32, b_us: u32) -> u32 {
    if a_us == 0 || (b_us != 0 && b_us < a_us) {
        b_us
    } else {
        a_us
    }
}

/// Records an RTT of the other direction's data in the half of the acknowledging side.
#[inline(always)]
pub fn record(half: &mut Half, rtt_us: u32, epoch: u32) {
    half.rtt_samples = half.rtt_samples.wrapping_add(1);
    half.rtt_sum_us = half.rtt_sum_us.wrapping_add(u64::from(rtt_us));
    const { assert!(RTT_BINS == 64) };
    let smoothed_us = half.rtt_smoothed_us;
    if smoothed_us == 0 {
        // A handshake that took so long may have waited for a SYN-ACK that was lost before us.
        if rtt_us < TIMEOUT_INITIAL_US || half.rtt_samples > 1 {
            half.rtt_smoothed_us = rtt_us;
            half.rtt_variation_us = rtt_us / 2;
        }
    } else {
        // A sample that waited for a timer of the sender's must not pass for the RTT of now.
        let bounded_us = rtt_us.min(smoothed_us.wrapping_mul(2));
        let off_us = bounded_us.abs_diff(smoothed_us);
        half.rtt_variation_us = half.rtt_variation_us - half.rtt_variation_us / 4 + off_us / 4;
        half.rtt_smoothed_us = smoothed_us - smoothed_us / 8 + bounded_us / 8;
    }
    let bin = below_64(rtt_bin(rtt_us));
    if let Some(count) = half.rtt_bins.get_mut(bin) {
        *count = count.wrapping_add(1);
    }
    if half.rtt_current.rtt_max_us == 0 || half.rtt_current.epoch != epoch {
        half.rtt_previous = half.rtt_current;
        half.rtt_current = EpochRtt {
            epoch,
            rtt_min_us: rtt_us,
            rtt_max_us: rtt_us,
        };
    } else {
        if rtt_us < half.rtt_current.rtt_min_us {
            half.rtt_current.rtt_min_us = rtt_us;
        }
        if rtt_us > half.rtt_current.rtt_max_us {
            half.rtt_current.rtt_max_us = rtt_us;
        }
    }
}

/// Adds a sample to the slow-start features.
#[inline(always)]
pub fn record_slow_start(half: &mut Half, rtt_us: u32) {
    let slow_start = &mut half.slow_start;
    if slow_start.samples == 0 {
        slow_start.rtt_first_us = rtt_us;
        slow_start.rtt_min_us = rtt_us;
        slow_start.rtt_max_us = rtt_us;
    } else {
        if rtt_us < slow_start.rtt_min_us {
            slow_start.rtt_min_us = rtt_us;
        }
        if rtt_us > slow_start.rtt_max_us {
            slow_start.rtt_max_us = rtt_us;
        }
    }
    slow_start.samples = slow_start.samples.wrapping_add(1);
    slow_start.rtt_sum_us = slow_start.rtt_sum_us.wrapping_add(u64::from(rtt_us));
    let square = u64::from(rtt_us).wrapping_mul(u64::from(rtt_us));
    slow_start.rtt_square_sum = slow_start.rtt_square_sum.wrapping_add(square);
}
