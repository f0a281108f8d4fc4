//! Gets a toolchain that compiles for BPF: the usual nightly where it is, else Debian's packages.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{Apt, Places},
    bpf_toolchain::BpfToolchain,
    cache::Cache,
    cargo,
    process::output_of,
    programs::{in_path, library_folders},
};

/// Knows LLVM 21 to 23; tried with 22.
pub const LINKER_VERSION: &str = "0.13.0";

/// First the usual way, if all of it is here; else Debian's packages, unpacked.
///
/// # Errors
/// When neither can be had; what was unpacked whole by then stays.
pub fn obtain(cache: &Cache, places: &mut Places<'_>) -> Result<()> {
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
pub fn nightly() -> Option<BpfToolchain> {
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
    println!("  building bpf-linker {LINKER_VERSION} for LLVM {llvm}");
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
            LINKER_VERSION,
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
