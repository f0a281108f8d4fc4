//! One connection, as a hook sees it. Times are in microseconds since the test began, data are
//! offsets into the two byte streams.
//!
//! ```text
//! let mut wire = Wire::established();
//! wire.sees(40_000, wire.server().data(0, 1_000));
//! wire.sees(60_000, wire.client().ack(1_000));
//! assert_eq!(wire.client_half().busy_us, 20_000);
//! ```

use std::net::{IpAddr, SocketAddr};

use monitor_ebpf::{
    counters::{Counter, Reason},
    flow::{Address, FlowKey, FlowState, Half},
};

use super::{
    packets::{CLIENT, CLIENT_ISN, Packet, SERVER, SERVER_ISN, tcp},
    tables::{SECOND_NS, Seen, Tables},
};

/// SYN to SYN-ACK, and SYN-ACK to ACK, of [`Wire::established`]: the tap is 10 ms from the
/// server and 20 ms from the client, there and back.
pub const SERVER_RTT_US: u32 = 10_000;
pub const CLIENT_RTT_US: u32 = 20_000;

/// When a test's clock begins: not at zero, as no kernel's does.
pub const START_NS: u64 = 100 * SECOND_NS;

/// Egress of another device.
pub const OTHER_HOOK: u32 = 2 << 1 | 1;

/// A hook, and the connection between [`CLIENT`] and [`SERVER`].
pub struct Wire {
    pub tables: Tables,
    pub client_isn: u32,
    pub server_isn: u32,
}

impl Wire {
    /// Nothing was seen yet.
    pub fn new() -> Self {
        Self {
            tables: Tables::default(),
            client_isn: CLIENT_ISN,
            server_isn: SERVER_ISN,
        }
    }

    /// The three packets of a handshake were seen, at 0, 10 and 30 ms, with SACK and a window of
    /// 1,000 without a scale.
    pub fn established() -> Self {
        Self::new().shaken_hands()
    }

    pub fn shaken_hands(mut self) -> Self {
        self.sees(0, self.client().syn().sack_permitted());
        self.sees(SERVER_RTT_US, self.server().syn_ack().sack_permitted());
        self.sees(SERVER_RTT_US + CLIENT_RTT_US, self.client().ack(0));
        self
    }

    /// A packet of the client to be: an ACK that repeats what the handshake said.
    pub fn client(&self) -> Packet {
        tcp(CLIENT, SERVER).isns(self.client_isn, self.server_isn)
    }

    pub fn server(&self) -> Packet {
        tcp(SERVER, CLIENT).isns(self.server_isn, self.client_isn)
    }

    pub fn sees(&mut self, at_us: u32, packet: Packet) {
        self.sees_with(at_us, packet, |_| ());
    }

    /// As [`Self::sees`], for a packet that is not tracked.
    pub fn refuses(&mut self, at_us: u32, packet: Packet) -> Reason {
        let seen = Seen::new(time_ns(at_us), packet.frame());
        self.tables.see(&seen).expect_err("the packet was tracked")
    }

    /// As [`Self::sees`], and `how` says what else the hook knows.
    pub fn sees_with(&mut self, at_us: u32, packet: Packet, how: impl FnOnce(&mut Seen)) {
        let mut seen = Seen::new(time_ns(at_us), packet.frame());
        how(&mut seen);
        self.tables.see(&seen).expect("the packet is tracked");
    }

    /// As [`Self::sees`], at [`OTHER_HOOK`].
    pub fn sees_elsewhere(&mut self, at_us: u32, packet: Packet) {
        self.sees_with(at_us, packet, |seen| seen.hook = OTHER_HOOK);
    }

    /// The packet leaves by the socket of ours that will send `snd_nxt` next.
    pub fn sends(&mut self, at_us: u32, packet: Packet, snd_nxt: u32) {
        self.sees_with(at_us, packet, |seen| seen.socket_snd_nxt = Some(snd_nxt));
    }

    pub fn state(&self) -> FlowState {
        self.tables
            .flow_state(&key().0)
            .expect("the flow was admitted")
    }

    pub fn has_state(&self) -> bool {
        self.tables.flow_state(&key().0).is_some()
    }

    /// What packets of the server say: about its data, and about what the client sent.
    pub fn server_half(&self) -> Half {
        self.state().halves[key().1 ^ 1]
    }

    /// What packets of the client say: about its data, and (RTT, ACKs) about what the server sent.
    pub fn client_half(&self) -> Half {
        self.state().halves[key().1]
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.tables.counter(counter)
    }
}

pub fn time_ns(at_us: u32) -> u64 {
    START_NS + u64::from(at_us) * 1_000
}

/// The key of the connection, and the client's direction.
pub fn key() -> (FlowKey, usize) {
    FlowKey::new(
        address(CLIENT),
        CLIENT.port(),
        address(SERVER),
        SERVER.port(),
    )
}

pub fn address(endpoint: SocketAddr) -> Address {
    match endpoint.ip() {
        IpAddr::V4(address) => Address::v4(address.octets()),
        IpAddr::V6(address) => Address::v6(address.octets()),
    }
}
