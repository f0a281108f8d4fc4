//! From the votes of one window to verdicts.
//!
//! Each hypothesis is a file and a pure function that answers, for one *place*, whether it is
//! supported, still open, or rejected ([`Finding`]). What a verdict says is the set of all that
//! is not rejected: one name only when one remains, and an absent comparison never rejects
//! anything. The decision order only chooses the places, widest first; what one verdict explains
//! is set aside, and the rest goes on, so that two faults give two verdicts:
//!
//! 0. *degraded at all?* ([`degraded`], [`standing`]); 1. *enough to say anything?*
//! 2. [`sender_limited`], [`receiver_limited`]; 3. [`host`]; 4. [`interconnect`]; 6. [`isp`];
//! 8. [`last_mile`], one prefix at a time; 10. what is left, as a set, by interconnect and ISP.

pub mod access_shared;
pub mod behind_proxy;
pub mod degraded;
mod finding;
mod forward;
pub mod host;
pub mod interconnect;
pub mod isp;
pub mod last_mile;
pub mod receiver_limited;
pub mod reverse_path;
pub mod scene;
pub mod sender_limited;
pub mod standing;
pub mod transit;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use finding::{
    Alternative, Evidence, Finding, Inconclusive, Limit, Mechanism, Place, Segment, Verdict,
    log_name,
};
pub use host::{DeviceCounters, LocalCounters};
pub use scene::{Client, Scene, Tally, Vote};

use crate::config::Thresholds;
use crate::flow::baseline::Moments;

/// What came together in one window.
#[derive(Clone, Debug, Default)]
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
    /// Reports that were lost, as a share of all.
    pub missed_share: f64,
}

/// Part of the bad clients that a limit must explain to be the answer.
const LIMIT_EXPLAINS: f64 = 0.8;

/// The verdicts of one window: at least one.
pub fn decide(window: &Window, local: Option<&LocalCounters>, at: &Thresholds) -> Vec<Verdict> {
    if let Some(reason) = inconclusive(window, at) {
        return vec![reason];
    }
    let bad: Vec<&Client> = bad_clients(&window.votes).collect();
    if bad.is_empty() {
        return vec![none(window, at)];
    }

    let mut verdicts = Vec::new();
    let (votes, limited) = set_limited_aside(&window.votes);
    let enough = limited.len() as f64 >= LIMIT_EXPLAINS * bad.len() as f64;
    if enough {
        verdicts.push(limits(window, &limited));
    }
    let mut rest: Vec<&Vote> = votes.iter().collect();
    while let Some(place) = next_place(&votes, &rest, local, at) {
        let scene = Scene {
            all: &votes,
            rest: &rest,
            local,
            at,
        };
        let mut verdict = conclude(&scene, place.clone());
        verdict
            .rejected
            .extend(rejected_limits(&limited, &bad, enough));
        verdicts.push(verdict);
        rest.retain(|vote| !place.contains(&vote.cell));
    }
    if verdicts.is_empty() {
        // Some limit holds for a few clients only, and nothing else is bad.
        verdicts.push(none(window, at));
    }
    verdicts
}

/// The widest place that explains something, in the decision order; `None` when nothing bad is
/// left.
fn next_place(
    all: &[Vote],
    rest: &[&Vote],
    local: Option<&LocalCounters>,
    at: &Thresholds,
) -> Option<Place> {
    let scene = Scene {
        all,
        rest,
        local,
        at,
    };
    let bad = rest.iter().find(|vote| vote.has_bad())?;
    if rest.len() == all.len() && host::everything_is_bad(&scene) {
        return Some(Place::Everything);
    }
    let everything = Place::Everything;
    for interconnect in scene.bad_interconnects(&everything) {
        let place = Place::Interconnect(interconnect);
        if matches!(interconnect::examine(&scene, &place), Finding::Supported(_)) {
            return Some(place);
        }
    }
    for isp in scene.bad_isps(&everything) {
        let place = isp_place(rest, &isp)?;
        if matches!(isp::examine(&scene, &place), Finding::Supported(_)) {
            return Some(place);
        }
    }
    for vote in rest.iter().filter(|vote| vote.has_bad()) {
        let place = prefix_place(vote);
        if matches!(last_mile::examine(&scene, &place), Finding::Supported(_)) {
            return Some(place);
        }
    }
    Some(Place::Pair {
        interconnect: Arc::clone(&bad.cell.interconnect),
        isp: Arc::clone(&bad.cell.isp),
        origin_asn: bad.cell.origin_asn,
    })
}

fn isp_place(votes: &[&Vote], isp: &Arc<str>) -> Option<Place> {
    let vote = votes.iter().find(|vote| vote.cell.isp == *isp)?;
    Some(Place::Isp {
        isp: Arc::clone(isp),
        origin_asn: vote.cell.origin_asn,
    })
}

fn prefix_place(vote: &Vote) -> Place {
    Place::Prefix {
        interconnect: Arc::clone(&vote.cell.interconnect),
        isp: Arc::clone(&vote.cell.isp),
        origin_asn: vote.cell.origin_asn,
        prefix: vote.cell.prefix,
    }
}

/// Asks every hypothesis about `place`.
fn conclude(scene: &Scene<'_>, place: Place) -> Verdict {
    let clients: Vec<&Client> = scene.bad_clients(&place).collect();
    let mut verdict = Verdict {
        degraded: Some(true),
        mechanisms: mechanisms(&clients),
        partial: interconnect::maybe_bundle(scene, &place).is_some(),
        confidence: confidence(scene, &place),
        evidence: symptoms(&clients),
        observations: clients.iter().map(|client| client.observations).sum(),
        ..Verdict::about(place)
    };
    for segment in Segment::ALL {
        let finding = examine(segment, scene, &verdict.place);
        let alternative = |why| Alternative {
            segment: Some(segment),
            limit: None,
            why,
        };
        match finding {
            Finding::Supported(evidence) => {
                verdict.segments.insert(segment);
                verdict.evidence.extend(evidence);
            }
            Finding::Open(why) => {
                verdict.segments.insert(segment);
                verdict.open.push(alternative(why));
            }
            Finding::Rejected(why) => verdict.rejected.push(alternative(why)),
        }
    }
    verdict
}

fn examine(segment: Segment, scene: &Scene<'_>, place: &Place) -> Finding {
    match segment {
        Segment::Host => host::examine(scene, place),
        Segment::OwnNetwork => host::examine_own_network(scene, place),
        Segment::Interconnect => interconnect::examine(scene, place),
        Segment::Transit => transit::examine(scene, place),
        Segment::Isp => isp::examine(scene, place),
        Segment::AccessShared => access_shared::examine(scene, place),
        Segment::LastMile => last_mile::examine(scene, place),
        Segment::ReversePath => reverse_path::examine(scene, place),
        Segment::BehindProxy => behind_proxy::examine(scene, place),
    }
}

fn bad_clients(votes: &[Vote]) -> impl Iterator<Item = &Client> {
    votes
        .iter()
        .flat_map(|vote| &vote.clients)
        .filter(|client| client.is_bad())
}

/// How the bad clients are slowed: what at least half of them show.
fn mechanisms(clients: &[&Client]) -> BTreeSet<Mechanism> {
    let half = |holds: fn(&&&Client) -> bool| {
        2 * clients.iter().filter(holds).count() >= clients.len().max(1)
    };
    let mut mechanisms = BTreeSet::new();
    if half(|client| client.signs.queue) {
        mechanisms.insert(Mechanism::Queue);
    }
    if half(|client| client.signs.loss && !client.signs.queue) {
        mechanisms.insert(Mechanism::Loss);
    }
    if half(|client| client.signs.ce) {
        mechanisms.insert(Mechanism::CeMarks);
    }
    mechanisms
}

/// By how much the bad clients are worse than usual, on the average.
fn symptoms(clients: &[&Client]) -> Vec<Evidence> {
    type Pick = fn(&Client) -> Option<degraded::Sign>;
    let kinds: [(&str, Pick); 4] = [
        ("queue_excess_us", |client| client.comparison.rtt),
        ("loss_excess_share", |client| client.comparison.loss),
        ("ce_excess_share", |client| client.comparison.ce),
        ("rate_drop_share", |client| client.comparison.rate),
    ];
    let mut evidence = Vec::new();
    for (kind, pick) in kinds {
        let (mut excess, mut threshold) = (Moments::default(), Moments::default());
        for sign in clients.iter().filter_map(|client| pick(client)) {
            excess.push(Some(sign.excess));
            threshold.push(Some(sign.threshold));
        }
        if excess.count > 0 {
            evidence.push(Evidence {
                kind: kind.to_owned(),
                supports: "degraded".to_owned(),
                value: Some(excess.mean),
                threshold: Some(threshold.mean),
                samples: excess.count,
            });
        }
    }
    evidence
}

/// How much of what was seen agrees with the verdict: prefixes inside the place that are bad,
/// prefixes outside of it that are good, by Laplace's rule of succession. For one prefix both
/// its bad and its good clients agree.
fn confidence(scene: &Scene<'_>, place: &Place) -> f64 {
    let one_prefix = place.prefix().is_some();
    let agreeing: f64 = scene
        .rest
        .iter()
        .map(|vote| match place.contains(&vote.cell) {
            true if one_prefix => vote.bad() + vote.good(),
            true => vote.bad(),
            false => vote.good(),
        })
        .sum();
    laplace(agreeing, scene.rest.len())
}

fn laplace(agreeing: f64, all: usize) -> f64 {
    (agreeing + 1.0) / (all as f64 + 2.0)
}

/// The votes without the clients that limit themselves, and these clients.
fn set_limited_aside(votes: &[Vote]) -> (Vec<Vote>, Vec<(Limit, &Client)>) {
    let mut limited = Vec::new();
    let mut kept = Vec::new();
    for vote in votes {
        let mut clients = Vec::new();
        for client in &vote.clients {
            if receiver_limited::holds(client) {
                limited.push((receiver_limited::LIMIT, client));
            } else if sender_limited::holds(client) {
                limited.push((sender_limited::LIMIT, client));
            } else {
                clients.push(client.clone());
            }
        }
        if !clients.is_empty() {
            kept.push(Vote {
                clients,
                ..vote.clone()
            });
        }
    }
    (kept, limited)
}

/// Nearly everybody who is slow holds himself back, or is held back by us.
fn limits(window: &Window, limited: &[(Limit, &Client)]) -> Verdict {
    let clients: Vec<&Client> = limited.iter().map(|(_, client)| *client).collect();
    let limits: BTreeSet<Limit> = limited.iter().map(|(limit, _)| *limit).collect();
    let mut evidence = symptoms(&clients);
    for limit in &limits {
        let of_limit = || limited.iter().filter(|(other, _)| other == limit);
        let count = of_limit().count();
        let mean = |pick: fn(&Client) -> f64| {
            Some(of_limit().map(|(_, client)| pick(client)).sum::<f64>() / count.max(1) as f64)
        };
        for (kind, value, threshold) in [
            ("idle_share", mean(|client| client.idle_share), None),
            (
                "receive_window_full_share",
                mean(|client| client.rwnd_limited_share),
                Some(receiver_limited::WINDOW_FULL_SHARE),
            ),
        ] {
            evidence.push(Evidence {
                kind: kind.to_owned(),
                supports: log_name(limit),
                value,
                threshold,
                samples: count as u64,
            });
        }
    }
    let bad = bad_clients(&window.votes).count();
    let rejected = Segment::ALL.into_iter().map(|segment| Alternative {
        segment: Some(segment),
        limit: None,
        why: "RTT, losses and marks are as usual".to_owned(),
    });
    Verdict {
        degraded: Some(true),
        rejected: rejected.collect(),
        limits,
        confidence: laplace(limited.len() as f64, bad),
        evidence,
        observations: clients.iter().map(|client| client.observations).sum(),
        ..Verdict::about(Place::Everything)
    }
}

/// Why no limit is the answer for those that are left.
fn rejected_limits(
    limited: &[(Limit, &Client)],
    bad: &[&Client],
    enough: bool,
) -> Vec<Alternative> {
    [sender_limited::LIMIT, receiver_limited::LIMIT]
        .into_iter()
        .map(|limit| {
            let count = limited.iter().filter(|(other, _)| *other == limit).count();
            Alternative {
                segment: None,
                limit: Some(limit),
                why: if enough && count > 0 {
                    format!("{count} of {} bad clients, judged apart", bad.len())
                } else {
                    format!(
                        "explains {count} of {} bad clients; the others' RTT, losses or marks are not as usual",
                        bad.len()
                    )
                },
            }
        })
        .collect()
}

/// Nothing is settled as bad.
fn none(window: &Window, at: &Thresholds) -> Verdict {
    let tally = Tally::of(&window.votes);
    let clients = window.votes.iter().flat_map(|vote| &vote.clients);
    Verdict {
        degraded: Some(false),
        confidence: laplace(tally.good() * tally.prefixes as f64, window.votes.len()),
        evidence: vec![Evidence {
            kind: "good_prefix_share".to_owned(),
            supports: "none".to_owned(),
            value: Some(tally.good()),
            threshold: Some(at.bad_share),
            samples: tally.prefixes,
        }],
        observations: clients.map(|client| client.observations).sum(),
        ..Verdict::about(Place::Everything)
    }
}

/// Hypothesis 1: whether there is enough to say anything.
fn inconclusive(window: &Window, at: &Thresholds) -> Option<Verdict> {
    let judged: usize = window.votes.iter().map(|vote| vote.clients.len()).sum();
    let (reason, value, threshold, samples) = if window.missed_share > at.max_missed_share {
        (
            Inconclusive::MissedReports,
            window.missed_share,
            at.max_missed_share,
            window.observations,
        )
    } else if judged > 0 {
        return None;
    } else if window.observations == 0 {
        (Inconclusive::NoTraffic, 0.0, 1.0, 0)
    } else if window.unrouted == window.observations {
        (Inconclusive::NoRoute, 1.0, 0.0, window.unrouted)
    } else if window.without_baseline > 0 {
        (
            Inconclusive::NoBaseline,
            window.without_baseline as f64,
            0.0,
            window.without_baseline,
        )
    } else {
        (
            Inconclusive::TooFewChunks,
            window.thin as f64,
            f64::from(at.min_chunks_per_prefix),
            window.thin,
        )
    };
    Some(Verdict {
        inconclusive: Some(reason),
        evidence: vec![Evidence {
            kind: log_name(reason),
            supports: "inconclusive".to_owned(),
            value: Some(value),
            threshold: Some(threshold),
            samples,
        }],
        observations: window.observations,
        ..Verdict::about(Place::Everything)
    })
}

#[cfg(test)]
mod tests;
