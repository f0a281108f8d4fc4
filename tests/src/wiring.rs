//! From the plan to what `ip` and `tc` have to do, namespace by namespace.

use std::net::Ipv4Addr;

use crate::addresses::{
    BACKBONE, CONTENT, CONTENT_ADDRESS, EDGE, ELSEWHERE, LINE_GATEWAY, OFFICE, OFFICE_ADDRESS,
    VIDEO, VIDEO_ADDRESS, access, border, cache, cache_address, core_far, core_near, elsewhere_far,
    elsewhere_near, exchange_border, exchange_device, exchange_edge, exchange_elsewhere,
    exchange_gateway, exchange_transit, gateway, gateway_device, handover_device, handover_far,
    handover_near, node, node_far, node_near, port_device, transit,
};
use crate::plan::{Home, Plan, Port};
use crate::routes::{Source, Ways};
use crate::scenario::{Place, Queue, Traffic};

/// The edge's tables of routes for what the video host sends to its gateways begin here; any
/// number but the kernel's own (253 to 255) will do.
const FIRST_TABLE: usize = 1000;

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

impl Plan {
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
        if self.has_backbone() {
            veth((VIDEO, "eth0"), (BACKBONE, VIDEO));
            veth((OFFICE, "eth0"), (BACKBONE, OFFICE));
            veth((BACKBONE, EDGE), (EDGE, "video"));
        } else {
            veth((VIDEO, "eth0"), (EDGE, "video"));
        }
        veth((CONTENT, "eth0"), (EDGE, "content"));
        for (exchange, carrier) in self.transits.iter().enumerate() {
            let device = port_device(exchange);
            if carrier.is_none() {
                veth((EDGE, &device), (ELSEWHERE, &device));
                continue;
            }
            let router = transit(exchange);
            veth((EDGE, &device), (&router, "customer"));
            veth((ELSEWHERE, &router), (&router, &handover_device(None)));
            for isp in 0..self.isps.len() {
                veth(
                    (&router, &handover_device(Some(isp))),
                    (&border(isp), &exchange_device(exchange)),
                );
            }
        }
        for isp in 0..self.isps.len() {
            veth((&border(isp), "core"), (&access(isp), "core"));
            veth((&cache(isp), "eth0"), (&access(isp), "cache"));
            veth(
                (ELSEWHERE, &format!("isp-{}", isp + 1)),
                (&border(isp), ELSEWHERE),
            );
            if self.has_node(isp) {
                veth((&access(isp), "node"), (&node(isp), "access"));
            }
        }
        for home in &self.homes {
            veth((&home.router(), &home.namespace), (&home.namespace, "eth0"));
        }
        lines
    }

    /// What has to be configured in each namespace once the links are there.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Namespace> {
        let mut all = vec![
            self.video(),
            host(CONTENT, CONTENT_ADDRESS),
            self.edge(),
            self.elsewhere(),
        ];
        if self.has_backbone() {
            all.push(backbone());
            all.push(host(OFFICE, OFFICE_ADDRESS));
        }
        let carriers = self.transits.iter().enumerate();
        let carriers = carriers.filter(|(_, carrier)| carrier.is_some());
        all.extend(carriers.map(|(exchange, _)| self.transit(exchange)));
        for isp in 0..self.isps.len() {
            all.push(self.border(isp));
            all.push(self.access(isp));
            if self.has_node(isp) {
                all.push(self.node(isp));
            }
            all.push(host(&cache(isp), cache_address(isp)));
        }
        all.extend(self.homes.iter().map(home_namespace));
        for namespace in &mut all {
            namespace.ip.insert(0, "link set lo up".to_owned());
            let ports = self.ports.iter().filter(|p| p.namespace == namespace.name);
            namespace.tc.extend(ports.flat_map(shape));
        }
        all
    }

    fn has_backbone(&self) -> bool {
        self.ports
            .iter()
            .any(|port| port.place == Place::OwnNetwork)
    }

    fn has_node(&self, isp: usize) -> bool {
        self.filled(Place::AccessNode, &self.isps[isp]).count() > 0
    }

    fn edge(&self) -> Namespace {
        let mut ip = vec![
            format!("addr add {}/24 dev video", gateway(VIDEO_ADDRESS)),
            "link set video up".to_owned(),
            format!("addr add {}/24 dev content", gateway(CONTENT_ADDRESS)),
            "link set content up".to_owned(),
        ];
        for exchange in 0..self.interconnects.len() {
            let device = port_device(exchange);
            ip.push(format!(
                "addr add {}/24 dev {device}",
                exchange_edge(exchange)
            ));
            ip.push(format!("link set {device} up"));
        }
        match self.routes {
            Source::Csv => ip.extend(Ways::at_first(self).next_hops(self).iter().map(to_gateway)),
            // Its routers say.
            Source::Bgp => {}
            Source::Kernel => self.gateways(&mut ip),
        }
        Namespace {
            name: EDGE.to_owned(),
            forwards: true,
            ip,
            tc: Vec::new(),
        }
    }

    /// Where the video host chooses the interconnect by the next hop: a device of the edge for
    /// each, and a table of routes for what comes in by it.
    fn gateways(&self, ip: &mut Vec<String>) {
        for exchange in 0..self.interconnects.len() {
            let device = gateway_device(exchange);
            let table = FIRST_TABLE + exchange;
            ip.push(format!(
                "link add link video name {device} type macvlan mode bridge"
            ));
            ip.push(format!(
                "addr add {}/32 dev {device}",
                exchange_gateway(exchange)
            ));
            ip.push(format!("link set {device} up"));
            ip.push(format!("rule add iif {device} lookup {table}"));
            for (prefix, home) in self.prefixes() {
                let next_hop = self.next_hop(exchange, home.isp);
                ip.push(format!("route add {prefix} via {next_hop} table {table}"));
            }
        }
    }

    fn video(&self) -> Namespace {
        let mut video = host(VIDEO, VIDEO_ADDRESS);
        if self.routes == Source::Kernel {
            let ways = Ways::at_first(self).0;
            let lines = ways
                .iter()
                .map(|way| to_gateway(&(way.prefix.clone(), exchange_gateway(way.interconnect))));
            video.ip.extend(lines);
        }
        video
    }

    fn elsewhere(&self) -> Namespace {
        let mut ip = Vec::new();
        for (exchange, carrier) in self.transits.iter().enumerate() {
            if carrier.is_some() {
                let device = transit(exchange);
                let near = handover_near(exchange, None);
                ip.push(format!(
                    "addr add {}/24 dev {device}",
                    handover_far(exchange, None)
                ));
                ip.push(format!("link set {device} up"));
                ip.extend((0..self.isps.len()).map(|isp| {
                    format!(
                        "route add {}/32 via {near}",
                        handover_far(exchange, Some(isp))
                    )
                }));
                continue;
            }
            let device = port_device(exchange);
            ip.push(format!(
                "addr add {}/24 dev {device}",
                exchange_elsewhere(exchange)
            ));
            ip.push(format!("link set {device} up"));
            for isp in 0..self.isps.len() {
                ip.push(format!(
                    "link add link {device} name {} netns {} type macvlan mode bridge",
                    exchange_device(exchange),
                    border(isp)
                ));
            }
        }
        if let Some(exchange) = self.first_exchange() {
            let edge = exchange_edge(exchange);
            ip.push(format!("route add {CONTENT_ADDRESS} via {edge}"));
        }
        for isp in 0..self.isps.len() {
            let device = format!("isp-{}", isp + 1);
            ip.push(format!("addr add {}/24 dev {device}", elsewhere_far(isp)));
            ip.push(format!("link set {device} up"));
            ip.push(format!(
                "route add {}/32 via {}",
                core_far(isp),
                elsewhere_near(isp)
            ));
            ip.push(format!(
                "route add {}/32 via {}",
                cache_address(isp),
                elsewhere_near(isp)
            ));
        }
        Namespace {
            name: ELSEWHERE.to_owned(),
            forwards: false,
            ip,
            tc: Vec::new(),
        }
    }

    /// Where all that the ISPs send comes to us by.
    fn first_exchange(&self) -> Option<usize> {
        self.transits.iter().position(Option::is_none)
    }

    fn transit(&self, exchange: usize) -> Namespace {
        let mut ip = vec![
            format!("addr add {}/24 dev customer", exchange_transit(exchange)),
            "link set customer up".to_owned(),
            format!("route add default via {}", exchange_edge(exchange)),
        ];
        let others = (0..self.isps.len()).map(Some).chain([None]);
        for to in others {
            let device = handover_device(to);
            ip.push(format!(
                "addr add {}/24 dev {device}",
                handover_near(exchange, to)
            ));
            ip.push(format!("link set {device} up"));
        }
        ip.extend(self.prefixes().into_iter().map(|(prefix, home)| {
            let border = handover_far(exchange, Some(home.isp));
            format!("route add {prefix} via {border}")
        }));
        Namespace {
            name: transit(exchange),
            forwards: true,
            ip,
            tc: Vec::new(),
        }
    }

    fn border(&self, isp: usize) -> Namespace {
        let mut ip = vec![
            format!("addr add {}/24 dev core", core_near(isp)),
            "link set core up".to_owned(),
            format!("addr add {}/24 dev {ELSEWHERE}", elsewhere_near(isp)),
            format!("link set {ELSEWHERE} up"),
            format!("route add {}/32 via {}", cache_address(isp), core_far(isp)),
        ];
        for (exchange, carrier) in self.transits.iter().enumerate() {
            let device = exchange_device(exchange);
            let address = match carrier {
                Some(_) => handover_far(exchange, Some(isp)),
                None => exchange_border(exchange, isp),
            };
            ip.push(format!("addr add {address}/24 dev {device}"));
            ip.push(format!("link set {device} up"));
            if carrier.is_some() {
                ip.push(format!(
                    "route add {}/32 via {}",
                    handover_far(exchange, None),
                    handover_near(exchange, Some(isp))
                ));
            }
        }
        for (prefix, home) in self.prefixes() {
            if home.isp == isp {
                ip.push(format!("route add {prefix} via {}", core_far(isp)));
            }
        }
        let back = match self.first_exchange() {
            Some(exchange) => exchange_edge(exchange),
            None => handover_near(0, Some(isp)),
        };
        ip.push(format!("route add default via {back}"));
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
            format!("addr add {}/24 dev cache", gateway(cache_address(isp))),
            "link set cache up".to_owned(),
            format!("route add default via {}", core_near(isp)),
        ];
        if self.has_node(isp) {
            ip.push(format!("addr add {}/24 dev node", node_near(isp)));
            ip.push("link set node up".to_owned());
        }
        for home in self.homes.iter().filter(|home| home.isp == isp) {
            if home.on_node {
                ip.push(format!(
                    "route add {}/32 via {}",
                    home.address,
                    node_far(isp)
                ));
            } else {
                ip.extend(line(home));
            }
        }
        Namespace {
            name: access(isp),
            forwards: true,
            ip,
            tc: Vec::new(),
        }
    }

    fn node(&self, isp: usize) -> Namespace {
        let mut ip = vec![
            format!("addr add {}/24 dev access", node_far(isp)),
            "link set access up".to_owned(),
            format!("route add default via {}", node_near(isp)),
        ];
        let homes = self.homes.iter();
        let homes = homes.filter(|home| home.isp == isp && home.on_node);
        ip.extend(homes.flat_map(line));
        Namespace {
            name: node(isp),
            forwards: true,
            ip,
            tc: Vec::new(),
        }
    }
}

/// A home's line in its router.
fn line(home: &Home) -> [String; 3] {
    let device = &home.namespace;
    [
        format!("addr add {LINE_GATEWAY}/32 dev {device}"),
        format!("link set {device} up"),
        format!(
            "route add {}/32 dev {device} src {LINE_GATEWAY}",
            home.address
        ),
    ]
}

/// The switch between our machines and our edge.
fn backbone() -> Namespace {
    let mut ip = vec![
        "link add switch type bridge".to_owned(),
        "link set switch up".to_owned(),
    ];
    for device in [VIDEO, OFFICE, EDGE] {
        ip.push(format!("link set {device} master switch"));
        ip.push(format!("link set {device} up"));
    }
    Namespace {
        name: BACKBONE.to_owned(),
        forwards: false,
        ip,
        tc: Vec::new(),
    }
}

/// A machine with one link, to a router at .1 of its /24.
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

/// A line for `ip -batch` that leads a prefix over a gateway, as for the first time.
fn to_gateway((prefix, gateway): &(String, Ipv4Addr)) -> String {
    format!("route replace {prefix} via {gateway}")
}

/// A line for `tc -batch`: the link loses a share of its packets or takes a longer way, and what waits
/// for it is a plain FIFO. `None`: it does neither.
#[must_use]
pub fn change(port: &Port, traffic: &Traffic) -> Option<String> {
    // As many as wait, or are under way, where a link's rate is a few Mbit/s.
    const PACKETS: u32 = 100;
    let what = match traffic {
        Traffic::Damage { loss_share } => format!("loss {:.4}%", loss_share * 100.0),
        Traffic::Detour { longer_ms } => format!("delay {longer_ms:.3}ms"),
        Traffic::Tcp { .. } | Traffic::Udp { .. } => return None,
    };
    let device = &port.device;
    Some(format!(
        "qdisc replace dev {device} parent 1:1 handle 20: netem {what} limit {PACKETS}"
    ))
}

/// A line for `tc -batch` that gives such a link its queue back.
#[must_use]
pub fn repair(port: &Port) -> String {
    let rate = port.link.rate_mbit * 1e6;
    let queue = match port.link.queue {
        Queue::Fifo { limit_ms } => format!("bfifo limit {:.0}", rate * limit_ms / 8000.0),
        Queue::Red { limit_ms } => red(rate, limit_ms),
        Queue::Policer { .. } => format!("bfifo limit {POLICED_BYTES}"),
        Queue::Codel {} => "codel".to_owned(),
        Queue::FqCodel {} | Queue::Cake {} => "fq_codel".to_owned(),
    };
    format!(
        "qdisc replace dev {} parent 1:1 handle 30: {queue}",
        port.device
    )
}

/// Random early detection whose limit is so many milliseconds of `rate` (bit/s).
fn red(rate: f64, limit_ms: f64) -> String {
    // A video packet, bytes, and the share that is dropped just below the upper threshold.
    const RED_PACKET: f64 = 1_000.0;
    const RED_MOST: f64 = 0.1;
    let limit = rate * limit_ms / 8000.0;
    let (least, most) = (limit / 4.0, limit * 0.75);
    // Bursts up to which it forgives, as its authors advise (tc-red(8)).
    let burst = (2.0 * least + most) / (3.0 * RED_PACKET) + 1.0;
    format!(
        "red limit {limit:.0} min {least:.0} max {most:.0} avpkt {RED_PACKET} \
         burst {burst:.0} bandwidth {rate:.0} probability {RED_MOST}"
    )
}

/// One full packet, which waits for its token.
const POLICED_BYTES: u32 = 1_600;

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
    let burst_s = match port.link.queue {
        Queue::Policer { burst_ms } => burst_ms / 1000.0,
        _ => BURST_S,
    };
    let tbf = format!(
        "qdisc add dev {device} root handle 1: tbf rate {:.0} burst {:.0} {FRAME}",
        rate,
        (rate * burst_s / 8.0).max(2.0 * 1540.0)
    );
    // The limit belongs to tbf's own queue, which the inner one then replaces.
    let inner = |queue: String| {
        vec![
            format!("{tbf} limit 1000000"),
            format!("qdisc add dev {device} parent 1:1 handle 10: {queue}"),
        ]
    };
    match port.link.queue {
        Queue::Fifo { limit_ms } => {
            vec![format!("{tbf} limit {:.0}", rate * limit_ms / 8000.0)]
        }
        Queue::Red { limit_ms } => inner(red(rate, limit_ms)),
        // tbf takes no packet that would not fit into its queue.
        Queue::Policer { .. } => vec![format!("{tbf} limit {POLICED_BYTES}")],
        Queue::Codel {} => inner("codel".to_owned()),
        Queue::FqCodel {} => inner("fq_codel".to_owned()),
        Queue::Cake {} => vec![format!(
            "qdisc add dev {device} root handle 1: cake bandwidth {rate:.0}bit"
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn plan(name: &str) -> Plan {
        Plan::new(&Scenario::load(name).unwrap()).unwrap()
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
