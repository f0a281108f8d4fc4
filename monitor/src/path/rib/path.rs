//! From an announcement's attributes to what it says about the way to a prefix.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::attributes::AS_TRANS;
use super::super::{Communities, Path, Told};

/// Whose announcement it is.
#[derive(Clone, Debug)]
pub struct Teller {
    /// The router that passed it on.
    pub router: Option<Arc<str>>,
    /// The router's own AS, where it is known.
    pub local_asn: Option<u32>,
    /// The AS at the other end of the BGP session; the router's own for its Loc-RIB.
    pub peer_asn: u32,
    /// The other end of the BGP session; `None`: the router's own table.
    pub peer_address: Option<IpAddr>,
}

/// ASes of a path that are kept. Paths on the Internet have about four and rarely twenty without
/// prepending; one that is longer has no middle that attribution could use.
const MAX_MIDDLE: usize = 64;

impl Teller {
    /// What `told` says. The neighbour is the first AS of the path that is not the router's own:
    /// some routers put that in front (FRR's BMP), route servers leave theirs out (RFC 7947), and
    /// over iBGP the neighbour is another router's.
    pub fn path(&self, told: &Told, next_hop: Option<IpAddr>) -> Path {
        let local_asn = self
            .local_asn
            .or(self.peer_address.is_none().then_some(self.peer_asn));
        let mut sequence = told.as_path.sequence.as_slice();
        while let Some((first, rest)) = sequence.split_first()
            && Some(*first) == local_asn
        {
            sequence = rest;
        }
        // The same where the router's own AS is not known: the peer comes second.
        if local_asn.is_none()
            && let [first, second, ..] = sequence
            && *first != self.peer_asn
            && *second == self.peer_asn
        {
            sequence = &sequence[1..];
        }
        let is_ours = sequence.is_empty() && told.as_path.last_set.is_empty();
        let origin = match told.as_path.last_set.as_slice() {
            // An empty path begins at the router that told, or in its network.
            [] if is_ours => local_asn.or(Some(self.peer_asn)),
            [] => sequence.last().copied(),
            [only] => Some(*only),
            _ => None,
        };
        let neighbour = sequence.first().copied();
        let mut middle: Vec<u32> = Vec::new();
        for &asn in sequence {
            if Some(asn) != neighbour && middle.last() != Some(&asn) && middle.len() < MAX_MIDDLE {
                middle.push(asn);
            }
        }
        if middle.last().copied() == origin {
            middle.pop();
        }
        let mut preference = told.preference;
        let own = told.as_path.sequence.len() - sequence.len();
        preference.as_path_hops -= u16::try_from(own)
            .unwrap_or(u16::MAX)
            .min(preference.as_path_hops);
        Path {
            origin_asn: origin.filter(is_public),
            as_path_middle: if middle.is_empty() {
                Arc::default()
            } else {
                middle.into()
            },
            peer_asn: neighbour.filter(is_public),
            peer_address: self.peer_address,
            // A router's own routes come with 0.0.0.0.
            next_hop: next_hop.filter(|hop| !hop.is_unspecified()),
            router: self.router.clone(),
            communities: Communities::new(&told.communities),
            preference,
            ..Path::default()
        }
    }
}

/// Whether a number stands for one AS: neither reserved (RFC 7607) nor a placeholder (RFC 6793).
fn is_public(asn: &u32) -> bool {
    *asn != 0 && *asn != AS_TRANS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::attributes::AsPath;

    fn path(teller: &Teller, sequence: &[u32]) -> Path {
        let as_path = AsPath {
            sequence: sequence.to_vec(),
            ..AsPath::default()
        };
        let mut told = Told {
            as_path,
            ..Told::default()
        };
        told.preference.as_path_hops = told.as_path.hops();
        teller.path(&told, None)
    }

    fn peer(local_asn: Option<u32>, peer_asn: u32) -> Teller {
        Teller {
            router: None,
            local_asn,
            peer_asn,
            peer_address: Some("192.0.2.1".parse().expect("right")),
        }
    }

    /// Neighbour, middle, origin, hops.
    fn said(path: &Path) -> (Option<u32>, Vec<u32>, Option<u32>, u16) {
        let hops = path.preference.as_path_hops;
        (
            path.peer_asn,
            path.as_path_middle.to_vec(),
            path.origin_asn,
            hops,
        )
    }

    #[test]
    fn prepending_is_counted_and_not_kept() {
        let path = path(
            &peer(Some(64_500), 64_999),
            &[64_999, 64_999, 1, 1, 2, 64_501, 64_501],
        );
        assert_eq!(said(&path), (Some(64_999), vec![1, 2], Some(64_501), 7));
    }

    #[test]
    fn a_routers_own_as_in_front_is_no_neighbour() {
        for local in [Some(64_500), None] {
            let path = path(&peer(local, 64_999), &[64_500, 64_999, 64_501]);
            assert_eq!(said(&path), (Some(64_999), vec![], Some(64_501), 2));
        }
    }

    #[test]
    fn behind_a_route_server_the_neighbour_is_the_member() {
        let path = path(&peer(Some(64_500), 64_700), &[64_501]);
        assert_eq!(said(&path), (Some(64_501), vec![], Some(64_501), 1));
    }

    #[test]
    fn a_loc_ribs_neighbour_is_the_first_of_the_path() {
        let own = Teller {
            peer_address: None,
            ..peer(None, 64_500)
        };
        let from_outside = path(&own, &[64_500, 64_999, 64_501]);
        assert_eq!(said(&from_outside), (Some(64_999), vec![], Some(64_501), 2));
        let ours = path(&own, &[]);
        assert_eq!(said(&ours), (None, vec![], Some(64_500), 0));
    }

    #[test]
    fn who_of_a_set_is_the_origin_is_not_known() {
        let mut told = Told::default();
        told.as_path.sequence = vec![64_999, 7];
        told.as_path.last_set = vec![1, 2];
        let path = peer(None, 64_999).path(&told, None);
        assert_eq!(
            (path.origin_asn, path.as_path_middle.to_vec()),
            (None, vec![7])
        );
    }

    #[test]
    fn reserved_numbers_are_nobody() {
        assert_eq!(said(&path(&peer(None, 0), &[])), (None, vec![], None, 0));
        let hidden = path(&peer(Some(64_500), 64_999), &[64_999, 23_456]);
        assert_eq!(said(&hidden), (Some(64_999), vec![], None, 2));
    }
}
