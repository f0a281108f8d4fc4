//! The TCP segments of a capture, read without the code that is under test.

use super::ring::Captured;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

const KIND_SACK: u8 = 5;
const KIND_TIMESTAMPS: u8 = 8;

/// A TCP segment over IPv4 and Ethernet, on a connection with the server's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub time_ns: u64,
    /// It travels from the server to the client.
    pub from_server: bool,
    pub client_port: u16,
    /// Of the IP header: every transmission has another.
    pub id: u16,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
    /// Payload, bytes.
    pub len: u32,
    /// A duplicate that the receiver reports (RFC 2883): the first SACK block, where it lies
    /// below the ACK or within the second one.
    pub dsack: Option<(u32, u32)>,
    /// Its SACK blocks, that one among them.
    pub sack: Vec<(u32, u32)>,
    /// TSval and TSecr (RFC 7323).
    pub timestamps: Option<(u32, u32)>,
    /// The captured headers.
    pub bytes: Vec<u8>,
    pub wire_len: u32,
}

impl Segment {
    /// `None`: not TCP over IPv4, or another port.
    pub fn read(packet: &Captured<'_>, server_port: u16) -> Option<Self> {
        let bytes = packet.bytes;
        let u16_at = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        if u16_at(12)? != 0x0800 || *bytes.get(23)? != 6 {
            return None;
        }
        let ip = 14;
        let tcp = ip + usize::from(bytes[ip] & 0xf) * 4;
        let u32_at = |at: usize| {
            let word = bytes.get(at..at + 4)?;
            Some(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        };
        let (source, destination) = (u16_at(tcp)?, u16_at(tcp + 2)?);
        let from_server = source == server_port;
        if !from_server && destination != server_port {
            return None;
        }
        let data = tcp + usize::from(bytes.get(tcp + 12)? >> 4) * 4;
        let end = ip + usize::from(u16_at(ip + 2)?);
        let acknowledgment = u32_at(tcp + 8)?;
        let options = bytes.get(tcp + 20..data)?;
        let pairs = |kind| pairs(option(options, kind));
        let blocks = pairs(KIND_SACK);
        Some(Self {
            time_ns: packet.time_ns,
            from_server,
            client_port: if from_server { destination } else { source },
            id: u16_at(ip + 4)?,
            sequence: u32_at(tcp + 4)?,
            acknowledgment,
            flags: *bytes.get(tcp + 13)?,
            len: (end - data) as u32,
            dsack: duplicate(&blocks, acknowledgment),
            sack: blocks,
            timestamps: pairs(KIND_TIMESTAMPS).first().copied(),
            bytes: bytes.to_vec(),
            wire_len: packet.len,
        })
    }

    /// Sequence numbers it takes: payload, and one for a FIN.
    pub fn space(&self) -> u32 {
        self.len + u32::from(self.flags & FIN != 0)
    }

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// What an option of this kind holds; nothing where there is none.
fn option(mut options: &[u8], wanted: u8) -> &[u8] {
    while let [kind, rest @ ..] = options {
        match (kind, rest) {
            (0, _) => break,
            (1, _) => options = rest,
            (kind, [len, ..]) => {
                let Some(option) = options.get(..usize::from(*len)).filter(|o| o.len() >= 2) else {
                    break;
                };
                if *kind == wanted {
                    return &option[2..];
                }
                options = &options[option.len()..];
            }
            _ => break,
        }
    }
    &[]
}

/// Pairs of words: SACK blocks, or the two timestamps.
fn pairs(bytes: &[u8]) -> Vec<(u32, u32)> {
    let (pairs, _) = bytes.as_chunks::<8>();
    pairs
        .iter()
        .map(|&[a, b, c, d, e, f, g, h]| {
            (
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
            )
        })
        .collect()
}

fn duplicate(blocks: &[(u32, u32)], acknowledgment: u32) -> Option<(u32, u32)> {
    let &(start, end) = blocks.first()?;
    let not_after = |a: u32, b: u32| b.wrapping_sub(a) as i32 >= 0;
    let below = not_after(end, acknowledgment);
    let within = blocks
        .get(1)
        .is_some_and(|&(from, to)| not_after(from, start) && not_after(end, to));
    (below || within).then_some((start, end))
}
