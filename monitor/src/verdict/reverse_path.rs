//! Hypothesis 9: the way back.
//!
//! Not named yet: that needs one-way delays from the clients' timestamp clocks. It is excluded
//! where data toward the clients is slowed itself, or where a neighbour takes the same way back
//! and is good.

use std::sync::Arc;

use super::finding::{Finding, Place};
use super::forward;
use super::last_mile;
use super::scene::Scene;

/// The way from the clients back to us.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    let full = scene.local.and_then(|local| local.full(scene.at));
    if let (Place::Everything, Some(full)) = (place, full) {
        return Finding::Rejected(format!(
            "our own queue toward the clients is full ({})",
            full.kind
        ));
    }
    if last_mile::has_good_neighbour(scene, place) {
        return Finding::Rejected(
            "a neighbour in the prefix has the same way back and is good".to_owned(),
        );
    }
    if let Place::Isp { .. } = place {
        return every_way(scene, place);
    }
    let clients: Vec<_> = scene.bad_clients(place).collect();
    match forward::evidence(clients.iter().copied(), "forward") {
        Some(evidence) => Finding::Rejected(format!(
            "data toward the clients is slowed: {} {:.4} over {} clients",
            evidence.kind,
            evidence.value.unwrap_or_default(),
            evidence.samples
        )),
        None => Finding::Open(
            "the RTT grew, but neither losses nor marks nor the rate toward the clients".to_owned(),
        ),
    }
}

/// Through each of an ISP's ways by itself: that one of them is lossy says nothing about the delay on
/// the others.
fn every_way(scene: &Scene<'_>, place: &Place) -> Finding {
    for interconnect in scene.bad_interconnects(place) {
        let through = Place::Interconnect(Arc::clone(&interconnect));
        let votes = scene.at_place(&through);
        let clients: Vec<_> = votes
            .filter(|vote| place.contains(&vote.cell))
            .flat_map(|vote| vote.clients.iter())
            .filter(|client| client.is_bad())
            .collect();
        if forward::evidence_of_each(clients.iter().copied(), "forward").is_none() {
            return Finding::Open(format!(
                "through {interconnect} the RTT grew, but neither losses nor marks nor the rate toward the clients"
            ));
        }
    }
    Finding::Rejected("data toward the clients is slowed through each interconnect".to_owned())
}
