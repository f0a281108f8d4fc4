//! What this project needs beyond Rust and a C linker, and how each thing is found and obtained.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{Apt, Places, output_of},
    bpf_toolchain::BpfToolchain,
    cache::Cache,
    cargo,
    kernel::Kernel,
};

/// The version of bpf-linker that was tried with LLVM 21 to 23.
const BPF_LINKER_VERSION: &str = "0.13.0";

/// The folder of the cache with unpacked programs, and the one in it with [`wrappers`].
const PROGRAMS_FOLDER: &str = "programs";
const WRAPPERS: &str = "wrappers";

/// Folders of programs that an ordinary user's `PATH` may lack.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// One thing that has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// A Rust compiler with the source of `core`, and bpf-linker.
    BpfToolchain,
    /// QEMU, and what goes into the machines it starts.
    Programs,
    Kernel(Kernel),
}

impl Requirement {
    pub fn all() -> Vec<Self> {
        [Self::BpfToolchain, Self::Programs]
            .into_iter()
            .chain(Kernel::ALL.map(Self::Kernel))
            .collect()
    }

    pub fn name(self) -> String {
        match self {
            Self::BpfToolchain => "BPF toolchain".to_owned(),
            Self::Programs => "programs".to_owned(),
            Self::Kernel(kernel) => format!("Linux {}", kernel.version()),
        }
    }

    /// What it is for and where it comes from, for someone who decides whether to let it happen.
    pub fn explanation(self, cache: &Cache) -> String {
        match self {
            Self::BpfToolchain => format!(
                "compiles the kernel side: Debian's rustc-web, rust-web-src and libllvm, and \
                 bpf-linker {BPF_LINKER_VERSION} from crates.io, built here"
            ),
            Self::Programs => format!(
                "for the virtual machine: {}",
                packages(missing_programs(cache)).join(", ")
            ),
            Self::Kernel(_) => "boots in the virtual machine: Debian's cloud kernel".to_owned(),
        }
    }

    /// What it takes to download, in megabytes (measured on Debian 12).
    pub fn download_mb(self) -> u32 {
        match self {
            Self::BpfToolchain => 140,
            Self::Programs => 19,
            Self::Kernel(kernel) => kernel.download_mb(),
        }
    }

    /// What it takes on disk, in megabytes (measured on Debian 12).
    pub fn disk_mb(self) -> u32 {
        match self {
            Self::BpfToolchain => 550,
            Self::Programs => 90,
            Self::Kernel(Kernel::V6_1) => 106,
            Self::Kernel(Kernel::V6_12) => 37,
        }
    }

    /// Quick: looks at files only.
    ///
    /// # Errors
    /// When a file that says what is there cannot be read.
    pub fn is_met(self, cache: &Cache) -> Result<bool> {
        match self {
            Self::BpfToolchain => Ok(BpfToolchain::read(cache.root())
                .with_context(|| BpfToolchain::file(cache.root()).display().to_string())?
                .is_some()),
            Self::Programs => Ok(missing_programs(cache).is_empty()),
            Self::Kernel(kernel) => Ok(kernel.files(cache).is_ok()),
        }
    }

    /// Downloads, unpacks and builds it.
    ///
    /// # Errors
    /// When that fails; then nothing of it counts as present.
    pub fn obtain(self, cache: &Cache, places: &mut Places<'_>) -> Result<()> {
        match self {
            Self::BpfToolchain => obtain_bpf_toolchain(cache, places),
            Self::Programs => obtain_programs(cache, places),
            Self::Kernel(kernel) => obtain_kernel(cache, places, kernel),
        }
    }

    /// Whether [`Self::obtain`] would ask apt.
    pub fn needs_apt(self) -> bool {
        self != Self::BpfToolchain || nightly().is_none()
    }

    /// What to type where [`Self::obtain`] cannot work because there is no apt.
    pub fn commands_without_apt(self, cache: &Cache) -> String {
        match self {
            Self::BpfToolchain => "rustup toolchain install nightly --component rust-src\n\
                 cargo install bpf-linker   # its README says which LLVM it needs"
                .to_owned(),
            Self::Programs => {
                let programs: Vec<_> = missing_programs(cache)
                    .into_iter()
                    .map(|program| program.name)
                    .collect();
                format!(
                    "# with your package manager, the packages that hold: {}",
                    programs.join(" ")
                )
            }
            Self::Kernel(kernel) => format!(
                "# from any Debian mirror: linux-image-{}*-cloud-amd64_*.deb\n\
                 mkdir -p {folder} && ar p FILE.deb data.tar.xz | tar -xJ -C {folder}",
                kernel.version(),
                folder = cache.path(&kernel.cache_name()).display()
            ),
        }
    }
}

/// A program that is used on this machine or copied into virtual ones, and Debian's package of it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
}

const PROGRAMS: [Program; 7] = [
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

    pub fn library_path(&self) -> Option<OsString> {
        let root = self.root.as_ref()?;
        env::join_paths(library_folders(root)).ok()
    }
}

/// Where unpacked packages have their shared libraries, with the top-level links merged or not.
fn library_folders(root: &Path) -> Vec<PathBuf> {
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .into_iter()
        .map(|below| root.join(below))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// Finds a program among the unpacked packages, else on this machine.
///
/// # Errors
/// When it is in neither place.
pub fn find_program(cache: &Cache, name: &str) -> Result<FoundProgram> {
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

/// Makes scripts that start the programs unpacked in `staged`, which will be `root`, with their
/// libraries, for those who only know their names.
fn wrappers(staged: &Path, root: &Path) -> Result<()> {
    let folder = staged.join(WRAPPERS);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let below = |path: PathBuf| match path.strip_prefix(staged) {
        Ok(path) => root.join(path),
        Err(_) => path,
    };
    let libraries = env::join_paths(library_folders(staged).into_iter().map(below))
        .context("the cache's path has a colon")?;
    for program in PROGRAMS {
        if let Some(path) = unpacked(staged, program.name) {
            let script = format!(
                "#!/bin/sh\nLD_LIBRARY_PATH='{}' TC_LIB_DIR='{}' exec '{}' \"$@\"\n",
                libraries.display(),
                root.join("usr/lib/x86_64-linux-gnu/tc").display(),
                below(path).display()
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

fn missing_programs(cache: &Cache) -> Vec<Program> {
    PROGRAMS
        .into_iter()
        .filter(|program| find_program(cache, program.name).is_err())
        .collect()
}

/// The packages that hold these programs, each once.
fn packages(programs: impl IntoIterator<Item = Program>) -> Vec<&'static str> {
    let packages: BTreeSet<_> = programs
        .into_iter()
        .map(|program| program.package)
        .collect();
    packages.into_iter().collect()
}

fn obtain_programs(cache: &Cache, places: &mut Places<'_>) -> Result<()> {
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
        wrappers(&staged, &cache.path(PROGRAMS_FOLDER))?;
        cache.publish(&staged, PROGRAMS_FOLDER).map(Some)
    })
}

fn obtain_kernel(cache: &Cache, places: &mut Places<'_>, kernel: Kernel) -> Result<()> {
    let prefix = format!("linux-image-{}.", kernel.version());
    places.find(&format!("{prefix}*-cloud-amd64"), |apt| {
        // linux-image-6.1.0-56-cloud-amd64, not its -dbg and -unsigned companions.
        let mut releases: Vec<_> = apt
            .names(&prefix)?
            .into_iter()
            .filter(|name| name.ends_with("-cloud-amd64"))
            .collect();
        releases.sort_by_key(|name| numbers(name));
        for package in releases.iter().rev() {
            if apt.candidate(package)?.is_some() {
                let staged = cache.stage("linux")?;
                apt.unpack_alone(package, &staged)?;
                return cache.publish(&staged, &kernel.cache_name()).map(Some);
            }
        }
        Ok(None)
    })
}

/// The numbers in a package's name, so that 6.12.100 sorts after 6.12.99.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// First the usual way, if all of it is here; else Debian's packages, unpacked.
fn obtain_bpf_toolchain(cache: &Cache, places: &mut Places<'_>) -> Result<()> {
    let toolchain = match nightly() {
        Some(toolchain) => toolchain,
        None => debian_toolchain(cache, places)?,
    };
    let mut text = format!(
        "rustc={}\nlinker={}\n",
        toolchain.rustc.display(),
        toolchain.linker.display()
    );
    if let Some(cargo) = &toolchain.cargo {
        text.push_str(&format!("cargo={}\n", cargo.display()));
    }
    let libraries =
        env::join_paths(&toolchain.libraries).context("the cache's path has a colon")?;
    if !libraries.is_empty() {
        text.push_str(&format!("libraries={}\n", libraries.display()));
    }
    let file = BpfToolchain::file(cache.root());
    let staged = file.with_extension("new");
    fs::write(&staged, text)
        .and_then(|()| fs::rename(&staged, &file))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// A nightly toolchain with `rust-src`, and bpf-linker in `PATH`.
fn nightly() -> Option<BpfToolchain> {
    let linker = in_path("bpf-linker")?;
    let which = |program| {
        output_of(Command::new("rustup").args(["which", "--toolchain", "nightly", program]))
            .ok()
            .map(|path| PathBuf::from(path.trim()))
    };
    let rustc = which("rustc")?;
    let cargo = which("cargo")?;
    let sysroot = rustc.parent()?.parent()?;
    sysroot
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
        .then(|| BpfToolchain {
            rustc: rustc.clone(),
            cargo: Some(cargo),
            linker,
            libraries: Vec::new(),
        })
}

fn debian_toolchain(cache: &Cache, places: &mut Places<'_>) -> Result<BpfToolchain> {
    const COMPILER: &str = "rustc-bpf";
    let root = cache.path(COMPILER);
    if !root.is_dir() {
        println!("  downloading and unpacking the compiler");
        let staged = cache.stage(COMPILER)?;
        places.find("rustc-web", |apt| {
            if apt.candidate("rustc-web")?.is_none() {
                return Ok(None);
            }
            debian_compiler(apt, &staged).map(Some)
        })?;
        cache.publish(&staged, COMPILER)?;
    }
    let libraries = library_folders(&root);
    let llvm = llvm_version(&libraries)?;

    let linker = cache.path("bpf-linker").join("bin/bpf-linker");
    println!("  building bpf-linker {BPF_LINKER_VERSION} for LLVM {llvm}");
    let staged = cache.stage("bpf-linker")?;
    let library_path = env::join_paths(&libraries).context("the cache's path has a colon")?;
    // It is found by its path, so cargo need not warn that it is not in PATH.
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(staged.join("bin")).chain(env::split_paths(&path)))
        .context("the cache's path has a colon")?;
    let status = cargo::command()
        .args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER_VERSION,
            "--locked",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
            "--root",
        ])
        .arg(&staged)
        .current_dir(&staged)
        .env("LLVM_PREFIX", root.join("llvm"))
        .env("LD_LIBRARY_PATH", library_path)
        .env("PATH", path)
        // LLVM does the work: optimising what is around it only makes the set-up longer.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo install bpf-linker failed ({status}); its messages are above");
    }
    cache.publish(&staged, "bpf-linker")?;
    Ok(BpfToolchain {
        rustc: root.join("usr/bin/rustc"),
        cargo: None,
        linker,
        libraries,
    })
}

/// Debian's rustc with the source of its library, the LLVM it is built on, and nothing else.
fn debian_compiler(apt: &Apt, staged: &Path) -> Result<()> {
    apt.unpack_with_dependencies(&["rustc-web", "rust-web-src"], staged)?;
    // Only `library` is compiled for BPF; the compiler's own source is four times its size.
    let source = staged.join("usr/lib/rustlib/src/rust");
    for unused in ["src", "compiler"] {
        let path = source.join(unused);
        if path.is_dir() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    // bpf-linker's build looks for PREFIX/lib/libLLVM.so; the package that has this link is
    // 50 MB of headers and archives.
    let libraries = library_folders(staged);
    let library = libraries
        .iter()
        .find_map(|folder| libllvm(folder))
        .context("rustc-web came without libLLVM.so")?;
    let lib = staged.join("llvm/lib");
    let target = library.strip_prefix(staged).unwrap_or(&library);
    fs::create_dir_all(&lib)
        .and_then(|()| symlink(Path::new("../..").join(target), lib.join("libLLVM.so")))
        .with_context(|| format!("cannot make a link in {}", lib.display()))
}

/// The file `libLLVM.so.22.1` in a folder.
fn libllvm(folder: &Path) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so."))
        })
}

/// The major version in that name.
fn llvm_version(folders: &[PathBuf]) -> Result<u32> {
    folders
        .iter()
        .find_map(|folder| {
            let file = libllvm(folder)?;
            let name = file.file_name()?.to_str()?;
            let version = name.strip_prefix("libLLVM.so.")?;
            version.split('.').next()?.parse().ok()
        })
        .context("the unpacked compiler came without libLLVM.so.VERSION")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_sort_as_numbers() {
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
