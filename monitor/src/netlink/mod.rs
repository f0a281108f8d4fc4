//! What the kernel says about this network namespace: its devices, what their queues dropped, and
//! ([`routing`]) everything that it routes by.

pub mod routing;
pub mod wire;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        link::{LinkAttribute, LinkLayerType, LinkMessage},
        route::{RouteAttribute, RouteMessage, RouteType},
        tc::{TcAttribute, TcHandle, TcStats2},
    },
};

/// How a device's frames begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    Ethernet,
    /// No link header: tun, WireGuard, ppp, tunnels.
    RawIp,
    /// Anything else, by its ARPHRD number.
    Other(u16),
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: Arc<str>,
    pub link_type: LinkType,
}

/// What a device's own queue and driver counted since they exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    pub sent_bytes: u64,
    pub sent_packets: u64,
    /// Packets the root qdisc dropped.
    pub dropped: u64,
    /// Bytes waiting in the root qdisc at this moment.
    pub backlog_bytes: u64,
    /// Packets the driver dropped.
    pub driver_dropped: u64,
}

/// A netlink socket and the task that serves it.
pub struct Netlink {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Opens a socket in the network namespace of this thread. Needs a tokio runtime.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// Every device.
    pub async fn devices(&self) -> Result<Vec<Device>> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .context("cannot list the network devices")?;
        Ok(links.iter().filter_map(device).collect())
    }

    /// Indices of the devices that a default route of either address family leads to.
    pub async fn default_route_devices(&self) -> Result<Vec<u32>> {
        let mut indices = Vec::new();
        let requests = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ];
        for request in requests {
            let mut routes = self.handle.route().get(request).execute().boxed();
            while let Some(route) = routes.try_next().await.context("cannot list the routes")? {
                if route.header.destination_prefix_length == 0
                    && route.header.kind == RouteType::Unicast
                {
                    indices.extend(egress_devices(&route));
                }
            }
        }
        indices.sort_unstable();
        indices.dedup();
        Ok(indices)
    }

    /// The queues of all devices, by index.
    pub async fn queues(&self) -> Result<BTreeMap<u32, Queue>> {
        let mut queues: BTreeMap<u32, Queue> = BTreeMap::new();
        let mut links = self.handle.link().get().execute().boxed();
        while let Some(link) = links
            .try_next()
            .await
            .context("cannot read the counters of the network devices")?
        {
            let queue = queues.entry(link.header.index).or_default();
            for attribute in &link.attributes {
                if let LinkAttribute::Stats64(stats) = attribute {
                    queue.sent_bytes = stats.tx_bytes;
                    queue.sent_packets = stats.tx_packets;
                    queue.driver_dropped = stats.tx_dropped;
                }
            }
        }
        drop(links);
        let mut qdiscs = self.handle.qdisc().get().execute().boxed();
        while let Some(qdisc) = qdiscs
            .try_next()
            .await
            .context("cannot read the counters of the queueing disciplines")?
        {
            if qdisc.header.parent != TcHandle::ROOT {
                continue;
            }
            let Ok(index) = u32::try_from(qdisc.header.index) else {
                continue;
            };
            let queue = queues.entry(index).or_default();
            let stats = qdisc
                .attributes
                .iter()
                .filter_map(|attribute| match attribute {
                    TcAttribute::Stats2(stats) => Some(stats),
                    _ => None,
                });
            for stat in stats.flatten() {
                if let TcStats2::Queue(counters) = stat {
                    queue.dropped = u64::from(counters.drops);
                    queue.backlog_bytes = u64::from(counters.backlog);
                }
            }
        }
        Ok(queues)
    }
}

fn device(link: &LinkMessage) -> Option<Device> {
    let name = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })?;
    let link_type = match link.header.link_layer_type {
        LinkLayerType::Ether | LinkLayerType::Loopback => LinkType::Ethernet,
        LinkLayerType::None
        | LinkLayerType::Ppp
        | LinkLayerType::Rawip
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre => LinkType::RawIp,
        other => LinkType::Other(other.into()),
    };
    Some(Device {
        index: link.header.index,
        name: name.into(),
        link_type,
    })
}

/// A route's own device, or those of its next hops.
fn egress_devices(route: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => {
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    devices
}

/// The devices to watch: those whose name matches one of `patterns` (`*` any run of characters,
/// `?` one), or without patterns those in `default_route`.
pub fn choose(devices: &[Device], patterns: &[String], default_route: &[u32]) -> Vec<Device> {
    devices
        .iter()
        .filter(|device| {
            if patterns.is_empty() {
                default_route.contains(&device.index)
            } else {
                patterns
                    .iter()
                    .any(|pattern| matches(pattern.as_bytes(), device.name.as_bytes()))
            }
        })
        .cloned()
        .collect()
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            (0..=name.len()).any(|skipped| matches(rest, name.get(skipped..).unwrap_or_default()))
        }
        ([b'?', rest @ ..], [_, name @ ..]) => matches(rest, name),
        ([first, rest @ ..], [letter, name @ ..]) => first == letter && matches(rest, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str) -> Device {
        Device {
            index,
            name: name.into(),
            link_type: LinkType::Ethernet,
        }
    }

    fn names(devices: &[Device]) -> Vec<&str> {
        devices.iter().map(|device| &*device.name).collect()
    }

    #[test]
    fn given_patterns_only_matching_names_are_chosen() {
        let devices = [
            device(1, "lo"),
            device(2, "eth0"),
            device(3, "eth10"),
            device(4, "ens3"),
        ];
        let choose = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns
                .iter()
                .map(|pattern| (*pattern).to_owned())
                .collect();
            names(&super::choose(&devices, &patterns, &[1]))
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(choose(&["eth*"]), ["eth0", "eth10"]);
        assert_eq!(choose(&["eth?"]), ["eth0"]);
        assert_eq!(choose(&["*3", "lo"]), ["lo", "ens3"]);
        assert_eq!(choose(&["eth"]), Vec::<String>::new());
    }

    #[test]
    fn without_patterns_the_devices_of_default_routes_are_chosen() {
        let devices = [device(1, "lo"), device(2, "eth0")];
        assert_eq!(names(&choose(&devices, &[], &[2])), ["eth0"]);
    }
}
