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
    /// Flows that the daemon removed from it.
    pub flows_removed: u64,
    before: Totals,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    reports_received: u64,
    reports_lost: u64,
    flows_evicted: u64,
    flows_refused: u64,
    packets_unparsed: u64,
}

impl Tally {
    pub fn new(host: String, start_us: u64) -> Self {
        Self {
            host,
            start_us,
            counters: [0; COUNTERS],
            reports_received: 0,
            flows_live: 0,
            flows_removed: 0,
            before: Totals::default(),
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
        ] = memory.before;
        self.before = Totals {
            reports_received,
            reports_lost,
            flows_evicted,
            flows_refused,
            packets_unparsed,
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

    /// Takes the packet path's counters; what was missed since the last call.
    pub fn end_of_window(&mut self, counters: &Counters) -> Missed {
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
        };
        let before = std::mem::replace(&mut self.before, now);
        Missed {
            reports_received: now.reports_received.saturating_sub(before.reports_received),
            reports_lost: now.reports_lost - before.reports_lost,
            flows_evicted: now.flows_evicted - before.flows_evicted,
            flows_refused: now.flows_refused - before.flows_refused,
            packets_unparsed: now.packets_unparsed - before.packets_unparsed,
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
