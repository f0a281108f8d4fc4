//! Hypothesis 5: other networks between our neighbour and the ISP.
//!
//! Named when nearly all prefixes of at least two ISPs are bad behind an interconnect that leads
//! through another network, each of these ISPs is good on another way at the same time, and our own
//! port to that network has room: what they share is behind the port and before the ISPs. Without
//! the port's counters the interconnect stays possible beside it; and our own network does, unless
//! another interconnect with which it shares a risk group (the router) is good.
//!
//! It is excluded where the interconnect hands over to the ISP itself, where direct paths are as bad,
//! and where others on the same way are good. One ISP alone that is bad behind a transit leaves
//! {transit, isp}: the full ports between the two are of both (M-Lab's interconnection study, 2014).

use std::sync::Arc;

use super::finding::{Evidence, Finding, Place};
use super::forward;
use super::interconnect::{self, MIN_ISPS};
use super::last_mile;
use super::ports;
use super::scene::{Client, Scene, Tally, Vote};

/// From this number on, transits that are bad all at once have something else in common.
const MANY_TRANSITS: usize = 3;

/// Networks between the neighbour and the ISP.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    let mut bad = scene.at_place(place).filter(|vote| vote.has_bad());
    if interconnect::maybe_bundle(scene, place).is_none()
        && last_mile::has_good_neighbour(scene, place)
    {
        return Finding::Rejected("neighbours in the same prefix are good".to_owned());
    }
    let Some(indirect) = bad.find(|vote| !vote.cell.direct) else {
        return Finding::Rejected("every bad path is direct".to_owned());
    };
    match place {
        Place::Everything | Place::Isp { .. } => {
            if let Some(why) = not_alone(scene, place) {
                return Finding::Rejected(why);
            }
        }
        Place::Interconnect(interconnect) => {
            if let Some(evidence) = behind_our_port(scene, interconnect) {
                return Finding::Supported(evidence);
            }
        }
        Place::Pair { .. } | Place::Prefix { .. } => {}
    }
    Finding::Open(format!(
        "{} reaches {} through another network",
        indirect.cell.interconnect, indirect.cell.isp
    ))
}

/// Why transits are not what all of a wider place has in common.
fn not_alone(scene: &Scene<'_>, place: &Place) -> Option<String> {
    let full = scene.local.and_then(|local| local.full(scene.at));
    if let (Place::Everything, Some(full)) = (place, full) {
        return Some(format!("a queue of our own is full ({})", full.kind));
    }
    let names = scene.bad_interconnects(place);
    let direct = names.iter().find(|name| {
        let through = Place::Interconnect(Arc::clone(name));
        let votes = scene.at_place(&through);
        let votes = votes.filter(|vote| vote.cell.direct && place.contains(&vote.cell));
        Tally::of(votes).is_bad(scene.at)
    });
    if let Some(name) = direct {
        return Some(format!(
            "the path through {name} is as bad, and crosses no other network"
        ));
    }
    let transits = scene.risk_groups.independent(&names);
    (*place == Place::Everything && transits >= MANY_TRANSITS)
        .then(|| format!("all {transits} transits are bad at once"))
}

/// What shows that something behind our port to another network, and before the ISPs, is at fault.
fn behind_our_port(scene: &Scene<'_>, interconnect: &str) -> Option<Vec<Evidence>> {
    if !leads_through_another(scene, interconnect)
        || interconnect::shared_fault(scene, interconnect).is_some()
    {
        return None;
    }
    if !interconnect::everybody_behind_is_bad(scene, interconnect) {
        return None;
    }
    let witnesses = interconnect::witnesses(scene, interconnect);
    if witnesses.len() < MIN_ISPS {
        return None;
    }
    let mut evidence = Vec::new();
    for (isp, tally) in &witnesses {
        let ways = scene.by_interconnect(isp);
        let (other, good) = ways
            .iter()
            .find(|(other, tally)| ***other != *interconnect && tally.is_good(scene.at))?;
        let item = |kind: &str, about: String, value: f64, tally: &Tally| Evidence {
            kind: kind.to_owned(),
            about: Some(about),
            supports: "transit".to_owned(),
            value: Some(value),
            threshold: Some(scene.at.bad_share),
            samples: tally.prefixes,
        };
        evidence.push(item(
            "bad_prefix_share",
            isp.to_string(),
            tally.bad(),
            tally,
        ));
        let about = format!("{isp} through {other}");
        evidence.push(item("good_prefix_share", about, good.good(), good));
    }
    let place = Place::Interconnect(interconnect.into());
    let clients: Vec<&Client> = scene.bad_clients(&place).collect();
    ports::clears(scene, interconnect, &clients)?;
    evidence.push(forward::evidence(clients.iter().copied(), "transit")?);
    Some(evidence)
}

/// Why our own network may be what a transit seems to be: our port to it has room, and no other
/// interconnect of which it is known that it is at the same router is good, so that what leads there may
/// be full as well.
pub fn or_what_leads_there(scene: &Scene<'_>, interconnect: &str) -> Option<String> {
    behind_our_port(scene, interconnect)?;
    let mut others = scene.totals.interconnects.iter();
    let cleared = others.any(|(other, tally)| {
        **other != *interconnect
            && scene.risk_groups.shared(interconnect, other).is_some()
            && tally.is_good(scene.at)
    });
    (!cleared).then(|| {
        format!(
            "nobody is known to be good through what leads to {interconnect}: no other interconnect shares a risk group with it and is good"
        )
    })
}

/// Whether every path through `interconnect` crosses another network.
pub fn leads_through_another(scene: &Scene<'_>, interconnect: &str) -> bool {
    let place = Place::Interconnect(interconnect.into());
    let mut votes = scene.at_place(&place).peekable();
    votes.peek().is_some() && votes.all(|vote: &Vote| !vote.cell.direct)
}
