//! Votes made by hand: what is named, and what is not when a comparison is missing.

mod apart;
mod ports;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::degraded::{Comparison, Sign, Signs};
use super::standing::{Standing, Track};
use super::*;
use crate::cell::CellKey;

use Standing::{Bad, Good, Unsettled};

fn sign(excess: f64, threshold: f64) -> Option<Sign> {
    let chance = if excess >= threshold { 1e-9 } else { 0.5 };
    Some(Sign {
        excess,
        threshold,
        chance,
    })
}

fn client(standing: Standing, number: u8) -> Client {
    let bad = standing == Bad;
    let wobble = 1.0 + 0.01 * f64::from(number);
    Client {
        address: IpAddr::from([10, 0, 0, number]),
        prefix: ipnet::IpNet::default(),
        track: if bad {
            Track::bad_for(5)
        } else {
            Track::settled(standing)
        },
        signs: Signs {
            queue: bad,
            loss: bad,
            ..Signs::default()
        },
        comparison: Comparison {
            rtt: sign(if bad { 40_000.0 * wobble } else { 0.0 }, 5_000.0),
            loss: sign(if bad { 0.02 * wobble } else { 0.0 }, 0.01),
            ..Comparison::default()
        },
        chunks: 20,
        observations: 2,
        arms: Default::default(),
        rwnd_limited_share: 0.0,
        idle_share: 0.5,
    }
}

/// One prefix's vote.
fn vote(interconnect: &str, isp: &str, prefix: u8, clients: &[Standing]) -> Vote {
    let prefix = format!("10.0.{prefix}.0/24").parse().expect("a prefix");
    Vote {
        cell: CellKey {
            interconnect: interconnect.into(),
            isp: isp.into(),
            origin_asn: 64_500,
            prefix,
            direct: true,
        },
        pooled: false,
        clients: clients
            .iter()
            .zip(1..)
            .map(|(&standing, number)| Client {
                prefix,
                ..client(standing, number)
            })
            .collect(),
    }
}

/// `count` prefixes whose two clients are all of one standing.
fn group(interconnect: &str, isp: &str, count: u8, standing: Standing) -> Vec<Vote> {
    let base = isp.len() as u8 * 16 + interconnect.len() as u8 * 64;
    (0..count)
        .map(|at| vote(interconnect, isp, base + at, &[standing; 2]))
        .collect()
}

fn says(votes: Vec<Vote>, local: Option<&LocalCounters>) -> Vec<Verdict> {
    let window = Window {
        votes,
        observations: 100,
        ..Window::default()
    };
    decide(&window, local, None, &Thresholds::default())
}

fn only(votes: Vec<Vote>) -> Verdict {
    let mut verdicts = says(votes, None);
    assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
    verdicts.remove(0)
}

fn names(verdict: &Verdict) -> Vec<Segment> {
    verdict.segments.iter().copied().collect()
}

/// Two interconnects, two ISPs through both, four prefixes each.
fn site(a_x: Standing, a_y: Standing, b_x: Standing, b_y: Standing) -> Vec<Vote> {
    [
        group("a", "x", 4, a_x),
        group("a", "yy", 4, a_y),
        group("bb", "x", 4, b_x),
        group("bb", "yy", 4, b_y),
    ]
    .concat()
}

#[test]
fn the_four_wide_faults_of_a_whole_site() {
    assert_eq!(
        names(&only(site(Bad, Bad, Good, Good))),
        [Segment::Interconnect]
    );
    assert_eq!(names(&only(site(Bad, Good, Bad, Good))), [Segment::Isp]);
    let everything = only(site(Bad, Bad, Bad, Bad));
    assert!(everything.segments.contains(&Segment::Host));
    assert!(everything.segments.contains(&Segment::OwnNetwork));
    assert_eq!(only(site(Good, Good, Good, Good)).degraded, Some(false));
}

#[test]
fn our_own_full_queue_names_the_host_only_when_everything_is_bad() {
    let full = LocalCounters {
        window_us: 60_000_000,
        devices: vec![DeviceCounters {
            interface: "eth0".into(),
            sent_bytes: 1_000_000_000,
            sent_packets: 700_000,
            qdisc_dropped: 7_000,
            qdisc_backlog_min_bytes: 100_000,
            nic_tx_dropped: 0,
        }],
    };
    let verdicts = says(site(Bad, Bad, Bad, Bad), Some(&full));
    assert_eq!(names(&verdicts[0]), [Segment::Host]);
    assert!(
        verdicts[0]
            .evidence
            .iter()
            .any(|item| item.kind == "local_drop_share" && item.about.as_deref() == Some("eth0"))
    );
    let verdicts = says(site(Bad, Bad, Good, Good), Some(&full));
    assert_eq!(names(&verdicts[0]), [Segment::Interconnect]);
}

#[test]
fn one_isp_behind_one_interconnect_cannot_be_told_apart_from_it() {
    let verdict = only(group("a", "x", 8, Bad));
    for segment in [
        Segment::Host,
        Segment::OwnNetwork,
        Segment::Interconnect,
        Segment::Isp,
    ] {
        assert!(
            verdict.segments.contains(&segment),
            "{segment:?}: {verdict:#?}"
        );
    }
    assert!(!verdict.open.is_empty());
}

#[test]
fn an_interconnect_dedicated_to_an_isp_cannot_be_told_apart_from_it() {
    let verdict = only([group("a", "x", 6, Bad), group("bb", "yy", 6, Good)].concat());
    assert_eq!(
        names(&verdict),
        [Segment::Interconnect, Segment::Isp, Segment::AccessShared]
    );
}

#[test]
fn one_pair_alone_is_not_the_link_that_others_use_well() {
    let verdict = only(site(Bad, Good, Good, Good));
    assert_eq!(names(&verdict), [Segment::Isp, Segment::AccessShared]);
    assert_eq!(verdict.place.isp().map(|isp| &**isp), Some("x"));
}

#[test]
fn a_transit_network_stays_in_the_set() {
    let mut votes = site(Bad, Bad, Good, Good);
    votes.iter_mut().for_each(|vote| vote.cell.direct = false);
    assert_eq!(
        names(&only(votes)),
        [Segment::Interconnect, Segment::Transit]
    );
}

#[test]
fn many_interconnects_bad_at_once_are_not_all_at_fault() {
    let votes = ["a", "bb", "ccc"]
        .into_iter()
        .flat_map(|interconnect| {
            [
                group(interconnect, "x", 4, Bad),
                group(interconnect, "yy", 4, Bad),
            ]
            .concat()
        })
        .collect();
    let verdict = only(votes);
    assert!(!verdict.segments.contains(&Segment::Interconnect));
    assert!(verdict.segments.contains(&Segment::OwnNetwork));
}

#[test]
fn an_isp_is_not_named_where_one_of_its_paths_is_not_cleared() {
    let votes = [
        group("a", "x", 4, Bad),
        group("a", "yy", 4, Good),
        group("bb", "x", 4, Bad),
    ]
    .concat();
    let verdicts = says(votes, None);
    assert!(
        verdicts.iter().all(|verdict| verdict.segments.len() > 1),
        "{verdicts:#?}"
    );
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict.segments.contains(&Segment::Isp))
    );
}

#[test]
fn an_isp_that_may_be_bad_elsewhere_is_no_witness_against_an_interconnect() {
    for elsewhere in [Bad, Unsettled] {
        let verdicts = says(site(Bad, Bad, elsewhere, Good), None);
        assert!(
            verdicts
                .iter()
                .all(|verdict| names(verdict) != [Segment::Interconnect]),
            "{verdicts:#?}"
        );
    }
}

#[test]
fn what_is_unsettled_is_no_comparison() {
    for votes in [
        site(Bad, Bad, Unsettled, Unsettled),
        site(Bad, Unsettled, Good, Good),
        site(Bad, Unsettled, Bad, Unsettled),
        site(Bad, Good, Unsettled, Good),
    ] {
        for verdict in says(votes, None) {
            assert!(verdict.segments.len() > 1, "{verdict:#?}");
        }
    }
}

#[test]
fn too_few_prefixes_are_no_vote() {
    let thin: Vec<Vote> = [
        group("a", "x", 2, Bad),
        group("a", "yy", 2, Bad),
        group("bb", "x", 2, Good),
        group("bb", "yy", 2, Good),
    ]
    .concat();
    for verdict in says(thin, None) {
        assert!(verdict.segments.len() > 1, "{verdict:#?}");
    }
}

/// A healthy site in which the first prefix of `a` and `x` has these clients.
fn with_prefix(clients: &[Standing]) -> Vec<Vote> {
    let mut votes = site(Good, Good, Good, Good);
    votes[0] = Vote {
        cell: votes[0].cell.clone(),
        ..vote("a", "x", 0, clients)
    };
    votes
}

#[test]
fn one_home_among_good_neighbours_is_its_last_mile() {
    let verdict = only(with_prefix(&[Bad, Good]));
    assert_eq!(names(&verdict), [Segment::LastMile]);
    assert!(verdict.place.prefix().is_some());
    assert_eq!(
        verdict
            .rejected
            .iter()
            .filter(|other| other.segment.is_some())
            .count(),
        8
    );
}

#[test]
fn without_a_good_neighbour_a_shared_node_stays_possible() {
    for clients in [&[Bad][..], &[Bad, Unsettled], &[Bad, Bad]] {
        let verdict = only(with_prefix(clients));
        assert!(
            verdict.segments.contains(&Segment::LastMile),
            "{verdict:#?}"
        );
        assert!(
            verdict.segments.contains(&Segment::AccessShared),
            "{verdict:#?}"
        );
    }
}

#[test]
fn one_line_is_named_later_never_right_after_a_crowd_and_never_if_always_slow() {
    let tracks = [
        Track::bad_for(3),
        Track::bad_for(5).with_others(),
        // A line that is slow by nature is no fault.
        Track::bad_for(5).always_bad(),
    ];
    for track in tracks {
        let mut votes = with_prefix(&[Bad, Good]);
        Arc::make_mut(&mut votes[0].clients)[0].track = track;
        let verdict = only(votes);
        assert!(verdict.segments.len() > 1, "{verdict:#?}");
        assert!(verdict.segments.contains(&Segment::LastMile));
    }
}

#[test]
fn a_few_clients_of_many_prefixes_of_one_isp_are_not_many_last_miles() {
    let mut votes = site(Good, Good, Good, Good);
    for at in [0, 1, 2] {
        votes[at] = Vote {
            cell: votes[at].cell.clone(),
            ..vote("a", "x", 0, &[Bad, Good])
        };
    }
    for verdict in &says(votes, None) {
        for segment in [Segment::Isp, Segment::AccessShared, Segment::LastMile] {
            assert!(verdict.segments.contains(&segment), "{verdict:#?}");
        }
    }
}

#[test]
fn one_member_of_a_bundle_is_not_many_last_miles() {
    let mut votes = site(Good, Good, Good, Good);
    for at in [0, 5] {
        votes[at] = Vote {
            cell: votes[at].cell.clone(),
            ..vote("a", "x", 0, &[Bad, Good])
        };
    }
    let verdicts = says(votes, None);
    for verdict in &verdicts {
        assert!(verdict.partial);
        for segment in [
            Segment::OwnNetwork,
            Segment::Interconnect,
            Segment::LastMile,
        ] {
            assert!(verdict.segments.contains(&segment), "{verdict:#?}");
        }
    }
}

#[test]
fn a_part_of_the_only_isp_behind_a_link_may_be_a_member_of_its_bundle() {
    let private = |of: &[Standing]| {
        let mut votes = site(Good, Good, Good, Good);
        votes.retain(|vote| {
            let way = (&*vote.cell.interconnect, &*vote.cell.isp);
            [("a", "x"), ("b", "y")].contains(&way)
        });
        for at in [0, 1, 2] {
            votes[at] = Vote {
                cell: votes[at].cell.clone(),
                ..vote("a", "x", 0, of)
            };
        }
        let verdicts = says(votes, None);
        let held = |verdict: &Verdict| {
            let segments = [Segment::OwnNetwork, Segment::Interconnect];
            verdict.partial && segments.iter().all(|it| verdict.segments.contains(it))
        };
        assert!(!verdicts.is_empty());
        verdicts.iter().all(held)
    };
    assert!(private(&[Bad, Good, Good, Good]));
    // Whole prefixes are no part that a hash of addresses and ports would choose.
    assert!(!private(&[Bad]));
}

#[test]
fn limits_are_set_aside_and_the_rest_goes_on() {
    let mut votes = site(Bad, Bad, Good, Good);
    for client in votes
        .iter_mut()
        .skip(8)
        .flat_map(|vote| Arc::make_mut(&mut vote.clients))
        .take(2)
    {
        *client = super::tests::client(Bad, 9);
        client.track.rate_only = true;
    }
    let verdict = only(votes);
    assert_eq!(names(&verdict), [Segment::Interconnect]);
    let why = |limit| {
        verdict
            .rejected
            .iter()
            .find(|other| other.limit == Some(limit))
            .map(|other| other.why.clone())
    };
    assert!(
        why(Limit::SenderLimited)
            .is_some_and(|why| why.starts_with("explains 2 of 18 bad clients"))
    );
    assert!(why(Limit::ReceiverLimited).is_some_and(|why| why.starts_with("explains 0 of 18")));
}

fn any_standing() -> impl Strategy<Value = Standing> {
    prop_oneof![4 => Just(Good), 3 => Just(Bad), 1 => Just(Unsettled)]
}

/// Any standings at all: each pair mostly of one kind, with strays.
fn any_votes() -> impl Strategy<Value = Vec<Vote>> {
    let pair = (
        any_standing(),
        prop::collection::vec(prop::option::weighted(0.2, any_standing()), 10),
    );
    prop::collection::vec(pair, 4).prop_map(|pairs| {
        let ways = [("a", "x"), ("a", "yy"), ("bb", "x"), ("bb", "yy")];
        let mut votes = Vec::new();
        for ((interconnect, isp), (usual, strays)) in ways.into_iter().zip(pairs) {
            for clients in strays.chunks(2) {
                let clients: Vec<Standing> =
                    clients.iter().map(|stray| stray.unwrap_or(usual)).collect();
                votes.push(vote(interconnect, isp, votes.len() as u8, &clients));
            }
        }
        votes
    })
}

/// `a/x GG GB ...`: the standings of every prefix.
fn in_short(votes: &[Vote]) -> String {
    let letter = |client: &Client| match client.track.standing {
        Good => 'G',
        Unsettled => 'U',
        Bad => 'B',
    };
    let words = votes.iter().map(|vote| {
        let clients: String = vote.clients.iter().map(letter).collect();
        format!("{}/{} {clients}", vote.cell.interconnect, vote.cell.isp)
    });
    words.collect::<Vec<_>>().join(", ")
}

type Name = (Place, Segment);

fn named(votes: Vec<Vote>) -> BTreeSet<Name> {
    says(votes, None)
        .into_iter()
        .filter(|verdict| verdict.segments.len() == 1)
        .map(|verdict| (verdict.place.clone(), names(&verdict)[0]))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_verdict_is_complete(votes in any_votes()) {
        for verdict in says(votes, None) {
            prop_assert!((0.0..=1.0).contains(&verdict.confidence));
            prop_assert!(!verdict.evidence.is_empty());
            if verdict.degraded == Some(true) {
                prop_assert!(!verdict.segments.is_empty(), "everything was rejected: {verdict:#?}");
                let rejected = verdict.rejected.iter().filter(|other| other.segment.is_some()).count();
                prop_assert_eq!(verdict.segments.len() + rejected, Segment::ALL.len());
                // A name is never only what the other rejections left over.
                prop_assert!(verdict.segments.len() > 1 || verdict.open.is_empty());
            }
        }
    }

    /// An absent comparison is never a passed one: without the prefixes of one interconnect and
    /// ISP, all of them good, nobody is named who was not named with them.
    #[test]
    fn leaving_out_a_comparison_names_nobody(mut votes in any_votes(), way in 0usize..4) {
        let (interconnect, isp) = [("a", "x"), ("a", "yy"), ("bb", "x"), ("bb", "yy")][way];
        let is_left_out =
            |vote: &Vote| &*vote.cell.interconnect == interconnect && &*vote.cell.isp == isp;
        for vote in votes.iter_mut().filter(|vote| is_left_out(vote)) {
            vote.clients = [client(Good, 1), client(Good, 2)].into();
        }
        let fewer: Vec<Vote> = votes.iter().filter(|vote| !is_left_out(vote)).cloned().collect();
        let (with, without) = (named(votes.clone()), named(fewer));
        prop_assert!(without.is_subset(&with), "{without:?} but only {with:?} with {way} of {}", in_short(&votes));
    }
}
