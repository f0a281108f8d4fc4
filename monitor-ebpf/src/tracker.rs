//! One packet's effect on its flow: [`FlowState`] × [`Segment`] × time.
//!
//! The clock is read only where a sample starts or completes or a hole opens or closes; most
//! packets need none.

use crate::{
    chunk,
    flow::{FlowState, Half, STAMP_CLOCK_MASK, STAMP_DOUBLINGS_SHIFT, half_flags as is},
    loss, options,
    packet::{Segment, tcp_flags},
    rtt, sack,
    select::Settings,
    sequence::{distance, high, low, micros, pack, ticks, ticks_to_micros},
    timer::{Repetition, Timer, timer},
};

/// After this long without a packet another hook may take a half over, and a SYN is believed:
/// longer than any reordering between two of a host's devices, shorter than a flow's idle timeout.
const SILENCE_NS: u64 = 5_000_000_000;

/// A departure time further away than this is none: fq's own horizon is 10 s (tc-fq(8)).
const DEPARTURE_HORIZON_NS: u64 = 10_000_000_000;

/// How far an ACK or a reset may lie from what was seen here, where no window says it: more than
/// a capture misses at a time, and one part in 256 of all sequence numbers.
const UNSEEN_MAX: i32 = 1 << 24;

/// A segment below this is no full one on any path (RFC 9293, 3.7.1) ...
const SMALL_SEGMENT: u32 = 536;
/// ... and what is larger than this is several, merged before they were captured.
const JUMBO_SEGMENT: i32 = 9_000;

/// A timestamp clock is measured over about a second, then over twice that, and so on up to 18
/// minutes; in units of 2^20 ns.
const STAMP_SPAN: u32 = 1 << 10;
const STAMP_DOUBLINGS_MAX: u32 = 10;
/// After a longer pause it is measured from anew: a clock of µs turns in 71 minutes.
const STAMP_SPAN_MAX: u32 = STAMP_SPAN << (STAMP_DOUBLINGS_MAX + 1);

/// Where a packet was seen, and what is known of it besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// ifindex << 1 | 1 for egress.
    pub hook: u32,
    /// Coarse monotonic time, ns, or the precise one; not before the flow's last packet.
    pub coarse_ns: u64,
    /// The precise time where the clock was read already, ns; else 0.
    pub now_ns: u64,
    /// Time the packet leaves, ns, where TCP said one; else 0.
    pub departure_ns: u64,
    /// One of our own sockets sends it.
    pub local_sender: bool,
    /// That socket has not sent these bytes before (see `take_back`).
    pub first_transmission: bool,
}

/// The two clocks, monotonic ns: in the kernel the coarse one is the last tick's and costs
/// little, the precise one half of what a one-lookup monitor costs.
pub trait Clock {
    fn precise_ns(&self) -> u64;
    fn coarse_ns(&self) -> u64;
}

/// Whether a SYN begins a new connection where there was an old one with the same 5-tuple: one
/// that has ended or fallen silent, or whose server answers with another sequence number. A SYN
/// alone does not, because a live connection's endpoint ignores it, and anyone can forge it
/// (RFC 9293, 3.10.7.4).
#[inline(always)]
pub fn begins_anew<C: Clock>(
    state: &FlowState,
    direction: usize,
    segment: &Segment,
    clock: &C,
) -> bool {
    if !segment.has(tcp_flags::SYN) {
        return false;
    }
    let ended = (state.halves[0].flags | state.halves[1].flags) & (is::FIN | is::RST) != 0;
    let own = if direction == 0 {
        &state.halves[0]
    } else {
        &state.halves[1]
    };
    if own.has(is::SYN) && own.isn == segment.sequence {
        return false;
    }
    if segment.has(tcp_flags::ACK) {
        return own.has(is::SEQUENCE_KNOWN);
    }
    ended || clock.coarse_ns().saturating_sub(state.last_seen_ns()) >= SILENCE_NS
}

/// All that is kept up of a flow that nobody wants more of: that it lives, and that it ends.
#[inline(always)]
pub fn pass_over(state: &mut FlowState, direction: usize, segment: &Segment, coarse_ns: u64) {
    let (own, _) = state.halves_mut(direction);
    own.last_seen_ns = coarse_ns;
    if segment.has(tcp_flags::FIN) {
        own.flags |= is::FIN;
    }
    if segment.has(tcp_flags::RST) {
        own.flags |= is::RST;
    }
}

/// Takes one packet into account. `false`: it was seen at a hook that does not own its
/// direction, and only that was counted.
#[inline(always)]
pub fn track<C: Clock>(
    state: &mut FlowState,
    direction: usize,
    segment: &Segment,
    sighting: &Sighting,
    clock: &C,
    settings: &Settings,
) -> bool {
    let (own, peer) = state.halves_mut(direction);
    let coarse_ns = sighting.coarse_ns;
    if own.owner != sighting.hook {
        // Every packet passes the hooks in the same order, and the first data would have been at the
        // owner before: the connection takes another way than its handshake, as one does that is
        // marked when it is accepted.
        let departs = own.frames == 0 && segment.payload_len > 0;
        if own.owner != 0 && !departs && coarse_ns.saturating_sub(own.last_seen_ns) < SILENCE_NS {
            own.seen_elsewhere = own.seen_elsewhere.wrapping_add(1);
            return false;
        }
        own.owner = sighting.hook;
    }
    own.last_seen_ns = coarse_ns;
    own.flags |= is::SEEN;
    if sighting.local_sender {
        own.flags |= is::LOCAL_SENDER;
    }
    if segment.ecn == 3 {
        own.ce_marked_segments = own.ce_marked_segments.wrapping_add(segment.segments.max(1));
    }
    if segment.has(tcp_flags::RST) {
        if is_acceptable(own, segment.sequence) {
            own.flags |= is::RST;
        }
        return true;
    }

    let mut time = Time::new(clock, sighting, settings);
    // Before the ACK is: the first packet with one has the first echo.
    if segment.options & options::TIMESTAMPS != 0 {
        timestamps(own, peer, segment, &mut time);
    }
    if segment.has(tcp_flags::ACK) {
        acknowledge(own, peer, segment, &mut time);
    }
    if segment.has(tcp_flags::SYN) {
        if own.has(is::SYN) && own.isn == segment.sequence {
            // A SYN that became a SYN-ACK met the other side's (simultaneous open).
            if segment.has(tcp_flags::ACK) == own.has(is::SYN_ACK) {
                own.syns_retransmitted = own.syns_retransmitted.wrapping_add(1);
            }
            // Karn: which of the two the answer belongs to cannot be told.
            own.flags |= is::SYN_RETRANSMITTED;
            own.sample = 0;
        } else if !own.has(is::SEQUENCE_KNOWN) {
            let departure_us = time.departure_us();
            synchronize(own, segment, departure_us, coarse_ns);
            count_payload(own, segment);
        }
    } else if segment.payload_len > 0 || segment.has(tcp_flags::FIN) {
        if sighting.first_transmission {
            take_back(own, segment.sequence);
        }
        data(own, peer, segment, &mut time);
    } else if acked(peer) == Some(segment.sequence.wrapping_add(1)) {
        // Linux sends keep-alives and zero-window probes without a byte (`tcp_xmit_probe_skb`).
        own.probes = own.probes.wrapping_add(1);
    }
    true
}

/// The time of one packet, read at most once.
pub(crate) struct Time<'a, C> {
    clock: &'a C,
    now_ns: u64,
    pub(crate) coarse_ns: u64,
    departure_ns: u64,
    local_sender: bool,
    settings: &'a Settings,
}

impl<'a, C: Clock> Time<'a, C> {
    #[inline(always)]
    pub(crate) fn new(clock: &'a C, sighting: &Sighting, settings: &'a Settings) -> Self {
        Self {
            clock,
            now_ns: sighting.now_ns,
            coarse_ns: sighting.coarse_ns,
            departure_ns: sighting.departure_ns,
            local_sender: sighting.local_sender,
            settings,
        }
    }

    #[inline(always)]
    fn now_ns(&mut self) -> u64 {
        if self.now_ns == 0 {
            self.now_ns = self.clock.precise_ns();
        }
        self.now_ns
    }

    #[inline(always)]
    fn now_us(&mut self) -> u32 {
        micros(self.now_ns())
    }

    /// When the packet leaves: under fq 20 to 30 % of packets go up to 4 ms after this hook. What
    /// a socket of ours sends leaves when TCP says, as its own RTT has it: without pacing that was
    /// its last look at the clock, µs ago. A time before the flow's own is none; nor is one that is
    /// past in what others send (a container's packet waited in its own queue).
    #[inline(always)]
    pub(crate) fn departure_us(&mut self) -> u32 {
        let earliest_ns = if self.local_sender {
            self.coarse_ns
        } else {
            self.now_ns()
        };
        if self.departure_ns.wrapping_sub(earliest_ns) < DEPARTURE_HORIZON_NS {
            micros(self.departure_ns)
        } else {
            self.now_us()
        }
    }

    /// The epoch, where the `last` sample was in that one.
    #[inline(always)]
    fn epoch(&mut self, last: u32) -> u32 {
        let now_ns = self.now_ns();
        self.settings.epoch(now_ns, last)
    }
}

/// The highest ACK a half has sent, if any.
#[inline(always)]
fn acked(half: &Half) -> Option<u32> {
    if half.has(is::ACK_KNOWN) {
        Some(high(half.acked))
    } else {
        None
    }
}

/// What this packet's ACK says about the other direction's data.
#[inline(always)]
fn acknowledge<C: Clock>(own: &mut Half, peer: &Half, segment: &Segment, time: &mut Time<'_, C>) {
    let ack = segment.acknowledgment;
    learn_window(own, peer, segment);
    let window = window(own, segment);
    // Before the first ACK everything the peer sent is unacknowledged.
    let (previous, first) = match acked(own) {
        Some(previous) => (previous, false),
        None if peer.has(is::SYN) => (peer.isn, true),
        None => (ack, true),
    };
    let advance = distance(previous, ack);
    if advance < 0 {
        return;
    }
    let sent = high(peer.burst);
    if is_beyond_belief(own, peer, ack, time.coarse_ns) {
        return;
    }
    if advance == 0 && !first {
        let outstanding = peer.has(is::SEQUENCE_KNOWN) && distance(ack, sent) > 0;
        if outstanding && segment.payload_len == 0 && window == low(own.acked) {
            own.duplicate_acks = own.duplicate_acks.wrapping_add(1);
        }
    } else {
        let completes = completes(peer, previous, ack);
        new_data(own, peer, segment, advance, completes, time);
    }
    own.acked = pack(ack, window);
    own.flags |= is::ACK_KNOWN;
    sack::read(own, peer, segment);
}

/// What an ACK completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completes {
    /// An RTT sample, as in [`Half::sample`]; 0: none. Read once: another CPU may give it up.
    pub sample: u64,
    /// A busy period: it leaves nothing outstanding.
    pub burst: bool,
}

/// What an ACK up to `ack` completes, of which the one before was up to `previous`.
#[inline(always)]
pub(crate) fn completes(peer: &Half, previous: u32, ack: u32) -> Completes {
    let (sample, sent) = (peer.sample, high(peer.burst));
    let handshake = peer.has(is::SYN) && sent == peer.isn.wrapping_add(1);
    let acknowledged =
        sample != 0 && distance(high(sample), ack) >= 0 && distance(previous, high(sample)) > 0;
    Completes {
        sample: if acknowledged { sample } else { 0 },
        burst: peer.has(is::SEQUENCE_KNOWN)
            && !handshake
            && distance(sent, ack) >= 0
            && distance(previous, sent) > 0,
    }
}

/// An ACK of `advance` new bytes.
#[inline(always)]
pub(crate) fn new_data<C: Clock>(
    own: &mut Half,
    peer: &Half,
    segment: &Segment,
    advance: i32,
    completes: Completes,
    time: &mut Time<'_, C>,
) {
    own.acked_bytes = own.acked_bytes.wrapping_add(advance as u64);
    if completes.sample == 0 && !completes.burst {
        return;
    }
    let now_us = time.now_us();
    if completes.sample != 0 {
        sequence_sample(own, peer, segment, completes.sample, advance, now_us, time);
    }
    if completes.burst {
        let ack = segment.acknowledgment;
        own.drained = chunk::drained(own, peer, ack, advance, time.now_ns());
        if let Some(busy_us) = rtt::elapsed(low(peer.burst), now_us) {
            own.busy_us = own.busy_us.wrapping_add(u64::from(busy_us));
            own.bursts = own.bursts.wrapping_add(1);
        }
    }
}

/// Whether an ACK is of data that cannot have been sent: further beyond what was seen here than
/// the window allowed that the acknowledging side gave. A side that was silent may send another
/// way by now; one that sent no data here sends them another way altogether.
#[inline(always)]
fn is_beyond_belief(own: &Half, peer: &Half, ack: u32, coarse_ns: u64) -> bool {
    let beyond = distance(high(peer.burst), ack);
    if beyond <= 0 || peer.frames == 0 {
        return false;
    }
    let window = low(own.acked) as i32;
    let limit = if window > 0 { window } else { UNSEEN_MAX };
    beyond > limit && coarse_ns.saturating_sub(peer.last_seen_ns) < SILENCE_NS
}

/// Whether a reset's sequence number is one that its receiver may believe (RFC 5961, 3): forged
/// and stray ones end nothing.
#[inline(always)]
fn is_acceptable(own: &Half, sequence: u32) -> bool {
    let off = distance(high(own.burst), sequence);
    !own.has(is::SEQUENCE_KNOWN) || (-UNSEEN_MAX..=UNSEEN_MAX).contains(&off)
}

/// Completes the peer's outstanding sample: a handshake, or data. The ACK is of `advance` new bytes.
#[inline(always)]
fn sequence_sample<C: Clock>(
    own: &mut Half,
    peer: &Half,
    segment: &Segment,
    sample: u64,
    advance: i32,
    now_us: u32,
    time: &mut Time<'_, C>,
) {
    let Some(mut rtt_us) = rtt::elapsed(low(sample), now_us) else {
        return;
    };
    let (ack, latest) = (segment.acknowledgment, peer.latest);
    let handshake = peer.has(is::SYN) && high(sample) == peer.isn.wrapping_add(1);
    if handshake {
        // A SYN is answered by a SYN-ACK, and that by an ACK of nothing else: any other packet
        // comes when the application likes.
        if !segment.has(tcp_flags::SYN) && ack != high(sample) {
            return;
        }
        own.handshake_rtt_us = rtt_us;
    } else if ack == high(latest) {
        if ack != high(sample) {
            // It answers the last segment, and may have waited for it.
            let elapsed = ticks(time.now_ns()).wrapping_sub(low(latest));
            rtt_us = rtt_us.min(ticks_to_micros(elapsed.wrapping_add(1)));
        }
        let full = peer.mss.max(SMALL_SEGMENT) as i32;
        if advance < full && advance <= JUMBO_SEGMENT && rtt::is_delayed(own, rtt_us) {
            own.delayed_acks = own.delayed_acks.wrapping_add(1);
            return;
        }
    }
    let epoch = time.epoch(own.rtt_current.epoch);
    rtt::record(own, rtt_us, epoch);
    if !handshake && peer.retransmitted_segments == 0 {
        rtt::record_slow_start(own, rtt_us);
    }
}

/// Windows are in bytes once both SYNs were seen: scaled only if both carried the option, and never
/// in a SYN (RFC 7323, 2.2).
#[inline(always)]
fn learn_window(own: &mut Half, peer: &Half, segment: &Segment) {
    if own.has(is::SYN) && peer.has(is::SYN) && !segment.has(tcp_flags::SYN) {
        own.flags |= is::WINDOW_KNOWN;
        if own.has(is::WINDOW_SCALE) && peer.has(is::WINDOW_SCALE) {
            own.flags |= is::WINDOW_SCALED;
        }
    }
}

/// The advertised window in bytes; 0 where the scale is not known.
#[inline(always)]
pub(crate) fn window(own: &Half, segment: &Segment) -> u32 {
    if !own.has(is::WINDOW_KNOWN) || segment.has(tcp_flags::SYN) {
        return 0;
    }
    let shift = if own.has(is::WINDOW_SCALED) {
        own.flags >> is::WINDOW_SCALE_SHIFT & 0xf
    } else {
        0
    };
    u32::from(segment.window) << shift
}

/// RTT by timestamps, for a direction that only acknowledges: from the first packet with a new
/// TSval to the first that echoes it (Strowes, "Passively Measuring TCP Round-Trip Times", CACM
/// 2013). Only from an ACK that makes room, and while the other side has data under way, else the
/// echo waits for the window or for the application; and never to a retransmission, which may
/// have waited for a timer.
///
/// However coarse the clock, the sample is never short: it starts with the first packet of a value
/// that followed another one here, and only the echo of that very value completes it.
#[inline(always)]
fn timestamps<C: Clock>(own: &mut Half, peer: &Half, segment: &Segment, time: &mut Time<'_, C>) {
    let known = own.has(is::TIMESTAMPS);
    // A SYN echoes nothing, and 0 is a time like any other.
    let echo_known = own.has(is::TIMESTAMPS | is::ACK_KNOWN);
    own.flags |= is::TIMESTAMPS;
    let new_echo =
        segment.has(tcp_flags::ACK) && (!echo_known || distance(own.tsecr, segment.tsecr) > 0);
    if new_echo {
        let stamp = peer.stamp;
        let first_echo = stamp != 0
            && segment.tsecr == high(stamp)
            && (!echo_known || distance(own.tsecr, high(stamp)) > 0);
        if first_echo && !repeats(own, segment) {
            let now_us = time.now_us();
            if let Some(rtt_us) = rtt::elapsed(low(stamp), now_us) {
                let epoch = time.epoch(own.rtt_current.epoch);
                rtt::record(own, rtt_us, epoch);
                own.rtt_timestamp_samples = own.rtt_timestamp_samples.wrapping_add(1);
            }
        }
        own.tsecr = segment.tsecr;
    }
    if !new_value(own, segment, known, time.coarse_ns) {
        return;
    }
    let pure_ack = segment.payload_len == 0
        && !segment.has(tcp_flags::SYN)
        && !segment.has(tcp_flags::FIN)
        && segment.has(tcp_flags::ACK);
    let makes_room = match acked(own) {
        Some(previous) => distance(previous, segment.acknowledgment) > 0,
        None => false,
    };
    let answer_expected = makes_room
        && peer.has(is::SEQUENCE_KNOWN | is::TIMESTAMPS)
        && !peer.has(is::LOCAL_SENDER)
        && distance(segment.acknowledgment, high(peer.burst)) > 0;
    let outstanding = own.stamp != 0 && distance(peer.tsecr, high(own.stamp)) > 0;
    if known && pure_ack && answer_expected && !outstanding {
        own.stamp = pack(segment.tsval, time.departure_us());
    }
}

/// Takes a timestamp into account, where it is a new one.
#[inline(always)]
pub(crate) fn new_value(own: &mut Half, segment: &Segment, known: bool, coarse_ns: u64) -> bool {
    let new_value = !known || distance(own.tsval, segment.tsval) > 0;
    if new_value {
        own.tsval = segment.tsval;
        measure_clock(own, known, stamp_time(coarse_ns));
    }
    new_value
}

/// The time a timestamp is measured by: units of 2^20 ns, which turn in 52 days.
#[inline(always)]
pub(crate) fn stamp_time(coarse_ns: u64) -> u32 {
    (coarse_ns >> 20) as u32
}

/// Measures how long this side's timestamp clock stands still, at a new value of it.
#[inline(always)]
fn measure_clock(own: &mut Half, known: bool, now: u32) {
    let elapsed = now.wrapping_sub(own.stamp_first_at);
    if !known || elapsed > STAMP_SPAN_MAX {
        own.stamp_first = own.tsval;
        own.stamp_first_at = now;
        return;
    }
    let doublings = own.stamp_clock >> STAMP_DOUBLINGS_SHIFT;
    if doublings > STAMP_DOUBLINGS_MAX || elapsed < STAMP_SPAN << doublings {
        return;
    }
    let values = u64::from(own.tsval.wrapping_sub(own.stamp_first).max(1));
    let elapsed_us = (u64::from(elapsed) << 20) / 1_000;
    let clock_us =
        (elapsed_us.wrapping_add(values / 2) / values).clamp(1, u64::from(STAMP_CLOCK_MASK)) as u32;
    own.stamp_clock = clock_us | doublings.wrapping_add(1) << STAMP_DOUBLINGS_SHIFT;
}

/// A SYN or SYN-ACK that left at `departure_us`.
#[inline(always)]
pub(crate) fn synchronize(own: &mut Half, segment: &Segment, departure_us: u32, coarse_ns: u64) {
    own.flags |= is::SYN | is::SEQUENCE_KNOWN;
    if segment.has(tcp_flags::ACK) {
        own.flags |= is::SYN_ACK;
    }
    if segment.options & options::WINDOW_SCALE != 0 {
        own.flags |=
            is::WINDOW_SCALE | u32::from(segment.window_scale & 0xf) << is::WINDOW_SCALE_SHIFT;
    }
    if segment.options & options::SACK_PERMITTED != 0 {
        own.flags |= is::SACK_PERMITTED;
    }
    own.isn = segment.sequence;
    let next = segment.sequence.wrapping_add(1);
    own.sample = pack(next, departure_us);
    let end = next.wrapping_add(segment.payload_len);
    own.burst = pack(end, departure_us);
    own.latest = pack(end, ticks(coarse_ns));
}

#[inline(always)]
pub(crate) fn count_payload(own: &mut Half, segment: &Segment) {
    if segment.payload_len > 0 {
        own.frames = own.frames.wrapping_add(1);
        own.segments = own.segments.wrapping_add(segment.segments);
        own.bytes = own.bytes.wrapping_add(u64::from(segment.payload_len));
        if segment.segment_len > own.mss {
            own.mss = segment.segment_len;
        }
    }
}

/// Whether a packet repeats bytes, as far as its half can tell.
#[inline(always)]
pub fn repeats(own: &Half, segment: &Segment) -> bool {
    own.has(is::SEQUENCE_KNOWN) && distance(high(own.burst), segment.sequence) < 0
}

/// Our own queue refused what was sent from `start` on, before it left: the socket was told
/// (NET_XMIT_DROP), did not advance, and sends it as new data now. So it was never sent.
#[inline(always)]
fn take_back(own: &mut Half, start: u32) {
    let refused = distance(start, high(own.burst));
    if refused <= 0 {
        return;
    }
    // What was sent last ended with the FIN, if there was one.
    let payload_len = (refused as u32).wrapping_sub(u32::from(own.has(is::FIN)));
    let mss = own.mss.max(1);
    let segments = payload_len.wrapping_add(mss - 1) / mss;
    own.bytes = own.bytes.wrapping_sub(u64::from(payload_len));
    own.segments = own.segments.wrapping_sub(segments);
    own.refused_segments = own.refused_segments.wrapping_add(segments);
    own.burst = pack(start, low(own.burst));
    own.latest = pack(start, low(own.latest));
    if own.sample != 0 && distance(start, high(own.sample)) > 0 {
        own.sample = 0;
    }
}

/// Payload or a FIN.
#[inline(always)]
fn data<C: Clock>(own: &mut Half, peer: &Half, segment: &Segment, time: &mut Time<'_, C>) {
    let fin = u32::from(segment.has(tcp_flags::FIN));
    let start = segment.sequence;
    let end = start.wrapping_add(segment.payload_len).wrapping_add(fin);
    let known = own.has(is::SEQUENCE_KNOWN);
    let next = if known { high(own.burst) } else { start };
    let peer_ack = acked(peer);
    let ahead = distance(next, start);

    if is_probe(peer, segment, next, peer_ack) {
        own.probes = own.probes.wrapping_add(1);
        return;
    }
    // Who goes on sending was not reset (RFC 5961, 3).
    own.flags = own.flags & !is::RST | is::SEQUENCE_KNOWN;
    if fin != 0 {
        own.flags |= is::FIN;
    }
    count_payload(own, segment);
    if ahead < 0 {
        again(own, peer, segment, next, end, peer_ack, time);
        let highest = if distance(next, end) > 0 { end } else { next };
        own.burst = pack(highest, low(own.burst));
        own.latest = pack(highest, ticks(time.coarse_ns));
        return;
    }
    own.latest = pack(end, ticks(time.coarse_ns));

    if ahead > 0 && known {
        // The timestamp of this packet is the highest by now, and costs no clock.
        let noticed = if own.has(is::TIMESTAMPS) {
            own.tsval
        } else {
            time.now_us()
        };
        loss::open_gap(own, next, start, noticed, peer_ack);
    }
    let all_acked = match peer_ack {
        Some(ack) => distance(ack, next) <= 0,
        None => !known,
    };
    let outstanding = own.sample != 0
        && match peer_ack {
            Some(ack) => distance(ack, high(own.sample)) > 0,
            None => true,
        };
    let departure_us = if all_acked || !outstanding {
        time.departure_us()
    } else {
        0
    };
    let busy_since_us = if all_acked {
        departure_us
    } else {
        low(own.burst)
    };
    own.burst = pack(end, busy_since_us);
    if !outstanding {
        own.sample = sample(segment, departure_us);
    }
    if let (Some(_), true) = (peer_ack, peer.has(is::WINDOW_KNOWN)) {
        fill_window(own, peer.acked, segment, end);
    }
}

/// An RTT sample that begins with a packet of data: up to the end of the first wire segment of a
/// super-packet, because the receiver may acknowledge that before the rest has left.
#[inline(always)]
pub(crate) fn sample(segment: &Segment, departure_us: u32) -> u64 {
    let fin = u32::from(segment.has(tcp_flags::FIN));
    let len = if segment.segment_len < segment.payload_len {
        segment.segment_len
    } else {
        segment.payload_len.wrapping_add(fin)
    };
    pack(segment.sequence.wrapping_add(len), departure_us)
}

/// Counts a packet up to `end` where it fills the window that came with the other side's last ACK.
#[inline(always)]
pub(crate) fn fill_window(own: &mut Half, acked: u64, segment: &Segment, end: u32) {
    let in_flight = end.wrapping_sub(high(acked));
    if in_flight.wrapping_add(own.mss) > low(acked) {
        own.rwnd_limited_segments = own.rwnd_limited_segments.wrapping_add(segment.segments);
    }
}

/// A keep-alive (RFC 9293, 3.8.4): one old byte, just below what is next, while nothing is
/// outstanding. Or a zero-window probe (3.8.6.1): the next byte, into a window that is closed.
#[inline(always)]
fn is_probe(peer: &Half, segment: &Segment, next: u32, peer_ack: Option<u32>) -> bool {
    if segment.payload_len > 1 || segment.has(tcp_flags::FIN) {
        return false;
    }
    let keep_alive = segment.sequence == next.wrapping_sub(1) && peer_ack == Some(next);
    let window_closed = peer.has(is::WINDOW_KNOWN) && low(peer.acked) == 0;
    keep_alive || window_closed && peer_ack == Some(segment.sequence)
}

/// A segment up to `packet_end` that begins below `next`, the highest sequence number sent: a
/// retransmission, or reordering before us. It may go on with new data: GRO merges what is
/// contiguous.
#[inline(always)]
fn again<C: Clock>(
    own: &mut Half,
    peer: &Half,
    segment: &Segment,
    next: u32,
    packet_end: u32,
    peer_ack: Option<u32>,
    time: &mut Time<'_, C>,
) {
    let start = segment.sequence;
    let end = if distance(next, packet_end) > 0 {
        next
    } else {
        packet_end
    };
    let repeated_before = own.sample == 0;
    // Karn: whatever is acknowledged from here on may be either copy, or had to wait for it.
    own.sample = 0;
    let len = end.wrapping_sub(start);
    let count = if len < segment.payload_len && segment.segment_len > 0 {
        len.wrapping_add(segment.segment_len - 1) / segment.segment_len
    } else {
        segment.segments.max(1)
    };
    let already_acked = match peer_ack {
        Some(ack) => distance(end, ack) >= 0,
        None => false,
    };
    if already_acked || sack::has_arrived(peer, start, end) {
        own.spurious_segments = own.spurious_segments.wrapping_add(count);
    } else if let Some(noticed) = loss::fill_gap(own, start, end) {
        let late = if own.has(is::TIMESTAMPS) {
            loss::sent_before(noticed, segment)
        } else {
            loss::is_reordering(own, peer, noticed, time.now_us())
        };
        if late {
            own.reordered_segments = own.reordered_segments.wrapping_add(count);
            return;
        }
        own.lost_upstream_segments = own.lost_upstream_segments.wrapping_add(count);
    } else if loss::may_be_forgotten(own, start) && loss::overtaken(own, segment) {
        own.reordered_segments = own.reordered_segments.wrapping_add(count);
        return;
    } else if loss::is_guess(own, peer, start, peer_ack) {
        own.spurious_segments = own.spurious_segments.wrapping_add(count);
    } else {
        own.lost_downstream_segments = own.lost_downstream_segments.wrapping_add(count);
    }
    if let Some(acked) = peer_ack {
        let repetition = Repetition {
            start,
            end: packet_end,
            next,
            acked,
            again: repeated_before,
            coarse_ns: time.coarse_ns,
        };
        match timer(own, peer, &repetition) {
            Timer::None => (),
            Timer::TailLossProbe => own.tail_loss_probes = own.tail_loss_probes.wrapping_add(1),
            Timer::Timeout => {
                own.retransmission_timeouts = own.retransmission_timeouts.wrapping_add(1);
            }
        }
    }
    own.retransmitted_segments = own.retransmitted_segments.wrapping_add(count);
    own.retransmitted_bytes = own
        .retransmitted_bytes
        .wrapping_add(u64::from(len.min(segment.payload_len)));
}
