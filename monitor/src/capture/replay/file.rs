//! One capture: its packets, one after the other, in constant memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use monitor_ebpf::{
    counters::Reason,
    packet::{self, Link},
};
use thiserror::Error;

use super::{
    bytes::Bytes,
    input::{self, BytesRead, Input},
    link::{self, Begin, Dressed},
    packet::{Captured, Hook},
    pcap::{self, Pcap},
    pcapng::{self, PassedOver, Pcapng},
    record::{Fault, Record},
};

/// Bytes read of a capture at once: larger reads are no faster.
const READ_BYTES: usize = 1 << 20;

/// What was wrong with a capture, and where.
#[derive(Debug, Error)]
pub enum CaptureError {
    #[error("{path}: {source}")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: not a pcap or pcapng capture: {detail}")]
    NotACapture { path: PathBuf, detail: String },
    #[error(
        "{path}: damaged behind packet {packets}, at byte {offset}{}: {detail}; everything before \
         was read",
        if *.compressed { " of the uncompressed capture" } else { "" }
    )]
    Damaged {
        path: PathBuf,
        /// Packets before the damage.
        packets: u64,
        /// Where the damaged record begins.
        offset: u64,
        compressed: bool,
        detail: String,
    },
    #[error(
        "{path}: none of its {packets} packets was read: their link type is {link}, and {}",
        link::UNDERSTOOD
    )]
    LinkType {
        path: PathBuf,
        packets: u64,
        link: u32,
    },
}

/// One packet, brought to where the packet code begins.
pub struct CapturedPacket<'a> {
    /// How it begins, or why there is nothing to begin with.
    pub link: Result<Link, Reason>,
    pub packet: Captured<'a>,
    pub hook: Hook,
}

/// A capture that is being read.
pub struct Capture {
    path: PathBuf,
    bytes: Bytes,
    compressed: bool,
    format: Format,
    record: Option<Record>,
    begin: Begin,
    /// Of a frame that has none, the Ethernet header.
    dressed: Option<Dressed>,
    packets: u64,
    /// Packets that are passed over, by their link type.
    not_understood: BTreeMap<u32, u64>,
}

enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

/// Hands every packet of the capture at `path`, which may be compressed, to `each`, in the order
/// of the file: from its Ethernet or IP header on, or with the reason why there is none.
pub fn read(
    path: &Path,
    mut each: impl FnMut(Result<Link, Reason>, &Captured<'_>),
) -> Result<(), CaptureError> {
    let mut capture = Capture::open(path, &BytesRead::default())?;
    while capture.advance()? {
        if let Some(CapturedPacket { link, packet, .. }) = capture.packet() {
            each(link, &packet);
        }
    }
    Ok(())
}

impl Capture {
    /// Opens the file at `path`, or standard input; adds what is read of it to `bytes_read`.
    pub fn open(path: &Path, bytes_read: &BytesRead) -> Result<Self, CaptureError> {
        let refused = |source| CaptureError::Open {
            path: path.to_owned(),
            source,
        };
        let input = input::open(path, bytes_read).map_err(refused)?;
        Self::begin(input, path, READ_BYTES)
    }

    /// Reads a capture from memory, `read_bytes` at once; `path` is for messages.
    pub fn from_bytes(
        bytes: Vec<u8>,
        path: &Path,
        read_bytes: usize,
    ) -> Result<Self, CaptureError> {
        let input = Input {
            bytes: Box::new(std::io::Cursor::new(bytes)),
            compressed: false,
        };
        Self::begin(input, path, read_bytes)
    }

    fn begin(input: Input, path: &Path, read_bytes: usize) -> Result<Self, CaptureError> {
        let mut bytes = Bytes::new(input.bytes, read_bytes);
        let format = format(&mut bytes).map_err(|detail| CaptureError::NotACapture {
            path: path.to_owned(),
            detail,
        })?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            compressed: input.compressed,
            format,
            record: None,
            begin: Begin::NotIp,
            dressed: None,
            packets: 0,
            not_understood: BTreeMap::new(),
        })
    }

    /// Goes to the next packet; `false` at the end.
    pub fn advance(&mut self) -> Result<bool, CaptureError> {
        loop {
            if let Some(record) = self.record.take() {
                self.bytes.consume(record.len);
            }
            let next = match &mut self.format {
                Format::Pcap(pcap) => pcap.next(&mut self.bytes),
                Format::Pcapng(pcapng) => pcapng.next(&mut self.bytes),
            };
            let Some(record) = next.map_err(|fault| self.damaged(fault))? else {
                return self.end();
            };
            self.packets += 1;
            self.record = Some(record);
            if record.link.is_understood() {
                self.begin_frame(&record);
                return Ok(true);
            }
            *self.not_understood.entry(record.link.0).or_default() += 1;
        }
    }

    fn begin_frame(&mut self, record: &Record) {
        let frame = self.bytes.peeked(record.frame_at, record.captured_len);
        self.begin = link::begin(record.link, frame);
        if let Begin::Tagged(ethertype, offset) = self.begin {
            let payload = frame.get(offset..).unwrap_or_default();
            self.dressed = Some(Dressed::new(ethertype, payload));
        }
    }

    /// The end of the capture: an error where nothing of it could be read.
    fn end(&self) -> Result<bool, CaptureError> {
        let passed: u64 = self.not_understood.values().sum();
        match self.not_understood.first_key_value() {
            Some((&link, _)) if passed == self.packets => Err(CaptureError::LinkType {
                path: self.path.clone(),
                packets: passed,
                link,
            }),
            _ => Ok(false),
        }
    }

    fn damaged(&self, fault: Fault) -> CaptureError {
        CaptureError::Damaged {
            path: self.path.clone(),
            packets: self.packets,
            offset: self.bytes.offset(),
            compressed: self.compressed,
            detail: match fault {
                Fault::Damaged(detail) => detail,
                Fault::Unreadable(error) if self.compressed => {
                    format!("it is compressed, and cut off or damaged ({error})")
                }
                Fault::Unreadable(error) => error.to_string(),
            },
        }
    }

    /// Time of the packet at hand, ns since 1970; the end of time where there is none.
    pub fn time_ns(&self) -> u64 {
        self.record.map_or(u64::MAX, |record| record.time_ns)
    }

    /// The packet at hand.
    pub fn packet(&self) -> Option<CapturedPacket<'_>> {
        let record = self.record.as_ref()?;
        let frame = self.bytes.peeked(record.frame_at, record.captured_len);
        // Some writers claim less on the wire than they kept.
        let frame_len = record.frame_len.max(record.captured_len as u32);
        let (link, bytes, frame_len) = match (self.begin, &self.dressed) {
            (Begin::At(link, offset), _) => (
                Ok(link),
                frame.get(offset..).unwrap_or_default(),
                frame_len.saturating_sub(offset as u32),
            ),
            (Begin::Tagged(_, offset), Some(dressed)) => (
                Ok(Link::Ethernet),
                dressed.bytes(),
                frame_len
                    .saturating_sub(offset as u32)
                    .saturating_add(Dressed::ADDED),
            ),
            (Begin::Truncated, _) => (Err(Reason::Truncated), frame, frame_len),
            (Begin::NotIp | Begin::Tagged(..), _) => (Err(Reason::NotIp), frame, frame_len),
        };
        let interface = link::interface(record.link, frame).unwrap_or(record.interface + 1);
        let outgoing = record
            .outgoing
            .or_else(|| link::is_outgoing(record.link, frame));
        let mut packet = Captured {
            bytes,
            frame_len,
            time_ns: record.time_ns,
            gso_size: 0,
            gso_segs: 0,
        };
        if let Ok(link) = link {
            packet.frame_len = packet.frame_len.max(said_len(&packet, link));
        }
        Some(CapturedPacket {
            link,
            packet,
            hook: Hook::new(interface, outgoing.unwrap_or(false)),
        })
    }

    /// Packets so far, those that were passed over included.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// What was not measured so far.
    pub fn passed_over(&self) -> PassedOver {
        let packets_not_understood = self.not_understood.values().sum();
        match &self.format {
            Format::Pcap(_) => PassedOver {
                packets_not_understood,
                ..PassedOver::default()
            },
            Format::Pcapng(pcapng) => PassedOver {
                packets_not_understood,
                ..pcapng.passed_over
            },
        }
    }

    /// What was not measured, a sentence for each kind.
    pub fn remarks(&self) -> Vec<String> {
        let path = self.path.display();
        let passed_over = self.passed_over();
        let mut remarks: Vec<String> = self
            .not_understood
            .iter()
            .map(|(link, packets)| {
                format!(
                    "{path}: {packets} packets of link type {link} were passed over; {}",
                    link::UNDERSTOOD
                )
            })
            .collect();
        for (count, what) in [
            (
                passed_over.packets_without_time,
                "packets without a time (simple packet blocks) were passed over",
            ),
            (
                passed_over.unknown_blocks,
                "blocks of unknown types were passed over",
            ),
            (
                passed_over.packets_dropped_by_capture,
                "packets were lost by whoever captured: they look lost or reordered on the way",
            ),
        ] {
            if count > 0 {
                remarks.push(format!("{path}: {count} {what}"));
            }
        }
        remarks
    }
}

/// The length of a TCP packet's frame by its IP header: some tools that cut packets write what
/// they kept as what was on the wire. 0 where the header does not say it (BIG TCP).
fn said_len(packet: &Captured<'_>, link: Link) -> u32 {
    match packet::network(packet, link, u32::MAX) {
        Ok(network) if network.tcp_len <= u32::from(u16::MAX) => {
            network.tcp_offset as u32 + network.tcp_len
        }
        _ => 0,
    }
}

/// Tells the format, and reads the header where the format has one.
fn format(bytes: &mut Bytes) -> Result<Format, String> {
    let start = bytes
        .peek(pcap::HEADER_LEN)
        .map_err(|error| error.to_string())?;
    let Some(&magic) = start.first_chunk::<4>() else {
        return Err(match start.len() {
            0 => "it is empty".to_owned(),
            len => format!("it has {len} bytes"),
        });
    };
    if magic == pcapng::SECTION_HEADER {
        return Ok(Format::Pcapng(Pcapng::default()));
    }
    if !Pcap::begins_with(magic) {
        let [a, b, c, d] = magic;
        return Err(format!("it begins with {a:02x} {b:02x} {c:02x} {d:02x}"));
    }
    let Some(header) = start.first_chunk() else {
        return Err(format!(
            "it ends inside its header: {} of {} bytes are there",
            start.len(),
            pcap::HEADER_LEN
        ));
    };
    let pcap = Pcap::parse(header)?;
    bytes.consume(pcap::HEADER_LEN);
    Ok(Format::Pcap(pcap))
}
