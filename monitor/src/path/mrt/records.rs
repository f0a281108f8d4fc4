//! The records of an MRT stream.

use std::io::{self, Read};

/// Time, type, subtype, length (RFC 6396, 2).
const HEADER_LENGTH: usize = 12;
/// The longest record that is read: entries of 65,535 peers, or one UPDATE, are far shorter.
pub const MAX_RECORD: usize = 16 << 20;

/// Record types (RFC 6396, 4, and its appendix B for the first).
pub mod kind {
    pub const BGP: u16 = 5;
    pub const TABLE_DUMP: u16 = 12;
    pub const TABLE_DUMP_V2: u16 = 13;
    pub const BGP4MP: u16 = 16;
    pub const BGP4MP_ET: u16 = 17;
}

/// Types that IANA's registry knows: a stream that begins with another is no MRT.
fn is_known(kind: u16) -> bool {
    matches!(kind, 0..=13 | 16 | 17 | 32 | 33 | 48 | 49)
}

/// What kind of record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: u16,
    pub subtype: u16,
}

/// Why no further record can be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("is no MRT file: it begins with a record of type {0}")]
    NotMrt(u16),
    #[error("record {record} says that it is {length} bytes long: at most {MAX_RECORD} make sense")]
    Length { record: u64, length: u32 },
    #[error("ends in the middle of record {record}")]
    Truncated { record: u64 },
}

/// Cuts a stream into records.
#[derive(Debug)]
pub struct Records<R> {
    stream: R,
    body: Vec<u8>,
    count: u64,
}

impl<R: Read> Records<R> {
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            body: Vec::new(),
            count: 0,
        }
    }

    /// The next record; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(Header, &[u8])>, RecordError> {
        let mut header = [0; HEADER_LENGTH];
        match fill(&mut self.stream, &mut header)? {
            0 => return Ok(None),
            HEADER_LENGTH => {}
            _ => return Err(self.truncated()),
        }
        let [_, _, _, _, k0, k1, s0, s1, l0, l1, l2, l3] = header;
        let header = Header {
            kind: u16::from_be_bytes([k0, k1]),
            subtype: u16::from_be_bytes([s0, s1]),
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if self.count == 0 && !is_known(header.kind) {
            return Err(RecordError::NotMrt(header.kind));
        }
        self.count += 1;
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > MAX_RECORD {
            return Err(RecordError::Length {
                record: self.count,
                length,
            });
        }
        self.body.clear();
        self.append(size)?;
        // Until 2000 a record of several table entries was four bytes longer than it said.
        if header.kind == kind::TABLE_DUMP && lacks_four_bytes(&self.body, header.subtype) {
            self.append(4)?;
        }
        Ok(Some((header, &self.body)))
    }

    /// Reads `count` bytes of the body: no more memory than there are bytes.
    fn append(&mut self, count: usize) -> Result<(), RecordError> {
        let read = (&mut self.stream)
            .take(count as u64)
            .read_to_end(&mut self.body)?;
        if read == count {
            Ok(())
        } else {
            Err(self.truncated())
        }
    }

    fn truncated(&self) -> RecordError {
        RecordError::Truncated { record: self.count }
    }
}

/// Reads until `buffer` is full or the stream ends; how many bytes.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// View and sequence number before the first entry of a TABLE_DUMP record.
pub const TABLE_DUMP_PREAMBLE: usize = 4;

/// Whether the entries of a TABLE_DUMP record would fill it with four bytes more.
fn lacks_four_bytes(body: &[u8], subtype: u16) -> bool {
    const IPV4: u16 = 1;
    /// An IPv4 entry before its attributes: prefix, its length, status, time, peer, AS, length.
    const FIXED: usize = 4 + 1 + 1 + 4 + 4 + 2 + 2;
    if subtype != IPV4 {
        return false;
    }
    let mut at = TABLE_DUMP_PREAMBLE;
    while let Some(&[high, low]) = body.get(at + FIXED - 2..at + FIXED) {
        at += FIXED + usize::from(u16::from_be_bytes([high, low]));
        if at >= body.len() {
            return at == body.len() + 4;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_be_bytes());
        bytes.extend(1u16.to_be_bytes());
        bytes.extend((body.len() as u32).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn records_follow_each_other_to_the_end() {
        let bytes = [record(13, b"one"), record(99, b""), record(16, b"three")].concat();
        let mut records = Records::new(bytes.as_slice());
        let mut seen = Vec::new();
        while let Some((header, body)) = records.next().expect("right") {
            seen.push((header.kind, body.to_vec()));
        }
        let expected = [(13, b"one".to_vec()), (99, vec![]), (16, b"three".to_vec())];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_wrong_with_a_stream_is_said() {
        let said = |bytes: &[u8]| {
            let mut records = Records::new(bytes);
            loop {
                match records.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => return String::new(),
                    Err(error) => return error.to_string(),
                }
            }
        };
        let whole = record(13, b"body");
        assert_eq!(said(&whole), "");
        assert_eq!(said(&whole[..15]), "ends in the middle of record 1");
        assert_eq!(said(&whole[..7]), "ends in the middle of record 0");
        assert!(said(b"prefix,origin_asn,isp\n").starts_with("is no MRT file"));
        let mut endless = whole.clone();
        endless[8..12].copy_from_slice(&[0xff; 4]);
        assert!(said(&endless).starts_with("record 1 says that it is 4294967295 bytes"));
    }
}
