//! Who is the client, and where we stand.

use std::net::{IpAddr, Ipv6Addr};

use monitor_ebpf::flow::{Address, FlowState, HIGH_TO_LOW, Half, LOW_TO_HIGH, half_flags};

/// Where we stand on a flow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Vantage {
    /// We are the TCP sender of the video.
    Sender,
    /// We forward it.
    Path,
    /// We are the client.
    Receiver,
}

/// The two ends of a flow. Who is the client is fixed at the first report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub client: IpAddr,
    pub client_port: u16,
    pub server: IpAddr,
    pub server_port: u16,
    /// Index of the half that the client's packets write; the server's is the other one.
    pub client_half: usize,
    pub vantage: Vantage,
}

impl Roles {
    /// The client is who sent the SYN, else the end whose port is not one of `server_ports`,
    /// else the end that sent fewer bytes.
    pub fn of(state: &FlowState, server_ports: &[u16]) -> Self {
        let client_half = client_half(state, server_ports);
        let key = &state.key;
        let low = (address(key.low_address), key.low_port);
        let high = (address(key.high_address), key.high_port);
        let (client, server) = if client_half == LOW_TO_HIGH {
            (low, high)
        } else {
            (high, low)
        };
        Self {
            client: client.0,
            client_port: client.1,
            server: server.0,
            server_port: server.1,
            client_half,
            vantage: vantage(state, client_half),
        }
    }

    /// Looks again where we stand: a socket of ours shows only when it sends.
    pub fn look_again(&mut self, state: &FlowState) {
        self.vantage = vantage(state, self.client_half);
    }
}

fn client_half(state: &FlowState, server_ports: &[u16]) -> usize {
    let opened = |half: &Half| half.has(half_flags::SYN) && !half.has(half_flags::SYN_ACK);
    let answered = |half: &Half| half.has(half_flags::SYN_ACK);
    let [low, high] = &state.halves;
    match (opened(low) || answered(high), opened(high) || answered(low)) {
        (true, false) => return LOW_TO_HIGH,
        (false, true) => return HIGH_TO_LOW,
        _ => {}
    }
    match (
        server_ports.contains(&state.key.low_port),
        server_ports.contains(&state.key.high_port),
    ) {
        (false, true) => LOW_TO_HIGH,
        (true, false) => HIGH_TO_LOW,
        _ if low.bytes <= high.bytes => LOW_TO_HIGH,
        _ => HIGH_TO_LOW,
    }
}

/// A socket of ours decides; without one (another namespace, replay) the hooks that own the two
/// directions do: what a host sends leaves by egress and its answers come in by ingress, while a
/// forwarder sees both directions come in first.
fn vantage(state: &FlowState, client_half: usize) -> Vantage {
    let (client, server) = (&state.halves[client_half], &state.halves[client_half ^ 1]);
    if server.has(half_flags::LOCAL_SENDER) {
        return Vantage::Sender;
    }
    if client.has(half_flags::LOCAL_SENDER) {
        return Vantage::Receiver;
    }
    let egress = |half: &Half| (half.owner != 0).then_some(half.owner & 1 == 1);
    match (egress(client), egress(server)) {
        (Some(false), Some(true)) => Vantage::Sender,
        (Some(true), Some(false)) => Vantage::Receiver,
        _ => Vantage::Path,
    }
}

/// IPv4 addresses are held as `::ffff:a.b.c.d`.
fn address(address: Address) -> IpAddr {
    Ipv6Addr::from(address.octets()).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use monitor_ebpf::flow::FlowKey;

    const CLIENT: [u8; 4] = [198, 51, 100, 7];
    const SERVER: [u8; 4] = [203, 0, 113, 9];

    /// A flow between the two, and the index of the half that the client's packets write.
    fn flow(client_port: u16, server_port: u16) -> (FlowState, usize) {
        let (key, direction) = FlowKey::new(
            Address::v4(CLIENT),
            client_port,
            Address::v4(SERVER),
            server_port,
        );
        let mut state = FlowState::EMPTY;
        state.key = key;
        (state, direction)
    }

    fn is_right(state: &FlowState, client_port: u16) {
        let roles = Roles::of(state, &[80, 443]);
        assert_eq!(roles.client, IpAddr::from(CLIENT));
        assert_eq!(roles.client_port, client_port);
        assert_eq!(roles.server, IpAddr::from(SERVER));
    }

    #[test]
    fn who_sent_the_syn_is_the_client_whatever_the_ports() {
        let (mut state, client) = flow(443, 50_000);
        state.halves[client].flags = half_flags::SYN;
        is_right(&state, 443);
        // Only the answer was seen.
        state.halves[client].flags = 0;
        state.halves[client ^ 1].flags = half_flags::SYN | half_flags::SYN_ACK;
        is_right(&state, 443);
    }

    #[test]
    fn without_a_syn_the_watched_port_is_the_servers() {
        let (mut state, client) = flow(50_000, 443);
        state.halves[client].bytes = 1_000_000;
        is_right(&state, 50_000);
    }

    #[test]
    fn without_either_the_server_sent_more() {
        let (mut state, client) = flow(50_000, 9_999);
        state.halves[client].bytes = 10;
        state.halves[client ^ 1].bytes = 1_000;
        is_right(&state, 50_000);
    }

    #[test]
    fn a_socket_of_ours_says_where_we_stand_and_hooks_do_otherwise() {
        let (mut state, client) = flow(50_000, 443);
        let (ingress, egress) = (2 << 1, 2 << 1 | 1);
        let at = |state: &FlowState| Roles::of(state, &[443]).vantage;
        assert_eq!(at(&state), Vantage::Path);
        state.halves[client].owner = ingress;
        state.halves[client ^ 1].owner = egress;
        assert_eq!(at(&state), Vantage::Sender);
        state.halves[client].owner = egress;
        state.halves[client ^ 1].owner = ingress;
        assert_eq!(at(&state), Vantage::Receiver);
        state.halves[client].owner = 3 << 1;
        assert_eq!(at(&state), Vantage::Path);
        state.halves[client ^ 1].flags |= half_flags::LOCAL_SENDER;
        assert_eq!(at(&state), Vantage::Sender);
    }
}
