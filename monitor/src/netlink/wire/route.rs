//! Routes, from `RTM_NEWROUTE` and `RTM_DELROUTE`.

use std::net::IpAddr;

use super::{
    AF_INET, AF_INET6, Malformed, RTM_F_CLONED, RTNH_F_DEAD, Reader, address, aligned, attributes,
    number, prefix,
};
use crate::path::fib::{Hop, KernelRoute, Kind, Refusal, Target};

/// `struct rtmsg` and its attributes; `None` where it is of another kind than IP's own tables.
pub(super) fn route(body: &[u8]) -> Result<Option<KernelRoute>, Malformed> {
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
