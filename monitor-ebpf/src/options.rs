//! TCP options: timestamps and window scale (RFC 7323), SACK (RFC 2018) with DSACK (RFC 2883).

use crate::packet::{SackBlock, Scan, Segment};

/// [`Segment::options`]: `tsval` and `tsecr` are set.
pub const TIMESTAMPS: u8 = 1 << 0;
/// `window_scale` is set.
pub const WINDOW_SCALE: u8 = 1 << 1;
/// The first, and the second SACK block is set.
pub const SACK_FIRST: u8 = 1 << 2;
pub const SACK_SECOND: u8 = 1 << 3;

/// Every option is at least one byte, and there are at most 40 bytes of them.
pub const STEPS_MAX: u32 = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const KIND_WINDOW_SCALE: u8 = 3;
const KIND_SACK: u8 = 5;
const KIND_TIMESTAMPS: u8 = 8;

/// A walk over the options of one segment.
pub struct Options {
    pub bytes: [u8; 40],
    at: u32,
    len: u32,
    tsval: u32,
    tsecr: u32,
    sack: [SackBlock; 2],
    window_scale: u8,
    found: u8,
}

impl Options {
    /// For `len` bytes of options (at most 40), which the caller puts into `bytes`.
    #[inline(always)]
    pub fn new(len: usize) -> Self {
        Self {
            bytes: [0; 40],
            at: 0,
            len: len as u32,
            tsval: 0,
            tsecr: 0,
            sack: [SackBlock { start: 0, end: 0 }; 2],
            window_scale: 0,
            found: 0,
        }
    }

    /// Puts what was found into `segment`.
    #[inline(always)]
    pub fn found(&self, segment: &mut Segment) {
        segment.options = self.found;
        segment.tsval = self.tsval;
        segment.tsecr = self.tsecr;
        segment.sack = self.sack;
        segment.window_scale = self.window_scale;
    }

    #[inline(always)]
    fn byte(&self, at: u32) -> Option<u8> {
        self.bytes.get(at as usize).copied()
    }

    #[inline(always)]
    fn word(&self, at: u32) -> Option<u32> {
        let a = self.byte(at)?;
        let b = self.byte(at + 1)?;
        let c = self.byte(at + 2)?;
        let d = self.byte(at + 3)?;
        Some(u32::from_be_bytes([a, b, c, d]))
    }

    /// The option at `self.at`; `None` where the list ends or is broken.
    #[inline(always)]
    fn next(&mut self) -> Option<()> {
        let at = self.at;
        if at >= self.len {
            return None;
        }
        match self.byte(at)? {
            END => return None,
            NOP => {
                self.at = at + 1;
                return Some(());
            }
            kind => {
                let len = u32::from(self.byte(at + 1)?);
                // An option that claims less than its own header, or more than there is, ends
                // the walk: nothing after it can be believed.
                if len < 2 || at + len > self.len {
                    return None;
                }
                self.at = at + len;
                match (kind, len) {
                    (KIND_TIMESTAMPS, 10) => {
                        self.tsval = self.word(at + 2)?;
                        self.tsecr = self.word(at + 6)?;
                        self.found |= TIMESTAMPS;
                    }
                    (KIND_WINDOW_SCALE, 3) => {
                        // RFC 7323, 2.3: more than 14 is to be taken as 14.
                        self.window_scale = self.byte(at + 2)?.min(14);
                        self.found |= WINDOW_SCALE;
                    }
                    (KIND_SACK, 10..) => {
                        self.sack[0] = SackBlock {
                            start: self.word(at + 2)?,
                            end: self.word(at + 6)?,
                        };
                        self.found |= SACK_FIRST;
                        if len >= 18 {
                            self.sack[1] = SackBlock {
                                start: self.word(at + 10)?,
                                end: self.word(at + 14)?,
                            };
                            self.found |= SACK_SECOND;
                        }
                    }
                    _ => {}
                }
            }
        }
        Some(())
    }
}

impl Scan for Options {
    #[inline(always)]
    fn step(&mut self) -> bool {
        self.next().is_some()
    }
}
