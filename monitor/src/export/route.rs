//! Route changes as records: one a prefix, and summaries when very many come at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::Timestamp;
use super::record::{Record, RouteRecord, RouteType, Version, WayPart, WayRecord};
use crate::path::Route;

/// Records of single prefixes in one window. A flap of a whole neighbour has as many as prefixes
/// are served behind it; beyond these, summaries say what happened as well.
pub const MAX_ROUTE_RECORDS: usize = 1_000;
/// Summaries in one window: pairs of interconnects. What is beyond goes into one that shares
/// nothing.
const MAX_SUMMARIES: usize = 100;

/// A followed prefix with open flows that took another way.
#[derive(Clone, Debug)]
pub struct Moved {
    pub prefix: IpNet,
    pub flows: u64,
    pub before: Option<Arc<Route>>,
    pub after: Option<Arc<Route>>,
}

/// The interconnects before and after; `None`: no route was known.
type Interconnects = (Option<Arc<str>>, Option<Arc<str>>);

/// The changes of one window, so far.
#[derive(Debug, Default)]
pub struct RouteLog {
    written: usize,
    summaries: BTreeMap<Interconnects, Summary>,
    rest: Summary,
}

#[derive(Debug, Default)]
struct Summary {
    prefixes: u64,
    flows: u64,
    before: Shared,
    after: Shared,
}

/// What all the ways of a summary have in common.
#[derive(Debug, Default)]
enum Shared {
    #[default]
    Unset,
    Way(Box<WayRecord>),
    Nothing,
}

impl RouteLog {
    /// One change; `None` where it went into a summary.
    pub fn record(&mut self, moved: &Moved, time_us: u64, host: &str) -> Option<Record> {
        if self.written < MAX_ROUTE_RECORDS {
            self.written += 1;
            let way = |route: &Option<Arc<Route>>| route.as_deref().map(WayRecord::from);
            return Some(record(
                time_us,
                host,
                Some(moved.prefix),
                (1, moved.flows),
                (way(&moved.before), way(&moved.after)),
            ));
        }
        let name = |route: &Option<Arc<Route>>| {
            route.as_ref().map(|route| Arc::clone(&route.interconnect))
        };
        let pair = (name(&moved.before), name(&moved.after));
        let is_full = self.summaries.len() >= MAX_SUMMARIES;
        if is_full && !self.summaries.contains_key(&pair) {
            self.rest.add(moved);
        } else {
            self.summaries.entry(pair).or_default().add(moved);
        }
        None
    }

    /// The window ends: its summaries.
    pub fn end_of_window(&mut self, time_us: u64, host: &str) -> Vec<Record> {
        let window = std::mem::take(self);
        let rest = (window.rest.prefixes > 0).then_some(window.rest);
        window
            .summaries
            .into_values()
            .chain(rest)
            .map(|summary| {
                record(
                    time_us,
                    host,
                    None,
                    (summary.prefixes, summary.flows),
                    (summary.before.into(), summary.after.into()),
                )
            })
            .collect()
    }
}

impl Summary {
    fn add(&mut self, moved: &Moved) {
        self.prefixes += 1;
        self.flows += moved.flows;
        self.before.add(moved.before.as_deref());
        self.after.add(moved.after.as_deref());
    }
}

impl Shared {
    fn add(&mut self, route: Option<&Route>) {
        let Some(route) = route else {
            *self = Self::Nothing;
            return;
        };
        let other = WayRecord {
            announced: None,
            ..route.into()
        };
        match self {
            Self::Unset => *self = Self::Way(Box::new(other)),
            Self::Way(way) if is_alike(way, &other) => keep_shared(way, &other),
            Self::Way(_) => *self = Self::Nothing,
            Self::Nothing => {}
        }
    }
}

/// A summary is of one interconnect and one ISP, known from the same sources, or of nothing.
fn is_alike(way: &WayRecord, other: &WayRecord) -> bool {
    let who = |way: &WayRecord| (way.origin_asn, way.source_of_origin, way.source_of_way);
    way.interconnect == other.interconnect && way.isp == other.isp && who(way) == who(other)
}

/// Unsets what differs.
fn keep_shared(way: &mut WayRecord, other: &WayRecord) {
    fn keep<T: PartialEq>(ours: &mut Option<T>, theirs: &Option<T>) {
        if ours != theirs {
            *ours = None;
        }
    }
    keep(&mut way.peer_asn, &other.peer_asn);
    keep(&mut way.peer_address, &other.peer_address);
    keep(&mut way.next_hop, &other.next_hop);
    keep(&mut way.router, &other.router);
    keep(&mut way.interface, &other.interface);
    keep(&mut way.connectivity, &other.connectivity);
    keep(&mut way.site, &other.site);
    if way.as_path_middle != other.as_path_middle {
        way.as_path_middle.clear();
    }
    way.stale |= other.stale;
}

impl From<Shared> for Option<WayRecord> {
    fn from(shared: Shared) -> Self {
        match shared {
            Shared::Way(way) => Some(*way),
            Shared::Unset | Shared::Nothing => None,
        }
    }
}

fn record(
    time_us: u64,
    host: &str,
    prefix: Option<IpNet>,
    (prefixes, flows): (u64, u64),
    (before, after): (Option<WayRecord>, Option<WayRecord>),
) -> Record {
    let changed = match (&before, &after) {
        (Some(before), Some(after)) => differences(before, after),
        _ => Vec::new(),
    };
    Record::Route(Box::new(RouteRecord {
        schema: Version::One,
        r#type: RouteType::Name,
        time: Timestamp(time_us),
        host: host.to_owned(),
        prefix,
        prefixes,
        flows,
        before,
        after,
        changed,
    }))
}

fn differences(before: &WayRecord, after: &WayRecord) -> Vec<WayPart> {
    [
        (
            WayPart::Interconnect,
            before.interconnect != after.interconnect,
        ),
        (WayPart::OriginAsn, before.origin_asn != after.origin_asn),
        (WayPart::Isp, before.isp != after.isp),
        (WayPart::PeerAsn, before.peer_asn != after.peer_asn),
        (WayPart::NextHop, before.next_hop != after.next_hop),
        (
            WayPart::AsPathMiddle,
            before.as_path_middle != after.as_path_middle,
        ),
        (WayPart::Interface, before.interface != after.interface),
    ]
    .into_iter()
    .filter_map(|(part, differs)| differs.then_some(part))
    .collect()
}

impl From<&Route> for WayRecord {
    fn from(route: &Route) -> Self {
        let text = |name: &Option<Arc<str>>| name.as_deref().map(str::to_owned);
        Self {
            interconnect: route.interconnect.to_string(),
            isp: route.isp.to_string(),
            origin_asn: route.origin_asn,
            announced: Some(route.prefix),
            peer_asn: route.peer_asn,
            peer_address: route.peer_address,
            next_hop: route.next_hop,
            as_path_middle: route.as_path_middle.to_vec(),
            router: text(&route.router),
            interface: text(&route.interface),
            connectivity: route.connectivity,
            site: text(&route.site),
            source_of_origin: route.sources.who,
            source_of_way: route.sources.way,
            stale: route.stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::followed::tests::route;

    fn moved(number: u32, before: &str, after: &str) -> Moved {
        let prefix = IpNet::new(std::net::IpAddr::V4((number << 8).into()), 24).expect("24");
        let way = |name: &str| Some(Arc::new(route(&prefix.to_string(), name)));
        Moved {
            prefix,
            flows: 2,
            before: way(before),
            after: way(after),
        }
    }

    fn of(record: &Record) -> &RouteRecord {
        match record {
            Record::Route(route) => route,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_prefix_is_one_record_that_says_what_differs() {
        let mut log = RouteLog::default();
        let record = log
            .record(&moved(1, "ic-a", "ic-b"), 7, "host")
            .expect("written");
        let record = of(&record);
        assert_eq!(
            record.prefix.map(|net| net.to_string()).as_deref(),
            Some("0.0.1.0/24")
        );
        assert_eq!((record.prefixes, record.flows), (1, 2));
        assert_eq!(record.changed, [WayPart::Interconnect]);
        assert_eq!(log.end_of_window(9, "host"), []);
    }

    #[test]
    fn very_many_are_summed_up_by_interconnects_and_nothing_is_lost() {
        let mut log = RouteLog::default();
        let mut prefixes = 0;
        for number in 0..5_000 {
            // More pairs of interconnects than there are summaries.
            let after = format!("ic-{}", number % 150);
            if let Some(record) = log.record(&moved(number, "ic-a", &after), 7, "host") {
                prefixes += of(&record).prefixes;
            }
        }
        assert_eq!(prefixes, MAX_ROUTE_RECORDS as u64);
        let summaries = log.end_of_window(9, "host");
        assert_eq!(summaries.len(), MAX_SUMMARIES + 1);
        prefixes += summaries
            .iter()
            .map(|record| of(record).prefixes)
            .sum::<u64>();
        assert_eq!(prefixes, 5_000);
        let first = of(&summaries[0]);
        assert_eq!(first.prefix, None);
        let before = first.before.as_ref().expect("shared");
        assert_eq!(
            (before.interconnect.as_str(), before.announced),
            ("ic-a", None)
        );
        assert_eq!(of(&summaries[MAX_SUMMARIES]).after, None, "shares nothing");
        assert_eq!(log.end_of_window(10, "host"), []);
    }
}
