//! Hypothesis 2, the client's part: its receive window is full, and nothing on the way is worse
//! than usual.

use super::finding::Limit;
use super::scene::Client;

/// Share of the segments sent into a full window from which the window sets the pace.
pub const WINDOW_FULL_SHARE: f64 = 0.5;

/// Whether this client alone holds itself back.
pub fn holds(client: &Client) -> bool {
    client.is_bad() && client.track.rate_only && client.rwnd_limited_share >= WINDOW_FULL_SHARE
}

/// The limit's name.
pub const LIMIT: Limit = Limit::ReceiverLimited;
