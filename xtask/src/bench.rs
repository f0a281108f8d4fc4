//! `cargo xtask bench`: what one packet costs, on this machine's kernel or in a virtual machine;
//! `cargo xtask bench replay`: how fast captures are read; `cargo xtask bench routes`: what a full
//! Internet table costs; `cargo xtask bench engine`: how long a large window takes to judge;
//! `cargo xtask bench daemon`: what the daemon costs beside the packet path.

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
    performance,
    process::output_of,
    requirements::Requirement,
    setup,
    vm::{self, Init, VmSpec, command::exit_code},
};

/// The programs that measure, examples of package `lastmile`.
const EXAMPLE: &str = "packet_cost";
const REPLAY_EXAMPLE: &str = "replay_speed";
const ROUTES_EXAMPLE: &str = "route_table";
const ENGINE_EXAMPLE: &str = "engine_scale";
const DAEMON_EXAMPLE: &str = "daemon_load";

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
    /// Reports a second on one core, memory, and what is left of a transfer's throughput
    Daemon,
}

/// Builds the release program and replays synthetic captures with it.
///
/// # Errors
/// When that cannot be done.
pub fn replay(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let (example, lastmile) = example_and_daemon(REPLAY_EXAMPLE)?;
    let status = Command::new(example)
        .arg("--lastmile")
        .arg(lastmile)
        .args(arguments)
        .current_dir(cargo::workspace())
        .status()
        .context("cannot run the benchmark")?;
    Ok(exit_code(status.code().unwrap_or(1)))
}

/// An example and the program itself, optimised.
fn example_and_daemon(example: &str) -> Result<(PathBuf, PathBuf)> {
    let built = cargo::build(&[
        "build",
        "--release",
        "--package",
        "lastmile",
        "--bin",
        "lastmile",
        "--example",
        example,
    ])?;
    Ok((
        cargo::binary(&built, example)?,
        cargo::binary(&built, "lastmile")?,
    ))
}

/// Where the figures about routes are shown, and between which lines.
const ROUTES_DOCUMENT: &str = "docs/routes.md";
const BEGIN: &str = "<!-- cargo xtask bench routes -- --write-docs: begin -->";
const END: &str = "<!-- cargo xtask bench routes -- --write-docs: end -->";
/// The same for what a packet costs.
const PACKET_DOCUMENT: &str = "docs/performance.md";
const PACKET_BEGIN: &str = "<!-- cargo xtask bench packet -- --write-docs: begin -->";
const PACKET_END: &str = "<!-- cargo xtask bench packet -- --write-docs: end -->";
/// And for the daemon.
const DAEMON_BEGIN: &str = "<!-- cargo xtask bench daemon -- --write-docs: begin -->";
const DAEMON_END: &str = "<!-- cargo xtask bench daemon -- --write-docs: end -->";
const JSON: &str = "--json";
const WRITE_DOCS: &str = "--write-docs";

/// Loads made-up full tables; exit code 1 if they cost more than was promised. With
/// `--write-docs` the figures also go into the documentation.
///
/// # Errors
/// When that cannot be done.
pub fn routes(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let example = cargo::example(ROUTES_EXAMPLE)?;
    figures(&example, arguments, ROUTES_DOCUMENT, [BEGIN, END])
}

/// Has a million flows report, and measures transfers with the daemon and without. With
/// `--write-docs` the figures also go into the documentation.
///
/// # Errors
/// When that cannot be done.
pub fn daemon(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let (example, lastmile) = example_and_daemon(DAEMON_EXAMPLE)?;
    let lastmile = ["--lastmile".to_owned(), lastmile.display().to_string()];
    let arguments = [&lastmile, arguments].concat();
    figures(
        &example,
        &arguments,
        PACKET_DOCUMENT,
        [DAEMON_BEGIN, DAEMON_END],
    )
}

/// Runs a benchmark here; with `--write-docs` what it prints goes between two lines of a document.
fn figures(
    example: &Path,
    arguments: &[String],
    document: &str,
    [begin, end]: [&str; 2],
) -> Result<ExitCode> {
    let mut passed_on = arguments.to_vec();
    passed_on.retain(|it| it != WRITE_DOCS);
    let mut printed = String::new();
    let code = on_this_machine(example, &passed_on, &mut |line| {
        println!("{line}");
        printed += &format!("{line}\n");
    })?;
    if code == 0 && passed_on.len() < arguments.len() {
        write_between(document, begin, end, &format!("```\n{printed}```\n"))?;
    }
    Ok(exit_code(code))
}

/// Puts `text` between two lines of a document.
fn write_between(document: &str, begin: &str, end: &str, text: &str) -> Result<()> {
    let path = cargo::workspace().join(document);
    let before =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let after = replaced(&before, begin, end, text)
        .with_context(|| format!("{} has no lines {begin} and {end}", path.display()))?;
    fs::write(&path, after).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(document: &str, begin: &str, end: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n{text}{end}{after}"))
}

/// Judges made-up windows; exit code 1 if one takes longer than was promised.
///
/// # Errors
/// When that cannot be done.
pub fn engine(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let print = &mut |line: &str| println!("{line}");
    let code = on_this_machine(&cargo::example(ENGINE_EXAMPLE)?, arguments, print)?;
    Ok(exit_code(code))
}

/// Runs it here; every line also goes to `each`.
fn on_this_machine(
    example: &Path,
    arguments: &[String],
    each: &mut dyn FnMut(&str),
) -> Result<i32> {
    let mut child = Command::new(example)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", example.display()))?;
    let stdout = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(stdout).lines() {
        each(&line.context("cannot read what it prints")?);
    }
    let status = child.wait().context("cannot await the benchmark")?;
    Ok(status.code().unwrap_or(1))
}

/// It takes under a minute here; emulation is ten times slower.
const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Builds it and runs it. With `--write-docs` the figures also go into the documentation.
///
/// # Errors
/// When that cannot be done.
pub fn run(kernel: Option<Kernel>, arguments: &[String]) -> Result<ExitCode> {
    let mut passed_on: Vec<String> = arguments.to_vec();
    passed_on.retain(|it| it != WRITE_DOCS);
    let writes = passed_on.len() < arguments.len();
    if writes && !passed_on.iter().any(|it| it == JSON) {
        passed_on.push(JSON.to_owned());
    }
    let mut lines = Vec::new();
    let status = measure(kernel, &passed_on, &mut |line| {
        println!("{line}");
        lines.push(line.to_owned());
    })?;
    if writes && status == 0 {
        let version = match kernel {
            Some(kernel) => format!("Linux {} in a virtual machine", kernel.version()),
            None => format!(
                "Linux {}",
                output_of(Command::new("uname").arg("-r"))?.trim()
            ),
        };
        let figures = performance::document(lines.iter().map(String::as_str), &version)?;
        write_between(PACKET_DOCUMENT, PACKET_BEGIN, PACKET_END, &figures)?;
    }
    Ok(exit_code(status))
}

fn measure(
    kernel: Option<Kernel>,
    arguments: &[String],
    each: &mut dyn FnMut(&str),
) -> Result<i32> {
    let cache = match kernel {
        Some(kernel) => setup::ensure_for_vm(kernel)?,
        None => setup::ensure(&[Requirement::BpfToolchain])?,
    };
    let example = cargo::example(EXAMPLE)?;
    let Some(kernel) = kernel else {
        return on_this_machine(&example, arguments, each);
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
        alone: true,
        time_limit: TIME_LIMIT,
        out_dir: cargo::workspace().join("target/vm-bench"),
    };
    vm::run(&cache, &spec, each)
}
