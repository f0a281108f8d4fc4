//! Waiting for the routes of a namespace to be what they should be.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns;

/// The kernel's group of changes of IPv4 routes (`RTNLGRP_IPV4_ROUTE`).
const IPV4_ROUTE_CHANGES: u32 = 7;
/// Large enough for one part of a dump: the kernel fills at most 32 KiB (NLMSG_GOODSIZE and up).
const RECEIVE_BYTES: usize = 64 * 1024;

/// Waits until each prefix (`a.b.c.d/length`) is reached over its gateway; returns at once when
/// that is so.
///
/// # Errors
/// If the kernel cannot be asked, or it is not so in time: the message holds the first that
/// differs.
pub fn await_gateways(
    namespace: &str,
    wanted: Vec<(String, Ipv4Addr)>,
    within: Duration,
) -> Result<()> {
    let name = namespace.to_owned();
    let wait = netns::enter(namespace, move || {
        // Before the first look, so that no change is missed after it.
        let mut changes = open()?;
        changes
            .add_membership(IPV4_ROUTE_CHANGES)
            .context("cannot listen for changes of routes")?;
        let deadline = Instant::now() + within;
        loop {
            let found = dump()?;
            let Some((prefix, gateway)) = wanted.iter().find(|way| !found.contains(way)) else {
                return Ok(());
            };
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                let instead = found.iter().find(|(found, _)| found == prefix);
                bail!(
                    "after {within:?} {name} does not reach {prefix} via {gateway}, but {}",
                    instead.map_or("not at all".to_owned(), |(_, via)| format!("via {via}"))
                );
            }
            await_change(&mut changes, rest)?;
        }
    })?;
    netns::join(wait)
}

fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
    socket.bind_auto().context("cannot bind a netlink socket")?;
    Ok(socket)
}

fn await_change(changes: &mut Socket, within: Duration) -> Result<()> {
    let timeout = PollTimeout::try_from(within.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ready, timeout).context("cannot wait for changes of routes")? > 0 {
        let mut buffer = vec![0_u8; RECEIVE_BYTES];
        // What changed is looked up; an overflow says as well that something did.
        let _ = changes.recv(&mut &mut buffer[..], 0);
    }
    Ok(())
}

/// All IPv4 routes with a prefix and a gateway.
fn dump() -> Result<Vec<(String, Ipv4Addr)>> {
    let socket = open()?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .context("cannot connect a netlink socket to the kernel")?;
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let mut request = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::from(RouteNetlinkMessage::GetRoute(message)),
    );
    request.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket
        .send(&bytes, 0)
        .context("cannot ask the kernel for its routes")?;
    let mut routes = Vec::new();
    let mut buffer = vec![0_u8; RECEIVE_BYTES];
    loop {
        let size = socket
            .recv(&mut &mut buffer[..], 0)
            .context("cannot receive the kernel's routes")?;
        let mut rest = &buffer[..size];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .context("the kernel's answer about its routes cannot be read")?;
            let length = message.header.length as usize;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(routes),
                NetlinkPayload::Error(error) => {
                    bail!("the kernel does not tell about its routes: {error}")
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    routes.extend(way(&route));
                }
                _ => {}
            }
            // Messages are padded to four bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn way(route: &RouteMessage) -> Option<(String, Ipv4Addr)> {
    let mut destination = None;
    let mut gateway = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                destination = Some(IpAddr::V4(*address));
            }
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            _ => {}
        }
    }
    let length = route.header.destination_prefix_length;
    Some((format!("{}/{length}", destination?), gateway?))
}
