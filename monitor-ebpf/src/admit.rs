//! Which flows get a state, and when: nothing that anyone can forge alone pushes out a flow that
//! is watched.
//!
//! A flow waits in a table of its own until both directions were seen or our own socket sends. A
//! SYN that was answered goes on waiting for the ACK of that answer, as the server itself does
//! (RFC 4987, 3.6: what a flood costs is what is kept for a handshake): forged SYNs are answered
//! too, but nobody can acknowledge an answer that went elsewhere.

use crate::{
    counters::{Counter, Reason},
    flow::{FlowKey, FlowState, Half, half_flags as is},
    observe::{Packet, Tables},
    options,
    packet::{Segment, tcp_flags},
    rtt,
    select::{self, Settings},
    sequence::{distance, high, micros, pack, ticks},
    tracker,
    verifier::forget,
};

/// After this many packets one way the other way is taken to pass elsewhere (asymmetric routing).
const ONE_SIDED_PACKETS: u32 = 64;

/// How far beyond a SYN-ACK an ACK may lie that is believed to answer it: more than a server sends
/// before it, and one part in 4,096 of all sequence numbers.
const ANSWER_MAX: i32 = 1 << 20;

/// A flow that has no state yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Precise time of `segment`, ns.
    pub start_ns: u64,
    /// Payload bytes so far.
    pub bytes: u64,
    /// Precise time of `answer`, ns.
    pub answer_ns: u64,
    /// The SYN, else the first segment.
    pub segment: Segment,
    /// The SYN-ACK.
    pub answer: Segment,
    /// The hook that saw `segment`.
    pub hook: u32,
    pub direction: u32,
    pub packets: u32,
    pub frames: u32,
    pub segments: u32,
    /// One past the highest sequence number.
    pub end: u32,
    /// Copies of the SYN after the first.
    pub syns_repeated: u32,
    /// The hook that saw `answer`.
    pub answer_hook: u32,
    /// The RTT epoch that `answer` came in.
    pub answer_epoch: u32,
    /// Copies of the SYN-ACK at that hook, the first included; 0: no answer yet.
    pub answers: u16,
    /// ... and at other hooks.
    pub answers_elsewhere: u16,
    /// SYN to SYN-ACK, µs; 0: unknown.
    pub handshake_rtt_us: u32,
    /// Bits of [`resets`].
    pub resets: u16,
    /// By how many halvings it was admitted.
    pub halvings: u16,
}

impl Pending {
    /// All zero.
    pub const EMPTY: Self = Self {
        start_ns: 0,
        bytes: 0,
        answer_ns: 0,
        segment: Segment::EMPTY,
        answer: Segment::EMPTY,
        hook: 0,
        direction: 0,
        packets: 0,
        frames: 0,
        segments: 0,
        end: 0,
        syns_repeated: 0,
        answer_hook: 0,
        answer_epoch: 0,
        answers: 0,
        answers_elsewhere: 0,
        handshake_rtt_us: 0,
        resets: 0,
        halvings: 0,
    };
}

/// Bits of [`Pending::resets`].
pub mod resets {
    /// From where the first packet came.
    pub const SAME_WAY: u16 = 1 << 0;
    pub const OTHER_WAY: u16 = 1 << 1;
}

const _: () = assert!(size_of::<Pending>() == 176);

/// What a packet means to the flow it waits with.
enum Turn {
    /// The flow goes on waiting.
    Wait,
    /// It gets a state.
    Begin,
    /// That one came to nothing; these are the same ports' next one.
    Again,
}

/// The state for the first packet of a flow, once it may have one.
///
/// # Errors
/// When there are more flows than can be measured, and this is none of the sample.
#[inline(always)]
pub fn admit<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    key: &FlowKey,
    direction: usize,
    segment: &Segment,
    settings: &Settings,
) -> Result<Option<*mut FlowState>, Reason> {
    let now_ns = packet.precise_ns();
    let halvings;
    if let Some(pending) = tables.pending(key) {
        // SAFETY: valid until the next call that adds or removes a pending flow.
        let pending = unsafe { &mut *pending };
        match turn(packet, pending, direction, segment, now_ns, settings) {
            Turn::Wait => return Ok(None),
            Turn::Begin => {
                let Some(state) = create(tables, key, now_ns, pending.start_ns) else {
                    return Ok(None);
                };
                // SAFETY: just created (see `Tables::flow`).
                resume(unsafe { &mut *forget(state) }, pending, packet.coarse_ns());
                tables.remove_pending(key);
                tables.count(Counter::FlowsAdmitted);
                return Ok(Some(state));
            }
            Turn::Again => halvings = u32::from(pending.halvings),
        }
    } else {
        let begins = segment.has(tcp_flags::SYN) && !segment.has(tcp_flags::ACK);
        let Some(admitted_by) = select::admitted(settings, key, begins) else {
            return Err(Reason::NotAdmitted);
        };
        halvings = admitted_by;
        if segment.has(tcp_flags::RST) {
            // A reset of nothing we know: no flow begins with it.
            return Ok(None);
        }
        if packet.sent_by_socket() {
            let state = create(tables, key, now_ns, now_ns);
            if let Some(state) = state {
                // SAFETY: just created (see `Tables::flow`).
                let (own, _) = unsafe { &mut *forget(state) }.halves_mut(direction);
                own.flags |= halvings << is::HALVINGS_SHIFT;
            }
            return Ok(state);
        }
    }
    tables.put_pending(key, &begin(packet, direction, segment, now_ns, halvings));
    tables.count(Counter::FlowsPending);
    Ok(None)
}

/// Takes a packet of a flow that waits.
#[inline(always)]
fn turn<P: Packet>(
    packet: &P,
    pending: &mut Pending,
    direction: usize,
    segment: &Segment,
    now_ns: u64,
    settings: &Settings,
) -> Turn {
    let same_way = pending.direction == direction as u32;
    if segment.has(tcp_flags::RST) {
        pending.resets |= if same_way {
            resets::SAME_WAY
        } else {
            resets::OTHER_WAY
        };
        return Turn::Wait;
    }
    let here = pending.hook == packet.hook();
    if !same_way {
        if answers(pending, segment) && !packet.sent_by_socket() {
            answered(pending, segment, packet.hook(), now_ns, settings);
            return Turn::Wait;
        }
        return Turn::Begin;
    }
    if segment.has(tcp_flags::SYN) {
        if segment.sequence != pending.segment.sequence {
            return Turn::Again;
        }
        if here {
            pending.syns_repeated = pending.syns_repeated.wrapping_add(1);
        }
    } else if pending.answers > 0 && acknowledges(pending, segment) {
        return Turn::Begin;
    }
    if pending.packets >= ONE_SIDED_PACKETS {
        return Turn::Begin;
    }
    // The other hooks of a forwarding host see the same packets.
    if here {
        pending.packets = pending.packets.wrapping_add(1);
        add(pending, segment);
    }
    Turn::Wait
}

/// Whether this is the SYN-ACK of a SYN, and accepts no data in it: whoever may send some with a
/// SYN has shown before that they are where they say (RFC 7413).
#[inline(always)]
fn answers(pending: &Pending, segment: &Segment) -> bool {
    pending.segment.has(tcp_flags::SYN)
        && !pending.segment.has(tcp_flags::ACK)
        && segment.has(tcp_flags::SYN)
        && segment.has(tcp_flags::ACK)
        && segment.acknowledgment == pending.segment.sequence.wrapping_add(1)
        && segment.payload_len == 0
}

/// Remembers a SYN-ACK.
#[inline(always)]
fn answered(pending: &mut Pending, segment: &Segment, hook: u32, now_ns: u64, settings: &Settings) {
    if pending.answers == 0 || pending.answer.sequence != segment.sequence {
        pending.answer = *segment;
        pending.answer_ns = now_ns;
        pending.answer_hook = hook;
        pending.answer_epoch = settings.epoch(now_ns, 0);
        pending.answers = 1;
        pending.answers_elsewhere = 0;
        // Karn: which of two SYNs is answered cannot be told.
        let once = pending.packets == 1;
        let rtt_us = rtt::elapsed(micros(pending.start_ns), micros(now_ns));
        pending.handshake_rtt_us = match rtt_us {
            Some(rtt_us) if once => rtt_us,
            _ => 0,
        };
    } else if pending.answer_hook == hook {
        pending.answers = pending.answers.wrapping_add(1);
    } else {
        pending.answers_elsewhere = pending.answers_elsewhere.wrapping_add(1);
    }
}

/// Whether a packet acknowledges the SYN-ACK.
#[inline(always)]
fn acknowledges(pending: &Pending, segment: &Segment) -> bool {
    let next = pending.answer.sequence.wrapping_add(1);
    let beyond = distance(next, segment.acknowledgment);
    segment.has(tcp_flags::ACK) && (0..=ANSWER_MAX).contains(&beyond)
}

/// What waits after its first packet.
#[inline(always)]
fn begin<P: Packet>(
    packet: &P,
    direction: usize,
    segment: &Segment,
    now_ns: u64,
    halvings: u32,
) -> Pending {
    let mut pending = Pending {
        start_ns: now_ns,
        segment: *segment,
        hook: packet.hook(),
        direction: direction as u32,
        packets: 1,
        end: segment.sequence,
        halvings: halvings as u16,
        ..Pending::EMPTY
    };
    add(&mut pending, segment);
    pending
}

#[inline(always)]
fn create<T: Tables>(
    tables: &T,
    key: &FlowKey,
    generation: u64,
    start_ns: u64,
) -> Option<*mut FlowState> {
    let Some(state) = tables.create(key) else {
        tables.count(Counter::FlowsRefused);
        return None;
    };
    tables.count(Counter::FlowsCreated);
    // SAFETY: just created (see `Tables::flow`).
    let new = unsafe { &mut *state };
    new.key = *key;
    new.generation = generation;
    new.start_ns = start_ns;
    new.last_report_ns = generation;
    Some(state)
}

#[inline(always)]
fn add(pending: &mut Pending, segment: &Segment) {
    if segment.payload_len > 0 {
        pending.bytes = pending.bytes.wrapping_add(u64::from(segment.payload_len));
        pending.frames = pending.frames.wrapping_add(1);
        pending.segments = pending.segments.wrapping_add(segment.segments);
        let end = segment.sequence.wrapping_add(segment.payload_len);
        if distance(pending.end, end) > 0 {
            pending.end = end;
        }
    }
}

/// The state of a flow that never got one: what `replay` reports of it.
pub fn from_pending(key: &FlowKey, pending: &Pending) -> FlowState {
    let mut state = FlowState::EMPTY;
    state.key = *key;
    state.generation = pending.start_ns;
    state.start_ns = pending.start_ns;
    resume(&mut state, pending, pending.start_ns);
    let direction = pending.direction as usize;
    for (bit, direction) in [
        (resets::SAME_WAY, direction),
        (resets::OTHER_WAY, direction ^ 1),
    ] {
        if pending.resets & bit != 0 {
            let (own, _) = state.halves_mut(direction);
            own.flags |= is::SEEN | is::RST;
        }
    }
    state
}

/// Brings a new state to where the packets that waited left it.
#[inline(always)]
fn resume(state: &mut FlowState, pending: &Pending, coarse_ns: u64) {
    let direction = pending.direction as usize;
    let (own, _) = state.halves_mut(direction);
    resume_first(own, pending, coarse_ns);
    if pending.answers > 0 {
        let (own, _) = state.halves_mut(direction ^ 1);
        resume_answer(own, pending, coarse_ns);
    }
}

/// The half of whoever sent the first packet.
#[inline(always)]
fn resume_first(own: &mut Half, first: &Pending, coarse_ns: u64) {
    let segment = &first.segment;
    own.owner = first.hook;
    own.last_seen_ns = coarse_ns;
    own.flags |= is::SEEN | u32::from(first.halvings) << is::HALVINGS_SHIFT;
    own.bytes = first.bytes;
    own.frames = first.frames;
    own.segments = first.segments;
    own.mss = segment.segment_len;
    let sent_us = micros(first.start_ns);
    if segment.has(tcp_flags::SYN) {
        tracker::synchronize(own, segment, sent_us, first.start_ns);
        own.syns_retransmitted = first.syns_repeated as u16;
        if first.packets > 1 {
            // Karn; a single data packet before the answer (TCP Fast Open) also lands here, and
            // only costs the handshake sample.
            own.flags |= is::SYN_RETRANSMITTED;
            own.sample = 0;
        }
    }
    if first.frames > 0 && (!own.has(is::SYN) || distance(high(own.burst), first.end) > 0) {
        own.flags |= is::SEQUENCE_KNOWN;
        own.burst = pack(first.end, sent_us);
        own.latest = pack(first.end, ticks(coarse_ns));
        own.request = own.burst;
    }
    if segment.has(tcp_flags::ACK) && !segment.has(tcp_flags::SYN) {
        own.flags |= is::ACK_KNOWN;
        own.acked = pack(segment.acknowledgment, 0);
    }
    // Of several packets only the first one's stamps were kept.
    if segment.options & options::TIMESTAMPS != 0 && first.packets == 1 {
        stamps(own, segment, first.start_ns);
    }
}

/// The half of whoever sent the SYN-ACK, as [`tracker::track`] would have left it.
#[inline(always)]
fn resume_answer(own: &mut Half, pending: &Pending, coarse_ns: u64) {
    let segment = &pending.answer;
    own.owner = pending.answer_hook;
    own.last_seen_ns = coarse_ns;
    own.seen_elsewhere = u32::from(pending.answers_elsewhere);
    if segment.ecn == 3 {
        own.ce_marked_segments = 1;
    }
    if segment.options & options::TIMESTAMPS != 0 {
        stamps(own, segment, pending.answer_ns);
    }
    if pending.handshake_rtt_us != 0 {
        own.handshake_rtt_us = pending.handshake_rtt_us;
        rtt::record(own, pending.handshake_rtt_us, pending.answer_epoch);
    }
    own.acked_bytes = 1;
    own.acked = pack(segment.acknowledgment, 0);
    own.flags |= is::SEEN | is::ACK_KNOWN;
    tracker::synchronize(own, segment, micros(pending.answer_ns), pending.answer_ns);
    if pending.answers > 1 {
        own.syns_retransmitted = pending.answers.wrapping_sub(1);
        own.flags |= is::SYN_RETRANSMITTED;
        own.sample = 0;
    }
}

/// Notes the stamps of a packet that left at `sent_ns`.
#[inline(always)]
fn stamps(own: &mut Half, segment: &Segment, sent_ns: u64) {
    own.flags |= is::TIMESTAMPS;
    own.tsval = segment.tsval;
    own.tsecr = segment.tsecr;
    own.stamp_first = segment.tsval;
    own.stamp_first_at = tracker::stamp_time(sent_ns);
}
