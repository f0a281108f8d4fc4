//! JSON lines to standard output, a file or the journal: whole lines, in order, or none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Record;
use super::journal::Journal;
use crate::config::Destination;

/// Bytes kept while the destination takes none. Beyond it whole lines are dropped and counted,
/// so that a full disk neither stops the measurement nor fills the memory.
const MAX_PENDING_BYTES: usize = 16 << 20;

/// What the journal is called in messages.
const JOURNAL: &str = "journald";

/// Bytes written at once.
const WRITE_BYTES: usize = 1 << 20;

/// Writes records, one line each.
///
/// A line that the destination took only a part of is completed before the next one begins, or
/// written anew as a whole where the file was reopened in between.
#[derive(Debug)]
pub struct JsonLines {
    /// `None`: standard output, or the journal.
    path: Option<PathBuf>,
    output: Output,
    /// Whole lines. Of the first one, `sent` bytes are written already.
    pending: Vec<u8>,
    sent: usize,
    dropped_lines: u64,
    failed_writes: u64,
}

#[derive(Debug)]
enum Output {
    File(File),
    Journal(Journal),
}

/// The destination cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path}: cannot be opened for appending: {source}; set log.destination to \"stdout\", to \"journald\" where that runs, or to a file in a folder that may be written"
)]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

/// Lines could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nobody reads standard output any more: no failure, but the end.
    #[error("standard output was closed")]
    Closed,
    /// They are kept, and tried again with the next ones.
    #[error(
        "{destination}: {source}; {pending_bytes} bytes wait to be written, {dropped_lines} lines were dropped"
    )]
    Refused {
        destination: String,
        source: io::Error,
        pending_bytes: usize,
        dropped_lines: u64,
    },
}

impl JsonLines {
    /// Opens the destination; a file is created where there is none, and appended to.
    pub fn open(destination: &Destination) -> Result<Self, OpenError> {
        let (path, output, pending) = match destination {
            Destination::Stdout => (None, Output::File(stdout()?), Vec::new()),
            Destination::Journald => {
                let journal = Journal::open().map_err(|source| OpenError {
                    path: JOURNAL.into(),
                    source,
                })?;
                (None, Output::Journal(journal), Vec::new())
            }
            Destination::File(path) => {
                let (file, pending) = append(path)?;
                (Some(path.clone()), Output::File(file), pending)
            }
        };
        Ok(Self::to(path, output, pending))
    }

    fn to(path: Option<PathBuf>, output: Output, pending: Vec<u8>) -> Self {
        Self {
            path,
            output,
            pending,
            sent: 0,
            dropped_lines: 0,
            failed_writes: 0,
        }
    }

    /// Opens the file again under its name, after logrotate has moved it away. On an error the
    /// one that is open stays in use.
    pub fn reopen(&mut self) -> Result<(), OpenError> {
        if let Some(path) = &self.path {
            let (file, mut pending) = append(path)?;
            pending.append(&mut self.pending);
            (self.output, self.pending, self.sent) = (Output::File(file), pending, 0);
        }
        Ok(())
    }

    /// Goes on with another destination, and with what this one has not taken.
    pub fn redirect(&mut self, mut to: Self) {
        to.pending.append(&mut self.pending);
        (self.path, self.output) = (to.path, to.output);
        (self.pending, self.sent) = (to.pending, 0);
    }

    /// Writes the records, after what is still pending from before.
    pub fn write<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<(), WriteError> {
        let mut result = Ok(());
        for record in records {
            // However many there are: only what the destination refuses may wait or be dropped.
            if result.is_ok() && self.pending.len() >= WRITE_BYTES {
                result = self.flush();
            }
            self.push(record);
        }
        result.and_then(|()| self.flush())
    }

    /// Writes whole lines, after what is still pending from before.
    pub fn write_lines(&mut self, lines: &[u8]) -> Result<(), WriteError> {
        if self.pending.len() >= MAX_PENDING_BYTES {
            self.dropped_lines += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        } else {
            self.pending.extend_from_slice(lines);
        }
        self.flush()
    }

    /// Tries again to write what is pending.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        let result = self.drain();
        // Only whole lines are forgotten.
        let done = self.pending[..self.sent]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        self.pending.drain(..done);
        self.sent -= done;
        result.map_err(|source| {
            let is_stdout = self.path.is_none() && matches!(self.output, Output::File(_));
            if is_stdout && source.kind() == ErrorKind::BrokenPipe {
                return WriteError::Closed;
            }
            self.failed_writes += 1;
            WriteError::Refused {
                destination: match (&self.path, &self.output) {
                    (Some(path), _) => path.display().to_string(),
                    (None, Output::Journal(_)) => JOURNAL.to_owned(),
                    (None, Output::File(_)) => "standard output".to_owned(),
                },
                source,
                pending_bytes: self.pending_bytes(),
                dropped_lines: self.dropped_lines,
            }
        })
    }

    /// Whole lines that nobody took; a line that was cut is whole again.
    pub fn into_pending(self) -> Vec<u8> {
        self.pending
    }

    /// Bytes that nobody took.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len() - self.sent
    }

    /// Lines that were dropped because too much was pending, since the start.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped_lines
    }

    /// Lines that were dropped since the last call.
    pub fn take_dropped_lines(&mut self) -> u64 {
        std::mem::take(&mut self.dropped_lines)
    }

    /// Writes that failed, since the start.
    pub fn failed_writes(&self) -> u64 {
        self.failed_writes
    }

    fn push(&mut self, record: &Record) {
        if self.pending.len() >= MAX_PENDING_BYTES {
            self.dropped_lines += 1;
            return;
        }
        record.write_line(&mut self.pending);
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.sent < self.pending.len() {
            let rest = &self.pending[self.sent..];
            let result = match &mut self.output {
                Output::File(file) => file.write(rest),
                Output::Journal(journal) => {
                    let newline = rest.iter().position(|byte| *byte == b'\n');
                    let (line, length) = match newline {
                        Some(at) => (&rest[..at], at + 1),
                        None => (rest, rest.len()),
                    };
                    match journal.send(line) {
                        // It would never fit.
                        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                            self.dropped_lines += 1;
                            Ok(length)
                        }
                        sent => sent.map(|()| length),
                    }
                }
            };
            match result {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Standard output without a buffer of its own, so that what was written is known.
fn stdout() -> Result<File, OpenError> {
    let descriptor = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| OpenError {
            path: "standard output".into(),
            source,
        })?;
    Ok(descriptor.into())
}

/// Opens `path` for appending, and what must be written first: a newline, where an earlier
/// process left a line that it could not complete.
fn append(path: &Path) -> Result<(File, Vec<u8>), OpenError> {
    let open = || -> io::Result<(File, Vec<u8>)> {
        let mut file = open_now(path)?;
        if !file.metadata()?.is_file() || file.seek(SeekFrom::End(0))? == 0 {
            return Ok((file, Vec::new()));
        }
        let mut last = [0];
        let mut reader = File::open(path)?;
        reader.seek(SeekFrom::End(-1))?;
        reader.read_exact(&mut last)?;
        let newline = if last == *b"\n" {
            Vec::new()
        } else {
            vec![b'\n']
        };
        Ok((file, newline))
    };
    open().map_err(|source| OpenError {
        path: path.to_owned(),
        source,
    })
}

/// Opens `path` for appending; does not wait until somebody reads a pipe.
fn open_now(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| {
            let is_pipe = || fs::metadata(path).is_ok_and(|about| about.file_type().is_fifo());
            if error.raw_os_error() == Some(libc::ENXIO) && is_pipe() {
                return io::Error::new(ErrorKind::NotConnected, "nobody reads this pipe");
            }
            error
        })?;
    // Whoever writes to it may wait. SAFETY: a descriptor that is open; flags are plain numbers.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_APPEND) };
    if result == 0 {
        Ok(file)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::record::StatusRecord;

    fn record(host: &str) -> Record {
        Record::Status(Box::new(StatusRecord::new(host, 1, 0, [])))
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path)
            .expect("readable")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// A folder that is removed at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a temporary folder");
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("log.jsonl")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_that_was_rotated_away_is_made_anew() {
        let folder = Folder::new("rotate");
        let path = folder.file();
        let mut log = JsonLines::open(&Destination::File(path.clone())).expect("opens");
        log.write(&[record("one")]).expect("written");
        let old = path.with_extension("1");
        std::fs::rename(&path, &old).expect("moved");
        log.write(&[record("two")]).expect("written");
        log.reopen().expect("reopens");
        log.write(&[record("three")]).expect("written");
        assert_eq!(lines(&old).len(), 2);
        assert!(lines(&path)[0].contains("three"));
    }

    #[test]
    fn a_line_that_an_earlier_process_left_unfinished_stays_alone() {
        let folder = Folder::new("unfinished");
        let path = folder.file();
        std::fs::write(&path, "{\"schema\":\"lastm").expect("written");
        let mut log = JsonLines::open(&Destination::File(path.clone())).expect("opens");
        log.write(&[record("next")]).expect("written");
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("{\"schema\":\"lastmile/1\""));
    }

    #[test]
    fn a_line_that_was_cut_is_completed_first_or_begun_anew_elsewhere() {
        let folder = Folder::new("cut");
        let path = folder.file();
        let mut log = JsonLines::open(&Destination::File(path.clone())).expect("opens");
        // As a full disk leaves it: ten bytes of the line were taken.
        log.push(&record("cut"));
        let Output::File(file) = &mut log.output else {
            unreachable!("it was opened as a file")
        };
        file.write_all(&log.pending[..10]).expect("written");
        log.sent = 10;
        log.write(&[record("next")]).expect("written");
        assert!(
            lines(&path)
                .iter()
                .all(|line| crate::export::schema::validate_line(line).is_ok())
        );

        log.push(&record("cut again"));
        log.sent = 10;
        std::fs::remove_file(&path).expect("removed");
        log.reopen().expect("reopens");
        log.flush().expect("written");
        assert!(lines(&path)[0].contains("cut again"));
    }

    #[test]
    fn a_full_disk_is_said_and_counted_and_nothing_is_lost() {
        let mut log = JsonLines::open(&Destination::File("/dev/full".into())).expect("opens");
        let error = log.write(&[record("a")]).expect_err("no space").to_string();
        assert!(
            error.starts_with("/dev/full: No space left on device"),
            "{error}"
        );
        log.write(&[record("b")]).expect_err("no space");
        assert_eq!((log.failed_writes(), log.dropped_lines()), (2, 0));
        let folder = Folder::new("full");
        let (file, _) = append(&folder.file()).expect("opens");
        log.output = Output::File(file);
        log.flush().expect("there is space again");
        assert_eq!(lines(&folder.file()).len(), 2);
    }

    #[test]
    fn however_many_there_are_none_is_dropped_where_there_is_room() {
        let folder = Folder::new("many");
        let mut log = JsonLines::open(&Destination::File(folder.file())).expect("opens");
        let many = vec![record(&"h".repeat(1 << 20)); 2 * (MAX_PENDING_BYTES >> 20)];
        log.write(&many).expect("written");
        assert_eq!((log.dropped_lines(), lines(&folder.file()).len()), (0, 32));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut log = JsonLines::open(&Destination::File("/dev/full".into())).expect("opens");
        let long = record(&"h".repeat(1 << 20));
        for _ in 0..20 {
            log.push(&long);
        }
        assert!(log.pending.len() <= MAX_PENDING_BYTES + (1 << 20) + 1_000);
        assert_eq!(log.dropped_lines(), 4);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = JsonLines::open(&Destination::File("/nonexistent/log".into()))
            .expect_err("no folder")
            .to_string();
        assert!(
            error.starts_with("/nonexistent/log: cannot be opened for appending: No such file"),
            "{error}"
        );
    }

    #[test]
    fn the_journal_gets_every_line_as_an_entry_but_one_that_never_fits() {
        let mut listener = crate::export::journal::tests::Listener::new("lines");
        let mut log = JsonLines::to(None, Output::Journal(listener.journal()), Vec::new());
        log.write_lines(b"{\"a\":1}\n{\"b\":2}\n").expect("sent");
        for wanted in ["{\"a\":1}", "{\"b\":2}"] {
            assert!(listener.entry().ends_with(&format!("MESSAGE={wanted}\n")));
        }
        // Larger than any socket's buffer.
        let mut large = vec![b'x'; 64 << 20];
        large.extend_from_slice(b"\n{\"c\":3}\n");
        log.write_lines(&large).expect("the rest is sent");
        assert!(listener.entry().ends_with("MESSAGE={\"c\":3}\n"));
        assert_eq!((log.dropped_lines(), log.failed_writes()), (1, 0));
        // While it is away lines wait.
        listener.stop();
        log.write_lines(b"{\"d\":4}\n")
            .expect_err("nobody is there");
        listener.restart();
        log.write_lines(b"{\"e\":5}\n").expect("sent");
        for wanted in ["{\"d\":4}", "{\"e\":5}"] {
            assert!(listener.entry().ends_with(&format!("MESSAGE={wanted}\n")));
        }
        assert_eq!(log.failed_writes(), 1);
    }
}
