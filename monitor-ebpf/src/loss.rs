//! Which side of us a retransmitted segment was lost on.
//!
//! Rules: already acknowledged, if only selectively ([`crate::sack`]): spurious; seen here before:
//! lost downstream; fills a hole that never crossed here: lost upstream if it was sent after the
//! packet that opened the hole, which its timestamp says (RFC 7323), else it is that hole's own
//! packet and was only late. Without timestamps late is what fills a hole younger than half an
//! RTT. `tests/loss_side.rs` holds them against the drop log of real queues.

use crate::{
    flow::{GAPS, Gap, Half, half_flags as is},
    options,
    packet::Segment,
    sequence::distance,
};

/// An RTT to judge a hole's age by before the first sample: half of it is above the reordering
/// seen within a few links, and below any retransmission timer (200 ms, `TCP_RTO_MIN`).
const RTT_ASSUMED_US: u32 = 20_000;

/// Remembers that `start..end` was skipped, and when ([`Gap::noticed`]). `acked` is the peer's
/// highest ACK, where known: holes below it were filled on another path.
#[inline(always)]
pub fn open_gap(half: &mut Half, start: u32, end: u32, noticed: u32, acked: Option<u32>) {
    for slot in &mut half.gaps {
        if is_free(slot, acked) {
            *slot = Gap {
                start,
                end,
                noticed,
            };
            return;
        }
    }
    half.gaps_overflowed = half.gaps_overflowed.wrapping_add(1);
    half.gaps_forgotten = end;
}

#[inline(always)]
fn is_free(gap: &Gap, acked: Option<u32>) -> bool {
    if gap.start == gap.end {
        return true;
    }
    match acked {
        Some(acked) => distance(gap.end, acked) >= 0,
        None => false,
    }
}

/// Whether any hole is open: almost never, so the search is skipped.
#[inline(always)]
fn any_open(gaps: &[Gap; GAPS]) -> bool {
    let mut open = 0;
    for gap in gaps {
        open |= gap.start ^ gap.end;
    }
    open != 0
}

/// Takes `start..end` out of every hole, and says when the hole was noticed that `start` lies in,
/// if it lies in one. (What begins before a hole was seen here at least in part.)
#[inline(always)]
pub fn fill_gap(half: &mut Half, start: u32, end: u32) -> Option<u32> {
    if !any_open(&half.gaps) {
        return None;
    }
    let mut rest = Gap::default();
    let mut noticed = None;
    for gap in &mut half.gaps {
        let overlaps =
            gap.start != gap.end && distance(gap.start, end) > 0 && distance(start, gap.end) > 0;
        if !overlaps {
            continue;
        }
        let goes_on = distance(end, gap.end) > 0;
        if distance(gap.start, start) >= 0 {
            noticed = Some(gap.noticed);
            if goes_on {
                rest = Gap {
                    start: end,
                    end: gap.end,
                    noticed: gap.noticed,
                };
            }
            gap.end = start;
        } else {
            gap.start = if goes_on { end } else { gap.end };
        }
    }
    if rest.start != rest.end {
        open_gap(half, rest.start, rest.end, rest.noticed, None);
    }
    noticed
}

/// Whether a segment that fills a hole noticed at `noticed`, on its sender's timestamp clock, was
/// sent before what opened the hole, as far as that clock can tell: then it is no retransmission.
#[inline(always)]
pub fn sent_before(noticed: u32, segment: &Segment) -> bool {
    segment.options & options::TIMESTAMPS == 0 || distance(noticed, segment.tsval) <= 0
}

/// Whether a hole noticed at `noticed_us` was filled by reordering rather than by a
/// retransmission: less than half an RTT later, of the whole path, which is both sides' RTT added
/// at a path vantage. (Clocks of two CPUs or capture queues may say that it was earlier.)
#[inline(always)]
pub fn is_reordering(own: &Half, peer: &Half, noticed_us: u32, now_us: u32) -> bool {
    let path_rtt_us = match own.rtt_smoothed_us.wrapping_add(peer.rtt_smoothed_us) {
        0 => RTT_ASSUMED_US,
        known => known,
    };
    distance(noticed_us, now_us) < (path_rtt_us / 2) as i32
}

/// Whether `start` may lie in a hole that was forgotten because too many were open.
#[inline(always)]
pub fn may_be_forgotten(own: &Half, start: u32) -> bool {
    own.gaps_overflowed != 0 && distance(start, own.gaps_forgotten) > 0
}

/// Whether something that was sent later has passed already, as the timestamps tell.
#[inline(always)]
pub fn overtaken(own: &Half, segment: &Segment) -> bool {
    segment.options & options::TIMESTAMPS != 0 && distance(segment.tsval, own.tsval) > 0
}

/// Whether a retransmission of what was seen here is the sender's guess: without SACK only the
/// segment at the cumulative ACK is known to be missing (RFC 6582), and after a timeout the sender
/// goes back and sends all that follows again, most of which had arrived.
#[inline(always)]
pub fn is_guess(own: &Half, peer: &Half, start: u32, peer_ack: Option<u32>) -> bool {
    let both = is::SYN | is::SACK_PERMITTED;
    let no_sack = own.has(is::SYN) && peer.has(is::SYN) && !(own.has(both) && peer.has(both));
    match peer_ack {
        Some(ack) => no_sack && distance(ack, start) > 0,
        None => false,
    }
}
