//! Which packets are taken the cheap way. That it leaves what the long way leaves is asserted in
//! `observe` with every packet of every test.

use monitor_ebpf::{
    flow::Half,
    options,
    packet::{Segment, tcp_flags},
    prediction::{self, Expected},
    sequence::{high, low, pack},
    tracker::Completes,
};

use crate::support::wire::Wire;

/// A response of which 1,000 bytes are under way, and the packet that comes next.
fn under_way() -> (Wire, Segment) {
    let mut wire = Wire::established();
    wire.sees(100_000, wire.client().data(0, 100));
    wire.sees(150_000, wire.server().data(0, 1_000).ack(100));
    let server = wire.server_half();
    let next = Segment {
        sequence: high(server.burst),
        acknowledgment: high(server.acked),
        payload_len: 1_000,
        segments: 1,
        segment_len: 1_000,
        window: server.acked as u16,
        flags: tcp_flags::ACK,
        ..Segment::EMPTY
    };
    (wire, next)
}

fn expected(own: &Half, peer: &Half, segment: &Segment) -> Expected {
    prediction::expected(own, peer, segment, own.owner)
}

#[test]
fn the_next_data_of_a_response_is_expected() {
    let (wire, next) = under_way();
    let (server, client) = (wire.server_half(), wire.client_half());
    assert_eq!(expected(&server, &client, &next), Expected::Data);
    let pushed = Segment {
        flags: next.flags | 0x08,
        ..next
    };
    assert_eq!(
        expected(&server, &client, &pushed),
        Expected::Data,
        "PSH says nothing to us"
    );
}

#[test]
fn whatever_else_it_says_is_looked_at() {
    let (wire, next) = under_way();
    let (server, client) = (wire.server_half(), wire.client_half());
    let others = [
        (
            "SYN",
            Segment {
                flags: next.flags | tcp_flags::SYN,
                ..next
            },
        ),
        (
            "FIN",
            Segment {
                flags: next.flags | tcp_flags::FIN,
                ..next
            },
        ),
        (
            "RST",
            Segment {
                flags: next.flags | tcp_flags::RST,
                ..next
            },
        ),
        ("no ACK", Segment { flags: 0, ..next }),
        ("CE", Segment { ecn: 3, ..next }),
        (
            "SACK",
            Segment {
                options: options::SACK_FIRST,
                ..next
            },
        ),
        (
            "first timestamp",
            Segment {
                options: options::TIMESTAMPS,
                ..next
            },
        ),
        (
            "no data",
            Segment {
                payload_len: 0,
                ..next
            },
        ),
        (
            "one byte",
            Segment {
                payload_len: 1,
                ..next
            },
        ),
        (
            "a hole",
            Segment {
                sequence: next.sequence + 1,
                ..next
            },
        ),
        (
            "old data",
            Segment {
                sequence: next.sequence - 1,
                ..next
            },
        ),
        (
            "another ACK",
            Segment {
                acknowledgment: next.acknowledgment + 1,
                ..next
            },
        ),
        (
            "another window",
            Segment {
                window: next.window - 1,
                ..next
            },
        ),
    ];
    for (what, segment) in others {
        assert_eq!(
            expected(&server, &client, &segment),
            Expected::Nothing,
            "{what}"
        );
    }
    assert_eq!(
        prediction::expected(&server, &client, &next, server.owner + 2),
        Expected::Nothing,
        "another hook"
    );
    assert_eq!(
        expected(&client, &server, &next),
        Expected::Nothing,
        "another direction"
    );
}

/// The client's ACK of so many of 2,000 bytes that are under way.
fn acked(bytes: u32) -> (Half, Half, Segment) {
    let (mut wire, _) = under_way();
    wire.sees(151_000, wire.server().data(1_000, 1_000).ack(100));
    let (server, client) = (wire.server_half(), wire.client_half());
    let ack = Segment {
        sequence: high(client.burst),
        acknowledgment: high(client.acked) + bytes,
        window: client.acked as u16,
        flags: tcp_flags::ACK,
        ..Segment::EMPTY
    };
    (client, server, ack)
}

#[test]
fn an_ack_of_new_data_is_expected() {
    let (client, server, ack) = acked(500);
    let completes = |sample, burst| Expected::Ack(Completes { sample, burst });
    assert_eq!(expected(&client, &server, &ack), completes(0, false));
    let (client, server, ack) = acked(1_000);
    let sample = server.sample;
    assert_eq!(expected(&client, &server, &ack), completes(sample, false));
    let (client, server, ack) = acked(2_000);
    assert_eq!(expected(&client, &server, &ack), completes(sample, true));
}

#[test]
fn an_ack_that_says_more_is_looked_at() {
    type Change = fn(&mut Segment);
    let others: [(&str, Change); 8] = [
        ("SYN", |ack| ack.flags |= tcp_flags::SYN),
        ("FIN", |ack| ack.flags |= tcp_flags::FIN),
        ("RST", |ack| ack.flags |= tcp_flags::RST),
        ("CE", |ack| ack.ecn = 3),
        ("SACK", |ack| ack.options = options::SACK_FIRST),
        ("a duplicate", |ack| ack.acknowledgment -= 1_000),
        ("of what was not sent", |ack| ack.acknowledgment += 1_001),
        ("a keep-alive", |ack| ack.sequence -= 1),
    ];
    for (what, change) in others {
        let (client, server, mut ack) = acked(1_000);
        change(&mut ack);
        assert_eq!(
            expected(&client, &server, &ack),
            Expected::Nothing,
            "{what}"
        );
    }
}

#[test]
fn the_ack_of_a_handshake_is_looked_at() {
    let wire = Wire::established();
    let (server, client) = (wire.server_half(), wire.client_half());
    // As it was before that ACK came.
    let (mut before, mut asked) = (client, server);
    before.acked = pack(server.isn, low(client.acked));
    asked.sample = pack(server.isn + 1, 1);
    let ack = Segment {
        sequence: high(client.burst),
        acknowledgment: server.isn + 1,
        window: client.acked as u16,
        flags: tcp_flags::ACK,
        ..Segment::EMPTY
    };
    assert_eq!(expected(&before, &asked, &ack), Expected::Nothing);
}

#[test]
fn data_after_all_was_acknowledged_starts_anew() {
    let (mut wire, next) = under_way();
    wire.sees(170_000, wire.client().data(100, 0).ack(1_000));
    assert_eq!(
        expected(&wire.server_half(), &wire.client_half(), &next),
        Expected::Start
    );
}

#[test]
fn after_a_fin_everything_is_looked_at() {
    let (mut wire, next) = under_way();
    wire.sees(180_000, wire.server().fin(1_000).payload(1_000).ack(100));
    let server = wire.server_half();
    let beyond = Segment {
        sequence: high(server.burst),
        ..next
    };
    assert_eq!(
        expected(&server, &wire.client_half(), &beyond),
        Expected::Nothing
    );
}
