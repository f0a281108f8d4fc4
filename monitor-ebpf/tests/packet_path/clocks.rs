//! The clocks of timestamps: how coarse they are, and that none makes an RTT too short.

use proptest::prelude::*;

use crate::support::{
    tables::Seen,
    wire::{OTHER_HOOK, Wire, time_ns},
};

/// The client says something every `every_us` until `end_us`, stamped by a clock of `clock_us`
/// that began at `base`, over a queue that fills to `queue_us` and drains, again and again.
fn talks(clock_us: u32, base: u32, every_us: u32, end_us: u32, queue_us: u32) -> Wire {
    let mut wire = Wire::established();
    let mut at_us = 40_000;
    let mut sent = 0;
    while at_us < end_us {
        let phase = sent % 200;
        let late_us = queue_us / 100 * phase.min(200 - phase);
        let stamp = base.wrapping_add(at_us / clock_us);
        let packet = wire.client().data(sent, 1).timestamps(stamp, 7);
        wire.sees(at_us + late_us, packet);
        sent += 1;
        at_us += every_us;
    }
    wire
}

#[test]
fn every_clock_is_recognised_after_a_second() {
    for clock_us in [1, 1_000, 4_000, 10_000, 500_000] {
        for base in [0, u32::MAX - 10] {
            let wire = talks(clock_us, base, 7_000, 3_000_000, 0);
            let learned = wire.client_half().stamp_granularity_us();
            assert_eq!(learned, Some(clock_us), "{base}");
            // The other side has no timestamps.
            assert_eq!(wire.server_half().stamp_granularity_us(), None);
            let soon = talks(clock_us, base, 7_000, 1_000_000, 0);
            assert_eq!(soon.client_half().stamp_granularity_us(), None);
        }
    }
}

#[test]
fn a_queue_does_not_bend_a_clock() {
    for clock_us in [1, 1_000, 4_000, 10_000] {
        let wire = talks(clock_us, 99, 5_000, 9_000_000, 60_000);
        let learned = wire.client_half().stamp_granularity_us();
        assert_eq!(learned, Some(clock_us));
    }
}

#[test]
fn a_clock_like_no_other_is_told_as_measured() {
    let wire = talks(25_000, 0, 5_000, 9_000_000, 0);
    let learned = wire.client_half().stamp_granularity_us().expect("a clock");
    assert!((24_000..=26_000).contains(&learned), "{learned}");
}

#[test]
fn a_long_pause_and_the_turn_of_a_clock_do_not_confuse() {
    // 2 h: more than a turn of a clock of µs, and of the tracker's times.
    let mut wire = talks(1, 0, 7_000, 3_000_000, 0);
    for index in 0..2_000u32 {
        let at_us = 7_200_000_000u64 + u64::from(index) * 5_000;
        let packet = wire.client().data(10_000 + index, 1);
        wire.sees_with(0, packet.timestamps(at_us as u32, 7), |seen| {
            seen.time_ns = time_ns(0) + at_us * 1_000;
            seen.coarse_ns = seen.time_ns;
        });
    }
    assert_eq!(wire.client_half().stamp_granularity_us(), Some(1));
}

#[test]
fn a_stamp_that_was_already_under_way_when_we_came_measures_nothing() {
    // A clock of 10 ms. The tap misses the first packet with the value 50.
    let mut wire = Wire::new();
    wire.sees(0, wire.server().data(0, 1_000).timestamps(900, 49));
    wire.sees(4_000, wire.client().ack(0).timestamps(50, 900));
    wire.sees(4_100, wire.server().data(1_000, 1_000).timestamps(901, 49));
    wire.sees(4_200, wire.client().ack(1_000).timestamps(50, 901));
    // The answer to the one that was missed.
    wire.sees(6_000, wire.server().data(2_000, 1_000).timestamps(902, 50));
    assert_eq!(wire.server_half().rtt_timestamp_samples, 0);
}

#[test]
fn an_echo_of_a_later_stamp_measures_nothing() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000).timestamps(900, 1));
    wire.sees(40_100, wire.server().data(1_000, 1_000).timestamps(900, 1));
    wire.sees(60_000, wire.client().ack(0).timestamps(3, 900));
    wire.sees(61_000, wire.client().ack(1_000).timestamps(4, 900));
    wire.sees(95_000, wire.client().ack(1_000).timestamps(5, 900));
    // Whichever of the three let it go, it was not the one that is timed.
    wire.sees(100_000, wire.server().data(2_000, 1_000).timestamps(901, 5));
    assert_eq!(wire.server_half().rtt_timestamp_samples, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A client beside the tap acknowledges what a server `rtt_us` away sends at every ACK, and
    /// the tap may begin anywhere.
    #[test]
    fn no_clock_makes_an_rtt_shorter_than_its_path(
        clock_us in prop_oneof![Just(1u32), Just(1_000), Just(4_000), Just(10_000), 1u32..50_000],
        base: u32,
        phase_us in 0u32..50_000,
        rtt_us in 500u32..50_000,
        every_us in 100u32..5_000,
        missed in 0usize..60,
    ) {
        let mut wire = Wire::new();
        let stamp = |at_us: u32| base.wrapping_add((at_us + phase_us) / clock_us);
        let mut packets = Vec::new();
        for index in 0..200u32 {
            let at_us = index * every_us;
            let client = wire.client().ack(index * 1_000);
            packets.push((at_us, client.timestamps(stamp(at_us), index)));
            // More is under way than is acknowledged, always.
            let server = wire.server().data((index + 50) * 1_000, 1_000);
            packets.push((at_us + rtt_us, server.timestamps(index, stamp(at_us))));
        }
        packets.sort_by_key(|&(at_us, _)| at_us);
        for (at_us, packet) in packets.drain(missed..) {
            wire.sees(at_us, packet);
        }
        let half = wire.server_half();
        if half.rtt_timestamp_samples > 0 {
            let shortest_us = [half.rtt_current, half.rtt_previous]
                .iter()
                .filter(|epoch| epoch.rtt_max_us != 0)
                .map(|epoch| epoch.rtt_min_us)
                .min();
            prop_assert!(shortest_us >= Some(rtt_us), "{shortest_us:?}");
            // No reordering, no loss: nor longer.
            let longest_us = half.rtt_current.rtt_max_us.max(half.rtt_previous.rtt_max_us);
            prop_assert_eq!(longest_us, rtt_us);
        }
    }
}

/// The kernel's coarse clock stands still between two ticks, and some packets have the precise
/// time: a flow's time does not run backwards.
#[test]
fn packets_within_a_tick_come_one_after_the_other() {
    let mut wire = Wire::established();
    let lagging = |seen: &mut Seen| seen.coarse_ns = time_ns(40_000);
    wire.sees_with(43_000, wire.server().data(0, 1_000), lagging);
    wire.sees_with(43_200, wire.client().ack(1_000), lagging);
    // A sample begins: here the clock is read.
    wire.sees_with(43_400, wire.server().data(1_000, 1_000), lagging);
    assert_eq!(wire.server_half().last_seen_ns, time_ns(43_400));
    wire.sees_with(43_401, wire.server().data(1_000, 1_000), |seen| {
        lagging(seen);
        seen.hook = OTHER_HOOK;
    });
    let server = wire.server_half();
    assert_eq!((server.frames, server.seen_elsewhere), (2, 1));
    // Sent again at once, for whatever reason, but not by a timer.
    wire.sees_with(43_900, wire.server().data(1_000, 1_000), lagging);
    let server = wire.server_half();
    assert_eq!(server.retransmitted_segments, 1);
    assert_eq!(
        (server.tail_loss_probes, server.retransmission_timeouts),
        (0, 0)
    );
    // Nor was it silent for so long that an ACK of anything is believed.
    let acked_bytes = wire.client_half().acked_bytes;
    wire.sees_with(43_950, wire.client().ack(20_000_000), lagging);
    assert_eq!(wire.client_half().acked_bytes, acked_bytes);
}
