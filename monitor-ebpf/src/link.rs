//! What lies before the IP header: Ethernet, VLAN and QinQ, PPPoE, MPLS; or nothing.

use crate::{
    counters::Reason,
    packet::{Frame, Header},
};

/// How a device's frames begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Ethernet,
    /// IP from the first byte: tun, WireGuard, ppp.
    RawIp,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ethernet {
    addresses: [u16; 6],
    ethertype: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Vlan {
    tag: u16,
    ethertype: u16,
}

/// A PPPoE session header (RFC 2516) and the PPP protocol behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pppoe {
    version_code: [u8; 2],
    session: u16,
    len: u16,
    protocol: u16,
}

/// One entry of an MPLS label stack (RFC 3032, 2.1).
type Label = [u8; 4];

// SAFETY: plain integers and arrays of them without padding.
unsafe impl Header for Ethernet {}
// SAFETY: as above.
unsafe impl Header for Vlan {}
// SAFETY: as above.
unsafe impl Header for Pppoe {}
// SAFETY: as above.
unsafe impl Header for Label {}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// QinQ before 802.1ad gave it a number.
const ETHERTYPE_QINQ_OLD: u16 = 0x9100;
const ETHERTYPE_PPPOE_SESSION: u16 = 0x8864;
const ETHERTYPE_MPLS: u16 = 0x8847;
/// RFC 5332: an upstream-assigned or multicast label.
const ETHERTYPE_MPLS_UPSTREAM: u16 = 0x8848;

/// Tags accepted on one frame: QinQ has two; one more for a provider's own.
const VLAN_TAGS_MAX: usize = 3;
/// Labels accepted on one frame: transport, service, entropy indicator and entropy.
const MPLS_LABELS_MAX: usize = 4;

/// RFC 1332 and RFC 5072.
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;

/// Offset of the IP header, and the version that is announced.
#[inline(always)]
pub fn ip_header<F: Frame>(frame: &F, link: Link) -> Result<(usize, u8), Reason> {
    match link {
        Link::Ethernet => ethernet(frame),
        Link::RawIp => version_at(frame, 0),
    }
}

#[inline(always)]
fn ethernet<F: Frame>(frame: &F) -> Result<(usize, u8), Reason> {
    let header: Ethernet = frame.load(0).ok_or(Reason::Truncated)?;
    let mut ethertype = u16::from_be(header.ethertype);
    let mut offset = size_of::<Ethernet>();
    for _ in 0..VLAN_TAGS_MAX {
        match ethertype {
            ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD => {
                let tag: Vlan = frame.load(offset).ok_or(Reason::Truncated)?;
                ethertype = u16::from_be(tag.ethertype);
                offset += size_of::<Vlan>();
            }
            _ => break,
        }
    }
    match ethertype {
        ETHERTYPE_IPV4 => Ok((offset, 4)),
        ETHERTYPE_IPV6 => Ok((offset, 6)),
        ETHERTYPE_PPPOE_SESSION => pppoe(frame, offset),
        ETHERTYPE_MPLS | ETHERTYPE_MPLS_UPSTREAM => mpls(frame, offset),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn pppoe<F: Frame>(frame: &F, offset: usize) -> Result<(usize, u8), Reason> {
    let header: Pppoe = frame.load(offset).ok_or(Reason::Truncated)?;
    let offset = offset + size_of::<Pppoe>();
    match u16::from_be(header.protocol) {
        PPP_IPV4 => Ok((offset, 4)),
        PPP_IPV6 => Ok((offset, 6)),
        _ => Err(Reason::NotIp),
    }
}

/// The label stack does not say what follows; the first nibble does, except for pseudowires,
/// which begin with 0 or 1 (RFC 4385) and are no IP.
#[inline(always)]
fn mpls<F: Frame>(frame: &F, mut offset: usize) -> Result<(usize, u8), Reason> {
    for _ in 0..MPLS_LABELS_MAX {
        let label: Label = frame.load(offset).ok_or(Reason::Truncated)?;
        offset += size_of::<Label>();
        let bottom = label[2] & 1 == 1;
        if bottom {
            return version_at(frame, offset);
        }
    }
    Err(Reason::NotIp)
}

#[inline(always)]
fn version_at<F: Frame>(frame: &F, offset: usize) -> Result<(usize, u8), Reason> {
    // Two bytes: the verifier of every kernel loses track of a bound of one.
    let start: [u8; 2] = frame.load(offset).ok_or(Reason::Truncated)?;
    Ok((offset, start[0] >> 4))
}
