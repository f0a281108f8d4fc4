//! A stream's beginning, put together from pieces in any order.

use std::ops::Range;

/// The longest beginning that is kept, bytes: a ClientHello with post-quantum keys takes 1.8 KiB,
/// and none is known above 4. It is also what one TLS record holds (RFC 8446, 5.1).
pub const MAX_BYTES: usize = 16_384;

/// Holes at once. A client's first flight is a handful of packets; Chrome cuts the CRYPTO stream
/// of QUIC in some dozen frames on purpose.
const RANGES_MAX: usize = 64;

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Add {
    Taken,
    /// It ends beyond 16 KiB, or there are too many holes: nothing of it was kept.
    Refused,
}

/// Bytes with holes. What came first stays: a copy that says something else changes nothing.
#[derive(Clone, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
    /// What is there: disjoint, not adjacent, in order.
    present: Vec<Range<usize>>,
}

/// What a client sent is nobody's to read: only where it is.
impl std::fmt::Debug for Pieces {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Pieces")
            .field("present", &self.present)
            .finish_non_exhaustive()
    }
}

impl Pieces {
    /// Adds `piece`, whose first byte is number `offset` of the stream.
    pub fn add(&mut self, offset: u64, piece: &[u8]) -> Add {
        let Some(range) = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(piece.len())?))
            .filter(|range| range.end <= MAX_BYTES)
        else {
            return Add::Refused;
        };
        if range.is_empty() {
            return Add::Taken;
        }
        let touches = |other: &Range<usize>| other.start <= range.end && range.start <= other.end;
        let merges = self.present.iter().any(touches);
        if !merges && self.present.len() >= RANGES_MAX {
            return Add::Refused;
        }
        if self.bytes.len() < range.end {
            self.bytes.resize(range.end, 0);
        }
        let mut from = range.start;
        let mut merged = range.clone();
        let mut rest = Vec::with_capacity(self.present.len() + 1);
        for other in self.present.drain(..) {
            if !(other.start <= range.end && range.start <= other.end) {
                rest.push(other);
                continue;
            }
            let until = other.start.min(range.end);
            if from < until {
                let piece = &piece[from - range.start..until - range.start];
                self.bytes[from..until].copy_from_slice(piece);
            }
            from = from.max(other.end);
            merged = merged.start.min(other.start)..merged.end.max(other.end);
        }
        if from < range.end {
            self.bytes[from..range.end].copy_from_slice(&piece[from - range.start..]);
        }
        rest.push(merged);
        rest.sort_by_key(|range| range.start);
        self.present = rest;
        Add::Taken
    }

    /// What is there from the first byte on, without a hole.
    pub fn beginning(&self) -> &[u8] {
        match self.present.first() {
            Some(first) if first.start == 0 => &self.bytes[..first.end],
            _ => &[],
        }
    }

    /// Whether anything is there.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hole_is_filled_and_what_came_first_stays() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.add(4, b"ef"), Add::Taken);
        assert_eq!(pieces.beginning(), b"");
        assert_eq!(pieces.add(0, b"abc"), Add::Taken);
        assert_eq!(pieces.beginning(), b"abc");
        // A copy with other bytes, over the hole.
        assert_eq!(pieces.add(1, b"XXdX"), Add::Taken);
        assert_eq!(pieces.beginning(), b"abcdef");
    }

    #[test]
    fn nothing_beyond_the_bound_is_kept() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.add(MAX_BYTES as u64, b"x"), Add::Refused);
        assert_eq!(pieces.add(u64::MAX, b"x"), Add::Refused);
        assert_eq!(pieces.add(MAX_BYTES as u64 - 1, b"x"), Add::Taken);
        for hole in 0..RANGES_MAX as u64 + 10 {
            pieces.add(hole * 2, b"x");
        }
        assert!(pieces.present.len() <= RANGES_MAX);
    }

    proptest! {
        /// In any order and with any copies, what is together in the end is the stream.
        #[test]
        fn any_order_gives_the_same_stream(
            stream in prop::collection::vec(any::<u8>(), 1..400),
            cuts in prop::collection::vec((0usize..400, 1usize..60), 0..40),
        ) {
            let mut pieces = Pieces::default();
            for (at, len) in cuts {
                let at = at.min(stream.len());
                let end = (at + len).min(stream.len());
                pieces.add(at as u64, &stream[at..end]);
                prop_assert!(stream.starts_with(pieces.beginning()));
            }
            pieces.add(0, &stream);
            prop_assert_eq!(pieces.beginning(), &stream[..]);
        }
    }
}
