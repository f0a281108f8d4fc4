//! The pure stages in their order: snapshots in, records out.
//!
//! The daemon and `replay` drive the same [`Pipeline`]; only the clock that they pass differs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use monitor_ebpf::flow::FlowKey;

use crate::capture::Snapshot;
use crate::cell::{CellKey, Cells};
use crate::config::Config;
use crate::export::Record;
use crate::export::record::FlowEvent;
use crate::export::render::Context;
use crate::flow::baseline::{Baseline, Figures, Usual};
use crate::flow::own::Lesson;
use crate::flow::{CloseReason, Flow, FlowTable};
use crate::path::Routes;
use crate::verdict::degraded::{Comparison, Raw, benjamini_hochberg};
use crate::verdict::standing::{Judged, Standings};
use crate::verdict::{self, Client, LocalCounters, Vote, Window};

/// What was not seen in one window. Differences, not totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    pub reports_received: u64,
    pub reports_lost: u64,
    pub flows_evicted: u64,
    pub flows_refused: u64,
    pub packets_unparsed: u64,
}

impl Missed {
    /// Reports that were lost, as a share of all. A refused flow never reports at all, and one
    /// that was evicted begins anew, with its losses taken for new data.
    fn share(&self) -> f64 {
        let lost = self.reports_lost + self.flows_refused + self.flows_evicted;
        lost as f64 / (lost + self.reports_received).max(1) as f64
    }
}

/// From snapshots to records.
#[derive(Debug)]
pub struct Pipeline {
    config: Config,
    routes: Arc<ArcSwap<Routes>>,
    host: String,
    flows: FlowTable,
    baselines: BTreeMap<CellKey, Memory>,
    standings: Standings,
}

/// A cell's baseline, and when it was last of use.
#[derive(Debug, Default)]
struct Memory {
    baseline: Baseline,
    window: u64,
}

impl Pipeline {
    /// `routes` is the daemon's: it swaps in a new table, flows find it when they begin and
    /// after [`Pipeline::relocate`]. `host` is written in every record.
    pub fn new(config: &Config, routes: Arc<ArcSwap<Routes>>, host: &str) -> Self {
        Self {
            config: config.clone(),
            routes,
            host: host.to_owned(),
            flows: FlowTable::default(),
            baselines: BTreeMap::new(),
            standings: Standings::default(),
        }
    }

    /// Takes a new configuration; flows and baselines are kept.
    pub fn reconfigure(&mut self, config: &Config) {
        self.config = config.clone();
    }

    /// Finds every flow's route again, after a new prefix table was swapped in.
    pub fn relocate(&mut self) {
        self.flows.relocate(&self.routes.load());
    }

    /// How many flows are watched.
    pub fn flows(&self) -> usize {
        self.flows.iter().count()
    }

    /// The 5-tuples of all flows that are remembered, those that were closed included: they are
    /// forgotten when the kernel has forgotten them.
    pub fn keys(&self) -> Vec<FlowKey> {
        self.flows.keys().copied().collect()
    }

    /// Takes one report. A flow's first one makes an `open` record; a report of a new flow with
    /// the ports of an older one closes that.
    pub fn snapshot(&mut self, snapshot: &Snapshot, out: &mut Vec<Record>) {
        let routes = self.routes.load();
        let ports = &self.config.watch.ports;
        let change = self.flows.update(snapshot, self.idle_us(), ports, &routes);
        if let Some(closed) = &change.replaced {
            let (event, reason) = (FlowEvent::Close, Some(closed.reason));
            out.push(self.flow_record(&closed.flow, event, reason, snapshot.time_us));
        }
        if change.opened
            && let Some(flow) = self.flows.get(&snapshot.state.key)
        {
            out.push(self.flow_record(flow, FlowEvent::Open, None, snapshot.time_us));
        }
    }

    /// The kernel forgot the flow, or will not report it any more. What its packets said about
    /// its end goes before `reason`.
    pub fn close_flow(
        &mut self,
        key: &FlowKey,
        time_us: u64,
        reason: CloseReason,
        out: &mut Vec<Record>,
    ) {
        if let Some(closed) = self.flows.remove(key, reason) {
            out.push(self.flow_record(
                &closed.flow,
                FlowEvent::Close,
                Some(closed.reason),
                time_us,
            ));
        }
    }

    /// Judges the window that ends at `end_us`: an `update` or `close` of every flow that did
    /// something, the cells, the verdicts. Call it when every flow has reported, a silent one by
    /// the sweep.
    pub fn end_of_window(
        &mut self,
        end_us: u64,
        local: Option<&LocalCounters>,
        missed: &Missed,
    ) -> Vec<Record> {
        let active = self.flows.take_observations();
        let finished = self.flows.close_finished(end_us, self.idle_us());
        let mut records: Vec<Record> = finished
            .iter()
            .map(|closed| {
                self.flow_record(&closed.flow, FlowEvent::Close, Some(closed.reason), end_us)
            })
            .collect();
        records.extend(
            self.flows
                .iter()
                .filter(|flow| flow.was_active())
                .map(|flow| self.flow_record(flow, FlowEvent::Update, None, end_us)),
        );

        let cells = Cells::collect(active);
        let window = WindowSpan::ending(end_us, self.config.window.length_s);
        let judged = self.judge(&cells, &window, missed);
        let context = self.context(end_us);
        for (key, cell) in &cells.cells {
            let clients = judged.clients.get(key).map_or(&[][..], Vec::as_slice);
            records.push(context.cell(key, cell, clients, self.usual(key).as_ref(), &window));
        }
        for verdict in verdict::decide(&judged.window, local, &self.config.verdict) {
            records.push(context.verdict(&verdict, &judged.window, missed, &window));
        }
        records
    }

    /// The end: an `update` of every flow, or its `close` where there is a reason that ends it.
    pub fn finish(&mut self, time_us: u64, reason: Option<CloseReason>) -> Vec<Record> {
        let event = match reason {
            Some(_) => FlowEvent::Close,
            None => FlowEvent::Update,
        };
        let records = self
            .flows
            .iter()
            .map(|flow| {
                let reason = reason.map(|reason| flow.ending().unwrap_or(reason));
                self.flow_record(flow, event, reason, time_us)
            })
            .collect();
        if reason.is_some() {
            self.flows = FlowTable::default();
        }
        records
    }

    /// Compares every client with what is usual for its cell, and learns from the window.
    fn judge(&mut self, cells: &Cells, window: &WindowSpan, missed: &Missed) -> Judgement {
        let settings = self.config.clone();
        let at = &settings.verdict;
        let mut judgement = Judgement {
            window: Window {
                observations: cells.observations,
                unrouted: cells.unrouted,
                missed_share: missed.share(),
                ..Window::default()
            },
            clients: BTreeMap::new(),
        };

        let mut compared = Vec::new();
        let mut lessons: BTreeMap<&CellKey, Vec<Lesson>> = BTreeMap::new();
        for (key, cell) in &cells.cells {
            let usual = self.usual(key);
            let own = self.baselines.get(key).map(|memory| memory.baseline.own());
            let lessons = lessons.entry(key).or_default();
            for (address, client) in &cell.clients {
                let figures = Figures::of(client, at.min_rtt_samples, at.min_segments);
                lessons.push(Lesson::unjudged(*address, figures));
                let (Some(usual), Some(own)) = (&usual, own) else {
                    judgement.window.without_baseline += 1;
                    continue;
                };
                let usual = own.usual(*address, usual);
                let comparison = Comparison::new(&figures, &client.to_client, &usual, at);
                if comparison.is_comparable() {
                    compared.push((key, *address, client, comparison));
                } else {
                    judgement.window.thin += 1;
                }
            }
        }
        let chances: Vec<f64> = compared.iter().map(|(.., of)| of.chance()).collect();
        let limit = benjamini_hochberg(&chances, at.false_discovery_share);
        let raws: Vec<_> = compared.iter().map(|(.., of)| of.judge(limit)).collect();
        let judged: Vec<Judged<'_>> = compared
            .iter()
            .zip(&raws)
            .map(|((cell, address, ..), (raw, _))| Judged {
                cell,
                address: *address,
                raw: *raw,
            })
            .collect();
        let tracks = self.standings.advance(&judged, window.number);

        let mut unfit: BTreeSet<&CellKey> = BTreeSet::new();
        for (((key, address, totals, comparison), (raw, signs)), track) in
            compared.iter().zip(&raws).zip(&tracks)
        {
            if *raw != Raw::Good {
                unfit.insert(key);
            }
            let lesson = lessons
                .get_mut(key)
                .and_then(|lessons| lessons.iter_mut().find(|lesson| lesson.address == *address));
            if let Some(lesson) = lesson {
                lesson.rtt_excess = comparison.rtt.map(|sign| sign.excess / sign.threshold);
                lesson.good = *raw == Raw::Good;
                lesson.bad = matches!(raw, Raw::Bad | Raw::RateOnly);
            }
            let to_client = &totals.to_client;
            let busy_share =
                to_client.busy_us as f64 / (window.length_us() * totals.observations.max(1)) as f64;
            judgement
                .clients
                .entry((*key).clone())
                .or_default()
                .push(Client {
                    address: *address,
                    track: *track,
                    signs: *signs,
                    comparison: *comparison,
                    chunks: to_client.chunks(),
                    observations: totals.observations,
                    rwnd_limited_share: to_client.rwnd_limited_segments as f64
                        / to_client.segments.max(1) as f64,
                    idle_share: (1.0 - busy_share).clamp(0.0, 1.0),
                });
        }
        for (key, lessons) in lessons {
            let memory = self.baselines.entry(key.clone()).or_default();
            // A window in which anything looked worse than usual teaches nothing.
            let learn = !unfit.contains(key);
            memory.window = window.number;
            memory
                .baseline
                .note(window.number, &lessons, learn, &settings.baseline);
        }
        self.forget(window.number);
        judgement.vote(at.min_chunks_per_prefix);
        judgement
    }

    /// What is usual for a cell, where that is known.
    fn usual(&self, key: &CellKey) -> Option<Usual> {
        self.baselines
            .get(key)?
            .baseline
            .usual(&self.config.baseline)
    }

    /// Drops cells that were not seen for a whole span, so that the memory stays bounded by the
    /// prefixes that are served.
    fn forget(&mut self, window: u64) {
        let settings = &self.config.baseline;
        let span = u64::from(settings.span_slots) * u64::from(settings.slot_windows);
        self.baselines
            .retain(|_, memory| window.saturating_sub(memory.window) <= span);
    }

    fn idle_us(&self) -> u64 {
        u64::from(self.config.flows.idle_s) * 1_000_000
    }

    fn context(&self, time_us: u64) -> Context<'_> {
        Context {
            host: &self.host,
            time_us,
            full_client_addresses: self.config.log.full_client_addresses,
        }
    }

    fn flow_record(
        &self,
        flow: &Flow,
        event: FlowEvent,
        reason: Option<CloseReason>,
        time_us: u64,
    ) -> Record {
        let usual = flow
            .location
            .as_ref()
            .and_then(|location| self.usual(&location.into()));
        self.context(time_us)
            .flow(flow, event, reason, usual.as_ref())
    }
}

/// The clients of one window, compared, and their votes.
struct Judgement {
    window: Window,
    clients: BTreeMap<CellKey, Vec<Client>>,
}

impl Judgement {
    /// A vote for every prefix with at least `min_chunks`; thinner ones are pooled by
    /// interconnect and ISP, and what is thin even then has none.
    fn vote(&mut self, min_chunks: u32) {
        let enough = |clients: &[Client]| {
            clients.iter().map(|client| client.chunks).sum::<u64>() >= u64::from(min_chunks)
        };
        let mut pools: BTreeMap<(&str, &str, bool), Vote> = BTreeMap::new();
        for (key, clients) in &self.clients {
            let vote = Vote {
                cell: key.clone(),
                pooled: false,
                clients: clients.clone(),
            };
            if enough(clients) {
                self.window.votes.push(vote);
                continue;
            }
            pools
                .entry((&key.interconnect, &key.isp, key.direct))
                .and_modify(|pool| {
                    pool.pooled = true;
                    pool.clients.extend(clients.iter().cloned());
                })
                .or_insert(vote);
        }
        for pool in pools.into_values() {
            if enough(&pool.clients) {
                self.window.votes.push(pool);
            } else {
                self.window.thin += pool.clients.len() as u64;
            }
        }
    }
}

/// A window by its number since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSpan {
    pub number: u64,
    pub start_us: u64,
    pub length_s: u32,
}

impl WindowSpan {
    /// The window that ends at or shortly before `end_us`; one that was cut short, at the start
    /// or the end of the daemon, is the one that `end_us` is in.
    fn ending(end_us: u64, length_s: u32) -> Self {
        let length_us = u64::from(length_s) * 1_000_000;
        let number = end_us.saturating_sub(1) / length_us.max(1);
        Self {
            number,
            start_us: number * length_us,
            length_s,
        }
    }

    fn length_us(&self) -> u64 {
        u64::from(self.length_s) * 1_000_000
    }
}

#[cfg(test)]
mod tests;
