//! What every capture format has in common: byte order, and packets that lie in records.

use std::io;

use super::{bytes::Bytes, link::LinkType};

/// Largest packet that is believed, unless the capture says that it keeps more: what tcpdump
/// keeps of a packet at most (`MAXIMUM_SNAPLEN`). A larger length is damage, and believing it
/// would lose every packet behind.
pub const PACKET_MAX: u32 = 262_144;

/// Largest packet or block that is read at all: Wireshark's limit for a block
/// (`MAX_BLOCK_SIZE`).
pub const RECORD_MAX: u32 = 16 << 20;

/// A packet's record. The record's bytes are at hand until the next one is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Bytes of the whole record.
    pub len: usize,
    /// Where the frame begins in it.
    pub frame_at: usize,
    /// Bytes of the frame that were kept.
    pub captured_len: usize,
    /// Bytes of the frame on the wire.
    pub frame_len: u32,
    /// ns since 1970 UTC.
    pub time_ns: u64,
    pub link: LinkType,
    /// The interface's number within its file.
    pub interface: u32,
    /// Whether the host that captured it sent it, where that is known.
    pub outgoing: Option<bool>,
}

/// Why there is no next record.
#[derive(Debug)]
pub enum Fault {
    /// What is wrong with the capture.
    Damaged(String),
    /// It cannot be read, or not be decompressed.
    Unreadable(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// Byte order of whoever wrote the capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Little,
    Big,
}

impl Order {
    /// The number at `at`; 0 where `bytes` end before, which callers rule out.
    pub fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let octets = octets(bytes, at);
        match self {
            Self::Little => u16::from_le_bytes(octets),
            Self::Big => u16::from_be_bytes(octets),
        }
    }

    pub fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let octets = octets(bytes, at);
        match self {
            Self::Little => u32::from_le_bytes(octets),
            Self::Big => u32::from_be_bytes(octets),
        }
    }

    pub fn u64(self, bytes: &[u8], at: usize) -> u64 {
        let octets = octets(bytes, at);
        match self {
            Self::Little => u64::from_le_bytes(octets),
            Self::Big => u64::from_be_bytes(octets),
        }
    }
}

fn octets<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..at + N)
        .and_then(|octets| octets.try_into().ok())
        .unwrap_or([0; N])
}

/// The next `len` bytes; `None` where the capture ends before the first of them.
pub fn whole<'a>(bytes: &'a mut Bytes, len: usize, what: &str) -> Result<Option<&'a [u8]>, Fault> {
    let found = bytes.peek(len)?;
    if found.len() == len {
        Ok(Some(found))
    } else if found.is_empty() {
        Ok(None)
    } else {
        Err(Fault::Damaged(format!(
            "the capture ends inside {what}: {} of {len} bytes are there",
            found.len()
        )))
    }
}
