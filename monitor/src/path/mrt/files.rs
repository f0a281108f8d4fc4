//! MRT files, plain or compressed.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use super::super::SourceTable;
use super::super::rib::{Rib, RibError};
use super::load::{Counters, Keep, Loader};
use super::records::{RecordError, Records, kind};

/// RFC 1952, 2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];
const BZIP2: &[u8] = b"BZh";
/// Bytes read from a file at once.
const READ_BYTES: usize = 1 << 18;

/// Why MRT files were refused.
#[derive(Debug, thiserror::Error)]
pub enum MrtError {
    #[error("{file}: cannot be read: {source}; name existing files as path.mrt")]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("{file}: {source}")]
    Record { file: PathBuf, source: RecordError },
    #[error("{file}: {source}")]
    TooMuch { file: PathBuf, source: RibError },
    #[error(
        "{file}: no route can be read: {not_understood} of {records} records are not understood"
    )]
    Nothing {
        file: PathBuf,
        records: u64,
        not_understood: u64,
    },
}

/// A table, and what it was made of.
#[derive(Debug, Default)]
pub struct Loaded {
    pub table: SourceTable,
    pub counters: Counters,
    /// Update files that end in the middle of a record: they are still being written.
    pub unfinished: Vec<PathBuf>,
}

/// Reads the files in their order: dumps, then the updates that follow.
pub fn load(files: &[PathBuf]) -> Result<Loaded, MrtError> {
    let mut keep = Keep::Best;
    for file in files {
        let mut records = Records::new(open(file)?);
        match records.next() {
            Ok(Some((header, _))) => {
                if matches!(header.kind, kind::BGP4MP | kind::BGP4MP_ET | kind::BGP) {
                    keep = Keep::All;
                }
            }
            Ok(None) | Err(RecordError::Truncated { .. }) => {}
            Err(source) => return Err(record_error(file, source)),
        }
    }
    let too_much = |file: &Path, source| MrtError::TooMuch {
        file: file.to_owned(),
        source,
    };
    let first = files.first().map_or(Path::new(""), PathBuf::as_path);
    let mut loader = Loader::new(keep).map_err(|source| too_much(first, source))?;
    let mut unfinished = Vec::new();
    for file in files {
        let before = loader.counters;
        loader.has_dump = false;
        let mut records = Records::new(open(file)?);
        loop {
            match records.next() {
                Ok(Some((header, body))) => {
                    let taken = loader.take(header, body);
                    taken.map_err(|source| too_much(file, source))?;
                }
                Ok(None) => break,
                Err(RecordError::Truncated { .. }) if !loader.has_dump => {
                    unfinished.push(file.clone());
                    break;
                }
                Err(source) => return Err(record_error(file, source)),
            }
        }
        let read = loader.counters;
        let records = read.records - before.records;
        let not_understood = read.not_understood - before.not_understood;
        if records > 0 && not_understood == records {
            return Err(MrtError::Nothing {
                file: file.clone(),
                records,
                not_understood,
            });
        }
    }
    let counters = loader.counters;
    Ok(Loaded {
        table: best_of_each(loader.into_rib()),
        counters,
        unfinished,
    })
}

/// Reads records from bytes, as a file of them would be read.
pub fn read(bytes: &[u8]) -> Result<(Rib, Counters), RecordError> {
    let mut records = Records::new(bytes);
    let Ok(mut loader) = Loader::new(Keep::All) else {
        return Ok((Rib::default(), Counters::default()));
    };
    while let Some((header, body)) = records.next()? {
        if loader.take(header, body).is_err() {
            break;
        }
    }
    let counters = loader.counters;
    Ok((loader.into_rib(), counters))
}

fn best_of_each(mut rib: Rib) -> SourceTable {
    let mut table = SourceTable::default();
    while rib.has_changes() {
        for (prefix, path) in rib.take_changes() {
            if let Some(path) = path {
                table.insert(prefix, path);
            }
        }
    }
    table
}

fn record_error(file: &Path, source: RecordError) -> MrtError {
    match source {
        RecordError::Io(source) => MrtError::Unreadable {
            file: file.to_owned(),
            source,
        },
        source => MrtError::Record {
            file: file.to_owned(),
            source,
        },
    }
}

fn open(path: &Path) -> Result<Box<dyn Read>, MrtError> {
    let unreadable = |source| MrtError::Unreadable {
        file: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut file = BufReader::with_capacity(READ_BYTES, file);
    // One read fills more than enough; the bytes stay where they are.
    let magic = file.fill_buf().map_err(unreadable)?;
    Ok(if magic.starts_with(GZIP) {
        let plain = flate2::bufread::MultiGzDecoder::new(file);
        Box::new(BufReader::with_capacity(READ_BYTES, plain))
    } else if magic.starts_with(BZIP2) {
        let plain = bzip2::bufread::MultiBzDecoder::new(file);
        Box::new(BufReader::with_capacity(READ_BYTES, plain))
    } else {
        Box::new(file)
    })
}
