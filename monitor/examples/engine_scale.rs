//! How long the engine takes for one window of a large CDN: cells in, verdicts out, on one core.
//!
//! `cargo xtask bench engine` builds and runs it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use ipnet::{IpNet, Ipv4Net};
use lastmile::cell::{Cell, CellKey, Cells, ClientTotals};
use lastmile::config::{Baseline, Config};
use lastmile::engine::judge::Moves;
use lastmile::engine::verdicts::{Beside, Engine};
use lastmile::engine::{Missed, WindowSpan};
use lastmile::flow::Totals;
use lastmile::path::{Route, Source, SourceSet};
use lastmile::verdict::coverage::Coverage;
use monitor_ebpf::flow::{RTT_BINS, rtt_bin};

/// Measures how long the engine takes for one window.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 100)]
    interconnects: usize,
    #[arg(long, default_value_t = 5_000)]
    isps: usize,
    /// Prefixes of each ISP, each through one of two interconnects
    #[arg(long, default_value_t = 40)]
    prefixes: usize,
    /// Clients of each prefix
    #[arg(long, default_value_t = 2)]
    clients: usize,
    /// Windows with faults that are measured
    #[arg(long, default_value_t = 5)]
    windows: u64,
    /// What a window may take, ms
    #[arg(long, default_value_t = 1_000)]
    limit_ms: u64,
}

/// Windows from which what is usual is known.
const LEARNED_AFTER: u64 = 6;
const WINDOW_S: u32 = 60;
const FIRST_WINDOW: u64 = 30_000_000;

struct Nobody;

impl Moves for Nobody {
    fn moved_lately(&self, _: &IpNet, _: u64) -> bool {
        false
    }

    fn has_moved(&self, _: &IpNet) -> bool {
        false
    }
}

/// One cell's place in the world.
struct Served {
    key: CellKey,
    route: Arc<Route>,
    interconnect: usize,
    isp: usize,
    first: u32,
}

fn world(of: &Arguments) -> Vec<Served> {
    let name = |what: &str, number: usize| -> Arc<str> { format!("{what}-{number}").into() };
    let interconnects: Vec<_> = (0..of.interconnects).map(|it| name("ic", it)).collect();
    let mut served = Vec::new();
    for isp in 0..of.isps {
        let isp_name = name("isp", isp);
        // Any two of them; neighbours in number share few.
        let first = isp % of.interconnects;
        let other =
            (first + 1 + isp / of.interconnects % (of.interconnects - 1)) % of.interconnects;
        for prefix in 0..of.prefixes {
            let interconnect = if prefix % 2 == 0 { first } else { other };
            let number = (isp * of.prefixes + prefix) as u32;
            let network = Ipv4Addr::from(0x0b00_0000 + number * 256);
            let prefix = Ipv4Net::new(network, 24).expect("24 is a length");
            let key = CellKey {
                interconnect: Arc::clone(&interconnects[interconnect]),
                isp: Arc::clone(&isp_name),
                origin_asn: 100_000 + isp as u32,
                prefix: prefix.into(),
                direct: true,
            };
            let route = Arc::new(Route {
                prefix: key.prefix,
                origin_asn: key.origin_asn,
                isp: Arc::clone(&key.isp),
                interconnect: Arc::clone(&key.interconnect),
                peer_asn: Some(key.origin_asn),
                peer_address: None,
                next_hop: None,
                router: None,
                interface: None,
                as_path_middle: [].into(),
                connectivity: None,
                site: None,
                risk_groups: [].into(),
                sources: SourceSet {
                    who: Source::File,
                    way: Source::File,
                },
                stale: false,
            });
            served.push(Served {
                key,
                route,
                interconnect,
                isp,
                first: u32::from(network) + 1,
            });
        }
    }
    served
}

/// What a client did; `variant` moves its figures a little.
fn client(base_us: u32, is_bad: bool, variant: u64) -> ClientTotals {
    let rtt_us = base_us + 200 * variant as u32 + if is_bad { 60_000 } else { 0 };
    let mut bins = [0; RTT_BINS];
    bins[rtt_bin(rtt_us)] = 40;
    let mut totals = Totals {
        bytes: 4_344_000,
        segments: 3_000 + variant,
        lost_downstream_segments: if is_bad { 45 } else { variant % 2 },
        acked_bytes: 4_300_000 + 10_000 * variant,
        busy_us: if is_bad { 9_000_000 } else { 3_000_000 },
        bursts: 12,
        rtt_samples: 40,
        rtt_min_us: Some(rtt_us),
        rtt_max_us: Some(rtt_us + 5_000),
        ..Totals::default()
    };
    totals.rtt.add_difference(&[0; RTT_BINS], &bins);
    ClientTotals {
        to_client: totals,
        observations: 2,
        ..ClientTotals::default()
    }
}

/// Two full interconnects, five ISPs that are full inside, and one home in 500 with a bad line.
fn is_bad(served: &Served, home: u32) -> bool {
    served.interconnect % 50 == 7
        || served.isp % 1_000 == 42
        || home.wrapping_mul(2_654_435_761).is_multiple_of(500)
}

fn window(world: &[Served], clients: usize, number: u64, faults: bool) -> (Cells, Coverage) {
    let (mut cells, mut coverage) = (BTreeMap::new(), Coverage::default());
    let mut observations = 0;
    for served in world {
        let mut cell = Cell {
            route: Some(Arc::clone(&served.route)),
            ..Cell::default()
        };
        for home in 0..clients as u32 {
            let address = served.first + home;
            let variant = (u64::from(address) * 31 + number * 17) % 7;
            let base_us = 20_000 + 1_000 * (served.isp as u32 % 30);
            let bad = faults && is_bad(served, address);
            let totals = client(base_us, bad, variant);
            observations += totals.observations;
            cell.clients
                .insert(IpAddr::from(Ipv4Addr::from(address)), totals);
        }
        let bytes = cell.totals().to_client.bytes;
        coverage.add(&served.key, bytes, bytes / 10);
        cells.insert(served.key.clone(), cell);
    }
    let cells = Cells {
        cells,
        observations,
        ..Cells::default()
    };
    (cells, coverage)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.interconnects < 2 {
        eprintln!("engine_scale: there must be two interconnects");
        return ExitCode::from(2);
    }
    let world = world(&arguments);
    let config = Config {
        baseline: Baseline {
            min_windows: LEARNED_AFTER as u32,
            slot_windows: 1,
            best_slots: 4,
            span_slots: 1_000,
        },
        ..Config::default()
    };
    let mut engine = Engine::default();
    let mut slowest_ms = 0.0_f64;
    println!(
        "{} cells, {} clients, {} interconnects, {} ISPs",
        world.len(),
        world.len() * arguments.clients,
        arguments.interconnects,
        arguments.isps
    );
    for number in 0..LEARNED_AFTER + 1 + arguments.windows {
        let faults = number > LEARNED_AFTER;
        let (cells, coverage) = window(&world, arguments.clients, number, faults);
        let missed = Missed {
            reports_received: cells.observations,
            ..Missed::default()
        };
        let beside = Beside {
            missed: &missed,
            local: None,
            ports: None,
            coverage: &coverage,
        };
        let start_us = (FIRST_WINDOW + number) * u64::from(WINDOW_S) * 1_000_000;
        let span = WindowSpan::at(start_us, WINDOW_S);
        let began = Instant::now();
        let concluded = engine.window(&cells, &span, &beside, &Nobody, &config);
        let took_ms = began.elapsed().as_secs_f64() * 1e3;
        if number >= LEARNED_AFTER {
            slowest_ms = slowest_ms.max(took_ms);
            let named = concluded
                .verdicts
                .iter()
                .filter(|it| it.segments.len() == 1);
            println!(
                "window {number}: {took_ms:.0} ms, {} verdicts, {} of them name one segment",
                concluded.verdicts.len(),
                named.count()
            );
        }
    }
    println!(
        "slowest {slowest_ms:.0} ms; at most {} ms",
        arguments.limit_ms
    );
    if slowest_ms <= arguments.limit_ms as f64 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
