//! What is watched: ports, prefixes, a sample of the flows.

use monitor_ebpf::{
    counters::{Counter, Reason},
    flow::{Address, FlowKey},
    select::{self, Settings, settings_flags},
};
use proptest::prelude::*;

use crate::support::{
    packets::{CLIENT, CLIENT_V6, Packet, SERVER, SERVER_V6, tcp},
    tables::{SETTINGS, Seen, Tables},
    wire::{Wire, address, time_ns},
};

fn wire(flags: u32) -> Wire {
    let mut wire = Wire::new();
    wire.tables.settings = Settings { flags, ..SETTINGS };
    wire.tables.ports = [443, 8_080].into();
    wire.tables.prefix = Some(address(CLIENT));
    wire
}

#[test]
fn a_watched_port_at_either_end() {
    let mut wire = wire(settings_flags::PORTS);
    wire.sees(0, tcp(CLIENT, SERVER).syn());
    wire.sees(0, tcp(SERVER, CLIENT).isns(0, 0).syn_ack());
    wire.sees(0, tcp(CLIENT, SERVER).isns(0, 0));
    assert!(wire.has_state());
}

#[test]
fn other_ports_leave_before_anything_else_is_looked_at() {
    let mut wire = wire(settings_flags::PORTS | settings_flags::PREFIXES);
    let (mut client, mut server) = (CLIENT, SERVER);
    // One beside a watched port, and one that has its place in another word of the bitmap.
    for port in [442, 444, 443 - 64, 443 + 64] {
        server.set_port(port);
        assert_eq!(wire.refuses(0, tcp(client, server)), Reason::Port);
        assert_eq!(wire.refuses(0, tcp(server, client)), Reason::Port);
    }
    assert_eq!(wire.counter(Counter::PortNotWatched), 8);
    client.set_port(8_080);
    wire.sees(0, tcp(client, server));
}

#[test]
fn an_address_in_a_watched_prefix_at_either_end() {
    let mut wire = wire(settings_flags::PREFIXES);
    wire.sees(0, tcp(CLIENT, SERVER));
    wire.sees(0, tcp(SERVER, CLIENT));
    assert_eq!(wire.refuses(0, tcp(CLIENT_V6, SERVER_V6)), Reason::Prefix);
    assert_eq!(wire.counter(Counter::PrefixNotWatched), 1);
}

/// Flows of one client to one server, as a load test makes them: one port after the other.
fn neighbours(count: u32) -> impl Iterator<Item = FlowKey> {
    (0..count).map(|index| {
        let (client, server) = (
            Address::v4([10, 0, (index >> 15) as u8, 7]),
            Address::v4([192, 0, 2, 1]),
        );
        FlowKey::new(client, 32_768 + (index & 0x7fff) as u16, server, 443).0
    })
}

/// Asserts that one in `one_in` is watched, give or take five standard deviations.
fn assert_share(one_in: u32, keys: impl Iterator<Item = FlowKey>) {
    let settings = Settings {
        sample_threshold: u32::MAX / one_in,
        ..SETTINGS
    };
    let tables = Tables::default();
    let (mut watched, mut count) = (0.0, 0.0);
    for key in keys {
        count += 1.0;
        match select::flow(&tables, &settings, &key) {
            Ok(()) => watched += 1.0,
            Err(reason) => assert_eq!(reason, Reason::Sample),
        }
    }
    let share = 1.0 / f64::from(one_in);
    let deviation = f64::sqrt(count * share * (1.0 - share));
    let expected = count * share;
    assert!(
        f64::abs(watched - expected) <= 5.0 * deviation,
        "{watched} of {count} flows are watched, {expected} +- {deviation} expected"
    );
}

#[test]
fn one_in_n_of_flows_that_differ_by_one_port() {
    for one_in in [1, 2, 3, 10, 100, 1_000] {
        assert_share(one_in, neighbours(100_000));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn one_in_n_of_random_flows(
        one_in in 1u32..200,
        flows in prop::collection::vec(any::<(u32, u16, u32, u16)>(), 5_000),
    ) {
        let keys = flows.into_iter().map(|(source, source_port, destination, port)| {
            let (source, destination) = (source.to_be_bytes(), destination.to_be_bytes());
            let (source, destination) = (Address::v4(source), Address::v4(destination));
            FlowKey::new(source, source_port, destination, port).0
        });
        assert_share(one_in, keys);
    }
}

#[test]
fn every_host_samples_the_same_flows() {
    // Written down: a host of another version must not choose other flows.
    let keys: Vec<_> = neighbours(3).map(|key| select::hash(&key)).collect();
    assert_eq!(keys, [3_255_896_523, 651_027_300, 2_559_115_242]);
}

#[test]
fn flows_that_are_not_sampled_are_counted() {
    let mut wire = Wire::new();
    wire.tables.settings.sample_threshold = 0;
    assert_eq!(wire.refuses(0, wire.client().syn()), Reason::Sample);
    assert_eq!(wire.counter(Counter::NotSampled), 1);
}

/// Nobody is turned away, or all but a 2^15th part.
fn admitting(wire: &mut Wire, everybody: bool) {
    let halvings = if everybody { 0 } else { select::HALVINGS_MAX };
    wire.tables.settings.halvings = halvings;
    wire.tables.settings.halvings_before = halvings;
}

#[test]
fn when_hardly_anybody_is_admitted_whoever_was_before_goes_on() {
    let mut wire = Wire::new();
    wire.sees(0, wire.client().syn());
    admitting(&mut wire, false);
    // What waited for the end of its handshake was admitted with its first packet.
    wire.sees(10_000, wire.server().syn_ack());
    wire.sees(30_000, wire.client().ack(0));
    wire.sees(40_000, wire.server().data(0, 1_000));
    assert_eq!(wire.server_half().bytes, 1_000);
    assert_eq!(wire.state().halvings(), 0);
    let mut other = CLIENT;
    other.set_port(7);
    let others = [
        tcp(other, SERVER).syn(),
        tcp(SERVER, other).data(0, 1_000),
        tcp(other, SERVER).rst(),
    ];
    for (packet, counted) in others.into_iter().zip(1..) {
        assert_eq!(wire.refuses(50_000, packet), Reason::NotAdmitted);
        assert_eq!(wire.counter(Counter::NotAdmitted), counted);
    }
    assert_eq!(wire.tables.pending_count(), 0);
}

#[test]
fn who_was_turned_away_is_not_admitted_in_its_midst_when_others_are() {
    let mut wire = Wire::new();
    wire.tables.settings.halvings_before = select::HALVINGS_MAX;
    let packet = wire.server().data(0, 1_000);
    assert_eq!(wire.refuses(0, packet), Reason::NotAdmitted);
    wire.sees(10_000, wire.client().syn());
    assert_eq!(wire.tables.pending_count(), 1);
}

#[test]
fn a_flow_knows_how_many_it_stands_for() {
    let mut admitted = [0; 2];
    for port in 1..=2_000 {
        for (by_socket, admitted) in [false, true].into_iter().zip(&mut admitted) {
            let mut wire = Wire::new();
            wire.tables.settings.halvings = 3;
            let mut client = CLIENT;
            client.set_port(port);
            let syn = tcp(client, SERVER).isns(1, 9).syn();
            let seen = |wire: &Wire, packet: Packet, socket| {
                let mut seen = Seen::new(time_ns(u32::from(port)), packet.frame());
                seen.socket_snd_nxt = socket;
                wire.tables.see(&seen)
            };
            if seen(&wire, syn, by_socket.then_some(1)).is_err() {
                continue;
            }
            *admitted += 1;
            // Rates that change meanwhile do not matter to it.
            wire.tables.settings.halvings = 5;
            let answer = tcp(SERVER, client).isns(9, 1);
            seen(&wire, answer.clone().syn_ack(), None).expect("admitted");
            seen(&wire, tcp(client, SERVER).isns(1, 9), None).expect("admitted");
            let states = wire.tables.flow_states();
            let state = states.values().next().expect("it has a state");
            assert_eq!(state.halvings(), 3);
        }
    }
    // One in eight of 2,000, within four standard errors; the same ones.
    assert!((190..310).contains(&admitted[0]), "{admitted:?}");
    assert_eq!(admitted[0], admitted[1]);
}

#[test]
fn who_is_admitted_depends_on_a_secret() {
    let half = |admission_key| {
        let settings = Settings {
            admission_key,
            halvings: 1,
            ..SETTINGS
        };
        let keys = neighbours(10_000);
        keys.map(|key| select::admitted(&settings, &key, true).is_some())
            .collect::<Vec<_>>()
    };
    let (one, other) = (half(1), half(2));
    assert_eq!(one, half(1));
    for admitted in [&one, &other] {
        let share = admitted.iter().filter(|of| **of).count();
        assert!((4_700..5_300).contains(&share), "{share} of 10000");
    }
    let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
    assert!((4_700..5_300).contains(&same), "{same} of 10000 alike");
}
