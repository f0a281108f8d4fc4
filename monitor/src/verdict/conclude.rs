//! All hypotheses, asked about one place: what remains is the verdict.

use std::collections::BTreeSet;

use super::finding::{Alternative, Evidence, Finding, Mechanism, Place, Segment, Verdict};
use super::scene::{Client, Scene};
use super::{
    access_shared, behind_proxy, degraded, host, interconnect, isp, last_mile, longer_way, ports,
    reverse_path, transit,
};
use crate::flow::baseline::Moments;

/// Asks every hypothesis about `place`.
pub fn conclude(scene: &Scene<'_>, place: Place) -> Verdict {
    let clients: Vec<&Client> = scene.bad_clients(&place).collect();
    let mut verdict = Verdict {
        degraded: Some(true),
        mechanisms: mechanisms(&clients),
        partial: is_partial(scene, &place),
        confidence: confidence(scene, &place),
        evidence: symptoms(&clients),
        observations: clients.iter().map(|client| client.observations).sum(),
        ..Verdict::about(place)
    };
    let port_explains = match &verdict.place {
        Place::Interconnect(name) => interconnect::by_port(scene, name).is_ok(),
        _ => false,
    };
    if !port_explains {
        for name in scene.bad_interconnects(&verdict.place) {
            if let Some(port) = scene.ports.and_then(|ports| ports.fresh(&name)) {
                let figures = ports::evidence(port, &name, "interconnect", scene.at);
                verdict.evidence.extend(figures);
            }
        }
    }
    let mut maybe_longer = false;
    if !port_explains && let Some(evidence) = longer_way::evidence(&clients) {
        verdict.mechanisms.insert(Mechanism::PathChange);
        verdict.evidence.push(evidence);
        maybe_longer = longer_way::is_possible(scene, &verdict.place);
    }
    for segment in Segment::ALL {
        let finding = match examine(segment, scene, &verdict.place) {
            // A way that is longer there or back is no congestion, and nobody's name.
            Finding::Supported(_) | Finding::Rejected(_)
                if maybe_longer && matches!(segment, Segment::Isp | Segment::ReversePath) =>
            {
                Finding::Open(
                    "the RTT grew and nothing moves, is lost or slowed: the way may be longer"
                        .to_owned(),
                )
            }
            Finding::Open(_) if port_explains && is_beside_the_port(segment, scene) => {
                Finding::Rejected(
                    "our own port is full or drops packets, which explains it".to_owned(),
                )
            }
            finding => finding,
        };
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

/// Whether what is bad may be a part of a bundle.
fn is_partial(scene: &Scene<'_>, place: &Place) -> bool {
    let of_ours = match place {
        Place::Interconnect(name) => interconnect::part_of_bundle(scene, name).is_some(),
        _ => false,
    };
    of_ours
        || interconnect::maybe_bundle(scene, place).is_some()
        || interconnect::part_of_pair(scene, place).is_some()
}

/// Whether a full port of ours leaves nothing for this segment to explain. Our own machine stays
/// possible where its queues were not read, and a middlebox where clients show one.
fn is_beside_the_port(segment: Segment, scene: &Scene<'_>) -> bool {
    match segment {
        Segment::Host => scene.local.is_some(),
        Segment::BehindProxy => false,
        _ => true,
    }
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
pub fn symptoms(clients: &[&Client]) -> Vec<Evidence> {
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
                about: None,
                // Every figure is shown; one below its threshold supports nothing.
                supports: if excess.mean >= threshold.mean {
                    "degraded".to_owned()
                } else {
                    "none".to_owned()
                },
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
    laplace(scene.rest.agreeing(place), scene.rest.len())
}

/// Laplace's rule of succession: how far `agreeing` of `all` can be trusted.
pub fn laplace(agreeing: f64, all: usize) -> f64 {
    (agreeing + 1.0) / (all as f64 + 2.0)
}
