//! systemd's journal, by its native protocol: a datagram of fields an entry
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Before the record: an identifier for `journalctl -t`, a priority (informational, syslog(3)),
/// and the field that holds the record itself. A record is one line, so that no field needs the
/// form with a length.
const FIELDS: &[u8] = b"SYSLOG_IDENTIFIER=lastmile\nPRIORITY=6\nMESSAGE=";

/// Sends records to journald, each as an entry's message.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    entry: Vec<u8>,
}

impl Journal {
    /// # Errors
    /// When there is no journald.
    pub fn open() -> io::Result<Self> {
        Self::at(SOCKET.as_ref())
    }

    fn at(path: &Path) -> io::Result<Self> {
        // A socket that is there may still be nobody's; that is said at the first entry.
        std::fs::metadata(path)?;
        Ok(Self {
            socket: UnixDatagram::unbound()?,
            path: path.to_owned(),
            entry: Vec::new(),
        })
    }

    /// Sends one record, without its newline. Waits for a journald that takes nothing; one that
    /// was started again is found under its name.
    ///
    /// # Errors
    /// As `sendto(2)`; EMSGSIZE for a record larger than the socket's buffer.
    pub fn send(&mut self, line: &[u8]) -> io::Result<()> {
        self.entry.clear();
        self.entry.extend_from_slice(FIELDS);
        self.entry.extend_from_slice(line);
        self.entry.push(b'\n');
        self.socket.send_to(&self.entry, &self.path).map(drop)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Somebody who listens as journald does.
    pub struct Listener {
        socket: UnixDatagram,
        path: PathBuf,
    }

    impl Listener {
        pub fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("lastmile-journal-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).expect("bound");
            Self { socket, path }
        }

        pub fn journal(&self) -> Journal {
            Journal::at(&self.path).expect("somebody listens")
        }

        /// The next entry.
        pub fn entry(&self) -> String {
            let mut entry = vec![0; 1 << 20];
            let length = self.socket.recv(&mut entry).expect("an entry");
            entry.truncate(length);
            String::from_utf8(entry).expect("UTF-8")
        }

        /// Stops listening.
        pub fn stop(&mut self) {
            std::fs::remove_file(&self.path).expect("it was there");
        }

        /// Begins anew.
        pub fn restart(&mut self) {
            self.socket = UnixDatagram::bind(&self.path).expect("bound");
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    #[test]
    fn an_entry_is_fields_of_a_line_each() {
        let mut listener = Listener::new("fields");
        let mut journal = listener.journal();
        let wanted = "SYSLOG_IDENTIFIER=lastmile\nPRIORITY=6\nMESSAGE={\"a\":\"b=c\"}\n";
        journal.send(br#"{"a":"b=c"}"#).expect("sent");
        assert_eq!(listener.entry(), wanted);
        listener.stop();
        assert!(journal.send(b"{}").is_err());
        listener.restart();
        journal.send(br#"{"a":"b=c"}"#).expect("it is found again");
        assert_eq!(listener.entry(), wanted);
    }

    #[test]
    fn where_nobody_listens_there_is_no_journal() {
        let gone = std::env::temp_dir().join("lastmile-no-journal");
        assert!(Journal::at(&gone).is_err());
    }
}
