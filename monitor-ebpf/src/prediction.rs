//! Header prediction: the next packet of a response that is under way, the cheap way.
//!
//! Most packets of a video are of two kinds: data in order whose ACK says nothing new, and ACKs of
//! new data that say nothing else. What they change is known before they are looked at (Jacobson's
//! header prediction, "Congestion Avoidance and Control", SIGCOMM 1988, made for receivers), and is
//! what [`tracker::track`] would change, to the byte: `observe` asserts that wherever assertions
//! are compiled in.

use crate::{
    chunk,
    flow::{Half, half_flags as is},
    options,
    packet::{Segment, tcp_flags},
    sequence::{distance, high, low, pack, ticks},
    tracker::{self, Clock, Completes, Time},
};

/// A half in which everything is known ...
const KNOWN: u32 = is::SEEN | is::SEQUENCE_KNOWN | is::ACK_KNOWN | is::WINDOW_KNOWN;
/// ... and nothing is about to end or to be taken back.
const UNUSUAL: u32 = is::FIN | is::RST | is::SACKS;
/// That of a server.
const SERVER: u32 = is::SYN | is::SYN_ACK;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing that was to be expected.
    Nothing,
    /// Data while older data is outstanding, an RTT sample of it too.
    Data,
    /// Data that begins a sample, and a busy period if nothing is outstanding.
    Start,
    /// An ACK of new data.
    Ack(Completes),
}

impl Expected {
    /// Whether the precise time is wanted, where it is known or not when TCP let the packet go.
    #[inline(always)]
    pub fn needs_clock(self, departure_known: bool) -> bool {
        match self {
            Self::Nothing | Self::Data => false,
            Self::Start => !departure_known,
            Self::Ack(completes) => completes.sample != 0 || completes.burst,
        }
    }
}

/// What the packet is, if it was to be expected.
#[inline(always)]
pub fn expected(own: &Half, peer: &Half, segment: &Segment, hook: u32) -> Expected {
    const CONTROL: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST | tcp_flags::ACK;
    let stamped = segment.options & options::TIMESTAMPS != 0;
    let plain = own.owner == hook
        && own.flags & (KNOWN | UNUSUAL) == KNOWN
        && segment.flags & CONTROL == tcp_flags::ACK
        && segment.options & !options::TIMESTAMPS == 0
        && segment.ecn != 3
        // No sample by timestamps is completed.
        && (!stamped
            || own.has(is::TIMESTAMPS)
                && (peer.stamp == 0 || distance(own.tsecr, segment.tsecr) <= 0));
    if !plain {
        Expected::Nothing
    } else if segment.payload_len == 0 {
        expected_ack(own, peer, segment, stamped)
    } else {
        expected_data(own, peer, segment)
    }
}

#[inline(always)]
fn expected_data(own: &Half, peer: &Half, segment: &Segment) -> Expected {
    let next = high(own.burst);
    let (acked, peers_window) = (high(peer.acked), low(peer.acked));
    let nothing_new = pack(segment.acknowledgment, tracker::window(own, segment)) == own.acked;
    let in_order = own.flags & SERVER == SERVER
        && segment.sequence == next
        // One byte alone may be a probe.
        && segment.payload_len > 1
        // Of the other half one cache line is read: a window means that its flags are known.
        && peers_window != 0
        && nothing_new;
    if !in_order {
        Expected::Nothing
    } else if distance(acked, next) > 0 && own.sample != 0 && distance(acked, high(own.sample)) > 0
    {
        Expected::Data
    } else {
        Expected::Start
    }
}

#[inline(always)]
fn expected_ack(own: &Half, peer: &Half, segment: &Segment, stamped: bool) -> Expected {
    let ack = segment.acknowledgment;
    let (previous, sent) = (high(own.acked), high(peer.burst));
    let handshake = peer.isn.wrapping_add(1);
    // Where the sender is far, ACKs of a part begin samples by timestamps.
    let no_stamp = !stamped || ack == sent || peer.has(is::LOCAL_SENDER);
    let of_data = distance(previous, ack) > 0
        && distance(ack, sent) >= 0
        && sent != handshake
        && high(peer.sample) != handshake
        // Else it is a keep-alive.
        && segment.sequence.wrapping_add(1) != high(peer.acked)
        && no_stamp;
    if !of_data {
        return Expected::Nothing;
    }
    Expected::Ack(tracker::completes(peer, previous, ack))
}

/// Takes it into account. `false`: it has to be looked at after all, and nothing was changed.
#[inline(always)]
pub(crate) fn take<C: Clock>(
    expected: Expected,
    own: &mut Half,
    peer: &Half,
    segment: &Segment,
    time: &mut Time<'_, C>,
) -> bool {
    match expected {
        Expected::Nothing => false,
        Expected::Data => {
            data(own, peer, segment, low(own.burst), time.coarse_ns);
            true
        }
        Expected::Start => start(own, peer, segment, time),
        Expected::Ack(completes) => {
            ack(own, peer, segment, completes, time);
            true
        }
    }
}

/// Data, in a busy period that began at `busy_since_us`.
#[inline(always)]
fn data(own: &mut Half, peer: &Half, segment: &Segment, busy_since_us: u32, coarse_ns: u64) {
    seen(own, segment, coarse_ns);
    tracker::count_payload(own, segment);
    let end = segment.sequence.wrapping_add(segment.payload_len);
    own.latest = pack(end, ticks(coarse_ns));
    own.burst = pack(end, busy_since_us);
    tracker::fill_window(own, peer.acked, segment, end);
}

#[inline(always)]
fn start<C: Clock>(own: &mut Half, peer: &Half, segment: &Segment, time: &mut Time<'_, C>) -> bool {
    let acked = high(peer.acked);
    let departure_us = time.departure_us();
    let mut busy_since_us = low(own.burst);
    if distance(acked, segment.sequence) <= 0 {
        if !chunk::goes_on_at_once(own, peer, segment.sequence, departure_us) {
            return false;
        }
        busy_since_us = departure_us;
    }
    if own.sample == 0 || distance(acked, high(own.sample)) <= 0 {
        own.sample = tracker::sample(segment, departure_us);
    }
    data(own, peer, segment, busy_since_us, time.coarse_ns);
    true
}

#[inline(always)]
fn ack<C: Clock>(
    own: &mut Half,
    peer: &Half,
    segment: &Segment,
    completes: Completes,
    time: &mut Time<'_, C>,
) {
    seen(own, segment, time.coarse_ns);
    let (before, ack) = (own.acked, segment.acknowledgment);
    let advance = distance(high(before), ack);
    tracker::new_data(own, peer, segment, advance, completes, time);
    own.acked = pack(ack, tracker::window(own, segment));
    chunk::reopens(own, peer, before, time.coarse_ns);
}

/// What every packet changes.
#[inline(always)]
fn seen(own: &mut Half, segment: &Segment, coarse_ns: u64) {
    own.last_seen_ns = coarse_ns;
    if segment.options & options::TIMESTAMPS != 0 {
        if distance(own.tsecr, segment.tsecr) > 0 {
            own.tsecr = segment.tsecr;
        }
        tracker::new_value(own, segment, true, coarse_ns);
    }
}
