//! The way to a client: which prefix it is in, whose network that is, and through which
//! interconnect its traffic leaves us.
//!
//! Whatever the source (a CSV file today), it yields [`Route`]s; two sources are comparable by
//! comparing their routes. A [`PrefixTable`] is immutable: a new one is built beside it and
//! swapped in, so that readers never wait.

mod csv_file;
mod table;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use csv_file::CsvError;
pub use table::{Duplicate, PrefixTable};

/// What is known about one announced prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: IpNet,
    /// The AS that originates the prefix.
    pub origin_asn: u32,
    /// The access network's name.
    pub isp: Arc<str>,
    /// The link or BGP adjacency through which we send to it.
    pub interconnect: Arc<str>,
    /// The neighbour's AS on that interconnect, where the source tells.
    pub peer_asn: Option<u32>,
    /// The BGP next hop, where the source tells.
    pub next_hop: Option<IpAddr>,
}

impl Route {
    /// Whether the interconnect hands over to the access network itself. A source that does not
    /// tell the neighbour's AS names the interconnect as the way to the ISP, so it counts as one.
    pub fn is_direct(&self) -> bool {
        self.peer_asn.is_none_or(|peer| peer == self.origin_asn)
    }
}

/// Where one client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The unit that is counted: the client's /24 or /48, never wider than what is announced.
    pub unit: IpNet,
    pub route: Arc<Route>,
}

/// Length of the unit in which IPv4 clients are counted.
pub const UNIT_LENGTH_V4: u8 = 24;
/// Length of the unit in which IPv6 clients are counted: what a site gets (RFC 6177).
pub const UNIT_LENGTH_V6: u8 = 48;

/// The /24 or /48 around `address`.
pub fn unit(address: IpAddr) -> IpNet {
    let length = match address {
        IpAddr::V4(_) => UNIT_LENGTH_V4,
        IpAddr::V6(_) => UNIT_LENGTH_V6,
    };
    IpNet::new(address, length)
        .expect("24 and 48 are at most the address length")
        .trunc()
}
