//! Programs of other people that run here or in virtual machines: installed, or unpacked.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{apt::Places, cache::Cache};

/// The folder of the cache with unpacked programs, and the one in it with [`wrappers`].
const PROGRAMS_FOLDER: &str = "programs";
const WRAPPERS: &str = "wrappers";

/// Folders of programs that an ordinary user's `PATH` may lack.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A program that is used on this machine or copied into virtual ones, and Debian's package of it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
}

const PROGRAMS: [Program; 11] = [
    Program {
        name: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Program {
        name: "busybox",
        package: "busybox-static",
    },
    Program {
        name: "bash",
        package: "bash",
    },
    Program {
        name: "ip",
        package: "iproute2",
    },
    Program {
        name: "tc",
        package: "iproute2",
    },
    Program {
        name: "ss",
        package: "iproute2",
    },
    Program {
        name: "nginx",
        package: "nginx",
    },
    Program {
        name: "kill",
        package: "procps",
    },
    Program {
        name: "systemctl",
        package: "systemd",
    },
    Program {
        name: "journalctl",
        package: "systemd",
    },
    Program {
        name: "systemd-analyze",
        package: "systemd",
    },
];

/// A program that was found.
#[derive(Debug, Clone)]
pub struct FoundProgram {
    pub path: PathBuf,
    /// The root of the unpacked packages it belongs to; `None` for one that is installed.
    pub root: Option<PathBuf>,
}

impl FoundProgram {
    /// Ready to run here, with its libraries.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(paths) = self.library_path() {
            command.env("LD_LIBRARY_PATH", paths);
        }
        command
    }

    /// Another program of the same packages.
    pub fn beside(&self, path: PathBuf) -> Self {
        Self {
            path,
            root: self.root.clone(),
        }
    }

    pub fn library_path(&self) -> Option<OsString> {
        let root = self.root.as_ref()?;
        env::join_paths(library_folders(root)).ok()
    }
}

/// Where unpacked packages have their shared libraries, with the top-level links merged or not.
pub fn library_folders(root: &Path) -> Vec<PathBuf> {
    [
        "usr/lib/x86_64-linux-gnu",
        "lib/x86_64-linux-gnu",
        // Where systemd's programs look by themselves when they are installed.
        "usr/lib/x86_64-linux-gnu/systemd",
    ]
    .into_iter()
    .map(|below| root.join(below))
    .filter(|folder| folder.is_dir())
    .collect()
}

/// Finds a program among the unpacked packages, else on this machine.
///
/// # Errors
/// When it is in neither place.
pub fn find(cache: &Cache, name: &str) -> Result<FoundProgram> {
    let root = cache.path(PROGRAMS_FOLDER);
    unpacked(&root, name)
        .map(|path| FoundProgram {
            path,
            root: Some(root.clone()),
        })
        .or_else(|| in_path(name).map(|path| FoundProgram { path, root: None }))
        .with_context(|| format!("there is no {name}: run `cargo xtask setup`"))
}

/// The file of a program below the root of unpacked packages.
fn unpacked(root: &Path, name: &str) -> Option<PathBuf> {
    ["usr/sbin", "usr/bin", "sbin", "bin"]
        .into_iter()
        .map(|below| root.join(below).join(name))
        .find(|path| path.is_file())
}

/// `PATH` for tests on this machine: what is installed, then what is unpacked.
///
/// # Errors
/// When the cache's path has a colon.
pub fn path_with_programs(cache: &Cache) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.map(PathBuf::from))
        .chain([cache.path(PROGRAMS_FOLDER).join(WRAPPERS)]);
    env::join_paths(folders).context("the cache's path has a colon")
}

/// Makes scripts that start the programs unpacked below `root` with their libraries, for those who
/// only know their names.
fn wrappers(root: &Path) -> Result<()> {
    let folder = root.join(WRAPPERS);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for program in PROGRAMS {
        if let Some(path) = unpacked(root, program.name) {
            // Relative to itself, because `root` has yet to get its final name.
            let script = format!(
                "#!/bin/sh\n\
                 root=$(dirname \"$(readlink -f \"$0\")\")/..\n\
                 libraries=$root/usr/lib/x86_64-linux-gnu\n\
                 export LD_LIBRARY_PATH=\"$libraries:$root/lib/x86_64-linux-gnu:$libraries/systemd\"\n\
                 TC_LIB_DIR=\"$libraries/tc\" exec \"$root/{}\" \"$@\"\n",
                path.strip_prefix(root).unwrap_or(&path).display()
            );
            let wrapper = folder.join(program.name);
            fs::write(&wrapper, script)
                .and_then(|()| fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {}", wrapper.display()))?;
        }
    }
    Ok(())
}

/// Looks in `PATH` and [`SYSTEM_FOLDERS`].
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The programs that are neither installed nor unpacked.
pub fn missing(cache: &Cache) -> Vec<Program> {
    PROGRAMS
        .into_iter()
        .filter(|program| find(cache, program.name).is_err())
        .collect()
}

/// The packages that hold these programs, each once.
pub fn packages(programs: impl IntoIterator<Item = Program>) -> Vec<&'static str> {
    let packages: BTreeSet<_> = programs
        .into_iter()
        .map(|program| program.package)
        .collect();
    packages.into_iter().collect()
}

/// Downloads and unpacks what this machine lacks.
///
/// # Errors
/// When a package cannot be had.
pub fn obtain(cache: &Cache, places: &mut Places<'_>) -> Result<()> {
    // Whatever this machine lacks, not only what an earlier set-up lacked: the folder is made anew.
    let packages = packages(
        PROGRAMS
            .into_iter()
            .filter(|program| in_path(program.name).is_none()),
    );
    places.find(&packages.join(", "), |apt| {
        for package in &packages {
            if apt.candidate(package)?.is_none() {
                return Ok(None);
            }
        }
        let staged = cache.stage(PROGRAMS_FOLDER)?;
        apt.unpack_with_dependencies(&packages, &staged)?;
        wrappers(&staged)?;
        cache.publish(&staged, PROGRAMS_FOLDER).map(Some)
    })
}
