//! From the cells of one window to what the verdicts are made of: every client compared with what
//! is usual, its standing over the last windows, and a vote for every prefix.
//!
//! It knows no flows and no routes, only cells: the daemon's, those of a capture, those that
//! several hosts logged, or simulated ones.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::ways::Memories;
use super::{Missed, WindowSpan};
use crate::cell::{CellKey, Cells, ClientTotals};
use crate::config::{self, Config};
use crate::flow::baseline::{Baseline, Figures, Usual};
use crate::flow::own::Lesson;
use crate::path::Route;
use crate::verdict::degraded::{Comparison, Raw, Signs, benjamini_hochberg};
use crate::verdict::standing::{Judged, Standings, Track};
use crate::verdict::{Client, RiskGroups, Vote, Window};

/// A download has no chunks: so much of it counts as one. Hardly any chunk of a video is larger, so
/// that of video the chunks count.
const DOWNLOAD_CHUNK_BYTES: u64 = 4 << 20;

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

        let of_all = cells.cells.values().map(|cell| cell.clients.len());
        let mut compared = Vec::with_capacity(of_all.sum());
        let mut lessons: Vec<Taught<'_>> = Vec::with_capacity(cells.cells.len());
        // Both are in the order of the cells.
        let mut known = self.baselines.iter().peekable();
        for (key, cell) in &cells.cells {
            while known.next_if(|(other, _)| *other < key).is_some() {}
            let memories = known.next_if(|(other, _)| *other == key);
            let baseline = memories
                .zip(cell.route.as_ref())
                .and_then(|((_, memories), route)| memories.on(route));
            let usual = baseline.and_then(|it| it.usual(&settings.baseline));
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
                let mut taught = Vec::new();
                for (address, client) in &cell.clients {
                    let track = Track::unsettled(window.number);
                    undecided.push(judged_client(
                        key,
                        *address,
                        client,
                        Comparison::default(),
                        Signs::default(),
                        track,
                        window,
                    ));
                    if learns {
                        let figures = Figures::of(client, at.min_rtt_samples, at.min_segments);
                        taught.push(Lesson::unjudged(*address, figures));
                    }
                }
                if learns {
                    lessons.push(Taught::new(key, taught));
                }
                continue;
            }
            let own = baseline.map(Baseline::own);
            let mut taught = Vec::with_capacity(cell.clients.len());
            for (address, client) in &cell.clients {
                let figures = Figures::of(client, at.min_rtt_samples, at.min_segments);
                taught.push(Lesson::unjudged(*address, figures));
                let (Some(usual), Some(own)) = (&usual, own) else {
                    judgement.window.without_baseline += 1;
                    continue;
                };
                let usual = own.usual(*address, usual);
                let comparison = Comparison::new(&figures, &client.to_client, &usual, at);
                if comparison.is_comparable() {
                    let lesson = (lessons.len(), taught.len() - 1);
                    compared.push((key, *address, client, comparison, lesson));
                } else {
                    judgement.window.thin += 1;
                }
            }
            lessons.push(Taught::new(key, taught));
        }
        let chances: Vec<f64> = compared.iter().map(|(.., of, _)| of.chance()).collect();
        let limit = benjamini_hochberg(&chances, at.false_discovery_share);
        let raws: Vec<_> = compared.iter().map(|(.., of, _)| of.judge(limit)).collect();
        let judged: Vec<Judged<'_>> = compared
            .iter()
            .zip(&raws)
            .zip(&chances)
            .map(|(((cell, address, ..), (raw, _)), chance)| Judged {
                cell,
                address: *address,
                raw: *raw,
                chance: *chance,
            })
            .collect();
        let tracks = self.standings.advance(&judged, window.number);

        let mut rest = (&raws[..], &tracks[..]);
        let cells_compared = compared.chunk_by(|(one, ..), (other, ..)| one == other);
        let clients = cells_compared.map(|of| {
            let (raws, tracks) = (
                rest.0.split_off(..of.len()).unwrap_or_default(),
                rest.1.split_off(..of.len()).unwrap_or_default(),
            );
            let judged = of.iter().zip(raws.iter().zip(tracks));
            let judged = judged.map(
                |((key, address, totals, comparison, lesson), (said, track))| {
                    let (raw, signs) = said;
                    let (of_cell, number) = *lesson;
                    let taught = &mut lessons[of_cell];
                    taught.is_fit &= *raw == Raw::Good;
                    let lesson = &mut taught.lessons[number];
                    lesson.rtt_excess = comparison.rtt.map(|sign| sign.excess / sign.threshold);
                    lesson.good = *raw == Raw::Good;
                    lesson.bad = matches!(raw, Raw::Bad | Raw::RateOnly);
                    judged_client(key, *address, totals, *comparison, *signs, *track, window)
                },
            );
            (of[0].0.clone(), judged.collect())
        });
        judgement.clients = clients.collect();
        self.learn(cells, lessons, window.number, &settings.baseline);
        self.forget(window.number, span(&settings.baseline));
        judgement.vote(at.min_chunks_per_prefix);
        judgement
    }

    /// Learns from the cells of a window, in their order.
    fn learn(
        &mut self,
        cells: &Cells,
        lessons: Vec<Taught<'_>>,
        window: u64,
        settings: &config::Baseline,
    ) {
        let mut routes = cells.cells.iter();
        let mut new = Vec::new();
        let mut known = self.baselines.iter_mut().peekable();
        for taught in lessons {
            let route = routes.find(|(key, _)| *key == taught.key);
            let Some(route) = route.and_then(|(_, cell)| cell.route.as_ref()) else {
                continue;
            };
            while known.next_if(|(key, _)| *key < taught.key).is_some() {}
            let mut fresh = Memories::default();
            let memories = known.next_if(|(key, _)| *key == taught.key);
            let is_new = memories.is_none();
            memories
                .map_or(&mut fresh, |(_, memories)| memories)
                .of(route, window)
                .note(window, &taught.lessons, taught.is_fit, settings);
            if is_new {
                new.push((taught.key.clone(), fresh));
            }
        }
        self.baselines.extend(new);
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

/// What a cell's window teaches.
struct Taught<'a> {
    key: &'a CellKey,
    lessons: Vec<Lesson>,
    /// A window in which anything looked worse than usual teaches nothing.
    is_fit: bool,
}

impl<'a> Taught<'a> {
    fn new(key: &'a CellKey, lessons: Vec<Lesson>) -> Self {
        Self {
            key,
            lessons,
            is_fit: true,
        }
    }
}

fn judged_client(
    cell: &CellKey,
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
        prefix: cell.prefix,
        track,
        signs,
        comparison,
        chunks: to_client
            .chunks()
            .max(to_client.acked_bytes / DOWNLOAD_CHUNK_BYTES),
        observations: totals.observations,
        arms: totals.arms,
        rwnd_limited_share: to_client.rwnd_limited_segments as f64
            / to_client.segments.max(1) as f64,
        idle_share: (1.0 - busy_share).clamp(0.0, 1.0),
    }
}

/// A cell and its clients.
type Part = (CellKey, Arc<[Client]>);

/// The clients of one window, compared, and their votes.
pub struct Judgement {
    pub window: Window,
    pub clients: BTreeMap<CellKey, Arc<[Client]>>,
    /// Clients that were not compared, because their way changed or is not known for sure. They
    /// are no witnesses, but they are there: what is left is not all there is.
    undecided: BTreeMap<CellKey, Vec<Client>>,
}

impl Judgement {
    /// A vote for every prefix with at least `min_chunks`; thinner ones are pooled by
    /// interconnect and ISP until they have as many, and what is thin even then has none.
    fn vote(&mut self, min_chunks: u32) {
        let enough = |clients: &[Client]| {
            clients.iter().map(|client| client.chunks).sum::<u64>() >= u64::from(min_chunks)
        };
        let undecided = std::mem::take(&mut self.undecided);
        let undecided = undecided.into_iter().map(|(key, of)| (key, of.into()));
        let decided = self.clients.iter();
        let decided = decided.map(|(key, clients)| (key.clone(), Arc::clone(clients)));
        let mut pools: BTreeMap<_, Vec<Part>> = BTreeMap::new();
        for (cell, clients) in decided.chain(undecided) {
            if enough(&clients) {
                self.window.votes.push(Vote {
                    cell,
                    pooled: false,
                    clients,
                });
                continue;
            }
            let (interconnect, isp) = (Arc::clone(&cell.interconnect), Arc::clone(&cell.isp));
            let pool = pools.entry((interconnect, isp, cell.direct)).or_default();
            pool.push((cell, clients));
        }
        for pool in pools.into_values() {
            // As many votes as there are chunks for: a hundred thin prefixes are not one.
            let mut groups: Vec<Vec<Part>> = Vec::new();
            let mut group: Vec<Part> = Vec::new();
            for part in pool {
                group.push(part);
                let clients = group.iter().flat_map(|(_, clients)| clients.iter());
                if clients.map(|client| client.chunks).sum::<u64>() >= u64::from(min_chunks) {
                    groups.push(std::mem::take(&mut group));
                }
            }
            match groups.last_mut() {
                Some(last) => last.extend(group),
                None => {
                    let clients = group.iter().map(|(_, clients)| clients.len() as u64);
                    self.window.thin += clients.sum::<u64>();
                }
            }
            for group in groups {
                let clients = group
                    .iter()
                    .flat_map(|(_, clients)| clients.iter().cloned());
                self.window.votes.push(Vote {
                    cell: group[0].0.clone(),
                    pooled: true,
                    clients: clients.collect(),
                });
            }
        }
        let voting = self
            .window
            .votes
            .iter()
            .flat_map(|vote| vote.clients.iter());
        self.window.undecided = voting
            .filter(|client| !client.comparison.is_comparable())
            .count() as u64;
    }
}
