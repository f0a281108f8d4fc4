//! Which packets are taken the cheap way. That it leaves what the long way leaves is asserted in
//! `observe` with every packet of every test.

use monitor_ebpf::{
    flow::Half,
    options,
    packet::{Segment, tcp_flags},
    prediction,
    sequence::high,
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

fn applies(own: &Half, peer: &Half, segment: &Segment) -> bool {
    prediction::applies(own, peer, segment, own.owner)
}

#[test]
fn the_next_data_of_a_response_is_expected() {
    let (wire, next) = under_way();
    let (server, client) = (wire.server_half(), wire.client_half());
    assert!(applies(&server, &client, &next));
    let pushed = Segment {
        flags: next.flags | 0x08,
        ..next
    };
    assert!(applies(&server, &client, &pushed), "PSH says nothing to us");
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
        assert!(!applies(&server, &client, &segment), "{what}");
    }
    assert!(
        !prediction::applies(&server, &client, &next, server.owner + 2),
        "another hook"
    );
    assert!(!applies(&client, &server, &next), "another direction");
}

#[test]
fn the_first_packet_and_the_last_one_are_looked_at() {
    let (mut wire, next) = under_way();
    wire.sees(170_000, wire.client().data(100, 0).ack(1_000));
    assert!(
        !applies(&wire.server_half(), &wire.client_half(), &next),
        "nothing is under way"
    );
    wire.sees(180_000, wire.server().fin(1_000).payload(1_000).ack(100));
    let server = wire.server_half();
    let beyond = Segment {
        sequence: high(server.burst),
        ..next
    };
    assert!(
        !applies(&server, &wire.client_half(), &beyond),
        "after a FIN"
    );
}
