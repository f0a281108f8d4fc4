//! `cargo xtask bench`
use crate::kernel::Kernel;
use anyhow::Result;
use std::process::ExitCode;
pub fn run(_kernel: Option<Kernel>, _arguments: &[String]) -> Result<ExitCode> {
    anyhow::bail!("coming")
}
