//! Where the daemon learns the routes from, and prefixes that move while it watches.
//!
//! What is true of the network ([`Ways`]) and what the daemon is told are kept apart: with live
//! routes it is told nothing but what the kernel or the router says by itself.

use std::net::Ipv4Addr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use toml::{Spanned, Table, Value};

use crate::addresses::{EDGE_ASN, VIDEO_ADDRESS, exchange_gateway, gateway};
use crate::plan::Plan;

/// Where the station for BMP listens, on the video host.
pub const BMP_PORT: u16 = 11019;

/// Where the daemon learns through which interconnect a prefix is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A table in a file.
    #[default]
    Csv,
    /// A BMP session of our edge router, which has its routes by BGP from the ISPs.
    Bgp,
    /// The routes of the kernel that sends the video: a next hop for each interconnect.
    Kernel,
}

impl Source {
    /// As it is written in scenarios and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Bgp => "bgp",
            Self::Kernel => "kernel",
        }
    }
}

/// A prefix that is reached through another interconnect from then on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// Which prefix.
    pub prefix: Spanned<String>,
    /// The interconnect's name.
    pub to: Spanned<String>,
    /// Seconds after the start.
    pub at_s: Spanned<f64>,
}

/// A move as it was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// When the first word of it was said, in seconds after the start.
    pub began_s: f64,
    /// When the network had followed.
    pub done_s: f64,
    /// Which.
    pub moved: Move,
}

/// The way to one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// A /24, in CIDR notation.
    pub prefix: String,
    /// Its ISP (index into the scenario's list).
    pub isp: usize,
    /// The interconnect that leads to it (index into the scenario's list).
    pub interconnect: usize,
}

/// The ways to all prefixes at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways(pub Vec<Way>);

impl Ways {
    /// As they are in the beginning.
    #[must_use]
    pub fn at_first(plan: &Plan) -> Self {
        let ways = plan.prefixes().into_iter().map(|(prefix, home)| Way {
            prefix,
            isp: home.isp,
            interconnect: home.interconnect,
        });
        Self(ways.collect())
    }

    /// Lets a prefix take another way; returns it as it is now.
    ///
    /// # Panics
    /// If the scenario was not checked: both must be known.
    pub fn apply(&mut self, plan: &Plan, moved: &Move) -> Way {
        let known = "the scenario's check knows every name";
        let to = plan
            .interconnects
            .iter()
            .position(|name| name == moved.to.get_ref());
        let way = self
            .0
            .iter_mut()
            .find(|way| way.prefix == *moved.prefix.get_ref());
        let way = way.expect(known);
        way.interconnect = to.expect(known);
        way.clone()
    }

    /// The neighbour on whose exchange address a prefix is reached from our edge.
    #[must_use]
    pub fn next_hops(&self, plan: &Plan) -> Vec<(String, Ipv4Addr)> {
        let next_hop = |way: &Way| plan.next_hop(way.interconnect, way.isp);
        let hops = self.0.iter().map(|way| (way.prefix.clone(), next_hop(way)));
        hops.collect()
    }

    /// The daemon's prefix table: `prefix,origin_asn,isp,interconnect`. Another column says whose the
    /// neighbour is where not all are the ISPs themselves, and where the kernel tells the way, which
    /// does not know it; the interconnect's is empty there.
    #[must_use]
    pub fn csv(&self, plan: &Plan) -> String {
        let mut text = "prefix,origin_asn,isp,interconnect".to_owned();
        let by_kernel = plan.routes == Source::Kernel;
        let with_neighbours = by_kernel || plan.has_transits();
        if with_neighbours {
            text += ",peer_asn";
        }
        text.push('\n');
        for way in &self.0 {
            let (asn, isp) = (plan.asns[way.isp], &plan.isps[way.isp]);
            text += &format!("{},{asn},{isp},", way.prefix);
            if !by_kernel {
                text += &plan.interconnects[way.interconnect];
            }
            if with_neighbours {
                let neighbour = plan.transits[way.interconnect].unwrap_or(asn);
                text += &format!(",{neighbour}");
            }
            text.push('\n');
        }
        text
    }
}

/// The names of the ISPs as the daemon reads them: `asn,name`.
#[must_use]
pub fn isp_names_csv(plan: &Plan) -> String {
    let mut text = "asn,name\n".to_owned();
    for (asn, name) in plan.asns.iter().zip(&plan.isps) {
        text += &format!("{asn},{name}\n");
    }
    text
}

/// The daemon's `[path]`: its sources, and by what it tells the interconnects apart. Files are
/// those named here, beside the configuration.
#[must_use]
pub fn configuration(plan: &Plan) -> Table {
    let text = |text: &str| Value::from(text);
    let mut path = Table::new();
    match plan.routes {
        Source::Csv => {
            path.insert("prefixes_csv".to_owned(), text(PREFIXES_FILE));
            if !plan.has_transits() {
                return path;
            }
        }
        Source::Bgp => {
            let bmp = Table::from_iter([
                (
                    "listen".to_owned(),
                    text(&format!("{VIDEO_ADDRESS}:{BMP_PORT}")),
                ),
                (
                    "allow".to_owned(),
                    Value::from(vec![format!("{}/32", gateway(VIDEO_ADDRESS))]),
                ),
            ]);
            path.insert("isp_names".to_owned(), text(ISP_NAMES_FILE));
            path.insert("bmp".to_owned(), bmp.into());
        }
        Source::Kernel => {
            path.insert("prefixes_csv".to_owned(), text(PREFIXES_FILE));
            path.insert("kernel_routes".to_owned(), Value::from(true));
        }
    }
    let rules = plan.interconnects.iter().enumerate().map(|(index, name)| {
        let next_hops: Vec<String> = match plan.routes {
            // The file names them.
            Source::Csv => Vec::new(),
            Source::Kernel => vec![exchange_gateway(index).to_string()],
            Source::Bgp => (0..plan.isps.len())
                .map(|isp| plan.next_hop(index, isp).to_string())
                .collect(),
        };
        let connectivity = match plan.transits[index] {
            Some(_) => "transit",
            None => "ix",
        };
        Table::from_iter([
            ("name".to_owned(), text(name)),
            ("next_hop".to_owned(), Value::from(next_hops)),
            ("connectivity".to_owned(), text(connectivity)),
        ])
    });
    let rules: Vec<Value> = rules.map(Value::from).collect();
    path.insert("interconnect".to_owned(), rules.into());
    path
}

/// The prefix table's file, beside the configuration.
pub const PREFIXES_FILE: &str = "prefixes.csv";
/// The file with the ISPs' names, beside the configuration.
pub const ISP_NAMES_FILE: &str = "isps.csv";

/// What keeps a scenario's own numbers from ours, in words; `None`: nothing.
#[must_use]
pub fn conflict(plan: &Plan) -> Option<String> {
    if plan.routes == Source::Bgp && plan.has_transits() {
        return Some(
            "the lab's transits speak no BGP: take routes = \"csv\" or \"kernel\"".to_owned(),
        );
    }
    let ours = plan.asns.iter().position(|asn| *asn == EDGE_ASN)?;
    (plan.routes == Source::Bgp).then(|| {
        format!(
            "{} has asn {EDGE_ASN}, which is our own where routes come by BGP",
            plan.isps[ours]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn plan(routes: Source) -> Plan {
        let mut scenario = Scenario::load("healthy").unwrap();
        scenario.routes = routes;
        Plan::new(&scenario).unwrap()
    }

    #[test]
    fn the_prefix_table_has_one_row_a_prefix() {
        let plan = plan(Source::Csv);
        let csv = Ways::at_first(&plan).csv(&plan);
        let rows: Vec<&str> = csv.lines().collect();
        assert_eq!(rows.len(), 1 + 16);
        assert_eq!(rows[1], "198.18.0.0/24,64501,Northnet,ix-east");
        assert_eq!(rows[16], "198.18.15.0/24,64502,Southnet,ix-west");
    }

    #[test]
    fn with_live_routes_no_file_tells_the_way() {
        let kernel = plan(Source::Kernel);
        let csv = Ways::at_first(&kernel).csv(&kernel);
        assert!(csv.lines().skip(1).all(|row| row.contains(",,")), "{csv}");
        assert!(
            csv.contains("\n198.18.0.0/24,64501,Northnet,,64501\n"),
            "{csv}"
        );
        let bgp = configuration(&plan(Source::Bgp));
        assert!(!bgp.contains_key("prefixes_csv"), "{bgp}");
    }

    #[test]
    fn a_move_changes_one_way() {
        let plan = plan(Source::Bgp);
        let before = Ways::at_first(&plan);
        let mut after = before.clone();
        let moved: Move =
            toml::from_str("prefix = \"198.18.1.0/24\"\nto = \"ix-west\"\nat_s = 1.0").unwrap();
        let way = after.apply(&plan, &moved);
        assert_eq!((way.isp, way.interconnect), (0, 1));
        let changed = before.0.iter().zip(&after.0).filter(|(a, b)| a != b);
        assert_eq!(changed.count(), 1);
        assert!(
            after
                .next_hops(&plan)
                .contains(&("198.18.1.0/24".to_owned(), plan.next_hop(1, 0)))
        );
    }
}
