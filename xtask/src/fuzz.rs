//! `cargo xtask fuzz`: the bodies of `fuzz/` under libFuzzer.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{cargo, programs::in_path, requirements::Requirement, setup};

const CARGO_FUZZ_VERSION: &str = "0.13.1";

/// Executions of each target, where none are asked for.
pub const EXECUTIONS: u64 = 10_000_000;

/// Inputs are at most this long, bytes: enough for a dozen packets, and short runs are many runs.
const INPUT_MAX: u32 = 2_048;

/// One input may take this long, s, and this much memory, MB: more is a finding.
const INPUT_SECONDS: u32 = 10;
const MEMORY_MB: u32 = 2_048;

/// Where `fuzz/src/lib.rs` writes seeds.
const SEEDS_VARIABLE: &str = "LASTMILE_FUZZ_SEEDS";

/// Runs `executions` of each of `targets`, or of all.
///
/// # Errors
/// When a fuzzer cannot be built or started.
pub fn run(targets: &[String], executions: u64, sanitizer: &str) -> Result<ExitCode> {
    let all = all_targets()?;
    if let Some(unknown) = targets.iter().find(|name| !all.contains(name)) {
        bail!("there is no fuzz target {unknown}: {} are", all.join(", "));
    }
    let targets = if targets.is_empty() { &all } else { targets };
    let cache = setup::ensure(&[Requirement::BpfToolchain])?;
    if in_path("c++").is_none() && in_path("g++").is_none() && in_path("clang++").is_none() {
        bail!("libFuzzer is written in C++ and built here: install g++ (or clang++)");
    }
    let cargo_fuzz = cargo::installed(&cache, "cargo-fuzz", CARGO_FUZZ_VERSION)?;
    let mut results = Vec::new();
    for target in targets {
        println!("\n== {target}: {executions} executions");
        let start = Instant::now();
        let status = fuzz(&cargo_fuzz, target, executions, sanitizer)?;
        results.push((target, status, start.elapsed()));
    }
    println!();
    let mut clean = true;
    for (target, passed, time) in results {
        let outcome = if passed {
            "no finding".to_owned()
        } else {
            clean = false;
            format!("a FINDING, see fuzz/artifacts/{target} and above")
        };
        println!(
            "{target}: {executions} executions in {:.0} s: {outcome}",
            time.as_secs_f64()
        );
    }
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn folder() -> PathBuf {
    cargo::workspace().join("fuzz")
}

/// The files of `fuzz/fuzz_targets`.
fn all_targets() -> Result<Vec<String>> {
    let folder = folder().join("fuzz_targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_suffix(".rs").map(str::to_owned)
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Whether there was no finding.
fn fuzz(cargo_fuzz: &Path, target: &str, executions: u64, sanitizer: &str) -> Result<bool> {
    let corpus = folder().join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let status = Command::new(cargo_fuzz)
        .args(["run", target, "--sanitizer", sanitizer])
        .arg("--fuzz-dir")
        .arg(folder())
        .arg(&corpus)
        .arg("--")
        .args([
            format!("-runs={executions}"),
            format!("-max_len={INPUT_MAX}"),
            format!("-timeout={INPUT_SECONDS}"),
            format!("-rss_limit_mb={MEMORY_MB}"),
            "-print_final_stats=1".to_owned(),
        ])
        // Coverage counters and sanitizers are unstable flags; any compiler takes them so.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO",
            env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        )
        .env(SEEDS_VARIABLE, &corpus)
        .current_dir(folder())
        .status()
        .with_context(|| format!("cannot run {}", cargo_fuzz.display()))?;
    Ok(status.success())
}
