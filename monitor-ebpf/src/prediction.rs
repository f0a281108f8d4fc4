//! Header prediction: the next packet of a response that is under way, the cheap way.
//!
//! Most packets of a video are of one kind: data in order, while older data is outstanding, whose
//! ACK says nothing new. What they change is known before they are looked at (Jacobson's header
//! prediction, "Congestion Avoidance and Control", SIGCOMM 1988, made for receivers), and is what
//! [`tracker::track`] would change, to the byte: `observe` asserts that
//! wherever assertions are compiled in.

use crate::{
    flow::{Half, half_flags as is},
    options,
    packet::{Segment, tcp_flags},
    sequence::{distance, high, low, pack, ticks},
    tracker,
};

/// A server's half in which everything is known ...
const KNOWN: u32 =
    is::SEEN | is::SEQUENCE_KNOWN | is::ACK_KNOWN | is::SYN | is::SYN_ACK | is::WINDOW_KNOWN;
/// ... and nothing is about to end or to be taken back.
const UNUSUAL: u32 = is::FIN | is::RST | is::SACKS;

/// Whether the packet is of that kind.
#[inline(always)]
pub fn applies(own: &Half, peer: &Half, segment: &Segment, hook: u32) -> bool {
    const CONTROL: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST | tcp_flags::ACK;
    let next = high(own.burst);
    let stamped = segment.options & options::TIMESTAMPS != 0;
    // Without short cuts: each would be a branch to the verifier.
    let plain = (own.owner == hook)
        & (own.flags & (KNOWN | UNUSUAL) == KNOWN)
        & (segment.flags & CONTROL == tcp_flags::ACK)
        & (segment.options & !options::TIMESTAMPS == 0)
        & (segment.ecn != 3)
        // One byte alone may be a probe.
        & (segment.payload_len > 1)
        & (segment.sequence == next);
    if !plain {
        return false;
    }
    let nothing_new = pack(segment.acknowledgment, tracker::window(own, segment)) == own.acked;
    let (acked, peers_window) = (high(peer.acked), low(peer.acked));
    // Of the other half one cache line is read: a window means that its flags are known.
    let under_way = (peers_window != 0)
        & (distance(acked, next) > 0)
        & (own.sample != 0)
        & (distance(acked, high(own.sample)) > 0);
    let no_sample = !stamped
        | own.has(is::TIMESTAMPS) & ((peer.stamp == 0) | (distance(own.tsecr, segment.tsecr) <= 0));
    nothing_new & under_way & no_sample
}

/// Takes it into account.
#[inline(always)]
pub fn take(own: &mut Half, peer: &Half, segment: &Segment, coarse_ns: u64) {
    own.last_seen_ns = coarse_ns;
    if segment.options & options::TIMESTAMPS != 0 {
        if distance(own.tsecr, segment.tsecr) > 0 {
            own.tsecr = segment.tsecr;
        }
        tracker::new_value(own, segment, true, coarse_ns);
    }
    tracker::count_payload(own, segment);
    let end = segment.sequence.wrapping_add(segment.payload_len);
    own.latest = pack(end, ticks(coarse_ns));
    own.burst = pack(end, low(own.burst));
    tracker::fill_window(own, peer.acked, segment, end);
}
