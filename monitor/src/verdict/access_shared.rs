//! Hypothesis 7: one node, cell or BNG that a group of the ISP's clients shares.
//!
//! Not named yet: which clients share a node has to be learned over weeks. It is excluded where
//! the bad clients are many more, or far fewer, than one node has.

use super::finding::{Finding, Place};
use super::interconnect;
use super::last_mile;
use super::scene::{Scene, Tally};

/// A group of the ISP's clients.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    match place {
        Place::Everything | Place::Interconnect(_) => {
            let isps = scene.bad_isps(place);
            if isps.len() >= 2 {
                Finding::Rejected(format!("clients of {} are bad at once", isps.join(" and ")))
            } else {
                Finding::Open("only one ISP is bad".to_owned())
            }
        }
        Place::Isp { .. } => {
            let paths = scene.bad_interconnects(place).len();
            let tally = Tally::of(scene.at_place(place));
            if paths >= 2 && tally.is_bad(scene.at) {
                Finding::Rejected(format!(
                    "{:.0} % of {} prefixes through {paths} interconnects are bad",
                    tally.bad() * 100.0,
                    tally.prefixes
                ))
            } else {
                Finding::Open("only a part of the ISP's prefixes is bad".to_owned())
            }
        }
        Place::Pair { .. } => {
            Finding::Open("the bad prefixes may share a node of the ISP".to_owned())
        }
        Place::Prefix { .. } if interconnect::maybe_bundle(scene, place).is_some() => {
            Finding::Open(
                "the bad clients may share a line card or a member of a bundle".to_owned(),
            )
        }
        Place::Prefix { .. } if last_mile::has_good_neighbour(scene, place) => {
            Finding::Rejected("neighbours in the same prefix are good".to_owned())
        }
        Place::Prefix { .. } => {
            Finding::Open("no neighbour in the prefix is clearly good".to_owned())
        }
    }
}
