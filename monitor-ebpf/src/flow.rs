//! One flow's state, as it lies in the kernel's map, in the ring buffer and in `replay`.
//!
//! A flow is found by its canonical 5-tuple. Each direction has a [`Half`] that only packets of
//! that direction write, so that the two directions can run on two CPUs without a lock. What B's
//! packets reveal about A's data (RTT, busy time, DSACKs) is written in B's half. What one side
//! must read from the other is published as one aligned word (see [`Half::sample`]).
//!
//! All counters are cumulative and wrap; a reader takes differences between two copies that have
//! the same [`FlowState::generation`].

use core::mem::offset_of;

use crate::{chunk::Chunk, select::HALVINGS_MAX};

/// RTT bins a direction: 16 octaves from 64 µs to 4.2 s, four bins an octave.
pub const RTT_BINS: usize = 64;
/// log2 of the lower edge of the first RTT bin, in µs.
const RTT_BIN_FIRST_OCTAVE: u32 = 6;

/// Never-seen ranges remembered a direction. More than this at once is rare outside of heavy
/// reordering (against real queues, four were too few for a flow with 150 segments under way at
/// 2 % loss); what does not fit is counted in [`Half::gaps_overflowed`].
pub const GAPS: usize = 8;

/// Ranges that arrived out of order and are remembered a direction: as many as holes.
pub const SACKED: usize = GAPS;

/// [`Half::stamp_clock`]: µs a value in the lower 24 bits (RFC 7323, 5.4, has no clock slower
/// than 1 s), above them how often the time it was measured over has doubled.
pub const STAMP_CLOCK_MASK: u32 = 0xff_ffff;
pub const STAMP_DOUBLINGS_SHIFT: u32 = 24;

/// Clocks of timestamps: µs (Linux's `tcp_usec_ts`), ms (nearly everybody), Linux of 1000, 300,
/// 250 and 100 Hz before 4.13, Windows before 10 (10 ms), BSD's slow timer, and the slowest that
/// RFC 7323 allows.
const STAMP_CLOCKS_US: [u32; 7] = [1, 1_000, 3_333, 4_000, 10_000, 500_000, 1_000_000];

/// A measured clock within a twelfth of one that exists is that one: a queue that fills or drains
/// while it is measured shifts it by less, and no two clocks are that near.
const STAMP_ERROR: u32 = 12;

/// Packets from the endpoint that sorts lower to the one that sorts higher.
pub const LOW_TO_HIGH: usize = 0;
/// Packets from the endpoint that sorts higher to the one that sorts lower.
pub const HIGH_TO_LOW: usize = 1;

/// An IP address in network byte order; IPv4 is held as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u64; 2]);

impl Address {
    /// `octets` in network byte order.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
        ])
    }

    /// `octets` in network byte order.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
    }

    /// Whether it stands for an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        const MAPPED: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
        const PREFIX: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        self.0[0] == 0 && self.0[1] & PREFIX == MAPPED
    }

    /// The 16 octets in network byte order.
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.0[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

/// The canonical TCP 5-tuple: the endpoint that sorts lower first, so that both directions find
/// the same entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub low_address: Address,
    pub high_address: Address,
    /// Host byte order.
    pub low_port: u16,
    /// Host byte order.
    pub high_port: u16,
    /// Always zero: keys are compared as bytes.
    pub reserved: u32,
}

impl FlowKey {
    /// All zero.
    pub const EMPTY: Self = Self {
        low_address: Address([0; 2]),
        high_address: Address([0; 2]),
        low_port: 0,
        high_port: 0,
        reserved: 0,
    };

    /// The key of a packet from `source` to `destination`, and the direction
    /// ([`LOW_TO_HIGH`] or [`HIGH_TO_LOW`]) it travels in.
    #[inline(always)]
    pub fn new(
        source: Address,
        source_port: u16,
        destination: Address,
        destination_port: u16,
    ) -> (Self, usize) {
        let source_is_low = if source.0[1] != destination.0[1] {
            source.0[1] < destination.0[1]
        } else if source.0[0] != destination.0[0] {
            source.0[0] < destination.0[0]
        } else {
            source_port <= destination_port
        };
        if source_is_low {
            let key = Self {
                low_address: source,
                high_address: destination,
                low_port: source_port,
                high_port: destination_port,
                reserved: 0,
            };
            (key, LOW_TO_HIGH)
        } else {
            let key = Self {
                low_address: destination,
                high_address: source,
                low_port: destination_port,
                high_port: source_port,
                reserved: 0,
            };
            (key, HIGH_TO_LOW)
        }
    }
}

/// What the kernel's own socket says about the data we send (`struct bpf_tcp_sock`); all zero
/// where none of our sockets sends on this flow.
///
/// Kept apart from what was seen on the wire: two independent figures.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFigures {
    /// Smoothed RTT in µs (`srtt_us >> 3`).
    pub srtt_us: u32,
    /// The socket's windowed minimum RTT in µs; `u32::MAX` before its first sample.
    pub rtt_min_us: u32,
    /// Segments retransmitted since the connection began, SYNs included.
    pub total_retrans: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Segments sent and not yet acknowledged.
    pub packets_out: u32,
    /// Segments delivered, and of these with a CE mark echoed.
    pub delivered: u32,
    pub delivered_ce: u32,
    /// Last delivery-rate sample: segments, and the µs they took.
    pub rate_delivered: u32,
    pub rate_interval_us: u32,
    pub mss_cache: u32,
    /// Duplicate segments the receiver reported (DSACK).
    pub dsack_dups: u32,
    /// Packets of ours that a socket was seen on; 0 means no socket.
    pub sightings: u32,
    /// The control group of the process that opened the socket, by the kernel's number (the inode
    /// of its folder in the cgroup2 file system); 0: not asked for.
    pub cgroup_id: u64,
    /// `SO_MARK`.
    pub mark: u32,
    /// The socket's address family (`AF_INET`, or `AF_INET6` also where it talks IPv4).
    pub family: u32,
}

/// A range of sequence numbers that was skipped when later data passed us.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// First missing sequence number; `start == end` is a free slot.
    pub start: u32,
    /// One past the last missing sequence number.
    pub end: u32,
    /// When the gap was noticed: on the sender's timestamp clock, where this direction has
    /// timestamps, else on ours in wrapping µs.
    pub noticed: u32,
}

/// Slow-start features of a direction's data: data/ACK RTT samples until its first
/// retransmission (Sundaresan et al., "TCP Congestion Signatures", IMC 2017).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowStart {
    pub samples: u32,
    pub rtt_first_us: u32,
    pub rtt_min_us: u32,
    pub rtt_max_us: u32,
    pub rtt_sum_us: u64,
    /// Sum of squares in µs².
    pub rtt_square_sum: u64,
}

/// RTT extremes of one epoch. An epoch is a window of the daemon's, numbered by its clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochRtt {
    /// The epoch's number; meaningless while `rtt_max_us` is 0.
    pub epoch: u32,
    pub rtt_min_us: u32,
    /// 0: no sample in this epoch.
    pub rtt_max_us: u32,
}

/// What the packets of one direction say: about their own data, and about the other direction's,
/// which they acknowledge.
///
/// What changes together lies together, in lines of 64 bytes: the next packet of a response that is
/// under way ([`crate::prediction`]) touches the first two, an ACK with an RTT sample these, the
/// fourth and fifth, and one of its bins.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    // Published for the other direction, each read as one aligned word.
    /// Outstanding RTT sample of our data: expected ACK << 32 | send time in wrapping µs; 0: none.
    pub sample: u64,
    /// Outstanding timestamp sample of our pure ACKs: TSval << 32 | send time in µs; 0: none.
    pub stamp: u64,
    /// Busy period of our data: highest sequence number sent << 32 | its start in µs.
    pub burst: u64,
    /// Highest ACK we sent << 32 | the window it advertised, in bytes (0: unknown or closed).
    pub acked: u64,
    /// Highest sequence number sent << 32 | time (as below) of our last packet with data or a FIN, in
    /// ticks (`sequence::ticks`).
    pub latest: u64,
    /// Latest request, of a client: one past its last byte << 32 | when it began in µs; 0: none.
    pub request: u64,
    /// Highest ACK we sent that left nothing of the other side's outstanding << 32 | when, in µs;
    /// 0: none. Not when it was of a FIN alone.
    pub drained: u64,

    /// Monotonic time of the last packet, ns: the last tick's, where nothing needed the precise one.
    pub last_seen_ns: u64,

    // What nearly every packet with data changes or is compared with.
    /// TCP payload bytes on the wire, retransmissions included.
    pub bytes: u64,
    /// The hook that owns this half: ifindex << 1 | 1 for egress; 0: nobody yet.
    pub owner: u32,
    /// `half_flags`.
    pub flags: u32,
    /// Packets with payload, as the hook saw them (before segmentation, after GRO).
    pub frames: u32,
    /// Wire segments with payload.
    pub segments: u32,
    /// Highest timestamp value sent (RFC 7323).
    pub tsval: u32,
    /// Highest echo sent (RFC 7323).
    pub tsecr: u32,
    /// Largest payload of one wire segment, bytes.
    pub mss: u32,
    /// A timestamp value we sent, and when, in units of 2^20 ns: what our timestamp clock is
    /// measured from.
    pub stamp_first: u32,
    pub stamp_first_at: u32,
    /// How long our timestamp clock stands still, as measured (see [`Self::stamp_granularity_us`]).
    pub stamp_clock: u32,
    /// Initial sequence number, when the SYN was seen.
    pub isn: u32,
    /// Wire segments that carried data or a FIN a second time.
    pub retransmitted_segments: u32,
    /// The chunk that our data is in. Whether it goes on is told by its first two words, which lie
    /// in the same cache line as what precedes it.
    pub chunk: Chunk,
    /// Segments sent when they filled the peer's receive window.
    pub rwnd_limited_segments: u32,
    /// Sightings of this direction's packets at hooks that do not own it.
    pub seen_elsewhere: u32,
    /// Segments that carried Congestion Experienced (RFC 3168).
    pub ce_marked_segments: u32,
    /// Of [`Self::retransmitted_segments`], data that had already been acknowledged.
    pub spurious_segments: u32,

    // What ACKs change: about the other direction's data.
    /// Bytes of the other direction that this one acknowledged.
    pub acked_bytes: u64,
    /// Time the other direction had data outstanding, completed busy periods only, µs.
    pub busy_us: u64,
    /// Sum of the RTT samples of the other direction's data, µs.
    pub rtt_sum_us: u64,
    /// Completed busy periods.
    pub bursts: u32,
    /// RTT samples, of both sources; `rtt_timestamp_samples` of them by timestamps.
    pub rtt_samples: u32,
    pub rtt_timestamp_samples: u32,
    /// Smoothed RTT of the other direction's data, µs (RFC 6298, 2.3, alpha 1/8), and how much it
    /// varies (beta 1/4).
    pub rtt_smoothed_us: u32,
    pub rtt_variation_us: u32,
    pub rtt_current: EpochRtt,
    /// SYN (or SYN-ACK) of the other direction to our answer, µs; 0: unknown. Never from a
    /// retransmitted SYN.
    pub handshake_rtt_us: u32,
    /// RTT samples that were left out because the ACK was delayed (RFC 5681, 4.2).
    pub delayed_acks: u16,
    /// Our SYNs or SYN-ACKs sent again.
    pub syns_retransmitted: u16,
    pub slow_start: SlowStart,
    pub rtt_previous: EpochRtt,

    // About our own packets.
    /// Seen here once and sent again: lost beyond us.
    pub lost_downstream_segments: u32,
    /// Filled a hole that the original never crossed here: lost before us.
    pub lost_upstream_segments: u32,
    /// Filled a hole less than half an RTT after it opened: reordered before us.
    pub reordered_segments: u32,
    /// When our window opened again after it was closed, coarse, in ticks.
    pub reopened: u32,
    /// One past the highest sequence number of a hole that was forgotten.
    pub gaps_forgotten: u32,
    /// Of [`Self::bytes`], those seen before.
    pub retransmitted_bytes: u64,
    /// Keep-alives and zero-window probes: not retransmissions.
    pub probes: u32,
    /// Segments of ours that our own queue refused before they left: the socket takes them back
    /// and sends them as new data, and they are in no other count.
    pub refused_segments: u32,
    /// Holes forgotten because more than [`GAPS`] were open.
    pub gaps_overflowed: u32,
    /// Tail-loss probes (RFC 8985, 7) and retransmissions by timeout (RFC 6298), as far as they
    /// can be told apart; both are in `retransmitted_segments`.
    pub tail_loss_probes: u16,
    pub retransmission_timeouts: u16,

    // About the other direction's data.
    /// Duplicate ACKs (RFC 5681).
    pub duplicate_acks: u32,
    /// Segments reported as received twice (RFC 2883).
    pub dsacks: u32,

    // What few packets touch.
    pub gaps: [Gap; GAPS],
    /// What of the other direction's data has arrived before older data did, as our SACK blocks
    /// said: start << 32 | end; equal: free. Each is read by the other direction as one word.
    pub sacked: [u64; SACKED],
    pub rtt_bins: [u16; RTT_BINS],
}

/// Bits of [`Half::flags`].
pub mod half_flags {
    /// At least one packet was tracked.
    pub const SEEN: u32 = 1 << 0;
    /// Data or a SYN was seen, so the highest sequence number is known.
    pub const SEQUENCE_KNOWN: u32 = 1 << 1;
    /// An ACK was seen.
    pub const ACK_KNOWN: u32 = 1 << 2;
    pub const SYN: u32 = 1 << 3;
    pub const SYN_RETRANSMITTED: u32 = 1 << 4;
    pub const FIN: u32 = 1 << 5;
    pub const RST: u32 = 1 << 6;
    /// The window scale is known: windows are in bytes.
    pub const WINDOW_KNOWN: u32 = 1 << 7;
    /// This direction's SYN carried an ACK: it is the server's.
    pub const SYN_ACK: u32 = 1 << 8;
    /// One of our own sockets sends this direction.
    pub const LOCAL_SENDER: u32 = 1 << 9;
    /// The SYN offered a window scale: bits 16..20 hold the shift.
    pub const WINDOW_SCALE: u32 = 1 << 10;
    /// RFC 7323 timestamps were seen.
    pub const TIMESTAMPS: u32 = 1 << 11;
    /// The SYN permitted SACK.
    pub const SACK_PERMITTED: u32 = 1 << 12;
    /// Something is in [`Half::sacked`](super::Half::sacked).
    pub const SACKS: u32 = 1 << 13;
    /// Both SYNs offered a window scale, so it is in use (RFC 7323, 2.2).
    pub const WINDOW_SCALED: u32 = 1 << 14;
    /// In a flow's last report: its 5-tuple began anew.
    pub const REPLACED: u32 = 1 << 24;
    /// No more pieces of what this client said first are handed on (see `hello`); bits 28 to 30
    /// count them.
    pub const HELLO_DONE: u32 = 1 << 31;
    /// Shift of the 4-bit window scale.
    pub const WINDOW_SCALE_SHIFT: u32 = 16;
    /// Shift of the 4 bits that say by how many halvings the flow was admitted (see
    /// [`super::FlowState::halvings`]).
    pub const HALVINGS_SHIFT: u32 = 20;
}

/// What the kernel keeps before the value of a hash map's element: its own header (48 bytes,
/// `struct htab_elem`; checked on 6.1, 6.12 and 6.18) and the key.
const ELEMENT_BEFORE: usize = 48 + size_of::<FlowKey>();

/// Everything known about one flow.
///
/// In the kernel's map it begins 88 bytes (`ELEMENT_BEFORE`) after the beginning of a cache line, so
/// that the halves begin with one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    // The rest of the cache line that the kernel compares keys in.
    /// Monotonic time of the last report, ns, as of [`Half::last_seen_ns`].
    pub last_report_ns: u64,
    /// The same of the first report that the daemon can read, ns; 0: none yet.
    pub first_report_ns: u64,
    /// Precise monotonic time at which this state was created, ns. It differs between two flows
    /// that use the same 5-tuple one after the other, so differences are only taken within one.
    pub generation: u64,
    /// Time of the first packet, ns (earlier than `generation` by the wait for the second
    /// direction).
    pub start_ns: u64,
    /// Always zero: room up to a cache line.
    pub reserved: [u64; 4],

    pub key: FlowKey,
    pub socket: SocketFigures,
    /// Indexed by [`LOW_TO_HIGH`] and [`HIGH_TO_LOW`].
    pub halves: [Half; 2],
}

impl FlowState {
    /// A state in which nothing has been seen.
    pub const EMPTY: Self = Self {
        last_report_ns: 0,
        first_report_ns: 0,
        generation: 0,
        start_ns: 0,
        reserved: [0; 4],
        key: FlowKey::EMPTY,
        socket: SocketFigures {
            srtt_us: 0,
            rtt_min_us: 0,
            total_retrans: 0,
            snd_cwnd: 0,
            packets_out: 0,
            delivered: 0,
            delivered_ce: 0,
            rate_delivered: 0,
            rate_interval_us: 0,
            mss_cache: 0,
            dsack_dups: 0,
            sightings: 0,
            cgroup_id: 0,
            mark: 0,
            family: 0,
        },
        halves: [Half::EMPTY; 2],
    };

    /// In [`Self::last_report_ns`]: the daemon wants no more of this flow.
    pub const UNWANTED: u64 = u64::MAX;

    /// Whether its 5-tuple began anew.
    pub fn is_replaced(&self) -> bool {
        self.halves[0].has(half_flags::REPLACED)
    }

    #[inline(always)]
    pub fn is_unwanted(&self) -> bool {
        self.last_report_ns == Self::UNWANTED
    }

    /// `(own, peer)` for a packet that travels in `direction`.
    #[inline(always)]
    pub fn halves_mut(&mut self, direction: usize) -> (&mut Half, &Half) {
        let first = self.halves.as_mut_ptr();
        // SAFETY: both indices are 0 or 1 and differ, so the references are in bounds and do not
        // alias. Indexing by arithmetic keeps one path for the verifier; a branch doubles it.
        unsafe {
            (
                &mut *first.add(direction & 1),
                &*first.add((direction & 1) ^ 1),
            )
        }
    }

    /// `(own, peer)` of `direction`, to be read.
    #[inline(always)]
    pub fn halves(&self, direction: usize) -> (&Half, &Half) {
        let first = self.halves.as_ptr();
        // SAFETY: as in `halves_mut`.
        unsafe { (&*first.add(direction & 1), &*first.add((direction & 1) ^ 1)) }
    }

    /// Monotonic time of the last packet in either direction, ns.
    pub fn last_seen_ns(&self) -> u64 {
        self.halves[0].last_seen_ns.max(self.halves[1].last_seen_ns)
    }

    /// The flow stands for two to this power of its kind, which were not admitted when there were
    /// more than could be measured.
    pub fn halvings(&self) -> u32 {
        let [first, second] = &self.halves;
        (first.flags | second.flags) >> half_flags::HALVINGS_SHIFT & HALVINGS_MAX
    }

    /// Whether nothing more is to come: one side has aborted, or both have finished.
    pub fn is_over(&self) -> bool {
        self.halves.iter().any(|half| half.has(half_flags::RST))
            || self.halves.iter().all(|half| half.has(half_flags::FIN))
    }
}

impl Half {
    /// A half in which nothing has been seen.
    pub const EMPTY: Self = Self {
        sample: 0,
        stamp: 0,
        burst: 0,
        acked: 0,
        latest: 0,
        request: 0,
        drained: 0,
        last_seen_ns: 0,
        bytes: 0,
        retransmitted_bytes: 0,
        owner: 0,
        flags: 0,
        isn: 0,
        frames: 0,
        segments: 0,
        retransmitted_segments: 0,
        spurious_segments: 0,
        lost_downstream_segments: 0,
        lost_upstream_segments: 0,
        reordered_segments: 0,
        ce_marked_segments: 0,
        rwnd_limited_segments: 0,
        probes: 0,
        seen_elsewhere: 0,
        refused_segments: 0,
        gaps_overflowed: 0,
        tsval: 0,
        tsecr: 0,
        mss: 0,
        stamp_first: 0,
        stamp_first_at: 0,
        stamp_clock: 0,
        tail_loss_probes: 0,
        retransmission_timeouts: 0,
        syns_retransmitted: 0,
        delayed_acks: 0,
        acked_bytes: 0,
        busy_us: 0,
        bursts: 0,
        duplicate_acks: 0,
        dsacks: 0,
        handshake_rtt_us: 0,
        rtt_samples: 0,
        rtt_timestamp_samples: 0,
        rtt_smoothed_us: 0,
        rtt_variation_us: 0,
        rtt_sum_us: 0,
        rtt_current: EpochRtt {
            epoch: 0,
            rtt_min_us: 0,
            rtt_max_us: 0,
        },
        rtt_previous: EpochRtt {
            epoch: 0,
            rtt_min_us: 0,
            rtt_max_us: 0,
        },
        slow_start: SlowStart {
            samples: 0,
            rtt_first_us: 0,
            rtt_min_us: 0,
            rtt_max_us: 0,
            rtt_sum_us: 0,
            rtt_square_sum: 0,
        },
        gaps: [Gap {
            start: 0,
            end: 0,
            noticed: 0,
        }; GAPS],
        rtt_bins: [0; RTT_BINS],
        gaps_forgotten: 0,
        reopened: 0,
        sacked: [0; SACKED],
        chunk: Chunk::EMPTY,
    };

    /// How long the clock of this side's timestamps (RFC 7323) stands still between two values,
    /// µs; `None` before it was watched for a second. What was measured is taken for a clock that
    /// exists where it is near one.
    pub fn stamp_granularity_us(&self) -> Option<u32> {
        let measured_us = self.stamp_clock & STAMP_CLOCK_MASK;
        if measured_us == 0 {
            return None;
        }
        let near = |&clock_us: &u32| measured_us.abs_diff(clock_us) <= clock_us / STAMP_ERROR;
        let known = STAMP_CLOCKS_US.iter().copied().find(near);
        Some(known.unwrap_or(measured_us))
    }

    /// Whether every bit of `flags` is set.
    #[inline(always)]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

// The layout is what the kernel's map, the ring buffer and the daemon share.
const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<SocketFigures>() == 64);
const _: () = assert!(offset_of!(Half, chunk) == 120 && offset_of!(Half, acked_bytes) == 192);
const _: () = assert!(size_of::<Half>() == 640);
const _: () = assert!((ELEMENT_BEFORE + offset_of!(FlowState, halves)).is_multiple_of(64));
const _: () = assert!((ELEMENT_BEFORE + size_of::<FlowState>()).is_multiple_of(64));

/// The bin of an RTT of `rtt_us`: four an octave, linear within the octave. Below 64 µs is bin
/// 0, above 4.2 s the last one.
#[inline(always)]
pub fn rtt_bin(rtt_us: u32) -> usize {
    if rtt_us < 1 << RTT_BIN_FIRST_OCTAVE {
        return 0;
    }
    let octave = 31 - rtt_us.leading_zeros();
    let quarter = (rtt_us >> (octave - 2)) & 3;
    let bin = ((octave - RTT_BIN_FIRST_OCTAVE) << 2 | quarter) as usize;
    if bin < RTT_BINS { bin } else { RTT_BINS - 1 }
}

/// `(lower, upper)` edges of a bin in µs: a value `v` in it satisfies `lower <= v < upper`.
/// Taking `2·lower·upper / (lower + upper)` for every value in a bin errs by at most 1/9.
pub fn rtt_bin_edges(bin: usize) -> (u32, u32) {
    let bin = bin.min(RTT_BINS - 1) as u32;
    let (octave, quarter) = (bin / 4 + RTT_BIN_FIRST_OCTAVE, bin % 4);
    let width = 1 << (octave - 2);
    let lower = (1 << octave) + quarter * width;
    (if bin == 0 { 0 } else { lower }, lower + width)
}
