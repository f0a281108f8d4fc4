//! Sequence numbers, wrapping times, and pairs of them in one word.

/// How far `to` is ahead of `from` in the circle of 2³² (RFC 9293, 3.4); negative: behind.
#[inline(always)]
pub const fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

/// Two `u32` in one word, so that the other direction reads both at once.
#[inline(always)]
pub const fn pack(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[inline(always)]
pub const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline(always)]
pub const fn low(word: u64) -> u32 {
    word as u32
}

/// Nanoseconds as the wrapping microseconds that samples are taken in (71 minutes a turn).
///
/// BPF has no wide multiplication to divide by a constant with, and its division costs as much as
/// a map access: this is the upper half of `ns × 2⁶⁴ / 1000`, in four products, and what rounding
/// takes from it.
#[inline(always)]
pub const fn micros(ns: u64) -> u32 {
    const INVERSE: u64 = u64::MAX / 1_000;
    const INVERSE_HIGH: u64 = INVERSE >> 32;
    const INVERSE_LOW: u64 = INVERSE & 0xffff_ffff;
    let (high, low) = (ns >> 32, ns & 0xffff_ffff);
    let middle = (high * INVERSE_LOW)
        .wrapping_add(low * INVERSE_HIGH)
        .wrapping_add((low * INVERSE_LOW) >> 32);
    let micros = (high * INVERSE_HIGH).wrapping_add(middle >> 32);
    let rest = ns.wrapping_sub(micros.wrapping_mul(1_000));
    micros.wrapping_add(999u64.wrapping_sub(rest) >> 63) as u32
}

/// Nanoseconds as ticks of 1.024 µs, which cost no division (73 minutes a turn).
#[inline(always)]
pub const fn ticks(ns: u64) -> u32 {
    (ns >> 10) as u32
}

/// `ticks` in µs, rounded down; `u32::MAX` where that is more than fits.
///
/// A tick is 128/125 µs. Without a division, as in [`micros`]: by the reciprocal of 125, which is
/// exact for every `u32` because 125 × 2199023256 exceeds 2³⁸ by 56, less than 2³⁸ / 2³².
#[inline(always)]
pub const fn ticks_to_micros(ticks: u32) -> u32 {
    let ticks = ticks as u64;
    let whole = (ticks * 2_199_023_256) >> 38;
    let rest = ticks - whole * 125;
    // The same for what is below 125 × 128.
    let micros = whole * 128 + ((rest * 128 * 33_555) >> 22);
    if micros > u32::MAX as u64 {
        u32::MAX
    } else {
        micros as u32
    }
}
