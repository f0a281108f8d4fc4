//! Hypothesis 7: one node, cell or BNG that a group of the ISP's clients shares.
//!
//! Named when whole prefixes of an ISP are bad while nearly all of its other prefixes on the same way
//! are good, and so is everybody else behind the same interconnect. A member of a bundle has its share
//! of every prefix, so that the bad clients must fill theirs by more than chance. Which clients share
//! a node is not known beforehand; it is excluded where the bad clients are many more, or far fewer,
//! than one node has.

use std::sync::Arc;

use statrs::function::factorial::ln_binomial;

use super::finding::{Evidence, Finding, Place, Segment, log_name};
use super::interconnect;
use super::last_mile;
use super::ports;
use super::scene::{Client, Scene, Tally, Vote};
use super::standing::SETTLED_AFTER;
use super::votes::Settled;

/// Clients of whole prefixes that make a node; fewer may be as many lines.
const MIN_CLIENTS: u64 = 3;
/// Prefixes that a node has at least, and the part of the ISP's on the same way that it has at most.
const MIN_PREFIXES: usize = 2;
const MOST_PREFIXES: f64 = 0.4;
/// Part of the bad clients that must be in prefixes that are bad as a whole.
const MOSTLY: f64 = 0.8;
/// Bad clients fill whole prefixes by chance less often than this.
const IMPROBABLE: f64 = 0.005;
/// Windows for which one of them must have been bad: a wider fault that reaches it first has two more to
/// reach the others.
const WINDOWS: u64 = SETTLED_AFTER as u64 + 2;
/// Part of the good siblings that may have been bad with others just now: else a wider fault is over,
/// and these prefixes are the last to know.
const RECOVERED: f64 = 0.2;

/// A group of the ISP's clients.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    match place {
        Place::Everything | Place::Interconnect(_) => {
            let isps = scene.bad_isps(place);
            if isps.len() >= 2 {
                Finding::Rejected(format!("clients of {} are bad at once", isps.join(" and ")))
            } else if place
                .interconnect()
                .is_some_and(|it| interconnect::same_prefixes_elsewhere(scene, it).is_some())
            {
                Finding::Rejected(
                    "the same prefixes are good through another interconnect".to_owned(),
                )
            } else {
                Finding::Open("only one ISP is bad".to_owned())
            }
        }
        Place::Isp { .. } => {
            let paths = scene.bad_interconnects(place).len();
            let tally = Tally::of(scene.at_place(place));
            if paths >= 2 && tally.is_bad(scene.at) {
                Finding::Rejected(format!(
                    "{:.0} % of {} prefixes through {paths} interconnects are bad",
                    tally.bad() * 100.0,
                    tally.prefixes
                ))
            } else {
                Finding::Open("only a part of the ISP's prefixes is bad".to_owned())
            }
        }
        Place::Pair { .. } => match node(scene, place) {
            Ok(evidence) => Finding::Supported(evidence),
            Err(why) => Finding::Open(why),
        },
        Place::Prefix { .. } if interconnect::maybe_bundle(scene, place).is_some() => {
            Finding::Open(
                "the bad clients may share a line card or a member of a bundle".to_owned(),
            )
        }
        Place::Prefix { .. } if last_mile::has_good_neighbour(scene, place) => {
            Finding::Rejected("neighbours in the same prefix are good".to_owned())
        }
        Place::Prefix { .. } => {
            Finding::Open("no neighbour in the prefix is clearly good".to_owned())
        }
    }
}

/// Nobody in the prefix is good, and most are bad.
fn is_whole(vote: &Vote) -> bool {
    !vote.pooled && vote.good() == 0.0 && vote.bad() > 0.5
}

/// What shows that whole prefixes of one ISP are bad, and nobody beside them.
///
/// # Errors
/// What is missing.
pub fn node(scene: &Scene<'_>, place: &Place) -> Result<Vec<Evidence>, String> {
    let Place::Pair {
        interconnect, isp, ..
    } = place
    else {
        return Err("it is asked of one ISP behind one interconnect".to_owned());
    };
    let votes = scene.unnamed.at(place);
    let all: Vec<&Vote> = votes.filter(|vote| !vote.pooled).collect();
    let (whole, others): (Vec<&Vote>, Vec<&Vote>) = all.iter().partition(|vote| is_whole(vote));
    let clients: Vec<&Client> = whole
        .iter()
        .flat_map(|vote| vote.clients.iter())
        .filter(|client| client.is_bad())
        .collect();
    let bad: u64 = all.iter().map(|vote| Settled::of(vote).bad).sum();
    let filled = clients.len() as u64;
    if filled < MIN_CLIENTS || (filled as f64) < MOSTLY * bad as f64 {
        return Err(format!(
            "{filled} of {bad} bad clients are in prefixes that are bad as a whole: too few for a node"
        ));
    }
    if whole.len() < MIN_PREFIXES {
        // One home has a whole IPv6 prefix, and devices.
        return Err(format!("{} prefix is bad as a whole", whole.len()));
    }
    if whole.len() as f64 > MOST_PREFIXES * all.len() as f64 {
        return Err(format!(
            "{} of {} prefixes are bad: more than one node has",
            whole.len(),
            all.len()
        ));
    }
    let siblings = Tally::of(others.iter().copied());
    if !siblings.is_good(scene.at) {
        return Err(format!(
            "{:.0} % of {} other prefixes on the same way are clearly good: too few",
            siblings.good() * 100.0,
            siblings.prefixes
        ));
    }
    let count: usize = all.iter().map(|vote| vote.clients.len()).sum();
    let ln_chance =
        ln_binomial(all.len() as u64, whole.len() as u64) - ln_binomial(count as u64, filled);
    if ln_chance > IMPROBABLE.ln() {
        return Err(format!(
            "{filled} of {count} clients may fill {} prefixes by chance",
            whole.len()
        ));
    }
    let (isps, _) = scene.unnamed.settled(interconnect);
    let elsewhere = isps.iter().map(|isp| isp.bad).sum::<u64>() - bad;
    if elsewhere > 0 {
        return Err(format!(
            "{elsewhere} clients of other ISPs behind {interconnect} are bad too"
        ));
    }
    let of_isp = Place::Isp {
        isp: Arc::clone(isp),
        origin_asn: 0,
    };
    let is_whole = |vote: &&Vote| {
        let mut prefixes = whole.iter().map(|whole| whole.cell.prefix);
        prefixes.any(|prefix| prefix == vote.cell.prefix)
    };
    let mut twins = scene.all.at(&of_isp).filter(is_whole);
    if twins.any(|vote| vote.good() > 0.0) {
        return Err("the same prefixes are good through another interconnect".to_owned());
    }
    if ports::says(scene, interconnect).is_full() {
        return Err(format!("the port of {interconnect} is full"));
    }
    if clients
        .iter()
        .any(|client| client.track.lasting() < WINDOWS)
    {
        return Err("it has only begun: a wider fault may be beginning".to_owned());
    }
    let recovered = others
        .iter()
        .flat_map(|vote| vote.clients.iter())
        .filter(|client| client.track.is_shared());
    let spared: usize = others.iter().map(|vote| vote.clients.len()).sum();
    if recovered.count() as f64 > RECOVERED * spared as f64 {
        return Err("its siblings were bad with many others shortly before".to_owned());
    }
    let item = |kind: &str, value: f64, threshold: f64, samples: u64| Evidence {
        kind: kind.to_owned(),
        about: None,
        supports: log_name(Segment::AccessShared),
        value: Some(value),
        threshold: Some(threshold),
        samples,
    };
    Ok(vec![
        item(
            "bad_clients_in_whole_prefixes_share",
            filled as f64 / bad.max(1) as f64,
            MOSTLY,
            bad,
        ),
        item(
            "good_prefix_share",
            siblings.good(),
            scene.at.bad_share,
            siblings.prefixes,
        ),
    ])
}
