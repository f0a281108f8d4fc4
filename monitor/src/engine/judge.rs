//! From the cells of one window to what the verdicts are made of: every client compared with what
//! is usual, its standing over the last windows, and a vote for every prefix.
//!
//! It knows no flows and no routes, only cells: the daemon's, those of a capture, those that
//! several hosts logged, or simulated ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::ways::Memories;
use super::{Missed, WindowSpan};
use crate::cell::{CellKey, Cells, ClientTotals};
use crate::config::{self, Config};
use crate::flow::baseline::{Figures, Usual};
use crate::flow::own::{Lesson, Own};
use crate::path::Route;
use crate::verdict::degraded::{Comparison, Raw, Signs, benjamini_hochberg};
use crate::verdict::standing::{Judged, Standings, Track};
use crate::verdict::{Client, RiskGroups, Vote, Window};

/// Which prefixes moved to another way.
pub trait Moves {
    /// In this window or shortly before.
    fn moved_lately(&self, prefix: &IpNet, window: u64) -> bool;
    /// Ever, as far as is remembered.
    fn has_moved(&self, prefix: &IpNet) -> bool;
}

/// What is remembered of the windows before.
#[derive(Debug, Default)]
pub struct Judge {
    baselines: BTreeMap<CellKey, Memories>,
    standings: Standings,
}

/// How long a baseline is remembered, in windows.
pub fn span(settings: &config::Baseline) -> u64 {
    u64::from(settings.span_slots) * u64::from(settings.slot_windows)
}

impl Judge {
    /// What was learned of cells that were of use in `since` or later.
    pub fn learned(&self, since: u64) -> Vec<(CellKey, Memories)> {
        self.baselines
            .iter()
            .filter(|(_, memories)| memories.last_window() >= since)
            .map(|(key, memories)| (key.clone(), memories.clone()))
            .collect()
    }

    /// Takes what an earlier run learned.
    pub fn remember(&mut self, learned: Vec<(CellKey, Memories)>) {
        self.baselines.extend(learned);
    }

    /// Compares every client with what is usual for its cell, and learns from the window.
    ///
    /// The same cells, in the same order of windows, always give the same judgement.
    pub fn window(
        &mut self,
        cells: &Cells,
        window: &WindowSpan,
        missed: &Missed,
        moves: &impl Moves,
        settings: &Config,
    ) -> Judgement {
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
        self.standings
            .forget(|key| moves.moved_lately(&key.prefix, window.number));

        let mut compared = Vec::new();
        let mut lessons: BTreeMap<&CellKey, Vec<Lesson>> = BTreeMap::new();
        for (key, cell) in &cells.cells {
            let usual = self.usual(key, cell.route.as_ref(), &settings.baseline);
            let unsure = if cell.rerouted {
                Some(&mut judgement.window.route_changed)
            } else if cell.is_stale() {
                Some(&mut judgement.window.route_stale)
            } else if usual.is_none() && moves.has_moved(&key.prefix) {
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
        self.forget(window.number, span(&settings.baseline));
        judgement.vote(at.min_chunks_per_prefix);
        judgement
    }

    /// What is usual for the clients of a cell on this way, each by itself.
    fn own(&self, key: &CellKey, route: Option<&Arc<Route>>) -> Option<&Own> {
        Some(self.baselines.get(key)?.on(route?)?.own())
    }

    /// What is usual for a cell on this way, where that is known.
    pub fn usual(
        &self,
        key: &CellKey,
        route: Option<&Arc<Route>>,
        settings: &config::Baseline,
    ) -> Option<Usual> {
        self.baselines.get(key)?.on(route?)?.usual(settings)
    }

    /// Drops cells that were not seen for a whole span, so that the memory stays bounded by the
    /// prefixes that are served.
    fn forget(&mut self, window: u64, span: u64) {
        self.baselines
            .retain(|_, memories| memories.forget(window, span));
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
pub struct Judgement {
    pub window: Window,
    pub clients: BTreeMap<CellKey, Vec<Client>>,
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
