//! Runs a command that must succeed.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// The standard output of a command that must succeed.
///
/// # Errors
/// With what it printed, when it could not be run or failed.
pub fn output_of(command: &mut Command) -> Result<String> {
    let name = in_short(command);
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as a person would type it, without our options for apt.
fn in_short(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    let mut arguments = command.get_args();
    while let Some(argument) = arguments.next() {
        if argument == "-o" {
            arguments.next();
        } else {
            words.push(argument.to_string_lossy());
        }
    }
    words.join(" ")
}
