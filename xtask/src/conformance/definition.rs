//! What docs/measurement.md says each segment of a flow counts as, worked out from what the
//! reference decoded: with every segment at hand, no packet code, and no limit but the one asked
//! for.
//!
//! It stands between our figures and a reference's: ours must equal it, and where it differs from
//! the reference, it differs about single segments, of which a rule must say why.

use super::segment::{Direction, Segment, ahead, flag};

/// Holes that `lastmile` remembers a direction (`monitor_ebpf::flow::GAPS`).
pub const HOLES: usize = 8;

/// Packets that may pass one way before the other way is taken to pass elsewhere
/// (`monitor_ebpf::observe`).
const ONE_SIDED_PACKETS: usize = 64;

/// What a segment counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It carries neither data nor a FIN.
    Nothing,
    /// A reset: whatever it carries is no data (RFC 9293, 3.10.7).
    Reset,
    /// The packet path cannot read it: a fragment, a tunnel, a header that was cut.
    Unread,
    /// Nothing came back yet: payload counts, and is not looked at.
    Waiting,
    Syn,
    /// A SYN where one was seen: the handshake is not data.
    SynAgain,
    /// A keep-alive or a zero-window probe.
    Probe,
    New,
    /// A FIN or bytes below the highest sequence number.
    Again(Before),
    /// It begins in a hole that never crossed here, of this age (0 where it was forgotten).
    Fills {
        age_us: u64,
        reordered: Reordered,
    },
}

/// What is known of bytes that are sent below the highest sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Acknowledged,
    /// They passed here, or there was no room to remember that they did not.
    Seen,
    /// They lie below the first byte that was seen: the capture began later.
    BelowFirst,
}

/// Whether a segment was sent before the hole opened that it fills, which timestamps say; without
/// them, whether the hole is younger than half an RTT, by every RTT that may have been known then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reordered {
    Yes,
    No,
    DependsOnRtt,
}

/// One segment's class, and where its direction and the other one stood before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub class: Class,
    pub direction: Direction,
    /// The highest sequence number sent, and the segment (its index) that sent it.
    pub highest: Option<(u32, usize)>,
    /// The other side's highest acknowledgement.
    pub acknowledged: Option<u32>,
}

impl Class {
    /// 1 where it counts as a retransmission; `DependsOnRtt` as `reordered` says.
    pub fn retransmitted(self, reordered: bool) -> i64 {
        match self {
            Self::Again(_) => 1,
            Self::Fills { .. } => 1 - self.reordered(reordered),
            _ => 0,
        }
    }

    /// 1 where it counts as reordered; `DependsOnRtt` as `reordered` says.
    pub fn reordered(self, reordered: bool) -> i64 {
        match self {
            Self::Fills {
                reordered: Reordered::Yes,
                ..
            } => 1,
            Self::Fills {
                reordered: Reordered::DependsOnRtt,
                ..
            } => i64::from(reordered),
            _ => 0,
        }
    }

    /// Whether its payload counts as bytes and as a frame.
    pub fn counts_payload(self) -> bool {
        matches!(
            self,
            Self::Waiting | Self::Syn | Self::New | Self::Again(_) | Self::Fills { .. }
        )
    }
}

/// A hole that opened at some time.
#[derive(Debug, Clone, Copy)]
struct Hole {
    start: u32,
    end: u32,
    opened_us: u64,
    /// Its direction's highest timestamp by then.
    stamp: Option<u32>,
}

/// One direction.
#[derive(Debug, Default)]
struct Side {
    highest: Option<(u32, usize)>,
    first: Option<u32>,
    initial: Option<u32>,
    acknowledged: Option<u32>,
    window_closed: bool,
    /// Places for holes; with a limit, one that was acknowledged is free again.
    holes: Vec<Hole>,
    /// One past the highest sequence number of the last hole for which there was no place.
    forgotten: Option<u32>,
    /// The highest timestamp.
    stamp: Option<u32>,
}

impl Side {
    fn open(&mut self, hole: Hole, acknowledged: Option<u32>, limit: Option<usize>) {
        let free = |hole: &Hole| {
            hole.start == hole.end
                || acknowledged.is_some_and(|acknowledged| ahead(hole.end, acknowledged) >= 0)
        };
        if let Some(place) = self.holes.iter_mut().find(|hole| free(hole)) {
            *place = hole;
        } else if limit.is_none_or(|limit| self.holes.len() < limit) {
            self.holes.push(hole);
        } else {
            self.forgotten = Some(hole.end);
        }
    }

    fn stamp(&mut self, segment: &Segment) {
        if let Some((value, _)) = segment.timestamps
            && self.stamp.is_none_or(|highest| ahead(highest, value) > 0)
        {
            self.stamp = Some(value);
        }
    }

    /// Takes `start..end` out of every hole: the one that `start` lies in.
    fn fill(&mut self, start: u32, end: u32, limit: Option<usize>) -> Option<Hole> {
        let mut filled = None;
        let mut rest = None;
        for hole in &mut self.holes {
            let overlaps =
                hole.start != hole.end && ahead(hole.start, end) > 0 && ahead(start, hole.end) > 0;
            if !overlaps {
                continue;
            }
            let goes_on = ahead(end, hole.end) > 0;
            if ahead(hole.start, start) >= 0 {
                filled = Some(*hole);
                if goes_on {
                    rest = Some(Hole {
                        start: end,
                        ..*hole
                    });
                }
                hole.end = start;
            } else {
                hole.start = if goes_on { end } else { hole.end };
            }
        }
        if let Some(rest) = rest {
            self.open(rest, None, limit);
        }
        filled
    }
}

/// Classes of a flow's segments, which are all in its order of capture. `holes` limits how many
/// are remembered a direction; `rtts` are the flow's ([`super::rtt::samples`]).
pub fn classes(
    segments: &[&Segment],
    rtts: &super::rtt::Samples,
    holes: Option<usize>,
) -> Vec<Said> {
    let waiting = waiting(segments);
    let mut sides = [Side::default(), Side::default()];
    let mut said = Vec::with_capacity(segments.len());
    for (index, segment) in segments.iter().enumerate() {
        let (_, direction) = segment.tuple();
        let [low, high] = &mut sides;
        let (own, peer) = match direction {
            Direction::LowToHigh => (low, high),
            Direction::HighToLow => (high, low),
        };
        let before = Said {
            class: Class::Nothing,
            direction,
            highest: own.highest,
            acknowledged: peer.acknowledged,
        };
        let class = if !segment.is_read() {
            Class::Unread
        } else if index < waiting {
            wait(own, index, segment)
        } else {
            if !segment.has(flag::RST) {
                own.stamp(segment);
            }
            acknowledge(own, peer, segment);
            class(own, peer, index, segment, rtts, holes)
        };
        said.push(Said { class, ..before });
    }
    said
}

/// How many segments pass before the other direction is seen, or is taken to pass elsewhere.
fn waiting(segments: &[&Segment]) -> usize {
    let mut read = segments.iter().filter(|segment| segment.is_read());
    let Some(first) = read.next() else {
        return 0;
    };
    let same_way = read
        .take(ONE_SIDED_PACKETS - 1)
        .take_while(|segment| segment.source == first.source)
        .count();
    // Those that are not read lie anywhere between.
    segments
        .iter()
        .enumerate()
        .filter(|(_, segment)| segment.is_read())
        .nth(same_way)
        .map_or(0, |(last, _)| last + 1)
}

/// Before the other direction is seen only the highest sequence number is kept.
fn wait(own: &mut Side, index: usize, segment: &Segment) -> Class {
    if own.first.is_none() && own.acknowledged.is_none() {
        if segment.has(flag::SYN) {
            own.initial = Some(segment.sequence);
            own.first = Some(segment.sequence);
            own.highest = Some((segment.end(), index));
        }
        if segment.has(flag::ACK) && !segment.has(flag::SYN) {
            own.acknowledged = Some(segment.acknowledgment);
        }
    }
    own.stamp(segment);
    let end = segment.sequence.wrapping_add(segment.len);
    let beyond = own
        .highest
        .is_none_or(|(highest, _)| ahead(highest, end) > 0);
    if segment.len > 0 {
        own.first.get_or_insert(segment.sequence);
        if beyond {
            own.highest = Some((end, index));
        }
    }
    Class::Waiting
}

fn acknowledge(own: &mut Side, peer: &Side, segment: &Segment) {
    if !segment.has(flag::ACK) || segment.has(flag::RST) {
        return;
    }
    let previous = own.acknowledged.or(peer.initial);
    if previous.is_some_and(|previous| ahead(previous, segment.acknowledgment) < 0) {
        return;
    }
    own.acknowledged = Some(segment.acknowledgment);
    // A window without its scale is not known, so neither is whether it is closed.
    own.window_closed = segment.window == 0
        && own.initial.is_some()
        && peer.initial.is_some()
        && !segment.has(flag::SYN);
}

fn class(
    own: &mut Side,
    peer: &Side,
    index: usize,
    segment: &Segment,
    rtts: &super::rtt::Samples,
    limit: Option<usize>,
) -> Class {
    let (start, end) = (segment.sequence, segment.end());
    if segment.has(flag::RST) {
        return Class::Reset;
    }
    if segment.has(flag::SYN) {
        if own.highest.is_some() {
            return Class::SynAgain;
        }
        own.initial = Some(start);
        own.first = Some(start);
        own.highest = Some((end, index));
        return Class::Syn;
    }
    if segment.len == 0 && !segment.has(flag::FIN) {
        return Class::Nothing;
    }
    let next = own.highest.map_or(start, |(highest, _)| highest);
    if is_probe(peer, segment, next) {
        return Class::Probe;
    }
    let first = *own.first.get_or_insert(start);
    if ahead(next, end) > 0 || own.highest.is_none() {
        own.highest = Some((end, index));
    }
    if ahead(next, start) >= 0 {
        if start != next {
            let hole = Hole {
                start: next,
                end: start,
                opened_us: segment.time_us(),
                stamp: own.stamp,
            };
            own.open(hole, peer.acknowledged, limit);
        }
        return Class::New;
    }
    let seen_end = if ahead(next, end) > 0 { next } else { end };
    if peer
        .acknowledged
        .is_some_and(|acknowledged| ahead(seen_end, acknowledged) >= 0)
    {
        return Class::Again(Before::Acknowledged);
    }
    match own.fill(start, seen_end, limit) {
        Some(hole) => {
            let age_us = segment.time_us().saturating_sub(hole.opened_us);
            Class::Fills {
                age_us,
                reordered: match (hole.stamp, segment.timestamps) {
                    (None, _) => rtts.reordered(age_us, segment.time_us()),
                    (Some(opened), Some((value, _))) if ahead(opened, value) > 0 => Reordered::No,
                    (Some(_), _) => Reordered::Yes,
                },
            }
        }
        None if own.forgotten.is_some_and(|end| ahead(start, end) > 0)
            && overtaken(own, segment) =>
        {
            Class::Fills {
                age_us: 0,
                reordered: Reordered::Yes,
            }
        }
        None if ahead(first, start) < 0 => Class::Again(Before::BelowFirst),
        None => Class::Again(Before::Seen),
    }
}

/// Whether something that was sent later passed before, as the timestamps tell.
fn overtaken(own: &Side, segment: &Segment) -> bool {
    match (own.stamp, segment.timestamps) {
        (Some(highest), Some((value, _))) => ahead(value, highest) > 0,
        _ => false,
    }
}

/// RFC 9293, 3.8.4 and 3.8.6.1.
fn is_probe(peer: &Side, segment: &Segment, next: u32) -> bool {
    if segment.len > 1 || segment.has(flag::FIN) {
        return false;
    }
    let keep_alive = segment.sequence == next.wrapping_sub(1) && peer.acknowledged == Some(next);
    let into_closed_window = peer.window_closed && peer.acknowledged == Some(segment.sequence);
    keep_alive || into_closed_window
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Conversation, *};
    use crate::conformance::rtt;

    /// The classes of one direction's segments.
    fn of(flow: &Conversation, direction: Direction, holes: Option<usize>) -> Vec<Class> {
        let segments = flow.segments();
        classes(&segments, &rtt::samples(&segments), holes)
            .into_iter()
            .filter(|said| said.direction == direction)
            .map(|said| said.class)
            .collect()
    }

    #[test]
    fn data_a_repetition_and_what_was_acknowledged() {
        let mut flow = Conversation::default();
        flow.handshake(0, 20);
        flow.server(40, 1_000, 100).server(41, 1_000, 100);
        flow.client_ack(60, 1_100);
        flow.server(61, 1_000, 100).server(62, 1_099, 1);
        assert_eq!(
            of(&flow, flow.to_client(), Some(HOLES)),
            [
                Class::Syn,
                Class::New,
                Class::Again(Before::Seen),
                Class::Again(Before::Acknowledged),
                Class::Probe,
            ]
        );
    }

    #[test]
    fn a_hole_is_reordering_when_it_is_young_and_a_loss_when_it_is_old() {
        for (filled_ms, reordered) in [(42, Reordered::Yes), (90, Reordered::No)] {
            let mut flow = Conversation::default();
            flow.handshake(0, 20);
            flow.server(40, 1_100, 100).server(filled_ms, 1_000, 100);
            let classes = of(&flow, flow.to_client(), Some(HOLES));
            assert_eq!(
                classes.last(),
                Some(&Class::Fills {
                    age_us: (filled_ms - 40) * 1_000,
                    reordered
                })
            );
        }
    }

    #[test]
    fn more_holes_than_are_kept_are_forgotten() {
        let mut flow = Conversation::default();
        flow.handshake(0, 20);
        for hole in 0..HOLES as u32 + 2 {
            flow.server(40, 1_100 + hole * 200, 100);
        }
        let last_hole = 1_000 + (HOLES as u32 + 1) * 200;
        flow.server(41, last_hole, 100);
        let last = |holes| of(&flow, flow.to_client(), holes).last().copied();
        assert_eq!(last(Some(HOLES)), Some(Class::Again(Before::Seen)));
        assert!(matches!(last(None), Some(Class::Fills { .. })));
    }

    #[test]
    fn before_an_answer_nothing_is_told_apart() {
        let mut flow = Conversation::default();
        flow.server(0, 1_000, 100).server(10, 1_000, 100);
        flow.client_ack(30, 1_100);
        flow.server(40, 1_000, 100);
        assert_eq!(
            of(&flow, flow.to_client(), Some(HOLES)),
            [
                Class::Waiting,
                Class::Waiting,
                Class::Again(Before::Acknowledged)
            ]
        );
    }
}
