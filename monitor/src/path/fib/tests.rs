//! Routes and rules as literals, in the words of `ip route` and `ip rule`, and a model that looks
//! at every route.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;

fn link(index: u32, name: &str) -> Change {
    Change::Link(Link {
        index,
        name: name.into(),
        up: true,
        carrier: true,
        master: None,
        below: None,
        group: 0,
        vrf_table: None,
    })
}

fn hop(device: u32, gateway: &str) -> Hop {
    Hop {
        device,
        gateway: (!gateway.is_empty()).then(|| gateway.parse().expect("an address")),
        weight: 1,
        dead: false,
    }
}

fn route(table: u32, prefix: &str, hops: &[Hop]) -> KernelRoute {
    KernelRoute {
        table,
        prefix: prefix.parse().expect("a prefix"),
        from: None,
        tos: 0,
        metric: 0,
        kind: Kind::Unicast,
        target: Target {
            object: None,
            hops: hops.into(),
        },
    }
}

fn refuse(table: u32, prefix: &str, refusal: Refusal) -> KernelRoute {
    KernelRoute {
        kind: Kind::Refuse(refusal),
        ..route(table, prefix, &[])
    }
}

fn add(route: KernelRoute) -> Change {
    Change::Route(route, Placement::First)
}

/// eth1, eth2 and eth3, the usual rules, and what is given.
fn fib(changes: &[Change]) -> Fib {
    let mut fib = Fib::default();
    for change in [link(1, "eth1"), link(2, "eth2"), link(3, "eth3")] {
        fib.apply(&change);
    }
    for ipv6 in [false, true] {
        for (priority, table) in [(0, TABLE_LOCAL), (32_766, TABLE_MAIN), (32_767, 253)] {
            fib.apply(&Change::Rule(Rule::all(
                ipv6,
                priority,
                Action::Table(table),
            )));
        }
    }
    for change in changes {
        fib.apply(change);
    }
    fib
}

fn ask(fib: &Fib, destination: &str) -> Answer {
    fib.lookup(&Query::to(destination.parse().expect("an address")))
}

/// `192.0.2.1 by eth1 (10.0.0.0/8)`.
fn said(fib: &Fib, destination: &str) -> String {
    ask(fib, destination).to_string()
}

#[test]
fn the_longest_prefix_that_is_alive_decides() {
    let mut fib = fib(&[
        add(route(TABLE_MAIN, "0.0.0.0/0", &[hop(1, "192.0.2.1")])),
        add(route(TABLE_MAIN, "10.0.0.0/8", &[hop(2, "198.51.100.1")])),
        add(route(TABLE_MAIN, "10.1.0.0/16", &[hop(3, "")])),
        add(route(TABLE_MAIN, "::/0", &[hop(1, "fe80::1")])),
    ]);
    assert_eq!(said(&fib, "8.8.8.8"), "192.0.2.1 by eth1 (0.0.0.0/0)");
    assert_eq!(said(&fib, "10.2.0.1"), "198.51.100.1 by eth2 (10.0.0.0/8)");
    assert_eq!(said(&fib, "10.1.0.1"), "eth3 directly (10.1.0.0/16)");
    assert_eq!(said(&fib, "2001:db8::1"), "fe80::1 by eth1 (::/0)");
    fib.apply(&Change::LinkGone(3));
    assert_eq!(said(&fib, "10.1.0.1"), "198.51.100.1 by eth2 (10.0.0.0/8)");
    assert_eq!(fib.routes(), 3);
}

#[test]
fn a_device_that_goes_down_takes_its_routes_and_keeps_the_addresses_of_this_host() {
    let mut local = refuse(TABLE_LOCAL, "10.1.0.7/32", Refusal::Local);
    local.target.hops = [hop(2, "")].into();
    let mut fib = fib(&[
        add(route(TABLE_MAIN, "10.0.0.0/8", &[hop(1, "192.0.2.1")])),
        add(route(TABLE_MAIN, "10.1.0.0/16", &[hop(2, "")])),
        add(local),
    ]);
    let Change::Link(mut down) = link(2, "eth2") else {
        unreachable!("a link")
    };
    down.up = false;
    fib.apply(&Change::Link(down));
    assert_eq!(said(&fib, "10.1.0.1"), "192.0.2.1 by eth1 (10.0.0.0/8)");
    assert_eq!(
        said(&fib, "10.1.0.7"),
        "an address of this host (10.1.0.7/32)"
    );
    // Up again: the kernel has dropped the route, and so have we.
    fib.apply(&link(2, "eth2"));
    assert_eq!(said(&fib, "10.1.0.1"), "192.0.2.1 by eth1 (10.0.0.0/8)");
}

#[test]
fn a_renamed_device_is_told_by_its_new_name() {
    let mut fib = fib(&[add(route(TABLE_MAIN, "10.0.0.0/8", &[hop(1, "192.0.2.1")]))]);
    fib.apply(&link(1, "wan0"));
    assert_eq!(said(&fib, "10.0.0.1"), "192.0.2.1 by wan0 (10.0.0.0/8)");
}

#[test]
fn of_several_metrics_the_lowest_is_taken_and_the_next_one_when_it_goes() {
    for (change, prefix, gateway) in [
        ("10.0.0.1", "10.0.0.0/8", "192.0.2."),
        ("2001:db8::1", "2001:db8::/32", "fe80::"),
    ] {
        let with = |metric, device: u32| KernelRoute {
            metric,
            ..route(
                TABLE_MAIN,
                prefix,
                &[hop(device, &format!("{gateway}{device}"))],
            )
        };
        let mut fib = fib(&[add(with(200, 2)), add(with(100, 1)), add(with(300, 3))]);
        assert_eq!(
            ask(&fib, change).interface().map(|name| &**name),
            Some("eth1")
        );
        assert!(fib.apply(&Change::RouteGone(with(100, 1))));
        assert_eq!(
            ask(&fib, change).interface().map(|name| &**name),
            Some("eth2")
        );
        assert!(!fib.apply(&Change::RouteGone(with(100, 1))));
    }
}

#[test]
fn ecmp_is_a_set_and_the_interface_where_a_flow_was_seen_chooses() {
    let hops = [
        hop(1, "192.0.2.1"),
        hop(2, "198.51.100.1"),
        hop(2, "198.51.100.2"),
    ];
    let fib = fib(&[add(route(TABLE_MAIN, "10.0.0.0/8", &hops))]);
    let answer = ask(&fib, "10.0.0.1");
    assert_eq!(answer.ways.len(), 3);
    assert_eq!((answer.interface(), answer.next_hop()), (None, None));
    assert!(answer.doubts.is_empty());
    let first = answer.clone().seen_at(1, &fib);
    assert_eq!(first.next_hop(), "192.0.2.1".parse().ok());
    let second = answer.clone().seen_at(2, &fib);
    assert_eq!(second.interface().map(|name| &**name), Some("eth2"));
    assert_eq!(second.next_hop(), None, "two of them are behind eth2");
    assert!(answer.seen_at(3, &fib).ways.is_empty());
}

#[test]
fn a_flow_may_be_seen_below_or_above_the_device_of_its_route() {
    let stacked = |index, name: &str, master, below| {
        let Change::Link(base) = link(index, name) else {
            unreachable!("a link")
        };
        Change::Link(Link {
            master,
            below,
            ..base
        })
    };
    // eth1 and eth2 form bond0; bond0.100 is a VLAN on it.
    let fib = fib(&[
        stacked(1, "eth1", Some(10), None),
        stacked(2, "eth2", Some(10), None),
        stacked(10, "bond0", None, None),
        stacked(11, "bond0.100", None, Some(10)),
        add(route(TABLE_MAIN, "10.0.0.0/8", &[hop(11, "192.0.2.1")])),
        add(route(TABLE_MAIN, "10.9.0.0/16", &[hop(3, "192.0.2.9")])),
    ]);
    for hook in [1, 2, 10, 11] {
        let answer = ask(&fib, "10.0.0.1").seen_at(hook, &fib);
        assert_eq!(answer.ways.len(), 1, "{hook}");
        assert!(ask(&fib, "10.9.0.1").seen_at(hook, &fib).ways.is_empty());
    }
    assert!(ask(&fib, "10.0.0.1").seen_at(3, &fib).ways.is_empty());
}

#[test]
fn nexthop_objects_and_groups_are_followed_and_take_their_routes_with_them() {
    let object = |id, leads| Change::Nexthop(Nexthop { id, leads });
    let by = |prefix: &str, id| {
        let mut route = route(TABLE_MAIN, prefix, &[]);
        route.target.object = Some(id);
        add(route)
    };
    let mut fib = fib(&[
        object(1, Leads::To(hop(1, "192.0.2.1"))),
        object(2, Leads::To(hop(2, "2001:db8:f::1"))),
        object(3, Leads::Nowhere),
        object(10, Leads::Group(vec![(1, 1), (2, 3)])),
        by("10.0.0.0/8", 10),
        by("10.1.0.0/16", 3),
        by("10.2.0.0/16", 2),
    ]);
    assert_eq!(
        said(&fib, "10.0.0.1"),
        "192.0.2.1 by eth1 or 2001:db8:f::1 by eth2 (10.0.0.0/8)"
    );
    assert_eq!(said(&fib, "10.1.0.1"), "blackhole (10.1.0.0/16)");
    assert_eq!(
        said(&fib, "10.2.0.1"),
        "2001:db8:f::1 by eth2 (10.2.0.0/16)"
    );
    fib.apply(&Change::NexthopGone(2));
    assert_eq!(said(&fib, "10.0.0.1"), "192.0.2.1 by eth1 (10.0.0.0/8)");
    assert_eq!(said(&fib, "10.2.0.1"), "192.0.2.1 by eth1 (10.0.0.0/8)");
}

#[test]
fn a_refusal_is_an_answer_and_a_throw_goes_on_with_the_rules() {
    let mut throw = route(100, "10.4.0.0/16", &[]);
    throw.kind = Kind::Throw;
    let mut to_100 = Rule::all(false, 100, Action::Table(100));
    to_100.to = "10.0.0.0/8".parse().ok();
    let fib = fib(&[
        Change::Rule(to_100),
        add(refuse(100, "10.1.0.0/16", Refusal::Blackhole)),
        add(refuse(100, "10.2.0.0/16", Refusal::Unreachable)),
        add(refuse(100, "10.3.0.0/16", Refusal::Prohibited)),
        add(throw),
        add(route(100, "10.0.0.0/8", &[hop(1, "192.0.2.1")])),
        add(route(TABLE_MAIN, "0.0.0.0/0", &[hop(2, "198.51.100.1")])),
    ]);
    assert_eq!(said(&fib, "10.1.0.1"), "blackhole (10.1.0.0/16)");
    assert_eq!(said(&fib, "10.2.0.1"), "unreachable (10.2.0.0/16)");
    assert_eq!(said(&fib, "10.3.0.1"), "prohibited (10.3.0.0/16)");
    assert_eq!(said(&fib, "10.4.0.1"), "198.51.100.1 by eth2 (0.0.0.0/0)");
    assert_eq!(said(&fib, "10.5.0.1"), "192.0.2.1 by eth1 (10.0.0.0/8)");
    assert_eq!(said(&fib, "2001:db8::1"), "no route");
}

#[test]
fn a_rule_that_asks_what_nobody_told_is_taken_both_ways_and_says_so() {
    let mut marked = Rule::all(false, 100, Action::Table(100));
    marked.mark = Some((1, 0xff));
    let fib = fib(&[
        Change::Rule(marked),
        add(route(100, "10.0.0.0/8", &[hop(1, "192.0.2.1")])),
        add(route(TABLE_MAIN, "0.0.0.0/0", &[hop(2, "198.51.100.1")])),
    ]);
    let answer = ask(&fib, "10.0.0.1");
    assert_eq!(
        answer.to_string(),
        "192.0.2.1 by eth1 or 198.51.100.1 by eth2 (10.0.0.0/8); \
         rule 100 depends on the firewall mark"
    );
    assert_eq!(answer.interface(), None);
    // Where the rule changes nothing there is no doubt.
    assert_eq!(said(&fib, "11.0.0.1"), "198.51.100.1 by eth2 (0.0.0.0/0)");
    let told = |mark| {
        fib.lookup(&Query {
            mark: Some(mark),
            ..Query::to([10, 0, 0, 1].into())
        })
        .to_string()
    };
    assert_eq!(told(0x101), "192.0.2.1 by eth1 (10.0.0.0/8)");
    assert_eq!(told(0), "198.51.100.1 by eth2 (0.0.0.0/0)");
}

#[test]
fn rules_by_source_ports_interface_and_their_opposites() {
    let base = |priority, table| Rule::all(false, priority, Action::Table(table));
    let mut from = base(100, 101);
    from.from = "192.0.2.0/24".parse().ok();
    let mut not_from = base(200, 102);
    not_from.from = "198.51.100.0/24".parse().ok();
    not_from.invert = true;
    let mut udp = base(50, 103);
    udp.protocol = Some(17);
    let mut https = base(60, 104);
    https.source_ports = Some((443, 443));
    let mut forwarded = base(70, 105);
    forwarded.incoming = Some("eth3".into());
    let mut changes = vec![];
    for rule in [from, not_from, udp, https, forwarded] {
        changes.push(Change::Rule(rule));
    }
    for (table, device) in [(101, 1), (102, 2), (103, 3), (104, 3), (105, 3)] {
        changes.push(add(route(table, "0.0.0.0/0", &[hop(device, "")])));
    }
    changes.push(add(route(
        TABLE_MAIN,
        "0.0.0.0/0",
        &[hop(3, "203.0.113.1")],
    )));
    let fib = fib(&changes);
    let ask = |source: [u8; 4], port: u16, local: bool| {
        fib.lookup(&Query {
            source: Some(source.into()),
            ports: Some((port, 50_000)),
            local: Some(local),
            ..Query::to([10, 0, 0, 1].into())
        })
        .to_string()
    };
    assert_eq!(ask([192, 0, 2, 1], 80, true), "eth1 directly (0.0.0.0/0)");
    assert_eq!(ask([192, 0, 2, 1], 443, true), "eth3 directly (0.0.0.0/0)");
    assert_eq!(ask([203, 0, 113, 9], 80, true), "eth2 directly (0.0.0.0/0)");
    assert_eq!(
        ask([198, 51, 100, 1], 80, true),
        "203.0.113.1 by eth3 (0.0.0.0/0)"
    );
    assert_eq!(
        ask([192, 0, 2, 1], 80, false),
        "eth1 directly or eth3 directly (0.0.0.0/0); rule 70 depends on the incoming interface"
    );
}

#[test]
fn suppression_jumps_and_ends() {
    let mut suppressing = Rule::all(false, 100, Action::Table(TABLE_MAIN));
    suppressing.suppress_length = Some(0);
    let mut jump = Rule::all(false, 200, Action::Goto(400));
    jump.to = "10.2.0.0/16".parse().ok();
    let fib = fib(&[
        Change::Rule(suppressing),
        Change::Rule(jump),
        Change::Rule(Rule::all(false, 300, Action::Table(101))),
        Change::Rule(Rule::all(false, 400, Action::Nop)),
        Change::Rule(Rule::all(false, 500, Action::Refuse(Refusal::Prohibited))),
        add(route(TABLE_MAIN, "0.0.0.0/0", &[hop(1, "192.0.2.1")])),
        add(route(TABLE_MAIN, "10.1.0.0/16", &[hop(1, "192.0.2.1")])),
        add(route(101, "0.0.0.0/0", &[hop(2, "198.51.100.1")])),
    ]);
    assert_eq!(said(&fib, "10.1.0.1"), "192.0.2.1 by eth1 (10.1.0.0/16)");
    assert_eq!(said(&fib, "10.3.0.1"), "198.51.100.1 by eth2 (0.0.0.0/0)");
    assert_eq!(said(&fib, "10.2.0.1"), "prohibited");
}

#[test]
fn equal_ipv6_routes_depend_on_their_neighbours() {
    let fib = fib(&[
        add(route(TABLE_MAIN, "2001:db8::/32", &[hop(1, "fe80::1")])),
        add(route(TABLE_MAIN, "2001:db8::/32", &[hop(2, "fe80::2")])),
    ]);
    assert_eq!(
        said(&fib, "2001:db8::1"),
        "fe80::1 by eth1 or fe80::2 by eth2 (2001:db8::/32); \
         equal routes: the kernel asks the neighbours"
    );
}

#[test]
fn ipv6_tells_the_hops_of_a_multipath_route_one_by_one() {
    let both = route(
        TABLE_MAIN,
        "2001:db8::/32",
        &[hop(1, "fe80::1"), hop(2, "fe80::2")],
    );
    let one = route(TABLE_MAIN, "2001:db8::/32", &[hop(2, "fe80::2")]);
    let mut fib = fib(&[
        add(route(TABLE_MAIN, "2001:db8::/32", &[hop(1, "fe80::1")])),
        Change::Route(both, Placement::Last),
    ]);
    assert_eq!(ask(&fib, "2001:db8::1").ways.len(), 2);
    assert!(ask(&fib, "2001:db8::1").doubts.is_empty(), "one route");
    assert!(fib.apply(&Change::RouteGone(one)));
    assert_eq!(said(&fib, "2001:db8::1"), "fe80::1 by eth1 (2001:db8::/32)");
    assert_eq!(fib.routes(), 1);
}

#[test]
fn replacing_and_repeating_leave_one_route() {
    let old = route(TABLE_MAIN, "10.0.0.0/8", &[hop(1, "192.0.2.1")]);
    let new = route(TABLE_MAIN, "10.0.0.0/8", &[hop(2, "198.51.100.1")]);
    let fib = fib(&[
        add(old),
        Change::Route(new.clone(), Placement::Replace),
        add(new),
    ]);
    assert_eq!(fib.routes(), 1);
    assert_eq!(said(&fib, "10.0.0.1"), "198.51.100.1 by eth2 (10.0.0.0/8)");
}

#[test]
fn a_vrf_is_a_doubt_only_where_there_is_one() {
    let mut rule = Rule::all(false, 1_000, Action::VrfTable);
    rule.vrf = true;
    let mut fib = fib(&[
        Change::Rule(rule),
        add(route(10, "0.0.0.0/0", &[hop(2, "")])),
        add(route(TABLE_MAIN, "0.0.0.0/0", &[hop(1, "")])),
    ]);
    assert_eq!(said(&fib, "10.0.0.1"), "eth1 directly (0.0.0.0/0)");
    let Change::Link(mut vrf) = link(9, "vrf-red") else {
        unreachable!("a link")
    };
    vrf.vrf_table = Some(10);
    fib.apply(&Change::Link(vrf));
    assert_eq!(
        said(&fib, "10.0.0.1"),
        "eth1 directly or eth2 directly (0.0.0.0/0); rule 1000 depends on the VRF"
    );
}

/// Any routes to few prefixes in few tables: they meet often.
fn any_route() -> impl Strategy<Value = KernelRoute> {
    let prefix = prop_oneof![
        (any::<u8>(), 0u8..=32).prop_map(|(octet, length)| {
            IpNet::new([10, octet & 3, octet & 12, 0].into(), length).map(|net| net.trunc())
        }),
        (any::<u8>(), 0u8..=64).prop_map(|(octet, length)| {
            let address: IpAddr = [
                0x2001,
                u16::from(octet & 3),
                0,
                u16::from(octet & 12),
                0,
                0,
                0,
                0,
            ]
            .into();
            IpNet::new(address, length).map(|net| net.trunc())
        }),
    ];
    let hops = prop::collection::vec((1u32..4, any::<bool>()), 1..3);
    let kind = prop_oneof![
        8 => Just(Kind::Unicast),
        1 => Just(Kind::Refuse(Refusal::Blackhole)),
        1 => Just(Kind::Throw),
    ];
    (0u32..3, prefix, 0u32..3, kind, hops).prop_map(|(table, prefix, metric, kind, hops)| {
        KernelRoute {
            table,
            prefix: prefix.expect("a length that fits"),
            from: None,
            tos: 0,
            metric,
            kind,
            target: Target {
                object: None,
                hops: hops
                    .into_iter()
                    .map(|(device, dead)| Hop {
                        dead,
                        ..hop(device, "")
                    })
                    .collect(),
            },
        }
    })
}

fn any_rule() -> impl Strategy<Value = (u32, u32, Option<u8>, Option<u32>)> {
    (
        0u32..4,
        0u32..3,
        prop::option::of(0u8..4),
        prop::option::of(0u32..24),
    )
}

/// Every route looked at, one after the other, for IPv4 rules that are all certain.
fn model(
    rules: &[(u32, u32, Option<u8>, Option<u32>)],
    routes: &[KernelRoute],
    destination: IpAddr,
) -> (BTreeSet<u32>, bool) {
    let mut ordered: Vec<_> = rules.to_vec();
    ordered.sort_by_key(|(priority, ..)| *priority);
    for (_, table, to, suppressed) in ordered {
        if to.is_some_and(|octet| !to_net(destination, octet).contains(&destination)) {
            continue;
        }
        let covers =
            |route: &&KernelRoute| route.table == table && route.prefix.contains(&destination);
        let mut candidates: Vec<&KernelRoute> = routes.iter().filter(covers).collect();
        candidates.sort_by_key(|route| (u8::MAX - route.prefix.prefix_len(), route.metric));
        let living = |route: &KernelRoute| -> BTreeSet<u32> {
            let hops = route.target.hops.iter().filter(|hop| !hop.dead);
            hops.map(|hop| hop.device).collect()
        };
        let chosen = candidates
            .iter()
            .find(|route| route.kind != Kind::Unicast || !living(route).is_empty());
        let Some(chosen) = chosen else { continue };
        if chosen.kind == Kind::Throw {
            continue;
        }
        if suppressed.is_some_and(|length| u32::from(chosen.prefix.prefix_len()) <= length) {
            continue;
        }
        return match chosen.kind {
            Kind::Unicast => (living(chosen), false),
            _ => (BTreeSet::new(), true),
        };
    }
    (BTreeSet::new(), true)
}

fn to_net(like: IpAddr, octet: u8) -> IpNet {
    let (address, length): (IpAddr, u8) = match like {
        IpAddr::V4(_) => ([10, octet, 0, 0].into(), 16),
        IpAddr::V6(_) => ([0x2001, u16::from(octet), 0, 0, 0, 0, 0, 0].into(), 32),
    };
    IpNet::new(address, length).expect("a length that fits")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn lookups_are_those_of_a_model_that_looks_at_every_route(
        mut routes in prop::collection::vec(any_route(), 0..40),
        removed in prop::collection::vec(any::<bool>(), 40),
        rules in prop::collection::vec(any_rule(), 0..6),
        asked in prop::collection::vec((any::<bool>(), any::<u8>(), any::<u8>()), 20),
    ) {
        // One route a key: which of several equal ones is taken depends on their history.
        let mut keys = BTreeSet::new();
        routes.retain(|route| keys.insert((route.table, route.prefix, route.metric)));
        let mut fib = Fib::default();
        for index in 1..4 {
            fib.apply(&link(index, &format!("eth{index}")));
        }
        for (priority, table, to, suppressed) in &rules {
            for like in [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0u16; 8])] {
                let mut rule = Rule::all(like.is_ipv6(), *priority, Action::Table(*table));
                rule.to = to.map(|octet| to_net(like, octet));
                rule.suppress_length = *suppressed;
                fib.apply(&Change::Rule(rule));
            }
        }
        // Equal rules are one.
        let mut distinct = Vec::new();
        for rule in rules {
            if !distinct.contains(&rule) {
                distinct.push(rule);
            }
        }
        for route in &routes {
            fib.apply(&add(route.clone()));
        }
        let mut left = Vec::new();
        for (route, removed) in routes.into_iter().zip(removed) {
            if removed {
                prop_assert!(fib.apply(&Change::RouteGone(route)));
            } else {
                left.push(route);
            }
        }
        prop_assert_eq!(fib.routes(), left.len());
        for (ipv6, a, b) in asked {
            let destination: IpAddr = if ipv6 {
                [0x2001, u16::from(a & 3), 0, u16::from(b & 12), 0, 0, 0, u16::from(b)].into()
            } else {
                [10, a & 3, b & 12, b].into()
            };
            let answer = fib.lookup(&Query::to(destination));
            let devices: BTreeSet<u32> = answer.ways.iter().map(|way| way.device).collect();
            let refused = answer.ways.is_empty();
            prop_assert_eq!((devices, refused), model(&distinct, &left, destination), "{}", destination);
        }
    }

    /// What grew by changes is what is built at once.
    #[test]
    fn the_order_of_changes_leaves_no_trace(
        mut routes in prop::collection::vec(any_route(), 0..30),
        order in any::<u64>(),
    ) {
        let mut keys = BTreeSet::new();
        routes.retain(|route| keys.insert((route.table, route.prefix, route.metric)));
        let build = |routes: &[KernelRoute]| {
            let mut fib = Fib::default();
            routes.iter().for_each(|route| {
                fib.apply(&add(route.clone()));
            });
            fib
        };
        let forward = build(&routes);
        if !routes.is_empty() {
            let middle = order as usize % routes.len();
            routes.rotate_left(middle);
        }
        let mut other = build(&routes);
        prop_assert!(forward.agrees_with(&other));
        if let Some(route) = routes.first() {
            other.apply(&Change::RouteGone(route.clone()));
            prop_assert!(!forward.agrees_with(&other));
        }
    }
}

#[test]
fn lists_of_hops_are_kept_once() {
    let hops = [hop(1, "192.0.2.1")];
    let mut tables = Tables::default();
    for octet in 0..50u8 {
        let prefix = format!("10.{octet}.0.0/16");
        tables.insert(&route(TABLE_MAIN, &prefix, &hops), Placement::First);
    }
    assert_eq!(tables.len(), 50);
    assert_eq!(tables.hop_lists(), 1);
}
