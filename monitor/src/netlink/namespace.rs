//! Network namespaces: which one this is, and work in another one.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    thread,
};

use anyhow::{Context as _, Result, anyhow};

/// Where namespaces that have names are (`ip netns`, `NetworkNamespacePath=`).
const NAMED: &str = "/run/netns";
const PROCESSES: &str = "/proc";

/// The inode number of this thread's network namespace, which no other one has while it lives.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn current() -> Result<u64> {
    let metadata = fs::metadata("/proc/thread-self/ns/net").context("cannot read /proc")?;
    Ok(metadata.ino())
}

/// Does `work` in the namespace with this inode number, in a thread of its own. `None`: none with a
/// name in `/run/netns` has it, nor that of a process which this one may look at.
///
/// # Errors
/// Those of `work`, and when the namespace cannot be entered, which needs CAP_SYS_ADMIN.
pub fn within<T: Send>(number: u64, work: impl FnOnce() -> Result<T> + Send) -> Result<Option<T>> {
    let Some(namespace) = found(number) else {
        return Ok(None);
    };
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // SAFETY: a descriptor that is open; of this process only this thread goes there.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                let error = std::io::Error::last_os_error();
                return Err(error).context("cannot enter a network namespace");
            }
            work()
        });
        let result = worker.join().map_err(|_| anyhow!("a thread panicked"))?;
        result.map(Some)
    })
}

fn found(number: u64) -> Option<File> {
    let below = |folder| fs::read_dir(folder).into_iter().flatten().flatten();
    let named = below(NAMED).map(|entry| entry.path());
    // Others last as long as a process that is in them.
    let of_processes = below(PROCESSES).map(|entry| entry.path().join("ns/net"));
    named
        .chain(of_processes)
        .filter_map(|path| File::open(path).ok())
        .find(|file| {
            file.metadata()
                .is_ok_and(|metadata| metadata.ino() == number)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_no_namespace_has_is_none() {
        let found = within(u64::MAX, || -> Result<()> { unreachable!("there is none") });
        assert!(found.expect("looked for").is_none());
    }
}
