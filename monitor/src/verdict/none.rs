//! Hypothesis 0 fails: nothing is settled as bad.

use super::Window;
use super::conclude::laplace;
use super::finding::{Evidence, Place, Verdict};
use super::scene::Tally;
use crate::config::Thresholds;

/// The one verdict of a window in which nobody is bad.
pub fn verdict(window: &Window, at: &Thresholds) -> Verdict {
    let tally = Tally::of(&window.votes);
    let clients = window.votes.iter().flat_map(|vote| vote.clients.iter());
    Verdict {
        degraded: Some(false),
        confidence: laplace(tally.good() * tally.prefixes as f64, window.votes.len()),
        evidence: vec![Evidence {
            kind: "good_prefix_share".to_owned(),
            about: None,
            supports: "none".to_owned(),
            value: Some(tally.good()),
            threshold: Some(at.bad_share),
            samples: tally.prefixes,
        }],
        observations: clients.map(|client| client.observations).sum(),
        ..Verdict::about(Place::Everything)
    }
}
