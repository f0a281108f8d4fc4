//! Routing tables: which of a prefix's routes the kernel takes.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::answer::{Answer, Doubt, Need, Refusal, Way};
use super::{Alive, Placement, Query};

/// One next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Index of the device.
    pub device: u32,
    /// Of either IP version (RFC 5549 for IPv4 by an IPv6 next hop).
    pub gateway: Option<IpAddr>,
    /// Share of the flows among the others.
    pub weight: u16,
    /// The kernel says that it is (`RTNH_F_DEAD`).
    pub dead: bool,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The nexthop object that the route uses; its hops count, not the route's.
    pub object: Option<u32>,
    pub hops: Arc<[Hop]>,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sends it.
    Unicast,
    Refuse(Refusal),
    /// Ends the lookup in this table; the rules go on.
    Throw,
}

/// One route of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    pub table: u32,
    pub prefix: IpNet,
    /// IPv6 only: for packets from this prefix.
    pub from: Option<IpNet>,
    /// IPv4 only: for packets of this type of service; 0 any.
    pub tos: u8,
    pub metric: u32,
    pub kind: Kind,
    pub target: Target,
}

/// A route without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    target: Target,
    metric: u32,
    from: Option<IpNet>,
    tos: u8,
    kind: Kind,
}

impl Entry {
    /// Among the routes of one prefix: IPv4 the highest type of service first, then the lowest
    /// metric.
    fn order(&self) -> (u8, u32) {
        (u8::MAX - self.tos, self.metric)
    }

    fn has_key_of(&self, other: &Self) -> bool {
        (self.order(), self.from) == (other.order(), other.from)
    }
}

/// One table.
#[derive(Clone, Debug, Default)]
struct Table {
    v4: PrefixMap<Ipv4Net, Vec<Entry>>,
    v6: PrefixMap<Ipv6Net, Vec<Entry>>,
}

/// Every table, by its number.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    tables: BTreeMap<u32, Table>,
    routes: usize,
    /// Lists of hops, each kept once: a full table has a million routes and a few neighbours.
    hops: HashSet<Arc<[Hop]>>,
}

/// What a table says.
pub(super) enum Found {
    Nothing,
    Refused(Refusal, IpNet),
    Ways(Vec<Way>, IpNet),
}

impl Tables {
    pub fn len(&self) -> usize {
        self.routes
    }

    #[cfg(test)]
    pub fn hop_lists(&self) -> usize {
        self.hops.len()
    }

    pub fn agrees_with(&self, other: &Self) -> bool {
        let tables = |of: &Self| -> Vec<u32> {
            let kept = of.tables.iter();
            let kept = kept.filter(|(_, table)| table.v4.len() + table.v6.len() > 0);
            kept.map(|(number, _)| *number).collect()
        };
        self.routes == other.routes
            && tables(self) == tables(other)
            && self.tables.iter().all(|(number, table)| {
                let Some(others) = other.tables.get(number) else {
                    return table.v4.len() + table.v6.len() == 0;
                };
                table.v4.len() == others.v4.len()
                    && table.v6.len() == others.v6.len()
                    && table
                        .v4
                        .iter()
                        .all(|(prefix, entries)| others.v4.get(&prefix) == Some(entries))
                    && table
                        .v6
                        .iter()
                        .all(|(prefix, entries)| others.v6.get(&prefix) == Some(entries))
            })
    }

    fn entries(&mut self, table: u32, prefix: IpNet) -> &mut Vec<Entry> {
        let table = self.tables.entry(table).or_default();
        match prefix {
            IpNet::V4(prefix) => table.v4.entry(prefix).or_default(),
            IpNet::V6(prefix) => table.v6.entry(prefix).or_default(),
        }
    }

    /// The interned copy of a list of hops.
    fn share(&mut self, hops: &Arc<[Hop]>) -> Arc<[Hop]> {
        if let Some(known) = self.hops.get(hops) {
            return Arc::clone(known);
        }
        self.hops.insert(Arc::clone(hops));
        Arc::clone(hops)
    }

    pub fn insert(&mut self, route: &KernelRoute, placement: Placement) {
        let mut new = Entry {
            target: Target {
                object: route.target.object,
                hops: self.share(&route.target.hops),
            },
            metric: route.metric,
            from: route.from,
            tos: route.tos,
            kind: route.kind,
        };
        let is_v6 = route.prefix.addr().is_ipv6();
        let entries = self.entries(route.table, route.prefix);
        if entries.contains(&new) {
            // A dump and the messages of what changed meanwhile overlap.
            return;
        }
        let first = entries.iter().position(|entry| entry.has_key_of(&new));
        // IPv6 tells a multipath route that grew by a message with all of its hops.
        let grows = |entry: &Entry| {
            entry.has_key_of(&new)
                && entry.kind == new.kind
                && !entry.target.hops.is_empty()
                && entry.target.object == new.target.object
                && entry.target.hops.iter().all(|hop| {
                    let same =
                        |other: &&Hop| (other.device, other.gateway) == (hop.device, hop.gateway);
                    new.target.hops.iter().any(|other| same(&other))
                })
        };
        let replaced = match placement {
            Placement::Replace => first,
            _ if is_v6 => entries.iter().position(grows),
            _ => None,
        };
        if let Some(entry) = replaced.and_then(|at| entries.get_mut(at)) {
            std::mem::swap(entry, &mut new);
            return;
        }
        let at = match (placement, first) {
            (Placement::First, Some(first)) if !is_v6 => first,
            _ => entries.partition_point(|entry| entry.order() <= new.order()),
        };
        entries.reserve_exact(1);
        entries.insert(at, new);
        self.routes += 1;
    }

    /// Whether it was there.
    pub fn remove(&mut self, route: &KernelRoute) -> bool {
        let entries = self.entries(route.table, route.prefix);
        let has_key = |entry: &Entry| {
            (entry.metric, entry.tos, entry.from, entry.kind)
                == (route.metric, route.tos, route.from, route.kind)
        };
        let same_hop = |a: &Hop, b: &Hop| (a.device, a.gateway) == (b.device, b.gateway);
        let leads_alike = |entry: &Entry| {
            entry.target.object == route.target.object
                && entry.target.hops.len() == route.target.hops.len()
                && entry
                    .target
                    .hops
                    .iter()
                    .zip(route.target.hops.iter())
                    .all(|(a, b)| same_hop(a, b))
        };
        let exact = entries
            .iter()
            .position(|entry| has_key(entry) && leads_alike(entry));
        // IPv6 tells the hops of a multipath route one by one.
        let contains = |entry: &Entry| {
            let hops = &entry.target.hops;
            route
                .target
                .hops
                .iter()
                .all(|gone| hops.iter().any(|hop| same_hop(hop, gone)))
        };
        let part = entries.iter().position(|entry| {
            has_key(entry)
                && entry.target.object.is_none()
                && !route.target.hops.is_empty()
                && entry.target.hops.len() > route.target.hops.len()
                && contains(entry)
        });
        let removed = match (exact, part) {
            (Some(at), _) => {
                entries.remove(at);
                self.routes -= 1;
                true
            }
            (None, Some(at)) => {
                if let Some(entry) = entries.get_mut(at) {
                    let left = entry.target.hops.iter();
                    let left = left
                        .filter(|hop| !route.target.hops.iter().any(|gone| same_hop(hop, gone)));
                    entry.target.hops = left.cloned().collect();
                }
                true
            }
            (None, None) => false,
        };
        self.prune(route.table, route.prefix);
        removed
    }

    /// Drops a prefix without routes.
    fn prune(&mut self, table: u32, prefix: IpNet) {
        let Some(table) = self.tables.get_mut(&table) else {
            return;
        };
        match prefix {
            IpNet::V4(prefix) if table.v4.get(&prefix).is_some_and(Vec::is_empty) => {
                table.v4.remove(&prefix);
            }
            IpNet::V6(prefix) if table.v6.get(&prefix).is_some_and(Vec::is_empty) => {
                table.v6.remove(&prefix);
            }
            _ => {}
        }
    }

    /// The kernel drops what leads through a device that is down, IPv4 without a message; the
    /// addresses of this host go only with the device itself.
    pub fn remove_device(&mut self, device: u32, gone: bool) {
        self.retain(|entry| {
            let hops = &entry.target.hops;
            let leads_elsewhere = hops.is_empty() || hops.iter().any(|hop| hop.device != device);
            leads_elsewhere || (entry.kind != Kind::Unicast && !gone)
        });
    }

    /// Routes go with the nexthop object that they use.
    pub fn remove_object(&mut self, id: u32) {
        self.retain(|entry| entry.target.object != Some(id));
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        let mut removed = 0;
        let mut thin = |entries: &mut Vec<Entry>| {
            let before = entries.len();
            entries.retain(&keep);
            removed += before - entries.len();
            !entries.is_empty()
        };
        for table in self.tables.values_mut() {
            let empty: Vec<Ipv4Net> = table
                .v4
                .iter_mut()
                .filter_map(|(prefix, entries)| (!thin(entries)).then_some(prefix))
                .collect();
            for prefix in empty {
                table.v4.remove(&prefix);
            }
            let empty: Vec<Ipv6Net> = table
                .v6
                .iter_mut()
                .filter_map(|(prefix, entries)| (!thin(entries)).then_some(prefix))
                .collect();
            for prefix in empty {
                table.v6.remove(&prefix);
            }
        }
        self.routes -= removed;
    }

    /// What a table says; doubts go into `answer`.
    pub fn lookup(
        &self,
        table: u32,
        query: &Query,
        alive: &dyn Fn(&Target) -> Alive,
        answer: &mut Answer,
    ) -> Found {
        let Some(table) = self.tables.get(&table) else {
            return Found::Nothing;
        };
        // The longest match decides nearly always; the walk to shorter ones costs ten times as much.
        match query.destination {
            IpAddr::V4(address) => {
                let mut take = |prefix: Ipv4Net, entries: &[Entry]| {
                    take_v4(prefix.into(), entries, alive, answer)
                };
                let Some((longest, entries)) = table.v4.get_lpm(&address.into()) else {
                    return Found::Nothing;
                };
                if let Some(found) = take(longest, entries) {
                    return found;
                }
                let shorter: Vec<_> = table.v4.cover(&address.into()).collect();
                for (prefix, entries) in shorter.into_iter().rev().skip(1) {
                    if let Some(found) = take(prefix, entries) {
                        return found;
                    }
                }
            }
            IpAddr::V6(address) => {
                let mut take = |prefix: Ipv6Net, entries: &[Entry]| {
                    take_v6(prefix.into(), entries, query, alive, answer)
                };
                let Some((longest, entries)) = table.v6.get_lpm(&address.into()) else {
                    return Found::Nothing;
                };
                if let Some(found) = take(longest, entries) {
                    return found;
                }
                let shorter: Vec<_> = table.v6.cover(&address.into()).collect();
                for (prefix, entries) in shorter.into_iter().rev().skip(1) {
                    if let Some(found) = take(prefix, entries) {
                        return found;
                    }
                }
            }
        }
        Found::Nothing
    }
}

/// IPv4: the first route that is alive decides (`fib_table_lookup`).
fn take_v4(
    prefix: IpNet,
    entries: &[Entry],
    alive: &dyn Fn(&Target) -> Alive,
    answer: &mut Answer,
) -> Option<Found> {
    for entry in entries {
        if entry.tos != 0 {
            answer.doubts.insert(Doubt::RouteNeeds(Need::Tos));
            continue;
        }
        if let Some(found) = take(prefix, entry, alive, answer) {
            return Some(found);
        }
    }
    None
}

/// IPv6: of the routes with the lowest metric the kernel prefers one whose neighbour answers
/// (`rt6_select`); which one that is cannot be seen here.
fn take_v6(
    prefix: IpNet,
    entries: &[Entry],
    query: &Query,
    alive: &dyn Fn(&Target) -> Alive,
    answer: &mut Answer,
) -> Option<Found> {
    let mut ways: Vec<Way> = Vec::new();
    let mut decided: Option<(u32, usize)> = None;
    for entry in entries {
        match (entry.from, query.source) {
            (Some(from), Some(source)) if !from.contains(&source) => continue,
            (Some(_), None) => {
                answer.doubts.insert(Doubt::RouteNeeds(Need::Source));
            }
            _ => {}
        }
        if decided.is_some_and(|(metric, _)| metric != entry.metric) {
            break;
        }
        match take(prefix, entry, alive, answer) {
            None => {}
            Some(Found::Ways(more, _)) => {
                ways.extend(more);
                let (_, count) = decided.unwrap_or((entry.metric, 0));
                decided = Some((entry.metric, count + 1));
            }
            Some(other) if decided.is_none() => return Some(other),
            Some(_) => {}
        }
    }
    let (_, count) = decided?;
    if count > 1 {
        answer.doubts.insert(Doubt::Neighbours);
    }
    Some(Found::Ways(ways, prefix))
}

/// One route: `None` where every hop of it is dead.
fn take(
    prefix: IpNet,
    entry: &Entry,
    alive: &dyn Fn(&Target) -> Alive,
    answer: &mut Answer,
) -> Option<Found> {
    match entry.kind {
        Kind::Throw => Some(Found::Nothing),
        Kind::Refuse(refusal) => Some(Found::Refused(refusal, prefix)),
        Kind::Unicast => match alive(&entry.target) {
            Alive::No => None,
            Alive::Nowhere => Some(Found::Refused(Refusal::Blackhole, prefix)),
            Alive::Ways { ways, no_carrier } => {
                if no_carrier {
                    answer.doubts.insert(Doubt::Carrier);
                }
                Some(Found::Ways(ways, prefix))
            }
        },
    }
}
