//! From what the kernel side tells to the flows of the pipeline.

use std::collections::HashSet;

use anyhow::Result;
use monitor_ebpf::flow::FlowState;

use super::{Daemon, cgroups, clock::Now};
use crate::{
    capture::{ChunkNews, FirstBytes, Report, Snapshot, live::Admission},
    export::Record,
    flow::CloseReason,
};

/// An ended flow stays in the kernel's table this long, so that a late FIN or ACK does not begin
/// a new one (RFC 9293's 2 MSL is minutes; what arrives after seconds is rare and waits for a
/// second direction anyway).
const LINGER_NS: u64 = 10_000_000_000;

impl Daemon {
    /// Takes what clients said first.
    pub(super) fn hear(&mut self, said: &[FirstBytes]) {
        let now_us = Now::read().unix_us;
        for piece in said {
            self.pipeline.hear(piece, now_us);
        }
    }

    /// Finds the control groups whose sockets send video: a unit that was started again has
    /// another one.
    pub(super) fn find_cgroups(&mut self) {
        if let Some(video) = &self.config.video
            && !video.units.is_empty()
        {
            self.pipeline.set_cgroups(cgroups::ids(&video.units));
        }
    }

    /// Takes the state of every QUIC flow, and removes those that were silent for long.
    pub(super) fn sweep_quic(&mut self) -> Result<()> {
        let flows = self.live.quic_flows()?;
        self.pipeline.quic(&flows);
        let now_ns = Now::read().monotonic_ns;
        let idle_ns = u64::from(self.config.flows.idle_s) * 1_000_000_000;
        for flow in &flows {
            if now_ns.saturating_sub(flow.state.last_seen_ns()) >= idle_ns {
                self.live.remove_quic(&flow.key)?;
            }
        }
        Ok(())
    }

    /// Takes reports of the kernel side.
    pub(super) fn take(&mut self, reports: &[Report]) -> Result<()> {
        let now = Now::read();
        let mut records = Vec::new();
        for report in reports {
            match report {
                Report::Flow(state) => {
                    self.tally.reports_received += 1;
                    self.see(state, now, &mut records);
                }
                Report::Chunk(report) => self.pipeline.chunk(&ChunkNews {
                    report: **report,
                    time_us: now.unix_us,
                    read_ns: now.monotonic_ns,
                }),
            }
        }
        self.write(&records)
    }

    /// Takes the state of a flow. Of one that is certainly no video the kernel need tell no more; it
    /// is asked again with the next report where it has no room for that.
    fn see(&mut self, state: &FlowState, now: Now, records: &mut Vec<Record>) {
        let snapshot = self.snapshot(state, now);
        self.pipeline.snapshot(&snapshot, records);
        if !state.is_unwanted()
            && !self.pipeline.is_wanted(&state.key)
            && let Err(error) = self.live.pass_over(&state.key, state.generation)
        {
            tracing::debug!("{error:#}");
        }
    }

    pub(super) fn snapshot(&self, state: &FlowState, now: Now) -> Snapshot {
        // The direction with more bytes is the one a device is named for.
        let [first, second] = &state.halves;
        let data = if first.bytes >= second.bytes {
            first
        } else {
            second
        };
        Snapshot {
            state: *state,
            time_us: now.unix_us,
            read_ns: now.monotonic_ns,
            interface: self.devices.name(data.owner >> 1),
        }
    }

    /// Reads the whole table: flows that went silent never report. What the kernel has pushed
    /// out is closed, what has ended or was silent for long is removed.
    pub(super) fn sweep(&mut self) -> Result<Vec<Record>> {
        let mut states = Vec::new();
        self.live.flows(|state| states.push(*state))?;
        let now = Now::read();
        let mut records = Vec::new();
        for state in &states {
            self.see(state, now, &mut records);
        }
        let present: HashSet<_> = states.iter().map(|state| state.key).collect();
        for key in self.pipeline.keys() {
            if !present.contains(&key) {
                let ended = self.pipeline.ended(&key);
                if ended.is_some() && ended != self.removed.get(&key).copied() {
                    // The kernel took the place of a flow that had ended, and lost nothing.
                    self.tally.flows_removed += 1;
                }
                let reason = CloseReason::Evicted;
                self.pipeline
                    .close_flow(&key, now.unix_us, reason, &mut records);
            }
        }
        self.tally.flows_live = states.len() as u64;
        let under_way = states.iter().filter(|state| !state.is_over()).count();
        self.tally.flows_under_way = under_way as u64;
        self.tally.flows_waiting = self.live.pending()?;
        self.removed.clear();
        let idle_ns = u64::from(self.config.flows.idle_s) * 1_000_000_000;
        for state in &states {
            let silent_ns = now.monotonic_ns.saturating_sub(state.last_seen_ns());
            if silent_ns >= idle_ns || (state.is_over() && silent_ns >= LINGER_NS) {
                self.live.remove(&state.key)?;
                self.removed.insert(state.key, state.generation);
                self.tally.flows_removed += 1;
                self.tally.flows_live -= 1;
            }
        }
        Ok(records)
    }

    /// Admits fewer new flows when there are more than can be measured, and more again after it.
    pub(super) fn admit(&mut self) -> Result<()> {
        let max = u64::from(self.live.max_flows());
        let now_ns = Now::read().monotonic_ns;
        let load = self.tally.load(&self.live.counters()?, now_ns, max);
        let before = self.admissions.one_in();
        if !self.admissions.next(&load) {
            return Ok(());
        }
        let one_in = self.admissions.one_in();
        if one_in != before {
            tracing::warn!(
                "one new flow in {one_in} is measured now: {} got a state and {} reports were lost in \
                 the last {} ms; the table holds {max}",
                load.created,
                load.reports_lost,
                load.elapsed_ns / 1_000_000,
            );
        }
        self.admitted_one_in = self.admitted_one_in.max(one_in);
        self.live.set_admission(Admission {
            halvings: self.admissions.halvings(),
            halvings_before: self.admissions.halvings_before(),
        });
        self.live.set_times(&self.config, self.epoch_offset_ns)
    }
}
