//! Reading capture files: pcap and pcapng, one packet at a time, in constant memory.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use monitor_ebpf::{counters::Reason, packet::Link};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, PcapHeader, create_reader};
use thiserror::Error;

use super::{
    input,
    link::{self, Begin},
    packet::Captured,
};

/// Bytes read at once; a packet or pcapng block may not be larger (tcpdump's limit for a packet
/// is 256 KiB).
const BUFFER: usize = 4 << 20;

/// What was wrong with a capture, and where.
#[derive(Debug, Error)]
pub enum CaptureError {
    #[error("{path}: {source}")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: not a pcap or pcapng capture ({detail})")]
    NotACapture { path: PathBuf, detail: String },
    #[error(
        "{path}: damaged after packet {packets} (byte {offset}): {detail}; everything before was \
         read"
    )]
    Damaged {
        path: PathBuf,
        packets: u64,
        offset: u64,
        detail: String,
    },
    #[error(
        "{path}: packet {packet} has link type {link}, which is not understood; {}",
        link::UNDERSTOOD
    )]
    LinkType {
        path: PathBuf,
        packet: u64,
        link: i32,
    },
}

/// What the file says about an interface it was captured on.
#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Ticks a second of its time stamps.
    ticks: u64,
    /// Seconds to add to its time stamps.
    offset_s: i64,
}

/// Hands every packet of the capture at `path`, which may be compressed, to `each`, in the order
/// of the file: from its Ethernet or IP header on, or with the reason why there is none.
pub fn read(
    path: &Path,
    mut each: impl FnMut(Result<Link, Reason>, &Captured<'_>),
) -> Result<(), CaptureError> {
    let input = input::open(path).map_err(|source| CaptureError::Open {
        path: path.to_owned(),
        source,
    })?;
    read_from(input, path, &mut each)
}

fn read_from(
    input: impl Read + Send + 'static,
    path: &Path,
    each: &mut impl FnMut(Result<Link, Reason>, &Captured<'_>),
) -> Result<(), CaptureError> {
    let mut reader = create_reader(BUFFER, input).map_err(|error| CaptureError::NotACapture {
        path: path.to_owned(),
        detail: format!("{error}"),
    })?;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut packets = 0u64;
    let mut offset = 0u64;
    loop {
        let damaged = |packets, offset, detail: &str| CaptureError::Damaged {
            path: path.to_owned(),
            packets,
            offset,
            detail: detail.to_owned(),
        };
        match reader.next() {
            Ok((len, block)) => {
                let is_packet = packet(&block, &mut interfaces, each).map_err(|link| {
                    CaptureError::LinkType {
                        path: path.to_owned(),
                        packet: packets + 1,
                        link: link.0,
                    }
                })?;
                packets += u64::from(is_packet);
                offset += len as u64;
                reader.consume(len);
            }
            Err(PcapError::Eof) => return Ok(()),
            Err(PcapError::Incomplete(_)) => {
                if reader.reader_exhausted() {
                    return Err(damaged(packets, offset, "the file ends inside a packet"));
                }
                reader
                    .refill()
                    .map_err(|error| damaged(packets, offset, &format!("{error}")))?;
            }
            Err(PcapError::UnexpectedEof) => {
                return Err(damaged(packets, offset, "the file ends inside a packet"));
            }
            Err(error) => return Err(damaged(packets, offset, &format!("{error}"))),
        }
    }
}

/// Handles one block: whether it was a packet, or the link type that is not understood.
fn packet(
    block: &PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
    each: &mut impl FnMut(Result<Link, Reason>, &Captured<'_>),
) -> Result<bool, Linktype> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            interfaces.clear();
            interfaces.push(legacy_interface(header));
            Ok(false)
        }
        PcapBlockOwned::Legacy(packet) => {
            let Some(interface) = interfaces.first() else {
                return Ok(false);
            };
            let fraction = u64::from(packet.ts_usec) * (1_000_000_000 / interface.ticks);
            let time_ns = u64::from(packet.ts_sec) * 1_000_000_000 + fraction;
            deliver(interface.link, packet.data, packet.origlen, time_ns, each)
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            Ok(false)
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
            interfaces.push(Interface {
                link: description.linktype,
                ticks: description.ts_resolution().unwrap_or(1_000_000),
                offset_s: description.ts_offset(),
            });
            Ok(false)
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let Some(interface) = interfaces.get(packet.if_id as usize) else {
                return Ok(false);
            };
            let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            let caplen = packet.caplen as usize;
            let bytes = packet.data.get(..caplen).unwrap_or(packet.data);
            let time_ns = nanoseconds(ticks, interface);
            deliver(interface.link, bytes, packet.origlen, time_ns, each)
        }
        PcapBlockOwned::NG(_) => Ok(false),
    }
}

fn legacy_interface(header: &PcapHeader) -> Interface {
    Interface {
        link: header.network,
        ticks: if header.is_nanosecond_precision() {
            1_000_000_000
        } else {
            1_000_000
        },
        offset_s: 0,
    }
}

/// pcapng time stamps: `ticks` since 1970 in the interface's own resolution.
fn nanoseconds(ticks: u64, interface: &Interface) -> u64 {
    let per_second = u128::from(interface.ticks.max(1));
    let ns = u128::from(ticks) * 1_000_000_000 / per_second;
    let offset_ns = i128::from(interface.offset_s) * 1_000_000_000;
    u64::try_from(ns as i128 + offset_ns).unwrap_or(0)
}

/// Hands one frame on, without what lies before its Ethernet or IP header.
fn deliver(
    link: Linktype,
    frame: &[u8],
    frame_len: u32,
    time_ns: u64,
    each: &mut impl FnMut(Result<Link, Reason>, &Captured<'_>),
) -> Result<bool, Linktype> {
    if !link::is_understood(link) {
        return Err(link);
    }
    let (link, offset) = match link::begin(link, frame) {
        Begin::At(link, offset) => (Ok(link), offset),
        Begin::NotIp => (Err(Reason::NotIp), 0),
        Begin::Truncated => (Err(Reason::Truncated), 0),
    };
    let captured = Captured {
        bytes: frame.get(offset..).unwrap_or_default(),
        // A damaged record may claim less on the wire than was kept.
        frame_len: frame_len
            .max(frame.len() as u32)
            .saturating_sub(offset as u32),
        time_ns,
        gso_size: 0,
        gso_segs: 0,
    };
    each(link, &captured);
    Ok(true)
}
