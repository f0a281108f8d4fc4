//! Captures of a client that fetches five chunks of 2 MB through a policer or a shaper (USC-NSL,
//! "An Internet-Wide Analysis of Traffic Policing", SIGCOMM 2016, validation set): five chunks are
//! found in each, with their sizes and with rates that their path allows.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use lastmile::export::{record::FlowRecord, schema::validate_line};

/// Where its server listens.
const SERVER_PORT: u16 = 1_234;
const CHUNKS: usize = 5;
const CHUNK_BYTES: u64 = 2_000_000;
/// Most captures end before the last chunk does, by up to 106,016 bytes (trace-13).
const CUT_BYTES_MIN: u64 = 1_893_984;

/// The path's one-way queues and our ends' clocks: what a burst may be longer than its bucket by.
const SLACK: f64 = 1.05;

/// A row of `truth.csv`.
struct Truth {
    rate_bps: f64,
    /// `None`: not said.
    burst_bytes: Option<f64>,
    chunk_delay_us: u64,
}

fn truth(folder: &Path) -> BTreeMap<String, Truth> {
    let text = fs::read_to_string(folder.join("truth.csv")).expect("truth.csv can be read");
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().expect("a header").split(',').collect();
    let column = |name| {
        let index = names.iter().position(|&other| other == name);
        index.expect("truth.csv has the column")
    };
    let (file, rate, burst) = (column("file"), column("rate_bps"), column("burst_bytes"));
    let delay = column("chunk_delay_ms");
    lines
        .map(|line| {
            let fields: Vec<_> = line.split(',').collect();
            let row = Truth {
                rate_bps: fields[rate].parse().expect("a rate"),
                burst_bytes: fields[burst].parse().ok(),
                chunk_delay_us: fields[delay].parse::<u64>().expect("a delay") * 1_000,
            };
            (fields[file].to_owned(), row)
        })
        .collect()
}

/// The flows of the server's port, as `lastmile replay` tells of them.
fn flows(capture: &Path) -> Vec<FlowRecord> {
    let output = Command::new(env!("CARGO_BIN_EXE_lastmile"))
        .arg("replay")
        .arg(capture)
        .output()
        .expect("lastmile runs");
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).expect("text");
    lines
        .lines()
        .inspect(|line| validate_line(line).expect("a record of the schema"))
        .filter_map(|line| serde_json::from_str::<FlowRecord>(line).ok())
        .filter(|flow| flow.server_port == SERVER_PORT)
        .collect()
}

#[test]
fn five_chunks_are_found_in_each_with_their_rates() {
    let Some(folder) = env::var_os("LASTMILE_CAPTURES") else {
        println!("SKIPPED: LASTMILE_CAPTURES does not say where captures are");
        return;
    };
    let folder = PathBuf::from(folder).join("policing");
    let truth = truth(&folder);
    assert!(!truth.is_empty(), "truth.csv names no capture");
    for (file, truth) in &truth {
        let flows = flows(&folder.join(file));
        let [flow] = &flows[..] else {
            panic!("{file}: {} flows", flows.len());
        };
        let rates: Vec<_> = flow.chunk_list.iter().map(|chunk| chunk.rate_bps).collect();
        println!("{file}: {} bit/s, chunks {rates:?}", truth.rate_bps);
        let sizes: Vec<_> = flow.chunk_list.iter().map(|chunk| chunk.bytes).collect();
        assert_eq!(sizes.len(), CHUNKS, "{file}");
        assert_eq!(sizes[..CHUNKS - 1], [CHUNK_BYTES; CHUNKS - 1], "{file}");
        assert!(
            (CUT_BYTES_MIN..=CHUNK_BYTES).contains(&sizes[CHUNKS - 1]),
            "{file}: the last one has {} bytes",
            sizes[CHUNKS - 1]
        );
        for (index, chunk) in flow.chunk_list.iter().enumerate() {
            let duration_us = chunk.duration_us.expect("its end was seen") as f64;
            if let Some(burst_bytes) = truth.burst_bytes {
                let most = burst_bytes + truth.rate_bps / 8.0 * duration_us / 1e6;
                assert!(
                    chunk.acked_bytes as f64 <= SLACK * most,
                    "{file}: a chunk of {duration_us} us is faster than its path"
                );
            }
            // Between the end of one and the next request, as the server sees it, there is the
            // client's pause, and the rest of the round trip may be late.
            if let (1.., Some(idle_us)) = (index, chunk.idle_us) {
                assert!(
                    idle_us.abs_diff(truth.chunk_delay_us) < 300_000,
                    "{file}: {idle_us} us between two chunks"
                );
            }
        }
    }
}
