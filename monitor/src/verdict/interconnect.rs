//! Hypothesis 4: our port or link to the neighbour.
//!
//! Named when nearly all prefixes of at least two ISPs behind it are bad at the same time, while
//! no ISP behind it is good, and data toward the clients is slowed. One vote a prefix, 80 %: the
//! "middle" segment of BlameIt (SIGCOMM 2019); several access networks behind one link, as in
//! M-Lab's interconnection study (2014). An ISP that may be as bad elsewhere is no witness: its
//! trouble may be its own.
//!
//! Its own port's counters may do instead of a second ISP: a port that is full or drops, as much as
//! the clients behind it suffer, while they are bad nowhere else ([`ports`]). A port that has room
//! contradicts a queue there, and then nobody is named. Interconnects that share a risk group are
//! one when they are bad together: what they share may be at fault, and that may be ours.
//!
//! A link may be a bundle (LAG, ECMP) of which one member is full. Then a part of the clients of
//! every ISP behind it is bad, and no single client's line is to be blamed for it.

use std::sync::Arc;

use super::access_shared;
use super::elsewhere;
use super::finding::{Evidence, Finding, Place};
use super::forward;
use super::host;
use super::ports::{self, Says};
use super::scene::{Client, Scene, Tally};
use super::standing::{AT_ONCE_WINDOWS, MEMBER_SHARE};
use super::transit;
use super::votes::Settled;

/// ISPs that must agree.
pub const MIN_ISPS: usize = 2;
/// From this number on, interconnects that are bad all at once have something else in common.
const MANY_INTERCONNECTS: usize = 3;
/// One damaged link loses packets that its port has sent, and two may be on one card; that three are
/// damaged at once is no chance.
const MIN_CLEAN_PORTS: usize = 3;
/// A bundle of four with one bad member would have spared this many other flows with less than
/// 5 % chance: (3/4)^11 = 0.042.
const MIN_FLOWS_AGAINST_BUNDLE: u64 = 11;
/// With one bad member of two, half of the clients are bad, and chance moves that.
const MOST_OF_BUNDLE: f64 = 0.7;
/// Bad clients that make a part; fewer may be as many homes.
const MIN_MEMBER_CLIENTS: u64 = 3;
/// Nobody bad where so many are expected happens by chance in one of twenty cases (Poisson).
const IMPROBABLE: f64 = 3.0;
/// How much more often clients are bad behind a bad bundle than elsewhere.
const SPECIFIC: f64 = 3.0;
/// Others of the same ISP that are bad at once: two more lines may be chance, a third is less
/// likely than one cause.
const TOGETHER: usize = 2;

/// Whether it may be named at all: its port is full, or there are as many ISPs behind it of which
/// nearly all are bad as must agree. Quickly answered, for interconnects of which there is nothing
/// to say.
pub fn may_be_named(scene: &Scene<'_>, interconnect: &str) -> bool {
    ports::says(scene, interconnect).is_full()
        || may_have_witnesses(scene, interconnect)
        || may_have_twins(scene, interconnect)
}

/// Whether every ISP behind it is bad, and there is another interconnect to compare with.
fn may_have_twins(scene: &Scene<'_>, interconnect: &str) -> bool {
    let counted = |tally: &Tally| tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp);
    let is_bad = |tally: &Tally| tally.is_bad(scene.at);
    let bad = scene.rest.count_isps(interconnect, is_bad);
    scene.totals.interconnects.len() >= 2
        && bad > 0
        && bad == scene.rest.count_isps(interconnect, counted)
}

fn may_have_witnesses(scene: &Scene<'_>, interconnect: &str) -> bool {
    let is_bad = |tally: &Tally| tally.is_bad(scene.at);
    scene.rest.count_isps(interconnect, is_bad) >= MIN_ISPS
}

/// Our port or link to the neighbour.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    match (place, place.interconnect()) {
        (Place::Everything, _) => everything(scene),
        (Place::Prefix { .. }, Some(interconnect)) => one_prefix(scene, place, interconnect),
        (_, Some(interconnect)) => {
            if let Some(why) = part_of_pair(scene, place) {
                Finding::Open(why)
            } else if access_shared::node(scene, place).is_ok() {
                Finding::Rejected(format!(
                    "other prefixes of the same ISP are good through {interconnect}"
                ))
            } else {
                one_interconnect(scene, interconnect)
            }
        }
        (_, None) => each_cleared(scene, place),
    }
}

fn everything(scene: &Scene<'_>) -> Finding {
    let names = scene.totals.interconnects.keys();
    let interconnects = scene.risk_groups.independent(names);
    if scene
        .local
        .is_some_and(|local| local.full(scene.at).is_some())
    {
        Finding::Rejected("a queue of our own machine is full, before any interconnect".to_owned())
    } else if interconnects >= MANY_INTERCONNECTS && host::everything_is_bad(scene) {
        Finding::Rejected(format!("all {interconnects} interconnects are bad at once"))
    } else if interconnects >= MIN_CLEAN_PORTS && every_port_is_clean(scene) {
        Finding::Rejected(format!(
            "the ports of all {interconnects} interconnects have room and drop nothing"
        ))
    } else {
        Finding::Open(format!(
            "with {interconnects} interconnects both may have failed, or what they share"
        ))
    }
}

fn every_port_is_clean(scene: &Scene<'_>) -> bool {
    let mut names = scene.totals.interconnects.keys();
    names.all(|name| ports::says(scene, name).is_clean())
}

fn one_interconnect(scene: &Scene<'_>, interconnect: &str) -> Finding {
    let isps = scene.by_isp(interconnect);
    let port = ports::says(scene, interconnect);
    if let Some(why) = part_of_bundle(scene, interconnect) {
        return Finding::Open(why);
    }
    // Also one that an earlier verdict was partly about.
    let everybody = scene.all.by_isp(interconnect);
    if let Some((isp, tally)) = everybody.iter().find(|(_, tally)| tally.is_good(scene.at)) {
        let why = good_through(interconnect, isp, tally);
        return match port {
            Says::Full(port) => Finding::Open(format!(
                "its port was {}, although {why}",
                ports::in_words(port)
            )),
            _ => Finding::Rejected(why),
        };
    }
    let contradiction = match by_port(scene, interconnect) {
        Ok(evidence) => return Finding::Supported(evidence),
        Err(why) => why,
    };
    let place = Place::Interconnect(interconnect.into());
    let clients: Vec<&Client> = scene.bad_clients(&place).collect();
    let witnesses = witnesses(scene, interconnect);
    if witnesses.len() < MIN_ISPS {
        if let Some(why) = ports::clears(scene, interconnect, &clients) {
            return Finding::Rejected(why);
        }
        if let Some(evidence) = same_prefixes_elsewhere(scene, interconnect) {
            return Finding::Supported(evidence);
        }
        return Finding::Open(match (contradiction, witnesses.first()) {
            (Some(why), _) => why,
            (None, Some((isp, _))) => format!(
                "{isp} alone is bad behind {interconnect}, and no other ISP behind it is clearly good"
            ),
            (None, None) => format!("too few prefixes behind {interconnect} are settled"),
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
    if let Some(why) = ports::clears(scene, interconnect, &clients) {
        let why = format!("{} ISPs are bad behind it, but {why}", witnesses.len());
        // Another network begins behind the port. Where the ISP does, something does not add up.
        return match transit::leads_through_another(scene, interconnect) {
            true => Finding::Rejected(why),
            false => Finding::Open(why),
        };
    }
    if let Some(why) = shared_fault(scene, interconnect) {
        return Finding::Open(why);
    }
    let Some(forward) = forward::evidence(clients.iter().copied(), "interconnect") else {
        return Finding::Open(format!(
            "the RTT through {interconnect} grew, but neither losses nor marks nor the rate toward the clients"
        ));
    };
    let mut evidence: Vec<Evidence> = witnesses
        .iter()
        .map(|(isp, tally)| bad_share(isp, tally, scene))
        .collect();
    evidence.push(forward);
    Finding::Supported(evidence)
}

/// Whether every ISP with enough prefixes behind it is bad, and all of them together. What an earlier
/// verdict explained, or set aside, is there too: who is good stays good.
pub fn everybody_behind_is_bad(scene: &Scene<'_>, interconnect: &str) -> bool {
    let isps = scene.all.by_isp(interconnect);
    let counted = |tally: &&Tally| tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp);
    let mut tallies = isps.values().filter(counted).peekable();
    let whole = Place::Interconnect(interconnect.into());
    tallies.peek().is_some()
        && tallies.all(|tally: &Tally| tally.is_bad(scene.at))
        && Tally::of(scene.all.at(&whole)).is_bad(scene.at)
}

/// What shows that the prefixes behind it are good through another interconnect at the same time, where
/// that names it: every ISP behind it is bad, and data toward the clients is slowed.
pub fn same_prefixes_elsewhere(scene: &Scene<'_>, interconnect: &str) -> Option<Vec<Evidence>> {
    if !everybody_behind_is_bad(scene, interconnect) || shared_fault(scene, interconnect).is_some()
    {
        return None;
    }
    let place = Place::Interconnect(interconnect.into());
    let clients: Vec<&Client> = scene.bad_clients(&place).collect();
    let forward = forward::evidence(clients.iter().copied(), "interconnect")?;
    let mut evidence = elsewhere::good_elsewhere(scene, interconnect)?;
    evidence.push(forward);
    Some(evidence)
}

/// The ISPs that are bad behind it and cannot be as bad elsewhere.
pub fn witnesses(scene: &Scene<'_>, interconnect: &str) -> Vec<(Arc<str>, Tally)> {
    scene
        .by_isp(interconnect)
        .into_iter()
        .filter(|(isp, tally)| {
            let is_excused = |other: &str| scene.risk_groups.shared(interconnect, other).is_some();
            tally.is_bad(scene.at) && !maybe_bad_elsewhere(scene, isp, interconnect, &is_excused)
        })
        .collect()
}

/// The port's own evidence, where that alone names the interconnect: it is full or drops, enough
/// for what the clients suffer; nearly everybody behind it is bad, and nobody may be as bad
/// behind another interconnect whose port is not full too.
///
/// # Errors
/// What speaks against it, where the port says anything at all.
pub fn by_port(scene: &Scene<'_>, interconnect: &str) -> Result<Vec<Evidence>, Option<String>> {
    let Says::Full(port) = ports::says(scene, interconnect) else {
        return Err(None);
    };
    let words = ports::in_words(port);
    if scene
        .local
        .is_some_and(|local| local.full(scene.at).is_some())
    {
        return Err(Some(format!(
            "its port was {words}, but a queue of our own machine is full before it"
        )));
    }
    let isps = scene.by_isp(interconnect);
    let counted = |tally: &Tally| tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp);
    let spared = isps
        .iter()
        .find(|(_, tally)| counted(tally) && !tally.is_bad(scene.at));
    if let Some((isp, tally)) = spared {
        return Err(Some(format!(
            "its port was {words}, but only {:.0} % of {} prefixes of {isp} behind it are bad",
            tally.bad() * 100.0,
            tally.prefixes
        )));
    }
    let place = Place::Interconnect(interconnect.into());
    let all = Tally::of(scene.at_place(&place));
    if !all.is_bad(scene.at) || !isps.values().any(counted) {
        return Err(Some(format!(
            "its port was {words}, but too few prefixes behind it are settled as bad"
        )));
    }
    let is_full = |other: &str| ports::says(scene, other).is_full();
    let elsewhere = isps
        .keys()
        .find(|isp| maybe_bad_elsewhere(scene, isp, interconnect, &is_full));
    if let Some(isp) = elsewhere {
        return Err(Some(format!(
            "its port was {words}, but {isp} may be as bad behind another interconnect"
        )));
    }
    let clients: Vec<&Client> = scene.bad_clients(&place).collect();
    if let Err(why) = ports::explains(port, &clients, scene.at) {
        return Err(Some(format!("its port was {words}, but {why}")));
    }
    let mut evidence = ports::evidence(port, interconnect, "interconnect", scene.at);
    evidence.extend(isps.iter().map(|(isp, tally)| bad_share(isp, tally, scene)));
    Ok(evidence)
}

/// There is one interconnect only, everything is bad, and its port says why.
pub fn one_full_port_explains_all(scene: &Scene<'_>) -> bool {
    let mut names = scene.totals.interconnects.keys();
    match (names.next(), names.next()) {
        (Some(name), None) => by_port(scene, name).is_ok(),
        _ => false,
    }
}

/// Another interconnect with which it shares a risk group may be as bad.
pub fn shared_fault(scene: &Scene<'_>, interconnect: &str) -> Option<String> {
    scene
        .totals
        .interconnects
        .iter()
        .filter(|(other, tally)| {
            ***other != *interconnect
                && tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp)
                && 1.0 - tally.good() >= scene.at.bad_share
        })
        .find_map(|(other, _)| {
            let group = scene.risk_groups.shared(interconnect, other)?;
            Some(format!(
                "{other}, which shares {group} with {interconnect}, may be as bad: what they share may be at fault"
            ))
        })
}

/// Whether enough ISPs are bad behind it to name it, if its own port or others of its risk group
/// did not raise the question what it is.
pub fn is_contested(scene: &Scene<'_>, interconnect: &str) -> bool {
    let place = Place::Interconnect(interconnect.into());
    if !may_have_witnesses(scene, interconnect) {
        return false;
    }
    let clients: Vec<&Client> = scene.bad_clients(&place).collect();
    let is_good = |tally: &Tally| tally.is_good(scene.at);
    witnesses(scene, interconnect).len() >= MIN_ISPS
        && !scene.by_isp(interconnect).values().any(is_good)
        && (shared_fault(scene, interconnect).is_some()
            || (!transit::leads_through_another(scene, interconnect)
                && ports::clears(scene, interconnect, &clients).is_some()))
}

/// Whether the ISP could be as bad behind another interconnect, if all that is unsettled there
/// were bad. Those that `is_excused` do not count.
fn maybe_bad_elsewhere(
    scene: &Scene<'_>,
    isp: &str,
    interconnect: &str,
    is_excused: &dyn Fn(&str) -> bool,
) -> bool {
    scene
        .unnamed_by_interconnect(isp)
        .iter()
        .any(|(other, tally)| {
            **other != *interconnect
                && !is_excused(other)
                && tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp)
                && 1.0 - tally.good() >= scene.at.bad_share
        })
}

fn bad_share(isp: &str, tally: &Tally, scene: &Scene<'_>) -> Evidence {
    Evidence {
        kind: "bad_prefix_share".to_owned(),
        about: Some(isp.to_owned()),
        supports: "interconnect".to_owned(),
        value: Some(tally.bad()),
        threshold: Some(scene.at.bad_share),
        samples: tally.prefixes,
    }
}

/// Several interconnects: each of them cleared by somebody who is good through it, or by its own
/// port.
fn each_cleared(scene: &Scene<'_>, place: &Place) -> Finding {
    let mut reasons = Vec::new();
    for interconnect in scene.bad_interconnects(place) {
        if let Says::Full(port) = ports::says(scene, &interconnect) {
            return Finding::Open(format!(
                "the port of {interconnect} was {}",
                ports::in_words(port)
            ));
        }
        let isps = scene.by_isp(&interconnect);
        if let Some((isp, tally)) = isps.iter().find(|(_, tally)| tally.is_good(scene.at)) {
            reasons.push(good_through(&interconnect, isp, tally));
        } else if let Says::Clean(port) = ports::says(scene, &interconnect) {
            reasons.push(format!(
                "the port of {interconnect} was {}",
                ports::in_words(port)
            ));
        } else {
            return Finding::Open(format!(
                "no other ISP is clearly good through {interconnect}"
            ));
        }
    }
    Finding::Rejected(reasons.join("; "))
}

/// A part of one prefix: the link is cleared by all others that cross it, unless a part of a
/// bundle could have hit just this client.
fn one_prefix(scene: &Scene<'_>, place: &Place, interconnect: &str) -> Finding {
    let whole = Place::Interconnect(interconnect.into());
    let others: Vec<_> = scene
        .at_place(&whole)
        .filter(|vote| !place.contains(&vote.cell))
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
    if let Says::Full(port) = ports::says(scene, interconnect) {
        return Finding::Open(format!("its port was {}", ports::in_words(port)));
    }
    // A full member would have made its flows bad, not merely unsettled.
    let spared_flows: u64 = others
        .iter()
        .flat_map(|vote| vote.clients.iter())
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

/// Why a full member of a bundle of ours may be what hits clients behind it: about the same share
/// of the clients of several ISPs is bad, and hardly anybody behind other interconnects.
///
/// Flows are spread over the members by a hash of their addresses and ports (IEEE 802.1AX), so that
/// a member has its share of everybody.
pub fn part_of_bundle(scene: &Scene<'_>, interconnect: &str) -> Option<String> {
    let (isps, elsewhere) = scene.rest.settled(interconnect);
    let mut here = Settled::default();
    isps.iter().for_each(|isp| here.add(*isp));
    let affected = isps.iter().filter(|isp| isp.bad > 0).count();
    let share = here.share();
    let is_alike = isps.iter().all(|isp| {
        let expected = share * (isp.bad + isp.good) as f64;
        (isp.bad > 0 || expected < IMPROBABLE) && (isp.good > 0 || expected >= isp.bad as f64 / 2.0)
    });
    let is_its_own = elsewhere.bad == 0 || elsewhere.share() * SPECIFIC <= share;
    let is_part =
        here.bad >= MIN_MEMBER_CLIENTS && (MEMBER_SHARE..=MOST_OF_BUNDLE).contains(&share);
    (affected >= MIN_ISPS && is_part && is_alike && is_its_own).then(|| {
        format!(
            "{} of {} settled clients of {affected} ISPs behind {interconnect} are bad, about as many of each: one member of a bundle would do that",
            here.bad,
            here.bad + here.good
        )
    })
}

/// Why a full member of a bundle of ours may be what hits a part of one ISP's clients: a part of single
/// prefixes, and no others behind the interconnect would have to be hit with them. That most of its
/// prefixes are good clears nothing then.
pub fn part_of_pair(scene: &Scene<'_>, place: &Place) -> Option<String> {
    let Place::Pair {
        interconnect, isp, ..
    } = place
    else {
        return None;
    };
    let mut here = Settled::default();
    let mut is_mixed = false;
    // Those of whom only a set was said may have the same trouble.
    for vote in scene.unnamed.at(place) {
        let of = Settled::of(vote);
        is_mixed |= of.bad > 0 && of.good > 0;
        here.add(of);
    }
    let mut others = Settled::default();
    let (isps, _) = scene.unnamed.settled(interconnect);
    isps.iter().for_each(|isp| others.add(*isp));
    others.remove(here);
    let share = here.share();
    let is_part =
        here.bad >= MIN_MEMBER_CLIENTS && (MEMBER_SHARE..=MOST_OF_BUNDLE).contains(&share);
    let spared = others.bad == 0 && share * others.good as f64 >= IMPROBABLE;
    (is_mixed && is_part && !spared).then(|| {
        format!(
            "{} of {} settled clients of {isp} behind {interconnect} are bad: one member of a bundle would do that",
            here.bad,
            here.bad + here.good
        )
    })
}

/// Why a full member of a bundle, ours or the ISP's, may be what hits one prefix: it would hit a
/// few clients of many prefixes, of several ISPs if it is ours.
pub fn maybe_bundle(scene: &Scene<'_>, place: &Place) -> Option<String> {
    let (Place::Prefix { .. }, Some(interconnect)) = (place, place.interconnect()) else {
        return None;
    };
    // An ISP that is bad as a whole is no part of a bundle, but the subject of another verdict.
    let mut wholly_bad = scene.all.by_isp(interconnect);
    wholly_bad.retain(|_, tally| tally.is_bad(scene.at));
    let whole = Place::Interconnect(Arc::clone(interconnect));
    let others = || {
        scene
            .all
            .at(&whole)
            .filter(|vote| !place.contains(&vote.cell) && !wholly_bad.contains_key(&vote.cell.isp))
    };
    let (mut bad, mut all) = (0_usize, 0_usize);
    for vote in others() {
        // One bad window is enough for doubt, though not for blame.
        let ailing = |client: &&Client| client.is_bad() || client.track.onset().is_some();
        bad += vote.clients.iter().filter(ailing).count();
        all += vote.clients.len();
    }
    let elsewhere = others().any(|vote| vote.has_bad() && place.isp() != Some(&vote.cell.isp));
    let together = elsewhere || bad >= TOGETHER;
    if together && bad as f64 >= MEMBER_SHARE * all as f64 {
        return Some(format!(
            "{bad} of {all} other clients behind {interconnect} are bad too: one member of a bundle would do that"
        ));
    }
    // Two lines that fail in the same minute are less likely than one cause.
    let onsets: Vec<u64> = scene
        .bad_clients(place)
        .filter_map(|client| client.track.onset())
        .collect();
    let at_once = others()
        .flat_map(|vote| vote.clients.iter())
        .filter_map(|client| client.track.onset())
        .filter(|onset| {
            let near = |own: &u64| own.abs_diff(*onset) <= AT_ONCE_WINDOWS;
            onsets.iter().any(near)
        })
        .count();
    if at_once > 0 && at_once as f64 >= MEMBER_SHARE * all as f64 {
        return Some(format!(
            "{at_once} of {all} other clients behind {interconnect} became bad at the same time: one member of a bundle would do that"
        ));
    }
    let began = |client: &Client| client.track.began_with_others();
    scene.bad_clients(place).any(began).then(|| {
        format!(
            "others behind {interconnect}, silent now, became bad at the same time: one member of a bundle would do that"
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
