//! What one packet costs in the kernel: BPF_PROG_TEST_RUN on the loaded programs, ours beside
//! what any monitor must do. `cargo xtask bench` runs it.
//!
//! Machines are noisy: every program is run in turn, many times, and medians are compared within
//! one run. Figures are net of the empty program.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use aya::programs::{TestRun as _, TestRunOptions};
use clap::Parser;
use ipnet::{IpNet, Ipv4Net};
use lastmile::{
    capture::live::{Live, Options},
    config::{Config, KernelLog},
};
use monitor_ebpf::bench::{Case, DATA_LEN, Frame, kinds};

/// What one packet costs in the kernel.
#[derive(Parser)]
struct Arguments {
    /// Flows that take turns; fewer than 16 are answered too soon for an RTT sample.
    #[arg(long, value_delimiter = ',', default_value = "16,10000")]
    flows: Vec<u32>,
    /// Rounds; each runs every program once.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Packets a run.
    #[arg(long, default_value_t = 200_000)]
    packets: u32,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Only packets of this kind.
    #[arg(long, value_enum)]
    case: Option<Kind>,
}

const PORT: u16 = 443;
const OTHER_PORT: u16 = 8_443;
const OTHER_PREFIXES: u32 = 1_000;

const EMPTY: usize = 0;
const REFERENCE: usize = 2;
/// Longer than a bench takes.
const REPORT_INTERVAL_MS: u32 = 3_600_000;

/// Bytes: data goes on while data is outstanding, and sequence numbers do not turn meanwhile.
const OUTSTANDING_MAX: u32 = 1 << 29;

const LASTMILE: &str = "bench_lastmile";
/// In the order in which each round runs them.
const PROGRAMS: [&str; 4] = ["bench_empty", "bench_parse", "bench_reference", LASTMILE];

/// What kind of packets.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    /// Not to or from a watched port
    #[value(name = "rejected_by_port")]
    Rejected,
    /// Where prefixes are watched instead, from and to none of them
    RejectedByPrefix,
    /// Data of watched flows, one way
    Data,
    /// Data and its ACK in turn: every ACK completes an RTT sample
    DataAndAck,
    /// The same, and data has the stamp that TCP gives what it sends
    SentAndAcked,
    /// The same, of flows that the daemon wants no more of: they are no video
    PassedOver,
}

impl Kind {
    /// In this order: nothing is wanted any more of the flows of the last.
    const ALL: [Self; 6] = [
        Self::Rejected,
        Self::RejectedByPrefix,
        Self::Data,
        Self::DataAndAck,
        Self::SentAndAcked,
        Self::PassedOver,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected_by_port",
            Self::RejectedByPrefix => "rejected_by_prefix",
            Self::Data => "data",
            Self::DataAndAck => "data_and_ack",
            Self::SentAndAcked => "sent_and_acked",
            Self::PassedOver => "passed_over",
        }
    }

    /// No flow sees it.
    fn is_rejected(self) -> bool {
        matches!(self, Self::Rejected | Self::RejectedByPrefix)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("packet_cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.json {
        println!(
            "ns a packet, median of {} runs of {} packets (lowest to highest), net of the empty \
             program\n",
            arguments.rounds, arguments.packets
        );
        println!(
            "{:<18}{:>9}  {:<16}{:>8}  {:>17}  {:>7}",
            "case", "flows", "program", "net ns", "(spread)", "ratio"
        );
    }
    for &flows in &arguments.flows {
        let mut bench = Bench::new(flows)?;
        let asked = |kind: &Kind| arguments.case.is_none_or(|case| case == *kind);
        for kind in Kind::ALL.into_iter().filter(asked) {
            bench.case(kind, arguments)?;
        }
    }
    Ok(())
}

struct Bench {
    live: Live,
    packet: Vec<u8>,
    flows: u32,
    /// The next sequence number of every flow's server.
    sequence: u32,
    /// How much of that is not acknowledged.
    outstanding: u32,
}

impl Bench {
    /// Loads the programs and lets every flow be seen in both directions.
    fn new(flows: u32) -> Result<Self> {
        let mut live = Live::load(&Options {
            // An LRU map gives up entries before it is full.
            max_flows: flows.saturating_mul(2).max(4_096),
            kernel_log: KernelLog::Off,
            cgroups: false,
            test_clock: false,
        })?;
        for name in PROGRAMS {
            live.program(name)?;
        }
        let mut packet = Frame::template().bytes().to_vec();
        packet.resize(packet.len() + DATA_LEN as usize, 0);
        let mut bench = Self {
            live,
            packet,
            flows,
            sequence: 1,
            outstanding: 0,
        };
        bench.watch(&[PORT], &[])?;
        bench.run(LASTMILE, kinds::HANDSHAKE, flows * 3)?;
        bench.sequence += 1;
        Ok(bench)
    }

    fn watch(&mut self, ports: &[u16], prefixes: &[IpNet]) -> Result<()> {
        let mut config = Config::default();
        config.watch.ports = ports.to_vec();
        config.watch.prefixes = prefixes.to_vec();
        // With many flows a round takes seconds, and each packet would be due for a report.
        config.flows.report_interval_ms = REPORT_INTERVAL_MS;
        self.live.watch(&config, 0)
    }

    /// ns a packet.
    fn run(&mut self, name: &str, kind: u32, packets: u32) -> Result<f64> {
        self.live.start_bench_case(&Case {
            flows: self.flows,
            kind,
            first_sequence: self.sequence,
            reserved: 0,
        })?;
        let result = self
            .live
            .program(name)?
            .test_run(TestRunOptions {
                data_in: Some(&self.packet),
                repeat: packets,
                ..TestRunOptions::default()
            })
            .with_context(|| format!("cannot run {name}"))?;
        Ok(result.duration.as_secs_f64() * 1e9)
    }

    /// The same of `kind`, as many packets of each flow as make at least `packets`; the next run
    /// goes on behind what our own program has seen.
    fn turns(&mut self, name: &str, kind: Kind, packets: u32) -> Result<f64> {
        let (made, each) = match kind {
            Kind::Data => (kinds::DATA, 1),
            Kind::SentAndAcked => (kinds::SENT_AND_ACKED, 2),
            _ => (kinds::DATA_AND_ACK, 2),
        };
        let turns = packets.div_ceil(self.flows * each);
        let net_ns = self.run(name, made, turns * self.flows * each)?;
        if name == LASTMILE && !kind.is_rejected() {
            let sent = turns.wrapping_mul(DATA_LEN);
            self.sequence = self.sequence.wrapping_add(sent);
            self.outstanding = self.outstanding.saturating_add(sent);
            if self.outstanding > OUTSTANDING_MAX {
                self.acknowledge()?;
            }
        }
        Ok(net_ns)
    }

    /// An ACK of everything, in every flow.
    fn acknowledge(&mut self) -> Result<()> {
        self.run(LASTMILE, kinds::ACK, self.flows)?;
        self.outstanding = 0;
        Ok(())
    }

    fn case(&mut self, kind: Kind, arguments: &Arguments) -> Result<()> {
        match kind {
            Kind::Rejected => self.watch(&[OTHER_PORT], &[])?,
            Kind::RejectedByPrefix => self.watch(&[], &other_prefixes())?,
            _ => self.watch(&[PORT], &[])?,
        }
        if kind == Kind::PassedOver {
            let mut flows = Vec::new();
            self.live
                .flows(|state| flows.push((state.key, state.generation)))?;
            for (key, generation) in flows {
                self.live.pass_over(&key, generation)?;
            }
        }
        self.acknowledge()?;
        self.turns(LASTMILE, kind, self.flows)?;
        let mut runs: [Vec<f64>; PROGRAMS.len()] = Default::default();
        for _ in 0..arguments.rounds {
            for (name, runs) in PROGRAMS.iter().zip(&mut runs) {
                runs.push(self.turns(name, kind, arguments.packets)?);
            }
        }
        let empty = median(&runs[EMPTY]);
        let reference = median(&runs[REFERENCE]) - empty;
        for (name, runs) in PROGRAMS.iter().zip(&runs) {
            let net = median(runs) - empty;
            let lowest = runs.iter().copied().fold(f64::INFINITY, f64::min) - empty;
            let highest = runs.iter().copied().fold(0.0, f64::max) - empty;
            let program = name.trim_start_matches("bench_");
            if arguments.json {
                let line = serde_json::json!({
                    "program": program,
                    "case": kind.name(),
                    "flows": self.flows,
                    "net_ns": net,
                    "lowest_net_ns": lowest,
                    "highest_net_ns": highest,
                    "reference_net_ns": reference,
                    "ratio": net / reference,
                });
                println!("{line}");
            } else {
                println!(
                    "{:<18}{:>9}  {program:<16}{net:>8.1}  {:>17}  {:>7.2}",
                    kind.name(),
                    self.flows,
                    format!("({lowest:.1} to {highest:.1})"),
                    net / reference
                );
            }
        }
        Ok(())
    }
}

/// An ISP's worth of prefixes, of which the bench's addresses are in none.
fn other_prefixes() -> Vec<IpNet> {
    (0..OTHER_PREFIXES)
        .map(|number| Ipv4Net::new_assert((0x0b00_0000 + number * 256).into(), 24).into())
        .collect()
}

fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
