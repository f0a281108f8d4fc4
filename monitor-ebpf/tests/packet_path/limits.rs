//! What held the flow back, and the figures of its slow start and its epochs.

use monitor_ebpf::flow::EpochRtt;

use crate::support::{packets::Packet, wire::Wire};

#[test]
fn busy_from_the_first_byte_to_the_ack_of_the_last() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(45_000, wire.server().data(1_000, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    assert_eq!(
        (wire.client_half().busy_us, wire.client_half().bursts),
        (0, 0)
    );
    wire.sees(66_000, wire.client().ack(2_000));
    let half = wire.client_half();
    assert_eq!((half.busy_us, half.bursts), (26_000, 1));
    assert_eq!(half.acked_bytes, 2_001);
}

#[test]
fn a_pause_between_two_bursts_is_not_busy() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    wire.sees(4_000_000, wire.server().data(1_000, 1_000));
    wire.sees(4_021_000, wire.client().ack(2_000));
    let half = wire.client_half();
    assert_eq!((half.busy_us, half.bursts), (41_000, 2));
}

#[test]
fn one_burst_through_a_retransmission() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(300_000, wire.server().data(0, 1_000));
    wire.sees(320_000, wire.client().ack(1_000));
    let half = wire.client_half();
    assert_eq!((half.busy_us, half.bursts), (280_000, 1));
}

/// A connection whose SYNs carry what `syn` adds to them.
fn established_with(syn: impl Fn(Packet) -> Packet, syn_ack: impl Fn(Packet) -> Packet) -> Wire {
    let mut wire = Wire::new();
    wire.sees(0, syn(wire.client().syn()));
    wire.sees(10_000, syn_ack(wire.server().syn_ack()));
    wire.sees(30_000, wire.client().ack(0));
    wire
}

/// Segments of 1,000 bytes counted as limited by a window of 1,000 units, of eight sent at once.
fn limited(mut wire: Wire) -> u32 {
    for index in 0..8 {
        wire.sees(40_000, wire.server().data(index * 1_000, 1_000));
    }
    wire.server_half().rwnd_limited_segments
}

#[test]
fn segments_that_fill_the_receive_window() {
    let scaled = |packet: Packet| packet.window_scale(2);
    // 4,000 bytes: the fourth fills it, and the rest are beyond it.
    assert_eq!(limited(established_with(scaled, scaled)), 5);
    // A scale that only one side offered is none: 1,000 bytes.
    assert_eq!(limited(established_with(scaled, |packet| packet)), 8);
    assert_eq!(limited(established_with(|packet| packet, scaled)), 8);
    let generous = |packet: Packet| packet.window_scale(14);
    assert_eq!(limited(established_with(generous, generous)), 0);
}

#[test]
fn an_acknowledgement_opens_the_window_again() {
    let scaled = |packet: Packet| packet.window_scale(2);
    let mut wire = established_with(scaled, scaled);
    for index in 0..8 {
        let at_us = 40_000 + index * 30_000;
        wire.sees(at_us, wire.server().data(index * 1_000, 1_000));
        wire.sees(at_us + 20_000, wire.client().ack((index + 1) * 1_000));
    }
    assert_eq!(wire.server_half().rwnd_limited_segments, 0);
}

#[test]
fn ce_marks_count_wire_segments() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_448).ecn(2));
    wire.sees(
        40_100,
        wire.server().data(1_448, 4_344).gso(1_448, 3).ecn(3),
    );
    wire.sees(40_200, wire.server().data(5_792, 1_448).ecn(3));
    wire.sees(60_000, wire.client().ack(7_240).ecn(3));
    assert_eq!(wire.server_half().ce_marked_segments, 4);
    assert_eq!(wire.client_half().ce_marked_segments, 1);
}

#[test]
fn duplicate_acks() {
    let mut wire = Wire::established();
    wire.sees(35_000, wire.client().ack(0));
    // Nothing is outstanding.
    assert_eq!(wire.client_half().duplicate_acks, 0);
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(0));
    wire.sees(60_100, wire.client().ack(0));
    assert_eq!(wire.client_half().duplicate_acks, 2);
    // Data, and a window update (RFC 5681, 2).
    wire.sees(60_200, wire.client().data(0, 10).ack(0));
    wire.sees(60_300, wire.client().data(10, 0).ack(0).window(900));
    assert_eq!(wire.client_half().duplicate_acks, 2);
}

#[test]
fn extremes_of_this_epoch_and_the_one_before() {
    // Epochs are 10 s long, and the test's clock begins with one.
    let mut wire = Wire::established();
    let mut offset = 0;
    let mut sample = |wire: &mut Wire, at_us, rtt_us| {
        wire.sees(at_us, wire.server().data(offset, 100));
        offset += 100;
        wire.sees(at_us + rtt_us, wire.client().ack(offset));
    };
    let epoch = |epoch, rtt_min_us, rtt_max_us| EpochRtt {
        epoch,
        rtt_min_us,
        rtt_max_us,
    };
    sample(&mut wire, 1_000_000, 21_000);
    sample(&mut wire, 2_000_000, 25_000);
    sample(&mut wire, 9_990_000, 15_000);
    let half = wire.client_half();
    assert_eq!(half.rtt_current, epoch(11, 15_000, 15_000));
    assert_eq!(half.rtt_previous, epoch(10, 20_000, 25_000));
    sample(&mut wire, 11_000_000, 14_000);
    assert_eq!(wire.client_half().rtt_current, epoch(11, 14_000, 15_000));
    // Two epochs pass in silence: the previous one is the last that had a sample.
    sample(&mut wire, 40_000_000, 30_000);
    let half = wire.client_half();
    assert_eq!(half.rtt_current, epoch(14, 30_000, 30_000));
    assert_eq!(half.rtt_previous, epoch(11, 14_000, 15_000));
}

#[test]
fn slow_start_ends_with_the_first_retransmission() {
    let mut wire = Wire::established();
    let mut offset = 0;
    for (index, rtt_us) in [22_000, 20_000, 26_000].into_iter().enumerate() {
        let at_us = 40_000 + index as u32 * 30_000;
        wire.sees(at_us, wire.server().data(offset, 1_000));
        offset += 1_000;
        wire.sees(at_us + rtt_us, wire.client().ack(offset));
    }
    let slow_start = wire.client_half().slow_start;
    assert_eq!(slow_start.samples, 3);
    assert_eq!(slow_start.rtt_first_us, 22_000);
    assert_eq!(
        (slow_start.rtt_min_us, slow_start.rtt_max_us),
        (20_000, 26_000)
    );
    assert_eq!(slow_start.rtt_sum_us, 68_000);
    assert_eq!(slow_start.rtt_square_sum, 1_560_000_000);
    wire.sees(200_000, wire.server().data(offset, 1_000));
    wire.sees(500_000, wire.server().data(offset, 1_000));
    wire.sees(520_000, wire.client().ack(offset + 1_000));
    wire.sees(521_000, wire.server().data(offset + 1_000, 1_000));
    wire.sees(541_000, wire.client().ack(offset + 2_000));
    let half = wire.client_half();
    assert_eq!(half.slow_start, slow_start);
    // Handshake, three, and the one after the retransmission.
    assert_eq!(half.rtt_samples, 5);
}
