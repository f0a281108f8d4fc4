//! How fast `lastmile replay` reads captures, and in how much memory.
//!
//! Synthetic captures of given sizes are written to a folder, replayed by the given `lastmile`,
//! held against what is known of them, and removed. They are read from the page cache: the disk
//! is not what is measured.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    mem::MaybeUninit,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

/// Writes synthetic captures, replays them, prints MB/s and peak memory.
#[derive(Parser)]
struct Arguments {
    /// The program to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/lastmile")]
    lastmile: PathBuf,
    /// Where the captures are written
    #[arg(long, value_name = "FOLDER", default_value = "target/replay-speed")]
    folder: PathBuf,
    /// Sizes of the captures
    #[arg(long, value_name = "GB", num_args = 1.., default_values_t = [1, 4])]
    gigabytes: Vec<u64>,
}

/// What a capture is made of.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    /// Packets with data in one connection, on the average; an ACK follows every second.
    data_packets: u32,
    /// Bytes kept of each packet.
    snap_len: usize,
    /// Connections at a time.
    concurrent: usize,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "whole packets, long flows",
        data_packets: 200,
        snap_len: 65_535,
        concurrent: 1_000,
    },
    Shape {
        name: "snapped to 96 bytes",
        data_packets: 200,
        snap_len: 96,
        concurrent: 1_000,
    },
    Shape {
        name: "flows of 10 packets",
        data_packets: 4,
        snap_len: 65_535,
        concurrent: 20_000,
    },
];

/// A full Ethernet frame: 14, 20 and 32 bytes of headers before the payload.
const MSS: usize = 1_448;
const HEADERS: usize = 14 + 20 + 32;
/// Between two packets, ns: about 10 Gbit/s of full ones.
const SPACING_NS: u64 = 1_000;
const START_NS: u64 = 1_700_000_000_000_000_000;

/// pcap with nanoseconds, little endian.
const MAGIC: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What was written, and what must come out.
#[derive(Default)]
struct Written {
    bytes: u64,
    packets: u64,
    flows: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    fs::create_dir_all(&arguments.folder)
        .with_context(|| format!("cannot create {}", arguments.folder.display()))?;
    println!(
        "{:<26} {:>8} {:>12} {:>10} {:>8} {:>8} {:>12} {:>10}",
        "capture", "MB", "packets", "flows", "s", "MB/s", "packets/s", "peak MB"
    );
    for shape in SHAPES {
        for &gigabytes in &arguments.gigabytes {
            let path = arguments.folder.join("synthetic.pcap");
            let measured = write_capture(&path, shape, gigabytes * 1_000_000_000)
                .and_then(|written| replay(&arguments.lastmile, &path, &written));
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            let (written, seconds, peak_mb) = measured?;
            println!(
                "{:<26} {:>8} {:>12} {:>10} {:>8.2} {:>8.0} {:>12.0} {:>10.0}",
                shape.name,
                written.bytes / 1_000_000,
                written.packets,
                written.flows,
                seconds,
                written.bytes as f64 / 1e6 / seconds,
                written.packets as f64 / seconds,
                peak_mb
            );
        }
    }
    Ok(())
}

/// Replays the capture: s and peak resident memory.
fn replay(lastmile: &Path, capture: &Path, written: &Written) -> Result<(Written, f64, f64)> {
    let start = Instant::now();
    let mut child = Command::new(lastmile)
        .arg("replay")
        .arg(capture)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", lastmile.display()))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut flows = 0u64;
    for line in BufReader::with_capacity(1 << 20, stdout).split(b'\n') {
        let line = line.context("cannot read what it prints")?;
        flows += u64::from(line.windows(7).any(|word| word == b"\"close\""));
    }
    let peak_kb = wait(child.id())?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        flows == written.flows,
        "{} flows were written and {flows} came out",
        written.flows
    );
    let written = Written { ..*written };
    Ok((written, seconds, peak_kb as f64 / 1_000.0))
}

/// Waits for a child and returns its peak resident memory, kB.
fn wait(pid: u32) -> Result<i64> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live values of the types asked for.
    let waited = unsafe { libc::wait4(pid.cast_signed(), &mut status, 0, usage.as_mut_ptr()) };
    if waited == -1 {
        return Err(io::Error::last_os_error()).context("cannot wait for lastmile");
    }
    if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
        bail!("lastmile failed (wait status {status})");
    }
    // SAFETY: wait4 filled it.
    Ok(unsafe { usage.assume_init() }.ru_maxrss)
}

/// One connection, by how far it has come.
#[derive(Clone, Copy)]
struct Connection {
    number: u32,
    step: u32,
    sent: u32,
}

/// Writes connections side by side until the capture has `bytes`, and ends each of them.
fn write_capture(path: &Path, shape: Shape, bytes: u64) -> Result<Written> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut output = BufWriter::with_capacity(1 << 20, file);
    let mut written = Written::default();
    let mut failed = Ok(());
    let mut put = |packet: &[u8]| {
        written.bytes += packet.len() as u64;
        if failed.is_ok() {
            failed = output.write_all(packet);
        }
        written.bytes
    };
    let mut header = Vec::new();
    for number in [MAGIC, 4 << 16 | 2, 0, 0, shape.snap_len as u32, ETHERNET] {
        header.extend(number.to_le_bytes());
    }
    put(&header);
    let mut next = 0u32;
    let mut begin = || {
        next += 1;
        Connection {
            number: next,
            step: 0,
            sent: 0,
        }
    };
    let mut connections: Vec<_> = (0..shape.concurrent).map(|_| begin()).collect();
    let mut packets = 0u64;
    let mut record = Vec::with_capacity(16 + HEADERS + MSS);
    while !connections.is_empty() {
        let mut at = 0;
        while at < connections.len() {
            let over = packet(&mut connections[at], shape, packets, &mut record);
            let size = put(&record);
            packets += 1;
            if !over {
                at += 1;
            } else if size < bytes {
                connections[at] = begin();
                at += 1;
            } else {
                connections.swap_remove(at);
            }
        }
    }
    failed
        .and_then(|()| output.flush())
        .with_context(|| format!("cannot write {}", path.display()))?;
    written.packets = packets;
    written.flows = next.into();
    Ok(written)
}

/// The next packet of a connection, as a record; whether it was the last.
fn packet(connection: &mut Connection, shape: Shape, number: u64, record: &mut Vec<u8>) -> bool {
    let step = connection.step;
    connection.step += 1;
    // SYN, SYN-ACK, then two packets of data and an ACK, then FIN and FIN.
    let data_packets = if shape.data_packets < 10 {
        shape.data_packets
    } else {
        shape.data_packets / 2 + connection.number % shape.data_packets
    };
    let end = 2 + data_packets / 2 * 3;
    let (to_client, flags, len) = match step {
        0 => (false, SYN, 0),
        1 => (true, SYN | ACK, 0),
        _ if step > end => (false, FIN | ACK, 0),
        _ if step == end => (true, FIN | ACK, 0),
        _ if step % 3 == 1 => (false, ACK, 0),
        _ => (true, ACK, MSS),
    };
    let client = (connection.number >> 14).wrapping_add(0x0a00_0001);
    let client_port = 1_024 + (connection.number & 0x3fff) as u16;
    let server = 0xc000_0201u32;
    let sequence = if to_client {
        1_000 + connection.sent
    } else {
        500 + u32::from(step > 0)
    };
    let acknowledged = if to_client {
        501
    } else {
        1_000 + connection.sent
    };
    if to_client {
        connection.sent += len as u32 + u32::from(flags & (SYN | FIN) != 0);
    }
    let frame_len = HEADERS + len;
    let kept = frame_len.min(shape.snap_len);
    let time_ns = START_NS + number * SPACING_NS;
    record.clear();
    for field in [
        (time_ns / 1_000_000_000) as u32,
        (time_ns % 1_000_000_000) as u32,
        kept as u32,
        frame_len as u32,
    ] {
        record.extend(field.to_le_bytes());
    }
    record.extend([2; 12]);
    record.extend([0x08, 0x00, 0x45, 0]);
    record.extend(((frame_len - 14) as u16).to_be_bytes());
    record.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
    let (source, destination) = if to_client {
        ((server, 443), (client, client_port))
    } else {
        ((client, client_port), (server, 443))
    };
    record.extend(source.0.to_be_bytes());
    record.extend(destination.0.to_be_bytes());
    record.extend(source.1.to_be_bytes());
    record.extend(destination.1.to_be_bytes());
    record.extend(sequence.to_be_bytes());
    record.extend(acknowledged.to_be_bytes());
    record.extend([0x80, flags, 0xff, 0xff, 0, 0, 0, 0, 1, 1, 8, 10]);
    record.extend(((time_ns / 1_000_000) as u32).to_be_bytes());
    record.extend([0; 4]);
    record.resize(16 + kept, 0);
    step > end
}
