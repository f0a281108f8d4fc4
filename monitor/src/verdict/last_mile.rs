//! Hypothesis 8: one access line or home. The two cannot be told apart from outside.
//!
//! Named when the bad clients are scattered: neighbours in the same prefix are good, the other
//! prefixes on the same way are good, and the client was not lately bad together with many
//! others. Every wider fault looks like this when it begins and when it ends, so the narrowest
//! blame waits longer than the others.

use std::sync::Arc;

use super::finding::{Evidence, Finding, Place, Segment, log_name};
use super::host;
use super::interconnect;
use super::scene::{Client, Scene, Tally, Vote};
use super::standing::SETTLED_AFTER;

/// Part of a prefix's clients that may be bad on their own lines at the same time.
const SCATTERED_SHARE: f64 = 0.2;
/// Windows a line must have been bad before it is named: a wider fault that reaches it first has
/// two more windows to reach its neighbours, and a bad window of a neighbour is no comparison.
const WINDOWS: u64 = SETTLED_AFTER as u64 + 2;
/// Clients that are bad together are no coincidence of lines.
const TOGETHER: usize = 3;

/// Clients that became bad within so many windows have one cause ...
const BEGAN_TOGETHER: usize = 5;
const BEGAN_WINDOWS: u64 = 4;
/// ... where they are this many times as many as would have begun by themselves, were each line to
/// fail in one window of two thousand.
const BEYOND_CHANCE: f64 = 5.0;
const FAILS_ONE_IN: f64 = 2_000.0;

/// One access line or home.
pub fn examine(scene: &Scene<'_>, place: &Place) -> Finding {
    let Place::Prefix { .. } = place else {
        let bad: Vec<&Vote> = scene
            .at_place(place)
            .filter(|vote| vote.has_bad())
            .collect();
        let clients = scene.bad_clients(place).count();
        if let Place::Interconnect(interconnect) = place
            && let Some(why) = interconnect::part_of_bundle(scene, interconnect)
        {
            return Finding::Rejected(why);
        }
        if *place == Place::Everything && host::full_and_felt(scene).is_some() {
            return Finding::Rejected("a queue of our own is full, and everybody loses".to_owned());
        }
        return if clients >= TOGETHER && Tally::of(bad.iter().copied()).bad() >= scene.at.bad_share
        {
            Finding::Rejected(format!(
                "{clients} clients in {} prefixes are bad at once",
                bad.len()
            ))
        } else if let Some(count) = began_at_once(scene, place) {
            Finding::Rejected(format!(
                "{count} of {clients} bad clients became so within {BEGAN_WINDOWS} windows"
            ))
        } else {
            Finding::Open(format!("only {clients} clients are bad"))
        };
    };
    let Some(vote) = scene.at_place(place).next() else {
        return Finding::Open("nothing is left to explain".to_owned());
    };
    let bad: Vec<&Client> = vote
        .clients
        .iter()
        .filter(|client| client.is_bad())
        .collect();
    let good = vote
        .clients
        .iter()
        .filter(|client| client.is_good())
        .count();
    if good == 0 && bad.len() >= TOGETHER {
        return Finding::Rejected(format!(
            "{} clients of the prefix are bad at once",
            bad.len()
        ));
    }
    if let Err(why) = are_neighbours_good(scene, place, vote, good) {
        return Finding::Open(why);
    }
    if bad.iter().any(|client| !client.track.was_good()) {
        // What is usual is known of the prefix, not of each line in it: some are slow by nature.
        return Finding::Open("it was never seen good on this way".to_owned());
    }
    if bad.iter().any(|client| client.track.is_shared()) {
        return Finding::Open("it was bad together with many others shortly before".to_owned());
    }
    if let Some(client) = bad.iter().find(|client| client.track.lasting() < WINDOWS) {
        return Finding::Open(format!(
            "bad for {} windows: a wider fault may be beginning",
            client.track.lasting()
        ));
    }
    let evidence = |kind: &str, value: f64, threshold: Option<f64>, samples: usize| Evidence {
        kind: kind.to_owned(),
        about: None,
        supports: log_name(Segment::LastMile),
        value: Some(value),
        threshold,
        samples: samples as u64,
    };
    let siblings = siblings(scene, place, vote);
    Finding::Supported(vec![
        evidence(
            "bad_clients_of_prefix",
            bad.len() as f64,
            None,
            vote.clients.len(),
        ),
        evidence(
            "good_neighbours_in_prefix",
            good as f64,
            Some(1.0),
            vote.clients.len(),
        ),
        evidence(
            "good_prefix_share",
            siblings.good(),
            Some(scene.at.bad_share),
            siblings.prefixes as usize,
        ),
    ])
}

/// How many of the bad clients became bad at about the same time, where that is nearly all of them:
/// lines fail each at its own time.
fn began_at_once(scene: &Scene<'_>, place: &Place) -> Option<usize> {
    let mut onsets: Vec<u64> = scene
        .bad_clients(place)
        .filter_map(|client| client.track.onset())
        .collect();
    onsets.sort_unstable();
    let near = |first: usize| {
        let until = onsets[first] + BEGAN_WINDOWS;
        onsets[first..].partition_point(|onset| *onset < until)
    };
    let most = (0..onsets.len()).map(near).max()?;
    let clients = scene.bad_clients(place).count();
    let all: usize = scene.at_place(place).map(|vote| vote.clients.len()).sum();
    let by_themselves = all as f64 * BEGAN_WINDOWS as f64 / FAILS_ONE_IN;
    (most >= BEGAN_TOGETHER
        && most as f64 >= BEYOND_CHANCE * by_themselves
        && most as f64 >= scene.at.bad_share * clients as f64)
        .then_some(most)
}

/// The other prefixes of the same ISP through the same interconnect.
fn siblings(scene: &Scene<'_>, place: &Place, vote: &Vote) -> Tally {
    let pair = Place::Pair {
        interconnect: Arc::clone(&vote.cell.interconnect),
        isp: Arc::clone(&vote.cell.isp),
        origin_asn: vote.cell.origin_asn,
    };
    let others = scene.at_place(&pair);
    Tally::of(others.filter(|other| !place.contains(&other.cell)))
}

/// Neighbours in the prefix, and prefixes beside it, are good.
fn are_neighbours_good(
    scene: &Scene<'_>,
    place: &Place,
    vote: &Vote,
    good: usize,
) -> Result<(), String> {
    if vote.pooled {
        return Err("the prefix alone has too few chunks".to_owned());
    }
    if good == 0 {
        return Err("no neighbour in the prefix is clearly good".to_owned());
    }
    let bad = vote.clients.iter().filter(|client| client.is_bad()).count();
    if bad > 1 && bad as f64 > SCATTERED_SHARE * vote.clients.len() as f64 {
        return Err(format!(
            "{bad} of {} clients of the prefix are bad: not scattered",
            vote.clients.len()
        ));
    }
    let siblings = siblings(scene, place, vote);
    if !siblings.is_good(scene.at) {
        return Err(format!(
            "{:.0} % of {} prefixes on the same way are clearly good: too few",
            siblings.good() * 100.0,
            siblings.prefixes
        ));
    }
    Ok(())
}

/// Whether somebody in the prefix takes the same way and is good.
pub fn has_good_neighbour(scene: &Scene<'_>, place: &Place) -> bool {
    matches!(place, Place::Prefix { .. })
        && scene
            .at_place(place)
            .any(|vote| !vote.pooled && vote.clients.iter().any(Client::is_good))
}
