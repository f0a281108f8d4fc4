//! What must hold for any bytes, a file for each subject.
//!
//! `cargo xtask fuzz` runs the bodies under libFuzzer, millions of times; the test suite
//! (`monitor/tests/fuzz.rs` includes this file) runs the same ones for seconds.

#[path = "../../monitor/tests/support/announce.rs"]
mod announce;
mod bmp;
mod capture;
mod hello;
mod mrt;
mod packet;
mod recorded;
mod seeds;
mod tracker;

use std::{env, fs, path::Path};

/// One subject.
pub struct Target {
    pub name: &'static str,
    /// Panics where something does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// A frame of any link type to the packet path's [`monitor_ebpf::packet::Segment`].
pub const PACKET: Target = Target {
    name: "packet",
    run: packet::run,
    seeds: packet::seeds,
};

/// Segments, frames and clock steps to flow states.
pub const TRACKER: Target = Target {
    name: "tracker",
    run: tracker::run,
    seeds: tracker::seeds,
};

/// A capture file to records.
pub const CAPTURE: Target = Target {
    name: "capture",
    run: capture::run,
    seeds: capture::seeds,
};

/// A capture file to verdicts.
pub const WINDOWS: Target = Target {
    name: "windows",
    run: capture::run_windows,
    seeds: capture::seeds,
};

/// A router's BMP stream to the table that readers hold.
pub const BMP: Target = Target {
    name: "bmp",
    run: bmp::run,
    seeds: bmp::seeds,
};

/// An MRT file to a table.
pub const MRT: Target = Target {
    name: "mrt",
    run: mrt::run,
    seeds: mrt::seeds,
};

/// The beginning of a TCP connection to a server name.
pub const CLIENT_HELLO: Target = Target {
    name: "client_hello",
    run: hello::client_hello,
    seeds: hello::client_hello_seeds,
};

/// The beginning of a TCP connection to a request.
pub const HTTP: Target = Target {
    name: "http",
    run: hello::http,
    seeds: hello::http_seeds,
};

/// Datagrams and frames of QUIC Initials to a server name.
pub const QUIC: Target = Target {
    name: "quic",
    run: hello::quic,
    seeds: hello::quic_seeds,
};

pub const TARGETS: [Target; 9] = [
    PACKET,
    TRACKER,
    CAPTURE,
    WINDOWS,
    BMP,
    MRT,
    CLIENT_HELLO,
    HTTP,
    QUIC,
];

/// The folder that [`write_seeds`] writes to.
pub const SEEDS_VARIABLE: &str = "LASTMILE_FUZZ_SEEDS";

/// Writes a target's seeds where the environment says: libFuzzer reads its folders only after its
/// target was initialised.
pub fn write_seeds(target: &Target) {
    let Some(folder) = env::var_os(SEEDS_VARIABLE) else {
        return;
    };
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{number}"));
        fs::write(&path, seed)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}
