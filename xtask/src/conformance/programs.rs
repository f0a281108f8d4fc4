//! tshark and tcptrace: found, or unpacked below the cache root.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    apt::Places,
    cache::Cache,
    process::output_of,
    programs::{in_path, library_folders},
};

/// The folder of the cache.
const FOLDER: &str = "analysers";

/// Debian's packages of them have their names.
const PROGRAMS: [&str; 2] = ["tshark", "tcptrace"];

/// Longer than either takes for a gigabyte; neither may hang on a broken capture.
const LIMIT_S: u32 = 600;

/// Where both are.
#[derive(Debug)]
pub struct Analysers {
    tshark: PathBuf,
    tcptrace: PathBuf,
    /// Root of the unpacked packages, if either is from there.
    root: PathBuf,
}

impl Analysers {
    /// Finds both: installed, else unpacked.
    ///
    /// # Errors
    /// When one is in neither place.
    pub fn find(cache: &Cache) -> Result<Self> {
        let root = cache.path(FOLDER);
        let find = |name: &str| {
            let unpacked = root.join("usr/bin").join(name);
            in_path(name)
                .or_else(|| unpacked.is_file().then_some(unpacked))
                .with_context(|| format!("there is no {name}: run `cargo xtask conformance`"))
        };
        Ok(Self {
            tshark: find("tshark")?,
            tcptrace: find("tcptrace")?,
            root,
        })
    }

    pub fn tshark(&self) -> Command {
        let mut command = self.command(&self.tshark);
        // An unpacked one would look where Debian installs its data.
        if self.is_unpacked(&self.tshark) {
            command.env("WIRESHARK_DATA_DIR", self.root.join("usr/share/wireshark"));
        }
        command
    }

    pub fn tcptrace(&self) -> Command {
        self.command(&self.tcptrace)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.arg(LIMIT_S.to_string()).arg(program);
        if self.is_unpacked(program) {
            let folders: OsString = library_folders(&self.root)
                .iter()
                .map(|folder| folder.as_os_str())
                .collect::<Vec<_>>()
                .join(":".as_ref());
            command.env("LD_LIBRARY_PATH", folders);
        }
        command
    }

    fn is_unpacked(&self, program: &Path) -> bool {
        program.starts_with(&self.root)
    }

    /// Their versions, for a report.
    ///
    /// # Errors
    /// When one does not run.
    pub fn versions(&self) -> Result<String> {
        let tshark = output_of(self.tshark().arg("--version"))?;
        // tcptrace prints its version with every run, and exits with 1 without a file.
        let tcptrace = self
            .tcptrace()
            .arg("-v")
            .output()
            .context("cannot run tcptrace")?;
        let text = [tcptrace.stdout, tcptrace.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let tcptrace = text
            .split_whitespace()
            .find(|word| {
                word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
            })
            .unwrap_or("of unknown version");
        let tshark = tshark
            .split_whitespace()
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
            .unwrap_or("of unknown version");
        Ok(format!(
            "tshark {}, tcptrace {}",
            tshark.trim_end_matches('.'),
            tcptrace.trim_end_matches(',')
        ))
    }
}

/// The packages to unpack.
pub fn missing(cache: &Cache) -> Vec<&'static str> {
    PROGRAMS
        .into_iter()
        .filter(|name| {
            in_path(name).is_none() && !cache.path(FOLDER).join("usr/bin").join(name).is_file()
        })
        .collect()
}

/// Downloads and unpacks what this machine lacks.
///
/// # Errors
/// When a package cannot be had.
pub fn obtain(cache: &Cache, places: &mut Places<'_>) -> Result<()> {
    let packages: Vec<_> = PROGRAMS
        .into_iter()
        .filter(|name| in_path(name).is_none())
        .collect();
    places.find(&packages.join(", "), |apt| {
        for package in &packages {
            if apt.candidate(package)?.is_none() {
                return Ok(None);
            }
        }
        let staged = cache.stage(FOLDER)?;
        apt.unpack_with_dependencies(&packages, &staged)?;
        cache.publish(&staged, FOLDER).map(Some)
    })
}
