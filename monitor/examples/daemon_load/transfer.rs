//! Transfers between two network namespaces, with the daemon at one end and without.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use lastmile_lab::netns;

use crate::hosts::{Daemon, Hosts, OwnFile, SERVER};

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

/// Measures each of the three `count` times; which comes first changes.
///
/// # Errors
/// When the hosts cannot be made, or the daemon does not start.
pub fn measure(lastmile: &Path, count: usize, seconds: u64) -> Result<Vec<Transfers>> {
    let hosts = Hosts::new()?;
    let text = format!("[watch]\ninterfaces = [\"eth0\"]\nports = [{PORT}]\n");
    let config = OwnFile::with("transfer.toml", &text)?;
    let time = Duration::from_secs(seconds);
    (0..count)
        .map(|number| {
            let mut rates = [0.0; 3];
            for turn in 0..rates.len() {
                let which = (number + turn) % rates.len();
                // Every turn comes after the same work: a start takes a second of a processor.
                let daemon = Daemon::start(lastmile, &hosts, &config.0)?;
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
        .collect()
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
