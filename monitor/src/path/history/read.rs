//! What is asked.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::Source;
use super::{Answer, FeedState, Known, Store, loaded, stored};
use crate::export::record::WayRecord;

impl Store {
    /// How the sources were at the daemon's last look, and when that was, µs since 1970.
    pub fn feeds(&self) -> Result<Vec<(FeedState, u64)>> {
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
        read().with_context(|| self.named())
    }

    /// What is known about `address` at `time_us`.
    pub fn at(&self, address: IpAddr, time_us: u64) -> Result<Answer> {
        self.find(address, time_us).with_context(|| self.named())
    }

    /// The end of what was recorded last; `None`: nothing ever was.
    pub fn recorded_until(&self) -> Result<Option<u64>> {
        self.connection
            .query_row("SELECT max(last_us) FROM run", [], |row| {
                row.get::<_, Option<i64>>(0)
            })
            .map(|last| last.map(loaded))
            .with_context(|| self.named())
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

/// Every prefix that an address can be in, the longest first.
fn prefixes_around(address: IpAddr) -> impl Iterator<Item = IpNet> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (0..=longest)
        .rev()
        .filter_map(move |length| IpNet::new(address, length).ok().map(|net| net.trunc()))
}
