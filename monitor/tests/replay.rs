//! `lastmile replay` as it is called: captures of every kind, whole and damaged, in; records,
//! messages and exit codes out.

#[path = "replay/captures.rs"]
mod captures;
mod support;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::FromRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use captures::{Block, Pcap, Pcapng, ethernet};
use lastmile::export::schema;
use monitor_ebpf::packet::Link;
use serde_json::Value;
use support::{
    packets::{Frame, Packet, tcp, v4},
    traffic::{Conditions, Truth, run},
};

const SECOND_NS: u64 = 1_000_000_000;
const START_NS: u64 = 1_700_000_000 * SECOND_NS;

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("a temporary file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the command did.
struct Replayed {
    records: Vec<Value>,
    stderr: String,
    code: i32,
}

impl Replayed {
    fn flows(&self) -> Vec<&Value> {
        let is_flow = |record: &&Value| record["type"] == "flow";
        self.records.iter().filter(is_flow).collect()
    }

    /// What is the same in every run: the ids are keyed by a secret of the process.
    fn comparable(&self) -> Vec<Value> {
        let mut flows: Vec<Value> = self.flows().into_iter().cloned().collect();
        for flow in &mut flows {
            flow["flow_id"].take();
        }
        flows
    }

    fn counter(&self, name: &str) -> u64 {
        let status = self.records.last().expect("a status record is the last");
        assert_eq!(status["type"], "status");
        status["counters"][name].as_u64().expect("a counter")
    }
}

fn lastmile() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lastmile"));
    command.arg("replay").stdin(Stdio::null());
    command
}

fn replay(files: &[&Path]) -> Replayed {
    finished(lastmile().args(files))
}

fn finished(command: &mut Command) -> Replayed {
    let output = command.output().expect("lastmile runs");
    let records = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| {
            schema::validate_line(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            serde_json::from_str(line).expect("JSON")
        })
        .collect();
    Replayed {
        records,
        stderr: String::from_utf8(output.stderr).expect("text"),
        code: output.status.code().expect("an exit"),
    }
}

/// One connection of a hundred segments, some of them lost.
fn conditions(flow: u16, start_ns: u64) -> Conditions {
    Conditions {
        seed: flow.into(),
        client: v4([10, 1, 2, 3], 20_000 + flow),
        server: v4([192, 0, 2, 1], 443),
        client_isn: 77,
        server_isn: u32::MAX - 1_000 * u32::from(flow),
        start_ns,
        mss: 1_448,
        segments: 100,
        last_len: 700,
        super_packet: 1,
        window: 20,
        upstream_us: 2_000,
        downstream_us: 15_000,
        lost_upstream: 10,
        lost_downstream: 20,
        lost_acks: 10,
        reordered: 0,
        duplicated: 0,
        timestamps: true,
        ack_delay_us: 0,
    }
}

/// Frames of some connections in the order of their times, and the truth about each.
fn traffic(flows: u16) -> (Vec<(u64, Frame)>, Vec<Truth>) {
    let mut frames = Vec::new();
    let mut truths = Vec::new();
    for flow in 0..flows {
        let (packets, truth) = run(&conditions(flow, START_NS + u64::from(flow) * 10_000_000));
        frames.extend(framed(packets));
        truths.push(truth);
    }
    frames.sort_by_key(|&(time_ns, _)| time_ns);
    (frames, truths)
}

fn framed(packets: Vec<(u64, Packet)>) -> impl Iterator<Item = (u64, Frame)> {
    packets
        .into_iter()
        // Whole microseconds, so that every format can say them.
        .map(|(time_ns, packet)| (time_ns / 1_000 * 1_000, packet.frame()))
}

/// A handshake and a request: a flow to find in front of the damage.
fn small_flow() -> Vec<(u64, Frame)> {
    let (client, server) = (v4([10, 0, 0, 1], 1_234), v4([192, 0, 2, 1], 443));
    let frames = [
        tcp(client, server).isns(1, 2).syn(),
        tcp(server, client).isns(2, 1).syn_ack(),
        tcp(client, server).isns(1, 2).data(0, 100),
    ];
    (0u64..)
        .zip(frames)
        .map(|(index, packet)| (START_NS + index * 5_000_000, packet.frame()))
        .collect()
}

#[test]
fn every_flow_has_one_close_record_that_tells_what_happened() {
    let folder = Folder::new("replay-truth");
    let (frames, truths) = traffic(20);
    let path = folder.file("a.pcap", &Pcap::MICROSECONDS.capture(&frames));
    let replayed = replay(&[&path]);
    assert_eq!((replayed.code, &*replayed.stderr), (0, ""));
    let flows = replayed.flows();
    assert_eq!(flows.len(), truths.len());
    for (flow, truth) in truths.iter().enumerate() {
        let port = 20_000 + flow;
        let of_flow: Vec<_> = flows
            .iter()
            .filter(|record| record["client_port"] == port)
            .collect();
        let [record] = of_flow[..] else {
            panic!("{} records of port {port}", of_flow.len());
        };
        assert_eq!(record["event"], "close");
        assert_eq!(record["client_ip"], "10.1.2.3");
        let data = &record["to_client"];
        assert_eq!(data["bytes"], truth.bytes);
        assert_eq!(data["frames"], truth.frames);
        assert_eq!(data["retransmitted_segments"], truth.retransmitted_segments);
        assert_eq!(data["lost_downstream_segments"], truth.downstream);
        assert_eq!(data["lost_upstream_segments"], truth.upstream);
        let rtt_min_us = data["rtt_min_us"].as_u64().expect("an RTT");
        assert!((30_000..32_000).contains(&rtt_min_us), "{rtt_min_us} us");
    }
    assert_eq!(replayed.counter("packets_read"), frames.len() as u64);
    assert_eq!(replayed.counter("packets_watched"), frames.len() as u64);
    assert_eq!(replayed.counter("flows_closed"), 20);
}

#[test]
fn every_format_and_compression_says_the_same() {
    let folder = Folder::new("replay-formats");
    let (frames, _) = traffic(5);
    let plain = Pcap::MICROSECONDS.capture(&frames);
    let expected = replay(&[&folder.file("a", &plain)]).comparable();
    assert_eq!(expected.len(), 5);
    let mut gzip = Vec::new();
    // Two members, as `cat a.gz b.gz` makes them.
    for half in [&plain[..10_000], &plain[10_000..]] {
        let mut encoder = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::fast());
        encoder.write_all(half).expect("memory");
        encoder.finish().expect("memory");
    }
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).expect("memory");
    let captures = [
        ("big.pcap", Pcap::BIG_ENDIAN.capture(&frames)),
        ("ns.pcap", Pcap::NANOSECONDS.capture(&frames)),
        ("big-ns.pcap", Pcap::BIG_ENDIAN_NANOSECONDS.capture(&frames)),
        ("a.pcapng", Pcapng::LITTLE.capture(&frames)),
        ("big.pcapng", Pcapng::BIG.capture(&frames)),
        ("old.pcapng", Pcapng::OBSOLETE.capture(&frames)),
        ("a.pcap.gz", gzip),
        ("a.pcap.xz", xz.finish().expect("memory")),
        (
            "a.pcap.zst",
            zstd::stream::encode_all(&plain[..], 1).expect("memory"),
        ),
    ];
    for (name, capture) in captures {
        let replayed = replay(&[&folder.file(name, &capture)]);
        assert_eq!((replayed.code, &*replayed.stderr), (0, ""), "{name}");
        assert_eq!(replayed.comparable(), expected, "{name}");
    }
    let mut piped = lastmile();
    let path = folder.file("b.pcap", &plain);
    piped
        .arg("-")
        .stdin(File::open(path).expect("a temporary file"));
    assert_eq!(
        finished(&mut piped).comparable(),
        expected,
        "standard input"
    );
}

#[test]
fn every_link_type_says_the_same() {
    let folder = Folder::new("replay-links");
    let frames = small_flow();
    let plain = folder.file("a", &Pcap::MICROSECONDS.capture(&frames));
    let expected = replay(&[&plain]).comparable();
    let mut cooked2 = [0; 20];
    cooked2[..2].copy_from_slice(&[0x08, 0x00]);
    let links: [(u32, &[u8]); 12] = [
        (101, &[]),
        (12, &[]),
        (14, &[]),
        (228, &[]),
        (113, &[0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00]),
        (276, &cooked2),
        (0, &[2, 0, 0, 0]),
        (108, &[0, 0, 0, 2]),
        (9, &[0xff, 0x03, 0x00, 0x21]),
        (50, &[0xff, 0x03, 0x00, 0x21]),
        (204, &[0, 0x00, 0x21]),
        (104, &[0x0f, 0x00, 0x08, 0x00]),
    ];
    for (link, before) in links {
        let frames: Vec<_> = frames
            .iter()
            .map(|(time_ns, frame)| {
                let ip = &frame.bytes[ethernet::LEN..];
                let added = before.len() as u32;
                let frame = Frame {
                    bytes: [before, ip].concat(),
                    frame_len: frame.frame_len - ethernet::LEN as u32 + added,
                    link: Link::RawIp,
                    ..*frame
                };
                (*time_ns, frame)
            })
            .collect();
        let pcap = Pcap {
            link,
            ..Pcap::MICROSECONDS
        };
        let replayed = replay(&[&folder.file("link", &pcap.capture(&frames))]);
        assert_eq!(replayed.comparable(), expected, "link type {link}");
    }
}

#[test]
fn a_rotated_capture_is_one_in_any_order_and_overlapping_ones_are_merged() {
    let folder = Folder::new("replay-rotated");
    let (frames, _) = traffic(10);
    let whole = folder.file("whole", &Pcap::MICROSECONDS.capture(&frames));
    let expected = replay(&[&whole]).comparable();
    let third = frames.len() / 3;
    let parts: Vec<_> = frames
        .chunks(third + 1)
        .zip(1..)
        .map(|(part, number)| {
            let capture = Pcap::MICROSECONDS.capture(part);
            folder.file(&format!("part{number}"), &capture)
        })
        .collect();
    let [first, second, last] = &parts[..] else {
        panic!("three parts");
    };
    for order in [[first, second, last], [last, first, second]] {
        assert_eq!(replay(&order.map(PathBuf::as_path)).comparable(), expected);
    }
    let (even, odd): (Vec<_>, Vec<_>) = (0..).zip(frames).partition(|(index, _)| index % 2 == 0);
    let stripped = |part: Vec<(i32, (u64, Frame))>| {
        let part: Vec<_> = part.into_iter().map(|(_, frame)| frame).collect();
        Pcap::MICROSECONDS.capture(&part)
    };
    let even = folder.file("even", &stripped(even));
    let odd = folder.file("odd", &stripped(odd));
    assert_eq!(replay(&[&odd, &even]).comparable(), expected);
}

#[test]
fn sections_and_interfaces_have_times_and_links_of_their_own() {
    let folder = Folder::new("replay-sections");
    let frames = small_flow();
    let plain = folder.file("plain", &Pcap::MICROSECONDS.capture(&frames));
    let expected = replay(&[&plain]).comparable();
    let raw = |frame: &Frame| frame.bytes[ethernet::LEN..].to_vec();
    let [syn, syn_ack, data] = [0, 1, 2].map(|index| &frames[index].1);
    let us = START_NS / 1_000;
    let capture = [
        Block::section(false),
        // Milliseconds, and an hour too early.
        Block::interface(false, 1, Some(3), Some(3_600)),
        Block::enhanced(false, 0, us / 1_000 - 3_600_000, &syn.bytes, syn.frame_len),
        Block::section(true),
        // Units of 2^-20 s: 10 ms are 10,485.76 of them.
        Block::interface(true, 101, Some(0x80 | 20), None),
        Block::interface(true, 1, None, None),
        Block::enhanced(true, 1, us + 5_000, &syn_ack.bytes, syn_ack.frame_len),
        Block::enhanced(
            true,
            0,
            ((u128::from(us) + 10_000) << 20).div_ceil(1_000_000) as u64,
            &raw(data),
            data.frame_len - ethernet::LEN as u32,
        ),
    ]
    .concat();
    let replayed = replay(&[&folder.file("sections", &capture)]);
    assert_eq!((replayed.code, &*replayed.stderr), (0, ""));
    let (found, expected) = (&replayed.comparable()[0], &expected[0]);
    for key in ["start_time", "duration_us", "to_client", "to_server"] {
        assert_eq!(found[key], expected[key], "{key}");
    }
}

#[test]
fn the_same_packet_on_two_interfaces_counts_once() {
    let folder = Folder::new("replay-twice");
    let mut capture = Block::section(false);
    capture.extend(Block::interface(false, 1, None, None));
    capture.extend(Block::interface(false, 1, None, None));
    for (time_ns, frame) in small_flow() {
        for (interface, later_us) in [(0, 0), (1, 20)] {
            let us = time_ns / 1_000 + later_us;
            let bytes = &frame.bytes;
            capture.extend(Block::enhanced(
                false,
                interface,
                us,
                bytes,
                frame.frame_len,
            ));
        }
    }
    let replayed = replay(&[&folder.file("a", &capture)]);
    let flows = replayed.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0]["to_server"]["bytes"], 100);
    assert_eq!(flows[0]["to_server"]["retransmitted_segments"], 0);
}

#[test]
fn a_capture_that_says_what_its_host_sent_says_where_it_stands() {
    let folder = Folder::new("replay-vantage");
    let mut capture = Block::section(false);
    capture.extend(Block::interface(false, 1, None, None));
    for (time_ns, frame) in small_flow() {
        let from_server = frame.bytes[ethernet::LEN + 12..][..4] == [192, 0, 2, 1];
        let us = time_ns / 1_000;
        capture.extend(Block::flagged(
            us,
            &frame.bytes,
            frame.frame_len,
            if from_server { 2 } else { 1 },
        ));
    }
    let replayed = replay(&[&folder.file("a", &capture)]);
    assert_eq!(replayed.flows()[0]["vantage"], "sender");
}

#[test]
fn what_is_passed_over_is_counted_and_said() {
    let folder = Folder::new("replay-passed");
    let frames = small_flow();
    let mut capture = Pcapng::LITTLE.capture(&frames);
    let frame = &frames[0].1;
    capture.extend(Block::simple(&frame.bytes));
    capture.extend(Block::simple(&frame.bytes));
    capture.extend(Block::of(false, 0x7777, &[1, 2, 3, 4]));
    // A bluetooth adapter beside Ethernet.
    capture.extend(Block::interface(false, 201, None, None));
    capture.extend(Block::enhanced(false, 1, START_NS / 1_000, &[1; 30], 30));
    capture.extend(Block::statistics(0, 41, 1));
    let replayed = replay(&[&folder.file("a.pcapng", &capture)]);
    assert_eq!(replayed.code, 0);
    assert_eq!(replayed.flows().len(), 1);
    for (name, count) in [
        ("packets_without_time", 2),
        ("capture_blocks_unknown", 1),
        ("packets_link_not_understood", 1),
        ("packets_dropped_by_capture", 42),
        ("packets_read", 3),
    ] {
        assert_eq!(replayed.counter(name), count, "{name}");
    }
    for what in [
        "1 packets of link type 201 were passed over",
        "2 packets without a time (simple packet blocks) were passed over",
        "1 blocks of unknown types were passed over",
        "42 packets were lost by whoever captured",
    ] {
        assert!(replayed.stderr.contains(what), "{}", replayed.stderr);
    }
}

/// What comes before the damage is reported; the message names the file and the place.
#[test]
fn damage_is_named_with_its_place_and_what_was_before_is_reported() {
    let folder = Folder::new("replay-damage");
    let frames = small_flow();
    let pcap = Pcap::MICROSECONDS.capture(&frames);
    let pcapng = Pcapng::LITTLE.capture(&frames);
    let changed = |capture: &[u8], at: usize, bytes: &[u8]| {
        let mut capture = capture.to_vec();
        capture[at..at + bytes.len()].copy_from_slice(bytes);
        capture
    };
    // Where the third packet's record begins.
    let third = pcap.len() - 16 - frames[2].1.bytes.len();
    let third_block = pcapng.len() - Block::enhanced_len(&frames[2].1.bytes);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&pcap).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let at_third = format!("damaged behind packet 2, at byte {third}: ");
    let at_third_block = format!("damaged behind packet 2, at byte {third_block}: ");
    let behind = |place: &str, what: &str| format!("{place}{what}; everything before was read\n");
    let last_len = frames[2].1.bytes.len();
    let cases = [
        (
            "cut in a header",
            pcap[..third + 5].to_vec(),
            behind(
                &at_third,
                "the capture ends inside a packet's header: 5 of 16 bytes are there",
            ),
        ),
        (
            "cut in a packet",
            pcap[..pcap.len() - 1].to_vec(),
            behind(
                &at_third,
                &format!(
                    "the capture ends inside a packet: {} of {} bytes are there",
                    15 + last_len,
                    16 + last_len
                ),
            ),
        ),
        (
            "huge length",
            changed(&pcap, third + 8, &[0xff, 0xff, 0xff, 0x7f]),
            behind(
                &at_third,
                "a packet of 2147483647 bytes, and 262144 is the most there can be",
            ),
        ),
        (
            "cut in a block",
            pcapng[..pcapng.len() - 3].to_vec(),
            behind(
                &at_third_block,
                &format!(
                    "the capture ends inside a block: {} of {} bytes are there",
                    pcapng.len() - third_block - 3,
                    pcapng.len() - third_block
                ),
            ),
        ),
        (
            "a block's length that is none",
            changed(&pcapng, third_block + 4, &[7, 0, 0, 0]),
            behind(
                &at_third_block,
                "a block says it is 7 bytes long, which no block is",
            ),
        ),
        (
            "a block's length that is too large",
            changed(&pcapng, third_block + 4, &[0, 0, 0, 0x7f]),
            behind(
                &at_third_block,
                "a block says it is 2130706432 bytes long, which no block is",
            ),
        ),
        (
            "two lengths of a block",
            changed(&pcapng, pcapng.len() - 4, &[16, 0, 0, 0]),
            behind(
                &at_third_block,
                &format!(
                    "a block says it is {} bytes long, and at its end 16",
                    pcapng.len() - third_block
                ),
            ),
        ),
        (
            "a packet larger than its block",
            changed(&pcapng, third_block + 20, &[0, 8, 0, 0]),
            behind(
                &at_third_block,
                &format!(
                    "a packet of 2048 bytes in a block with room for {}",
                    last_len.next_multiple_of(4)
                ),
            ),
        ),
        (
            "an interface that was not described",
            changed(&pcapng, third_block + 8, &[9, 0, 0, 0]),
            behind(
                &at_third_block,
                "a packet of interface 9, and 1 were described",
            ),
        ),
        (
            "a compressed file that was cut",
            gzip[..gzip.len() - 20].to_vec(),
            "it is compressed, and cut off or damaged".to_owned(),
        ),
    ];
    for (what, capture, message) in cases {
        let path = folder.file("damaged", &capture);
        let replayed = replay(&[&path]);
        let start = format!("lastmile: {}: damaged behind packet 2", path.display());
        assert_eq!(replayed.code, 1, "{what}");
        assert!(
            replayed.stderr.starts_with(&start),
            "{what}: {}",
            replayed.stderr
        );
        assert!(
            replayed.stderr.contains(&message),
            "{what}: {}",
            replayed.stderr
        );
        assert_eq!(replayed.counter("packets_read"), 2, "{what}");
        assert_eq!(replayed.flows().len(), 1, "{what}");
    }
}

#[test]
fn what_is_no_capture_is_said() {
    let folder = Folder::new("replay-none");
    let header = &Pcap::MICROSECONDS.capture(&[])[..];
    let wifi = Pcap {
        link: 105,
        ..Pcap::MICROSECONDS
    };
    let cases = [
        (&b""[..], "not a pcap or pcapng capture: it is empty"),
        (b"GET", "not a pcap or pcapng capture: it has 3 bytes"),
        (
            b"GET / HTTP/1.1",
            "not a pcap or pcapng capture: it begins with 47 45 54 20",
        ),
        (
            &header[..10],
            "it ends inside its header: 10 of 24 bytes are there",
        ),
        (
            &wifi.capture(&small_flow()),
            "none of its 3 packets was read: their link type is 105",
        ),
        (
            &Block::enhanced(false, 0, 0, &[1; 60], 60),
            "not a pcap or pcapng capture: it begins with 06 00 00 00",
        ),
        (
            &[&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0][..], &[9; 20]].concat(),
            "damaged behind packet 0, at byte 0: a section header without its byte-order magic",
        ),
    ];
    for (capture, message) in cases {
        let path = folder.file("none", capture);
        let replayed = replay(&[&path]);
        let start = format!("lastmile: {}: ", path.display());
        assert_eq!(replayed.code, 1, "{message}");
        assert!(replayed.stderr.starts_with(&start), "{}", replayed.stderr);
        assert!(replayed.stderr.contains(message), "{}", replayed.stderr);
        assert!(replayed.flows().is_empty());
    }
    let missing = replay(&[Path::new("/nonexistent.pcap")]);
    assert_eq!(missing.code, 1);
    assert!(
        missing
            .stderr
            .starts_with("lastmile: /nonexistent.pcap: No such file"),
        "{}",
        missing.stderr
    );
    let empty = replay(&[&folder.file("header only", header)]);
    assert_eq!((empty.code, &*empty.stderr), (0, ""));
    assert_eq!(empty.records.len(), 1, "the status");
}

#[test]
fn one_damaged_file_of_several_does_not_stop_the_others() {
    let folder = Folder::new("replay-one-damaged");
    let (frames, _) = traffic(3);
    let damaged = Pcap::MICROSECONDS.capture(&small_flow());
    let damaged = folder.file("damaged", &damaged[..damaged.len() - 7]);
    let none = folder.file("none", b"no capture");
    let whole = folder.file("whole", &Pcap::MICROSECONDS.capture(&frames));
    let replayed = replay(&[&damaged, &none, &whole]);
    assert_eq!(replayed.code, 1);
    assert_eq!(replayed.flows().len(), 4);
    let messages: Vec<_> = replayed.stderr.lines().collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        replayed
            .stderr
            .contains(&format!("{}: not a pcap", none.display()))
    );
    assert!(
        replayed
            .stderr
            .contains(&format!("{}: damaged behind packet 2", damaged.display()))
    );
}

#[test]
fn a_record_that_kept_more_than_was_on_the_wire_is_read_with_what_it_kept() {
    let folder = Folder::new("replay-caplen");
    let mut frames = small_flow();
    for (_, frame) in &mut frames {
        frame.bytes.resize(frame.frame_len as usize, 0);
        frame.frame_len = 20;
    }
    let replayed = replay(&[&folder.file("a", &Pcap::MICROSECONDS.capture(&frames))]);
    assert_eq!((replayed.code, &*replayed.stderr), (0, ""));
    assert_eq!(replayed.flows()[0]["to_server"]["bytes"], 100);
}

#[test]
fn a_record_that_lost_the_length_on_the_wire_counts_with_its_ip_header() {
    let folder = Folder::new("replay-snapped");
    let mut frames = small_flow();
    for (_, frame) in &mut frames {
        frame.frame_len = frame.bytes.len() as u32;
    }
    let replayed = replay(&[&folder.file("a", &Pcap::MICROSECONDS.capture(&frames))]);
    assert_eq!(replayed.flows()[0]["to_server"]["bytes"], 100);
    assert_eq!(replayed.counter("packets_malformed"), 0);
}

#[test]
fn a_silent_flow_is_closed_and_what_comes_later_is_another() {
    let folder = Folder::new("replay-idle");
    let mut frames = small_flow();
    let (_, data) = frames[2].clone();
    // Two hours later a keep-alive finds it, three hours later nobody does.
    let hours = |count: u64| START_NS + count * 3_600 * SECOND_NS;
    frames.push((hours(2), data.clone()));
    frames.push((hours(5), data));
    let replayed = replay(&[&folder.file("a", &Pcap::MICROSECONDS.capture(&frames))]);
    let flows = replayed.flows();
    let reasons: Vec<_> = flows.iter().map(|flow| &flow["close_reason"]).collect();
    assert_eq!(reasons, ["idle", "end_of_capture"]);
    assert_eq!(flows[0]["duration_us"], 7_200_000_000u64);
    assert_eq!(flows[0]["to_server"]["frames"], 2);
    assert_eq!(flows[1]["to_server"]["frames"], 1);
}

#[test]
fn a_clock_that_was_set_back_is_said_and_loses_nothing() {
    let folder = Folder::new("replay-clock");
    let (mut frames, truths) = traffic(1);
    let middle = frames.len() / 2;
    for (time_ns, _) in &mut frames[middle..] {
        *time_ns -= 3_600 * SECOND_NS;
    }
    let replayed = replay(&[&folder.file("a", &Pcap::MICROSECONDS.capture(&frames))]);
    assert_eq!(replayed.code, 0);
    let flows = replayed.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0]["to_client"]["bytes"], truths[0].bytes);
    assert_eq!(replayed.counter("clock_steps_back"), 1);
    assert!(
        replayed
            .stderr
            .contains("the time stamps step back 1 times"),
        "{}",
        replayed.stderr
    );
}

#[test]
fn more_rtt_samples_than_a_bin_holds_between_two_windows_are_all_there() {
    let folder = Folder::new("replay-samples");
    let mut frames = small_flow();
    let (client, server) = (v4([10, 0, 0, 1], 1_234), v4([192, 0, 2, 1], 443));
    let mut now_ns = START_NS + SECOND_NS / 10;
    let samples = 110_000u32;
    for number in 0..samples {
        let rtt_ns = if number < 100_000 { 100_000 } else { 4_000_000 };
        let data = tcp(server, client)
            .isns(2, 1)
            .ack(100)
            .data(number * 10, 10);
        frames.push((now_ns, data.frame()));
        now_ns += rtt_ns;
        let ack = tcp(client, server)
            .isns(1, 2)
            .data(100, 0)
            .ack(number * 10 + 10);
        frames.push((now_ns, ack.frame()));
        now_ns += 10_000;
    }
    let replayed = replay(&[&folder.file("a", &Pcap::MICROSECONDS.capture(&frames))]);
    let data = &replayed.flows()[0]["to_client"];
    // And the SYN-ACK's.
    assert_eq!(data["rtt_samples"], samples + 1);
    let quantile = |name: &str| data[name].as_u64().expect("a quantile");
    assert!((90..=125).contains(&quantile("rtt_p50_us")), "{data}");
    assert!((3_500..=4_500).contains(&quantile("rtt_p95_us")), "{data}");
    assert_eq!(
        (quantile("rtt_min_us"), quantile("rtt_max_us")),
        (100, 5_000)
    );
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let folder = Folder::new("replay-pipe");
    let (frames, _) = traffic(20);
    let path = folder.file("a", &Pcap::MICROSECONDS.capture(&frames));
    let mut child = lastmile()
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("lastmile runs");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("an exit").code(), Some(0));
}

/// Runs with a terminal as standard error and returns what was drawn on it.
fn drawn(path: &Path, term: &str) -> String {
    let (mut ours, mut theirs) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: both pointers are to live integers; no name, settings or size are asked for.
    let opened = unsafe { libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()) };
    assert_eq!(opened, 0, "a pseudo terminal");
    // SAFETY: both were just opened, and nobody else has them.
    let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) };
    let status = lastmile()
        .arg(path)
        .env("TERM", term)
        .stdout(Stdio::null())
        .stderr(theirs)
        .status()
        .expect("lastmile runs");
    assert!(status.success());
    let mut drawn = Vec::new();
    // The end of a terminal whose other side is closed is an error.
    let _ = ours.read_to_end(&mut drawn);
    String::from_utf8_lossy(&drawn).into_owned()
}

#[test]
fn progress_is_drawn_on_a_terminal_that_can_take_it_back() {
    let folder = Folder::new("replay-progress");
    let frames: Vec<_> = small_flow().into_iter().cycle().take(40_000).collect();
    let path = folder.file("a", &Pcap::MICROSECONDS.capture(&frames));
    let shown = drawn(&path, "xterm");
    assert!(shown.contains(" of "), "{shown:?}");
    assert!(!drawn(&path, "dumb").contains(" of "));
}

/// A site of two interconnects that lead to both ISPs; one of them loses and delays from
/// `FAULT_WINDOW` on.
mod site {
    use super::*;

    pub const WINDOW_S: u64 = 5;
    pub const WINDOWS: u64 = 16;
    pub const FAULT_WINDOW: u64 = 12;
    /// A window's start.
    pub const START_S: u64 = 1_700_000_000;

    pub const CONFIGURATION: &str = r#"
[path]
prefixes_csv = "prefixes.csv"
[window]
length_s = 5
[baseline]
min_windows = 8
slot_windows = 1
best_slots = 16
span_slots = 10000
[verdict]
min_chunks_per_prefix = 2
"#;

    pub fn prefixes() -> String {
        let mut csv = "prefix,origin_asn,isp,interconnect\n".to_owned();
        for prefix in 0..16 {
            let (isp, asn) = if prefix % 8 < 4 {
                ("Northnet", 64_501)
            } else {
                ("Southnet", 64_502)
            };
            let interconnect = if prefix < 8 { "ix-east" } else { "ix-west" };
            csv += &format!("10.0.{prefix}.0/24,{asn},{isp},{interconnect}\n");
        }
        csv
    }

    pub fn frames() -> Vec<(u64, Frame)> {
        let mut frames = Vec::new();
        for window in 0..WINDOWS {
            for home in 0..32u16 {
                for fetch in 0..3u16 {
                    let conditions = conditions_of(window, home, fetch);
                    frames.extend(framed(run(&conditions).0));
                }
            }
        }
        frames.sort_by_key(|&(time_ns, _)| time_ns);
        frames
    }

    fn conditions_of(window: u64, home: u16, fetch: u16) -> Conditions {
        let prefix = home / 2;
        let bad = window >= FAULT_WINDOW && prefix < 8;
        let number = window as u16 * 3 + fetch;
        let client = [10, 0, prefix as u8, 1 + (home % 2) as u8];
        Conditions {
            client: v4(client, 10_000 + number),
            start_ns: START_S * SECOND_NS
                + window * WINDOW_S * SECOND_NS
                + u64::from(fetch) * 1_300_000_000
                + u64::from(home) * 7_000_000,
            seed: u64::from(number) << 16 | u64::from(home),
            segments: 80,
            window: 16,
            downstream_us: 10_000 + if bad { 20_000 } else { 0 },
            lost_downstream: if bad { 40 } else { 0 },
            lost_upstream: 0,
            lost_acks: 0,
            ..conditions(0, 0)
        }
    }
}

#[test]
fn with_a_configuration_the_place_is_named_in_capture_time() {
    let folder = Folder::new("replay-attribution");
    let config = folder.file("lastmile.toml", site::CONFIGURATION.as_bytes());
    folder.file("prefixes.csv", site::prefixes().as_bytes());
    let path = folder.file("a.pcap", &Pcap::MICROSECONDS.capture(&site::frames()));
    let replayed = finished(lastmile().arg("--config").arg(&config).arg(&path));
    assert_eq!((replayed.code, &*replayed.stderr), (0, ""));
    let verdicts: Vec<_> = replayed
        .records
        .iter()
        .filter(|record| record["type"] == "verdict")
        .collect();
    let named: Vec<_> = verdicts
        .iter()
        .filter(|verdict| {
            verdict["segments"]
                .as_array()
                .is_some_and(|set| set.len() == 1)
        })
        .collect();
    assert!(!named.is_empty(), "{verdicts:#?}");
    let fault_s = site::START_S + site::FAULT_WINDOW * site::WINDOW_S;
    for verdict in named {
        assert_eq!(verdict["segments"][0], "interconnect", "{verdict:#}");
        assert_eq!(verdict["interconnect"], "ix-east", "{verdict:#}");
        let start = verdict["window_start"].as_str().expect("a time");
        assert!(start >= &*time_of(fault_s), "{start}: before the fault");
    }
    let closes = replayed.flows();
    let closes = closes.iter().filter(|flow| flow["event"] == "close");
    assert_eq!(closes.count() as u64, site::WINDOWS * 32 * 3);
    let of = |kind: &str| {
        replayed
            .records
            .iter()
            .filter(|record| record["type"] == kind)
            .count()
    };
    assert_eq!(
        of("status") as u64,
        site::WINDOWS + 1,
        "one a window, and the last"
    );
    assert!(of("cell") > 0);
}

/// As records write it. 1,700,000,000 is 2023-11-14 22:13:20 UTC.
fn time_of(unix_s: u64) -> String {
    let since_midnight = unix_s % 86_400;
    format!(
        "2023-11-14T{:02}:{:02}:{:02}",
        since_midnight / 3_600,
        since_midnight / 60 % 60,
        since_midnight % 60
    )
}
