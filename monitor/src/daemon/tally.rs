//! What was seen and what was missed, since the start and in one window.

use std::collections::BTreeMap;

use monitor_ebpf::counters::{COUNTER_NAMES, COUNTERS, Counter, Counters};

use crate::{
    capture::live::Memory,
    engine::Missed,
    export::{
        Record, Timestamp,
        record::{StatusRecord, StatusType, Version},
    },
    flow::admission::Load,
};

/// Totals since the start (of the first run, where later ones went on with its flows), and what they were when the window began.
#[derive(Clone)]
pub struct Tally {
    host: String,
    start_us: u64,
    counters: Counters,
    /// Reports taken from the ring buffer.
    pub reports_received: u64,
    /// Flows in the kernel's table at the last sweep.
    pub flows_live: u64,
    /// Of these, those that had not ended.
    pub flows_under_way: u64,
    /// Flows that had ended, or were silent for long, and left it.
    pub flows_removed: u64,
    /// Flows that waited for a state at the last sweep.
    pub flows_waiting: u64,
    before: Totals,
    /// Lines that this process could not log, until the last window's end.
    lines_dropped: u64,
    /// Totals a second ago, for the load.
    looked: Option<Looked>,
}

/// What the load of a second is the difference of.
#[derive(Clone, Copy)]
struct Looked {
    time_ns: u64,
    created: u64,
    reports: u64,
    reports_lost: u64,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    reports_received: u64,
    reports_lost: u64,
    flows_evicted: u64,
    flows_refused: u64,
    packets_unparsed: u64,
    chunks_lost: u64,
    pending_evicted: u64,
}

impl Tally {
    pub fn new(host: String, start_us: u64) -> Self {
        Self {
            host,
            start_us,
            counters: [0; COUNTERS],
            reports_received: 0,
            flows_live: 0,
            flows_under_way: 0,
            flows_removed: 0,
            flows_waiting: 0,
            before: Totals::default(),
            lines_dropped: 0,
            looked: None,
        }
    }

    /// What happened since the last call, a second ago; at the first call nothing is known.
    pub fn load(&mut self, counters: &Counters, now_ns: u64, max: u64) -> Load {
        let now = Looked {
            time_ns: now_ns,
            created: counters[Counter::FlowsCreated as usize],
            reports: self.reports_received,
            reports_lost: counters[Counter::ReportsLost as usize],
        };
        let before = self.looked.replace(now).unwrap_or(now);
        Load {
            elapsed_ns: now.time_ns.saturating_sub(before.time_ns),
            created: now.created.saturating_sub(before.created),
            reports: now.reports.saturating_sub(before.reports),
            reports_lost: now.reports_lost.saturating_sub(before.reports_lost),
            live: self.flows_under_way,
            max,
        }
    }

    /// Goes on where an earlier run ended, of which `memory` tells.
    pub fn resume(&mut self, memory: &Memory, counters: &Counters) {
        self.start_us = memory.start_us;
        self.counters = *counters;
        self.reports_received = memory.reports_received;
        self.flows_removed = memory.flows_removed;
        let [
            reports_received,
            reports_lost,
            flows_evicted,
            flows_refused,
            packets_unparsed,
            chunks_lost,
            pending_evicted,
        ] = memory.before;
        self.before = Totals {
            reports_received,
            reports_lost,
            flows_evicted,
            flows_refused,
            packets_unparsed,
            chunks_lost,
            pending_evicted,
        };
    }

    /// Notes what the next run must know.
    pub fn leave(&self, memory: &mut Memory) {
        memory.start_us = self.start_us;
        memory.reports_received = self.reports_received;
        memory.flows_removed = self.flows_removed;
        memory.before = [
            self.before.reports_received,
            self.before.reports_lost,
            self.before.flows_evicted,
            self.before.flows_refused,
            self.before.packets_unparsed,
            self.before.chunks_lost,
            self.before.pending_evicted,
        ];
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// The kernel does not say what its LRU map pushes out: what was created and is neither
    /// there nor was removed.
    fn flows_evicted(&self) -> u64 {
        let gone = self.counter(Counter::FlowsReused) + self.flows_removed + self.flows_live;
        self.counter(Counter::FlowsCreated).saturating_sub(gone)
    }

    /// What waited for a state, got none and waits no more: pushed out, or begun anew.
    fn pending_evicted(&self) -> u64 {
        let known = self.counter(Counter::FlowsAdmitted) + self.flows_waiting;
        self.counter(Counter::FlowsPending).saturating_sub(known)
    }

    /// Takes the packet path's counters; what was missed since the last call.
    /// `lines_dropped`: lines that this process could not log, in all.
    pub fn end_of_window(&mut self, counters: &Counters, lines_dropped: u64) -> Missed {
        self.counters = *counters;
        let now = Totals {
            reports_received: self.reports_received,
            reports_lost: self.counter(Counter::ReportsLost),
            // A flow that ended between the sweep and this look counts in the next window.
            flows_evicted: self.flows_evicted().max(self.before.flows_evicted),
            flows_refused: self.counter(Counter::FlowsRefused),
            packets_unparsed: self.counter(Counter::Truncated)
                + self.counter(Counter::Malformed)
                + self.counter(Counter::Fragment),
            chunks_lost: self.counter(Counter::ChunksLost),
            pending_evicted: self.pending_evicted().max(self.before.pending_evicted),
        };
        let before = std::mem::replace(&mut self.before, now);
        let lines_dropped_before = std::mem::replace(&mut self.lines_dropped, lines_dropped);
        Missed {
            reports_received: now.reports_received.saturating_sub(before.reports_received),
            reports_lost: now.reports_lost - before.reports_lost,
            flows_evicted: now.flows_evicted - before.flows_evicted,
            flows_refused: now.flows_refused - before.flows_refused,
            packets_unparsed: now.packets_unparsed - before.packets_unparsed,
            chunks_lost: now.chunks_lost - before.chunks_lost,
            flows_waiting_evicted: now.pending_evicted - before.pending_evicted,
            log_lines_dropped: lines_dropped - lines_dropped_before,
            admitted_one_in: 1,
        }
    }

    /// Every counter since the start.
    pub fn status(
        &self,
        time_us: u64,
        flows_open: u64,
        (log_lines_dropped, log_writes_failed): (u64, u64),
        others: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Record {
        let mut counters: BTreeMap<String, u64> = COUNTER_NAMES
            .iter()
            .zip(self.counters)
            .map(|(name, count)| ((*name).to_owned(), count))
            .collect();
        for (name, count) in [
            ("reports_received", self.reports_received),
            ("flows_live", self.flows_live),
            ("flows_open", flows_open),
            ("flows_removed", self.flows_removed),
            ("flows_evicted", self.before.flows_evicted),
            ("flows_waiting", self.flows_waiting),
            ("flows_waiting_evicted", self.before.pending_evicted),
            ("log_lines_dropped", log_lines_dropped),
            ("log_writes_failed", log_writes_failed),
        ]
        .into_iter()
        .chain(others)
        {
            counters.insert(name.to_owned(), count);
        }
        Record::Status(Box::new(StatusRecord {
            schema: Version::One,
            r#type: StatusType::Name,
            time: Timestamp(time_us),
            host: self.host.clone(),
            start_time: Timestamp(self.start_us),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            counters,
        }))
    }
}
