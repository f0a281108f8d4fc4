//! Hypothesis 10: what no other explains is said as a set.
//!
//! An ISP that is bad on every way to it is one place: what is said of it is said of all its ways
//! together, because what they have in common is what remains (the full ports of two transits
//! into one access network, as in M-Lab's interconnection study of 2014, leave {transit, isp}).
//! Anything less is one interconnect and ISP at a time. With one interconnect dedicated to one ISP
//! and no port counters, passive data at the sender cannot tell the two apart; then both are in the
//! set.

use std::sync::Arc;

use super::finding::Place;
use super::scene::{Scene, Vote};

/// Ways to an ISP that make it one place.
const MIN_WAYS: usize = 2;

/// The place a bad vote is judged at when no hypothesis is supported for it.
pub fn place(scene: &Scene<'_>, bad: &Vote) -> Place {
    let isp = Arc::clone(&bad.cell.isp);
    let origin_asn = bad.cell.origin_asn;
    let mut ways = scene.by_interconnect(&isp);
    ways.retain(|_, tally| tally.prefixes >= u64::from(scene.at.min_prefixes_per_isp));
    // Ways that share a router are one, and that may be ours.
    let independent = scene.risk_groups.independent(ways.keys());
    if independent >= MIN_WAYS && ways.values().all(|tally| tally.is_bad(scene.at)) {
        return Place::Isp { isp, origin_asn };
    }
    Place::Pair {
        interconnect: Arc::clone(&bad.cell.interconnect),
        isp,
        origin_asn,
    }
}
