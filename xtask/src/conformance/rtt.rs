//! Every RTT that a flow's segments allow to be measured: more than anyone does measure.

use std::collections::VecDeque;

use super::{
    definition::Reordered,
    segment::{Direction, Segment, ahead, flag},
};

/// The RTT to judge a hole's age by before the first sample (`monitor_ebpf::loss`).
const RTT_ASSUMED_US: u64 = 20_000;

/// Segments and timestamps that may wait for an answer: more than a window holds, so that a
/// capture of one direction does not fill the memory.
const OUTSTANDING: usize = 1 << 16;

/// Times are cut to whole microseconds on both ends.
const ROUNDING_US: u64 = 1;

/// One RTT of a direction's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub rtt_us: u64,
    /// When it was known, µs since 1970.
    pub known_us: u64,
    /// The frame that was answered, and the one that answered it.
    pub sent_frame: u32,
    pub answer_frame: u32,
    pub source: Source,
}

/// What answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An acknowledgement of exactly this segment.
    Acknowledged,
    /// One that covers more than it, or not all of the next.
    Covered,
    /// The first echo of a new timestamp.
    Timestamp,
}

/// The RTTs of both directions, by [`Direction::index`], each in the order of their answers.
#[derive(Debug, Default)]
pub struct Samples {
    of: [Vec<Sample>; 2],
    /// Least and most up to each sample.
    extremes: [Vec<(u64, u64)>; 2],
}

impl Samples {
    /// The RTTs of one direction's data.
    pub fn of(&self, direction: Direction) -> &[Sample] {
        &self.of[direction.index()]
    }

    /// Whether our figure is one of them, and which.
    pub fn find(&self, direction: Direction, rtt_us: u64) -> Option<&Sample> {
        self.of(direction)
            .iter()
            .find(|sample| sample.rtt_us.abs_diff(rtt_us) <= ROUNDING_US)
    }

    /// Whether a hole of this age is younger than half the path's RTT, whichever of the samples
    /// up to then were taken and smoothed.
    pub fn reordered(&self, age_us: u64, now_us: u64) -> Reordered {
        let mut least: Option<u64> = None;
        let mut most = 0;
        for (samples, extremes) in self.of.iter().zip(&self.extremes) {
            let known = samples.partition_point(|sample| sample.known_us <= now_us);
            if let Some((min, max)) = known.checked_sub(1).and_then(|last| extremes.get(last)) {
                least = Some(least.map_or(*min, |least| least.min(*min)));
                most += max;
            }
        }
        let least = least.unwrap_or(RTT_ASSUMED_US);
        let most = if most == 0 { RTT_ASSUMED_US } else { most };
        if age_us < least / 2 {
            Reordered::Yes
        } else if age_us >= most / 2 {
            Reordered::No
        } else {
            Reordered::DependsOnRtt
        }
    }
}

/// A segment that is not acknowledged yet.
struct Outstanding {
    start: u32,
    end: u32,
    sent_us: u64,
    frame: u32,
    /// Bytes of it were sent again: which copy is acknowledged cannot be told (Karn).
    again: bool,
}

/// One direction, so far.
#[derive(Default)]
struct Side {
    highest: Option<u32>,
    outstanding: VecDeque<Outstanding>,
    /// New TSvals that wait for their echo.
    stamps: VecDeque<(u32, u64, u32)>,
    newest_stamp: Option<u32>,
}

/// All RTTs of a flow.
pub fn samples(segments: &[&Segment]) -> Samples {
    let mut sides = [Side::default(), Side::default()];
    let mut samples = Samples::default();
    for segment in segments {
        if segment.has(flag::RST) {
            continue;
        }
        let (_, direction) = segment.tuple();
        let own = direction.index();
        let peer = 1 - own;
        let found = &mut samples.of[peer];
        if segment.has(flag::ACK) {
            acknowledge(&mut sides[peer], segment, found);
        }
        stamp(&mut sides, own, segment, found);
        send(&mut sides[own], segment);
    }
    samples.extremes = [0, 1].map(|direction| {
        let mut extremes: Option<(u64, u64)> = None;
        let up_to = samples.of[direction].iter().map(|sample| {
            let (min, max) = extremes.unwrap_or((sample.rtt_us, sample.rtt_us));
            *extremes.insert((min.min(sample.rtt_us), max.max(sample.rtt_us)))
        });
        up_to.collect()
    });
    samples
}

fn send(own: &mut Side, segment: &Segment) {
    let (start, end) = (segment.sequence, segment.end());
    if start == end {
        return;
    }
    let again = own.highest.is_some_and(|highest| ahead(start, highest) > 0);
    if again {
        for sent in &mut own.outstanding {
            sent.again |= ahead(start, sent.end) > 0 && ahead(sent.start, end) > 0;
        }
    }
    if own.highest.is_none_or(|highest| ahead(highest, end) > 0) {
        own.highest = Some(end);
    }
    if own.outstanding.len() == OUTSTANDING {
        own.outstanding.pop_front();
    }
    own.outstanding.push_back(Outstanding {
        start,
        end,
        sent_us: segment.time_us(),
        frame: segment.frame,
        again,
    });
}

fn acknowledge(peer: &mut Side, answer: &Segment, found: &mut Vec<Sample>) {
    let ack = answer.acknowledgment;
    peer.outstanding.retain(|sent| {
        if ahead(sent.end, ack) < 0 {
            return true;
        }
        if !sent.again {
            let source = if sent.end == ack {
                Source::Acknowledged
            } else {
                Source::Covered
            };
            found.extend(sample(sent.sent_us, sent.frame, answer, source));
        }
        false
    });
}

fn stamp(sides: &mut [Side; 2], own: usize, segment: &Segment, found: &mut Vec<Sample>) {
    let Some((value, echo)) = segment.timestamps else {
        return;
    };
    if segment.has(flag::ACK) {
        let stamps = &mut sides[1 - own].stamps;
        while let Some(&(value, sent_us, frame)) = stamps.front() {
            if ahead(value, echo) < 0 {
                break;
            }
            stamps.pop_front();
            found.extend(sample(sent_us, frame, segment, Source::Timestamp));
        }
    }
    let side = &mut sides[own];
    if side
        .newest_stamp
        .is_none_or(|newest| ahead(newest, value) > 0)
    {
        side.newest_stamp = Some(value);
        if side.stamps.len() == OUTSTANDING {
            side.stamps.pop_front();
        }
        side.stamps
            .push_back((value, segment.time_us(), segment.frame));
    }
}

fn sample(sent_us: u64, frame: u32, answer: &Segment, source: Source) -> Option<Sample> {
    let known_us = answer.time_us();
    let rtt_us = known_us.checked_sub(sent_us)?;
    Some(Sample {
        rtt_us,
        known_us,
        sent_frame: frame,
        answer_frame: answer.frame,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Conversation, *};

    /// Given data, its repetition and one acknowledgement, then no RTT is taken from either copy.
    #[test]
    fn what_was_sent_twice_has_no_rtt() {
        let mut flow = Conversation::default();
        flow.server(0, 1_000, 100).server(10, 1_000, 100);
        flow.client_ack(30, 1_100);
        assert_eq!(samples(&flow.segments()).of(flow.to_client()), []);
    }

    #[test]
    fn an_acknowledgement_answers_every_segment_it_covers() {
        let mut flow = Conversation::default();
        flow.server(0, 1_000, 100).server(4, 1_100, 100);
        flow.client_ack(30, 1_200);
        let samples = samples(&flow.segments());
        let found: Vec<_> = samples
            .of(flow.to_client())
            .iter()
            .map(|sample| (sample.rtt_us, sample.source))
            .collect();
        assert_eq!(
            found,
            [(30_000, Source::Covered), (26_000, Source::Acknowledged)]
        );
        assert!(samples.find(flow.to_client(), 26_001).is_some());
        assert!(samples.find(flow.to_client(), 27_000).is_none());
    }

    #[test]
    fn a_hole_is_judged_by_every_rtt_known_by_then() {
        let mut flow = Conversation::default();
        flow.server(0, 1_000, 100);
        flow.client_ack(30, 1_100);
        let samples = samples(&flow.segments());
        let at = |ms: u64| flow.time_us(ms);
        // Before the sample the assumed 20 ms count.
        assert_eq!(samples.reordered(9_999, at(10)), Reordered::Yes);
        assert_eq!(samples.reordered(10_000, at(10)), Reordered::No);
        assert_eq!(samples.reordered(14_000, at(40)), Reordered::Yes);
        assert_eq!(samples.reordered(15_000, at(40)), Reordered::No);
    }
}
