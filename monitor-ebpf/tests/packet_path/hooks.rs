//! One packet at several hooks of a host, and the sockets behind them.

use monitor_ebpf::flow::{FlowState, Half, half_flags as is};

use crate::support::{
    tables::HOOK,
    wire::{OTHER_HOOK, Wire},
};

/// A short connection, each packet at one hook or at both.
fn connection(both: bool) -> Wire {
    let mut wire = Wire::new();
    let packets = [
        (0, wire.client().syn()),
        (10_000, wire.server().syn_ack()),
        (30_000, wire.client().ack(0)),
        (40_000, wire.server().data(0, 1_000)),
        (40_100, wire.server().data(2_000, 1_000)),
        (60_000, wire.client().ack(1_000).sack(&[(2_000, 3_000)])),
        (75_000, wire.server().data(1_000, 1_000)),
        (95_000, wire.client().ack(3_000)),
        (96_000, wire.server().fin(3_000)),
    ];
    for (at_us, packet) in packets {
        wire.sees(at_us, packet.clone());
        if both {
            wire.sees_elsewhere(at_us + 5, packet);
        }
    }
    wire
}

#[test]
fn a_forwarder_counts_every_packet_once() {
    let (one, both) = (connection(false), connection(true));
    let seen_elsewhere = both.state().halves.map(|half| half.seen_elsewhere);
    // Of the client's four packets the SYN only waited for its answer.
    assert_eq!(both.client_half().seen_elsewhere, 3);
    assert_eq!(both.server_half().seen_elsewhere, 5);
    let mut without = both.state();
    for half in &mut without.halves {
        half.seen_elsewhere = 0;
    }
    assert_eq!(without, one.state(), "{seen_elsewhere:?}");
}

#[test]
fn a_syn_at_two_hooks_was_sent_once() {
    let wire = connection(true);
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
    assert!(!wire.client_half().has(is::SYN_RETRANSMITTED));
}

#[test]
fn each_direction_has_its_own_owner() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees_elsewhere(10_000, wire.server().syn_ack());
    wire.sees(30_000, wire.client().ack(0));
    assert_eq!(wire.client_half().owner, HOOK);
    assert_eq!(wire.server_half().owner, OTHER_HOOK);
}

#[test]
fn what_leaves_another_way_than_its_handshake_is_counted_from_its_first_byte_on() {
    let mut wire = Wire::established();
    let request = wire.client().data(0, 100);
    wire.sees(35_000, request);
    // Marked when it was accepted: its packets pass the first device no more.
    wire.sees_elsewhere(36_000, wire.server().ack(100));
    wire.sees_elsewhere(40_000, wire.server().data(0, 1_000));
    wire.sees_elsewhere(40_100, wire.server().data(1_000, 1_000));
    wire.sees(60_000, wire.client().ack(2_000));
    let half = wire.server_half();
    assert_eq!(half.owner, OTHER_HOOK);
    assert_eq!((half.bytes, half.retransmitted_segments), (2_000, 0));
    assert_eq!(half.seen_elsewhere, 1, "the bare acknowledgement");
    // Whatever its first device sees of it now is somebody's repetition.
    wire.sees(61_000, wire.server().data(0, 1_000));
    assert_eq!(wire.server_half().bytes, 2_000);
}

#[test]
fn ownership_moves_after_five_seconds_of_silence() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees_elsewhere(5_039_999, wire.server().data(1_000, 1_000));
    assert_eq!(wire.server_half().owner, HOOK);
    assert_eq!(wire.server_half().bytes, 1_000);
    wire.sees_elsewhere(5_040_000, wire.server().data(1_000, 1_000));
    let half = wire.server_half();
    assert_eq!(half.owner, OTHER_HOOK);
    assert_eq!((half.bytes, half.retransmitted_segments), (2_000, 0));
    // The old owner is now the other.
    wire.sees(5_041_000, wire.server().data(2_000, 1_000));
    assert_eq!(wire.server_half().seen_elsewhere, 2);
}

#[test]
fn the_figures_of_a_socket_are_taken_when_they_are_reported_or_needed() {
    let mut wire = Wire::established();
    let packets = [
        // A chunk begins; a retransmission; then the interval is over; then nothing; then the end.
        (40_000, wire.server().data(0, 100), 1),
        (300_000, wire.server().data(0, 100), 2),
        (1_200_000, wire.server().data(100, 9), 3),
        (1_300_000, wire.server().data(109, 9), 3),
        (1_400_000, wire.server().fin(118), 4),
    ];
    for (at_us, packet, sightings) in packets {
        wire.sends(at_us, packet, wire.server_isn);
        assert_eq!(wire.state().socket.sightings, sightings, "at {at_us} us");
    }
}

#[test]
fn a_packet_elsewhere_changes_no_other_figure() {
    let mut wire = connection(false);
    let before = wire.state();
    wire.sees_elsewhere(100_000, wire.client().rst());
    let after = wire.state();
    let halves = after.halves.map(|half| Half {
        seen_elsewhere: 0,
        ..half
    });
    assert_eq!(FlowState { halves, ..after }, before);
}
