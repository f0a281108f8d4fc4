//! A router's BMP stream (RFC 7854) about the made-up table, written to standard output.
//!
//! A process of its own, so that its memory is not counted. Each batch comes behind its length,
//! and each route in a message of its own, as FRR sends them: the dearest way to be told.

use std::{
    io::{self, BufWriter, Write},
    net::Ipv6Addr,
};

use clap::ValueEnum;
use ipnet::IpNet;

use super::internet::{Attributes, Peer, Prefix, mix, prefixes};

/// Routes between two tables that are handed out, while a table is loaded.
pub const LOAD_BATCH: usize = 10_000;
/// Routes that change in one batch afterwards, and how often.
pub const BATCH: u64 = 1_000;
pub const BATCHES: u64 = 500;
/// Of 1,000 changes, withdrawals. As many come back.
const WITHDRAWN: u64 = 100;

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Every prefix, by the peer with the best way
    Table,
    /// Every prefix again, by the first transit
    SecondTable,
    /// Changes
    Churn,
}

/// Says it.
pub fn speak(part: Part) -> io::Result<()> {
    let mut output = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let prefixes = prefixes();
    let mut batch = Vec::new();
    match part {
        Part::Table | Part::SecondTable => {
            let by = (part == Part::SecondTable).then(|| Peer::number(0));
            for some in prefixes.chunks(LOAD_BATCH) {
                batch.clear();
                for prefix in some {
                    announce(&mut batch, *prefix, &Attributes::of(*prefix, by, 0));
                }
                put(&mut output, &batch)?;
            }
        }
        Part::Churn => {
            for turn in 1..=BATCHES {
                batch.clear();
                for at in 0..BATCH {
                    let seed = mix(turn << 32 | at);
                    // Few prefixes are most of the noise.
                    let among = prefixes.len() as u64 / [1, 50][seed as usize % 2];
                    let prefix = prefixes[((seed >> 8) % among) as usize];
                    let attributes = Attributes::of(prefix, None, turn % 4);
                    if (seed >> 40) % 1_000 < WITHDRAWN {
                        withdraw(&mut batch, prefix, attributes.peer);
                    } else {
                        announce(&mut batch, prefix, &attributes);
                    }
                }
                put(&mut output, &batch)?;
            }
        }
    }
    output.flush()
}

fn put(output: &mut impl Write, batch: &[u8]) -> io::Result<()> {
    output.write_all(&(batch.len() as u32).to_be_bytes())?;
    output.write_all(batch)
}

/// Length, then the bytes that a prefix of that length has (RFC 4271, 4.3).
fn nlri(net: IpNet) -> Vec<u8> {
    let mut bytes = vec![net.prefix_len()];
    let kept = usize::from(net.prefix_len()).div_ceil(8);
    match net {
        IpNet::V4(net) => bytes.extend(&net.network().octets()[..kept]),
        IpNet::V6(net) => bytes.extend(&net.network().octets()[..kept]),
    }
    bytes
}

/// Extended length, so that nothing has to be short.
fn attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    out.extend([flags | 0x10, code]);
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
}

fn announce(out: &mut Vec<u8>, prefix: Prefix, told: &Attributes) {
    let mut attributes = Vec::new();
    attribute(&mut attributes, 0x40, 1, &[0]);
    let mut as_path = vec![2, told.as_path.len() as u8];
    as_path.extend(told.as_path.iter().flat_map(|asn| asn.to_be_bytes()));
    attribute(&mut attributes, 0x40, 2, &as_path);
    let next_hop = [198, 51, 100, told.next_hop];
    if prefix.net.addr().is_ipv4() {
        attribute(&mut attributes, 0x40, 3, &next_hop);
    }
    let communities: Vec<u8> = told
        .communities
        .iter()
        .flat_map(|community| community.to_be_bytes())
        .collect();
    attribute(&mut attributes, 0xc0, 8, &communities);
    if !told.large_communities.is_empty() {
        let large: Vec<u8> = told
            .large_communities
            .as_flattened()
            .iter()
            .flat_map(|part| part.to_be_bytes())
            .collect();
        attribute(&mut attributes, 0xc0, 32, &large);
    }
    let nlri = nlri(prefix.net);
    if prefix.net.addr().is_ipv6() {
        let mut reach = vec![0, 2, 1, 16];
        let next_hop = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(told.next_hop));
        reach.extend(next_hop.octets());
        reach.push(0);
        reach.extend(&nlri);
        attribute(&mut attributes, 0x80, 14, &reach);
        route_monitoring(out, told.peer, &[], &attributes, &[]);
    } else {
        route_monitoring(out, told.peer, &[], &attributes, &nlri);
    }
}

fn withdraw(out: &mut Vec<u8>, prefix: Prefix, peer: Peer) {
    let nlri = nlri(prefix.net);
    if prefix.net.addr().is_ipv4() {
        return route_monitoring(out, peer, &nlri, &[], &[]);
    }
    let mut attributes = Vec::new();
    let unreach = [&[0, 2, 1][..], &nlri].concat();
    attribute(&mut attributes, 0x80, 15, &unreach);
    route_monitoring(out, peer, &[], &attributes, &[]);
}

/// One message (RFC 7854, 4.6) of a global peer's table after policy.
fn route_monitoring(
    out: &mut Vec<u8>,
    peer: Peer,
    withdrawn: &[u8],
    attributes: &[u8],
    announced: &[u8],
) {
    const HEADERS: usize = 6 + 42;
    let update = 23 + withdrawn.len() + attributes.len() + announced.len();
    out.push(3);
    out.extend(((HEADERS + update) as u32).to_be_bytes());
    out.push(0);
    out.extend([0, 0x40]);
    out.extend([0; 8 + 12]);
    out.extend(peer.address.octets());
    out.extend(peer.asn.to_be_bytes());
    out.extend(peer.address.octets());
    out.extend([0; 8]);
    out.extend([0xff; 16]);
    out.extend((update as u16).to_be_bytes());
    out.push(2);
    for part in [withdrawn, attributes] {
        out.extend((part.len() as u16).to_be_bytes());
        out.extend(part);
    }
    out.extend(announced);
}
