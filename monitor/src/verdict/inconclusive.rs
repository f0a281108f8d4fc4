//! Hypothesis 1: whether there is enough to say anything.

use super::Window;
use super::finding::{Evidence, Inconclusive, Mechanism, Place, Verdict, log_name};
use crate::config::Thresholds;

/// Why nothing can be said about the window, if that is so.
pub fn verdict(window: &Window, at: &Thresholds) -> Option<Verdict> {
    let voting: usize = window.votes.iter().map(|vote| vote.clients.len()).sum();
    let judged = (voting as u64).saturating_sub(window.undecided);
    let set_aside = window.route_changed + window.route_stale;
    let mostly_set_aside = set_aside > 0 && set_aside >= window.without_baseline + window.thin;
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
    } else if mostly_set_aside && window.route_stale >= window.route_changed {
        (
            Inconclusive::RouteStale,
            window.route_stale as f64,
            0.0,
            window.route_stale,
        )
    } else if mostly_set_aside {
        (
            Inconclusive::RouteChanged,
            window.route_changed as f64,
            0.0,
            window.route_changed,
        )
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
            about: None,
            supports: "inconclusive".to_owned(),
            value: Some(value),
            threshold: Some(threshold),
            samples,
        }],
        mechanisms: (reason == Inconclusive::RouteChanged)
            .then_some(Mechanism::PathChange)
            .into_iter()
            .collect(),
        observations: window.observations,
        ..Verdict::about(Place::Everything)
    })
}
