//! Whole conversations of requests and responses against what was meant by them.

use monitor_ebpf::{chunk::progress, sequence::high};
use proptest::prelude::*;

use crate::support::wire::{CLIENT_RTT_US, SERVER_RTT_US, START_NS, Wire};

const MSS: u32 = 1_448;
const SPACING_US: u32 = 10;
/// A WINDOW_UPDATE of HTTP/2 in a record of TLS 1.3.
const CHATTER: u32 = 35;

/// What comes before a flight that is not the first of its response.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// The ACK of the flight before.
    Nothing,
    /// The server has no data.
    Stall(u32),
    /// The player does not want any.
    Pause(u32),
}

/// Segments sent at once, all acknowledged before the next flight.
#[derive(Clone, Debug)]
struct Flight {
    before: Before,
    segments: u32,
    /// Lost beyond the tap, and sent again.
    lost: Option<u32>,
    /// The client says something meanwhile that is no request.
    chatter: bool,
}

#[derive(Clone, Debug)]
struct Exchange {
    idle_us: u32,
    requests: Vec<u32>,
    think_us: u32,
    flights: Vec<Flight>,
    last_len: u32,
}

/// What a chunk should be; times in µs since the test began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    request_us: u32,
    first_us: u32,
    end_us: u32,
    bytes: u32,
    stalls: u16,
    stalled_us: u32,
    pauses: u16,
    paused_us: u32,
    retransmitted: u32,
    lost: u32,
}

struct Conversation {
    wire: Wire,
    now_us: u32,
    /// Offsets in the two streams.
    asked: u32,
    sent: u32,
}

impl Conversation {
    fn new() -> Self {
        Self {
            wire: Wire::established(),
            now_us: 100_000,
            asked: 0,
            sent: 0,
        }
    }

    fn client_says(&mut self, at_us: u32, len: u32, ack: u32) {
        let packet = self.wire.client().data(self.asked, len).ack(ack);
        self.wire.sees(at_us, packet.window(60_000));
        self.asked += len;
    }

    fn server_says(&mut self, at_us: u32, offset: u32, len: u32) {
        let packet = self.wire.server().data(offset, len).ack(self.asked);
        self.wire.sees(at_us, packet);
    }

    fn exchange(&mut self, exchange: &Exchange) -> Expected {
        let mut expected = Expected {
            request_us: self.now_us + exchange.idle_us,
            ..Expected::default()
        };
        let mut at_us = expected.request_us;
        for &request in &exchange.requests {
            self.client_says(at_us, request, self.sent);
            at_us += SPACING_US;
        }
        at_us += SERVER_RTT_US + exchange.think_us;
        expected.first_us = at_us;
        let start = self.sent;
        for (index, flight) in exchange.flights.iter().enumerate() {
            if index > 0 {
                at_us = self.now_us + SERVER_RTT_US;
                match flight.before {
                    Before::Nothing => {}
                    Before::Stall(us) => {
                        at_us += us;
                        expected.stalls += 1;
                        expected.stalled_us += us;
                    }
                    Before::Pause(us) => {
                        self.client_says(self.now_us + us, CHATTER, self.sent);
                        at_us += us;
                        expected.pauses += 1;
                        expected.paused_us += us;
                    }
                }
            }
            let is_last = index + 1 == exchange.flights.len();
            let last_len = if is_last { exchange.last_len } else { MSS };
            self.flight(flight, at_us, last_len);
            expected.retransmitted += u32::from(flight.lost.is_some());
        }
        expected.lost = expected.retransmitted;
        expected.end_us = self.now_us;
        expected.bytes = self.sent - start;
        expected
    }

    /// Ends with the ACK of everything.
    fn flight(&mut self, flight: &Flight, at_us: u32, last_len: u32) {
        let first = self.sent;
        let mut ends = Vec::new();
        for index in 0..flight.segments {
            let len = if index + 1 == flight.segments {
                last_len
            } else {
                MSS
            };
            self.server_says(at_us + index * SPACING_US, self.sent, len);
            self.sent += len;
            ends.push(self.sent);
        }
        if flight.chatter {
            self.client_says(at_us + CLIENT_RTT_US / 2, CHATTER, first);
        }
        let lost = flight.lost.map(|lost| lost % flight.segments);
        let acked = |index: u32| lost.is_none_or(|lost| index < lost);
        for index in 0..flight.segments {
            if acked(index) && (index % 2 == 1 || index + 1 == flight.segments) {
                self.now_us = at_us + index * SPACING_US + CLIENT_RTT_US;
                self.client_says(self.now_us, 0, ends[index as usize]);
            }
        }
        if let Some(lost) = lost {
            let start = if lost == 0 {
                first
            } else {
                ends[lost as usize - 1]
            };
            let again_us = at_us + flight.segments * SPACING_US + CLIENT_RTT_US + SERVER_RTT_US;
            self.server_says(again_us, start, ends[lost as usize] - start);
            self.now_us = again_us + CLIENT_RTT_US;
            self.client_says(self.now_us, 0, self.sent);
        }
    }

    /// Every chunk, the one under way included.
    fn told(&self) -> Vec<Expected> {
        let state = self.wire.state();
        let (server, client) = (self.wire.server_half(), self.wire.client_half());
        let under_way = (server.chunk, progress(&server, &client, high(server.burst)));
        let chunks = self.wire.tables.take_chunks();
        let reported = chunks.iter().map(|report| {
            assert_eq!(
                (report.key, report.generation),
                (state.key, state.generation)
            );
            (report.chunk, report.progress)
        });
        let all: Vec<_> = reported.chain([under_way]).collect();
        let numbers = all.iter().map(|(chunk, _)| chunk.number);
        assert!(numbers.eq(1..=all.len() as u32), "each one once: {all:?}");
        let since = |us: u32| us.wrapping_sub((START_NS / 1_000) as u32);
        all.iter()
            .map(|(chunk, progress)| Expected {
                request_us: since(chunk.request_us),
                first_us: since(chunk.first_us),
                end_us: since(progress.end_us),
                bytes: progress.end.wrapping_sub(chunk.start),
                stalls: chunk.stalls,
                stalled_us: chunk.stalled_us,
                pauses: chunk.pauses,
                paused_us: chunk.paused_us,
                retransmitted: progress.retransmitted_segments - chunk.retransmitted_segments,
                lost: progress.lost_segments - chunk.lost_segments,
            })
            .collect()
    }
}

prop_compose! {
    fn flights()(
        before in prop_oneof![
            3 => Just(Before::Nothing),
            1 => (60_000u32..2_000_000).prop_map(Before::Stall),
            1 => (60_000u32..800_000).prop_map(Before::Pause),
        ],
        // Two and more: less may be session tickets.
        segments in 2u32..12,
        lost in prop_oneof![3 => Just(None), 1 => (0u32..12).prop_map(Some)],
        chatter: bool,
    ) -> Flight {
        Flight { before, segments, lost, chatter }
    }
}

prop_compose! {
    fn exchanges()(
        idle_us in prop_oneof![Just(0u32), 1_000u32..5_000_000],
        // Requests that are sent together are answered together.
        requests in prop::collection::vec(60u32..1_100, 1..4),
        think_us in 0u32..400_000,
        flights in prop::collection::vec(flights(), 1..5),
        last_len in 100u32..=MSS,
    ) -> Exchange {
        Exchange { idle_us, requests, think_us, flights, last_len }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_response_is_told_as_it_was(
        exchanges in prop::collection::vec(exchanges(), 1..6),
        isn: u32,
    ) {
        let mut conversation = Conversation::new();
        let mut wire = Wire::new();
        wire.server_isn = isn;
        conversation.wire = wire.shaken_hands();
        let expected: Vec<_> = exchanges
            .iter()
            .map(|exchange| conversation.exchange(exchange))
            .collect();
        let told = conversation.told();
        prop_assert_eq!(told.len(), expected.len());
        for (told, expected) in told.iter().zip(&expected) {
            // The client's last word is known by the tick.
            let off_us = |a: u32, b: u32| a.abs_diff(b);
            prop_assert!(off_us(told.stalled_us, expected.stalled_us) <= 8, "{told:?} {expected:?}");
            prop_assert!(off_us(told.paused_us, expected.paused_us) <= 8, "{told:?} {expected:?}");
            let told = Expected {
                stalled_us: expected.stalled_us,
                paused_us: expected.paused_us,
                ..told.clone()
            };
            prop_assert_eq!(&told, expected);
        }
    }
}
