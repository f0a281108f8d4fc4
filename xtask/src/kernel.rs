//! The kernels that virtual machines boot: Debian's builds for cloud machines, unpacked, never
//! installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::cache::Cache;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// Linux 6.1: TC programs are attached through clsact
    #[default]
    #[value(name = "6.1")]
    V6_1,
    /// Linux 6.12: TC programs are attached through TCX
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    pub fn version(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Its folder in the cache.
    pub fn cache_name(self) -> String {
        format!("linux-{}", self.version())
    }

    /// What the download of its package takes, in megabytes (6.1.192 and 6.12.117).
    pub fn download_mb(self) -> u32 {
        match self {
            Self::V6_1 => 27,
            Self::V6_12 => 34,
        }
    }

    /// The boot image and the folder with `kernel/`, the modules.
    ///
    /// # Errors
    /// When the unpacked package does not look as expected.
    pub fn files(self, cache: &Cache) -> Result<KernelFiles> {
        let root = cache.path(&self.cache_name());
        let image = only_entry(&root.join("boot"), "vmlinuz-")?;
        // With the two top-level links merged or not.
        let modules = ["lib/modules", "usr/lib/modules"]
            .into_iter()
            .map(|below| root.join(below))
            .find(|path| path.is_dir())
            .with_context(|| format!("{} has no lib/modules", root.display()))?;
        Ok(KernelFiles {
            image,
            modules: only_entry(&modules, "")?,
        })
    }
}

pub struct KernelFiles {
    pub image: PathBuf,
    pub modules: PathBuf,
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .with_context(|| {
            format!(
                "{} holds no {prefix}*: remove the folder above it and run `cargo xtask setup`",
                folder.display()
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_named_by_its_version_on_the_command_line() {
        for kernel in Kernel::ALL {
            assert_eq!(
                Kernel::from_str(kernel.version(), false).as_ref(),
                Ok(&kernel)
            );
        }
    }
}
