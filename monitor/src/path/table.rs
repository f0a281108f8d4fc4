//! Longest-prefix match over the announced prefixes.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::{Location, Route, unit};

/// Every announced prefix that is known, both IP versions.
#[derive(Clone, Debug, Default)]
pub struct PrefixTable {
    v4: PrefixMap<Ipv4Net, Arc<Route>>,
    v6: PrefixMap<Ipv6Net, Arc<Route>>,
}

/// The same prefix was inserted twice with different routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate(pub Arc<Route>);

impl PrefixTable {
    /// Adds a route. A prefix that is there already must have the same route.
    pub fn insert(&mut self, route: Route) -> Result<(), Duplicate> {
        let route = Arc::new(route);
        let earlier = match route.prefix {
            IpNet::V4(prefix) => self.v4.insert(prefix, Arc::clone(&route)),
            IpNet::V6(prefix) => self.v6.insert(prefix, Arc::clone(&route)),
        };
        match earlier {
            Some(earlier) if earlier != route => Err(Duplicate(earlier)),
            _ => Ok(()),
        }
    }

    /// The longest announced prefix around `client`, and the unit it is counted in.
    pub fn locate(&self, client: IpAddr) -> Option<Location> {
        let route = match client {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into())?.1,
            IpAddr::V6(address) => self.v6.get_lpm(&address.into())?.1,
        };
        let unit = unit(client);
        Some(Location {
            // More specific than a /24 or /48: its neighbours may take another way.
            unit: if route.prefix.prefix_len() > unit.prefix_len() {
                route.prefix
            } else {
                unit
            },
            route: Arc::clone(route),
        })
    }

    /// Every route, IPv4 first, by prefix.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.v4.values().chain(self.v6.values())
    }

    /// Number of announced prefixes.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn route(prefix: &str, interconnect: &str) -> Route {
        Route {
            prefix: prefix.parse().expect("a prefix"),
            origin_asn: 64500,
            isp: "isp-x".into(),
            interconnect: interconnect.into(),
            peer_asn: None,
            next_hop: None,
        }
    }

    fn locate(table: &PrefixTable, client: &str) -> Option<(String, String)> {
        let location = table.locate(client.parse().expect("an address"))?;
        Some((
            location.unit.to_string(),
            location.route.interconnect.to_string(),
        ))
    }

    #[test]
    fn the_longest_prefix_wins_and_units_never_exceed_it() {
        let mut table = PrefixTable::default();
        for (prefix, interconnect) in [
            ("10.0.0.0/8", "wide"),
            ("10.1.2.0/24", "exact"),
            ("10.1.3.64/26", "narrow"),
            ("2001:db8::/32", "six"),
            ("2001:db8:1:8000::/49", "six-narrow"),
        ] {
            table.insert(route(prefix, interconnect)).expect("new");
        }
        let at = |client| locate(&table, client);
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
        assert_eq!(table.len(), 5);
    }

    #[test]
    fn the_same_prefix_twice_must_mean_the_same() {
        let mut table = PrefixTable::default();
        table.insert(route("10.0.0.0/24", "a")).expect("new");
        table
            .insert(route("10.0.0.0/24", "a"))
            .expect("the same again");
        let Err(Duplicate(earlier)) = table.insert(route("10.0.0.0/24", "b")) else {
            panic!("two ways for one prefix were accepted");
        };
        assert_eq!(&*earlier.interconnect, "a");
    }

    proptest! {
        #[test]
        fn a_lookup_is_what_a_linear_search_finds(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32), 1..60),
            client in any::<u32>(),
        ) {
            let mut table = PrefixTable::default();
            let mut prefixes = Vec::new();
            for (bits, length) in nets {
                // Few leading bits, so that prefixes nest and lookups hit.
                let net = Ipv4Net::new((bits & 0xf0ff_ffff).into(), length)
                    .expect("at most 32")
                    .trunc();
                if table.insert(route(&net.to_string(), "x")).is_ok() {
                    prefixes.push(net);
                }
            }
            let client = std::net::Ipv4Addr::from(client & 0xf0ff_ffff);
            let expected = prefixes
                .iter()
                .filter(|net| net.contains(&client))
                .max_by_key(|net| net.prefix_len());
            let found = table.locate(client.into());
            prop_assert_eq!(
                found.as_ref().map(|location| location.route.prefix),
                expected.map(|net| IpNet::V4(*net))
            );
            if let Some(location) = found {
                prop_assert!(location.unit.contains(&IpAddr::V4(client)));
                prop_assert!(location.unit.prefix_len() >= location.route.prefix.prefix_len());
            }
        }
    }
}
