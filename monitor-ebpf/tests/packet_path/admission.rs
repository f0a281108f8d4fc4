//! When a flow gets a state, a new one, and when it reports.

use monitor_ebpf::{
    counters::Counter,
    flow::{GAPS, Gap, Half, half_flags as is},
};

use crate::support::{
    packets::{Packet, SERVER, tcp, v4},
    tables::{SECOND_NS, Seen},
    wire::{CLIENT_RTT_US, SERVER_RTT_US, START_NS, Wire, key, time_ns},
};

#[test]
fn a_syn_waits_until_its_answer_is_acknowledged() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    assert!(!wire.has_state());
    assert_eq!(wire.counter(Counter::FlowsPending), 1);
    wire.sees(10_000, wire.server().syn_ack());
    assert!(!wire.has_state());
    wire.sees(30_000, wire.client().ack(0));
    let state = wire.state();
    assert_eq!(state.start_ns, START_NS);
    assert_eq!(state.generation, time_ns(30_000));
    assert_eq!(wire.counter(Counter::FlowsCreated), 1);
    assert_eq!(wire.counter(Counter::FlowsPending), 1);
    assert_eq!(wire.tables.pending_count(), 0);
}

#[test]
fn an_answer_that_nobody_could_have_seen_is_not_acknowledged_by_guessing() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(10_000, wire.server().syn_ack());
    for guess in [0, 1 << 21, 1 << 30, 1 << 31] {
        wire.sees(20_000, wire.client().ack(0).acknowledgment(guess));
        assert!(!wire.has_state(), "{guess}");
    }
    wire.sees(30_000, wire.client().ack(0));
    assert!(wire.has_state());
}

#[test]
fn an_acknowledgment_that_was_missed_is_made_up_for_by_data() {
    for from_server in [false, true] {
        let mut wire = Wire::new();
        wire.sees(0, wire.client().syn());
        wire.sees(10_000, wire.server().syn_ack());
        let data = if from_server {
            wire.server().data(0, 1_000)
        } else {
            wire.client().data(0, 1_000).ack(0)
        };
        wire.sees(40_000, data);
        assert!(wire.has_state());
        assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
    }
}

#[test]
fn a_syn_flood_fills_what_is_pending_and_nothing_else() {
    let wire = Wire::established();
    let before = wire.tables.flow_states();
    for index in 0..100_000u32 {
        let [_, a, b, c] = index.to_be_bytes();
        let attacker = v4([100, a, b, c], 1_024 + (index % 50_000) as u16);
        let syn = tcp(attacker, SERVER).syn();
        // A server answers what is forged, or resets it where nobody listens.
        let answer = match index % 3 {
            0 => tcp(SERVER, attacker).isns(index, 0).syn_ack(),
            1 => tcp(SERVER, attacker).rst(),
            _ => syn.clone(),
        };
        for packet in [syn, answer] {
            let seen = Seen::new(time_ns(50_000 + index), packet.frame());
            wire.tables.see(&seen).expect("a packet that is watched");
        }
    }
    assert_eq!(wire.tables.flow_states(), before);
    assert_eq!(wire.tables.pending_count(), 100_000);
    assert_eq!(wire.counter(Counter::FlowsPending), 100_001);
    assert_eq!(wire.counter(Counter::FlowsCreated), 1);
}

#[test]
fn a_flow_of_our_own_socket_needs_no_answer() {
    let mut wire = Wire::new();
    let snd_nxt = wire.client_isn;
    wire.sends(0, wire.client().syn(), snd_nxt);
    assert!(wire.client_half().has(is::LOCAL_SENDER | is::SYN));
    wire.sees(10_000, wire.server().syn_ack());
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
}

#[test]
fn what_waited_leaves_what_is_tracked_at_once() {
    let stamped = |packet: Packet, tsval, tsecr| packet.window_scale(7).timestamps(tsval, tsecr);
    let halves = |at_once: bool, repeated: bool| {
        let mut wire = Wire::new();
        let syn = stamped(wire.client().syn().sack_permitted(), 700, 0);
        if at_once {
            let snd_nxt = wire.client_isn;
            wire.sends(0, syn, snd_nxt);
        } else {
            wire.sees(0, syn);
        }
        let syn_ack = stamped(wire.server().syn_ack().sack_permitted(), 90, 700);
        wire.sees(10_000, syn_ack.clone());
        if repeated {
            wire.sees(1_010_000, syn_ack.clone());
        }
        wire.sees_elsewhere(1_010_001, syn_ack);
        wire.sees(1_030_000, stamped(wire.client().ack(0), 1_730, 90));
        wire.sees(1_040_000, stamped(wire.server().data(0, 100), 1_120, 1_730));
        wire.sees(1_060_000, stamped(wire.client().ack(100), 1_760, 1_120));
        let mut client = wire.client_half();
        client.flags &= !is::LOCAL_SENDER;
        [client, wire.server_half()]
    };
    for repeated in [false, true] {
        assert_eq!(halves(false, repeated), halves(true, repeated));
    }
}

#[test]
fn a_connection_that_is_picked_up_in_the_middle() {
    let mut wire = Wire::new();
    wire.sees(0, wire.server().data(70_000, 1_000));
    wire.sees(100, wire.server().data(71_000, 1_000));
    wire.sees(20_000, wire.client().ack(72_000));
    wire.sees(21_000, wire.server().data(72_000, 1_000));
    wire.sees(41_000, wire.client().ack(73_000));
    let (server, client) = (wire.server_half(), wire.client_half());
    assert_eq!(
        (server.bytes, server.segments, server.frames),
        (3_000, 3, 3)
    );
    assert_eq!(server.retransmitted_segments, 0);
    assert_eq!(server.gaps, [Gap::default(); GAPS]);
    assert_eq!((client.rtt_samples, client.rtt_sum_us), (1, 20_000));
    assert_eq!(client.handshake_rtt_us, 0);
    // The window's scale was not seen.
    assert!(!client.has(is::WINDOW_KNOWN));
    assert_eq!(server.rwnd_limited_segments, 0);
}

#[test]
fn one_direction_alone_is_admitted_after_64_packets() {
    let mut wire = Wire::new();
    for index in 0..64 {
        wire.sees(index, wire.server().data(index * 1_000, 1_000));
        assert!(!wire.has_state());
    }
    wire.sees(64, wire.server().data(64_000, 1_000));
    let half = wire.server_half();
    assert_eq!((half.bytes, half.segments, half.frames), (65_000, 65, 65));
    assert_eq!(half.mss, 1_000);
    assert_eq!(half.gaps, [Gap::default(); GAPS]);
    assert_eq!(wire.client_half(), Half::EMPTY);
    // From here on losses are seen.
    wire.sees(40_000, wire.server().data(64_000, 1_000));
    assert_eq!(wire.server_half().lost_downstream_segments, 1);
}

#[test]
fn one_direction_from_its_syn_on_has_no_hole() {
    let mut wire = Wire::new();
    wire.sees(0, wire.server().syn_ack());
    for index in 0..64 {
        wire.sees(1 + index, wire.server().data(index * 1_000, 1_000));
    }
    let half = wire.server_half();
    assert_eq!((half.bytes, half.segments), (64_000, 64));
    assert_eq!(half.gaps, [Gap::default(); GAPS]);
    wire.sees(40_000, wire.server().data(10_000, 1_000));
    assert_eq!(wire.server_half().lost_downstream_segments, 1);
}

#[test]
fn what_waits_remembers_the_highest_sequence_number() {
    let mut wire = Wire::new();
    wire.sees(0, wire.server().data(0, 1_000));
    wire.sees(10, wire.server().data(1_000, 1_000));
    wire.sees(20, wire.server().data(0, 1_000));
    wire.sees(20_000, wire.client().ack(2_000));
    wire.sees(21_000, wire.server().data(2_000, 1_000));
    assert_eq!(wire.server_half().gaps, [Gap::default(); GAPS]);
}

#[test]
fn a_reset_of_nothing_is_nothing() {
    let mut wire = Wire::new();
    wire.sees(0, wire.server().rst());
    assert!(!wire.has_state());
    assert_eq!(wire.tables.pending_count(), 0);
}

#[test]
fn a_refused_connection_takes_no_room_and_is_known_to_be_refused() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    wire.sees(10_000, wire.server().rst());
    assert!(!wire.has_state());
    let (key, client) = key();
    let state = wire.tables.pending_state(&key).expect("it waits");
    assert!(state.halves[client].has(is::SYN));
    assert!(state.halves[client ^ 1].has(is::RST));
    assert!(state.is_over());
}

#[test]
fn a_connection_that_our_own_socket_opens_reports_that_it_is_refused() {
    let mut wire = Wire::new();
    let snd_nxt = wire.client_isn;
    wire.sends(0, wire.client().syn(), snd_nxt);
    wire.sees(10_000, wire.server().rst());
    assert!(wire.server_half().has(is::RST));
    assert_eq!(wire.tables.take_reports(), [wire.state()]);
}

/// An established connection that both sides have closed, at 90 ms.
fn closed() -> Wire {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().fin(0));
    wire.sees(60_000, wire.client().fin(0).ack(1));
    wire.sees(90_000, wire.server().ack(1).data(1, 0));
    wire
}

#[test]
fn the_same_ports_after_an_end_are_a_new_flow() {
    let mut wire = closed();
    let old = wire.state();
    wire.tables.take_reports();
    wire.client_isn = 77_000;
    wire.server_isn = 88_000;
    wire.sees(1_000_000, wire.client().syn());
    let mut last = old;
    last.halves[0].flags |= is::REPLACED;
    assert!(last.is_replaced() && !old.is_replaced());
    assert_eq!(wire.tables.take_reports(), [last]);
    assert!(!wire.has_state());
    wire.sees(1_010_000, wire.server().syn_ack());
    wire.sees(1_030_000, wire.client().ack(0));
    let new = wire.state();
    assert_eq!(wire.counter(Counter::FlowsReused), 1);
    assert_ne!(new.generation, old.generation);
    assert_eq!(new.start_ns, time_ns(1_000_000));
    assert!(!wire.server_half().has(is::FIN));
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
}

#[test]
fn late_packets_of_a_closed_flow_belong_to_it() {
    let mut wire = closed();
    let generation = wire.state().generation;
    wire.sees(95_000, wire.client().fin(0).ack(1));
    wire.sees(96_000, wire.server().ack(1).data(1, 0));
    // A duplicate of its first SYN.
    wire.sees(97_000, wire.client().syn());
    assert_eq!(wire.state().generation, generation);
    assert_eq!(wire.counter(Counter::FlowsReused), 0);
    assert_eq!(wire.counter(Counter::FlowsCreated), 1);
}

#[test]
fn a_forged_syn_does_not_touch_a_flow() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.client().data(0, 100));
    let before = wire.client_half();
    wire.sees(41_000, wire.client().syn().sequence(77_000));
    let after = Half {
        last_seen_ns: before.last_seen_ns,
        ..wire.client_half()
    };
    assert_eq!(after, before);
    assert_eq!(wire.counter(Counter::FlowsReused), 0);
    wire.sees(42_000, wire.client().data(100, 100));
    assert_eq!(wire.client_half().retransmitted_segments, 0);
}

#[test]
fn a_server_that_answers_with_another_number_began_anew() {
    // The end of the old connection passed elsewhere.
    let mut wire = Wire::established();
    let generation = wire.state().generation;
    wire.client_isn = 77_000;
    wire.server_isn = 0x9000_0000;
    wire.sees(40_000, wire.client().syn());
    wire.sees(50_000, wire.server().syn_ack());
    assert_eq!(wire.counter(Counter::FlowsReused), 1);
    wire.sees(70_000, wire.client().ack(0));
    wire.sees(71_000, wire.server().data(0, 1_000));
    wire.sees(91_000, wire.client().ack(1_000));
    assert_ne!(wire.state().generation, generation);
    assert_eq!(wire.client_half().handshake_rtt_us, 20_000);
    assert_eq!(wire.client_half().acked_bytes, 1_001);
    assert_eq!(wire.server_half().retransmitted_segments, 0);
}

#[test]
fn a_syn_after_silence_begins_anew() {
    let mut wire = Wire::established();
    wire.client_isn = 77_000;
    wire.server_isn = 88_000;
    let last_us = SERVER_RTT_US + CLIENT_RTT_US;
    wire.sees(last_us + 5_000_000, wire.client().syn());
    assert!(!wire.has_state());
    assert_eq!(wire.counter(Counter::FlowsReused), 1);
    wire.sees(last_us + 5_010_000, wire.server().syn_ack());
    wire.sees(last_us + 5_030_000, wire.client().ack(0));
    assert_eq!(wire.server_half().handshake_rtt_us, 10_000);
}

#[test]
fn a_flow_that_is_not_wanted_is_passed_over_until_it_begins_anew() {
    let mut wire = Wire::established();
    wire.tables.take_reports();
    wire.tables.set_unwanted(&key().0);
    let before = wire.server_half();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    wire.sees(2_000_000, wire.server().data(1_000, 1_000));
    let after = wire.server_half();
    assert_eq!(
        (after.bytes, after.segments),
        (before.bytes, before.segments)
    );
    assert_eq!(after.last_seen_ns, time_ns(2_000_000));
    assert_eq!(wire.counter(Counter::PassedOver), 3);

    // Its end is seen, so that the next connection is known.
    wire.sees(2_010_000, wire.server().fin(2_000));
    wire.sees(2_030_000, wire.client().fin(0).acknowledgment(2_001));
    assert!(wire.state().is_over());
    assert_eq!(wire.tables.take_reports(), []);
    wire.client_isn = 77_000;
    wire.server_isn = 0x9000_0000;
    wire.sees(2_040_000, wire.client().syn());
    assert_eq!(wire.tables.take_reports(), []);
    wire.sees(2_050_000, wire.server().syn_ack());
    wire.sees(2_070_000, wire.client().ack(0));
    wire.sees(2_071_000, wire.server().data(0, 1_000));
    assert_eq!(wire.server_half().bytes, 1_000);
    assert_eq!(wire.counter(Counter::PassedOver), 5);
}

#[test]
fn a_full_table_refuses_and_counts() {
    let mut wire = Wire::new();
    wire.tables.room = 0;
    wire.sees(0, wire.client().syn());
    wire.sees(10_000, wire.server().syn_ack());
    wire.sees(30_000, wire.client().ack(0));
    assert!(!wire.has_state());
    assert_eq!(wire.counter(Counter::FlowsRefused), 1);
    assert_eq!(wire.counter(Counter::FlowsCreated), 0);
}

#[test]
fn a_flow_reports_once_an_interval() {
    let mut wire = Wire::established();
    let mut offset = 0;
    for at_ms in (40..3_040).step_by(10) {
        wire.sees(at_ms * 1_000, wire.server().data(offset, 100));
        offset += 100;
    }
    let reports = wire.tables.take_reports();
    assert_eq!(reports.len(), 3);
    for pair in reports.windows(2) {
        let [earlier, later] = pair else {
            unreachable!("windows of two")
        };
        assert!(later.last_report_ns - earlier.last_report_ns >= SECOND_NS);
        assert!(later.halves != earlier.halves);
    }
    assert_eq!(wire.counter(Counter::ReportsSent), 3);
}

#[test]
fn a_flow_that_ends_reports_at_once() {
    let wire = closed();
    let reports = wire.tables.take_reports();
    assert_eq!(reports.len(), 2);
    let mut wire = Wire::established();
    wire.sees(40_000, wire.client().rst());
    assert_eq!(wire.tables.take_reports(), [wire.state()]);
}

#[test]
fn a_report_that_does_not_fit_is_counted() {
    let mut wire = Wire::established();
    wire.tables.reports_fit = false;
    wire.sees(40_000, wire.server().fin(0));
    assert_eq!(wire.counter(Counter::ReportsLost), 1);
    assert_eq!(wire.counter(Counter::ReportsSent), 0);
}
