//! TCP options: timestamps and window scale (RFC 7323), SACK (RFC 2018) with DSACK (RFC 2883).

use crate::{
    packet::{SackBlock, Segment},
    verifier::below_64,
};

/// [`Segment::options`]: `tsval` and `tsecr` are set.
pub const TIMESTAMPS: u8 = 1 << 0;
/// `window_scale` is set.
pub const WINDOW_SCALE: u8 = 1 << 1;
/// The first, and the second SACK block is set.
pub const SACK_FIRST: u8 = 1 << 2;
pub const SACK_SECOND: u8 = 1 << 3;
/// SACK may be sent to whoever sent this SYN.
pub const SACK_PERMITTED: u8 = 1 << 4;

/// Options looked at on one segment, NOPs included. A SYN of today has 6, an ACK with SACK 7.
const STEPS_MAX: u32 = 16;

const END: u8 = 0;
const NOP: u8 = 1;
const KIND_WINDOW_SCALE: u8 = 3;
const KIND_SACK_PERMITTED: u8 = 4;
const KIND_SACK: u8 = 5;
const KIND_TIMESTAMPS: u8 = 8;

/// Puts what the first `len` bytes of `bytes` (at most 40) say into `segment`. An option that
/// claims less than its own header, or more than there is, ends the walk: nothing after it can
/// be believed.
#[inline(always)]
pub fn scan(bytes: &[u8; 64], len: u32, segment: &mut Segment) {
    let mut at = 0;
    for _ in 0..STEPS_MAX {
        if at >= len {
            return;
        }
        match byte(bytes, at) {
            END => return,
            NOP => at = within(at + 1),
            kind => {
                let option_len = u32::from(byte(bytes, at + 1));
                if option_len < 2 || at + option_len > len {
                    return;
                }
                option(bytes, at, kind, option_len, segment);
                at = within(at + option_len);
            }
        }
    }
}

#[inline(always)]
fn option(bytes: &[u8; 64], at: u32, kind: u8, len: u32, segment: &mut Segment) {
    if kind == KIND_TIMESTAMPS && len == 10 {
        segment.tsval = word(bytes, at + 2);
        segment.tsecr = word(bytes, at + 6);
        segment.options |= TIMESTAMPS;
    } else if kind == KIND_WINDOW_SCALE && len == 3 {
        // RFC 7323, 2.3: more than 14 is to be taken as 14.
        segment.window_scale = byte(bytes, at + 2).min(14);
        segment.options |= WINDOW_SCALE;
    } else if kind == KIND_SACK_PERMITTED && len == 2 {
        segment.options |= SACK_PERMITTED;
    } else if kind == KIND_SACK && len >= 10 {
        segment.sack[0] = SackBlock {
            start: word(bytes, at + 2),
            end: word(bytes, at + 6),
        };
        segment.options |= SACK_FIRST;
        if len >= 18 {
            segment.sack[1] = SackBlock {
                start: word(bytes, at + 10),
                end: word(bytes, at + 14),
            };
            segment.options |= SACK_SECOND;
        }
    }
}

/// A position is at most 40; the verifier has to see some bound, or it walks every sum of lengths.
#[inline(always)]
fn within(at: u32) -> u32 {
    below_64(at as usize) as u32
}

#[inline(always)]
fn byte(bytes: &[u8; 64], at: u32) -> u8 {
    // SAFETY: below 64. An index that is checked instead leaves a panic in the kernel's program.
    unsafe { *bytes.get_unchecked(below_64(at as usize)) }
}

#[inline(always)]
fn word(bytes: &[u8; 64], at: u32) -> u32 {
    u32::from_be_bytes([
        byte(bytes, at),
        byte(bytes, at + 1),
        byte(bytes, at + 2),
        byte(bytes, at + 3),
    ])
}
