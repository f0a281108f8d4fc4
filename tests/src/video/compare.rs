//! The daemon's chunks against what was served.
//!
//! A chunk lasts from its request until its last byte is acknowledged. nginx's clock stops when the
//! last byte is handed to the socket: what is under way then, and what of it is lost and sent again,
//! is in no access log, so that a chunk can only be longer than nginx says. The player's clock is
//! the exact one: from asking to having is as long as from the request's arrival to that of the last
//! ACK, because either has one way there and one way back in it.

use std::collections::BTreeMap;
use std::fmt;

use crate::video::found::{Chunk, Flow};
use crate::video::served::{Client, Served};

/// A chunk that begins this far from a request is not its answer: what a busy, emulated machine
/// puts between a packet and nginx's look at its clock.
const SAME_S: f64 = 0.25;
/// nginx's clock, at both ends of a request (`$msec` and `$request_time` are cached in whole
/// milliseconds), and the machine's timers.
const CLOCK_S: f64 = 0.004;
/// So many of what was not found or not right are told.
const EXAMPLES: usize = 12;

/// How many of what was served were found, and how well.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// Answers, or groups of them that overlap.
    pub served: usize,
    /// A chunk begins when they do.
    pub found: usize,
    /// ... with exactly their bytes.
    pub exact: usize,
    /// Those that took as long as the player says, to one round trip, and no
    /// less than nginx says ...
    pub timed: usize,
    /// ... even to a round trip of the idle path.
    pub timed_closely: usize,
    /// Chunks of these connections that answer nothing in the access log: handshakes.
    pub besides: usize,
    /// The first that were not right, for people.
    pub examples: Vec<String>,
    /// How much longer chunks lasted than nginx says, seconds, sorted.
    pub behind_server_s: Vec<f64>,
    /// ... and than the player says.
    pub behind_player_s: Vec<f64>,
}

impl Comparison {
    /// Holds each flow's chunks against what was served on it. `rtt_s` is a client's round trip on
    /// the idle path.
    #[must_use]
    pub fn new(
        served: &[Served],
        flows: &BTreeMap<Client, Flow>,
        rtt_s: impl Fn(Client) -> f64,
    ) -> Self {
        let mut by_client: BTreeMap<Client, Vec<&Served>> = BTreeMap::new();
        for one in served {
            by_client.entry(one.client).or_default().push(one);
        }
        let mut all = Self::default();
        let none = Flow::default();
        for (client, served) in by_client {
            let flow = flows.get(&client).unwrap_or(&none);
            all.flow(&served, flow, rtt_s(client));
        }
        all.behind_server_s.sort_by(f64::total_cmp);
        all.behind_player_s.sort_by(f64::total_cmp);
        all
    }

    fn flow(&mut self, served: &[&Served], flow: &Flow, rtt_s: f64) {
        let mut left: Vec<&Chunk> = flow.chunks.values().collect();
        for one in served {
            self.served += 1;
            let distance = |chunk: &Chunk| (chunk.start - one.begin).abs();
            let nearest = left
                .iter()
                .enumerate()
                // A handshake is as near as the first request; what is nearer in size is it.
                .filter(|(_, chunk)| distance(chunk) <= SAME_S)
                .min_by(|(_, a), (_, b)| {
                    let key = |chunk: &Chunk| (chunk.bytes != one.bytes, distance(chunk));
                    key(a)
                        .partial_cmp(&key(b))
                        .unwrap_or(std::cmp::Ordering::Equal)
                })
                .map(|(index, _)| index);
            let Some(index) = nearest else {
                self.example(one, "not found".to_owned());
                continue;
            };
            let chunk = left.remove(index);
            self.found += 1;
            if chunk.bytes == one.bytes {
                self.exact += 1;
            } else {
                self.example(one, format!("{} bytes", chunk.bytes));
            }
            self.times(one, chunk, rtt_s);
        }
        self.besides += left.len();
    }

    fn times(&mut self, one: &Served, chunk: &Chunk, rtt_s: f64) {
        let Some(duration_s) = chunk.duration_s() else {
            self.example(one, "no end".to_owned());
            return;
        };
        let behind_server_s = duration_s - one.server_s();
        let behind_player_s = duration_s - one.player_s;
        self.behind_server_s.push(behind_server_s);
        self.behind_player_s.push(behind_player_s);
        let within =
            |rtt_s: f64| behind_player_s.abs() <= rtt_s + CLOCK_S && behind_server_s >= -CLOCK_S;
        self.timed_closely += usize::from(within(rtt_s));
        if within(one.rtt_max_s) {
            self.timed += 1;
        } else {
            self.example(one, format!("{duration_s:.3} s"));
        }
    }

    fn example(&mut self, one: &Served, what: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!(
                "{}:{} {:?} at {:.3}, {} answers, {} bytes, {:.3} s by nginx, {:.3} s by the \
                 player, RTT up to {:.0} ms: {what}",
                one.client.0,
                one.client.1,
                one.http,
                one.begin % 1000.0,
                one.answers,
                one.bytes,
                one.server_s(),
                one.player_s,
                one.rtt_max_s * 1e3
            ));
        }
    }

    /// What is told about, the share of it, and how many of how many that is.
    #[must_use]
    pub fn shares(&self) -> [(&'static str, f64, [usize; 2]); 4] {
        [
            ("found", [self.found, self.served]),
            ("with exactly their bytes", [self.exact, self.served]),
            (
                "as long as the player says, to one RTT",
                [self.timed, self.served],
            ),
            (
                "the same, to one RTT of the idle path",
                [self.timed_closely, self.served],
            ),
        ]
        .map(|(what, [part, whole])| (what, part as f64 / whole.max(1) as f64, [part, whole]))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, share, [part, whole]) in self.shares() {
            writeln!(f, "  {part:>5} of {whole} {what} ({:.2} %)", 100.0 * share)?;
        }
        for (whom, all) in [
            ("nginx", &self.behind_server_s),
            ("the player", &self.behind_player_s),
        ] {
            let at = |share: f64| {
                let index = (share * (all.len().max(1) - 1) as f64) as usize;
                all.get(index).copied().unwrap_or(f64::NAN) * 1e3
            };
            writeln!(
                f,
                "  longer than {whom} says by {:.1} ms (p1), {:.1} (p50), {:.1} (p99)",
                at(0.01),
                at(0.5),
                at(0.99)
            )?;
        }
        writeln!(f, "  {} other chunks (handshakes)", self.besides)?;
        self.examples
            .iter()
            .try_for_each(|example| writeln!(f, "    {example}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::connection::Http;
    use std::net::Ipv4Addr;

    const CLIENT: Client = (Ipv4Addr::LOCALHOST, 1);

    fn served(begin: f64, bytes: u64) -> Served {
        Served {
            client: CLIENT,
            http: Http::One,
            begin,
            end: begin + 0.5,
            player_s: 0.53,
            bytes,
            logged_bytes: bytes,
            answers: 1,
            first: false,
            rtt_max_s: 0.05,
            rtt_min_s: 0.02,
        }
    }

    fn chunk(start: f64, bytes: u64, duration_us: u64) -> Chunk {
        let text = format!(
            r#"{{"number": 1, "start_time": "", "first_byte_us": null,
            "duration_us": {duration_us}, "bytes": {bytes}}}"#
        );
        Chunk {
            start,
            ..serde_json::from_str(&text).unwrap()
        }
    }

    fn compare(chunks: &[Chunk], all: &[Served]) -> Comparison {
        let flow = Flow {
            chunks: (1..).zip(chunks.iter().cloned()).collect(),
            ..Flow::default()
        };
        Comparison::new(all, &BTreeMap::from([(CLIENT, flow)]), |_| 0.02)
    }

    #[test]
    fn every_answer_has_its_chunk_and_the_handshake_is_besides() {
        let chunks = [
            chunk(1.0, 1_900, 500_000),
            chunk(1.02, 700, 530_000),
            chunk(3.0, 900, 530_000),
        ];
        let all = compare(&chunks, &[served(1.03, 700), served(3.0, 900)]);
        assert_eq!((all.found, all.exact, all.besides), (2, 2, 1));
        assert_eq!((all.timed, all.timed_closely), (2, 2));
        assert!(all.examples.is_empty(), "{all}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let chunks = [chunk(1.0, 600, 700_000)];
        let all = compare(&chunks, &[served(1.0, 700), served(3.0, 900)]);
        assert_eq!((all.served, all.found, all.exact), (2, 1, 0));
        assert_eq!((all.timed, all.timed_closely), (0, 0));
        assert_eq!(all.examples.len(), 3);
    }
}
