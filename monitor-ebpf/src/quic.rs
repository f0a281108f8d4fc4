//! QUIC as far as it can be seen: packets and bytes of a flow, its Initials, the spin bit.
//!
//! QUIC hides what the TCP tracker needs. What is left says how much video TCP evidence does not
//! cover, and, where an endpoint spins its bit, the RTT (RFC 9000, 17.4; RFC 9312, 3.8).

use crate::{
    counters::{Counter, Reason},
    flow::FlowKey,
    hello::{self, Place},
    observe::{Packet, Tables},
    packet::{Header, Network, Parsed},
    select::{Settings, settings_flags},
};

/// Where HTTP/3 is served (RFC 9114, 3.1).
pub const PORT: u16 = 443;

/// A half may be taken over by another hook after this silence, as for TCP.
const SILENCE_NS: u64 = 5_000_000_000;
/// Datagrams of one client that are handed on: a ClientHello takes two or three.
const PIECES_MAX: u32 = 6;

const LONG_HEADER: u8 = 0x80;
const FIXED_BIT: u8 = 0x40;
const SPIN_BIT: u8 = 0x20;
const VERSION_1: u32 = 0x0000_0001;
const VERSION_2: u32 = 0x6b33_43cf;

/// A spin period this much shorter than the one before is two packets in the wrong order
/// (RFC 9312, 4.2).
const REORDERED_SHARE: u64 = 8;
/// A longer one is a pause.
const SPIN_MAX_US: u64 = 4_000_000;

/// UDP, and the first byte of a QUIC packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    len: [u8; 2],
    checksum: [u8; 2],
    first: u8,
}

const UDP_LEN: u32 = 8;

/// Behind the first byte of a long header.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Version([u8; 4]);

// SAFETY: plain integers without padding.
unsafe impl Header for Head {}
// SAFETY: as above.
unsafe impl Header for Version {}

/// What [`parse`] leaves in `parsed.segment.options`.
const INITIAL: u8 = 1;

/// One direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuicHalf {
    /// UDP payload.
    pub bytes: u64,
    /// Coarse monotonic time of the last packet, ns.
    pub last_seen_ns: u64,
    /// When the spin bit changed last, precise ns; 0: it has not.
    pub edge_ns: u64,
    /// Sum of the times between two changes, µs.
    pub spin_sum_us: u64,
    /// The hook that owns this half: ifindex << 1 | 1 for egress; 0: nobody yet.
    pub owner: u32,
    /// Datagrams, as captured.
    pub packets: u32,
    /// Of these, with a short header: they have a spin bit.
    pub short_packets: u32,
    /// The spin bit of the last one.
    pub spin: u32,
    /// Times between two changes that were taken, the last one, and the shortest of all, µs
    /// (0: none).
    pub spin_samples: u32,
    pub spin_last_us: u32,
    pub spin_min_us: u32,
    pub reserved: u32,
}

/// One flow of UDP with port 443 at either end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuicFlow {
    /// Coarse monotonic time of its first packet, ns: differences are only taken within one.
    pub generation: u64,
    /// Datagrams that were handed on.
    pub pieces: u32,
    pub reserved: u32,
    /// Indexed by [`crate::flow::LOW_TO_HIGH`] and [`crate::flow::HIGH_TO_LOW`].
    pub halves: [QuicHalf; 2],
}

const _: () = assert!(size_of::<QuicHalf>() == 64 && size_of::<QuicFlow>() == 144);

impl QuicFlow {
    /// All zero.
    pub const EMPTY: Self = Self {
        generation: 0,
        pieces: 0,
        reserved: 0,
        halves: [QuicHalf {
            bytes: 0,
            last_seen_ns: 0,
            edge_ns: 0,
            spin_sum_us: 0,
            owner: 0,
            packets: 0,
            short_packets: 0,
            spin: 0,
            spin_samples: 0,
            spin_last_us: 0,
            spin_min_us: 0,
            reserved: 0,
        }; 2],
    };

    /// Coarse monotonic time of the last packet in either direction, ns.
    pub fn last_seen_ns(&self) -> u64 {
        self.halves[0].last_seen_ns.max(self.halves[1].last_seen_ns)
    }
}

/// What there is to know of a datagram, to `parsed`; and why it is not tracked as TCP is.
///
/// All that is read of the packet is read here: behind a map the verifier knows no bound of an
/// offset.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, network: &Network, parsed: &mut Parsed) -> Reason {
    if network.tcp_len <= UDP_LEN {
        return Reason::NotTcp;
    }
    let Some(head) = packet.load::<Head>(network.tcp_offset) else {
        return Reason::Truncated;
    };
    let destination_port = u16::from_be_bytes(head.destination_port);
    let (key, direction) = FlowKey::new(
        network.source,
        u16::from_be_bytes(head.source_port),
        network.destination,
        destination_port,
    );
    parsed.key = key;
    parsed.direction = direction as u32;
    parsed.payload_at = network.tcp_offset as u32 + UDP_LEN;
    // A super-packet's UDP length is that of its first datagram, or 0; the IP length is whole.
    parsed.segment.payload_len = network.tcp_len - UDP_LEN;
    parsed.segment.flags = head.first;
    parsed.segment.options = 0;
    if destination_port == PORT
        && head.first & LONG_HEADER != 0
        && let Some(Version(version)) =
            packet.load::<Version>(network.tcp_offset + size_of::<Head>())
        && is_initial(head.first, u32::from_be_bytes(version))
    {
        parsed.segment.options = INITIAL;
    }
    Reason::Quic
}

/// Whether this is an Initial that can be read (RFC 9000, 17.2.2; RFC 9369, 3.2).
#[inline(always)]
fn is_initial(first: u8, version: u32) -> bool {
    let kind = first >> 4 & 3;
    match version {
        VERSION_1 => kind == 0,
        VERSION_2 => kind == 1,
        _ => false,
    }
}

/// Takes a datagram that [`parse`] found into account.
#[inline(always)]
pub fn observe<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
    parsed: &Parsed,
) -> Reason {
    let key = &parsed.key;
    if let Err(reason) = crate::select::flow(tables, settings, key) {
        return reason;
    }
    let coarse_ns = packet.coarse_ns();
    let flow = match tables.quic_flow(key) {
        Some(flow) => flow,
        None => match tables.create_quic_flow(key) {
            Some(flow) => {
                tables.count(Counter::QuicFlowsCreated);
                // SAFETY: as below.
                unsafe { (*flow).generation = coarse_ns };
                flow
            }
            None => return Reason::Quic,
        },
    };
    // SAFETY: a map value, valid until the next call that adds or removes one; another CPU may
    // write it too, which costs a count.
    let flow = unsafe { &mut *flow };
    let generation = flow.generation;
    let pieces = flow.pieces;
    let half = if parsed.direction == 0 {
        &mut flow.halves[0]
    } else {
        &mut flow.halves[1]
    };
    let hook = packet.hook();
    if half.owner != hook {
        if half.owner != 0 && coarse_ns.wrapping_sub(half.last_seen_ns) < SILENCE_NS {
            return Reason::Quic;
        }
        half.owner = hook;
    }
    let payload_len = parsed.segment.payload_len;
    half.last_seen_ns = coarse_ns;
    half.bytes = half.bytes.wrapping_add(u64::from(payload_len));
    half.packets = half.packets.wrapping_add(1);
    let first = parsed.segment.flags;
    if first & LONG_HEADER == 0 {
        if first & FIXED_BIT != 0 {
            spin(half, u32::from(first & SPIN_BIT != 0), packet);
        }
        return Reason::Quic;
    }
    let asked_for = settings.flags & settings_flags::HELLOS != 0;
    if parsed.segment.options & INITIAL != 0 && asked_for && pieces < PIECES_MAX {
        flow.pieces = pieces.wrapping_add(1);
        let gso_size = packet.gso_size();
        let len = if gso_size != 0 && gso_size < payload_len {
            gso_size
        } else {
            payload_len
        };
        let place = Place {
            generation,
            offset: 0,
            transport: hello::QUIC,
        };
        hello::hand_on(packet, tables, parsed, &place, len);
    }
    Reason::Quic
}

/// Each round trip the client inverts the bit that the server echoes.
#[inline(always)]
fn spin<P: Packet>(half: &mut QuicHalf, spin: u32, packet: &P) {
    half.short_packets = half.short_packets.wrapping_add(1);
    if half.short_packets == 1 {
        half.spin = spin;
        return;
    }
    if half.spin == spin {
        return;
    }
    let now_ns = packet.precise_ns();
    let period_us = now_ns.wrapping_sub(half.edge_ns) / 1_000;
    if half.edge_ns != 0 && period_us <= SPIN_MAX_US {
        if period_us < u64::from(half.spin_last_us) / REORDERED_SHARE {
            return;
        }
        let period_us = period_us as u32;
        half.spin_samples = half.spin_samples.wrapping_add(1);
        half.spin_sum_us = half.spin_sum_us.wrapping_add(u64::from(period_us));
        half.spin_last_us = period_us;
        if half.spin_min_us == 0 || period_us < half.spin_min_us {
            half.spin_min_us = period_us;
        }
    }
    half.spin = spin;
    half.edge_ns = now_ns;
}
