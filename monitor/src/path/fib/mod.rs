//! The kernel's routes and policy rules, and what they say about one destination.
//!
//! A [`Fib`] is a value: it is built from a dump, follows [`Change`]s, and answers
//! [`Fib::lookup`] the way `ip route get` does, except that it never sees the packet. What a rule
//! asks about and nobody told it (a mark, the interface a socket is bound to) is a [`Doubt`]:
//! then the rule is taken both ways and the answer holds every way that is possible, so that
//! what all of them agree on is certain. What the kernel chooses by a hash (ECMP) is a set too;
//! the interface at which a flow was seen picks the members that are left ([`Answer::seen_at`]).
//!
//! Semantics after the kernel's `fib_rules_lookup`, `fib_table_lookup` (IPv4), `fib6_table_lookup`
//! (IPv6) and `nexthop.c`.

mod answer;
mod rule;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub use answer::{Answer, Doubt, Need, Refusal, Way};
pub use rule::{Action, Rule};
pub use table::{Hop, KernelRoute, Kind, Target};

use rule::Applies;
use table::{Found, Tables};

/// The table of addresses of this host (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;
/// The table that routes go to when none is named (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;

/// Rules that jump on something unknown fork the walk; more forks than anybody's rules have, so
/// that a lookup stays bounded.
const MAX_FORKS: usize = 16;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub destination: IpAddr,
    /// The packet's source address, where that is known.
    pub source: Option<IpAddr>,
    /// The firewall mark, where that is known.
    pub mark: Option<u32>,
    /// Source and destination port of the TCP segment, where they are known.
    pub ports: Option<(u16, u16)>,
    /// Whether a socket of this host sends it (`true`) or it is forwarded (`false`).
    pub local: Option<bool>,
}

impl Query {
    /// Only the destination is known.
    pub fn to(destination: IpAddr) -> Self {
        Self {
            destination,
            source: None,
            mark: None,
            ports: None,
            local: None,
        }
    }
}

/// A nexthop object (`ip nexthop`, Linux 5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nexthop {
    pub id: u32,
    pub leads: Leads,
}

/// Where a nexthop object leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    To(Hop),
    Nowhere,
    /// Ids and weights of the members.
    Group(Vec<(u32, u16)>),
}

/// A network device, as far as routes depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: Arc<str>,
    /// Administratively (`IFF_UP`).
    pub up: bool,
    /// It has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// The bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// The device below it, of a VLAN or macvlan.
    pub below: Option<u32>,
    /// `ip link set group`.
    pub group: u32,
    /// The table of a VRF device.
    pub vrf_table: Option<u32>,
}

/// Where a new route goes among those with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    First,
    Last,
    /// Instead of the first one.
    Replace,
}

/// One thing that changed in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Route(KernelRoute, Placement),
    RouteGone(KernelRoute),
    Rule(Rule),
    RuleGone(Rule),
    Nexthop(Nexthop),
    NexthopGone(u32),
    Link(Link),
    LinkGone(u32),
}

/// Everything the kernel routes by, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    tables: Tables,
    rules_v4: Vec<Rule>,
    rules_v6: Vec<Rule>,
    nexthops: BTreeMap<u32, Leads>,
    links: BTreeMap<u32, Link>,
}

impl Fib {
    /// Follows one change. Returns whether it fits what is known; where it does not (a route is
    /// removed that is not there), the next dump puts it right.
    pub fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Route(route, placement) => {
                self.tables.insert(route, *placement);
                true
            }
            Change::RouteGone(route) => self.tables.remove(route),
            Change::Rule(rule) => {
                let rules = self.rules_mut(rule);
                if rules.contains(rule) {
                    return false;
                }
                // Behind those of the same priority, as the kernel does.
                let at = rules.partition_point(|other| other.priority <= rule.priority);
                rules.insert(at, rule.clone());
                true
            }
            Change::RuleGone(rule) => {
                let rules = self.rules_mut(rule);
                let at = rules.iter().position(|other| other == rule);
                at.map(|at| rules.remove(at)).is_some()
            }
            Change::Nexthop(nexthop) => {
                self.nexthops.insert(nexthop.id, nexthop.leads.clone());
                true
            }
            Change::NexthopGone(id) => {
                // Its routes go with it, without a message of their own, and so does its place
                // in groups.
                self.tables.remove_object(*id);
                for leads in self.nexthops.values_mut() {
                    if let Leads::Group(members) = leads {
                        members.retain(|(member, _)| member != id);
                    }
                }
                self.nexthops.remove(id).is_some()
            }
            Change::Link(link) => {
                if !link.up {
                    self.tables.remove_device(link.index, false);
                }
                self.links.insert(link.index, link.clone());
                true
            }
            Change::LinkGone(index) => {
                self.tables.remove_device(*index, true);
                self.links.remove(index).is_some()
            }
        }
    }

    fn rules_mut(&mut self, rule: &Rule) -> &mut Vec<Rule> {
        if rule.ipv6 {
            &mut self.rules_v6
        } else {
            &mut self.rules_v4
        }
    }

    /// Routes in all tables, both IP versions.
    pub fn routes(&self) -> usize {
        self.tables.len()
    }

    /// Policy rules, both IP versions.
    pub fn rules(&self) -> usize {
        self.rules_v4.len() + self.rules_v6.len()
    }

    /// A device by its index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// Whether `self` and `other` route alike. For checking what changes made of a dump against
    /// the next dump.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.rules_v4 == other.rules_v4
            && self.rules_v6 == other.rules_v6
            && self.nexthops == other.nexthops
            && self.links == other.links
            && self.tables.agrees_with(&other.tables)
    }

    /// Which ways the kernel may send a packet.
    pub fn lookup(&self, query: &Query) -> Answer {
        let mut answer = Answer::default();
        let mut forks = vec![0];
        let mut forked = 0;
        while let Some(start) = forks.pop() {
            self.walk(start, query, &mut answer, &mut forks);
            forked += 1;
            if forked > MAX_FORKS {
                answer.doubts.insert(Doubt::TooManyForks);
                break;
            }
        }
        answer.ways.sort();
        answer.ways.dedup();
        answer
    }

    /// Takes the rules from number `start` on, until one of them certainly decides.
    fn walk(&self, start: usize, query: &Query, answer: &mut Answer, forks: &mut Vec<usize>) {
        let rules = match query.destination {
            IpAddr::V4(_) => &self.rules_v4,
            IpAddr::V6(_) => &self.rules_v6,
        };
        let mut at = start;
        while let Some(rule) = rules.get(at) {
            at += 1;
            let need = match rule.applies(query, self) {
                Applies::No => continue,
                Applies::Yes => None,
                Applies::Perhaps(need) => Some(need),
            };
            let decided = match rule.action {
                Action::Nop => false,
                // To rules further down only: the kernel refuses others.
                Action::Goto(priority) => {
                    let target = rules.partition_point(|other| other.priority < priority);
                    if target < at || rules.get(target).is_none_or(|it| it.priority != priority) {
                        continue;
                    }
                    match need {
                        None => at = target,
                        Some(_) => forks.push(target),
                    }
                    false
                }
                Action::Table(table) => self.take_table(table, rule, query, answer),
                Action::VrfTable => {
                    let mut decided = false;
                    for table in self.links.values().filter_map(|link| link.vrf_table) {
                        decided |= self.take_table(table, rule, query, answer);
                    }
                    decided
                }
                Action::Refuse(refusal) => {
                    answer.refused.insert(refusal);
                    true
                }
                Action::Unknown => {
                    answer.doubts.insert(Doubt::Rule {
                        priority: rule.priority,
                        needs: Need::Action,
                    });
                    false
                }
            };
            match need {
                None if decided => return,
                None => {}
                Some(needs) => {
                    let matters = decided || matches!(rule.action, Action::Goto(_));
                    if matters {
                        answer.doubts.insert(Doubt::Rule {
                            priority: rule.priority,
                            needs,
                        });
                    }
                }
            }
        }
        answer.refused.insert(Refusal::NoRoute);
    }

    /// Adds what a table says; whether that ends the walk.
    fn take_table(&self, table: u32, rule: &Rule, query: &Query, answer: &mut Answer) -> bool {
        let found = self
            .tables
            .lookup(table, query, &|hops| self.alive(hops), answer);
        match found {
            Found::Nothing => false,
            Found::Refused(refusal, prefix) => {
                if rule.suppresses_length(prefix.prefix_len()) {
                    return false;
                }
                answer.refused.insert(refusal);
                answer.note_prefix(prefix);
                true
            }
            Found::Ways(ways, prefix) => {
                if rule.suppresses_length(prefix.prefix_len()) {
                    return false;
                }
                let suppressed = |way: &Way| {
                    let group = self.links.get(&way.device).map(|link| link.group);
                    rule.suppress_group.is_some() && group == rule.suppress_group
                };
                let kept: Vec<Way> = ways
                    .iter()
                    .filter(|way| !suppressed(way))
                    .cloned()
                    .collect();
                // The kernel looks at the one that its hash chose.
                let mixed = !kept.is_empty() && kept.len() < ways.len();
                if mixed {
                    answer.doubts.insert(Doubt::Rule {
                        priority: rule.priority,
                        needs: Need::ChosenHop,
                    });
                }
                let decided = kept.len() == ways.len();
                if !kept.is_empty() {
                    answer.note_prefix(prefix);
                }
                answer.ways.extend(kept);
                decided
            }
        }
    }

    /// The ways that are left of a route's hops.
    fn alive(&self, target: &Target) -> Alive {
        match target.object.and_then(|id| self.nexthops.get(&id)) {
            None => Alive::from_hops(target.hops.iter(), self),
            Some(Leads::Nowhere) => Alive::Nowhere,
            Some(Leads::To(hop)) => Alive::from_hops([hop].into_iter(), self),
            Some(Leads::Group(members)) => {
                let hops = members
                    .iter()
                    .filter_map(|(id, _)| match self.nexthops.get(id) {
                        Some(Leads::To(hop)) => Some(hop),
                        _ => None,
                    });
                Alive::from_hops(hops, self)
            }
        }
    }

    /// Whether a packet that leaves by the device `egress` may be seen at the device `hook`: the
    /// same one, or one above or below the other (VLAN, bond, bridge, VRF).
    fn is_seen_at(&self, egress: u32, hook: u32) -> bool {
        self.sends_by(egress, hook) || self.sends_by(hook, egress)
    }

    /// Whether `to` is `from`, a device that it stands on, or one of its members.
    fn sends_by(&self, from: u32, to: u32) -> bool {
        /// The kernel's limit of stacked devices (`MAX_NEST_DEV`).
        const MAX_STACKED: usize = 8;
        let mut level = vec![from];
        for _ in 0..MAX_STACKED {
            if level.contains(&to) {
                return true;
            }
            level = level
                .iter()
                .flat_map(|index| {
                    let below = self.links.get(index).and_then(|link| link.below);
                    let members = self
                        .links
                        .values()
                        .filter(|link| link.master == Some(*index));
                    below.into_iter().chain(members.map(|link| link.index))
                })
                .collect();
        }
        false
    }
}

/// What is left of a route when devices are looked at.
enum Alive {
    /// Every hop is dead: the route is passed over.
    No,
    /// A blackhole nexthop.
    Nowhere,
    Ways {
        ways: Vec<Way>,
        /// One of the devices has no carrier.
        no_carrier: bool,
    },
}

impl Alive {
    fn from_hops<'a>(hops: impl Iterator<Item = &'a Hop>, fib: &Fib) -> Self {
        let mut ways = Vec::new();
        let mut no_carrier = false;
        for hop in hops.filter(|hop| !hop.dead) {
            let Some(link) = fib.links.get(&hop.device).filter(|link| link.up) else {
                continue;
            };
            no_carrier |= !link.carrier;
            ways.push(Way {
                device: hop.device,
                interface: Arc::clone(&link.name),
                next_hop: hop.gateway,
            });
        }
        if ways.is_empty() {
            Self::No
        } else {
            Self::Ways { ways, no_carrier }
        }
    }
}
