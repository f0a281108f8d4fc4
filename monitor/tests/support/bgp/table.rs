//! A table in a form that does not depend on who told it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use lastmile::path::{Path, SourceTable};

/// What is known about a prefix; not the router that told, nor what was compared to choose it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    pub origin_asn: Option<u32>,
    pub as_path_middle: Vec<u32>,
    pub peer_asn: Option<u32>,
    pub peer_address: Option<IpAddr>,
    pub next_hop: Option<IpAddr>,
    pub communities: Vec<String>,
}

impl From<&Path> for Known {
    fn from(path: &Path) -> Self {
        let mut communities: Vec<String> =
            path.communities.iter().map(|one| one.to_string()).collect();
        communities.sort();
        Self {
            origin_asn: path.origin_asn,
            as_path_middle: path.as_path_middle.to_vec(),
            peer_asn: path.peer_asn,
            peer_address: path.peer_address,
            next_hop: path.next_hop,
            communities,
        }
    }
}

pub type Table = BTreeMap<IpNet, Known>;

pub fn table(source: &SourceTable) -> Table {
    source
        .iter()
        .map(|(prefix, path)| (prefix, path.as_ref().into()))
        .collect()
}

/// The table without the neighbours' addresses, which a Loc-RIB does not tell.
pub fn without_peer_addresses(mut table: Table) -> Table {
    for known in table.values_mut() {
        known.peer_address = None;
    }
    table
}

pub fn known(table: &Table, prefix: &str) -> Option<Known> {
    let prefix: IpNet = prefix.parse().expect("a prefix");
    table.get(&prefix).cloned()
}
