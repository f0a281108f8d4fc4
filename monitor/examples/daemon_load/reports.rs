//! Reports through the pipeline, without a kernel, and the size of its tables, with one.

use std::{collections::HashSet, fs, process, sync::Arc, time::Instant};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use lastmile::{
    capture::{
        Snapshot,
        live::{Live, Options},
    },
    config::{Config, KernelLog},
    engine::{Missed, Pipeline},
    path::Routes,
};
use monitor_ebpf::flow::{Address, FlowKey, FlowState, Half, half_flags as is, rtt_bin};

use crate::hosts::process_bytes;

const START_US: u64 = 1_800_000_000_000_000;
/// Between two reports of one flow.
const INTERVAL_US: u64 = 1_000_000;
const RTT_US: u32 = 20_000;
const CLIENTS_PER_ADDRESS: u32 = 16;

/// What was measured.
pub struct Taken {
    /// Reports a second, each the first of its flow.
    pub first: f64,
    /// Of those that follow, a figure a round.
    pub later: Vec<f64>,
    /// How long the end of a window took, and the records that it made.
    pub window_s: f64,
    pub records: usize,
    /// What the process grew by, at its largest.
    pub memory_bytes: u64,
}

/// Every one of `flows` reports `rounds` times after its first.
///
/// # Errors
/// When this process's memory cannot be read.
pub fn take(flows: u32, rounds: u32) -> Result<Taken> {
    let config = Config::default();
    let routes = Arc::new(ArcSwap::from_pointee(Routes::default()));
    let mut pipeline = Pipeline::new(&config, routes, "bench");
    let before = process_bytes(process::id(), "VmRSS:")?;
    let first = round(&mut pipeline, flows, 0);
    let later = (1..=rounds)
        .map(|number| round(&mut pipeline, flows, number))
        .collect();
    // Before a window ends the daemon reads the kernel's whole table; what it holds then is the most.
    let end_us = START_US + u64::from(rounds) * INTERVAL_US;
    let swept: Vec<FlowState> = (0..flows)
        .map(|flow| state(flow, rounds, end_us * 1_000))
        .collect();
    let present: HashSet<FlowKey> = swept.iter().map(|state| state.key).collect();
    let begin = Instant::now();
    let records = pipeline.end_of_window(end_us, None, None, &Missed::default());
    let window_s = begin.elapsed().as_secs_f64();
    let memory_bytes = process_bytes(process::id(), "VmHWM:")?.saturating_sub(before);
    drop((swept, present));
    Ok(Taken {
        first,
        later,
        window_s,
        records: records.len(),
        memory_bytes,
    })
}

/// Reports a second.
fn round(pipeline: &mut Pipeline, flows: u32, number: u32) -> f64 {
    let mut records = Vec::new();
    let time_us = START_US + u64::from(number) * INTERVAL_US;
    let begin = Instant::now();
    for flow in 0..flows {
        let snapshot = Snapshot {
            state: state(flow, number, time_us * 1_000),
            time_us,
            read_ns: time_us * 1_000,
            interface: None,
        };
        pipeline.snapshot(&snapshot, &mut records);
        // The log is not what is measured.
        records.clear();
    }
    f64::from(flows) / begin.elapsed().as_secs_f64()
}

/// A flow that has sent `number` chunks: a client and a server, data and ACKs.
fn state(flow: u32, number: u32, now_ns: u64) -> FlowState {
    let client = (0x0a00_0000 + flow / CLIENTS_PER_ADDRESS).to_be_bytes();
    let port = 40_000 + (flow % CLIENTS_PER_ADDRESS) as u16;
    let (key, to_server) =
        FlowKey::new(Address::v4(client), port, Address::v4([192, 0, 2, 1]), 443);
    let mut state = FlowState::EMPTY;
    state.key = key;
    state.generation = u64::from(flow) + 1;
    state.start_ns = START_US * 1_000;
    state.first_report_ns = START_US * 1_000;
    state.last_report_ns = now_ns;
    let known = is::SEEN | is::SYN | is::SEQUENCE_KNOWN | is::ACK_KNOWN;
    let data = number * 700;
    state.halves[to_server ^ 1] = Half {
        flags: known | is::SYN_ACK,
        last_seen_ns: now_ns,
        segments: data,
        frames: data / 10,
        bytes: u64::from(data) * 1_448,
        ..Half::EMPTY
    };
    let mut client = Half {
        flags: known,
        last_seen_ns: now_ns,
        acked_bytes: u64::from(data) * 1_448,
        busy_us: u64::from(number) * 100_000,
        bursts: number,
        rtt_samples: number * 40,
        rtt_sum_us: u64::from(number) * 40 * u64::from(RTT_US),
        handshake_rtt_us: RTT_US,
        ..Half::EMPTY
    };
    client.rtt_bins[rtt_bin(RTT_US)] = (number * 40) as u16;
    state.halves[to_server] = client;
    state
}

/// What all maps of the loaded programs take, as the kernel says.
///
/// # Errors
/// When they cannot be loaded.
pub fn table_bytes(flows: u32) -> Result<u64> {
    let _live = Live::load(&Options {
        max_flows: flows,
        kernel_log: KernelLog::Off,
        cgroups: false,
        test_clock: false,
    })?;
    let descriptors = fs::read_dir("/proc/self/fdinfo").context("cannot read /proc")?;
    let maps = descriptors.flatten().filter_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        text.contains("map_id:").then_some(text)
    });
    let bytes = maps.filter_map(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("memlock:"))?;
        line.trim().parse::<u64>().ok()
    });
    Ok(bytes.sum())
}
