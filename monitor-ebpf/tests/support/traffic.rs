//! Whole connections over a path that loses, reorders and duplicates, seen by a tap in its
//! middle, with the truth about them.
//!
//! ```text
//! server --- upstream ---> tap --- downstream ---> client
//! ```
//!
//! The client asks once, and acknowledges at once or every second segment (RFC 5681, 4.2); the
//! server answers with segments, in packets of one or several, repairs what is lost by SACK, a
//! tail-loss probe and a timeout, and closes. The truth is known from what was sent and
//! what passed the tap, not from sequence numbers.

use std::{cmp::Reverse, collections::BinaryHeap, net::SocketAddr};

use super::packets::{Packet, tcp};

/// What the client asks with, bytes.
const REQUEST: u32 = 100;

/// Between two packets of the server, µs: what 1.2 Gbit/s make of a full segment.
const SPACING_US: u64 = 10;

/// No timeout is shorter, nor is an ACK delayed longer (Linux).
const TIMEOUT_MIN_US: u64 = 200_000;

/// More packets than any connection here needs; its end would be a mistake of this file.
const PACKETS_MAX: u32 = 100_000;

/// A connection to be, and the path it takes.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Two runs with one seed are the same.
    pub seed: u64,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub client_isn: u32,
    pub server_isn: u32,
    pub start_ns: u64,
    /// Payload of a full segment, bytes.
    pub mss: u32,
    pub segments: u32,
    /// Payload of the last segment: 2 to `mss`. (One old byte is also what a keep-alive is.)
    pub last_len: u32,
    /// Segments in one packet, at most: above 1 the tap sees super-packets.
    pub super_packet: u32,
    /// Segments under way, at most.
    pub window: u32,
    /// One-way delays, µs.
    pub upstream_us: u32,
    pub downstream_us: u32,
    /// In a thousand packets, these.
    pub lost_upstream: u32,
    pub lost_downstream: u32,
    pub lost_acks: u32,
    pub reordered: u32,
    pub duplicated: u32,
    pub timestamps: bool,
    /// How long the client holds an ACK back for a second segment, µs; 0: not at all.
    pub ack_delay_us: u32,
}

/// What really happened, as far as it passed the tap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pub bytes: u64,
    pub frames: u32,
    pub segments: u32,
    /// Sent before, and what is above them passed before them.
    pub retransmitted_segments: u32,
    pub retransmitted_bytes: u64,
    /// Of these: passed before, and an ACK of them had passed too, or a SACK block with them.
    pub spurious: u32,
    /// Passed before, and no ACK of them yet.
    pub downstream: u32,
    /// Had never passed.
    pub upstream: u32,
    /// First copies that were overtaken.
    pub reordered: u32,
    /// Probes (RFC 8985) and timeouts (RFC 6298) among what was retransmitted.
    pub tail_loss_probes: u16,
    pub timeouts: u16,
    /// Segments that the client reported as received twice.
    pub dsacks: u32,
    /// Ranges that blocks which passed had told of, and no ACK yet: the most at a time.
    pub sacked_ranges_max: usize,
    /// Bytes the client acknowledged, SYN and FIN included.
    pub acked_bytes: u64,
}

/// Packets at the tap, with their times in ns, and the truth.
pub fn run(conditions: &Conditions) -> (Vec<(u64, Packet)>, Truth) {
    let mut connection = Connection::new(conditions);
    connection.shake_hands();
    connection.server_sends();
    while let Some(Reverse((at_us, _, event))) = connection.events.pop() {
        connection.now_us = at_us;
        match event {
            Event::AtTap(burst) => connection.burst_at_tap(&burst),
            Event::AtClient(burst) => connection.burst_at_client(&burst),
            Event::AckDelayed(expected) => connection.ack_delayed(expected),
            Event::AckAtTap(ack) => connection.ack_at_tap(ack),
            Event::AtServer(ack) => connection.ack_at_server(&ack),
            Event::Timer => connection.timer(),
        }
    }
    (connection.seen, connection.truth)
}

/// One packet of the server: segments `first..first + count`. The one after the last is the FIN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Burst {
    first: u32,
    count: u32,
    /// A copy was sent before.
    again: bool,
    cause: Cause,
    tsval: u32,
    tsecr: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// New data, what an ACK asked for, or the network's own copy.
    Other,
    Probe,
    Timeout,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ack {
    /// Segments below this have arrived.
    next: u32,
    /// Further ranges that have arrived; the latest first.
    ranges: Vec<(u32, u32)>,
    /// What this packet brought a second time.
    twice: Option<(u32, u32)>,
    tsval: u32,
    tsecr: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    AtTap(Burst),
    AtClient(Burst),
    /// Nothing more had come when these were expected.
    AckDelayed(u32),
    AckAtTap(Ack),
    AtServer(Ack),
    Timer,
}

/// A segment as the server, the tap and the client know it.
#[derive(Clone, Copy, Default)]
struct Segment {
    sent: bool,
    repaired: bool,
    /// The server was told so.
    sacked: bool,
    passed_tap: bool,
    /// The tap was told so.
    tap_sacked: bool,
    arrived: bool,
}

struct Connection<'a> {
    conditions: &'a Conditions,
    dice: Dice,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    now_us: u64,
    seen: Vec<(u64, Packet)>,
    truth: Truth,
    /// The data, and the FIN.
    segments: Vec<Segment>,
    /// The server's: first unacknowledged, next new, when it last sent or had something
    /// acknowledged, when it last heard anything, and when it may send again.
    unacknowledged: u32,
    next: u32,
    active_us: u64,
    heard_us: u64,
    free_us: u64,
    /// What was sent when something was last sent again: until it is acknowledged nothing is
    /// probed.
    recovery: u32,
    echo_to_client: u32,
    /// The client's: next expected, whether it holds an ACK back, and what it echoes.
    expected: u32,
    holds_ack: bool,
    echo_to_server: u32,
    /// The tap's: one past the highest segment, and the highest ACK.
    tap_end: u32,
    tap_acked: u32,
}

impl<'a> Connection<'a> {
    fn new(conditions: &'a Conditions) -> Self {
        Self {
            conditions,
            dice: Dice(conditions.seed),
            events: BinaryHeap::new(),
            scheduled: 0,
            now_us: 0,
            seen: Vec::new(),
            truth: Truth::default(),
            segments: vec![Segment::default(); conditions.segments as usize + 1],
            unacknowledged: 0,
            next: 0,
            active_us: 0,
            heard_us: 0,
            free_us: 0,
            recovery: 0,
            echo_to_client: 0,
            expected: 0,
            holds_ack: false,
            echo_to_server: 0,
            tap_end: 0,
            tap_acked: 0,
        }
    }

    fn rtt_us(&self) -> u64 {
        2 * (u64::from(self.conditions.upstream_us) + u64::from(self.conditions.downstream_us))
    }

    /// Where a segment begins in the server's byte stream.
    fn offset(&self, segment: u32) -> u32 {
        let Conditions {
            mss,
            segments,
            last_len,
            ..
        } = *self.conditions;
        let data = (segments - 1) * mss + last_len;
        match segment.cmp(&segments) {
            std::cmp::Ordering::Less => segment * mss,
            std::cmp::Ordering::Equal => data,
            std::cmp::Ordering::Greater => data + 1,
        }
    }

    fn schedule(&mut self, at_us: u64, event: Event) {
        // Events of one moment happen in the order they were scheduled in.
        self.scheduled += 1;
        self.events.push(Reverse((at_us, self.scheduled, event)));
    }

    fn see(&mut self, packet: Packet) {
        let at_ns = self.conditions.start_ns + self.now_us * 1_000;
        self.seen.push((at_ns, packet));
    }

    fn client(&self) -> Packet {
        let Conditions {
            client,
            server,
            client_isn,
            server_isn,
            ..
        } = *self.conditions;
        tcp(client, server)
            .isns(client_isn, server_isn)
            .window(u16::MAX)
    }

    fn server(&self) -> Packet {
        let Conditions {
            client,
            server,
            client_isn,
            server_isn,
            ..
        } = *self.conditions;
        tcp(server, client)
            .isns(server_isn, client_isn)
            .window(u16::MAX)
    }

    /// A clock of milliseconds that the seed puts anywhere.
    fn stamp(&self, side: u64) -> u32 {
        let base = Dice(self.conditions.seed ^ side).next() as u32;
        base.wrapping_add((self.now_us / 1_000) as u32)
    }

    fn stamped(&self, packet: Packet, tsval: u32, tsecr: u32) -> Packet {
        if self.conditions.timestamps {
            packet.timestamps(tsval, tsecr)
        } else {
            packet
        }
    }

    /// Nothing is lost of these, so that both RTTs are known; the clock is at the server when
    /// the request has arrived.
    fn shake_hands(&mut self) {
        let (up, down) = (
            u64::from(self.conditions.upstream_us),
            u64::from(self.conditions.downstream_us),
        );
        let packet = self.client().syn().mss(1_460).sack_permitted();
        let (client, server) = (self.stamp(1), self.stamp(2));
        self.see(self.stamped(packet, client, 0));
        self.now_us += 2 * up;
        let packet = self.server().syn_ack().mss(1_460).sack_permitted();
        self.see(self.stamped(packet, server, client));
        self.now_us += 2 * down;
        let packet = self.client().ack(0);
        self.see(self.stamped(packet, client, server));
        self.now_us += SPACING_US;
        let packet = self.client().data(0, REQUEST);
        self.see(self.stamped(packet, client, server));
        self.now_us += up;
        self.truth.acked_bytes = 1;
        (self.echo_to_client, self.echo_to_server) = (client, server);
        (self.active_us, self.heard_us) = (self.now_us, self.now_us);
    }

    /// New data while the window has room, then the FIN.
    fn server_sends(&mut self) {
        let Conditions {
            segments,
            window,
            super_packet,
            ..
        } = *self.conditions;
        while self.next < segments && self.next < self.unacknowledged + window {
            let room = (self.unacknowledged + window).min(segments) - self.next;
            let count = room.min(self.dice.below(super_packet) + 1);
            let first = self.next;
            self.next += count;
            self.send(first, count, Cause::Other);
        }
        if self.next == segments && self.next < self.unacknowledged + window {
            self.next += 1;
            self.send(segments, 1, Cause::Other);
        }
    }

    fn send(&mut self, first: u32, count: u32, cause: Cause) {
        assert!(self.truth.frames < PACKETS_MAX, "a connection without end");
        let leaves_us = self.now_us.max(self.free_us);
        self.free_us = leaves_us + SPACING_US;
        self.active_us = leaves_us;
        let range = first as usize..(first + count) as usize;
        let again = self.segments[first as usize].sent;
        for segment in &mut self.segments[range] {
            segment.sent = true;
        }
        let burst = Burst {
            first,
            count,
            again,
            cause,
            tsval: self.stamp(2),
            tsecr: self.echo_to_client,
        };
        let at_tap_us = leaves_us + u64::from(self.conditions.upstream_us);
        if !self.dice.falls(self.conditions.lost_upstream) {
            // An eighth to a quarter of an RTT late: overtaken, and never by a retransmission.
            let late = !again && self.dice.falls(self.conditions.reordered);
            let eighth = self.rtt_us() as u32 / 8;
            let late_us = if late {
                u64::from(eighth + self.dice.below(eighth))
            } else {
                0
            };
            self.schedule(at_tap_us + late_us, Event::AtTap(burst.clone()));
            if self.dice.falls(self.conditions.duplicated) {
                let copy = Burst {
                    again: true,
                    cause: Cause::Other,
                    ..burst
                };
                self.schedule(at_tap_us + late_us, Event::AtTap(copy));
            }
        }
        self.set_timer();
    }

    /// A timeout, and a probe if it is sooner: two RTTs, and for a lone segment what its ACK may
    /// be delayed.
    fn deadlines_us(&self) -> (u64, u64) {
        let rtt_us = self.rtt_us() + u64::from(self.conditions.ack_delay_us);
        let timeout_us = (rtt_us + TIMEOUT_MIN_US).max(7 * rtt_us / 2);
        let lone = self.unacknowledged + 1 == self.next;
        let probe_us = 2 * rtt_us + if lone { TIMEOUT_MIN_US } else { 0 };
        let probe_at_us = self.active_us.max(self.heard_us) + probe_us.min(timeout_us);
        (probe_at_us, self.active_us.max(self.free_us) + timeout_us)
    }

    /// Once, and while nothing is known to be lost (RFC 8985, 7.2 and 7.3).
    fn may_probe(&self) -> bool {
        let outstanding = self.unacknowledged as usize..self.next as usize;
        let sacked = self.segments[outstanding]
            .iter()
            .any(|segment| segment.sacked);
        !sacked && self.unacknowledged >= self.recovery
    }

    fn set_timer(&mut self) {
        let (probe_at_us, timeout_at_us) = self.deadlines_us();
        let at_us = if self.may_probe() {
            probe_at_us
        } else {
            timeout_at_us
        };
        self.schedule(at_us.max(self.now_us), Event::Timer);
    }

    fn burst_at_tap(&mut self, burst: &Burst) {
        let Burst { first, count, .. } = *burst;
        let (start, end) = (self.offset(first), self.offset(first + count));
        let fin = first == self.conditions.segments;
        let len = if fin { 0 } else { end - start };
        let packet = if fin {
            self.server().fin(start)
        } else {
            self.server().data(start, len)
        };
        let packet = if count > 1 {
            packet.gso(self.conditions.mss, count * self.dice.below(2))
        } else {
            packet
        };
        let packet = self.stamped(packet.ack(REQUEST), burst.tsval, burst.tsecr);
        self.see(packet);

        if !fin {
            self.truth.bytes += u64::from(len);
            self.truth.frames += 1;
            self.truth.segments += count;
        }
        if first < self.tap_end {
            if burst.again {
                self.truth.retransmitted_segments += count;
                self.truth.retransmitted_bytes += u64::from(len);
            }
            match burst.cause {
                Cause::Other => (),
                Cause::Probe => self.truth.tail_loss_probes += 1,
                Cause::Timeout => self.truth.timeouts += 1,
            }
            let segments = &self.segments[first as usize..(first + count) as usize];
            let has_arrived = first + count <= self.tap_acked
                || segments.iter().all(|segment| segment.tap_sacked);
            let class = match (segments[0].passed_tap, burst.again) {
                (true, _) if has_arrived => &mut self.truth.spurious,
                (true, _) => &mut self.truth.downstream,
                (false, true) => &mut self.truth.upstream,
                (false, false) => &mut self.truth.reordered,
            };
            *class += count;
        }
        self.tap_end = self.tap_end.max(first + count);
        let arrives_us = self.now_us + u64::from(self.conditions.downstream_us);
        for segment in first..first + count {
            self.segments[segment as usize].passed_tap = true;
            // Beyond the tap wire segments travel alone.
            if !self.dice.falls(self.conditions.lost_downstream) {
                let alone = Burst {
                    first: segment,
                    count: 1,
                    ..burst.clone()
                };
                self.schedule(arrives_us, Event::AtClient(alone));
            }
        }
    }

    fn burst_at_client(&mut self, burst: &Burst) {
        let first = burst.first;
        let segment = &mut self.segments[first as usize];
        // A FIN that came twice is no data to report.
        let twice =
            (segment.arrived && first < self.conditions.segments).then_some((first, first + 1));
        let in_order = first == self.expected && first < self.conditions.segments;
        segment.arrived = true;
        if first <= self.expected {
            self.echo_to_server = burst.tsval;
        }
        while self
            .segments
            .get(self.expected as usize)
            .is_some_and(|segment| segment.arrived)
        {
            self.expected += 1;
        }
        let holds = in_order && self.expected == first + 1 && !self.holds_ack;
        let delay_us = u64::from(self.conditions.ack_delay_us);
        if holds && delay_us > 0 && self.arrived_ranges().is_empty() {
            self.holds_ack = true;
            let expected = self.expected;
            self.schedule(self.now_us + delay_us, Event::AckDelayed(expected));
            return;
        }
        self.acknowledge(first, twice);
    }

    fn ack_delayed(&mut self, expected: u32) {
        if self.holds_ack && self.expected == expected {
            self.acknowledge(expected - 1, None);
        }
    }

    /// What has arrived, after `latest` and maybe something that had.
    fn acknowledge(&mut self, latest: u32, twice: Option<(u32, u32)>) {
        self.holds_ack = false;
        let mut ranges = self.arrived_ranges();
        if let Some(latest) = ranges
            .iter()
            .position(|&(start, end)| (start..end).contains(&latest))
        {
            ranges.swap(0, latest);
        }
        let ack = Ack {
            next: self.expected,
            ranges,
            twice,
            tsval: self.stamp(1),
            tsecr: self.echo_to_server,
        };
        if !self.dice.falls(self.conditions.lost_acks) {
            let at_tap_us = self.now_us + u64::from(self.conditions.downstream_us);
            self.schedule(at_tap_us, Event::AckAtTap(ack));
        }
    }

    /// What has arrived above what is expected next.
    fn arrived_ranges(&self) -> Vec<(u32, u32)> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for segment in self.expected..self.segments.len() as u32 {
            if !self.segments[segment as usize].arrived {
                continue;
            }
            match ranges.last_mut() {
                Some((_, end)) if *end == segment => *end += 1,
                _ => ranges.push((segment, segment + 1)),
            }
        }
        ranges
    }

    fn ack_at_tap(&mut self, ack: Ack) {
        let blocks: Vec<_> = ack
            .twice
            .iter()
            .chain(&ack.ranges)
            .take(3)
            .map(|&(start, end)| (self.offset(start), self.offset(end)))
            .collect();
        let packet = self.client().data(REQUEST, 0).ack(self.offset(ack.next));
        let mut packet = self.stamped(packet, ack.tsval, ack.tsecr);
        if !blocks.is_empty() {
            packet = packet.sack(&blocks);
        }
        self.see(packet);
        self.truth.dsacks += u32::from(ack.twice.is_some());
        self.tap_acked = self.tap_acked.max(ack.next);
        // The tracker reads two blocks of a packet.
        let told = ack.twice.iter().chain(&ack.ranges).take(2);
        for &(start, end) in told.skip(usize::from(ack.twice.is_some())) {
            for segment in &mut self.segments[start as usize..end as usize] {
                segment.tap_sacked = true;
            }
        }
        let outstanding = &self.segments[self.tap_acked as usize..];
        let ranges = outstanding
            .chunk_by(|one, next| one.tap_sacked == next.tap_sacked)
            .filter(|range| range[0].tap_sacked)
            .count();
        self.truth.sacked_ranges_max = self.truth.sacked_ranges_max.max(ranges);
        self.truth.acked_bytes = 1 + u64::from(self.offset(self.tap_acked));
        if !self.dice.falls(self.conditions.lost_acks) {
            let arrives_us = self.now_us + u64::from(self.conditions.upstream_us);
            self.schedule(arrives_us, Event::AtServer(ack));
        }
    }

    fn ack_at_server(&mut self, ack: &Ack) {
        self.echo_to_client = ack.tsval;
        self.heard_us = self.now_us;
        if ack.next > self.unacknowledged {
            self.unacknowledged = ack.next;
            self.active_us = self.active_us.max(self.now_us);
        }
        for &(start, end) in &ack.ranges {
            for segment in start..end {
                self.segments[segment as usize].sacked = true;
            }
        }
        self.repair();
        self.server_sends();
        self.set_timer();
    }

    /// Sends once more what three later segments have overtaken (RFC 6675), once each; the timer
    /// does the rest.
    fn repair(&mut self) {
        let mut sacked_above = 0;
        let mut lost = Vec::new();
        for segment in (self.unacknowledged..self.next).rev() {
            let state = &mut self.segments[segment as usize];
            if state.sacked {
                sacked_above += 1;
            } else if sacked_above >= 3 && !state.repaired {
                state.repaired = true;
                lost.push(segment);
            }
        }
        lost.reverse();
        if !lost.is_empty() {
            self.recovery = self.next;
        }
        for (first, count) in self.packets_of(&lost) {
            self.send(first, count, Cause::Other);
        }
    }

    /// Neighbours go in one packet, but only where one packet is lost beyond the tap or not at
    /// all: else one retransmission would repair two kinds of loss.
    fn packets_of(&self, segments: &[u32]) -> Vec<(u32, u32)> {
        let mut packets: Vec<(u32, u32)> = Vec::new();
        for &segment in segments {
            let joins = |&(first, count): &(u32, u32)| {
                self.conditions.lost_upstream == 0
                    && first + count == segment
                    && count < self.conditions.super_packet
                    && segment < self.conditions.segments
            };
            match packets.last_mut() {
                Some(packet) if joins(packet) => packet.1 += 1,
                _ => packets.push((segment, 1)),
            }
        }
        packets
    }

    /// Nobody said anything for long: the last segment goes again, then the first that is missing.
    fn timer(&mut self) {
        let (probe_at_us, timeout_at_us) = self.deadlines_us();
        if self.unacknowledged >= self.next {
            return;
        }
        if self.may_probe() && self.now_us >= probe_at_us {
            self.recovery = self.next;
            self.send(self.next - 1, 1, Cause::Probe);
        } else if self.now_us >= timeout_at_us {
            let first = self.unacknowledged;
            self.segments[first as usize].repaired = true;
            self.recovery = self.next;
            self.send(first, 1, Cause::Timeout);
        }
    }
}

/// Splitmix64 (Steele, Lea, Flood, OOPSLA 2014): the same everywhere, from one seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// 0 to `limit` - 1.
    pub fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit.max(1))) as u32
    }

    /// Whether one of `per_mille` cases in a thousand came up.
    pub fn falls(&mut self, per_mille: u32) -> bool {
        self.below(1_000) < per_mille
    }
}
