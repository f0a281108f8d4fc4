//! The loaded programs and the library on the host are one code: fed the same packets, they
//! leave the same flow states, to the byte, and the same counters.

mod support;

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
};

use aya::programs::{TestRun as _, TestRunOptions};
use lastmile::{
    capture::{
        FirstBytes,
        live::{Hellos, Live, Options, PROGRAMS},
        replay::{CaptureError, Captured, HostTables, News, read},
    },
    config::{Config, KernelLog, Video, Watch},
};
use monitor_ebpf::{
    counters::{COUNTER_NAMES, Counter},
    flow::{FlowKey, FlowState, HIGH_TO_LOW, LOW_TO_HIGH},
    observe::{Tables as _, observe},
    packet::Link,
    select::{Settings, settings_flags},
};
use support::{
    packets::{Frame, Packet, tcp, v4, v6},
    traffic::{Conditions, Dice, run},
};

/// Every program's answer: on to the next filter (-1).
const TC_ACT_UNSPEC: u32 = u32::MAX;

/// Bytes of a packet that are fed: every header is in them and what most clients say first, or
/// is cut for both alike. BPF_PROG_TEST_RUN takes somewhat less than a page.
const HEADERS: usize = 2_048;

/// BPF_PROG_TEST_RUN takes frames from an Ethernet header up ...
const FRAME_MIN: usize = 14;
/// ... and lengths up to the largest packet without BIG TCP (`GSO_LEGACY_MAX_SIZE`).
const WIRE_LEN_MAX: u32 = 65_536;
/// Kernels differ in whether they take a frame that ends inside its IP header.
const IP_FRAME_MIN: usize = 60;

/// Fields of `struct __sk_buff` (linux/bpf.h) that may be given, and where the last one ends.
const SKB_TSTAMP: usize = 152;
const SKB_WIRE_LEN: usize = 160;
const SKB_GSO_SEGS: usize = 164;
const SKB_GSO_SIZE: usize = 176;
const SKB_LEN: usize = 180;

/// The kernel's side and the host's.
struct Both {
    live: Live,
    tables: HostTables,
    /// What clients said first, as either side handed it on.
    hellos: Hellos,
    said: [Vec<FirstBytes>; 2],
    /// The ring buffer's descriptor is registered with it.
    _runtime: tokio::runtime::Runtime,
    egress: bool,
    fed: u32,
    /// Packets that BPF_PROG_TEST_RUN does not take; the host did not see them either.
    skipped: u32,
}

impl Both {
    fn new(watch: Watch) -> Self {
        let mut config = Config {
            watch,
            video: Some(Video::default()),
            ..Config::default()
        };
        // The ends of flows report; nothing reads the ring buffer, so it must hold them all.
        config.flows.report_interval_ms = u32::MAX;
        let mut flags = settings_flags::HELLOS;
        if !config.watch.ports.is_empty() {
            flags |= settings_flags::PORTS;
        }
        if !config.watch.prefixes.is_empty() {
            flags |= settings_flags::PREFIXES;
        }
        let settings = Settings {
            report_interval_ns: u64::from(config.flows.report_interval_ms) * 1_000_000,
            epoch_ns: u64::from(config.window.length_s) * 1_000_000_000,
            epoch_offset_ns: 0,
            sample_threshold: u32::MAX / config.watch.sample_one_in,
            flags,
            admission_key: 0,
            halvings: 0,
            halvings_before: 0,
        };
        let mut live = Live::load(&Options {
            max_flows: 16_384,
            kernel_log: KernelLog::Off,
            cgroups: false,
            test_clock: true,
        })
        .expect("the programs load");
        live.watch(&config, 0).expect("what is watched can be set");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("an event loop");
        let entered = runtime.enter();
        let hellos = live.take_hellos().expect("once");
        drop(entered);
        Self {
            hellos,
            said: Default::default(),
            _runtime: runtime,
            live,
            tables: HostTables::new(settings, &config.watch.ports, &config.watch.prefixes),
            egress: false,
            fed: 0,
            skipped: 0,
        }
    }

    fn everything() -> Self {
        Self::new(Watch {
            ports: Vec::new(),
            ..Watch::default()
        })
    }

    fn feed_frame(&mut self, time_ns: u64, frame: &Frame) {
        let packet = Captured {
            bytes: &frame.bytes,
            frame_len: frame.frame_len,
            time_ns,
            gso_size: frame.gso_size,
            gso_segs: frame.gso_segs,
        };
        self.feed(frame.link, &packet);
    }

    fn feed(&mut self, link: Link, packet: &Captured<'_>) {
        let packet = Captured {
            bytes: &packet.bytes[..packet.bytes.len().min(HEADERS)],
            ..*packet
        };
        let len = packet.bytes.len();
        let takes = len >= FRAME_MIN
            && packet.frame_len <= WIRE_LEN_MAX
            && len <= packet.frame_len as usize;
        if !takes || !self.feed_kernel(link, &packet) {
            self.skipped += 1;
            return;
        }
        self.fed += 1;
        if let Err(reason) = observe(&packet, link, &self.tables) {
            self.tables.count(reason.into());
        }
        let [in_kernel, on_host] = &mut self.said;
        self.hellos.drain(|piece| in_kernel.push(piece));
        on_host.extend(
            self.tables
                .take_news()
                .into_iter()
                .filter_map(|news| match news {
                    News::Hello(piece) => Some(piece),
                    News::Report(_) | News::Chunk(_) | News::Removed(_) => None,
                }),
        );
    }

    /// Whether the kernel took the packet.
    fn feed_kernel(&mut self, link: Link, packet: &Captured<'_>) -> bool {
        let mut skb = [0u8; SKB_LEN];
        let mut put = |at: usize, bytes: &[u8]| skb[at..at + bytes.len()].copy_from_slice(bytes);
        put(SKB_TSTAMP, &packet.time_ns.to_ne_bytes());
        put(SKB_WIRE_LEN, &packet.frame_len.to_ne_bytes());
        put(SKB_GSO_SEGS, &packet.gso_segs.to_ne_bytes());
        put(SKB_GSO_SIZE, &packet.gso_size.to_ne_bytes());
        let program = PROGRAMS
            .iter()
            .find(|program| {
                program.egress == self.egress && program.raw_ip == (link == Link::RawIp)
            })
            .expect("a program for every hook");
        let result = self
            .live
            .program(program.name)
            .expect("the program is loaded")
            .test_run(TestRunOptions {
                data_in: Some(packet.bytes),
                ctx_in: Some(&skb),
                ..TestRunOptions::default()
            });
        match result {
            Ok(result) => {
                assert_eq!(result.return_value, TC_ACT_UNSPEC, "every packet passes");
                true
            }
            Err(error) if packet.bytes.len() >= IP_FRAME_MIN => {
                panic!("BPF_PROG_TEST_RUN refuses {:02x?}: {error}", packet.bytes)
            }
            Err(_) => false,
        }
    }

    /// Asserts that both know the same flows, each in the same state, and counted the same.
    fn assert_same(&self, after: &str) {
        let mut kernel = HashMap::new();
        self.live
            .flows(|state| {
                kernel.insert(state.key, self.as_at_ingress(state));
            })
            .expect("the flow table can be read");
        let admitted = self.tables.keys();
        let host: HashMap<FlowKey, FlowState> = self
            .tables
            .flows()
            .into_iter()
            .filter(|state| admitted.contains(&state.key))
            .map(|state| (state.key, state))
            .collect();
        for (key, state) in &host {
            let in_kernel = kernel
                .get(key)
                .unwrap_or_else(|| panic!("after {after} the kernel does not know {key:?}"));
            for direction in [LOW_TO_HIGH, HIGH_TO_LOW] {
                assert_eq!(
                    in_kernel.halves[direction], state.halves[direction],
                    "after {after}, the kernel's and the host's half {direction} of {key:?}"
                );
            }
            assert_eq!(in_kernel, state, "after {after}");
        }
        assert_eq!(kernel.len(), host.len(), "flows after {after}");
        let [said_in_kernel, said_on_host] = &self.said;
        assert_eq!(said_in_kernel, said_on_host, "hellos after {after}");
        let in_kernel: HashMap<_, _> = self
            .live
            .quic_flows()
            .expect("the table of QUIC flows can be read")
            .into_iter()
            .map(|flow| (flow.key, flow.state))
            .collect();
        for flow in self.tables.quic_flows(u64::MAX) {
            let mut known = *in_kernel.get(&flow.key).unwrap_or_else(|| {
                panic!(
                    "after {after} the kernel does not know the QUIC flow {:?}",
                    flow.key
                )
            });
            if self.egress {
                known.halves.iter_mut().for_each(|half| half.owner &= !1);
            }
            assert_eq!(known, flow.state, "a QUIC flow after {after}");
        }
        let counters = self.live.counters().expect("the counters can be read");
        for (name, (kernel, host)) in COUNTER_NAMES
            .iter()
            .zip(counters.iter().zip(&self.tables.counters()))
        {
            assert_eq!(kernel, host, "{name} after {after}");
        }
    }

    /// A capture knows one tap, the ingress of the first device.
    fn as_at_ingress(&self, state: &FlowState) -> FlowState {
        let mut state = *state;
        if self.egress {
            for half in &mut state.halves {
                half.owner &= !1;
            }
        }
        state
    }

    fn say(&self, what: &str) {
        println!(
            "{what}: {} packets fed to both, {} flows, {} QUIC flows, {} pieces of hellos, {} \
             packets skipped that BPF_PROG_TEST_RUN does not take",
            self.fed,
            self.tables.keys().len(),
            self.tables.quic_flows(u64::MAX).len(),
            self.said[1].len(),
            self.skipped
        );
    }
}

/// One flow of hundreds: each with a path and a dress of its own.
fn conditions(flow: u32) -> Conditions {
    let mut dice = Dice(u64::from(flow));
    let port = 1_024 + dice.below(60_000) as u16;
    let [_, _, high, low] = flow.to_be_bytes();
    let (client, server) = if flow.is_multiple_of(2) {
        (v4([10, 0, high, low], port), v4([192, 0, 2, 1], 443))
    } else {
        (v6(0x100 + flow as u16, port), v6(1, 443))
    };
    let mss = [536, 1_220, 1_448][dice.below(3) as usize];
    Conditions {
        seed: dice.next(),
        client,
        server,
        client_isn: dice.next() as u32,
        // Many of them wrap.
        server_isn: u32::MAX - dice.below(100_000),
        start_ns: 1_000_000_000 + u64::from(dice.below(2_000)) * 1_000_000,
        mss,
        segments: 1 + dice.below(120),
        last_len: 2 + dice.below(mss - 1),
        super_packet: [1, 3, 40][dice.below(3) as usize],
        window: 1 + dice.below(60),
        upstream_us: 500 + dice.below(40_000),
        downstream_us: 500 + dice.below(40_000),
        lost_upstream: dice.below(60),
        lost_downstream: dice.below(80),
        lost_acks: dice.below(100),
        reordered: dice.below(40),
        duplicated: dice.below(20),
        timestamps: dice.falls(700),
        ack_delay_us: 40_000 * dice.below(2),
    }
}

fn dressed(packet: Packet, flow: u32) -> Packet {
    match flow % 8 {
        0 => packet,
        1 => packet.extension(60, &[0, 0, 1, 4, 0, 0, 0, 0]),
        2 => packet.vlan(5),
        3 => packet.qinq(7, 42),
        4 => packet.raw_ip().ip_options(&[1, 1, 1, 0]),
        5 => packet.raw_ip(),
        6 => packet.ecn((flow / 8 % 4) as u8),
        _ => packet.raw_ip().ecn(3),
    }
}

/// Packets of `flows` connections, in the order of their times.
fn traffic(flows: u32) -> Vec<(u64, Frame)> {
    let mut packets: Vec<_> = (0..flows)
        .flat_map(|flow| {
            let (packets, _) = run(&conditions(flow));
            packets
                .into_iter()
                .map(move |(time_ns, packet)| (time_ns, dressed(packet, flow).frame()))
        })
        .collect();
    packets.sort_by_key(|&(time_ns, _)| time_ns);
    packets
}

#[test]
fn hundreds_of_flows_are_the_same_at_ingress() {
    if !support::root_or_skip("running the loaded programs") {
        return;
    }
    let mut both = Both::everything();
    for (time_ns, frame) in traffic(400) {
        both.feed_frame(time_ns, &frame);
    }
    both.say("400 generated flows at ingress");
    both.assert_same("400 generated flows");
    assert_eq!((both.tables.keys().len(), both.skipped), (400, 0));
}

#[test]
fn hundreds_of_flows_are_the_same_at_egress() {
    if !support::root_or_skip("running the loaded programs") {
        return;
    }
    let mut both = Both::everything();
    both.egress = true;
    for (time_ns, frame) in traffic(200) {
        both.feed_frame(time_ns, &frame);
    }
    both.say("200 generated flows at egress");
    both.assert_same("200 generated flows");
    assert_eq!((both.tables.keys().len(), both.skipped), (200, 0));
}

/// A UDP datagram over Ethernet and IPv4.
fn datagram(source: ([u8; 4], u16), destination: ([u8; 4], u16), payload: &[u8]) -> Frame {
    let mut bytes = vec![2; 12];
    bytes.extend([8, 0, 0x45, 0]);
    bytes.extend((28 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend(source.0);
    bytes.extend(destination.0);
    bytes.extend(source.1.to_be_bytes());
    bytes.extend(destination.1.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    Frame {
        link: Link::Ethernet,
        frame_len: bytes.len() as u32,
        bytes,
        gso_size: 0,
        gso_segs: 0,
    }
}

#[test]
fn what_clients_say_first_and_quic_are_the_same() {
    if !support::root_or_skip("running the loaded programs") {
        return;
    }
    let mut both = Both::everything();
    let mut dice = Dice(3);
    let mut time_ns = 1_000_000_000;
    for flow in 0..200u16 {
        let (client, server) = (v4([10, 0, 0, 1], 10_000 + flow), v4([192, 0, 2, 1], 443));
        both.feed_frame(time_ns, &tcp(client, server).isns(1, 2).syn().frame());
        both.feed_frame(time_ns, &tcp(server, client).isns(2, 1).syn_ack().frame());
        let mut said = 0;
        for _ in 0..=dice.below(10) {
            let len = 1 + dice.below(1_900);
            let mut frame =
                dressed(tcp(client, server).isns(1, 2).data(said, len), flow.into()).frame();
            let payload: Vec<u8> = (0..len).map(|_| dice.next() as u8).collect();
            frame
                .bytes
                .extend(&payload[..payload.len() - dice.below(2) as usize]);
            both.feed_frame(time_ns, &frame);
            said += len;
            time_ns += 1_000;
        }
        both.feed_frame(time_ns, &tcp(server, client).isns(2, 1).data(0, 9).frame());
        both.feed_frame(
            time_ns,
            &tcp(client, server).isns(1, 2).data(said, 9).frame(),
        );
        for number in 0..40u64 {
            let ends = [([10, 0, 0, 2], 20_000 + flow), ([192, 0, 2, 1], 443)];
            let long = [0xc0u8, 0xd0, 0xe0][dice.below(3) as usize];
            let version = [1u32, 0x6b33_43cf, 7][dice.below(3) as usize];
            let mut payload: Vec<u8> = if dice.falls(500) {
                [vec![long], version.to_be_bytes().to_vec()].concat()
            } else {
                vec![0x40 | ((number / 8 % 2) as u8) << 5]
            };
            payload.resize(1 + dice.below(1_400) as usize, 9);
            let from_client = dice.falls(500);
            let [source, destination] = if from_client {
                ends
            } else {
                [ends[1], ends[0]]
            };
            both.feed_frame(time_ns, &datagram(source, destination, &payload));
            time_ns += 5_000_000;
        }
    }
    both.say("200 flows that begin with a hello, and 200 of QUIC");
    both.assert_same("200 flows that begin with a hello, and 200 of QUIC");
    for counter in [Counter::HellosSent, Counter::HellosLost, Counter::Quic] {
        assert!(both.tables.counters()[counter as usize] > 0);
    }
    assert_eq!(both.skipped, 0);
}

#[test]
fn damaged_packets_are_the_same() {
    if !support::root_or_skip("running the loaded programs") {
        return;
    }
    let mut both = Both::everything();
    let mut dice = Dice(1);
    for (time_ns, mut frame) in traffic(100) {
        if dice.falls(500) {
            for _ in 0..=dice.below(3) {
                let at = dice.below(frame.bytes.len() as u32) as usize;
                frame.bytes[at] = dice.next() as u8;
            }
        }
        if dice.falls(100) {
            let len = dice.below(frame.bytes.len() as u32) as usize;
            frame.bytes.truncate(len);
        }
        both.feed_frame(time_ns, &frame);
    }
    both.say("100 generated flows with damage");
    both.assert_same("100 generated flows with damage");
    for reason in [Counter::Truncated, Counter::Malformed, Counter::NotTcp] {
        let count = both.tables.counters()[reason as usize];
        assert!(
            count > 0,
            "no packet was {}",
            COUNTER_NAMES[reason as usize]
        );
    }
}

#[test]
fn what_is_not_watched_leaves_unharmed_and_counted() {
    if !support::root_or_skip("running the loaded programs") {
        return;
    }
    let mut both = Both::new(Watch {
        ports: vec![443, 8_080],
        prefixes: vec![
            "10.128.0.0/9".parse().expect("a prefix"),
            "2001:db8::8000/113".parse().expect("a prefix"),
        ],
        sample_one_in: 2,
        ..Watch::default()
    });
    let mut dice = Dice(7);
    let servers = [443, 8_080, 444, 22].map(|port| [v4([192, 0, 2, 1], port), v6(1, port)]);
    for flow in 0..2_000 {
        let port = 10_000 + dice.below(50_000) as u16;
        let [_, a, b, c] = (dice.next() as u32).to_be_bytes();
        let [server, server_v6] = servers[dice.below(4) as usize];
        let (client, server) = if dice.falls(500) {
            (v4([10, a, b, c], port), server)
        } else {
            (v6(u16::from_be_bytes([b, c]), port), server_v6)
        };
        let time_ns = 1_000_000_000 + flow * 1_000_000;
        let syn = tcp(client, server).isns(1, 2).syn();
        let syn_ack = tcp(server, client).isns(2, 1).syn_ack();
        both.feed_frame(time_ns, &syn.frame());
        both.feed_frame(time_ns + 20_000, &syn_ack.frame());
        let ack = tcp(client, server).isns(1, 2);
        both.feed_frame(time_ns + 40_000, &ack.frame());
    }
    both.say("2000 flows of which some are watched");
    both.assert_same("2000 flows of which some are watched");
    for counter in [
        Counter::PortNotWatched,
        Counter::PrefixNotWatched,
        Counter::NotSampled,
        Counter::FlowsCreated,
    ] {
        let count = both.tables.counters()[counter as usize];
        assert!(count > 0, "none was {}", COUNTER_NAMES[counter as usize]);
    }
}

#[test]
fn every_capture_is_the_same() {
    if !support::root_or_skip("running the loaded programs") {
        return;
    }
    let Some(folder) = env::var_os("LASTMILE_CAPTURES") else {
        println!("SKIPPED: LASTMILE_CAPTURES does not say where captures are");
        return;
    };
    let mut both = Both::everything();
    let mut files = Vec::new();
    captures_below(Path::new(&folder), &mut files);
    assert!(!files.is_empty(), "no captures below {}", folder.display());
    for path in files {
        let name = path.display().to_string();
        let (fed, skipped) = (both.fed, both.skipped);
        let result = read(&path, |link, packet| match link {
            Ok(link) => both.feed(link, packet),
            // No program begins where this one does.
            Err(_) => both.skipped += 1,
        });
        let end = match result {
            Ok(()) => String::new(),
            Err(error @ (CaptureError::LinkType { .. } | CaptureError::Damaged { .. })) => {
                format!(", then {error}")
            }
            Err(error) => panic!("{error}"),
        };
        println!(
            "{name}: {} packets, {} skipped{end}",
            both.fed - fed,
            both.skipped - skipped,
        );
        both.assert_same(&name);
    }
    both.say("all captures");
    assert!(both.fed > 0, "no capture could be read");
}

fn captures_below(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = [".gz", ".xz", ".zst"]
            .iter()
            .fold(&*name, |name, packed| name.trim_end_matches(packed));
        if path.is_dir() {
            captures_below(&path, files);
        } else if [".pcap", ".pcapng", ".dmp"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            files.push(path);
        }
    }
}
