//! What the kernel says about this network namespace: its devices, what their queues dropped, and
//! ([`routing`]) everything that it routes by.

pub mod namespace;
pub mod routing;
pub mod wire;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
        route::{RouteAttribute, RouteMessage, RouteType},
        tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcOption, TcStats2},
    },
};

use tokio::sync::Notify;

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
    /// Where its packets pass too.
    pub covered_by: Option<Cover>,
}

/// Another device that sees every packet of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// The bond or team that it is a port of.
    Above(u32),
    /// The device below a VLAN, a macvlan or an ipvlan.
    Below(u32),
}

impl Cover {
    fn index(self) -> u32 {
        match self {
            Self::Above(index) | Self::Below(index) => index,
        }
    }
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
    changed: Arc<Notify>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Opens a socket in the network namespace of this thread. Needs a tokio runtime.
    pub fn open() -> Result<Self> {
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
                .context("cannot open a netlink socket")?;
        let changed = Arc::new(Notify::new());
        let told = Arc::clone(&changed);
        let listen = async move {
            // What they say is asked for afterwards: some may have been dropped.
            while messages.next().await.is_some() {
                told.notify_one();
            }
        };
        Ok(Self {
            handle,
            task: tokio::spawn(async move {
                tokio::join!(connection, listen);
            }),
            changed,
        })
    }

    /// Notified when a device came, went or changed since the last time.
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
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
        let bonds: Vec<u32> = links
            .iter()
            .filter(|link| matches!(kind(link), Some(InfoKind::Bond | InfoKind::Team)))
            .map(|link| link.header.index)
            .collect();
        Ok(links
            .iter()
            .filter_map(|link| device(link, &bonds))
            .collect())
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

/// A BPF filter of a device's clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub egress: bool,
    pub priority: u16,
    pub handle: u32,
    /// Its program's.
    pub name: String,
}

impl Netlink {
    /// The BPF filters of a device's clsact qdisc; other people's filters may be of any kind.
    pub async fn filters(&self, index: u32) -> Result<Vec<Filter>> {
        let mut found = Vec::new();
        let index = i32::try_from(index).context("a device's number is below 2^31")?;
        for egress in [false, true] {
            let request = self.handle.traffic_filter(index).get();
            let request = if egress {
                request.egress()
            } else {
                request.ingress()
            };
            let mut filters = request.execute().boxed();
            while let Some(filter) = filters
                .try_next()
                .await
                .context("cannot list the filters of a network device")?
            {
                if let Some(name) = program_name(&filter.attributes) {
                    found.push(Filter {
                        egress,
                        priority: (filter.header.info >> 16) as u16,
                        handle: filter.header.handle.into(),
                        name: name.to_owned(),
                    });
                }
            }
        }
        Ok(found)
    }

    /// Whether a device has the qdisc of before clsact, which knows no egress: what is attached there
    /// sees what comes in.
    pub async fn has_ingress_qdisc(&self, index: u32) -> Result<bool> {
        let mut qdiscs = self.handle.qdisc().get().execute().boxed();
        let mut found = false;
        while let Some(qdisc) = qdiscs
            .try_next()
            .await
            .context("cannot list the queueing disciplines")?
        {
            let is_old = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "ingress");
            found |= u32::try_from(qdisc.header.index) == Ok(index)
                && qdisc.attributes.iter().any(is_old);
        }
        Ok(found)
    }
}

/// That of a BPF filter.
fn program_name(attributes: &[TcAttribute]) -> Option<&str> {
    let options = attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.as_str()),
        _ => None,
    })
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
                LinkInfo::Kind(kind) => Some(kind),
                _ => None,
            }),
            _ => None,
        })
}

/// The device that sees every packet of this one. A bridge is none: what its ports forward does
/// not pass it.
fn cover(link: &LinkMessage, bonds: &[u32]) -> Option<Cover> {
    let on_another = matches!(
        kind(link),
        Some(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::IpVlan)
    );
    // A device below that is in another network namespace is none of ours.
    let elsewhere = link
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)));
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) if bonds.contains(index) => Some(Cover::Above(*index)),
            LinkAttribute::Link(index) if on_another && !elsewhere => Some(Cover::Below(*index)),
            _ => None,
        })
}

fn device(link: &LinkMessage, bonds: &[u32]) -> Option<Device> {
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
        covered_by: cover(link, bonds),
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
/// `?` one), or without patterns those in `default_route`. A device that only a pattern matches
/// is left out where another one that is chosen sees its packets: the ports of a bond, the VLANs
/// of a device.
pub fn choose(devices: &[Device], patterns: &[String], default_route: &[u32]) -> Vec<Device> {
    let named = |device: &Device| patterns.iter().any(|pattern| **pattern == *device.name);
    let mut chosen: Vec<&Device> = devices
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
        .collect();
    // Of a VLAN on a bond with ports all but one are left out, whatever their order: each asks
    // for the one that covers it, all the way.
    let indices: Vec<u32> = chosen.iter().map(|device| device.index).collect();
    chosen.retain(|device| named(device) || !is_covered(device, devices, &indices));
    chosen.into_iter().cloned().collect()
}

/// Whether one of the devices that cover `device`, directly or not, is among `chosen`.
fn is_covered(device: &Device, devices: &[Device], chosen: &[u32]) -> bool {
    /// Devices on each other; the kernel nests no more (`MAX_NEST_DEV`).
    const LEVELS: usize = 8;
    let mut cover = device.covered_by;
    for _ in 0..LEVELS {
        let Some(index) = cover.map(Cover::index) else {
            return false;
        };
        if chosen.contains(&index) {
            return true;
        }
        cover = devices
            .iter()
            .find(|other| other.index == index)
            .and_then(|other| other.covered_by);
    }
    false
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
            covered_by: None,
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
    fn of_devices_on_each_other_a_pattern_chooses_the_one_that_sees_all() {
        let on = |index, name, covered_by| Device {
            covered_by: Some(covered_by),
            ..device(index, name)
        };
        // Two ports in a bond, and two VLANs on it, one on top of the other.
        let devices = [
            on(1, "e1", Cover::Above(3)),
            on(2, "e2", Cover::Above(3)),
            device(3, "e3"),
            on(4, "e4", Cover::Below(3)),
            on(5, "e5", Cover::Below(4)),
        ];
        let choose = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|&of| of.to_owned()).collect();
            let chosen = super::choose(&devices, &patterns, &[]);
            chosen.iter().map(|of| of.index).collect::<Vec<_>>()
        };
        assert_eq!(choose(&["e*"]), [3]);
        assert_eq!(choose(&["e[45]", "e4", "e?"]), [3, 4], "asked for by name");
        assert_eq!(choose(&["e1", "e2"]), [1, 2]);
        assert_eq!(choose(&["e5", "e1"]), [1, 5]);
    }

    #[test]
    fn without_patterns_the_devices_of_default_routes_are_chosen() {
        let devices = [device(1, "lo"), device(2, "eth0")];
        assert_eq!(names(&choose(&devices, &[], &[2])), ["eth0"]);
    }
}
