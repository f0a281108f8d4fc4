//! What is usual, kept in a file across restarts: it took days to learn.
//!
//! A thread of its own writes it, so that no disk holds up a measurement. What was learned since
//! the last writing is lost with a kill, and learned again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OpenFlags, params};

use crate::cell::CellKey;
use crate::config::Config;
use crate::database::Database;
use crate::engine::{Memories, judge};

/// Learned again after a kill: little, beside a baseline of days.
const SAVE_EVERY_S: u64 = 600;
/// "lmba".
const FILE: Database = Database {
    key: "restart.baselines",
    application_id: 0x6c6d_6261,
    layout: 1,
    tables: TABLES,
    otherwise: "remove it, and what is usual is learned anew",
};

const TABLES: &str = "\
    CREATE TABLE settings (window_s INTEGER NOT NULL, slot_windows INTEGER NOT NULL);
    CREATE TABLE baseline (cell TEXT PRIMARY KEY, last_window INTEGER NOT NULL, \
     memory TEXT NOT NULL) WITHOUT ROWID;";

type Learned = Vec<(CellKey, Memories)>;

/// The file.
struct Store {
    file: PathBuf,
    connection: Connection,
}

impl Store {
    /// Opens the file, or makes it.
    fn open(file: &Path) -> Result<Self> {
        Ok(Self {
            file: file.to_owned(),
            connection: FILE.open(file, OpenFlags::default())?,
        })
    }

    /// What is not too old in `window`; nothing where windows or slots had another length.
    fn load(&self, config: &Config, window: u64) -> rusqlite::Result<Learned> {
        let db = &self.connection;
        let (window_s, slot_windows) = settings(config);
        let same: bool = db.query_row(
            "SELECT count(*) = 1 FROM settings WHERE window_s = ?1 AND slot_windows = ?2",
            params![window_s, slot_windows],
            |row| row.get(0),
        )?;
        if !same {
            let rows = db.execute("DELETE FROM baseline", [])?;
            db.execute("DELETE FROM settings", [])?;
            db.execute(
                "INSERT INTO settings VALUES (?1, ?2)",
                params![window_s, slot_windows],
            )?;
            if rows > 0 {
                tracing::warn!(
                    "windows or slots have another length than those of {}: what is usual is \
                     learned anew",
                    self.file.display()
                );
            }
            return Ok(Vec::new());
        }
        let oldest = window.saturating_sub(judge::span(&config.baseline));
        let mut query = db.prepare("SELECT cell, memory FROM baseline WHERE last_window >= ?1")?;
        let rows = query.query_map([oldest as i64], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let mut learned = Vec::new();
        let mut unread = 0;
        for row in rows {
            let (cell, memory) = row?;
            match (serde_json::from_str(&cell), serde_json::from_str(&memory)) {
                (Ok(cell), Ok(memory)) => learned.push((cell, memory)),
                _ => unread += 1,
            }
        }
        if unread > 0 {
            tracing::warn!(
                "{}: {unread} baselines cannot be read and are learned anew",
                self.file.display()
            );
        }
        Ok(learned)
    }

    /// Writes these, all or none, and removes what is older than `oldest`.
    fn save(&mut self, learned: &Learned, oldest: u64) -> Result<()> {
        let write = self.connection.transaction()?;
        {
            let mut insert =
                write.prepare_cached("INSERT OR REPLACE INTO baseline VALUES (?1, ?2, ?3)")?;
            for (cell, memories) in learned {
                insert.execute(params![
                    serde_json::to_string(cell)?,
                    memories.last_window() as i64,
                    serde_json::to_string(memories)?
                ])?;
            }
            write.execute(
                "DELETE FROM baseline WHERE last_window < ?1",
                [oldest as i64],
            )?;
        }
        Ok(write.commit()?)
    }
}

fn settings(config: &Config) -> (i64, i64) {
    let (window, baseline) = (&config.window, &config.baseline);
    (window.length_s.into(), baseline.slot_windows.into())
}

/// What the thread writes.
struct Batch {
    learned: Learned,
    oldest: u64,
}

/// The thread that writes, seen from the daemon.
pub struct Baselines {
    /// `None` once it has ended.
    to: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<()>>,
    failures: Arc<AtomicU64>,
    /// What was of use since this window is not in the file yet.
    since: u64,
    saved_us: u64,
}

impl Baselines {
    /// Opens the file and reads what it has.
    ///
    /// # Errors
    /// When it cannot be read or written, or is another program's.
    pub fn start(file: &Path, config: &Config, now_us: u64) -> Result<(Self, Learned)> {
        let mut store = Store::open(file)?;
        let window = window(config, now_us);
        let learned = store
            .load(config, window)
            .with_context(|| format!("restart.baselines: {}", file.display()))?;
        tracing::info!(
            "what is usual for {} cells is known from earlier runs",
            learned.len()
        );
        let failures = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&failures);
        let (to, from) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("baselines".to_owned())
            .spawn(move || write(&mut store, &from, &counted))
            .context("cannot start a thread")?;
        let baselines = Self {
            to: Some(to),
            thread: Some(thread),
            failures,
            since: window,
            saved_us: now_us,
        };
        Ok((baselines, learned))
    }

    /// At the end of a window: has what is new written, when it is time.
    pub fn note(&mut self, config: &Config, now_us: u64, learned: impl FnOnce(u64) -> Learned) {
        if now_us.abs_diff(self.saved_us) >= SAVE_EVERY_S * 1_000_000 {
            self.save(config, now_us, learned);
        }
    }

    fn save(&mut self, config: &Config, now_us: u64, learned: impl FnOnce(u64) -> Learned) {
        let Some(to) = &self.to else {
            return;
        };
        let now = window(config, now_us);
        let batch = Batch {
            learned: learned(self.since),
            oldest: now.saturating_sub(judge::span(&config.baseline)),
        };
        match to.try_send(batch) {
            Ok(()) => {
                self.saved_us = now_us;
                // This window may still learn.
                self.since = now;
            }
            // A disk that takes nothing: what is new waits in our own memory.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Writings that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Writes what is new, and waits until it is written.
    pub fn stop(&mut self, config: &Config, now_us: u64, learned: impl FnOnce(u64) -> Learned) {
        self.save(config, now_us, learned);
        self.to = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes baselines has failed");
        }
    }
}

fn window(config: &Config, now_us: u64) -> u64 {
    now_us / (u64::from(config.window.length_s) * 1_000_000).max(1)
}

fn write(store: &mut Store, from: &Receiver<Batch>, failures: &AtomicU64) {
    for Batch { learned, oldest } in from {
        if let Err(error) = store.save(&learned, oldest) {
            failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!("{}: {error:#}", store.file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(prefix: &str) -> CellKey {
        CellKey {
            interconnect: "ic-a".into(),
            isp: "Northnet".into(),
            origin_asn: 64_501,
            prefix: prefix.parse().expect("a prefix"),
            direct: true,
        }
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }

    #[test]
    fn what_was_learned_is_there_after_a_restart_and_with_other_windows_it_is_not() {
        let folder = folder("baselines");
        let file = folder.join("baselines.sqlite");
        let config = Config::default();
        let now_us = 1_763_700_000_000_000;
        let memories = Memories::example(window(&config, now_us));
        let (mut first, none) = Baselines::start(&file, &config, now_us).expect("opens");
        assert!(none.is_empty());
        let learned = vec![(cell("192.0.2.0/24"), memories.clone())];
        first.stop(&config, now_us, |_| learned.clone());
        assert_eq!(first.failures(), 0);

        let (mut second, known) = Baselines::start(&file, &config, now_us).expect("opens");
        assert_eq!(known, learned);
        second.stop(&config, now_us, |_| Vec::new());

        // After the span nothing of it is usual any more.
        let span_us = judge::span(&config.baseline) * 60 * 1_000_000;
        let later = now_us + span_us + 120_000_000;
        let (mut third, known) = Baselines::start(&file, &config, later).expect("opens");
        assert!(known.is_empty());
        third.stop(&config, now_us, |_| Vec::new());

        let mut other = Config::default();
        other.window.length_s = 5;
        let (mut fourth, known) = Baselines::start(&file, &other, now_us).expect("opens");
        assert!(known.is_empty(), "windows have other numbers");
        fourth.stop(&other, now_us, |_| Vec::new());
        let (mut fifth, known) = Baselines::start(&file, &config, now_us).expect("opens");
        assert!(known.is_empty(), "and they are gone");
        fifth.stop(&config, now_us, |_| Vec::new());
        std::fs::remove_dir_all(folder).expect("ours");
    }

    #[test]
    fn another_programs_file_is_refused() {
        let folder = folder("not-baselines");
        let file = folder.join("other.sqlite");
        let other = Connection::open(&file).expect("opens");
        other.execute_batch("CREATE TABLE t (a)").expect("made");
        let error = Baselines::start(&file, &Config::default(), 0).err();
        assert!(error.is_some_and(|error| error.to_string().contains("another program")));
        std::fs::remove_dir_all(folder).expect("ours");
    }
}
