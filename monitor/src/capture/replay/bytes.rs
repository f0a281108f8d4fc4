//! The bytes of a capture, as many at hand as a record needs, in constant memory.

use std::io::{self, ErrorKind, Read};

/// Bytes of an input from a position on.
pub struct Bytes {
    input: Box<dyn Read + Send>,
    /// Bytes read at once; more only for a record that is larger.
    capacity: usize,
    buffer: Vec<u8>,
    /// What is at hand lies in `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Where `start` lies in the input.
    offset: u64,
}

impl Bytes {
    pub fn new(input: Box<dyn Read + Send>, capacity: usize) -> Self {
        Self {
            input,
            capacity,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: 0,
        }
    }

    /// Where the next byte lies in the input.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `len` bytes, or all that are left where the input ends before.
    pub fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.end - self.start < len {
            self.fill(len)?;
        }
        let end = self.end.min(self.start + len);
        Ok(&self.buffer[self.start..end])
    }

    /// What [`Self::peek`] returned before, from `from` on; empty where that is not at hand.
    pub fn peeked(&self, from: usize, len: usize) -> &[u8] {
        let at_hand = &self.buffer[self.start..self.end];
        at_hand.get(from..from + len).unwrap_or_default()
    }

    /// Goes on behind `len` bytes, which must be at hand.
    pub fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.offset += len as u64;
    }

    #[cold]
    fn fill(&mut self, len: usize) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let capacity = self.capacity.max(len.next_power_of_two());
        if self.buffer.len() < capacity {
            self.buffer.resize(capacity, 0);
        }
        while self.end < len {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_any_size_are_at_hand_one_after_the_other() {
        let all: Vec<u8> = (0..3_000_000u32).map(|at| at as u8).collect();
        let mut bytes = Bytes::new(Box::new(io::Cursor::new(all.clone())), 1 << 16);
        let mut at = 0;
        for len in [0, 1, 70_000, 1 << 16, 3, 1_500_000] {
            assert_eq!(bytes.peek(len).expect("memory"), &all[at..at + len]);
            assert_eq!(
                bytes.peeked(len / 2, len / 3),
                &all[at + len / 2..][..len / 3]
            );
            bytes.consume(len);
            at += len;
            assert_eq!(bytes.offset(), at as u64);
        }
        let rest = all.len() - at;
        assert_eq!(bytes.peek(rest + 1).expect("memory").len(), rest);
        assert_eq!(bytes.peeked(rest, 1), b"");
        bytes.consume(rest);
        assert_eq!(bytes.peek(1).expect("memory"), b"");
    }
}
