//! Running RTT: by sequence and acknowledgement, and by timestamps.

use monitor_ebpf::flow::{Half, rtt_bin};

use crate::support::{
    packets::Packet,
    tables::Seen,
    wire::{CLIENT_RTT_US, Wire, time_ns},
};

/// RTT samples of the server's data besides the handshake's: how many, and their sum in µs.
fn samples(wire: &Wire) -> (u32, u64) {
    let half = wire.client_half();
    let handshakes = u32::from(half.handshake_rtt_us != 0);
    (
        half.rtt_samples - handshakes,
        half.rtt_sum_us - u64::from(half.handshake_rtt_us),
    )
}

#[test]
fn from_data_to_its_acknowledgement() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(65_000, wire.client().ack(1_000));
    assert_eq!(samples(&wire), (1, 25_000));
    let half = wire.client_half();
    assert_eq!(half.rtt_current.rtt_min_us, CLIENT_RTT_US);
    assert_eq!(half.rtt_current.rtt_max_us, 25_000);
    assert_eq!(half.rtt_bins[rtt_bin(25_000)], 1);
    assert_eq!(half.rtt_bins[rtt_bin(CLIENT_RTT_US)], 1);
}

#[test]
fn one_sample_at_a_time() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(41_000, wire.server().data(1_000, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    // Begun while the first was outstanding, so this one is not measured.
    wire.sees(61_000, wire.client().ack(2_000));
    assert_eq!(samples(&wire), (1, 20_000));
    wire.sees(70_000, wire.server().data(2_000, 1_000));
    wire.sees(91_000, wire.client().ack(3_000));
    assert_eq!(samples(&wire), (2, 41_000));
}

#[test]
fn an_ack_of_less_completes_nothing() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(999));
    assert_eq!(samples(&wire), (0, 0));
    wire.sees(62_000, wire.client().ack(1_000));
    assert_eq!(samples(&wire), (1, 22_000));
}

#[test]
fn none_from_data_that_were_sent_twice() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(300_000, wire.server().data(0, 1_000));
    wire.sees(301_000, wire.client().ack(1_000));
    assert_eq!(samples(&wire), (0, 0));
}

#[test]
fn none_from_data_that_had_to_wait_for_a_retransmission() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.client().ack(1_000));
    wire.sees(61_000, wire.server().data(1_000, 1_000));
    wire.sees(80_000, wire.client().ack(2_000));
    assert_eq!(samples(&wire).0, 2);
    // The first of these is lost behind the tap; the second's sample must not be the time that
    // the repair took.
    wire.sees(81_000, wire.server().data(2_000, 1_000));
    wire.sees(81_100, wire.server().data(3_000, 1_000));
    wire.sees(101_000, wire.client().ack(2_000).sack(&[(3_000, 4_000)]));
    wire.sees(130_000, wire.server().data(2_000, 1_000));
    wire.sees(150_000, wire.client().ack(4_000));
    assert_eq!(samples(&wire).0, 2);
}

#[test]
fn the_end_of_the_first_segment_of_a_super_packet() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 4_344).gso(1_448, 3));
    wire.sees(60_000, wire.client().ack(1_448));
    wire.sees(62_000, wire.client().ack(4_344));
    assert_eq!(samples(&wire), (1, 20_000));
}

#[test]
fn a_paced_packet_starts_when_it_departs() {
    let mut wire = Wire::established();
    wire.sees_with(40_000, wire.server().data(0, 1_000), |seen| {
        seen.departure_ns = time_ns(44_000);
    });
    wire.sees(64_000, wire.client().ack(1_000));
    assert_eq!(samples(&wire), (1, 20_000));
    assert_eq!(wire.client_half().busy_us, 20_000);
}

#[test]
fn a_departure_that_is_past_or_beyond_belief_is_none() {
    let mut wire = Wire::established();
    wire.sees_with(40_000, wire.server().data(0, 1_000), |seen| {
        seen.departure_ns = time_ns(39_000);
    });
    wire.sees(60_000, wire.client().ack(1_000));
    wire.sees_with(70_000, wire.server().data(1_000, 1_000), |seen| {
        seen.departure_ns = time_ns(10_070_000);
    });
    wire.sees(90_000, wire.client().ack(2_000));
    assert_eq!(samples(&wire), (2, 40_000));
}

#[test]
fn tcps_own_stamp_since_the_last_tick_is_the_departure() {
    let mut wire = Wire::established();
    let sent = |seen: &mut Seen| seen.socket_snd_nxt = Some(0);
    wire.sees_with(40_000, wire.server().data(0, 1_000), |seen| {
        sent(seen);
        seen.departure_ns = time_ns(39_950);
        seen.coarse_ns = time_ns(38_000);
    });
    wire.sees(60_000, wire.client().ack(1_000));
    wire.sees_with(70_000, wire.server().data(1_000, 1_000), |seen| {
        sent(seen);
        seen.departure_ns = time_ns(69_900);
        seen.coarse_ns = time_ns(68_000);
    });
    wire.sees(90_000, wire.client().ack(2_000));
    assert_eq!(samples(&wire), (2, 20_050 + 20_100));
    wire.sees_with(100_000, wire.server().data(2_000, 1_000), |seen| {
        sent(seen);
        seen.departure_ns = time_ns(97_000);
        seen.coarse_ns = time_ns(98_000);
    });
    wire.sees(120_000, wire.client().ack(3_000));
    assert_eq!(
        samples(&wire),
        (3, 20_050 + 20_100 + 20_000),
        "it waited somewhere"
    );
}

#[test]
fn a_past_stamp_of_what_others_send_is_none() {
    let mut wire = Wire::established();
    for (at_us, sent) in [(40_000, 0), (70_000, 1_000)] {
        wire.sees_with(at_us, wire.server().data(sent, 1_000), |seen| {
            seen.departure_ns = time_ns(at_us - 1_000);
            seen.coarse_ns = time_ns(at_us - 2_000);
        });
        wire.sees(at_us + 20_000, wire.client().ack(sent + 1_000));
    }
    assert_eq!(samples(&wire), (2, 40_000));
}

#[test]
fn an_ack_before_the_departure_says_nothing() {
    let mut wire = Wire::established();
    wire.sees_with(40_000, wire.server().data(0, 1_000), |seen| {
        seen.departure_ns = time_ns(44_000);
    });
    wire.sees(43_000, wire.client().ack(1_000));
    assert_eq!(samples(&wire), (0, 0));
}

#[test]
fn two_minutes_are_no_rtt() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(120_040_001, wire.client().ack(1_000));
    assert_eq!(samples(&wire), (0, 0));
}

#[test]
fn the_clock_of_samples_may_wrap() {
    let mut wire = Wire::established();
    // START_NS and this make 2^32 us.
    let wrap = u32::MAX - 100_000_000;
    wire.sees(wrap - 10_000, wire.server().data(0, 1_000));
    wire.sees(wrap + 15_000, wire.client().ack(1_000));
    assert_eq!(samples(&wire), (1, 25_000));
}

/// Where a clock of timestamps may be when a connection begins: anywhere (RFC 7323, 5.4).
const CLOCKS: [u32; 6] = [
    1,
    0x7fff_fff0,
    0x8000_0000,
    0x8000_0100,
    0xc000_0000,
    0xffff_fff8,
];

/// A connection with timestamps, its handshake seen.
struct Stamped {
    wire: Wire,
    /// The clocks, in ms.
    client: u32,
    server: u32,
}

impl Stamped {
    fn new(client: u32, server: u32) -> Self {
        let wire = Wire::new();
        let mut stamped = Self {
            wire,
            client,
            server,
        };
        let [syn, ack] = [stamped.wire.client().syn(), stamped.wire.client().ack(0)];
        stamped.wire.sees(0, syn.timestamps(client, 0));
        let syn_ack = stamped.wire.server().syn_ack();
        stamped.server_sends(10, 0, syn_ack);
        stamped.client_sends(30, 10, ack);
        stamped
    }

    /// `packet` at `at_ms`, stamped then, echoes what the server stamped at `echo_ms`.
    fn client_sends(&mut self, at_ms: u32, echo_ms: u32, packet: Packet) {
        let stamped = packet.timestamps(
            self.client.wrapping_add(at_ms),
            self.server.wrapping_add(echo_ms),
        );
        self.wire.sees(at_ms * 1_000, stamped);
    }

    fn server_sends(&mut self, at_ms: u32, echo_ms: u32, packet: Packet) {
        let stamped = packet.timestamps(
            self.server.wrapping_add(at_ms),
            self.client.wrapping_add(echo_ms),
        );
        self.wire.sees(at_ms * 1_000, stamped);
    }
}

fn stamp_samples(half: &Half) -> (u32, u64) {
    let others = u64::from(half.handshake_rtt_us);
    (half.rtt_timestamp_samples, half.rtt_sum_us - others)
}

#[test]
fn a_download_shows_the_servers_side_by_timestamps() {
    for client in CLOCKS {
        for server in CLOCKS {
            let mut talk = Stamped::new(client, server);
            let wire = Wire::new();
            talk.server_sends(40, 30, wire.server().data(0, 1_000));
            talk.server_sends(41, 30, wire.server().data(1_000, 1_000));
            // A new stamp, and the server has more under way: its answer is expected.
            talk.client_sends(60, 40, wire.client().ack(1_000));
            // Already on its way: echoes an older stamp.
            talk.server_sends(61, 30, wire.server().data(2_000, 1_000));
            talk.server_sends(72, 60, wire.server().data(3_000, 1_000));
            // The same echo again is no second sample.
            talk.server_sends(75, 60, wire.server().data(4_000, 1_000));
            let half = talk.wire.server_half();
            assert_eq!(stamp_samples(&half), (1, 12_000), "{client} {server}");
        }
    }
}

#[test]
fn an_upload_shows_the_clients_side_by_timestamps() {
    for client in CLOCKS {
        for server in CLOCKS {
            let mut talk = Stamped::new(client, server);
            let wire = Wire::new();
            talk.client_sends(40, 10, wire.client().data(0, 1_000));
            talk.client_sends(41, 10, wire.client().data(1_000, 1_000));
            talk.server_sends(50, 40, wire.server().ack(1_000));
            talk.client_sends(71, 50, wire.client().data(2_000, 1_000));
            let half = talk.wire.client_half();
            assert_eq!(stamp_samples(&half), (1, 21_000), "{client} {server}");
        }
    }
}

#[test]
fn an_ack_that_nothing_will_answer_starts_no_sample() {
    let mut talk = Stamped::new(1, 1);
    let wire = Wire::new();
    talk.server_sends(40, 30, wire.server().data(0, 1_000));
    // Everything is acknowledged: the next packet may take as long as the application likes.
    talk.client_sends(60, 40, wire.client().ack(1_000));
    talk.server_sends(5_000, 60, wire.server().data(1_000, 1_000));
    assert_eq!(talk.wire.server_half().rtt_timestamp_samples, 0);
}

#[test]
fn an_echo_that_waited_for_the_servers_timer_is_no_rtt() {
    let mut talk = Stamped::new(1, 1);
    let wire = Wire::new();
    for index in 0..3 {
        talk.server_sends(40, 30, wire.server().data(index * 1_000, 1_000));
    }
    talk.client_sends(60, 40, wire.client().ack(1_000));
    talk.server_sends(400, 60, wire.server().data(1_000, 1_000));
    assert_eq!(talk.wire.server_half().rtt_timestamp_samples, 0);
    // Nor does an ACK of nothing new let anything go.
    let mut talk = Stamped::new(1, 1);
    for index in 0..3 {
        talk.server_sends(40, 30, wire.server().data(index * 1_000, 1_000));
    }
    talk.client_sends(60, 40, wire.client().ack(0));
    talk.server_sends(400, 60, wire.server().data(3_000, 1_000));
    assert_eq!(talk.wire.server_half().rtt_timestamp_samples, 0);
}

#[test]
fn timestamps_of_our_own_socket_would_only_show_ourselves() {
    let mut wire = Wire::established();
    let snd_nxt = wire.server_isn.wrapping_add(1);
    wire.sends(
        40_000,
        wire.server().data(0, 1_000).timestamps(9, 1),
        snd_nxt,
    );
    let snd_nxt = wire.server_isn.wrapping_add(1_001);
    wire.sends(
        41_000,
        wire.server().data(1_000, 1_000).timestamps(9, 1),
        snd_nxt,
    );
    wire.sees(60_000, wire.client().ack(1_000).timestamps(2, 9));
    let snd_nxt = wire.server_isn.wrapping_add(2_001);
    wire.sends(
        60_010,
        wire.server().data(2_000, 1_000).timestamps(10, 2),
        snd_nxt,
    );
    assert_eq!(wire.server_half().rtt_timestamp_samples, 0);
}

#[test]
fn a_delayed_ack_of_a_lone_small_segment_is_no_rtt() {
    // The handshake took 20 ms.
    for (rtt_us, delayed) in [
        (54_999, 0),
        (55_000, 1),
        (60_000, 1),
        (520_000, 1),
        (520_001, 0),
    ] {
        let mut wire = Wire::established();
        wire.sees(40_000, wire.server().data(0, 200));
        wire.sees(40_000 + rtt_us, wire.client().ack(200));
        assert_eq!(wire.client_half().delayed_acks, delayed, "{rtt_us}");
        assert_eq!(samples(&wire).0, u32::from(1 - delayed), "{rtt_us}");
    }
}

#[test]
fn a_segment_that_is_full_or_not_alone_is_acknowledged_at_once() {
    // A full one.
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(100_000, wire.client().ack(1_000));
    assert_eq!((samples(&wire).0, wire.client_half().delayed_acks), (1, 0));
    // Another is under way.
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 200));
    wire.sees(40_100, wire.server().data(200, 200));
    wire.sees(100_000, wire.client().ack(200));
    assert_eq!((samples(&wire).0, wire.client_half().delayed_acks), (1, 0));
}

#[test]
fn an_ack_that_waited_for_a_second_segment_is_timed_from_that() {
    let mut wire = Wire::established();
    wire.sees(40_000, wire.server().data(0, 1_000));
    wire.sees(60_000, wire.server().data(1_000, 1_000));
    wire.sees(80_000, wire.client().ack(2_000));
    let (count, sum_us) = samples(&wire);
    // The second's time is known to 2 µs, and by the last tick.
    assert_eq!(count, 1);
    assert!((20_000..=20_002).contains(&sum_us), "{sum_us}");
    assert_eq!(wire.client_half().rtt_current.rtt_min_us, 20_000);
}

#[test]
fn an_ack_that_waited_for_a_second_segment_by_a_coarse_clock() {
    let mut wire = Wire::established();
    for (index, at_us) in [40_000, 60_000].into_iter().enumerate() {
        let packet = wire.server().data(index as u32 * 1_000, 1_000);
        wire.sees_with(at_us, packet, |seen| seen.coarse_ns -= 3_000_000);
    }
    wire.sees(80_000, wire.client().ack(2_000));
    // Never shorter than it was; longer by the tick.
    let (_, sum_us) = samples(&wire);
    assert!((20_000..=23_002).contains(&sum_us), "{sum_us}");
}
