//! Network namespaces: building the plan's, and running code inside one.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::addresses::EDGE;
use crate::plan::Plan;
use crate::routes::Source;
use crate::wiring::Namespace;

/// Where iproute2 keeps named namespaces.
const NETNS: &str = "/run/netns";

/// Creates every namespace, link, address, route and queue of the plan.
///
/// # Errors
/// If `ip` or `tc` is missing or refuses a line; the message holds the line and its answer.
pub fn build(plan: &Plan) -> Result<()> {
    batch("ip", None, &plan.links())?;
    let namespaces = plan.namespaces();
    let (routers, homes) = namespaces.split_at(namespaces.len() - plan.homes.len());
    // In order: a router may make another's devices.
    routers.iter().try_for_each(configure)?;
    if plan.routes == Source::Kernel {
        // Else each device of the edge answers for all of its addresses, and which one a packet
        // comes in by is chance.
        set_sysctl(EDGE, "net/ipv4/conf/all/arp_ignore", "1")?;
    }
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let share = homes.len().div_ceil(workers);
    thread::scope(|scope| {
        let threads: Vec<_> = homes
            .chunks(share)
            .map(|homes| scope.spawn(|| homes.iter().try_for_each(configure)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread that sets up homes panicked"),
            })
    })
}

/// Removes every namespace of the plan that is there, and with them all links.
///
/// # Errors
/// If `ip` is missing or refuses one.
pub fn remove(plan: &Plan) -> Result<()> {
    let namespaces = plan.namespaces();
    let there = namespaces
        .iter()
        .filter(|namespace| Path::new(NETNS).join(&namespace.name).exists());
    let lines: Vec<String> = there
        .map(|namespace| format!("netns del {}", namespace.name))
        .collect();
    batch("ip", None, &lines)
}

fn configure(namespace: &Namespace) -> Result<()> {
    let set_up = || {
        if namespace.forwards {
            set_sysctl(&namespace.name, "net/ipv4/ip_forward", "1")?;
        }
        batch("ip", Some(&namespace.name), &namespace.ip)?;
        batch("tc", Some(&namespace.name), &namespace.tc)
    };
    set_up().with_context(|| format!("cannot set up the namespace {}", namespace.name))
}

/// Sets a kernel parameter below `/proc/sys` for one namespace.
///
/// # Errors
/// If the namespace or the parameter is missing, or the value is refused.
pub fn set_sysctl(namespace: &str, key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(key);
    let text = value.to_owned();
    let write = enter(namespace, move || {
        std::fs::write(&path, &text)
            .with_context(|| format!("cannot write {text:?} to {}", path.display()))
    })?;
    join(write)
}

/// Runs `work` in a thread of its own inside the namespace. Sockets and processes that it starts
/// belong to the namespace for as long as they live.
///
/// # Errors
/// If there is no such namespace, or no thread. Failing to enter it is the thread's error.
pub fn enter<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let path = Path::new(NETNS).join(namespace);
    let file = File::open(&path)
        .with_context(|| format!("cannot open the network namespace {}", path.display()))?;
    thread::Builder::new()
        .name(namespace.to_owned())
        .spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {}", path.display()))?;
            work()
        })
        .context("cannot start a thread")
}

/// Waits for a thread of [`enter`].
///
/// # Errors
/// The thread's own, or that it panicked.
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    let name = thread.thread().name().unwrap_or("unnamed").to_owned();
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("the thread in the namespace {name} panicked"),
    }
}

/// Feeds lines to `ip -batch` or `tc -batch`: one process for all of them, because starting one
/// takes 75 ms under emulation.
///
/// # Errors
/// If the tool is missing or refuses a line; the message holds the lines and its answer.
pub fn batch(tool: &str, namespace: Option<&str>, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(tool);
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {tool} (Debian package iproute2)"))?;
    let text = lines.join("\n") + "\n";
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(text.as_bytes()),
        None => Ok(()),
    };
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot await {tool}"))?;
    if output.status.success() {
        return written.with_context(|| format!("cannot write to {tool}"));
    }
    bail!(
        "{tool} -batch failed: {}\nits input was:\n{text}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
}
