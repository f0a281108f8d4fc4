use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::super::attributes::{AsPath, AsWidth};
use super::super::{Announced, Nlri, Preference, Publisher, SourceTable, Told};
use super::*;

const IN: RibView = RibView::AdjRibInPrePolicy;
const POST: RibView = RibView::AdjRibInPostPolicy;
const LOC: RibView = RibView::LocRib;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn peer(view: RibView, number: u8) -> Peer {
    let is_loc_rib = view == LOC;
    Peer {
        identity: PeerIdentity {
            peer_type: if is_loc_rib {
                PeerType::LocRib
            } else {
                PeerType::Global
            },
            distinguisher: 0,
            address: if is_loc_rib {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                [192, 0, 2, number].into()
            },
        },
        view,
        asn: if is_loc_rib {
            64_500
        } else {
            65_000 + u32::from(number)
        },
        width: AsWidth::Four,
        time_us: None,
    }
}

fn announce(peer: Peer, prefix: &str, path: &[u32]) -> Message {
    let as_path = AsPath {
        sequence: path.to_vec(),
        ..AsPath::default()
    };
    Message::Routes {
        peer,
        update: Update {
            announced: vec![Announced {
                next_hop: None,
                nlri: vec![nlri(prefix)],
            }],
            told: Told {
                preference: Preference {
                    as_path_hops: as_path.hops(),
                    ..Preference::default()
                },
                as_path,
                communities: Vec::new(),
            },
            ..Update::default()
        },
    }
}

fn nlri(prefix: &str) -> Nlri {
    Nlri {
        prefix: net(prefix),
        path_id: 0,
    }
}

fn withdraw(peer: Peer, prefix: &str) -> Message {
    Message::Routes {
        peer,
        update: Update {
            withdrawn: vec![nlri(prefix)],
            ..Update::default()
        },
    }
}

fn end_of_rib(peer: Peer) -> Message {
    Message::Routes {
        peer,
        update: Update {
            end_of_rib: Some(Family::V4),
            ..Update::default()
        },
    }
}

fn up(peer: Peer) -> Message {
    Message::PeerUp {
        peer,
        up: PeerUp {
            local_asn: Some(64_500),
            table_name: None,
            add_path_in: [false; 2],
            add_path_out: [false; 2],
        },
    }
}

fn down(peer: Peer) -> Message {
    Message::PeerDown { peer, reason: 1 }
}

/// A RIB with one router, and what readers would see of it.
struct Site {
    rib: Rib,
    publisher: Publisher,
    router: RouterId,
}

impl Site {
    fn new() -> Self {
        let mut rib = Rib::default();
        let router = rib.router("r1").expect("room");
        rib.connected(router);
        Self {
            rib,
            publisher: Publisher::default(),
            router,
        }
    }

    fn take(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.rib.apply(self.router, &message).expect("room");
        }
        let changes = self.rib.take_changes();
        self.publisher.publish(changes).expect("nobody reads");
    }

    /// The neighbour on the best way to a prefix.
    fn through(&self, prefix: &str) -> Option<u32> {
        let table = self.publisher.current();
        let path = table.get(&net(prefix)).cloned();
        assert_eq!(path, self.rib.best(&net(prefix)));
        path.and_then(|path| path.peer_asn)
    }
}

#[test]
fn the_shorter_path_is_taken_until_it_is_withdrawn() {
    let mut site = Site::new();
    let (a, b) = (peer(POST, 1), peer(POST, 2));
    site.take([
        announce(a, "10.0.0.0/8", &[65_001, 7, 64_501]),
        announce(b, "10.0.0.0/8", &[65_002, 64_501]),
    ]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_002));
    site.take([withdraw(b, "10.0.0.0/8")]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_001));
    site.take([withdraw(a, "10.0.0.0/8"), withdraw(a, "10.0.0.0/8")]);
    assert_eq!(site.through("10.0.0.0/8"), None);
    assert_eq!((site.rib.size().routes, site.rib.size().prefixes), (0, 0));
}

#[test]
fn of_a_router_the_best_table_is_believed_even_where_it_is_silent() {
    let mut site = Site::new();
    site.take([
        announce(peer(IN, 1), "10.0.0.0/8", &[65_001, 64_501]),
        announce(peer(IN, 1), "11.0.0.0/8", &[65_001, 64_501]),
    ]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_001));
    // Policy has refused 11/8: before policy it is no way.
    site.take([announce(
        peer(POST, 2),
        "10.0.0.0/8",
        &[65_002, 1, 2, 64_501],
    )]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_002));
    assert_eq!(site.through("11.0.0.0/8"), None);
    site.take([announce(peer(LOC, 0), "11.0.0.0/8", &[65_003, 64_501])]);
    assert_eq!(site.through("10.0.0.0/8"), None);
    assert_eq!(site.through("11.0.0.0/8"), Some(65_003));
    assert_eq!(site.rib.ways(&net("11.0.0.0/8")).len(), 2);
}

#[test]
fn what_is_told_to_peers_and_inside_vrfs_is_no_way() {
    let mut site = Site::new();
    let mut vrf = peer(POST, 1);
    vrf.identity.peer_type = PeerType::RouteDistinguisher;
    vrf.identity.distinguisher = 64_500 << 32 | 1;
    site.take([
        announce(peer(RibView::AdjRibOut, 1), "10.0.0.0/8", &[64_500, 64_501]),
        announce(vrf, "10.0.0.0/8", &[65_001, 64_501]),
    ]);
    assert_eq!(site.through("10.0.0.0/8"), None);
    assert_eq!(site.rib.not_used(), 2);
}

#[test]
fn a_peer_that_goes_down_takes_its_routes_along() {
    let mut site = Site::new();
    let (a, b) = (peer(POST, 1), peer(POST, 2));
    site.take([
        up(a),
        announce(a, "10.0.0.0/8", &[65_001, 64_501]),
        announce(a, "2001:db8::/32", &[65_001, 64_501]),
        up(b),
        announce(b, "10.0.0.0/8", &[65_002, 7, 64_501]),
    ]);
    site.take([down(a)]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_002));
    assert_eq!(site.through("2001:db8::/32"), None);
    assert_eq!(site.rib.size().tables, 1);
    // Down and up again within one batch.
    site.take([
        down(b),
        up(b),
        announce(b, "11.0.0.0/8", &[65_002, 64_501]),
        up(a),
        announce(a, "2001:db8::/32", &[65_001, 64_501]),
    ]);
    assert_eq!(site.through("10.0.0.0/8"), None);
    assert_eq!(site.through("11.0.0.0/8"), Some(65_002));
    assert_eq!(site.through("2001:db8::/32"), Some(65_001));
    assert_eq!(site.rib.size().routes, 2);
}

#[test]
fn a_router_that_is_back_replaces_what_it_said_and_ends_with_the_marker() {
    let mut site = Site::new();
    let a = peer(POST, 1);
    site.take([
        up(a),
        announce(a, "10.0.0.0/8", &[65_001, 64_501]),
        announce(a, "11.0.0.0/8", &[65_001, 64_501]),
        announce(a, "12.0.0.0/8", &[65_001, 64_501]),
        end_of_rib(a),
    ]);
    assert!(!site.rib.has_old_routes(site.router));
    site.rib.connected(site.router);
    site.take([up(a)]);
    // Away or back: what is known is still the best there is.
    assert_eq!(site.through("10.0.0.0/8"), Some(65_001));
    assert!(site.rib.has_old_routes(site.router));
    site.take([
        announce(a, "10.0.0.0/8", &[65_009, 64_501]),
        withdraw(a, "11.0.0.0/8"),
    ]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_009));
    assert_eq!(site.through("11.0.0.0/8"), None);
    assert_eq!(site.through("12.0.0.0/8"), Some(65_001));
    assert!(site.rib.ways(&net("12.0.0.0/8"))[0].is_old);
    site.take([end_of_rib(a)]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_009));
    assert_eq!(site.through("12.0.0.0/8"), None);
    assert!(!site.rib.has_old_routes(site.router));
}

#[test]
fn a_peer_that_is_not_back_yet_keeps_what_it_told_before() {
    let mut site = Site::new();
    let a = peer(POST, 1);
    site.take([up(a), announce(a, "10.0.0.0/8", &[65_001, 64_501])]);
    site.rib.connected(site.router);
    site.take([down(a)]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_001));
    site.take([up(a), down(a)]);
    assert_eq!(site.through("10.0.0.0/8"), None);
}

#[test]
fn without_the_marker_a_sweep_ends_it_and_a_peer_that_is_not_back_is_swept_too() {
    let mut site = Site::new();
    let (a, b) = (peer(POST, 1), peer(POST, 2));
    site.take([
        announce(a, "10.0.0.0/8", &[65_001, 64_501]),
        announce(b, "11.0.0.0/8", &[65_002, 64_501]),
    ]);
    // Three times in a row, without the marker in between.
    for _ in 0..3 {
        site.rib.connected(site.router);
        site.take([announce(a, "10.0.0.0/8", &[65_001, 64_501])]);
    }
    assert_eq!(site.through("11.0.0.0/8"), Some(65_002));
    site.rib.sweep(site.router);
    site.take([]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_001));
    assert_eq!(site.through("11.0.0.0/8"), None);
    site.rib.forget(site.router);
    site.take([]);
    assert_eq!(site.through("10.0.0.0/8"), None);
    let size = site.rib.size();
    assert_eq!((size.routes, size.prefixes, size.tables), (0, 0, 0));
}

#[test]
fn several_ways_of_one_peer_are_kept_apart_by_their_path_identifier() {
    let mut site = Site::new();
    let a = peer(POST, 1);
    let with_id = |message: Message, id: u32| match message {
        Message::Routes { peer, mut update } => {
            for nlri in update
                .announced
                .iter_mut()
                .flat_map(|some| &mut some.nlri)
                .chain(&mut update.withdrawn)
            {
                nlri.path_id = id;
            }
            Message::Routes { peer, update }
        }
        other => other,
    };
    site.take([
        with_id(announce(a, "10.0.0.0/8", &[65_001, 64_501]), 1),
        with_id(announce(a, "10.0.0.0/8", &[65_009, 7, 64_501]), 2),
    ]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_001));
    site.take([with_id(withdraw(a, "10.0.0.0/8"), 1)]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_009));
}

#[test]
fn a_routers_own_name_and_as_are_used() {
    let mut site = Site::new();
    let named = Message::Initiation {
        name: Some("edge-1".to_owned()),
        description: None,
    };
    let a = peer(POST, 1);
    // The router's own AS stands in front, as FRR writes it.
    site.take([
        named,
        up(a),
        announce(a, "10.0.0.0/8", &[64_500, 65_001, 64_501]),
    ]);
    let path = site.rib.best(&net("10.0.0.0/8")).expect("there");
    assert_eq!(path.router.as_deref(), Some("edge-1"));
    assert_eq!(
        (path.peer_asn, path.origin_asn),
        (Some(65_001), Some(64_501))
    );
    assert_eq!(&**site.rib.name(site.router), "edge-1");
}

#[test]
fn a_loc_rib_learns_the_session_from_the_peers_tables() {
    let mut site = Site::new();
    site.take([
        announce(peer(POST, 2), "10.0.0.0/8", &[65_002, 64_501]),
        announce(peer(POST, 1), "10.0.0.0/8", &[65_001, 64_501]),
        announce(peer(LOC, 0), "10.0.0.0/8", &[64_500, 65_002, 64_501]),
        announce(peer(LOC, 0), "11.0.0.0/8", &[64_500, 65_002, 64_501]),
    ]);
    assert_eq!(site.through("10.0.0.0/8"), Some(65_002));
    let path = site.rib.best(&net("10.0.0.0/8")).expect("there");
    assert_eq!(path.peer_address, Some(peer(POST, 2).identity.address));
    let alone = site.rib.best(&net("11.0.0.0/8")).expect("there");
    assert_eq!((alone.peer_asn, alone.peer_address), (Some(65_002), None));
    // It is published again when the peer's own table tells it later, and when it is withdrawn.
    site.take([announce(peer(POST, 2), "11.0.0.0/8", &[65_002, 64_501])]);
    let told = |site: &Site| {
        let table = site.publisher.current();
        let path = table.get(&net("11.0.0.0/8")).expect("there");
        path.peer_address
    };
    assert_eq!(told(&site), Some(peer(POST, 2).identity.address));
    site.take([withdraw(peer(POST, 2), "11.0.0.0/8")]);
    assert_eq!(told(&site), None);
}

#[test]
fn of_two_sessions_with_one_neighbour_none_is_guessed() {
    let mut site = Site::new();
    let other_session = Peer {
        asn: 65_001,
        ..peer(POST, 7)
    };
    site.take([
        announce(peer(POST, 1), "10.0.0.0/8", &[65_001, 64_501]),
        announce(other_session, "10.0.0.0/8", &[65_001, 64_501]),
        announce(peer(LOC, 0), "10.0.0.0/8", &[64_500, 65_001, 64_501]),
    ]);
    let path = site.rib.best(&net("10.0.0.0/8")).expect("there");
    assert_eq!((path.peer_asn, path.peer_address), (Some(65_001), None));
}

#[test]
fn what_is_too_much_for_a_batch_comes_with_the_next_ones() {
    let mut site = Site::new();
    let count = MAX_BATCH as u32 + 5;
    for number in 0..count {
        let prefix = format!("10.{}.{}.0/24", number >> 8 & 255, number & 255);
        let prefix = prefix.replacen("10", &(10 + (number >> 16)).to_string(), 1);
        let message = announce(peer(POST, 1), &prefix, &[65_001]);
        site.rib.apply(site.router, &message).expect("room");
    }
    let mut batches = Vec::new();
    while site.rib.has_changes() {
        let changes = site.rib.take_changes();
        batches.push(changes.len());
        assert!(site.publisher.publish(changes).is_ok());
    }
    assert_eq!(batches, [MAX_BATCH, 5]);
    assert_eq!(site.publisher.current().len(), MAX_BATCH + 5);
    site.rib.forget(site.router);
    while site.rib.has_changes() {
        let changes = site.rib.take_changes();
        assert!(site.publisher.publish(changes).is_ok());
    }
    assert!(site.publisher.current().is_empty());
}

/// One thing that happens to two routers with two peers each.
#[derive(Clone, Debug)]
enum Step {
    Announce {
        router: usize,
        table: usize,
        net: u8,
        hops: u8,
    },
    Withdraw {
        router: usize,
        table: usize,
        net: u8,
    },
    PeerDown {
        router: usize,
        peer: u8,
    },
    Reconnect {
        router: usize,
    },
    EndOfRib {
        router: usize,
        table: usize,
    },
    Sweep {
        router: usize,
    },
    Publish,
}

/// The tables of a router: two peers before and after policy, and its own.
fn table(index: usize) -> Peer {
    [
        peer(IN, 1),
        peer(IN, 2),
        peer(POST, 1),
        peer(POST, 2),
        peer(LOC, 0),
    ][index]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0usize..2, 0usize..5, 0u8..6, 1u8..5)
            .prop_map(|(router, table, net, hops)| Step::Announce { router, table, net, hops }),
        3 => (0usize..2, 0usize..5, 0u8..6)
            .prop_map(|(router, table, net)| Step::Withdraw { router, table, net }),
        1 => (0usize..2, 1u8..3).prop_map(|(router, peer)| Step::PeerDown { router, peer }),
        1 => (0usize..2).prop_map(|router| Step::Reconnect { router }),
        1 => (0usize..2, 0usize..5).prop_map(|(router, table)| Step::EndOfRib { router, table }),
        1 => (0usize..2).prop_map(|router| Step::Sweep { router }),
        2 => Just(Step::Publish),
    ];
    prop::collection::vec(step, 1..80)
}

/// The same rules, told as slowly as possible.
#[derive(Default)]
struct Model {
    /// Router, table, prefix; hops and whether it is old.
    routes: Vec<(usize, usize, u8, u8, bool)>,
    /// Router and table that ever had a route.
    seen: Vec<(usize, usize)>,
    /// Router and table that told something in this session.
    told: Vec<(usize, usize)>,
}

impl Model {
    fn step(&mut self, step: &Step) {
        let routes = &mut self.routes;
        match *step {
            Step::Announce {
                router,
                table,
                net,
                hops,
            } => {
                routes.retain(|route| (route.0, route.1, route.2) != (router, table, net));
                routes.push((router, table, net, hops, false));
                self.seen.push((router, table));
                self.told.push((router, table));
            }
            Step::Withdraw { router, table, net } => {
                self.told.push((router, table));
                routes.retain(|route| (route.0, route.1, route.2) != (router, table, net));
            }
            Step::PeerDown { router, peer } => {
                for table in [usize::from(peer) - 1, usize::from(peer) + 1] {
                    if self.told.contains(&(router, table)) {
                        routes.retain(|route| (route.0, route.1) != (router, table));
                        self.told.retain(|told| *told != (router, table));
                    }
                }
            }
            Step::Reconnect { router } => {
                self.told.retain(|told| told.0 != router);
                routes
                    .iter_mut()
                    .filter(|route| route.0 == router)
                    .for_each(|route| route.4 = true);
            }
            Step::EndOfRib { router, table } => {
                self.told.push((router, table));
                routes.retain(|route| (route.0, route.1) != (router, table) || !route.4);
            }
            Step::Sweep { router } => routes.retain(|route| route.0 != router || !route.4),
            Step::Publish => {}
        }
    }

    /// Hops of the best way.
    fn best(&self, net: u8) -> Option<u8> {
        let rank = |table: usize| match table {
            4 => 0,
            2 | 3 => 1,
            _ => 2,
        };
        let used = |router: usize| {
            let tables = self.seen.iter().filter(|seen| seen.0 == router);
            tables.map(|seen| rank(seen.1)).min()
        };
        self.routes
            .iter()
            .filter(|route| route.2 == net && Some(rank(route.1)) == used(route.0))
            .map(|route| route.3)
            .min()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn it_does_what_a_list_of_routes_would(steps in steps()) {
        let mut rib = Rib::default();
        let routers = ["r1", "r2"].map(|name| rib.router(name).expect("room"));
        let mut publisher = Publisher::default();
        let mut model = Model::default();
        let prefix = |net: u8| format!("10.{net}.0.0/16");
        for step in steps.iter().chain([&Step::Publish]) {
            model.step(step);
            let (router, message) = match *step {
                Step::Announce { router, table: at, net, hops } => {
                    let mut path = vec![7; usize::from(hops)];
                    path[usize::from(hops) - 1] = 64_501;
                    (router, announce(table(at), &prefix(net), &path))
                }
                Step::Withdraw { router, table: at, net } => (router, withdraw(table(at), &prefix(net))),
                Step::PeerDown { router, peer: number } => (router, down(peer(IN, number))),
                Step::EndOfRib { router, table: at } => (router, end_of_rib(table(at))),
                Step::Reconnect { router } => {
                    rib.connected(routers[router]);
                    continue;
                }
                Step::Sweep { router } => {
                    rib.sweep(routers[router]);
                    continue;
                }
                Step::Publish => {
                    let changes = rib.take_changes();
                    prop_assert!(publisher.publish(changes).is_ok());
                    let table: std::sync::Arc<SourceTable> = publisher.current();
                    for net in 0..6 {
                        let best = table
                            .get(&prefix(net).parse().expect("a prefix"))
                            .map(|path| path.preference.as_path_hops as u8);
                        prop_assert_eq!(best, model.best(net), "10.{}.0.0/16", net);
                    }
                    prop_assert_eq!(rib.size().routes, model.routes.len());
                    continue;
                }
            };
            rib.apply(routers[router], &message).expect("room");
        }
    }
}
