//! Whole connections against the truth about them, and any bytes at all.

use std::collections::HashMap;

use monitor_ebpf::{
    flow::{FlowKey, FlowState, Half, SACKED},
    packet::Link,
};
use proptest::{prelude::*, sample::Index};

use crate::support::{
    packets::{CLIENT, CLIENT_ISN, CLIENT_V6, Frame, Packet, SERVER, SERVER_ISN, SERVER_V6, tcp},
    tables::{SECOND_NS, Seen, Tables},
    traffic::{Conditions, Truth, run},
    wire::{START_NS, Wire, key},
};

/// Sequence numbers, often near where they wrap.
fn sequence_numbers() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..200_000).prop_map(|below| u32::MAX - below),
        (0u32..200_000).prop_map(|below| 0x7fff_ffff - below),
    ]
}

prop_compose! {
    fn rates()(
        lost_upstream in prop_oneof![Just(0u32), 0u32..60],
        lost_downstream in prop_oneof![Just(0u32), 0u32..150],
        lost_acks in prop_oneof![Just(0u32), 0u32..200],
        reordered in prop_oneof![3 => Just(0u32), 1 => 0u32..60],
        duplicated in prop_oneof![3 => Just(0u32), 1 => 0u32..60],
    ) -> [u32; 5] {
        [lost_upstream, lost_downstream, lost_acks, reordered, duplicated]
    }
}

prop_compose! {
    fn conditions()(
        seed: u64,
        client_isn in sequence_numbers(),
        server_isn in sequence_numbers(),
        mss in prop_oneof![Just(1_448u32), 2u32..9_000],
        segments in 1u32..150,
        last in any::<Index>(),
        super_packet in prop_oneof![Just(1u32), 2u32..40],
        window in 1u32..60,
        upstream_us in 1_000u32..100_000,
        downstream_us in 1_000u32..100_000,
        rates in rates(),
        timestamps: bool,
        ack_delay_us in prop_oneof![Just(0u32), 1_000u32..50_000],
    ) -> Conditions {
        let [lost_upstream, lost_downstream, lost_acks, reordered, duplicated] = rates;
        Conditions {
            seed, client: CLIENT, server: SERVER, client_isn, server_isn,
            start_ns: START_NS, mss, segments, last_len: 2 + last.index(mss as usize - 1) as u32,
            super_packet, window, upstream_us, downstream_us,
            lost_upstream, lost_downstream, lost_acks, reordered, duplicated, timestamps,
            ack_delay_us,
        }
    }
}

/// What the tap says of a connection: of the server's packets and of the client's.
struct Tapped {
    server: Half,
    client: Half,
    truth: Truth,
}

fn tapped(conditions: &Conditions) -> Tapped {
    let tables = Tables::default();
    let (packets, truth) = run(conditions);
    for (at_ns, packet) in packets {
        tables
            .see(&Seen::new(at_ns, packet.frame()))
            .expect("a packet that is tracked");
    }
    let (key, client) = key();
    let state = tables.flow_state(&key).expect("the flow is there");
    Tapped {
        server: state.halves[client ^ 1],
        client: state.halves[client],
        truth,
    }
}

/// As the half counts them, in the order of [`Truth`].
fn losses(half: &Half) -> [u32; 5] {
    [
        half.retransmitted_segments,
        half.spurious_segments,
        half.lost_downstream_segments,
        half.lost_upstream_segments,
        half.reordered_segments,
    ]
}

/// The lowest RTT of this epoch and the one before, if any.
fn rtt_min_us(half: &Half) -> Option<u32> {
    [half.rtt_current, half.rtt_previous]
        .iter()
        .filter(|epoch| epoch.rtt_max_us != 0)
        .map(|epoch| epoch.rtt_min_us)
        .min()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_connection_is_told_as_it_was(conditions in conditions()) {
        let Tapped { server, client, truth } = tapped(&conditions);
        prop_assert_eq!(server.bytes, truth.bytes);
        prop_assert_eq!(server.frames, truth.frames);
        prop_assert_eq!(server.segments, truth.segments);
        prop_assert_eq!(client.acked_bytes, truth.acked_bytes);
        prop_assert_eq!((client.bytes, client.segments), (100, 1));
        prop_assert_eq!(client.retransmitted_segments, 0);
        prop_assert_eq!((server.probes, server.seen_elsewhere), (0, 0));
        let mut told = losses(&server);
        if truth.sacked_ranges_max > SACKED {
            // What was told of a forgotten range is not known: what is sent for nothing looks lost.
            prop_assert!(told[1] <= truth.spurious, "{:?} {:?}", told, truth);
            let unknown = truth.spurious - told[1];
            prop_assert!(unknown <= told[2], "{:?} {:?}", told, truth);
            told[1] += unknown;
            told[2] -= unknown;
        }
        if server.gaps_overflowed == 0 {
            let expected = [
                truth.retransmitted_segments,
                truth.spurious,
                truth.downstream,
                truth.upstream,
                truth.reordered,
            ];
            prop_assert_eq!(told, expected, "{:?}", truth);
            prop_assert_eq!(server.retransmitted_bytes, truth.retransmitted_bytes);
        } else {
            // A forgotten hole is filled by what looks sent twice.
            let most = truth.retransmitted_segments + truth.reordered;
            prop_assert!((truth.retransmitted_segments..=most).contains(&told[0]));
            prop_assert!(told[3] <= truth.upstream, "a false upstream: {:?} {:?}", told, truth);
        }
        prop_assert_eq!(client.dsacks, truth.dsacks);
    }

    #[test]
    fn no_timer_is_taken_for_another(conditions in conditions()) {
        // An ACK that the tap sees and the server does not looks like what a retransmission
        // answers; delayed ACKs are in the server's estimate of the RTT, and not in ours; and of
        // a probe that does not pass the tap, the timeout after it takes the place. What is late
        // or doubled moves the silences by which timers are told.
        let conditions = Conditions {
            lost_acks: 0, ack_delay_us: 0, lost_upstream: 0, reordered: 0, duplicated: 0,
            ..conditions
        };
        let Tapped { server, truth, .. } = tapped(&conditions);
        prop_assert_eq!(
            (server.tail_loss_probes, server.retransmission_timeouts),
            (truth.tail_loss_probes, truth.timeouts),
            "{:?}", truth
        );
    }

    #[test]
    fn no_timer_is_seen_that_did_not_run_out(conditions in conditions()) {
        let Tapped { server, truth, .. } = tapped(&conditions);
        let all = truth.tail_loss_probes + truth.timeouts;
        prop_assert!(server.tail_loss_probes + server.retransmission_timeouts <= all);
    }

    #[test]
    fn no_rtt_is_shorter_than_its_path(conditions in conditions()) {
        let Tapped { server, client, .. } = tapped(&conditions);
        for (half, one_way_us) in [
            (server, conditions.upstream_us),
            (client, conditions.downstream_us),
        ] {
            if let Some(rtt_us) = rtt_min_us(&half) {
                prop_assert!(rtt_us >= 2 * one_way_us, "{rtt_us} us over {one_way_us} us");
            }
            prop_assert_eq!(half.handshake_rtt_us, 2 * one_way_us);
        }
    }

    #[test]
    fn what_only_the_far_side_loses_is_never_upstream(conditions in conditions()) {
        let conditions = Conditions { lost_upstream: 0, reordered: 0, ..conditions };
        let Tapped { server, .. } = tapped(&conditions);
        prop_assert_eq!((server.lost_upstream_segments, server.reordered_segments), (0, 0));
    }

    #[test]
    fn what_only_the_near_side_loses_is_never_downstream(conditions in conditions()) {
        let conditions = Conditions {
            lost_downstream: 0, lost_acks: 0, reordered: 0, duplicated: 0, ..conditions
        };
        let Tapped { server, .. } = tapped(&conditions);
        prop_assume!(server.gaps_overflowed == 0);
        prop_assert_eq!((server.lost_downstream_segments, server.spurious_segments), (0, 0));
    }
}

/// Two flows that have been established, one of either version.
fn two_flows() -> Tables {
    let wire = Wire::established();
    for (at_us, packet) in [
        (
            0,
            tcp(CLIENT_V6, SERVER_V6).isns(1, 2).syn().timestamps(1, 0),
        ),
        (
            10,
            tcp(SERVER_V6, CLIENT_V6)
                .isns(2, 1)
                .syn_ack()
                .timestamps(1, 1),
        ),
    ] {
        let seen = Seen::new(START_NS + SECOND_NS + at_us, packet.frame());
        wire.tables.see(&seen).expect("a packet that is tracked");
    }
    wire.tables
}

/// The flows that differ, or are in one of the two only.
fn changed(before: &HashMap<FlowKey, FlowState>, after: &HashMap<FlowKey, FlowState>) -> usize {
    let gone = before.keys().filter(|key| !after.contains_key(key)).count();
    let other = after
        .iter()
        .filter(|(key, state)| before.get(key) != Some(state))
        .count();
    gone + other
}

fn links() -> impl Strategy<Value = Link> {
    prop_oneof![Just(Link::Ethernet), Just(Link::RawIp)]
}

/// A packet of one of the two flows that may say anything.
fn packets() -> impl Strategy<Value = Packet> {
    let numbers = (
        prop_oneof![
            any::<u32>(),
            (0u32..9_000).prop_map(|offset| CLIENT_ISN + offset)
        ],
        prop_oneof![
            any::<u32>(),
            (0u32..9_000).prop_map(|offset| SERVER_ISN + offset)
        ],
    );
    let payload = prop_oneof![
        Just(0u32),
        0u32..3,
        0u32..3_000,
        any::<u16>().prop_map(u32::from)
    ];
    (
        any::<[bool; 3]>(),
        numbers,
        payload,
        any::<(u8, u16, u32, u32, u8)>(),
        prop::collection::vec(any::<u8>(), 0..=40),
        any::<[Option<(u32, u32)>; 1]>(),
    )
        .prop_map(
            |([six, back, raw], (sequence, acknowledgment), payload, rest, options, sack)| {
                let (flags, window, gso_size, gso_segs, ecn) = rest;
                let (source, destination) = if six {
                    (CLIENT_V6, SERVER_V6)
                } else {
                    (CLIENT, SERVER)
                };
                let packet = if back {
                    tcp(destination, source)
                        .sequence(acknowledgment)
                        .acknowledgment(sequence)
                } else {
                    tcp(source, destination)
                        .sequence(sequence)
                        .acknowledgment(acknowledgment)
                };
                let packet = packet
                    .payload(payload)
                    .flags(flags)
                    .window(window)
                    .ecn(ecn & 3)
                    .gso(gso_size % 65_536, gso_segs % 65_536);
                let packet = match sack {
                    [Some(block)] => packet.timestamps(gso_size, gso_segs).sack(&[block]),
                    [None] => packet.options(&options),
                };
                if raw { packet.raw_ip() } else { packet }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_bytes_pass_and_touch_no_flow(
        link in links(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        frame_len: u32,
        gso_size: u16,
        gso_segs: u16,
    ) {
        let tables = two_flows();
        let before = tables.flow_states();
        let frame = Frame {
            link, bytes, frame_len, gso_size: gso_size.into(), gso_segs: gso_segs.into(),
        };
        // Whatever it says, it is not of these flows.
        let _ = tables.see(&Seen::new(START_NS, frame));
        prop_assert_eq!(changed(&before, &tables.flow_states()), 0);
    }

    #[test]
    fn damaged_packets_touch_one_flow_at_most_and_refused_ones_none(
        packet in packets(),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        cut in prop_oneof![Just(None), any::<Index>().prop_map(Some)],
        frame_len in prop_oneof![3 => Just(None), 1 => any::<u32>().prop_map(Some)],
    ) {
        let tables = two_flows();
        let before = tables.flow_states();
        let mut frame = packet.frame();
        for (at, value) in damage {
            let at = at.index(frame.bytes.len());
            frame.bytes[at] = value;
        }
        if let Some(cut) = cut {
            frame.bytes.truncate(cut.index(frame.bytes.len()));
        }
        frame.frame_len = frame_len.unwrap_or(frame.frame_len);
        let result = tables.see(&Seen::new(START_NS + 2 * SECOND_NS, frame));
        let touched = changed(&before, &tables.flow_states());
        prop_assert!(touched <= usize::from(result.is_ok()), "{touched} flows: {result:?}");
    }

    #[test]
    fn any_conversation_keeps_its_counts_consistent(
        packets in prop::collection::vec((packets(), 0u32..20_000_000, any::<bool>()), 1..60),
    ) {
        let tables = two_flows();
        let mut now_ns = START_NS + 2 * SECOND_NS;
        for (packet, after_us, from_socket) in packets {
            now_ns += u64::from(after_us) * 1_000;
            let mut seen = Seen::new(now_ns, packet.frame());
            seen.socket_snd_nxt = from_socket.then_some(CLIENT_ISN);
            // A length may contradict another; the counts must not.
            let _ = tables.see(&seen);
        }
        for state in tables.flow_states().values() {
            for half in &state.halves {
                let bins: u32 = half.rtt_bins.iter().map(|&count| u32::from(count)).sum();
                prop_assert_eq!(bins, half.rtt_samples);
                prop_assert!(half.rtt_timestamp_samples <= half.rtt_samples);
                let [retransmitted, spurious, downstream, upstream, _] = losses(half);
                prop_assert_eq!(retransmitted, spurious + downstream + upstream);
                prop_assert!(half.slow_start.samples <= half.rtt_samples);
            }
        }
    }
}
