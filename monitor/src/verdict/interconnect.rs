//! Hypothesis 4: our port or link to the neighbour.
//!
//! Named when nearly all prefixes of at least two ISPs behind it are bad at the same time, while
//! no ISP behind it is good, and data toward the clients is slowed. One vote a prefix, 80 %: the
//! "middle" segment of BlameIt (SIGCOMM 2019); several access networks behind one link, as in
//! M-Lab's interconnection study (2014). An ISP that may be as bad elsewhere is no witness: its
//! trouble may be its own.
//!
//! A link may be a bundle (LAG, ECMP) of which one member is full. Then a part of the clients of
//! every ISP behind it is bad, and no single client's line is to be blamed for it.

use super::finding::{Evidence, Finding, Place};
use super::forward;
use super::host;
use super::scene::{Scene, Tally, tallies};

/// ISPs that must agree.
const MIN_ISPS: usize = 2;
/// From this number on, interconnects that are bad all at once have something else in common.
const MANY_INTERCONNECTS: usize = 3;
/// A bundle of four with one bad member would have spared this many other flows with less than
/// 5 % chance: (3/4)^11 = 0.042.
const MIN_FLOWS_AGAINST_BUNDLE: u64 = 11;
/// One member of a bundle of 16, the usual limit of a LAG's hardware tables, carries twice this
/// share of the clients.
const MEMBER_SHARE: f64 = 0.03;
/// Others of the same ISP that are bad at once: two more lines may be chance, a third is less
/// likely than one cause.
const TOGETHER: usize = 2;

/// Our port or link to the neighbour.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    match (place, place.interconnect()) {
        (Place::Everything, _) => everything(scene),
        (Place::Prefix { .. }, Some(interconnect)) => one_prefix(scene, place, interconnect),
        (_, Some(interconnect)) => one_interconnect(scene, interconnect),
        (_, None) => each_cleared(scene, place),
    }
}

fn everything(scene: &Scene<'_>) -> Finding {
    let interconnects = tallies(scene.all, |cell| &cell.interconnect).len();
    if scene
        .local
        .is_some_and(|local| local.full(scene.at).is_some())
    {
        Finding::Rejected("a queue of our own machine is full, before any interconnect".to_owned())
    } else if interconnects >= MANY_INTERCONNECTS && host::everything_is_bad(scene) {
        Finding::Rejected(format!("all {interconnects} interconnects are bad at once"))
    } else {
        Finding::Open(format!(
            "with {interconnects} interconnects both may have failed, or what they share"
        ))
    }
}

fn one_interconnect(scene: &Scene<'_>, interconnect: &str) -> Finding {
    let isps = scene.by_isp(interconnect);
    if let Some((isp, tally)) = isps.iter().find(|(_, tally)| tally.is_good(scene.at)) {
        return Finding::Rejected(good_through(interconnect, isp, tally));
    }
    let witnesses: Vec<_> = isps
        .iter()
        .filter(|(isp, tally)| {
            tally.is_bad(scene.at) && !maybe_bad_elsewhere(scene, isp, interconnect)
        })
        .collect();
    if witnesses.len() < MIN_ISPS {
        return Finding::Open(match witnesses.first() {
            Some((isp, _)) => format!(
                "{isp} alone is bad behind {interconnect}, and no other ISP behind it is clearly good"
            ),
            None => format!("too few prefixes behind {interconnect} are settled"),
        });
    }
    if let Some((isp, tally)) = isps.iter().find(|(_, tally)| {
        tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp) && !tally.is_bad(scene.at)
    }) {
        return Finding::Open(format!(
            "only {:.0} % of {} prefixes of {isp} behind {interconnect} are bad",
            tally.bad() * 100.0,
            tally.prefixes
        ));
    }
    let place = Place::Interconnect(interconnect.into());
    let clients: Vec<_> = scene.bad_clients(&place).collect();
    let Some(forward) = forward::evidence(clients.iter().copied(), "interconnect") else {
        return Finding::Open(format!(
            "the RTT through {interconnect} grew, but neither losses nor marks nor the rate toward the clients"
        ));
    };
    let mut evidence: Vec<Evidence> = witnesses
        .iter()
        .map(|(isp, tally)| Evidence {
            kind: "bad_prefix_share".to_owned(),
            about: Some(isp.to_string()),
            supports: "interconnect".to_owned(),
            value: Some(tally.bad()),
            threshold: Some(scene.at.bad_share),
            samples: tally.prefixes,
        })
        .collect();
    evidence.push(forward);
    Finding::Supported(evidence)
}

/// Whether the ISP could be as bad behind another interconnect, if all that is unsettled there
/// were bad.
fn maybe_bad_elsewhere(scene: &Scene<'_>, isp: &str, interconnect: &str) -> bool {
    scene.by_interconnect(isp).iter().any(|(other, tally)| {
        **other != *interconnect
            && tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp)
            && 1.0 - tally.good() >= scene.at.bad_share
    })
}

/// Several interconnects: each of them cleared by somebody who is good through it.
fn each_cleared(scene: &Scene<'_>, place: &Place) -> Finding {
    let mut reasons = Vec::new();
    for interconnect in scene.bad_interconnects(place) {
        let isps = scene.by_isp(&interconnect);
        match isps.iter().find(|(_, tally)| tally.is_good(scene.at)) {
            Some((isp, tally)) => reasons.push(good_through(&interconnect, isp, tally)),
            None => {
                return Finding::Open(format!(
                    "no other ISP is clearly good through {interconnect}"
                ));
            }
        }
    }
    Finding::Rejected(reasons.join("; "))
}

/// A part of one prefix: the link is cleared by all others that cross it, unless a part of a
/// bundle could have hit just this client.
fn one_prefix(scene: &Scene<'_>, place: &Place, interconnect: &str) -> Finding {
    let others: Vec<_> = scene
        .rest
        .iter()
        .copied()
        .filter(|vote| &*vote.cell.interconnect == interconnect && !place.contains(&vote.cell))
        .collect();
    let tally = Tally::of(others.iter().copied());
    if !tally.is_good(scene.at) {
        return Finding::Open(format!(
            "too few other prefixes through {interconnect} are clearly good"
        ));
    }
    if let Some(why) = maybe_bundle(scene, place) {
        return Finding::Open(why);
    }
    // A full member would have made its flows bad, not merely unsettled.
    let spared_flows: u64 = others
        .iter()
        .flat_map(|vote| &vote.clients)
        .filter(|client| client.track.bad_windows == 0)
        .map(|client| client.observations)
        .sum();
    if spared_flows < MIN_FLOWS_AGAINST_BUNDLE {
        return Finding::Open(format!(
            "only {spared_flows} other flows through {interconnect} are not bad: too few to exclude one member of a bundle"
        ));
    }
    Finding::Rejected(format!(
        "{:.0} % of {} other prefixes through {interconnect} are good, {spared_flows} flows not bad",
        tally.good() * 100.0,
        tally.prefixes
    ))
}

/// Why a full member of a bundle, ours or the ISP's, may be what hits one prefix: it would hit a
/// few clients of many prefixes, of several ISPs if it is ours.
pub fn maybe_bundle(scene: &Scene<'_>, place: &Place) -> Option<String> {
    let (Place::Prefix { .. }, Some(interconnect)) = (place, place.interconnect()) else {
        return None;
    };
    // An ISP that is bad as a whole is no part of a bundle, but the subject of another verdict.
    let wholly_bad: Vec<_> = tallies(
        scene
            .all
            .iter()
            .filter(|vote| vote.cell.interconnect == *interconnect),
        |cell| &cell.isp,
    )
    .into_iter()
    .filter(|(_, tally)| tally.is_bad(scene.at))
    .collect();
    let others = || {
        scene.all.iter().filter(|vote| {
            vote.cell.interconnect == *interconnect
                && !place.contains(&vote.cell)
                && !wholly_bad.iter().any(|(isp, _)| *isp == vote.cell.isp)
        })
    };
    let (mut bad, mut all) = (0_usize, 0_usize);
    for vote in others() {
        bad += vote.clients.iter().filter(|client| client.is_bad()).count();
        all += vote.clients.len();
    }
    let elsewhere = others().any(|vote| vote.has_bad() && place.isp() != Some(&vote.cell.isp));
    let together = elsewhere || bad >= TOGETHER;
    (together && bad as f64 >= MEMBER_SHARE * all as f64).then(|| {
        format!(
            "{bad} of {all} other clients behind {interconnect} are bad too: one member of a bundle would do that"
        )
    })
}

fn good_through(interconnect: &str, isp: &str, tally: &Tally) -> String {
    format!(
        "{:.0} % of {} prefixes of {isp} are good through {interconnect}",
        tally.good() * 100.0,
        tally.prefixes
    )
}
