//! From a scenario to a concrete network: namespaces, addresses, links and their queues.
//!
//! ```text
//! video --eth0--> edge --ix-east--> [exchange] --> border-1 --core--> access-1 --line--> home
//!  (us)     ^      |  --ix-west--> [exchange] --> border-2 --core--> access-2 --line--> home
//!         host  content               |              ^
//!                                  elsewhere --------'
//! ```
//!
//! Only the direction toward the homes has rates and queues: the uplink's in `video`, the port's
//! in `edge`, the core's in `border-*`, the line's in `access-*`. The way back is clean, and a
//! home delays what it sends by its base round trip. An exchange is one network on which every
//! border router is a member (macvlan devices over the far end of our port), so that one port
//! leads to both ISPs, as at an internet exchange. `content` is another server behind our edge,
//! `elsewhere` stands for all other networks. Both see only uncongested links of their own.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use crate::scenario::{Link, Place, Queue, Scenario};

/// Namespace of our own machine: web server, daemon, uplink.
pub const VIDEO: &str = "video";
/// Namespace of our edge router.
pub const EDGE: &str = "edge";
/// Namespace of another server behind our edge router.
pub const CONTENT: &str = "content";
/// Namespace that stands for all other networks.
pub const ELSEWHERE: &str = "elsewhere";

/// The video server (RFC 5737 documentation space).
pub const VIDEO_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The other server behind our edge.
pub const CONTENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// Longest name the kernel gives a device (IFNAMSIZ less the closing zero).
const DEVICE_NAME_MAX: usize = 15;
/// Homes' addresses are 198.18.P.10 and up, from the range for tests of networks (RFC 2544).
const FIRST_HOME: usize = 10;
/// So many homes fit behind [`FIRST_HOME`] in a /24.
const HOMES_PER_PREFIX_MAX: usize = 240;
/// An exchange is a /24; its border routers have the addresses from 10 on.
const ISPS_MAX: usize = 200;
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
}

/// A queue on the way to the homes.
#[derive(Debug, Clone)]
pub struct Port {
    /// What it stands for.
    pub place: Place,
    /// Interconnect's or ISP's name, home's address; empty for the host.
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

/// What `ip` and `tc` have to do in one namespace.
#[derive(Debug, Default, Clone)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Whether it forwards packets.
    pub forwards: bool,
    /// Lines for `ip -batch`.
    pub ip: Vec<String>,
    /// Lines for `tc -batch`.
    pub tc: Vec<String>,
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
    asns: Vec<u32>,
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
        for interconnect in &scenario.interconnects {
            let name = interconnect.name.get_ref();
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            ensure!(
                !name.is_empty() && name.len() <= DEVICE_NAME_MAX && name.chars().all(plain),
                "the interconnect {name:?} is a device, too: its name must be 1 to {DEVICE_NAME_MAX} letters, digits and hyphens"
            );
        }
        let mut plan = Self {
            homes: place_homes(scenario),
            ports: Vec::new(),
            isps: names(scenario.isps.iter().map(|isp| isp.name.get_ref())),
            interconnects: names(scenario.interconnects.iter().map(|i| i.name.get_ref())),
            asns: scenario.isps.iter().map(|isp| isp.asn).collect(),
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
        for interconnect in &scenario.interconnects {
            ports.push(Port {
                place: Place::Interconnect,
                name: interconnect.name.get_ref().clone(),
                namespace: EDGE.to_owned(),
                device: interconnect.name.get_ref().clone(),
                link: interconnect.port,
            });
        }
        for (index, isp) in scenario.isps.iter().enumerate() {
            ports.push(Port {
                place: Place::Isp,
                name: isp.name.get_ref().clone(),
                namespace: border(index),
                device: "core".to_owned(),
                link: isp.core,
            });
        }
        for home in &self.homes {
            ports.push(Port {
                place: Place::Home,
                name: home.address.to_string(),
                namespace: access(home.isp),
                device: home.namespace.clone(),
                link: scenario.isps[home.isp].access,
            });
        }
        ports
    }

    /// The daemon's prefix table: `prefix,origin_asn,isp,interconnect`.
    #[must_use]
    pub fn prefixes_csv(&self) -> String {
        let mut rows = vec!["prefix,origin_asn,isp,interconnect".to_owned()];
        for home in &self.homes {
            let row = format!(
                "{},{},{},{}",
                home.prefix(),
                self.asns[home.isp],
                self.isps[home.isp],
                self.interconnects[home.interconnect]
            );
            if rows.last() != Some(&row) {
                rows.push(row);
            }
        }
        rows.join("\n") + "\n"
    }

    /// The way of the traffic that fills `place`, past every other queue of the plan, except that
    /// what fills a home's line crosses its ISP's core as all of the ISP's traffic does.
    ///
    /// # Panics
    /// If the scenario was not checked: `name` must be known.
    #[must_use]
    pub fn fault_route(&self, place: Place, name: &str) -> Route {
        let index = |names: &[String]| {
            let found = names.iter().position(|known| known == name);
            found.expect("the scenario's check knows every name")
        };
        match place {
            Place::Host => Route {
                from: (VIDEO.to_owned(), VIDEO_ADDRESS),
                to: (CONTENT.to_owned(), CONTENT_ADDRESS),
            },
            Place::Interconnect => Route {
                from: (CONTENT.to_owned(), CONTENT_ADDRESS),
                to: (
                    ELSEWHERE.to_owned(),
                    exchange_elsewhere(index(&self.interconnects)),
                ),
            },
            Place::Isp => {
                let isp = index(&self.isps);
                Route {
                    from: (ELSEWHERE.to_owned(), transit_far(isp)),
                    to: (access(isp), core_far(isp)),
                }
            }
            Place::Home => {
                let home = self
                    .homes
                    .iter()
                    .find(|home| home.address.to_string() == name)
                    .expect("the scenario's check knows every home");
                Route {
                    from: (ELSEWHERE.to_owned(), transit_far(home.isp)),
                    to: (home.namespace.clone(), home.address),
                }
            }
        }
    }

    /// Lines for `ip -batch` that create all namespaces and links, before any is configured.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .namespaces()
            .iter()
            .map(|namespace| format!("netns add {}", namespace.name))
            .collect();
        let mut veth = |near: (&str, &str), far: (&str, &str)| {
            lines.push(format!(
                "link add name {} netns {} type veth peer name {} netns {}",
                near.1, near.0, far.1, far.0
            ));
        };
        veth((VIDEO, "eth0"), (EDGE, "video"));
        veth((CONTENT, "eth0"), (EDGE, "content"));
        for name in &self.interconnects {
            veth((EDGE, name), (ELSEWHERE, name));
        }
        for isp in 0..self.isps.len() {
            veth((&border(isp), "core"), (&access(isp), "core"));
            veth(
                (ELSEWHERE, &format!("isp-{}", isp + 1)),
                (&border(isp), "transit"),
            );
        }
        for home in &self.homes {
            veth(
                (&access(home.isp), &home.namespace),
                (&home.namespace, "eth0"),
            );
        }
        lines
    }

    /// What has to be configured in each namespace once the links are there.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Namespace> {
        let mut all = vec![
            host(VIDEO, VIDEO_ADDRESS),
            host(CONTENT, CONTENT_ADDRESS),
            self.edge(),
            self.elsewhere(),
        ];
        for isp in 0..self.isps.len() {
            all.push(self.border(isp));
            all.push(self.access(isp));
        }
        all.extend(self.homes.iter().map(home_namespace));
        for namespace in &mut all {
            namespace.ip.insert(0, "link set lo up".to_owned());
            let ports = self.ports.iter().filter(|p| p.namespace == namespace.name);
            namespace.tc.extend(ports.flat_map(shape));
        }
        all
    }

    fn edge(&self) -> Namespace {
        let mut ip = vec![
            format!("addr add {}/24 dev video", gateway(VIDEO_ADDRESS)),
            "link set video up".to_owned(),
            format!("addr add {}/24 dev content", gateway(CONTENT_ADDRESS)),
            "link set content up".to_owned(),
        ];
        for (index, name) in self.interconnects.iter().enumerate() {
            ip.push(format!("addr add {}/24 dev {name}", exchange_edge(index)));
            ip.push(format!("link set {name} up"));
        }
        for (prefix, home) in self.prefixes() {
            let next_hop = exchange_border(home.interconnect, home.isp);
            ip.push(format!("route add {prefix} via {next_hop}"));
        }
        Namespace {
            name: EDGE.to_owned(),
            forwards: true,
            ip,
            tc: Vec::new(),
        }
    }

    fn elsewhere(&self) -> Namespace {
        let mut ip = Vec::new();
        for (exchange, name) in self.interconnects.iter().enumerate() {
            ip.push(format!(
                "addr add {}/24 dev {name}",
                exchange_elsewhere(exchange)
            ));
            ip.push(format!("link set {name} up"));
            for isp in 0..self.isps.len() {
                ip.push(format!(
                    "link add link {name} name {} netns {} type macvlan mode bridge",
                    exchange_device(exchange),
                    border(isp)
                ));
            }
        }
        ip.push(format!(
            "route add {CONTENT_ADDRESS} via {}",
            exchange_edge(0)
        ));
        for isp in 0..self.isps.len() {
            let device = format!("isp-{}", isp + 1);
            ip.push(format!("addr add {}/24 dev {device}", transit_far(isp)));
            ip.push(format!("link set {device} up"));
            ip.push(format!(
                "route add {}/32 via {}",
                core_far(isp),
                transit_near(isp)
            ));
        }
        for (prefix, home) in self.prefixes() {
            ip.push(format!("route add {prefix} via {}", transit_near(home.isp)));
        }
        Namespace {
            name: ELSEWHERE.to_owned(),
            forwards: false,
            ip,
            tc: Vec::new(),
        }
    }

    fn border(&self, isp: usize) -> Namespace {
        let mut ip = vec![
            format!("addr add {}/24 dev core", core_near(isp)),
            "link set core up".to_owned(),
            format!("addr add {}/24 dev transit", transit_near(isp)),
            "link set transit up".to_owned(),
        ];
        for exchange in 0..self.interconnects.len() {
            let device = exchange_device(exchange);
            ip.push(format!(
                "addr add {}/24 dev {device}",
                exchange_border(exchange, isp)
            ));
            ip.push(format!("link set {device} up"));
        }
        for (prefix, home) in self.prefixes() {
            if home.isp == isp {
                ip.push(format!("route add {prefix} via {}", core_far(isp)));
            }
        }
        ip.push(format!("route add default via {}", exchange_edge(0)));
        Namespace {
            name: border(isp),
            forwards: true,
            ip,
            tc: Vec::new(),
        }
    }

    fn access(&self, isp: usize) -> Namespace {
        let mut ip = vec![
            format!("addr add {}/24 dev core", core_far(isp)),
            "link set core up".to_owned(),
            format!("route add default via {}", core_near(isp)),
        ];
        for home in self.homes.iter().filter(|home| home.isp == isp) {
            ip.push(format!("addr add {LINE_GATEWAY}/32 dev {}", home.namespace));
            ip.push(format!("link set {} up", home.namespace));
            ip.push(format!(
                "route add {}/32 dev {} src {LINE_GATEWAY}",
                home.address, home.namespace
            ));
        }
        Namespace {
            name: access(isp),
            forwards: true,
            ip,
            tc: Vec::new(),
        }
    }

    /// Every prefix once, with the first home in it.
    fn prefixes(&self) -> Vec<(String, &Home)> {
        let mut prefixes: Vec<(String, &Home)> = self
            .homes
            .iter()
            .map(|home| (home.prefix(), home))
            .collect();
        prefixes.dedup_by(|a, b| a.0 == b.0);
        prefixes
    }
}

/// The access router's address on every home's line (shared address space, RFC 6598).
const LINE_GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);

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

/// A machine with one link to the edge router.
fn host(name: &str, address: Ipv4Addr) -> Namespace {
    Namespace {
        name: name.to_owned(),
        forwards: false,
        ip: vec![
            format!("addr add {address}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", gateway(address)),
        ],
        tc: Vec::new(),
    }
}

fn home_namespace(home: &Home) -> Namespace {
    Namespace {
        name: home.namespace.clone(),
        forwards: false,
        ip: vec![
            format!("addr add {}/32 dev eth0", home.address),
            "link set eth0 up".to_owned(),
            format!("route add {LINE_GATEWAY} dev eth0"),
            format!("route add default via {LINE_GATEWAY}"),
        ],
        // What the home sends waits for its base round trip: the same delay for every packet, no
        // queue. The limit is far above what the acknowledgements of one home need.
        tc: vec![format!(
            "qdisc add dev eth0 root netem delay {}ms limit 10000",
            home.base_rtt_ms
        )],
    }
}

/// Lines for `tc -batch` that give a port its rate and queue.
fn shape(port: &Port) -> Vec<String> {
    // Tokens for so long: what a late timer of a busy (emulated) machine lets slip is made up for,
    // else the link would carry less than its rate. A link that was idle passes that much at once.
    const BURST_S: f64 = 0.008;
    // Largest packet tbf passes whole: one frame with a VLAN tag to spare. It cuts every larger
    // (GSO) packet into its wire packets, so that the queue holds what a real one would. tbf wants
    // a peak rate with it; this one is too high to matter.
    const FRAME: &str = "peakrate 10gbit mtu 1540";
    let device = &port.device;
    let rate = port.link.rate_mbit * 1e6;
    let tbf = format!(
        "qdisc add dev {device} root handle 1: tbf rate {:.0} burst {:.0} {FRAME}",
        rate,
        (rate * BURST_S / 8.0).max(2.0 * 1540.0)
    );
    match port.link.queue {
        Queue::Fifo { limit_ms } => {
            vec![format!("{tbf} limit {:.0}", rate * limit_ms / 8000.0)]
        }
        Queue::FqCodel {} => vec![
            // The limit belongs to tbf's own queue, which fq_codel then replaces.
            format!("{tbf} limit 1000000"),
            format!("qdisc add dev {device} parent 1:1 handle 10: fq_codel"),
        ],
    }
}

fn border(isp: usize) -> String {
    format!("border-{}", isp + 1)
}

fn access(isp: usize) -> String {
    format!("access-{}", isp + 1)
}

/// A border router's device on an exchange. Not the interconnect's name: the kernel refuses to
/// make a macvlan with the name of a device where it is made from.
fn exchange_device(exchange: usize) -> String {
    format!("exchange-{}", exchange + 1)
}

fn gateway(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

fn exchange_edge(exchange: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, exchange as u8, 1)
}

fn exchange_border(exchange: usize, isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, exchange as u8, 10 + isp as u8)
}

fn exchange_elsewhere(exchange: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, exchange as u8, 250)
}

fn core_near(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, isp as u8, 1)
}

fn core_far(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, isp as u8, 2)
}

fn transit_far(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, isp as u8, 1)
}

fn transit_near(isp: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, isp as u8, 2)
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
    fn the_prefix_table_has_one_row_a_prefix() {
        let csv = plan("healthy").prefixes_csv();
        let rows: Vec<&str> = csv.lines().collect();
        assert_eq!(rows.len(), 1 + 16);
        assert_eq!(rows[1], "198.18.0.0/24,64501,Northnet,ix-east");
        assert_eq!(rows[16], "198.18.15.0/24,64502,Southnet,ix-west");
    }

    #[test]
    fn traffic_that_fills_an_interconnect_never_enters_an_isp() {
        let route = plan("interconnect").fault_route(Place::Interconnect, "ix-west");
        assert_eq!(route.from.0, CONTENT);
        assert_eq!(route.to, (ELSEWHERE.to_owned(), exchange_elsewhere(1)));
    }

    #[test]
    fn a_fifo_holds_its_milliseconds_in_bytes() {
        let plan = plan("healthy");
        let edge = plan
            .namespaces()
            .into_iter()
            .find(|n| n.name == EDGE)
            .unwrap();
        // 12 Mbit/s for 80 ms.
        assert!(edge.tc[0].ends_with("limit 120000"), "{:?}", edge.tc);
    }
}
