//! What broken, hostile and unusual senders put on the wire, and it must not lead astray.

use monitor_ebpf::{flow::half_flags as is, packet::tcp_flags};

use crate::support::wire::Wire;

#[test]
fn an_ack_far_beyond_anything_sent_is_not_believed() {
    // 1,000 is the window that the handshake gave.
    for beyond in [1_500, 20_000_000, 0x4000_0000, 0x7fff_0000] {
        let mut wire = Wire::established();
        wire.sees(40_000, wire.server().data(0, 1_000));
        wire.sees(60_000, wire.client().ack(1_000 + beyond));
        let client = wire.client_half();
        // Of the SYN only.
        assert_eq!((client.acked_bytes, client.rtt_samples), (1, 1), "{beyond}");
        wire.sees(61_000, wire.client().ack(1_000));
        wire.sees(62_000, wire.server().data(1_000, 1_000));
        wire.sees(82_000, wire.client().ack(2_000));
        assert_eq!(wire.client_half().acked_bytes, 2_001);
        assert_eq!(wire.server_half().spurious_segments, 0);
    }
}

#[test]
fn an_ack_of_what_the_tap_missed_is_believed() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 500));
    // The tap misses 500 bytes, within the window.
    wire.sees(60_000, wire.client().ack(1_000));
    assert_eq!(wire.client_half().acked_bytes, 1_001);
    // Then far more: the next data show it, and the ACK after them.
    wire.sees(70_000, wire.server().data(3_000_000, 500));
    wire.sees(90_000, wire.client().ack(3_000_500));
    assert_eq!(wire.client_half().acked_bytes, 3_000_501);
}

#[test]
fn acks_of_data_that_take_another_way_are_believed() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(10_000, wire.server().syn_ack());
    for index in 1..100 {
        wire.sees(10_000 + index, wire.client().ack(index * 1_000_000));
    }
    assert_eq!(wire.client_half().acked_bytes, 99_000_001);
    // Some were seen, and then the route changed.
    wire.sees(20_000, wire.server().data(99_000_000, 1_000));
    wire.sees(6_000_000, wire.client().ack(200_000_000));
    assert_eq!(wire.client_half().acked_bytes, 200_000_001);
}

#[test]
fn a_reset_from_beyond_any_window_ends_nothing() {
    for off in [20_000_000, 0x7fff_0000, 0x8000_0000, 0xf000_0000] {
        let mut wire = Wire::established();
        wire.sees(40_000, wire.server().data(0, 1_000));
        let reset = wire.server().data(1_000u32.wrapping_add(off), 0);
        wire.sees(41_000, reset.flags(tcp_flags::RST));
        assert!(!wire.server_half().has(is::RST), "{off}");
        wire.sees(42_000, wire.server().data(1_000, 0).flags(tcp_flags::RST));
        assert!(wire.server_half().has(is::RST));
    }
}

#[test]
fn who_goes_on_sending_was_not_reset() {
    // Forged within the window, and refused by a challenge ACK (RFC 5961, 3).
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(41_000, wire.server().data(1_500, 0).flags(tcp_flags::RST));
    assert!(wire.server_half().has(is::RST));
    wire.sees(41_500, wire.client().ack(1_000));
    wire.sees(61_000, wire.server().data(1_000, 1_000));
    assert!(!wire.server_half().has(is::RST));
    assert_eq!(wire.server_half().bytes, 2_000);
}

#[test]
fn a_fin_again_and_again_reports_once() {
    let mut wire = Wire::established();
    wire.tables.take_reports();
    for index in 0..20 {
        wire.sees(40_000 + index * 1_000, wire.server().fin(0));
    }
    assert_eq!(wire.tables.take_reports().len(), 1);
}

#[test]
fn a_retransmission_cut_into_other_segments_counts_those_it_is_cut_into() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_448));
    wire.sees(40_100, wire.server().data(1_448, 1_448));
    for (index, offset) in [0, 536, 1_072].into_iter().enumerate() {
        let at_us = 300_000 + index as u32 * 1_000;
        wire.sees(at_us, wire.server().data(offset, 536));
    }
    let half = wire.server_half();
    assert_eq!((half.retransmitted_segments, half.segments), (3, 5));
    assert_eq!(half.retransmitted_bytes, 1_608);
}

#[test]
fn a_retransmission_that_takes_new_data_along_is_half_new() {
    // Linux fills a small segment up when it sends it again (`tcp_retrans_try_collapse`).
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 100));
    wire.sees(300_000, wire.server().data(0, 1_000));
    let half = wire.server_half();
    assert_eq!(
        (half.retransmitted_segments, half.retransmitted_bytes),
        (1, 100)
    );
    wire.sees(320_000, wire.client().ack(1_000));
    wire.sees(321_000, wire.server().data(1_000, 1_000));
    let half = wire.server_half();
    assert_eq!((half.retransmitted_segments, half.segments), (1, 3));
    assert_eq!(wire.client_half().acked_bytes, 1_001);
}

#[test]
fn what_a_receiver_takes_back_is_lost_once_more() {
    // It reported 2,000 to 4,000 as received, and drops them (RFC 2018, 8).
    let mut wire = Wire::established();
    for index in 0..4 {
        wire.sees(40_000 + index, wire.server().data(index * 1_000, 1_000));
    }
    wire.sees(60_000, wire.client().ack(1_000).sack(&[(2_000, 4_000)]));
    wire.sees(70_000, wire.server().data(1_000, 1_000));
    wire.sees(90_000, wire.client().ack(2_000));
    wire.sees(400_000, wire.server().data(2_000, 1_000));
    wire.sees(420_000, wire.client().ack(3_000));
    wire.sees(421_000, wire.server().data(3_000, 1_000));
    wire.sees(441_000, wire.client().ack(4_000));
    let half = wire.server_half();
    assert_eq!(
        (half.retransmitted_segments, half.spurious_segments),
        (3, 0)
    );
    assert_eq!(half.retransmission_timeouts, 1);
}

#[test]
fn options_nobody_here_knows_change_nothing() {
    // TCP-MD5 (RFC 2385), MPTCP's data sequence signal (RFC 8684), TCP Fast Open's cookie.
    let md5 = [[1, 1, 19, 18].as_slice(), &[0xa5; 16]].concat();
    let mptcp = [[30, 20, 0x20, 5].as_slice(), &[0x5a; 16]].concat();
    let cookie = [[34, 10].as_slice(), &[9; 8], &[1, 1]].concat();
    for options in [md5, mptcp, cookie] {
        let mut wire = Wire::established();
        for index in 0..3 {
            let packet = wire.server().data(index * 1_000, 1_000);
            wire.sees(40_000 + index, packet.options(&options));
        }
        wire.sees(60_000, wire.client().ack(3_000).options(&options));
        let (server, client) = (wire.server_half(), wire.client_half());
        assert_eq!((server.bytes, server.retransmitted_segments), (3_000, 0));
        assert_eq!((client.acked_bytes, client.rtt_samples), (3_001, 2));
    }
}

#[test]
fn urgent_data_are_data() {
    const URG: u8 = 0x20;
    let mut wire = Wire::established();
    let packet = wire.server().data(0, 100);
    wire.sees(40_000, packet.flags(tcp_flags::ACK | URG));
    wire.sees(60_000, wire.client().ack(100));
    assert_eq!(wire.server_half().bytes, 100);
    assert_eq!(wire.client_half().acked_bytes, 101);
}

#[test]
fn a_second_attempt_with_another_number_is_the_one_that_counts() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.client_isn = 77_000_000;
    wire.sees(1_000_000, wire.client().syn());
    wire.sees(1_010_000, wire.server().syn_ack());
    wire.sees(1_030_000, wire.client().ack(0));
    wire.sees(1_031_000, wire.client().data(0, 100));
    wire.sees(1_041_000, wire.server().ack(100));
    assert_eq!(wire.client_half().isn, 77_000_000);
    assert_eq!(wire.client_half().syns_retransmitted, 0);
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
    assert_eq!(wire.server_half().acked_bytes, 101);
}

#[test]
fn a_keep_alive_that_is_reported_as_received_twice_is_no_segment() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    wire.sees(9_000_000, wire.server().data(999, 1));
    wire.sees(9_020_000, wire.client().ack(1_000).sack(&[(999, 1_000)]));
    assert_eq!(wire.client_half().dsacks, 0);
    assert_eq!(wire.server_half().probes, 1);
}
