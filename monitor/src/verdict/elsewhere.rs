//! The same prefixes through another interconnect, in the same window (rule 4): the difference of the
//! differences, each way's excess over its own usual against the other's.
//!
//! Load balancing, or an operator's own choice for a share of the flows, sends a part of the clients of
//! a prefix another way. What is bad through one interconnect and good through another is not their
//! lines, their nodes or what all ways into their ISP share, and not where both ways begin. A
//! comparison of the same prefixes needs no second ISP. Where a route experiment has chosen by a keyed
//! hash who takes which way, only clients that it has divided are compared: nothing but the ways
//! differs between those, and that is the comparison that is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::cell::Arms;

use super::degraded::{Comparison, Sign};
use super::finding::{Evidence, Place};
use super::medians;
use super::scene::{Client, Scene, Tally};

/// How sure the bound of the difference is.
const CONFIDENCE: f64 = 0.99;

/// One prefix's settled clients.
#[derive(Clone, Copy, Debug, Default)]
struct Split {
    bad: u64,
    good: u64,
    all: u64,
}

impl Split {
    fn add(&mut self, client: &Client) {
        self.bad += u64::from(client.is_bad());
        self.good += u64::from(client.is_good());
        self.all += 1;
    }
}

/// What one interconnect did to the clients of some prefixes.
#[derive(Default)]
struct Way<'a> {
    prefixes: BTreeMap<IpNet, Split>,
    clients: Vec<&'a Client>,
}

impl<'a> Way<'a> {
    fn of(clients: impl Iterator<Item = &'a Client>) -> Self {
        let mut way = Self::default();
        clients.for_each(|client| way.add(client));
        way
    }

    fn add(&mut self, client: &'a Client) {
        self.prefixes.entry(client.prefix).or_default().add(client);
        self.clients.push(client);
    }

    /// The votes of those prefixes that `of` holds.
    fn tally(&self, of: &BTreeSet<IpNet>) -> Tally {
        let mut tally = Tally::default();
        for (_, split) in self
            .prefixes
            .iter()
            .filter(|(prefix, _)| of.contains(prefix))
        {
            let all = split.all.max(1) as f64;
            tally.push(split.bad as f64 / all, split.good as f64 / all);
        }
        tally
    }

    /// The part that flows to those prefixes have in an experiment.
    fn arms(&self, of: &BTreeSet<IpNet>) -> Arms {
        let clients = self.clients.iter();
        let of_these = clients.filter(|client| of.contains(&client.prefix));
        of_these.fold(Arms::default(), |mut arms, client| {
            arms.add(client.arms);
            arms
        })
    }

    /// The clients all of whose flows have this part in an experiment.
    fn only(&self, arm: fn(&Arms) -> u64) -> Self {
        let all = |client: &&&Client| {
            let flows = arm(&client.arms);
            flows > 0 && flows + client.arms.waiting == client.observations
        };
        Self::of(self.clients.iter().filter(all).copied())
    }

    fn excesses(&self, of: &BTreeSet<IpNet>, pick: Pick) -> Vec<Sign> {
        let clients = self
            .clients
            .iter()
            .filter(|client| of.contains(&client.prefix));
        clients
            .filter_map(|client| pick(&client.comparison))
            .collect()
    }
}

type Pick = fn(&Comparison) -> Option<Sign>;

/// The figures that are compared, by the names of their differences.
const FIGURES: [(&str, Pick); 4] = [
    ("queue_excess_difference_us", |it| it.rtt),
    ("loss_excess_difference_share", |it| it.loss),
    ("ce_excess_difference_share", |it| it.ce),
    ("rate_drop_difference_share", |it| it.rate),
];

/// What shows that prefixes that are bad through `interconnect` are good through another one that has
/// nothing in common with it, in the same window.
pub fn good_elsewhere(scene: &Scene<'_>, interconnect: &str) -> Option<Vec<Evidence>> {
    let place = Place::Interconnect(interconnect.into());
    let mut here = Way::default();
    let mut isps = BTreeSet::new();
    for vote in scene.at_place(&place) {
        isps.insert(Arc::clone(&vote.cell.isp));
        for client in vote.clients.iter() {
            here.add(client);
        }
    }
    let mut others: BTreeMap<Arc<str>, Way<'_>> = BTreeMap::new();
    for isp in isps {
        let of_isp = Place::Isp { isp, origin_asn: 0 };
        for vote in scene.at_place(&of_isp) {
            let other = &vote.cell.interconnect;
            if **other == *interconnect || scene.risk_groups.shared(interconnect, other).is_some() {
                continue;
            }
            for client in vote.clients.iter() {
                if here.prefixes.contains_key(&client.prefix) {
                    let way = others.entry(Arc::clone(other)).or_default();
                    way.add(client);
                }
            }
        }
    }
    let compared = others.iter().filter_map(|(other, there)| {
        match divided(&here, there) {
            // A part of the flows alone, none of them older than it: no fair comparison with all.
            Some((here, there)) => compare(scene, interconnect, &here, other, &there),
            None => compare(scene, interconnect, &here, other, there),
        }
    });
    // The first that chance has divided, else the first.
    compared.min_by_key(|evidence| evidence.iter().all(|it| it.kind != EXPERIMENT))
}

/// The kind of the evidence that says whom an experiment has sent elsewhere.
const EXPERIMENT: &str = "route_experiment_flow_share";

fn compare(
    scene: &Scene<'_>,
    interconnect: &str,
    here: &Way<'_>,
    other: &str,
    there: &Way<'_>,
) -> Option<Vec<Evidence>> {
    let common: BTreeSet<IpNet> = there.prefixes.keys().copied().collect();
    let (ours, theirs) = (here.tally(&common), there.tally(&common));
    if !ours.is_bad(scene.at) || !theirs.is_good(scene.at) {
        return None;
    }
    let mut evidence = Vec::new();
    for (kind, pick) in FIGURES {
        let (ours, theirs) = (here.excesses(&common, pick), there.excesses(&common, pick));
        let threshold = ours.iter().map(|sign| sign.threshold).fold(0.0, f64::max);
        let samples = (ours.len() + theirs.len()) as u64;
        let excesses = |signs: Vec<Sign>| signs.iter().map(|sign| sign.excess).collect();
        let apart = medians::difference(excesses(ours), excesses(theirs), CONFIDENCE);
        if let Some(apart) = apart.filter(|apart| apart.at_least >= threshold) {
            evidence.push(Evidence {
                kind: kind.to_owned(),
                about: Some(format!("{interconnect} less {other}")),
                supports: "interconnect".to_owned(),
                value: Some(apart.at_least),
                threshold: Some(threshold),
                samples,
            });
        }
    }
    if evidence.is_empty() {
        return None;
    }
    let share = |kind: &str, about: &str, value: f64| Evidence {
        kind: kind.to_owned(),
        about: Some(format!("the same prefixes through {about}")),
        supports: "interconnect".to_owned(),
        value: Some(value),
        threshold: Some(scene.at.bad_share),
        samples: common.len() as u64,
    };
    evidence.extend(experiment(interconnect, other, here, there, &common));
    evidence.push(share("bad_prefix_share", interconnect, ours.bad()));
    evidence.push(share("good_prefix_share", other, theirs.good()));
    Some(evidence)
}

/// Of two ways to the same prefixes those clients that an experiment has divided; `None`: it sends
/// nobody one of the two ways.
fn divided<'a>(here: &Way<'a>, there: &Way<'a>) -> Option<(Way<'a>, Way<'a>)> {
    let other_way: fn(&Arms) -> u64 = |arms| arms.other_way;
    let default_way: fn(&Arms) -> u64 = |arms| arms.default_way;
    let is_sent = |way: &Way<'_>| way.clients.iter().any(|client| client.arms.other_way > 0);
    match (is_sent(here), is_sent(there)) {
        (false, false) => None,
        (true, _) => Some((here.only(other_way), there.only(default_way))),
        (false, true) => Some((here.only(default_way), there.only(other_way))),
    }
}

/// What says that an experiment has divided the flows of these prefixes: chance has decided of each of
/// them which way it takes.
fn experiment(
    interconnect: &str,
    other: &str,
    here: &Way<'_>,
    there: &Way<'_>,
    of: &BTreeSet<IpNet>,
) -> Option<Evidence> {
    let (here, there) = (here.arms(of), there.arms(of));
    let sent = here.other_way + there.other_way;
    if sent == 0 {
        return None;
    }
    let to = if here.other_way > 0 {
        interconnect
    } else {
        other
    };
    let all = sent + here.default_way + there.default_way;
    Some(Evidence {
        kind: EXPERIMENT.to_owned(),
        about: Some(format!("sent through {to} by a keyed hash")),
        supports: "interconnect".to_owned(),
        value: Some(sent as f64 / all as f64),
        threshold: None,
        samples: all,
    })
}
