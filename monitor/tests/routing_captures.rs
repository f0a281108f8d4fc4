//! Real BMP sessions and MRT files decode to what other readers say of them.
//!
//! The numbers are those of tshark 4.0.17 (`tshark -d tcp.port==1790,bmp -V`), bgpdump 1.6.2
//! (`bgpdump -m FILE | cut -d'|' -f1,3 | sort | uniq -c`) and of bgpkit-parser, which reads here.

#[allow(
    dead_code,
    reason = "the daemons and their station are for other tests"
)]
mod support {
    pub mod bgp;
}

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::IpAddr,
    path::{Path, PathBuf},
    slice,
};

use bgpkit_parser::{BgpkitParser, models::ElemType};
use ipnet::IpNet;
use lastmile::{
    capture::replay::read,
    path::{
        bmp::{Decoder, Message, PeerType, RibView},
        mrt,
        rib::Rib,
    },
};
use support::bgp::{oracle, programs_or_skip};

fn capture(name: &str) -> Option<PathBuf> {
    let Some(folder) = env::var_os("LASTMILE_CAPTURES") else {
        println!("SKIPPED: LASTMILE_CAPTURES does not say where captures are");
        return None;
    };
    Some(Path::new(&folder).join(name))
}

/// What TCP carried, of a capture that holds one connection in order, one way only.
fn payload(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    read(path, |_, packet| {
        const ETHERNET: usize = 14;
        let ip = &packet.bytes[ETHERNET..];
        assert_eq!(ip[0] >> 4, 4, "IPv4");
        let header = usize::from(ip[0] & 15) * 4;
        let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let tcp = &ip[header..length];
        bytes.extend_from_slice(&tcp[usize::from(tcp[12] >> 4) * 4..]);
    })
    .expect("a capture");
    bytes
}

/// How often each kind of thing was in a session.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    initiations: usize,
    peers_up: usize,
    peers_down: usize,
    route_monitoring: usize,
    statistics: usize,
    not_understood: u64,
    /// Unicast prefixes, with labels or without.
    announced: usize,
    withdrawn: usize,
}

fn decode(bytes: &[u8], mut each: impl FnMut(&Message)) -> Seen {
    let mut decoder = Decoder::default();
    let mut seen = Seen::default();
    // As a socket would give it: no piece ends where a message does.
    for piece in bytes.chunks(1_000) {
        decoder.push(piece);
        while let Some(read) = decoder.next() {
            let Ok(message) = read.expect("BMP") else {
                continue;
            };
            match &message {
                Message::Initiation { .. } => seen.initiations += 1,
                Message::PeerUp { .. } => seen.peers_up += 1,
                Message::PeerDown { .. } => seen.peers_down += 1,
                Message::Statistics { .. } => seen.statistics += 1,
                Message::Routes { update, .. } => {
                    seen.route_monitoring += 1;
                    seen.announced += update
                        .announced
                        .iter()
                        .map(|some| some.nlri.len())
                        .sum::<usize>();
                    seen.withdrawn += update.withdrawn.len();
                }
                Message::Termination { .. } | Message::RouteMirroring { .. } => {}
            }
            each(&message);
        }
    }
    assert_eq!(decoder.pending(), 0, "nothing is left over");
    seen.not_understood = decoder.counters().not_understood;
    seen
}

#[test]
fn a_cisco_with_vrfs() {
    let Some(path) = capture("bmp/cisco-rd.pcap") else {
        return;
    };
    let (mut names, mut tables, mut rib) = (Vec::new(), BTreeSet::new(), Rib::default());
    let router = rib.router("192.0.2.55").expect("room");
    let seen = decode(&payload(&path), |message| {
        if let Message::Initiation { name, .. } = message {
            names.extend(name.clone());
        }
        if let Message::PeerUp { peer, .. } = message {
            assert_eq!(peer.identity.peer_type, PeerType::RouteDistinguisher);
            tables.insert(peer.identity.distinguisher);
        }
        rib.apply(router, message).expect("room");
    });
    println!("{seen:?} {tables:x?}");
    assert_eq!(names, ["ipf-zbl1843-r-daisy-55"]);
    assert_eq!(tables.len(), 9);
    // All of it is in VRFs: none of it is in the table that clients are in.
    assert_eq!(
        (rib.size().routes, rib.not_used()),
        (0, seen.announced as u64)
    );
    let tshark = Seen {
        initiations: 1,
        peers_up: 42,
        route_monitoring: 251,
        statistics: 42,
        announced: 235,
        ..Seen::default()
    };
    assert_eq!(seen, tshark);
}

#[test]
fn an_frr_whose_peers_go_down() {
    let Some(path) = capture("bmp/frr-peer-down.pcap") else {
        return;
    };
    let mut views: BTreeMap<RibView, usize> = BTreeMap::new();
    let mut rib = Rib::default();
    let router = rib.router("203.0.113.58").expect("room");
    let seen = decode(&payload(&path), |message| {
        if let Message::Routes { peer, .. } = message {
            *views.entry(peer.view).or_default() += 1;
        }
        rib.apply(router, message).expect("room");
    });
    println!("{seen:?} {views:?}");
    assert_eq!(rib.take_changes().len(), rib.size().prefixes);
    let tshark = Seen {
        initiations: 1,
        peers_up: 7,
        peers_down: 2,
        route_monitoring: 451,
        statistics: 48,
        announced: 142,
        ..Seen::default()
    };
    assert_eq!(seen, tshark);
}

#[test]
fn pmbmpd_reads_of_that_frr_what_we_do() {
    let Some(path) = capture("bmp/frr-peer-down.pcap") else {
        return;
    };
    if !programs_or_skip(&["pmbmpd"]) {
        return;
    }
    let bytes = payload(&path);
    let (ours, theirs) = (oracle::ours(&bytes), oracle::pmbmpd(&bytes));
    assert!(!ours.routes.is_empty() && ours.peers.len() >= 7, "{ours:?}");
    assert_eq!(ours.peers, theirs.peers);
    for (key, said) in &ours.routes {
        assert_eq!(Some(said), theirs.routes.get(key), "{key:?}");
    }
    assert_eq!(ours.routes.len(), theirs.routes.len());
}

#[test]
fn a_huawei_that_sends_its_loc_rib() {
    let Some(path) = capture("bmp/huawei-locrib.pcap") else {
        return;
    };
    let mut views: BTreeMap<RibView, usize> = BTreeMap::new();
    let seen = decode(&payload(&path), |message| {
        if let Message::Routes { peer, .. } = message {
            *views.entry(peer.view).or_default() += 1;
        }
    });
    println!("{seen:?} {views:?}");
    let tshark = Seen {
        initiations: 1,
        peers_up: 18,
        route_monitoring: 84,
        // 5 unicast, and 11 with a label.
        announced: 16,
        ..Seen::default()
    };
    assert_eq!(seen, tshark);
}

/// What is in a compressed file.
fn plain(path: &Path) -> Vec<u8> {
    let mut plain = Vec::new();
    let file = std::fs::File::open(path).expect("there");
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(file), &mut plain)
        .expect("gzip");
    plain
}

/// Announcements, withdrawals, and the last word on each peer's prefix, as bgpkit-parser says.
fn by_bgpkit(path: &Path) -> (usize, usize, BTreeSet<IpNet>) {
    let bytes = plain(path);
    let (mut announced, mut withdrawn) = (0, 0);
    let mut ways: BTreeMap<IpNet, BTreeSet<String>> = BTreeMap::new();
    for elem in BgpkitParser::from_reader(bytes.as_slice()) {
        let (prefix, peer) = (elem.prefix.prefix.trunc(), elem.peer_ip.to_string());
        match elem.elem_type {
            ElemType::ANNOUNCE => {
                announced += 1;
                ways.entry(prefix).or_default().insert(peer);
            }
            ElemType::WITHDRAW => {
                withdrawn += 1;
                ways.entry(prefix).or_default().remove(&peer);
            }
        }
    }
    let known = ways.into_iter().filter(|(_, peers)| !peers.is_empty());
    (
        announced,
        withdrawn,
        known.map(|(prefix, _)| prefix).collect(),
    )
}

fn known(loaded: &mrt::Loaded) -> BTreeSet<IpNet> {
    loaded.table.iter().map(|(prefix, _)| prefix).collect()
}

#[test]
fn updates_of_the_year_2000_in_the_first_format() {
    let Some(path) = capture("mrt/rrc00.updates.20000102.2014.gz") else {
        return;
    };
    let loaded = mrt::load(std::slice::from_ref(&path)).expect("MRT");
    println!("{:?} {} prefixes", loaded.counters, loaded.table.len());
    let counters = loaded.counters;
    assert_eq!(counters.records, 3_957);
    assert_eq!((counters.announced, counters.withdrawn), (5_668, 675));
    let (announced, withdrawn, prefixes) = by_bgpkit(&path);
    assert_eq!((announced, withdrawn), (5_668, 675));
    assert_eq!(known(&loaded), prefixes);
    assert_eq!(prefixes.len(), 450);
}

/// bgpdump's lines leave 473 prefixes of this file, 23 more than there are: in records of the
/// first type it prints the peer's own address, with the right length, in place of what is
/// withdrawn. `192.65.184.1` withdrew 195.114.217.80/28, 195.201.0.0/16 and 195.242.0.0/19 first;
/// printed is 192.65.184.1/28, /16 and /19. Everything announced is as it is here, and so is what
/// is left when the withdrawals are taken from the bytes.
#[test]
fn what_bgpdump_withdraws_of_the_first_format_is_the_peer_itself() {
    let Some(path) = capture("mrt/rrc00.updates.20000102.2014.gz") else {
        return;
    };
    if !programs_or_skip(&["bgpdump"]) {
        return;
    }
    let lines = oracle::bgpdump(&path);
    let withdrawn = withdrawn_of_the_first_format(&plain(&path));
    let mut in_bytes = withdrawn.iter();
    let (mut as_printed, mut as_told) = (BTreeSet::new(), BTreeSet::new());
    for line in &lines {
        let way = (line.peer_address, line.prefix.clone());
        if line.way.is_some() {
            as_printed.insert(way.clone());
            as_told.insert(way);
            continue;
        }
        let (peer, prefix) = in_bytes.next().expect("as many as are printed");
        assert_eq!(
            line.prefix,
            format!("{peer}/{}", prefix.prefix_len()),
            "bgpdump prints the withdrawn prefix itself by now: compare with it"
        );
        assert_eq!(line.peer_address, *peer);
        as_printed.remove(&way);
        as_told.remove(&(*peer, prefix.to_string()));
    }
    assert!(in_bytes.next().is_none());
    let prefixes = |ways: BTreeSet<(IpAddr, String)>| -> BTreeSet<String> {
        ways.into_iter().map(|(_, prefix)| prefix).collect()
    };
    assert_eq!(prefixes(as_printed).len(), 473);
    let loaded = mrt::load(slice::from_ref(&path)).expect("MRT");
    let ours: BTreeSet<String> = known(&loaded).iter().map(IpNet::to_string).collect();
    assert_eq!(ours, prefixes(as_told));
}

/// Peer and prefix of every withdrawal, in order, read by nothing but RFC 6396, B.2, and RFC 4271.
fn withdrawn_of_the_first_format(bytes: &[u8]) -> Vec<(IpAddr, IpNet)> {
    let u16_at =
        |bytes: &[u8], at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let mut all = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (kind, subtype) = (u16_at(rest, 4), u16_at(rest, 6));
        let length = u16_at(rest, 8) << 16 | u16_at(rest, 10);
        let (body, after) = rest[12..].split_at(length);
        rest = after;
        if (kind, subtype) != (5, 1) {
            continue;
        }
        // AS and address of the peer, then of the collector.
        let peer: [u8; 4] = body[2..6].try_into().expect("four");
        let mut withdrawn = &body[14..14 + u16_at(body, 12)];
        while let Some((&length, after)) = withdrawn.split_first() {
            let (octets, after) = after.split_at(usize::from(length).div_ceil(8));
            withdrawn = after;
            let mut address = [0; 4];
            address[..octets.len()].copy_from_slice(octets);
            let prefix = IpNet::new(address.into(), length).expect("at most 32");
            all.push((peer.into(), prefix));
        }
    }
    all
}

#[test]
fn updates_with_two_and_four_byte_as_numbers() {
    let Some(path) = capture("mrt/rrc15.updates.20100227.1610.gz") else {
        return;
    };
    let loaded = mrt::load(std::slice::from_ref(&path)).expect("MRT");
    println!("{:?} {} prefixes", loaded.counters, loaded.table.len());
    let counters = loaded.counters;
    assert_eq!((counters.records, counters.not_understood), (1_953, 0));
    // bgpdump says 5920 and 1549.
    assert_eq!((counters.announced, counters.withdrawn), (5_920, 1_549));
    let (announced, withdrawn, prefixes) = by_bgpkit(&path);
    assert_eq!((announced, withdrawn), (5_920, 1_549));
    let ours = known(&loaded);
    println!(
        "only bgpkit: {:?}",
        prefixes.difference(&ours).collect::<Vec<_>>()
    );
    assert!(ours.is_subset(&prefixes));
}

#[test]
fn a_whole_table_of_the_year_2000() {
    let Some(path) = capture("mrt/rrc00.bview.20000111.0032.gz") else {
        return;
    };
    let loaded = mrt::load(std::slice::from_ref(&path)).expect("MRT");
    println!("{:?} {} prefixes", loaded.counters, loaded.table.len());
    // Records that say four bytes less than they hold: bgpdump reads one entry and gives up.
    let (announced, _, prefixes) = by_bgpkit(&path);
    assert_eq!(loaded.counters.entries, announced as u64);
    assert_eq!(known(&loaded), prefixes);
}
