//! `cargo xtask arm64`: the daemon built for arm64, and tried on a kernel of it in an emulated machine.

mod machine;
mod toolchain;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cargo, requirements::Requirement, setup};

/// What the client gets in the machine, bytes.
const DOWNLOAD: u64 = 1_000_000;

/// Builds `lastmile` and the test `load`, boots Debian's arm64 kernel, and has both run there: the
/// programs loaded, and one download measured.
///
/// # Errors
/// When something cannot be had, built or booted, or the download was measured wrongly.
pub fn run() -> Result<ExitCode> {
    let cache = setup::ensure(&[Requirement::BpfToolchain])?;
    let toolchain = toolchain::ensure(&cache)?;
    let built = toolchain.build(&[
        "--package",
        "lastmile",
        "--bin",
        "lastmile",
        "--test",
        "load",
    ])?;
    let folder = cargo::workspace().join("target/arm64");
    let lastmile = toolchain.stripped(&cargo::binary(&built, "lastmile")?, &folder)?;
    let load = built
        .iter()
        .find(|executable| executable.test && executable.name == "load")
        .context("cargo built no test load")?;
    let load = toolchain.stripped(&load.path, &folder)?;
    println!("built {}", lastmile.display());
    let lines = machine::run(&toolchain, &lastmile, &load, &folder)?;
    judge(&lines)
}

/// Holds what the daemon logged against what was downloaded.
fn judge(lines: &[String]) -> Result<ExitCode> {
    let loaded = lines.iter().any(|line| {
        line.starts_with("test result: ok. ") && !line.starts_with("test result: ok. 0 passed")
    });
    if !loaded {
        bail!("the programs did not load, see above");
    }
    let flow = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .rfind(|record| record["type"] == "flow" && record["event"] != "open")
        .context("the daemon logged no flow, see above")?;
    let to_client = &flow["to_client"];
    let of = |name: &str| to_client[name].as_u64().unwrap_or_default();
    let (bytes, segments, samples) = (of("bytes"), of("segments"), of("rtt_samples"));
    println!("measured on arm64: {bytes} bytes in {segments} segments, {samples} RTT samples");
    // With the header of the answer.
    if bytes <= DOWNLOAD || bytes > DOWNLOAD + 1_000 || of("retransmitted_segments") != 0 {
        bail!("the client got {DOWNLOAD} bytes, and the daemon says {to_client}");
    }
    Ok(ExitCode::SUCCESS)
}
