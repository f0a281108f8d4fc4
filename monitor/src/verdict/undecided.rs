//! Hypothesis 10: what no other explains is said as a set, one interconnect and ISP at a time.
//!
//! With one interconnect dedicated to one ISP and no port counters, passive data at the sender
//! cannot tell the two apart; then both are in the set.

use std::sync::Arc;

use super::finding::Place;
use super::scene::Vote;

/// The place a bad vote is judged at when no hypothesis is supported for it.
pub fn place(bad: &Vote) -> Place {
    Place::Pair {
        interconnect: Arc::clone(&bad.cell.interconnect),
        isp: Arc::clone(&bad.cell.isp),
        origin_asn: bad.cell.origin_asn,
    }
}
