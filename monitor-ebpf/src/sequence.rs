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
#[inline(always)]
pub const fn micros(ns: u64) -> u32 {
    (ns / 1000) as u32
}
