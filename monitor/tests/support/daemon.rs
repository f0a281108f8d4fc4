//! The real daemon as a process of its own, and the log that it writes.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read as _},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    time::Duration,
};

use lastmile::export::schema::validate_line;
use serde_json::Value;

use super::net::{Internet, PORT};

/// Longer than anything here takes, under emulation too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of its own, gone when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lastmile-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    stderr: BufReader<ChildStderr>,
    notifications: UnixDatagram,
}

impl Daemon {
    /// Starts it in the server's namespace and waits until it says that it is ready.
    pub fn start(internet: &Internet, folder: &Folder, config: &str) -> Self {
        let mut daemon = Self::spawn(internet, folder, config);
        daemon.await_notification("READY=1");
        daemon
    }

    /// The same, without waiting for anything.
    pub fn spawn(internet: &Internet, folder: &Folder, config: &str) -> Self {
        let file = folder.file("lastmile.toml");
        fs::write(&file, config).expect("the configuration is written");
        let socket = folder.file("notify");
        let _ = fs::remove_file(&socket);
        let notifications = UnixDatagram::bind(&socket).expect("a notification socket");
        notifications
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lastmile"));
        command
            .args(["run", "--config"])
            .arg(&file)
            .env("NOTIFY_SOCKET", &socket)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = internet.on(&internet.server, move || command.spawn());
        let mut child = lastmile_lab::netns::join(child)
            .expect("the namespace is there")
            .expect("the daemon starts");
        let stderr = child.stderr.take().expect("stderr is a pipe");
        Self {
            child,
            stderr: BufReader::new(stderr),
            notifications,
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn await_notification(&mut self, wanted: &str) {
        let mut buffer = [0u8; 4096];
        loop {
            let len = match self.notifications.recv(&mut buffer) {
                Ok(len) => len,
                // The machine was stopped for a moment (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let _ = self.child.kill();
                    let mut said = String::new();
                    let _ = self.stderr.read_to_string(&mut said);
                    panic!("no {wanted} from the daemon: {error}\n{said}");
                }
            };
            if String::from_utf8_lossy(&buffer[..len]).contains(wanted) {
                return;
            }
        }
    }

    /// Whether it has said something by now.
    pub fn has_notified(&self, wanted: &str) -> bool {
        self.notifications
            .set_nonblocking(true)
            .expect("the socket is ours");
        let mut buffer = [0u8; 4096];
        loop {
            match self.notifications.recv(&mut buffer) {
                Ok(len) if String::from_utf8_lossy(&buffer[..len]).contains(wanted) => return true,
                Ok(_) => (),
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(_) => return false,
            }
        }
    }

    /// Reads what the daemon says about itself until a line contains `wanted`.
    pub fn await_message(&mut self, wanted: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let len = self.stderr.read_line(&mut line).expect("stderr is read");
            assert!(len > 0, "the daemon ended without saying {wanted:?}");
            if line.contains(wanted) {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a process that this test started and has not waited for.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(result, 0, "the daemon is there");
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its state is known").is_some()
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the daemon ends")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn config(log: &Path) -> String {
    format!(
        "[watch]\ninterfaces = [\"eth*\"]\nports = [{PORT}]\n[window]\nlength_s = 3600\n\
         [log]\ndestination = \"{}\"\n",
        log.display()
    )
}

/// Every line of a log, each held to the schema.
pub fn lines(log: &Path) -> Vec<Value> {
    fs::read_to_string(log)
        .expect("the log is there")
        .lines()
        .map(|line| {
            validate_line(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            serde_json::from_str(line).expect("valid lines are JSON")
        })
        .collect()
}

pub fn flows<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines
        .iter()
        .filter(|line| line["type"] == "flow" && line["event"] == event)
        .collect()
}

/// The last record of every flow but that it opened: an `update`, or a `close` where a window ended
/// meanwhile.
pub fn last_records(lines: &[Value]) -> Vec<&Value> {
    let mut last: Vec<&Value> = Vec::new();
    for line in lines {
        if line["type"] != "flow" || line["event"] == "open" {
            continue;
        }
        match last.iter_mut().find(|of| of["flow_id"] == line["flow_id"]) {
            Some(of) => *of = line,
            None => last.push(line),
        }
    }
    last
}
