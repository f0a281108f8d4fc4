//! Longest-prefix match over what one source announces.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::Path;

/// Every prefix one source knows, both IP versions. Prefixes with the same attributes share one
/// [`Path`].
#[derive(Clone, Debug, Default)]
pub struct SourceTable {
    v4: PrefixMap<Ipv4Net, Arc<Path>>,
    v6: PrefixMap<Ipv6Net, Arc<Path>>,
}

impl SourceTable {
    /// Sets what is known about a prefix, and returns what was known before.
    pub fn insert(&mut self, prefix: IpNet, path: Arc<Path>) -> Option<Arc<Path>> {
        match prefix {
            IpNet::V4(prefix) => self.v4.insert(prefix, path),
            IpNet::V6(prefix) => self.v6.insert(prefix, path),
        }
    }

    /// Forgets a prefix.
    pub fn remove(&mut self, prefix: &IpNet) -> Option<Arc<Path>> {
        match prefix {
            IpNet::V4(prefix) => self.v4.remove(prefix),
            IpNet::V6(prefix) => self.v6.remove(prefix),
        }
    }

    /// What is known about exactly this prefix.
    pub fn get(&self, prefix: &IpNet) -> Option<&Arc<Path>> {
        match prefix {
            IpNet::V4(prefix) => self.v4.get(prefix),
            IpNet::V6(prefix) => self.v6.get(prefix),
        }
    }

    /// The longest prefix around `client`.
    pub fn lookup(&self, client: IpAddr) -> Option<(IpNet, &Arc<Path>)> {
        self.covering(&client.into())
    }

    /// The longest prefix that holds all of `net`.
    pub fn covering(&self, net: &IpNet) -> Option<(IpNet, &Arc<Path>)> {
        match net {
            IpNet::V4(net) => {
                let (prefix, path) = self.v4.get_lpm(net)?;
                Some((prefix.into(), path))
            }
            IpNet::V6(net) => {
                let (prefix, path) = self.v6.get_lpm(net)?;
                Some((prefix.into(), path))
            }
        }
    }

    /// Every prefix, IPv4 first, in order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &Arc<Path>)> {
        let v4 = self.v4.iter().map(|(prefix, path)| (prefix.into(), path));
        let v6 = self.v6.iter().map(|(prefix, path)| (prefix.into(), path));
        v4.chain(v6)
    }

    /// Number of IPv4 and of IPv6 prefixes.
    pub fn lengths(&self) -> (usize, usize) {
        (self.v4.len(), self.v6.len())
    }

    /// Number of prefixes.
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

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    fn what_was_inserted_is_found_replaced_and_removed() {
        let mut table = SourceTable::default();
        let through = |peer| {
            Arc::new(Path {
                peer_asn: Some(peer),
                ..Path::default()
            })
        };
        assert_eq!(table.insert(net("10.0.0.0/8"), through(1)), None);
        assert_eq!(table.insert(net("2001:db8::/32"), through(2)), None);
        assert_eq!(
            table.insert(net("10.0.0.0/8"), through(3)),
            Some(through(1))
        );
        assert_eq!(table.lengths(), (1, 1));
        let found = table.lookup("10.1.2.3".parse().expect("an address"));
        assert_eq!(found, Some((net("10.0.0.0/8"), &through(3))));
        assert_eq!(table.remove(&net("10.0.0.0/8")), Some(through(3)));
        assert_eq!(table.lookup("10.1.2.3".parse().expect("an address")), None);
        assert_eq!(table.iter().count(), 1);
    }

    proptest! {
        #[test]
        fn a_lookup_is_what_a_linear_search_finds(
            steps in prop::collection::vec((any::<u128>(), 0u8..=128, any::<bool>(), 0u32..5), 1..120),
            clients in prop::collection::vec((any::<u128>(), any::<bool>()), 1..20),
        ) {
            // Few leading bits, so that prefixes nest and lookups hit.
            let address = |bits: u128, is_v4: bool| -> IpAddr {
                if is_v4 {
                    std::net::Ipv4Addr::from((bits as u32) & 0xe0ff_0fff).into()
                } else {
                    std::net::Ipv6Addr::from(bits & 0xe000_00ff_0000_000f_0000_0000_0000_00ff).into()
                }
            };
            let mut table = SourceTable::default();
            let mut model: Vec<(IpNet, u32)> = Vec::new();
            for (bits, length, is_v4, peer) in steps {
                let length = if is_v4 { length % 33 } else { length };
                let prefix = IpNet::new(address(bits, is_v4), length).expect("in range").trunc();
                model.retain(|(known, _)| *known != prefix);
                // One in five removes.
                if peer == 0 {
                    table.remove(&prefix);
                } else {
                    model.push((prefix, peer));
                    let path = Path { peer_asn: Some(peer), ..Path::default() };
                    table.insert(prefix, Arc::new(path));
                }
            }
            prop_assert_eq!(table.len(), model.len());
            for (bits, is_v4) in clients {
                let client = address(bits, is_v4);
                let expected = model
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&client))
                    .max_by_key(|(prefix, _)| prefix.prefix_len());
                let found = table.lookup(client).map(|(prefix, path)| (prefix, path.peer_asn));
                prop_assert_eq!(found, expected.map(|(prefix, peer)| (*prefix, Some(*peer))));
            }
        }
    }
}
