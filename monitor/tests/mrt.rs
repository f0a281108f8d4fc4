//! MRT of every kind that is in use: the same routes as bgpkit-parser and bgpdump read.
//!
//! The files are written here, from the RFCs, because no program at hand writes all of these
//! kinds; what BIRD writes is read in `bgp.rs`, and real archives in `routing_captures.rs`.

#[allow(
    dead_code,
    reason = "the daemons and their station are for other tests"
)]
mod support {
    pub mod announce;
    pub mod bgp;
}

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv6Addr},
    path::Path,
    slice,
};

use bgpkit_parser::{BgpkitParser, models::ElemType};
use ipnet::IpNet;
use lastmile::path::mrt;
use support::{
    announce::{
        Entry, IPV4, IPV6, Width, as_path, bgp4mp, communities, mp_next_hop, mp_reach, mp_unreach,
        next_hop, nlri, nlri_of_path, origin, peer_index_table, record, rib, table_dump, update,
        with_microseconds,
    },
    bgp::{Folder, oracle, programs_or_skip},
};

const EAST: (IpAddr, u32) = (IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 64_999);
const WEST: (IpAddr, u32) = (
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
    4_200_000_000,
);
const V6_HOP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// One way: prefix, peer, next hop, origin.
type Way = (IpNet, IpAddr, IpAddr, Option<u32>);

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

/// The attributes of an IPv4 route.
fn v4(width: Width, path: &[u32], last: u8) -> Vec<u8> {
    [
        origin(0),
        as_path(width, path, &[]),
        next_hop([192, 0, 2, last]),
        communities(&[64_500 << 16 | 100]),
    ]
    .concat()
}

/// The attributes of an IPv6 route in a table dump.
fn v6(path: &[u32]) -> Vec<u8> {
    [
        origin(0),
        as_path(Width::Four, path, &[]),
        mp_next_hop(V6_HOP),
    ]
    .concat()
}

/// Every way that is left at the end, as lastmile reads it.
fn ours(bytes: &[u8]) -> Vec<Way> {
    let (mut rib, counters) = mrt::read(bytes).expect("MRT");
    assert_eq!(
        (counters.not_understood, counters.malformed),
        (0, 0),
        "{counters:?}"
    );
    let mut all = Vec::new();
    for (prefix, _) in rib.take_changes() {
        for way in rib.ways(&prefix) {
            let path = way.path;
            let peer = path.peer_address.expect("each has one");
            all.push((
                prefix,
                peer,
                path.next_hop.expect("each has one"),
                path.origin_asn,
            ));
        }
    }
    all.sort();
    all
}

/// ... as bgpkit-parser reads it.
fn by_bgpkit(bytes: &[u8]) -> Vec<Way> {
    let mut left: BTreeMap<(IpNet, IpAddr, Option<u32>), Way> = BTreeMap::new();
    for elem in BgpkitParser::from_reader(bytes) {
        let prefix = elem.prefix.prefix.trunc();
        let key = (prefix, elem.peer_ip, elem.prefix.path_id);
        match elem.elem_type {
            ElemType::WITHDRAW => {
                left.remove(&key);
            }
            ElemType::ANNOUNCE => {
                let origins = elem.origin_asns.unwrap_or_default();
                let [origin] = origins.as_slice() else {
                    panic!("{prefix} has the origins {origins:?}");
                };
                let next_hop = elem.next_hop.expect("each has one");
                left.insert(key, (prefix, elem.peer_ip, next_hop, Some(origin.to_u32())));
            }
        }
    }
    let mut all: Vec<Way> = left.into_values().collect();
    all.sort();
    all
}

/// ... as bgpdump reads it. It does not print path identifiers: for files without.
fn by_bgpdump(file: &Path) -> Vec<Way> {
    let mut left = BTreeMap::new();
    for line in oracle::bgpdump(file) {
        let prefix = net(&line.prefix).trunc();
        let key = (prefix, line.peer_address);
        match line.way {
            None => {
                left.remove(&key);
            }
            Some(way) => {
                let origin = way
                    .as_path
                    .split(' ')
                    .next_back()
                    .and_then(|asn| asn.parse().ok());
                left.insert(key, (prefix, line.peer_address, way.next_hop, origin));
            }
        }
    }
    let mut all: Vec<Way> = left.into_values().collect();
    all.sort();
    all
}

/// Writes the file and holds what all of them read against `expected`.
fn all_read(name: &str, bytes: &[u8], mut expected: Vec<Way>) {
    expected.sort();
    assert_eq!(ours(bytes), expected, "{name}: lastmile");
    assert_eq!(by_bgpkit(bytes), expected, "{name}: bgpkit-parser");
    if programs_or_skip(&["bgpdump"]) {
        let folder = Folder::new();
        let file = folder.file("file.mrt");
        fs::write(&file, bytes).expect("written");
        assert_eq!(by_bgpdump(&file), expected, "{name}: bgpdump");
    }
}

#[test]
fn a_table_dump_of_today() {
    let bytes = [
        // A router's own routes come with nobody as the peer.
        peer_index_table(&[EAST, WEST, ([0; 4].into(), 0)]),
        rib(
            2,
            None,
            "198.51.100.0/24",
            &[
                (0, None, &v4(Width::Four, &[64_999, 64_501], 1)),
                (1, None, &v4(Width::Four, &[4_200_000_000, 7, 64_501], 2)),
            ],
        ),
        rib(
            2,
            None,
            "0.0.0.0/0",
            &[(0, None, &v4(Width::Four, &[64_999], 1))],
        ),
        rib(
            2,
            None,
            "10.128.0.0/9",
            &[(0, None, &v4(Width::Four, &[64_999, 70_000], 1))],
        ),
        rib(
            4,
            None,
            "2001:db8:100::/40",
            &[(1, None, &v6(&[4_200_000_000, 64_501]))],
        ),
        rib(
            4,
            None,
            "2001:db8::1/128",
            &[(0, None, &v6(&[64_999, 64_502]))],
        ),
    ]
    .concat();
    let hop = |last: u8| IpAddr::from([192, 0, 2, last]);
    let expected = vec![
        (net("198.51.100.0/24"), EAST.0, hop(1), Some(64_501)),
        (net("198.51.100.0/24"), WEST.0, hop(2), Some(64_501)),
        (net("0.0.0.0/0"), EAST.0, hop(1), Some(64_999)),
        (net("10.128.0.0/9"), EAST.0, hop(1), Some(70_000)),
        (
            net("2001:db8:100::/40"),
            WEST.0,
            V6_HOP.into(),
            Some(64_501),
        ),
        (net("2001:db8::1/128"), EAST.0, V6_HOP.into(), Some(64_502)),
    ];
    all_read("TABLE_DUMP_V2", &bytes, expected);

    // What is published: the shorter path wins, the full record of who told it is kept.
    let folder = Folder::new();
    let file = folder.file("table.mrt");
    fs::write(&file, &bytes).expect("written");
    let loaded = mrt::load(slice::from_ref(&file)).expect("a table dump");
    assert_eq!((loaded.counters.records, loaded.counters.entries), (6, 6));
    let best = loaded.table.get(&net("198.51.100.0/24")).expect("known");
    assert_eq!(
        (best.peer_address, best.peer_asn),
        (Some(EAST.0), Some(EAST.1))
    );
}

#[test]
fn a_routers_own_routes_are_nobodys() {
    let bytes = [
        peer_index_table(&[([0; 4].into(), 0), EAST]),
        rib(
            2,
            None,
            "198.51.100.0/24",
            &[
                (0, None, &v4(Width::Four, &[], 9)),
                (1, None, &v4(Width::Four, &[64_999, 64_501], 1)),
            ],
        ),
    ]
    .concat();
    let ways = ours(&bytes);
    let [(_, peer, _, origin)] = ways.as_slice() else {
        panic!("{ways:?}");
    };
    assert_eq!((*peer, *origin), (EAST.0, Some(64_501)));
}

/// Two ways of one peer and one of another.
fn several<'a>(near: &'a [u8], far: &'a [u8]) -> [Entry<'a>; 3] {
    [(0, Some(1), near), (0, Some(2), far), (1, Some(1), far)]
}

#[test]
fn a_table_dump_with_several_ways_of_a_peer() {
    let (near, far) = (
        v4(Width::Four, &[64_999, 64_501], 1),
        v4(Width::Four, &[64_999, 7, 64_501], 2),
    );
    let (near_v6, far_v6) = (v6(&[64_999, 64_501]), v6(&[64_999, 7, 64_502]));
    let bytes = [
        peer_index_table(&[EAST, WEST]),
        rib(8, None, "198.51.100.0/24", &several(&near, &far)),
        rib(10, None, "2001:db8:100::/40", &several(&near_v6, &far_v6)),
    ]
    .concat();
    let hop = |last: u8| IpAddr::from([192, 0, 2, last]);
    let prefix = net("2001:db8:100::/40");
    let expected = vec![
        (net("198.51.100.0/24"), EAST.0, hop(1), Some(64_501)),
        (net("198.51.100.0/24"), EAST.0, hop(2), Some(64_501)),
        (net("198.51.100.0/24"), WEST.0, hop(2), Some(64_501)),
        (prefix, EAST.0, V6_HOP.into(), Some(64_501)),
        (prefix, EAST.0, V6_HOP.into(), Some(64_502)),
        (prefix, WEST.0, V6_HOP.into(), Some(64_502)),
    ];
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(ours(&bytes), sorted);
    // bgpkit-parser gives no path identifiers of a dump; bgpdump 1.6.2 prints the ways in order.
    let mut all: Vec<Way> = BgpkitParser::from_reader(bytes.as_slice())
        .into_iter()
        .map(|elem| {
            let origin = elem
                .origin_asns
                .and_then(|all| all.first().map(|asn| asn.to_u32()));
            let hop = elem.next_hop.expect("each has one");
            (elem.prefix.prefix.trunc(), elem.peer_ip, hop, origin)
        })
        .collect();
    all.sort();
    assert_eq!(all, sorted, "bgpkit-parser");
}

/// Nothing at hand reads RIB_GENERIC (bgpkit-parser says so, bgpdump passes over it): the same
/// routes as in the records that both read.
#[test]
fn a_table_dump_that_names_its_families() {
    let (near, far) = (
        v4(Width::Four, &[64_999, 64_501], 1),
        v4(Width::Four, &[64_999, 7, 64_501], 2),
    );
    let six = v6(&[64_999, 64_501]);
    let index = peer_index_table(&[EAST, WEST]);
    let plain = [(0, None, &near[..]), (1, None, &far[..])];
    let specific = [
        index.clone(),
        rib(2, None, "198.51.100.0/24", &plain),
        rib(4, None, "2001:db8:100::/40", &[(0, None, &six)]),
    ]
    .concat();
    let generic = [
        index.clone(),
        rib(6, Some((IPV4, 1)), "198.51.100.0/24", &plain),
        rib(6, Some((IPV6, 1)), "2001:db8:100::/40", &[(0, None, &six)]),
        // Of a VPN: no way to clients.
        rib(6, Some((IPV4, 128)), "0.0.0.0/0", &[]),
    ]
    .concat();
    assert_eq!(ours(&specific).len(), 3);
    assert_eq!(ours(&generic), ours(&specific));

    // With several ways of a peer: as GoBGP and OpenBGPD write it, the identifier in each entry.
    let several = several(&near, &far);
    let specific = [index.clone(), rib(8, None, "198.51.100.0/24", &several)].concat();
    let in_entries = [
        index.clone(),
        rib(12, Some((IPV4, 1)), "198.51.100.0/24", &several),
    ]
    .concat();
    assert_eq!(ours(&specific).len(), 3);
    assert_eq!(ours(&in_entries), ours(&specific));

    // ... and as RFC 8050, 4.2, has it: in front of the prefix, so that each is a record.
    let of_path = |path_id: u32, entries: &[Entry<'_>]| {
        let family = [&IPV4.to_be_bytes()[..], &[1]].concat();
        let written = rib(6, Some((IPV4, 1)), "198.51.100.0/24", entries);
        let (before, after) = written[12..].split_at(4 + family.len());
        let body = [before, &path_id.to_be_bytes(), after].concat();
        record(13, 12, &body)
    };
    let in_prefix = [
        index,
        of_path(1, &[(0, None, &near), (1, None, &far)]),
        of_path(2, &[(0, None, &far)]),
    ]
    .concat();
    assert_eq!(ours(&in_prefix), ours(&specific));
}

#[test]
fn a_table_dump_of_the_first_version() {
    let old_peer = (EAST.0, 64_999u16);
    let v6_peer = (WEST.0, 23_456u16);
    let v6_old = [origin(0), as_path(Width::Two, &[23_456, 64_501], &[]), {
        let nlri = nlri("2001:db8:100::/40");
        mp_reach(IPV6, 1, &V6_HOP.octets(), &nlri)
    }]
    .concat();
    let bytes = [
        table_dump(
            "198.51.100.0/24",
            old_peer,
            &v4(Width::Two, &[64_999, 64_501], 1),
        ),
        table_dump("10.0.0.0/8", old_peer, &v4(Width::Two, &[64_999], 1)),
        table_dump("2001:db8:100::/40", v6_peer, &v6_old),
    ]
    .concat();
    let hop = IpAddr::from([192, 0, 2, 1]);
    let expected = vec![
        (net("198.51.100.0/24"), EAST.0, hop, Some(64_501)),
        (net("10.0.0.0/8"), EAST.0, hop, Some(64_999)),
        (
            net("2001:db8:100::/40"),
            WEST.0,
            V6_HOP.into(),
            Some(64_501),
        ),
    ];
    all_read("TABLE_DUMP", &bytes, expected);
}

/// UPDATEs of two peers: announced, withdrawn, announced otherwise.
fn updates(record: impl Fn(u16, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let two = |message: &[u8]| record(1, &bgp4mp(Width::Two, EAST, message));
    let four = |message: &[u8]| record(4, &bgp4mp(Width::Four, WEST, message));
    let both = [nlri("198.51.100.0/24"), nlri("10.0.0.0/8")].concat();
    let reach = {
        let prefixes = [nlri("2001:db8:100::/40"), nlri("2001:db8:200::/40")].concat();
        let path = as_path(Width::Four, &[4_200_000_000, 64_501], &[]);
        let reach = mp_reach(IPV6, 1, &V6_HOP.octets(), &prefixes);
        update(&[], &[origin(0), path, reach].concat(), &[])
    };
    let unreach = update(&[], &mp_unreach(IPV6, 1, &nlri("2001:db8:200::/40")), &[]);
    [
        two(&update(&[], &v4(Width::Two, &[64_999, 64_501], 1), &both)),
        four(&reach),
        two(&update(&nlri("10.0.0.0/8"), &[], &[])),
        four(&unreach),
        two(&update(
            &[],
            &v4(Width::Two, &[64_999, 64_502], 3),
            &nlri("198.51.100.0/24"),
        )),
    ]
    .concat()
}

#[test]
fn updates_with_and_without_microseconds() {
    let expected = vec![
        (
            net("198.51.100.0/24"),
            EAST.0,
            [192, 0, 2, 3].into(),
            Some(64_502),
        ),
        (
            net("2001:db8:100::/40"),
            WEST.0,
            V6_HOP.into(),
            Some(64_501),
        ),
    ];
    let plain = updates(|subtype, body| record(16, subtype, body));
    all_read("BGP4MP", &plain, expected.clone());
    let precise = updates(with_microseconds);
    all_read("BGP4MP_ET", &precise, expected);
}

#[test]
fn updates_with_several_ways_of_a_peer() {
    let wide = v4(Width::Four, &[64_999, 64_501], 1);
    let other = v4(Width::Four, &[64_999, 7, 64_501], 2);
    let prefix = "198.51.100.0/24";
    let message = |message: &[u8]| with_microseconds(9, &bgp4mp(Width::Four, EAST, message));
    let bytes = [
        message(&update(&[], &wide, &nlri_of_path(1, prefix))),
        message(&update(&[], &other, &nlri_of_path(2, prefix))),
        message(&update(&[], &wide, &nlri_of_path(3, "10.0.0.0/8"))),
        message(&update(&nlri_of_path(3, "10.0.0.0/8"), &[], &[])),
    ]
    .concat();
    let expected = vec![
        (net(prefix), EAST.0, [192, 0, 2, 1].into(), Some(64_501)),
        (net(prefix), EAST.0, [192, 0, 2, 2].into(), Some(64_501)),
    ];
    assert_eq!(ours(&bytes), expected);
    assert_eq!(by_bgpkit(&bytes), expected);
}

#[test]
fn compressed_files_are_read_as_they_are() {
    let plain = updates(|subtype, body| record(16, subtype, body));
    let half = plain.len() / 2;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let bzip2 = |bytes: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let folder = Folder::new();
    let load = |name: &str, bytes: &[u8]| {
        let file = folder.file(name);
        fs::write(&file, bytes).expect("written");
        mrt::load(slice::from_ref(&file))
    };
    let expected = load("updates.mrt", &plain).expect("updates");
    assert_eq!(expected.table.len(), 2);
    let files = [
        ("updates.gz", gzip(&plain)),
        // Archives are appended to: members follow each other.
        (
            "members.gz",
            [gzip(&plain[..half]), gzip(&plain[half..])].concat(),
        ),
        ("updates.bz2", bzip2(&plain)),
        (
            "streams.bz2",
            [bzip2(&plain[..half]), bzip2(&plain[half..])].concat(),
        ),
        // It is the bytes that tell, not the name.
        ("updates.mrt.gz", plain.clone()),
        ("updates", bzip2(&plain)),
    ];
    for (name, bytes) in &files {
        let loaded = load(name, bytes).unwrap_or_else(|error| panic!("{error}"));
        assert!(loaded.table.iter().eq(expected.table.iter()), "{name}");
        assert_eq!(loaded.counters, expected.counters, "{name}");
        // bgpdump goes by the name, and reads one stream.
        let is_usual = name.contains('.') && !name.starts_with("streams");
        if is_usual && programs_or_skip(&["bgpdump"]) {
            assert_eq!(by_bgpdump(&folder.file(name)), ours(&plain), "{name}");
        }
    }
    // Half of a compressed file is no table.
    for bytes in [gzip(&plain), bzip2(&plain)] {
        let error = load("cut", &bytes[..bytes.len() / 2]).expect_err("it is cut");
        assert!(error.to_string().contains("cut"), "{error}");
    }
}
