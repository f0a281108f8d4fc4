//! Whether the RTT grew and nothing else did: a way inside an ISP that became longer, or a queue that
//! stands still.
//!
//! The minimum of the RTT has then risen as much as its mean, while losses, marks and rates stay.
//! Queues of a few flows move, because TCP halves or drains what it has filled; one that thousands
//! share hardly does (Appenzeller, Keslassy and McKeown, "Sizing router buffers", SIGCOMM 2004). So
//! this excuses nobody. But a longer way is no congestion, and no network may be named for one: the ISP
//! and the way back stay possible, but for a line whose neighbours are good.

use super::finding::{Evidence, Place};
use super::forward;
use super::last_mile;
use super::scene::{Client, Scene};
use crate::flow::baseline::Moments;

/// What a queue moves by at least, µs and as a part of what it adds.
const MOVES_US: f64 = 1_000.0;
const MOVES_SHARE: f64 = 0.1;

/// What shows that nothing but the RTT of `clients` grew, if that is so.
pub fn evidence(clients: &[&Client]) -> Option<Evidence> {
    let (mut excess, mut moves) = (Moments::default(), Moments::default());
    for comparison in clients.iter().map(|client| &client.comparison) {
        if let (Some(rtt), Some(spread_us)) = (comparison.rtt, comparison.rtt_spread_excess_us) {
            excess.push(Some(rtt.excess));
            moves.push(Some(spread_us));
        }
    }
    let queues = clients.iter().filter(|client| client.signs.queue).count();
    if 2 * queues < clients.len() || 2 * excess.count < clients.len() as u64 {
        return None;
    }
    let threshold = MOVES_US.max(MOVES_SHARE * excess.mean);
    // Where it moves less than usual something else has changed too.
    let stays = excess.count > 0 && moves.mean.abs() <= threshold;
    let is_slowed = forward::evidence(clients.iter().copied(), "forward").is_some();
    (stays && !is_slowed).then(|| Evidence {
        kind: "rtt_spread_excess_us".to_owned(),
        about: None,
        supports: "path_change".to_owned(),
        value: Some(moves.mean),
        threshold: Some(threshold),
        samples: moves.count,
    })
}

/// Whether all of `place` may be on a longer way inside its ISP: it is of one, and no neighbour in a
/// prefix is good.
pub fn is_possible(scene: &Scene<'_>, place: &Place) -> bool {
    place.isp().is_some() && !last_mile::has_good_neighbour(scene, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::degraded::{Comparison, Sign, Signs};
    use crate::verdict::standing::{Standing, Track};

    fn client(moves_us: f64, loss: f64) -> Client {
        let sign = |excess, threshold| Sign {
            excess,
            threshold,
            chance: 1e-9,
        };
        Client {
            address: [10, 0, 0, 1].into(),
            prefix: "10.0.0.0/24".parse().expect("a prefix"),
            track: Track::settled(Standing::Bad),
            signs: Signs {
                queue: true,
                ..Signs::default()
            },
            comparison: Comparison {
                rtt: Some(sign(20_000.0, 5_000.0)),
                loss: Some(sign(loss, 0.01)),
                rtt_spread_excess_us: Some(moves_us),
                ..Comparison::default()
            },
            chunks: 10,
            observations: 1,
            arms: Default::default(),
            rwnd_limited_share: 0.0,
            idle_share: 0.5,
        }
    }

    fn is_longer(clients: &[Client]) -> bool {
        evidence(&Vec::from_iter(clients)).is_some()
    }

    #[test]
    fn only_where_nothing_moves_is_lost_or_slowed() {
        let same = [
            client(300.0, 0.0),
            client(-200.0, 0.0),
            client(4_000.0, 0.0),
        ];
        assert!(is_longer(&same), "what one of them adds is its own");
        assert!(!is_longer(&[client(6_000.0, 0.0), client(5_000.0, 0.0)]));
        assert!(!is_longer(&[client(-6_000.0, 0.0), client(-5_000.0, 0.0)]));
        assert!(!is_longer(&[client(300.0, 0.008), client(200.0, 0.009)]));
        assert!(!is_longer(&[]));
    }
}
