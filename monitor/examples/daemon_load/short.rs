//! More short connections than a busy server has, with the daemon at one end and without.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lastmile_lab::netns;
use serde_json::Value;

use crate::hosts::{Daemon, Hosts, OwnFile, SERVER};

const PORT: u16 = 443;
const CLIENTS: usize = 8;
const SERVERS: usize = 2;
const ANSWER: &[u8] = b"a short answer";

/// What was measured.
pub struct Short {
    /// Connections a minute.
    pub without: f64,
    pub with: f64,
    /// Made while the daemon watched.
    pub made: u64,
    /// Of these, in the log; and how many those stand for.
    pub measured: u64,
    pub estimated: u64,
    /// Counters of the daemon's last status.
    pub reports_lost: u64,
    pub flows_evicted: u64,
    pub log_lines_dropped: u64,
    /// The most memory that the daemon had, in bytes.
    pub memory_bytes: u64,
}

/// Makes as many as can be for `seconds`, without the daemon and with it.
///
/// # Errors
/// When the hosts cannot be made, the daemon does not start, or its log cannot be read.
pub fn measure(lastmile: &Path, seconds: u64) -> Result<Short> {
    let hosts = Hosts::new()?;
    for host in [&hosts.server, &hosts.client] {
        // A port is free again at once: there are fewer than connections in a minute.
        netns::set_sysctl(host, "net/ipv4/tcp_max_tw_buckets", "0")?;
    }
    let time = Duration::from_secs(seconds);
    let minutes = time.as_secs_f64() / 60.0;
    let without = connections(&hosts, time)? as f64 / minutes;
    let log = OwnFile::named("short.jsonl");
    let text = format!(
        "[watch]\ninterfaces = [\"eth0\"]\nports = [{PORT}]\n[log]\ndestination = \"{}\"\n",
        log.0.display()
    );
    let config = OwnFile::with("short.toml", &text)?;
    let daemon = Daemon::start(lastmile, &hosts, &config.0)?;
    let made = connections(&hosts, time)?;
    let memory_bytes = daemon.memory_bytes()?;
    drop(daemon);
    let file = File::open(&log.0).with_context(|| format!("cannot open {}", log.0.display()))?;
    let (mut measured, mut estimated, mut counters) = (0, 0, Value::Null);
    for line in BufReader::new(file).lines() {
        let line: Value = serde_json::from_str(&line?)?;
        if line["type"] == "status" {
            counters = line["counters"].clone();
        } else if line["type"] == "flow" && line["event"] == "open" {
            measured += 1;
            estimated += line["stands_for"].as_u64().unwrap_or(1);
        }
    }
    let counter = |name: &str| {
        counters[name]
            .as_u64()
            .with_context(|| format!("no {name} in the log's last status"))
    };
    Ok(Short {
        without,
        with: made as f64 / minutes,
        made,
        measured,
        estimated,
        reports_lost: counter("reports_lost")?,
        flows_evicted: counter("flows_evicted")?,
        log_lines_dropped: counter("log_lines_dropped")?,
        memory_bytes,
    })
}

/// One after the other from each of some threads; how many there were.
fn connections(hosts: &Hosts, time: Duration) -> Result<u64> {
    let listening = netns::enter(&hosts.server, || Ok(TcpListener::bind((SERVER, PORT))?))?;
    let listener = Arc::new(netns::join(listening)?);
    let stop = Arc::new(AtomicBool::new(false));
    let servers: Vec<_> = (0..SERVERS)
        .map(|_| {
            let (listener, stop) = (Arc::clone(&listener), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok((mut stream, _)) = listener.accept() else {
                        continue;
                    };
                    // The client closes first; what it does not wait for is not sent.
                    let _ = stream.write_all(ANSWER);
                    let _ = stream.read(&mut [0; 1]);
                }
            })
        })
        .collect();
    let clients = (0..CLIENTS)
        .map(|_| netns::enter(&hosts.client, move || connect_for(time)))
        .collect::<Result<Vec<_>>>()?;
    let made = clients.into_iter().map(netns::join).sum::<Result<u64>>();
    stop.store(true, Ordering::Relaxed);
    // Each may wait for one more.
    for _ in 0..SERVERS {
        let last = netns::enter(&hosts.client, || Ok(TcpStream::connect((SERVER, PORT))?))?;
        drop(netns::join(last)?);
    }
    for server in servers {
        if server.join().is_err() {
            bail!("a server's thread panicked");
        }
    }
    made
}

fn connect_for(time: Duration) -> Result<u64> {
    let begin = Instant::now();
    let mut made = 0;
    while begin.elapsed() < time {
        let mut stream = TcpStream::connect((SERVER, PORT))?;
        let mut answer = [0; ANSWER.len()];
        stream.read_exact(&mut answer)?;
        made += 1;
    }
    Ok(made)
}
