//! `[[path.interconnect]]`: from a route's attributes to the interconnect it goes through.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Communities, Connectivity};
use crate::config::InterconnectRule;

/// What the rules look at: the merged attributes of one way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    pub interface: Option<&'a str>,
    /// The BGP next hop.
    pub next_hop: Option<IpAddr>,
    /// This host's own next hop.
    pub gateway: Option<IpAddr>,
    pub peer_asn: Option<u32>,
    pub peer_address: Option<IpAddr>,
    /// `None`: no source tells any.
    pub communities: Option<&'a Communities>,
    pub router: Option<&'a str>,
}

/// One interconnect as the configuration describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interconnect {
    pub name: Arc<str>,
    pub connectivity: Option<Connectivity>,
    pub site: Option<Arc<str>>,
    pub capacity_mbit_s: Option<u64>,
    pub risk_groups: Arc<[Arc<str>]>,
    /// Device and interface under which `[path.ports]` finds its counters.
    pub port: Option<(Arc<str>, Arc<str>)>,
}

/// All rules, in the order of the configuration: the first that matches names the interconnect.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<(InterconnectRule, Arc<Interconnect>)>,
}

impl Rules {
    /// Takes the configuration's rules.
    pub fn new(rules: &[InterconnectRule]) -> Self {
        let rules = rules.iter().map(|rule| {
            let interconnect = Interconnect {
                name: rule.name.as_str().into(),
                connectivity: rule.connectivity,
                site: rule.site.as_deref().map(Into::into),
                capacity_mbit_s: rule.capacity_mbit_s,
                risk_groups: rule
                    .risk_groups
                    .iter()
                    .map(|name| name.as_str().into())
                    .collect(),
                port: rule
                    .port
                    .as_ref()
                    .map(|port| (port.device.as_str().into(), port.interface.as_str().into())),
            };
            (rule.clone(), Arc::new(interconnect))
        });
        Self {
            rules: rules.collect(),
        }
    }

    /// The first rule that matches.
    pub fn find(&self, attributes: &Attributes<'_>) -> Option<&Arc<Interconnect>> {
        self.rules
            .iter()
            .find(|(rule, _)| matches(rule, attributes))
            .map(|(_, interconnect)| interconnect)
    }

    /// The interconnect of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Interconnect>> {
        self.interconnects()
            .find(|interconnect| &*interconnect.name == name)
    }

    /// Every interconnect, in the order of the configuration; one name may come more than once.
    pub fn interconnects(&self) -> impl Iterator<Item = &Arc<Interconnect>> {
        self.rules.iter().map(|(_, interconnect)| interconnect)
    }
}

/// Each key that the rule has must match; a list means any of it. A rule that only describes an
/// interconnect (no such key) matches nothing.
fn matches(rule: &InterconnectRule, attributes: &Attributes<'_>) -> bool {
    fn any_of<T: PartialEq<U>, U: Copy>(wanted: &[T], found: Option<U>) -> bool {
        wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|item| *item == found))
    }
    !rule.matches_nothing()
        && any_of(&rule.interface, attributes.interface)
        && (any_of(&rule.next_hop, attributes.next_hop)
            || any_of(&rule.next_hop, attributes.gateway))
        && any_of(&rule.peer_asn, attributes.peer_asn)
        && any_of(&rule.peer_address, attributes.peer_address)
        && any_of(&rule.router, attributes.router)
        && (rule.community.is_empty()
            || attributes.communities.is_some_and(|communities| {
                let mut wanted = rule.community.iter();
                wanted.any(|community| communities.contains(*community))
            }))
}
