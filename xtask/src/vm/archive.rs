//! The cpio archive ("newc" format) that a kernel unpacks into its first file system.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMBOLIC_LINK: u32 = 0o120_000;

/// Writes entries in the order given; a folder must come before what is in it.
pub struct Archive<W: Write> {
    to: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub fn new(to: W) -> Self {
        Self { to, entries: 0 }
    }

    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[], [0, 0])
    }

    /// A file with these permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | permissions, contents, [0, 0])
    }

    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, SYMBOLIC_LINK | 0o777, target.as_bytes(), [0, 0])
    }

    /// A device with these numbers, major and minor.
    pub fn character_device(&mut self, path: &str, numbers: [u32; 2]) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | 0o600, &[], numbers)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[], [0, 0])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        contents: &[u8],
        [major, minor]: [u32; 2],
    ) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let size = u32::try_from(contents.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("{path}: over 4 GiB"))
        })?;
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name, check
        let name_size = path.len() as u32 + 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            major,
            minor,
            name_size,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.to.write_all(header.as_bytes())?;
        self.to.write_all(path.as_bytes())?;
        self.to.write_all(b"\0")?;
        self.pad(header.len() + path.len() + 1)?;
        self.to.write_all(contents)?;
        self.pad(contents.len())
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.to
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("/bin").unwrap();
        archive.file("/bin/a", 0o755, b"hello").unwrap();
        archive.link("/bin/bb", "a").unwrap();
        let bytes = archive.finish().unwrap();

        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<_> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| window == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 4, "three entries and the trailer");
        assert!(starts.iter().all(|at| at % 4 == 0));
        // Mode and size of the file: fields two and seven of eight digits each.
        let header = &bytes[starts[1]..];
        assert_eq!(&header[6 + 8..6 + 16], b"000081ed");
        assert_eq!(&header[6 + 48..6 + 56], b"00000005");
    }
}
