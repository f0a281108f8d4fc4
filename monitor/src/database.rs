//! SQLite files of ours: opened or made, and told from other programs'.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, OpenFlags};

/// Another process that reads or writes holds a lock for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A kind of file.
pub struct Database {
    /// What the configuration calls it.
    pub key: &'static str,
    /// In the file's header (`PRAGMA application_id`).
    pub application_id: i32,
    /// Counts with every change of `tables` (`PRAGMA user_version`).
    pub layout: i32,
    /// What makes the tables of a new file.
    pub tables: &'static str,
    /// What to do about a file of another layout.
    pub otherwise: &'static str,
}

impl Database {
    /// Opens the file; an empty one gets its tables. Readers and the writer do not wait for each
    /// other, and a commit costs no fsync (WAL).
    ///
    /// # Errors
    /// When it cannot be read or written, or is another program's or version's; they name the key
    /// and the file.
    pub fn open(&self, file: &Path, flags: OpenFlags) -> Result<Connection> {
        let connection = self.connect(file, flags)?;
        self.make_tables(&connection)
            .with_context(|| self.named(file))?;
        self.check(&connection, file)?;
        let journal = || {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")
        };
        journal().with_context(|| self.named(file))?;
        Ok(connection)
    }

    /// Opens a file that is there, and writes nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_read(&self, file: &Path) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = self.connect(file, flags)?;
        self.check(&connection, file)?;
        Ok(connection)
    }

    fn connect(&self, file: &Path, flags: OpenFlags) -> Result<Connection> {
        let connect = || {
            let connection = Connection::open_with_flags(file, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok::<_, rusqlite::Error>(connection)
        };
        connect().with_context(|| self.named(file))
    }

    fn named(&self, file: &Path) -> String {
        format!("{}: {}", self.key, file.display())
    }

    fn check(&self, connection: &Connection, file: &Path) -> Result<()> {
        let named = self.named(file);
        let number = |name: &str| -> Result<i32> {
            connection
                .pragma_query_value(None, name, |row| row.get(0))
                .with_context(|| named.clone())
        };
        if number("application_id")? != self.application_id {
            bail!("{named} is another program's file; name one that lastmile may write");
        }
        let found = number("user_version")?;
        if found != self.layout {
            bail!(
                "{named} was written by another version (layout {found}, this one has {}); {}",
                self.layout,
                self.otherwise
            );
        }
        Ok(())
    }

    fn make_tables(&self, connection: &Connection) -> rusqlite::Result<()> {
        let tables: u32 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            return Ok(());
        }
        connection.execute_batch(&format!(
            "PRAGMA auto_vacuum = INCREMENTAL; BEGIN; PRAGMA application_id = {}; \
             PRAGMA user_version = {}; {} COMMIT;",
            self.application_id, self.layout, self.tables
        ))
    }
}
