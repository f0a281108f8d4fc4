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

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::followed::{Entry, News};
use super::{Route, Source};
use crate::export::record::WayRecord;

/// "lasm" in ASCII: SQLite's mark for whose file it is.
const APPLICATION_ID: i32 = 0x6c61_736d;
/// The layout below.
const LAYOUT: i32 = 1;
/// Another process that reads never holds a lock for long; one that writes is a mistake.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// Ways whose row is remembered, so that most changes need no look-up.
const MAX_WAYS_REMEMBERED: usize = 4_096;
/// Rows that one clean-up removes at once, so that it never holds the file for long.
const FORGET_AT_ONCE: u32 = 20_000;

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

    /// Writes entries in one transaction, and that all is known up to `now_us`.
    pub fn record(&mut self, entries: &[Entry], now_us: u64) -> Result<(), HistoryError> {
        let Some(run) = self.run else {
            return Ok(());
        };
        let (file, ways) = (&self.file, &mut self.ways);
        let written = (|| {
            let transaction = self.connection.transaction()?;
            for entry in entries {
                write(&transaction, ways, run, entry)?;
            }
            transaction
                .prepare_cached("UPDATE run SET last_us = max(last_us, ?2) WHERE id = ?1")?
                .execute(params![run, stored(now_us)])?;
            transaction.commit()
        })();
        if written.is_err() {
            // Rows that the rollback took away must not be referred to.
            ways.clear();
        }
        written.map_err(sql(file))
    }

    /// Writes how the sources are now, instead of what was written about them before.
    pub fn write_feeds(&mut self, feeds: &[FeedState], now_us: u64) -> Result<(), HistoryError> {
        let written = (|| {
            let transaction = self.connection.transaction()?;
            transaction.execute("DELETE FROM feed", [])?;
            for feed in feeds {
                transaction
                    .prepare_cached("INSERT INTO feed VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                    .execute(params![
                        feed.source.to_string(),
                        feed.name,
                        stored(feed.prefixes),
                        feed.peers.map(stored),
                        feed.is_stale,
                        feed.detail,
                        stored(now_us)
                    ])?;
            }
            transaction.commit()
        })();
        written.map_err(sql(&self.file))
    }

    /// How the sources were at the daemon's last look, and when that was, µs since 1970.
    pub fn feeds(&self) -> Result<Vec<(FeedState, u64)>, HistoryError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT source, name, prefixes, peers, stale, detail, time_us FROM feed",
            )?;
            let rows = statement.query_map([], |row| {
                let source: String = row.get(0)?;
                let feed = FeedState {
                    source: match source.as_str() {
                        "file" => Source::File,
                        "bmp" => Source::Bmp,
                        "mrt" => Source::Mrt,
                        _ => Source::Kernel,
                    },
                    name: row.get(1)?,
                    prefixes: loaded(row.get(2)?),
                    peers: row.get::<_, Option<i64>>(3)?.map(loaded),
                    is_stale: row.get(4)?,
                    detail: row.get(5)?,
                };
                Ok((feed, loaded(row.get(6)?)))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(sql(&self.file))
    }

    /// Forgets what was over before `cutoff_us`: each prefix keeps the way it took then. Returns
    /// how many changes were removed; call again while it is not 0.
    pub fn forget_before(&mut self, cutoff_us: u64) -> Result<usize, HistoryError> {
        let (cutoff, run) = (stored(cutoff_us), self.run);
        let db = &self.connection;
        let forget = || {
            // From here on nobody is answered from what is about to go.
            db.execute("UPDATE run SET start_us = ?1 WHERE start_us < ?1", [cutoff])?;
            // The oldest first: what is half removed is unknown, never older than it was.
            let removed = db.execute(
                "DELETE FROM change WHERE id IN (
                     SELECT old.id FROM change AS old JOIN run ON run.id = old.run
                     WHERE old.time_us < ?1 AND (
                         run.last_us < ?1
                         OR EXISTS (
                             SELECT 1 FROM change AS next
                             WHERE next.prefix = old.prefix AND next.run = old.run
                               AND next.id > old.id AND next.time_us <= ?1))
                     ORDER BY old.id LIMIT ?2)",
                params![cutoff, FORGET_AT_ONCE],
            )?;
            if removed == 0 {
                db.execute(
                    "DELETE FROM run WHERE last_us < ?1 AND id IS NOT ?2",
                    params![cutoff, run],
                )?;
                db.execute(
                    "DELETE FROM way WHERE id NOT IN (
                         SELECT way FROM change WHERE way IS NOT NULL
                         UNION SELECT former FROM change WHERE former IS NOT NULL)",
                    [],
                )?;
            }
            Ok(removed)
        };
        let removed = forget();
        self.ways.clear();
        removed.map_err(sql(&self.file))
    }

    /// What is known about `address` at `time_us`.
    pub fn at(&self, address: IpAddr, time_us: u64) -> Result<Answer, HistoryError> {
        self.find(address, time_us).map_err(sql(&self.file))
    }

    /// The end of what was recorded last; `None`: nothing ever was.
    pub fn recorded_until(&self) -> Result<Option<u64>, HistoryError> {
        self.connection
            .query_row("SELECT max(last_us) FROM run", [], |row| {
                row.get::<_, Option<i64>>(0)
            })
            .map(|last| last.map(loaded))
            .map_err(sql(&self.file))
    }

    fn find(&self, address: IpAddr, time_us: u64) -> rusqlite::Result<Answer> {
        let db = &self.connection;
        let time = stored(time_us);
        let run = db
            .prepare_cached(
                "SELECT id, start_us, last_us FROM run
                 WHERE start_us <= ?1 AND last_us >= ?1 ORDER BY id DESC LIMIT 1",
            )?
            .query_row([time], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((run, start, last)): Option<(i64, i64, i64)> = run else {
            let edge = |query: &str| {
                db.query_row(query, [time], |row| row.get::<_, Option<i64>>(0))
                    .map(|edge| edge.map(loaded))
            };
            return Ok(Answer::NotRecorded {
                before_us: edge("SELECT max(last_us) FROM run WHERE last_us < ?1")?,
                after_us: edge("SELECT min(start_us) FROM run WHERE start_us > ?1")?,
            });
        };
        for prefix in prefixes_around(address) {
            let Some(change) = latest(db, run, prefix, time)? else {
                continue;
            };
            if change.kind == "left" {
                continue;
            }
            let moved_from = match change.kind.as_str() {
                "moved" => Some(self.way(change.former)?),
                _ => None,
            };
            let until = db
                .prepare_cached(
                    "SELECT min(time_us) FROM change
                     WHERE prefix = ?1 AND run = ?2 AND time_us > ?3",
                )?
                .query_row(params![prefix.to_string(), run, time], |row| {
                    row.get::<_, Option<i64>>(0)
                })?;
            return Ok(Answer::Known(Box::new(Known {
                prefix,
                way: self.way(change.way)?,
                since_us: loaded(change.time),
                moved_from,
                until_us: until.map(loaded),
                recorded_until_us: loaded(last),
            })));
        }
        Ok(Answer::NotFollowed {
            run_start_us: loaded(start),
        })
    }

    fn way(&self, id: Option<i64>) -> rusqlite::Result<Option<WayRecord>> {
        let Some(id) = id else { return Ok(None) };
        let detail: String = self
            .connection
            .prepare_cached("SELECT detail FROM way WHERE id = ?1")?
            .query_row([id], |row| row.get(0))?;
        serde_json::from_str(&detail).map(Some).map_err(|error| {
            use rusqlite::types::Type::Text;
            rusqlite::Error::FromSqlConversionFailure(0, Text, error.into())
        })
    }
}

/// One row of `change`.
#[derive(Debug)]
struct Change {
    time: i64,
    kind: String,
    way: Option<i64>,
    former: Option<i64>,
}

fn latest(db: &Connection, run: i64, prefix: IpNet, time: i64) -> rusqlite::Result<Option<Change>> {
    db.prepare_cached(
        "SELECT time_us, kind, way, former FROM change
         WHERE prefix = ?1 AND run = ?2 AND time_us <= ?3
         ORDER BY time_us DESC, id DESC LIMIT 1",
    )?
    .query_row(params![prefix.to_string(), run, time], |row| {
        Ok(Change {
            time: row.get(0)?,
            kind: row.get(1)?,
            way: row.get(2)?,
            former: row.get(3)?,
        })
    })
    .optional()
}

fn write(
    transaction: &Transaction<'_>,
    ways: &mut HashMap<String, i64>,
    run: i64,
    entry: &Entry,
) -> rusqlite::Result<()> {
    let (kind, route, former) = match &entry.news {
        News::Seen(route) => ("seen", route.as_deref(), None),
        News::Moved { before, after } => ("moved", after.as_deref(), before.as_deref()),
        News::Left => ("left", None, None),
    };
    let way = way_row(transaction, ways, route)?;
    let former = way_row(transaction, ways, former)?;
    transaction
        .prepare_cached(
            "INSERT INTO change (run, time_us, prefix, kind, way, former)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            run,
            stored(entry.time_us),
            entry.unit.to_string(),
            kind,
            way,
            former
        ])?;
    Ok(())
}

/// The row of a way, made where there is none.
fn way_row(
    transaction: &Transaction<'_>,
    ways: &mut HashMap<String, i64>,
    route: Option<&Route>,
) -> rusqlite::Result<Option<i64>> {
    let Some(route) = route else { return Ok(None) };
    let record = WayRecord::from(route);
    let detail = serde_json::to_string(&record).expect("records have string keys");
    if let Some(&id) = ways.get(&detail) {
        return Ok(Some(id));
    }
    let id = transaction
        .prepare_cached(
            "INSERT INTO way (interconnect, isp, origin_asn, detail) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (detail) DO UPDATE SET detail = excluded.detail RETURNING id",
        )?
        .query_row(
            params![record.interconnect, record.isp, record.origin_asn, detail],
            |row| row.get(0),
        )?;
    if ways.len() >= MAX_WAYS_REMEMBERED {
        ways.clear();
    }
    ways.insert(detail, id);
    Ok(Some(id))
}

/// Every prefix that an address can be in, the longest first.
fn prefixes_around(address: IpAddr) -> impl Iterator<Item = IpNet> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (0..=longest)
        .rev()
        .filter_map(move |length| IpNet::new(address, length).ok().map(|net| net.trunc()))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::path::followed::tests::route;

    /// 2026-11-17 20:00 UTC, a Tuesday.
    const EIGHT: u64 = 1_794_945_600_000_000;
    const MINUTE: u64 = 60_000_000;

    struct File(PathBuf);

    impl File {
        fn new(name: &str) -> Self {
            let name = format!("lastmile-history-{name}-{}.sqlite", std::process::id());
            let file = Self(std::env::temp_dir().join(name));
            file.remove();
            file
        }

        fn remove(&self) {
            for end in ["", "-wal", "-shm"] {
                let mut name = self.0.clone().into_os_string();
                name.push(end);
                let _ = std::fs::remove_file(name);
            }
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            self.remove();
        }
    }

    fn entry(minute: u64, unit: &str, news: News) -> Entry {
        Entry {
            time_us: EIGHT + minute * MINUTE,
            unit: unit.parse().expect("a prefix"),
            news,
        }
    }

    fn way(prefix: &str, interconnect: &str) -> Option<Arc<Route>> {
        Some(Arc::new(route(prefix, interconnect)))
    }

    fn moved(prefix: &str, before: &str, after: &str) -> News {
        News::Moved {
            before: way(prefix, before),
            after: way(prefix, after),
        }
    }

    fn at(store: &Store, address: &str, minute: u64) -> Answer {
        let address = address.parse().expect("an address");
        store
            .at(address, EIGHT + minute * MINUTE)
            .expect("readable")
    }

    fn interconnect(answer: &Answer) -> &str {
        match answer {
            Answer::Known(known) => known.way.as_ref().map_or("none", |way| &way.interconnect),
            Answer::NotFollowed { .. } => "not followed",
            Answer::NotRecorded { .. } => "not recorded",
        }
    }

    /// Recorded from 20:00 to 20:30, and again, after a restart, from 21:00 to 21:30.
    fn tuesday(file: &File) -> Store {
        let mut store = Store::open(&file.0).expect("opens");
        store.begin("host", EIGHT).expect("written");
        let (x, y) = ("10.0.0.0/24", "2001:db8:7::/48");
        store
            .record(
                &[
                    entry(5, x, News::Seen(way(x, "ic-a"))),
                    entry(5, y, News::Seen(way("2001:db8::/32", "ic-a"))),
                    entry(20, x, moved(x, "ic-a", "ic-b")),
                ],
                EIGHT + 30 * MINUTE,
            )
            .expect("written");
        drop(store);
        let mut store = Store::open(&file.0).expect("opens again");
        store.begin("host", EIGHT + 60 * MINUTE).expect("written");
        store
            .record(
                &[entry(70, x, News::Seen(way(x, "ic-c")))],
                EIGHT + 90 * MINUTE,
            )
            .expect("written");
        store
    }

    #[test]
    fn which_interconnect_served_this_prefix_at_a_quarter_past_eight_on_tuesday() {
        let file = File::new("tuesday");
        tuesday(&file);
        let store = Store::open_to_read(&file.0).expect("opens");
        let answer = at(&store, "10.0.0.77", 15);
        assert_eq!(interconnect(&answer), "ic-a");
        let Answer::Known(known) = answer else {
            panic!("known")
        };
        assert_eq!(known.prefix.to_string(), "10.0.0.0/24");
        assert_eq!(known.since_us, EIGHT + 5 * MINUTE);
        assert_eq!(known.until_us, Some(EIGHT + 20 * MINUTE));
        assert_eq!(known.moved_from, None);

        let Answer::Known(later) = at(&store, "10.0.0.77", 25) else {
            panic!("known")
        };
        assert_eq!(later.way.expect("a way").interconnect, "ic-b");
        let before = later.moved_from.expect("it moved").expect("a way");
        assert_eq!(before.interconnect, "ic-a");
        assert_eq!(later.until_us, None);

        let six = at(&store, "2001:db8:7::99", 10);
        assert_eq!(interconnect(&six), "ic-a");
    }

    #[test]
    fn what_was_not_recorded_is_not_guessed() {
        let file = File::new("gap");
        let store = tuesday(&file);
        // Before it was seen, between the runs, in the new run before it was seen, after the end.
        assert_eq!(
            at(&store, "10.0.0.77", 3),
            Answer::NotFollowed {
                run_start_us: EIGHT
            }
        );
        assert_eq!(
            at(&store, "10.0.0.77", 45),
            Answer::NotRecorded {
                before_us: Some(EIGHT + 30 * MINUTE),
                after_us: Some(EIGHT + 60 * MINUTE),
            }
        );
        assert_eq!(
            at(&store, "10.0.0.77", 65),
            Answer::NotFollowed {
                run_start_us: EIGHT + 60 * MINUTE
            }
        );
        assert_eq!(interconnect(&at(&store, "10.0.0.77", 75)), "ic-c");
        assert_eq!(interconnect(&at(&store, "10.0.0.77", 95)), "not recorded");
        // A neighbour that nobody watched is another prefix.
        assert_eq!(interconnect(&at(&store, "10.0.1.77", 15)), "not followed");
    }

    #[test]
    fn a_longer_prefix_counts_while_it_is_followed() {
        let file = File::new("longer");
        let mut store = Store::open(&file.0).expect("opens");
        store.begin("host", EIGHT).expect("written");
        let (wide, narrow) = ("10.0.0.0/24", "10.0.0.64/26");
        let entries = [
            entry(1, wide, News::Seen(way(wide, "ic-a"))),
            entry(2, narrow, News::Seen(way(narrow, "ic-b"))),
            entry(3, narrow, News::Left),
            entry(
                4,
                wide,
                News::Moved {
                    before: way(wide, "ic-a"),
                    after: None,
                },
            ),
        ];
        store.record(&entries, EIGHT + 9 * MINUTE).expect("written");
        let seen = |minute| interconnect(&at(&store, "10.0.0.65", minute)).to_owned();
        assert_eq!(
            [seen(1), seen(2), seen(3), seen(4)],
            ["ic-a", "ic-b", "ic-a", "none"]
        );
        assert_eq!(interconnect(&at(&store, "10.0.0.1", 2)), "ic-a");
    }

    #[test]
    fn what_is_older_than_is_kept_goes_and_what_held_then_stays() {
        let file = File::new("retention");
        let mut store = tuesday(&file);
        let cutoff = EIGHT + 75 * MINUTE;
        let x = "10.0.0.0/24";
        store
            .record(
                &[entry(80, x, moved(x, "ic-c", "ic-d"))],
                EIGHT + 95 * MINUTE,
            )
            .expect("written");
        let mut removed = 0;
        loop {
            match store.forget_before(cutoff).expect("written") {
                0 => break,
                more => removed += more,
            }
        }
        assert_eq!(removed, 3, "the first run's changes");
        assert_eq!(interconnect(&at(&store, "10.0.0.77", 15)), "not recorded");
        assert_eq!(interconnect(&at(&store, "10.0.0.77", 72)), "not recorded");
        assert_eq!(interconnect(&at(&store, "10.0.0.77", 76)), "ic-c");
        assert_eq!(interconnect(&at(&store, "10.0.0.77", 82)), "ic-d");
        let rows = |table: &str| -> i64 {
            store
                .connection
                .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                    row.get(0)
                })
                .expect("counted")
        };
        assert_eq!((rows("run"), rows("change"), rows("way")), (1, 2, 2));
    }

    #[test]
    fn how_the_sources_are_is_what_was_written_last() {
        let file = File::new("feeds");
        let mut store = tuesday(&file);
        let feed = |source, name: &str, peers| FeedState {
            source,
            name: name.to_owned(),
            prefixes: 7,
            peers,
            is_stale: peers.is_some(),
            detail: "away".to_owned(),
        };
        let before = [
            feed(Source::File, "a.csv", None),
            feed(Source::Bmp, "r1", Some(3)),
        ];
        store.write_feeds(&before, EIGHT).expect("written");
        let read = Store::open_to_read(&file.0).expect("opens").feeds();
        assert_eq!(read.expect("read"), before.map(|feed| (feed, EIGHT)));
        store.write_feeds(&[], EIGHT + 1).expect("written");
        assert_eq!(store.feeds().expect("read"), []);
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_left_alone() {
        let file = File::new("foreign");
        let foreign = Connection::open(&file.0).expect("opens");
        foreign.execute_batch("CREATE TABLE t (x)").expect("made");
        drop(foreign);
        let said = Store::open(&file.0).expect_err("refused").to_string();
        assert!(
            said.ends_with("is an SQLite file of something else: name another"),
            "{said}"
        );
        std::fs::write(
            &file.0,
            "this is no database, but it is long enough to be one".repeat(99),
        )
        .expect("written");
        let said = Store::open(&file.0).expect_err("refused").to_string();
        assert!(said.contains("file is not a database"), "{said}");
        let said = Store::open_to_read(Path::new("/nonexistent/h")).expect_err("none");
        assert!(said.to_string().starts_with("/nonexistent/h: no such file"));
    }
}
