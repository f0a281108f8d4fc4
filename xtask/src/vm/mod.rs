//! Virtual machines that run one command: a kernel, an initramfs of our own, QEMU.
//!
//! The command's output comes out live, what it leaves in `/out` is copied to a folder here, and
//! its exit status comes back. A panic, an oops, the time limit or the end of this process ends the
//! machine at once.

mod accel;
mod archive;
pub mod command;
mod initramfs;
mod modules;
mod qemu;
mod systemd;

pub use archive::Archive;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{cache::Cache, kernel::Kernel, process::output_of};

/// The first process of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Init {
    /// A script that prepares the machine and runs the command.
    #[default]
    Script,
    /// systemd: the command runs as a service of it, on a file system that is not the kernel's
    /// first one, so that services can have views of their own.
    Systemd,
}

/// What to boot, what to put into it and what to run.
pub struct VmSpec {
    pub kernel: Kernel,
    pub init: Init,
    /// Words added to the kernel's command line.
    pub kernel_arguments: Vec<String>,
    /// The program, found in /bin, and its arguments.
    pub command: Vec<String>,
    /// Variables for the command.
    pub environment: Vec<(String, String)>,
    /// Programs that go into /bin under their own names, with the shared libraries they need.
    pub binaries: Vec<PathBuf>,
    /// Other files: where each is here, and where it goes.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Whether the programs of BGP routers go into /bin, too; they are a third of a machine.
    pub routers: bool,
    /// Whether the HLS ladder goes to [`VIDEO`], and an SSH server and its client into /bin.
    pub video: bool,
    /// Files here that receive, live, what the command writes to `/dev/virtio-ports/NAME`.
    pub streams: Vec<(String, PathBuf)>,
    /// Whether times are measured in it: emulated machines disturb each other's clocks, and a
    /// scenario's queues with them.
    pub alone: bool,
    /// From the start of QEMU to its end.
    pub time_limit: Duration,
    /// Receives the contents of the guest's `/out`, and `console.log`, the kernel's messages.
    pub out_dir: PathBuf,
}

/// Where the guest finds the HLS ladder.
pub const VIDEO: &str = "/video";

/// The memory of a machine, in MiB: the lab's namespaces and queues take a third of it.
const MEMORY_MIB: u32 = 1536;

/// Processors of a machine.
const CPUS: u32 = 2;

/// Boots, runs the command and hands each line of its output to `on_line`; returns its exit status.
/// A machine that wants to be alone waits for all others, and they for it.
///
/// # Errors
/// When the machine could not be started, did not end in time or its kernel failed.
pub fn run(cache: &Cache, spec: &VmSpec, on_line: &mut dyn FnMut(&str)) -> Result<i32> {
    let _turn = await_turn(cache, spec.alone)?;
    let accelerator = accel::choose(cache, spec.kernel)?;
    run_with(cache, spec, accelerator, on_line)
}

/// Keeps machines that disturb this one waiting until the result is dropped.
fn await_turn(cache: &Cache, alone: bool) -> Result<File> {
    let path = cache.path("machine.lock");
    let refused = || format!("cannot lock {}", path.display());
    let lock = File::create(&path).with_context(refused)?;
    let at_once = if alone {
        lock.try_lock()
    } else {
        lock.try_lock_shared()
    };
    if at_once.is_err() {
        println!("Waiting for another virtual machine to end ...");
        if alone {
            lock.lock()
        } else {
            lock.lock_shared()
        }
        .with_context(refused)?;
    }
    Ok(lock)
}

fn run_with(
    cache: &Cache,
    spec: &VmSpec,
    accelerator: accel::Accelerator,
    on_line: &mut dyn FnMut(&str),
) -> Result<i32> {
    let out_dir = &spec.out_dir;
    fs::create_dir_all(out_dir).with_context(|| format!("cannot create {}", out_dir.display()))?;
    let files = Files::below(out_dir);
    let kernel = spec.kernel.files(cache)?;
    initramfs::build(cache, &kernel, spec, &files.initramfs)?;
    let outcome = qemu::run(cache, &kernel, spec, accelerator, &files, on_line);
    fs::remove_file(&files.initramfs)
        .with_context(|| format!("cannot remove {}", files.initramfs.display()))?;
    // What there is of them, however the machine ended.
    files.take_results(out_dir)?;
    let status = files.take_status()?;
    match (outcome, status) {
        (Ok(()), Some(status)) => Ok(status),
        (Ok(()), None) => bail!(
            "the virtual machine (Linux {}) ended before its command did; the end of {}:\n{}",
            spec.kernel.version(),
            files.console.display(),
            last_lines(&files.console, 40)
        ),
        (Err(error), _) => Err(error.context(format!(
            "the kernel's messages are in {}",
            files.console.display()
        ))),
    }
}

/// What QEMU reads and writes.
struct Files {
    initramfs: PathBuf,
    /// The serial line: the kernel's messages.
    console: PathBuf,
    /// A tar archive of the guest's /out.
    results: PathBuf,
    /// The exit status, in decimal.
    status: PathBuf,
}

impl Files {
    fn below(folder: &Path) -> Self {
        Self {
            initramfs: folder.join(".initramfs"),
            console: folder.join("console.log"),
            results: folder.join(".results.tar"),
            status: folder.join(".status"),
        }
    }

    fn take_results(&self, out_dir: &Path) -> Result<()> {
        if fs::metadata(&self.results).is_ok_and(|metadata| metadata.len() > 0) {
            let mut tar = Command::new("tar");
            tar.arg("-xf").arg(&self.results).arg("-C").arg(out_dir);
            output_of(tar.args(["--no-same-owner", "--no-overwrite-dir"]))
                .context("the files that the virtual machine left cannot be unpacked")?;
        }
        remove_if_there(&self.results)
    }

    fn take_status(&self) -> Result<Option<i32>> {
        let status = fs::read_to_string(&self.status).unwrap_or_default();
        remove_if_there(&self.status)?;
        match status.trim() {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .with_context(|| format!("not an exit status: {text:?}")),
        }
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn last_lines(path: &Path, count: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
