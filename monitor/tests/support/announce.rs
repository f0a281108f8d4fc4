//! BGP UPDATEs as bytes, in BMP messages and in MRT records, written from the RFCs and from
//! nothing else: what reads them is under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address families (RFC 4760, 3).
pub const IPV4: u16 = 1;
pub const IPV6: u16 = 2;

/// How wide AS numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Two,
    Four,
}

impl Width {
    fn write(self, out: &mut Vec<u8>, asn: u32) {
        match self {
            Self::Two => out.extend((asn as u16).to_be_bytes()),
            Self::Four => out.extend(asn.to_be_bytes()),
        }
    }
}

/// A path attribute (RFC 4271, 4.3).
pub fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flags, code];
    match u8::try_from(value.len()) {
        Ok(length) => bytes.push(length),
        Err(_) => {
            bytes[0] |= 0x10;
            bytes.extend((value.len() as u16).to_be_bytes());
        }
    }
    bytes.extend(value);
    bytes
}

pub fn origin(code: u8) -> Vec<u8> {
    attribute(0x40, 1, &[code])
}

/// One AS_SEQUENCE and, where it has members, one AS_SET.
pub fn as_path(width: Width, sequence: &[u32], set: &[u32]) -> Vec<u8> {
    let mut value = Vec::new();
    for (kind, members) in [(2, sequence), (1, set)] {
        if !members.is_empty() {
            value.extend([kind, members.len() as u8]);
            members.iter().for_each(|asn| width.write(&mut value, *asn));
        }
    }
    attribute(0x40, 2, &value)
}

pub fn next_hop(address: [u8; 4]) -> Vec<u8> {
    attribute(0x40, 3, &address)
}

pub fn communities(values: &[u32]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|one| one.to_be_bytes()).collect();
    attribute(0xc0, 8, &bytes)
}

pub fn large_communities(values: &[[u32; 3]]) -> Vec<u8> {
    let parts = values.as_flattened().iter();
    let bytes: Vec<u8> = parts.flat_map(|part| part.to_be_bytes()).collect();
    attribute(0xc0, 32, &bytes)
}

/// MP_REACH_NLRI (RFC 4760, 3).
pub fn mp_reach(family: u16, safi: u8, next_hop: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut value = family.to_be_bytes().to_vec();
    value.extend([safi, next_hop.len() as u8]);
    value.extend(next_hop);
    value.push(0);
    value.extend(nlri);
    attribute(0x80, 14, &value)
}

/// MP_REACH_NLRI as a table dump has it (RFC 6396, 4.3.4).
pub fn mp_next_hop(address: Ipv6Addr) -> Vec<u8> {
    let mut value = vec![16];
    value.extend(address.octets());
    attribute(0x80, 14, &value)
}

/// MP_UNREACH_NLRI.
pub fn mp_unreach(family: u16, safi: u8, nlri: &[u8]) -> Vec<u8> {
    let mut value = family.to_be_bytes().to_vec();
    value.push(safi);
    value.extend(nlri);
    attribute(0x80, 15, &value)
}

/// Length and bytes of a prefix such as `10.0.0.0/8`.
pub fn nlri(prefix: &str) -> Vec<u8> {
    let (address, length) = prefix.split_once('/').expect("a prefix");
    let length: u8 = length.parse().expect("a length");
    let octets = match address.parse().expect("an address") {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let kept = usize::from(length).div_ceil(8);
    [&[length][..], &octets[..kept]].concat()
}

/// The same behind a path identifier (RFC 7911, 3).
pub fn nlri_of_path(path_id: u32, prefix: &str) -> Vec<u8> {
    [&path_id.to_be_bytes()[..], &nlri(prefix)].concat()
}

/// An UPDATE with its header.
pub fn update(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Vec<u8> {
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend(announced);
    bgp(2, &body)
}

/// An OPEN (RFC 4271, 4.2) of a speaker with four-byte numbers that sends and receives several
/// ways for both families (RFC 7911, 4) where it is asked to.
pub fn open(asn: u32, add_path: bool) -> Vec<u8> {
    let mut capabilities = vec![65, 4];
    capabilities.extend(asn.to_be_bytes());
    if add_path {
        capabilities.extend([69, 8, 0, 1, 1, 3, 0, 2, 1, 3]);
    }
    let mut body = vec![4];
    let old = u16::try_from(asn).unwrap_or(23_456);
    body.extend(old.to_be_bytes());
    body.extend([0, 90, 10, 0, 0, 1]);
    body.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
    body.extend(capabilities);
    bgp(1, &body)
}

fn bgp(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend((19 + body.len() as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// A BMP message (RFC 7854, 4.1).
pub fn bmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3];
    bytes.extend((6 + body.len() as u32).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// The per-peer header (RFC 7854, 4.2).
pub fn per_peer(kind: u8, flags: u8, address: IpAddr, asn: u32) -> Vec<u8> {
    let mut bytes = vec![kind, flags];
    bytes.extend([0; 8]);
    match address {
        IpAddr::V4(address) => {
            bytes.extend([0; 12]);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
    bytes.extend(asn.to_be_bytes());
    bytes.extend([10, 0, 0, 1]);
    bytes.extend([0; 8]);
    bytes
}

/// The time of every record.
pub const TIME: u32 = 1_700_000_000;

/// An MRT record (RFC 6396, 2).
pub fn record(kind: u16, subtype: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = TIME.to_be_bytes().to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(subtype.to_be_bytes());
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// PEER_INDEX_TABLE (RFC 6396, 4.3.1): each peer with AS numbers as wide as its own asks for.
pub fn peer_index_table(peers: &[(IpAddr, u32)]) -> Vec<u8> {
    let mut body = vec![10, 0, 0, 9, 0, 4];
    body.extend(b"view");
    body.extend((peers.len() as u16).to_be_bytes());
    for (address, asn) in peers {
        let is_wide = *asn > 0xffff;
        body.push(u8::from(address.is_ipv6()) | u8::from(is_wide) << 1);
        body.extend([10, 0, 0, 1]);
        match address {
            IpAddr::V4(address) => body.extend(address.octets()),
            IpAddr::V6(address) => body.extend(address.octets()),
        }
        let width = if is_wide { Width::Four } else { Width::Two };
        width.write(&mut body, *asn);
    }
    record(13, 1, &body)
}

/// An entry of a RIB record: peer, path identifier, attributes.
pub type Entry<'a> = (u16, Option<u32>, &'a [u8]);

/// A RIB record of TABLE_DUMP_V2 (RFC 6396, 4.3.2 and 4.3.3; RFC 8050, 4). `generic`: the family
/// is in the record.
pub fn rib(
    subtype: u16,
    generic: Option<(u16, u8)>,
    prefix: &str,
    entries: &[Entry<'_>],
) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 7];
    if let Some((family, safi)) = generic {
        body.extend(family.to_be_bytes());
        body.push(safi);
    }
    body.extend(nlri(prefix));
    body.extend((entries.len() as u16).to_be_bytes());
    for (peer, path_id, attributes) in entries {
        body.extend(peer.to_be_bytes());
        body.extend(TIME.to_be_bytes());
        if let Some(path_id) = path_id {
            body.extend(path_id.to_be_bytes());
        }
        body.extend((attributes.len() as u16).to_be_bytes());
        body.extend(*attributes);
    }
    record(13, subtype, &body)
}

/// A TABLE_DUMP record (RFC 6396, 4.2) of one entry.
pub fn table_dump(prefix: &str, peer: (IpAddr, u16), attributes: &[u8]) -> Vec<u8> {
    let (address, length) = prefix.split_once('/').expect("a prefix");
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut body = vec![0, 0, 0, 7];
    body.extend(octets(address.parse().expect("an address")));
    body.push(length.parse().expect("a length"));
    body.push(1);
    body.extend(TIME.to_be_bytes());
    body.extend(octets(peer.0));
    body.extend(peer.1.to_be_bytes());
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    record(12, if peer.0.is_ipv4() { IPV4 } else { IPV6 }, &body)
}

/// What stands before a message or a change of state in BGP4MP (RFC 6396, 4.4.2): peer and
/// collector.
pub fn bgp4mp(width: Width, peer: (IpAddr, u32), then: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    width.write(&mut body, peer.1);
    width.write(&mut body, 64_900);
    body.extend([0, 0]);
    match peer.0 {
        IpAddr::V4(address) => {
            body.extend(IPV4.to_be_bytes());
            body.extend(address.octets());
            body.extend(Ipv4Addr::new(192, 0, 2, 250).octets());
        }
        IpAddr::V6(address) => {
            body.extend(IPV6.to_be_bytes());
            body.extend(address.octets());
            body.extend(Ipv6Addr::LOCALHOST.octets());
        }
    }
    body.extend(then);
    body
}

/// A record with microseconds (RFC 6396, 3), of type BGP4MP_ET.
pub fn with_microseconds(subtype: u16, body: &[u8]) -> Vec<u8> {
    record(17, subtype, &[&123_456u32.to_be_bytes()[..], body].concat())
}
