//! `lastmile judge` as an operator runs it, on logs of two hosts.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lastmile::export::Timestamp;
use lastmile::export::schema::validate_line;
use serde_json::{Value, json};

const WINDOW_S: u64 = 60;
const FIRST: u64 = 1_800_000_000 / WINDOW_S;
const WINDOWS: u64 = 30;
/// Windows in which isp-x is bad through either interconnect.
const BAD: std::ops::Range<u64> = 20..28;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One client of a cell; `variant` moves its figures a little.
fn client(name: u64, bad: bool, variant: u64) -> Value {
    let bin = if bad { 81_920 } else { 28_672 };
    json!({
        "client": format!("{name:016x}"),
        "observations": 1, "segments": 1_000 + variant, "lost_segments": if bad { 30 } else { 0 },
        "ce_marked_segments": 0, "rwnd_limited_segments": 0,
        "acked_bytes": 1_400_000 + 1_000 * variant,
        "busy_us": if bad { 4_000_000 } else { 1_000_000 },
        "bursts": 6, "handshake_rtt_min_us": null,
        "rtt_min_us": bin, "rtt_max_us": bin + 4_000, "rtt_sum_us": 20 * (bin + 2_000),
        "rtt_bins": { bin.to_string(): 20 },
    })
}

/// The log of one of two hosts, with a client of its own in each of 16 prefixes.
fn log(host: u64) -> Vec<u8> {
    let mut lines = Vec::new();
    for window in 0..WINDOWS {
        let start = Timestamp((FIRST + window) * WINDOW_S * 1_000_000).to_string();
        for prefix in 0..16_u64 {
            let isp = if prefix % 2 == 0 { "isp-x" } else { "isp-y" };
            let bad = isp == "isp-x" && BAD.contains(&window);
            let counts = json!({
                "bytes": 1_448_000, "frames": 100, "segments": 1_000, "retransmitted_segments": 0,
                "kernel_retransmits": null, "retransmitted_bytes": 0, "spurious_segments": 0,
                "ce_marked_segments": 0, "lost_downstream_segments": 0,
                "lost_upstream_segments": 0, "reordered_segments": 0, "rtt_samples": 20,
                "rtt_min_us": null, "rtt_p50_us": null, "rtt_p95_us": null, "rtt_max_us": null,
                "rtt_source": null,
            });
            let cell = json!({
                "schema": "lastmile/1", "type": "cell", "time": start, "host": format!("h{host}"),
                "window_start": start, "window_s": WINDOW_S,
                "interconnect": if prefix < 8 { "ic-a" } else { "ic-b" },
                "isp": isp, "origin_asn": 64_500 + prefix % 2,
                "prefix": format!("10.0.{prefix}.0/24"), "ip_version": 4, "direct": true,
                "observations": 1, "clients": 1, "clients_judged": 1, "clients_bad": 0,
                "clients_good": 0, "chunks": 6, "busy_us": 0, "acked_bytes": 0,
                "delivered_bps": null, "handshake_rtt_min_us": null, "baseline_rtt_p10_us": null,
                "rtt_p10_us": null, "rtt_bins": {}, "to_client": counts, "way": null,
                "client_list": [client(100 * host + prefix, bad, (window * 7 + prefix) % 5)],
            });
            validate_line(&cell.to_string()).expect("a record");
            writeln!(lines, "{cell}").expect("memory");
        }
    }
    lines
}

const CONFIG: &str = "[baseline]\nmin_windows = 12\nslot_windows = 1\nbest_slots = 8\n\
    span_slots = 1000\n";

fn judge(folder: &Folder, files: &[&Path]) -> Output {
    let config = folder.write("judge.toml", CONFIG.as_bytes());
    Command::new(env!("CARGO_BIN_EXE_lastmile"))
        .arg("judge")
        .arg("--config")
        .arg(config)
        .args(files)
        .output()
        .expect("it runs")
}

fn verdicts(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("UTF-8");
    let lines = text.lines().map(|line| {
        validate_line(line).expect("a record");
        serde_json::from_str(line).expect("JSON")
    });
    lines
        .filter(|line: &Value| line["type"] == "verdict")
        .collect()
}

fn named(verdicts: &[Value]) -> Vec<&Value> {
    let of = |it: &&Value| {
        it["segments"]
            .as_array()
            .is_some_and(|them| them.len() == 1)
    };
    verdicts.iter().filter(of).collect()
}

#[test]
fn two_hosts_that_are_too_thin_alone_name_the_isp_together() {
    let folder = Folder::new("judge-two");
    let (one, other) = (log(1), log(2));
    let plain = folder.write("one.jsonl", &one);
    let packed = zstd::stream::encode_all(&other[..], 1).expect("memory");
    let packed = folder.write("other.jsonl.zst", &packed);
    let both = judge(&folder, &[&plain, &packed]);
    assert!(
        both.status.success(),
        "{}",
        String::from_utf8_lossy(&both.stderr)
    );
    let said = verdicts(&both);
    assert_eq!(said.len() as u64, WINDOWS);
    let named = named(&said);
    assert!(named.len() >= 5, "{named:?}");
    for verdict in named {
        assert_eq!(verdict["segments"], json!(["isp"]));
        assert_eq!(verdict["isp"], "isp-x");
        assert_eq!(verdict["host"], "h1+h2");
    }
    let turned = judge(&folder, &[&packed, &plain]);
    assert_eq!(turned.stdout, both.stdout);

    // Alone no prefix has ten chunks, pooled they have too few votes.
    let alone = verdicts(&judge(&folder, &[&plain]));
    let without_name = |it: &Value| {
        it["segments"]
            .as_array()
            .is_some_and(|them| them.len() != 1)
    };
    assert!(alone.iter().all(without_name));
}

#[test]
fn a_damaged_log_is_named_and_the_exit_code_is_1() {
    let folder = Folder::new("judge-damaged");
    let whole = folder.write("whole.jsonl", &log(1));
    let lines = log(2);
    let cut = folder.write("cut.jsonl", &lines[..lines.len() - 5]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&lines).expect("memory");
    let mut packed = encoder.finish().expect("memory");
    packed.truncate(packed.len() / 2);
    let packed = folder.write("packed.jsonl.gz", &packed);
    let missing = folder.0.join("missing.jsonl");
    let output = judge(&folder, &[&whole, &cut, &packed, &missing]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(verdicts(&output).len() as u64, WINDOWS);
    let said = String::from_utf8_lossy(&output.stderr);
    for expected in [
        format!("{}:{}: no record: ", cut.display(), 16 * WINDOWS),
        format!("{}: cannot be read after line ", packed.display()),
        format!("{}: cannot be opened: ", missing.display()),
    ] {
        assert!(said.contains(&expected), "{said}");
    }

    let empty = folder.write("empty.jsonl", b"");
    let output = judge(&folder, &[&empty]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no cells"));
}
