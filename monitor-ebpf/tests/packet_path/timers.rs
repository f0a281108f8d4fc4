//! Tail-loss probes and retransmission timeouts.
//!
//! The path's RTT in these tests is 30 ms: a probe goes after 60 ms (45 ms, as the tap knows it),
//! of a lone segment after 260 ms; a timeout takes 200 ms.

use crate::support::wire::Wire;

/// `(probes, timeouts)` of the server.
fn timers(wire: &Wire) -> (u16, u16) {
    let half = wire.server_half();
    (half.tail_loss_probes, half.retransmission_timeouts)
}

/// The server has sent five segments, from 40 ms on.
fn five_sent() -> Wire {
    let mut wire = Wire::established();
    for index in 0..5 {
        let at_us = 40_000 + index * 100;
        wire.sees(at_us, wire.server().data(index * 1_000, 1_000));
    }
    wire
}

#[test]
fn the_last_segment_again_after_two_rtts_is_a_probe() {
    let mut wire = five_sent();
    wire.sees(100_500, wire.server().data(4_000, 1_000));
    assert_eq!(timers(&wire), (1, 0));
    assert_eq!(wire.server_half().retransmitted_segments, 1);
}

#[test]
fn a_probe_waits_from_the_last_ack_on() {
    let mut wire = five_sent();
    wire.sees(60_000, wire.client().ack(2_000));
    wire.sees(100_500, wire.server().data(4_000, 1_000));
    assert_eq!(timers(&wire), (0, 0));
    let mut wire = five_sent();
    wire.sees(60_000, wire.client().ack(2_000));
    wire.sees(121_000, wire.server().data(4_000, 1_000));
    assert_eq!(timers(&wire), (1, 0));
}

#[test]
fn the_last_segment_again_within_an_rtt_and_a_half_is_no_probe() {
    let mut wire = five_sent();
    wire.sees(85_000, wire.server().data(4_000, 1_000));
    assert_eq!(timers(&wire), (0, 0));
    // The network's own copy.
    let mut wire = five_sent();
    wire.sees(40_410, wire.server().data(4_000, 1_000));
    assert_eq!(timers(&wire), (0, 0));
}

#[test]
fn the_first_segment_again_after_200_ms_of_silence_is_a_timeout() {
    let mut wire = five_sent();
    wire.sees(60_000, wire.client().ack(2_000));
    wire.sees(260_000, wire.server().data(2_000, 1_000));
    assert_eq!(timers(&wire), (0, 1));
    // It was lost, too: twice the time.
    wire.sees(680_000, wire.server().data(2_000, 1_000));
    assert_eq!(timers(&wire), (0, 2));
    // What goes on when an ACK comes waited for nothing.
    wire.sees(700_000, wire.client().ack(3_000));
    wire.sees(710_000, wire.server().data(3_000, 1_000));
    assert_eq!(timers(&wire), (0, 2));
    assert_eq!(wire.server_half().retransmitted_segments, 3);
}

#[test]
fn a_timeout_after_a_probe_that_was_lost_too() {
    let mut wire = five_sent();
    wire.sees(100_500, wire.server().data(4_000, 1_000));
    wire.sees(330_000, wire.server().data(0, 1_000));
    assert_eq!(timers(&wire), (1, 1));
}

#[test]
fn a_retransmission_that_acks_ask_for_is_neither() {
    let mut wire = five_sent();
    for end in [3_000, 4_000, 5_000] {
        wire.sees(60_000 + end, wire.client().ack(1_000).sack(&[(2_000, end)]));
    }
    wire.sees(75_000, wire.server().data(1_000, 1_000));
    assert_eq!(timers(&wire), (0, 0));
    // However late they are, if the path got slower by half a second.
    let mut wire = five_sent();
    for end in [3_000, 4_000, 5_000] {
        let at_us = 560_000 + end;
        wire.sees(at_us, wire.client().ack(1_000).sack(&[(2_000, end)]));
    }
    wire.sees(575_000, wire.server().data(1_000, 1_000));
    assert_eq!(timers(&wire), (0, 0));
}

#[test]
fn a_timeout_waits_for_the_rtt_and_four_times_its_variation() {
    // From 30 ms with a variation of 15 ms to 150 ms and more.
    let mut wire = Wire::established();
    let mut offset = 0;
    for index in 0..40 {
        let at_us = 1_000_000 + index * 1_000_000;
        wire.sees(at_us, wire.server().data(offset, 1_000));
        offset += 1_000;
        wire.sees(at_us + 300_000, wire.client().ack(offset));
    }
    wire.sees(50_000_000, wire.server().data(offset, 1_000));
    wire.sees(50_000_100, wire.server().data(offset + 1_000, 1_000));
    wire.sees(50_000_200, wire.server().data(offset + 2_000, 1_000));
    // A fast retransmission's time, though no ACK was seen.
    wire.sees(50_340_000, wire.server().data(offset, 1_000));
    assert_eq!(timers(&wire), (0, 0));
    wire.sees(50_800_000, wire.server().data(offset, 1_000));
    assert_eq!(timers(&wire), (0, 1));
}

#[test]
fn a_lone_segment_is_probed_first_and_times_out_then() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(300_000, wire.server().data(0, 1_000));
    assert_eq!(timers(&wire), (1, 0));
    wire.sees(600_000, wire.server().data(0, 1_000));
    wire.sees(1_200_000, wire.server().data(0, 1_000));
    assert_eq!(timers(&wire), (1, 2));
}

#[test]
fn a_lone_segment_that_waits_longer_than_any_probe_timed_out() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(1_040_000, wire.server().data(0, 1_000));
    assert_eq!(timers(&wire), (0, 1));
}

#[test]
fn a_super_packets_first_segment_again_is_a_timeout() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 4_344).gso(1_448, 3));
    wire.sees(300_000, wire.server().data(0, 1_448));
    assert_eq!(timers(&wire), (0, 1));
}

#[test]
fn a_second_is_waited_for_while_no_rtt_is_known() {
    for (silence_us, expected) in [(900_000, (0, 0)), (1_000_000, (0, 1))] {
        let mut wire = Wire::new();
        wire.sees(0, wire.server().data(0, 1_000));
        wire.sees(1_000, wire.client().ack(0));
        wire.sees(2_000, wire.server().data(1_000, 1_000));
        wire.sees(3_000 + silence_us, wire.server().data(0, 1_000));
        assert_eq!(timers(&wire), expected);
    }
}

#[test]
fn without_an_ack_nothing_is_first() {
    let mut wire = Wire::new();
    for index in 0..70 {
        wire.sees(index, wire.server().data(index * 1_000, 1_000));
    }
    wire.sees(2_000_000, wire.server().data(0, 1_000));
    assert_eq!(timers(&wire), (0, 0));
}

#[test]
fn a_hole_filled_after_200_ms_of_silence_is_a_timeout() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(1_000, 1_000));
    wire.sees(60_000, wire.client().ack(0).sack(&[(1_000, 2_000)]));
    wire.sees(262_000, wire.server().data(0, 1_000));
    assert_eq!(timers(&wire), (0, 1));
    assert_eq!(wire.server_half().lost_upstream_segments, 1);
}

#[test]
fn syns_sent_again_are_counted_apart() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(1_000_000, wire.client().syn());
    wire.sees(3_000_000, wire.client().syn());
    wire.sees(3_010_000, wire.server().syn_ack());
    wire.sees(4_010_000, wire.server().syn_ack());
    wire.sees(4_030_000, wire.client().ack(0));
    assert_eq!(wire.client_half().syns_retransmitted, 2);
    assert_eq!(wire.server_half().syns_retransmitted, 1);
    assert_eq!(wire.client_half().retransmission_timeouts, 0);
}

#[test]
fn syns_that_meet_are_sent_once() {
    // Simultaneous open (RFC 9293, 3.5).
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(5_000, wire.server().syn());
    wire.sees(10_000, wire.client().syn_ack());
    wire.sees(20_000, wire.server().syn_ack());
    wire.sees(40_000, wire.client().data(0, 100));
    for half in [wire.client_half(), wire.server_half()] {
        assert_eq!(
            (half.syns_retransmitted, half.retransmitted_segments),
            (0, 0)
        );
    }
    assert_eq!(wire.client_half().bytes, 100);
}
