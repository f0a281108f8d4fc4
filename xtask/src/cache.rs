//! The folder that holds everything downloaded, and how something gets into it whole or not at all.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::bpf_toolchain::{CACHE_VARIABLE, cache_root};

/// The cache root, see [`cache_root`].
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// # Errors
    /// When the environment names no place for it.
    pub fn locate() -> Result<Self> {
        let root = cache_root().with_context(|| {
            format!("no place for downloads: set {CACHE_VARIABLE} to a folder, or HOME")
        })?;
        let root = if root.is_absolute() {
            root
        } else {
            env::current_dir()
                .context("cannot tell the current folder")?
                .join(root)
        };
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Keeps other set-ups out until the result is dropped, and clears what an interrupted one left.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn lock(&self) -> Result<File> {
        let refused = || {
            format!(
                "cannot write the folder for downloads, {}: set {CACHE_VARIABLE} to one that can \
                 be written",
                self.root.display()
            )
        };
        fs::create_dir_all(&self.root).with_context(refused)?;
        let lock = File::create(self.path("lock")).with_context(refused)?;
        if lock.try_lock().is_err() {
            println!(
                "Waiting for another set-up that works in {} ...",
                self.root.display()
            );
            lock.lock().with_context(refused)?;
        }
        for entry in fs::read_dir(&self.root).with_context(refused)?.flatten() {
            if is_staging(&entry.file_name()) {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(lock)
    }

    /// An empty folder that [`Self::publish`] can give its name; the caller holds the lock.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn stage(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(&format!(".staging-{name}"));
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot empty {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// Gives a finished staging folder its name, in place of what had it: a folder with a final name
    /// is complete.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn publish(&self, staged: &Path, name: &str) -> Result<()> {
        let path = self.path(name);
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::rename(staged, &path)
            .with_context(|| format!("cannot rename {} to {}", staged.display(), path.display()))
    }
}

fn is_staging(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".staging-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Given a folder that was staged but never published, when a set-up starts anew, then the
    /// folder does not count and is cleared.
    #[test]
    fn an_interrupted_download_does_not_count() {
        let root = env::temp_dir().join(format!("lastmile-cache-test-{}", std::process::id()));
        let cache = Cache { root: root.clone() };
        let lock = cache.lock().unwrap();
        let staged = cache.stage("tools").unwrap();
        fs::write(staged.join("half"), "of a file").unwrap();
        drop(lock);

        assert!(!cache.path("tools").exists());
        let _lock = cache.lock().unwrap();
        assert!(!staged.exists());

        let staged = cache.stage("tools").unwrap();
        cache.publish(&staged, "tools").unwrap();
        assert!(cache.path("tools").is_dir());
        fs::remove_dir_all(root).unwrap();
    }
}
