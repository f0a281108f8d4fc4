//! Opening a capture: plain or compressed, told by its first bytes.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    path::Path,
};

/// RFC 1952, 2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// The .xz file format, 2.1.1.1.
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// RFC 8878, 3.1.1.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Bytes read from the file at once.
const READ_BYTES: usize = 1 << 20;

/// The capture's own bytes.
pub fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(READ_BYTES, File::open(path)?);
    // One read fills more than enough; the bytes stay where they are.
    let magic = file.fill_buf()?;
    let (gzip, xz, zstd) = (
        magic.starts_with(GZIP),
        magic.starts_with(XZ),
        magic.starts_with(ZSTD),
    );
    Ok(if gzip {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if xz {
        Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file))
    } else if zstd {
        Box::new(zstd::stream::read::Decoder::with_buffer(file)?)
    } else {
        Box::new(file)
    })
}
