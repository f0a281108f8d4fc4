//! BGP UPDATE messages (RFC 4271 4.3, RFC 4760) as they are found in BMP and MRT.
//!
//! The decoders here are our own: bgpkit-parser, against which the tests compare them, guesses
//! ADD-PATH from a prefix that begins with a zero byte, which a default route does too, has no way
//! to be told what a BMP peer negotiated, and logs whatever a stranger sends.

use std::net::IpAddr;

use super::attributes::{AsPath, AsWidth, Attributes, Multiprotocol, ReachForm};
use super::cursor::{Cursor, Truncated};
use super::nlri::{Family, Labels, Nlri, NlriError, family, read_list};
use super::{Community, Preference};

/// Marker, length and type.
pub const HEADER_LENGTH: usize = 19;
/// Message types (RFC 4271, 4.1).
pub const OPEN: u8 = 1;
pub const UPDATE: u8 = 2;

/// What was negotiated for one direction of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    pub width: AsWidth,
    /// ADD-PATH (RFC 7911), by [`Family::index`].
    pub add_path: [bool; 2],
}

impl Default for Encoding {
    fn default() -> Self {
        Self {
            width: AsWidth::Four,
            add_path: [false; 2],
        }
    }
}

/// Prefixes that share a next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    pub next_hop: Option<IpAddr>,
    pub nlri: Vec<Nlri>,
}

/// What an announcement says about its prefixes, besides the next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub as_path: AsPath,
    pub communities: Vec<Community>,
    pub preference: Preference,
}

/// One UPDATE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    pub withdrawn: Vec<Nlri>,
    pub announced: Vec<Announced>,
    pub told: Told,
    /// End-of-RIB (RFC 4724, 2).
    pub end_of_rib: Option<Family>,
    /// Attributes could not be read: what it announced is in `withdrawn` (RFC 7606).
    pub is_malformed: bool,
    /// It speaks about an address family that tells no ways to clients.
    pub other_family: bool,
}

/// Why an UPDATE cannot be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    #[error("the message is cut short")]
    Truncated,
    #[error("a message of type {0} where an UPDATE should be")]
    Type(u8),
    #[error("its prefixes cannot be read: {0}")]
    Nlri(#[from] NlriError),
}

impl From<Truncated> for UpdateError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Steps over a message's header; its type and body.
pub fn message<'a>(cursor: &mut Cursor<'a>) -> Result<(u8, &'a [u8]), Truncated> {
    // The marker says nothing any more (RFC 4271, 4.1).
    cursor.take(16)?;
    let length = usize::from(cursor.u16()?);
    let kind = cursor.u8()?;
    let body = cursor.take(length.checked_sub(HEADER_LENGTH).ok_or(Truncated)?)?;
    Ok((kind, body))
}

impl Update {
    /// Reads a message with its header.
    pub fn read_message(bytes: &[u8], encoding: Encoding) -> Result<Self, UpdateError> {
        let (kind, body) = message(&mut Cursor::new(bytes))?;
        if kind != UPDATE {
            return Err(UpdateError::Type(kind));
        }
        Self::read(body, encoding)
    }

    /// Reads a message's body.
    pub fn read(body: &[u8], encoding: Encoding) -> Result<Self, UpdateError> {
        let mut cursor = Cursor::new(body);
        let length = usize::from(cursor.u16()?);
        let withdrawn = cursor.take(length)?;
        let length = usize::from(cursor.u16()?);
        let block = cursor.take(length)?;
        let announced = cursor.rest();

        let mut update = Self::default();
        let v4 = |bytes, out: &mut Vec<Nlri>| {
            let add_path = encoding.add_path[Family::V4.index()];
            read_list(bytes, Family::V4, Labels::None, add_path, out)
        };
        v4(withdrawn, &mut update.withdrawn)?;
        let mut classic = Announced::default();
        v4(announced, &mut classic.nlri)?;
        let is_empty = withdrawn.is_empty() && block.is_empty() && announced.is_empty();
        if is_empty {
            update.end_of_rib = Some(Family::V4);
            return Ok(update);
        }

        // RFC 7606, 3 j: with lengths that lie the prefixes in this block are not known; those
        // outside it are.
        let Ok(attributes) = Attributes::read(block, encoding.width, ReachForm::Whole) else {
            update.is_malformed = true;
            update.withdrawn.append(&mut classic.nlri);
            return Ok(update);
        };
        if let Some(unreach) = attributes.unreach {
            let only = attributes.count == 1 && withdrawn.is_empty() && announced.is_empty();
            match family(unreach.afi, unreach.safi) {
                Some((family, _)) if unreach.nlri.is_empty() && only => {
                    update.end_of_rib = Some(family);
                }
                _ => update.multiprotocol(&unreach, encoding, |update| &mut update.withdrawn)?,
            }
        }
        if !classic.nlri.is_empty() {
            classic.next_hop = attributes.next_hop;
            update.announced.push(classic);
        }
        if let Some(reach) = attributes.reach {
            let mut found = Self::default();
            found.multiprotocol(&reach, encoding, |found| &mut found.withdrawn)?;
            update.other_family |= found.other_family;
            if !found.withdrawn.is_empty() {
                update.announced.push(Announced {
                    next_hop: reach.next_hop,
                    nlri: found.withdrawn,
                });
            }
        }
        if update.announced.is_empty() {
            update.is_malformed = attributes.is_malformed;
            return Ok(update);
        }
        // RFC 7606, 3 d and 7.2: without a path it cannot be used.
        let Some(told) = Told::new(attributes) else {
            update.is_malformed = true;
            for announced in std::mem::take(&mut update.announced) {
                update.withdrawn.extend(announced.nlri);
            }
            return Ok(update);
        };
        update.told = told;
        Ok(update)
    }

    fn multiprotocol(
        &mut self,
        attribute: &Multiprotocol<'_>,
        encoding: Encoding,
        list: impl FnOnce(&mut Self) -> &mut Vec<Nlri>,
    ) -> Result<(), NlriError> {
        let Some((family, labels)) = family(attribute.afi, attribute.safi) else {
            self.other_family = true;
            return Ok(());
        };
        let add_path = encoding.add_path[family.index()];
        read_list(attribute.nlri, family, labels, add_path, list(self))
    }
}

impl Told {
    /// `None`: they are malformed, or there is no AS_PATH.
    pub fn new(attributes: Attributes<'_>) -> Option<Self> {
        if attributes.is_malformed {
            return None;
        }
        let as_path = attributes.as_path?;
        Some(Self {
            preference: Preference {
                local_pref: attributes.local_pref,
                as_path_hops: as_path.hops(),
                origin: attributes.origin.unwrap_or(Preference::INCOMPLETE),
                med: attributes.med,
            },
            as_path,
            communities: attributes.communities,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An UPDATE body of the three parts.
    fn body(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
        let mut bytes = (withdrawn.len() as u16).to_be_bytes().to_vec();
        bytes.extend(withdrawn);
        bytes.extend((attributes.len() as u16).to_be_bytes());
        bytes.extend(attributes);
        bytes.extend(nlri);
        bytes
    }

    const PATH: [u8; 24] = [
        0x40, 1, 1, 0, 0x40, 2, 10, 2, 2, 0, 0, 0xfd, 0xe7, 0, 0, 0xfb, 0xf5, 0x40, 3, 4, 192, 0,
        2, 1,
    ];

    fn prefixes(nlri: &[Nlri]) -> Vec<String> {
        nlri.iter().map(|nlri| nlri.prefix.to_string()).collect()
    }

    #[test]
    fn an_announcement_and_a_withdrawal() {
        let bytes = body(&[8, 10], &PATH, &[24, 198, 51, 100, 0]);
        let update = Update::read(&bytes, Encoding::default()).expect("right");
        assert_eq!(prefixes(&update.withdrawn), ["10.0.0.0/8"]);
        let [announced] = update.announced.as_slice() else {
            panic!("{update:?}");
        };
        // A /0 among them is a default route, and no path identifier.
        assert_eq!(prefixes(&announced.nlri), ["198.51.100.0/24", "0.0.0.0/0"]);
        assert_eq!(
            announced.next_hop,
            Some("192.0.2.1".parse().expect("right"))
        );
        assert_eq!(update.told.as_path.sequence, [64_999, 64_501]);
        assert_eq!(update.told.preference.as_path_hops, 2);
    }

    #[test]
    fn multiprotocol_prefixes_have_their_own_next_hop() {
        let mut attributes = PATH.to_vec();
        attributes.extend([0x80, 14, 26, 0, 2, 1, 16]);
        attributes.extend(
            "2001:db8::1"
                .parse::<std::net::Ipv6Addr>()
                .expect("right")
                .octets(),
        );
        attributes.extend([0, 32, 0x20, 1, 0x0d, 0xb8]);
        let bytes = body(&[], &attributes, &[8, 10]);
        let update = Update::read(&bytes, Encoding::default()).expect("right");
        let said: Vec<(Option<String>, Vec<String>)> = update
            .announced
            .iter()
            .map(|some| {
                (
                    some.next_hop.map(|hop| hop.to_string()),
                    prefixes(&some.nlri),
                )
            })
            .collect();
        let expected = [
            (Some("192.0.2.1".to_owned()), vec!["10.0.0.0/8".to_owned()]),
            (
                Some("2001:db8::1".to_owned()),
                vec!["2001:db8::/32".to_owned()],
            ),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn the_end_of_a_rib_is_an_update_about_nothing() {
        let read = |bytes: &[u8]| Update::read(bytes, Encoding::default()).expect("right");
        assert_eq!(read(&body(&[], &[], &[])).end_of_rib, Some(Family::V4));
        let v6 = read(&body(&[], &[0x80, 15, 3, 0, 2, 1], &[]));
        assert_eq!(v6.end_of_rib, Some(Family::V6));
        let vpn = read(&body(&[], &[0x80, 15, 3, 0, 1, 128], &[]));
        assert_eq!((vpn.end_of_rib, vpn.other_family), (None, true));
    }

    #[test]
    fn what_cannot_be_read_is_withdrawn() {
        // AS_PATH whose segment says three members and has two.
        let mut attributes = PATH;
        attributes[8] = 3;
        let update = Update::read(&body(&[], &attributes, &[8, 10]), Encoding::default());
        let update = update.expect("readable");
        assert!(update.is_malformed && update.announced.is_empty());
        assert_eq!(prefixes(&update.withdrawn), ["10.0.0.0/8"]);
        // An attribute that is longer than the block.
        let update = Update::read(&body(&[], &[0x40, 1, 9, 0], &[8, 10]), Encoding::default());
        let update = update.expect("readable");
        assert!(update.is_malformed);
        assert_eq!(prefixes(&update.withdrawn), ["10.0.0.0/8"]);
        let short = Update::read(&[0, 5, 8], Encoding::default());
        assert_eq!(short, Err(UpdateError::Truncated));
    }
}
