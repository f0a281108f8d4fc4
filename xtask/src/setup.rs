//! `cargo xtask setup`, and the same for every task that needs something.

use std::{process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{Apt, Places},
    bpf_toolchain::CACHE_VARIABLE,
    cache::Cache,
    kernel::Kernel,
    programs::Bundle,
    requirements::Requirement,
};

/// Makes everything available.
///
/// # Errors
/// When something cannot be had.
pub fn ensure_all() -> Result<Cache> {
    ensure(&Requirement::all())
}

/// Makes available what a virtual machine with this kernel and our programs in it needs.
///
/// # Errors
/// When something cannot be had.
pub fn ensure_for_vm(kernel: Kernel) -> Result<Cache> {
    ensure(&[
        Requirement::BpfToolchain,
        Requirement::Programs(Bundle::Machine),
        Requirement::Kernel(kernel),
    ])
}

/// Gets what is missing; silent when nothing is.
///
/// # Errors
/// When something cannot be had, with what to do about it.
pub fn ensure(requirements: &[Requirement]) -> Result<Cache> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the virtual machines are x86-64: set-up works on 64-bit x86 Linux only");
    }
    let cache = Cache::locate()?;
    if missing(requirements, &cache)?.is_empty() {
        return Ok(cache);
    }
    let _lock = cache.lock()?;
    // Another set-up may have done it while we waited for the lock.
    let missing = missing(requirements, &cache)?;
    announce(&missing, &cache);
    if !Apt::is_available() {
        let commands: Vec<_> = missing
            .iter()
            .filter(|requirement| requirement.needs_apt())
            .map(|requirement| requirement.commands_without_apt(&cache))
            .collect();
        if !commands.is_empty() {
            bail!(
                "this machine has no apt, from whose packages these come. By hand:\n\n{}\n",
                commands.join("\n")
            );
        }
    }
    let mut places = Places::new(&cache);
    for (index, requirement) in missing.iter().enumerate() {
        let name = requirement.name();
        println!("[{}/{}] {name}", index + 1, missing.len());
        let start = Instant::now();
        requirement
            .obtain(&cache, &mut places)
            .with_context(|| format!("{name} could not be set up"))?;
        println!("  done in {:.0} s", start.elapsed().as_secs_f64());
    }
    println!();
    Ok(cache)
}

/// Lists what is missing.
///
/// # Errors
/// When that cannot be told.
pub fn dry_run() -> Result<ExitCode> {
    let cache = Cache::locate()?;
    let missing = missing(&Requirement::all(), &cache)?;
    if missing.is_empty() {
        println!("Everything is there, in {}.", cache.root().display());
    } else {
        announce(&missing, &cache);
        println!("Nothing was changed. `cargo xtask setup` gets it.");
    }
    Ok(ExitCode::SUCCESS)
}

fn missing(requirements: &[Requirement], cache: &Cache) -> Result<Vec<Requirement>> {
    let mut missing = Vec::new();
    for requirement in requirements {
        if !requirement.is_met(cache)? {
            missing.push(*requirement);
        }
    }
    Ok(missing)
}

fn announce(missing: &[Requirement], cache: &Cache) {
    println!(
        "Missing here, to be downloaded and unpacked; nothing is installed on this machine:\n"
    );
    for requirement in missing {
        println!(
            "  {:<14} {:>4} MB to download, {:>4} MB on disk   {}",
            requirement.name(),
            requirement.download_mb(),
            requirement.disk_mb(),
            requirement.explanation(cache)
        );
    }
    println!(
        "\ninto {} (set {CACHE_VARIABLE} for another folder; remove it to undo).\n",
        cache.root().display()
    );
}
