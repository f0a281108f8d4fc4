//! All sources together: from a client's address to its [`Location`].

use std::collections::HashSet;
use std::fmt::{Debug, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::csv_file::{self, Elsewhere, FileError};
use super::experiment::OtherWay;
use super::toml_file;
use super::{
    Attributes, Interconnect, IspNames, Location, Path, Route, Rules, Source, SourceSet,
    SourceTable, UnitLengths,
};
use crate::config::PathSources;

/// This host's own routes, as the merged view asks them.
pub trait KernelRoutes: Debug + Send + Sync {
    /// The way on which this host sends to `client`; `None`: no route. With `flow` the way of
    /// that flow's packets.
    fn way(&self, client: IpAddr, flow: Option<&SeenFlow>, mark: Option<u32>) -> Option<KernelWay>;
}

/// What is known about the packets of one flow, for this host's own routes to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenFlow {
    /// Their source.
    pub server: IpAddr,
    pub server_port: u16,
    pub client_port: u16,
    /// Index of the device at which they were seen to leave.
    pub egress: Option<u32>,
    /// `SO_MARK` of the socket that sends them, where it is one of ours.
    pub mark: Option<u32>,
}

/// How this host sends to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelWay {
    /// The destination of the route that matched.
    pub prefix: IpNet,
    /// Egress interface and next hop; several where the route has several (ECMP) and a hash of
    /// each flow decides.
    pub hops: Vec<(Option<Arc<str>>, Option<IpAddr>)>,
}

/// All that is known about the ways to clients, at one moment. Cloning it is cheap: the tables
/// are shared.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    pub unit_lengths: UnitLengths,
    pub file: Arc<SourceTable>,
    pub bmp: Arc<SourceTable>,
    pub mrt: Arc<SourceTable>,
    /// The MRT dump is another's (a route collector's): it knows origins, not our ways.
    pub mrt_origins_only: bool,
    /// `None`: not asked.
    pub kernel: Option<Arc<dyn KernelRoutes>>,
    pub rules: Arc<Rules>,
    pub names: Arc<IspNames>,
    /// Where connections go that a route experiment marks.
    pub experiment: Option<Arc<OtherWay>>,
    /// Since when it marks them, µs since 1970 UTC.
    pub experiment_since_us: u64,
    /// Sources that have gone silent or could not be read again.
    pub stale_sources: Vec<Source>,
    /// Routers whose BMP session is gone and whose routes are kept.
    pub stale_routers: Arc<HashSet<Arc<str>>>,
}

type Found<'a> = Option<(IpNet, &'a Arc<Path>)>;

/// The way as merged from the sources, before a rule names it.
struct Way<'a> {
    source: Source,
    interconnect: Named,
    bgp: Option<&'a Path>,
    interface: Option<Arc<str>>,
    next_hop: Option<IpAddr>,
}

/// An interconnect's name and what the configuration says about it.
struct Named {
    name: Arc<str>,
    known: Option<Arc<Interconnect>>,
}

impl Routes {
    /// Reads the configured prefix and name files; without any nothing is known. Feeds are set
    /// by whoever reads them.
    pub fn load(sources: &PathSources) -> Result<Self, FileError> {
        let mut routes = Self {
            unit_lengths: UnitLengths {
                v4: sources.unit_length_v4,
                v6: sources.unit_length_v6,
            },
            mrt_origins_only: sources.mrt_origins_only,
            rules: Arc::new(Rules::new(&sources.interconnect)),
            experiment: OtherWay::new(sources).map(Arc::new),
            ..Self::default()
        };
        let elsewhere = if sources.has_feeds() {
            Elsewhere::Feeds
        } else {
            Elsewhere::Nothing
        };
        let mut table = SourceTable::default();
        if let Some(file) = &sources.prefixes_csv {
            table = csv_file::read(file, elsewhere)?;
        }
        if let Some(file) = &sources.prefixes_toml {
            toml_file::read(file, elsewhere, &mut table)?;
        }
        routes.file = Arc::new(table);
        if let Some(file) = &sources.isp_names {
            routes.names = Arc::new(IspNames::read(file)?);
        }
        Ok(routes)
    }

    /// What one CSV text says, with nothing else configured; `file` is only named in errors.
    pub fn from_csv(text: &str, file: &std::path::Path) -> Result<Self, FileError> {
        Ok(Self {
            file: Arc::new(csv_file::parse(text, file, Elsewhere::Nothing)?),
            ..Self::default()
        })
    }

    /// Where `client` is; `None` where its network or the way to it is not known.
    pub fn locate(&self, client: IpAddr) -> Option<Location> {
        self.locate_flow(client, None)
    }

    /// The same for one flow: this host's own routes may send it another way than others of the
    /// same client (ECMP, policy rules).
    pub fn locate_flow(&self, client: IpAddr, flow: Option<&SeenFlow>) -> Option<Location> {
        let route = match self.experiment_of(flow).zip(flow) {
            Some((experiment, flow)) => self.marked_route(client, flow, experiment)?,
            None => self.route_of(&client.into(), flow)?,
        };
        let unit = self.unit_lengths.around(client);
        Some(Location {
            // More specific than the unit: its neighbours may take another way.
            unit: if route.prefix.prefix_len() > unit.prefix_len() {
                route.prefix
            } else {
                unit
            },
            route: Arc::new(route),
        })
    }

    /// The experiment that has marked a flow's connection.
    pub fn experiment_of(&self, flow: Option<&SeenFlow>) -> Option<&OtherWay> {
        let mark = flow?.mark?;
        self.experiment.as_deref().filter(|it| it.mark == mark)
    }

    /// The mark that this host's own routes go by; `None`: it is not known, because netfilter marks
    /// packets too. While an experiment marks some connections, all that are not known to be are
    /// taken for unmarked: else the rule for its mark would make one way of the two that it tells
    /// apart.
    fn mark_of(&self, flow: Option<&SeenFlow>) -> Option<u32> {
        self.experiment.as_ref()?;
        Some(flow.and_then(|flow| flow.mark).unwrap_or(0))
    }

    /// The way of a flow that is marked. `None`: what was seen of it agrees with neither way.
    fn marked_route(
        &self,
        client: IpAddr,
        flow: &SeenFlow,
        experiment: &OtherWay,
    ) -> Option<Route> {
        let unmarked = SeenFlow {
            egress: None,
            mark: Some(0),
            ..*flow
        };
        let default = self.route_of(&client.into(), Some(&unmarked))?;
        if default.interconnect == experiment.interconnect.name {
            // It takes that way anyhow: nothing else is known of it than of its neighbours.
            return Some(default);
        }
        // This host's own routes decide, unless routers do: a rule that is missing for one family, or
        // a table that has become empty, sends nothing another way.
        if let Some(kernel) = self.kernel.as_ref().filter(|_| !experiment.has_dscp) {
            let marked = kernel.way(client, Some(flow), flow.mark)?;
            let default_hops = kernel.way(client, Some(&unmarked), Some(0));
            let stays = |way: KernelWay| way.hops.iter().any(|hop| marked.hops.contains(hop));
            if default_hops.is_some_and(stays) {
                return Some(default);
            }
        }
        Some(experiment.route(default))
    }

    /// What is known about the whole of `net` (its first address, as far as this host's own
    /// routes go).
    pub fn route(&self, net: &IpNet) -> Option<Route> {
        self.route_of(net, None)
    }

    fn route_of(&self, net: &IpNet, flow: Option<&SeenFlow>) -> Option<Route> {
        let file = self.file.covering(net);
        let bmp = self.bmp.covering(net);
        let mrt = self.mrt.covering(net);
        let (who, who_prefix, origin_asn, isp) = self.who(file, bmp, mrt)?;

        let file_path = file.map(|(_, path)| &**path);
        let bgp = match (bmp, mrt) {
            (Some(found), _) => Some((Source::Bmp, found)),
            (None, Some(found)) if !self.mrt_origins_only => Some((Source::Mrt, found)),
            _ => None,
        };
        let kernel = self
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.way(net.addr(), flow, self.mark_of(flow)));
        let way = self.way(
            file_path,
            bgp.map(|(source, (_, path))| (source, &**path)),
            kernel.as_ref(),
        )?;

        let way_prefix = match way.source {
            Source::File => file.map(|(prefix, _)| prefix),
            Source::Kernel => kernel.map(|way| way.prefix),
            Source::Bmp | Source::Mrt => None,
        };
        let bgp_prefix = bgp.map(|(_, (prefix, _))| prefix);
        let prefix = [Some(who_prefix), way_prefix, bgp_prefix]
            .into_iter()
            .flatten()
            .max_by_key(IpNet::prefix_len)
            .unwrap_or(who_prefix);

        let stale = self.is_stale(who, &way, bgp.map(|(source, _)| source));
        let known = way.interconnect.known;
        Some(Route {
            prefix,
            origin_asn,
            isp,
            interconnect: way.interconnect.name,
            peer_asn: file_path
                .and_then(|path| path.peer_asn)
                .or(way.bgp.and_then(|path| path.peer_asn)),
            peer_address: way.bgp.and_then(|path| path.peer_address),
            next_hop: way.next_hop,
            router: way.bgp.and_then(|path| path.router.clone()),
            interface: way.interface,
            as_path_middle: way
                .bgp
                .map(|path| Arc::clone(&path.as_path_middle))
                .unwrap_or_default(),
            connectivity: known.as_ref().and_then(|known| known.connectivity),
            site: known.as_ref().and_then(|known| known.site.clone()),
            risk_groups: known
                .as_ref()
                .map(|known| Arc::clone(&known.risk_groups))
                .unwrap_or_default(),
            sources: SourceSet {
                who,
                way: way.source,
            },
            stale,
        })
    }

    /// Every prefix of the files and feeds, each one once; IPv4 before IPv6 of each source.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let file = self.file.iter().map(|(prefix, _)| prefix);
        let bmp = self.bmp.iter().map(|(prefix, _)| prefix);
        let mrt = self.mrt.iter().map(|(prefix, _)| prefix);
        let in_file = move |prefix: &IpNet| self.file.get(prefix).is_some();
        let in_bmp = move |prefix: &IpNet| self.bmp.get(prefix).is_some();
        file.chain(bmp.filter(move |prefix| !in_file(prefix)))
            .chain(mrt.filter(move |prefix| !in_file(prefix) && !in_bmp(prefix)))
    }

    /// Number of prefixes of the files and feeds, counted once a source.
    pub fn len(&self) -> usize {
        self.file.len() + self.bmp.len() + self.mrt.len()
    }

    /// Whether no source tells anything about anybody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn who(
        &self,
        file: Found<'_>,
        bmp: Found<'_>,
        mrt: Found<'_>,
    ) -> Option<(Source, IpNet, u32, Arc<str>)> {
        [(Source::File, file), (Source::Bmp, bmp), (Source::Mrt, mrt)]
            .into_iter()
            .find_map(|(source, found)| {
                let (prefix, path) = found?;
                // Whoever announces a default route is not the network of everybody.
                if prefix.prefix_len() == 0 && source != Source::File {
                    return None;
                }
                let origin_asn = path.origin_asn?;
                let isp = match &path.isp {
                    Some(isp) => Arc::clone(isp),
                    None => self.names.name(origin_asn),
                };
                Some((source, prefix, origin_asn, isp))
            })
    }

    fn way<'a>(
        &self,
        file: Option<&'a Path>,
        bgp: Option<(Source, &'a Path)>,
        kernel: Option<&KernelWay>,
    ) -> Option<Way<'a>> {
        let bgp_path = bgp.map(|(_, path)| path);
        let next_hop = file
            .and_then(|path| path.next_hop)
            .or(bgp_path.and_then(|path| path.next_hop));
        if let Some(name) = file.and_then(|path| path.interconnect.as_ref()) {
            return Some(Way {
                source: Source::File,
                interconnect: Named {
                    name: Arc::clone(name),
                    known: self.rules.named(name).cloned(),
                },
                bgp: bgp_path,
                interface: single_interface(kernel),
                next_hop: next_hop.or(single_next_hop(kernel)),
            });
        }
        let peer_asn = file
            .and_then(|path| path.peer_asn)
            .or(bgp_path.and_then(|path| path.peer_asn));
        let attributes = Attributes {
            interface: None,
            next_hop,
            gateway: None,
            peer_asn,
            peer_address: bgp_path.and_then(|path| path.peer_address),
            communities: bgp_path.map(|path| &path.communities),
            router: bgp_path.and_then(|path| path.router.as_deref()),
        };
        let Some(kernel) = kernel.filter(|way| !way.hops.is_empty()) else {
            let source = match bgp {
                Some((source, _)) => source,
                None => Source::File,
            };
            return Some(Way {
                source,
                interconnect: self.named(&attributes)?,
                bgp: bgp_path,
                interface: None,
                next_hop,
            });
        };
        let mut through: Vec<Named> = Vec::new();
        for (interface, gateway) in &kernel.hops {
            let named = self.named(&Attributes {
                interface: interface.as_deref(),
                gateway: *gateway,
                ..attributes
            })?;
            if through.iter().all(|other| other.name != named.name) {
                through.push(named);
            }
        }
        Some(Way {
            source: Source::Kernel,
            interconnect: together(through)?,
            bgp: bgp_path,
            interface: single_interface(Some(kernel)),
            next_hop: next_hop.or(single_next_hop(Some(kernel))),
        })
    }

    /// The name by the rules, else one made of what is known; `None`: nothing is.
    fn named(&self, attributes: &Attributes<'_>) -> Option<Named> {
        if let Some(known) = self.rules.find(attributes) {
            return Some(Named {
                name: Arc::clone(&known.name),
                known: Some(Arc::clone(known)),
            });
        }
        automatic_name(attributes).map(|name| Named {
            name: name.into(),
            known: None,
        })
    }

    fn is_stale(&self, who: Source, way: &Way<'_>, bgp: Option<Source>) -> bool {
        let used = [Some(who), Some(way.source), bgp];
        let silent = |source: &Source| used.contains(&Some(*source));
        self.stale_sources.iter().any(silent)
            || (!self.stale_routers.is_empty()
                && way
                    .bgp
                    .and_then(|path| path.router.as_ref())
                    .is_some_and(|router| self.stale_routers.contains(router)))
    }
}

/// A stable name for a way that no rule names: neighbour and BGP next hop, or interface and next
/// hop where only this host's own routes know.
fn automatic_name(attributes: &Attributes<'_>) -> Option<String> {
    let mut name = String::new();
    let next_hop = match (attributes.peer_asn, attributes.interface) {
        (Some(asn), _) => {
            let _ = write!(name, "AS{asn}");
            attributes.next_hop.or(attributes.gateway)
        }
        (None, Some(interface)) => {
            name.push_str(interface);
            attributes.gateway.or(attributes.next_hop)
        }
        (None, None) => attributes.next_hop.or(attributes.gateway),
    };
    if let Some(next_hop) = next_hop {
        let space = if name.is_empty() { "" } else { " " };
        let _ = write!(name, "{space}via {next_hop}");
    }
    (!name.is_empty()).then_some(name)
}

/// One interconnect stays itself; several that a flow's hash chooses from are one bundle, about
/// which is known what holds for all of them.
fn together(mut through: Vec<Named>) -> Option<Named> {
    if through.len() == 1 {
        return through.pop();
    }
    through.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<&str> = through.iter().map(|named| &*named.name).collect();
    let name: Arc<str> = names.join("+").into();
    let mut kinds = through
        .iter()
        .map(|named| named.known.as_ref().and_then(|known| known.connectivity));
    let first = kinds.next()?;
    let connectivity = if kinds.all(|kind| kind == first) {
        first
    } else {
        None
    };
    let mut risk_groups: Vec<Arc<str>> = through
        .iter()
        .filter_map(|named| named.known.as_ref())
        .flat_map(|known| known.risk_groups.iter().cloned())
        .collect();
    risk_groups.sort();
    risk_groups.dedup();
    let known = Interconnect {
        name: Arc::clone(&name),
        connectivity,
        site: None,
        capacity_mbit_s: None,
        risk_groups: risk_groups.into(),
        port: None,
    };
    Some(Named {
        name,
        known: Some(Arc::new(known)),
    })
}

fn single_interface(kernel: Option<&KernelWay>) -> Option<Arc<str>> {
    match kernel?.hops.as_slice() {
        [(interface, _)] => interface.clone(),
        _ => None,
    }
}

fn single_next_hop(kernel: Option<&KernelWay>) -> Option<IpAddr> {
    match kernel?.hops.as_slice() {
        [(_, next_hop)] => *next_hop,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Experiment, InterconnectRule};

    fn locate(routes: &Routes, client: &str) -> Option<(String, String)> {
        let location = routes.locate(client.parse().expect("an address"))?;
        Some((
            location.unit.to_string(),
            location.route.interconnect.to_string(),
        ))
    }

    #[test]
    fn the_longest_prefix_wins_and_units_never_exceed_it() {
        let routes = Routes::from_csv(
            "prefix,origin_asn,isp,interconnect\n\
             10.0.0.0/8,64500,isp-x,wide\n\
             10.1.2.0/24,64500,isp-x,exact\n\
             10.1.3.64/26,64500,isp-x,narrow\n\
             2001:db8::/32,64500,isp-x,six\n\
             2001:db8:1:8000::/49,64500,isp-x,six-narrow\n",
            "test".as_ref(),
        )
        .expect("right");
        let at = |client| locate(&routes, client);
        let is = |unit: &str, name: &str| Some((unit.to_owned(), name.to_owned()));
        assert_eq!(at("10.9.9.9"), is("10.9.9.0/24", "wide"));
        assert_eq!(at("10.1.2.3"), is("10.1.2.0/24", "exact"));
        assert_eq!(at("10.1.3.65"), is("10.1.3.64/26", "narrow"));
        assert_eq!(at("10.1.3.1"), is("10.1.3.0/24", "wide"));
        assert_eq!(at("2001:db8:7::1"), is("2001:db8:7::/48", "six"));
        assert_eq!(
            at("2001:db8:1:8001::1"),
            is("2001:db8:1:8000::/49", "six-narrow")
        );
        assert_eq!(at("192.0.2.1"), None);
        assert_eq!(routes.len(), 5);
    }

    fn sources(peer_asn: u32) -> PathSources {
        PathSources {
            interconnect: vec![InterconnectRule {
                name: "b".to_owned(),
                peer_asn: vec![peer_asn],
                ..InterconnectRule::default()
            }],
            experiment: Some(Experiment {
                share: 0.01,
                mark: 7,
                dscp: None,
                interconnect: "b".to_owned(),
                peer_asn: None,
            }),
            ..PathSources::default()
        }
    }

    /// A host whose table for marked packets may lead nowhere else than the main one.
    #[derive(Debug)]
    struct Kernel {
        marked: Option<IpAddr>,
    }

    impl KernelRoutes for Kernel {
        fn way(&self, _: IpAddr, _: Option<&SeenFlow>, mark: Option<u32>) -> Option<KernelWay> {
            let next_hop = match mark {
                Some(7) => self.marked?,
                _ => [192, 0, 2, 254].into(),
            };
            Some(KernelWay {
                prefix: "0.0.0.0/0".parse().expect("a prefix"),
                hops: vec![(None, Some(next_hop))],
            })
        }
    }

    #[test]
    fn what_this_hosts_routes_do_not_send_another_way_is_not_counted_there() {
        let csv = "prefix,origin_asn,isp,interconnect\n10.1.2.0/24,64500,isp-x,a\n";
        let mut routes = Routes::from_csv(csv, "test".as_ref()).expect("right");
        routes.experiment = OtherWay::new(&sources(64_999)).map(Arc::new);
        let mut way = |marked: Option<[u8; 4]>| {
            routes.kernel = Some(Arc::new(Kernel {
                marked: marked.map(Into::into),
            }));
            let flow = SeenFlow {
                server: [192, 0, 2, 1].into(),
                server_port: 443,
                client_port: 50_000,
                egress: None,
                mark: Some(7),
            };
            let location = routes.locate_flow([10, 1, 2, 3].into(), Some(&flow));
            location.map(|location| location.route.interconnect.to_string())
        };
        assert_eq!(way(Some([192, 0, 2, 253])).as_deref(), Some("b"));
        assert_eq!(way(Some([192, 0, 2, 254])).as_deref(), Some("a"));
        // No route leads to where it was seen to go.
        assert_eq!(way(None), None);
    }

    #[test]
    fn what_an_experiment_has_marked_is_sent_where_it_says() {
        let mut routes = Routes::from_csv(
            "prefix,origin_asn,isp,interconnect\n\
             10.1.2.0/24,64500,isp-x,a\n10.1.3.0/24,64500,isp-x,b\n",
            "test".as_ref(),
        )
        .expect("right");
        let way = |routes: &Routes, client: [u8; 4], mark| {
            let flow = SeenFlow {
                server: [192, 0, 2, 1].into(),
                server_port: 443,
                client_port: 50_000,
                egress: None,
                mark,
            };
            let location = routes.locate_flow(client.into(), Some(&flow));
            let route = location.expect("known").route;
            let interconnect = route.interconnect.to_string();
            (interconnect, route.peer_asn, route.is_direct())
        };
        let default = ("a".to_owned(), None, true);
        assert_eq!(way(&routes, [10, 1, 2, 3], Some(7)), default);
        routes.experiment = OtherWay::new(&sources(64_999)).map(Arc::new);
        for mark in [None, Some(0), Some(8)] {
            assert_eq!(way(&routes, [10, 1, 2, 3], mark), default);
        }
        let other = ("b".to_owned(), Some(64_999), false);
        assert_eq!(way(&routes, [10, 1, 2, 3], Some(7)), other);
        // It takes that way anyhow, and nothing else is said of it than of its neighbours.
        let same = ("b".to_owned(), None, true);
        assert_eq!(way(&routes, [10, 1, 3, 3], Some(7)), same);
    }
}
