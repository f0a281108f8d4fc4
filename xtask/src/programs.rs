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

/// The folder with [`wrappers`] in one of unpacked programs.
const WRAPPERS: &str = "wrappers";

/// Folders of programs that an ordinary user's `PATH` may lack.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/lib/frr"];

/// A program that is used on this machine or copied into virtual ones, and Debian's package of it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
    /// What a shell runs in its [`wrapper`](wrappers) where that is not the program's own file;
    /// `$root` is where it was unpacked.
    start: Option<&'static str>,
}

impl Program {
    const fn new(name: &'static str, package: &'static str) -> Self {
        Self {
            name,
            package,
            start: None,
        }
    }

    const fn started(name: &'static str, package: &'static str, start: &'static str) -> Self {
        Self {
            name,
            package,
            start: Some(start),
        }
    }
}

/// Programs that are obtained together.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Bundle {
    /// QEMU, and what goes into every machine.
    Machine,
    /// BGP daemons, readers of what they say and Prometheus, for tests, and for scenarios with
    /// routers.
    Routing,
    /// What makes real video, and the SSH that must not be taken for it.
    Video,
}

const MACHINE: [Program; 11] = [
    Program::new("qemu-system-x86_64", "qemu-system-x86"),
    Program::new("busybox", "busybox-static"),
    Program::new("bash", "bash"),
    Program::new("ip", "iproute2"),
    Program::new("tc", "iproute2"),
    Program::new("ss", "iproute2"),
    Program::new("nginx", "nginx"),
    Program::new("kill", "procps"),
    Program::new("systemctl", "systemd"),
    Program::new("journalctl", "systemd"),
    Program::new("systemd-analyze", "systemd"),
];

const ROUTING: [Program; 10] = [
    Program::new("gobgpd", "gobgpd"),
    // It looks for its modules where it would be installed.
    Program::started(
        "bgpd",
        "frr",
        "\"$root/usr/lib/frr/bgpd\" --moduledir \"$root/usr/lib/x86_64-linux-gnu/frr/modules\"",
    ),
    Program::new("zebra", "frr"),
    Program::new("bird", "bird2"),
    Program::new("birdc", "bird2"),
    Program::started(
        "python3-exabgp",
        "python3-exabgp",
        "env PYTHONPATH=\"$root/usr/lib/python3/dist-packages\" python3 -m exabgp.application.bgp",
    ),
    Program::new("pmbmpd", "pmacct"),
    Program::new("bgpdump", "bgpdump"),
    Program::new("prometheus", "prometheus"),
    Program::new("promtool", "prometheus"),
];

const VIDEO: [Program; 4] = [
    Program::new("ffmpeg", "ffmpeg"),
    Program::new("dropbear", "dropbear-bin"),
    Program::new("dbclient", "dropbear-bin"),
    Program::new("dropbearkey", "dropbear-bin"),
];

impl Bundle {
    pub const ALL: [Self; 3] = [Self::Machine, Self::Routing, Self::Video];

    /// The folder of the cache with these programs, unpacked.
    fn folder(self) -> &'static str {
        match self {
            Self::Machine => "programs",
            Self::Routing => "routing-programs",
            Self::Video => "video-programs",
        }
    }

    fn programs(self) -> &'static [Program] {
        match self {
            Self::Machine => &MACHINE,
            Self::Routing => &ROUTING,
            Self::Video => &VIDEO,
        }
    }

    /// The programs that are neither installed nor unpacked.
    pub fn missing(self, cache: &Cache) -> Vec<Program> {
        let programs = self.programs().iter().copied();
        programs
            .filter(|program| find(cache, program.name).is_err())
            .collect()
    }

    /// Downloads and unpacks what this machine lacks.
    ///
    /// # Errors
    /// When a package cannot be had.
    pub fn obtain(self, cache: &Cache, places: &mut Places<'_>) -> Result<()> {
        // Whatever this machine lacks, not only what an earlier set-up lacked: the folder is made
        // anew.
        let programs = self.programs().iter().copied();
        let packages = packages(programs.filter(|program| in_path(program.name).is_none()));
        places.find(&packages.join(", "), |apt| {
            for package in &packages {
                if apt.candidate(package)?.is_none() {
                    return Ok(None);
                }
            }
            let staged = cache.stage(self.folder())?;
            apt.unpack_with_dependencies(&packages, &staged)?;
            wrappers(&staged, self.programs())?;
            cache.publish(&staged, self.folder()).map(Some)
        })
    }
}

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

/// Where packages have their shared libraries, with the top-level links merged or not.
const LIBRARY_FOLDERS: [&str; 7] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    // Where programs of systemd and of FRR look by themselves when they are installed.
    "usr/lib/x86_64-linux-gnu/systemd",
    "usr/lib/x86_64-linux-gnu/frr",
    // Where an installation would choose among several, and where PulseAudio keeps its own; ffmpeg
    // is linked with all of them.
    "usr/lib/x86_64-linux-gnu/blas",
    "usr/lib/x86_64-linux-gnu/lapack",
    "usr/lib/x86_64-linux-gnu/pulseaudio",
];

/// Where unpacked packages have their shared libraries.
pub fn library_folders(root: &Path) -> Vec<PathBuf> {
    LIBRARY_FOLDERS
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
    Bundle::ALL
        .into_iter()
        .map(|bundle| cache.path(bundle.folder()))
        .find_map(|root| {
            Some(FoundProgram {
                path: unpacked(&root, name)?,
                root: Some(root),
            })
        })
        .or_else(|| in_path(name).map(|path| FoundProgram { path, root: None }))
        .with_context(|| format!("there is no {name}: run `cargo xtask setup`"))
}

/// The file of a program below the root of unpacked packages.
fn unpacked(root: &Path, name: &str) -> Option<PathBuf> {
    ["usr/sbin", "usr/bin", "sbin", "bin", "usr/lib/frr"]
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
        .chain(Bundle::ALL.map(|bundle| cache.path(bundle.folder()).join(WRAPPERS)));
    env::join_paths(folders).context("the cache's path has a colon")
}

/// Makes scripts that start the programs unpacked below `root` with their libraries, for those who
/// only know their names.
fn wrappers(root: &Path, programs: &[Program]) -> Result<()> {
    let folder = root.join(WRAPPERS);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let libraries = LIBRARY_FOLDERS.map(|below| format!("$root/{below}"));
    for program in programs {
        if let Some(path) = unpacked(root, program.name) {
            let file = path.strip_prefix(root).unwrap_or(&path).display();
            let start = program
                .start
                .map_or_else(|| format!("\"$root/{file}\""), str::to_owned);
            // Relative to itself, because `root` has yet to get its final name.
            let script = format!(
                "#!/bin/sh\n\
                 root=$(dirname \"$(readlink -f \"$0\")\")/..\n\
                 export LD_LIBRARY_PATH=\"{}\"\n\
                 export TC_LIB_DIR=\"{}/tc\"\n\
                 exec {start} \"$@\"\n",
                libraries.join(":"),
                libraries[0],
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

/// The packages that hold these programs, each once.
pub fn packages(programs: impl IntoIterator<Item = Program>) -> Vec<&'static str> {
    let packages: BTreeSet<_> = programs
        .into_iter()
        .map(|program| program.package)
        .collect();
    packages.into_iter().collect()
}
