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
pub fn transit_far(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, isp as u8, 1)
}

/// An ISP's border router on its link to all other networks.
#[must_use]
pub fn transit_near(isp: usize) -> Ipv4Addr {
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
