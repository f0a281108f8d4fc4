//! Rtnetlink messages about routes, rules, nexthop objects and devices (rtnetlink(7)), from bytes
//! to [`Change`]s.
//!
//! Only what routing depends on is read. `netlink-packet-route` has no nexthop objects and drops
//! a message whose attributes it does not know; here an unknown attribute is passed over, and
//! what is malformed is an error that names it. Nothing panics on any byte.

mod link;
mod nexthop;
mod route;
mod rule;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use self::link::link;
use self::nexthop::nexthop;
use self::route::route;
use self::rule::rule;
use crate::path::fib::{Change, Placement};

/// What one message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Change(Change),
    /// An address was removed; the kernel drops routes with it without a message of their own.
    AddressGone,
    /// The end of a dump.
    Done,
    /// A request was refused, with this error number; 0 is an acknowledgement.
    Error(i32),
    /// Messages were lost (`NLMSG_OVERRUN`).
    Overrun,
    /// Nothing that matters here.
    Other,
}

/// Why a message was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} ends early")]
    Truncated(&'static str),
    #[error("{0} is longer than what holds it")]
    TooLong(&'static str),
    #[error("{0} is no prefix")]
    NoPrefix(&'static str),
}

const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_APPEND: u16 = 0x800;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A route that was made for one destination (`RTM_F_CLONED`): an exception, no table entry.
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_DEAD: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;
/// The rule jumps to one that is not there, or names a device that is not.
const FIB_RULE_UNRESOLVED: u32 = 4;
const FIB_RULE_IIF_DETACHED: u32 = 8;
const FIB_RULE_OIF_DETACHED: u32 = 16;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 0x1_0000;
/// The flags that tell the kind of an attribute from how it is encoded (`NLA_TYPE_MASK`).
const KIND_MASK: u16 = 0x3fff;

/// What a dump asks for, in the order in which it is asked: devices before routes by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    Links,
    Nexthops,
    RulesV4,
    RulesV6,
    RoutesV4,
    RoutesV6,
}

impl Dump {
    pub const ALL: [Self; 6] = [
        Self::Links,
        Self::Nexthops,
        Self::RulesV4,
        Self::RulesV6,
        Self::RoutesV4,
        Self::RoutesV6,
    ];

    /// The request, ready to send.
    pub fn request(self, sequence: u32) -> Vec<u8> {
        let (kind, family) = match self {
            Self::Links => (RTM_GETLINK, 0),
            Self::Nexthops => (RTM_GETNEXTHOP, 0),
            Self::RulesV4 => (RTM_GETRULE, AF_INET),
            Self::RulesV6 => (RTM_GETRULE, AF_INET6),
            Self::RoutesV4 => (RTM_GETROUTE, AF_INET),
            Self::RoutesV6 => (RTM_GETROUTE, AF_INET6),
        };
        // `struct ifinfomsg`, `nhmsg`, `fib_rule_hdr`, `rtmsg`: all begin with the family.
        let body = match self {
            Self::Links => 16,
            Self::Nexthops => 8,
            _ => 12,
        };
        let mut bytes = Vec::with_capacity(HEADER + body);
        bytes.extend(((HEADER + body) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.push(family);
        bytes.resize(HEADER + body, 0);
        bytes
    }
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    kind: u16,
    flags: u16,
    pub sequence: u32,
    body: &'a [u8],
}

impl Envelope<'_> {
    /// The table changed while it was dumped, so that the dump may miss something.
    pub fn is_inconsistent(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }
}

/// Cuts a datagram into messages.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Envelope<'_>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let envelope = envelope(rest);
        rest = match &envelope {
            Ok((_, length)) => rest.get(aligned(*length)..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(envelope.map(|(envelope, _)| envelope))
    })
}

fn envelope(bytes: &[u8]) -> Result<(Envelope<'_>, usize), Malformed> {
    let mut header = Reader::new(bytes, "a netlink header");
    let length = header.u32()? as usize;
    let envelope = Envelope {
        kind: header.u16()?,
        flags: header.u16()?,
        sequence: header.u32()?,
        body: bytes
            .get(HEADER..length)
            .ok_or(Malformed::TooLong("a netlink message"))?,
    };
    Ok((envelope, length))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

/// Reads one message.
pub fn parse(envelope: &Envelope<'_>) -> Result<Message, Malformed> {
    let body = envelope.body;
    Ok(match envelope.kind {
        NLMSG_ERROR => Message::Error(Reader::new(body, "a netlink error").u32()? as i32),
        NLMSG_DONE => Message::Done,
        NLMSG_OVERRUN => Message::Overrun,
        RTM_NEWROUTE => {
            let placement = if envelope.flags & NLM_F_REPLACE != 0 {
                Placement::Replace
            } else if envelope.flags & NLM_F_APPEND != 0 {
                Placement::Last
            } else {
                Placement::First
            };
            change(route(body)?.map(|route| Change::Route(route, placement)))
        }
        RTM_DELROUTE => change(route(body)?.map(Change::RouteGone)),
        RTM_NEWRULE => change(rule(body)?.map(Change::Rule)),
        RTM_DELRULE => change(rule(body)?.map(Change::RuleGone)),
        RTM_NEWNEXTHOP => Message::Change(Change::Nexthop(nexthop(body)?)),
        RTM_DELNEXTHOP => Message::Change(Change::NexthopGone(nexthop(body)?.id)),
        RTM_NEWLINK => change(link(body)?.map(Change::Link)),
        // A bridge port that leaves its bridge is told as a DELLINK of the family AF_BRIDGE.
        RTM_DELLINK => change(link(body)?.map(|link| Change::LinkGone(link.index))),
        RTM_DELADDR => Message::AddressGone,
        _ => Message::Other,
    })
}

fn change(change: Option<Change>) -> Message {
    change.map_or(Message::Other, Message::Change)
}

/// Reads numbers in the byte order of this machine.
struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Malformed::Truncated(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_ne_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_ne_bytes(self.take()?))
    }
}

fn number(bytes: &[u8], what: &'static str) -> Result<u32, Malformed> {
    Reader::new(bytes, what).u32()
}

/// Cuts attributes (`struct rtattr`): kind and value.
fn attributes<'a>(
    bytes: &'a [u8],
    what: &'static str,
) -> impl Iterator<Item = Result<(u16, &'a [u8]), Malformed>> {
    const ATTRIBUTE_HEADER: usize = 4;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        // Less than a header is padding.
        if rest.len() < ATTRIBUTE_HEADER {
            return None;
        }
        let mut header = Reader::new(rest, what);
        let (Ok(length), Ok(kind)) = (header.u16(), header.u16()) else {
            return None;
        };
        let length = usize::from(length);
        let Some(value) = rest.get(ATTRIBUTE_HEADER..length) else {
            rest = &[];
            return Some(Err(Malformed::TooLong(what)));
        };
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some(Ok((kind & KIND_MASK, value)))
    })
}

fn address(bytes: &[u8], what: &'static str) -> Result<IpAddr, Malformed> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        Ok(Ipv4Addr::from(octets).into())
    } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        Ok(Ipv6Addr::from(octets).into())
    } else {
        Err(Malformed::Truncated(what))
    }
}

fn unspecified(ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

fn prefix(
    address: Option<IpAddr>,
    length: u8,
    ipv6: bool,
    what: &'static str,
) -> Result<IpNet, Malformed> {
    IpNet::new(address.unwrap_or_else(|| unspecified(ipv6)), length)
        .map(|net| net.trunc())
        .map_err(|_| Malformed::NoPrefix(what))
}

/// The name of a device, up to its final zero.
fn name(bytes: &[u8]) -> Arc<str> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).as_ref().into()
}
