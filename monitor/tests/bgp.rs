//! Real BGP daemons tell lastmile their routes, and all of them tell the same.
//!
//! They run on this machine's loopback, each with ports and a folder of its own; without them
//! the tests are skipped and say so.

mod support {
    pub mod bgp;
}

use std::net::IpAddr;
use std::slice;

use lastmile::path::mrt;

use support::bgp::daemons::{Bird, Kind, Router};
use support::bgp::feed::{EAST, EAST_ASN, Exabgp, WEST, WEST_ASN, route, two_neighbours, without};
use support::bgp::oracle;
use support::bgp::programs_or_skip;
use support::bgp::station::Station;
use support::bgp::table::{Known, Table, known, table, without_peer_addresses};

/// Routes in [`two_neighbours`], to [`expected`]'s prefixes.
const ROUTES: usize = 10;

/// Every way in which a router tells its routes.
const ALL: [Kind; 7] = [
    Kind::Gobgpd("pre-policy"),
    Kind::Gobgpd("post-policy"),
    Kind::Gobgpd("local-rib"),
    Kind::Gobgpd("all"),
    Kind::Frr(&["pre-policy"]),
    Kind::Frr(&["post-policy"]),
    Kind::Frr(&["pre-policy", "post-policy"]),
];
/// One way each is enough where only time matters.
const BOTH: [Kind; 2] = [Kind::Gobgpd("post-policy"), Kind::Frr(&["post-policy"])];

/// What lastmile must know of [`two_neighbours`], whoever tells.
fn expected() -> Table {
    let east = |next_hop: &str, middle: &[u32], origin_asn: Option<u32>, communities: &[&str]| {
        let mut communities: Vec<_> = communities.iter().map(ToString::to_string).collect();
        communities.sort();
        Known {
            origin_asn,
            as_path_middle: middle.to_vec(),
            peer_asn: Some(EAST_ASN),
            peer_address: Some(EAST.into()),
            next_hop: Some(next_hop.parse::<IpAddr>().expect("an address")),
            communities,
        }
    };
    let west = |next_hop: &str, origin_asn: u32, communities: &[&str]| Known {
        peer_asn: Some(WEST_ASN),
        peer_address: Some(WEST.into()),
        ..east(next_hop, &[], Some(origin_asn), communities)
    };
    let rows = [
        (
            "198.51.100.0/24",
            east(
                "192.0.2.1",
                &[],
                Some(64_501),
                &["64501:100", "64501:1:2", "64501:3:4000000000"],
            ),
        ),
        (
            "198.51.100.128/25",
            east("192.0.2.1", &[64_510], Some(64_511), &[]),
        ),
        // The origin is one of a set: nobody's network.
        ("203.0.113.0/24", east("192.0.2.11", &[64_510], None, &[])),
        (
            "192.0.2.128/27",
            east("192.0.2.12", &[4_200_000_001], Some(4_200_000_002), &[]),
        ),
        (
            "2001:db8:100::/40",
            east(
                "2001:db8::1",
                &[],
                Some(64_514),
                &["64501:100", "64501:200", "64501:300"],
            ),
        ),
        (
            "2001:db8:100:8000::/52",
            east("2001:db8::11", &[64_514], Some(64_515), &[]),
        ),
        ("203.0.113.128/25", west("192.0.2.2", 64_502, &[])),
        (
            "2001:db8:200::/40",
            west("2001:db8::2", 64_515, &["64502:7:7"]),
        ),
    ];
    let row = |(prefix, known): (&str, Known)| (prefix.parse().expect("a prefix"), known);
    rows.map(row).into_iter().collect()
}

#[test]
fn gobgp_and_frr_tell_the_same_table_in_every_way_they_have() {
    if !programs_or_skip(&["gobgpd", "bgpd", "python3-exabgp"]) {
        return;
    }
    for kind in ALL {
        println!("{kind:?}");
        let station = Station::start();
        let router = Router::start(kind, station.address);
        let _feed = Exabgp::start(&[router.listener], &two_neighbours());
        // A Loc-RIB does not say from which neighbour a route is.
        let tells_neighbours = !matches!(kind, Kind::Gobgpd("local-rib" | "all"));
        let comparable = |table: &Table| match tells_neighbours {
            true => table.clone(),
            false => without_peer_addresses(table.clone()),
        };
        let expected = comparable(&expected());
        station.await_table("whole table", |table| comparable(table) == expected);
        station.assert_all_understood();
    }
}

#[test]
fn a_table_that_bird_writes_as_mrt_is_the_same_table() {
    if !programs_or_skip(&["bird", "birdc", "bgpdump", "python3-exabgp"]) {
        return;
    }
    let mut bird = Bird::start();
    let _feed = Exabgp::start(&[bird.listener], &two_neighbours());
    let dump = bird.dump(ROUTES, "table.mrt");
    let dumped = oracle::bgpdump(&dump);
    assert_eq!(dumped.len(), ROUTES, "{dumped:#?}");
    for (prefix, known) in expected() {
        let is_told = |line: &oracle::Line| {
            line.prefix == prefix.to_string()
                && Some(line.peer_address) == known.peer_address
                && line.way.as_ref().map(|way| way.next_hop) == known.next_hop
        };
        assert!(dumped.iter().any(is_told), "{prefix}");
    }
    let loaded = mrt::load(slice::from_ref(&dump)).expect("a table dump");
    assert_eq!(table(&loaded.table), expected());
    // What its neighbours sent, instead of what it made of it, and both.
    let updates = bird.updates();
    let loaded = mrt::load(slice::from_ref(&updates)).expect("updates");
    assert_eq!(table(&loaded.table), expected());
    let loaded = mrt::load(&[dump, updates]).expect("a table dump and updates");
    assert_eq!(table(&loaded.table), expected());
}

#[test]
fn what_is_withdrawn_is_gone_or_reached_otherwise_until_it_is_announced_again() {
    if !programs_or_skip(&["gobgpd", "bgpd", "python3-exabgp"]) {
        return;
    }
    for kind in BOTH {
        println!("{kind:?}");
        let station = Station::start();
        let router = Router::start(kind, station.address);
        let mut feed = Exabgp::start(&[router.listener], &two_neighbours());
        station.await_table("whole table", |table| *table == expected());

        feed.announce(&without(EAST, &["198.51.100.0/24", "192.0.2.128/27"]));
        let table = station.await_table("withdrawal", |table| {
            known(table, "192.0.2.128/27").is_none()
                && known(table, "198.51.100.0/24")
                    .is_some_and(|known| known.peer_asn == Some(WEST_ASN))
        });
        let through_west = known(&table, "198.51.100.0/24").expect("West still announces it");
        assert_eq!(through_west.peer_address, Some(WEST.into()));
        assert_eq!(through_west.origin_asn, Some(EAST_ASN));
        assert_eq!(table.len(), expected().len() - 1);

        feed.announce(&two_neighbours());
        station.await_table("the old table", |table| *table == expected());
        station.assert_all_understood();
    }
}

#[test]
fn a_neighbour_that_goes_down_takes_its_routes_along() {
    if !programs_or_skip(&["gobgpd", "bgpd", "python3-exabgp"]) {
        return;
    }
    for kind in BOTH {
        println!("{kind:?}");
        let station = Station::start();
        let router = Router::start(kind, station.address);
        let mut feed = Exabgp::start(&[router.listener], &two_neighbours());
        station.await_table("whole table", |table| *table == expected());

        let mut only_west = two_neighbours();
        only_west.retain(|neighbour| neighbour.address == WEST);
        feed.announce(&only_west);
        let table = station.await_table("table without East", |table| {
            table.values().all(|known| known.peer_asn == Some(WEST_ASN))
        });
        // What only West announces, and what it announced all along as the second best.
        assert_eq!(table.len(), 4);

        feed.announce(&two_neighbours());
        station.await_table("the old table", |table| *table == expected());
        station.assert_all_understood();
    }
}

#[test]
fn a_router_that_crashes_leaves_its_table_until_it_has_told_again() {
    if !programs_or_skip(&["gobgpd", "bgpd", "python3-exabgp"]) {
        return;
    }
    for kind in BOTH {
        println!("{kind:?}");
        let station = Station::start();
        let mut router = Router::start(kind, station.address);
        let feed = Exabgp::start(&[router.listener], &two_neighbours());
        station.await_table("whole table", |table| *table == expected());

        router.crash();
        station.await_end_of_sessions();
        station.await_table("table of a router that is gone", |table| {
            *table == expected()
        });

        // While it is away a prefix goes and another one comes.
        let mut others = without(EAST, &["192.0.2.128/27"]);
        others[1]
            .announces
            .push(route("192.0.2.64/27", "192.0.2.2", "64502"));
        drop(feed);
        let _feed = Exabgp::start(&[router.listener], &others);
        router.begin();
        let at_least = expected().len();
        station.await_table("new prefix", |table| {
            assert!(
                table.len() >= at_least,
                "what was known is lost: {table:#?}"
            );
            known(table, "192.0.2.64/27").is_some()
        });
        station.sweep();
        station.await_table("new table", |table| {
            known(table, "192.0.2.128/27").is_none() && table.len() == at_least
        });
        station.assert_all_understood();
    }
}

#[test]
fn pmbmpd_reads_the_same_session_as_we_do() {
    if !programs_or_skip(&["gobgpd", "bgpd", "pmbmpd", "python3-exabgp"]) {
        return;
    }
    for kind in [
        Kind::Gobgpd("all"),
        Kind::Frr(&["pre-policy", "post-policy"]),
    ] {
        println!("{kind:?}");
        let station = Station::start();
        let mut router = Router::start(kind, station.address);
        let mut feed = Exabgp::start(&[router.listener], &two_neighbours());
        let is_whole = |table: &Table| {
            without_peer_addresses(table.clone()) == without_peer_addresses(expected())
        };
        station.await_table("whole table", is_whole);
        feed.announce(&without(WEST, &["203.0.113.128/25"]));
        station.await_table("withdrawal", |table| {
            known(table, "203.0.113.128/25").is_none()
        });
        let mut only_east = two_neighbours();
        only_east.truncate(1);
        feed.announce(&only_east);
        station.await_table("table without West", |table| {
            known(table, "2001:db8:200::/40").is_none()
        });
        router.crash();
        station.await_end_of_sessions();

        let recordings = station.recordings();
        let [recording] = recordings.as_slice() else {
            panic!("{} sessions", recordings.len());
        };
        let ours = oracle::ours(recording);
        assert!(ours.routes.len() >= ROUTES, "{ours:#?}");
        assert!(ours.peers.len() >= 3, "{:?}", ours.peers);
        assert_eq!(ours, oracle::pmbmpd(recording));
    }
}
