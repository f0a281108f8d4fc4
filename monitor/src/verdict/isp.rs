//! Hypothesis 6: inside the access ISP, beyond its edge.
//!
//! Named when nearly all of its prefixes are bad through at least two direct interconnects that
//! share no risk group, each of them cleared by another ISP that is good through it at the same
//! time, or by its own port's counters. That second
//! comparison is what "peak against off-peak" of the 2014 dispute lacked.

use std::sync::Arc;

use super::access_shared;
use super::finding::{Evidence, Finding, Place};
use super::host;
use super::interconnect;
use super::ports::{self, Says};
use super::scene::{Scene, Tally};

/// Direct ways into the ISP that must agree.
pub const MIN_PATHS: usize = 2;
/// From this number on, ISPs that are bad all at once have something else in common.
const MANY_ISPS: usize = 3;

/// Inside the access ISP.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    match place {
        Place::Everything => everything(scene),
        Place::Interconnect(interconnect) => several(scene, place, interconnect),
        Place::Pair { isp, .. } if access_shared::node(scene, place).is_ok() => Finding::Rejected(
            format!("nearly all other prefixes of {isp} on the same way are good"),
        ),
        Place::Isp { isp, .. } | Place::Pair { isp, .. } => one(scene, isp),
        Place::Prefix { isp, .. } => others_good(scene, place, isp),
    }
}

fn everything(scene: &Scene<'_>) -> Finding {
    let isps = scene.totals.isps.len();
    if scene
        .local
        .is_some_and(|local| local.full(scene.at).is_some())
    {
        Finding::Rejected("a queue of our own machine is full, before any ISP".to_owned())
    } else if isps >= MANY_ISPS && host::everything_is_bad(scene) {
        Finding::Rejected(format!("all {isps} ISPs are bad at once"))
    } else {
        Finding::Open(format!("with {isps} ISPs all of them may be full"))
    }
}

/// Several ISPs behind one interconnect at once: one cause is nearer than one in each of them.
fn several(scene: &Scene<'_>, place: &Place, interconnect: &str) -> Finding {
    if let Some(why) = interconnect::part_of_bundle(scene, interconnect) {
        return Finding::Rejected(why);
    }
    let isps = scene.by_isp(interconnect);
    let bad = isps.values().filter(|tally| tally.is_bad(scene.at)).count();
    if bad >= 2 {
        Finding::Rejected(format!(
            "{bad} ISPs are bad behind {interconnect} at once: {}",
            scene.bad_isps(place).join(", ")
        ))
    } else if interconnect::same_prefixes_elsewhere(scene, interconnect).is_some() {
        Finding::Rejected("the same prefixes are good through another interconnect".to_owned())
    } else {
        Finding::Open(format!("no second ISP behind {interconnect} is settled"))
    }
}

fn one(scene: &Scene<'_>, isp: &str) -> Finding {
    // A path with too few votes neither speaks for the ISP nor against it.
    let mut paths = scene.by_interconnect(isp);
    paths.retain(|_, tally| tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp));
    if let Some((path, tally)) = paths.iter().find(|(_, tally)| tally.is_good(scene.at)) {
        return Finding::Open(format!(
            "{:.0} % of {} prefixes of {isp} are good through {path}, so not all of it is full; the part behind the other interconnect may be",
            tally.good() * 100.0,
            tally.prefixes
        ));
    }
    if let Some((path, _)) = paths.iter().find(|(_, tally)| !tally.is_bad(scene.at)) {
        return Finding::Open(format!(
            "too few prefixes of {isp} through {path} are settled"
        ));
    }
    let mut evidence = Vec::new();
    let mut direct = Vec::new();
    for (path, tally) in &paths {
        let port = ports::says(scene, path);
        if let Says::Full(port) = port {
            return Finding::Open(format!("the port of {path} was {}", ports::in_words(port)));
        }
        if !is_direct(scene, isp, path) {
            continue;
        }
        direct.push(path);
        evidence.push(share(
            "bad_prefix_share",
            path.to_string(),
            tally.bad(),
            tally,
            scene,
        ));
        let isps = scene.by_isp(path);
        if let Some((other, cleared)) = isps.iter().find(|(_, tally)| tally.is_good(scene.at)) {
            evidence.push(share(
                "good_prefix_share",
                format!("{other} through {path}"),
                cleared.good(),
                cleared,
                scene,
            ));
        } else if !port.is_clean() {
            return Finding::Open(format!("no other ISP is clearly good through {path}"));
        }
    }
    if direct.len() < MIN_PATHS {
        return Finding::Open(format!(
            "{isp} is bad through {} direct interconnect, and one does not tell it from that",
            direct.len()
        ));
    }
    if scene.risk_groups.independent(direct.iter().copied()) < MIN_PATHS {
        return Finding::Open(format!(
            "the {} direct interconnects through which {isp} is bad have something in common",
            direct.len()
        ));
    }
    Finding::Supported(evidence)
}

/// A part of one prefix: the ISP is cleared by its other prefixes on the same way.
fn others_good(scene: &Scene<'_>, place: &Place, isp: &str) -> Finding {
    if let Some(why) = interconnect::maybe_bundle(scene, place) {
        return Finding::Open(why);
    }
    let others = scene.rest.of_pair(place.interconnect(), isp);
    let tally = Tally::of(others.filter(|vote| !place.contains(&vote.cell)));
    if tally.is_good(scene.at) {
        Finding::Rejected(format!(
            "{:.0} % of {} other prefixes of {isp} on the same way are good",
            tally.good() * 100.0,
            tally.prefixes
        ))
    } else {
        Finding::Open(format!(
            "too few other prefixes of {isp} on the same way are clearly good"
        ))
    }
}

fn is_direct(scene: &Scene<'_>, isp: &str, interconnect: &Arc<str>) -> bool {
    scene
        .rest
        .of_pair(Some(interconnect), isp)
        .all(|vote| vote.cell.direct)
}

fn share(kind: &str, about: String, value: f64, tally: &Tally, scene: &Scene<'_>) -> Evidence {
    Evidence {
        kind: kind.to_owned(),
        about: Some(about),
        supports: "isp".to_owned(),
        value: Some(value),
        threshold: Some(scene.at.bad_share),
        samples: tally.prefixes,
    }
}
