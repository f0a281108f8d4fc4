//! Writes the history on a thread of its own, so that no disk holds up a measurement.
//!
//! What cannot be written ends the run in the file: a gap that is known is better than a history
//! with holes that nobody sees. Once writing works again a new run begins with everything that is
//! followed then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};

use crate::path::followed::Entry;
use crate::path::history::{FeedState, Store};

/// Batches that wait for the disk: one a second, so about four minutes.
const MAX_BATCHES: usize = 256;
/// Entries that wait for the disk, at about 50 bytes each: everything that may be followed, twice.
const MAX_ENTRIES: u64 = 2 * crate::path::followed::MAX_FOLLOWED as u64;
/// What is too old is looked for this often.
const FORGET_EVERY_US: u64 = 3_600 * 1_000_000;
/// After a failure the file is left alone for this long.
const TRY_AGAIN_AFTER_US: u64 = 10_000_000;
const DAY_US: u64 = 86_400 * 1_000_000;

/// What the thread is told.
enum Message {
    /// A new run, with everything that is followed.
    Begin { entries: Vec<Entry>, now_us: u64 },
    /// What happened since, and that this is all up to `now_us`.
    Batch { entries: Vec<Entry>, now_us: u64 },
    /// How the sources are.
    Feeds { feeds: Vec<FeedState>, now_us: u64 },
    /// Answered when all before it is done.
    #[cfg(test)]
    Barrier(std::sync::mpsc::Sender<()>),
}

impl Message {
    fn entries(&self) -> u64 {
        match self {
            Self::Begin { entries, .. } | Self::Batch { entries, .. } => entries.len() as u64,
            Self::Feeds { .. } => 0,
            #[cfg(test)]
            Self::Barrier(_) => 0,
        }
    }
}

/// What the thread says.
#[derive(Debug, Default)]
struct Shared {
    /// The run in the file is over; a new one must begin.
    broken: AtomicBool,
    waiting: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
    failures: AtomicU64,
}

/// The history's writer.
#[derive(Debug)]
pub struct Recorder {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    try_again_us: u64,
    last_us: u64,
}

/// Counters of the history, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    pub written: u64,
    /// Entries that were dropped because the disk was full or too slow.
    pub lost: u64,
    pub failures: u64,
}

impl Recorder {
    /// Begins a run in `store`, of which changes older than `days` are forgotten.
    pub fn start(mut store: Store, host: &str, days: u32, now_us: u64) -> Result<Self> {
        store.begin(host, now_us)?;
        let shared = Arc::new(Shared::default());
        let (queue, messages) = sync_channel(MAX_BATCHES);
        let writer = Writer {
            store,
            host: host.to_owned(),
            days,
            shared: Arc::clone(&shared),
            forgotten_us: 0,
        };
        let thread = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writer.run(&messages))
            .context("cannot start the thread that writes the history")?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            shared,
            try_again_us: 0,
            last_us: now_us,
        })
    }

    /// Takes what happened up to `now_us`. Where a gap has to be ended, `everything` is asked.
    /// Never waits.
    pub fn record(
        &mut self,
        entries: Vec<Entry>,
        now_us: u64,
        everything: impl FnOnce() -> Vec<Entry>,
    ) {
        // The clock was set back: times of one run never decrease.
        if now_us < self.last_us {
            self.shared.broken.store(true, Ordering::Relaxed);
        }
        self.last_us = now_us;
        if !self.shared.broken.load(Ordering::Relaxed) {
            return self.send(Message::Batch { entries, now_us });
        }
        self.lose(entries.len() as u64);
        if now_us < self.try_again_us && self.try_again_us - now_us <= TRY_AGAIN_AFTER_US {
            return;
        }
        self.try_again_us = now_us + TRY_AGAIN_AFTER_US;
        self.shared.broken.store(false, Ordering::Relaxed);
        self.send(Message::Begin {
            entries: everything(),
            now_us,
        });
    }

    /// Takes how the sources are now, for whoever asks without the daemon.
    pub fn feeds(&self, feeds: Vec<FeedState>, now_us: u64) {
        if !self.shared.broken.load(Ordering::Relaxed) {
            self.send(Message::Feeds { feeds, now_us });
        }
    }

    pub fn recorded(&self) -> Recorded {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Recorded {
            written: count(&self.shared.written),
            lost: count(&self.shared.lost),
            failures: count(&self.shared.failures),
        }
    }

    fn send(&self, message: Message) {
        let entries = message.entries();
        let waiting = self.shared.waiting.fetch_add(entries, Ordering::Relaxed);
        let queue = self
            .queue
            .as_ref()
            .filter(|_| waiting + entries <= MAX_ENTRIES);
        let sent = match queue.map(|queue| queue.try_send(message)) {
            Some(Ok(())) => true,
            None | Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) => false,
        };
        if !sent {
            self.shared.waiting.fetch_sub(entries, Ordering::Relaxed);
            self.lose(entries);
            if !self.shared.broken.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    "the history's disk is too slow: there will be a gap in it, until it has caught up"
                );
            }
        }
    }

    fn lose(&self, entries: u64) {
        self.shared.lost.fetch_add(entries, Ordering::Relaxed);
    }

    /// Writes what waits, and ends.
    pub fn stop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the history failed");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread's side.
struct Writer {
    store: Store,
    host: String,
    days: u32,
    shared: Arc<Shared>,
    forgotten_us: u64,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut failing = false;
        for message in messages {
            #[cfg(test)]
            if let Message::Barrier(done) = &message {
                let _ = done.send(());
                continue;
            }
            let entries = message.entries();
            self.shared.waiting.fetch_sub(entries, Ordering::Relaxed);
            let begins = matches!(message, Message::Begin { .. });
            if failing && !begins {
                self.shared.lost.fetch_add(entries, Ordering::Relaxed);
                continue;
            }
            match self.write(&message) {
                Ok(()) => {
                    self.shared.written.fetch_add(entries, Ordering::Relaxed);
                    if std::mem::take(&mut failing) {
                        tracing::info!("the history is written again");
                    }
                }
                Err(error) => {
                    self.shared.lost.fetch_add(entries, Ordering::Relaxed);
                    self.shared.failures.fetch_add(1, Ordering::Relaxed);
                    self.shared.broken.store(true, Ordering::Relaxed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(
                            "{error:#}: there is a gap in the history, until this works"
                        );
                    }
                }
            }
        }
    }

    fn write(&mut self, message: &Message) -> Result<()> {
        let (entries, now_us) = match message {
            Message::Begin { entries, now_us } => {
                self.store.begin(&self.host, *now_us)?;
                (entries, *now_us)
            }
            Message::Batch { entries, now_us } => (entries, *now_us),
            Message::Feeds { feeds, now_us } => return self.store.write_feeds(feeds, *now_us),
            #[cfg(test)]
            Message::Barrier(_) => return Ok(()),
        };
        self.store.record(entries, now_us)?;
        if now_us.saturating_sub(self.forgotten_us) >= FORGET_EVERY_US {
            let cutoff_us = now_us.saturating_sub(u64::from(self.days) * DAY_US);
            // The rest waits for the next batch.
            if self.store.forget_before(cutoff_us)? == 0 {
                self.forgotten_us = now_us;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::path::followed::News;
    use crate::path::followed::tests::route;
    use crate::path::history::Answer;

    const T: u64 = 1_800_000_000_000_000;
    const S: u64 = 1_000_000;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a temporary folder");
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("history.sqlite")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn seen(time_us: u64, interconnect: &str) -> Entry {
        let unit = "10.0.0.0/24";
        Entry {
            time_us,
            unit: unit.parse().expect("a prefix"),
            news: News::Seen(Some(Arc::new(route(unit, interconnect)))),
        }
    }

    fn at(folder: &Folder, time_us: u64) -> String {
        let store = Store::open_to_read(&folder.file()).expect("opens");
        let address = "10.0.0.7".parse().expect("an address");
        match store.at(address, time_us).expect("read") {
            Answer::Known(known) => known.way.expect("a way").interconnect,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_was_told_is_in_the_file_when_it_stops() {
        let folder = Folder::new("recorder");
        let store = Store::open(&folder.file()).expect("opens");
        let mut recorder = Recorder::start(store, "host", 35, T).expect("starts");
        recorder.record(vec![seen(T + S, "ic-a")], T + S, Vec::new);
        recorder.record(Vec::new(), T + 9 * S, Vec::new);
        recorder.stop();
        assert_eq!(recorder.recorded().written, 1);
        assert_eq!(at(&folder, T + 5 * S), "ic-a");
        assert!(at(&folder, T + 10 * S).starts_with("NotRecorded"));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_a_gap_and_then_a_new_run() {
        let folder = Folder::new("recorder-gap");
        let store = Store::open(&folder.file()).expect("opens");
        let blocker = rusqlite::Connection::open(folder.file()).expect("opens");
        let mut recorder = Recorder::start(store, "host", 35, T).expect("starts");
        recorder.record(vec![seen(T + S, "ic-a")], T + 2 * S, Vec::new);
        recorder.await_idle();
        // Somebody else holds the file: every write fails, as with a full disk.
        blocker
            .execute_batch("BEGIN EXCLUSIVE")
            .expect("the writer is idle");
        recorder.record(vec![seen(T + 3 * S, "ic-b")], T + 3 * S, Vec::new);
        recorder.await_idle();
        assert_eq!(
            recorder.recorded(),
            Recorded {
                written: 1,
                lost: 1,
                failures: 1
            }
        );
        blocker.execute_batch("ROLLBACK").expect("let go");
        let everything = || vec![seen(T + 20 * S, "ic-c")];
        recorder.record(Vec::new(), T + 20 * S, everything);
        recorder.record(Vec::new(), T + 30 * S, Vec::new);
        recorder.stop();
        assert_eq!(at(&folder, T + S), "ic-a");
        let gap = at(&folder, T + 10 * S);
        assert!(gap.starts_with("NotRecorded"), "{gap}");
        assert_eq!(at(&folder, T + 25 * S), "ic-c");
    }

    /// Gives this thread, and those it starts, a file system of this size at the folder.
    fn mount_small(folder: &Folder, kib: u32) {
        let path = std::ffi::CString::new(folder.0.to_str().expect("text")).expect("no NUL");
        let size = std::ffi::CString::new(format!("size={kib}k")).expect("no NUL");
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let none = std::ptr::null();
        // SAFETY: every pointer is to a string that ends with NUL and lives, or null where the
        // kernel ignores it.
        let failed = unsafe {
            libc::unshare(libc::CLONE_NEWNS) != 0
                || libc::mount(none, c"/".as_ptr(), none, private, none.cast()) != 0
                || libc::mount(
                    c"none".as_ptr(),
                    path.as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    size.as_ptr().cast(),
                ) != 0
        };
        assert!(!failed, "{}", std::io::Error::last_os_error());
    }

    #[test]
    fn a_full_disk_is_a_gap_until_there_is_room_again() {
        // SAFETY: no arguments, no failure.
        if unsafe { libc::geteuid() } != 0 {
            println!("SKIPPED: a small file system needs root; `cargo xtask test` runs it as root");
            return;
        }
        // The mount is the thread's own.
        let tested = std::thread::spawn(|| {
            let folder = Folder::new("recorder-full");
            mount_small(&folder, 400);
            let store = Store::open(&folder.file()).expect("opens");
            let mut recorder = Recorder::start(store, "host", 35, T).expect("starts");
            recorder.record(vec![seen(T + S, "ic-a")], T + 2 * S, Vec::new);
            recorder.await_idle();

            let filler = folder.0.join("filler");
            let mut file = std::fs::File::create(&filler).expect("room for a name");
            let full = loop {
                if let Err(error) = std::io::Write::write_all(&mut file, &[0; 1_024]) {
                    break error;
                }
            };
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
            // More than any page that is left.
            let many = |from_us: u64, name: &str| -> Vec<Entry> {
                let entry = |at| seen(from_us + at, &format!("{name}-{at}"));
                (0..200).map(entry).collect()
            };
            recorder.record(many(T + 3 * S, "lost"), T + 4 * S, Vec::new);
            recorder.await_idle();
            let recorded = recorder.recorded();
            assert_eq!(
                (recorded.written, recorded.lost, recorded.failures),
                (1, 200, 1)
            );
            // What was there can be asked on the full disk too.
            assert_eq!(at(&folder, T + 2 * S), "ic-a");

            drop(file);
            std::fs::remove_file(&filler).expect("it is there");
            recorder.record(Vec::new(), T + 20 * S, || vec![seen(T + 20 * S, "ic-c")]);
            recorder.record(Vec::new(), T + 30 * S, Vec::new);
            recorder.stop();
            assert_eq!(at(&folder, T + S), "ic-a");
            let gap = at(&folder, T + 10 * S);
            assert!(gap.starts_with("NotRecorded"), "{gap}");
            assert_eq!(at(&folder, T + 25 * S), "ic-c");
        });
        if let Err(panic) = tested.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn a_clock_that_was_set_back_begins_a_new_run() {
        let folder = Folder::new("recorder-clock");
        let store = Store::open(&folder.file()).expect("opens");
        let mut recorder = Recorder::start(store, "host", 35, T).expect("starts");
        recorder.record(vec![seen(T + 50 * S, "ic-a")], T + 60 * S, Vec::new);
        recorder.record(Vec::new(), T + 20 * S, || vec![seen(T + 20 * S, "ic-b")]);
        recorder.record(Vec::new(), T + 30 * S, Vec::new);
        recorder.stop();
        assert_eq!(at(&folder, T + 25 * S), "ic-b");
        assert_eq!(at(&folder, T + 55 * S), "ic-a");
    }

    impl Recorder {
        fn await_idle(&self) {
            let (done, barrier) = std::sync::mpsc::channel();
            let queue = self.queue.as_ref().expect("it runs");
            queue.send(Message::Barrier(done)).expect("it runs");
            barrier.recv().expect("it answers");
        }
    }
}
