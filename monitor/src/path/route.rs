//! What is known about a prefix: by one source ([`Path`]), and merged ([`Route`]).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where knowledge comes from, the highest precedence first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The operator's own CSV or TOML file.
    File,
    /// A router's BMP session.
    Bmp,
    /// An MRT dump.
    Mrt,
    /// This host's own routes.
    Kernel,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Bmp => "bmp",
            Self::Mrt => "mrt",
            Self::Kernel => "kernel",
        })
    }
}

/// A BGP community, written `64500:100` (RFC 1997) or `64500:1:100` (large, RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    Standard(u16, u16),
    Large(u32, u32, u32),
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(asn, value) => write!(f, "{asn}:{value}"),
            Self::Large(asn, first, second) => write!(f, "{asn}:{first}:{second}"),
        }
    }
}

impl FromStr for Community {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no community: write one such as 64500:100 or 64500:1:100");
        let parts: Vec<&str> = text.split(':').collect();
        match *parts.as_slice() {
            [asn, value] => Ok(Self::Standard(
                asn.parse().map_err(|_| wrong())?,
                value.parse().map_err(|_| wrong())?,
            )),
            [asn, first, second] => Ok(Self::Large(
                asn.parse().map_err(|_| wrong())?,
                first.parse().map_err(|_| wrong())?,
                second.parse().map_err(|_| wrong())?,
            )),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Community {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Community {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A route's communities: sorted, without duplicates, and small, because a full table has hundreds
/// of thousands of such lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Communities {
    /// Four bytes each.
    standard: Box<[u32]>,
    /// Rare. Twelve bytes each.
    large: Box<[(u32, u32, u32)]>,
}

impl Communities {
    /// Takes them in any order.
    pub fn new(communities: &[Community]) -> Self {
        let mut standard = Vec::with_capacity(communities.len());
        let mut large = Vec::new();
        for community in communities {
            match *community {
                Community::Standard(asn, value) => {
                    standard.push(u32::from(asn) << 16 | u32::from(value));
                }
                Community::Large(asn, first, second) => large.push((asn, first, second)),
            }
        }
        standard.sort_unstable();
        standard.dedup();
        large.sort_unstable();
        large.dedup();
        Self {
            standard: standard.into(),
            large: large.into(),
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Community> {
        let standard = self.standard.iter();
        let standard = standard.map(|both| Community::Standard((both >> 16) as u16, *both as u16));
        let large = self.large.iter();
        standard.chain(large.map(|&(asn, first, second)| Community::Large(asn, first, second)))
    }

    pub fn contains(&self, community: Community) -> bool {
        match community {
            Community::Standard(asn, value) => {
                let both = u32::from(asn) << 16 | u32::from(value);
                self.standard.binary_search(&both).is_ok()
            }
            Community::Large(asn, first, second) => {
                self.large.binary_search(&(asn, first, second)).is_ok()
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.standard.is_empty() && self.large.is_empty()
    }

    /// Memory behind it.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.standard) + size_of_val(&*self.large)
    }
}

/// What BGP's decision process compares (RFC 4271, 9.1.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Preference {
    /// Higher is better; absent on eBGP sessions.
    pub local_pref: Option<u32>,
    /// Hops of the AS path, prepending included.
    pub as_path_hops: u16,
    /// 0 IGP, 1 EGP, 2 incomplete.
    pub origin: u8,
    pub med: Option<u32>,
}

impl Preference {
    pub const INCOMPLETE: u8 = 2;
}

/// What *one* source says about a prefix. Routes with the same attributes share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path {
    /// The AS that originates the prefix; `None`: an AS_SET, or not told.
    pub origin_asn: Option<u32>,
    /// ASes between the neighbour and the origin, prepending removed.
    pub as_path_middle: Arc<[u32]>,
    /// The neighbour's AS.
    pub peer_asn: Option<u32>,
    /// The neighbour's address on the BGP session.
    pub peer_address: Option<IpAddr>,
    pub next_hop: Option<IpAddr>,
    /// The router that told, by its name in the configuration or on the wire.
    pub router: Option<Arc<str>>,
    pub communities: Communities,
    /// Egress interface; this host's own routes only.
    pub interface: Option<Arc<str>>,
    /// A file's own word for the access network.
    pub isp: Option<Arc<str>>,
    /// A file's own word for the interconnect.
    pub interconnect: Option<Arc<str>>,
    /// How it compares with other ways to the same prefix.
    pub preference: Preference,
}

impl Path {
    /// Whether both say the same about who and which way; how they were preferred may differ.
    pub fn same_way(&self, other: &Self) -> bool {
        let Self {
            origin_asn,
            as_path_middle,
            peer_asn,
            peer_address,
            next_hop,
            router,
            communities,
            interface,
            isp,
            interconnect,
            preference: _,
        } = self;
        *origin_asn == other.origin_asn
            && *as_path_middle == other.as_path_middle
            && *peer_asn == other.peer_asn
            && *peer_address == other.peer_address
            && *next_hop == other.next_hop
            && *router == other.router
            && *communities == other.communities
            && *interface == other.interface
            && *isp == other.isp
            && *interconnect == other.interconnect
    }
}

/// What kind of link an interconnect is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Connectivity {
    /// A private interconnect with one network.
    Pni,
    /// An Internet exchange.
    Ix,
    /// Bought transit.
    Transit,
}

/// Which sources a [`Route`] was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceSet {
    /// Who said whose network it is (origin and ISP).
    pub who: Source,
    /// Who said through what it is reached: `File` where a file named the interconnect, `Kernel`
    /// where this host's own routes gave interface and next hop, else the BGP source.
    pub way: Source,
}

/// Everything known about the way to a client, merged from all sources and named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The announced prefix that matched: the longest of the sources used.
    pub prefix: IpNet,
    /// The AS that originates the prefix.
    pub origin_asn: u32,
    /// The access network's name.
    pub isp: Arc<str>,
    /// The link or BGP adjacency through which we send to it.
    pub interconnect: Arc<str>,
    /// The neighbour's AS on that interconnect, where a source tells.
    pub peer_asn: Option<u32>,
    pub peer_address: Option<IpAddr>,
    /// The BGP next hop, or the kernel's, where a source tells.
    pub next_hop: Option<IpAddr>,
    pub router: Option<Arc<str>>,
    pub interface: Option<Arc<str>>,
    /// ASes between the neighbour and the origin, prepending removed.
    pub as_path_middle: Arc<[u32]>,
    pub connectivity: Option<Connectivity>,
    pub site: Option<Arc<str>>,
    /// What this interconnect shares with others (router, port, fabric, reseller).
    pub risk_groups: Arc<[Arc<str>]>,
    pub sources: SourceSet,
    /// A source used here has gone silent.
    pub stale: bool,
}

#[cfg(test)]
impl Route {
    /// A way that a file names.
    pub fn example() -> Self {
        Self {
            prefix: IpNet::from(IpAddr::from([192, 0, 2, 0])),
            origin_asn: 64_501,
            isp: "Northnet".into(),
            interconnect: "ic-a".into(),
            peer_asn: None,
            peer_address: None,
            next_hop: Some([192, 0, 2, 1].into()),
            router: None,
            interface: Some("eth0".into()),
            as_path_middle: [64_999].into(),
            connectivity: Some(Connectivity::Pni),
            site: None,
            risk_groups: ["r1".into()].into(),
            sources: SourceSet {
                who: Source::File,
                way: Source::File,
            },
            stale: false,
        }
    }
}

impl Route {
    /// Whether the interconnect hands over to the access network itself. A file that names the
    /// interconnect without telling the neighbour's AS names the way to the ISP, so that counts as
    /// one; from any other source an unknown neighbour may be anybody.
    pub fn is_direct(&self) -> bool {
        match self.peer_asn {
            Some(peer) => peer == self.origin_asn,
            None => {
                self.sources.way == Source::File && self.connectivity != Some(Connectivity::Transit)
            }
        }
    }

    /// Whether traffic takes the same way as on `other`, as far as is known: through the same
    /// interconnect and egress interface, to the same neighbour, across the same networks, to the
    /// same one. Which router or source told it, and how it is announced, makes no other way.
    pub fn same_way(&self, other: &Self) -> bool {
        let neighbour = |route: &Self| (route.peer_asn, route.next_hop.or(route.peer_address));
        self.interconnect == other.interconnect
            && self.isp == other.isp
            && self.origin_asn == other.origin_asn
            && neighbour(self) == neighbour(other)
            && self.as_path_middle == other.as_path_middle
            && self.interface == other.interface
    }
}

/// Where one client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The unit that is counted: the client's /24 or /48, never wider than what is announced.
    pub unit: IpNet,
    pub route: Arc<Route>,
}
