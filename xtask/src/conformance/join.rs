//! Brings together what is about the same connection: our flows, the reference's segments.

use std::collections::BTreeMap;

use super::{
    definition::{Class, HOLES, Reordered, Said, classes},
    ours::Flow,
    rtt::{self, Samples},
    segment::{Segment, Tuple},
};

/// Everything between two endpoints.
#[derive(Debug)]
pub struct Connection<'a> {
    pub tuple: Tuple,
    /// In the order of their beginnings.
    pub flows: Vec<Joined<'a>>,
    /// All segments, where we have no flow at all.
    pub strays: Vec<&'a Segment>,
}

/// One flow of ours, and its segments.
#[derive(Debug)]
pub struct Joined<'a> {
    pub ours: &'a Flow,
    pub segments: Vec<&'a Segment>,
    /// What each of them counts as.
    pub said: Vec<Said>,
    /// The same, if every hole were remembered.
    pub said_without_limit: Vec<Said>,
    /// Whether each counts as reordered or as a loss, where that depends on the RTT.
    pub reordered: Vec<bool>,
    pub rtts: Samples,
    /// The stream of the segment before the first one, between the same endpoints.
    pub stream_before: Option<u32>,
}

/// Joins by endpoints and time.
pub fn connections<'a>(flows: &'a [Flow], segments: &'a [Segment]) -> Vec<Connection<'a>> {
    let mut tuples: BTreeMap<Tuple, (Vec<&Flow>, Vec<&Segment>)> = BTreeMap::new();
    for flow in flows {
        tuples.entry(flow.tuple).or_default().0.push(flow);
    }
    for segment in segments {
        let (tuple, _) = segment.tuple();
        tuples.entry(tuple).or_default().1.push(segment);
    }
    tuples
        .into_iter()
        .map(|(tuple, (mut flows, segments))| {
            flows.sort_by_key(|flow| flow.start_us);
            connection(tuple, &flows, segments)
        })
        .collect()
}

fn connection<'a>(tuple: Tuple, flows: &[&'a Flow], segments: Vec<&'a Segment>) -> Connection<'a> {
    if flows.is_empty() {
        return Connection {
            tuple,
            flows: Vec::new(),
            strays: segments,
        };
    }
    let mut parts: Vec<Vec<&Segment>> = vec![Vec::new(); flows.len()];
    for segment in segments {
        let later = flows.partition_point(|flow| flow.start_us <= segment.time_us());
        parts[later.saturating_sub(1)].push(segment);
    }
    let mut stream_before = None;
    let flows = flows
        .iter()
        .zip(parts)
        .map(|(ours, segments)| {
            let last = segments.last().map(|segment| segment.stream);
            let joined = Joined::new(ours, segments, stream_before);
            stream_before = last.or(stream_before);
            joined
        })
        .collect();
    Connection {
        tuple,
        flows,
        strays: Vec::new(),
    }
}

impl<'a> Joined<'a> {
    fn new(ours: &'a Flow, segments: Vec<&'a Segment>, stream_before: Option<u32>) -> Self {
        let rtts = rtt::samples(&segments);
        let said = classes(&segments, &rtts, Some(HOLES));
        let said_without_limit = classes(&segments, &rtts, None);
        let reordered = decide(ours, &said);
        Self {
            ours,
            segments,
            said,
            said_without_limit,
            reordered,
            rtts,
            stream_before,
        }
    }

    /// Index of a frame's segment in this flow.
    pub fn index_of(&self, frame: u32) -> Option<usize> {
        self.segments
            .binary_search_by_key(&frame, |segment| segment.frame)
            .ok()
    }
}

/// Where a hole's age lies between what every RTT calls reordering and what every RTT calls a
/// loss, our count says how many of these were reordering: the youngest.
fn decide(ours: &Flow, said: &[Said]) -> Vec<bool> {
    let mut reordered = vec![false; said.len()];
    for (direction, figures) in ours.directions.iter().enumerate() {
        let own = || {
            said.iter()
                .enumerate()
                .filter(|(_, said)| said.direction.index() == direction)
        };
        let sure: i64 = own().map(|(_, said)| said.class.reordered(false)).sum();
        let mut open: Vec<(u64, usize)> = own()
            .filter_map(|(index, said)| match said.class {
                Class::Fills {
                    age_us,
                    reordered: Reordered::DependsOnRtt,
                } => Some((age_us, index)),
                _ => None,
            })
            .collect();
        open.sort_unstable();
        let wanted = i64::try_from(figures.reordered).unwrap_or(i64::MAX) - sure;
        let wanted = usize::try_from(wanted).unwrap_or(0);
        for (_, index) in open.into_iter().take(wanted) {
            reordered[index] = true;
        }
    }
    reordered
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ours::Figures, testing::Conversation},
        *,
    };

    fn flow_at(start_us: u64, flow: &Conversation) -> Flow {
        let segments = flow.segments();
        Flow {
            tuple: segments[0].tuple().0,
            start_us,
            last_us: start_us,
            handshake_rtt_us: None,
            directions: [Figures::default(); 2],
        }
    }

    #[test]
    fn a_port_used_twice_is_two_flows() {
        let mut talk = Conversation::default();
        talk.handshake(0, 10).handshake(100_000, 10);
        let flows = [0, 100_000].map(|ms| flow_at(talk.time_us(ms), &talk));
        let segments: Vec<Segment> = talk.segments().into_iter().copied().collect();
        let connections = connections(&flows, &segments);
        assert_eq!(connections.len(), 1);
        let frames: Vec<Vec<u32>> = connections[0]
            .flows
            .iter()
            .map(|joined| {
                joined
                    .segments
                    .iter()
                    .map(|segment| segment.frame)
                    .collect()
            })
            .collect();
        assert_eq!(frames, [vec![1, 2, 3], vec![4, 5, 6]]);
    }

    #[test]
    fn segments_without_a_flow_of_ours_are_strays() {
        let mut talk = Conversation::default();
        talk.handshake(0, 10);
        let segments: Vec<Segment> = talk.segments().into_iter().copied().collect();
        let connections = connections(&[], &segments);
        assert_eq!(connections[0].strays.len(), 3);
    }
}
