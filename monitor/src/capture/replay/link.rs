//! Link types of captures, brought to what the packet code begins with: Ethernet or IP.

use monitor_ebpf::packet::Link;

/// What a capture says its frames begin with (the LINKTYPE registry of draft-ietf-opsawg-pcap).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkType(pub u32);

/// Link types that are understood, for messages.
pub const UNDERSTOOD: &str = "Ethernet (1), raw IP (12, 14, 101, 228, 229), Linux cooked (113, \
                              276), BSD loopback (0, 108), PPP (9, 50, 204), Cisco HDLC (104) \
                              and FDDI (10) are";

impl LinkType {
    pub const NULL: Self = Self(0);
    pub const ETHERNET: Self = Self(1);
    pub const PPP: Self = Self(9);
    pub const FDDI: Self = Self(10);
    /// What BSDs' and OpenBSD's tcpdump wrote for raw IP, instead of 101.
    pub const RAW_OF_BSD: Self = Self(12);
    pub const RAW_OF_OPENBSD: Self = Self(14);
    /// PPP behind an address and a control octet (RFC 1662).
    pub const PPP_HDLC: Self = Self(50);
    pub const RAW: Self = Self(101);
    pub const CISCO_HDLC: Self = Self(104);
    pub const LOOP: Self = Self(108);
    pub const LINUX_SLL: Self = Self(113);
    /// PPP behind an octet that is 0 for what was received.
    pub const PPP_WITH_DIRECTION: Self = Self(204);
    pub const IPV4: Self = Self(228);
    pub const IPV6: Self = Self(229);
    pub const LINUX_SLL2: Self = Self(276);

    /// Whether frames of this link type are understood.
    pub fn is_understood(self) -> bool {
        matches!(
            self,
            Self::NULL
                | Self::ETHERNET
                | Self::PPP
                | Self::FDDI
                | Self::RAW_OF_BSD
                | Self::RAW_OF_OPENBSD
                | Self::PPP_HDLC
                | Self::RAW
                | Self::CISCO_HDLC
                | Self::LOOP
                | Self::LINUX_SLL
                | Self::PPP_WITH_DIRECTION
                | Self::IPV4
                | Self::IPV6
                | Self::LINUX_SLL2
        )
    }
}

/// Frame control and two addresses (RFC 1390).
const FDDI_LEN: usize = 13;
/// LLC and SNAP with no organisation: an ethertype follows (RFC 1042).
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];
/// Both addresses of an Ethernet header, before the ethertype.
const ETHERNET_ADDRESSES: usize = 12;
/// `sll2_header`: protocol, interface and packet type are at 0, 4 and 10.
const SLL2_LEN: usize = 20;
/// Address, control and an ethertype (Cisco's HDLC, as in IOS' `cHDLC`).
const CISCO_HDLC_LEN: usize = 4;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_MPLS: u16 = 0x8847;
/// RFC 1332, RFC 5072 and RFC 3032.
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: u16 = 0x0281;

/// Packet type of a cooked capture: sent by the host that captured (PACKET_OUTGOING in
/// linux/if_packet.h).
const SLL_OUTGOING: u16 = 4;

/// How the packet code begins, and how many bytes of the frame lie before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    At(Link, usize),
    /// What this ethertype says begins here: tags or labels, with no Ethernet header before them.
    Tagged(u16, usize),
    /// Understood, and no IP inside.
    NotIp,
    /// The frame ends before its link header does.
    Truncated,
}

/// Where the packet code begins in `frame` (see [`LinkType::is_understood`]).
pub fn begin(link: LinkType, frame: &[u8]) -> Begin {
    match link {
        LinkType::ETHERNET => Begin::At(Link::Ethernet, 0),
        // Two octets of packet type, then what looks like an Ethernet header: 12 octets, and a
        // protocol.
        LinkType::LINUX_SLL => Begin::At(Link::Ethernet, 2),
        LinkType::LINUX_SLL2 => by_ethertype(be16(frame, 0), SLL2_LEN),
        LinkType::CISCO_HDLC => by_ethertype(be16(frame, 2), CISCO_HDLC_LEN),
        // An address family in the byte order and numbering of whoever captured: the IP version
        // says it better.
        LinkType::NULL | LinkType::LOOP => Begin::At(Link::RawIp, 4),
        // Twelve octets back from the ethertype it looks like Ethernet.
        LinkType::FDDI => match frame.get(FDDI_LEN..FDDI_LEN + SNAP.len()) {
            Some(llc) if llc == SNAP => {
                Begin::At(Link::Ethernet, FDDI_LEN + SNAP.len() - ETHERNET_ADDRESSES)
            }
            Some(_) => Begin::NotIp,
            None => Begin::Truncated,
        },
        LinkType::PPP | LinkType::PPP_HDLC => ppp(frame, 0),
        LinkType::PPP_WITH_DIRECTION => ppp(frame, 1),
        _ => Begin::At(Link::RawIp, 0),
    }
}

/// Whether the host that captured the frame sent it, where the link header says so.
pub fn is_outgoing(link: LinkType, frame: &[u8]) -> Option<bool> {
    match link {
        LinkType::LINUX_SLL => be16(frame, 0).map(|kind| kind == SLL_OUTGOING),
        LinkType::LINUX_SLL2 => frame.get(10).map(|&kind| u16::from(kind) == SLL_OUTGOING),
        LinkType::PPP_WITH_DIRECTION => frame.first().map(|&direction| direction != 0),
        _ => None,
    }
}

/// The index of the interface that the frame passed, where the link header says so.
pub fn interface(link: LinkType, frame: &[u8]) -> Option<u32> {
    let octets = frame.get(4..8)?.try_into().ok()?;
    (link == LinkType::LINUX_SLL2).then(|| u32::from_be_bytes(octets))
}

fn ppp(frame: &[u8], at: usize) -> Begin {
    let at = match frame.get(at..at + 2) {
        Some([0xff, 0x03]) => at + 2,
        _ => at,
    };
    let ethertype = be16(frame, at).map(|protocol| match protocol {
        PPP_IPV4 => ETHERTYPE_IPV4,
        PPP_IPV6 => ETHERTYPE_IPV6,
        PPP_MPLS => ETHERTYPE_MPLS,
        _ => 0,
    });
    by_ethertype(ethertype, at + 2)
}

fn by_ethertype(ethertype: Option<u16>, offset: usize) -> Begin {
    match ethertype {
        Some(ETHERTYPE_IPV4 | ETHERTYPE_IPV6) => Begin::At(Link::RawIp, offset),
        // Below are lengths and what is no protocol (IEEE 802.3, 3.2.6).
        Some(ethertype) if ethertype >= 0x0600 => Begin::Tagged(ethertype, offset),
        Some(_) => Begin::NotIp,
        None => Begin::Truncated,
    }
}

fn be16(frame: &[u8], at: usize) -> Option<u16> {
    let octets = frame.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(octets))
}

/// Bytes of a tagged frame that may hold headers: three VLAN tags, PPPoE, an IPv4 header with
/// options or an IPv6 header with six extension headers, TCP with options.
const HEADERS_MAX: usize = 512;

/// A frame without an Ethernet header, given one.
pub struct Dressed {
    bytes: [u8; ETHERNET_ADDRESSES + 2 + HEADERS_MAX],
    len: usize,
}

impl Dressed {
    /// `payload` is what `ethertype` says.
    pub fn new(ethertype: u16, payload: &[u8]) -> Self {
        let mut bytes = [0; ETHERNET_ADDRESSES + 2 + HEADERS_MAX];
        let payload = &payload[..payload.len().min(HEADERS_MAX)];
        bytes[ETHERNET_ADDRESSES..][..2].copy_from_slice(&ethertype.to_be_bytes());
        bytes[ETHERNET_ADDRESSES + 2..][..payload.len()].copy_from_slice(payload);
        Self {
            bytes,
            len: ETHERNET_ADDRESSES + 2 + payload.len(),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// What it is longer than its payload.
    pub const ADDED: u32 = ETHERNET_ADDRESSES as u32 + 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: [u8; 2] = ETHERTYPE_IPV4.to_be_bytes();
    const IPV6: [u8; 2] = ETHERTYPE_IPV6.to_be_bytes();

    #[test]
    fn the_ip_header_is_found_behind_every_link_header() {
        let cooked = [&[0; 14][..], &IPV4, &[0x45]].concat();
        assert_eq!(
            begin(LinkType::LINUX_SLL, &cooked),
            Begin::At(Link::Ethernet, 2)
        );
        assert_eq!(cooked[2 + 12..2 + 14], IPV4);
        let cooked2 = [&IPV6[..], &[0; 18], &[0x60]].concat();
        assert_eq!(
            begin(LinkType::LINUX_SLL2, &cooked2),
            Begin::At(Link::RawIp, 20)
        );
        for link in [LinkType::NULL, LinkType::LOOP] {
            assert_eq!(begin(link, &[2, 0, 0, 0, 0x45]), Begin::At(Link::RawIp, 4));
        }
        for raw in [12, 14, 101, 228, 229] {
            assert!(LinkType(raw).is_understood());
            assert_eq!(begin(LinkType(raw), &[0x45]), Begin::At(Link::RawIp, 0));
        }
        let fddi = [&[0x50; 13][..], &SNAP, &IPV4, &[0x45]].concat();
        assert_eq!(begin(LinkType::FDDI, &fddi), Begin::At(Link::Ethernet, 7));
        assert_eq!(fddi[7 + 12..7 + 14], IPV4);
        assert_eq!(
            begin(LinkType::PPP, &[0x00, 0x21, 0x45]),
            Begin::At(Link::RawIp, 2)
        );
        assert_eq!(
            begin(LinkType::PPP_HDLC, &[0xff, 0x03, 0x00, 0x57, 0x60]),
            Begin::At(Link::RawIp, 4)
        );
        assert_eq!(
            begin(
                LinkType::PPP_WITH_DIRECTION,
                &[1, 0xff, 0x03, 0x00, 0x21, 0x45]
            ),
            Begin::At(Link::RawIp, 5)
        );
        assert_eq!(
            begin(LinkType::CISCO_HDLC, &[0x0f, 0, 0x08, 0, 0x45]),
            Begin::At(Link::RawIp, 4)
        );
    }

    #[test]
    fn tags_without_an_ethernet_header_get_one() {
        let cooked = [&[0x81, 0x00][..], &[0; 18], &[0, 5], &IPV4, &[0x45]].concat();
        assert_eq!(
            begin(LinkType::LINUX_SLL2, &cooked),
            Begin::Tagged(0x8100, 20)
        );
        let dressed = Dressed::new(0x8100, &cooked[20..]);
        assert_eq!(dressed.bytes()[12..], [0x81, 0, 0, 5, 0x08, 0, 0x45]);
        assert_eq!(
            begin(LinkType::PPP, &[0x02, 0x81, 0, 0, 1, 64]),
            Begin::Tagged(ETHERTYPE_MPLS, 2)
        );
        assert_eq!(Dressed::new(0x8100, &[1; 9_000]).bytes().len(), 14 + 512);
    }

    #[test]
    fn what_is_no_ip_or_too_short_is_told() {
        assert_eq!(begin(LinkType::PPP, &[0xc0, 0x21, 1]), Begin::NotIp);
        assert_eq!(begin(LinkType::PPP, &[0xff]), Begin::Truncated);
        assert_eq!(begin(LinkType::PPP_WITH_DIRECTION, &[0]), Begin::Truncated);
        assert_eq!(begin(LinkType::LINUX_SLL2, &[8]), Begin::Truncated);
        assert_eq!(begin(LinkType::LINUX_SLL2, &[0, 4, 0, 0]), Begin::NotIp);
        assert_eq!(begin(LinkType::FDDI, &[0x50; 18]), Begin::Truncated);
    }

    #[test]
    fn cooked_captures_say_which_way_and_where_a_packet_went() {
        let mut cooked = [0; 20];
        assert_eq!(is_outgoing(LinkType::LINUX_SLL, &cooked), Some(false));
        cooked[1] = 4;
        assert_eq!(is_outgoing(LinkType::LINUX_SLL, &cooked), Some(true));
        cooked[7] = 3;
        cooked[10] = 4;
        assert_eq!(is_outgoing(LinkType::LINUX_SLL2, &cooked), Some(true));
        assert_eq!(interface(LinkType::LINUX_SLL2, &cooked), Some(3));
        assert_eq!(is_outgoing(LinkType::ETHERNET, &cooked), None);
        assert_eq!(interface(LinkType::LINUX_SLL, &cooked), None);
    }
}
