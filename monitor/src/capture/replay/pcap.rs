//! The pcap format (draft-ietf-opsawg-pcap, pcap-savefile(5)).

use super::{
    bytes::Bytes,
    link::LinkType,
    record::{Fault, Order, PACKET_MAX, RECORD_MAX, Record, whole},
};

pub const HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
/// With an interface, a protocol and a packet type, as Linux 2.2's patched libpcap wrote it.
const MODIFIED_RECORD_HEADER_LEN: usize = 24;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const MODIFIED: u32 = 0xa1b2_cd34;

const MAJOR: u16 = 2;
/// Before this minor version the two lengths of a record are the other way round (libpcap's
/// sf-pcap.c); in this one writers disagree, and the smaller is what was kept.
const MINOR_OF_SWAPPED_LENGTHS: u16 = 3;

/// The bits of the link type field that are the link type: what libpcap masks it with. The rest
/// says how long a frame check sequence is.
const LINK_TYPE_MASK: u32 = 0x03ff_ffff;

/// What the header of a pcap capture says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pcap {
    order: Order,
    /// ns of one unit of the fraction in a time stamp.
    fraction_ns: u64,
    record_header_len: usize,
    minor: u16,
    link: LinkType,
    packet_max: u32,
}

impl Pcap {
    /// Whether a capture that begins so is one.
    pub fn begins_with(magic: [u8; 4]) -> bool {
        order_of(magic).is_some()
    }

    /// Reads the header.
    pub fn parse(header: &[u8; HEADER_LEN]) -> Result<Self, String> {
        let [a, b, c, d, ..] = *header;
        let (order, magic) = order_of([a, b, c, d]).ok_or("its magic number is another's")?;
        let (major, minor) = (order.u16(header, 4), order.u16(header, 6));
        if major != MAJOR {
            return Err(format!(
                "its version is {major}.{minor}, and {MAJOR}.4 is what there is"
            ));
        }
        let snap_len = order.u32(header, 16);
        let link = order.u32(header, 20) & LINK_TYPE_MASK;
        Ok(Self {
            order,
            fraction_ns: if magic == NANOSECONDS { 1 } else { 1_000 },
            record_header_len: if magic == MODIFIED {
                MODIFIED_RECORD_HEADER_LEN
            } else {
                RECORD_HEADER_LEN
            },
            minor,
            link: LinkType(link),
            packet_max: snap_len.clamp(PACKET_MAX, RECORD_MAX),
        })
    }

    /// The next packet's record; `None` at the end.
    pub fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Record>, Fault> {
        let mut header = whole(bytes, self.record_header_len, "a packet's header")?;
        while header.is_some_and(|header| self.is_file_header(header)) {
            // As `zcat a.pcap.gz b.pcap.gz` leaves it: no packet can look like this.
            let next = whole(bytes, HEADER_LEN, "a second capture's header")?;
            let next: Option<&[u8; HEADER_LEN]> = next.and_then(|next| next.try_into().ok());
            if let Some(next) = next {
                *self = Self::parse(next).map_err(Fault::Damaged)?;
            }
            bytes.consume(HEADER_LEN);
            header = whole(bytes, self.record_header_len, "a packet's header")?;
        }
        let Some(header) = header else {
            return Ok(None);
        };
        let seconds = self.order.u32(header, 0);
        let fraction = self.order.u32(header, 4);
        let (mut captured, mut on_wire) = (self.order.u32(header, 8), self.order.u32(header, 12));
        let swapped = self.minor < MINOR_OF_SWAPPED_LENGTHS
            || self.minor == MINOR_OF_SWAPPED_LENGTHS && captured > on_wire;
        if swapped {
            (captured, on_wire) = (on_wire, captured);
        }
        if captured > self.packet_max {
            return Err(Fault::Damaged(format!(
                "a packet of {captured} bytes, and {} is the most there can be",
                self.packet_max
            )));
        }
        let record = Record {
            len: self.record_header_len + captured as usize,
            frame_at: self.record_header_len,
            captured_len: captured as usize,
            frame_len: on_wire,
            time_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.fraction_ns,
            link: self.link,
            interface: 0,
            outgoing: None,
        };
        whole(bytes, record.len, "a packet")?;
        Ok(Some(record))
    }

    /// Whether a record is the header of a capture of the same kind.
    fn is_file_header(&self, record: &[u8]) -> bool {
        let magic: Option<[u8; 4]> = record.get(..4).and_then(|magic| magic.try_into().ok());
        magic.and_then(order_of).is_some_and(|(order, _)| {
            order.u16(record, 4) == MAJOR && order.u16(record, 6) <= 4 && order.u32(record, 8) == 0
        })
    }
}

/// The byte order in which this is a magic number.
fn order_of(magic: [u8; 4]) -> Option<(Order, u32)> {
    let known = |number: &u32| matches!(*number, MICROSECONDS | NANOSECONDS | MODIFIED);
    let little = Some(u32::from_le_bytes(magic)).filter(known);
    let big = Some(u32::from_be_bytes(magic)).filter(known);
    little
        .map(|magic| (Order::Little, magic))
        .or(big.map(|magic| (Order::Big, magic)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A header with these fields, and one packet of four bytes of which eight were on the wire.
    fn capture(magic: u32, order: Order, minor: u16) -> Vec<u8> {
        let mut capture = Vec::new();
        let mut put = |number: u32| {
            capture.extend(match order {
                Order::Little => number.to_le_bytes(),
                Order::Big => number.to_be_bytes(),
            });
        };
        let version = match order {
            Order::Little => u32::from(minor) << 16 | 2,
            Order::Big => 2 << 16 | u32::from(minor),
        };
        for number in [magic, version, 0, 0, 65_535, 0x1400_0001, 1_000, 500_000] {
            put(number);
        }
        let lengths = if minor < 3 { [8, 4] } else { [4, 8] };
        lengths.into_iter().for_each(&mut put);
        if magic == MODIFIED {
            put(2);
            put(0x0008_0000);
        }
        capture.extend([1, 2, 3, 4]);
        capture
    }

    fn records(capture: &[u8]) -> (Vec<(Record, Vec<u8>)>, Option<Fault>) {
        let mut bytes = Bytes::new(Box::new(Cursor::new(capture.to_vec())), 64);
        let header = bytes.peek(HEADER_LEN).expect("memory").try_into();
        let mut pcap = Pcap::parse(&header.expect("a header")).expect("a pcap");
        bytes.consume(HEADER_LEN);
        let mut records = Vec::new();
        loop {
            match pcap.next(&mut bytes) {
                Ok(Some(record)) => {
                    let frame = bytes.peeked(record.frame_at, record.captured_len);
                    records.push((record, frame.to_vec()));
                    bytes.consume(record.len);
                }
                Ok(None) => return (records, None),
                Err(fault) => return (records, Some(fault)),
            }
        }
    }

    #[test]
    fn both_byte_orders_and_every_unit_of_time_are_read() {
        for order in [Order::Little, Order::Big] {
            for (magic, nanoseconds) in [
                (MICROSECONDS, 500_000_000),
                (NANOSECONDS, 500_000),
                (MODIFIED, 500_000_000),
            ] {
                for minor in [2, 4] {
                    let (records, fault) = records(&capture(magic, order, minor));
                    assert!(fault.is_none(), "{fault:?}");
                    let [(record, frame)] = &records[..] else {
                        panic!("{records:?}");
                    };
                    assert_eq!(record.time_ns, 1_000 * 1_000_000_000 + nanoseconds);
                    assert_eq!((record.captured_len, record.frame_len), (4, 8));
                    assert_eq!(record.link, LinkType::ETHERNET, "without the FCS bits");
                    assert_eq!(frame, &[1, 2, 3, 4]);
                }
            }
        }
    }

    #[test]
    fn captures_that_were_put_behind_each_other_are_one() {
        let first = capture(MICROSECONDS, Order::Little, 4);
        let second = capture(NANOSECONDS, Order::Big, 4);
        let (records, fault) = records(&[first.clone(), second, first].concat());
        assert!(fault.is_none(), "{fault:?}");
        let times: Vec<_> = records.iter().map(|(record, _)| record.time_ns).collect();
        assert_eq!(
            times,
            [1_000_500_000_000, 1_000_000_500_000, 1_000_500_000_000]
        );
    }

    #[test]
    fn a_length_beyond_all_limits_is_damage_and_no_allocation() {
        let mut capture = capture(MICROSECONDS, Order::Little, 4);
        capture[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        let (records, fault) = records(&capture);
        assert!(records.is_empty());
        let Some(Fault::Damaged(detail)) = fault else {
            panic!("{fault:?}");
        };
        assert_eq!(
            detail,
            "a packet of 4294967295 bytes, and 262144 is the most there can be"
        );
    }

    #[test]
    fn a_cut_is_told_from_an_end() {
        let capture = capture(MICROSECONDS, Order::Little, 4);
        for len in HEADER_LEN + 1..capture.len() {
            let (records, fault) = records(&capture[..len]);
            assert!(records.is_empty());
            assert!(matches!(fault, Some(Fault::Damaged(_))), "{len}: {fault:?}");
        }
        assert!(records(&capture[..HEADER_LEN]).1.is_none());
    }

    #[test]
    fn another_version_is_refused() {
        let mut header: [u8; HEADER_LEN] = capture(MICROSECONDS, Order::Little, 4)[..HEADER_LEN]
            .try_into()
            .expect("long enough");
        header[4] = 3;
        assert_eq!(
            Pcap::parse(&header),
            Err("its version is 3.4, and 2.4 is what there is".to_owned())
        );
    }
}
