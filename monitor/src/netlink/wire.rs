//! Rtnetlink messages about routes, rules, nexthop objects and devices (rtnetlink(7)), from bytes
//! to [`Change`]s.
//!
//! Only what routing depends on is read. `netlink-packet-route` has no nexthop objects and drops
//! a message whose attributes it does not know; here an unknown attribute is passed over, and
//! what is malformed is an error that names it. Nothing panics on any byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::path::fib::{
    Action, Change, Hop, KernelRoute, Kind, Leads, Link, Nexthop, Placement, Refusal, Rule, Target,
};

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

/// `struct rtmsg` and its attributes; `None` where it is of another kind than IP's own tables.
fn route(body: &[u8]) -> Result<Option<KernelRoute>, Malformed> {
    const WHAT: &str = "a route";
    const RTA_DST: u16 = 1;
    const RTA_SRC: u16 = 2;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_PRIORITY: u16 = 6;
    const RTA_MULTIPATH: u16 = 9;
    const RTA_TABLE: u16 = 15;
    const RTA_VIA: u16 = 18;
    const RTA_NH_ID: u16 = 30;

    let mut header = Reader::new(body, WHAT);
    let [family, prefix_length, source_length, tos] = header.take()?;
    let [table, _protocol, _scope, kind] = header.take()?;
    let flags = header.u32()?;
    if !matches!(family, AF_INET | AF_INET6) || flags & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let Some(kind) = route_kind(kind) else {
        return Ok(None);
    };
    let ipv6 = family == AF_INET6;
    let (mut destination, mut source, mut metric, mut table, mut object) =
        (None, None, 0, u32::from(table), None);
    let (mut device, mut gateway, mut hops) = (None, None, Vec::new());
    for attribute in attributes(header.rest, WHAT) {
        let (kind, value) = attribute?;
        match kind {
            RTA_DST => destination = Some(address(value, WHAT)?),
            RTA_SRC => source = Some(address(value, WHAT)?),
            RTA_OIF => device = Some(number(value, WHAT)?),
            RTA_GATEWAY => gateway = Some(address(value, WHAT)?),
            RTA_VIA => gateway = via(value)?,
            RTA_PRIORITY => metric = number(value, WHAT)?,
            RTA_TABLE => table = number(value, WHAT)?,
            RTA_NH_ID => object = Some(number(value, WHAT)?),
            RTA_MULTIPATH => hops = multipath(value)?,
            _ => {}
        }
    }
    if let (true, Some(device)) = (hops.is_empty(), device) {
        hops.push(Hop {
            device,
            gateway,
            weight: 1,
            // The flags of a route with a single hop are the hop's.
            dead: flags & u32::from(RTNH_F_DEAD) != 0,
        });
    }
    Ok(Some(KernelRoute {
        table,
        prefix: prefix(destination, prefix_length, ipv6, WHAT)?,
        from: match source_length {
            0 => None,
            length => Some(prefix(source, length, ipv6, WHAT)?),
        },
        tos: if ipv6 { 0 } else { tos },
        metric,
        kind,
        target: Target {
            object,
            hops: hops.into(),
        },
    }))
}

/// `RTN_*`.
fn route_kind(kind: u8) -> Option<Kind> {
    Some(match kind {
        1 => Kind::Unicast,
        2 => Kind::Refuse(Refusal::Local),
        // Broadcast, anycast (an address of ours too), multicast.
        3 | 5 => Kind::Refuse(Refusal::Multicast),
        4 => Kind::Refuse(Refusal::Local),
        6 => Kind::Refuse(Refusal::Blackhole),
        7 => Kind::Refuse(Refusal::Unreachable),
        8 => Kind::Refuse(Refusal::Prohibited),
        9 => Kind::Throw,
        _ => return None,
    })
}

/// `struct rtvia`: a gateway of the other family.
fn via(value: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    const WHAT: &str = "RTA_VIA";
    let mut header = Reader::new(value, WHAT);
    let family = header.u16()?;
    if family == u16::from(AF_INET) || family == u16::from(AF_INET6) {
        address(header.rest, WHAT).map(Some)
    } else {
        Ok(None)
    }
}

/// `struct rtnexthop`, one after the other.
fn multipath(value: &[u8]) -> Result<Vec<Hop>, Malformed> {
    const WHAT: &str = "RTA_MULTIPATH";
    const RTA_GATEWAY: u16 = 5;
    const RTA_VIA: u16 = 18;
    const HOP_HEADER: usize = 8;
    let mut hops = Vec::new();
    let mut rest = value;
    while rest.len() >= HOP_HEADER {
        let mut header = Reader::new(rest, WHAT);
        let length = usize::from(header.u16()?);
        let [flags, weight_less_one] = header.take()?;
        let device = header.u32()?;
        let own = rest
            .get(HOP_HEADER..length)
            .ok_or(Malformed::TooLong(WHAT))?;
        let mut gateway = None;
        for attribute in attributes(own, WHAT) {
            match attribute? {
                (RTA_GATEWAY, value) => gateway = Some(address(value, WHAT)?),
                (RTA_VIA, value) => gateway = via(value)?,
                _ => {}
            }
        }
        hops.push(Hop {
            device,
            gateway,
            weight: u16::from(weight_less_one) + 1,
            dead: flags & RTNH_F_DEAD != 0,
        });
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(hops)
}

/// `struct fib_rule_hdr` and its attributes; `None` where it can never apply.
fn rule(body: &[u8]) -> Result<Option<Rule>, Malformed> {
    const WHAT: &str = "a rule";
    const FRA_DST: u16 = 1;
    const FRA_SRC: u16 = 2;
    const FRA_IIFNAME: u16 = 3;
    const FRA_GOTO: u16 = 4;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_SUPPRESS_IFGROUP: u16 = 13;
    const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
    const FRA_TABLE: u16 = 15;
    const FRA_FWMASK: u16 = 16;
    const FRA_OIFNAME: u16 = 17;
    const FRA_L3MDEV: u16 = 19;
    const FRA_UID_RANGE: u16 = 20;
    const FRA_IP_PROTO: u16 = 22;
    const FRA_SPORT_RANGE: u16 = 23;
    const FRA_DPORT_RANGE: u16 = 24;
    /// These say nothing about which packets the rule applies to: padding, realms, who made it.
    const SILENT: [u16; 3] = [11, 18, 21];
    /// "None", of a suppressor.
    const UNSET: u32 = u32::MAX;

    let mut header = Reader::new(body, WHAT);
    let [family, to_length, from_length, tos] = header.take()?;
    let [table, _, _, action] = header.take()?;
    let flags = header.u32()?;
    let ipv6 = match family {
        AF_INET => false,
        AF_INET6 => true,
        _ => return Ok(None),
    };
    let mut rule = Rule::all(ipv6, 0, Action::Nop);
    rule.tos = tos;
    rule.invert = flags & FIB_RULE_INVERT != 0;
    let (mut to, mut from, mut table, mut goto) = (None, None, u32::from(table), None);
    let (mut mark, mut mask) = (None, None);
    for attribute in attributes(header.rest, WHAT) {
        let (kind, value) = attribute?;
        match kind {
            FRA_DST => to = Some(address(value, WHAT)?),
            FRA_SRC => from = Some(address(value, WHAT)?),
            FRA_IIFNAME => rule.incoming = Some(name(value)),
            FRA_OIFNAME => rule.outgoing = Some(name(value)),
            FRA_GOTO => goto = Some(number(value, WHAT)?),
            FRA_PRIORITY => rule.priority = number(value, WHAT)?,
            FRA_FWMARK => mark = Some(number(value, WHAT)?),
            FRA_FWMASK => mask = Some(number(value, WHAT)?),
            FRA_TABLE => table = number(value, WHAT)?,
            FRA_SUPPRESS_PREFIXLEN => {
                rule.suppress_length = Some(number(value, WHAT)?).filter(|&it| it != UNSET);
            }
            FRA_SUPPRESS_IFGROUP => {
                rule.suppress_group = Some(number(value, WHAT)?).filter(|&it| it != UNSET);
            }
            FRA_L3MDEV => rule.vrf = Reader::new(value, WHAT).u8()? != 0,
            FRA_UID_RANGE => rule.user = true,
            FRA_IP_PROTO => rule.protocol = Some(Reader::new(value, WHAT).u8()?),
            FRA_SPORT_RANGE => rule.source_ports = Some(range(value)?),
            FRA_DPORT_RANGE => rule.destination_ports = Some(range(value)?),
            other if SILENT.contains(&other) => {}
            _ => rule.unknown_selector = true,
        }
    }
    if to_length > 0 {
        rule.to = Some(prefix(to, to_length, ipv6, WHAT)?);
    }
    if from_length > 0 {
        rule.from = Some(prefix(from, from_length, ipv6, WHAT)?);
    }
    rule.mark = match (mark, mask) {
        (None, None) => None,
        (mark, mask) => Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    rule.action = match (action, goto) {
        (1, _) if rule.vrf => Action::VrfTable,
        (1, _) => Action::Table(table),
        (2, Some(priority)) if flags & FIB_RULE_UNRESOLVED == 0 => Action::Goto(priority),
        (2 | 3, _) => Action::Nop,
        (6, _) => Action::Refuse(Refusal::Blackhole),
        (7, _) => Action::Refuse(Refusal::Unreachable),
        (8, _) => Action::Refuse(Refusal::Prohibited),
        _ => Action::Unknown,
    };
    if flags & (FIB_RULE_IIF_DETACHED | FIB_RULE_OIF_DETACHED) != 0 && !rule.invert {
        // Its device is not there: it applies to nothing until that appears, which is told by a
        // message about the device, and a dump follows.
        rule.action = Action::Nop;
    }
    Ok(Some(rule))
}

/// `struct fib_rule_port_range`.
fn range(value: &[u8]) -> Result<(u16, u16), Malformed> {
    let mut numbers = Reader::new(value, "a range of ports");
    Ok((numbers.u16()?, numbers.u16()?))
}

/// `struct nhmsg` and its attributes.
fn nexthop(body: &[u8]) -> Result<Nexthop, Malformed> {
    const WHAT: &str = "a nexthop object";
    const NHA_ID: u16 = 1;
    const NHA_GROUP: u16 = 2;
    const NHA_BLACKHOLE: u16 = 4;
    const NHA_OIF: u16 = 5;
    const NHA_GATEWAY: u16 = 6;

    let mut header = Reader::new(body, WHAT);
    let [_family, _scope, _protocol, _] = header.take()?;
    let flags = header.u32()?;
    let (mut id, mut device, mut gateway) = (0, None, None);
    let (mut group, mut nowhere) = (None, false);
    for attribute in attributes(header.rest, WHAT) {
        let (kind, value) = attribute?;
        match kind {
            NHA_ID => id = number(value, WHAT)?,
            NHA_GROUP => group = Some(members(value)?),
            NHA_BLACKHOLE => nowhere = true,
            NHA_OIF => device = Some(number(value, WHAT)?),
            NHA_GATEWAY => gateway = Some(address(value, WHAT)?),
            _ => {}
        }
    }
    let leads = match (group, device) {
        (Some(members), _) => Leads::Group(members),
        (None, Some(device)) if !nowhere => Leads::To(Hop {
            device,
            gateway,
            weight: 1,
            dead: flags & u32::from(RTNH_F_DEAD) != 0,
        }),
        _ => Leads::Nowhere,
    };
    Ok(Nexthop { id, leads })
}

/// `struct nexthop_grp`, one after the other.
fn members(value: &[u8]) -> Result<Vec<(u32, u16)>, Malformed> {
    let (entries, _) = value.as_chunks::<8>();
    entries
        .iter()
        .map(|entry| {
            let mut entry = Reader::new(entry, "NHA_GROUP");
            let id = entry.u32()?;
            Ok((id, u16::from(entry.u8()?) + 1))
        })
        .collect()
}

/// `struct ifinfomsg` and its attributes; `None` for what bridges say about their ports.
fn link(body: &[u8]) -> Result<Option<Link>, Malformed> {
    const WHAT: &str = "a device";
    const AF_UNSPEC: u8 = 0;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINK: u16 = 5;
    const IFLA_MASTER: u16 = 10;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_GROUP: u16 = 27;
    const IFLA_LINK_NETNSID: u16 = 37;

    let mut header = Reader::new(body, WHAT);
    let [family, _, _, _] = header.take()?;
    let index = header.u32()?;
    let flags = header.u32()?;
    let _change = header.u32()?;
    if family != AF_UNSPEC {
        return Ok(None);
    }
    let mut link = Link {
        index,
        name: "".into(),
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        master: None,
        below: None,
        group: 0,
        vrf_table: None,
    };
    let mut has_other_end = false;
    for attribute in attributes(header.rest, WHAT) {
        let (kind, value) = attribute?;
        match kind {
            IFLA_IFNAME => link.name = name(value),
            IFLA_LINK => link.below = Some(number(value, WHAT)?).filter(|&below| below != index),
            IFLA_MASTER => link.master = Some(number(value, WHAT)?).filter(|&it| it != index),
            IFLA_GROUP => link.group = number(value, WHAT)?,
            IFLA_LINKINFO => {
                let (kind, table) = kind_of_link(value)?;
                link.vrf_table = table;
                has_other_end |= &*kind == "veth";
            }
            IFLA_LINK_NETNSID => has_other_end = true,
            _ => {}
        }
    }
    if has_other_end {
        // IFLA_LINK is no device below it, but its other end or a device of another namespace.
        link.below = None;
    }
    Ok(Some(link))
}

/// The kind of a device and, of a VRF, its table, from `IFLA_LINKINFO`.
fn kind_of_link(value: &[u8]) -> Result<(Arc<str>, Option<u32>), Malformed> {
    const WHAT: &str = "IFLA_LINKINFO";
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_VRF_TABLE: u16 = 1;
    let (mut kind, mut table): (Arc<str>, _) = ("".into(), None);
    for attribute in attributes(value, WHAT) {
        match attribute? {
            (IFLA_INFO_KIND, value) => kind = name(value),
            (IFLA_INFO_DATA, data) if &*kind == "vrf" => {
                for attribute in attributes(data, WHAT) {
                    if let (IFLA_VRF_TABLE, value) = attribute? {
                        table = Some(number(value, WHAT)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok((kind, table))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
