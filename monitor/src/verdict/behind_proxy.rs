//! Hypothesis 9: a middlebox ends TCP, and nothing beyond it can be seen.
//!
//! What it does to us is a receive window that is full for nearly all clients of one ISP at once, who
//! were not held back by it before, while other ISPs' clients are not: players and devices are the
//! same everywhere, and whoever ends TCP for a whole network is not. Then it is named, and said is only
//! that what slows them is behind it. It is excluded where few are held back by their window.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::conclude::{laplace, symptoms};
use super::finding::{Alternative, Evidence, Finding, Place, Segment, Verdict, log_name};
use super::receiver_limited::{self, WINDOW_FULL_SHARE};
use super::scene::{Client, Scene, Tally, Vote};
use crate::config::Thresholds;

/// Part of the bad clients that may be window-limited without a common cause.
const FEW: f64 = 0.5;

/// Part of the other ISPs' clients that may be held back by their window beside it.
const ELSEWHERE: f64 = 0.1;

/// One verdict for each ISP nearly all of whose clients, and nobody else's, are held back by their
/// window since lately.
pub fn verdicts(votes: &[Vote], at: &Thresholds) -> Vec<Verdict> {
    // Seldom is there anybody.
    let mut clients = votes.iter().flat_map(|vote| vote.clients.iter());
    if !clients.any(is_held_back_lately) {
        return Vec::new();
    }
    let mut isps: BTreeMap<&Arc<str>, Vec<&Vote>> = BTreeMap::new();
    for vote in votes {
        isps.entry(&vote.cell.isp).or_default().push(vote);
    }
    // Of others also those that always were, and none of whom nothing is known.
    let count = |votes: &[&Vote]| {
        let clients = || votes.iter().flat_map(|vote| vote.clients.iter());
        let limited = clients().filter(|client| receiver_limited::holds(client));
        let settled = clients().filter(|client| client.is_bad() || client.is_good());
        (limited.count(), settled.count())
    };
    let counts: BTreeMap<&Arc<str>, (usize, usize)> = isps
        .iter()
        .map(|(isp, votes)| (*isp, count(votes)))
        .collect();
    let sum = counts
        .values()
        .fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    let mut verdicts = Vec::new();
    for (isp, votes) in &isps {
        let (limited, clients) = counts[isp];
        let mut tally = Tally::default();
        for vote in votes {
            let limited = vote.clients.iter().filter(|it| is_held_back_lately(it));
            let share = limited.count() as f64 / vote.clients.len().max(1) as f64;
            tally.push(share, 1.0 - share);
        }
        let (others_limited, others) = (sum.0 - limited, sum.1 - clients);
        let is_good = |votes: &[&Vote]| Tally::of(votes.iter().copied()).is_good(at);
        let compared = || {
            let mut others = isps.iter().filter(|(other, _)| *other != isp);
            others.any(|(_, votes)| is_good(votes))
        };
        let is_alone = others_limited as f64 <= ELSEWHERE * others as f64;
        if tally.is_bad(at) && is_alone && compared() {
            verdicts.push(verdict(votes, &tally, (others_limited, others), at));
        }
    }
    verdicts
}

fn is_held_back_lately(client: &Client) -> bool {
    receiver_limited::holds(client) && client.track.was_good()
}

fn verdict(votes: &[&Vote], tally: &Tally, elsewhere: (usize, usize), at: &Thresholds) -> Verdict {
    let cell = &votes[0].cell;
    let place = Place::Isp {
        isp: Arc::clone(&cell.isp),
        origin_asn: cell.origin_asn,
    };
    let clients: Vec<&Client> = votes
        .iter()
        .flat_map(|vote| vote.clients.iter())
        .filter(|client| is_held_back_lately(client))
        .collect();
    let item = |kind: &str, value: f64, threshold: f64, samples: u64| Evidence {
        kind: kind.to_owned(),
        about: None,
        supports: log_name(Segment::BehindProxy),
        value: Some(value),
        threshold: Some(threshold),
        samples,
    };
    let mut evidence = symptoms(&clients);
    evidence.push(item(
        "receive_window_full_prefix_share",
        tally.bad(),
        at.bad_share,
        tally.prefixes,
    ));
    evidence.push(item(
        "receive_window_full_elsewhere_share",
        elsewhere.0 as f64 / elsewhere.1.max(1) as f64,
        ELSEWHERE,
        elsewhere.1 as u64,
    ));
    let others = Segment::ALL
        .into_iter()
        .filter(|segment| *segment != Segment::BehindProxy);
    Verdict {
        degraded: Some(true),
        segments: [Segment::BehindProxy].into(),
        confidence: laplace(tally.bad_sum(), tally.prefixes as usize),
        evidence,
        rejected: others
            .map(|segment| Alternative {
                segment: Some(segment),
                limit: None,
                why: "RTT, losses and marks up to where TCP ends are as usual".to_owned(),
            })
            .collect(),
        observations: clients.iter().map(|client| client.observations).sum(),
        ..Verdict::about(place)
    }
}

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
