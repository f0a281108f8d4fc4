//! `cargo xtask accuracy`: how often verdicts are right, into docs/accuracy.md and
//! docs/accuracy.json.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{cargo, requirements::Requirement, setup, vm::command::exit_code};

/// The simulator, an example of package `lastmile`.
const EXAMPLE: &str = "accuracy";
/// Where the figures of a whole run go, from the workspace.
const MARKDOWN: &str = "docs/accuracy.md";
const JSON: &str = "docs/accuracy.json";

/// Builds the simulator and runs it; a run without `arguments` is the published one.
///
/// # Errors
/// When that cannot be done.
pub fn run(arguments: &[String]) -> Result<ExitCode> {
    setup::ensure(&[Requirement::BpfToolchain])?;
    let built = cargo::build(&[
        "build",
        "--release",
        "--package",
        "lastmile",
        "--example",
        EXAMPLE,
    ])?;
    let mut command = Command::new(cargo::binary(&built, EXAMPLE)?);
    command.current_dir(cargo::workspace()).args(arguments);
    if arguments.is_empty() {
        command.args(["--ablations", "--markdown", MARKDOWN, "--json", JSON]);
    }
    let status = command.status().context("cannot run the simulator")?;
    Ok(exit_code(status.code().unwrap_or(1)))
}
