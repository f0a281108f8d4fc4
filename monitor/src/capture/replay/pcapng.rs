//! The pcapng format (draft-ietf-opsawg-pcapng).

use super::{
    bytes::Bytes,
    link::LinkType,
    record::{Fault, Order, RECORD_MAX, Record, whole},
};

/// Type of a section header block: the same in both byte orders.
pub const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const INTERFACE: u32 = 1;
/// Obsolete since 2009, and still written by some appliances.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const NAMES: u32 = 4;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const JOURNAL: u32 = 9;
const SECRETS: u32 = 10;
const CUSTOM: u32 = 0xbad;
const CUSTOM_NOT_COPIED: u32 = 0x4000_0bad;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const MAJOR: u16 = 1;

/// Type, length and the length again.
const BLOCK_MIN: usize = 12;
/// What is needed of a block to tell how long it is: a section header says its byte order behind
/// its length.
const BLOCK_START: usize = 12;
/// Byte-order magic, version and section length, in a block.
const SECTION_HEADER_MIN: usize = 28;
const INTERFACE_MIN: usize = 20;
const PACKET_MIN: usize = 32;
const STATISTICS_MIN: usize = 24;

const OPTION_END: u16 = 0;
const OPTION_PACKET_FLAGS: u16 = 2;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;
const OPTION_DROPPED_BY_INTERFACE: u16 = 5;
const OPTION_DROPPED_BY_SYSTEM: u16 = 7;

/// Interfaces of one section; more are damage, which must not fill the memory.
const INTERFACES_MAX: usize = 65_536;

/// The section that is being read.
#[derive(Debug, Default)]
pub struct Pcapng {
    order: Option<Order>,
    interfaces: Vec<Interface>,
    /// What earlier sections said they dropped.
    dropped_before: u64,
    pub passed_over: PassedOver,
}

/// What is in a capture and is no packet that could be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// Packets whose link type is not understood.
    pub packets_not_understood: u64,
    /// Simple packet blocks: they have no time.
    pub packets_without_time: u64,
    /// Blocks whose type is not known: they may hold anything.
    pub unknown_blocks: u64,
    /// Packets that whoever captured says it lost.
    pub packets_dropped_by_capture: u64,
}

impl PassedOver {
    /// Adds what another capture held.
    pub fn add(&mut self, other: &Self) {
        let sum = |a: u64, b: u64| a.saturating_add(b);
        self.packets_not_understood =
            sum(self.packets_not_understood, other.packets_not_understood);
        self.packets_without_time = sum(self.packets_without_time, other.packets_without_time);
        self.unknown_blocks = sum(self.unknown_blocks, other.unknown_blocks);
        self.packets_dropped_by_capture = sum(
            self.packets_dropped_by_capture,
            other.packets_dropped_by_capture,
        );
    }

    /// The same by the names of the log's counters.
    pub fn counters(&self) -> [(&'static str, u64); 4] {
        [
            ("packets_link_not_understood", self.packets_not_understood),
            ("packets_without_time", self.packets_without_time),
            ("capture_blocks_unknown", self.unknown_blocks),
            (
                "packets_dropped_by_capture",
                self.packets_dropped_by_capture,
            ),
        ]
    }
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    resolution: Resolution,
    /// Seconds to add to its time stamps.
    offset_s: i64,
    /// Packets it dropped, by the last statistics.
    dropped: u64,
}

/// How long a tick of an interface's time stamps is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    /// `10^-n` s
    Decimal(u8),
    /// `2^-n` s
    Binary(u8),
}

impl Resolution {
    /// Where nothing is said: microseconds.
    const DEFAULT: Self = Self::Decimal(6);

    fn new(octet: u8) -> Self {
        if octet & 0x80 == 0 {
            Self::Decimal(octet)
        } else {
            Self::Binary(octet & 0x7f)
        }
    }

    /// `ticks` as ns; saturates.
    fn nanoseconds(self, ticks: u64) -> u64 {
        let ns = match self {
            Self::Decimal(6) => return ticks.saturating_mul(1_000),
            Self::Decimal(9) => return ticks,
            Self::Decimal(digits) => match 10u128.checked_pow(digits.into()) {
                Some(per_second) => u128::from(ticks) * 1_000_000_000 / per_second,
                None => 0,
            },
            Self::Binary(bits) => (u128::from(ticks) * 1_000_000_000) >> bits,
        };
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

impl Pcapng {
    /// The next packet's record; `None` at the end.
    pub fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Record>, Fault> {
        loop {
            let Some(start) = whole(bytes, BLOCK_START, "a block's header")? else {
                return Ok(None);
            };
            if start.starts_with(&SECTION_HEADER) {
                self.section(start).map_err(Fault::Damaged)?;
            }
            let order = self
                .order
                .ok_or_else(|| Fault::Damaged("no section header comes first".to_owned()))?;
            let (kind, len) = (order.u32(start, 0), order.u32(start, 4));
            let fits = len.is_multiple_of(4)
                && (BLOCK_MIN..=RECORD_MAX as usize).contains(&(len as usize));
            if !fits {
                return Err(Fault::Damaged(format!(
                    "a block says it is {len} bytes long, which no block is"
                )));
            }
            let len = len as usize;
            // At its start something was there.
            let block = whole(bytes, len, "a block")?.unwrap_or_default();
            let again = order.u32(block, len - 4);
            if again as usize != len {
                return Err(Fault::Damaged(format!(
                    "a block says it is {len} bytes long, and at its end {again}"
                )));
            }
            let record = self.block(kind, block, order).map_err(Fault::Damaged)?;
            if record.is_some() {
                return Ok(record);
            }
            bytes.consume(len);
        }
    }

    /// Takes the byte order of a section.
    fn section(&mut self, start: &[u8]) -> Result<(), String> {
        let order = [Order::Little, Order::Big]
            .into_iter()
            .find(|order| order.u32(start, 8) == BYTE_ORDER_MAGIC);
        self.order = Some(order.ok_or("a section header without its byte-order magic")?);
        self.dropped_before = self.dropped_before.saturating_add(self.dropped());
        self.interfaces.clear();
        Ok(())
    }

    /// Reads one whole block: a packet's is returned.
    fn block(&mut self, kind: u32, block: &[u8], order: Order) -> Result<Option<Record>, String> {
        match kind {
            _ if block.starts_with(&SECTION_HEADER) => {
                at_least(block, SECTION_HEADER_MIN, "section header")?;
                let (major, minor) = (order.u16(block, 12), order.u16(block, 14));
                if major != MAJOR {
                    return Err(format!(
                        "a section of version {major}.{minor}, and {MAJOR}.0 is what there is"
                    ));
                }
            }
            INTERFACE => self.interface(block, order)?,
            ENHANCED_PACKET | PACKET => return self.packet(kind, block, order).map(Some),
            SIMPLE_PACKET => self.passed_over.packets_without_time += 1,
            INTERFACE_STATISTICS => self.statistics(block, order)?,
            NAMES | JOURNAL | SECRETS | CUSTOM | CUSTOM_NOT_COPIED => {}
            _ => self.passed_over.unknown_blocks += 1,
        }
        Ok(None)
    }

    fn interface(&mut self, block: &[u8], order: Order) -> Result<(), String> {
        at_least(block, INTERFACE_MIN, "interface description")?;
        if self.interfaces.len() == INTERFACES_MAX {
            return Err(format!("more than {INTERFACES_MAX} interfaces"));
        }
        let mut interface = Interface {
            link: LinkType(order.u16(block, 8).into()),
            resolution: Resolution::DEFAULT,
            offset_s: 0,
            dropped: 0,
        };
        for option in options(block, 16, order) {
            match option? {
                (OPTION_TIME_RESOLUTION, &[octet, ..]) => {
                    interface.resolution = Resolution::new(octet);
                }
                (OPTION_TIME_OFFSET, value) if value.len() == 8 => {
                    interface.offset_s = order.u64(value, 0).cast_signed();
                }
                _ => {}
            }
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn packet(&self, kind: u32, block: &[u8], order: Order) -> Result<Record, String> {
        at_least(block, PACKET_MIN, "packet block")?;
        // The obsolete one has a count of drops in the upper half of its number.
        let number = if kind == PACKET {
            order.u16(block, 8).into()
        } else {
            order.u32(block, 8)
        };
        let Some(interface) = self.interfaces.get(number as usize) else {
            return Err(format!(
                "a packet of interface {number}, and {} were described",
                self.interfaces.len()
            ));
        };
        let ticks = u64::from(order.u32(block, 12)) << 32 | u64::from(order.u32(block, 16));
        let (captured, frame_len) = (order.u32(block, 20) as usize, order.u32(block, 24));
        let room = block.len() - PACKET_MIN;
        if captured > room {
            return Err(format!(
                "a packet of {captured} bytes in a block with room for {room}"
            ));
        }
        let options_at = 28 + captured.next_multiple_of(4);
        Ok(Record {
            len: block.len(),
            frame_at: 28,
            captured_len: captured,
            frame_len,
            time_ns: unix_ns(interface.resolution.nanoseconds(ticks), interface.offset_s),
            link: interface.link,
            interface: number,
            outgoing: outgoing(block, options_at, order),
        })
    }

    fn statistics(&mut self, block: &[u8], order: Order) -> Result<(), String> {
        at_least(block, STATISTICS_MIN, "interface statistics")?;
        let Some(interface) = self.interfaces.get_mut(order.u32(block, 8) as usize) else {
            return Ok(());
        };
        let mut dropped = 0u64;
        for option in options(block, 20, order) {
            if let (OPTION_DROPPED_BY_INTERFACE | OPTION_DROPPED_BY_SYSTEM, value) = option?
                && value.len() == 8
            {
                dropped = dropped.saturating_add(order.u64(value, 0));
            }
        }
        interface.dropped = dropped;
        self.passed_over.packets_dropped_by_capture =
            self.dropped_before.saturating_add(self.dropped());
        Ok(())
    }

    /// What the interfaces of this section dropped.
    fn dropped(&self) -> u64 {
        self.interfaces
            .iter()
            .fold(0, |sum, interface| sum.saturating_add(interface.dropped))
    }
}

fn at_least(block: &[u8], len: usize, what: &str) -> Result<(), String> {
    if block.len() < len {
        return Err(format!(
            "{what} of {} bytes: {len} is the least",
            block.len()
        ));
    }
    Ok(())
}

/// ns since 1970 of `ns` and an interface's offset; saturates.
fn unix_ns(ns: u64, offset_s: i64) -> u64 {
    if offset_s == 0 {
        return ns;
    }
    let unix_ns = i128::from(ns) + i128::from(offset_s) * 1_000_000_000;
    u64::try_from(unix_ns.max(0)).unwrap_or(u64::MAX)
}

/// Bits 0 and 1 of a packet's flags say which way it went.
fn outgoing(block: &[u8], at: usize, order: Order) -> Option<bool> {
    // Damage in options that are not needed is no reason to lose a packet.
    let flags = options(block, at, order)
        .map_while(Result::ok)
        .find(|(code, value)| *code == OPTION_PACKET_FLAGS && value.len() == 4)
        .map(|(_, value)| order.u32(value, 0))?;
    match flags & 3 {
        1 => Some(false),
        2 => Some(true),
        _ => None,
    }
}

/// The options of a block that begin at `at`: code and value each.
fn options(
    block: &[u8],
    at: usize,
    order: Order,
) -> impl Iterator<Item = Result<(u16, &[u8]), String>> {
    // Behind them is the block's length.
    let mut rest = block
        .get(at..block.len().saturating_sub(4))
        .unwrap_or_default();
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let (code, len) = (order.u16(rest, 0), usize::from(order.u16(rest, 2)));
        if code == OPTION_END {
            return None;
        }
        let Some(value) = rest.get(4..4 + len) else {
            rest = &[];
            return Some(Err(format!(
                "option {code} of {len} bytes ends beyond its block"
            )));
        };
        rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((code, value)))
    })
}
