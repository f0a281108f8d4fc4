//! Opening a capture: a file or standard input, plain or compressed, told by its first bytes.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Stands for standard input on the command line.
pub const STDIN: &str = "-";

/// RFC 1952, 2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// The .xz file format, 2.1.1.1.
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// RFC 8878, 3.1.1.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// A skippable frame (RFC 8878, 3.1.2), which pzstd begins with: 0x184D2A50 to 0x184D2A5F.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
const BZIP2: &[u8] = b"BZh";

/// Bytes read from a compressed file at once.
const READ_BYTES: usize = 1 << 18;

/// The largest window zstd knows (`zstd --long=31`); without it the decoder refuses 128 MiB and
/// more. Only files that were made so need the memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 31;

/// Bytes that were read of all captures, as they lie on the disk.
pub type BytesRead = Arc<AtomicU64>;

/// A capture's own bytes.
pub struct Input {
    pub bytes: Box<dyn Read + Send>,
    /// Whether they come out of a decompressor, so that no offset in the file belongs to them.
    pub compressed: bool,
}

/// Opens the capture at `path`, and adds to `bytes_read` what is read of it.
pub fn open(path: &Path, bytes_read: &BytesRead) -> io::Result<Input> {
    let source: Box<dyn Read + Send> = if path == Path::new(STDIN) {
        Box::new(io::stdin())
    } else {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Box::new(file)
    };
    decompressed(Counted {
        source,
        bytes_read: bytes_read.clone(),
    })
}

/// Tells by the first bytes whether `source` is compressed, and undoes that.
fn decompressed(source: Counted) -> io::Result<Input> {
    let mut start = Start {
        source,
        first: [0; FIRST_BYTES],
        len: 0,
        taken: 0,
    };
    start.fill()?;
    let first = &start.first[..start.len];
    let compressed = |bytes: Box<dyn Read + Send>| Input {
        bytes,
        compressed: true,
    };
    Ok(if first.starts_with(GZIP) {
        compressed(Box::new(flate2::bufread::MultiGzDecoder::new(buffered(
            start,
        ))))
    } else if first.starts_with(XZ) {
        compressed(Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(
            buffered(start),
        )))
    } else if first.starts_with(ZSTD) || first.get(1..).is_some_and(is_skippable) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(start))?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        compressed(Box::new(decoder))
    } else if first.starts_with(BZIP2) {
        compressed(Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(
            start,
        ))))
    } else {
        Input {
            bytes: Box::new(start),
            compressed: false,
        }
    })
}

fn is_skippable(rest: &[u8]) -> bool {
    rest.starts_with(ZSTD_SKIPPABLE)
}

fn buffered(start: Start) -> impl BufRead + Send {
    BufReader::with_capacity(READ_BYTES, start)
}

/// Enough to tell every format by.
const FIRST_BYTES: usize = 6;

/// A source whose first bytes were looked at.
struct Start {
    source: Counted,
    first: [u8; FIRST_BYTES],
    len: usize,
    taken: usize,
}

impl Start {
    /// A pipe may hand out a byte at a time.
    fn fill(&mut self) -> io::Result<()> {
        while self.len < self.first.len() {
            match self.source.read(&mut self.first[self.len..]) {
                Ok(0) => break,
                Ok(count) => self.len += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Read for Start {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.len {
            return self.source.read(buffer);
        }
        let mut rest = &self.first[self.taken..self.len];
        let count = rest.read(buffer)?;
        self.taken += count;
        Ok(count)
    }
}

struct Counted {
    source: Box<dyn Read + Send>,
    bytes_read: BytesRead,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A pipe that hands out one byte at a time.
    struct Trickle(io::Cursor<Vec<u8>>);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(1);
            self.0.read(&mut buffer[..len])
        }
    }

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let counted = Counted {
            source: Box::new(Trickle(io::Cursor::new(bytes))),
            bytes_read: BytesRead::default(),
        };
        let mut plain = Vec::new();
        decompressed(counted)?.bytes.read_to_end(&mut plain)?;
        Ok(plain)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn every_compression_is_undone_and_members_follow_each_other() {
        let zstd = zstd::stream::encode_all(&b"one"[..], 1).expect("memory");
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd].concat();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(b"one").expect("memory");
        let xz = xz.finish().expect("memory");
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(b"one").expect("memory");
        let bz = bz.finish().expect("memory");
        for packed in [gzip(b"one"), zstd, skippable, xz, bz] {
            assert_eq!(read(packed.clone()).expect("whole"), b"one");
            let twice = [packed.clone(), packed].concat();
            assert_eq!(read(twice).expect("whole"), b"oneone");
        }
    }

    #[test]
    fn what_is_not_compressed_stays_as_it_is() {
        for plain in [&b""[..], b"a", b"abcdef", b"abcdefgh"] {
            assert_eq!(read(plain.to_vec()).expect("whole"), plain);
        }
    }

    #[test]
    fn a_compressed_file_that_was_cut_is_an_error_and_not_an_end() {
        let packed = gzip(&[7; 10_000]);
        for len in [packed.len() - 1, packed.len() / 2, 12] {
            assert!(read(packed[..len].to_vec()).is_err(), "{len} bytes");
        }
    }
}
