//! A routing table like that of the default-free zone, the same in every run.
//!
//! Size, lengths and nesting are rounded from what the CIDR report (<https://www.cidr-report.org>)
//! and G. Huston's yearly "BGP in ..." say: about 1.0 M IPv4 and 220,000 IPv6 prefixes of 77,000
//! ASes, six in ten IPv4 prefixes a /24, more than half of all a more-specific of another one.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

pub const IPV4_PREFIXES: usize = 1_000_000;
pub const IPV6_PREFIXES: usize = 220_000;
const ORIGINS: u32 = 77_000;
/// ASes that carry others' traffic.
const TRANSITS: u32 = 12_000;

/// Lengths, the shortest first, and how many of 1,000 prefixes have them.
const IPV4_LENGTHS: [(u8, usize); 11] = [
    (13, 1),
    (14, 1),
    (15, 2),
    (16, 13),
    (17, 8),
    (18, 14),
    (19, 26),
    (20, 45),
    (21, 53),
    (22, 115),
    (23, 112),
];
/// What is left is of the longest that is announced globally.
const IPV4_LONGEST: u8 = 24;
const IPV6_LENGTHS: [(u8, usize); 8] = [
    (29, 45),
    (32, 110),
    (36, 45),
    (40, 115),
    (44, 105),
    (45, 30),
    (46, 40),
    (47, 40),
];
const IPV6_LONGEST: u8 = 48;
/// In 1,000: more-specifics, and of those what has its covering prefix's origin.
const NESTED: u64 = 560;
const OF_THE_SAME_ORIGIN: u64 = 850;

/// A number that is the same in every run (splitmix64: Steele, Lea and Flood, 2014).
pub fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers one after the other.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 += 1;
        mix(self.0)
    }

    fn in_1000(&mut self, chance: u64) -> bool {
        self.roll() % 1_000 < chance
    }

    /// One of `count`, the low ones more often: a few networks have most of the prefixes.
    fn skewed(&mut self, count: u32) -> u32 {
        let uniform = (self.roll() >> 11) as f64 / (1u64 << 53) as f64;
        (uniform.powf(2.5) * f64::from(count)) as u32
    }
}

/// A prefix and the AS that announces it.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    pub net: IpNet,
    /// Below [`ORIGINS`].
    pub origin: u32,
}

/// All prefixes, in order: IPv4 first.
pub fn prefixes() -> Vec<Prefix> {
    let mut all = family(
        &IPV4_LENGTHS,
        IPV4_LONGEST,
        IPV4_PREFIXES,
        1 << 40,
        |dice| {
            let first = 1 + dice.roll() % 223;
            IpAddr::V4(Ipv4Addr::from(
                (first as u32) << 24 | (dice.roll() as u32 >> 8),
            ))
        },
    );
    all.extend(family(
        &IPV6_LENGTHS,
        IPV6_LONGEST,
        IPV6_PREFIXES,
        2 << 40,
        |dice| {
            // What IANA gave to the five registries.
            const BLOCKS: [u128; 5] = [0x240, 0x260, 0x280, 0x2a0, 0x2c0];
            let block = BLOCKS[dice.roll() as usize % BLOCKS.len()] << 116;
            let rest = (u128::from(dice.roll()) << 64) >> 12;
            IpAddr::V6(Ipv6Addr::from(block | rest))
        },
    ));
    all
}

fn family(
    lengths: &[(u8, usize)],
    longest: u8,
    count: usize,
    seed: u64,
    fresh: impl Fn(&mut Dice) -> IpAddr,
) -> Vec<Prefix> {
    let mut dice = Dice(seed);
    let mut known = HashSet::with_capacity(count);
    let mut all: Vec<Prefix> = Vec::with_capacity(count);
    let shares = lengths
        .iter()
        .map(|(length, share)| (*length, count * share / 1_000));
    for (length, share) in shares.chain([(longest, count)]) {
        let covering = all.len();
        let end = (covering + share).min(count);
        while all.len() < end {
            let around = (covering > 0 && dice.in_1000(NESTED))
                .then(|| all[dice.roll() as usize % covering]);
            let address = match around {
                Some(around) => within(around.net, &mut dice),
                None => fresh(&mut dice),
            };
            let net = IpNet::new(address, length).expect("at most 48").trunc();
            let origin = match around {
                Some(around) if dice.in_1000(OF_THE_SAME_ORIGIN) => around.origin,
                _ => dice.skewed(ORIGINS),
            };
            if known.insert(net) {
                all.push(Prefix { net, origin });
            }
        }
    }
    all.sort_unstable_by_key(|prefix| prefix.net);
    all
}

/// Some address of a prefix.
fn within(net: IpNet, dice: &mut Dice) -> IpAddr {
    match net {
        IpNet::V4(net) => {
            let host = dice.roll() as u32 & u32::from(net.hostmask());
            Ipv4Addr::from(u32::from(net.network()) | host).into()
        }
        IpNet::V6(net) => {
            let bits = u128::from(dice.roll()) << 64 | u128::from(dice.roll());
            let host = bits & u128::from(net.hostmask());
            Ipv6Addr::from(u128::from(net.network()) | host).into()
        }
    }
}

/// A neighbour of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub asn: u32,
    pub address: Ipv4Addr,
}

/// Two transits, a route server and private peers.
pub const PEERS: u8 = 8;

impl Peer {
    pub fn number(number: u8) -> Self {
        Self {
            asn: 64_500 + u32::from(number),
            address: Ipv4Addr::new(192, 0, 2, 1 + number),
        }
    }

    /// The one whose way to an origin's prefixes is the best.
    fn preferred(seed: u64) -> Self {
        Self::number(match seed % 100 {
            0..45 => 0,
            45..70 => 1,
            70..90 => 2,
            rest => 3 + rest as u8 % (PEERS - 3),
        })
    }
}

/// What a peer says about the way to some of an origin's prefixes.
#[derive(Clone, Debug)]
pub struct Attributes {
    pub peer: Peer,
    pub as_path: Vec<u32>,
    /// Among the addresses of a peering LAN, which one.
    pub next_hop: u8,
    pub communities: Vec<u32>,
    pub large_communities: Vec<[u32; 3]>,
}

impl Attributes {
    /// The usual ones of a prefix; with `by` as that peer says. `turn` changes them, as when a
    /// route flaps.
    pub fn of(prefix: Prefix, by: Option<Peer>, turn: u64) -> Self {
        // Networks steer their traffic: an origin's prefixes go by up to six ways.
        let steered = 1 + mix(u64::from(prefix.origin) + (3 << 40)) % 6;
        let bits = match prefix.net {
            IpNet::V4(net) => u64::from(u32::from(net.network())),
            IpNet::V6(net) => (u128::from(net.network()) >> 64) as u64,
        };
        let variant = mix(bits ^ (4 << 40)) % steered;
        let seed = mix(u64::from(prefix.origin) << 24 | variant << 16 | turn);
        let peer = by.unwrap_or_else(|| Peer::preferred(seed));
        let mut dice = Dice(seed ^ u64::from(peer.asn));

        let mut as_path = vec![peer.asn];
        for _ in 0..[0, 1, 1, 2, 2, 2, 3, 3, 4][dice.roll() as usize % 9] {
            as_path.push(200_000 + dice.skewed(TRANSITS));
        }
        let prepended = if dice.in_1000(150) {
            1 + dice.roll() % 3
        } else {
            0
        };
        as_path.extend((0..=prepended).map(|_| 300_000 + prefix.origin));
        // What the neighbour and the networks behind it attach: where they learned it, and of whom.
        let communities = (0..2 + dice.roll() % 9)
            .map(|at| {
                let by = as_path[at as usize % as_path.len().min(3)];
                (by & 0xffff) << 16 | dice.skewed(4_000)
            })
            .collect();
        let large_communities = (0..[0, 0, 0, 0, 1, 3][dice.roll() as usize % 6])
            .map(|_| [as_path[0], 1, dice.skewed(4_000)])
            .collect();
        Self {
            peer,
            next_hop: (peer.asn - 64_500) as u8 * 16 + (seed >> 32) as u8 % 12,
            as_path,
            communities,
            large_communities,
        }
    }
}
