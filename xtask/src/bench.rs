//! `cargo xtask bench`: what one packet costs, on this machine's kernel or in a virtual machine;
//! `cargo xtask bench replay`: how fast captures are read; `cargo xtask bench routes`: what a full
//! Internet table costs; `cargo xtask bench engine`: how long a large window takes to judge.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

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
const ROUTES_EXAMPLE: &str = "route_table";
const ENGINE_EXAMPLE: &str = "engine_scale";

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// What one packet costs in the kernel
    #[default]
    Packet,
    /// MB/s and memory of `lastmile replay`, on synthetic captures of 1 and 4 GB
    Replay,
    /// Memory, lookups and updates a second with a full Internet table, by BMP and as this host's
    /// own routes
    Routes,
    /// How long the engine takes for one window of a large CDN
    Engine,
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
    let status = Command::new(path_of(REPLAY_EXAMPLE)?)
        .arg("--lastmile")
        .arg(path_of("lastmile")?)
        .args(arguments)
        .current_dir(cargo::workspace())
        .status()
        .context("cannot run the benchmark")?;
    Ok(exit_code(status.code().unwrap_or(1)))
}

/// Where the figures about routes are shown, and between which lines.
const ROUTES_DOCUMENT: &str = "docs/routes.md";
const BEGIN: &str = "<!-- cargo xtask bench routes -- --write-docs: begin -->";
const END: &str = "<!-- cargo xtask bench routes -- --write-docs: end -->";
const WRITE_DOCS: &str = "--write-docs";

/// Loads made-up full tables; exit code 1 if they cost more than was promised. With
/// `--write-docs` the figures also go into the documentation.
///
/// # Errors
/// When that cannot be done.
pub fn routes(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let example = build(ROUTES_EXAMPLE)?;
    let passed_on: Vec<_> = arguments.iter().filter(|it| *it != WRITE_DOCS).collect();
    let mut child = Command::new(&example)
        .args(&passed_on)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", example.display()))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut figures = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what it prints")?;
        println!("{line}");
        figures += &format!("{line}\n");
    }
    let status = child.wait().context("cannot await the benchmark")?;
    if status.success() && passed_on.len() < arguments.len() {
        let path = cargo::workspace().join(ROUTES_DOCUMENT);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = replaced(&text, &figures)
            .with_context(|| format!("{} has no lines {BEGIN} and {END}", path.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(exit_code(status.code().unwrap_or(1)))
}

fn replaced(document: &str, figures: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n```\n{figures}```\n{END}{after}"))
}

/// Judges made-up windows; exit code 1 if one takes longer than was promised.
///
/// # Errors
/// When that cannot be done.
pub fn engine(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    on_this_machine(&build(ENGINE_EXAMPLE)?, arguments)
}

/// Builds an example of package `lastmile`.
fn build(name: &str) -> Result<PathBuf> {
    let built = cargo::build(&[
        "build",
        "--release",
        "--package",
        "lastmile",
        "--example",
        name,
    ])?;
    built
        .into_iter()
        .find(|executable| executable.name == name)
        .map(|executable| executable.path)
        .with_context(|| format!("cargo built no {name}"))
}

fn on_this_machine(example: &Path, arguments: &[String]) -> Result<ExitCode> {
    let status = Command::new(example)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {}", example.display()))?;
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
    let example = build(EXAMPLE)?;
    let Some(kernel) = kernel else {
        return on_this_machine(&example, arguments);
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
