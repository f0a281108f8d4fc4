//! Wrapping numbers and times.

use monitor_ebpf::sequence::{distance, high, low, micros, pack, ticks, ticks_to_micros};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn microseconds_are_nanoseconds_divided(ns in prop_oneof![
        any::<u64>(),
        // Where a quotient begins.
        (0u64..u64::MAX / 1_000, 0u64..2).prop_map(|(us, off)| us * 1_000 + 999 + off),
        // Times of captures, since 1970.
        1_000_000_000_000_000_000u64..3_000_000_000_000_000_000,
    ]) {
        prop_assert_eq!(micros(ns), (ns / 1_000) as u32);
    }

    #[test]
    fn a_time_in_ticks_is_short_by_less_than_two(from_ns in 0u64..1 << 60, us in 0u32..1 << 31) {
        let elapsed = ticks(from_ns + u64::from(us) * 1_000).wrapping_sub(ticks(from_ns));
        let told_us = ticks_to_micros(elapsed);
        prop_assert!(told_us.abs_diff(us) <= 2, "{told_us}");
        prop_assert!(ticks_to_micros(elapsed.wrapping_add(1)) >= us);
    }

    #[test]
    fn a_pair_is_two_words(a: u32, b: u32) {
        prop_assert_eq!((high(pack(a, b)), low(pack(a, b))), (a, b));
        prop_assert_eq!(distance(a, a.wrapping_add(b)), b as i32);
    }
}
