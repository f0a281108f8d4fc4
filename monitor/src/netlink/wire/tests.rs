//! Messages as literal attributes, and what is wrong with some.

use proptest::prelude::*;

use super::*;
use crate::path::fib::{Action, Hop, Leads, Nexthop, Rule};

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((HEADER as u32 + body.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(7u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn read(bytes: &[u8]) -> Message {
    let envelope = messages(bytes)
        .next()
        .expect("a message")
        .expect("well formed");
    assert_eq!(envelope.sequence, 7);
    parse(&envelope).expect("well formed")
}

/// `rtmsg` of the main table and the type unicast, and attributes.
fn route_body(family: u8, length: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![family, length, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    body.extend(attributes.concat());
    body
}

#[test]
fn a_route_by_a_gateway() {
    let body = route_body(
        AF_INET,
        8,
        &[
            attribute(1, &[10, 0, 0, 0]),
            attribute(4, &3u32.to_ne_bytes()),
            attribute(5, &[192, 0, 2, 1]),
            attribute(6, &100u32.to_ne_bytes()),
            attribute(15, &1_000u32.to_ne_bytes()),
            attribute(77, b"from the future"),
        ],
    );
    let Message::Change(Change::Route(route, Placement::Replace)) =
        read(&message(RTM_NEWROUTE, NLM_F_REPLACE, &body))
    else {
        panic!("a route")
    };
    assert_eq!(route.prefix.to_string(), "10.0.0.0/8");
    assert_eq!((route.table, route.metric), (1_000, 100));
    assert_eq!(
        *route.target.hops,
        [Hop {
            device: 3,
            gateway: "192.0.2.1".parse().ok(),
            weight: 1,
            dead: false
        }]
    );
}

#[test]
fn an_ipv4_route_by_an_ipv6_gateway_and_a_multipath_one() {
    let mut via = AF_INET6.to_ne_bytes().to_vec();
    via.push(0);
    via.extend("fe80::1".parse::<Ipv6Addr>().expect("an address").octets());
    let body = route_body(
        AF_INET,
        0,
        &[attribute(4, &3u32.to_ne_bytes()), attribute(18, &via)],
    );
    let Message::Change(Change::RouteGone(route)) = read(&message(RTM_DELROUTE, 0, &body)) else {
        panic!("a route")
    };
    assert_eq!(route.target.hops[0].gateway, "fe80::1".parse().ok());

    let hop = |flags: u8, weight: u8, device: u32, gateway: [u8; 4]| {
        let own = attribute(5, &gateway);
        let mut bytes = (8 + own.len() as u16).to_ne_bytes().to_vec();
        bytes.extend([flags, weight - 1]);
        bytes.extend(device.to_ne_bytes());
        bytes.extend(own);
        bytes
    };
    let hops = [
        hop(0, 1, 3, [192, 0, 2, 1]),
        hop(RTNH_F_DEAD, 255, 4, [192, 0, 2, 2]),
    ]
    .concat();
    let body = route_body(AF_INET, 0, &[attribute(9, &hops)]);
    let Message::Change(Change::Route(route, Placement::Last)) =
        read(&message(RTM_NEWROUTE, NLM_F_APPEND, &body))
    else {
        panic!("a route")
    };
    let seen: Vec<_> = route
        .target
        .hops
        .iter()
        .map(|hop| (hop.device, hop.weight, hop.dead))
        .collect();
    assert_eq!(seen, [(3, 1, false), (4, 255, true)]);
}

#[test]
fn what_is_no_route_of_a_table_is_passed_over() {
    let mut cloned = route_body(AF_INET6, 128, &[]);
    cloned[8..12].copy_from_slice(&RTM_F_CLONED.to_ne_bytes());
    assert_eq!(read(&message(RTM_NEWROUTE, 0, &cloned)), Message::Other);
    let mpls = route_body(28, 20, &[]);
    assert_eq!(read(&message(RTM_NEWROUTE, 0, &mpls)), Message::Other);
    assert_eq!(read(&message(9_999, 0, &[])), Message::Other);
}

#[test]
fn a_rule_with_every_selector() {
    let mut body = vec![AF_INET, 16, 24, 0x10, 0, 0, 0, 1];
    body.extend(FIB_RULE_INVERT.to_ne_bytes());
    for part in [
        attribute(1, &[10, 1, 0, 0]),
        attribute(2, &[192, 0, 2, 0]),
        attribute(3, b"eth1\0"),
        attribute(6, &500u32.to_ne_bytes()),
        attribute(10, &1u32.to_ne_bytes()),
        attribute(14, &0u32.to_ne_bytes()),
        attribute(13, &u32::MAX.to_ne_bytes()),
        attribute(15, &100u32.to_ne_bytes()),
        attribute(16, &0xffu32.to_ne_bytes()),
        attribute(17, b"eth2\0"),
        attribute(20, &[0; 8]),
        attribute(21, &[3]),
        attribute(22, &[6]),
        attribute(23, &[80u16.to_ne_bytes(), 443u16.to_ne_bytes()].concat()),
    ] {
        body.extend(part);
    }
    let Message::Change(Change::Rule(rule)) = read(&message(RTM_NEWRULE, 0, &body)) else {
        panic!("a rule")
    };
    let mut expected = Rule::all(false, 500, Action::Table(100));
    expected.invert = true;
    expected.to = "10.1.0.0/16".parse().ok();
    expected.from = "192.0.2.0/24".parse().ok();
    expected.mark = Some((1, 0xff));
    expected.tos = 0x10;
    expected.incoming = Some("eth1".into());
    expected.outgoing = Some("eth2".into());
    expected.protocol = Some(6);
    expected.source_ports = Some((80, 443));
    expected.user = true;
    expected.suppress_length = Some(0);
    assert_eq!(rule, expected);

    body.extend(attribute(26, &[0; 4]));
    let Message::Change(Change::Rule(rule)) = read(&message(RTM_NEWRULE, 0, &body)) else {
        panic!("a rule")
    };
    assert!(rule.unknown_selector, "a selector that is not known here");
}

#[test]
fn nexthop_objects_and_devices() {
    let mut body = vec![AF_INET, 0, 0, 0, 0, 0, 0, 0];
    body.extend(attribute(1, &10u32.to_ne_bytes()));
    let mut group = 1u32.to_ne_bytes().to_vec();
    group.extend([0, 0, 0, 0]);
    group.extend(2u32.to_ne_bytes());
    group.extend([9, 0, 0, 0]);
    body.extend(attribute(2, &group));
    assert_eq!(
        read(&message(RTM_NEWNEXTHOP, 0, &body)),
        Message::Change(Change::Nexthop(Nexthop {
            id: 10,
            leads: Leads::Group(vec![(1, 1), (2, 10)])
        }))
    );

    let mut body = vec![0, 0, 0, 0];
    for number in [5u32, IFF_UP | IFF_LOWER_UP, 0] {
        body.extend(number.to_ne_bytes());
    }
    body.extend(attribute(3, b"eth5.100\0"));
    body.extend(attribute(5, &4u32.to_ne_bytes()));
    let vlan = body.clone();
    let mut info = attribute(1, b"vrf\0");
    info.extend(attribute(2, &attribute(1, &77u32.to_ne_bytes())));
    body.extend(attribute(18, &info));
    let Message::Change(Change::Link(link)) = read(&message(RTM_NEWLINK, 0, &body)) else {
        panic!("a device")
    };
    assert_eq!(
        (&*link.name, link.up, link.carrier),
        ("eth5.100", true, true)
    );
    assert_eq!((link.below, link.vrf_table), (Some(4), Some(77)));

    let mut veth = vlan;
    veth.extend(attribute(18, &attribute(1, b"veth\0")));
    let Message::Change(Change::Link(link)) = read(&message(RTM_NEWLINK, 0, &veth)) else {
        panic!("a device")
    };
    assert_eq!(link.below, None, "the other end is not below it");
}

#[test]
fn lengths_that_lie_are_said() {
    let mut short = message(RTM_NEWROUTE, 0, &[AF_INET, 0]);
    let envelope = messages(&short).next().expect("one").expect("whole");
    assert_eq!(parse(&envelope), Err(Malformed::Truncated("a route")));
    short[0] = 200;
    assert_eq!(
        messages(&short).next().map(|message| message.map(drop)),
        Some(Err(Malformed::TooLong("a netlink message")))
    );
    let mut attribute = attribute(1, &[10, 0, 0, 0]);
    attribute[0] = 60;
    let body = route_body(AF_INET, 8, &[attribute]);
    let bytes = message(RTM_NEWROUTE, 0, &body);
    let envelope = messages(&bytes).next().expect("one").expect("whole");
    assert_eq!(parse(&envelope), Err(Malformed::TooLong("a route")));
    let body = route_body(AF_INET, 33, &[]);
    let bytes = message(RTM_NEWROUTE, 0, &body);
    let envelope = messages(&bytes).next().expect("one").expect("whole");
    assert_eq!(parse(&envelope), Err(Malformed::NoPrefix("a route")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_byte_makes_it_panic_or_run_forever(
        kind in prop_oneof![Just(RTM_NEWROUTE), Just(RTM_NEWRULE), Just(RTM_NEWNEXTHOP), Just(RTM_NEWLINK), any::<u16>()],
        body in prop::collection::vec(any::<u8>(), 0..200),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = message(kind, 0, &body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes.extend(tail);
        let mut count = 0;
        for envelope in messages(&bytes) {
            count += 1;
            if let Ok(envelope) = envelope {
                let _ = parse(&envelope);
            }
        }
        prop_assert!((1..=bytes.len()).contains(&count));
    }
}
