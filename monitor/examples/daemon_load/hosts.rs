//! Two hosts and a cable between them, and the daemon at one of them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use lastmile_lab::netns;

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Two hosts and a cable, gone when dropped.
pub struct Hosts {
    pub server: String,
    pub client: String,
}

impl Hosts {
    /// # Errors
    /// When `ip` refuses something.
    pub fn new() -> Result<Self> {
        let name = |role| format!("lm-bench-{role}-{}", process::id());
        let hosts = Self {
            server: name("s"),
            client: name("c"),
        };
        let Self { server, client } = &hosts;
        let lines = [
            format!("netns add {server}"),
            format!("netns add {client}"),
            format!("link add eth0 netns {server} type veth peer name eth0 netns {client}"),
        ];
        netns::batch("ip", None, &lines)?;
        for (host, address) in [(server, SERVER), (client, CLIENT)] {
            let lines = [
                format!("address add {address}/24 dev eth0"),
                "link set eth0 up".to_owned(),
            ];
            netns::batch("ip", Some(host), &lines)?;
        }
        Ok(hosts)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.server, &self.client] {
            // What is not there need not be removed.
            let _ = netns::batch("ip", None, &[format!("netns del {host}")]);
        }
    }
}

/// The daemon, ended when dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Starts it and waits until it watches the cable.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start(lastmile: &Path, hosts: &Hosts, config: &Path) -> Result<Self> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &hosts.server])
            .arg(lastmile)
            .args(["run", "--config"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", lastmile.display()))?;
        let mut messages = BufReader::new(child.stderr.take().context("no standard error")?);
        let mut said = String::new();
        let mut line = String::new();
        while messages.read_line(&mut line)? > 0 {
            if line.contains("eth0: watched") {
                thread::spawn(move || std::io::copy(&mut messages, &mut std::io::sink()));
                return Ok(Self(child));
            }
            said += &line;
            line.clear();
        }
        child.wait()?;
        bail!("the daemon ended:\n{said}")
    }
}

impl Daemon {
    /// The most memory that it has had so far, in bytes (proc_pid_status(5)).
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory_bytes(&self) -> Result<u64> {
        process_bytes(self.0.id(), "VmHWM:")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: the process was started here and has not been waited for.
        unsafe { libc::kill(self.0.id() as libc::pid_t, libc::SIGINT) };
        let _ = self.0.wait();
    }
}

/// A figure of a process's memory (proc_pid_status(5)).
///
/// # Errors
/// When it is gone, or has no such figure.
pub fn process_bytes(id: u32, name: &str) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find(|line| line.starts_with(name));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|figure| figure.parse().ok())
        .with_context(|| format!("{path} has no {name}"))?;
    Ok(kib << 10)
}

/// A file of this process's own, gone when dropped.
pub struct OwnFile(pub PathBuf);

impl OwnFile {
    /// One that is named so, with nothing in it yet.
    pub fn named(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("lastmile-bench-{}-{name}", process::id())))
    }

    /// The same with a text in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn with(name: &str, text: &str) -> Result<Self> {
        let file = Self::named(name);
        fs::write(&file.0, text).with_context(|| format!("cannot write {}", file.0.display()))?;
        Ok(file)
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.0);
    }
}
