//! The votes of one window, and how they are counted.
//!
//! Each prefix has one vote, however many flows it has (BlameIt, SIGCOMM 2019, counts distinct
//! prefixes likewise). A vote is split by the prefix's clients: the part that is bad, the part
//! that is good, and a rest that is unsettled and counts for neither. So every share below is
//! what holds even if all that is unsettled turned out against it; only of many prefixes, hardly any
//! of which is good, half suffices ([`Tally::is_bad`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::LocalCounters;
use super::degraded::{Comparison, Signs};
use super::finding::Place;
use super::standing::{Standing, Track};
use super::votes::{Totals, Votes};
use crate::cell::{Arms, CellKey};
use crate::config::Thresholds;
use crate::path::ports::InterconnectPorts;

/// One client of a prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    pub address: IpAddr,
    /// The prefix that it is counted in. What is kept and what other hosts logged has stand-ins for
    /// addresses, and prefixes as they are.
    #[serde(default)]
    pub prefix: IpNet,
    pub track: Track,
    pub signs: Signs,
    pub comparison: Comparison,
    pub chunks: u64,
    /// Flows.
    pub observations: u64,
    /// Those of them that have a part in a route experiment.
    #[serde(default, skip_serializing_if = "Arms::are_none")]
    pub arms: Arms,
    /// Share of the segments that were sent into a full receive window.
    pub rwnd_limited_share: f64,
    /// Share of the window in which nothing was outstanding.
    pub idle_share: f64,
}

impl Client {
    pub fn is_bad(&self) -> bool {
        self.track.standing == Standing::Bad
    }

    pub fn is_good(&self) -> bool {
        self.track.standing == Standing::Good
    }
}

/// One prefix, or several thin ones of the same interconnect and ISP that vote as one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    /// Of pooled votes, the first prefix's.
    pub cell: CellKey,
    /// Whether this is more than one prefix.
    pub pooled: bool,
    pub clients: Arc<[Client]>,
}

impl Vote {
    /// Part of the clients that is bad.
    pub fn bad(&self) -> f64 {
        self.share(Client::is_bad)
    }

    /// Part of the clients that is good.
    pub fn good(&self) -> f64 {
        self.share(Client::is_good)
    }

    pub fn has_bad(&self) -> bool {
        self.clients.iter().any(Client::is_bad)
    }

    fn share(&self, holds: impl Fn(&Client) -> bool) -> f64 {
        let count = self.clients.iter().filter(|client| holds(client)).count();
        count as f64 / self.clients.len().max(1) as f64
    }
}

/// Part of the votes that are bad, and that may be good, where the others are unsettled.
const MOSTLY_BAD: f64 = 0.5;
const HARDLY_GOOD: f64 = 0.05;
/// Prefixes without which that proves nothing.
const MANY_PREFIXES: u64 = 10;

/// Votes, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub prefixes: u64,
    bad_sum: f64,
    good_sum: f64,
}

impl Tally {
    pub fn of<'a>(votes: impl IntoIterator<Item = &'a Vote>) -> Self {
        let mut tally = Self::default();
        for vote in votes {
            tally.push(vote.bad(), vote.good());
        }
        tally
    }

    /// Adds a vote of which these parts are bad and good.
    pub fn push(&mut self, bad: f64, good: f64) {
        self.prefixes += 1;
        self.bad_sum += bad;
        self.good_sum += good;
    }

    pub fn bad_sum(&self) -> f64 {
        self.bad_sum
    }

    pub fn good_sum(&self) -> f64 {
        self.good_sum
    }

    /// Share of the votes that is bad.
    pub fn bad(&self) -> f64 {
        self.bad_sum / self.prefixes.max(1) as f64
    }

    /// Share of the votes that is good.
    pub fn good(&self) -> f64 {
        self.good_sum / self.prefixes.max(1) as f64
    }

    /// Enough votes, and nearly all of them bad; or most of them, and hardly any good: of a fault whose
    /// size is about that of a threshold many clients are neither.
    pub fn is_bad(&self, at: &Thresholds) -> bool {
        let mostly = self.prefixes >= MANY_PREFIXES
            && self.bad() >= MOSTLY_BAD
            && self.good() <= HARDLY_GOOD;
        self.prefixes >= u64::from(at.min_prefixes_per_isp)
            && (self.bad() >= at.bad_share || mostly)
    }

    /// Enough votes, and nearly all of them good.
    pub fn is_good(&self, at: &Thresholds) -> bool {
        self.prefixes >= u64::from(at.min_prefixes_per_isp) && self.good() >= at.bad_share
    }
}

/// What each interconnect shares with others: router, port, fabric, reseller, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskGroups(pub BTreeMap<Arc<str>, Arc<[Arc<str>]>>);

impl RiskGroups {
    fn of(&self, interconnect: &str) -> &[Arc<str>] {
        self.0.get(interconnect).map_or(&[], |groups| &**groups)
    }

    /// What two interconnects have in common, if anything.
    pub fn shared(&self, one: &str, other: &str) -> Option<&Arc<str>> {
        let others = self.of(other);
        self.of(one).iter().find(|group| others.contains(group))
    }

    /// How many of `interconnects` there are when those that have something in common, directly
    /// or through others, count once.
    pub fn independent<'a>(&self, interconnects: impl IntoIterator<Item = &'a Arc<str>>) -> usize {
        let mut clusters: Vec<Vec<&Arc<str>>> = Vec::new();
        for name in interconnects {
            let (joined, mut apart): (Vec<_>, Vec<_>) = clusters.into_iter().partition(|cluster| {
                cluster
                    .iter()
                    .any(|other| *other == name || self.shared(name, other).is_some())
            });
            let mut cluster: Vec<_> = joined.into_iter().flatten().collect();
            cluster.push(name);
            apart.push(cluster);
            clusters = apart;
        }
        clusters.len()
    }
}

/// All that a hypothesis may look at.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Every vote of the window.
    pub all: &'a Votes<'a>,
    /// The same, summed.
    pub totals: &'a Totals,
    /// Votes that no earlier verdict of this window has explained.
    pub rest: &'a Votes<'a>,
    /// Votes that no earlier verdict of this window has explained by one name. What was only said
    /// as a set is no excuse: it may be the same trouble.
    pub unnamed: &'a Votes<'a>,
    /// What our own devices count; `None`: unknown.
    pub local: Option<&'a LocalCounters>,
    /// What our ports count; `None`: unknown.
    pub ports: Option<&'a InterconnectPorts>,
    /// What interconnects have in common.
    pub risk_groups: &'a RiskGroups,
    pub at: &'a Thresholds,
}

impl<'a> Scene<'a> {
    /// The unexplained votes of `place`.
    pub fn at_place<'s>(&'s self, place: &'s Place) -> impl Iterator<Item = &'a Vote> + 's {
        self.rest.at(place)
    }

    /// The clients of `place` that are bad.
    pub fn bad_clients<'s>(&'s self, place: &'s Place) -> impl Iterator<Item = &'a Client> + 's {
        self.at_place(place)
            .flat_map(|vote| vote.clients.iter())
            .filter(|client| client.is_bad())
    }

    /// Interconnects through which the bad clients of `place` are reached, in order.
    pub fn bad_interconnects(&self, place: &Place) -> Vec<Arc<str>> {
        self.rest.bad_interconnects(place)
    }

    /// ISPs of the bad clients of `place`, in order.
    pub fn bad_isps(&self, place: &Place) -> Vec<Arc<str>> {
        self.rest.bad_isps(place)
    }

    /// Unexplained votes behind `interconnect`, by ISP.
    pub fn by_isp(&self, interconnect: &str) -> BTreeMap<Arc<str>, Tally> {
        self.rest.by_isp(interconnect)
    }

    /// Votes of `isp` that nobody was named for, by interconnect.
    pub fn unnamed_by_interconnect(&self, isp: &str) -> BTreeMap<Arc<str>, Tally> {
        self.unnamed.by_interconnect(isp)
    }

    /// Unexplained votes of `isp`, by interconnect.
    pub fn by_interconnect(&self, isp: &str) -> BTreeMap<Arc<str>, Tally> {
        self.rest.by_interconnect(isp)
    }
}

/// Counts `votes` by what `name` reads from their cells.
#[cfg(test)]
pub fn tallies<'a>(
    votes: impl IntoIterator<Item = &'a Vote>,
    name: impl Fn(&CellKey) -> &Arc<str>,
) -> BTreeMap<Arc<str>, Tally> {
    let mut groups: BTreeMap<Arc<str>, Vec<&Vote>> = BTreeMap::new();
    for vote in votes {
        let key = Arc::clone(name(&vote.cell));
        groups.entry(key).or_default().push(vote);
    }
    groups
        .into_iter()
        .map(|(name, votes)| (name, Tally::of(votes)))
        .collect()
}

impl Place {
    /// Whether the cell's traffic crosses this place.
    pub fn contains(&self, cell: &CellKey) -> bool {
        self.interconnect()
            .is_none_or(|name| *name == cell.interconnect)
            && self.isp().is_none_or(|name| *name == cell.isp)
            && self.prefix().is_none_or(|prefix| prefix == cell.prefix)
    }
}
