//! Keeps what verdicts were made of, on a thread of its own, so that no disk holds up a
//! measurement. What cannot be kept is counted; the verdicts themselves are in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};

use crate::config::Evidence;
use crate::evidence::Unkept;
use crate::evidence::store::Store;

/// Windows that wait for the disk: each may have megabytes.
const MAX_WAITING: usize = 8;
/// What is too old is looked for this often; what is too much, with every window.
const FORGET_EVERY_US: u64 = 3_600 * 1_000_000;
const DAY_US: u64 = 86_400 * 1_000_000;

/// Counters, since the start.
#[derive(Debug, Default)]
struct Shared {
    kept: AtomicU64,
    lost: AtomicU64,
    failures: AtomicU64,
}

/// Of verdicts that were to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub kept: u64,
    /// Not kept, because the disk was full or too slow.
    pub lost: u64,
    pub failures: u64,
}

/// The thread, seen from the daemon.
#[derive(Debug)]
pub struct Keeper {
    queue: Option<SyncSender<Unkept>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Keeper {
    /// Starts the thread that writes to `store`.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(store: Store, settings: &Evidence) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (queue, windows) = sync_channel(MAX_WAITING);
        let writer = Writer {
            store,
            days: settings.days,
            max_bytes: u64::from(settings.max_mb) << 20,
            shared: Arc::clone(&shared),
            forgotten_us: 0,
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("evidence".to_owned())
            .spawn(move || writer.run(&windows))
            .context("cannot start the thread that keeps what verdicts were made of")?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            shared,
        })
    }

    /// Takes a window. Never waits.
    pub fn keep(&self, window: Unkept) {
        let verdicts = window.verdicts.len() as u64;
        let queue = self.queue.as_ref();
        let sent = queue.is_some_and(|queue| queue.try_send(window).is_ok());
        if !sent {
            self.shared.lost.fetch_add(verdicts, Ordering::Relaxed);
        }
    }

    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            kept: count(&self.shared.kept),
            lost: count(&self.shared.lost),
            failures: count(&self.shared.failures),
        }
    }

    /// Writes what waits, and ends.
    pub fn stop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps what verdicts were made of has failed");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread's side.
struct Writer {
    store: Store,
    days: u32,
    max_bytes: u64,
    shared: Arc<Shared>,
    forgotten_us: u64,
    failing: bool,
}

impl Writer {
    fn run(mut self, windows: &Receiver<Unkept>) {
        for window in windows {
            let verdicts = window.verdicts.len() as u64;
            let kept = self.store.keep(&window);
            let counter = match &kept {
                Ok(()) => &self.shared.kept,
                Err(_) => &self.shared.lost,
            };
            counter.fetch_add(verdicts, Ordering::Relaxed);
            // A full disk is when there must be less in the file.
            let forgotten = self.forget(window.kept.time_us);
            match kept.and(forgotten) {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("what verdicts are made of is kept again");
                    }
                }
                Err(error) => {
                    self.shared.failures.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut self.failing, true) {
                        let file = self.store.file().display();
                        tracing::error!(
                            "{file}: {error:#}: what verdicts are made of is not kept, until this \
                             works; the log has them all the same"
                        );
                    }
                }
            }
        }
    }

    fn forget(&mut self, now_us: u64) -> Result<()> {
        let is_time = now_us.abs_diff(self.forgotten_us) >= FORGET_EVERY_US;
        if !is_time && !self.failing && self.store.bytes()? <= self.max_bytes {
            return Ok(());
        }
        let cutoff_us = now_us.saturating_sub(u64::from(self.days) * DAY_US);
        while self.store.forget(cutoff_us, self.max_bytes)? > 0 {}
        self.forgotten_us = now_us;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tests::{Folder, trouble};

    fn settings() -> Evidence {
        Evidence {
            days: 35,
            max_mb: 64,
            ..Evidence::default()
        }
    }

    #[test]
    fn windows_are_kept_and_counted_and_what_is_older_than_35_days_is_forgotten() {
        let folder = Folder::new("keeper");
        let (windows, _) = trouble();
        let mut keeper = Keeper::start(Store::open(&folder.file()).expect("opens"), &settings())
            .expect("starts");
        let mut old = windows[0].clone();
        old.kept.span.start_us -= 36 * DAY_US;
        old.verdicts[0].id = "old".to_owned();
        keeper.keep(old);
        keeper.keep(windows[0].clone());
        keeper.stop();
        let counts = Counts {
            kept: 2,
            lost: 0,
            failures: 0,
        };
        assert_eq!(keeper.counts(), counts);
        let store = Store::open(&folder.file()).expect("opens");
        assert!(store.find("old").expect("readable").is_none());
        let id = &windows[0].verdicts[0].id;
        assert!(store.find(id).expect("readable").is_some());
    }

    #[test]
    fn a_disk_that_takes_nothing_is_counted_and_stops_nobody() {
        let folder = Folder::new("keeper-full");
        let (windows, _) = trouble();
        let store = Store::open(&folder.file()).expect("opens");
        // As a full disk answers (SQLITE_FULL): no page more than there is.
        store.allow_no_more_pages();
        let mut keeper = Keeper::start(store, &settings()).expect("starts");
        let large = windows.last().expect("the ISP's trouble");
        const MANY: u64 = 3 * MAX_WAITING as u64;
        for _ in 0..MANY {
            // The queue is shorter than this, and what does not fit is lost as well.
            keeper.keep(large.clone());
        }
        keeper.stop();
        let verdicts = MANY * large.verdicts.len() as u64;
        let counts = keeper.counts();
        assert_eq!((counts.kept, counts.lost), (0, verdicts));
        assert!(counts.failures > 0);
    }
}
