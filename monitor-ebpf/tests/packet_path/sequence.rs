//! Wrapping numbers and times.

use monitor_ebpf::{
    select::Settings,
    sequence::{distance, high, low, micros, pack, ticks, ticks_to_micros},
};
use proptest::prelude::*;

use crate::support::tables::SETTINGS;

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
    fn ticks_are_multiplied_and_divided(ticks in prop_oneof![
        any::<u32>(),
        // Where a quotient begins.
        (0u32..u32::MAX / 125, 0u32..2).prop_map(|(whole, off)| whole * 125 + 124 + off),
    ]) {
        let micros = u64::from(ticks) * 1_024 / 1_000;
        prop_assert_eq!(ticks_to_micros(ticks), u32::try_from(micros).unwrap_or(u32::MAX));
    }

    #[test]
    fn the_last_epoch_says_nothing_but_where_to_look_first(
        now_ns in any::<u64>(),
        epoch_ns in prop_oneof![Just(0), 1u64..1 << 40],
        epoch_offset_ns in 0u64..1 << 40,
        last in any::<u32>(),
        near in -2i64..=2,
    ) {
        let settings = Settings { epoch_ns, epoch_offset_ns, ..SETTINGS };
        let time_ns = now_ns.wrapping_add(epoch_offset_ns);
        let epoch = (time_ns / epoch_ns.max(1)) as u32;
        prop_assert_eq!(settings.epoch(now_ns, last), epoch);
        prop_assert_eq!(settings.epoch(now_ns, epoch.wrapping_add(near as u32)), epoch);
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
