//! From the bytes of a frame to a TCP [`Segment`]: IPv4 with options, IPv6 with extension headers,
//! TCP with options.
//!
//! Nothing here trusts a length: every header is read through [`Frame`], and what does not fit
//! or is not understood leaves with a [`Reason`] that is counted.

use crate::{
    counters::Reason,
    flow::{Address, FlowKey},
    hello::PIECE_MAX,
    link, options, quic,
};

pub use crate::link::Link;

/// The bytes of one frame: a `__sk_buff` in the kernel, a slice in `replay`.
pub trait Frame {
    /// The header at `offset`, `None` where the frame ends before it does.
    fn load<H: Header>(&self, offset: usize) -> Option<H>;

    /// Copies `len` bytes (1 to 40) at `offset` to the start of `options`; `false` where the
    /// frame ends before.
    fn load_options(&self, offset: usize, len: usize, options: &mut [u8; 64]) -> bool;

    /// Copies `len` bytes (1 to [`PIECE_MAX`]) at `offset` to the start of `payload`; `false`
    /// where the frame ends before.
    fn load_payload(&self, offset: usize, len: usize, payload: &mut [u8; PIECE_MAX]) -> bool;
}

/// A header that may be read from any bytes.
///
/// # Safety
/// Every bit pattern must be a valid value, and there must be no padding.
pub unsafe trait Header: Copy {}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    version_class_flow: [u8; 4],
    payload_len: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Extension {
    next_header: u8,
    len: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Fragment {
    next_header: u8,
    reserved: u8,
    offset_more: u16,
    id: [u16; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct UdpPorts {
    source: u16,
    destination: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Tcp {
    source_port: u16,
    destination_port: u16,
    sequence: u32,
    acknowledgment: u32,
    data_offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// NOP, NOP, timestamps: what Linux and most others put on every segment of a connection
/// (RFC 7323, appendix A).
#[repr(C)]
#[derive(Clone, Copy)]
struct TimestampsOnly {
    kinds: u32,
    tsval: u32,
    tsecr: u32,
}

// SAFETY: plain integers and arrays of them without padding.
unsafe impl Header for Ipv4 {}
// SAFETY: as above.
unsafe impl Header for Ipv6 {}
// SAFETY: as above.
unsafe impl Header for Ipv6Extension {}
// SAFETY: as above.
unsafe impl Header for Ipv6Fragment {}
// SAFETY: as above.
unsafe impl Header for UdpPorts {}
// SAFETY: as above.
unsafe impl Header for Tcp {}
// SAFETY: as above.
unsafe impl Header for TimestampsOnly {}
// SAFETY: as above.
unsafe impl Header for [u8; 2] {}

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// IP in IP (RFC 2003), IPv6 in IP (RFC 4213), GRE (RFC 2784).
const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_IPV6: u8 = 41;
const PROTOCOL_GRE: u8 = 47;
/// 3GPP TS 29.281, 4.4.2.3.
const PORT_GTP_U: u16 = 2152;
/// RFC 7348.
const PORT_VXLAN: u16 = 4789;
/// RFC 8926.
const PORT_GENEVE: u16 = 6081;
/// More fragments, or an offset: not the whole datagram (RFC 791).
const IPV4_FRAGMENT_MASK: u16 = 0x3fff;
/// The same of an IPv6 fragment header (RFC 8200, 4.5).
const IPV6_FRAGMENT_MASK: u16 = 0xfff9;
const IPV6_HOP_BY_HOP: u8 = 0;
const IPV6_ROUTING: u8 = 43;
const IPV6_FRAGMENT: u8 = 44;
const IPV6_AUTHENTICATION: u8 = 51;
const IPV6_DESTINATION: u8 = 60;
/// Extension headers followed on one packet. RFC 8200 names six; real packets have one or two.
const IPV6_EXTENSIONS_MAX: usize = 6;

const TIMESTAMPS_ONLY_KINDS: u32 = 0x0101_080a;
const TIMESTAMPS_ONLY_LEN: usize = 12;

/// TCP flags (RFC 9293).
pub mod tcp_flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// A range of sequence numbers that was received out of order (RFC 2018), or twice (RFC 2883).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlock {
    pub start: u32,
    pub end: u32,
}

/// What the tracker needs of one TCP packet, which may stand for several wire segments (GSO,
/// GRO). Host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgment: u32,
    /// TCP payload in bytes.
    pub payload_len: u32,
    /// Wire segments that carry this payload; 0 without payload.
    pub segments: u32,
    /// Payload of the first wire segment, bytes.
    pub segment_len: u32,
    pub tsval: u32,
    pub tsecr: u32,
    pub sack: [SackBlock; 2],
    /// As on the wire, not scaled.
    pub window: u16,
    /// `tcp_flags`.
    pub flags: u8,
    /// Bits of [`options`].
    pub options: u8,
    pub window_scale: u8,
    /// The ECN field of the IP header (RFC 3168): 3 is Congestion Experienced.
    pub ecn: u8,
    pub reserved: u16,
}

impl Segment {
    /// All zero.
    pub const EMPTY: Self = Self {
        sequence: 0,
        acknowledgment: 0,
        payload_len: 0,
        segments: 0,
        segment_len: 0,
        tsval: 0,
        tsecr: 0,
        sack: [SackBlock { start: 0, end: 0 }; 2],
        window: 0,
        flags: 0,
        options: 0,
        window_scale: 0,
        ecn: 0,
        reserved: 0,
    };

    #[inline(always)]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Where a packet's TCP header lies, and between whom.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub source: Address,
    pub destination: Address,
    /// Offset of the TCP header in the frame.
    pub tcp_offset: usize,
    /// TCP header and payload in bytes, from the IP header (from the frame for BIG TCP).
    pub tcp_len: u32,
    pub ecn: u8,
    /// UDP with the port of QUIC, not TCP: at `tcp_offset` is a UDP header.
    pub is_quic: bool,
}

/// The IP layer of a frame whose length on the wire is `frame_len`.
#[inline(always)]
pub fn network<F: Frame>(frame: &F, link: Link, frame_len: u32) -> Result<Network, Reason> {
    let (offset, version) = link::ip_header(frame, link)?;
    match version {
        4 => ipv4(frame, offset, frame_len),
        6 => ipv6(frame, offset, frame_len),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, offset: usize, frame_len: u32) -> Result<Network, Reason> {
    let header: Ipv4 = frame.load(offset).ok_or(Reason::Truncated)?;
    if header.version_ihl >> 4 != 4 {
        return Err(Reason::Malformed);
    }
    let header_len = usize::from(header.version_ihl & 0x0f) * 4;
    if header_len < size_of::<Ipv4>() {
        return Err(Reason::Malformed);
    }
    let fragment = u16::from_be(header.fragment) & IPV4_FRAGMENT_MASK != 0;
    let mut is_quic = false;
    if header.protocol != PROTOCOL_TCP {
        match not_tcp(frame, header.protocol, offset + header_len, fragment) {
            Reason::Quic => is_quic = true,
            other => return Err(other),
        }
    }
    if fragment {
        return Err(Reason::Fragment);
    }
    let available = frame_len.wrapping_sub(offset as u32);
    let mut total_len = u32::from(u16::from_be(header.total_len));
    if total_len == 0 {
        // BIG TCP: the length does not fit (kernel commit b1a78b9b9886, 6.3).
        total_len = available;
    }
    if total_len > available || total_len < header_len as u32 {
        return Err(Reason::Malformed);
    }
    Ok(Network {
        source: Address::v4(header.source),
        destination: Address::v4(header.destination),
        tcp_offset: offset + header_len,
        tcp_len: total_len - header_len as u32,
        ecn: header.tos & 3,
        is_quic,
    })
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, offset: usize, frame_len: u32) -> Result<Network, Reason> {
    let header: Ipv6 = frame.load(offset).ok_or(Reason::Truncated)?;
    if header.version_class_flow[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let payload_offset = offset + size_of::<Ipv6>();
    let mut next_header = header.next_header;
    let mut tcp_offset = payload_offset;
    for _ in 0..IPV6_EXTENSIONS_MAX {
        match next_header {
            IPV6_HOP_BY_HOP | IPV6_ROUTING | IPV6_DESTINATION => {
                let extension: Ipv6Extension = frame.load(tcp_offset).ok_or(Reason::Truncated)?;
                next_header = extension.next_header;
                tcp_offset += (usize::from(extension.len) + 1) * 8;
            }
            IPV6_AUTHENTICATION => {
                let extension: Ipv6Extension = frame.load(tcp_offset).ok_or(Reason::Truncated)?;
                next_header = extension.next_header;
                tcp_offset += (usize::from(extension.len) + 2) * 4;
            }
            IPV6_FRAGMENT => {
                let fragment: Ipv6Fragment = frame.load(tcp_offset).ok_or(Reason::Truncated)?;
                if u16::from_be(fragment.offset_more) & IPV6_FRAGMENT_MASK != 0 {
                    return Err(Reason::Fragment);
                }
                // The whole datagram (RFC 6946).
                next_header = fragment.next_header;
                tcp_offset += size_of::<Ipv6Fragment>();
            }
            _ => break,
        }
    }
    let mut is_quic = false;
    if next_header != PROTOCOL_TCP {
        match not_tcp(frame, next_header, tcp_offset, false) {
            Reason::Quic => is_quic = true,
            other => return Err(other),
        }
    }
    let available = frame_len.wrapping_sub(payload_offset as u32);
    let mut payload_len = u32::from(u16::from_be(header.payload_len));
    if payload_len == 0 {
        // BIG TCP, with or without the jumbo payload option of RFC 2675.
        payload_len = available;
    }
    let extensions_len = (tcp_offset - payload_offset) as u32;
    if payload_len > available || payload_len < extensions_len {
        return Err(Reason::Malformed);
    }
    let class = header.version_class_flow[1] >> 4;
    Ok(Network {
        source: ipv6_address(header.source),
        destination: ipv6_address(header.destination),
        tcp_offset,
        tcp_len: payload_len - extensions_len,
        ecn: class & 3,
        is_quic,
    })
}

/// Why a packet of another protocol is not tracked: a tunnel may hold TCP, which is not looked
/// into.
#[inline(always)]
fn not_tcp<F: Frame>(frame: &F, protocol: u8, offset: usize, fragment: bool) -> Reason {
    match protocol {
        PROTOCOL_IPV4 | PROTOCOL_IPV6 | PROTOCOL_GRE => Reason::Tunnel,
        PROTOCOL_UDP if !fragment => match frame.load::<UdpPorts>(offset) {
            Some(ports) if is_tunnel_port(u16::from_be(ports.destination)) => Reason::Tunnel,
            Some(ports)
                if u16::from_be(ports.destination) == quic::PORT
                    || u16::from_be(ports.source) == quic::PORT =>
            {
                Reason::Quic
            }
            _ => Reason::NotTcp,
        },
        _ => Reason::NotTcp,
    }
}

#[inline(always)]
fn is_tunnel_port(port: u16) -> bool {
    matches!(port, PORT_GTP_U | PORT_VXLAN | PORT_GENEVE)
}

/// `words` as they lie in the packet.
#[inline(always)]
fn ipv6_address(words: [u32; 4]) -> Address {
    let [a, b, c, d] = words;
    if cfg!(target_endian = "little") {
        Address([
            u64::from(b) << 32 | u64::from(a),
            u64::from(d) << 32 | u64::from(c),
        ])
    } else {
        Address([
            u64::from(a) << 32 | u64::from(b),
            u64::from(c) << 32 | u64::from(d),
        ])
    }
}

/// The fixed part of a TCP header: enough to tell whether the packet is watched.
#[derive(Clone, Copy)]
pub struct TcpHeader(Tcp);

impl TcpHeader {
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        u16::from_be(self.0.source_port)
    }

    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        u16::from_be(self.0.destination_port)
    }
}

/// The TCP header of a packet.
#[inline(always)]
pub fn tcp_header<F: Frame>(frame: &F, network: &Network) -> Result<TcpHeader, Reason> {
    if network.tcp_len < size_of::<Tcp>() as u32 {
        return Err(Reason::Malformed);
    }
    frame
        .load(network.tcp_offset)
        .map(TcpHeader)
        .ok_or(Reason::Truncated)
}

/// What was read of one packet. In the kernel it lies in a per-CPU map: the verifier forgets what
/// it knew about each value, so that the tracker is walked once and not once per kind of header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parsed {
    pub key: FlowKey,
    pub segment: Segment,
    /// [`crate::flow::LOW_TO_HIGH`] or [`crate::flow::HIGH_TO_LOW`].
    pub direction: u32,
    /// Offset of the payload in the frame.
    pub payload_at: u32,
    /// Raw options; a power of two, so that a masked index is always inside.
    pub options: [u8; 64],
}

impl Parsed {
    pub const EMPTY: Self = Self {
        key: FlowKey::EMPTY,
        segment: Segment::EMPTY,
        direction: 0,
        payload_at: 0,
        options: [0; 64],
    };
}

/// The whole segment, into `parsed`. `gso_size` and `gso_segs` are the packet's own (0 where it stands for one
/// wire segment); `gso_segs` may be 0 where `gso_size` is not, as after GRO on some paths.
#[inline(always)]
pub fn segment<F: Frame>(
    frame: &F,
    network: &Network,
    TcpHeader(header): TcpHeader,
    gso_size: u32,
    gso_segs: u32,
    parsed: &mut Parsed,
) -> Result<(), Reason> {
    let header_len = usize::from(header.data_offset >> 4) * 4;
    if header_len < size_of::<Tcp>() || header_len as u32 > network.tcp_len {
        return Err(Reason::Malformed);
    }
    let payload_len = network.tcp_len - header_len as u32;
    parsed.payload_at = (network.tcp_offset + header_len) as u32;
    let (segments, segment_len) = wire_segments(payload_len, gso_size, gso_segs);
    parsed.segment = Segment {
        sequence: u32::from_be(header.sequence),
        acknowledgment: u32::from_be(header.acknowledgment),
        payload_len,
        segments,
        segment_len,
        window: u16::from_be(header.window),
        flags: header.flags,
        ecn: network.ecn,
        ..Segment::EMPTY
    };
    let options_len = header_len - size_of::<Tcp>();
    let options_offset = network.tcp_offset + size_of::<Tcp>();
    if options_len == TIMESTAMPS_ONLY_LEN {
        let only: TimestampsOnly = frame.load(options_offset).ok_or(Reason::Truncated)?;
        if u32::from_be(only.kinds) == TIMESTAMPS_ONLY_KINDS {
            parsed.segment.options = options::TIMESTAMPS;
            parsed.segment.tsval = u32::from_be(only.tsval);
            parsed.segment.tsecr = u32::from_be(only.tsecr);
            return Ok(());
        }
    }
    if options_len > 0 {
        if !frame.load_options(options_offset, options_len, &mut parsed.options) {
            return Err(Reason::Truncated);
        }
        options::scan(&parsed.options, options_len as u32, &mut parsed.segment);
    }
    Ok(())
}

/// How many wire segments carry `payload_len` bytes, and the first one's length.
#[inline(always)]
fn wire_segments(payload_len: u32, gso_size: u32, gso_segs: u32) -> (u32, u32) {
    if payload_len == 0 {
        (0, 0)
    } else if gso_size == 0 || gso_size >= payload_len {
        (1, payload_len)
    } else if gso_segs == 0 {
        (payload_len.div_ceil(gso_size), gso_size)
    } else {
        (gso_segs, gso_size)
    }
}

/// A frame on the host.
impl Frame for [u8] {
    fn load<H: Header>(&self, offset: usize) -> Option<H> {
        let end = offset.checked_add(size_of::<H>())?;
        let bytes = self.get(offset..end)?;
        // SAFETY: `bytes` has the size of `H`, any bytes are a valid `H`, and the read does not
        // ask for alignment.
        Some(unsafe { bytes.as_ptr().cast::<H>().read_unaligned() })
    }

    fn load_options(&self, offset: usize, len: usize, options: &mut [u8; 64]) -> bool {
        let Some(bytes) = offset
            .checked_add(len)
            .and_then(|end| self.get(offset..end))
        else {
            return false;
        };
        let Some(target) = options.get_mut(..len) else {
            return false;
        };
        target.copy_from_slice(bytes);
        true
    }

    fn load_payload(&self, offset: usize, len: usize, payload: &mut [u8; PIECE_MAX]) -> bool {
        let bytes = offset
            .checked_add(len)
            .and_then(|end| self.get(offset..end));
        match (bytes, payload.get_mut(..len)) {
            (Some(bytes), Some(target)) => {
                target.copy_from_slice(bytes);
                true
            }
            _ => false,
        }
    }
}
