//! Transfers between two network namespaces, with the daemon at one end and without.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lastmile_lab::netns;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PORT: u16 = 443;
const CHUNK: usize = 128 << 10;
/// The turn of the daemon.
const WITH: usize = 0;

/// Bytes a second, one after the other.
pub struct Transfers {
    pub without: f64,
    pub with: f64,
    /// Without once more: what two that are alike differ by.
    pub again: f64,
}

/// Two hosts and a cable, gone when dropped.
struct Hosts {
    server: String,
    client: String,
}

impl Hosts {
    fn new() -> Result<Self> {
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
struct Daemon(Child);

impl Daemon {
    fn start(lastmile: &Path, hosts: &Hosts, config: &Path) -> Result<Self> {
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

impl Drop for Daemon {
    fn drop(&mut self) {
        // SAFETY: the process was started here and has not been waited for.
        unsafe { libc::kill(self.0.id() as libc::pid_t, libc::SIGINT) };
        let _ = self.0.wait();
    }
}

/// Measures each of the three `count` times; which comes first changes.
///
/// # Errors
/// When the hosts cannot be made, or the daemon does not start.
pub fn measure(lastmile: &Path, count: usize, seconds: u64) -> Result<Vec<Transfers>> {
    let hosts = Hosts::new()?;
    let config = env::temp_dir().join(format!("lastmile-bench-{}.toml", process::id()));
    let text = format!("[watch]\ninterfaces = [\"eth0\"]\nports = [{PORT}]\n");
    fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let time = Duration::from_secs(seconds);
    let measured = (0..count)
        .map(|number| {
            let mut rates = [0.0; 3];
            for turn in 0..rates.len() {
                let which = (number + turn) % rates.len();
                // Every turn comes after the same work: a start takes a second of a processor.
                let daemon = Daemon::start(lastmile, &hosts, &config)?;
                let _kept = (which == WITH).then_some(daemon);
                rates[which] = transfer(&hosts, time)?;
            }
            let [with, without, again] = rates;
            Ok(Transfers {
                without,
                with,
                again,
            })
        })
        .collect();
    fs::remove_file(&config).with_context(|| format!("cannot remove {}", config.display()))?;
    measured
}

/// Bytes a second that the client received.
fn transfer(hosts: &Hosts, time: Duration) -> Result<f64> {
    let listening = netns::enter(&hosts.server, || Ok(TcpListener::bind((SERVER, PORT))?))?;
    let listener = netns::join(listening)?;
    let server = netns::enter(&hosts.server, move || {
        let (mut stream, _) = listener.accept()?;
        let chunk = vec![0x5a; CHUNK];
        let begin = Instant::now();
        while begin.elapsed() < time {
            stream.write_all(&chunk)?;
        }
        Ok(())
    })?;
    let client = netns::enter(&hosts.client, || {
        let mut stream = TcpStream::connect((SERVER, PORT))?;
        let mut chunk = vec![0; CHUNK];
        let begin = Instant::now();
        let mut received = 0.0;
        loop {
            match stream.read(&mut chunk)? {
                0 => return Ok(received / begin.elapsed().as_secs_f64()),
                bytes => received += bytes as f64,
            }
        }
    })?;
    netns::join(server)?;
    netns::join(client)
}
