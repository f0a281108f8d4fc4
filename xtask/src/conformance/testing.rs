//! A conversation for tests, told in milliseconds and sequence numbers.

use std::net::SocketAddr;

use super::segment::{Analysis, Carriage, Direction, Segment, Tuple, flag};

/// Time of millisecond 0, µs.
const EPOCH_US: u64 = 1_600_000_000_000_000;

/// Segments between a client and a server, in the order in which they pass.
pub struct Conversation {
    client: SocketAddr,
    server: SocketAddr,
    passed: Vec<Segment>,
}

impl Default for Conversation {
    fn default() -> Self {
        Self {
            client: SocketAddr::from(([198, 51, 100, 7], 40_000)),
            server: SocketAddr::from(([192, 0, 2, 1], 443)),
            passed: Vec::new(),
        }
    }
}

impl Conversation {
    pub fn time_us(&self, ms: u64) -> u64 {
        EPOCH_US + ms * 1_000
    }

    pub fn to_client(&self) -> Direction {
        Tuple::of(self.server, self.client).1
    }

    pub fn segments(&self) -> Vec<&Segment> {
        self.passed.iter().collect()
    }

    /// SYN, SYN-ACK and ACK, each `step_ms` after the other; the server's data begins at 1000,
    /// the client's at 1.
    pub fn handshake(&mut self, at_ms: u64, step_ms: u64) -> &mut Self {
        self.pass(at_ms, true, 0, 0, 0, flag::SYN);
        self.pass(at_ms + step_ms, false, 999, 1, 0, flag::SYN | flag::ACK);
        self.pass(at_ms + 2 * step_ms, true, 1, 1_000, 0, flag::ACK)
    }

    /// Data from the server.
    pub fn server(&mut self, at_ms: u64, sequence: u32, len: u32) -> &mut Self {
        self.pass(at_ms, false, sequence, 1, len, flag::ACK)
    }

    /// A bare acknowledgement from the client.
    pub fn client_ack(&mut self, at_ms: u64, acknowledgment: u32) -> &mut Self {
        self.pass(at_ms, true, 1, acknowledgment, 0, flag::ACK)
    }

    /// Any segment.
    pub fn pass(
        &mut self,
        at_ms: u64,
        from_client: bool,
        sequence: u32,
        acknowledgment: u32,
        len: u32,
        flags: u16,
    ) -> &mut Self {
        let ends = [self.client, self.server];
        let [source, destination] = if from_client {
            ends
        } else {
            [ends[1], ends[0]]
        };
        self.passed.push(Segment {
            frame: self.passed.len() as u32 + 1,
            time_ns: (EPOCH_US + at_ms * 1_000) * 1_000,
            carriage: Carriage::Plain,
            labelled: false,
            extended: false,
            stream: 0,
            source,
            destination,
            sequence,
            acknowledgment,
            len,
            len_in_frame: len,
            flags,
            window: 1_000,
            timestamps: None,
            header_cut: false,
            analysis: Analysis::default(),
        });
        self
    }

    /// The segment that passed last.
    pub fn last(&mut self) -> &mut Segment {
        self.passed.last_mut().expect("a segment passed")
    }
}
