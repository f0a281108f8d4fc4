//! An emulated arm64 machine that loads the programs and measures one download.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{DOWNLOAD, toolchain::Toolchain};
use crate::vm::Archive;

const INIT: &str = include_str!("init");
/// Loopback, where a client and a server are, and the server's port.
const CONFIG: &str = "[watch]\ninterfaces = [\"lo\"]\nports = [8080]\n\
    [log]\ndestination = \"/run/log.jsonl\"\n";
/// In the order in which they are loaded.
const MODULES: [&str; 2] = ["net/sched/sch_ingress.ko", "net/sched/cls_bpf.ko"];
const LIBRARIES: [&str; 4] = [
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
];
const FOLDERS: [&str; 10] = [
    "/bin", "/dev", "/etc", "/lib", "/modules", "/proc", "/run", "/sys", "/tmp", "/www",
];
const APPLETS: [&str; 12] = [
    "sh", "mount", "mkfifo", "uname", "ip", "insmod", "cat", "httpd", "wget", "kill", "poweroff",
    "head",
];
/// An emulated machine takes a tenth of this.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// What the machine printed, which is shown too.
///
/// # Errors
/// When it cannot be put together or started, or does not end in time.
pub fn run(
    toolchain: &Toolchain,
    lastmile: &Path,
    load: &Path,
    folder: &Path,
) -> Result<Vec<String>> {
    let initramfs = folder.join("initramfs");
    put_together(toolchain, lastmile, load, &initramfs)?;
    let qemu = toolchain.qemu();
    let mut command = qemu.command();
    if let Some(root) = &qemu.root {
        command.arg("-L").arg(root.join("usr/share/qemu"));
    }
    // Pointer authentication as the architecture has it takes emulation half of its time.
    command
        .args([
            "-machine",
            "virt",
            "-cpu",
            "max,pauth-impdef=on",
            "-m",
            "1024",
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args(["-monitor", "none", "-nic", "none"])
        .args([
            "-chardev",
            "file,id=output,path=/dev/stdout",
            "-serial",
            "chardev:output",
        ])
        .arg("-kernel")
        .arg(toolchain.kernel()?)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", qemu.path.display()))?;
    let stdout = child.stdout.take().context("QEMU has no standard output")?;
    let (sender, printed) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + TIME_LIMIT;
    let mut lines = Vec::new();
    loop {
        match printed.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = line.trim_end().to_owned();
                println!("{line}");
                lines.push(line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill().context("cannot end QEMU")?;
                child.wait().context("cannot wait for QEMU")?;
                bail!(
                    "the arm64 machine was switched off after {} s",
                    TIME_LIMIT.as_secs()
                );
            }
        }
    }
    let status = child.wait().context("cannot wait for QEMU")?;
    if !status.success() {
        bail!("QEMU failed ({status})");
    }
    fs::remove_file(&initramfs)
        .with_context(|| format!("cannot remove {}", initramfs.display()))?;
    Ok(lines)
}

fn put_together(toolchain: &Toolchain, lastmile: &Path, load: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", to.display());
    let mut files: Vec<(String, PathBuf)> = vec![
        ("/bin/busybox".to_owned(), toolchain.busybox()),
        ("/bin/lastmile".to_owned(), lastmile.to_owned()),
        ("/bin/load".to_owned(), load.to_owned()),
    ];
    for (number, module) in MODULES.into_iter().enumerate() {
        files.push((format!("/modules/{number}.ko"), toolchain.module(module)?));
    }
    for library in LIBRARIES {
        files.push((
            format!("/lib/{library}"),
            toolchain.libraries().join(library),
        ));
    }
    let mut archive = Archive::new(BufWriter::new(File::create(to).with_context(failed)?));
    for folder in FOLDERS {
        archive.directory(folder).with_context(failed)?;
    }
    archive
        .character_device("/dev/console", [5, 1])
        .with_context(failed)?;
    archive
        .file("/init", 0o755, INIT.as_bytes())
        .with_context(failed)?;
    archive
        .file("/etc/lastmile.toml", 0o644, CONFIG.as_bytes())
        .with_context(failed)?;
    archive
        .file("/www/download", 0o644, &vec![b'v'; DOWNLOAD as usize])
        .with_context(failed)?;
    for applet in APPLETS {
        archive
            .link(&format!("/bin/{applet}"), "busybox")
            .with_context(failed)?;
    }
    for (path, from) in files {
        let contents =
            fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        archive.file(&path, 0o755, &contents).with_context(failed)?;
    }
    archive.finish().with_context(failed)?;
    Ok(())
}
