//! Starts QEMU, reads what the guest's command prints, and ends it in time.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::{CPUS, Files, MEMORY_MIB, VmSpec, accel::Accelerator, last_lines};
use crate::{
    cache::Cache,
    kernel::KernelFiles,
    programs::{self, FoundProgram},
};

/// The kernel says only what matters; an oops is a panic, and a panic ends QEMU (`-no-reboot`).
/// Emulation makes mitigations dear, and nothing here is secret. It also makes the kernel distrust
/// the TSC and read the clock from a device instead, a hundred times slower.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet oops=panic panic=-1 rdinit=/init \
    mitigations=off tsc=reliable no_timer_check preempt=none random.trust_cpu=on";

/// Runs the machine until it switches itself off.
///
/// # Errors
/// When QEMU cannot be started or fails, or at the time limit.
pub fn run(
    cache: &Cache,
    kernel: &KernelFiles,
    spec: &VmSpec,
    accelerator: Accelerator,
    files: &Files,
    on_line: &mut dyn FnMut(&str),
) -> Result<()> {
    let qemu = programs::find(cache, "qemu-system-x86_64")?;
    let mut command = command(&qemu, kernel, spec, accelerator, files);
    // SAFETY: both calls are async-signal-safe and touch nothing of the parent's memory.
    unsafe {
        command.pre_exec(|| {
            // A guest whose timers are late because a compiler runs beside it has queues of its
            // own: measured with a load of 4, every RTT in it doubled. Real time at the lowest
            // priority cures that; where it is not allowed the machine runs as any program.
            let lowest = libc::sched_param { sched_priority: 1 };
            libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest);
            // Whatever ends this process, even SIGKILL, ends the machine as well.
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", qemu.path.display()))?;
    let stdout = child.stdout.take().context("QEMU has no standard output")?;
    let stderr = child.stderr.take().context("QEMU has no standard error")?;
    let mut machine = Machine(child);
    let complaints = thread::spawn(move || {
        let mut text = String::new();
        // Text that is not UTF-8 ends the reading; QEMU prints none.
        let _ = BufReader::new(stderr).read_to_string(&mut text);
        text
    });

    if relay(stdout, Instant::now() + spec.time_limit, on_line) == Relay::TimeLimit {
        bail!(
            "the virtual machine (Linux {}) was switched off after {} s; its last messages:\n{}",
            spec.kernel.version(),
            spec.time_limit.as_secs(),
            last_lines(&files.console, 20)
        );
    }
    let status = machine.0.wait().context("cannot wait for QEMU")?;
    let complaints = complaints.join().unwrap_or_default();
    if !status.success() {
        bail!("QEMU failed ({status}): {}", complaints.trim());
    }
    Ok(())
}

/// Kills QEMU when it goes out of scope, unless that has ended by itself.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a machine's output came to its end.
#[derive(Debug, PartialEq, Eq)]
enum Relay {
    Ended,
    TimeLimit,
}

/// Hands each line to `on_line` until the output ends, at the latest until the deadline.
fn relay(stdout: ChildStdout, deadline: Instant, on_line: &mut dyn FnMut(&str)) -> Relay {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let text = String::from_utf8_lossy(&line);
            if sender
                .send(text.trim_end_matches(['\r', '\n']).to_owned())
                .is_err()
            {
                break;
            }
            line.clear();
        }
    });
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Disconnected) => return Relay::Ended,
            Err(RecvTimeoutError::Timeout) => return Relay::TimeLimit,
        }
    }
}

fn command(
    qemu: &FoundProgram,
    kernel: &KernelFiles,
    spec: &VmSpec,
    accelerator: Accelerator,
    files: &Files,
) -> Command {
    let mut command = qemu.command();
    if let Some(root) = &qemu.root {
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(firmware));
        }
    }
    let mut kernel_arguments = KERNEL_ARGUMENTS.to_owned();
    for word in &spec.kernel_arguments {
        kernel_arguments.push(' ');
        kernel_arguments.push_str(word);
    }
    command
        .args(["-machine", "q35"])
        .args(accelerator.qemu_arguments())
        .args(["-m", &MEMORY_MIB.to_string(), "-smp", &CPUS.to_string()])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-nic", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&files.initramfs)
        .args(["-append", &kernel_arguments])
        .args(["-device", "virtio-serial-pci"])
        // Not `stdio`: that counts as closed, and blocks the guest, as soon as our input ends.
        .args(["-chardev", "file,id=output,path=/dev/stdout"])
        .args(port("output"))
        .arg("-serial")
        .arg(prefixed("file:", &files.console));
    let results = ("results".to_owned(), files.results.clone());
    let status = ("status".to_owned(), files.status.clone());
    for (name, path) in [results, status].iter().chain(&spec.streams) {
        command
            .arg("-chardev")
            .arg(prefixed(&format!("file,id={name},path="), path))
            .args(port(name));
    }
    command
}

/// A port that the guest knows by the name of its channel.
fn port(name: &str) -> [String; 2] {
    [
        "-device".to_owned(),
        format!("virtserialport,chardev={name},name={name}"),
    ]
}

/// QEMU takes a comma in a value when it is doubled.
fn prefixed(prefix: &str, path: &std::path::Path) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{prefix}{path}").into()
}
