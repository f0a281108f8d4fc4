//! `lastmile replay` as it is called: captures of every kind, whole and damaged, in; records,
//! messages and exit codes out.

mod attribution;
mod captures;
mod damage;
mod formats;
#[path = "../support/mod.rs"]
mod support;

use std::{
    fs::{self, File},
    io::Read,
    os::fd::FromRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use captures::Pcap;
use lastmile::export::schema;
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
