//! What a client says first is handed on once, and nothing after it.

use monitor_ebpf::{
    counters::Counter,
    hello::{PIECE_MAX, TCP},
};

use super::support::{
    packets::Packet,
    tables::Seen,
    wire::{START_NS, Wire, key},
};

/// A packet with its payload in it.
fn say(wire: &Wire, time_us: u64, packet: Packet, payload: &[u8]) {
    let mut frame = packet.frame();
    frame.bytes.extend(payload);
    wire.tables
        .see(&Seen::new(START_NS + time_us * 1_000, frame))
        .expect("it is tracked");
}

fn pieces(wire: &Wire) -> Vec<(u32, Vec<u8>)> {
    let pieces = wire.tables.take_pieces();
    pieces
        .iter()
        .map(|piece| {
            assert_eq!((piece.key, piece.transport), (key().0, TCP));
            (piece.offset, piece.bytes[..piece.len as usize].to_vec())
        })
        .collect()
}

#[test]
fn every_segment_before_the_answer_is_handed_on_and_none_after_it() {
    let wire = Wire::established();
    say(&wire, 40_000, wire.client().data(0, 5), b"hello");
    // Out of order, and once more.
    say(&wire, 41_000, wire.client().data(8, 3), b"ght");
    say(&wire, 42_000, wire.client().data(5, 3), b"tni");
    say(&wire, 43_000, wire.client().data(0, 5), b"hello");
    assert_eq!(
        pieces(&wire),
        [
            (0, b"hello".to_vec()),
            (8, b"ght".to_vec()),
            (5, b"tni".to_vec()),
            (0, b"hello".to_vec()),
        ]
    );
    say(&wire, 50_000, wire.server().data(0, 4), b"okay");
    say(&wire, 60_000, wire.client().data(11, 4), b"next");
    assert_eq!(pieces(&wire), []);
    assert_eq!(wire.counter(Counter::HellosSent), 4);
}

#[test]
fn a_client_that_never_gets_an_answer_is_listened_to_eight_times() {
    let wire = Wire::established();
    for number in 0..20 {
        say(
            &wire,
            40_000 + u64::from(number) * 100,
            wire.client().data(number, 1),
            b"x",
        );
    }
    assert_eq!(pieces(&wire).len(), 8);
}

#[test]
fn a_super_packet_is_handed_on_to_its_bound() {
    let wire = Wire::established();
    let payload = vec![7; 3 * 1_448];
    say(&wire, 40_000, wire.client().data(0, 4_344), &payload);
    assert_eq!(pieces(&wire), [(0, payload[..PIECE_MAX].to_vec())]);
}

#[test]
fn what_a_capture_has_cut_is_counted_as_lost() {
    let wire = Wire::established();
    say(
        &wire,
        40_000,
        wire.client().data(0, 100),
        b"only the beginning",
    );
    assert_eq!(pieces(&wire), []);
    assert_eq!(wire.counter(Counter::HellosLost), 1);
}

#[test]
fn a_flow_that_is_joined_in_the_middle_has_no_hello() {
    let wire = Wire::new();
    say(&wire, 0, wire.server().data(0, 4), b"data");
    say(&wire, 10_000, wire.client().data(0, 4), b"more");
    assert_eq!(pieces(&wire), []);
}
