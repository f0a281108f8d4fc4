//! Playbacks: what is joined, what is kept apart, and when one is over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use monitor_ebpf::flow::{Address, FlowKey, FlowState};

use super::site::{CHUNK_BYTES, HD, Home, LEAD_IN, Life, SERVER, Site, get_chunk};
use crate::capture::{ChunkNews, FirstBytes, Snapshot};
use crate::config::Config;
use crate::engine::{Missed, Pipeline};
use crate::export::Record;
use crate::export::chunks::SessionRecord;
use crate::export::schema::validate_line;
use crate::flow::session::Ended;
use crate::path::Routes;
use crate::recognise::Transport;
use crate::recognise::services::Services;
use crate::verdict::Segment;

const START_US: u64 = 1_700_000_000_000_000;
const WINDOW_US: u64 = 5_000_000;

struct Players {
    pipeline: Pipeline,
    records: Vec<Record>,
    now_us: u64,
    /// Whether the clients name a service.
    ask: bool,
    /// Whether the kernel passes their packets over.
    unwanted: bool,
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
            ask: false,
            unwanted: false,
        }
    }

    /// Players of one service, some of them behind 6rd.
    fn of_a_service() -> Self {
        let text = "[video]\n[[video.six_rd]]\nipv6 = \"2001:db8::/32\"\nipv4 = \"10.0.0.0/8\"\n\
                    [flows]\nidle_s = 10\n[window]\nlength_s = 5\n";
        let config = Config::parse(text, Path::new("test.toml")).expect("right");
        let list = Services::parse("suffix,service\ncdn.example,Films\n", Path::new("list.csv"));
        let mut players = Self::new();
        players.pipeline.reconfigure(&config);
        players.pipeline.set_services(list.expect("a list"));
        players.ask = true;
        players
    }

    /// The connection of `client`'s `port` to the server's `server_port` has got its `number`th
    /// chunk just now.
    fn gets(&mut self, client: [u8; 4], port: u16, server_port: u16, number: u32) -> FlowKey {
        let server = Address::v4(SERVER);
        let (key, client_half) = FlowKey::new(Address::v4(client), port, server, server_port);
        self.flow_gets(key, client_half, number);
        key
    }

    /// The connection of `client` over IPv6, the same way.
    fn gets_over_ipv6(&mut self, client: &str, port: u16, number: u32) {
        let client: Ipv6Addr = client.parse().expect("an address");
        let server = Address::v6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).octets());
        let (key, client_half) = FlowKey::new(Address::v6(client.octets()), port, server, 443);
        self.flow_gets(key, client_half, number);
    }

    /// The client asks for something of `host`.
    fn says(&mut self, key: FlowKey, host: &str) {
        let said = FirstBytes {
            key,
            generation: 1,
            transport: Transport::Tcp,
            offset: 0,
            bytes: format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
        };
        self.pipeline.hear(&said, self.now_us);
    }

    fn flow_gets(&mut self, key: FlowKey, client_half: usize, number: u32) {
        if self.ask {
            self.says(key, "a.cdn.example");
        }
        let read_ns = (self.now_us - START_US + 1_000_000_000) * 1_000;
        let mut state = FlowState::EMPTY;
        (state.key, state.generation) = (key, 1);
        state.start_ns = read_ns - 2_000_000_000;
        let report = get_chunk(&mut state, client_half, number, read_ns);
        if self.unwanted {
            state.last_report_ns = FlowState::UNWANTED;
        }
        let snapshot = Snapshot {
            state,
            time_us: self.now_us,
            read_ns,
            interface: None,
        };
        self.pipeline.snapshot(&snapshot, &mut self.records);
        self.pipeline.chunk(&ChunkNews {
            report,
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
    assert_eq!(session.end_reason, Some(Ended::Idle));
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
fn one_device_over_both_protocols_is_one_session_where_its_address_says_so() {
    let mut players = Players::of_a_service();
    players.gets([10, 0, 0, 1], 40_000, 443, 1);
    // The same customer's 24 bits, and another one's.
    players.gets_over_ipv6("2001:db8:0:100::7", 40_001, 1);
    players.gets_over_ipv6("2001:db8:0:200::7", 40_001, 1);
    players.gets_over_ipv6("2001:db9:0:100::7", 40_001, 1);
    assert_eq!(players.end_of_window(), []);
    let over = players.end_of_window();
    let mut flows: Vec<u64> = over.iter().map(|session| session.flows).collect();
    flows.sort_unstable();
    assert_eq!(flows, [1, 1, 2], "{over:?}");
    assert!(
        over.iter()
            .all(|one| one.service.as_deref() == Some("Films"))
    );
}

#[test]
fn a_stop_ends_every_session() {
    let mut players = Players::new();
    players.gets([10, 0, 0, 1], 40_000, 443, 1);
    players.gets([10, 0, 0, 1], 40_001, 443, 1);
    let records = players.pipeline.finish(players.now_us, None);
    let over = sessions(&records);
    assert_eq!(over.len(), 1);
    assert_eq!(
        (over[0].flows, over[0].end_reason),
        (2, Some(Ended::Shutdown))
    );
    assert_eq!(over[0].chunks.count, 2);
}

#[test]
fn one_that_is_not_over_is_told_on_request_and_again_at_its_end() {
    let mut players = Players::new();
    players.gets([10, 0, 0, 1], 40_000, 443, 1);
    let asked = sessions(&players.pipeline.current_sessions(players.now_us));
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].end_reason, asked[0].chunks.count), (None, 1));
    players.gets([10, 0, 0, 1], 40_000, 443, 2);
    players.end_of_window();
    let over = players.end_of_window();
    assert_eq!(over[0].session_id, asked[0].session_id);
    assert_eq!(over[0].end_reason, Some(Ended::Idle));
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

#[test]
fn of_a_flow_that_was_passed_over_nothing_is_told() {
    let mut players = Players::of_a_service();
    let key = players.gets([10, 0, 0, 1], 40_000, 443, 1);
    assert!(players.pipeline.is_wanted(&key), "it is video");
    players.ask = false;
    let page = players.gets([10, 0, 0, 2], 40_000, 443, 1);
    assert!(players.pipeline.is_wanted(&page), "nothing is known of it");
    players.says(page, "www.example");
    assert!(!players.pipeline.is_wanted(&page));
    players.unwanted = true;
    players.gets([10, 0, 0, 2], 40_000, 443, 2);
    // Whatever the configuration becomes.
    let text = "[video]\nreport_all = true\n[flows]\nidle_s = 10\n[window]\nlength_s = 5\n";
    let config = Config::parse(text, Path::new("test.toml")).expect("right");
    players.pipeline.reconfigure(&config);
    players.records.clear();
    players.gets([10, 0, 0, 2], 40_000, 443, 3);
    players.end_of_window();
    let over = players.end_of_window();
    assert_eq!((over.len(), players.records.len()), (1, 0), "{over:?}");
}

#[test]
fn a_session_is_alone_where_its_client_has_no_other_and_goes_one_way() {
    let mut players = Players::of_a_service();
    let alone = |players: &mut Players, since_us| -> Vec<bool> {
        players.pipeline.join_all();
        let active = players.pipeline.sessions.active_mut(since_us);
        active.map(|(_, alone)| alone).collect()
    };
    players.gets([10, 0, 0, 1], 40_000, 443, 1);
    assert_eq!(alone(&mut players, START_US - WINDOW_US), [true]);
    // The same device over the other protocol: one session, at two places.
    players.gets_over_ipv6("2001:db8:0:100::7", 40_001, 1);
    assert_eq!(alone(&mut players, START_US - WINDOW_US), [false]);
    // Another client, who has two.
    players.gets([10, 0, 0, 2], 40_000, 443, 1);
    players.gets([10, 0, 0, 2], 40_000, 8_443, 1);
    assert_eq!(alone(&mut players, START_US - WINDOW_US), [false; 3]);
    // What was before counts no more.
    players.now_us += 2 * WINDOW_US;
    let since_us = players.now_us - WINDOW_US;
    players.gets([10, 0, 0, 2], 40_000, 443, 2);
    assert_eq!(alone(&mut players, since_us), [true]);
}

/// A site whose homes play on until the daemon stops; `life` is theirs after the lead-in. Their
/// sessions, by the home.
fn play(life: impl Fn(&Home) -> Life + Copy) -> Vec<(usize, SessionRecord)> {
    let mut site = Site::new(7);
    let mut config = Site::config(HD);
    config.log.full_client_addresses = true;
    site.pipeline.reconfigure(&config);
    for window in 1..=LEAD_IN + 8 {
        let (news_us, read_ns) = (site.now_us, site.now_us * 1_000);
        site.window(|home| {
            if window > LEAD_IN {
                life(home)
            } else {
                Life::default()
            }
        });
        for home in &site.homes {
            site.pipeline.chunk(&ChunkNews {
                report: home.chunk(window as u32, read_ns),
                time_us: news_us,
                read_ns,
            });
        }
    }
    let over = sessions(&site.pipeline.finish(site.now_us, None));
    let client = |home: &Home| format!("10.0.{}.{}", home.prefix, 1 + home.number);
    let of = |session: &SessionRecord| {
        let ip = serde_json::to_value(session.client_ip).expect("an address");
        let home = site.homes.iter().find(|home| client(home) == ip);
        home.unwrap_or_else(|| panic!("whose is {ip}")).index
    };
    over.iter().map(|one| (of(one), one.clone())).collect()
}

#[test]
fn a_playback_is_slowed_solely_by_its_isp_where_it_is_as_slow_as_its_neighbours() {
    // One home of the ISP's has a full line of its own besides.
    const ONE: usize = 3;
    let all = play(|home| match home.isp {
        "isp-x" if home.index == ONE => Life::congested(90_000),
        "isp-x" => Life::congested(40_000),
        _ => Life::default(),
    });
    assert_eq!(all.len(), 32);
    for (home, session) in all {
        let said = &session.verdict;
        let in_isp_x = home / 2 % 8 < 4;
        assert_eq!(said.degraded, Some(in_isp_x), "{home}: {said:?}");
        let (segments, sole): (&[Segment], _) = if in_isp_x {
            (&[Segment::Isp], Some(home != ONE))
        } else {
            (&[], None)
        };
        assert_eq!((&said.segments[..], said.sole), (segments, sole), "{home}");
        assert_eq!(said.verdict_ids.is_empty(), !in_isp_x);
    }
}
