//! A cross compiler for arm64, Rust's library for it, and what boots it: Debian's packages, unpacked.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{Apt, Places},
    bpf_toolchain::BpfToolchain,
    cache::Cache,
    cargo::{self, Executable},
    kernel::newest_cloud_image,
    process::output_of,
    programs::{FoundProgram, library_folders},
};

const ARCHITECTURE: &str = "arm64";
const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Packages of this machine's own architecture.
const PACKAGES: [&str; 3] = [
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "qemu-system-arm",
];
/// Scripts that give a program its libraries: cargo and build scripts run it by its path.
const WRAPPED: [&str; 3] = ["gcc", "ar", "strip"];
/// Where the compiler's own libraries are.
const LIBRARIES: &str = "usr/aarch64-linux-gnu/lib";

pub struct Toolchain {
    root: PathBuf,
    rustc: BpfToolchain,
}

/// Downloads and unpacks it, if it is not there.
///
/// # Errors
/// When a package cannot be had.
pub fn ensure(cache: &Cache) -> Result<Toolchain> {
    let rustc = BpfToolchain::read(cache.root())?.context("there is no compiler for BPF")?;
    let compiler = cache.path("rustc-bpf");
    if !rustc.rustc.starts_with(&compiler) {
        bail!(
            "this machine compiles with rustup's {}: `rustup target add {TARGET}` and a C compiler \
             for it are all that `cargo build --target {TARGET}` needs",
            rustc.rustc.display()
        );
    }
    let version = version(&compiler)?;
    // Its library fits one compiler only.
    let folder = format!("arm64-{version}");
    let toolchain = Toolchain {
        root: cache.path(&folder),
        rustc,
    };
    if toolchain.root.is_dir() {
        return Ok(toolchain);
    }
    let _lock = cache.lock()?;
    println!(
        "Downloading 130 MB (790 MB on disk), unpacked into {}: {}, and of {ARCHITECTURE} Rust's \
         library, busybox and Linux",
        toolchain.root.display(),
        PACKAGES.join(", ")
    );
    let staged = cache.stage(&folder)?;
    Places::foreign(cache, ARCHITECTURE).find(&PACKAGES.join(", "), |apt| {
        let library = format!("libstd-rust-web-dev:{ARCHITECTURE}={version}");
        obtain(apt, &library, &staged)
    })?;
    wrap(&staged, &toolchain.root)?;
    // It names its files by where they would be installed.
    let script = staged.join(LIBRARIES).join("libc.so");
    let text =
        fs::read_to_string(&script).with_context(|| format!("cannot read {}", script.display()))?;
    fs::write(&script, text.replace(&format!("/{LIBRARIES}/"), ""))
        .with_context(|| format!("cannot write {}", script.display()))?;
    cache.publish(&staged, &folder)?;
    Ok(toolchain)
}

/// `None`: the place does not have all of it.
fn obtain(apt: &Apt, library: &str, staged: &Path) -> Result<Option<()>> {
    for package in PACKAGES {
        if apt.candidate(package)?.is_none() {
            return Ok(None);
        }
    }
    let Some(image) = newest_cloud_image(apt, "6.1", ARCHITECTURE)? else {
        return Ok(None);
    };
    apt.unpack_with_dependencies(&PACKAGES, staged)?;
    let busybox = format!("busybox-static:{ARCHITECTURE}");
    for package in [library, &busybox, &image] {
        apt.unpack_alone(package, staged)?;
    }
    Ok(Some(()))
}

/// The version of the compiler in a folder: its library must be of the same.
fn version(compiler: &Path) -> Result<String> {
    let list = compiler.join("packages");
    let names =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    names
        .lines()
        .find_map(|name| name.strip_prefix("rustc-web_")?.split('_').next())
        .map(str::to_owned)
        .with_context(|| format!("{} names no rustc-web", list.display()))
}

fn wrap(staged: &Path, root: &Path) -> Result<()> {
    let libraries = library_folders(staged);
    let libraries: Vec<_> = libraries
        .iter()
        .filter_map(|folder| folder.strip_prefix(staged).ok())
        .map(|below| root.join(below).display().to_string())
        .collect();
    for name in WRAPPED {
        let script = staged.join(name);
        let text = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}/usr/bin/aarch64-linux-gnu-{name}' \"$@\"\n",
            libraries.join(":"),
            root.display()
        );
        fs::write(&script, text)
            .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", script.display()))?;
    }
    Ok(())
}

impl Toolchain {
    /// `cargo build` for arm64, with these arguments.
    ///
    /// # Errors
    /// When it fails.
    pub fn build(&self, arguments: &[&str]) -> Result<Vec<Executable>> {
        let libraries = std::env::join_paths(&self.rustc.libraries)?;
        let gcc = self.root.join("gcc");
        let variables = [
            ("RUSTC", self.rustc.rustc.as_os_str()),
            ("LD_LIBRARY_PATH", &libraries),
            (
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
                gcc.as_os_str(),
            ),
            ("CC_aarch64_unknown_linux_gnu", gcc.as_os_str()),
            (
                "AR_aarch64_unknown_linux_gnu",
                self.root.join("ar").as_os_str(),
            ),
            (
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
                format!("--sysroot={}", self.root.join("usr").display()).as_ref(),
            ),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        // Another compiler: its own folder, or each would throw away what the other built.
        let folder = ["--target", TARGET, "--target-dir", "target/arm64"];
        cargo::build_with(&[&["build"], arguments, &folder].concat(), variables)
    }

    /// A copy in `folder` without symbols.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn stripped(&self, executable: &Path, folder: &Path) -> Result<PathBuf> {
        let name = executable.file_name().context("an executable has a name")?;
        let copy = folder.join(name);
        let mut strip = std::process::Command::new(self.root.join("strip"));
        output_of(strip.arg("-o").arg(&copy).arg(executable))?;
        Ok(copy)
    }

    /// The boot image.
    ///
    /// # Errors
    /// When the package held none.
    pub fn kernel(&self) -> Result<PathBuf> {
        only(&self.root.join("boot"), "vmlinuz-")
    }

    /// A module of the kernel.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn module(&self, below: &str) -> Result<PathBuf> {
        let modules = only(&self.root.join("lib/modules"), "")?;
        Ok(modules.join("kernel").join(below))
    }

    pub fn busybox(&self) -> PathBuf {
        self.root.join("bin/busybox")
    }

    /// The shared libraries of programs for arm64.
    pub fn libraries(&self) -> PathBuf {
        self.root.join(LIBRARIES)
    }

    pub fn qemu(&self) -> FoundProgram {
        FoundProgram {
            path: self.root.join("usr/bin/qemu-system-aarch64"),
            root: Some(self.root.clone()),
        }
    }
}

fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("{} holds no {prefix}*", folder.display()))
}
