//! Retransmissions: how many, and which side of the tap the first copy was lost on.
//!
//! The path's RTT in these tests is 30 ms, so what fills a hole within 15 ms was reordered.

use monitor_ebpf::{
    flow::{GAPS, Half},
    packet::tcp_flags,
};

use crate::support::wire::Wire;

#[derive(Debug, Default, PartialEq, Eq)]
struct Losses {
    retransmitted: u32,
    spurious: u32,
    downstream: u32,
    upstream: u32,
    reordered: u32,
}

fn losses(half: &Half) -> Losses {
    Losses {
        retransmitted: half.retransmitted_segments,
        spurious: half.spurious_segments,
        downstream: half.lost_downstream_segments,
        upstream: half.lost_upstream_segments,
        reordered: half.reordered_segments,
    }
}

/// What the server's data went through.
fn server_losses(wire: &Wire) -> Losses {
    losses(&wire.server_half())
}

/// An established connection whose server starts at `isn`.
fn established_at(isn: u32) -> Wire {
    let mut wire = Wire::new();
    wire.server_isn = isn;
    wire.shaken_hands()
}

/// Initial sequence numbers after which the data of a test cross 2^31 and 2^32.
const ISNS: [u32; 5] = [
    5_000_000,
    0x7fff_ffff - 1_500,
    u32::MAX,
    u32::MAX - 1,
    u32::MAX - 1_500,
];

#[test]
fn seen_once_and_sent_again_was_lost_downstream() {
    for isn in ISNS {
        let mut wire = established_at(isn);
        for index in 0..4 {
            let at_us = 40_000 + index * 100;
            wire.sees(at_us, wire.server().data(index * 1_000, 1_000));
        }
        wire.sees(60_000, wire.client().ack(1_000).sack(&[(2_000, 3_000)]));
        wire.sees(60_100, wire.client().ack(1_000).sack(&[(2_000, 4_000)]));
        wire.sees(70_000, wire.server().data(1_000, 1_000));
        let half = wire.server_half();
        let expected = Losses {
            retransmitted: 1,
            downstream: 1,
            ..Losses::default()
        };
        assert_eq!(losses(&half), expected, "{isn}");
        assert_eq!((half.bytes, half.segments, half.frames), (5_000, 5, 5));
        assert_eq!(half.retransmitted_bytes, 1_000);
        assert_eq!(wire.client_half().duplicate_acks, 1);
        assert_eq!(wire.client_half().dsacks, 0);
    }
}

#[test]
fn a_hole_that_is_filled_late_was_lost_upstream() {
    for isn in ISNS {
        let mut wire = established_at(isn);
        wire.sees(40_000, wire.server().data(0, 1_000));
        wire.sees(40_200, wire.server().data(2_000, 1_000));
        wire.sees(70_000, wire.server().data(1_000, 1_000));
        let expected = Losses {
            retransmitted: 1,
            upstream: 1,
            ..Losses::default()
        };
        assert_eq!(server_losses(&wire), expected, "{isn}");
    }
}

#[test]
fn a_hole_that_is_filled_at_once_was_reordered() {
    for isn in ISNS {
        let mut wire = established_at(isn);
        wire.sees(40_000, wire.server().data(0, 1_000));
        wire.sees(40_200, wire.server().data(2_000, 1_000));
        wire.sees(40_300, wire.server().data(1_000, 1_000));
        let expected = Losses {
            reordered: 1,
            ..Losses::default()
        };
        assert_eq!(server_losses(&wire), expected, "{isn}");
        assert_eq!(wire.server_half().retransmitted_bytes, 0);
    }
}

#[test]
fn half_an_rtt_is_where_reordering_ends() {
    for (age_us, reordered) in [(14_999, 1), (15_000, 0)] {
        let mut wire = Wire::established();
        wire.sees(40_000, wire.server().data(1_000, 1_000));
        wire.sees(40_000 + age_us, wire.server().data(0, 1_000));
        let losses = server_losses(&wire);
        assert_eq!(
            (losses.reordered, losses.upstream),
            (reordered, 1 - reordered)
        );
    }
}

#[test]
fn an_rtt_of_20_ms_is_assumed_while_none_is_known() {
    for (age_us, reordered) in [(9_999, 1), (10_000, 0)] {
        let mut wire = Wire::new();
        wire.sees(0, wire.server().data(0, 1_000));
        wire.sees(1_000, wire.client().ack(0));
        wire.sees(2_000, wire.server().data(2_000, 1_000));
        wire.sees(2_000 + age_us, wire.server().data(1_000, 1_000));
        let losses = server_losses(&wire);
        assert_eq!(
            (losses.reordered, losses.upstream),
            (reordered, 1 - reordered)
        );
    }
}

#[test]
fn what_waited_for_a_timer_does_not_stretch_the_rtt_that_holes_are_judged_by() {
    let mut wire = Wire::established();
    for index in 0..3 {
        // The ACK is lost, and the next one comes with the sender's timer.
        let at_us = 40_000 + index * 1_000_000;
        wire.sees(at_us, wire.server().data(index * 1_000, 1_000));
        wire.sees(at_us + 900_000, wire.client().ack((index + 1) * 1_000));
    }
    wire.sees(4_000_000, wire.server().data(4_000, 1_000));
    wire.sees(4_031_000, wire.server().data(3_000, 1_000));
    assert_eq!(server_losses(&wire).upstream, 1);
}

#[test]
fn a_syn_ack_that_was_lost_before_us_does_not_stretch_it_either() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    // The server's second copy, after a second.
    wire.sees(1_030_000, wire.server().syn_ack());
    wire.sees(1_050_000, wire.client().ack(0));
    assert_eq!(wire.server_half().handshake_rtt_us, 1_030_000);
    wire.sees(1_060_000, wire.client().data(0, 100));
    wire.sees(1_084_000, wire.server().data(0, 1_000).ack(100));
    wire.sees(1_104_000, wire.client().data(100, 0).ack(1_000));
    wire.sees(1_110_000, wire.server().data(2_000, 1_000).ack(100));
    wire.sees(1_151_000, wire.server().data(1_000, 1_000).ack(100));
    assert_eq!(server_losses(&wire).upstream, 1);
}

#[test]
fn a_queue_stretches_the_rtt_that_holes_are_judged_by() {
    let mut wire = Wire::established();
    for index in 0..30 {
        let at_us = 40_000 + index * 200_000;
        wire.sees(at_us, wire.server().data(index * 1_000, 1_000));
        wire.sees(at_us + 150_000, wire.client().ack((index + 1) * 1_000));
    }
    wire.sees(7_000_000, wire.server().data(31_000, 1_000));
    wire.sees(7_050_000, wire.server().data(30_000, 1_000));
    assert_eq!(server_losses(&wire).reordered, 1);
}

#[test]
fn data_that_were_acknowledged_already_were_sent_for_nothing() {
    for isn in ISNS {
        let mut wire = established_at(isn);
        wire.sees(40_000, wire.server().data(0, 1_000));
        wire.sees(40_100, wire.server().data(1_000, 1_000));
        wire.sees(60_000, wire.client().ack(2_000));
        wire.sees(61_000, wire.server().data(1_000, 1_000));
        let expected = Losses {
            retransmitted: 1,
            spurious: 1,
            ..Losses::default()
        };
        assert_eq!(server_losses(&wire), expected, "{isn}");
    }
}

#[test]
fn a_duplicate_sack_tells_of_data_received_twice() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(40_100, wire.server().data(1_000, 1_000));
    wire.sees(300_000, wire.server().data(0, 1_000));
    wire.sees(320_000, wire.client().ack(2_000));
    // Below the ACK (RFC 2883, 4.1).
    wire.sees(320_100, wire.client().ack(2_000).sack(&[(0, 1_000)]));
    assert_eq!(wire.client_half().dsacks, 1);
}

#[test]
fn a_duplicate_sack_within_the_second_block() {
    let mut wire = Wire::established();
    for index in 0..5 {
        wire.sees(40_000, wire.server().data(index * 1_000, 1_000));
    }
    // RFC 2883, 4.2.
    let ack = wire.client().ack(1_000);
    wire.sees(60_000, ack.sack(&[(3_000, 4_000), (2_000, 5_000)]));
    assert_eq!(wire.client_half().dsacks, 1);
    // Two blocks beside each other report nothing twice.
    let ack = wire.client().ack(1_000);
    wire.sees(60_000, ack.sack(&[(4_000, 5_000), (2_000, 3_000)]));
    assert_eq!(wire.client_half().dsacks, 1);
}

#[test]
fn a_duplicate_sack_of_several_segments_counts_them() {
    for isn in ISNS {
        let mut wire = established_at(isn);
        wire.sees(40_000, wire.server().data(0, 4_344).gso(1_448, 3));
        wire.sees(60_000, wire.client().ack(4_344));
        wire.sees(61_000, wire.client().ack(4_344).sack(&[(1_448, 4_344)]));
        assert_eq!(wire.client_half().dsacks, 2, "{isn}");
    }
}

#[test]
fn a_super_packet_sent_again_counts_its_segments() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 4_344).gso(1_448, 3));
    wire.sees(300_000, wire.server().data(0, 4_344).gso(1_448, 3));
    let half = wire.server_half();
    assert_eq!((half.retransmitted_segments, half.segments), (3, 6));
    assert_eq!((half.frames, half.retransmitted_bytes), (2, 4_344));
}

#[test]
fn a_retransmission_merged_with_new_data_counts_only_itself() {
    // As GRO does on the way to a receiver.
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_448));
    wire.sees(300_000, wire.server().data(0, 4_344).gso(1_448, 3));
    let half = wire.server_half();
    assert_eq!((half.retransmitted_segments, half.segments), (1, 4));
    assert_eq!(half.retransmitted_bytes, 1_448);
    // The new part is known from now on.
    wire.sees(300_100, wire.server().data(4_344, 1_448));
    assert_eq!(wire.server_half().retransmitted_segments, 1);
}

#[test]
fn a_hole_is_filled_in_pieces() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(3_000, 1_000));
    for (index, offset) in [1_000, 0, 2_000].into_iter().enumerate() {
        wire.sees(70_000 + index as u32, wire.server().data(offset, 1_000));
    }
    let losses = server_losses(&wire);
    assert_eq!((losses.upstream, losses.downstream), (3, 0));
    // None of it is open any more.
    wire.sees(110_000, wire.server().data(1_000, 1_000));
    assert_eq!(server_losses(&wire).downstream, 1);
}

#[test]
fn a_packet_that_begins_before_a_hole_closes_it_too() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(40_200, wire.server().data(2_000, 1_000));
    // Seen here in part: lost beyond us.
    wire.sees(70_000, wire.server().data(500, 1_500));
    let losses = server_losses(&wire);
    assert_eq!((losses.upstream, losses.downstream), (0, 1));
    // The rest of the hole was seen with it, so that this was lost beyond us too.
    wire.sees(110_000, wire.server().data(1_000, 1_000));
    let losses = server_losses(&wire);
    assert_eq!((losses.upstream, losses.downstream), (0, 2));
}

#[test]
fn what_was_sent_after_a_hole_opened_was_lost_upstream_however_soon_it_comes() {
    // The timestamps say so: 7 was sent after 6, and only 1 ms later.
    let mut wire = Wire::established();
    for (at_us, offset, tsval) in [(40_000, 0, 5), (40_100, 2_000, 6), (41_000, 1_000, 7)] {
        let packet = wire.server().data(offset, 1_000).timestamps(tsval, 1);
        wire.sees(at_us, packet);
    }
    let losses = server_losses(&wire);
    assert_eq!((losses.upstream, losses.reordered), (1, 0));
}

#[test]
fn what_was_sent_before_a_hole_opened_was_reordered_however_late_it_comes() {
    let mut wire = Wire::established();
    for (at_us, offset, tsval) in [(40_000, 0, 5), (40_100, 2_000, 6), (900_000, 1_000, 6)] {
        let packet = wire.server().data(offset, 1_000).timestamps(tsval, 1);
        wire.sees(at_us, packet);
    }
    let losses = server_losses(&wire);
    assert_eq!((losses.upstream, losses.reordered), (0, 1));
}

#[test]
fn a_clock_that_steps_back_opens_no_old_hole() {
    // Two capture queues, or two CPUs: the hole is filled before it was seen.
    let mut wire = Wire::established();
    wire.sees(40_100, wire.server().data(1_000, 1_000));
    wire.sees(40_000, wire.server().data(0, 1_000));
    let losses = server_losses(&wire);
    assert_eq!((losses.upstream, losses.reordered), (0, 1));
}

#[test]
fn without_sack_only_what_the_ack_waits_for_was_lost() {
    // After a timeout the sender goes back and sends the rest again too.
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(10_000, wire.server().syn_ack());
    wire.sees(30_000, wire.client().ack(0));
    for offset in [0, 1_000, 2_000] {
        wire.sees(40_000, wire.server().data(offset, 1_000));
    }
    for offset in [0, 1_000, 2_000] {
        wire.sees(300_000, wire.server().data(offset, 1_000));
    }
    let losses = server_losses(&wire);
    assert_eq!((losses.downstream, losses.spurious), (1, 2));
}

/// As many holes of 1,000 as are remembered, and `more`.
fn with_holes(more: u32) -> Wire {
    let mut wire = Wire::established();
    for hole in 0..GAPS as u32 + more {
        let data = wire.server().data(1_000 + hole * 2_000, 1_000);
        wire.sees(40_000, data.timestamps(10, 1));
    }
    wire
}

#[test]
fn more_holes_than_are_remembered_are_counted() {
    let holes = GAPS as u32 + 1;
    let mut wire = with_holes(1);
    assert_eq!(wire.server_half().gaps_overflowed, 1);
    for hole in 0..holes {
        let data = wire.server().data(hole * 2_000, 1_000);
        wire.sees(80_000, data.timestamps(50, 1));
    }
    let losses = server_losses(&wire);
    assert_eq!(losses.retransmitted, holes);
    assert_eq!(losses.upstream, GAPS as u32);
}

#[test]
fn what_fills_a_forgotten_hole_and_was_sent_earlier_was_not_lost() {
    let mut wire = with_holes(1);
    let data = wire.server().data(GAPS as u32 * 2_000, 1_000);
    wire.sees(41_000, data.timestamps(9, 1));
    let losses = server_losses(&wire);
    assert_eq!((losses.retransmitted, losses.reordered), (0, 1));
}

#[test]
fn a_hole_that_was_acknowledged_makes_room() {
    // Its data took another way.
    let mut wire = with_holes(0);
    let end = GAPS as u32 * 2_000;
    wire.sees(60_000, wire.client().ack(end));
    let data = wire.server().data(end + 1_000, 1_000);
    wire.sees(61_000, data.timestamps(31, 1));
    assert_eq!(wire.server_half().gaps_overflowed, 0);
    let data = wire.server().data(end, 1_000);
    wire.sees(90_000, data.timestamps(60, 1));
    assert_eq!(server_losses(&wire).upstream, 1);
}

#[test]
fn the_sequence_of_a_whole_turn_is_followed() {
    // 6 GB: more than once around.
    let mut wire = Wire::established();
    let len = 60_000_000;
    let mut offset = 0u32;
    for index in 0..100 {
        let at_us = 40_000 + index * 30_000;
        wire.sees(at_us, wire.server().data(offset, len));
        offset = offset.wrapping_add(len);
        wire.sees(at_us + 20_000, wire.client().ack(offset));
    }
    assert_eq!(server_losses(&wire), Losses::default());
    let half = wire.client_half();
    assert_eq!(half.acked_bytes, 6_000_000_001);
    assert_eq!((half.rtt_samples, half.bursts), (101, 100));
    assert_eq!(wire.server_half().gaps_overflowed, 0);
}

#[test]
fn keep_alives_are_probes() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    // One old byte, or none (Linux).
    wire.sees(9_000_000, wire.server().data(999, 1));
    wire.sees(18_000_000, wire.server().data(999, 0));
    wire.sees(18_020_000, wire.client().ack(1_000));
    assert_eq!(server_losses(&wire), Losses::default());
    assert_eq!(wire.server_half().probes, 2);
    assert_eq!(wire.server_half().bytes, 1_000);
    assert_eq!(wire.client_half().duplicate_acks, 0);
}

#[test]
fn zero_window_probes_are_probes() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000).window(0));
    // Linux sends the byte before the next, without its payload.
    wire.sees(260_000, wire.server().data(999, 0));
    wire.sees(280_000, wire.client().ack(1_000).window(0));
    wire.sees(660_000, wire.server().data(999, 0));
    wire.sees(680_000, wire.client().ack(1_000).window(0));
    // The window opens, and what follows is new.
    wire.sees(700_000, wire.client().ack(1_000));
    wire.sees(701_000, wire.server().data(1_000, 1_000));
    assert_eq!(server_losses(&wire), Losses::default());
    assert_eq!(wire.server_half().probes, 2);
}

#[test]
fn zero_window_probes_with_the_next_byte_are_probes() {
    // As BSD and its descendants send them (RFC 9293, 3.8.6.1).
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000).window(0));
    wire.sees(260_000, wire.server().data(1_000, 1));
    wire.sees(280_000, wire.client().ack(1_000).window(0));
    wire.sees(660_000, wire.server().data(1_000, 1));
    wire.sees(680_000, wire.client().ack(1_000).window(0));
    wire.sees(700_000, wire.client().ack(1_000));
    wire.sees(701_000, wire.server().data(1_000, 1_000));
    assert_eq!(server_losses(&wire), Losses::default());
    assert_eq!(wire.server_half().probes, 2);
}

#[test]
fn a_fin_sent_again_is_one_segment() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    wire.sees(61_000, wire.server().fin(1_000));
    wire.sees(300_000, wire.server().fin(1_000));
    let half = wire.server_half();
    assert_eq!((half.retransmitted_segments, half.segments), (1, 1));
    assert_eq!(half.retransmitted_bytes, 0);
}

#[test]
fn the_last_data_sent_again_with_their_fin_are_one_segment() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().fin(0).payload(1_000));
    wire.sees(300_000, wire.server().fin(0).payload(1_000));
    let half = wire.server_half();
    assert_eq!((half.retransmitted_segments, half.segments), (1, 2));
    assert_eq!(half.retransmitted_bytes, 1_000);
}

#[test]
fn a_syn_sent_again_is_no_segment() {
    let mut wire = Wire::established();
    wire.sees(1_000_000, wire.client().syn());
    wire.sees(1_010_000, wire.server().syn_ack());
    assert_eq!(losses(&wire.client_half()), Losses::default());
    assert_eq!(server_losses(&wire), Losses::default());
}

#[test]
fn what_our_own_queue_refused_was_never_sent() {
    let mut wire = Wire::established();
    let number = |wire: &Wire, offset: u32| wire.server_isn.wrapping_add(1).wrapping_add(offset);
    let snd_nxt = number(&wire, 0);
    wire.sends(40_000, wire.server().data(0, 1_448), snd_nxt);
    let snd_nxt = number(&wire, 1_448);
    let large = wire.server().data(1_448, 2_896).gso(1_448, 2);
    wire.sends(40_100, large.clone(), snd_nxt);
    // NET_XMIT_DROP: snd_nxt stays, and the same data are offered once more.
    wire.sends(41_000, large, snd_nxt);
    let half = wire.server_half();
    assert_eq!(losses(&half), Losses::default());
    assert_eq!((half.bytes, half.segments), (4_344, 3));
    assert_eq!(half.refused_segments, 2);
    // A real retransmission comes from below snd_nxt.
    let snd_nxt = number(&wire, 4_344);
    wire.sends(300_000, wire.server().data(0, 1_448), snd_nxt);
    assert_eq!(server_losses(&wire).retransmitted, 1);
}

#[test]
fn a_refused_fin_is_no_byte() {
    let mut wire = Wire::established();
    let snd_nxt = wire.server_isn.wrapping_add(1);
    let last = wire.server().fin(0).payload(1_448);
    wire.sends(40_000, last.clone(), snd_nxt);
    wire.sends(41_000, last, snd_nxt);
    let half = wire.server_half();
    assert_eq!((half.bytes, half.segments), (1_448, 1));
    assert_eq!(half.refused_segments, 1);
    assert_eq!(losses(&half), Losses::default());
}

#[test]
fn an_old_ack_changes_nothing() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    let before = wire.client_half();
    wire.sees(61_000, wire.client().ack(500).sack(&[(0, 100)]));
    let after = Half {
        last_seen_ns: before.last_seen_ns,
        ..wire.client_half()
    };
    assert_eq!(after, before);
}

#[test]
fn a_reset_is_neither_data_nor_an_ack() {
    let mut wire = Wire::established();
    let reset = wire.server().data(0, 20).ack(50);
    wire.sees(40_000, reset.flags(tcp_flags::RST | tcp_flags::ACK));
    let half = wire.server_half();
    assert_eq!((half.bytes, half.segments), (0, 0));
    // The SYN, by the SYN-ACK.
    assert_eq!(half.acked_bytes, 1);
}
