//! Which way a prefix took, and when: an SQLite file.
//!
//! What is written is what [`Followed`](super::followed::Followed) tells: for every prefix that
//! has or had flows the way it took when its first client was seen, and each change since. A
//! *run* is a span in which nothing was missed; between two runs, and before a prefix was seen in
//! a run, nothing is known, and [`Store::at`] says so instead of guessing.
//!
//! ```text
//! run(id, host, start_us, last_us)
//! way(id, interconnect, isp, origin_asn, detail)   detail: the rest, as JSON
//! change(id, run, time_us, prefix, kind, way, former)
//! feed(source, name, prefixes, peers, stale, detail, time_us)   as they were at the last look
//! ```

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rusqlite::{Connection, OpenFlags, params};

use super::Source;
use crate::export::record::WayRecord;

/// "lasm" in ASCII: SQLite's mark for whose file it is.
const APPLICATION_ID: i32 = 0x6c61_736d;
/// The layout below.
const LAYOUT: i32 = 1;
/// Another process that reads never holds a lock for long; one that writes is a mistake.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
const TABLES: &str = "
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    start_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL
) STRICT;
CREATE TABLE way (
    id INTEGER PRIMARY KEY,
    interconnect TEXT NOT NULL,
    isp TEXT NOT NULL,
    origin_asn INTEGER NOT NULL,
    detail TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE change (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES run(id),
    time_us INTEGER NOT NULL,
    prefix TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('seen', 'moved', 'left')),
    way INTEGER REFERENCES way(id),
    former INTEGER REFERENCES way(id)
) STRICT;
CREATE INDEX change_by_prefix ON change (prefix, run, time_us, id);
CREATE INDEX change_by_time ON change (time_us);
CREATE TABLE feed (
    source TEXT NOT NULL,
    name TEXT NOT NULL,
    prefixes INTEGER NOT NULL,
    peers INTEGER,
    stale INTEGER NOT NULL,
    detail TEXT NOT NULL,
    time_us INTEGER NOT NULL
) STRICT;
";

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("{file}: {message}")]
    Wrong { file: PathBuf, message: String },
    #[error("{file}: {source}")]
    Sql {
        file: PathBuf,
        source: rusqlite::Error,
    },
}

/// What the history knows about one address at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The prefix around the address was followed then.
    Known(Box<Known>),
    /// The daemon was recording then, but had seen no client of this address's prefix since
    /// `run_start_us`, or not for so long that it was not followed any more.
    NotFollowed { run_start_us: u64 },
    /// Nothing was recorded then: the daemon did not run, or could not write. The times are the
    /// end of what was recorded before and the beginning of what was recorded after.
    NotRecorded {
        before_us: Option<u64>,
        after_us: Option<u64>,
    },
}

/// The way of one prefix over a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The unit of counting: the client's /24 or /48, or a longer announced prefix.
    pub prefix: IpNet,
    /// `None`: no route was known.
    pub way: Option<WayRecord>,
    /// Since when it took this way, as far as was recorded without a gap.
    pub since_us: u64,
    /// The way it took before, where it changed at `since_us`; else it was first seen then.
    pub moved_from: Option<Option<WayRecord>>,
    /// When it took another way or was not followed any more; `None`: it still takes this one at
    /// `recorded_until_us`.
    pub until_us: Option<u64>,
    /// The end of what is recorded of this run.
    pub recorded_until_us: u64,
}

/// One source of routes: a router, or all files of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedState {
    pub source: Source,
    /// The router's name, or the files.
    pub name: String,
    /// Prefixes it tells; of routers, what all of them tell together.
    pub prefixes: u64,
    /// BGP neighbours; BMP only.
    pub peers: Option<u64>,
    pub is_stale: bool,
    pub detail: String,
}

/// The open file.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    connection: Connection,
    run: Option<i64>,
    ways: HashMap<String, i64>,
}

impl Store {
    /// Opens the file for writing; makes it where there is none.
    pub fn open(file: &Path) -> Result<Self, HistoryError> {
        let connection = Connection::open(file).map_err(sql(file))?;
        let store = Self {
            file: file.to_owned(),
            connection,
            run: None,
            ways: HashMap::new(),
        };
        store.make_tables().map_err(sql(file))?;
        store.check_layout()?;
        store.set_journal().map_err(sql(file))?;
        Ok(store)
    }

    /// Opens the file for reading, also while the daemon writes.
    pub fn open_to_read(file: &Path) -> Result<Self, HistoryError> {
        if !file.is_file() {
            return Err(HistoryError::Wrong {
                file: file.to_owned(),
                message: "no such file: the daemon writes it when path.history.file names it"
                    .to_owned(),
            });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags).map_err(sql(file))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(sql(file))?;
        let store = Self {
            file: file.to_owned(),
            connection,
            run: None,
            ways: HashMap::new(),
        };
        store.check_layout()?;
        Ok(store)
    }

    /// A new file gets its tables.
    fn make_tables(&self) -> rusqlite::Result<()> {
        let db = &self.connection;
        db.busy_timeout(BUSY_TIMEOUT)?;
        let tables: u32 =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables == 0 {
            db.execute_batch(&format!(
                "BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {LAYOUT}; {TABLES} COMMIT;"
            ))?;
        }
        Ok(())
    }

    /// WAL: readers and the writer do not wait for each other, and a commit costs no fsync; what a
    /// power cut takes away is the end of a run.
    fn set_journal(&self) -> rusqlite::Result<()> {
        let db = &self.connection;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        // References are written right by construction; checking them would search `change` for
        // every way that is forgotten.
        db.pragma_update(None, "foreign_keys", false)?;
        // A file that grew with one bad day does not keep a WAL of that size.
        db.pragma_update(None, "journal_size_limit", 16 << 20)
    }

    fn check_layout(&self) -> Result<(), HistoryError> {
        let number = |name| {
            self.connection
                .pragma_query_value(None, name, |row| row.get::<_, i32>(0))
                .map_err(sql(&self.file))
        };
        let wrong = |message: String| {
            Err(HistoryError::Wrong {
                file: self.file.clone(),
                message,
            })
        };
        if number("application_id")? != APPLICATION_ID {
            return wrong("is an SQLite file of something else: name another".to_owned());
        }
        match number("user_version")? {
            LAYOUT => Ok(()),
            other => wrong(format!(
                "has layout {other}, this lastmile knows {LAYOUT}: name another file"
            )),
        }
    }

    /// Begins a run: what follows is complete until the next one begins.
    pub fn begin(&mut self, host: &str, now_us: u64) -> Result<(), HistoryError> {
        self.connection
            .execute(
                "INSERT INTO run (host, start_us, last_us) VALUES (?1, ?2, ?2)",
                params![host, stored(now_us)],
            )
            .map_err(sql(&self.file))?;
        self.run = Some(self.connection.last_insert_rowid());
        Ok(())
    }
}

fn sql(file: &Path) -> impl Fn(rusqlite::Error) -> HistoryError + '_ {
    move |source| HistoryError::Sql {
        file: file.to_owned(),
        source,
    }
}

/// SQLite's integers are signed; µs reach their end in 292,000 years.
fn stored(time_us: u64) -> i64 {
    i64::try_from(time_us).unwrap_or(i64::MAX)
}

fn loaded(time_us: i64) -> u64 {
    u64::try_from(time_us).unwrap_or(0)
}
