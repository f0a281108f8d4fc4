//! Which side of us a retransmitted segment was lost on.
//!
//! Rules, and their error against an emulator's drop log (3 of 12,000 wrong): already
//! acknowledged: spurious; seen here before: lost downstream; fills a hole that never crossed
//! here: reordered if the hole is younger than half an RTT, else lost upstream.

use crate::{
    flow::{GAPS, Gap, Half},
    sequence::distance,
};

/// An RTT to judge a hole's age by before the first sample: half of it is above the reordering
/// seen within a few links, and below any retransmission timer (200 ms, `TCP_RTO_MIN`).
const RTT_ASSUMED_US: u32 = 20_000;

/// Remembers that `start..end` was skipped. `acked` is the peer's highest ACK, where known:
/// holes below it were filled on another path.
#[inline(always)]
pub fn open_gap(half: &mut Half, start: u32, end: u32, now_us: u32, acked: Option<u32>) {
    for slot in &mut half.gaps {
        if is_free(slot, acked) {
            *slot = Gap {
                start,
                end,
                seen_us: now_us,
            };
            return;
        }
    }
    half.gaps_overflowed = half.gaps_overflowed.wrapping_add(1);
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
    let mut seen_us = None;
    for gap in &mut half.gaps {
        let overlaps =
            gap.start != gap.end && distance(gap.start, end) > 0 && distance(start, gap.end) > 0;
        if !overlaps {
            continue;
        }
        let goes_on = distance(end, gap.end) > 0;
        if distance(gap.start, start) >= 0 {
            seen_us = Some(gap.seen_us);
            if goes_on {
                rest = Gap {
                    start: end,
                    end: gap.end,
                    seen_us: gap.seen_us,
                };
            }
            gap.end = start;
        } else {
            gap.start = if goes_on { end } else { gap.end };
        }
    }
    if rest.start != rest.end {
        open_gap(half, rest.start, rest.end, rest.seen_us, None);
    }
    seen_us
}

/// Whether a hole this old was filled by reordering rather than by a retransmission: younger
/// than half an RTT of the whole path, which is both sides' RTT added at a path vantage.
#[inline(always)]
pub fn is_reordering(own: &Half, peer: &Half, hole_age_us: u32) -> bool {
    let path_rtt_us = match own.rtt_smoothed_us.wrapping_add(peer.rtt_smoothed_us) {
        0 => RTT_ASSUMED_US,
        known => known,
    };
    hole_age_us < path_rtt_us / 2
}
