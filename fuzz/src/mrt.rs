//! MRT files to a table.

use lastmile::path::mrt;

use super::announce::{
    IPV6, Width, as_path, bgp4mp, communities, mp_next_hop, mp_reach, next_hop, nlri, nlri_of_path,
    origin, peer_index_table, record, rib, table_dump, update, with_microseconds,
};
use super::recorded;

/// The bytes are a file's.
pub fn run(data: &[u8]) {
    let Ok((mut rib, counters)) = mrt::read(data) else {
        return;
    };
    assert!(counters.records as usize <= data.len() / 12, "{counters:?}");
    assert!(counters.other + counters.not_understood <= counters.records);
    assert!(counters.malformed <= counters.entries + counters.updates);
    let size = rib.size();
    assert!(size.prefixes <= size.routes, "{size:?}");
    assert!(
        size.routes as u64 <= counters.entries + counters.announced,
        "{size:?} {counters:?}"
    );
    let changes = rib.take_changes();
    let size = rib.size();
    let known = changes.iter().filter(|(_, path)| path.is_some()).count();
    // There is one router with one kind of table: each prefix has a best way.
    assert_eq!(known, size.prefixes);
    for (prefix, path) in &changes {
        assert_eq!(*prefix, prefix.trunc());
        assert_eq!(rib.best(prefix), *path);
        assert_eq!(rib.ways(prefix).is_empty(), path.is_none());
    }
    // What is read does not hang on what follows.
    let again = mrt::read(&[data, &record(13, 99, b"of a kind that nobody knows")].concat());
    let (_, with_more) = again.expect("whole records before it");
    assert_eq!(with_more.records, counters.records + 1);
    assert_eq!(with_more.announced, counters.announced);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let v4 = |width, path: &[u32]| {
        [
            origin(0),
            as_path(width, path, &[]),
            next_hop([192, 0, 2, 1]),
            communities(&[64_500 << 16 | 100]),
        ]
        .concat()
    };
    let (wide, narrow) = (
        v4(Width::Four, &[64_999, 64_501]),
        v4(Width::Two, &[64_999, 64_501]),
    );
    let v6_hop = "2001:db8::1".parse().expect("right");
    let v6 = [
        origin(0),
        as_path(Width::Four, &[4_200_000_000, 64_501], &[]),
        mp_next_hop(v6_hop),
    ]
    .concat();
    let east = [192, 0, 2, 1].into();
    let west = "2001:db8::2".parse().expect("right");
    let peers = peer_index_table(&[(east, 64_999), (west, 4_200_000_000), ([0; 4].into(), 0)]);
    let both = [(0, None, &wide[..]), (1, None, &wide[..])];
    let several = [(0, Some(1), &wide[..]), (0, Some(2), &wide[..])];
    let message = update(&nlri("10.0.0.0/8"), &wide, &nlri("198.51.100.0/24"));
    let old_message = update(&[], &narrow, &nlri("198.51.100.0/24"));
    let several_ways = update(&[], &wide, &nlri_of_path(7, "198.51.100.0/24"));
    let v6_message = {
        let reach = mp_reach(
            IPV6,
            1,
            &[&[0x20; 15][..], &[1]].concat(),
            &nlri("2001:db8::/32"),
        );
        update(
            &[],
            &[
                origin(0),
                as_path(Width::Four, &[4_200_000_000], &[]),
                reach,
            ]
            .concat(),
            &[],
        )
    };
    let ended = [0, 6, 0, 1];
    let files = [
        vec![
            peers.clone(),
            rib(2, None, "198.51.100.0/24", &both),
            rib(4, None, "2001:db8:100::/40", &[(1, None, &v6)]),
            rib(6, Some((1, 1)), "203.0.113.0/24", &both[..1]),
        ],
        vec![
            peers,
            rib(8, None, "198.51.100.0/24", &several),
            rib(10, None, "2001:db8:100::/40", &[(1, Some(3), &v6)]),
            rib(12, Some((2, 1)), "2001:db8:200::/40", &[(1, Some(3), &v6)]),
        ],
        vec![
            table_dump("198.51.100.0/24", (east, 64_999), &narrow),
            table_dump("10.0.0.0/8", (east, 64_999), &narrow),
        ],
        vec![
            record(16, 1, &bgp4mp(Width::Two, (east, 64_999), &old_message)),
            record(
                16,
                4,
                &bgp4mp(Width::Four, (west, 4_200_000_000), &v6_message),
            ),
            record(16, 5, &bgp4mp(Width::Four, (west, 4_200_000_000), &ended)),
            record(16, 0, &bgp4mp(Width::Two, (east, 64_999), &ended)),
        ],
        vec![
            with_microseconds(4, &bgp4mp(Width::Four, (east, 64_999), &message)),
            with_microseconds(9, &bgp4mp(Width::Four, (east, 64_999), &several_ways)),
        ],
    ];
    let made_up = files.map(|records| records.concat()).into_iter();
    made_up.chain(recorded::mrt()).collect()
}
