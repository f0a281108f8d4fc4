//! From the votes of one window to verdicts.
//!
//! Each hypothesis is a file and a pure function that answers, for one *place*, whether it is
//! supported, still open, or rejected ([`Finding`]). What a verdict says is the set of all that
//! is not rejected: one name only when one remains, and an absent comparison never rejects
//! anything. The decision order only chooses the places, widest first; what one verdict explains
//! is set aside, and the rest goes on, so that two faults give two verdicts:
//!
//! 0. *degraded at all?* ([`degraded`], [`standing`], `none`); 1. `inconclusive`;
//! 2. [`sender_limited`], [`receiver_limited`]; 3. [`host`]; 4. [`interconnect`]; 5. [`transit`];
//! 6. [`isp`]; 8. [`last_mile`], one prefix at a time; 10. `undecided`: what is left, as sets, and
//!    [`access_shared`] among them.

pub mod access_shared;
pub mod behind_proxy;
mod conclude;
pub mod coverage;
pub mod degraded;
mod elsewhere;
mod finding;
mod forward;
pub mod host;
pub mod incident;
mod inconclusive;
pub mod interconnect;
pub mod isp;
pub mod last_mile;
mod limits;
mod longer_way;
mod medians;
mod none;
pub mod playback;
pub mod ports;
pub mod receiver_limited;
pub mod reverse_path;
pub mod scene;
pub mod sender_limited;
pub mod standing;
pub mod transit;
mod undecided;
mod votes;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use finding::{
    Alternative, Evidence, Finding, Inconclusive, Limit, Mechanism, Place, Segment, Verdict,
    log_name,
};
pub use host::{DeviceCounters, LocalCounters};
pub use scene::{Client, RiskGroups, Scene, Tally, Vote};

use conclude::conclude;
use limits::Limited;
use votes::{Index, Totals, Votes};

use crate::cell::CellKey;
use crate::config::Thresholds;
use crate::path::ports::InterconnectPorts;

/// What came together in one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Prefixes with enough chunks, and pools of thin ones.
    pub votes: Vec<Vote>,
    /// Flows that did something.
    pub observations: u64,
    /// Of these, flows to clients without a route.
    pub unrouted: u64,
    /// Clients whose cell has no baseline yet.
    pub without_baseline: u64,
    /// Clients with too few RTT samples, segments or chunks.
    pub thin: u64,
    /// Clients whose traffic took another way in this window or the one before, or one that
    /// nothing is known about yet.
    pub route_changed: u64,
    /// Clients whose way is known from a source that has gone silent.
    pub route_stale: u64,
    /// Of the clients in `votes`, these: they are unsettled, and speak for nobody.
    pub undecided: u64,
    /// Reports that were lost, as a share of all.
    pub missed_share: f64,
    /// What the interconnects have in common.
    pub risk_groups: RiskGroups,
}

/// The verdicts of one window: at least one.
pub fn decide(
    window: &Window,
    local: Option<&LocalCounters>,
    ports: Option<&InterconnectPorts>,
    at: &Thresholds,
) -> Vec<Verdict> {
    if let Some(verdict) = inconclusive::verdict(window, at) {
        return vec![verdict];
    }
    let clients = window.votes.iter().flat_map(|vote| vote.clients.iter());
    let bad = clients.filter(|client| client.is_bad()).count();
    if bad == 0 {
        return vec![none::verdict(window, at)];
    }

    let mut verdicts = behind_proxy::verdicts(&window.votes, at);
    let is_proxied = |isp: &str| {
        let mut isps = verdicts.iter().filter_map(|verdict| verdict.place.isp());
        isps.any(|proxied| **proxied == *isp)
    };
    let (votes, limited) = Limited::set_aside(&window.votes, bad, is_proxied);
    verdicts.extend(limited.verdict());
    let index = Index::new(&votes);
    let totals = Totals::of(&index);
    let all = Votes::all(&index);
    let mut rest = all.clone();
    let mut unnamed = all.clone();
    let mut no_line = NoLine::default();
    loop {
        let scene = Scene {
            all: &all,
            totals: &totals,
            rest: &rest,
            unnamed: &unnamed,
            local,
            ports,
            risk_groups: &window.risk_groups,
            at,
        };
        let Some(place) = next_place(&scene, &mut no_line) else {
            return verdicts;
        };
        let mut verdict = conclude(&scene, place.clone());
        verdict.rejected.extend(limited.rejected());
        if verdict.segments.len() == 1 {
            unnamed.remove(&place);
        }
        verdicts.push(verdict);
        no_line.forget(&place);
        rest.remove(&place);
    }
}

/// Prefixes of which it is known that they are no single line's trouble, as long as their
/// neighbours on the same way stay what they are: nothing else is asked about a line.
#[derive(Default)]
struct NoLine(BTreeSet<CellKey>);

impl NoLine {
    /// The votes of `place` are explained.
    fn forget(&mut self, place: &Place) {
        let (interconnect, isp) = (place.interconnect(), place.isp());
        let is = |wanted: Option<&Arc<str>>, name: &Arc<str>| wanted.is_none_or(|it| it == name);
        self.0
            .retain(|cell| !is(interconnect, &cell.interconnect) || !is(isp, &cell.isp));
    }
}

/// The widest place that explains something, in the decision order; `None` when nothing bad is
/// left.
fn next_place(scene: &Scene<'_>, no_line: &mut NoLine) -> Option<Place> {
    let bad = scene.rest.bad().next()?;
    if scene.rest.len() == scene.all.len()
        && (host::everything_is_bad(scene) || host::full_and_felt(scene).is_some())
        && !interconnect::one_full_port_explains_all(scene)
    {
        return Some(Place::Everything);
    }
    let everything = Place::Everything;
    for interconnect in scene.bad_interconnects(&everything) {
        if !interconnect::may_be_named(scene, &interconnect) {
            continue;
        }
        let place = Place::Interconnect(interconnect);
        if matches!(interconnect::examine(scene, &place), Finding::Supported(_)) {
            return Some(place);
        }
    }
    for interconnect in scene.bad_interconnects(&everything) {
        let place = Place::Interconnect(interconnect);
        if matches!(transit::examine(scene, &place), Finding::Supported(_)) {
            return Some(place);
        }
    }
    for isp in scene.bad_isps(&everything) {
        // As many ways as must agree.
        let is_bad = |tally: &Tally| tally.is_bad(scene.at);
        if scene.rest.count_interconnects(&isp, is_bad) < isp::MIN_PATHS {
            continue;
        }
        let place = isp_place(scene.rest, &isp)?;
        if matches!(isp::examine(scene, &place), Finding::Supported(_)) {
            return Some(place);
        }
    }
    for vote in scene.rest.bad() {
        if no_line.0.contains(&vote.cell) {
            continue;
        }
        let place = prefix_place(vote);
        if matches!(last_mile::examine(scene, &place), Finding::Supported(_)) {
            return Some(place);
        }
        no_line.0.insert(vote.cell.clone());
    }
    for interconnect in scene.bad_interconnects(&everything) {
        if interconnect::is_contested(scene, &interconnect)
            || interconnect::part_of_bundle(scene, &interconnect).is_some()
        {
            return Some(Place::Interconnect(interconnect));
        }
    }
    Some(undecided::place(scene, bad))
}

fn isp_place(votes: &Votes<'_>, isp: &Arc<str>) -> Option<Place> {
    let mut place = Place::Isp {
        isp: Arc::clone(isp),
        origin_asn: 0,
    };
    let first = votes.at(&place).next()?.cell.origin_asn;
    if let Place::Isp { origin_asn, .. } = &mut place {
        *origin_asn = first;
    }
    Some(place)
}

fn prefix_place(vote: &Vote) -> Place {
    Place::Prefix {
        interconnect: Arc::clone(&vote.cell.interconnect),
        isp: Arc::clone(&vote.cell.isp),
        origin_asn: vote.cell.origin_asn,
        prefix: vote.cell.prefix,
    }
}

#[cfg(test)]
mod tests;
