//! The pure stages in their order: snapshots in, records out.
//!
//! The daemon and `replay` drive the same [`Pipeline`]; only the clock that they pass differs.

mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use monitor_ebpf::flow::FlowKey;
use ways::{Memories, Ways};

use crate::capture::Snapshot;
use crate::cell::{CellKey, Cells, ClientTotals};
use crate::config::Config;
use crate::export::Record;
use crate::export::record::FlowEvent;
use crate::export::render::Context;
use crate::flow::baseline::{Figures, Usual};
use crate::flow::own::{Lesson, Own};
use crate::flow::{CloseReason, Flow, FlowTable};
use crate::path::followed::{Affected, Entry};
use crate::path::ports::InterconnectPorts;
use crate::path::{Route, Routes, UnitLengths};
use crate::verdict::degraded::{Comparison, Raw, Signs, benjamini_hochberg};
use crate::verdict::standing::{Judged, Standings, Track};
use crate::verdict::{self, Client, LocalCounters, RiskGroups, Vote, Window};

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
    baselines: BTreeMap<CellKey, Memories>,
    standings: Standings,
    ways: Ways,
}

impl Pipeline {
    /// `routes` is the daemon's: it swaps in a new table, flows find it when they begin and
    /// after [`Pipeline::routes_changed`]. `host` is written in every record.
    pub fn new(config: &Config, routes: Arc<ArcSwap<Routes>>, host: &str) -> Self {
        Self {
            config: config.clone(),
            routes,
            host: host.to_owned(),
            flows: FlowTable::new(unit_lengths(config)),
            baselines: BTreeMap::new(),
            standings: Standings::default(),
            ways: Ways::new(unit_lengths(config)),
        }
    }

    /// Takes a new configuration; flows and baselines are kept. Where it has other routes or
    /// units, [`Pipeline::routes_changed`] comes next.
    pub fn reconfigure(&mut self, config: &Config) {
        let lengths = unit_lengths(config);
        if lengths != unit_lengths(&self.config) {
            self.flows.set_lengths(lengths);
            self.ways.set_lengths(lengths);
        }
        self.config = config.clone();
    }

    /// New routes were swapped in at `time_us`. Flows whose clients are reached on another way
    /// now are split there: a `route` record for each prefix of theirs.
    pub fn routes_changed(&mut self, changed: &Affected, time_us: u64, out: &mut Vec<Record>) {
        if changed.is_empty() {
            return;
        }
        let routes = self.routes.load_full();
        let rerouted = self.flows.reroute(changed, &routes);
        let window = WindowSpan::at(time_us, self.config.window.length_s);
        self.ways
            .look_again(changed, &routes, time_us, window.number);
        for these in rerouted {
            out.extend(
                self.ways
                    .reroute(&these, time_us, window.number, &self.host),
            );
        }
    }

    /// From now on keeps what becomes of the prefixes that are served, for
    /// [`Pipeline::take_history`].
    pub fn keep_history(&mut self) {
        self.ways.keep_history();
    }

    /// What became of the prefixes that are served, since the last call.
    pub fn take_history(&mut self) -> Vec<Entry> {
        self.ways.take_history()
    }

    /// Every prefix that is followed, as a history that begins at `time_us` has it.
    pub fn followed(&self, time_us: u64) -> Vec<Entry> {
        self.ways.followed().all(time_us).collect()
    }

    /// How many prefixes are followed, and how many clients were not because there were too many
    /// prefixes.
    pub fn following(&self) -> (u64, u64) {
        let followed = self.ways.followed();
        (followed.len() as u64, followed.refused())
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
            let window = WindowSpan::at(snapshot.time_us, self.config.window.length_s);
            let client = flow.roles.client;
            let way = routes.locate(client);
            self.ways
                .seen(client, way.as_ref(), snapshot.time_us, window.number);
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
        ports: Option<&InterconnectPorts>,
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

        let mut cells = Cells::collect(active);
        let window = WindowSpan::ending(end_us, self.config.window.length_s);
        let (flows, routes) = (&self.flows, self.routes.load_full());
        self.ways.end_of_window(
            &mut cells,
            end_us,
            window.number,
            |client| routes.locate(client),
            |block| flows.has_client_in(block),
        );
        records.extend(self.ways.summaries(end_us, &self.host));
        let judged = self.judge(&cells, &window, missed);
        let context = self.context(end_us);
        for (key, cell) in &cells.cells {
            let clients = judged.clients.get(key).map_or(&[][..], Vec::as_slice);
            let usual = self.usual(key, cell.route.as_ref());
            records.push(context.cell(key, cell, clients, usual.as_ref(), &window));
        }
        for verdict in verdict::decide(&judged.window, local, ports, &self.config.verdict) {
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
                risk_groups: RiskGroups(cells.risk_groups.clone()),
                ..Window::default()
            },
            clients: BTreeMap::new(),
            undecided: BTreeMap::new(),
        };

        // What they were on another way is no measure of what they are on this one.
        let ways = &self.ways;
        self.standings
            .forget(|key| ways.moved_lately(&key.prefix, window.number));

        let mut compared = Vec::new();
        let mut lessons: BTreeMap<&CellKey, Vec<Lesson>> = BTreeMap::new();
        for (key, cell) in &cells.cells {
            let usual = self.usual(key, cell.route.as_ref());
            let unsure = if cell.rerouted {
                Some(&mut judgement.window.route_changed)
            } else if cell.is_stale() {
                Some(&mut judgement.window.route_stale)
            } else if usual.is_none() && self.ways.has_moved(&key.prefix) {
                Some(&mut judgement.window.route_changed)
            } else {
                None
            };
            let learns = !cell.rerouted && !cell.is_stale();
            if let Some(count) = unsure {
                *count += cell.clients.len() as u64;
                let undecided = judgement.undecided.entry(key.clone()).or_default();
                for (address, client) in &cell.clients {
                    let track = Track::unsettled(window.number);
                    undecided.push(judged_client(
                        *address,
                        client,
                        Comparison::default(),
                        Signs::default(),
                        track,
                        window,
                    ));
                    if learns {
                        let figures = Figures::of(client, at.min_rtt_samples, at.min_segments);
                        let lesson = Lesson::unjudged(*address, figures);
                        lessons.entry(key).or_default().push(lesson);
                    }
                }
                continue;
            }
            let own = self.own(key, cell.route.as_ref());
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
            judgement
                .clients
                .entry((*key).clone())
                .or_default()
                .push(judged_client(
                    *address,
                    totals,
                    *comparison,
                    *signs,
                    *track,
                    window,
                ));
        }
        for (key, lessons) in lessons {
            let Some(route) = cells.cells.get(key).and_then(|cell| cell.route.as_ref()) else {
                continue;
            };
            // A window in which anything looked worse than usual teaches nothing.
            let learn = !unfit.contains(key);
            let memories = self.baselines.entry(key.clone()).or_default();
            memories.of(route, window.number).note(
                window.number,
                &lessons,
                learn,
                &settings.baseline,
            );
        }
        self.forget(window.number);
        judgement.vote(at.min_chunks_per_prefix);
        judgement
    }

    /// What is usual for the clients of a cell on this way, each by itself.
    fn own(&self, key: &CellKey, route: Option<&Arc<Route>>) -> Option<&Own> {
        Some(self.baselines.get(key)?.on(route?)?.own())
    }

    /// What is usual for a cell on this way, where that is known.
    fn usual(&self, key: &CellKey, route: Option<&Arc<Route>>) -> Option<Usual> {
        self.baselines
            .get(key)?
            .on(route?)?
            .usual(&self.config.baseline)
    }

    /// Drops cells that were not seen for a whole span, so that the memory stays bounded by the
    /// prefixes that are served.
    fn forget(&mut self, window: u64) {
        let settings = &self.config.baseline;
        let span = u64::from(settings.span_slots) * u64::from(settings.slot_windows);
        self.baselines
            .retain(|_, memories| memories.forget(window, span));
        self.ways.forget_moves(window, span);
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
            .and_then(|location| self.usual(&location.into(), Some(&location.route)));
        self.context(time_us)
            .flow(flow, event, reason, usual.as_ref())
    }
}

fn unit_lengths(config: &Config) -> UnitLengths {
    UnitLengths {
        v4: config.path.unit_length_v4,
        v6: config.path.unit_length_v6,
    }
}

fn judged_client(
    address: IpAddr,
    totals: &ClientTotals,
    comparison: Comparison,
    signs: Signs,
    track: Track,
    window: &WindowSpan,
) -> Client {
    let to_client = &totals.to_client;
    let busy_share =
        to_client.busy_us as f64 / (window.length_us() * totals.observations.max(1)) as f64;
    Client {
        address,
        track,
        signs,
        comparison,
        chunks: to_client.chunks(),
        observations: totals.observations,
        rwnd_limited_share: to_client.rwnd_limited_segments as f64
            / to_client.segments.max(1) as f64,
        idle_share: (1.0 - busy_share).clamp(0.0, 1.0),
    }
}

/// The clients of one window, compared, and their votes.
struct Judgement {
    window: Window,
    clients: BTreeMap<CellKey, Vec<Client>>,
    /// Clients that were not compared, because their way changed or is not known for sure. They
    /// are no witnesses, but they are there: what is left is not all there is.
    undecided: BTreeMap<CellKey, Vec<Client>>,
}

impl Judgement {
    /// A vote for every prefix with at least `min_chunks`; thinner ones are pooled by
    /// interconnect and ISP, and what is thin even then has none.
    fn vote(&mut self, min_chunks: u32) {
        let enough = |clients: &[Client]| {
            clients.iter().map(|client| client.chunks).sum::<u64>() >= u64::from(min_chunks)
        };
        let mut pools: BTreeMap<(&str, &str, bool), Vote> = BTreeMap::new();
        for (key, clients) in self.clients.iter().chain(&self.undecided) {
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
        let voting = self.window.votes.iter().flat_map(|vote| &vote.clients);
        self.window.undecided = voting
            .filter(|client| !client.comparison.is_comparable())
            .count() as u64;
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
        Self::at(end_us.saturating_sub(1), length_s)
    }

    /// The window that `time_us` is in.
    fn at(time_us: u64, length_s: u32) -> Self {
        let length_us = u64::from(length_s) * 1_000_000;
        let number = time_us / length_us.max(1);
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
