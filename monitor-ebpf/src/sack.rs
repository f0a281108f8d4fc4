//! Selective acknowledgements (RFC 2018, RFC 2883): what a receiver has although it did not
//! acknowledge it yet, and what it has twice.

use crate::{
    flow::{Half, SACKED, half_flags as is},
    options,
    packet::{SackBlock, Segment},
    sequence::{distance, high, low, pack},
};

/// Takes the blocks of an ACK into account. `own` acknowledges `peer`'s data.
#[inline(always)]
pub fn read(own: &mut Half, peer: &Half, segment: &Segment) {
    if segment.options & options::SACK_FIRST == 0 {
        // A receiver that holds something back says so in each ACK (RFC 2018, 4): this one does not.
        if own.has(is::SACKS) {
            own.sacked = [0; SACKED];
            own.flags &= !is::SACKS;
        }
        return;
    }
    let [first, second] = segment.sack;
    if is_duplicate(segment) {
        count_duplicate(own, peer, first);
    } else {
        remember(own, peer, first, segment.acknowledgment);
    }
    if segment.options & options::SACK_SECOND != 0 {
        remember(own, peer, second, segment.acknowledgment);
    }
}

/// RFC 2883: the first block reports a duplicate if it lies below the ACK or within the second.
#[inline(always)]
fn is_duplicate(segment: &Segment) -> bool {
    let [first, second] = segment.sack;
    let below = distance(first.end, segment.acknowledgment) >= 0;
    let within = segment.options & options::SACK_SECOND != 0
        && distance(second.start, first.start) >= 0
        && distance(first.end, second.end) >= 0;
    below || within
}

#[inline(always)]
fn count_duplicate(own: &mut Half, peer: &Half, block: SackBlock) {
    let len = distance(block.start, block.end);
    // What Linux reports of a keep-alive's byte is no segment.
    let keep_alive = len == 1 && peer.probes != 0;
    if len > 0 && !keep_alive {
        let mss = peer.mss.max(1);
        let segments = (len as u32).wrapping_add(mss - 1) / mss;
        own.dsacks = own.dsacks.wrapping_add(segments);
    }
}

/// Puts the block first, in the place of what it contains (a receiver reports whole ranges) or of
/// what was reported longest ago, of which most is acknowledged by now.
#[inline(always)]
fn remember(own: &mut Half, peer: &Half, block: SackBlock, ack: u32) {
    let is_outstanding = distance(ack, block.start) > 0
        && distance(block.start, block.end) > 0
        && distance(block.end, high(peer.burst)) >= 0;
    if !is_outstanding {
        return;
    }
    own.flags |= is::SACKS;
    let mut carried = pack(block.start, block.end);
    for place in &mut own.sacked {
        let range = core::mem::replace(place, carried);
        let beyond = distance(block.start, high(range)) | distance(low(range), block.end);
        if beyond >= 0 || range == 0 {
            return;
        }
        carried = range;
    }
}

/// Whether all of `start..end` has arrived, as `peer`, which receives it, has said.
#[inline(always)]
pub fn has_arrived(peer: &Half, start: u32, end: u32) -> bool {
    if !peer.has(is::SACKS) {
        return false;
    }
    // Signs instead of comparisons: each of those is a branch to the verifier.
    let mut beyond = -1;
    for &range in &peer.sacked {
        let free = distance(high(range), low(range)).wrapping_sub(1);
        beyond &= distance(high(range), start) | distance(end, low(range)) | free;
    }
    beyond >= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: u32 = 0x0001_0000;

    fn halves() -> (Half, Half) {
        let (receiver, mut sender) = (Half::EMPTY, Half::EMPTY);
        sender.burst = pack(SENT, 0);
        sender.mss = 1_000;
        (receiver, sender)
    }

    fn ack(acknowledgment: u32, blocks: &[(u32, u32)]) -> Segment {
        let mut segment = Segment {
            acknowledgment,
            ..Segment::EMPTY
        };
        let options = [options::SACK_FIRST, options::SACK_SECOND];
        for ((&(start, end), place), option) in blocks.iter().zip(&mut segment.sack).zip(options) {
            *place = SackBlock { start, end };
            segment.options |= option;
        }
        segment
    }

    #[test]
    fn what_was_said_to_have_arrived_is_known_until_nothing_is_held_back() {
        let (mut receiver, sender) = halves();
        // Wraps.
        read(
            &mut receiver,
            &sender,
            &ack(0xffff_f000, &[(0xffff_f800, 0x0000_0800)]),
        );
        assert!(has_arrived(&receiver, 0xffff_f800, 0x0000_0800));
        assert!(has_arrived(&receiver, 0xffff_fff0, 0x10));
        assert!(!has_arrived(&receiver, 0xffff_f7ff, 0x10));
        assert!(!has_arrived(&receiver, 0x7ff, 0x801));
        read(&mut receiver, &sender, &ack(0x800, &[]));
        assert!(!has_arrived(&receiver, 0xffff_fff0, 0x10));
        assert_eq!(receiver.sacked, [0; SACKED]);
    }

    #[test]
    fn a_range_that_grew_is_known_whole() {
        let (mut receiver, sender) = halves();
        read(
            &mut receiver,
            &sender,
            &ack(0, &[(1_000, 2_000), (5_000, 6_000)]),
        );
        read(
            &mut receiver,
            &sender,
            &ack(0, &[(3_000, 4_000), (5_000, 6_000)]),
        );
        read(
            &mut receiver,
            &sender,
            &ack(0, &[(1_000, 4_000), (5_000, 6_000)]),
        );
        assert!(has_arrived(&receiver, 1_000, 4_000));
        assert!(has_arrived(&receiver, 5_000, 6_000));
        assert!(!has_arrived(&receiver, 3_500, 5_500));
    }

    #[test]
    fn of_too_many_ranges_the_oldest_is_forgotten() {
        let (mut receiver, sender) = halves();
        for number in 1..=SACKED as u32 + 1 {
            let start = number * 3_000;
            read(&mut receiver, &sender, &ack(0, &[(start, start + 1_000)]));
        }
        assert!(!has_arrived(&receiver, 3_000, 4_000));
        for number in 2..=SACKED as u32 + 1 {
            assert!(has_arrived(
                &receiver,
                number * 3_000,
                number * 3_000 + 1_000
            ));
        }
    }

    #[test]
    fn a_duplicate_is_counted_and_what_was_never_sent_is_not_believed() {
        let (mut receiver, sender) = halves();
        read(
            &mut receiver,
            &sender,
            &ack(5_000, &[(1_000, 3_000), (6_000, 7_000)]),
        );
        assert_eq!(receiver.dsacks, 2);
        assert!(has_arrived(&receiver, 6_000, 7_000));
        assert!(!has_arrived(&receiver, 1_000, 3_000));
        for block in [(SENT, SENT + 1), (9_000, 8_000), (5_000, 6_000)] {
            read(
                &mut receiver,
                &sender,
                &ack(5_000, &[(6_500, 7_000), block]),
            );
            assert!(!has_arrived(&receiver, block.0, block.1));
        }
    }
}
