//! `cargo xtask vm`: one command in a virtual machine.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};

use super::{Init, VmSpec};
use crate::{kernel::Kernel, programs::Bundle, requirements::Requirement, setup};

pub struct Request {
    pub kernel: Kernel,
    pub init: Init,
    pub binaries: Vec<PathBuf>,
    /// `PATH:GUEST_PATH`
    pub files: Vec<String>,
    pub kernel_arguments: Vec<String>,
    pub timeout_s: u64,
    pub out: PathBuf,
    pub command: Vec<String>,
}

/// Runs it; the exit code is the command's.
///
/// # Errors
/// When the machine cannot be run.
pub fn run(request: Request) -> Result<ExitCode> {
    let cache = setup::ensure(&[
        Requirement::Programs(Bundle::Machine),
        Requirement::Kernel(request.kernel),
    ])?;
    let files = request
        .files
        .iter()
        .map(|pair| {
            pair.split_once(':')
                .map(|(from, to)| (from.into(), to.into()))
                .with_context(|| format!("--file {pair}: it takes PATH:GUEST_PATH"))
        })
        .collect::<Result<_>>()?;
    let spec = VmSpec {
        kernel: request.kernel,
        init: request.init,
        kernel_arguments: request.kernel_arguments,
        command: request.command,
        environment: Vec::new(),
        binaries: request.binaries,
        files,
        routers: false,
        video: false,
        streams: Vec::new(),
        alone: true,
        time_limit: Duration::from_secs(request.timeout_s),
        out_dir: request.out,
    };
    let status = super::run(&cache, &spec, &mut |line| println!("{line}"))?;
    Ok(exit_code(status))
}

/// A status as this process's own.
pub fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
