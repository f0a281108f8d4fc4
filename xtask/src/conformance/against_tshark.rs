//! Our figures of a flow against tshark's, segment by segment.

use super::{
    definition::{Before, Class, Said},
    difference::{About, Balance, Difference},
    join::{Connection, Joined},
    rtt::Source,
    rules::{Metric, Reference, Rule},
    segment::{Carriage, Direction, Segment, ahead, flag},
};

/// A flow that is silent for this long is closed (`flows.idle_s`, its default).
pub const IDLE_US: u64 = 60_000_000;

/// What tshark takes for reordering before it knows a handshake RTT
/// (`tcp_analyze_sequence_number`).
const OUT_OF_ORDER_NS: u64 = 3_000_000;

/// Each time is cut to whole microseconds; a handshake has two parts.
const ROUNDING_US: i64 = 2;

/// Everything that differs about one pair of endpoints.
pub fn differences(connection: &Connection<'_>) -> Vec<Difference> {
    let mut differences: Vec<_> = flow_count(connection).into_iter().collect();
    for flow in &connection.flows {
        for direction in Direction::BOTH {
            differences.extend(payload(flow, direction, Metric::Bytes));
            differences.extend(payload(flow, direction, Metric::Frames));
            differences.extend(again(flow, direction, Metric::Retransmitted));
            differences.extend(again(flow, direction, Metric::OutOfOrder));
            differences.extend(minimum_rtt(flow, direction));
        }
        differences.extend(handshake(flow));
    }
    differences
}

fn about(flow: &Joined<'_>, direction: Option<Direction>, metric: Metric) -> About {
    About {
        tuple: flow.ours.tuple,
        direction,
        start_us: flow.ours.start_us,
        reference: Reference::Tshark,
        metric,
    }
}

/// Where connections begin.
fn flow_count(connection: &Connection<'_>) -> Option<Difference> {
    let mut balance = Balance::default();
    let mut streams: Vec<u32> = Vec::new();
    let mut count = |segment: &Segment| {
        if !streams.contains(&segment.stream) {
            streams.push(segment.stream);
        }
    };
    for segment in &connection.strays {
        count(segment);
    }
    if let Some(first) = connection.strays.first() {
        let streams = streams.len() as i64;
        balance.whole(stray(&connection.strays), -streams, first.frame);
    }
    let mut before: Option<&Segment> = None;
    let mut streams: Vec<u32> = streams;
    for flow in &connection.flows {
        if flow.segments.is_empty() {
            balance.whole(None, 1, 0);
        }
        for (index, segment) in flow.segments.iter().enumerate() {
            let is_new = !streams.contains(&segment.stream);
            if is_new {
                streams.push(segment.stream);
            }
            let begins = index == 0;
            let silence_us = before.map_or(0, |before| {
                segment.time_us().saturating_sub(before.time_us())
            });
            balance.segment(segment.frame, i64::from(begins), i64::from(is_new), || {
                if begins && silence_us >= IDLE_US {
                    Some(Rule::Silence)
                } else if is_new && segment.has(flag::SYN) {
                    Some(Rule::NewConnection)
                } else if is_new && !segment.is_read() {
                    unread(segment)
                } else {
                    None
                }
            });
            before = Some(segment);
        }
    }
    let start_us = match connection.flows.first() {
        Some(flow) => flow.ours.start_us,
        None => connection.strays.first()?.time_us(),
    };
    let about = About {
        tuple: connection.tuple,
        direction: None,
        start_us,
        reference: Reference::Tshark,
        metric: Metric::Flows,
    };
    let (ours, theirs) = (connection.flows.len() as i64, streams.len() as i64);
    balance.difference(about, Some(ours), Some(theirs))
}

/// Why none of these segments made a flow.
pub fn stray(segments: &[&Segment]) -> Option<Rule> {
    let first = segments.first()?;
    if segments.iter().all(|segment| !segment.is_read()) {
        return unread(first);
    }
    let read = || segments.iter().filter(|segment| segment.is_read());
    let begins_with_reset = read().next().is_some_and(|first| first.has(flag::RST));
    let without_data = read().all(|segment| segment.has(flag::RST) || segment.len == 0);
    (begins_with_reset && without_data).then_some(Rule::ResetAlone)
}

fn unread(segment: &Segment) -> Option<Rule> {
    match segment.carriage {
        Carriage::Quoted => Some(Rule::Quoted),
        _ if !segment.is_read() => Some(Rule::Unread),
        _ => None,
    }
}

/// Why a segment's payload is not counted.
pub fn payload_rule(class: Class, segment: &Segment) -> Option<Rule> {
    match class {
        Class::Probe => Some(Rule::Probe),
        Class::Reset => Some(Rule::ResetData),
        Class::SynAgain => Some(Rule::SynAgain),
        Class::Unread => unread(segment),
        _ => None,
    }
}

fn payload(flow: &Joined<'_>, direction: Direction, metric: Metric) -> Option<Difference> {
    let figures = flow.ours.directions[direction.index()];
    let ours = match metric {
        Metric::Bytes => figures.bytes,
        _ => figures.frames,
    };
    let mut theirs = 0;
    let mut balance = Balance::default();
    for (said, segment) in own(flow, direction) {
        let amount = |len: u32| match metric {
            Metric::Bytes => i64::from(len),
            _ => i64::from(len > 0),
        };
        let there = amount(segment.len_in_frame);
        theirs += there;
        let counted = if said.class.counts_payload() {
            amount(segment.len)
        } else {
            0
        };
        balance.segment(segment.frame, counted, there, || {
            if counted != 0 && segment.len != segment.len_in_frame {
                Some(Rule::CutRecord)
            } else {
                payload_rule(said.class, segment)
            }
        });
    }
    let about = about(flow, Some(direction), metric);
    balance.difference(about, signed(ours), Some(theirs))
}

/// The segments of one direction.
pub fn own<'a>(
    flow: &'a Joined<'_>,
    direction: Direction,
) -> impl Iterator<Item = (&'a Said, &'a Segment)> {
    flow.said
        .iter()
        .zip(flow.segments.iter().copied())
        .filter(move |(said, _)| said.direction == direction)
}

fn again(flow: &Joined<'_>, direction: Direction, metric: Metric) -> Option<Difference> {
    let figures = flow.ours.directions[direction.index()];
    let ours = match metric {
        Metric::Retransmitted => figures.retransmitted,
        _ => figures.reordered,
    };
    let mut theirs = 0;
    let mut balance = Balance::default();
    for (index, said) in flow.said.iter().enumerate() {
        if said.direction != direction {
            continue;
        }
        let segment = flow.segments[index];
        let reordered = flow.reordered[index];
        let (counted, there) = match metric {
            Metric::Retransmitted => (
                said.class.retransmitted(reordered),
                i64::from(segment.analysis.retransmission),
            ),
            _ => (
                said.class.reordered(reordered),
                i64::from(segment.analysis.out_of_order),
            ),
        };
        theirs += there;
        balance.segment(segment.frame, counted, there, || again_rule(flow, index));
    }
    let about = about(flow, Some(direction), metric);
    balance.difference(about, signed(ours), Some(theirs))
}

/// Why tshark takes the segment at `index` for something else than we do.
fn again_rule(flow: &Joined<'_>, index: usize) -> Option<Rule> {
    let (said, segment) = (&flow.said[index], flow.segments[index]);
    let analysis = &segment.analysis;
    let (repeats, out_of_order) = (analysis.retransmission, analysis.out_of_order);
    let next = said.highest.map(|(next, _)| next);
    // Whether tshark may hold it together with what came before this flow began.
    let remembers = flow.stream_before == Some(segment.stream) && (repeats || out_of_order);
    let begins_anew = || {
        said.highest
            .is_some_and(|(_, sender)| flow.segments[sender].stream != segment.stream)
    };
    match said.class {
        Class::Unread => unread(segment),
        Class::SynAgain => (repeats || out_of_order).then_some(Rule::SynAgain),
        Class::Syn => remembers.then_some(Rule::ForgottenFlow),
        Class::Reset => (segment.len > 0).then_some(Rule::ResetData),
        Class::Waiting if remembers => Some(Rule::ForgottenFlow),
        Class::Waiting if segment.has(flag::SYN) && (repeats || out_of_order) => {
            Some(Rule::SynAgain)
        }
        Class::Waiting => (repeats || out_of_order).then_some(Rule::Waiting),
        Class::Probe => (repeats || out_of_order).then_some(Rule::Probe),
        Class::New if remembers => Some(Rule::ForgottenFlow),
        Class::New => {
            let acknowledged = said
                .acknowledged
                .is_some_and(|acknowledged| ahead(segment.end(), acknowledged) >= 0);
            if (repeats || out_of_order) && repeats_unread(flow, index) {
                Some(Rule::Unread)
            } else if analysis.spurious && acknowledged {
                Some(Rule::AcknowledgedUnseen)
            } else if (repeats || out_of_order) && empty_ran_ahead(flow, index) {
                Some(Rule::EmptyAhead)
            } else {
                None
            }
        }
        Class::Again(_) | Class::Fills { .. } if begins_anew() => Some(Rule::NewConnection),
        Class::Again(_) if analysis.keep_alive => Some(Rule::KeepAliveLooks),
        Class::Again(_)
            if !repeats
                && !out_of_order
                && segment.len > 1
                && next == Some(segment.sequence.wrapping_add(1)) =>
        {
            Some(Rule::AfterProbe)
        }
        Class::Again(before) if out_of_order && soon(flow, index) => {
            match (before, flow.said_without_limit[index].class) {
                (_, Class::Fills { .. }) => Some(Rule::ManyHoles),
                (Before::BelowFirst, _) => Some(Rule::BelowFirst),
                _ => Some(Rule::OutOfOrderSeen),
            }
        }
        Class::Fills { .. } if out_of_order && soon(flow, index) => Some(Rule::OutOfOrderOld),
        Class::Fills { .. } if repeats && flow.reordered[index] => Some(Rule::RetransmissionYoung),
        Class::Fills { .. } if repeats && said.class.reordered(false) == 1 => {
            Some(Rule::RetransmissionYoung)
        }
        _ => None,
    }
}

/// Whether a segment without data had a higher sequence number than the one at `index`, before it.
fn empty_ran_ahead(flow: &Joined<'_>, index: usize) -> bool {
    let segment = flow.segments[index];
    let direction = flow.said[index].direction;
    flow.segments[..index]
        .iter()
        .zip(&flow.said)
        .any(|(other, said)| {
            said.direction == direction
                && matches!(said.class, Class::Nothing | Class::Probe)
                && ahead(segment.sequence, other.sequence) > 0
        })
}

/// Whether a segment comes so soon after the highest one that tshark takes it for reordering.
fn soon(flow: &Joined<'_>, index: usize) -> bool {
    let segment = flow.segments[index];
    let Some((_, sender)) = flow.said[index].highest else {
        return false;
    };
    let handshake_ns = flow
        .segments
        .iter()
        .find_map(|segment| segment.analysis.initial_rtt_ns);
    let within_ns = handshake_ns.unwrap_or(0).max(OUT_OF_ORDER_NS);
    segment
        .time_ns
        .saturating_sub(flow.segments[sender].time_ns)
        < within_ns
}

fn handshake(flow: &Joined<'_>) -> Option<Difference> {
    let ours = flow.ours.handshake_rtt_us.and_then(signed);
    let found = flow
        .segments
        .iter()
        .find(|segment| segment.analysis.initial_rtt_ns.is_some());
    let frame = found.map_or(0, |segment| segment.frame);
    let theirs = found
        .and_then(|segment| segment.analysis.initial_rtt_ns)
        .and_then(|rtt_ns| signed(rtt_ns / 1_000));
    match (ours, theirs) {
        (None, None) => return None,
        (Some(ours), Some(theirs)) if (ours - theirs).abs() <= ROUNDING_US => return None,
        _ => {}
    }
    let mut balance = Balance::default();
    let rule = handshake_rule(flow, ours.is_some());
    balance.whole(rule, ours.unwrap_or(0) - theirs.unwrap_or(0), frame);
    balance.difference(about(flow, None, Metric::HandshakeRtt), ours, theirs)
}

/// Why a handshake RTT of ours and of another may differ.
pub fn handshake_rule(flow: &Joined<'_>, ours: bool) -> Option<Rule> {
    let syns = |acknowledges: bool| {
        flow.segments
            .iter()
            .filter(move |segment| segment.has(flag::SYN) && segment.has(flag::ACK) == acknowledges)
    };
    let all = || syns(false).chain(syns(true));
    if let Some(unread) = all().find(|segment| !segment.is_read()) {
        return self::unread(unread);
    }
    if syns(false).count() > 1 || syns(true).count() > 1 {
        return (!ours).then_some(Rule::HandshakeTwice);
    }
    let Some([syn, syn_ack, ack]) = in_order(flow) else {
        return (!ours).then_some(Rule::HandshakePart);
    };
    let time_us = |index: usize| flow.segments[index].time_us();
    if time_us(syn) == time_us(syn_ack) || time_us(syn_ack) == time_us(ack) {
        return Some(Rule::ZeroRtt);
    }
    (!ours && syn_ack > syn + 1).then_some(Rule::HandshakeFollowed)
}

/// SYN, SYN-ACK and the first acknowledgement of it, if they follow each other.
fn in_order(flow: &Joined<'_>) -> Option<[usize; 3]> {
    let position = |wanted: &dyn Fn(&Segment) -> bool| {
        flow.segments.iter().position(|segment| wanted(segment))
    };
    let syn = position(&|segment| segment.has(flag::SYN) && !segment.has(flag::ACK))?;
    let syn_ack = position(&|segment| segment.has(flag::SYN) && segment.has(flag::ACK))?;
    let answered = flow.segments[syn_ack].sequence.wrapping_add(1);
    let ack = position(&|segment| {
        segment.has(flag::ACK)
            && !segment.has(flag::SYN)
            && !segment.has(flag::RST)
            && ahead(answered, segment.acknowledgment) >= 0
            && segment.source == flow.segments[syn].source
    })?;
    (syn < syn_ack && syn_ack < ack).then_some([syn, syn_ack, ack])
}

fn minimum_rtt(flow: &Joined<'_>, direction: Direction) -> Option<Difference> {
    let ours = flow.ours.directions[direction.index()].rtt_min_us;
    let pairs: Vec<Pair> = flow
        .segments
        .iter()
        .zip(&flow.said)
        .filter(|(_, said)| said.direction != direction)
        .filter_map(|(segment, _)| {
            let (sent, rtt_ns) = segment.analysis.acknowledges?;
            Some(Pair {
                sent,
                answer: segment.frame,
                rtt_us: rtt_ns / 1_000,
            })
        })
        .collect();
    let theirs = pairs.iter().min_by_key(|pair| pair.rtt_us);
    let about = about(flow, Some(direction), Metric::MinimumRtt);
    let their_us = theirs.map(|pair| pair.rtt_us);
    let mut balance = Balance::default();
    let amount = |rtt_us: Option<u64>| rtt_us.and_then(signed);
    if let Some(rtt_us) = ours {
        let Some(sample) = flow.rtts.find(direction, rtt_us) else {
            // No two segments of this flow are that far apart.
            balance.whole(None, signed(rtt_us).unwrap_or(0), 0);
            return balance.difference(about, amount(ours), amount(their_us));
        };
        if their_us.is_none_or(|theirs| theirs > rtt_us + 1) {
            let rule = match sample.source {
                Source::Timestamp => Some(Rule::Timestamps),
                Source::Covered => Some(Rule::Covered),
                // tshark knows no end of a segment whose record was cut, nor whether that or a later
                // one is acknowledged.
                Source::Acknowledged => flow
                    .segments
                    .iter()
                    .zip(&flow.said)
                    .take_while(|(segment, _)| segment.frame < sample.answer_frame)
                    .find(|(sent, said)| {
                        said.direction == direction && sent.len != sent.len_in_frame
                    })
                    .map(|_| Rule::CutRecord),
            };
            let less = signed(rtt_us)? - amount(their_us).unwrap_or(0);
            balance.whole(rule, less, sample.answer_frame);
            return balance.difference(about, amount(ours), amount(their_us));
        }
    }
    // Every RTT of theirs that is shorter than our shortest needs a reason.
    let shorter = pairs
        .iter()
        .filter(|pair| ours.is_none_or(|ours| pair.rtt_us + 1 < ours));
    let mut reasons: Vec<(Option<Rule>, &Pair)> = shorter
        .map(|pair| (pair_rule(flow, direction, pair), pair))
        .collect();
    if reasons.is_empty() {
        return None;
    }
    // One that has none outweighs all others; else the shortest one's reason is the difference's.
    reasons.sort_by_key(|(rule, pair)| (rule.is_some(), pair.rtt_us));
    let (rule, pair) = reasons[0];
    let difference = amount(ours).unwrap_or(0) - amount(their_us).unwrap_or(0);
    balance.whole(rule, difference, pair.answer);
    balance.difference(about, amount(ours), amount(their_us))
}

/// An RTT of tshark's.
struct Pair {
    sent: u32,
    answer: u32,
    rtt_us: u64,
}

/// Why we took no sample of a pair that tshark measured.
fn pair_rule(flow: &Joined<'_>, direction: Direction, pair: &Pair) -> Option<Rule> {
    let Some(sent) = flow.index_of(pair.sent) else {
        return flow.stream_before.map(|_| Rule::ForgottenFlow);
    };
    let answer = flow.index_of(pair.answer)?;
    let (said, segment) = (&flow.said[sent], flow.segments[sent]);
    if !segment.is_read() || !flow.segments[answer].is_read() {
        return unread(segment).or_else(|| unread(flow.segments[answer]));
    }
    if pair.rtt_us == 0 {
        return Some(Rule::ZeroRtt);
    }
    if matches!(said.class, Class::Probe | Class::Nothing | Class::Waiting)
        && !segment.has(flag::SYN)
    {
        return Some(Rule::ProbeRtt);
    }
    if sent_twice(flow, direction, sent, answer) {
        return Some(Rule::Karn);
    }
    if older_outstanding(said) {
        return Some(Rule::OneAtATime);
    }
    dropped(flow, direction, sent, answer).then_some(Rule::Dropped)
}

/// Whether bytes of a segment passed more than once before its answer.
pub fn sent_twice(flow: &Joined<'_>, direction: Direction, sent: usize, answer: usize) -> bool {
    let segment = flow.segments[sent];
    let overlaps = |other: &Segment| {
        ahead(other.sequence, segment.end()) > 0 && ahead(segment.sequence, other.end()) > 0
    };
    flow.segments[..answer]
        .iter()
        .zip(&flow.said)
        .enumerate()
        .any(|(index, (other, said))| {
            index != sent && said.direction == direction && overlaps(other)
        })
}

/// Whether anything of the direction was sent again between a segment and its answer.
pub fn dropped(flow: &Joined<'_>, direction: Direction, sent: usize, answer: usize) -> bool {
    flow.said[sent..answer].iter().any(|said| {
        said.direction == direction && matches!(said.class, Class::Again(_) | Class::Fills { .. })
    })
}

/// Whether the bytes at `index` passed before in a segment that is not read.
pub fn repeats_unread(flow: &Joined<'_>, index: usize) -> bool {
    let segment = flow.segments[index];
    flow.segments[..index].iter().any(|other| {
        !other.is_read()
            && other.source == segment.source
            && ahead(other.sequence, segment.end()) > 0
            && ahead(segment.sequence, other.end()) > 0
    })
}

/// Whether data of the same direction was under way when a segment was sent.
pub fn older_outstanding(said: &Said) -> bool {
    match (said.highest, said.acknowledged) {
        (Some((highest, _)), Some(acknowledged)) => ahead(acknowledged, highest) > 0,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn signed(count: u64) -> Option<i64> {
    i64::try_from(count).ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{join::connections, ours, testing::Conversation},
        *,
    };
    use crate::conformance::segment::Segment;

    /// What `lastmile` would say of the conversation, with these figures toward the client.
    fn flow(talk: &Conversation, to_client: ours::Figures) -> ours::Flow {
        let segments = talk.segments();
        let mut directions = [ours::Figures::default(); 2];
        directions[talk.to_client().index()] = to_client;
        ours::Flow {
            tuple: segments[0].tuple().0,
            start_us: segments[0].time_us(),
            last_us: segments[segments.len() - 1].time_us(),
            handshake_rtt_us: None,
            directions,
        }
    }

    fn against(talk: &Conversation, to_client: ours::Figures, metric: Metric) -> Vec<Difference> {
        let segments: Vec<Segment> = talk.segments().into_iter().copied().collect();
        let flows = [flow(talk, to_client)];
        connections(&flows, &segments)
            .iter()
            .flat_map(differences)
            .filter(|difference| difference.metric == metric)
            .collect()
    }

    fn rules(differences: &[Difference]) -> Vec<Rule> {
        differences
            .iter()
            .flat_map(|difference| difference.explained.keys().copied())
            .collect()
    }

    #[test]
    fn a_repetition_that_tshark_calls_out_of_order_is_one_only_if_it_came_soon() {
        for (again_ms, explained) in [(42, true), (60, false)] {
            let mut talk = Conversation::default();
            talk.handshake(0, 1);
            talk.server(40, 1_000, 100).server(41, 1_100, 100);
            talk.server(again_ms, 1_000, 100);
            talk.last().analysis.out_of_order = true;
            let figures = ours::Figures {
                retransmitted: 1,
                ..Default::default()
            };
            let found = against(&talk, figures, Metric::Retransmitted);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].is_explained(), explained, "{again_ms} ms");
            if explained {
                assert_eq!(rules(&found), [Rule::OutOfOrderSeen]);
            }
        }
    }

    #[test]
    fn a_count_that_no_segment_bears_out_is_not_explained() {
        let mut talk = Conversation::default();
        talk.handshake(0, 10).server(40, 1_000, 100);
        let figures = ours::Figures {
            bytes: 100,
            frames: 1,
            retransmitted: 1,
            ..Default::default()
        };
        let found = against(&talk, figures, Metric::Retransmitted);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].residual, found[0].is_explained()), (1, false));
    }

    #[test]
    fn a_keep_alive_is_no_payload() {
        let mut talk = Conversation::default();
        talk.handshake(0, 10).server(40, 1_000, 100);
        talk.client_ack(60, 1_100).server(9_000, 1_099, 1);
        talk.last().analysis.keep_alive = true;
        let figures = ours::Figures {
            bytes: 100,
            frames: 1,
            ..Default::default()
        };
        let found = against(&talk, figures, Metric::Bytes);
        assert_eq!(rules(&found), [Rule::Probe]);
        assert!(found[0].is_explained());
        assert!(against(&talk, figures, Metric::Retransmitted).is_empty());
    }

    #[test]
    fn a_shorter_rtt_needs_older_data_outstanding() {
        let mut talk = Conversation::default();
        talk.handshake(0, 20);
        talk.server(100, 1_000, 100).server(104, 1_100, 100);
        talk.client_ack(130, 1_200);
        talk.last().analysis.acknowledges = Some((5, 26_000_000));
        let figures = |rtt_min_us| ours::Figures {
            rtt_min_us: Some(rtt_min_us),
            ..Default::default()
        };
        let found = against(&talk, figures(30_000), Metric::MinimumRtt);
        assert_eq!(rules(&found), [Rule::OneAtATime]);
        assert!(found[0].is_explained());
        // No segment was answered after 29 ms.
        let found = against(&talk, figures(29_000), Metric::MinimumRtt);
        assert!(!found[0].is_explained());
    }

    #[test]
    fn a_flow_inside_a_tunnel_is_only_theirs() {
        let mut talk = Conversation::default();
        talk.handshake(0, 20);
        let mut segments: Vec<Segment> = talk.segments().into_iter().copied().collect();
        let count = |segments: &[Segment]| {
            let found: Vec<_> = connections(&[], segments)
                .iter()
                .flat_map(differences)
                .collect();
            assert_eq!(found.len(), 1);
            (rules(&found), found[0].is_explained())
        };
        assert_eq!(count(&segments), (vec![], false));
        for segment in &mut segments {
            segment.carriage = Carriage::Tunnel;
        }
        assert_eq!(count(&segments), (vec![Rule::Unread], true));
    }
}
