//! Hypothesis 2, our own part: the application or its pacing sends less than the way could carry.
//!
//! A network that slows TCP delays, marks or drops its segments. A rate that fell while RTT,
//! losses and marks were all measured and are as usual is therefore not the network's, and where
//! the receive window is open it is the sender's.

use super::finding::Limit;
use super::receiver_limited;
use super::scene::Client;

/// Whether this client is slow because we send it little.
pub fn holds(client: &Client) -> bool {
    client.is_bad() && client.track.rate_only && !receiver_limited::holds(client)
}

/// The limit's name.
pub const LIMIT: Limit = Limit::SenderLimited;
