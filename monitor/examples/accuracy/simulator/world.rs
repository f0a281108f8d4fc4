//! The networks of a simulated video service: interconnects, ISPs, prefixes, homes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use lastmile::path::{Connectivity, Location, Route, Source, SourceSet};

use super::random::Random;

/// The AS of the first ISP; the others follow.
const FIRST_ISP: u32 = 64_512;
/// The AS of the first transit.
const FIRST_TRANSIT: u32 = 64_900;

/// How the service is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// Every ISP through two exchanges.
    TwoShared,
    /// Every ISP through a private link of its own and through a shared exchange.
    PrivateAndShared,
    /// Every ISP through one private link of its own: nothing to compare with.
    Dedicated,
    /// Every ISP through two transits.
    TransitOnly,
    /// Every ISP through two of four exchanges and, in part, a transit.
    Many,
    /// Every ISP through three exchanges, two of them over one reseller's port.
    Reseller,
    /// One exchange and two transits: one half of the ISPs through the exchange and a transit, the
    /// other through transits alone.
    Remote,
    /// Every ISP through three of six exchanges and one of two transits.
    Large,
    /// Every ISP through two of 180 exchanges, and every other one through one of 20 transits too.
    Cdn,
}

impl Topology {
    /// Those that thresholds were chosen on.
    pub const TUNED: [Self; 5] = [
        Self::TwoShared,
        Self::PrivateAndShared,
        Self::Dedicated,
        Self::TransitOnly,
        Self::Many,
    ];
    /// Those that were not looked at before they were frozen.
    pub const HELD_OUT: [Self; 3] = [Self::Reseller, Self::Remote, Self::Large];
}

/// A link to a neighbour.
pub struct Interconnect {
    pub name: Arc<str>,
    pub connectivity: Connectivity,
    /// The transit's AS; `None`: it leads to the ISPs themselves.
    pub transit: Option<u32>,
    /// What it shares with others.
    pub risk_groups: Arc<[Arc<str>]>,
}

/// One home with one connection at a time.
pub struct Home {
    pub interconnect: usize,
    pub isp: usize,
    /// The access node within its ISP.
    pub node: usize,
    /// The member of its interconnect's bundle of [`MEMBERS`].
    pub member: usize,
    /// Which of the [`PLAYERS`] it has.
    pub player: usize,
    pub address: Ipv4Addr,
    pub location: Location,
    pub base_rtt_us: f64,
    pub access_bps: f64,
    /// Share of the windows in which somebody watches.
    pub watches: f64,
}

/// Kinds of players.
pub const PLAYERS: usize = 3;
/// Links of a bundle.
pub const MEMBERS: usize = 4;
/// Prefixes behind one access node.
const PREFIXES_A_NODE: usize = 2;

/// All of them.
pub struct World {
    pub interconnects: Vec<Interconnect>,
    pub isps: Vec<Arc<str>>,
    pub homes: Vec<Home>,
}

/// How many there are of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub isps: usize,
    /// Prefixes of an ISP on one of its interconnects.
    pub prefixes: usize,
    /// Homes of a prefix.
    pub homes: usize,
}

impl World {
    /// `base_rtt_ms` is what the network alone takes to the nearest homes.
    /// `balanced` is the part of each prefix's homes that takes another of its ISP's ways.
    pub fn new(
        topology: Topology,
        scale: Scale,
        base_rtt_ms: f64,
        balanced: f64,
        random: &mut Random,
    ) -> Self {
        let link = |name: String, connectivity, transit| Interconnect {
            name: name.into(),
            connectivity,
            transit,
            risk_groups: Arc::new([]),
        };
        let exchange = |at: usize| link(format!("ix-{at}"), Connectivity::Ix, None);
        let transit = |at: usize| {
            let asn = FIRST_TRANSIT + at as u32;
            link(format!("transit-{at}"), Connectivity::Transit, Some(asn))
        };
        let resold = |at: usize| Interconnect {
            risk_groups: Arc::new(["reseller-1".into()]),
            ..exchange(at)
        };
        // The first and the last one.
        let at_one_router = |mut links: Vec<Interconnect>| {
            let last = links.len() - 1;
            for at in [0, last] {
                links[at].risk_groups = Arc::new(["router-1".into()]);
            }
            links
        };
        let private = |at: usize| link(format!("pni-{at}"), Connectivity::Pni, None);
        let interconnects: Vec<Interconnect> = match topology {
            Topology::TwoShared => (0..2).map(exchange).collect(),
            Topology::PrivateAndShared => {
                (0..scale.isps).map(private).chain([exchange(0)]).collect()
            }
            Topology::Dedicated => (0..scale.isps).map(private).collect(),
            Topology::TransitOnly => (0..2).map(transit).collect(),
            Topology::Many => at_one_router((0..4).map(exchange).chain([transit(0)]).collect()),
            Topology::Reseller => (0..2).map(resold).chain([exchange(2)]).collect(),
            Topology::Remote => [exchange(0), transit(0), transit(1)].into(),
            Topology::Large => (0..6).map(exchange).chain((0..2).map(transit)).collect(),
            Topology::Cdn => (0..180).map(exchange).chain((0..20).map(transit)).collect(),
        };
        let mut world = Self {
            interconnects,
            isps: (0..scale.isps)
                .map(|at| format!("isp-{at}").into())
                .collect(),
            homes: Vec::new(),
        };
        let mut prefix = 0;
        for isp in 0..scale.isps {
            let ways = match topology {
                Topology::TwoShared | Topology::TransitOnly => vec![0, 1],
                Topology::PrivateAndShared => vec![isp, scale.isps],
                Topology::Dedicated => vec![isp],
                Topology::Many => vec![isp % 4, (isp + 1) % 4, 4],
                Topology::Reseller => vec![0, 1, 2],
                Topology::Remote => [vec![0, 1], vec![1, 2]][isp % 2].clone(),
                Topology::Large => vec![isp % 6, (isp + 1) % 6, (isp + 3) % 6, 6 + isp % 2],
                Topology::Cdn => {
                    // Two that few others share with it, as chance would have it.
                    let (one, other) = (isp % 180, (isp * 7 + 31) % 180);
                    let other = if one == other { (one + 1) % 180 } else { other };
                    let transit = (isp % 2 == 0).then_some(180 + isp / 2 % 20);
                    [one, other].into_iter().chain(transit).collect()
                }
            };
            // Nodes are of one ISP, and their prefixes are spread over its ways.
            let mut of_isp = 0;
            for _ in 0..scale.prefixes {
                for (at, &interconnect) in ways.iter().enumerate() {
                    let prefix_ways = PrefixWays {
                        interconnect,
                        other: ways[(at + 1) % ways.len()],
                        balanced,
                    };
                    let node = of_isp / (PREFIXES_A_NODE * ways.len());
                    world.add_prefix(&prefix_ways, isp, node, prefix, scale, base_rtt_ms, random);
                    prefix += 1;
                    of_isp += 1;
                }
            }
        }
        world
    }

    #[expect(clippy::too_many_arguments, reason = "each is another coordinate")]
    fn add_prefix(
        &mut self,
        ways: &PrefixWays,
        isp: usize,
        node: usize,
        prefix: usize,
        scale: Scale,
        base_rtt_ms: f64,
        random: &mut Random,
    ) {
        let network = Ipv4Addr::from(0x0a00_0000 + ((prefix as u32) << 8));
        let unit = IpNet::V4(Ipv4Net::new_assert(network, 24));
        let routes = [ways.interconnect, ways.other].map(|at| self.route(at, isp, unit));
        for number in 0..scale.homes {
            let is_other = random.chance(ways.balanced);
            self.homes.push(Home {
                interconnect: [ways.interconnect, ways.other][usize::from(is_other)],
                isp,
                node,
                member: random.index(MEMBERS),
                player: random.index(PLAYERS),
                address: Ipv4Addr::from(u32::from(network) + 1 + number as u32),
                location: Location {
                    unit,
                    route: Arc::clone(&routes[usize::from(is_other)]),
                },
                base_rtt_us: 1_000.0 * (base_rtt_ms + random.between(2.0, 25.0)),
                access_bps: 1e6 * random.pick(&[16.0, 25.0, 50.0, 100.0]),
                watches: random.between(0.6, 1.0),
            });
        }
    }
    fn route(&self, interconnect: usize, isp: usize, unit: IpNet) -> Arc<Route> {
        let link = &self.interconnects[interconnect];
        let origin_asn = FIRST_ISP + isp as u32;
        Arc::new(Route {
            prefix: unit,
            origin_asn,
            isp: Arc::clone(&self.isps[isp]),
            interconnect: Arc::clone(&link.name),
            peer_asn: Some(link.transit.unwrap_or(origin_asn)),
            peer_address: None,
            next_hop: None,
            router: None,
            interface: None,
            as_path_middle: Arc::new([]),
            connectivity: Some(link.connectivity),
            site: None,
            risk_groups: Arc::clone(&link.risk_groups),
            sources: SourceSet {
                who: Source::File,
                way: Source::File,
            },
            stale: false,
        })
    }
}

/// The ways of one prefix.
struct PrefixWays {
    interconnect: usize,
    other: usize,
    /// The part of its homes that takes the other one.
    balanced: f64,
}
