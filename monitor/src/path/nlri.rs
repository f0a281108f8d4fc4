//! Prefixes on the wire: RFC 4271 4.3, with path identifiers (RFC 7911) and labels (RFC 8277).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::cursor::{Cursor, Truncated};

/// IP version of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The version of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// 0 for IPv4, 1 for IPv6.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// How prefixes of an address family are written: Subsequent Address Family Identifiers that
/// carry ways to clients of the global table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// SAFI 1, unicast.
    None,
    /// SAFI 4, unicast with MPLS labels before the prefix.
    Stack,
}

/// Address family and how it is written; `None` for what is not a client's way: multicast, VPN
/// (its prefixes mean something within their VRF only), EVPN, link state, ...
pub fn family(afi: u16, safi: u8) -> Option<(Family, Labels)> {
    let family = match afi {
        1 => Family::V4,
        2 => Family::V6,
        _ => return None,
    };
    match safi {
        1 => Some((family, Labels::None)),
        4 => Some((family, Labels::Stack)),
        _ => None,
    }
}

/// A prefix and, with ADD-PATH, which of several ways to it; 0 without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nlri {
    pub prefix: IpNet,
    pub path_id: u32,
}

/// Why a list of prefixes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NlriError {
    #[error("a prefix is cut short")]
    Truncated,
    #[error("a prefix has {0} bits")]
    Length(u8),
}

impl From<Truncated> for NlriError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Length of one MPLS label entry in bits.
const LABEL_BITS: u8 = 24;
/// Bottom of the label stack.
const BOTTOM: u8 = 1;
/// What stands for the labels in a withdrawal (RFC 8277, 2.4, and RFC 3107, 3).
const WITHDRAWN_LABELS: [[u8; 3]; 2] = [[0x80, 0, 0], [0, 0, 0]];

/// Reads a list of prefixes to its end.
pub fn read_list(
    bytes: &[u8],
    family: Family,
    labels: Labels,
    add_path: bool,
    out: &mut Vec<Nlri>,
) -> Result<(), NlriError> {
    let mut cursor = Cursor::new(bytes);
    while !cursor.is_empty() {
        let path_id = if add_path { cursor.u32()? } else { 0 };
        let mut length = cursor.u8()?;
        if labels == Labels::Stack {
            loop {
                length = length
                    .checked_sub(LABEL_BITS)
                    .ok_or(NlriError::Length(length))?;
                let entry = cursor.take(3)?;
                if entry[2] & BOTTOM != 0 || WITHDRAWN_LABELS.iter().any(|none| none == entry) {
                    break;
                }
            }
        }
        let prefix = read_prefix(&mut cursor, family, length)?;
        out.push(Nlri { prefix, path_id });
    }
    Ok(())
}

/// The bytes of a prefix of `length` bits; bits after them are ignored (RFC 4271, 4.3).
pub fn read_prefix(
    cursor: &mut Cursor<'_>,
    family: Family,
    length: u8,
) -> Result<IpNet, NlriError> {
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    if length > bits {
        return Err(NlriError::Length(length));
    }
    let bytes = cursor.take(usize::from(length).div_ceil(8))?;
    let mut octets = [0; 16];
    octets[..bytes.len()].copy_from_slice(bytes);
    let address: IpAddr = match family {
        Family::V4 => {
            let [a, b, c, d, ..] = octets;
            Ipv4Addr::new(a, b, c, d).into()
        }
        Family::V6 => Ipv6Addr::from(octets).into(),
    };
    let prefix = IpNet::new(address, length).map_err(|_| NlriError::Length(length))?;
    Ok(prefix.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(
        bytes: &[u8],
        family: Family,
        labels: Labels,
        add_path: bool,
    ) -> Result<Vec<String>, NlriError> {
        let mut out = Vec::new();
        read_list(bytes, family, labels, add_path, &mut out)?;
        let written = out
            .iter()
            .map(|nlri| format!("{}#{}", nlri.prefix, nlri.path_id));
        Ok(written.collect())
    }

    #[test]
    fn prefixes_are_as_long_as_their_bits() {
        let bytes = [0, 24, 192, 0, 2, 9, 10, 255, 32, 10, 1, 2, 3];
        let read = list(&bytes, Family::V4, Labels::None, false).expect("right");
        // The bits after a /9 are not part of it.
        assert_eq!(
            read,
            [
                "0.0.0.0/0#0",
                "192.0.2.0/24#0",
                "10.128.0.0/9#0",
                "10.1.2.3/32#0"
            ]
        );
        let read = list(&[32, 0x20, 1, 0x0d, 0xb8], Family::V6, Labels::None, false);
        assert_eq!(read.expect("right"), ["2001:db8::/32#0"]);
    }

    #[test]
    fn a_path_identifier_comes_before_the_prefix() {
        let bytes = [0, 0, 0, 7, 24, 192, 0, 2, 0, 0, 1, 0, 0];
        let read = list(&bytes, Family::V4, Labels::None, true).expect("right");
        assert_eq!(read, ["192.0.2.0/24#7", "0.0.0.0/0#256"]);
    }

    #[test]
    fn labels_are_stepped_over() {
        let two = [72, 0, 0, 0x10, 0, 0, 0x21, 192, 0, 2];
        let read = list(&two, Family::V4, Labels::Stack, false).expect("right");
        assert_eq!(read, ["192.0.2.0/24#0"]);
        let withdrawn = [48, 0x80, 0, 0, 192, 0, 2];
        let read = list(&withdrawn, Family::V4, Labels::Stack, false).expect("right");
        assert_eq!(read, ["192.0.2.0/24#0"]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let v4 = |bytes: &[u8]| list(bytes, Family::V4, Labels::None, false);
        assert_eq!(v4(&[33, 1, 2, 3, 4, 5]), Err(NlriError::Length(33)));
        assert_eq!(v4(&[24, 1, 2]), Err(NlriError::Truncated));
        let v6 = list(&[129], Family::V6, Labels::None, false);
        assert_eq!(v6, Err(NlriError::Length(129)));
        let labelled = list(&[20, 0, 0, 1], Family::V4, Labels::Stack, false);
        assert_eq!(labelled, Err(NlriError::Length(20)));
        let endless = list(
            &[32, 0, 0, 0x10, 0, 0, 0x10],
            Family::V4,
            Labels::Stack,
            false,
        );
        assert_eq!(endless, Err(NlriError::Length(8)));
    }
}
