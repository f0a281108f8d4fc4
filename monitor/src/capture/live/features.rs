//! What the running kernel and this process's privileges allow.

use std::{fs, path::Path};

use super::{Hook, Live, Options, PROGRAMS};
use crate::config::KernelLog;

/// Whether something that is needed is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ok,
    /// Works without, with less.
    Reduced,
    /// Does not work without.
    Missing,
}

/// One thing that was looked for.
#[derive(Clone, Debug)]
pub struct Feature {
    pub name: &'static str,
    pub state: State,
    /// What was found, and what would help.
    pub detail: String,
}

/// Capabilities the daemon needs, with their numbers (`linux/capability.h`) and why.
const CAPABILITIES: [(&str, u32, &str); 3] = [
    ("CAP_BPF", 39, "creates maps and loads programs"),
    ("CAP_NET_ADMIN", 12, "loads TC programs and attaches them"),
    (
        "CAP_PERFMON",
        38,
        "lets the verifier accept pointer arithmetic on packets and maps",
    ),
];
/// Stands for all of them on older set-ups.
const CAP_SYS_ADMIN: u32 = 21;

/// Looks at the kernel and tries a load: nothing is attached.
pub fn features() -> Vec<Feature> {
    let mut features = vec![kernel()];
    features.extend(capabilities());
    features.push(lockdown());
    features.push(load());
    features
}

fn kernel() -> Feature {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    let release = release.as_deref().unwrap_or("of unknown version").trim();
    let (state, hook) = match Hook::of_this_kernel() {
        Hook::Tcx => (State::Ok, "TCX links"),
        Hook::Clsact => (State::Ok, "clsact filters (6.6 has TCX links)"),
    };
    Feature {
        name: "kernel",
        state,
        detail: format!("Linux {release}: {hook}"),
    }
}

fn capabilities() -> Vec<Feature> {
    let effective = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        });
    CAPABILITIES
        .iter()
        .map(|&(name, number, why)| {
            let held = |set: u64| set >> number & 1 == 1 || set >> CAP_SYS_ADMIN & 1 == 1;
            let (state, detail) = match effective {
                Some(set) if held(set) => (State::Ok, format!("held: {why}")),
                Some(_) => (
                    State::Missing,
                    format!("{why}; run as root, or give it with systemd's AmbientCapabilities="),
                ),
                None => (
                    State::Reduced,
                    "unknown: /proc/self/status cannot be read".to_owned(),
                ),
            };
            Feature {
                name,
                state,
                detail,
            }
        })
        .collect()
}

fn lockdown() -> Feature {
    let path = Path::new("/sys/kernel/security/lockdown");
    let detail = match fs::read_to_string(path) {
        Ok(text) => {
            let mode = text.split(['[', ']']).nth(1).unwrap_or("unknown");
            format!("{mode}: no program here reads kernel memory, so every mode will do")
        }
        Err(_) => "not visible here; every mode will do".to_owned(),
    };
    Feature {
        name: "lockdown",
        state: State::Ok,
        detail,
    }
}

/// The only honest test of the verifier and the privileges.
fn load() -> Feature {
    let options = Options {
        max_flows: crate::config::MIN_MAX_FLOWS,
        kernel_log: KernelLog::Off,
        cgroups: false,
        test_clock: false,
    };
    let loaded = Live::load(&options).and_then(|mut live| {
        let mut most = 0;
        for program in PROGRAMS {
            most = most.max(live.verified_instructions(program.name)?.unwrap_or(0));
        }
        Ok(most)
    });
    match loaded {
        Ok(instructions) => Feature {
            name: "programs",
            state: State::Ok,
            detail: format!(
                "{} load; the verifier walked at most {instructions} instructions",
                PROGRAMS.len()
            ),
        },
        Err(error) => Feature {
            name: "programs",
            state: State::Missing,
            detail: format!("{error:#}"),
        },
    }
}
