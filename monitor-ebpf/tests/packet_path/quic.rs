//! QUIC flows: counted, their Initials handed on, their spin bit timed.

use monitor_ebpf::{
    counters::{Counter, Reason},
    flow::{Address, FlowKey},
    hello::QUIC,
    packet::Link,
    quic::{QuicFlow, QuicHalf},
};

use super::support::{
    packets::Frame,
    tables::{HOOK, Seen, Tables},
};

const CLIENT: [u8; 4] = [10, 1, 2, 3];
const SERVER: [u8; 4] = [192, 0, 2, 1];
const PORT: u16 = 50_000;
const START_NS: u64 = 100_000_000_000;
const OTHER_HOOK: u32 = 2 << 1 | 1;

fn datagram(from_client: bool, payload: &[u8]) -> Frame {
    let ends = [(CLIENT, PORT), (SERVER, 443)];
    let [source, destination] = if from_client {
        ends
    } else {
        [ends[1], ends[0]]
    };
    let mut bytes = vec![0x45, 0];
    bytes.extend((28 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend(source.0);
    bytes.extend(destination.0);
    bytes.extend(source.1.to_be_bytes());
    bytes.extend(destination.1.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    Frame {
        link: Link::RawIp,
        frame_len: bytes.len() as u32,
        bytes,
        gso_size: 0,
        gso_segs: 0,
    }
}

fn see(tables: &Tables, time_us: u64, frame: Frame) {
    let seen = Seen::new(START_NS + time_us * 1_000, frame);
    assert_eq!(tables.see(&seen), Err(Reason::Quic));
}

fn key() -> (FlowKey, usize) {
    FlowKey::new(Address::v4(CLIENT), PORT, Address::v4(SERVER), 443)
}

fn flow(tables: &Tables) -> QuicFlow {
    tables.quic_state(&key().0).expect("a flow")
}

fn server_half(tables: &Tables) -> QuicHalf {
    flow(tables).halves[key().1 ^ 1]
}

/// A packet with a short header.
fn short(spin: bool) -> Vec<u8> {
    [vec![0x40 | u8::from(spin) << 5], vec![0; 99]].concat()
}

#[test]
fn bytes_and_packets_are_counted_each_way_once() {
    let tables = Tables::default();
    see(&tables, 0, datagram(true, &[0x40; 10]));
    see(&tables, 1, datagram(false, &[0x40; 100]));
    see(&tables, 2, datagram(false, &[0x40; 100]));
    let mut elsewhere = Seen::new(START_NS + 3_000, datagram(false, &[0x40; 100]));
    elsewhere.hook = OTHER_HOOK;
    assert_eq!(tables.see(&elsewhere), Err(Reason::Quic));
    let half = server_half(&tables);
    assert_eq!((half.bytes, half.packets, half.owner), (200, 2, HOOK));
    assert_eq!(tables.counter(Counter::QuicFlowsCreated), 1);
    assert_eq!(tables.counter(Counter::Quic), 4);
}

#[test]
fn initials_of_the_client_are_handed_on_and_nothing_else() {
    let tables = Tables::default();
    let long = |first: u8, version: u32| {
        [vec![first], version.to_be_bytes().to_vec(), vec![0; 60]].concat()
    };
    let (one, two) = (long(0xc0, 1), long(0xd0, 0x6b33_43cf));
    see(&tables, 0, datagram(true, &one));
    see(&tables, 1, datagram(true, &two));
    // A server's, a handshake packet, another version, a short header.
    see(&tables, 2, datagram(false, &one));
    see(&tables, 3, datagram(true, &long(0xe0, 1)));
    see(&tables, 4, datagram(true, &long(0xc0, 0)));
    see(&tables, 5, datagram(true, &short(false)));
    let pieces = tables.take_pieces();
    let bytes: Vec<&[u8]> = pieces
        .iter()
        .map(|piece| &piece.bytes[..piece.len as usize])
        .collect();
    assert_eq!(bytes, [&one[..], &two[..]]);
    assert!(pieces.iter().all(|piece| piece.transport == QUIC));
    for _ in 0..10 {
        see(&tables, 6, datagram(true, &one));
    }
    assert_eq!(tables.take_pieces().len(), 4, "six of a flow");
}

#[test]
fn a_bit_that_spins_gives_the_round_trip_and_reordering_does_not() {
    let tables = Tables::default();
    for (time_us, spin) in [
        (0, false),
        (5_000, false),
        (40_000, true),
        (60_000, true),
        (80_000, false),
        // Late, from before the edge, and back again.
        (80_100, true),
        (80_200, false),
        (121_000, true),
    ] {
        see(&tables, time_us, datagram(false, &short(spin)));
    }
    let half = server_half(&tables);
    assert_eq!((half.spin_samples, half.spin_min_us), (2, 40_000));
    assert_eq!((half.spin_sum_us, half.short_packets), (81_000, 8));
}

#[test]
fn other_datagrams_are_not_quic() {
    let tables = Tables::default();
    let mut frame = datagram(true, &[0x40; 10]);
    frame.bytes[22..24].copy_from_slice(&444u16.to_be_bytes());
    let seen = Seen::new(START_NS, frame);
    assert_eq!(tables.see(&seen), Err(Reason::NotTcp));
    let empty = Seen::new(START_NS, datagram(true, &[]));
    assert_eq!(tables.see(&empty), Err(Reason::NotTcp));
}
