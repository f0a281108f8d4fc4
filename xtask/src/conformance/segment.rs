//! One TCP segment as the dissector of the reference decoded it.

use std::net::SocketAddr;

/// What stands between the link layer and the TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Carriage {
    /// IP alone, below whatever link-layer headers.
    #[default]
    Plain,
    /// Another IP header, or a tunnel's, lies outside of the segment's own.
    Tunnel,
    /// Quoted in an ICMP error: nobody sent it here.
    Quoted,
    /// A part of a datagram, put together by the reference.
    Fragment,
}

/// What `tcp.analysis` says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Analysis {
    /// Of any kind: fast and spurious ones included.
    pub retransmission: bool,
    pub spurious: bool,
    pub out_of_order: bool,
    pub keep_alive: bool,
    pub zero_window_probe: bool,
    /// The frame that this one acknowledges, and how long that took, ns.
    pub acknowledges: Option<(u32, u64)>,
    /// SYN to the ACK that ends the handshake, ns.
    pub initial_rtt_ns: Option<u64>,
}

/// One segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Number of the frame in the capture, from 1.
    pub frame: u32,
    /// Since 1970 UTC.
    pub time_ns: u64,
    pub carriage: Carriage,
    /// MPLS, PPPoE or an IEEE 802.1ad tag lies below IP.
    pub labelled: bool,
    /// IPv6 extension headers lie before TCP.
    pub extended: bool,
    /// The reference's connection.
    pub stream: u32,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub sequence: u32,
    pub acknowledgment: u32,
    /// Payload by the IP header's length, kept in the capture or not.
    pub len: u32,
    /// Payload as the reference has it, which ends with the frame at the latest.
    pub len_in_frame: u32,
    pub flags: u16,
    /// As it stands in the header, not scaled.
    pub window: u32,
    /// RFC 7323: TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// The capture ends before the TCP header does.
    pub header_cut: bool,
    pub analysis: Analysis,
}

/// Bits of [`Segment::flags`] (RFC 9293, 3.1).
pub mod flag {
    pub const FIN: u16 = 0x01;
    pub const SYN: u16 = 0x02;
    pub const RST: u16 = 0x04;
    pub const ACK: u16 = 0x10;
}

impl Segment {
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// One past the last sequence number it takes, SYN and FIN included.
    pub fn end(&self) -> u32 {
        let marks = u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN));
        self.sequence.wrapping_add(self.len).wrapping_add(marks)
    }

    /// Whether the packet path reads it.
    pub fn is_read(&self) -> bool {
        self.carriage == Carriage::Plain && !self.header_cut
    }

    pub fn time_us(&self) -> u64 {
        self.time_ns / 1_000
    }

    /// The two endpoints, the lower one first, and whether the segment travels from the lower one.
    pub fn tuple(&self) -> (Tuple, Direction) {
        Tuple::of(self.source, self.destination)
    }
}

/// The endpoints of a connection, whoever opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    pub low: SocketAddr,
    pub high: SocketAddr,
}

/// Which way data travels between the endpoints of a [`Tuple`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    LowToHigh,
    HighToLow,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::LowToHigh, Self::HighToLow];

    pub fn index(self) -> usize {
        self as usize
    }
}

impl Tuple {
    pub fn of(source: SocketAddr, destination: SocketAddr) -> (Self, Direction) {
        if source <= destination {
            let (low, high) = (source, destination);
            (Self { low, high }, Direction::LowToHigh)
        } else {
            let (low, high) = (destination, source);
            (Self { low, high }, Direction::HighToLow)
        }
    }
}

/// How far `to` is ahead of `from` in the circle of 2³² (RFC 9293, 3.4).
pub fn ahead(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}
