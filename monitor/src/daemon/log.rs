//! The log, written on a thread of its own: a destination that takes nothing, such as a stopped
//! journald, a stuck disk or a reader that sleeps, holds up its writer and nobody else.

use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::Notify;

use crate::config::Destination;
use crate::export::Record;
use crate::export::jsonl::{JsonLines, OpenError, WriteError};

/// Bytes that may wait while the destination takes none; what comes after that is dropped, whole
/// lines, and counted. What comes at once is taken whole, however much it is: a window of many
/// flows is no destination that refuses.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// What the end waits for a destination that takes nothing. systemd kills after 90 s.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(5);

/// A thread that writes for so long is held up by its destination.
const PATIENCE_WITH_A_WRITE: Duration = Duration::from_secs(2);

/// The log's thread, seen from the daemon.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is work, or it is done.
    changed: Condvar,
    /// Nobody reads standard output any more.
    closed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines that the thread has not taken yet.
    waiting: Vec<u8>,
    reopen: bool,
    /// Where it goes from now on.
    redirect: Option<JsonLines>,
    /// Since when the thread writes.
    writes_since: Option<Instant>,
    /// How often another thread took the place of one that was held up ...
    replacements: u64,
    /// ... and how many of those have not come back yet.
    away: u64,
    end: bool,
    /// The thread has written all it was given, as far as that was possible.
    idle: bool,
    /// Nobody reads standard output any more.
    closed: bool,
    dropped_lines: u64,
    failed_writes: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in the state is ever half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Opens the destination and starts the thread.
    ///
    /// # Errors
    /// When the destination cannot be opened.
    pub fn open(destination: &Destination) -> Result<Self> {
        let lines = JsonLines::open(destination)?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        start(move || run(&theirs, lines, 0)).context("cannot start the log's thread")?;
        Ok(Self { shared })
    }

    /// Hands records over; never waits.
    ///
    /// # Errors
    /// When nobody reads standard output any more. Everything else is said by the thread, and
    /// what it could not write is kept and tried again.
    pub fn write(&self, records: &[Record]) -> Result<(), WriteError> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(WriteError::Closed);
        }
        self.replace_if_held_up(&mut state);
        if state.waiting.len() >= MAX_WAITING_BYTES {
            state.dropped_lines += records.len() as u64;
            return Ok(());
        }
        for record in records {
            record.write_line(&mut state.waiting);
        }
        // Else whoever waits for the end would not wait for these.
        state.idle = false;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// A thread that its destination holds up cannot be told of another one: there another thread
    /// takes its place, and it brings what it could not write when it comes back.
    fn replace_if_held_up(&self, state: &mut State) {
        let held_up = state
            .writes_since
            .is_some_and(|since| since.elapsed() >= PATIENCE_WITH_A_WRITE);
        if !held_up || state.redirect.is_none() {
            return;
        }
        // It takes the redirect itself, as soon as this lets go of the state.
        let (theirs, number) = (Arc::clone(&self.shared), state.replacements + 1);
        let started = start(move || {
            let to = theirs.lock().redirect.take();
            if let Some(to) = to {
                run(&theirs, to, number);
            }
        });
        match started {
            Ok(()) => {
                state.replacements = number;
                state.away += 1;
                state.writes_since = None;
                tracing::warn!(
                    "the log goes elsewhere from now on; its old destination holds up what was \
                     being written"
                );
            }
            // It is tried again with the next records.
            Err(error) => tracing::error!("cannot start a thread for the log: {error}"),
        }
    }

    /// Notified once nobody reads standard output any more.
    pub fn closed(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.closed)
    }

    /// Has the file opened again under its name, after logrotate has moved it away.
    pub fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.changed.notify_all();
    }

    /// From now on it goes there, with all that waits.
    pub fn redirect(&self, to: JsonLines) {
        let mut state = self.shared.lock();
        // It was opened just now.
        (state.redirect, state.reopen) = (Some(to), false);
        self.replace_if_held_up(&mut state);
        self.shared.changed.notify_all();
    }

    /// Lines that were dropped because too much was waiting, and writes that failed, since the
    /// start.
    pub fn losses(&self) -> (u64, u64) {
        let state = self.shared.lock();
        (state.dropped_lines, state.failed_writes)
    }

    /// Waits until everything is written, as long as a destination that works would take.
    pub fn finish(&self) {
        let mut state = self.shared.lock();
        state.end = true;
        self.shared.changed.notify_all();
        let (state, wait) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE_AT_THE_END, |state| {
                !state.idle || state.away > 0
            })
            .unwrap_or_else(PoisonError::into_inner);
        if wait.timed_out() {
            tracing::error!(
                "the log's destination takes nothing: at least {} bytes are lost",
                state.waiting.len()
            );
        }
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name("log".to_owned());
    thread.spawn(work).map(drop)
}

/// The thread: takes what waits, writes it, says when that begins and ceases to fail. It ends with
/// the log, or when another one has taken its place.
fn run(shared: &Shared, mut lines: JsonLines, number: u64) {
    let mut failing = false;
    let mut failed_before = 0;
    loop {
        let mut state = shared.lock();
        // At the end those that were held up may bring something.
        while state.waiting.is_empty()
            && !state.reopen
            && (state.redirect.is_none() || state.replacements != number)
            && (!state.end || state.away > 0)
        {
            state.idle = true;
            shared.changed.notify_all();
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        let taken = mem::take(&mut state.waiting);
        let (reopen, end) = (mem::take(&mut state.reopen), state.end);
        let redirect = state.redirect.take();
        state.writes_since = Some(Instant::now());
        drop(state);

        if let Some(to) = redirect {
            lines.redirect(to);
        }
        if reopen && let Err(error @ OpenError { .. }) = lines.reopen() {
            tracing::error!("{error}; the old one stays in use");
        }
        let result = lines.write_lines(&taken);
        let mut state = shared.lock();
        state.dropped_lines += lines.take_dropped_lines();
        state.failed_writes += lines.failed_writes() - failed_before;
        failed_before = lines.failed_writes();
        if state.replacements != number {
            // What it holds is older than all that waits.
            let newer = mem::replace(&mut state.waiting, lines.into_pending());
            state.waiting.extend_from_slice(&newer);
            state.away -= 1;
            state.idle &= state.waiting.is_empty();
            shared.changed.notify_all();
            return;
        }
        state.writes_since = None;
        match result {
            Ok(()) if mem::take(&mut failing) => tracing::info!("the log is written again"),
            Ok(()) => {}
            Err(WriteError::Closed) => {
                state.closed = true;
                shared.closed.notify_one();
            }
            Err(error @ WriteError::Refused { .. }) => {
                if !mem::replace(&mut failing, true) {
                    tracing::error!("{error}");
                }
            }
        }
        if state.closed || (end && state.waiting.is_empty() && state.away == 0) {
            let lost = lines.pending_bytes();
            if lost > 0 && !state.closed {
                tracing::error!(
                    "the log ends, and {lost} bytes that its destination refused are lost"
                );
            }
            state.idle = true;
            shared.changed.notify_all();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::FromRawFd as _;

    use super::*;
    use crate::export::record::StatusRecord;

    fn record(host: &str) -> Record {
        Record::Status(Box::new(StatusRecord::new(host, 1, 0, [])))
    }

    /// A named pipe: a destination that takes 64 KiB and then nothing until somebody reads.
    struct Pipe(std::path::PathBuf);

    impl Pipe {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
            let text = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no zeros");
            // SAFETY: a valid path.
            assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
            Self(path)
        }

        /// Keeps it open for reading, so that opening it for writing does not wait.
        fn reader(&self) -> std::fs::File {
            let text = std::ffi::CString::new(self.0.to_str().expect("UTF-8")).expect("no zeros");
            // SAFETY: a valid path; the descriptor is ours.
            unsafe {
                let descriptor = libc::open(text.as_ptr(), libc::O_RDWR);
                assert!(descriptor >= 0);
                std::fs::File::from_raw_fd(descriptor)
            }
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_window_of_any_size_is_written_whole() {
        let path = std::env::temp_dir().join(format!("lastmile-large-{}", std::process::id()));
        let log = Log::open(&Destination::File(path.clone())).expect("opens");
        let many = vec![record(&"h".repeat(1 << 20)); 3 * (MAX_WAITING_BYTES >> 20)];
        log.write(&many).expect("never fails");
        log.finish();
        let written = std::fs::read(&path).expect("readable");
        let _ = std::fs::remove_file(&path);
        let lines = written.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((lines, log.losses()), (many.len(), (0, 0)));
    }

    #[test]
    fn another_destination_gets_what_the_old_one_did_not_take() {
        let temporary = std::env::temp_dir();
        let there = temporary.join(format!("lastmile-redirected-{}", std::process::id()));
        let log = Log::open(&Destination::File("/dev/full".into())).expect("opens");
        log.write(&[record("a"), record("b")]).expect("never fails");
        while log.losses().1 == 0 {
            thread::yield_now();
        }
        let to = JsonLines::open(&Destination::File(there.clone())).expect("opens");
        log.redirect(to);
        log.write(&[record("c")]).expect("never fails");
        log.finish();
        let written = std::fs::read_to_string(&there).expect("readable");
        let _ = std::fs::remove_file(&there);
        let hosts: Vec<_> = written
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("whole"))
            .map(|line| line["host"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(hosts, ["a", "b", "c"].map(|host| Some(host.to_owned())));
        assert_eq!(log.losses().0, 0);
    }

    #[test]
    fn a_destination_that_holds_its_writer_up_can_be_left() {
        let pipe = Pipe::new("left");
        let mut reader = pipe.reader();
        let there = std::env::temp_dir().join(format!("lastmile-left-for-{}", std::process::id()));
        let log = Log::open(&Destination::File(pipe.0.clone())).expect("opens");
        // More than the pipe holds.
        let long = record(&"h".repeat(1 << 20));
        log.write(std::slice::from_ref(&long)).expect("never fails");
        let mut first = vec![0; serde_json::to_vec(&long).expect("serializes").len() + 1];
        // The thread has begun.
        reader
            .read_exact(&mut first[..1])
            .expect("the pipe is read");
        let to = JsonLines::open(&Destination::File(there.clone())).expect("opens");
        log.redirect(to);
        let text = loop {
            log.write(&[record("next")]).expect("never fails");
            let text = std::fs::read_to_string(&there).expect("readable");
            if !text.is_empty() {
                break text;
            }
            thread::sleep(PATIENCE_WITH_A_WRITE / 10);
        };
        assert!(text.contains("next"), "{text}");
        // A reader that wakes up after all gets the line that was begun.
        reader
            .read_exact(&mut first[1..])
            .expect("the pipe is read");
        assert!(first.ends_with(b"}\n"));
        log.finish();
        let _ = std::fs::remove_file(&there);
        assert_eq!(log.losses(), (0, 0));
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_said_and_not_waited_for() {
        let pipe = Pipe::new("unread");
        let error = Log::open(&Destination::File(pipe.0.clone())).expect_err("nobody reads");
        assert!(
            error.to_string().contains("nobody reads this pipe"),
            "{error}"
        );
    }

    #[test]
    fn a_destination_that_takes_nothing_holds_nobody_up_and_losses_are_counted() {
        let pipe = Pipe::new("stuck");
        let mut reader = pipe.reader();
        let log = Log::open(&Destination::File(pipe.0.clone())).expect("opens");
        let long = record(&"h".repeat(1 << 20));
        // More than the pipe, the thread and the queue can hold together: this returns at once.
        let written = 3 * (MAX_WAITING_BYTES >> 20);
        for _ in 0..written {
            log.write(std::slice::from_ref(&long)).expect("never fails");
        }
        let (dropped, _) = log.losses();
        assert!(dropped > 0);
        // A reader that wakes up gets whole lines, and every line that was not dropped.
        let kept = written as u64 - dropped;
        let line = serde_json::to_vec(&long).expect("serializes").len() as u64 + 1;
        let mut taken = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        while (taken.len() as u64) < kept * line {
            let read = reader.read(&mut buffer).expect("the pipe is read");
            taken.extend_from_slice(&buffer[..read]);
        }
        log.finish();
        assert_eq!(log.losses().0, dropped, "nothing more was dropped");
        assert!(taken.ends_with(b"}\n"));
    }
}
