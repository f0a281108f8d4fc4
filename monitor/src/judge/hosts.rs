//! One host's own trouble is nobody else's.
//!
//! A host whose network card loses packets makes a part of the clients of every network bad. For
//! the site as a whole these look like scattered homes; but other hosts serve the same networks
//! through the same interconnects, and are the comparison that one host alone does not have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::verdict::standing::Track;
use crate::verdict::{Alternative, Client, Evidence, Place, Segment, Verdict, Vote};

/// Fewer bad clients may be as many homes.
const MIN_CLIENTS: f64 = 3.0;
/// How much more often the host's clients are bad than others' clients of the same networks.
const SPECIFIC: f64 = 3.0;
/// Standard deviations of a Poisson count that are no chance.
const DEVIATIONS: f64 = 3.0;
/// Networks or interconnects that must be affected: one alone may be what is bad.
const MIN_PLACES: usize = 2;

/// Which host serves a client, by its number; `None`: several do.
pub type Served = HashMap<IpAddr, Option<usize>>;

#[derive(Clone, Copy, Default)]
struct Count {
    bad: f64,
    all: f64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.bad += other.bad;
        self.all += other.all;
    }
}

/// Takes the clients of hosts that are in trouble themselves out of the votes: they are unsettled
/// from here on. Says of each such host that it, or what is between it and the edge, is bad.
pub fn set_aside(
    votes: &mut [Vote],
    served: &Served,
    hosts: &[String],
    window: u64,
) -> Vec<Verdict> {
    if hosts.len() < 2 {
        return Vec::new();
    }
    let mut pairs: BTreeMap<(&str, &str), Vec<Count>> = BTreeMap::new();
    for vote in &*votes {
        let pair = (&*vote.cell.interconnect, &*vote.cell.isp);
        let counts = pairs
            .entry(pair)
            .or_insert_with(|| vec![Count::default(); hosts.len()]);
        for client in vote.clients.iter().filter(|it| it.is_bad() || it.is_good()) {
            if let Some(Some(host)) = served.get(&client.address) {
                counts[*host].add(Count {
                    bad: f64::from(u8::from(client.is_bad())),
                    all: 1.0,
                });
            }
        }
    }
    let troubled: Vec<(usize, Count, Count)> = (0..hosts.len())
        .filter_map(|host| in_trouble(host, &pairs).map(|(own, others)| (host, own, others)))
        .collect();
    let mut verdicts = Vec::new();
    for (host, own, others) in troubled {
        let is_its = |client: &&mut Client| served.get(&client.address) == Some(&Some(host));
        let mut observations = 0;
        for client in votes
            .iter_mut()
            .flat_map(|vote| Arc::make_mut(&mut vote.clients))
            .filter(is_its)
        {
            observations += client.observations;
            client.track = Track::unsettled(window);
        }
        verdicts.push(verdict(&hosts[host], own, others, observations));
    }
    verdicts
}

/// The host's clients and the others', where they can be compared, if the host's are bad and
/// theirs are not.
fn in_trouble(host: usize, pairs: &BTreeMap<(&str, &str), Vec<Count>>) -> Option<(Count, Count)> {
    let (mut own, mut others) = (Count::default(), Count::default());
    let (mut interconnects, mut isps) = (BTreeSet::new(), BTreeSet::new());
    for ((interconnect, isp), counts) in pairs {
        let mut theirs = Count::default();
        let apart = counts
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != host);
        apart.for_each(|(_, count)| theirs.add(*count));
        if theirs.all == 0.0 {
            continue;
        }
        own.add(counts[host]);
        others.add(theirs);
        if counts[host].bad > 0.0 {
            interconnects.insert(interconnect);
            isps.insert(isp);
        }
    }
    let expected = (others.bad + 1.0) / (others.all + 1.0) * own.all;
    let places = interconnects.len().max(isps.len());
    let holds = own.bad >= MIN_CLIENTS
        && own.bad >= SPECIFIC * expected
        && own.bad >= expected + DEVIATIONS * expected.sqrt()
        && places >= MIN_PLACES;
    holds.then_some((own, others))
}

fn verdict(host: &str, own: Count, others: Count, observations: u64) -> Verdict {
    let theirs = others.bad / others.all.max(1.0);
    let alternative = |segment, why: &str| Alternative {
        segment: Some(segment),
        limit: None,
        why: why.to_owned(),
    };
    let ours = [Segment::Host, Segment::OwnNetwork];
    let rest = Segment::ALL.into_iter().filter(|it| !ours.contains(it));
    let why_not = format!(
        "of the same networks through the same interconnects {:.0} of {:.0} clients of other \
         hosts are bad",
        others.bad, others.all
    );
    let why = format!("the clients of {host} are bad, whatever their network");
    Verdict {
        degraded: Some(true),
        segments: ours.into(),
        confidence: (own.bad + 1.0) / (own.all + 2.0),
        evidence: vec![Evidence {
            kind: "bad_client_share_of_host".to_owned(),
            about: Some(host.to_owned()),
            supports: "host".to_owned(),
            value: Some(own.bad / own.all.max(1.0)),
            threshold: Some(SPECIFIC * theirs),
            samples: own.all as u64,
        }],
        rejected: rest.map(|it| alternative(it, &why_not)).collect(),
        open: ours.map(|it| alternative(it, &why)).into(),
        observations,
        ..Verdict::about(Place::Everything)
    }
}
