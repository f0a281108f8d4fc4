//! Names of the lab's namespaces and the addresses in them, all IPv4.
//!
//! Interconnects and ISPs are numbered from 0 in the scenario's order; the plan has checked that
//! their numbers fit.

use std::net::Ipv4Addr;

/// Namespace of our own machine: web server, daemon, uplink.
pub const VIDEO: &str = "video";
/// Namespace of our edge router.
pub const EDGE: &str = "edge";
/// Namespace of another server behind our edge router.
pub const CONTENT: &str = "content";
/// Namespace that stands for all other networks.
pub const ELSEWHERE: &str = "elsewhere";

/// The video server (RFC 5737 documentation space).
pub const VIDEO_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The other server behind our edge.
pub const CONTENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// Namespace of the switch between our machines and our edge router, where there is one.
pub const BACKBONE: &str = "backbone";
/// Namespace of another machine of ours on that switch.
pub const OFFICE: &str = "office";
/// The other machine there, in the video server's /24.
pub const OFFICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

/// The access router's address on every home's line (shared address space, RFC 6598).
pub const LINE_GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

/// Namespace of an ISP's border router.
#[must_use]
pub fn border(isp: usize) -> String {
    format!("border-{}", isp + 1)
}

/// Namespace of an ISP's access router.
#[must_use]
pub fn access(isp: usize) -> String {
    format!("access-{}", isp + 1)
}

/// The edge router's device on an exchange, and its other end.
#[must_use]
pub fn port_device(exchange: usize) -> String {
    format!("port-{}", exchange + 1)
}

/// A border router's device on an exchange. Not called as the port: the kernel refuses to make a
/// macvlan with the name of a device where it is made from.
#[must_use]
pub fn exchange_device(exchange: usize) -> String {
    format!("exchange-{}", exchange + 1)
}

/// The router's address on a server's link: .1 of its /24.
#[must_use]
pub fn gateway(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// Our own AS number, where routes come by BGP (RFC 5398 documentation range).
pub const EDGE_ASN: u32 = 64500;

/// The edge router's device for what the video host sends to this exchange, where the video host's
/// own routes choose it.
#[must_use]
pub fn gateway_device(exchange: usize) -> String {
    format!("way-{}", exchange + 1)
}

/// The address of that device: the next hop of the video host's routes.
#[must_use]
pub fn exchange_gateway(exchange: usize) -> Ipv4Addr {
    let [a, b, c, _] = VIDEO_ADDRESS.octets();
    Ipv4Addr::new(a, b, c, FIRST_GATEWAY + exchange as u8)
}

/// The gateways' addresses begin here in the video host's /24.
pub const FIRST_GATEWAY: u8 = 101;

/// Our edge router on an exchange.
#[must_use]
pub fn exchange_edge(exchange: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, exchange as u8, 1)
}

/// An ISP's border router on an exchange.
#[must_use]
pub fn exchange_border(exchange: usize, isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, exchange as u8, 10 + isp as u8)
}

/// All other networks on an exchange.
#[must_use]
pub fn exchange_elsewhere(exchange: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, exchange as u8, 250)
}

/// An ISP's border router on its core link.
#[must_use]
pub fn core_near(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, isp as u8, 1)
}

/// An ISP's access router on its core link.
#[must_use]
pub fn core_far(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, isp as u8, 2)
}

/// All other networks on their own link to an ISP.
#[must_use]
pub fn elsewhere_far(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, isp as u8, 1)
}

/// An ISP's border router on its link to all other networks.
#[must_use]
pub fn elsewhere_near(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, isp as u8, 2)
}

/// Namespace of the cache beside an ISP's access router.
#[must_use]
pub fn cache(isp: usize) -> String {
    format!("cache-{}", isp + 1)
}

/// The cache's address.
#[must_use]
pub fn cache_address(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 3, isp as u8, 10)
}

/// Namespace of the transit's router that is our neighbour on an interconnect.
#[must_use]
pub fn transit(exchange: usize) -> String {
    format!("transit-{}", exchange + 1)
}

/// A transit's router on its interconnect with our edge.
#[must_use]
pub fn exchange_transit(exchange: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, exchange as u8, 2)
}

/// The transit's device for an ISP, or for all other networks.
#[must_use]
pub fn handover_device(to: Option<usize>) -> String {
    to.map_or_else(|| ELSEWHERE.to_owned(), |isp| format!("isp-{}", isp + 1))
}

/// A transit's router on its link to an ISP; `None`: to all other networks.
#[must_use]
pub fn handover_near(exchange: usize, to: Option<usize>) -> Ipv4Addr {
    handover(exchange, to, 1)
}

/// The ISP's border router, or all other networks, on that link.
#[must_use]
pub fn handover_far(exchange: usize, to: Option<usize>) -> Ipv4Addr {
    handover(exchange, to, 2)
}

fn handover(exchange: usize, to: Option<usize>, host: u8) -> Ipv4Addr {
    /// More than there may be ISPs.
    const OTHERS: u8 = 250;
    let net = to.map_or(OTHERS, |isp| isp as u8);
    Ipv4Addr::new(10, FIRST_TRANSIT_NET + exchange as u8, net, host)
}

/// The second octet of the transits' links begins here.
const FIRST_TRANSIT_NET: u8 = 100;
/// So many transits have a second octet.
pub const TRANSITS_MAX: usize = 255 - FIRST_TRANSIT_NET as usize;

/// Namespace of the node between an ISP's access router and some of its homes, where there is one.
#[must_use]
pub fn node(isp: usize) -> String {
    format!("node-{}", isp + 1)
}

/// The access router on its link to the node.
#[must_use]
pub fn node_near(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 4, isp as u8, 1)
}

/// The node on that link.
#[must_use]
pub fn node_far(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 4, isp as u8, 2)
}
