//! The RTT of handshakes.

use monitor_ebpf::flow::half_flags as is;

use crate::support::wire::Wire;

#[test]
fn a_tap_on_the_path_sees_the_way_to_each_side() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(7_000, wire.server().syn_ack());
    wire.sees(30_000, wire.client().ack(0));
    assert_eq!(wire.server_half().handshake_rtt_us, 7_000);
    assert_eq!(wire.client_half().handshake_rtt_us, 23_000);
}

#[test]
fn a_sender_sees_the_whole_way_to_the_client() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    // A SYN-ACK has no full socket, and is not paced.
    wire.sees(50, wire.server().syn_ack());
    wire.sees(40_050, wire.client().ack(0));
    assert_eq!(wire.client_half().handshake_rtt_us, 40_000);
    assert!(!wire.server_half().has(is::LOCAL_SENDER));
}

#[test]
fn roles_are_known_from_who_answered() {
    let wire = Wire::established();
    assert!(wire.client_half().has(is::SYN) && !wire.client_half().has(is::SYN_ACK));
    assert!(wire.server_half().has(is::SYN | is::SYN_ACK));
    assert_eq!(wire.client_half().isn, wire.client_isn);
    assert_eq!(wire.server_half().isn, wire.server_isn);
}

#[test]
fn none_from_a_syn_that_was_sent_twice() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(1_000_000, wire.client().syn());
    wire.sees(1_010_000, wire.server().syn_ack());
    wire.sees(1_030_000, wire.client().ack(0));
    let server = wire.server_half();
    assert_eq!((server.handshake_rtt_us, server.rtt_samples), (0, 0));
    assert!(wire.client_half().has(is::SYN_RETRANSMITTED));
    // The other side's was sent once.
    assert_eq!(wire.client_half().handshake_rtt_us, 20_000);
}

#[test]
fn none_from_a_syn_ack_that_was_sent_twice() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(10_000, wire.server().syn_ack());
    wire.sees(1_010_000, wire.server().syn_ack());
    wire.sees(1_030_000, wire.client().ack(0));
    let client = wire.client_half();
    assert_eq!((client.handshake_rtt_us, client.rtt_samples), (0, 0));
    assert!(wire.server_half().has(is::SYN_RETRANSMITTED));
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
}

#[test]
fn one_that_a_late_duplicate_of_the_syn_does_not_take_back() {
    let mut wire = Wire::established();
    wire.sees(31_000, wire.client().syn());
    wire.sees(32_000, wire.server().syn_ack());
    wire.sees(33_000, wire.client().ack(0));
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
    assert_eq!(wire.client_half().handshake_rtt_us, 20_000);
}

#[test]
fn neither_syn_is_data() {
    let wire = Wire::established();
    for half in [wire.client_half(), wire.server_half()] {
        assert_eq!((half.bytes, half.segments, half.frames), (0, 0, 0));
        assert_eq!((half.bursts, half.busy_us), (0, 0));
        assert_eq!((half.retransmitted_segments, half.duplicate_acks), (0, 0));
    }
}

#[test]
fn data_in_a_syn_count_once() {
    // TCP Fast Open (RFC 7413).
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn().payload(100));
    wire.sees(10_000, wire.server().syn_ack().ack(100));
    wire.sees(30_000, wire.client().data(100, 50));
    wire.sees(40_000, wire.server().ack(150));
    let client = wire.client_half();
    assert_eq!((client.bytes, client.segments, client.frames), (150, 2, 2));
    assert_eq!(client.retransmitted_segments, 0);
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
}

#[test]
fn a_syn_ack_that_accepts_no_data_of_the_syn_still_tells_the_rtt() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn().payload(100));
    wire.sees(10_000, wire.server().syn_ack().ack(0));
    wire.sees(30_000, wire.client().data(0, 100).ack(0));
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
}

#[test]
fn none_from_what_acknowledges_more_than_the_syn() {
    // The SYN-ACK passes first; what the request is answered with is not the handshake.
    let mut wire = Wire::new();
    wire.sees(0, wire.server().syn_ack());
    wire.sees(260, wire.client().syn());
    wire.sees(300, wire.client().ack(0));
    wire.sees(400, wire.client().data(0, 100));
    wire.sees(69_000, wire.server().ack(100));
    assert_eq!(wire.server_half().handshake_rtt_us, 0);
    assert_eq!(wire.server_half().rtt_current.rtt_min_us, 0);
    assert_eq!(wire.client_half().handshake_rtt_us, 300);
}
