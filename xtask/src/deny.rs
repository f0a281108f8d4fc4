//! `cargo xtask deny`: licences, sources and known weaknesses of everything that is linked in.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{cache::Cache, cargo, vm::command::exit_code};

const CARGO_DENY_VERSION: &str = "0.20.2";

/// Holds the dependencies against `deny.toml`, with cargo-deny in the cache. `checks`: some of
/// `advisories`, `bans`, `licenses` and `sources`; none: all.
///
/// # Errors
/// When cargo-deny cannot be built or started.
pub fn run(checks: &[String]) -> Result<ExitCode> {
    let cache = Cache::locate()?;
    let program = cargo::installed(&cache, "cargo-deny", CARGO_DENY_VERSION)?;
    let status = Command::new(&program)
        .args(["--all-features", "check"])
        .args(checks)
        .current_dir(cargo::workspace())
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(exit_code(status.code().unwrap_or(1)))
}
