//! What is true of every packet with data that passes a tap, from what was sent before it and
//! what arrived behind it.

use std::collections::{BTreeMap, HashMap};

use super::segment::Segment;

/// One packet at the tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// Its bytes were not sent before, nor anything beyond them seen.
    New,
    /// Its bytes were not sent before, but what was sent later overtook it.
    Reordered,
    /// Sent again; no earlier copy reached the tap, and nothing beyond it did: to the tap it is
    /// new. (The end of a burst that was lost before the tap.)
    Unseen,
    /// Sent again; no earlier copy reached the tap.
    Upstream,
    /// Sent again; an earlier copy passed the tap, none arrived.
    Downstream,
    /// Sent again; an earlier copy arrived.
    Spurious,
}

/// The largest payload of one packet.
const PAYLOAD_MAX: u32 = 1_460;

/// The truth of each packet of `tap`. All three are one direction of one connection, in the order
/// in which they passed: packets with data or a FIN, one wire segment each.
///
/// # Panics
/// If a packet at the tap or behind it was never sent, or two transmissions look the same.
pub fn of(sent: &[Segment], tap: &[Segment], arrived: &[Segment]) -> Vec<Truth> {
    let Some(first) = sent.first() else {
        assert!(tap.is_empty() && arrived.is_empty(), "nothing was sent");
        return Vec::new();
    };
    let offset = |segment: &Segment| segment.sequence.wrapping_sub(first.sequence);
    let mut transmissions = HashMap::new();
    let mut by_start: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, segment) in sent.iter().enumerate() {
        let before = transmissions.insert((segment.id, segment.sequence), at);
        assert!(
            before.is_none(),
            "two transmissions look the same: {segment:?}"
        );
        by_start.entry(offset(segment)).or_default().push(at);
    }
    let transmission = |segment: &Segment| {
        let at = transmissions.get(&(segment.id, segment.sequence));
        *at.unwrap_or_else(|| panic!("{segment:?} was never sent"))
    };
    let mut has_arrived = vec![false; sent.len()];
    for segment in arrived {
        has_arrived[transmission(segment)] = true;
    }
    let mut has_passed = vec![false; sent.len()];
    let mut highest = 0;
    let mut truths = Vec::with_capacity(tap.len());
    for segment in tap {
        let this = transmission(segment);
        let start = offset(segment);
        let mut earlier = by_start
            .range(start.saturating_sub(PAYLOAD_MAX)..=start)
            .flat_map(|(_, transmissions)| transmissions)
            .filter(|&&at| at < this && offset(&sent[at]) + sent[at].space() > start)
            .peekable();
        let overtaken = start < highest;
        truths.push(if earlier.peek().is_none() {
            if overtaken {
                Truth::Reordered
            } else {
                Truth::New
            }
        } else {
            let (mut passed, mut arrived) = (false, false);
            for &at in earlier {
                passed |= has_passed[at];
                arrived |= has_arrived[at];
            }
            match (arrived, passed, overtaken) {
                (true, _, _) => Truth::Spurious,
                (false, true, _) => Truth::Downstream,
                (false, false, true) => Truth::Upstream,
                (false, false, false) => Truth::Unseen,
            }
        });
        has_passed[this] = true;
        highest = highest.max(start + segment.space());
    }
    truths
}
