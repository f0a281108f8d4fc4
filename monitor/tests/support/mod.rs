//! What several tests need. Each uses a part of it.
#![allow(dead_code, reason = "every test file is a program of its own")]

pub mod bpf_folder;
pub mod chain;
pub mod daemon;
pub mod ethtool;
pub mod flood;
pub mod holdings;
pub mod net;
pub mod observer;
#[path = "../../../monitor-ebpf/tests/support/packets.rs"]
pub mod packets;
pub mod receiver;
pub mod ring;
pub mod segment;
pub mod stream;
#[path = "../../../monitor-ebpf/tests/support/traffic.rs"]
pub mod traffic;
pub mod transfer;
pub mod truth;
pub mod tun;

use lastmile::{capture::live::Options, config::KernelLog};

/// Whether this test runs as root; says visibly when it does not.
pub fn root_or_skip(what: &str) -> bool {
    // SAFETY: no arguments, no failure.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("SKIPPED: {what} needs root; `cargo xtask test` runs it as root");
    }
    root
}

/// A small table, no messages.
pub fn small() -> Options {
    Options {
        max_flows: 4_096,
        kernel_log: KernelLog::Off,
        cgroups: false,
        test_clock: false,
    }
}
