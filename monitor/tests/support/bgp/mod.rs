//! Real BGP daemons on loopback, and what lastmile makes of what they say.
//!
//! ```text
//! exabgp 127.0.0.2 AS64501 --BGP--> gobgpd 127.0.1.1 --BMP--> Station (lastmile's own decoder and
//!        127.0.0.3 AS64502 -------> FRR    127.0.1.2 --BMP-->          table, and a recording)
//!                          -------> BIRD   127.0.1.3 --MRT--> a file
//! ```
//! Every daemon has ports and a folder of its own, and is ended by its process id.

pub mod daemons;
pub mod feed;
pub mod oracle;
pub mod station;
pub mod table;

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longer than anything here takes: exabgp tries a session again after half a minute at worst.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether all of these programs are there; says visibly when one is not.
pub fn programs_or_skip(names: &[&str]) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
    if !missing.is_empty() {
        println!("SKIPPED: there is no {missing:?} in PATH; `cargo xtask test` gets them");
    }
    missing.is_empty()
}

/// A folder of its own, gone when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lastmile-bgp-{}-{number}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns where it is.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, text).expect("the file is written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program; killed when dropped.
pub struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; what it prints goes into a file of the folder.
    pub fn start(name: &'static str, folder: &Folder, words: &[&str]) -> Self {
        Self::start_with(name, folder, words, &[])
    }

    /// The same with variables of the environment.
    pub fn start_with(
        name: &'static str,
        folder: &Folder,
        words: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let log = folder.file(&format!("{name}.log"));
        let output = File::create(&log).expect("a file for what it prints");
        let child = Command::new(name)
            .args(words)
            .envs(environment.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("one more descriptor"))
            .stdout(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name, child, log }
    }

    pub fn pid(&self) -> libc::pid_t {
        self.child.id().try_into().expect("a process id")
    }

    /// Asks for what is no event anywhere, until it is there.
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            let ended = self.child.try_wait().expect("the child can be asked");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "no {what} of {} ({ended:?}); it printed:\n{}",
                self.name,
                fs::read_to_string(&self.log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            println!("-- the end of what {} printed", self.name);
            tail.iter().rev().for_each(|line| println!("{line}"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Signals a program of this test that has not been waited for, so that the id is its own.
pub fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "no process {pid}");
}

/// A port of this address that nobody has.
pub fn free_port(address: Ipv4Addr) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
