//! `cargo xtask video`: real video among other traffic, in a virtual machine.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{
    cargo,
    kernel::Kernel,
    lab::Programs,
    programs::Bundle,
    requirements::Requirement,
    setup,
    vm::{self, Init, VIDEO, VmSpec},
};

/// It ends by itself, after two minutes of video and two starts; this ends a machine that hangs.
const TIME_LIMIT: Duration = Duration::from_secs(420);

/// Sets up, builds and plays; the exit code is 0 only when every figure is as good as promised.
///
/// # Errors
/// When that could not be done.
pub fn run(kernel: Kernel) -> Result<ExitCode> {
    let cache = setup::ensure(&[
        Requirement::BpfToolchain,
        Requirement::Programs(Bundle::Machine),
        Requirement::Programs(Bundle::Video),
        Requirement::Ladder,
        Requirement::Kernel(kernel),
    ])?;
    let programs = Programs::build()?;
    let out_dir = Path::new("target/lab/video");
    let folder = cargo::workspace().join("target/lab-programs");
    let spec = VmSpec {
        kernel,
        init: Init::Script,
        kernel_arguments: Vec::new(),
        command: ["lab", "video", VIDEO].map(str::to_owned).into(),
        environment: Vec::new(),
        binaries: vec![
            cargo::without_debug_information(&programs.lastmile, &folder)?,
            cargo::without_debug_information(&programs.lab, &folder)?,
        ],
        files: Vec::new(),
        routers: false,
        video: true,
        streams: Vec::new(),
        alone: true,
        time_limit: TIME_LIMIT,
        out_dir: cargo::workspace().join(out_dir),
    };
    let status = vm::run(&cache, &spec, &mut |line| println!("{line}"))?;
    println!("\nlogs   {}", out_dir.display());
    Ok(vm::command::exit_code(status))
}
