//! Hypothesis 9: the way back.
//!
//! Not named yet: that needs one-way delays from the clients' timestamp clocks. It is excluded
//! where data toward the clients is slowed itself, or where a neighbour takes the same way back
//! and is good.

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
