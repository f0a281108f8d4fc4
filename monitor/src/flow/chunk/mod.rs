//! Chunks: what was sent in answer to one request, or to several that overlap (see
//! `monitor_ebpf::chunk`), in the clock of the world.
//!
//! [`ledger`] follows the chunks of one flow, each counted once; [`model`] says which rates one
//! could have shown, and whether it did; [`figures`] adds up.

pub mod bins;
pub mod figures;
pub mod ledger;
pub mod model;

use std::sync::Arc;

use monitor_ebpf::chunk::{ChunkReport, Progress};
use monitor_ebpf::flow::{Half, half_flags};
use monitor_ebpf::sequence::high;

pub use figures::Figures;
pub use ledger::Ledger;

/// The rates that are tested, bit/s, the one for HD first.
pub type Ladder = Arc<[u64]>;

/// A time that wraps may lie ahead by as much as a packet waits for its departure.
const AHEAD_MAX_US: u32 = 10_000_000;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// µs since 1970 UTC.
    pub unix_us: u64,
    /// The same on the clock of the flow states, ns.
    pub monotonic_ns: u64,
}

impl Moment {
    /// `monotonic_ns` of the same clock, as µs since 1970.
    fn unix_us_of(&self, monotonic_ns: u64) -> u64 {
        let ago_us = self.monotonic_ns.saturating_sub(monotonic_ns) / 1_000;
        self.unix_us.saturating_sub(ago_us)
    }

    /// The latest such time that is not far ahead.
    fn unix_us_of_wrapping(&self, time_us: u32) -> u64 {
        let now_us = (self.monotonic_ns / 1_000) as u32;
        let ahead_us = time_us.wrapping_sub(now_us);
        if ahead_us <= AHEAD_MAX_US {
            self.unix_us + u64::from(ahead_us)
        } else {
            let ago_us = now_us.wrapping_sub(time_us);
            self.unix_us.saturating_sub(u64::from(ago_us))
        }
    }
}

/// One chunk, as far as it is known. Times are µs since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// 1 for the connection's first.
    pub number: u32,
    /// When the request passed; `None`: it was not seen.
    pub request_us: Option<u64>,
    /// When the first byte left.
    pub first_us: u64,
    /// When the last byte was acknowledged; of a chunk that is not over, when the last one was so
    /// far. `None`: nobody saw it.
    pub end_us: Option<u64>,
    /// Whether everything was acknowledged.
    pub is_over: bool,
    /// Payload without repetitions, and how much of it was acknowledged.
    pub bytes: u64,
    pub acked_bytes: u64,
    /// Silence before the request since the end of the chunk before; 0 where that was not over.
    pub idle_us: Option<u64>,
    /// Whether it was asked for before the chunk before was over, and had to wait for that.
    pub queued: bool,
    /// Gaps in it that the server made, and that the player made.
    pub stalls: u32,
    pub stalled_us: u64,
    pub pauses: u32,
    pub paused_us: u64,
    pub retransmitted_segments: u32,
    pub lost_segments: u32,
    pub rtt_samples: u32,
    pub rtt_sum_us: u64,
    /// The flow's shortest RTT by then.
    pub rtt_min_us: Option<u32>,
    /// The socket's congestion window at the first byte, bytes.
    pub cwnd: Option<u32>,
    /// Payload of a full segment, bytes.
    pub mss: u32,
}

impl Chunk {
    /// One that was reported.
    pub fn reported(report: &ChunkReport, read: Moment) -> Self {
        let reported = Moment {
            unix_us: read.unix_us_of(report.time_ns),
            monotonic_ns: report.time_ns,
        };
        Self::read(&report.chunk, &report.progress, reported, None)
    }

    /// The one that `sender`'s data is in, if there is one. `last_ack_ns` is when the other side
    /// was heard last.
    pub fn under_way(sender: &Half, receiver: &Half, read: Moment) -> Option<Self> {
        if sender.chunk.number == 0 {
            return None;
        }
        let fin = u32::from(sender.has(half_flags::FIN));
        let end = high(sender.burst).wrapping_sub(fin);
        let progress = monitor_ebpf::chunk::progress(sender, receiver, end);
        let last_us = read.unix_us_of(receiver.last_seen_ns);
        Some(Self::read(&sender.chunk, &progress, read, Some(last_us)))
    }

    fn read(
        chunk: &monitor_ebpf::chunk::Chunk,
        progress: &Progress,
        now: Moment,
        last_us: Option<u64>,
    ) -> Self {
        let is_over = progress.unacknowledged == 0;
        let first_us = now.unix_us_of_wrapping(chunk.first_us);
        let known = |time_us: u32| (time_us != 0).then(|| now.unix_us_of_wrapping(time_us));
        let end_us = known(progress.end_us).or(if is_over { None } else { last_us });
        let all = bytes(chunk, progress);
        Self {
            number: chunk.number,
            request_us: known(chunk.request_us).map(|request_us| request_us.min(first_us)),
            first_us,
            end_us: end_us.map(|end_us| end_us.max(first_us)),
            is_over,
            bytes: all,
            acked_bytes: all.saturating_sub(u64::from(progress.unacknowledged)),
            idle_us: None,
            queued: false,
            stalls: chunk.stalls.into(),
            stalled_us: chunk.stalled_us.into(),
            pauses: chunk.pauses.into(),
            paused_us: chunk.paused_us.into(),
            retransmitted_segments: gained(
                chunk.retransmitted_segments,
                progress.retransmitted_segments,
            ),
            lost_segments: gained(chunk.lost_segments, progress.lost_segments),
            rtt_samples: gained(chunk.rtt_samples, progress.rtt_samples),
            rtt_sum_us: progress.rtt_sum_us.wrapping_sub(chunk.rtt_sum_us).into(),
            rtt_min_us: (progress.rtt_min_us != 0).then_some(progress.rtt_min_us),
            cwnd: (chunk.cwnd != 0).then_some(chunk.cwnd),
            mss: progress.mss,
        }
    }

    /// When it was asked for, or began where that is not known.
    pub fn start_us(&self) -> u64 {
        self.request_us.unwrap_or(self.first_us)
    }

    /// From the first byte to the ACK of the last one, µs.
    pub fn transfer_us(&self) -> Option<u64> {
        let transfer_us = self.end_us?.saturating_sub(self.first_us);
        (transfer_us > 0).then_some(transfer_us)
    }

    /// From the request to the first byte, µs; not of a request that came while another response
    /// was under way, which had to wait for that.
    pub fn first_byte_us(&self) -> Option<u64> {
        if self.queued {
            return None;
        }
        Some(self.first_us.saturating_sub(self.request_us?))
    }

    /// Delivered rate, bit/s: of what was acknowledged.
    pub fn rate_bps(&self) -> Option<u64> {
        let transfer_us = self.transfer_us()?;
        (self.acked_bytes > 0).then(|| (self.acked_bytes as f64 * 8e6 / transfer_us as f64) as u64)
    }

    /// Mean RTT of its data, µs.
    pub fn rtt_mean_us(&self) -> Option<u32> {
        let samples = u64::from(self.rtt_samples);
        (samples > 0).then(|| (self.rtt_sum_us / samples) as u32)
    }
}

/// A count that went back is no gain: two CPUs may write one half.
fn gained(from: u32, to: u32) -> u32 {
    (to.wrapping_sub(from) as i32).max(0) as u32
}

/// New bytes by sequence numbers, and by the count of all bytes how often those have turned.
fn bytes(chunk: &monitor_ebpf::chunk::Chunk, progress: &Progress) -> u64 {
    const TURN: u64 = 1 << 32;
    let by_sequence = u64::from(progress.end.wrapping_sub(chunk.start));
    let by_count = u64::from(progress.payload_kib.wrapping_sub(chunk.payload_kib)) << 10;
    let turns = (by_count + TURN / 2).saturating_sub(by_sequence) / TURN;
    by_sequence + turns * TURN
}

#[cfg(test)]
mod tests;
