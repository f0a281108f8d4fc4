//! `lastmile replay`: captures in, flow records (and with a configuration verdicts) out.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use monitor_ebpf::{
    counters::{Counter, Counters, Reason},
    flow::FlowState,
    observe::{Tables as _, observe},
    packet::Link,
    select::{Settings, settings_flags},
};

use super::{file, packet::Captured, tables::HostTables};
use crate::{
    capture::Snapshot,
    config::{Config, Destination},
    engine::{Missed, Pipeline},
    export::{
        Record,
        jsonl::{JsonLines, WriteError},
    },
    flow::CloseReason,
    path::Routes,
};

/// Name of the host in the records: a capture does not say where it was made.
const HOST: &str = "replay";

/// What to do besides reading packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// Every flow is read, and its `close` record is all that is written.
    Off,
    /// The configuration says what is watched; windows are judged in capture time.
    On,
}

/// Reads the captures one after the other, as one stream, and writes records to standard output.
/// Client addresses are written in full: the capture holds them already.
pub fn run(mut config: Config, attribution: Attribution, files: &[PathBuf]) -> Result<()> {
    config.log.full_client_addresses = true;
    if attribution == Attribution::Off {
        config.watch = crate::config::Watch {
            ports: Vec::new(),
            ..Default::default()
        };
    }
    let log = JsonLines::open(&Destination::Stdout)?;
    let mut replay = Replay::new(config, attribution, log)?;
    let mut result = Ok(());
    for path in files {
        let mut failed = Ok(());
        let read = file::read(path, |link, packet| {
            if failed.is_ok() {
                failed = replay.packet(link, packet);
            }
        });
        result = failed.and(read.map_err(anyhow::Error::new));
        if result.is_err() {
            break;
        }
    }
    let finished = replay.finish();
    match result.and(finished) {
        Err(error) if matches!(error.downcast_ref(), Some(WriteError::Closed)) => Ok(()),
        other => other,
    }
}

struct Replay {
    config: Config,
    attribution: Attribution,
    tables: HostTables,
    pipeline: Pipeline,
    log: JsonLines,
    now_ns: u64,
    /// End of the running window; 0 before the first packet.
    end_us: u64,
    before: Counters,
}

impl Replay {
    fn new(config: Config, attribution: Attribution, log: JsonLines) -> Result<Self> {
        let routes = Arc::new(ArcSwap::from_pointee(Routes::load(&config.path)?));
        let mut flags = 0;
        if !config.watch.ports.is_empty() {
            flags |= settings_flags::PORTS;
        }
        if !config.watch.prefixes.is_empty() {
            flags |= settings_flags::PREFIXES;
        }
        let settings = Settings {
            // The end of a window reads every flow.
            report_interval_ns: u64::MAX,
            epoch_ns: u64::from(config.window.length_s) * 1_000_000_000,
            epoch_offset_ns: 0,
            sample_threshold: u32::MAX / config.watch.sample_one_in.max(1),
            flags,
        };
        let tables = HostTables::new(settings, &config.watch.ports, &config.watch.prefixes);
        let before = tables.counters();
        Ok(Self {
            pipeline: Pipeline::new(&config, routes, HOST),
            config,
            attribution,
            tables,
            log,
            now_ns: 0,
            end_us: 0,
            before,
        })
    }

    fn packet(&mut self, link: Result<Link, Reason>, packet: &Captured<'_>) -> Result<()> {
        // Time stamps of several capture queues may step back a little: windows do not.
        self.now_ns = self.now_ns.max(packet.time_ns);
        let length_us = u64::from(self.config.window.length_s) * 1_000_000;
        if self.end_us == 0 {
            self.end_us = (self.now_ns / 1_000 / length_us + 1) * length_us;
        }
        if self.now_ns / 1_000 >= self.end_us {
            self.end_of_window(self.end_us)?;
            self.end_us = (self.now_ns / 1_000 / length_us + 1) * length_us;
        }
        if let Err(reason) = link.and_then(|link| observe(packet, link, &self.tables)) {
            self.tables.count(reason.into());
        }
        let reports = self.tables.take_reports();
        if reports.is_empty() {
            return Ok(());
        }
        let mut records = Vec::new();
        self.take(&reports, self.now_ns, &mut records);
        self.write(&records)
    }

    fn take(&mut self, states: &[FlowState], read_ns: u64, records: &mut Vec<Record>) {
        for state in states {
            let snapshot = Snapshot {
                state: *state,
                time_us: read_ns / 1_000,
                read_ns,
                interface: None,
            };
            self.pipeline.snapshot(&snapshot, records);
        }
    }

    fn end_of_window(&mut self, end_us: u64) -> Result<()> {
        let mut records = Vec::new();
        let end_ns = end_us * 1_000;
        let idle_ns = u64::from(self.config.flows.idle_s) * 1_000_000_000;
        // In capture time a flow that went silent is over before it is read: one nanosecond
        // earlier, so that the pipeline still takes its last state.
        let silent = self.tables.take_silent(end_ns.saturating_sub(idle_ns));
        for state in &silent {
            self.take(&[*state], state.last_seen_ns(), &mut records);
            let reason = CloseReason::Idle;
            self.pipeline
                .close_flow(&state.key, end_us, reason, &mut records);
        }
        let states = self.tables.flows();
        self.take(&states, end_ns, &mut records);
        let counters = self.tables.counters();
        let unparsed = |counters: &Counters| {
            [Counter::Truncated, Counter::Malformed, Counter::Fragment]
                .iter()
                .map(|&counter| counters[counter as usize])
                .sum::<u64>()
        };
        let missed = Missed {
            packets_unparsed: unparsed(&counters) - unparsed(&self.before),
            ..Missed::default()
        };
        self.before = counters;
        records.extend(self.pipeline.end_of_window(end_us, None, None, &missed));
        self.write(&records)
    }

    /// Closes every flow.
    fn finish(&mut self) -> Result<()> {
        let mut records = Vec::new();
        let states = self.tables.flows();
        self.take(&states, self.now_ns, &mut records);
        if self.attribution == Attribution::On && self.end_us != 0 {
            let local = None;
            let missed = Missed::default();
            records.extend(
                self.pipeline
                    .end_of_window(self.end_us, local, None, &missed),
            );
        }
        let reason = Some(CloseReason::EndOfCapture);
        records.extend(self.pipeline.finish(self.now_ns / 1_000, reason));
        self.write(&records)
    }

    fn write(&mut self, records: &[Record]) -> Result<()> {
        let wanted = records
            .iter()
            .filter(|record| self.attribution == Attribution::On || is_close(record));
        self.log
            .write(wanted)
            .map_err(anyhow::Error::new)
            .context("cannot write records")
    }
}

fn is_close(record: &Record) -> bool {
    use crate::export::record::FlowEvent;
    matches!(record, Record::Flow(flow) if flow.event == FlowEvent::Close)
}
