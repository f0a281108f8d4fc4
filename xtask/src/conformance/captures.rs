//! The captures below a folder, made readable for programs that know no compression.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// What a file must begin with: pcap (micro- and nanoseconds, either byte order) or pcapng.
const CAPTURES: [[u8; 4]; 5] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0x0a, 0x0d, 0x0d, 0x0a],
];

/// One capture.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capture {
    /// Below the folder that was asked for.
    pub name: String,
    pub path: PathBuf,
}

impl Capture {
    /// The part of the name that the counts are added up by.
    pub fn folder(&self) -> &str {
        self.name.split_once('/').map_or(".", |(folder, _)| folder)
    }
}

/// Every regular file below `folder`, sorted by name; links are not followed, so that a circle of
/// them ends.
///
/// # Errors
/// When a folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<Capture>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let entries = fs::read_dir(&at).with_context(|| format!("cannot read {}", at.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", at.display()))?;
            let path = entry.path();
            let kind = entry
                .file_type()
                .with_context(|| format!("cannot look at {}", path.display()))?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(folder).unwrap_or(&path);
                files.push(Capture {
                    name: name.to_string_lossy().into_owned(),
                    path,
                });
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What [`unpack`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// A capture, as it is or unpacked.
    At(PathBuf),
    /// Something else.
    NoCapture,
    /// Compressed, and damaged before its first bytes.
    Damaged(String),
}

/// The capture without its compression: itself, or a copy at `copy`. A copy ends where the
/// compressed data is damaged, as it does for whoever reads it directly.
///
/// # Errors
/// When the file cannot be opened or the copy cannot be written.
pub fn unpack(path: &Path, copy: &Path) -> Result<Unpacked> {
    let cannot_open = || format!("cannot open {}", path.display());
    let mut file = BufReader::new(File::open(path).with_context(cannot_open)?);
    let magic = file.fill_buf().with_context(cannot_open)?;
    let mut unpacked: Box<dyn Read> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if magic.starts_with(b"\xfd7zXZ\0") {
        Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(file).with_context(cannot_open)?)
    } else {
        return Ok(if is_capture(magic) {
            Unpacked::At(path.to_owned())
        } else {
            Unpacked::NoCapture
        });
    };
    let mut magic = [0; 4];
    if let Err(error) = unpacked.read_exact(&mut magic) {
        return Ok(match error.kind() {
            io::ErrorKind::UnexpectedEof => Unpacked::NoCapture,
            _ => Unpacked::Damaged(error.to_string()),
        });
    }
    if !is_capture(&magic) {
        return Ok(Unpacked::NoCapture);
    }
    let cannot_write = || format!("cannot write {}", copy.display());
    let mut file = File::create(copy).with_context(cannot_write)?;
    file.write_all(&magic).with_context(cannot_write)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match unpacked.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => file.write_all(&buffer[..len]).with_context(cannot_write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    Ok(Unpacked::At(copy.to_owned()))
}

fn is_capture(magic: &[u8]) -> bool {
    CAPTURES.iter().any(|known| magic.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_told_by_their_first_bytes() {
        let folder = std::env::temp_dir().join(format!("lastmile-files-{}", std::process::id()));
        fs::create_dir_all(folder.join("below")).unwrap();
        let pcap = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        fs::write(folder.join("below/plain.cap"), pcap).unwrap();
        fs::write(folder.join("notes.pcap"), "no capture").unwrap();
        fs::write(folder.join("empty"), "").unwrap();
        let packed = File::create(folder.join("packed.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        packed.write_all(&pcap).unwrap();
        packed.finish().unwrap();

        let files = files(&folder).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["below/plain.cap", "empty", "notes.pcap", "packed.gz"]
        );
        assert_eq!((files[0].folder(), files[1].folder()), ("below", "."));
        let copy = folder.join("copy");
        let found: Vec<_> = files
            .iter()
            .map(|file| unpack(&file.path, &copy).unwrap())
            .collect();
        assert_eq!(
            found,
            [
                Unpacked::At(files[0].path.clone()),
                Unpacked::NoCapture,
                Unpacked::NoCapture,
                Unpacked::At(copy.clone()),
            ]
        );
        assert_eq!(fs::read(copy).unwrap(), pcap);
        fs::remove_dir_all(folder).unwrap();
    }
}
