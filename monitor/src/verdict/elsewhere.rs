//! The same prefixes through another interconnect, in the same window (rule 4): the difference of the
//! differences, each way's excess over its own usual against the other's.
//!
//! Load balancing, or an operator's own choice for a share of the flows, sends a part of the clients of
//! a prefix another way. What is bad through one interconnect and good through another is not their
//! lines, their nodes or what all ways into their ISP share, and not where both ways begin. A
//! comparison of the same prefixes needs no second ISP. Where a route experiment has chosen by a keyed
//! hash who takes which way, nothing but the ways differs, and that is the comparison that is told.

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

    /// Flows to those prefixes, and how many of them have which part in an experiment.
    fn flows(&self, of: &BTreeSet<IpNet>) -> (u64, Arms) {
        let clients = self.clients.iter();
        let of_these = clients.filter(|client| of.contains(&client.prefix));
        of_these.fold((0, Arms::default()), |(all, mut arms), client| {
            arms.add(client.arms);
            (all + client.observations, arms)
        })
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
    let compared = others
        .iter()
        .filter_map(|(other, there)| compare(scene, interconnect, &here, other, there));
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

/// What says that an experiment has divided the flows of these prefixes: chance has decided of each of
/// them which way it takes.
fn experiment(
    interconnect: &str,
    other: &str,
    here: &Way<'_>,
    there: &Way<'_>,
    of: &BTreeSet<IpNet>,
) -> Option<Evidence> {
    let (here, there) = (here.flows(of), there.flows(of));
    let kept = |(all, arms): (u64, Arms)| {
        (arms.default_way > 0 && arms.default_way + arms.waiting == all).then_some(arms.default_way)
    };
    let sent = |(all, arms): (u64, Arms)| {
        (arms.other_way > 0 && arms.other_way + arms.waiting == all).then_some(arms.other_way)
    };
    let divided = match (kept(here), sent(there)) {
        (Some(kept), Some(sent)) => Some((kept, sent, other)),
        _ => None,
    };
    let (kept, sent, to) = divided.or_else(|| Some((kept(there)?, sent(here)?, interconnect)))?;
    let all = kept + sent;
    Some(Evidence {
        kind: EXPERIMENT.to_owned(),
        about: Some(format!("sent through {to} by a keyed hash")),
        supports: "interconnect".to_owned(),
        value: Some(sent as f64 / all.max(1) as f64),
        threshold: None,
        samples: all,
    })
}
