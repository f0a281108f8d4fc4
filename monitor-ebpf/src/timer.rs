//! Which of the sender's timers sent a segment again, where the wire shows it.
//!
//! A tail-loss probe (RFC 8985, 7) repeats the *last* segment that was sent, after two RTTs
//! without an answer, and 200 ms more where only one segment is outstanding, whose ACK may be
//! delayed. A retransmission timeout (RFC 6298) repeats the *first* that is not acknowledged,
//! after its smoothed RTT, four times its variation, and never within 200 ms. What a fast
//! retransmission repeats was asked for by an ACK, so that neither side was silent.
//!
//! Where one segment is all that is outstanding it is the first and the last. Its first repetition
//! is taken for a probe up to the time a probe goes at the latest, because a sender that probes
//! does so no later than its timeout; after that, and for every further repetition, it is a
//! timeout.

use crate::{
    flow::Half,
    sequence::{distance, low, ticks, ticks_to_micros},
};

/// No timeout is shorter (Linux, `TCP_RTO_MIN`; RFC 6298 asks for 1 s).
const TIMEOUT_MIN_US: u32 = 200_000;

/// A timeout or a probe before the first RTT sample (RFC 6298, 2.1; RFC 8985, 7.2).
pub(crate) const TIMEOUT_INITIAL_US: u32 = 1_000_000;

/// What a probe of a lone segment waits longer (RFC 8985, 7.2, `TLP.max_ack_delay`).
const ACK_DELAY_MAX_US: u32 = 200_000;

/// No probe is sooner: two ticks of most kernels. Anything shorter may be the network's own
/// duplicate, or one tick of our clock.
const PROBE_MIN_US: u32 = 5_000;

/// Silences are measured by the last tick: on the coarsest kernel (100 Hz) they may be that much
/// longer than they seem.
const TICK_US: u32 = 10_000;

/// What made a sender repeat a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// An ACK, or it cannot be told.
    None,
    TailLossProbe,
    Timeout,
}

/// `start..end` was sent again.
#[derive(Clone, Copy, Debug)]
pub struct Repetition {
    pub start: u32,
    pub end: u32,
    /// One past the highest sequence number sent before.
    pub next: u32,
    /// The highest ACK that was seen.
    pub acked: u32,
    /// Something was repeated since the last new data.
    pub again: bool,
    /// Coarse monotonic time, ns.
    pub coarse_ns: u64,
}

/// Which timer it was, by what the halves of its sender (`own`) and of its receiver know.
#[inline(always)]
pub fn timer(own: &Half, peer: &Half, repetition: &Repetition) -> Timer {
    let Repetition {
        start,
        end,
        next,
        acked,
        again,
        coarse_ns,
    } = *repetition;
    let is_first = distance(start, acked) >= 0;
    let is_last = end == next;
    if !is_first && !is_last {
        return Timer::None;
    }
    let unsent_us = ticks_to_micros(ticks(coarse_ns).wrapping_sub(low(own.latest)));
    // The peer's packets may be on another CPU, and later than this one.
    let unanswered_us = ticks_to_micros(ticks(coarse_ns.saturating_sub(peer.last_seen_ns)));
    let silent_us = unsent_us.min(unanswered_us);

    let rtt_us = own.rtt_smoothed_us.wrapping_add(peer.rtt_smoothed_us);
    let (rtt_us, timeout_us) = if rtt_us == 0 {
        (TIMEOUT_INITIAL_US / 2, TIMEOUT_INITIAL_US)
    } else {
        let varies_us = own.rtt_variation_us.wrapping_add(peer.rtt_variation_us);
        // A fast retransmission may wait a quarter of an RTT for what was reordered (RFC 8985,
        // 6.2).
        let slack_us = varies_us.wrapping_mul(4).max(rtt_us / 4);
        (rtt_us, rtt_us.wrapping_add(slack_us).max(TIMEOUT_MIN_US))
    };
    // Duplicate ACKs, for an RTT after the last segment, do not put a timeout off.
    let timed_out = unsent_us.saturating_add(TICK_US) >= timeout_us
        && unanswered_us.saturating_add(TICK_US) >= timeout_us.saturating_sub(rtt_us);
    if !is_last {
        return if timed_out {
            Timer::Timeout
        } else {
            Timer::None
        };
    }
    let probe_us = rtt_us.saturating_mul(2);
    // From an ACK that passes us to what its timer lets go, there and back to the sender besides.
    let probe_max_us = probe_us
        .saturating_add(ACK_DELAY_MAX_US)
        .saturating_add(TICK_US)
        .saturating_add(own.rtt_smoothed_us);
    if is_first && timed_out && (again || silent_us > probe_max_us.saturating_add(probe_max_us / 4))
    {
        return Timer::Timeout;
    }
    // The RTT is the sender's own estimate only roughly; and where two RTTs are longer than its
    // timeout, it probes when that ends.
    let probed_us = (probe_us - probe_us / 4)
        .min(rtt_us.saturating_add(TIMEOUT_MIN_US - TIMEOUT_MIN_US / 4))
        .max(PROBE_MIN_US);
    let probed = silent_us >= probed_us;
    if probed && !(is_first && again) {
        Timer::TailLossProbe
    } else {
        Timer::None
    }
}
