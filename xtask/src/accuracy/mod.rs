//! `cargo xtask accuracy`: how often verdicts are right, into docs/accuracy.md and
//! docs/accuracy.json.

mod cdn;
mod design;
mod machines;
mod report;

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{cargo, kernel::Kernel, requirements::Requirement, setup, vm::command::exit_code};

/// The simulator, an example of package `lastmile`.
const EXAMPLE: &str = "accuracy";
/// Where the figures of whole runs go, from the workspace.
const MARKDOWN: &str = "docs/accuracy.md";
const JSON: &str = "docs/accuracy.json";
/// What the part about machines begins with; before it stands what the simulator wrote.
const MACHINES: &str = "\n## In machines\n";

/// Builds the simulator and runs it; a run without `arguments` is the published one.
///
/// # Errors
/// When that cannot be done.
pub fn simulate(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let mut command = Command::new(cargo::example(EXAMPLE)?);
    command.current_dir(cargo::workspace()).args(arguments);
    if arguments.is_empty() {
        command.args(["--ablations", "--markdown", MARKDOWN, "--json", JSON]);
    }
    let status = command.status().context("cannot run the simulator")?;
    if arguments.is_empty() && status.success() {
        let simulator = read_json()?;
        write(&read(MARKDOWN)?, &simulator)?;
    }
    Ok(exit_code(status.code().unwrap_or(1)))
}

/// Plays a fortnight of a CDN with so many ISPs, and keeps what came of it.
///
/// # Errors
/// When that cannot be done.
pub fn play_cdn(isps: usize) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let mut command = Command::new(cargo::example(EXAMPLE)?);
    command.current_dir(cargo::workspace());
    command.args(["--cdn", &isps.to_string(), "--json", cdn::RECORD]);
    let status = command.status().context("cannot run the simulator")?;
    if status.success() {
        write(&simulated()?, &read_json()?["simulator"])?;
    }
    Ok(exit_code(status.code().unwrap_or(1)))
}

/// Plays the next `count` incidents of the design in machines; what was simulated stays as it is. With
/// none the report is written anew from what is on record.
///
/// # Errors
/// When one of them cannot be played; those before it are kept.
pub fn play(count: usize, kernel: Kernel) -> Result<ExitCode> {
    let played = if count > 0 {
        machines::play(count, kernel)
    } else {
        Ok(())
    };
    write(&simulated()?, &read_json()?["simulator"])?;
    played.map(|()| ExitCode::SUCCESS)
}

/// What the simulator wrote, without what comes after it.
fn simulated() -> Result<String> {
    let text = read(MARKDOWN)?;
    let until = [cdn::HEADING, MACHINES]
        .iter()
        .filter_map(|it| text.find(it));
    Ok(text[..until.min().unwrap_or(text.len())].to_owned())
}

/// All parts, those about a CDN and about machines from what was played so far.
fn write(simulated: &str, simulator: &Value) -> Result<()> {
    let cdn = cdn::record()?;
    let figures = report::Figures::new(&machines::records()?);
    let machines = figures.markdown();
    println!("\n{machines}");
    let fortnight = cdn.as_ref().map(cdn::markdown).unwrap_or_default();
    let text = format!("{}\n{fortnight}\n{machines}", simulated.trim_end());
    let figures = json!({ "simulator": simulator, "cdn": cdn, "machines": figures });
    for (path, contents) in [
        (MARKDOWN, text),
        (JSON, serde_json::to_string_pretty(&figures)? + "\n"),
    ] {
        fs::write(in_workspace(path), contents).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn in_workspace(path: &str) -> PathBuf {
    cargo::workspace().join(path)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(in_workspace(path)).with_context(|| format!("cannot read {path}"))
}

fn read_json() -> Result<Value> {
    serde_json::from_str(&read(JSON)?).with_context(|| format!("{JSON} is no JSON"))
}
