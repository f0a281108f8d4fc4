//! From a scenario to a concrete network: namespaces, addresses, links and their queues.
//!
//! ```text
//! video --eth0--> edge --port-1--> [ ] --> border-1 --core--> access-1 --line--> home-P-N
//!                  |  --port-2--> [ ] --> border-2 --core--> access-2 --line--> home-P-N
//!               content             |         ^                  ^
//!                                elsewhere ---'               cache-N
//! ```
//!
//! Only the direction toward the homes has rates and queues: the uplink's in `video`, the port's
//! in `edge`, the core's in `border-*`, the line's in `access-*`. The way back is clean unless an
//! ISP's `back` limits it (`core` in `access-*`), and a home delays what it sends by its base round
//! trip. An exchange is one network on which every
//! border router is a member (macvlan devices over the far end of our port), so that one port
//! leads to both ISPs, as at an internet exchange. `content` is another server behind our edge,
//! `elsewhere` stands for all other networks, and a `cache` stands beside each access router, as
//! large services keep them inside ISPs. Their own links have no limits.
//!
//! Where a scenario has them: a switch `backbone` between `video`, another machine `office` of ours
//! and `edge`; a router `transit-*` in place of an exchange, with a link into every `border` and
//! one to `elsewhere`; and a router `node-*` between `access-*` and some of the homes.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use crate::addresses::{
    BACKBONE, CONTENT, CONTENT_ADDRESS, EDGE, ELSEWHERE, FIRST_GATEWAY, OFFICE, OFFICE_ADDRESS,
    TRANSITS_MAX, VIDEO, VIDEO_ADDRESS, access, border, cache, cache_address, core_far,
    elsewhere_far, exchange_border, exchange_elsewhere, exchange_transit, handover_device,
    handover_far, node, node_far, port_device, transit,
};
use crate::routes::Source;
use crate::scenario::{Link, Place, Scenario};

/// Homes' addresses are 198.18.P.10 and up, from the range for tests of networks (RFC 2544).
const FIRST_HOME: usize = 10;
/// So many homes fit behind [`FIRST_HOME`] in a /24.
const HOMES_PER_PREFIX_MAX: usize = 240;
/// An exchange is a /24; its border routers have the addresses from 10 on.
const ISPS_MAX: usize = 200;
/// So many gateways fit into the video host's /24.
const GATEWAYS_MAX: usize = 255 - FIRST_GATEWAY as usize;
/// 198.18.0.0/16 holds so many /24.
const PREFIXES_MAX: usize = 256;

/// One home: a namespace with one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Home {
    /// Its namespace; also the name of its line's device in the access router.
    pub namespace: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Which interconnect leads to it (index into the scenario's list).
    pub interconnect: usize,
    /// Which ISP it is a customer of (index into the scenario's list).
    pub isp: usize,
    /// Whether it is behind the ISP's node.
    pub on_node: bool,
    /// Round trip to the video host when nothing queues, in milliseconds.
    pub base_rtt_ms: u32,
}

impl Home {
    /// The /24 it lives in.
    #[must_use]
    pub fn prefix(&self) -> String {
        let [a, b, c, _] = self.address.octets();
        format!("{a}.{b}.{c}.0/24")
    }

    /// Namespace of the router that its line is at.
    #[must_use]
    pub fn router(&self) -> String {
        if self.on_node {
            node(self.isp)
        } else {
            access(self.isp)
        }
    }
}

/// A queue on the way to the homes.
#[derive(Debug, Clone)]
pub struct Port {
    /// What it stands for.
    pub place: Place,
    /// Interconnect's or ISP's name, home's address; empty for what is our own. A transit's link into
    /// an ISP has both names.
    pub name: String,
    /// Namespace whose egress it is.
    pub namespace: String,
    /// Device whose egress it is.
    pub device: String,
    /// Rate and queue.
    pub link: Link,
}

/// Where the traffic of a fault comes from and goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Namespace that sends, and its address.
    pub from: (String, Ipv4Addr),
    /// Namespace that receives, and its address.
    pub to: (String, Ipv4Addr),
}

/// The concrete network.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All homes, by address: interconnect by interconnect, in it ISP by ISP.
    pub homes: Vec<Home>,
    /// All queues on the way to them.
    pub ports: Vec<Port>,
    /// Names of the ISPs, in the scenario's order.
    pub isps: Vec<String>,
    /// Names of the interconnects, in the scenario's order.
    pub interconnects: Vec<String>,
    /// Their origin AS numbers.
    pub asns: Vec<u32>,
    /// The transit's AS number behind each interconnect; `None`: the ISPs are there themselves.
    pub transits: Vec<Option<u32>>,
    /// Where the daemon learns the routes from.
    pub routes: Source,
}

impl Plan {
    /// Gives every part of the scenario its place and address.
    ///
    /// # Errors
    /// If there are more prefixes or homes than addresses, or a name is no device name.
    pub fn new(scenario: &Scenario) -> Result<Self> {
        let homes = scenario.homes;
        let pairs = scenario.interconnects.len() * scenario.isps.len();
        let prefixes = pairs * homes.prefixes_per_pair;
        ensure!(
            (1..=PREFIXES_MAX).contains(&prefixes),
            "prefixes_per_pair {} makes {prefixes} prefixes on {pairs} pairs; 1 to {PREFIXES_MAX} are possible",
            homes.prefixes_per_pair
        );
        ensure!(
            (1..=HOMES_PER_PREFIX_MAX).contains(&homes.per_prefix),
            "per_prefix must be 1 to {HOMES_PER_PREFIX_MAX}, not {}",
            homes.per_prefix
        );
        ensure!(
            scenario.isps.len() <= ISPS_MAX,
            "{} ISPs are more than the {ISPS_MAX} that fit on an exchange",
            scenario.isps.len()
        );
        ensure!(
            scenario.routes != Source::Kernel || scenario.interconnects.len() <= GATEWAYS_MAX,
            "{} interconnects are more than the {GATEWAYS_MAX} that the video host has gateways for",
            scenario.interconnects.len()
        );
        ensure!(
            scenario.interconnects.len() <= TRANSITS_MAX,
            "{} interconnects are more than the {TRANSITS_MAX} that are possible",
            scenario.interconnects.len()
        );
        let mut plan = Self {
            homes: place_homes(scenario),
            ports: Vec::new(),
            isps: names(scenario.isps.iter().map(|isp| isp.name.get_ref())),
            interconnects: names(scenario.interconnects.iter().map(|i| i.name.get_ref())),
            asns: scenario.isps.iter().map(|isp| isp.asn).collect(),
            transits: scenario
                .interconnects
                .iter()
                .map(|interconnect| interconnect.transit.map(|transit| transit.asn))
                .collect(),
            routes: scenario.routes,
        };
        plan.ports = plan.place_ports(scenario);
        Ok(plan)
    }

    fn place_ports(&self, scenario: &Scenario) -> Vec<Port> {
        let mut ports = vec![Port {
            place: Place::Host,
            name: String::new(),
            namespace: VIDEO.to_owned(),
            device: "eth0".to_owned(),
            link: scenario.video_host.uplink,
        }];
        ports.extend(scenario.own_network.map(|own| Port {
            place: Place::OwnNetwork,
            name: String::new(),
            namespace: BACKBONE.to_owned(),
            device: EDGE.to_owned(),
            link: own.backbone,
        }));
        for (index, interconnect) in scenario.interconnects.iter().enumerate() {
            ports.push(Port {
                place: Place::Interconnect,
                name: interconnect.name.get_ref().clone(),
                namespace: EDGE.to_owned(),
                device: port_device(index),
                link: interconnect.port,
            });
            let Some(carrier) = interconnect.transit else {
                continue;
            };
            ports.extend(scenario.isps.iter().enumerate().map(|(isp, to)| Port {
                place: Place::Handover,
                name: handover_name(interconnect.name.get_ref(), to.name.get_ref()),
                namespace: transit(index),
                device: handover_device(Some(isp)),
                link: carrier.handover,
            }));
        }
        for (index, isp) in scenario.isps.iter().enumerate() {
            ports.push(Port {
                place: Place::Isp,
                name: isp.name.get_ref().clone(),
                namespace: border(index),
                device: "core".to_owned(),
                link: isp.core,
            });
            ports.extend(isp.node.map(|below| Port {
                place: Place::AccessNode,
                name: isp.name.get_ref().clone(),
                namespace: access(index),
                device: "node".to_owned(),
                link: below.link,
            }));
            ports.extend(isp.back.map(|link| Port {
                place: Place::IspBack,
                name: isp.name.get_ref().clone(),
                namespace: access(index),
                device: "core".to_owned(),
                link,
            }));
        }
        for home in &self.homes {
            ports.push(Port {
                place: Place::Home,
                name: home.address.to_string(),
                namespace: home.router(),
                device: home.namespace.clone(),
                link: scenario.isps[home.isp].access,
            });
        }
        ports
    }

    /// The queues that a fault of `place` fills: several where it is a transit's link into an ISP.
    pub fn filled<'a>(&'a self, place: Place, name: &'a str) -> impl Iterator<Item = &'a Port> {
        self.ports.iter().filter(move |port| {
            let is_into = || {
                let mut transits = self.interconnects.iter();
                transits.any(|transit| port.name == handover_name(transit, name))
            };
            port.place == place && (port.name == name || place == Place::Handover && is_into())
        })
    }

    /// Whether any interconnect leads to a transit.
    #[must_use]
    pub fn has_transits(&self) -> bool {
        self.transits.iter().any(Option::is_some)
    }

    /// The neighbour of our edge through which an ISP is reached on an interconnect.
    #[must_use]
    pub fn next_hop(&self, interconnect: usize, isp: usize) -> Ipv4Addr {
        match self.transits[interconnect] {
            Some(_) => exchange_transit(interconnect),
            None => exchange_border(interconnect, isp),
        }
    }

    /// The ways of the traffic that fills `place`, past every other queue of the plan that its fault
    /// does not fill. What fills a home's line comes from inside its ISP, as from one of the
    /// caches that large services keep there.
    ///
    /// # Panics
    /// If the scenario was not checked: `name` must be known.
    #[must_use]
    pub fn fault_routes(&self, place: Place, name: &str) -> Vec<Route> {
        let index = |names: &[String]| {
            let found = names.iter().position(|known| known == name);
            found.expect("the scenario's check knows every name")
        };
        let isp = || index(&self.isps);
        let (from, to) = match place {
            Place::Host => (
                (VIDEO.to_owned(), VIDEO_ADDRESS),
                (CONTENT.to_owned(), CONTENT_ADDRESS),
            ),
            Place::OwnNetwork => (
                (OFFICE.to_owned(), OFFICE_ADDRESS),
                (CONTENT.to_owned(), CONTENT_ADDRESS),
            ),
            Place::Interconnect => {
                let at = index(&self.interconnects);
                let to = match self.transits[at] {
                    Some(_) => (transit(at), exchange_transit(at)),
                    None => (ELSEWHERE.to_owned(), exchange_elsewhere(at)),
                };
                ((CONTENT.to_owned(), CONTENT_ADDRESS), to)
            }
            Place::Handover => {
                let isp = isp();
                let ways = self.transits.iter().enumerate();
                let ways = ways.filter(|(_, transit)| transit.is_some());
                return ways
                    .map(|(at, _)| Route {
                        from: (ELSEWHERE.to_owned(), handover_far(at, None)),
                        to: (border(isp), handover_far(at, Some(isp))),
                    })
                    .collect();
            }
            Place::Isp => (
                (ELSEWHERE.to_owned(), elsewhere_far(isp())),
                (access(isp()), core_far(isp())),
            ),
            Place::AccessNode => (cache_end(isp()), (node(isp()), node_far(isp()))),
            Place::IspBack => (
                cache_end(isp()),
                (ELSEWHERE.to_owned(), elsewhere_far(isp())),
            ),
            Place::Home => {
                let home = self
                    .homes
                    .iter()
                    .find(|home| home.address.to_string() == name)
                    .expect("the scenario's check knows every home");
                (cache_end(home.isp), (home.namespace.clone(), home.address))
            }
        };
        vec![Route { from, to }]
    }

    /// Every prefix once, with the first home in it.
    #[must_use]
    pub fn prefixes(&self) -> Vec<(String, &Home)> {
        let mut prefixes: Vec<(String, &Home)> = self
            .homes
            .iter()
            .map(|home| (home.prefix(), home))
            .collect();
        prefixes.dedup_by(|a, b| a.0 == b.0);
        prefixes
    }
}

/// An ISP's cache, as the end of a route.
fn cache_end(isp: usize) -> (String, Ipv4Addr) {
    (cache(isp), cache_address(isp))
}

fn handover_name(transit: &str, isp: &str) -> String {
    format!("{transit} into {isp}")
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    names.cloned().collect()
}

fn place_homes(scenario: &Scenario) -> Vec<Home> {
    let mut homes = Vec::new();
    let mut prefix = 0_u8;
    for interconnect in 0..scenario.interconnects.len() {
        for (isp, network) in scenario.isps.iter().enumerate() {
            let on_pair = scenario.homes.prefixes_per_pair * scenario.homes.per_prefix;
            let [low, high] = network.base_rtt_ms;
            for index in 0..on_pair {
                let within = index % scenario.homes.per_prefix;
                let spread = high.saturating_sub(low) as usize * index / (on_pair - 1).max(1);
                homes.push(Home {
                    namespace: format!("home-{prefix}-{within}"),
                    address: Ipv4Addr::new(198, 18, prefix, (FIRST_HOME + within) as u8),
                    interconnect,
                    isp,
                    on_node: network
                        .node
                        .is_some_and(|node| index / scenario.homes.per_prefix < node.prefixes),
                    base_rtt_ms: low + spread as u32,
                });
                if within + 1 == scenario.homes.per_prefix {
                    prefix = prefix.wrapping_add(1);
                }
            }
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str) -> Plan {
        Plan::new(&Scenario::load(name).unwrap()).unwrap()
    }

    #[test]
    fn each_isp_is_reached_through_each_interconnect_by_four_prefixes_of_two_homes() {
        let plan = plan("healthy");
        for interconnect in 0..2 {
            for isp in 0..2 {
                let homes: Vec<&Home> = plan
                    .homes
                    .iter()
                    .filter(|home| home.interconnect == interconnect && home.isp == isp)
                    .collect();
                let mut prefixes: Vec<String> = homes.iter().map(|home| home.prefix()).collect();
                prefixes.dedup();
                assert_eq!((homes.len(), prefixes.len()), (8, 4));
            }
        }
    }

    #[test]
    fn base_round_trips_span_the_given_range() {
        let plan = plan("healthy");
        let rtts: Vec<u32> = plan.homes.iter().map(|home| home.base_rtt_ms).collect();
        assert_eq!(rtts.iter().min(), Some(&10));
        assert_eq!(rtts.iter().max(), Some(&40));
    }

    #[test]
    fn traffic_that_fills_an_interconnect_never_enters_an_isp() {
        let route = &plan("interconnect").fault_routes(Place::Interconnect, "ix-west")[0];
        assert_eq!(route.from.0, CONTENT);
        assert_eq!(route.to, (ELSEWHERE.to_owned(), exchange_elsewhere(1)));
    }

    #[test]
    fn traffic_that_fills_a_home_crosses_only_its_line() {
        let plan = plan("last-mile");
        let route = &plan.fault_routes(Place::Home, "198.18.2.10")[0];
        assert_eq!(route.from.0, "cache-1");
        assert_eq!(route.to.0, "home-2-0");
    }

    #[test]
    fn a_full_handover_is_full_at_every_transit_and_into_one_isp() {
        let plan = plan("handover-2014");
        let names = |place| {
            plan.filled(place, "Northnet")
                .map(|port| port.name.as_str())
        };
        assert_eq!(
            Vec::from_iter(names(Place::Handover)),
            ["transit-a into Northnet", "transit-b into Northnet"]
        );
        let routes = plan.fault_routes(Place::Handover, "Northnet");
        assert_eq!(
            Vec::from_iter(routes.iter().map(|way| &way.to.0)),
            ["border-1"; 2]
        );
        assert_ne!(routes[0].to.1, routes[1].to.1);
    }
}
