//! What the daemon writes.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use rusqlite::{Transaction, params};

use super::super::Route;
use super::super::followed::{Entry, News};
use super::{FeedState, Store, stored};
use crate::export::record::WayRecord;

/// Ways whose row is remembered, so that most changes need no look-up.
const MAX_WAYS_REMEMBERED: usize = 4_096;
/// Rows that one clean-up removes at once, so that it never holds the file for long.
const FORGET_AT_ONCE: u32 = 20_000;

impl Store {
    /// Writes entries in one transaction, and that all is known up to `now_us`.
    pub fn record(&mut self, entries: &[Entry], now_us: u64) -> Result<()> {
        let Some(run) = self.run else {
            return Ok(());
        };
        let ways = &mut self.ways;
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
        written.with_context(|| self.named())
    }

    /// Writes how the sources are now, instead of what was written about them before.
    pub fn write_feeds(&mut self, feeds: &[FeedState], now_us: u64) -> Result<()> {
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
        written.with_context(|| self.named())
    }

    /// Forgets what was over before `cutoff_us`: each prefix keeps the way it took then. Returns
    /// how many changes were removed; call again while it is not 0.
    pub fn forget_before(&mut self, cutoff_us: u64) -> Result<usize> {
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
            Ok::<_, rusqlite::Error>(removed)
        };
        let removed = forget();
        self.ways.clear();
        removed.with_context(|| self.named())
    }
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
