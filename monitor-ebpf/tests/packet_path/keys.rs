//! Flow keys, and the bins that RTTs are counted in.

use monitor_ebpf::flow::{
    Address, FlowKey, HIGH_TO_LOW, LOW_TO_HIGH, RTT_BINS, rtt_bin, rtt_bin_edges,
};
use proptest::prelude::*;

fn addresses() -> impl Strategy<Value = Address> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(Address::v4),
        any::<[u8; 16]>().prop_map(Address::v6),
        // Neighbours, which differ in one byte.
        any::<u8>().prop_map(|last| Address::v4([10, 0, 0, last])),
    ]
}

proptest! {
    #[test]
    fn both_directions_find_one_key(
        a in addresses(), b in addresses(), port_a: u16, port_b: u16,
    ) {
        let (there, direction_there) = FlowKey::new(a, port_a, b, port_b);
        let (back, direction_back) = FlowKey::new(b, port_b, a, port_a);
        prop_assert_eq!(there, back);
        if (a, port_a) != (b, port_b) {
            prop_assert_ne!(direction_there, direction_back);
        }
        let (source, port) = match direction_there {
            LOW_TO_HIGH => (there.low_address, there.low_port),
            HIGH_TO_LOW => (there.high_address, there.high_port),
            other => panic!("no direction: {other}"),
        };
        prop_assert_eq!((source, port), (a, port_a));
    }

    #[test]
    fn two_flows_have_two_keys(
        a in addresses(), b in addresses(), port_a: u16, port_b: u16, other: u16,
    ) {
        prop_assume!(other != port_a && (a, other) != (b, port_b));
        prop_assume!((a, port_a) != (b, port_b));
        let (one, _) = FlowKey::new(a, port_a, b, port_b);
        let (two, _) = FlowKey::new(a, other, b, port_b);
        prop_assert_ne!(one, two);
    }

    #[test]
    fn an_address_keeps_its_octets(octets: [u8; 16]) {
        prop_assert_eq!(Address::v6(octets).octets(), octets);
    }

    #[test]
    fn an_rtt_lies_in_its_bin_and_the_bin_tells_it_within_a_ninth(rtt_us in 80u32..4_194_304) {
        let (lower, upper) = rtt_bin_edges(rtt_bin(rtt_us));
        prop_assert!(lower <= rtt_us && rtt_us < upper);
        let (lower, upper) = (f64::from(lower), f64::from(upper));
        let told = 2.0 * lower * upper / (lower + upper);
        let error = (told - f64::from(rtt_us)).abs() / f64::from(rtt_us);
        prop_assert!(error <= 1.0 / 9.0 + 1e-9, "{rtt_us} us is told as {told}");
    }

    #[test]
    fn a_longer_rtt_is_in_no_lower_bin(a: u32, b: u32) {
        prop_assert!(rtt_bin(a.min(b)) <= rtt_bin(a.max(b)));
    }
}

#[test]
fn an_ipv4_address_is_mapped_into_ipv6() {
    let octets = Address::v4([192, 0, 2, 1]).octets();
    assert_eq!(
        octets,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]
    );
}

#[test]
fn bins_meet_without_a_gap() {
    assert_eq!(rtt_bin_edges(0), (0, 80));
    for bin in 1..RTT_BINS {
        let (lower, upper) = rtt_bin_edges(bin);
        assert_eq!(lower, rtt_bin_edges(bin - 1).1);
        assert_eq!((rtt_bin(lower), rtt_bin(upper - 1)), (bin, bin));
    }
    assert_eq!(rtt_bin_edges(RTT_BINS - 1).1, 1 << 22);
}

#[test]
fn what_is_too_short_or_too_long_is_in_the_outer_bins() {
    assert_eq!((rtt_bin(0), rtt_bin(63)), (0, 0));
    for rtt_us in [(1 << 22) - 1, 1 << 22, u32::MAX] {
        assert_eq!(rtt_bin(rtt_us), RTT_BINS - 1);
    }
}
