//! What a daemon holds of the kernel's: descriptors, programs, maps, memory.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use aya::{maps::loaded_maps, programs::loaded_programs};

use super::daemon::{Daemon, PATIENCE};

/// The kernel frees maps and programs some time after their last holder has gone, and tells
/// nobody.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Longer than any file is read, or any question of the daemon's to the kernel takes.
const HELD_FOR: Duration = Duration::from_secs(1);

/// What one process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Open descriptors: their numbers, and what they are of.
    pub descriptors: BTreeSet<(OsString, PathBuf)>,
    /// Numbers of the BPF maps and programs among them; links hold programs too.
    pub maps: BTreeSet<u32>,
    pub programs: BTreeSet<u32>,
    /// Resident memory, KiB.
    pub memory_kib: u64,
}

impl Holdings {
    /// What it holds for [`HELD_FOR`] and longer: files that it reads and netlink sockets that it
    /// asks with come and go all the time, and nothing that leaks does.
    pub fn of(daemon: &Daemon) -> Self {
        let mut held = Self::now(daemon);
        let begin = Instant::now();
        while begin.elapsed() < HELD_FOR {
            thread::sleep(LOOK_INTERVAL);
            let now = Self::now(daemon);
            held.descriptors = &held.descriptors & &now.descriptors;
            held.maps = &held.maps & &now.maps;
            held.programs = &held.programs & &now.programs;
            held.memory_kib = now.memory_kib;
        }
        held
    }

    fn now(daemon: &Daemon) -> Self {
        let folder = PathBuf::from(format!("/proc/{}", daemon.id()));
        let mut held = Self {
            descriptors: BTreeSet::new(),
            maps: BTreeSet::new(),
            programs: BTreeSet::new(),
            memory_kib: memory_kib(daemon),
        };
        for entry in fs::read_dir(folder.join("fdinfo")).expect("it runs") {
            let entry = entry.expect("readable");
            // One that was closed meanwhile is none that leaks.
            let (Ok(of), Ok(about)) = (
                fs::read_link(folder.join("fd").join(entry.file_name())),
                fs::read_to_string(entry.path()),
            ) else {
                continue;
            };
            held.descriptors.insert((entry.file_name(), of));
            for line in about.lines() {
                let Some((name, number)) = line.split_once(':') else {
                    continue;
                };
                let Ok(number) = number.trim().parse() else {
                    continue;
                };
                match name {
                    "map_id" => held.maps.insert(number),
                    "prog_id" => held.programs.insert(number),
                    _ => false,
                };
            }
        }
        held
    }

    /// Waits until the kernel has freed every map and program among them.
    #[track_caller]
    pub fn await_freed(&self) {
        let begin = Instant::now();
        loop {
            let maps = loaded_maps().filter_map(|map| Some(map.ok()?.id()));
            let maps: BTreeSet<u32> = maps.filter(|id| self.maps.contains(id)).collect();
            let programs = loaded_programs().filter_map(|program| Some(program.ok()?.id()));
            let programs: BTreeSet<u32> =
                programs.filter(|id| self.programs.contains(id)).collect();
            if maps.is_empty() && programs.is_empty() {
                return;
            }
            let waited = begin.elapsed();
            assert!(waited < PATIENCE, "left: maps {maps:?}, {programs:?}");
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// Resident memory, KiB.
pub fn memory_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.expect("VmRSS").parse().expect("a number")
}
