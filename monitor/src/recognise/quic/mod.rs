//! The CRYPTO stream of a client's QUIC Initials, versions 1 (RFC 9000, 9001) and 2 (RFC 9369).
//!
//! Their keys come from the packet itself and a salt that everybody knows, so that whoever sees
//! the packets can read them; nothing after them can be read.

mod frames;
mod keys;

pub use frames::{Damaged, crypto_frames};
pub use keys::Keys;

use super::tls::{self, ServerName};
use super::{Outcome, Pieces};

/// RFC 9000, 17.2: a long header, and the bit that is always set.
const LONG_HEADER: u8 = 0x80;
const FIXED_BIT: u8 = 0x40;
/// Connection IDs of these versions are at most this long (RFC 9000, 17.2).
const CONNECTION_ID_MAX: usize = 20;
/// Datagrams looked at for one flow: a ClientHello takes two, three with a long cookie or token.
const DATAGRAMS_MAX: u32 = 6;

/// A version whose Initials can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

impl Version {
    fn from_wire(number: u32) -> Option<Self> {
        match number {
            0x0000_0001 => Some(Self::One),
            0x6b33_43cf => Some(Self::Two),
            _ => None,
        }
    }

    /// The packet type of an Initial (RFC 9000, 17.2; RFC 9369, 3.2).
    fn initial_type(self) -> u8 {
        match self {
            Self::One => 0,
            Self::Two => 1,
        }
    }
}

/// The first datagrams of one client.
#[derive(Clone, Debug, Default)]
pub struct Initials {
    /// Of the connection ID that the client chose first: they stay when the server chose another.
    keys: Option<Keys>,
    crypto: Pieces,
    datagrams: u32,
}

impl Initials {
    /// Takes the payload of one UDP datagram.
    pub fn add(&mut self, datagram: &[u8]) -> Outcome<ServerName> {
        self.datagrams += 1;
        let mut understood = false;
        let mut rest = datagram;
        // Packets may share a datagram (RFC 9000, 12.2).
        while let Some((packet, next)) = Packet::first(rest) {
            rest = next;
            if let Some(payload) = self.open(&packet) {
                understood |= crypto_frames(&payload, &mut self.crypto).is_ok();
            }
        }
        let outcome = tls::handshake(self.crypto.beginning());
        match outcome {
            Outcome::NeedMore if self.datagrams >= DATAGRAMS_MAX => Outcome::TooLong,
            Outcome::NeedMore if !understood && self.crypto.is_empty() => Outcome::NotThis,
            outcome => outcome,
        }
    }

    fn open(&mut self, packet: &Packet<'_>) -> Option<Vec<u8>> {
        // After a Retry the keys are of the ID that the server chose (RFC 9001, 5.2).
        let known = self.keys.as_ref().and_then(|keys| keys.open(packet));
        if known.is_some() {
            return known;
        }
        let keys = Keys::of_client(packet.version, packet.destination_id);
        let payload = keys.open(packet)?;
        self.keys = Some(keys);
        Some(payload)
    }
}

/// An Initial, still protected.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub version: Version,
    pub destination_id: &'a [u8],
    /// The packet number and what is behind it begin here.
    pub(crate) number_at: usize,
    /// The whole packet, without those that share its datagram.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The Initial that `datagram` begins with, and what follows it. `None`: it begins with
    /// something else.
    pub fn first(datagram: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut reader = Reader {
            bytes: datagram,
            at: 0,
        };
        let first = reader.byte()?;
        if first & (LONG_HEADER | FIXED_BIT) != LONG_HEADER | FIXED_BIT {
            return None;
        }
        let version = Version::from_wire(u32::from_be_bytes(reader.take(4)?.try_into().ok()?))?;
        if first >> 4 & 3 != version.initial_type() {
            return None;
        }
        let destination_id = reader.connection_id()?;
        reader.connection_id()?;
        let token_len = reader.varint()?;
        reader.take(usize::try_from(token_len).ok()?)?;
        let len = usize::try_from(reader.varint()?).ok()?;
        let number_at = reader.at;
        reader.take(len)?;
        let (bytes, next) = datagram.split_at_checked(reader.at)?;
        let packet = Self {
            version,
            destination_id,
            number_at,
            bytes,
        };
        Some((packet, next))
    }
}

/// Bytes from the front.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// RFC 9000, 16: the two highest bits of the first byte say how many bytes there are.
    fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let more = (1usize << (first >> 6)) - 1;
        let bytes = self.take(more)?;
        let lead = u64::from(first & 0x3f);
        Some(
            bytes
                .iter()
                .fold(lead, |value, &byte| value << 8 | u64::from(byte)),
        )
    }

    fn connection_id(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?);
        if len > CONNECTION_ID_MAX {
            return None;
        }
        self.take(len)
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

#[cfg(test)]
mod tests;
