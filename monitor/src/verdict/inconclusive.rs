//! Hypothesis 1: whether there is enough to say anything.

use super::Window;
use super::finding::{Evidence, Inconclusive, Place, Verdict, log_name};
use crate::config::Thresholds;

/// Why nothing can be said about the window, if that is so.
pub fn verdict(window: &Window, at: &Thresholds) -> Option<Verdict> {
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
            about: None,
            supports: "inconclusive".to_owned(),
            value: Some(value),
            threshold: Some(threshold),
            samples,
        }],
        observations: window.observations,
        ..Verdict::about(Place::Everything)
    })
}
