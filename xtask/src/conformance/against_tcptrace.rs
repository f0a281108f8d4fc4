//! Our figures of a flow against tcptrace's: its totals, and the segments it marks.

use std::collections::HashMap;

use super::{
    against_tshark::{
        IDLE_US, dropped, handshake_rule, older_outstanding, own, payload_rule, repeats_unread,
        sent_twice, stray,
    },
    definition::{Before, Class},
    difference::{About, Balance, Difference},
    join::{Connection, Joined},
    rules::{Metric, Reference, Rule},
    segment::{Carriage, Direction, Segment, Tuple, flag},
    tcptrace::{self, Mark},
};

/// It forgets a connection that is silent for longer (`NONREALTIME_LIVE_CONN_INTERVAL`).
const FORGETS_US: u64 = 240_000_000;

/// An IPv6 extension header is at most this long (RFC 8200, 4.3).
const EXTENSION_HEADER_MAX: i64 = 256 * 8;

/// What it prints is rounded to this, µs; a handshake has two parts.
const TENTH_US: i64 = 100;

/// Everything that differs about one pair of endpoints; `theirs` are tcptrace's connections
/// between them, in the order of their beginnings.
pub fn differences(
    connection: &Connection<'_>,
    theirs: &mut [tcptrace::Connection],
) -> Vec<Difference> {
    let mut differences: Vec<_> = flow_count(connection, theirs).into_iter().collect();
    if connection.flows.is_empty() || theirs.is_empty() {
        return differences;
    }
    let paired = connection.flows.len() == theirs.len()
        && connection
            .flows
            .iter()
            .zip(&*theirs)
            .all(|(flow, theirs)| flow.ours.start_us.abs_diff(theirs.start_us) <= 1);
    if paired {
        for (flow, theirs) in connection.flows.iter().zip(theirs) {
            let mut group = Group::of(std::slice::from_ref(flow), std::slice::from_mut(theirs));
            differences.extend(group.differences());
            differences.extend(group.handshake());
        }
    } else {
        differences.extend(Group::of(&connection.flows, theirs).differences());
    }
    differences
}

/// Where connections begin.
fn flow_count(connection: &Connection<'_>, theirs: &[tcptrace::Connection]) -> Option<Difference> {
    let mut balance = Balance::default();
    let starts: Vec<u64> = theirs
        .iter()
        .map(|connection| connection.start_us)
        .collect();
    let begins_there = |time_us: u64| starts.iter().any(|start| start.abs_diff(time_us) <= 1);
    let mut before: Option<&Segment> = None;
    for flow in &connection.flows {
        let ours = flow.ours.start_us;
        if let Some(first) = flow.segments.first()
            && !begins_there(ours)
        {
            let silence_us = before.map_or(0, |before| ours.saturating_sub(before.time_us()));
            let rule = if silence_us >= IDLE_US {
                Some(Rule::Silence)
            } else if !first.is_read() {
                Some(Rule::Unread)
            } else if starts.is_empty() && flow.segments.iter().all(|segment| segment.labelled) {
                Some(Rule::LinkLayer)
            } else {
                None
            };
            balance.whole(rule, 1, first.frame);
        }
        before = flow.segments.last().copied().or(before);
    }
    let begins_here = |time_us: u64| {
        let mut flows = connection.flows.iter();
        flows.any(|flow| flow.ours.start_us.abs_diff(time_us) <= 1)
    };
    for &start_us in &starts {
        if begins_here(start_us) {
            continue;
        }
        let segments = || {
            let flows = connection.flows.iter().flat_map(|flow| &flow.segments);
            flows.chain(&connection.strays).copied()
        };
        let first = segments().find(|segment| segment.time_us().abs_diff(start_us) <= 1);
        let rule = match first {
            _ if connection.flows.is_empty() => stray(&connection.strays),
            Some(first) if !first.is_read() => Some(Rule::Unread),
            Some(first) if first.has(flag::SYN) => Some(Rule::NewConnection),
            Some(_) if silent_before(segments(), start_us) => Some(Rule::FourMinutes),
            _ => None,
        };
        balance.whole(rule, -1, first.map_or(0, |first| first.frame));
    }
    let about = About {
        tuple: connection.tuple,
        direction: None,
        start_us: connection
            .flows
            .first()
            .map(|flow| flow.ours.start_us)
            .or_else(|| starts.first().copied())?,
        reference: Reference::Tcptrace,
        metric: Metric::Flows,
    };
    let (ours, theirs) = (connection.flows.len() as i64, theirs.len() as i64);
    balance.difference(about, Some(ours), Some(theirs))
}

/// Whether nothing passed for as long as tcptrace remembers a connection.
fn silent_before<'a>(segments: impl Iterator<Item = &'a Segment>, time_us: u64) -> bool {
    let before = segments
        .map(Segment::time_us)
        .filter(|&before| before < time_us)
        .max();
    before.is_some_and(|before| time_us - before >= FORGETS_US)
}

/// Flows of ours and connections of theirs that hold the same segments.
struct Group<'a, 'b> {
    tuple: Tuple,
    start_us: u64,
    flows: &'a [Joined<'b>],
    theirs: &'a mut [tcptrace::Connection],
}

impl<'a, 'b> Group<'a, 'b> {
    /// `flows` is not empty.
    fn of(flows: &'a [Joined<'b>], theirs: &'a mut [tcptrace::Connection]) -> Self {
        Self {
            tuple: flows[0].ours.tuple,
            start_us: flows[0].ours.start_us,
            flows,
            theirs,
        }
    }

    fn about(&self, direction: Option<Direction>, metric: Metric) -> About {
        About {
            tuple: self.tuple,
            direction,
            start_us: self.start_us,
            reference: Reference::Tcptrace,
            metric,
        }
    }

    fn differences(&mut self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for direction in Direction::BOTH {
            differences.extend(self.payload(direction, Metric::Bytes));
            differences.extend(self.payload(direction, Metric::Frames));
            differences.extend(self.again(direction));
            differences.extend(self.minimum_rtt(direction));
        }
        differences
    }

    /// Which of tcptrace's two directions this one is.
    fn their_index(&self, connection: &tcptrace::Connection, direction: Direction) -> usize {
        let (_, a_to_b) = Tuple::of(connection.a, connection.b);
        usize::from(a_to_b != direction)
    }

    fn their_sum(&self, direction: Direction, of: impl Fn(&tcptrace::Figures) -> u64) -> i64 {
        let sum: u64 = self
            .theirs
            .iter()
            .map(|theirs| of(&theirs.directions[self.their_index(theirs, direction)]))
            .sum();
        i64::try_from(sum).unwrap_or(i64::MAX)
    }

    fn our_sum(&self, direction: Direction, of: impl Fn(&super::ours::Figures) -> u64) -> i64 {
        let flows = self.flows.iter();
        let sum: u64 = flows
            .map(|flow| of(&flow.ours.directions[direction.index()]))
            .sum();
        i64::try_from(sum).unwrap_or(i64::MAX)
    }

    fn payload(&self, direction: Direction, metric: Metric) -> Option<Difference> {
        let (ours, theirs) = match metric {
            Metric::Bytes => (
                self.our_sum(direction, |figures| figures.bytes),
                self.their_sum(direction, |figures| figures.bytes),
            ),
            _ => (
                self.our_sum(direction, |figures| figures.frames),
                self.their_sum(direction, |figures| figures.frames),
            ),
        };
        let mut balance = Balance::default();
        let (mut there, mut fragments, mut extensions) = (0, 0, 0);
        for (said, segment) in self.flows.iter().flat_map(|flow| own(flow, direction)) {
            let amount = match metric {
                Metric::Bytes => i64::from(segment.len),
                _ => i64::from(segment.len > 0),
            };
            // It does not look into tunnels either, and counts the first fragment of several.
            if segment.carriage != Carriage::Plain {
                fragments += match segment.carriage {
                    Carriage::Fragment => amount,
                    _ => 0,
                };
                continue;
            }
            if segment.extended && metric == Metric::Bytes {
                extensions += EXTENSION_HEADER_MAX;
            }
            there += amount;
            let counted = if said.class.counts_payload() {
                amount
            } else {
                0
            };
            balance.segment(segment.frame, counted, amount, || {
                payload_rule(said.class, segment)
            });
        }
        let more = theirs - there;
        // Extension headers are as long as multiples of 8 (RFC 8200, 4).
        if more > 0 && more <= extensions && more % 8 == 0 {
            balance.whole(Some(Rule::Extensions), -more, 0);
        } else if more > 0 && more <= fragments {
            balance.whole(Some(Rule::Unread), -more, 0);
        }
        balance.difference(
            self.about(Some(direction), metric),
            Some(ours),
            Some(theirs),
        )
    }

    /// Retransmissions and reordering, by the marks.
    fn again(&mut self, direction: Direction) -> Vec<Difference> {
        let mut retransmitted = Balance::default();
        let mut out_of_order = Balance::default();
        let flows = self.flows;
        let mut at_once: HashMap<(u64, u32), u32> = HashMap::new();
        for (_, segment) in flows.iter().flat_map(|flow| own(flow, direction)) {
            *at_once
                .entry((segment.time_us(), segment.end()))
                .or_default() += 1;
        }
        // Of segments with the same time and place the later ones bear the marks.
        for flow in flows.iter().rev() {
            for (index, said) in flow.said.iter().enumerate().rev() {
                if said.direction != direction {
                    continue;
                }
                let segment = flow.segments[index];
                let is_alone = at_once.get(&(segment.time_us(), segment.end())) == Some(&1);
                let marked = self.marks(direction, segment, is_alone);
                let reordered = flow.reordered[index];
                let rule = || {
                    let sent_before = said.highest.map(|(_, sender)| flow.segments[sender]);
                    let begins_anew =
                        sent_before.is_some_and(|before| self.begin_between(before, segment));
                    let goes_on = !std::ptr::eq(flow, &raw const flows[0])
                        && !self.begins_at(flow.ours.start_us);
                    if goes_on && (marked.retransmitted || marked.out_of_order) {
                        return Some(Rule::ForgottenFlow);
                    }
                    again_rule(flow, index, marked, begins_anew)
                };
                retransmitted.segment(
                    segment.frame,
                    said.class.retransmitted(reordered),
                    i64::from(marked.retransmitted),
                    rule,
                );
                out_of_order.segment(
                    segment.frame,
                    said.class.reordered(reordered),
                    i64::from(marked.out_of_order),
                    rule,
                );
            }
        }
        let totals = [
            (
                Metric::Retransmitted,
                retransmitted,
                self.our_sum(direction, |figures| figures.retransmitted),
                self.their_sum(direction, |figures| figures.retransmitted),
            ),
            (
                Metric::OutOfOrder,
                out_of_order,
                self.our_sum(direction, |figures| figures.reordered),
                self.their_sum(direction, |figures| figures.out_of_order),
            ),
        ];
        totals
            .into_iter()
            .filter_map(|(metric, balance, ours, theirs)| {
                balance.difference(
                    self.about(Some(direction), metric),
                    Some(ours),
                    Some(theirs),
                )
            })
            .collect()
    }

    /// Whether tcptrace begins a connection at this time.
    fn begins_at(&self, time_us: u64) -> bool {
        let mut theirs = self.theirs.iter();
        theirs.any(|theirs| theirs.start_us.abs_diff(time_us) <= 1)
    }

    /// Whether tcptrace begins a connection after the one segment and not after the other.
    fn begin_between(&self, earlier: &Segment, later: &Segment) -> bool {
        self.theirs
            .iter()
            .any(|theirs| earlier.time_us() < theirs.start_us && theirs.start_us <= later.time_us())
    }

    fn marks(&mut self, direction: Direction, segment: &Segment, is_alone: bool) -> Marked {
        let (time_us, data_end) = (
            segment.time_us(),
            segment.sequence.wrapping_add(segment.len),
        );
        let mut marked = Marked::default();
        for connection in &mut *self.theirs {
            let (_, a_to_b) = Tuple::of(connection.a, connection.b);
            let marks = &mut connection.marks[usize::from(a_to_b != direction)];
            // A SYN's label stands one past it, a FIN's at its end.
            let label = if segment.has(flag::SYN) {
                segment.sequence.wrapping_add(1)
            } else {
                segment.end()
            };
            marked.retransmitted |= marks.take(Mark::Retransmitted, time_us, label);
            // The other of two alike may be the one that filled a hole.
            if is_alone || !marked.retransmitted {
                marked.out_of_order |= marks.take(Mark::OutOfOrder, time_us, data_end);
            }
            marked.probe |= marks.take(Mark::Probe, time_us, data_end);
        }
        marked
    }

    fn minimum_rtt(&self, direction: Direction) -> Option<Difference> {
        let ours = self
            .flows
            .iter()
            .filter_map(|flow| flow.ours.directions[direction.index()].rtt_min_us)
            .min()
            .and_then(|rtt_us| i64::try_from(rtt_us).ok());
        let theirs = self
            .theirs
            .iter()
            .filter_map(|theirs| theirs.directions[self.their_index(theirs, direction)].rtt_min_ms)
            .min_by(f64::total_cmp)
            .map(|rtt_ms| (rtt_ms * 1_000.0).round() as i64);
        let rule = match (ours, theirs) {
            (None, None) => return None,
            (Some(ours), Some(theirs)) if (ours - theirs).abs() <= TENTH_US / 2 + 1 => {
                return None;
            }
            (Some(ours), Some(theirs)) if theirs < ours => self.shorter(direction, theirs),
            (None, Some(theirs)) => self.shorter(direction, theirs),
            (Some(ours), _) => self.longer(direction, ours),
        };
        let mut balance = Balance::default();
        balance.whole(rule, ours.unwrap_or(0) - theirs.unwrap_or(0), 0);
        let about = self.about(Some(direction), Metric::MinimumRtt);
        balance.difference(about, ours, theirs)
    }

    /// Why tcptrace has a shorter RTT: it must be one of the segments' own, of one we had no
    /// room to time, or of one that we do not time at all.
    fn shorter(&self, direction: Direction, theirs_us: i64) -> Option<Rule> {
        let is_theirs = |rtt_us: u64| {
            i64::try_from(rtt_us).is_ok_and(|rtt_us| (rtt_us - theirs_us).abs() <= TENTH_US / 2 + 1)
        };
        self.flows.iter().find_map(|flow| {
            let mut samples = flow.rtts.of(direction).iter();
            samples.find_map(|sample| {
                let sent = flow.index_of(sample.sent_frame)?;
                if !is_theirs(sample.rtt_us) {
                    return None;
                }
                let said = &flow.said[sent];
                let answer = flow.index_of(sample.answer_frame)?;
                if !flow.segments[sent].is_read() || !flow.segments[answer].is_read() {
                    return Some(Rule::Unread);
                }
                if sample.rtt_us == 0 {
                    return Some(Rule::ZeroRtt);
                }
                if matches!(said.class, Class::Probe | Class::Waiting)
                    && !flow.segments[sent].has(flag::SYN)
                {
                    Some(Rule::ProbeRtt)
                } else if older_outstanding(said) {
                    Some(Rule::OneAtATime)
                } else if sent_twice(flow, direction, sent, answer) {
                    Some(Rule::Karn)
                } else {
                    dropped(flow, direction, sent, answer).then_some(Rule::Dropped)
                }
            })
        })
    }

    /// Why ours is shorter.
    fn longer(&self, direction: Direction, ours_us: i64) -> Option<Rule> {
        use super::rtt::Source;
        let rtt_us = u64::try_from(ours_us).ok()?;
        let mut flows = self.flows.iter();
        let sample = flows.find_map(|flow| flow.rtts.find(direction, rtt_us))?;
        match sample.source {
            Source::Timestamp => Some(Rule::Timestamps),
            Source::Covered => Some(Rule::Covered),
            Source::Acknowledged => None,
        }
    }

    /// The handshake: tcptrace gives the two parts, we their sum.
    fn handshake(&self) -> Option<Difference> {
        let [flow] = self.flows else { return None };
        let [theirs] = &*self.theirs else { return None };
        let ours = flow
            .ours
            .handshake_rtt_us
            .and_then(|rtt_us| i64::try_from(rtt_us).ok());
        let parts = theirs.directions.map(|figures| figures.handshake_ms);
        let known: Vec<f64> = parts.into_iter().flatten().collect();
        let sum = (!known.is_empty()).then(|| (known.iter().sum::<f64>() * 1_000.0).round() as i64);
        let rule = match (ours, sum) {
            (None, None) => return None,
            // Each part is rounded, and one below half a tenth is printed as none.
            (Some(ours), Some(sum)) if (ours - sum).abs() <= TENTH_US + 2 => return None,
            (Some(ours), None) if ours <= TENTH_US + 2 => return None,
            _ if known.len() < 2 && sum.is_some() => {
                handshake_rule(flow, ours.is_some()).or(Some(Rule::HandshakePart))
            }
            _ => handshake_rule(flow, ours.is_some()),
        };
        let mut balance = Balance::default();
        balance.whole(rule, ours.unwrap_or(0) - sum.unwrap_or(0), 0);
        balance.difference(self.about(None, Metric::HandshakeRtt), ours, sum)
    }
}

/// The marks of one segment.
#[derive(Debug, Clone, Copy, Default)]
struct Marked {
    retransmitted: bool,
    out_of_order: bool,
    probe: bool,
}

/// Why tcptrace marks the segment at `index` otherwise than we count it.
fn again_rule(flow: &Joined<'_>, index: usize, marked: Marked, begins_anew: bool) -> Option<Rule> {
    let (said, segment) = (&flow.said[index], flow.segments[index]);
    let is_marked = marked.retransmitted || marked.out_of_order;
    match said.class {
        Class::Again(_) | Class::Fills { .. } if begins_anew => {
            let before = said.highest.map(|(_, sender)| flow.segments[sender])?;
            let silence_us = segment.time_us().saturating_sub(before.time_us());
            Some(if silence_us >= FORGETS_US {
                Rule::FourMinutes
            } else {
                Rule::NewConnection
            })
        }
        Class::SynAgain => is_marked.then_some(Rule::SynAgain),
        Class::Waiting if segment.has(flag::SYN) => is_marked.then_some(Rule::SynAgain),
        Class::Waiting => is_marked.then_some(Rule::Waiting),
        Class::Probe => is_marked.then_some(Rule::Probe),
        Class::Reset => (segment.len > 0).then_some(Rule::ResetData),
        Class::New => (is_marked && repeats_unread(flow, index)).then_some(Rule::Unread),
        Class::Unread => Some(Rule::Unread),
        Class::Again(_) | Class::Fills { .. } if marked.probe => Some(Rule::IntoClosedWindow),
        Class::Again(_)
            if marked.out_of_order
                && matches!(flow.said_without_limit[index].class, Class::Fills { .. }) =>
        {
            Some(Rule::ManyHoles)
        }
        Class::Again(Before::BelowFirst) if marked.out_of_order => Some(Rule::BelowFirst),
        // Acknowledged here, and yet it never passed: a hole that nobody looks at any more.
        Class::Again(Before::Acknowledged) if marked.out_of_order && !passed(flow, index) => {
            Some(Rule::FillsAnyAge)
        }
        Class::Fills { .. } if marked.out_of_order => Some(Rule::FillsAnyAge),
        Class::Fills { .. } if marked.retransmitted => Some(Rule::PartlySeen),
        _ => None,
    }
}

/// Whether any byte of a segment passed before it.
fn passed(flow: &Joined<'_>, index: usize) -> bool {
    sent_twice(flow, flow.said[index].direction, index, index)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{join::connections, ours, segment::Segment, testing::Conversation},
        *,
    };

    /// A connection without data, as tcptrace would report it.
    fn theirs(talk: &Conversation, to_client: tcptrace::Figures) -> tcptrace::Connection {
        let first = talk.segments()[0];
        tcptrace::Connection {
            a: first.source,
            b: first.destination,
            start_us: first.time_us(),
            directions: [tcptrace::Figures::default(), to_client],
            marks: Default::default(),
        }
    }

    fn found(
        talk: &Conversation,
        ours_to_client: ours::Figures,
        to_client: tcptrace::Figures,
    ) -> Vec<Difference> {
        let segments: Vec<Segment> = talk.segments().into_iter().copied().collect();
        let mut directions = [ours::Figures::default(); 2];
        directions[talk.to_client().index()] = ours_to_client;
        let flows = [ours::Flow {
            tuple: segments[0].tuple().0,
            start_us: segments[0].time_us(),
            last_us: segments[0].time_us(),
            handshake_rtt_us: None,
            directions,
        }];
        let mut connections_there = [theirs(talk, to_client)];
        connections(&flows, &segments)
            .iter()
            .flat_map(|connection| differences(connection, &mut connections_there))
            .collect()
    }

    #[test]
    fn equal_totals_are_no_difference() {
        let mut talk = Conversation::default();
        talk.handshake(0, 10).server(40, 1_000, 100);
        let ours = ours::Figures {
            bytes: 100,
            frames: 1,
            ..Default::default()
        };
        let there = tcptrace::Figures {
            bytes: 100,
            frames: 1,
            ..Default::default()
        };
        assert_eq!(found(&talk, ours, there), []);
    }

    #[test]
    fn a_retransmission_without_a_mark_or_a_reason_is_not_explained() {
        let mut talk = Conversation::default();
        talk.handshake(0, 10);
        talk.server(40, 1_000, 100).server(300, 1_000, 100);
        let ours = ours::Figures {
            bytes: 200,
            frames: 2,
            retransmitted: 1,
            ..Default::default()
        };
        let there = tcptrace::Figures {
            bytes: 200,
            frames: 2,
            ..Default::default()
        };
        let differences = found(&talk, ours, there);
        let [difference] = &differences[..] else {
            panic!("one difference: {differences:?}")
        };
        assert_eq!(difference.metric, Metric::Retransmitted);
        assert!(!difference.is_explained());
    }

    #[test]
    fn a_tenth_of_a_millisecond_is_no_difference() {
        let mut talk = Conversation::default();
        talk.handshake(0, 10);
        talk.server(40, 1_000, 100).client_ack(52, 1_100);
        let figures = |rtt_min_us| ours::Figures {
            bytes: 100,
            frames: 1,
            rtt_min_us: Some(rtt_min_us),
            ..Default::default()
        };
        let there = tcptrace::Figures {
            bytes: 100,
            frames: 1,
            rtt_min_ms: Some(12.0),
            ..Default::default()
        };
        assert_eq!(found(&talk, figures(12_040), there), []);
        let differences = found(&talk, figures(13_000), there);
        assert_eq!(differences.len(), 1);
        assert!(!differences[0].is_explained());
    }
}
