//! `cargo xtask run`: a scenario, played by the lab in a virtual machine.

use std::{
    env, fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    cache::Cache,
    cargo,
    kernel::Kernel,
    process::output_of,
    setup,
    vm::{self, Init, VmSpec},
};

/// A scenario ends by itself; this ends a machine that hangs. On top of the scenario's own time it
/// allows for starting, building the network and judging, all emulated on a slow host.
const TIME_BESIDES: Duration = Duration::from_secs(240);

/// Where the guest finds the scenario.
const SCENARIO: &str = "/scenario.toml";

/// A scenario file and the name it goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    pub name: String,
    pub file: PathBuf,
}

impl Scenario {
    /// # Errors
    /// When there is no such scenario, with those there are.
    pub fn find(name_or_path: &str) -> Result<Self> {
        let all = Self::all()?;
        if let Some(scenario) = all.iter().find(|scenario| scenario.name == name_or_path) {
            return Ok(scenario.clone());
        }
        let file = PathBuf::from(name_or_path);
        match file.file_stem() {
            Some(stem) if file.is_file() => Ok(Self {
                name: stem.to_string_lossy().into_owned(),
                file,
            }),
            _ => {
                let names: Vec<_> = all.into_iter().map(|scenario| scenario.name).collect();
                bail!(
                    "--scenario {name_or_path}: neither a file nor one of {}",
                    names.join(", ")
                )
            }
        }
    }

    /// Those in tests/scenarios, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all() -> Result<Vec<Self>> {
        let folder = cargo::workspace().join("tests/scenarios");
        let mut all: Vec<_> = fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            })
            .filter_map(|file| {
                let name = file.file_stem()?.to_str()?.to_owned();
                Some(Self { name, file })
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
}

/// The programs that a machine needs to play scenarios.
pub struct Programs {
    lastmile: PathBuf,
    lab: PathBuf,
}

impl Programs {
    /// Builds them, optimised: the machine is emulated, and time in it is real.
    ///
    /// # Errors
    /// When the build fails.
    pub fn build() -> Result<Self> {
        let packages = ["--package", "lastmile", "--package", "lastmile-lab"];
        let built =
            cargo::build(&[&["build", "--release", "--bins"], packages.as_slice()].concat())?;
        let named = |name: &str| {
            built
                .iter()
                .find(|executable| executable.name == name)
                .map(|executable| executable.path.clone())
                .with_context(|| format!("cargo built no {name}"))
        };
        Ok(Self {
            lastmile: named("lastmile")?,
            lab: named("lab")?,
        })
    }
}

/// How long a scenario takes by its own account, in real time; the lab on this side reads it.
///
/// # Errors
/// When the lab refuses the scenario, with its reasons.
fn duration(programs: &Programs, scenario: &Scenario) -> Result<Duration> {
    let mut command = Command::new(&programs.lab);
    let output = output_of(command.arg("describe").arg(&scenario.file))?;
    serde_json::from_str::<Value>(&output)
        .ok()
        .and_then(|description| description.get("duration_s")?.as_f64())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .with_context(|| format!("`lab describe` says no duration_s: {output}"))
}

/// Sets up, builds and plays.
///
/// # Errors
/// When that could not be done; a verdict that is not the truth is an exit code.
pub fn run(scenario: &str, kernel: Kernel) -> Result<ExitCode> {
    let scenario = Scenario::find(scenario)?;
    let cache = setup::ensure_for_vm(kernel)?;
    let programs = Programs::build()?;
    let out_dir = Path::new("target/lab").join(&scenario.name);
    let status = play(&cache, &scenario, kernel, &programs, &out_dir)?;
    println!("\nlog    {}", out_dir.join("lastmile.jsonl").display());
    println!("truth  {}", out_dir.join("truth.json").display());
    Ok(vm::command::exit_code(status))
}

/// Plays a scenario; its results replace those of the last time in `out_dir`, which is below the
/// workspace. Returns the lab's exit status: 0 only when the truth was found and nobody else blamed.
///
/// # Errors
/// When the machine fails.
pub fn play(
    cache: &Cache,
    scenario: &Scenario,
    kernel: Kernel,
    programs: &Programs,
    out_dir: &Path,
) -> Result<i32> {
    let out_dir = cargo::workspace().join(out_dir);
    if out_dir.exists() {
        fs::remove_dir_all(&out_dir)
            .with_context(|| format!("cannot remove {}", out_dir.display()))?;
    }
    let terminal = std::io::stdout().is_terminal();
    let environment = ["TERM", "NO_COLOR"]
        .into_iter()
        .filter(|_| terminal)
        .filter_map(|name| Some((name.to_owned(), env::var(name).ok()?)))
        .collect();
    let folder = cargo::workspace().join("target/lab-programs");
    let spec = VmSpec {
        kernel,
        init: Init::Script,
        kernel_arguments: Vec::new(),
        command: ["lab", "guest", SCENARIO].map(str::to_owned).into(),
        environment,
        binaries: vec![
            cargo::without_debug_information(&programs.lastmile, &folder)?,
            cargo::without_debug_information(&programs.lab, &folder)?,
        ],
        files: vec![(scenario.file.clone(), SCENARIO.into())],
        streams: Vec::new(),
        time_limit: duration(programs, scenario)? + TIME_BESIDES,
        out_dir,
    };
    vm::run(cache, &spec, &mut |line| println!("{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scenario_names_those_there_are() {
        let error = Scenario::find("interconect").unwrap_err().to_string();
        assert!(error.contains("interconnect"), "{error}");
    }

    #[test]
    fn a_scenario_can_be_a_path() {
        let known = Scenario::find("interconnect").unwrap();
        let by_path = Scenario::find(&known.file.to_string_lossy()).unwrap();
        assert_eq!(known, by_path);
    }
}
