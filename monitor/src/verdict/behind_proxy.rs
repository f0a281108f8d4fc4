//! Hypothesis 9: a middlebox ends TCP, and nothing beyond it can be seen.
//!
//! Not named yet. What it does to us is a receive window that is full for many clients of one ISP
//! at once, so it is excluded where few of them are held back by their window.

use super::finding::{Finding, Place};
use super::receiver_limited::WINDOW_FULL_SHARE;
use super::scene::Scene;

/// Part of the bad clients that may be window-limited without a common cause.
const FEW: f64 = 0.5;

/// A middlebox that ends TCP.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    let clients: Vec<_> = scene.bad_clients(place).collect();
    let limited = clients
        .iter()
        .filter(|client| client.rwnd_limited_share >= WINDOW_FULL_SHARE)
        .count();
    if (limited as f64) < FEW * clients.len().max(1) as f64 {
        Finding::Rejected(format!(
            "{limited} of {} bad clients are held back by their receive window",
            clients.len()
        ))
    } else {
        Finding::Open(format!(
            "{limited} of {} bad clients are held back by their receive window",
            clients.len()
        ))
    }
}
