//! QUIC beside the TCP that is judged: how much of the video it carries, to whom, and its RTT
//! where an endpoint spins its bit.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use monitor_ebpf::flow::{Address, FlowKey, HIGH_TO_LOW, LOW_TO_HIGH};
use monitor_ebpf::quic::{PORT, QuicFlow, QuicHalf};

use super::video::{Server, VideoFlows};
use crate::capture::QuicSnapshot;
use crate::cell::CellKey;
use crate::path::Location;

/// A bit that spins changes once a round trip, and there are several packets in one. Endpoints
/// that do not take part set it at random for each packet or connection (RFC 9000, 17.4).
const PACKETS_PER_SPIN: u64 = 4;
/// Fewer are chance.
const SPINS_MIN: u64 = 2;

/// What QUIC did in one cell and window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuicCell {
    /// UDP payload toward the clients.
    pub bytes: u64,
    /// Flows that did something.
    pub flows: u64,
    /// By the name of the service; those without one are in none.
    pub services: BTreeMap<Arc<str>, ServiceTotals>,
    /// Round trips of flows that spin: how many, their sum, and the shortest of those flows'
    /// lives, µs.
    pub spin_samples: u64,
    pub spin_sum_us: u64,
    pub spin_min_us: Option<u32>,
}

/// One service's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceTotals {
    pub bytes: u64,
    pub flows: u64,
}

/// One window of QUIC.
#[derive(Clone, Debug, Default)]
pub struct QuicWindow {
    pub cells: BTreeMap<CellKey, QuicCell>,
    /// Bytes and flows to clients without a known route.
    pub unrouted: ServiceTotals,
}

/// The last reading of every QUIC flow.
#[derive(Debug, Default)]
pub struct QuicFlows {
    last: HashMap<FlowKey, QuicFlow>,
}

impl QuicFlows {
    /// What the flows that count as video did since the last call, which `now` has all of.
    pub fn window(
        &mut self,
        now: &[QuicSnapshot],
        video: &VideoFlows,
        locate: impl Fn(IpAddr) -> Option<Location>,
    ) -> QuicWindow {
        let mut window = QuicWindow::default();
        let mut last = HashMap::with_capacity(now.len());
        for snapshot in now {
            let before = self
                .last
                .get(&snapshot.key)
                .filter(|before| before.generation == snapshot.state.generation)
                .copied()
                .unwrap_or_default();
            last.insert(snapshot.key, snapshot.state);
            let ends = Ends::of(snapshot);
            let asked = video.asked(&snapshot.key, snapshot.state.generation);
            let class = video.said(&ends.server, asked);
            if !video.is_reported(&class) {
                continue;
            }
            let (from, to) = (
                &before.halves[ends.server_half],
                &snapshot.state.halves[ends.server_half],
            );
            let bytes = to.bytes.saturating_sub(from.bytes);
            let both = |flow: &QuicFlow| flow.halves.map(|half| half.packets);
            if both(&before) == both(&snapshot.state) {
                continue;
            }
            let Some(location) = locate(ends.client) else {
                window.unrouted.bytes += bytes;
                window.unrouted.flows += 1;
                continue;
            };
            let cell = window.cells.entry((&location).into()).or_default();
            cell.bytes += bytes;
            cell.flows += 1;
            if let Some(service) = &class.service {
                let of = cell.services.entry(Arc::clone(service)).or_default();
                of.bytes += bytes;
                of.flows += 1;
            }
            spin(from, to, cell);
        }
        self.last = last;
        window
    }

    /// Whether a flow was in the last window's reading.
    pub fn is_known(&self, key: &FlowKey, generation: u64) -> bool {
        self.last
            .get(key)
            .is_some_and(|flow| flow.generation == generation)
    }
}

fn spin(from: &QuicHalf, to: &QuicHalf, cell: &mut QuicCell) {
    let since = |from: u32, to: u32| u64::from(to.saturating_sub(from));
    let samples = since(from.spin_samples, to.spin_samples);
    let packets = since(from.short_packets, to.short_packets);
    if samples < SPINS_MIN || packets < PACKETS_PER_SPIN * samples {
        return;
    }
    cell.spin_samples += samples;
    cell.spin_sum_us += to.spin_sum_us.saturating_sub(from.spin_sum_us);
    let shortest = Some(to.spin_min_us);
    cell.spin_min_us = cell.spin_min_us.into_iter().chain(shortest).min();
}

/// Who is who: QUIC's port is the server's.
struct Ends {
    client: IpAddr,
    server: Server,
    server_half: usize,
}

impl Ends {
    fn of(snapshot: &QuicSnapshot) -> Self {
        let (key, halves) = (&snapshot.key, &snapshot.state.halves);
        let low_is_server = if key.low_port == key.high_port {
            halves[LOW_TO_HIGH].bytes > halves[HIGH_TO_LOW].bytes
        } else {
            key.low_port == PORT
        };
        let address = |address: Address| Ipv6Addr::from(address.octets()).to_canonical();
        let low = (address(key.low_address), key.low_port);
        let high = (address(key.high_address), key.high_port);
        let (server, client, server_half) = if low_is_server {
            (low, high, LOW_TO_HIGH)
        } else {
            (high, low, HIGH_TO_LOW)
        };
        let is_egress = |half: &QuicHalf| half.owner & 1 == 1;
        Self {
            client: client.0,
            server: Server {
                address: server.0,
                port: server.1,
                is_ours: is_egress(&halves[server_half]) && !is_egress(&halves[server_half ^ 1]),
                cgroup: 0,
            },
            server_half,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A flow after the server sent so many bytes in so many packets.
    fn flow(bytes: u64, packets: u32) -> QuicSnapshot {
        let client = Address::v4([198, 51, 100, 7]);
        let server = Address::v4([203, 0, 113, 9]);
        let (key, direction) = FlowKey::new(client, 50_000, server, PORT);
        let mut state = QuicFlow {
            generation: 1,
            ..QuicFlow::default()
        };
        let half = &mut state.halves[direction ^ 1];
        (half.bytes, half.packets, half.short_packets) = (bytes, packets, packets);
        QuicSnapshot { key, state }
    }

    fn located(_: IpAddr) -> Option<Location> {
        let unit = "198.51.100.0/24";
        Some(Location {
            unit: unit.parse().expect("a prefix"),
            route: Arc::new(crate::path::followed::tests::route(unit, "ix")),
        })
    }

    #[test]
    fn bytes_and_flows_are_counted_by_cell_once() {
        let video = VideoFlows::new(&Config::default());
        let mut flows = QuicFlows::default();
        let bytes = |window: &QuicWindow| -> Vec<(u64, u64)> {
            let cells = window.cells.values();
            cells.map(|cell| (cell.bytes, cell.flows)).collect()
        };
        assert_eq!(
            bytes(&flows.window(&[flow(900, 3)], &video, located)),
            [(900, 1)]
        );
        assert_eq!(
            bytes(&flows.window(&[flow(1_000, 4)], &video, located)),
            [(100, 1)]
        );
        // Silent.
        assert_eq!(bytes(&flows.window(&[flow(1_000, 4)], &video, located)), []);
        let unrouted = flows.window(&[flow(1_500, 5)], &video, |_| None).unrouted;
        assert_eq!((unrouted.bytes, unrouted.flows), (500, 1));
    }

    #[test]
    fn a_bit_that_changes_with_nearly_every_packet_does_not_spin() {
        let video = VideoFlows::new(&Config::default());
        let spun = |samples: u32| {
            let mut snapshot = flow(100_000, 100);
            for half in &mut snapshot.state.halves {
                half.spin_samples = samples;
                half.spin_sum_us = u64::from(samples) * 30_000;
                half.spin_min_us = 25_000;
            }
            let window = QuicFlows::default().window(&[snapshot], &video, located);
            let cell = window.cells.into_values().next().expect("one");
            (cell.spin_samples, cell.spin_min_us)
        };
        assert_eq!(spun(10), (10, Some(25_000)));
        assert_eq!(spun(48), (0, None));
        assert_eq!(spun(1), (0, None));
    }
}
