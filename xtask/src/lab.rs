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
    cargo::{self, Executable},
    kernel::Kernel,
    process::output_of,
    programs::Bundle,
    requirements::Requirement,
    setup,
    vm::{self, Init, VmSpec},
};

/// A scenario ends by itself; this ends a machine that hangs. On top of the scenario's own time it
/// allows for starting, building the network and judging, all emulated on a slow host.
const TIME_BESIDES: Duration = Duration::from_secs(240);

/// Where the guest finds the scenario.
const SCENARIO: &str = "/scenario.toml";

/// The lab's exit status after a run in which the network did not do what the scenario's truth says.
pub const PROVES_NOTHING: i32 = 3;

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
    pub lastmile: PathBuf,
    pub lab: PathBuf,
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
        Self::among(&built)
    }

    /// Those that a build left.
    ///
    /// # Errors
    /// When it left one of them not.
    pub fn among(built: &[Executable]) -> Result<Self> {
        Ok(Self {
            lastmile: cargo::binary(built, "lastmile")?,
            lab: cargo::binary(built, "lab")?,
        })
    }
}

/// Where the daemon learns the routes from; the lab knows what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Routes {
    /// A table in a file
    Csv,
    /// A BMP session of the lab's edge router
    Bgp,
    /// The routes of the kernel that sends the video
    Kernel,
}

impl Routes {
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Bgp => "bgp",
            Self::Kernel => "kernel",
        }
    }
}

/// What the lab on this side says about a scenario.
struct Description {
    /// In real time.
    duration: Duration,
    /// Whether BGP daemons run in it.
    routers: bool,
}

impl Description {
    /// # Errors
    /// When the lab refuses the scenario, with its reasons.
    fn read(programs: &Programs, played: &Played<'_>) -> Result<Self> {
        let mut command = Command::new(&programs.lab);
        command.arg("describe").arg(&played.scenario.file);
        let output = output_of(command.args(played.arguments()))?;
        let value: Value = serde_json::from_str(&output)
            .with_context(|| format!("`lab describe` prints no JSON: {output}"))?;
        let duration = value["duration_s"]
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .with_context(|| format!("`lab describe` says no duration_s: {output}"))?;
        let routers = value["routers"]
            .as_bool()
            .with_context(|| format!("`lab describe` says no routers: {output}"))?;
        Ok(Self { duration, routers })
    }
}

/// A scenario as it is to be played.
pub struct Played<'a> {
    pub scenario: &'a Scenario,
    /// Instead of what the scenario says.
    pub routes: Option<Routes>,
    pub kernel: Kernel,
}

impl Played<'_> {
    /// What the lab is told besides the scenario.
    fn arguments(&self) -> Vec<String> {
        let routes = self.routes.iter();
        routes
            .flat_map(|routes| ["--routes".to_owned(), routes.name().to_owned()])
            .collect()
    }
}

/// Sets up, builds and plays.
///
/// # Errors
/// When that could not be done; a verdict that is not the truth is an exit code.
pub fn run(scenario: &str, routes: Option<Routes>, kernel: Kernel) -> Result<ExitCode> {
    let scenario = Scenario::find(scenario)?;
    let cache = setup::ensure_for_vm(kernel)?;
    let programs = Programs::build()?;
    let out_dir = Path::new("target/lab").join(&scenario.name);
    let played = Played {
        scenario: &scenario,
        routes,
        kernel,
    };
    let status = play(&cache, &played, &programs, &out_dir)?;
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
    played: &Played<'_>,
    programs: &Programs,
    out_dir: &Path,
) -> Result<i32> {
    let description = Description::read(programs, played)?;
    if description.routers {
        setup::ensure(&[Requirement::Programs(Bundle::Routing)])?;
    }
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
    let command = ["lab", "guest", SCENARIO].map(str::to_owned).into_iter();
    let spec = VmSpec {
        kernel: played.kernel,
        init: Init::Script,
        kernel_arguments: Vec::new(),
        command: command.chain(played.arguments()).collect(),
        environment,
        binaries: vec![
            cargo::without_debug_information(&programs.lastmile, &folder)?,
            cargo::without_debug_information(&programs.lab, &folder)?,
        ],
        files: vec![(played.scenario.file.clone(), SCENARIO.into())],
        routers: description.routers,
        video: false,
        streams: Vec::new(),
        alone: true,
        time_limit: description.duration + TIME_BESIDES,
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
