//! systemd as the first process of a machine: the units that a service needs around it, and one
//! that runs the command.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::initramfs::Contents;
use crate::{cache::Cache, programs};

/// Where Debian 12's units say that systemd's programs are.
const FOLDER: &str = "/lib/systemd";

/// Where later releases say so.
const LATER_FOLDER: &str = "/usr/lib/systemd";

/// Programs that run as services, or below systemd itself. A release may lack some.
const DAEMONS: [&str; 3] = ["systemd", "systemd-journald", "systemd-executor"];

/// Programs for the command and for units: busybox's `kill` changes its user first, which the
/// sandbox of a service forbids.
const TOOLS: [&str; 4] = ["systemctl", "journalctl", "systemd-analyze", "kill"];

/// The units between the first process and a service: no login, no devices, no clean-up of disks.
const UNITS: [&str; 18] = [
    "basic.target",
    "local-fs.target",
    "local-fs-pre.target",
    "multi-user.target",
    "network.target",
    "network-online.target",
    "paths.target",
    "remote-fs.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "swap.target",
    "sysinit.target",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "timers.target",
    "umount.target",
];

/// Runs the command once everything else is up.
const COMMAND_UNIT: &str = "[Unit]\n\
    Description=The command of this machine\n\
    After=basic.target\n\
    [Service]\n\
    Type=oneshot\n\
    ExecStart=/run-command\n\
    TimeoutStartSec=infinity\n\
    LimitNOFILE=65536\n";

/// Puts systemd and its units into the machine; `/init` starts it when it finds it there.
///
/// # Errors
/// When systemd, or a unit, is not where Debian has it.
pub fn add(contents: &mut Contents, cache: &Cache) -> Result<()> {
    for tool in TOOLS {
        contents.program(&programs::find(cache, tool)?)?;
    }
    let systemctl = programs::find(cache, "systemctl")?;
    let root = systemctl.root.clone().unwrap_or_else(|| "/".into());
    let folder = [FOLDER, LATER_FOLDER]
        .into_iter()
        .map(|folder| root.join(folder.trim_start_matches('/')))
        .find(|folder| folder.join("systemd").is_file())
        .with_context(|| format!("there is no systemd below {}", root.display()))?;
    for daemon in DAEMONS {
        let path = folder.join(daemon);
        if path.is_file() {
            contents.program_at(&systemctl.beside(path), &format!("{FOLDER}/{daemon}"))?;
        }
    }
    for unit in UNITS {
        contents.file(
            &format!("{FOLDER}/system/{unit}"),
            &unit_file(&folder, unit)?,
        );
    }
    contents.link(LATER_FOLDER, "../../lib/systemd");
    contents.text("/etc/systemd/system/vm-command.service", COMMAND_UNIT);
    contents.link(
        "/etc/systemd/system/multi-user.target.wants/vm-command.service",
        "../vm-command.service",
    );
    contents.link(
        "/etc/systemd/system/sockets.target.wants/systemd-journald.socket",
        "/lib/systemd/system/systemd-journald.socket",
    );
    contents.link(
        "/etc/systemd/system/sysinit.target.wants/systemd-journald.service",
        "/lib/systemd/system/systemd-journald.service",
    );
    Ok(())
}

fn unit_file(folder: &Path, unit: &str) -> Result<PathBuf> {
    let path = folder.join("system").join(unit);
    fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(path)
}
