//! A small language for packets: what is said is put in, the rest is what a plain packet has.
//!
//! ```text
//! tcp(CLIENT, SERVER).syn().mss(1460).window_scale(7).frame()
//! tcp(SERVER, CLIENT).data(0, 1448).ecn(3).qinq(7, 42).frame()
//! ```
//!
//! Frames hold the headers alone; the lengths in them say how much payload there is, as in a
//! snapped capture. Checksums are zero: nothing here looks at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use monitor_ebpf::packet::{Link, tcp_flags};

pub const CLIENT: SocketAddr = v4([10, 1, 2, 3], 40_000);
pub const SERVER: SocketAddr = v4([192, 0, 2, 1], 443);
pub const CLIENT_V6: SocketAddr = v6(3, 40_000);
pub const SERVER_V6: SocketAddr = v6(1, 443);

/// Initial sequence numbers of a connection in which nothing else is said.
pub const CLIENT_ISN: u32 = 1_000;
pub const SERVER_ISN: u32 = 5_000_000;

pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

const ETHERNET_LEN: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;
const PSH: u8 = 0x08;

pub const fn v4(octets: [u8; 4], port: u16) -> SocketAddr {
    let [a, b, c, d] = octets;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

/// `2001:db8::host`
pub const fn v6(host: u16, port: u16) -> SocketAddr {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host);
    SocketAddr::new(IpAddr::V6(address), port)
}

/// What a hook or a capture is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub link: Link,
    /// The headers.
    pub bytes: Vec<u8>,
    /// Length on the wire, payload included.
    pub frame_len: u32,
    pub gso_size: u32,
    pub gso_segs: u32,
}

/// A TCP packet to be.
#[derive(Clone, Debug)]
pub struct Packet {
    source: SocketAddr,
    destination: SocketAddr,
    link: Link,
    /// Ethertype and tag control information, the outermost first.
    tags: Vec<[u16; 2]>,
    ip_options: Vec<u8>,
    /// Kind, and the whole header, whose first byte is filled in.
    extensions: Vec<(u8, Vec<u8>)>,
    ecn: u8,
    /// The initial sequence numbers, ours and the peer's, that offsets are counted from.
    isn: u32,
    peer_isn: u32,
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    payload_len: u32,
    gso_size: u32,
    gso_segs: u32,
}

/// An ACK of nothing, over Ethernet without a tag.
pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Packet {
    Packet {
        source,
        destination,
        link: Link::Ethernet,
        tags: Vec::new(),
        ip_options: Vec::new(),
        extensions: Vec::new(),
        ecn: 0,
        isn: 0,
        peer_isn: 0,
        sequence: 0,
        acknowledgment: 0,
        flags: tcp_flags::ACK,
        window: 1_000,
        options: Vec::new(),
        payload_len: 0,
        gso_size: 0,
        gso_segs: 0,
    }
}

impl Packet {
    /// Offsets into the two byte streams are counted from these from now on.
    pub fn isns(mut self, own: u32, peer: u32) -> Self {
        (self.isn, self.peer_isn) = (own, peer);
        self.sequence = own.wrapping_add(1);
        self.acknowledgment = peer.wrapping_add(1);
        self
    }

    pub fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    pub fn acknowledgment(mut self, acknowledgment: u32) -> Self {
        self.acknowledgment = acknowledgment;
        self
    }

    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub fn syn(mut self) -> Self {
        (self.sequence, self.acknowledgment) = (self.isn, 0);
        self.flags(tcp_flags::SYN)
    }

    pub fn syn_ack(mut self) -> Self {
        self.sequence = self.isn;
        self.flags(tcp_flags::SYN | tcp_flags::ACK)
    }

    /// `len` bytes of payload from `offset` of our byte stream on.
    pub fn data(mut self, offset: u32, len: u32) -> Self {
        self.sequence = self.isn.wrapping_add(1).wrapping_add(offset);
        self.payload_len = len;
        self.flags(tcp_flags::ACK | PSH)
    }

    pub fn payload(mut self, len: u32) -> Self {
        self.payload_len = len;
        self
    }

    /// Everything below `offset` of the peer's byte stream has arrived.
    pub fn ack(mut self, offset: u32) -> Self {
        self.acknowledgment = self.peer_isn.wrapping_add(1).wrapping_add(offset);
        self
    }

    /// A FIN after `offset` bytes of ours; [`Self::payload`] may be added.
    pub fn fin(mut self, offset: u32) -> Self {
        self.sequence = self.isn.wrapping_add(1).wrapping_add(offset);
        self.flags(tcp_flags::ACK | tcp_flags::FIN)
    }

    pub fn rst(self) -> Self {
        self.flags(tcp_flags::RST)
    }

    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// TCP options, byte for byte. Padded with END to a multiple of four.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options.extend_from_slice(options);
        self
    }

    pub fn mss(self, mss: u16) -> Self {
        let [a, b] = mss.to_be_bytes();
        self.options(&[2, 4, a, b])
    }

    pub fn sack_permitted(self) -> Self {
        self.options(&[4, 2])
    }

    pub fn window_scale(self, shift: u8) -> Self {
        self.options(&[1, 3, 3, shift])
    }

    /// NOP, NOP, timestamps, as nearly everybody sends them.
    pub fn timestamps(self, tsval: u32, tsecr: u32) -> Self {
        self.options(&[1, 1, 8, 10])
            .options(&tsval.to_be_bytes())
            .options(&tsecr.to_be_bytes())
    }

    /// Ranges of the peer's byte stream, by offset.
    pub fn sack(mut self, blocks: &[(u32, u32)]) -> Self {
        self.options.extend([1, 1, 5, 2 + 8 * blocks.len() as u8]);
        for &(start, end) in blocks {
            for offset in [start, end] {
                let number = self.peer_isn.wrapping_add(1).wrapping_add(offset);
                self.options.extend(number.to_be_bytes());
            }
        }
        self
    }

    /// The ECN field: 3 is Congestion Experienced.
    pub fn ecn(mut self, ecn: u8) -> Self {
        self.ecn = ecn;
        self
    }

    /// Several wire segments of `size` bytes; `segments` may be 0: not known.
    pub fn gso(mut self, size: u32, segments: u32) -> Self {
        (self.gso_size, self.gso_segs) = (size, segments);
        self
    }

    pub fn raw_ip(mut self) -> Self {
        self.link = Link::RawIp;
        self
    }

    /// One more tag, inside those already there.
    pub fn tag(mut self, ethertype: u16, id: u16) -> Self {
        self.tags.push([ethertype, id]);
        self
    }

    pub fn vlan(self, id: u16) -> Self {
        self.tag(ETHERTYPE_VLAN, id)
    }

    pub fn qinq(self, outer: u16, inner: u16) -> Self {
        self.tag(ETHERTYPE_QINQ, outer).tag(ETHERTYPE_VLAN, inner)
    }

    /// IPv4 options, padded to a multiple of four.
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = padded(options, 4);
        self
    }

    /// An IPv6 extension header of `kind`; the first byte of `header` is filled in.
    pub fn extension(mut self, kind: u8, header: &[u8]) -> Self {
        self.extensions.push((kind, header.to_vec()));
        self
    }

    pub fn frame(&self) -> Frame {
        let tcp = self.tcp_header();
        let tcp_len = tcp.len() as u32 + self.payload_len;
        let mut bytes = Vec::new();
        if self.link == Link::Ethernet {
            bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            for [ethertype, id] in &self.tags {
                bytes.extend(ethertype.to_be_bytes());
                bytes.extend(id.to_be_bytes());
            }
            let ethertype = match self.source {
                SocketAddr::V4(_) => ETHERTYPE_IPV4,
                SocketAddr::V6(_) => ETHERTYPE_IPV6,
            };
            bytes.extend(ethertype.to_be_bytes());
            debug_assert_eq!(bytes.len(), ETHERNET_LEN + 4 * self.tags.len());
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(&mut bytes, source, destination, tcp_len);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(&mut bytes, source, destination, tcp_len);
            }
            _ => panic!("one packet has one IP version"),
        }
        bytes.extend(tcp);
        Frame {
            link: self.link,
            frame_len: bytes.len() as u32 + self.payload_len,
            bytes,
            gso_size: self.gso_size,
            gso_segs: self.gso_segs,
        }
    }

    fn ipv4(&self, bytes: &mut Vec<u8>, source: Ipv4Addr, destination: Ipv4Addr, tcp_len: u32) {
        let header_len = 20 + self.ip_options.len();
        // BIG TCP: what does not fit is written as 0.
        let total_len = u16::try_from(header_len as u32 + tcp_len).unwrap_or(0);
        bytes.extend([0x40 | (header_len / 4) as u8, self.ecn]);
        bytes.extend(total_len.to_be_bytes());
        // Identification 0, "don't fragment", time to live 64.
        bytes.extend([0, 0, 0x40, 0, 64, PROTOCOL_TCP, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(&self.ip_options);
    }

    fn ipv6(&self, bytes: &mut Vec<u8>, source: Ipv6Addr, destination: Ipv6Addr, tcp_len: u32) {
        let extensions_len: usize = self.extensions.iter().map(|(_, header)| header.len()).sum();
        let payload_len = u16::try_from(extensions_len as u32 + tcp_len).unwrap_or(0);
        let mut kinds: Vec<u8> = self.extensions.iter().map(|&(kind, _)| kind).collect();
        kinds.push(PROTOCOL_TCP);
        bytes.extend([0x60, self.ecn << 4, 0, 0]);
        bytes.extend(payload_len.to_be_bytes());
        bytes.extend([kinds[0], 64]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        for ((_, header), next) in self.extensions.iter().zip(&kinds[1..]) {
            bytes.push(*next);
            bytes.extend(&header[1..]);
        }
    }

    fn tcp_header(&self) -> Vec<u8> {
        let options = padded(&self.options, 4);
        assert!(options.len() <= 40, "TCP has room for 40 bytes of options");
        let mut bytes = Vec::with_capacity(20 + options.len());
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend([(((20 + options.len()) / 4) << 4) as u8, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(options);
        bytes
    }
}

fn padded(bytes: &[u8], to: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(to), 0);
    bytes
}

/// Bytes written as hexadecimal digits; spaces, line ends and `# comments` between them are free.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or(line))
        .flat_map(|line| line.chars().filter(|character| !character.is_whitespace()))
        .collect();
    assert!(digits.len().is_multiple_of(2), "two digits a byte: {text}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}
