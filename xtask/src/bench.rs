//! `cargo xtask bench`: what one packet costs, on this machine's kernel or in a virtual machine;
//! `cargo xtask bench replay`: how fast captures are read.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};

use crate::{
    cargo,
    kernel::Kernel,
    requirements::Requirement,
    setup,
    vm::{self, Init, VmSpec, command::exit_code},
};

/// The programs that measure, examples of package `lastmile`.
const EXAMPLE: &str = "packet_cost";
const REPLAY_EXAMPLE: &str = "replay_speed";

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// What one packet costs in the kernel
    #[default]
    Packet,
    /// MB/s and memory of `lastmile replay`, on synthetic captures of 1 and 4 GB
    Replay,
}

/// Builds the release program and replays synthetic captures with it.
///
/// # Errors
/// When that cannot be done.
pub fn replay(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let built = cargo::build(&[
        "build",
        "--release",
        "--package",
        "lastmile",
        "--bin",
        "lastmile",
        "--example",
        REPLAY_EXAMPLE,
    ])?;
    let path_of = |name: &str| {
        built
            .iter()
            .find(|executable| executable.name == name)
            .map(|executable| executable.path.clone())
            .with_context(|| format!("cargo built no {name}"))
    };
    let status = std::process::Command::new(path_of(REPLAY_EXAMPLE)?)
        .arg("--lastmile")
        .arg(path_of("lastmile")?)
        .args(arguments)
        .current_dir(cargo::workspace())
        .status()
        .context("cannot run the benchmark")?;
    Ok(exit_code(status.code().unwrap_or(1)))
}

/// It takes under a minute here; emulation is ten times slower.
const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Builds it and runs it.
///
/// # Errors
/// When that cannot be done.
pub fn run(kernel: Option<Kernel>, arguments: &[String]) -> Result<ExitCode> {
    let cache = match kernel {
        Some(kernel) => setup::ensure_for_vm(kernel)?,
        None => setup::ensure(&[Requirement::BpfToolchain])?,
    };
    let built = cargo::build(&[
        "build",
        "--release",
        "--package",
        "lastmile",
        "--example",
        EXAMPLE,
    ])?;
    let example = built
        .into_iter()
        .find(|executable| executable.name == EXAMPLE)
        .with_context(|| format!("cargo built no {EXAMPLE}"))?
        .path;
    let Some(kernel) = kernel else {
        let status = std::process::Command::new(&example)
            .args(arguments)
            .status()
            .with_context(|| format!("cannot run {}", example.display()))?;
        return Ok(exit_code(status.code().unwrap_or(1)));
    };
    let mut command = vec![EXAMPLE.to_owned()];
    command.extend_from_slice(arguments);
    let spec = VmSpec {
        kernel,
        init: Init::Script,
        kernel_arguments: Vec::new(),
        command,
        environment: Vec::new(),
        binaries: vec![example],
        files: Vec::new(),
        routers: false,
        video: false,
        streams: Vec::new(),
        time_limit: TIME_LIMIT,
        out_dir: cargo::workspace().join("target/vm-bench"),
    };
    let status = vm::run(&cache, &spec, &mut |line| println!("{line}"))?;
    Ok(exit_code(status))
}
