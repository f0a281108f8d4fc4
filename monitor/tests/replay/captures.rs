//! Captures, byte by byte.

use crate::support::packets::Frame;

pub mod ethernet {
    pub const LEN: usize = 14;
}

/// How a pcap file is written.
#[derive(Clone, Copy)]
pub struct Pcap {
    pub big_endian: bool,
    pub nanoseconds: bool,
    pub link: u32,
}

impl Pcap {
    pub const MICROSECONDS: Self = Self {
        big_endian: false,
        nanoseconds: false,
        link: 1,
    };
    pub const NANOSECONDS: Self = Self {
        nanoseconds: true,
        ..Self::MICROSECONDS
    };
    pub const BIG_ENDIAN: Self = Self {
        big_endian: true,
        ..Self::MICROSECONDS
    };
    pub const BIG_ENDIAN_NANOSECONDS: Self = Self {
        nanoseconds: true,
        ..Self::BIG_ENDIAN
    };

    pub fn capture(&self, frames: &[(u64, Frame)]) -> Vec<u8> {
        let magic = if self.nanoseconds {
            0xa1b2_3c4d
        } else {
            0xa1b2_c3d4
        };
        let version = if self.big_endian {
            2 << 16 | 4
        } else {
            4 << 16 | 2
        };
        let mut capture = Vec::new();
        for number in [magic, version, 0, 0, 65_535, self.link] {
            put(&mut capture, self.big_endian, number);
        }
        for (time_ns, frame) in frames {
            let fraction_ns = time_ns % 1_000_000_000;
            let fraction = if self.nanoseconds {
                fraction_ns
            } else {
                fraction_ns / 1_000
            };
            for number in [
                (time_ns / 1_000_000_000) as u32,
                fraction as u32,
                frame.bytes.len() as u32,
                frame.frame_len,
            ] {
                put(&mut capture, self.big_endian, number);
            }
            capture.extend(&frame.bytes);
        }
        capture
    }
}

/// How a pcapng file of one Ethernet interface is written.
#[derive(Clone, Copy)]
pub struct Pcapng {
    big_endian: bool,
    obsolete: bool,
}

impl Pcapng {
    pub const LITTLE: Self = Self {
        big_endian: false,
        obsolete: false,
    };
    pub const BIG: Self = Self {
        big_endian: true,
        obsolete: false,
    };
    pub const OBSOLETE: Self = Self {
        big_endian: false,
        obsolete: true,
    };

    pub fn capture(&self, frames: &[(u64, Frame)]) -> Vec<u8> {
        let mut capture = Block::section(self.big_endian);
        capture.extend(Block::interface(self.big_endian, 1, None, None));
        for (time_ns, frame) in frames {
            let mut block = Block::enhanced(
                self.big_endian,
                0,
                time_ns / 1_000,
                &frame.bytes,
                frame.frame_len,
            );
            if self.obsolete {
                block[0] = 2;
                // Dropped, by whoever captured, since the last packet.
                block[10] = 3;
            }
            capture.extend(block);
        }
        capture
    }
}

/// Blocks of pcapng.
pub struct Block;

impl Block {
    pub fn of(big_endian: bool, kind: u32, body: &[u8]) -> Vec<u8> {
        let len = 12 + body.len() as u32;
        let mut block = Vec::new();
        put(&mut block, big_endian, kind);
        put(&mut block, big_endian, len);
        block.extend(body);
        put(&mut block, big_endian, len);
        block
    }

    pub fn section(big_endian: bool) -> Vec<u8> {
        let mut body = Vec::new();
        put(&mut body, big_endian, 0x1a2b_3c4d);
        put(&mut body, big_endian, if big_endian { 1 << 16 } else { 1 });
        body.extend([0xff; 8]);
        Self::of(big_endian, 0x0a0d_0d0a, &body)
    }

    /// `resolution` and `offset_s` are options.
    pub fn interface(
        big_endian: bool,
        link: u16,
        resolution: Option<u8>,
        offset_s: Option<i64>,
    ) -> Vec<u8> {
        let mut body = Vec::new();
        let put16 = |body: &mut Vec<u8>, number: u16| {
            body.extend(if big_endian {
                number.to_be_bytes()
            } else {
                number.to_le_bytes()
            });
        };
        put16(&mut body, link);
        body.extend([0; 6]);
        if let Some(resolution) = resolution {
            put16(&mut body, 9);
            put16(&mut body, 1);
            body.extend([resolution, 0, 0, 0]);
        }
        if let Some(offset_s) = offset_s {
            put16(&mut body, 14);
            put16(&mut body, 8);
            body.extend(if big_endian {
                offset_s.to_be_bytes()
            } else {
                offset_s.to_le_bytes()
            });
        }
        Self::of(big_endian, 1, &body)
    }

    pub fn enhanced(
        big_endian: bool,
        interface: u32,
        ticks: u64,
        bytes: &[u8],
        frame_len: u32,
    ) -> Vec<u8> {
        let body = Self::enhanced_body(big_endian, interface, ticks, bytes, frame_len);
        Self::of(big_endian, 6, &body)
    }

    pub fn enhanced_len(bytes: &[u8]) -> usize {
        32 + bytes.len().next_multiple_of(4)
    }

    /// With flags: 1 is for what came in, 2 for what went out.
    pub fn flagged(ticks: u64, bytes: &[u8], frame_len: u32, flags: u8) -> Vec<u8> {
        let mut body = Self::enhanced_body(false, 0, ticks, bytes, frame_len);
        body.extend([2, 0, 4, 0, flags, 0, 0, 0, 0, 0, 0, 0]);
        Self::of(false, 6, &body)
    }

    fn enhanced_body(
        big_endian: bool,
        interface: u32,
        ticks: u64,
        bytes: &[u8],
        frame_len: u32,
    ) -> Vec<u8> {
        let mut body = Vec::new();
        for number in [
            interface,
            (ticks >> 32) as u32,
            ticks as u32,
            bytes.len() as u32,
            frame_len,
        ] {
            put(&mut body, big_endian, number);
        }
        body.extend(bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        body
    }

    pub fn simple(bytes: &[u8]) -> Vec<u8> {
        let mut body = (bytes.len() as u32).to_le_bytes().to_vec();
        body.extend(bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        Self::of(false, 3, &body)
    }

    /// What an interface and the system dropped.
    pub fn statistics(interface: u32, by_interface: u64, by_system: u64) -> Vec<u8> {
        let mut body = interface.to_le_bytes().to_vec();
        body.extend([0; 8]);
        for (code, count) in [(5, by_interface), (7, by_system)] {
            body.extend([code, 0, 8, 0]);
            body.extend(count.to_le_bytes());
        }
        Self::of(false, 5, &body)
    }
}

fn put(bytes: &mut Vec<u8>, big_endian: bool, number: u32) {
    bytes.extend(if big_endian {
        number.to_be_bytes()
    } else {
        number.to_le_bytes()
    });
}
