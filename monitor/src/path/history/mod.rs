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

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use rusqlite::{Connection, OpenFlags, params};

use super::Source;
use crate::database::Database;
use crate::export::record::WayRecord;

/// "lasm".
const FILE: Database = Database {
    key: "path.history.file",
    application_id: 0x6c61_736d,
    layout: 1,
    tables: TABLES,
    otherwise: "name another file",
};

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
    ///
    /// # Errors
    /// When it cannot be read or written, or is another program's; they name it.
    pub fn open(file: &Path) -> Result<Self> {
        let connection = FILE.open(file, OpenFlags::default())?;
        let set = || {
            // References are written right by construction; checking them would search `change` for
            // every way that is forgotten.
            connection.pragma_update(None, "foreign_keys", false)?;
            // A file that grew with one bad day does not keep a WAL of that size.
            connection.pragma_update(None, "journal_size_limit", 16 << 20)
        };
        set().with_context(|| file.display().to_string())?;
        Ok(Self::new(file, connection))
    }

    /// Opens the file for reading, also while the daemon writes.
    ///
    /// # Errors
    /// As [`Self::open`], and when there is none.
    pub fn open_to_read(file: &Path) -> Result<Self> {
        if !file.is_file() {
            bail!(
                "{}: no such file: the daemon writes it when path.history.file names it",
                file.display()
            );
        }
        Ok(Self::new(file, FILE.open_to_read(file)?))
    }

    fn new(file: &Path, connection: Connection) -> Self {
        Self {
            file: file.to_owned(),
            connection,
            run: None,
            ways: HashMap::new(),
        }
    }

    /// Begins a run: what follows is complete until the next one begins.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&mut self, host: &str, now_us: u64) -> Result<()> {
        self.connection
            .execute(
                "INSERT INTO run (host, start_us, last_us) VALUES (?1, ?2, ?2)",
                params![host, stored(now_us)],
            )
            .with_context(|| self.named())?;
        self.run = Some(self.connection.last_insert_rowid());
        Ok(())
    }

    fn named(&self) -> String {
        self.file.display().to_string()
    }
}

/// SQLite's integers are signed; µs reach their end in 292,000 years.
fn stored(time_us: u64) -> i64 {
    i64::try_from(time_us).unwrap_or(i64::MAX)
}

fn loaded(time_us: i64) -> u64 {
    u64::try_from(time_us).unwrap_or(0)
}
