//! The prefixes that have or had flows, and the way each of them takes now.
//!
//! Routing changes come by the thousand and mostly concern nobody we serve. What is followed are
//! the units ([`Location::unit`]) of the clients that were seen: for each the way of its last
//! client, which stands for the unit. So a change of routes costs a lookup a followed unit inside
//! the changed prefixes, and the answer to "through what was this prefix reached?" is known for
//! whoever was served, also while no flow of theirs is open.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Location, Route, UnitLengths};

/// Units that are followed at once, at about 150 bytes each: more than the /24s that the largest
/// single access network announces, several times over.
pub const MAX_FOLLOWED: usize = 500_000;

/// A unit without a flow is followed for this long, so that what is asked about a busy evening is
/// answered from a whole day around it.
pub const FOLLOWED_FOR_US: u64 = 24 * 3_600 * 1_000_000;

/// Prefixes that are looked at one by one; when more changed, everything is looked at once.
pub const MAX_CHANGED: usize = 65_536;

/// Which routes may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affected {
    /// Any of them: a file was read again, or more changed than is worth listing.
    Everything,
    /// Those for addresses inside these prefixes.
    Prefixes(Vec<IpNet>),
}

impl Default for Affected {
    fn default() -> Self {
        Self::Prefixes(Vec::new())
    }
}

impl Affected {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Prefixes(prefixes) if prefixes.is_empty())
    }

    /// Adds what changed later; beyond [`MAX_CHANGED`] prefixes that is everything.
    pub fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Everything, _) => {}
            (_, Self::Everything) => *self = Self::Everything,
            (Self::Prefixes(all), Self::Prefixes(more)) => {
                all.extend(more);
                if all.len() > MAX_CHANGED {
                    all.sort_unstable();
                    all.dedup();
                }
                if all.len() > MAX_CHANGED {
                    *self = Self::Everything;
                }
            }
        }
    }

    /// The first and the last block ([`UnitLengths::around`] an address) of each span of blocks
    /// that lie in or around what changed, without overlap and in order; `None`: all.
    pub(crate) fn spans(&self, lengths: UnitLengths) -> Option<Vec<(IpNet, IpNet)>> {
        let Self::Prefixes(prefixes) = self else {
            return None;
        };
        let around = |address| lengths.around(address);
        let mut spans: Vec<(IpNet, IpNet)> = prefixes
            .iter()
            .map(|prefix| (around(prefix.network()), around(prefix.broadcast())))
            .collect();
        spans.sort_unstable();
        let mut merged: Vec<(IpNet, IpNet)> = Vec::with_capacity(spans.len());
        for (first, last) in spans {
            match merged.last_mut() {
                Some((_, end)) if first <= *end => *end = (*end).max(last),
                _ => merged.push((first, last)),
            }
        }
        Some(merged)
    }
}

/// What became of one followed unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Its first client was seen; `None`: no route is known for it.
    Seen(Option<Arc<Route>>),
    /// It takes another way now, or none is known.
    Moved {
        before: Option<Arc<Route>>,
        after: Option<Arc<Route>>,
    },
    /// It is not followed any more: no flow for [`FOLLOWED_FOR_US`], or its clients are counted in
    /// another unit now, because a longer or shorter prefix was announced.
    Left,
}

/// One entry of what becomes of the followed units, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// µs since 1970 UTC.
    pub time_us: u64,
    pub unit: IpNet,
    pub news: News,
}

#[derive(Clone, Debug)]
struct Unit {
    unit: IpNet,
    /// The client that was seen last.
    client: IpAddr,
    route: Option<Arc<Route>>,
    last_flow_us: u64,
}

/// Every followed unit.
#[derive(Debug, Default)]
pub struct Followed {
    /// By the block they are in: the unit around their clients if no longer prefix is announced.
    blocks: BTreeMap<IpNet, Vec<Unit>>,
    lengths: UnitLengths,
    len: usize,
    refused: u64,
}

impl Followed {
    /// Nobody yet; units have these lengths.
    pub fn new(lengths: UnitLengths) -> Self {
        Self {
            lengths,
            ..Self::default()
        }
    }

    /// How many units are followed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Clients that were not followed because [`MAX_FOLLOWED`] units were, since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// A flow of `client` is there, and traffic to its unit goes the way of `location`. Not the
    /// flow's own way: where a hash of each flow chooses (ECMP), flows that begin are no change.
    pub fn seen(
        &mut self,
        client: IpAddr,
        location: Option<&Location>,
        now_us: u64,
    ) -> Option<Entry> {
        let (unit, route) = place(client, location, self.lengths);
        let units = self.blocks.entry(self.lengths.around(client)).or_default();
        let entry = |news| Entry {
            time_us: now_us,
            unit,
            news,
        };
        if let Some(known) = units.iter_mut().find(|known| known.unit == unit) {
            known.client = client;
            known.last_flow_us = now_us;
            if same_way(known.route.as_deref(), route.as_deref()) {
                known.route = route;
                return None;
            }
            let before = std::mem::replace(&mut known.route, route.clone());
            return Some(entry(News::Moved {
                before,
                after: route,
            }));
        }
        if self.len >= MAX_FOLLOWED {
            self.refused += 1;
            return None;
        }
        self.len += 1;
        units.push(Unit {
            unit,
            client,
            route: route.clone(),
            last_flow_us: now_us,
        });
        Some(entry(News::Seen(route)))
    }

    /// Whether the unit is followed; if so, it still has flows.
    pub fn is_served(&mut self, unit: &IpNet, now_us: u64) -> bool {
        let block = self.lengths.around(unit.addr());
        let units = self.blocks.get_mut(&block).into_iter().flatten();
        let mut known = units.filter(|known| known.unit == *unit);
        match known.next() {
            Some(known) => {
                known.last_flow_us = now_us;
                true
            }
            None => false,
        }
    }

    /// Looks again at what may have changed.
    pub fn look_again(
        &mut self,
        changed: &Affected,
        locate: impl Fn(IpAddr) -> Option<Location>,
        now_us: u64,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut removed = 0;
        let lengths = self.lengths;
        let mut look = |units: &mut Vec<Unit>| {
            let mut arrived = Vec::new();
            units.retain_mut(|known| {
                let (unit, route) = place(known.client, locate(known.client).as_ref(), lengths);
                if unit != known.unit {
                    entries.push(Entry {
                        time_us: now_us,
                        unit: known.unit,
                        news: News::Left,
                    });
                    arrived.push((unit, route, known.clone()));
                    return false;
                }
                if !same_way(known.route.as_deref(), route.as_deref()) {
                    entries.push(Entry {
                        time_us: now_us,
                        unit,
                        news: News::Moved {
                            before: known.route.take(),
                            after: route.clone(),
                        },
                    });
                }
                known.route = route;
                true
            });
            for (unit, after, former) in arrived {
                if units.iter().any(|known| known.unit == unit) {
                    removed += 1;
                    continue;
                }
                entries.push(Entry {
                    time_us: now_us,
                    unit,
                    news: News::Moved {
                        before: former.route.clone(),
                        after: after.clone(),
                    },
                });
                units.push(Unit {
                    unit,
                    route: after,
                    ..former
                });
            }
        };
        match changed.spans(lengths) {
            None => self.blocks.values_mut().for_each(&mut look),
            Some(spans) => {
                for (first, last) in spans {
                    for (_, units) in self.blocks.range_mut(first..=last) {
                        look(units);
                    }
                }
            }
        }
        self.len -= removed;
        entries
    }

    /// Forgets units without a flow for [`FOLLOWED_FOR_US`]; `has_flows` says whether a block has
    /// one that is open.
    pub fn forget(&mut self, now_us: u64, has_flows: impl Fn(&IpNet) -> bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.blocks.retain(|block, units| {
            units.retain(|known| {
                let keep =
                    now_us.saturating_sub(known.last_flow_us) < FOLLOWED_FOR_US || has_flows(block);
                if !keep {
                    entries.push(Entry {
                        time_us: now_us,
                        unit: known.unit,
                        news: News::Left,
                    });
                }
                keep
            });
            !units.is_empty()
        });
        self.len -= entries.len();
        entries
    }

    /// Everything that is followed, as if it were seen now for the first time.
    pub fn all(&self, now_us: u64) -> impl Iterator<Item = Entry> + '_ {
        self.blocks.values().flatten().map(move |known| Entry {
            time_us: now_us,
            unit: known.unit,
            news: News::Seen(known.route.clone()),
        })
    }
}

fn place(
    client: IpAddr,
    location: Option<&Location>,
    lengths: UnitLengths,
) -> (IpNet, Option<Arc<Route>>) {
    match location {
        Some(location) => (location.unit, Some(Arc::clone(&location.route))),
        None => (lengths.around(client), None),
    }
}

/// Whether traffic takes the same way as before, as far as is known.
pub fn same_way(before: Option<&Route>, after: Option<&Route>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => before.same_way(after),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::path::{Source, SourceSet};

    const T: u64 = 1_800_000_000_000_000;

    /// A file's word that `prefix` is reached through `interconnect`.
    pub(crate) fn route(prefix: &str, interconnect: &str) -> Route {
        Route {
            prefix: prefix.parse().expect("a prefix"),
            origin_asn: 64500,
            isp: "isp-x".into(),
            interconnect: interconnect.into(),
            peer_asn: None,
            peer_address: None,
            next_hop: None,
            router: None,
            interface: None,
            as_path_middle: [].into(),
            connectivity: None,
            site: None,
            risk_groups: [].into(),
            sources: SourceSet {
                who: Source::File,
                way: Source::File,
            },
            stale: false,
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn at(unit: &str, interconnect: &str) -> Location {
        Location {
            unit: net(unit),
            route: Arc::new(route(unit, interconnect)),
        }
    }

    fn client(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn names(entries: &[Entry]) -> Vec<String> {
        let name = |route: &Option<Arc<Route>>| {
            route
                .as_ref()
                .map_or("none".to_owned(), |route| route.interconnect.to_string())
        };
        entries
            .iter()
            .map(|entry| match &entry.news {
                News::Seen(route) => format!("{} {}", entry.unit, name(route)),
                News::Moved { before, after } => {
                    format!("{} {} -> {}", entry.unit, name(before), name(after))
                }
                News::Left => format!("{} left", entry.unit),
            })
            .collect()
    }

    #[test]
    fn only_units_inside_what_changed_are_looked_at() {
        let mut followed = Followed::default();
        for third in 0..4 {
            let unit = format!("10.0.{third}.0/24");
            let location = at(&unit, "a");
            let seen = followed.seen(client(&format!("10.0.{third}.9")), Some(&location), T);
            assert_eq!(names(seen.as_slice()), [format!("{unit} a")]);
        }
        let looked = std::cell::Cell::new(0);
        let entries = followed.look_again(
            &Affected::Prefixes(vec![
                net("10.0.2.0/23"),
                net("10.0.3.0/25"),
                net("10.9.0.0/16"),
            ]),
            |address| {
                looked.set(looked.get() + 1);
                let IpAddr::V4(v4) = address else {
                    return None;
                };
                Some(at(&format!("10.0.{}.0/24", v4.octets()[2]), "b"))
            },
            T,
        );
        assert_eq!(looked.get(), 2);
        assert_eq!(
            names(&entries),
            ["10.0.2.0/24 a -> b", "10.0.3.0/24 a -> b"]
        );
        // The same again is no change.
        let again = followed.look_again(
            &Affected::Everything,
            |address| {
                let IpAddr::V4(v4) = address else {
                    return None;
                };
                let third = v4.octets()[2];
                let name = if third < 2 { "a" } else { "b" };
                Some(at(&format!("10.0.{third}.0/24"), name))
            },
            T,
        );
        assert_eq!(names(&again), [""; 0]);
    }

    #[test]
    fn a_longer_prefix_takes_its_clients_along_and_gives_them_back() {
        let mut followed = Followed::default();
        followed.seen(client("10.0.0.9"), Some(&at("10.0.0.0/24", "a")), T);
        let changed = Affected::Prefixes(vec![net("10.0.0.0/26")]);
        let entries = followed.look_again(&changed, |_| Some(at("10.0.0.0/26", "b")), T);
        assert_eq!(names(&entries), ["10.0.0.0/24 left", "10.0.0.0/26 a -> b"]);
        assert_eq!(followed.len(), 1);
        let entries = followed.look_again(&changed, |_| None, T);
        assert_eq!(
            names(&entries),
            ["10.0.0.0/26 left", "10.0.0.0/24 b -> none"]
        );
        assert_eq!(followed.len(), 1);
    }

    #[test]
    fn who_is_served_stays() {
        let mut followed = Followed::default();
        let unit = net("10.0.0.0/24");
        assert!(!followed.is_served(&unit, T));
        followed.seen(client("10.0.0.9"), Some(&at("10.0.0.0/24", "a")), T);
        assert!(followed.is_served(&unit, T + FOLLOWED_FOR_US));
        assert!(!followed.is_served(&net("10.0.1.0/24"), T));
        assert_eq!(
            names(&followed.forget(T + FOLLOWED_FOR_US + 1, |_| false)),
            [""; 0]
        );
    }

    #[test]
    fn what_has_no_flow_for_long_is_left() {
        let mut followed = Followed::default();
        followed.seen(client("10.0.0.9"), Some(&at("10.0.0.0/24", "a")), T);
        followed.seen(client("10.0.1.9"), None, T + 1);
        assert_eq!(
            names(&followed.forget(T + FOLLOWED_FOR_US, |_| true)),
            [""; 0]
        );
        let left = followed.forget(T + FOLLOWED_FOR_US, |_| false);
        assert_eq!(names(&left), ["10.0.0.0/24 left"]);
        let rest: Vec<Entry> = followed.all(T).collect();
        assert_eq!(names(&rest), ["10.0.1.0/24 none"]);
    }

    #[test]
    fn many_changes_are_a_change_of_everything() {
        let mut changed = Affected::default();
        assert!(changed.is_empty());
        let many = |from: u32| {
            Affected::Prefixes(
                (0..40_000u32)
                    .map(|at| IpNet::new(IpAddr::V4((from + at * 256).into()), 24).expect("24"))
                    .collect(),
            )
        };
        changed.add(many(0));
        changed.add(many(0));
        assert!(matches!(&changed, Affected::Prefixes(all) if all.len() == 40_000));
        changed.add(many(0x4000_0000));
        assert_eq!(changed, Affected::Everything);
        changed.add(many(0));
        assert_eq!(changed, Affected::Everything);
    }
}
