//! The pure stages in their order: snapshots in, records out.
//!
//! The daemon and `replay` drive the same [`Pipeline`]; only the clock that they pass differs.

pub mod judge;
pub mod quic;
pub mod verdicts;
pub mod video;
mod ways;

pub use ways::Memories;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use monitor_ebpf::flow::FlowKey;
use quic::{QuicCell, QuicFlows, QuicWindow};
use serde::{Deserialize, Serialize};
use verdicts::{Beside, Conclusions, Engine};
use video::{Counted, VideoFlows};
use ways::Ways;

use crate::capture::{ChunkNews, FirstBytes, QuicSnapshot, Snapshot};
use crate::cell::{Cell, CellKey, Cells};
use crate::config::Config;
use crate::evidence::Unkept;
use crate::export::Record;
use crate::export::record::FlowEvent;
use crate::export::render::Context;
use crate::flow::chunk::Ladder;
use crate::flow::session::{Ended, Sessions};
use crate::flow::transition::SixRd;
use crate::flow::{CloseReason, Flow, FlowTable, Secret};
use crate::path::followed::{Affected, Entry};
use crate::path::ports::InterconnectPorts;
use crate::path::{Routes, UnitLengths};
use crate::recognise::services::Services;
use crate::verdict::LocalCounters;
use crate::verdict::coverage::Coverage;
use crate::verdict::playback::{CellSaid, Said};

/// What was not seen in one window. Differences, not totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Missed {
    pub reports_received: u64,
    pub reports_lost: u64,
    pub flows_evicted: u64,
    pub flows_refused: u64,
    pub packets_unparsed: u64,
    pub chunks_lost: u64,
    /// Flows that waited for a state and were pushed out.
    pub flows_waiting_evicted: u64,
    /// Lines that are not in the log.
    pub log_lines_dropped: u64,
    /// One new flow in this many was admitted, at the least; 0 or 1: all. What is in the sample
    /// is unbiased, so that this is no part of the share.
    pub admitted_one_in: u32,
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
    sessions: Sessions,
    ladder: Ladder,
    engine: Engine,
    ways: Ways,
    video: VideoFlows,
    quic: QuicFlows,
    /// What QUIC did since the last window.
    quic_window: QuicWindow,
    /// Whether what verdicts are made of is kept, and what has not been taken yet.
    evidence: Option<Vec<Unkept>>,
}

impl Pipeline {
    /// `routes` is the daemon's: it swaps in a new table, flows find it when they begin and
    /// after [`Pipeline::routes_changed`]. `host` is written in every record.
    pub fn new(config: &Config, routes: Arc<ArcSwap<Routes>>, host: &str) -> Self {
        let ladder = config.chunks.ladder();
        let mut flows = FlowTable::new(unit_lengths(config));
        flows.set_ladder(Arc::clone(&ladder));
        let mut sessions = Sessions::default();
        sessions.set_six_rd(six_rd(config));
        Self {
            config: config.clone(),
            routes,
            host: host.to_owned(),
            flows,
            sessions,
            ladder,
            engine: Engine::default(),
            ways: Ways::new(unit_lengths(config)),
            video: VideoFlows::new(config),
            quic: QuicFlows::default(),
            quic_window: QuicWindow::default(),
            evidence: None,
        }
    }

    /// From now on keeps what verdicts are made of, for [`Pipeline::take_evidence`].
    pub fn keep_evidence(&mut self) {
        self.evidence.get_or_insert_default();
    }

    /// What the verdicts since the last call were made of.
    pub fn take_evidence(&mut self) -> Vec<Unkept> {
        self.evidence
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Takes a new configuration; flows and baselines are kept. Where it has other routes or
    /// units, [`Pipeline::routes_changed`] comes next.
    pub fn reconfigure(&mut self, config: &Config) {
        let lengths = unit_lengths(config);
        if lengths != unit_lengths(&self.config) {
            self.flows.set_lengths(lengths);
            self.ways.set_lengths(lengths);
        }
        self.ladder = config.chunks.ladder();
        self.flows.set_ladder(Arc::clone(&self.ladder));
        self.video.reconfigure(config);
        self.sessions.set_six_rd(six_rd(config));
        self.config = config.clone();
    }

    /// Replaces the list of video services.
    pub fn set_services(&mut self, services: Services) {
        self.video.set_services(services);
    }

    /// Replaces the control groups whose sockets send video.
    pub fn set_cgroups(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.video.set_cgroups(ids);
    }

    /// Takes a piece of what a client sent first, at `time_us`.
    pub fn hear(&mut self, said: &FirstBytes, time_us: u64) {
        let window = WindowSpan::at(time_us, self.config.window.length_s);
        self.video.hear(said, window.number);
    }

    /// What was heard so far.
    pub fn heard(&self) -> Counted {
        self.video.counted()
    }

    /// Takes the state of every QUIC flow, shortly before the window ends.
    pub fn quic(&mut self, flows: &[QuicSnapshot]) {
        let routes = self.routes.load();
        self.quic_window = self
            .quic
            .window(flows, &self.video, |client| routes.locate(client));
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

    /// The generation of this flow, if it is known to have ended and no other one has taken its
    /// place.
    pub fn ended(&self, key: &FlowKey) -> Option<u64> {
        let flow = self.flows.get(key).filter(|flow| flow.is_over())?;
        if flow.state().is_replaced() {
            return None;
        }
        Some(flow.state().generation)
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
        let mut change = self.flows.update(snapshot, self.idle_us(), ports, &routes);
        if let Some(closed) = &mut change.replaced {
            join(&self.video, &mut self.sessions, &mut closed.flow);
            self.close(&closed.flow, closed.reason, snapshot.time_us, out);
        }
        let window = WindowSpan::at(snapshot.time_us, self.config.window.length_s);
        self.open(
            &snapshot.state.key,
            change.opened,
            window.number,
            snapshot.time_us,
            out,
        );
        if change.opened
            && let Some(flow) = self.flows.get(&snapshot.state.key)
        {
            let client = flow.roles.client;
            let way = routes.locate(client);
            self.ways
                .seen(client, way.as_ref(), snapshot.time_us, window.number);
        }
    }

    /// Whether more of a flow may be of use: not, where it is certainly no video and only video is
    /// reported.
    pub fn is_wanted(&self, key: &FlowKey) -> bool {
        let flow = self.config.video.as_ref().and_then(|_| self.flows.get(key));
        flow.is_none_or(|flow| self.video.may_be_reported(flow))
    }

    /// Writes the `open` of a flow as soon as it is one of those that are reported. `began`: this
    /// is its first report, or the first since it was closed.
    fn open(
        &mut self,
        key: &FlowKey,
        began: bool,
        window: u64,
        time_us: u64,
        out: &mut Vec<Record>,
    ) {
        // Without rules every flow is reported from its beginning.
        if !began && self.config.video.is_none() {
            return;
        }
        let Some(flow) = self.flows.get(key) else {
            return;
        };
        if !began && self.video.is_open(flow) {
            return;
        }
        let class = self.video.class(flow);
        if self.video.reports(flow, &class) && self.video.open(flow, &class, window) {
            out.push(self.flow_record(flow, FlowEvent::Open, None, time_us));
        }
    }

    /// Writes the `close` of a flow whose `open` was written, or that turns out now to be one of
    /// those that are reported.
    fn close(&mut self, flow: &Flow, reason: CloseReason, time_us: u64, out: &mut Vec<Record>) {
        let is_open = self.video.is_open(flow);
        if is_open || self.video.reports(flow, &self.video.class(flow)) {
            if !is_open {
                out.push(self.flow_record(flow, FlowEvent::Open, None, time_us));
            }
            out.push(self.flow_record(flow, FlowEvent::Close, Some(reason), time_us));
            self.video.close(flow);
        }
    }

    /// Takes a chunk that is over.
    pub fn chunk(&mut self, news: &ChunkNews) {
        self.flows.chunk(news);
    }

    /// Chunks in no figure: of flows that never reported, or of too many at once; and flows in no
    /// session, because there were too many.
    pub fn chunks_missed(&self) -> (u64, u64) {
        (self.flows.chunks_dropped(), self.sessions.refused())
    }

    /// What was learned of cells that were of use in window `since` or later.
    pub fn learned(&self, since: u64) -> Vec<(CellKey, Memories)> {
        self.engine.judge.learned(since)
    }

    /// Takes what an earlier run learned. What it learned on another way is of no use for this
    /// one (see [`Memories`]).
    pub fn remember(&mut self, learned: Vec<(CellKey, Memories)>) {
        self.engine.judge.remember(learned);
    }

    /// Ids of flows are made with this secret.
    pub fn set_secret(&mut self, secret: Secret) {
        self.flows.set_secret(secret);
    }

    /// Takes a flow of which an earlier run told (see [`FlowTable::adopt`]).
    pub fn adopt(&mut self, snapshot: &Snapshot, observed: bool, is_closed: bool) {
        let routes = self.routes.load();
        let ports = &self.config.watch.ports;
        self.flows
            .adopt(snapshot, observed, is_closed, ports, &routes);
        if let Some(flow) = self.flows.get(&snapshot.state.key) {
            let client = flow.roles.client;
            let window = WindowSpan::at(snapshot.time_us, self.config.window.length_s);
            let way = routes.locate(client);
            self.ways
                .seen(client, way.as_ref(), snapshot.time_us, window.number);
        }
    }

    /// The sessions that are not over, as they are at `time_us`.
    pub fn current_sessions(&mut self, time_us: u64) -> Vec<Record> {
        self.join_all();
        let context = self.context(time_us);
        let current = self.sessions.current().into_iter();
        current
            .map(|session| context.session(session, None))
            .collect()
    }

    fn join_all(&mut self) {
        for flow in self.flows.all_mut() {
            join(&self.video, &mut self.sessions, flow);
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
        if let Some(mut closed) = self.flows.remove(key, reason) {
            join(&self.video, &mut self.sessions, &mut closed.flow);
            self.close(&closed.flow, closed.reason, time_us, out);
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
        let video = &self.video;
        let active = self
            .flows
            .take_observations(|flow| video.reports(flow, &video.class(flow)));
        let mut records = Vec::new();
        for closed in self.flows.close_finished(end_us, self.idle_us()) {
            self.close(&closed.flow, closed.reason, end_us, &mut records);
        }
        records.extend(
            self.flows
                .iter()
                .filter(|flow| flow.was_active() && self.video.is_open(flow))
                .map(|flow| self.flow_record(flow, FlowEvent::Update, None, end_us)),
        );

        self.flows.forget_listed();
        self.join_all();
        let mut cells = Cells::collect(active);
        let window = WindowSpan::ending(end_us, self.config.window.length_s);
        let quic = std::mem::take(&mut self.quic_window);
        let (flows, routes) = (&self.flows, self.routes.load_full());
        self.ways.end_of_window(
            &mut cells,
            end_us,
            window.number,
            |client| routes.locate(client),
            |block| flows.has_client_in(block),
        );
        records.extend(self.ways.summaries(end_us, &self.host));
        let (quic_only, none) = (Cell::default(), QuicCell::default());
        let only_quic = quic
            .cells
            .keys()
            .filter(|key| !cells.cells.contains_key(key));
        let all = cells
            .cells
            .iter()
            .chain(only_quic.map(|key| (key, &quic_only)));
        let all: Vec<_> = all
            .map(|(key, cell)| (key, cell, quic.cells.get(key).unwrap_or(&none)))
            .collect();
        let mut coverage = Coverage::default();
        for (key, cell, quic) in &all {
            coverage.add(key, cell.totals().estimate.bytes, quic.bytes);
        }
        let beside = Beside {
            missed,
            local,
            ports,
            coverage: &coverage,
        };
        let concluded = self
            .engine
            .window(&cells, &window, &beside, &self.ways, &self.config);
        self.ways
            .forget_moves(window.number, judge::span(&self.config.baseline));
        let context = self.context(end_us);
        for (key, cell, quic) in all {
            let clients = concluded.judgement.clients.get(key);
            let clients = clients.map_or(&[][..], |clients| &**clients);
            let settings = &self.config.baseline;
            let usual = self.engine.judge.usual(key, cell.route.as_ref(), settings);
            records.push(context.cell(key, cell, quic, clients, usual.as_ref(), &window));
        }
        let ids: Vec<String> = (0..concluded.verdicts.len())
            .map(|number| context.verdict_id(number, &window))
            .collect();
        let said: Vec<Record> = concluded.records(&context, &window, &beside).collect();
        let unkept = self.evidence.is_some().then(|| {
            let config = &self.config;
            Unkept::of(&concluded, &said, &window, &beside, &context, config)
        });
        records.extend(said);
        if let (Some(kept), Some(Some(unkept))) = (&mut self.evidence, unkept) {
            kept.push(unkept);
        }
        tell_sessions(&mut self.sessions, &concluded, &ids, &window);
        let over = self.sessions.take_idle(end_us, self.idle_us());
        let context = self.context(end_us);
        records.extend(over.iter().map(|of| context.session(of, Some(Ended::Idle))));
        let (flows, quic) = (&self.flows, &self.quic);
        self.video.forget(window.number, |key, generation| {
            let known = flows.get(key);
            known.is_some_and(|flow| flow.state().generation == generation)
                || quic.is_known(key, generation)
        });
        records
    }

    /// The end: an `update` of every flow, or its `close` where there is a reason that ends it.
    pub fn finish(&mut self, time_us: u64, reason: Option<CloseReason>) -> Vec<Record> {
        let event = match reason {
            Some(_) => FlowEvent::Close,
            None => FlowEvent::Update,
        };
        self.flows.end_chunks();
        let mut records: Vec<Record> = self
            .flows
            .iter()
            .filter(|flow| self.video.is_open(flow))
            .map(|flow| {
                let reason = reason.map(|reason| flow.ending().unwrap_or(reason));
                self.flow_record(flow, event, reason, time_us)
            })
            .collect();
        self.flows.forget_listed();
        self.join_all();
        let sessions = self.sessions.take_all();
        let context = self.context(time_us);
        records.extend(
            sessions
                .iter()
                .map(|session| context.session(session, Some(Ended::Shutdown))),
        );
        records.extend(self.engine.open_incidents(&self.context(time_us)));
        if reason.is_some() {
            self.flows = FlowTable::default();
        }
        records
    }

    fn idle_us(&self) -> u64 {
        u64::from(self.config.flows.idle_s) * 1_000_000
    }

    fn context(&self, time_us: u64) -> Context<'_> {
        Context {
            host: &self.host,
            time_us,
            full_client_addresses: self.config.log.full_client_addresses,
            ladder: &self.ladder,
            secret: self.flows.secret(),
        }
    }

    fn flow_record(
        &self,
        flow: &Flow,
        event: FlowEvent,
        reason: Option<CloseReason>,
        time_us: u64,
    ) -> Record {
        let usual = flow.location.as_ref().and_then(|location| {
            let settings = &self.config.baseline;
            let judge = &self.engine.judge;
            judge.usual(&location.into(), Some(&location.route), settings)
        });
        let class = self.video.class(flow);
        self.context(time_us)
            .flow(flow, &class, event, reason, usual.as_ref())
    }
}

/// Adds what a flow did since the last time to the session that it belongs to, where it is one of
/// those that are reported.
fn join(video: &VideoFlows, sessions: &mut Sessions, flow: &mut Flow) {
    let class = video.class(flow);
    if video.reports(flow, &class) {
        sessions.take(flow, class.service.as_deref());
    }
}

/// Tells every session that did something in the window what was said of its client. Verdicts
/// come with their ids.
fn tell_sessions(
    sessions: &mut Sessions,
    concluded: &Conclusions,
    ids: &[String],
    window: &WindowSpan,
) {
    let mut cells: HashMap<CellKey, CellSaid<'_>> = HashMap::new();
    for (session, alone) in sessions.active_mut(window.start_us) {
        let said = session.location.as_ref().map_or(Said::Nothing, |location| {
            let cell = cells.entry(location.into());
            let cell = cell.or_insert_with_key(|key| concluded.said(key));
            cell.of(session.client)
        });
        // What its client's figures say may be another session's doing, or not all of its own.
        let said = match said {
            Said::Bad { verdict, .. } if !alone => Said::Bad {
                verdict,
                beyond: None,
            },
            said => said,
        };
        session.playback.add(said, &concluded.verdicts, ids);
    }
}

fn six_rd(config: &Config) -> &[SixRd] {
    let video = config.video.as_ref();
    video.map_or(&[], |video| &video.six_rd)
}

fn unit_lengths(config: &Config) -> UnitLengths {
    UnitLengths {
        v4: config.path.unit_length_v4,
        v6: config.path.unit_length_v6,
    }
}

/// A window by its number since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSpan {
    pub number: u64,
    pub start_us: u64,
    pub length_s: u32,
}

impl WindowSpan {
    /// The window that ends at or shortly before `end_us`; one that was cut short, at the start
    /// or the end of the daemon, is the one that `end_us` is in.
    pub fn ending(end_us: u64, length_s: u32) -> Self {
        Self::at(end_us.saturating_sub(1), length_s)
    }

    /// The window that `time_us` is in.
    pub fn at(time_us: u64, length_s: u32) -> Self {
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
pub mod tests;
