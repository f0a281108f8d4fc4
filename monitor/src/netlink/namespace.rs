//! Network namespaces: which one this is, and work in another one.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result, anyhow};

/// Where namespaces that have names are (`ip netns`, `NetworkNamespacePath=`).
const NAMED: &str = "/run/netns";

/// The inode number of this thread's network namespace, which no other one has while it lives.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn current() -> Result<u64> {
    let metadata = fs::metadata("/proc/thread-self/ns/net").context("cannot read /proc")?;
    Ok(metadata.ino())
}

/// Does `work` in the namespace with this inode number, in a thread of its own. `None`: none has it
/// that has a name in `/run/netns`.
///
/// # Errors
/// Those of `work`, and when the namespace cannot be entered, which needs CAP_SYS_ADMIN.
pub fn within<T: Send>(number: u64, work: impl FnOnce() -> Result<T> + Send) -> Result<Option<T>> {
    let Some(namespace) = named(number) else {
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

fn named(number: u64) -> Option<File> {
    let entries = fs::read_dir(Path::new(NAMED)).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let file = File::open(entry.path()).ok()?;
        let metadata = file.metadata().ok()?;
        (metadata.ino() == number).then_some(file)
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
