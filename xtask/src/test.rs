//! `cargo xtask test`: every check there is, in one run, with one closing line.

use std::{
    borrow::Cow,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    cache::Cache,
    cargo::{self, Executable},
    conformance::{self, CAPTURES_VARIABLE},
    kernel::Kernel,
    lab::{self, Played, Programs, Routes, Scenario},
    programs, setup,
    vm::{self, Init, VmSpec},
};

/// How long one test executable may take in a machine.
const EXECUTABLE_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The package whose tests also run in machines.
const PACKAGE: &str = "lastmile";

/// The test executable that must also pass where nobody may read the kernel's memory, which is
/// where other tools fail.
const TEST_UNDER_LOCKDOWN: &str = "load";
/// The test executable that is about a service of systemd.
const TEST_UNDER_SYSTEMD: &str = "service";
/// Test executables that no kernel matters to.
const TESTS_WITHOUT_KERNEL: [&str; 8] = [
    "accuracy",
    "fuzz",
    "judge",
    "mrt",
    "policing",
    "replay",
    "routing_captures",
    "sni",
];
/// Test executables that run on the default kernel only: what they try the programs with, or the
/// netlink messages they read, is the same on the others, and emulated machines are slow.
const TESTS_ON_ONE_KERNEL: [&str; 9] = [
    "faults",
    "fib",
    "loss_side",
    "offload",
    "ports",
    "route",
    "same_code",
    "spread",
    "tcp_info",
];
/// Test executables that measure times: their machines run alone. The others' run side by side, one of
/// each kernel: most of what they do is to wait for the verifier, which is slow under emulation.
const TESTS_THAT_MEASURE_TIMES: [&str; 6] = [
    "devices",
    "loss_side",
    "offload",
    "spread",
    "tcp_info",
    "wire",
];
const LOCKDOWN: &str = "lockdown=confidentiality";
/// Tests attach and detach under traffic, and the kernel then rewrites code (static keys) that
/// another CPU may be running: under emulation that ended in an oops on 6.12.
const ONE_CPU: &str = "maxcpus=1";
/// The test executable that is about several CPUs: it attaches before there is traffic.
const TEST_ON_SEVERAL_CPUS: &str = "spread";

/// The scenario that is also played on the kernels that are not the default.
const SCENARIO_ON_EVERY_KERNEL: &str = "interconnect";

/// Scenarios that are played once more with other sources of routes than their own.
const SCENARIOS_WITH_ROUTES: [(&str, Routes); 2] =
    [("interconnect", Routes::Bgp), ("isp", Routes::Kernel)];

/// A scenario is played so often until the network does in it what its truth says, by the counters of
/// its own queues and its viewers' clocks; what the daemon says of it has no part in that.
const TRIES: u32 = 3;

/// Test executables that start other people's daemons: those run on this machine only.
const TESTS_WITH_DAEMONS: [&str; 2] = ["bgp", "prometheus"];

/// How often `monitor/tests/restart.rs` kills the daemon, in machines too.
const KILLS_VARIABLE: &str = "LASTMILE_KILLS";
/// The default kernel's machine has the most to test: there it is that often where nobody asks for a
/// number.
const FEW_KILLS: &str = "10";

/// A test that cannot run where it is prints a line that begins like this, and passes.
const SKIP_MARK: &str = "SKIPPED:";

/// A harness's last line begins like this.
const RESULT: &str = "test result: ";

/// What ran so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
    /// Skips in the executable that is running; its harness will count them as passed.
    skips: u32,
    /// Where the next failure belongs.
    part: String,
    /// Which part of a harness's report comes.
    section: Section,
    /// What failed, for the end.
    failures: Vec<String>,
    /// What the failed tests printed, for the end too.
    outputs: Vec<String>,
}

/// A part of what libtest prints of one executable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Section {
    /// A line a test as it ends, and anything that is no harness's.
    #[default]
    Running,
    /// What the tests that passed printed.
    Passed,
    /// Their names again.
    PassedNames,
    /// What the others printed, and their names.
    Failed,
}

impl Tally {
    /// Begins a part of the run.
    fn begin(&mut self, part: &str) {
        println!("\n== {part}");
        part.clone_into(&mut self.part);
    }

    /// Another executable follows: the one before may have died in the middle.
    fn begin_harness(&mut self) {
        self.section = Section::default();
        self.skips = 0;
    }

    /// Takes what another one counted.
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.outputs.extend(other.outputs);
    }

    /// The part as a whole is one test.
    fn end(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failures.push(self.part.clone());
        }
    }

    /// Takes a line of a test executable's output into account; returns what of it to show. Of
    /// tests that passed that is what they measured, by another heading than failures have.
    fn read<'a>(&mut self, line: &'a str) -> Option<Cow<'a, str>> {
        if line.starts_with("running ") && self.section != Section::Running {
            self.begin_harness();
        }
        self.count(line);
        self.section = match (self.section, line) {
            (Section::Running, "successes:") => Section::Passed,
            (Section::Passed, "successes:") => Section::PassedNames,
            (Section::Failed, "failures:") => Section::Failed,
            (_, "failures:") => {
                self.outputs.push(format!("\n== {}", self.part));
                Section::Failed
            }
            (_, line) if line.starts_with(RESULT) => Section::Running,
            (section, _) => section,
        };
        match self.section {
            Section::Running => Some(line.into()),
            Section::Failed => {
                self.outputs.push(line.to_owned());
                Some(line.into())
            }
            Section::PassedNames => None,
            Section::Passed if line == "successes:" => None,
            Section::Passed => {
                let name = line.strip_prefix("---- ");
                let name = name.and_then(|name| name.strip_suffix(" stdout ----"));
                Some(name.map_or(line.into(), |name| format!("{name} printed:").into()))
            }
        }
    }

    /// Takes the counts from a line, if it has any.
    fn count(&mut self, line: &str) {
        if line.trim_start().starts_with(SKIP_MARK) {
            self.skips += 1;
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(format!("{name} ({})", self.part));
        } else if let Some(counts) = line.strip_prefix(RESULT) {
            for (count, what) in counts
                .split(['.', ';'])
                .filter_map(|part| part.trim().split_once(' '))
            {
                let count = count.parse().unwrap_or(0);
                match what {
                    "passed" => {
                        let skips = std::mem::take(&mut self.skips).min(count);
                        self.passed += count - skips;
                        self.skipped += skips;
                    }
                    "failed" => self.failed += count,
                    "ignored" => self.skipped += count,
                    _ => {}
                }
            }
        }
    }
}

/// Runs everything, to the end, whatever fails on the way; or only the test executables of
/// package `lastmile` that are in `names`.
///
/// # Errors
/// When set-up fails, or something that tests need cannot be run at all.
pub fn run(names: &[String]) -> Result<ExitCode> {
    let cache = setup::ensure_all()?;
    let mut tally = Tally::default();
    if names.is_empty() {
        checks(&mut tally)?;
    }
    let built = build(names, &mut tally);
    tests_here(&cache, names, &mut tally)?;
    if let Some(built) = built {
        if names.is_empty() {
            captures(&built, &mut tally);
        }
        tests_in_machines(&cache, &built, names, &mut tally);
        if names.is_empty() {
            scenarios(&cache, &built, &mut tally)?;
        }
    }

    println!();
    // Once more, where whoever reads only the end finds it.
    for line in &tally.outputs {
        println!("{line}");
    }
    for failure in &tally.failures {
        println!("failed: {failure}");
    }
    // CI reads this line.
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn checks(tally: &mut Tally) -> Result<()> {
    let checks: [(&str, &[&str]); 3] = [
        ("format", &["fmt", "--all", "--check"]),
        (
            "lints",
            &["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"],
        ),
        ("documentation", &["doc", "--workspace", "--no-deps"]),
    ];
    for (name, arguments) in checks {
        tally.begin(name);
        let status = cargo::command()
            .args(arguments)
            .env("RUSTDOCFLAGS", "-Dwarnings")
            .status()
            .with_context(|| format!("cannot run cargo {}", arguments.join(" ")))?;
        tally.end(status.success());
    }
    Ok(())
}

/// Builds everything once: a build of fewer packages has other features, and builds them again.
fn build(names: &[String], tally: &mut Tally) -> Option<Vec<Executable>> {
    tally.begin("build");
    let packages: &[&str] = if names.is_empty() {
        &["--workspace"]
    } else {
        &["--package", PACKAGE]
    };
    let result = cargo::build(&[&["build", "--all-targets"], packages].concat());
    or_failure(tally, result)
}

/// `cargo test`, with what the cache holds behind everything else in PATH.
fn tests_here(cache: &Cache, names: &[String], tally: &mut Tally) -> Result<()> {
    tally.begin("tests on this machine");
    let mut command = cargo::command();
    command.args(["test", "--no-fail-fast"]);
    if names.is_empty() {
        command.arg("--workspace");
    } else {
        command.args(["--package", PACKAGE]);
        command.args(names.iter().flat_map(|name| ["--test", name.as_str()]));
    }
    command
        .args(["--", "--show-output"])
        .env("PATH", programs::path_with_programs(cache)?);
    let failed_before = tally.failed;
    let success = stream(&mut command, tally)?;
    // A test that does not compile, or that dies, leaves no counts.
    if !success && tally.failed == failed_before {
        tally.end(false);
    }
    Ok(())
}

/// Runs a command, shows its output and counts the tests in it.
fn stream(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let stdout = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read what {command:?} prints"))?;
        let line = String::from_utf8_lossy(&line);
        if let Some(shown) = tally.read(&line) {
            println!("{shown}");
        }
    }
    let status = child.wait().context("cannot wait for a command")?;
    Ok(status.success())
}

/// What replay says of captures, against tshark and tcptrace.
fn captures(built: &[Executable], tally: &mut Tally) {
    tally.begin("conformance");
    if std::env::var_os(CAPTURES_VARIABLE).is_none() {
        println!("{SKIP_MARK} {CAPTURES_VARIABLE} names no folder of captures");
        tally.skipped += 1;
        return;
    }
    let result = cargo::binary(built, PACKAGE).and_then(|lastmile| {
        conformance::run(&conformance::Request {
            lastmile: Some(lastmile),
            ..conformance::Request::default()
        })
    });
    if let Some(code) = or_failure(tally, result) {
        tally.end(code == ExitCode::SUCCESS);
    }
}

/// A test executable in a machine.
struct MachineTest {
    name: String,
    spec: VmSpec,
}

/// The daemon's own tests, which load its programs, in each kernel.
fn tests_in_machines(cache: &Cache, built: &[Executable], names: &[String], tally: &mut Tally) {
    let of_package = built.iter().filter(|built| built.package == PACKAGE);
    let (tests, programs): (Vec<_>, Vec<_>) = of_package.partition(|built| built.test);
    let wanted = |test: &&&Executable| {
        test.integration
            && !TESTS_WITH_DAEMONS
                .iter()
                .any(|name| test.name.starts_with(name))
            && !TESTS_WITHOUT_KERNEL.contains(&test.name.as_str())
            && (names.is_empty() || names.contains(&test.name))
    };
    // One after the other: each copies what the others do, too.
    let mut all = Vec::new();
    for kernel in Kernel::ALL {
        let here = |test: &&&Executable| {
            kernel == Kernel::default()
                || !names.is_empty()
                || !TESTS_ON_ONE_KERNEL.contains(&test.name.as_str())
        };
        for test in tests.iter().filter(wanted).filter(here) {
            let under_lockdown = test.name == TEST_UNDER_LOCKDOWN;
            for arguments in [&[][..], &[LOCKDOWN]]
                .into_iter()
                .take(1 + usize::from(under_lockdown))
            {
                let name = [
                    &[test.name.as_str(), "on Linux", kernel.version()],
                    arguments,
                ];
                let name = name.concat().join(" ");
                let spec = guest_spec(kernel, arguments, test, &programs);
                tally.part.clone_from(&name);
                if let Some(spec) = or_failure(tally, spec) {
                    all.push(MachineTest { name, spec });
                }
            }
        }
    }
    let (alone, beside): (Vec<_>, Vec<_>) = all.into_iter().partition(|test| test.spec.alone);
    for test in &alone {
        tally.begin(&test.name);
        test_in_machine(cache, test, tally, &mut |line| println!("{line}"));
    }
    let lanes: Vec<Tally> = thread::scope(|scope| {
        let lanes = Kernel::ALL.map(|kernel| {
            let tests = beside.iter().filter(move |test| test.spec.kernel == kernel);
            scope.spawn(|| lane(cache, tests))
        });
        lanes
            .map(|lane| lane.join().expect("a lane does not panic"))
            .into()
    });
    for lane in lanes {
        tally.add(lane);
    }
}

/// One test after the other, each shown when it has ended.
fn lane<'a>(cache: &Cache, tests: impl Iterator<Item = &'a MachineTest>) -> Tally {
    let mut tally = Tally::default();
    for test in tests {
        let mut text = String::new();
        tally.part.clone_from(&test.name);
        test_in_machine(cache, test, &mut tally, &mut |line| {
            text.push_str(line);
            text.push('\n');
        });
        println!("\n== {}\n{text}", test.name);
    }
    tally
}

/// Shows an error and counts it.
fn or_failure<T>(tally: &mut Tally, result: Result<T>) -> Option<T> {
    result
        .inspect_err(|error| {
            eprintln!("error: {error:#}");
            tally.end(false);
        })
        .ok()
}

fn test_in_machine(
    cache: &Cache,
    test: &MachineTest,
    tally: &mut Tally,
    say: &mut dyn FnMut(&str),
) {
    let failed_before = tally.failed;
    tally.begin_harness();
    let result = vm::run(cache, &test.spec, &mut |line| {
        if let Some(shown) = tally.read(line) {
            say(&shown);
        }
    });
    if let Err(error) = &result {
        say(&format!("error: {error:#}"));
    }
    // A harness that dies leaves no counts.
    if !matches!(result, Ok(0)) && tally.failed == failed_before {
        tally.end(false);
    }
}

/// What a test expects as the first process.
fn init(test: &Executable) -> Init {
    if test.name == TEST_UNDER_SYSTEMD {
        Init::Systemd
    } else {
        Init::Script
    }
}

fn kills(kernel: Kernel) -> Option<String> {
    let few = || (kernel == Kernel::default()).then(|| FEW_KILLS.to_owned());
    env::var(KILLS_VARIABLE).ok().or_else(few)
}

fn guest_spec(
    kernel: Kernel,
    kernel_arguments: &[&str],
    test: &Executable,
    programs: &[&Executable],
) -> Result<VmSpec> {
    let folder = cargo::workspace().join("target/vm-tests");
    let binary = cargo::without_debug_information(&test.path, &folder)?;
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    // Tests know where cargo left the programs, and look for them there.
    let files = programs
        .iter()
        .map(|program| {
            let copy = cargo::without_debug_information(&program.path, &folder)?;
            Ok((copy, program.path.clone()))
        })
        .collect::<Result<_>>()?;
    Ok(VmSpec {
        kernel,
        init: init(test),
        kernel_arguments: kernel_arguments
            .iter()
            .chain((test.name != TEST_ON_SEVERAL_CPUS).then_some(&ONE_CPU))
            .map(|word| (*word).to_owned())
            .collect(),
        // One after the other: under emulation two transfers at once measure each other.
        command: vec![
            name.into_owned(),
            "--show-output".to_owned(),
            "--test-threads=1".to_owned(),
        ],
        environment: [("RUST_BACKTRACE".to_owned(), "1".to_owned())]
            .into_iter()
            .chain(kills(kernel).map(|number| (KILLS_VARIABLE.to_owned(), number)))
            .collect(),
        binaries: vec![binary],
        files,
        routers: false,
        video: false,
        streams: Vec::new(),
        alone: TESTS_THAT_MEASURE_TIMES.contains(&test.name.as_str()),
        time_limit: EXECUTABLE_LIMIT,
        out_dir: folder.join(format!("{}-{}", test.name, kernel.version())),
    })
}

fn scenarios(cache: &Cache, built: &[Executable], tally: &mut Tally) -> Result<()> {
    tally.begin("the lab's programs");
    let Some(programs) = or_failure(tally, Programs::among(built)) else {
        return Ok(());
    };
    let scenarios = Scenario::all()?;
    for kernel in Kernel::ALL {
        for scenario in &scenarios {
            if kernel != Kernel::default() && scenario.name != SCENARIO_ON_EVERY_KERNEL {
                continue;
            }
            let mut routes = vec![None];
            if kernel == Kernel::default() {
                let again = SCENARIOS_WITH_ROUTES
                    .iter()
                    .filter(|(name, _)| *name == scenario.name);
                routes.extend(again.map(|(_, routes)| Some(*routes)));
            }
            for routes in routes {
                let played = Played {
                    scenario,
                    routes,
                    kernel,
                };
                play_as_test(cache, &played, &programs, tally);
            }
        }
    }
    Ok(())
}

fn play_as_test(cache: &Cache, played: &Played<'_>, programs: &Programs, tally: &mut Tally) {
    let (scenario, version) = (&played.scenario.name, played.kernel.version());
    let routes = played.routes.map(Routes::name);
    let with = routes.map_or_else(String::new, |routes| format!(" with routes by {routes}"));
    tally.begin(&format!("scenario {scenario}{with} on Linux {version}"));
    let suffix = routes.map_or_else(String::new, |routes| format!("-{routes}"));
    let out_dir = Path::new("target/lab-tests").join(format!("{scenario}{suffix}-{version}"));
    for tried in 1.. {
        let result = lab::play(cache, played, programs, &out_dir);
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        if matches!(result, Ok(lab::PROVES_NOTHING)) && tried < TRIES {
            println!("the machine did not do what it should: once more");
            continue;
        }
        return tally.end(matches!(result, Ok(0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_a_harness_prints() {
        let mut tally = Tally::default();
        tally.begin("here");
        let lines = [
            "running 4 tests",
            "test flow::wraps ... ok",
            "test veth::counts ... FAILED",
            "",
            "successes:",
            "",
            "---- flow::wraps stdout ----",
            "SKIPPED: attaching needs root",
            "",
            "successes:",
            "    flow::wraps",
            "",
            "failures:",
            "",
            "---- veth::counts stdout ----",
            "thread panicked",
            "",
            "failures:",
            "    veth::counts",
            "",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; \
             finished in 0.02s",
        ];
        let shown: Vec<_> = lines.iter().filter_map(|line| tally.read(line)).collect();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 2));
        assert_eq!(tally.failures, ["veth::counts (here)"]);
        // The one that passed has no heading of a failure, and its name is not said again.
        let headings = shown.iter().filter(|line| line.starts_with("---- "));
        assert_eq!(headings.count(), 1);
        assert!(shown.iter().any(|line| line == "flow::wraps printed:"));
        assert!(!shown.iter().any(|line| line == "    flow::wraps"));
        assert_eq!(tally.outputs[0], "\n== here");
        assert!(tally.outputs.iter().any(|line| line == "thread panicked"));
        assert_eq!(tally.section, Section::Running);
    }
}
