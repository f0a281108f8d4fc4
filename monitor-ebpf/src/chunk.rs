//! Chunks: what a server sends in answer to a request, told from the packets alone.
//!
//! A chunk begins with the first new data after a request, while nothing else of the server's is
//! outstanding, and lasts until the next one begins; its end is when its last byte was
//! acknowledged. Both are also the edges of busy periods, for which the tracker reads the clock
//! anyhow, so that a packet in the middle of a chunk costs a few comparisons.
//!
//! What follows from that: responses that overlap (pipelined or multiplexed requests, HTTP/2) are
//! one chunk, as Schlinker et al. ("Internet Performance from Facebook's Edge", IMC 2019) coalesce
//! them; and data that goes on after everything was acknowledged, without a request, is more of
//! the same chunk, after a gap that the server or the player made.

use crate::{
    flow::{FlowKey, FlowState, Half, half_flags as is},
    packet::Segment,
    rtt,
    sequence::{distance, high, low, micros, pack, ticks, ticks_to_micros},
    tracker::Clock,
};

/// A client's record of this size, in reaction to data, is no request: the frames with which HTTP/2
/// answers data (WINDOW_UPDATE, SETTINGS, PING, RST_STREAM: 9 to 17 bytes, RFC 9113) with the
/// overhead of TLS (22 to 29 bytes), or two of the first kind in one record. A request over TLS
/// has a path and a host, and is longer; one in clear text may be shorter.
const CHATTER: core::ops::RangeInclusive<u32> = 31..=48;

/// After such a silence of the server nothing of the client's is a reaction to its data.
const SILENCE_US: u32 = 1_000_000;

/// A payload of this size is part of something long: no path carries less in a full segment
/// (RFC 8200, 5, without the headers).
const FULL_SEGMENT: u32 = 1_200;

/// What precedes the first response: session tickets of TLS 1.3 (two of some 250 bytes from
/// OpenSSL), SETTINGS of HTTP/2.
const PRELUDE_MAX: i32 = 1_500;
/// Only the chunks of the handshake have one.
const PRELUDE_CHUNKS: u32 = 2;

/// [`rtt::ACK_DELAY_MIN_US`], rounded down: who waited no longer was not delayed.
const ACK_DELAY_MIN_TICKS: u32 = (rtt::ACK_DELAY_MIN_US - 1) / 1_024 * 1_000;

/// A shorter gap is none: pacing, timers and schedulers leave such between two packets.
const GAP_MIN_US: u32 = 50_000;
/// What is below that is long ago: no RTT taken from it turns it into a gap.
const GAP_LEAST_US: i32 = -(1 << 30);

/// The chunk that a half's data is in. Counts are the half's own when it began.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// 1 for the connection's first; 0: none yet.
    pub number: u32,
    /// One past the last byte of the request that it answers.
    pub answers: u32,
    /// Its first sequence number.
    pub start: u32,
    /// When that request was seen, wrapping µs; 0: it was not.
    pub request_us: u32,
    /// When the first byte left, wrapping µs.
    pub first_us: u32,
    /// Time in it with nothing outstanding, for which the server had no data ...
    pub stalled_us: u32,
    /// ... or the player did not want any: its window was closed, or it asked for more later.
    pub paused_us: u32,
    /// How many gaps are in each.
    pub stalls: u16,
    pub pauses: u16,
    /// The socket's congestion window at the first byte, bytes; 0: no socket of ours.
    pub cwnd: u32,
    /// Payload so far, in KiB: how often sequence numbers turned.
    pub payload_kib: u32,
    pub retransmitted_segments: u32,
    /// Lost before us or beyond us.
    pub lost_segments: u32,
    /// RTT samples of this data, and their sum in µs, wrapping.
    pub rtt_samples: u32,
    pub rtt_sum_us: u32,
}

impl Chunk {
    pub const EMPTY: Self = Self {
        number: 0,
        start: 0,
        answers: 0,
        request_us: 0,
        first_us: 0,
        stalled_us: 0,
        paused_us: 0,
        stalls: 0,
        pauses: 0,
        cwnd: 0,
        payload_kib: 0,
        retransmitted_segments: 0,
        lost_segments: 0,
        rtt_samples: 0,
        rtt_sum_us: 0,
    };
}

/// Where a chunk has come to. Counts are the halves', as in [`Chunk`]: what happened inside is
/// the difference.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// One past its last byte so far.
    pub end: u32,
    /// Bytes of it that are not acknowledged.
    pub unacknowledged: u32,
    /// When its last byte was acknowledged, wrapping µs; 0: it was not, or nobody saw it.
    pub end_us: u32,
    pub payload_kib: u32,
    pub retransmitted_segments: u32,
    pub lost_segments: u32,
    pub rtt_samples: u32,
    pub rtt_sum_us: u32,
    /// The shortest RTT that is known, µs; 0: none.
    pub rtt_min_us: u32,
    /// Largest payload of one segment so far, bytes.
    pub mss: u32,
}

/// A chunk that is over, as it goes to the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkReport {
    pub key: FlowKey,
    /// As in [`FlowState`].
    pub generation: u64,
    /// Now, monotonic ns.
    pub time_ns: u64,
    pub chunk: Chunk,
    pub progress: Progress,
    /// That of the data: [`crate::flow::LOW_TO_HIGH`] or the other.
    pub direction: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Chunk>() == 56);
const _: () = assert!(size_of::<Progress>() == 40);
const _: () = assert!(size_of::<ChunkReport>() == 160 && align_of::<ChunkReport>() == 8);

/// The chunk that the data of `own` is in, as its halves tell at this moment.
#[inline(always)]
pub fn progress(own: &Half, peer: &Half, end: u32) -> Progress {
    let unacknowledged = distance(high(peer.acked), end);
    let all = peer.has(is::ACK_KNOWN) && unacknowledged <= 0;
    let drained = peer.drained;
    Progress {
        end,
        unacknowledged: if all { 0 } else { unacknowledged.max(0) as u32 },
        end_us: if all && drained != 0 && distance(end, high(drained)) >= 0 {
            low(drained)
        } else {
            0
        },
        payload_kib: kib(own),
        retransmitted_segments: own.retransmitted_segments,
        lost_segments: lost(own),
        rtt_samples: peer.rtt_samples,
        rtt_sum_us: peer.rtt_sum_us as u32,
        rtt_min_us: rtt::shortest_us(peer),
        mss: own.mss,
    }
}

/// Writes the report of the chunk that `direction`'s data was in up to `end`.
#[inline(always)]
pub fn describe(
    report: &mut ChunkReport,
    state: &FlowState,
    direction: usize,
    end: u32,
    time_ns: u64,
) {
    let (own, peer) = state.halves(direction);
    report.key = state.key;
    report.generation = state.generation;
    report.time_ns = time_ns;
    report.chunk = own.chunk;
    report.progress = progress(own, peer, end);
    report.direction = direction as u32;
    report.reserved = 0;
}

/// When everything the peer sent has been acknowledged, for [`Half::drained`]: now, by an ACK of
/// `advance` bytes, or when that would have come if it had not been delayed.
#[inline(always)]
pub fn drained(own: &Half, peer: &Half, ack: u32, advance: i32, now_ns: u64) -> u64 {
    // The end of a connection may come long after that of its data.
    if peer.has(is::FIN) && own.drained != 0 && high(own.drained).wrapping_add(1) == ack {
        return own.drained;
    }
    let mut now_us = micros(now_ns);
    if advance <= peer.mss as i32 {
        let waited = ticks(now_ns).wrapping_sub(low(peer.latest));
        if waited <= ACK_DELAY_MIN_TICKS {
            return pack(ack, now_us);
        }
        let waited_us = ticks_to_micros(waited);
        // Not by the shortest RTT, as for RTT samples: a queue that fills would pass for a delay.
        let smoothed_us = own.rtt_smoothed_us;
        let usual_us = smoothed_us
            .wrapping_add(own.rtt_variation_us.wrapping_mul(4))
            .max(own.rtt_current.rtt_max_us);
        let excess_us = waited_us.wrapping_sub(usual_us);
        let delayed = (rtt::ACK_DELAY_MIN_US..=rtt::ACK_DELAY_MAX_US).contains(&excess_us);
        if smoothed_us != 0 && delayed {
            now_us = now_us.wrapping_sub(waited_us.wrapping_sub(smoothed_us));
        }
    }
    pack(ack, now_us)
}

/// Takes note of a window that opens again, in the half of its owner: until then the other side
/// could not send. `acked` is what the half said before this packet.
#[inline(always)]
pub fn reopens(own: &mut Half, peer: &Half, acked: u64, coarse_ns: u64) {
    let (before, now) = (low(acked), low(own.acked));
    if before < peer.mss && now > before {
        own.reopened = ticks(coarse_ns);
    }
}

/// Takes new data of one direction into account, whose half had `burst` before: whether a chunk
/// begins with it. Then the one before is over at `high(burst)`, and [`begin`] comes next.
#[inline(always)]
pub fn data<C: Clock>(
    own: &mut Half,
    peer: &Half,
    segment: &Segment,
    burst: u64,
    coarse_ns: u64,
    clock: &C,
) -> bool {
    if high(burst) == high(own.burst) {
        return false;
    }
    let begins = low(burst) != low(own.burst);
    let serves = own.has(is::SYN_ACK) || (peer.has(is::SYN) && !peer.has(is::SYN_ACK));
    let asks = peer.has(is::SYN_ACK) || (own.has(is::SYN) && !own.has(is::SYN_ACK));
    if !serves {
        request(own, peer, segment, begins, coarse_ns, clock);
    }
    if asks || !begins {
        return false;
    }
    let asked = peer.request != 0 && high(peer.request) != own.chunk.answers;
    if own.chunk.number == 0 || asked {
        return true;
    }
    goes_on(own, peer, high(burst), coarse_ns);
    false
}

/// Data of whoever asks.
#[inline(always)]
fn request<C: Clock>(
    own: &mut Half,
    peer: &Half,
    segment: &Segment,
    begins: bool,
    coarse_ns: u64,
    clock: &C,
) {
    if CHATTER.contains(&segment.payload_len) && peer.chunk.number != 0 {
        let outstanding = distance(high(own.acked), high(peer.burst)) > 0;
        let since_us = ticks_to_micros(ticks(coarse_ns).wrapping_sub(low(peer.latest)));
        if outstanding || since_us < SILENCE_US {
            return;
        }
    }
    let end = segment.sequence.wrapping_add(segment.payload_len);
    let answered = own.request == 0 || peer.chunk.answers == high(own.request);
    let time_us = if begins {
        low(own.burst)
    } else if !answered {
        low(own.request)
    } else if segment.payload_len < FULL_SEGMENT {
        micros(clock.precise_ns())
    } else {
        // In the middle of something that is uploaded.
        return;
    };
    own.request = pack(end, time_us);
}

/// Whether data that leaves at `first_us`, after all before it was acknowledged, is of the chunk
/// that its half is in, and without a gap: then [`data`] has nothing to note. `start` is its
/// first byte.
#[inline(always)]
pub fn goes_on_at_once(own: &Half, peer: &Half, start: u32, first_us: u32) -> bool {
    let asked = peer.request != 0 && high(peer.request) != own.chunk.answers;
    let gap_us = distance(low(peer.drained), first_us);
    own.chunk.number != 0
        && !asked
        && (high(peer.drained) != start || gap_us < GAP_MIN_US as i32 && gap_us > GAP_LEAST_US)
}

/// More data in a chunk, from `start` on, after all of it so far was acknowledged.
#[inline(always)]
fn goes_on(own: &mut Half, peer: &Half, start: u32, coarse_ns: u64) {
    let drained = peer.drained;
    let first_us = low(own.burst);
    if high(drained) != start {
        return;
    }
    // In the middle of the path, or at the client, what is sent at once comes a round trip later.
    let round_trip_us = rtt::shortest_us(own);
    let gap_us = distance(low(drained), first_us).wrapping_sub(round_trip_us as i32);
    if gap_us < GAP_MIN_US as i32 {
        return;
    }
    let sent = distance(own.chunk.start, start);
    if own.chunk.number <= PRELUDE_CHUNKS && (0..=PRELUDE_MAX).contains(&sent) {
        own.chunk.start = start;
        own.chunk.first_us = first_us;
        return;
    }
    let gap_us = gap_us as u32;
    let now = ticks(coarse_ns);
    let quiet = now
        .wrapping_sub(low(peer.latest))
        .min(now.wrapping_sub(peer.reopened));
    let stalled_us = ticks_to_micros(quiet)
        .saturating_sub(round_trip_us)
        .min(gap_us);
    let paused_us = gap_us.wrapping_sub(stalled_us);
    if stalled_us >= GAP_MIN_US {
        own.chunk.stalls = own.chunk.stalls.wrapping_add(1);
        own.chunk.stalled_us = own.chunk.stalled_us.wrapping_add(stalled_us);
    }
    if paused_us >= GAP_MIN_US {
        own.chunk.pauses = own.chunk.pauses.wrapping_add(1);
        own.chunk.paused_us = own.chunk.paused_us.wrapping_add(paused_us);
    }
}

/// A chunk begins at `start`. `cwnd` is the sending socket's window in bytes, or 0.
#[inline(always)]
pub fn begin(own: &mut Half, peer: &Half, start: u32, cwnd: u32) {
    own.chunk = Chunk {
        number: own.chunk.number.wrapping_add(1).max(1),
        start,
        answers: high(peer.request),
        request_us: low(peer.request),
        first_us: low(own.burst),
        stalled_us: 0,
        paused_us: 0,
        stalls: 0,
        pauses: 0,
        cwnd,
        payload_kib: kib(own),
        retransmitted_segments: own.retransmitted_segments,
        lost_segments: lost(own),
        rtt_samples: peer.rtt_samples,
        rtt_sum_us: peer.rtt_sum_us as u32,
    };
}

#[inline(always)]
fn kib(half: &Half) -> u32 {
    (half.bytes >> 10) as u32
}

#[inline(always)]
fn lost(half: &Half) -> u32 {
    half.lost_downstream_segments
        .wrapping_add(half.lost_upstream_segments)
}
