//! Playbacks: what is joined, what is kept apart, and when one is over.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use monitor_ebpf::chunk::{Chunk, ChunkReport, Progress, progress};
use monitor_ebpf::flow::{Address, FlowKey, FlowState, half_flags as is};
use monitor_ebpf::sequence::{high, pack};

use super::site::SERVER;
use crate::capture::{ChunkNews, Snapshot};
use crate::config::Config;
use crate::engine::{Missed, Pipeline};
use crate::export::Record;
use crate::export::chunks::SessionRecord;
use crate::export::schema::validate_line;
use crate::flow::session::Ended;
use crate::path::Routes;

const START_US: u64 = 1_700_000_000_000_000;
const WINDOW_US: u64 = 5_000_000;

/// What one chunk of these players is.
const CHUNK_BYTES: u32 = 500_000;
const TRANSFER_US: u32 = 400_000;

struct Players {
    pipeline: Pipeline,
    records: Vec<Record>,
    now_us: u64,
}

impl Players {
    fn new() -> Self {
        let mut config = Config::default();
        config.window.length_s = 5;
        config.flows.idle_s = 10;
        let routes = Arc::new(ArcSwap::from_pointee(Routes::default()));
        Self {
            pipeline: Pipeline::new(&config, routes, "test"),
            records: Vec::new(),
            now_us: START_US,
        }
    }

    /// The connection of `client`'s `port` to the server's `server_port` has got its `number`th
    /// chunk just now.
    fn gets(&mut self, client: [u8; 4], port: u16, server_port: u16, number: u32) {
        let (key, client_half) =
            FlowKey::new(Address::v4(client), port, Address::v4(SERVER), server_port);
        let read_ns = (self.now_us - START_US + 1_000_000_000) * 1_000;
        let now_us = (read_ns / 1_000) as u32;
        let mut state = FlowState::EMPTY;
        (state.key, state.generation) = (key, 1);
        state.start_ns = read_ns - 2_000_000_000;
        let server = &mut state.halves[client_half ^ 1];
        server.flags = is::SEQUENCE_KNOWN | is::SYN | is::SYN_ACK;
        server.bytes = u64::from(number * CHUNK_BYTES);
        server.segments = number * 350;
        server.burst = pack(number * CHUNK_BYTES, now_us - TRANSFER_US);
        server.mss = 1_448;
        server.chunk = Chunk {
            number,
            start: (number - 1) * CHUNK_BYTES,
            request_us: now_us - TRANSFER_US - 5_000,
            first_us: now_us - TRANSFER_US,
            ..Chunk::EMPTY
        };
        let chunk = server.chunk;
        server.last_seen_ns = read_ns;
        let client = &mut state.halves[client_half];
        client.flags = is::SYN | is::ACK_KNOWN;
        client.acked = pack(number * CHUNK_BYTES, 60_000);
        client.acked_bytes = u64::from(number * CHUNK_BYTES);
        client.drained = pack(number * CHUNK_BYTES, now_us);
        client.handshake_rtt_us = 20_000;
        client.last_seen_ns = read_ns;
        let snapshot = Snapshot {
            state,
            time_us: self.now_us,
            read_ns,
            interface: None,
        };
        self.pipeline.snapshot(&snapshot, &mut self.records);
        let (server, client) = state.halves(client_half ^ 1);
        self.pipeline.chunk(&ChunkNews {
            report: ChunkReport {
                key,
                generation: 1,
                time_ns: read_ns,
                chunk,
                progress: Progress {
                    rtt_min_us: 20_000,
                    ..progress(server, client, high(server.burst))
                },
                direction: (client_half ^ 1) as u32,
                reserved: 0,
            },
            time_us: self.now_us,
            read_ns,
        });
    }

    /// The sessions that were over by the end of the window.
    fn end_of_window(&mut self) -> Vec<SessionRecord> {
        self.now_us += WINDOW_US;
        let records = self
            .pipeline
            .end_of_window(self.now_us, None, None, &Missed::default());
        sessions(&records)
    }
}

fn sessions(records: &[Record]) -> Vec<SessionRecord> {
    for record in records {
        let line = serde_json::to_string(record).expect("JSON");
        validate_line(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    records
        .iter()
        .filter_map(|record| match record {
            Record::Session(session) => Some((**session).clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn the_connections_of_one_playback_are_one_session() {
    let mut players = Players::new();
    for number in 1..=4 {
        players.gets([10, 0, 0, 1], 40_000, 443, number);
        players.gets([10, 0, 0, 1], 40_001, 443, number);
        assert_eq!(players.end_of_window(), []);
    }
    let over = players.end_of_window();
    let [session] = &over[..] else {
        panic!("one session: {over:?}");
    };
    assert_eq!((session.flows, session.flow_ids.len()), (2, 2));
    assert_eq!(session.end_reason, Ended::Idle);
    assert_eq!(session.server_ip, Some(IpAddr::V4(Ipv4Addr::from(SERVER))));
    let chunks = &session.chunks;
    assert_eq!((chunks.count, chunks.lost, chunks.unfinished), (8, 0, 0));
    assert_eq!(chunks.bytes, 8 * u64::from(CHUNK_BYTES));
    // 500 kB in 0.4 s are 10 Mbit/s.
    assert_eq!((chunks.able_share, chunks.hd_ratio), (Some(1.0), Some(1.0)));
    let off = chunks.off_time_share.expect("there was time");
    assert!(off > 0.8, "{off}");
    assert_eq!(players.end_of_window(), []);
}

#[test]
fn clients_and_ports_are_kept_apart() {
    let mut players = Players::new();
    players.gets([10, 0, 0, 1], 40_000, 443, 1);
    players.gets([10, 0, 0, 2], 40_000, 443, 1);
    players.gets([10, 0, 0, 1], 40_000, 8_443, 1);
    assert_eq!(players.end_of_window(), []);
    assert_eq!(players.end_of_window().len(), 3);
}

#[test]
fn a_stop_ends_every_session() {
    let mut players = Players::new();
    players.gets([10, 0, 0, 1], 40_000, 443, 1);
    players.gets([10, 0, 0, 1], 40_001, 443, 1);
    let records = players.pipeline.finish(players.now_us, None);
    let over = sessions(&records);
    assert_eq!(over.len(), 1);
    assert_eq!((over[0].flows, over[0].end_reason), (2, Ended::Shutdown));
    assert_eq!(over[0].chunks.count, 2);
}

#[test]
fn what_comes_after_the_end_is_another_session() {
    let mut players = Players::new();
    players.gets([10, 0, 0, 1], 40_000, 443, 1);
    players.end_of_window();
    let first = players.end_of_window();
    players.gets([10, 0, 0, 1], 40_000, 443, 2);
    players.end_of_window();
    let second = players.end_of_window();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first[0].session_id, "");
    assert_eq!((first[0].chunks.count, second[0].chunks.count), (1, 1));
}
