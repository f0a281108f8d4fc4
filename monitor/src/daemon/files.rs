//! Notices that a file was replaced or rewritten, by looking at it.
//!
//! Looking works on every file system and with every way of replacing a file (`mv`, a symbolic
//! link, a rewrite in place, a container's mount), which inotify does not.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl Stamp {
    /// `None`: there is no such file, or it cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        })
    }
}

/// Files that are read together.
#[derive(Debug, Default)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// As they were when they were read.
    read: Vec<Option<Stamp>>,
    /// As they were at the last look.
    seen: Vec<Option<Stamp>>,
}

impl Files {
    /// Call before the files are read: what is written meanwhile is noticed.
    pub fn about_to_read(paths: Vec<PathBuf>) -> Self {
        let stamps: Vec<_> = paths.iter().map(|path| Stamp::of(path)).collect();
        Self {
            paths,
            read: stamps.clone(),
            seen: stamps,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Whether any of them is another one than was read, and has been as it is since the last
    /// call: a file that is being written is not read in the middle. Then they count as read.
    pub fn changed(&mut self) -> bool {
        let now: Vec<_> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        let settled = now == self.seen;
        self.seen = now;
        if settled && self.seen != self.read {
            self.read.clone_from(&self.seen);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_rewritten_or_removed_file_is_noticed_once_it_is_settled() {
        let folder = std::env::temp_dir().join(format!("lastmile-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let path = folder.join("prefixes.csv");
        std::fs::write(&path, "one").expect("written");
        let mut files = Files::about_to_read(vec![path.clone(), folder.join("other")]);
        assert!(!files.changed());

        let other = folder.join("new");
        std::fs::write(&other, "two").expect("written");
        std::fs::rename(&other, &path).expect("replaced");
        assert!(!files.changed(), "perhaps it is still written");
        assert!(files.changed());
        assert!(!files.changed());

        std::fs::write(&path, "three, longer").expect("rewritten");
        assert!(!files.changed());
        std::fs::write(&path, "three, and longer still").expect("rewritten");
        assert!(!files.changed(), "it went on");
        assert!(files.changed());

        std::fs::remove_file(&path).expect("removed");
        assert!(!files.changed());
        assert!(files.changed());
        let _ = std::fs::remove_dir_all(&folder);
    }
}
