//! The SQLite file.
//!
//! ```text
//! window(id, host, start_us, engine, config_hash, inputs)   inputs: JSON, zstd
//! verdict(id, window, line)
//! label(id, truth, said, time_us)   stays when the verdict is forgotten
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::{Kept, Unkept};
use crate::database::Database;
use crate::verdict::Segment;

/// The file's name in a folder that `--state` names.
pub const FILE_NAME: &str = "evidence.sqlite";
/// zstd's default.
const COMPRESSION: i32 = 3;
/// A window of a million clients; what claims to be larger is damaged.
const MAX_INPUT_BYTES: usize = 1 << 30;
/// Windows that one clean-up removes at once, so that it never holds the file for long.
const FORGET_AT_ONCE: u32 = 200;
/// Where there are too many bytes, this part of them is kept.
const KEPT_PART: f64 = 0.9;

/// "lmev".
const FILE: Database = Database {
    key: "evidence",
    application_id: 0x6c6d_6576,
    layout: 1,
    tables: TABLES,
    otherwise: "name another file",
};

const TABLES: &str = "
CREATE TABLE window (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    start_us INTEGER NOT NULL,
    engine TEXT NOT NULL,
    config_hash TEXT NOT NULL,
    inputs BLOB NOT NULL
) STRICT;
CREATE INDEX window_by_time ON window (start_us);
CREATE TABLE verdict (
    id TEXT PRIMARY KEY,
    window INTEGER NOT NULL REFERENCES window(id),
    line TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX verdict_by_window ON verdict (window);
CREATE TABLE label (
    id TEXT PRIMARY KEY,
    truth TEXT NOT NULL,
    said TEXT NOT NULL,
    time_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// The open file.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    connection: Connection,
}

/// A verdict as it was logged, and what it was made of.
#[derive(Clone, Debug)]
pub struct Found {
    pub line: String,
    pub kept: Kept,
}

/// What operators learned of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub id: String,
    /// Where it was; empty: there was no congestion.
    pub truth: Vec<Segment>,
    /// What the verdict said.
    pub said: Vec<Segment>,
    pub time_us: u64,
}

impl Store {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be read or written, or is another program's.
    pub fn open(file: &Path) -> Result<Self> {
        Self::with_flags(file, OpenFlags::default())
    }

    /// Opens a file that is there; `None`: there is none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(file: &Path) -> Result<Option<Self>> {
        if !file.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::default() & !OpenFlags::SQLITE_OPEN_CREATE;
        Self::with_flags(file, flags).map(Some)
    }

    fn with_flags(file: &Path, flags: OpenFlags) -> Result<Self> {
        Ok(Self {
            file: file.to_owned(),
            connection: FILE.open(file, flags)?,
        })
    }

    /// As on a disk that is full.
    #[cfg(test)]
    pub fn allow_no_more_pages(&self) {
        let pages: i64 = self
            .connection
            .pragma_query_value(None, "page_count", |row| row.get(0))
            .expect("readable");
        self.connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .expect("set");
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Writes a window and its verdicts, all or nothing.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep(&mut self, unkept: &Unkept) -> Result<()> {
        let kept = &unkept.kept;
        let json = serde_json::to_vec(kept)?;
        let inputs = zstd::bulk::compress(&json, COMPRESSION)?;
        let write = self.connection.transaction()?;
        write
            .prepare_cached(
                "INSERT INTO window (host, start_us, engine, config_hash, inputs) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                kept.host,
                kept.span.start_us as i64,
                kept.engine,
                kept.config_hash,
                inputs
            ])?;
        let window = write.last_insert_rowid();
        for verdict in &unkept.verdicts {
            // A clock that was set back makes a window come twice: the first one keeps its name.
            write
                .prepare_cached("INSERT OR IGNORE INTO verdict VALUES (?1, ?2, ?3)")?
                .execute(params![verdict.id, window, verdict.line])?;
        }
        Ok(write.commit()?)
    }

    /// Forgets windows that began before `cutoff_us`, and the oldest ones where the file has more
    /// than `max_bytes`. Returns how many; call again while it is not 0.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn forget(&mut self, cutoff_us: u64, max_bytes: u64) -> Result<usize> {
        let mut removed = self.remove(
            "SELECT id FROM window WHERE start_us < ?1 ORDER BY start_us LIMIT ?2",
            cutoff_us as i64,
        )?;
        let bytes = self.bytes()?;
        if removed == 0 && bytes > max_bytes {
            // As many of the oldest as have what is too much.
            let excess = bytes as f64 - max_bytes as f64 * KEPT_PART;
            removed = self.remove(
                "SELECT id FROM (SELECT id, start_us, \
                     sum(length(inputs)) OVER (ORDER BY start_us, id) - length(inputs) AS before \
                     FROM window) \
                 WHERE before < ?1 ORDER BY start_us LIMIT ?2",
                excess as i64,
            )?;
        }
        self.connection
            .execute_batch("PRAGMA incremental_vacuum;")?;
        Ok(removed)
    }

    fn remove(&mut self, which: &str, argument: i64) -> Result<usize> {
        let write = self.connection.transaction()?;
        let ids: Vec<i64> = write
            .prepare_cached(which)?
            .query_map(params![argument, FORGET_AT_ONCE], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for id in &ids {
            write
                .prepare_cached("DELETE FROM verdict WHERE window = ?1")?
                .execute([id])?;
            write
                .prepare_cached("DELETE FROM window WHERE id = ?1")?
                .execute([id])?;
        }
        write.commit()?;
        Ok(ids.len())
    }

    /// What the file holds, without what is free in it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn bytes(&self) -> Result<u64> {
        let number = |name: &str| -> rusqlite::Result<i64> {
            self.connection
                .pragma_query_value(None, name, |row| row.get(0))
        };
        let pages = number("page_count")? - number("freelist_count")?;
        Ok((pages * number("page_size")?).max(0) as u64)
    }

    /// A verdict by its id.
    ///
    /// # Errors
    /// When the file or what is in it cannot be read.
    pub fn find(&self, id: &str) -> Result<Option<Found>> {
        let row: Option<(String, Vec<u8>)> = self
            .connection
            .query_row(
                "SELECT line, inputs FROM verdict JOIN window ON window.id = verdict.window \
                 WHERE verdict.id = ?1",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((line, inputs)) = row else {
            return Ok(None);
        };
        let damaged = || format!("{}: the inputs of {id} are damaged", self.file.display());
        let json = zstd::bulk::decompress(&inputs, MAX_INPUT_BYTES).with_context(damaged)?;
        let kept = serde_json::from_slice(&json).with_context(damaged)?;
        Ok(Some(Found { line, kept }))
    }

    /// Writes what was learned of a verdict, instead of what was written before.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn label(&self, label: &Label) -> Result<()> {
        self.connection.execute(
            "INSERT OR REPLACE INTO label VALUES (?1, ?2, ?3, ?4)",
            params![
                label.id,
                serde_json::to_string(&label.truth)?,
                serde_json::to_string(&label.said)?,
                label.time_us as i64
            ],
        )?;
        Ok(())
    }

    /// Everything that was learned, by the verdicts' ids.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn labels(&self) -> Result<Vec<Label>> {
        let mut query = self
            .connection
            .prepare("SELECT id, truth, said, time_us FROM label ORDER BY id")?;
        let rows = query.query_map([], |row| {
            let text = |at| row.get::<_, String>(at);
            Ok((text(0)?, text(1)?, text(2)?, row.get::<_, i64>(3)?))
        })?;
        let mut labels = Vec::new();
        for row in rows {
            let (id, truth, said, time_us) = row?;
            let read = |json: &str| {
                let file = self.file.display();
                serde_json::from_str(json).with_context(|| format!("{file}: the label of {id}"))
            };
            labels.push(Label {
                truth: read(&truth)?,
                said: read(&said)?,
                time_us: time_us.max(0) as u64,
                id,
            });
        }
        Ok(labels)
    }
}
