//! The kernels that virtual machines boot: Debian's builds for cloud machines, unpacked, never
//! installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    apt::{Apt, Places},
    cache::Cache,
};

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

    /// Unpacks the newest release.
    ///
    /// # Errors
    /// When no release can be had.
    pub fn obtain(self, cache: &Cache, places: &mut Places<'_>) -> Result<()> {
        let prefix = format!("linux-image-{}.", self.version());
        places.find(&format!("{prefix}*-cloud-amd64"), |apt| {
            let Some(package) = newest_cloud_image(apt, self.version(), "amd64")? else {
                return Ok(None);
            };
            let staged = cache.stage("linux")?;
            apt.unpack_alone(&package, &staged)?;
            cache.publish(&staged, &self.cache_name()).map(Some)
        })
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

/// The package of the newest cloud kernel of this version that can be had.
///
/// # Errors
/// When apt fails.
pub fn newest_cloud_image(apt: &Apt, version: &str, architecture: &str) -> Result<Option<String>> {
    // linux-image-6.1.0-56-cloud-amd64, not its -dbg and -unsigned companions.
    let ending = format!("-cloud-{architecture}");
    let mut releases: Vec<_> = apt
        .names(&format!("linux-image-{version}."))?
        .into_iter()
        .filter(|name| name.ends_with(&ending))
        .collect();
    releases.sort_by_key(|name| numbers(name));
    for name in releases.iter().rev() {
        let package = format!("{name}:{architecture}");
        if apt.candidate(&package)?.is_some() {
            return Ok(Some(package));
        }
    }
    Ok(None)
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

/// The numbers in a package's name, so that 6.12.100 sorts after 6.12.99.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
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

    #[test]
    fn releases_sort_as_numbers() {
        let mut names = [
            "linux-image-6.12.100+deb12-cloud-amd64",
            "linux-image-6.12.99+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names[2], "linux-image-6.12.117+deb12-cloud-amd64");
        assert_eq!(names[0], "linux-image-6.12.99+deb12-cloud-amd64");
    }
}
