//! One direction of a flow on several CPUs at once, which the packet path allows to cost counts
//! but nothing else: says how many are lost, of how many.
//!
//! `cargo test -p lastmile --test spread -- --nocapture` prints the figures that
//! docs/measurement.md has.

mod support;

use std::{
    process::Command,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use lastmile::{
    capture::live::{Hook, Live, Options},
    config::{Config, KernelLog},
};
use lastmile_lab::netns;
use monitor_ebpf::{
    bench::{Case, DATA_LEN, FIRST_CLIENT_PORT, Frame, kinds},
    counters::Counter,
    flow::{FlowState, Half},
};
use support::{
    chain::{Chain, LEFT, RIGHT},
    ethtool,
    net::PORT,
    observer::{Observer, server_and_client},
    transfer::Downloads,
};

/// The CPUs that meet.
const CPUS: [usize; 2] = [0, 1];
/// Packets that each of them has in the synthetic case. Emulated CPUs are thirty times slower.
const PACKETS: u32 = 300_000;
/// Flows beside the one that is spread: nothing may happen to them.
const BYSTANDERS: u32 = 63;
/// What the programs for measuring what a packet costs send from (see `monitor_ebpf::bench`).
const BENCH_PORT: u16 = 443;
const BENCH_PROGRAM: &str = "bench_lastmile";

fn two_cpus_or_skip() -> bool {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    if cpus < CPUS.len() {
        println!("SKIPPED: two CPUs cannot meet on a machine that has one");
    }
    cpus >= CPUS.len()
}

fn pin(cpu: usize) {
    // SAFETY: all zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the CPU's number is far below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set and its length are valid; 0 is this thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    assert_eq!(result, 0, "a thread can be kept on CPU {cpu}");
}

/// The loaded programs, fed by BPF_PROG_TEST_RUN from several CPUs.
struct Bench {
    live: Live,
    packet: Vec<u8>,
    first_sequence: u32,
}

impl Bench {
    fn new() -> Self {
        let mut live = Live::load(&Options {
            max_flows: 4_096,
            kernel_log: KernelLog::Off,
            cgroups: false,
            test_clock: false,
        })
        .expect("the programs load");
        let mut config = Config::default();
        config.watch.ports = vec![BENCH_PORT];
        live.watch(&config, 0).expect("settings are taken");
        live.program(BENCH_PROGRAM).expect("it loads");
        let mut packet = Frame::template().bytes().to_vec();
        packet.resize(packet.len() + DATA_LEN as usize, 0);
        let mut bench = Self {
            live,
            packet,
            first_sequence: 1,
        };
        // Every flow is seen in both directions.
        bench.case(BYSTANDERS + 1, true);
        bench.on_cpus(&CPUS[..1], 4 * (BYSTANDERS + 1));
        bench
    }

    /// Which packets come from now on: of how many flows, and whether ACKs are among them.
    fn case(&mut self, flows: u32, alternating: bool) {
        self.first_sequence = self.first_sequence.wrapping_add(1 << 28);
        self.live
            .start_bench_case(&Case {
                flows,
                kind: if alternating {
                    kinds::DATA_AND_ACK
                } else {
                    kinds::DATA
                },
                first_sequence: self.first_sequence,
                reserved: 0,
            })
            .expect("the case is taken");
    }

    /// Feeds `packets` on each of `cpus`, at once.
    fn on_cpus(&mut self, cpus: &[usize], packets: u32) {
        let program: &SchedClassifier = self.live.program(BENCH_PROGRAM).expect("it is loaded");
        let barrier = Barrier::new(cpus.len());
        thread::scope(|scope| {
            for &cpu in cpus {
                let (barrier, packet) = (&barrier, &self.packet);
                scope.spawn(move || {
                    pin(cpu);
                    barrier.wait();
                    program
                        .test_run(TestRunOptions {
                            data_in: Some(packet),
                            repeat: packets,
                            ..TestRunOptions::default()
                        })
                        .expect("the program runs");
                });
            }
        });
    }

    /// The flow that is spread, and the others.
    fn flows(&self) -> (FlowState, Vec<FlowState>) {
        let mut spread = None;
        let mut others = Vec::new();
        self.live
            .flows(|state| {
                if state.key.low_port.max(state.key.high_port) == FIRST_CLIENT_PORT {
                    spread = Some(*state);
                } else {
                    others.push(*state);
                }
            })
            .expect("the table can be read");
        others.sort_by_key(|state| state.key.low_port.max(state.key.high_port));
        (spread.expect("the first flow is there"), others)
    }
}

/// A share of a whole, for people.
fn said(lost: u64, of: u64) -> String {
    format!("{lost} of {of} ({:.2} %)", 100.0 * lost as f64 / of as f64)
}

/// What no order of writes may lead to: more than what was there.
fn assert_possible(half: &Half, packets: u64, elapsed: Duration) {
    let counts = [
        ("frames", half.frames),
        ("segments", half.segments),
        ("retransmitted", half.retransmitted_segments),
        ("spurious", half.spurious_segments),
        ("downstream", half.lost_downstream_segments),
        ("upstream", half.lost_upstream_segments),
        ("reordered", half.reordered_segments),
        ("RTT samples", half.rtt_samples),
        ("duplicate ACKs", half.duplicate_acks),
        ("DSACKs", half.dsacks),
        ("bursts", half.bursts),
    ];
    for (name, count) in counts {
        assert!(
            u64::from(count) <= packets,
            "{count} {name} in {packets} packets"
        );
    }
    assert!(
        half.bytes <= packets * u64::from(DATA_LEN),
        "{} bytes",
        half.bytes
    );
    assert_eq!(half.bytes % u64::from(DATA_LEN), 0, "whole segments");
    assert!(half.retransmitted_bytes <= packets * u64::from(DATA_LEN));
    let extremes = half.rtt_current;
    assert!(extremes.rtt_min_us <= extremes.rtt_max_us);
    assert!(
        u128::from(extremes.rtt_max_us) <= elapsed.as_micros(),
        "an RTT of {} us in {elapsed:?}",
        extremes.rtt_max_us
    );
    assert!(half.mss <= DATA_LEN, "no segment is longer");
    assert_eq!(half.owner, half.owner & !1, "ingress");
}

/// `alternating`: both directions, on both CPUs.
fn meet(alternating: bool) {
    let began = Instant::now();
    let mut bench = Bench::new();
    bench.case(1, alternating);
    let (before, bystanders) = bench.flows();
    bench.on_cpus(&CPUS, PACKETS);
    let (after, still) = bench.flows();
    assert_eq!(bystanders.len(), BYSTANDERS as usize);
    assert_eq!(bystanders, still, "other flows are not touched");
    assert_eq!(after.key, before.key);
    assert_eq!(after.generation, before.generation, "the flow is the same");

    let fed = u64::from(PACKETS) * CPUS.len() as u64;
    let data = if alternating { fed / 2 } else { fed };
    let earlier = u64::from(4 * (BYSTANDERS + 1));
    for half in &after.halves {
        assert_possible(half, fed + earlier, began.elapsed());
    }
    let (server, _) = server_and_client(&after, BENCH_PORT);
    let (server_before, _) = server_and_client(&before, BENCH_PORT);
    let counted = u64::from(server.segments - server_before.segments);
    let bytes = (server.bytes - server_before.bytes) / u64::from(DATA_LEN);
    let what = if alternating { "data and ACKs" } else { "data" };
    println!(
        "{what} of one flow from two CPUs without a pause: segments lost {}, bytes lost {}",
        said(data - counted, data),
        said(data - bytes, data)
    );
    assert!(counted > data / 4, "most is counted");
    // Once alone again, the count goes on exactly.
    bench.on_cpus(&CPUS[..1], 1_000);
    let (alone, _) = bench.flows();
    let (server_alone, _) = server_and_client(&alone, BENCH_PORT);
    let expected = if alternating { 500 } else { 1_000 };
    assert_eq!(
        server_alone.segments - server.segments,
        expected,
        "on one CPU none is lost"
    );
}

/// A server, a router that is watched, and a client.
const SERVER: usize = 0;
const ROUTER: usize = 1;
const CLIENT: usize = 2;
const CLIENTS: usize = 8;
const DOWNLOADS_EACH: usize = 20;
const DOWNLOAD_AT_ONCE: usize = 100_000;
const DOWNLOAD: usize = 2_000_000;
/// [`CPUS`] in the words of sysfs.
const BOTH_CPUS: &str = "3";

/// A number that the kernel counts for this namespace: in `/proc/thread-self/net/snmp`, the field
/// of that name in the table of that name.
fn counted(table: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("Linux counts");
    let mut lines = text.lines().filter(|line| line.starts_with(table));
    let (names, counts) = (lines.next(), lines.next());
    names
        .zip(counts)
        .into_iter()
        .flat_map(|(names, counts)| names.split_whitespace().zip(counts.split_whitespace()))
        .find(|(name, _)| *name == field)
        .and_then(|(_, count)| count.parse().ok())
        .unwrap_or_else(|| panic!("Linux counts {table}: {field}"))
}

/// Packets that were handed to another CPU, on all of them (`received_rps`, the tenth column).
fn steered() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").expect("Linux counts");
    text.lines()
        .filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(9)?, 16).ok())
        .sum()
}

/// Every packet a segment, so that nothing hides how many there were.
fn without_offloads(chain: &Chain) {
    for (host, devices) in [
        (SERVER, &[RIGHT][..]),
        (ROUTER, &[LEFT, RIGHT]),
        (CLIENT, &[LEFT]),
    ] {
        chain.within(host, move || {
            for device in devices {
                ethtool::set(device, &ethtool::SEGMENTATION, false).expect("no TSO");
                ethtool::set(device, &[ethtool::GENERIC_SEGMENTATION], false).expect("no GSO");
                ethtool::set(device, &[ethtool::GRO], false).expect("no GRO");
            }
        });
    }
}

/// What waits for a CPU at once, in all of them together, fits into its queue (1,000 packets,
/// `net.core.netdev_max_backlog`), which is before our hook.
fn downloads() -> Downloads {
    Downloads {
        clients: CLIENTS,
        each: DOWNLOADS_EACH,
        ..Downloads::new((Chain::right(SERVER), PORT).into(), DOWNLOAD_AT_ONCE)
    }
}

#[test]
fn packets_that_rps_spreads_over_cpus_are_all_counted() {
    if !support::root_or_skip("network namespaces and BPF programs") || !two_cpus_or_skip() {
        return;
    }
    let chain = Chain::new(3);
    without_offloads(&chain);
    for device in [LEFT, RIGHT] {
        let file = format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
        // Every namespace has a /sys of its own, which `ip netns exec` mounts.
        let status = Command::new("ip")
            .args(["netns", "exec", &chain.hosts[ROUTER], "sh", "-c"])
            .arg(format!("echo {BOTH_CPUS} > {file}"))
            .status()
            .expect("ip runs (Debian package iproute2)");
        assert!(status.success(), "RPS can be set");
    }
    let observer = Observer::start(
        &chain.hosts[ROUTER],
        &[LEFT, RIGHT],
        Hook::of_this_kernel(),
        PORT,
    );
    let steered_before = steered();
    let (ends, _) = downloads().run(&chain.hosts[SERVER], &chain.hosts[CLIENT]);
    let steered = steered() - steered_before;
    let sight = observer.look();
    assert_eq!(sight.flows.len(), CLIENTS * DOWNLOADS_EACH);
    let (mut counted, mut sent) = (0, 0);
    for state in &sight.flows {
        let (server, _) = server_and_client(state, PORT);
        counted += u64::from(server.segments);
    }
    for end in &ends {
        sent += u64::from(end.server.data_segs_out);
    }
    println!(
        "RPS: {steered} packets went to another CPU; segments lost {}",
        said(sent.abs_diff(counted), sent)
    );
    assert!(steered > 0, "packets go to other CPUs");
    assert_eq!(
        counted, sent,
        "RPS keeps each direction of a flow on one CPU"
    );
}

/// A small MTU behind the first router, so that it cuts what does not forbid it.
const SMALL_MTU: u32 = 1_000;

#[test]
fn fragments_are_counted_as_such_and_in_no_flow() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    // Nothing is spread here: whatever it starts stays on this CPU, and what veth hands on with it.
    pin(CPUS[0]);
    const CUTTER: usize = ROUTER;
    const TAP: usize = 2;
    let chain = Chain::new(4);
    for (host, devices) in [
        (SERVER, &[RIGHT][..]),
        (CUTTER, &[LEFT, RIGHT]),
        (TAP, &[LEFT]),
    ] {
        chain.within(host, move || {
            for device in devices {
                ethtool::set(device, &ethtool::SEGMENTATION, false).expect("no TSO");
                ethtool::set(device, &[ethtool::GENERIC_SEGMENTATION], false).expect("no GSO");
                ethtool::set(device, &[ethtool::GRO], false).expect("no GRO");
            }
        });
    }
    // No path MTU discovery: packets may be cut.
    netns::set_sysctl(&chain.hosts[SERVER], "net/ipv4/ip_no_pmtu_disc", "1")
        .expect("IP can be told");
    let mtu = format!("link set {RIGHT} mtu {SMALL_MTU}");
    chain.ip(CUTTER, &[mtu.as_str()]);
    let observer = Observer::start(&chain.hosts[TAP], &[LEFT], Hook::of_this_kernel(), PORT);
    let downloads = Downloads {
        confirmed: true,
        ..Downloads::new((Chain::right(SERVER), PORT).into(), DOWNLOAD)
    };
    let (ends, _) = downloads.run(&chain.hosts[SERVER], &chain.hosts[3]);
    let made = chain.within(CUTTER, || counted("Ip:", "FragCreates"));
    let sight = observer.look();
    let fragments = sight.counter(Counter::Fragment);
    let (server, client) = server_and_client(&sight.flows[0], PORT);
    println!(
        "fragments: {made} made of {} segments, {fragments} counted; {} segments left whole, of \
         which the flow has all",
        ends[0].server.data_segs_out, server.segments
    );
    assert!(made > 1_000, "packets are cut");
    assert_eq!(fragments, made, "first and later ones alike");
    // Each segment that was cut became two.
    assert_eq!(
        u64::from(server.segments),
        u64::from(ends[0].server.data_segs_out) - made / 2,
        "what was not cut is in the flow"
    );
    // An ACK is believed as far beyond the data that was seen here as the client's window reaches; that
    // of the FIN, which comes alone and whole, is of everything.
    assert_eq!(
        client.acked_bytes,
        DOWNLOAD as u64 + 2,
        "the other way is measured"
    );
}

#[test]
fn data_from_two_cpus_at_once_costs_counts_and_nothing_else() {
    if support::root_or_skip("running the loaded programs") && two_cpus_or_skip() {
        meet(false);
    }
}

#[test]
fn data_and_acks_from_two_cpus_at_once_cost_counts_and_nothing_else() {
    if support::root_or_skip("running the loaded programs") && two_cpus_or_skip() {
        meet(true);
    }
}
