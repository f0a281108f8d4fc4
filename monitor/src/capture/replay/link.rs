//! Link types of captures, brought to what the packet code begins with: Ethernet or IP.

use monitor_ebpf::packet::Link;
use pcap_parser::Linktype;

/// Link types that are understood, for messages.
pub const UNDERSTOOD: &str = "Ethernet (1), raw IP (12, 101, 228, 229), Linux cooked (113, 276), \
                              BSD loopback (0, 108), PPP (9, 50) and FDDI (10) are";

const FDDI: Linktype = Linktype(10);
/// Frame control and two addresses (RFC 1390).
const FDDI_LEN: usize = 13;
/// LLC and SNAP with no organisation: an ethertype follows (RFC 1042).
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];

const PPP: Linktype = Linktype(9);
/// LINKTYPE_PPP_HDLC: PPP behind an address and a control octet (RFC 1662).
const PPP_WITH_ADDRESS: Linktype = Linktype(50);
/// What OpenBSD's tcpdump wrote for raw IP.
const RAW_OF_OPENBSD: Linktype = Linktype(12);

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// RFC 1332 and RFC 5072.
const PPP_IPV4: [u8; 2] = [0x00, 0x21];
const PPP_IPV6: [u8; 2] = [0x00, 0x57];

/// How the packet code begins, and how many bytes of the frame lie before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    At(Link, usize),
    /// Understood, and no IP inside.
    NotIp,
    /// The frame ends before its link header does.
    Truncated,
}

/// Whether frames of this link type are understood.
pub fn is_understood(link: Linktype) -> bool {
    matches!(
        link,
        Linktype::ETHERNET
            | Linktype::RAW
            | RAW_OF_OPENBSD
            | Linktype::IPV4
            | Linktype::IPV6
            | Linktype::LINUX_SLL
            | Linktype::LINUX_SLL2
            | Linktype::NULL
            | Linktype::LOOP
            | FDDI
            | PPP
            | PPP_WITH_ADDRESS
    )
}

/// Where the packet code begins in `frame` (see [`is_understood`]).
pub fn begin(link: Linktype, frame: &[u8]) -> Begin {
    match link {
        Linktype::ETHERNET => Begin::At(Link::Ethernet, 0),
        // Two octets of packet type, then what looks like an Ethernet header: 12 octets, and a
        // protocol (LINKTYPE_LINUX_SLL).
        Linktype::LINUX_SLL => Begin::At(Link::Ethernet, 2),
        Linktype::LINUX_SLL2 => by_protocol(frame.get(..2), ETHERTYPE_IPV4, ETHERTYPE_IPV6, 20),
        // An address family in the byte order and numbering of whoever captured: the IP version
        // says it better.
        Linktype::NULL | Linktype::LOOP => Begin::At(Link::RawIp, 4),
        // Twelve octets back from the ethertype it looks like Ethernet.
        FDDI => match frame.get(FDDI_LEN..FDDI_LEN + SNAP.len()) {
            Some(llc) if llc == SNAP => Begin::At(Link::Ethernet, FDDI_LEN + SNAP.len() - 12),
            Some(_) => Begin::NotIp,
            None => Begin::Truncated,
        },
        PPP | PPP_WITH_ADDRESS => {
            let start = if frame.starts_with(&[0xff, 0x03]) {
                2
            } else {
                0
            };
            by_protocol(frame.get(start..start + 2), PPP_IPV4, PPP_IPV6, start + 2)
        }
        _ => Begin::At(Link::RawIp, 0),
    }
}

fn by_protocol(protocol: Option<&[u8]>, ipv4: [u8; 2], ipv6: [u8; 2], offset: usize) -> Begin {
    match protocol {
        Some(protocol) if protocol == ipv4 || protocol == ipv6 => Begin::At(Link::RawIp, offset),
        Some(_) => Begin::NotIp,
        None => Begin::Truncated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ip_header_is_found_behind_every_link_header() {
        let cooked = [&[0; 14][..], &ETHERTYPE_IPV4, &[0x45]].concat();
        assert_eq!(
            begin(Linktype::LINUX_SLL, &cooked),
            Begin::At(Link::Ethernet, 2)
        );
        assert_eq!(cooked[2 + 12..2 + 14], ETHERTYPE_IPV4);
        let cooked2 = [&ETHERTYPE_IPV6[..], &[0; 18], &[0x60]].concat();
        assert_eq!(
            begin(Linktype::LINUX_SLL2, &cooked2),
            Begin::At(Link::RawIp, 20)
        );
        let loopback = [2, 0, 0, 0, 0x45];
        assert_eq!(begin(Linktype::NULL, &loopback), Begin::At(Link::RawIp, 4));
        let fddi = [&[0x50; 13][..], &SNAP, &ETHERTYPE_IPV4, &[0x45]].concat();
        assert_eq!(begin(FDDI, &fddi), Begin::At(Link::Ethernet, 7));
        assert_eq!(fddi[7 + 12..7 + 14], ETHERTYPE_IPV4);
        let ppp = [0x00, 0x21, 0x45];
        assert_eq!(begin(PPP, &ppp), Begin::At(Link::RawIp, 2));
        let hdlc = [0xff, 0x03, 0x00, 0x57, 0x60];
        assert_eq!(begin(PPP_WITH_ADDRESS, &hdlc), Begin::At(Link::RawIp, 4));
    }

    #[test]
    fn what_is_no_ip_or_too_short_is_told() {
        assert_eq!(begin(PPP, &[0xc0, 0x21, 1]), Begin::NotIp);
        assert_eq!(begin(PPP, &[0xff]), Begin::Truncated);
        assert_eq!(begin(Linktype::LINUX_SLL2, &[8]), Begin::Truncated);
        assert_eq!(
            begin(Linktype::LINUX_SLL2, &[0x08, 0x06, 0, 0]),
            Begin::NotIp
        );
    }
}
