//! IPv4 addresses inside IPv6 ones: the same device over both protocols.
//!
//! Nothing else in a packet says that an IPv4 and an IPv6 client are one. Of two addresses of one
//! access line of a network with native IPv6 only its operator knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// An ISP's 6rd domain (RFC 5969, 4): after `ipv6` come the bits of a customer's IPv4 address that
/// are not the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SixRd {
    pub ipv6: Ipv6Net,
    /// What all customers' addresses begin with.
    pub ipv4: Ipv4Net,
}

impl SixRd {
    /// Whether both prefixes are written without host bits and leave room for a /64 of a customer's.
    pub fn is_possible(&self) -> bool {
        let own_bits = 32 - self.ipv4.prefix_len();
        self.ipv6.trunc() == self.ipv6
            && self.ipv4.trunc() == self.ipv4
            && self.ipv6.prefix_len() + own_bits <= 64
    }

    fn ipv4_of(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.ipv6.contains(&address) {
            return None;
        }
        let after = u128::from(address) << self.ipv6.prefix_len();
        // The topmost 32 bits of what follows, less those that all have in common.
        let own = ((after >> 96) as u32)
            .checked_shr(self.ipv4.prefix_len().into())
            .unwrap_or(0);
        Some(Ipv4Addr::from(u32::from(self.ipv4.network()) | own))
    }
}

/// 6to4 (RFC 3056): `2002:V4ADDR::/48`.
const SIX_TO_FOUR: SixRd = SixRd {
    ipv6: Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    ipv4: Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0),
};

/// Teredo (RFC 4380, 4): the last 32 bits are the inverted address of the client's NAT.
const TEREDO: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32);

/// The address under which a client's flows of both protocols are joined: its IPv4 address where
/// that is in its IPv6 address, else its own.
pub fn joined(client: IpAddr, six_rd: &[SixRd]) -> IpAddr {
    let IpAddr::V6(v6) = client else {
        return client;
    };
    if TEREDO.contains(&v6) {
        return Ipv4Addr::from(!(u128::from(v6) as u32)).into();
    }
    let domains = six_rd.iter().chain([&SIX_TO_FOUR]);
    domains
        .filter_map(|domain| domain.ipv4_of(v6))
        .next()
        .map_or(client, IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(ipv6: &str, ipv4: &str) -> SixRd {
        SixRd {
            ipv6: ipv6.parse().expect("a prefix"),
            ipv4: ipv4.parse().expect("a prefix"),
        }
    }

    fn joins(client: &str, six_rd: &[SixRd]) -> String {
        joined(client.parse().expect("an address"), six_rd).to_string()
    }

    #[test]
    fn the_examples_of_the_rfcs() {
        // RFC 3056, 2: 2002:V4ADDR::/48.
        assert_eq!(joins("2002:c000:0204:1::7", &[]), "192.0.2.4");
        // RFC 4380, 4: flags 8000, port 40000 (63bf), 192.0.2.45 (3fff:fdd2), both inverted.
        assert_eq!(
            joins("2001:0:4136:e378:8000:63bf:3fff:fdd2", &[]),
            "192.0.2.45"
        );
        // RFC 5969, 4: all of the address, and 24 bits of it, where customers are in 10/8.
        let whole = domain("2001:db8::/32", "0.0.0.0/0");
        assert_eq!(joins("2001:db8:c633:6407::1", &[whole]), "198.51.100.7");
        let part = domain("2001:db8::/32", "10.0.0.0/8");
        assert_eq!(joins("2001:db8:6464:100::1", &[part]), "10.100.100.1");
        let one = domain("2001:db8:1::/64", "192.0.2.1/32");
        assert_eq!(joins("2001:db8:1::9", &[one]), "192.0.2.1");
    }

    #[test]
    fn what_has_none_inside_stays_itself() {
        let domains = [domain("2001:db8::/32", "0.0.0.0/0")];
        for client in ["2001:db9::1", "::1", "192.0.2.1", "2001:1::1"] {
            assert_eq!(joins(client, &domains), client);
        }
    }

    #[test]
    fn a_domain_leaves_room_for_a_customers_network() {
        assert!(domain("2001:db8::/32", "0.0.0.0/0").is_possible());
        assert!(!domain("2001:db8::/33", "0.0.0.0/0").is_possible());
        assert!(domain("2001:db8::/40", "10.0.0.0/8").is_possible());
        assert!(!domain("2001:db8::1/32", "10.0.0.0/8").is_possible());
        assert!(!domain("2001:db8::/32", "10.0.0.1/8").is_possible());
    }
}
