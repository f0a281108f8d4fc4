//! Which of several ways to a prefix is the one that is taken.

use std::cmp::{Ordering, Reverse};
use std::net::IpAddr;

use super::super::Path;

/// What a route without LOCAL_PREF counts as: the usual default of routers.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// One way, and what breaks ties.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub path: &'a Path,
    pub peer_address: IpAddr,
    pub path_id: u32,
}

/// `Greater`: `a` is taken rather than `b`. RFC 4271, 9.1.2.2, as far as it can be seen from
/// outside the router: local preference, AS path length, origin, MED (compared between all
/// neighbours), then the lowest peer address.
pub fn compare(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    key(a).cmp(&key(b))
}

fn key(candidate: &Candidate<'_>) -> impl Ord + use<> {
    let preference = &candidate.path.preference;
    (
        preference.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
        Reverse(preference.as_path_hops),
        Reverse(preference.origin),
        // A missing MED is the best one (RFC 4271, 9.1.2.2 c).
        Reverse(preference.med.unwrap_or(0)),
        Reverse(candidate.peer_address),
        Reverse(candidate.path_id),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Preference;

    #[test]
    fn the_rules_are_tried_in_their_order() {
        let usual = Preference {
            local_pref: None,
            as_path_hops: 3,
            origin: 0,
            med: None,
        };
        // Each is better than the next.
        let ranked = [
            Preference {
                local_pref: Some(200),
                as_path_hops: 9,
                ..usual
            },
            Preference {
                as_path_hops: 2,
                origin: 2,
                ..usual
            },
            usual,
            Preference {
                med: Some(5),
                ..usual
            },
            Preference { origin: 2, ..usual },
            Preference {
                local_pref: Some(50),
                as_path_hops: 1,
                ..usual
            },
        ];
        let paths = ranked.map(|preference| Path {
            preference,
            ..Path::default()
        });
        let candidate = |path, address: [u8; 4]| Candidate {
            path,
            peer_address: address.into(),
            path_id: 0,
        };
        for pair in paths.windows(2) {
            let (better, worse) = (candidate(&pair[0], [9; 4]), candidate(&pair[1], [1; 4]));
            assert_eq!(compare(&better, &worse), Ordering::Greater, "{pair:?}");
        }
        let (low, high) = (candidate(&paths[0], [1; 4]), candidate(&paths[0], [9; 4]));
        assert_eq!(compare(&low, &high), Ordering::Greater);
    }
}
