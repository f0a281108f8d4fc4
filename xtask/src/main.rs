//! `cargo xtask`: everything a developer or a first-time user does with this repository.
//!
//! - [`setup`] finds out which of the [`requirements`] are missing and gets them: packages are
//!   downloaded with the machine's own apt and unpacked below the cache root ([`cache`], [`apt`]);
//!   nothing is installed.
//! - [`vm`] boots a real kernel in QEMU with an initramfs of its own and runs one command in it.
//! - [`lab`] builds lastmile and the lab and plays a scenario in the VM; [`video`] has real video
//!   played there ([`ladder`]), among other traffic.
//! - [`mod@test`] is every check there is; [`mod@bench`] measures what a packet costs, and how fast
//!   captures are read; [`accuracy`] plays incidents, simulated and in machines; [`fuzz`] looks for
//!   bytes that break something; [`conformance`] holds what we say of captures against tshark and
//!   tcptrace; [`deny`] looks at what is linked in; [`arm64`] builds for another architecture and tries it.

mod accuracy;
mod apt;
mod arm64;
mod bench;
mod bpf_toolchain;
mod cache;
mod cargo;
mod conformance;
mod deny;
mod fuzz;
mod kernel;
mod lab;
mod ladder;
mod performance;
mod process;
mod programs;
mod requirements;
mod setup;
mod test;
mod toolchain;
mod video;
mod vm;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{kernel::Kernel, lab::Routes};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about = "Set up, build, run and test lastmile", after_help = ENVIRONMENT)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

const ENVIRONMENT: &str = "\
Environment:
  LASTMILE_CACHE          folder for all downloads [~/.cache/lastmile]
  LASTMILE_DEBIAN_MIRROR  address of a Debian mirror (http://HOST/debian), for what this machine's
                          own package sources do not have [the one they or python-apt name]
  LASTMILE_ACCEL          kvm or tcg: how virtual machines run [what works]
  LASTMILE_CAPTURES       folder of packet captures, for the tests that replay real ones";

#[derive(Subcommand)]
enum Task {
    /// Get everything that building, running and testing need and this machine lacks
    #[command(after_help = ENVIRONMENT)]
    Setup {
        /// List what is missing and where it would come from; change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Play a scenario in a virtual machine and hold the verdicts against the truth
    Run {
        /// A name in tests/scenarios, or the path of a scenario file
        #[arg(long, default_value = "interconnect")]
        scenario: String,
        /// Where the daemon learns the routes from, instead of what the scenario says
        #[arg(long, value_enum)]
        routes: Option<Routes>,
        /// The kernel that the machine boots
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
    },
    /// Play real video among web, SSH and bulk traffic in a virtual machine, and hold what is said
    /// of it (chunks, HDratio, sessions) against the web server's log and the players
    Video {
        /// The kernel that the machine boots
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
    },
    /// Run every check: format, lints, documentation, tests here, tests and scenarios in VMs
    Test {
        /// Only these files of monitor/tests, such as loss_side: here and in VMs
        names: Vec<String>,
    },
    /// Measure what one packet costs in the kernel, or how fast captures are read
    Bench {
        #[arg(value_enum, default_value_t)]
        subject: bench::Subject,
        /// Measure in a virtual machine with this kernel instead of on this machine
        #[arg(long, value_enum)]
        kernel: Option<Kernel>,
        /// Passed on to the benchmark
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Hold what replay says of captures against tshark and tcptrace, flow by flow; exit code 1 if
    /// a difference is not explained
    Conformance {
        /// Every capture below it [those in LASTMILE_CAPTURES that hold TCP]
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
        /// Put the counts and the table of rules into docs/measurement.md
        #[arg(long)]
        write_docs: bool,
    },
    /// Play thousands of simulated incidents with known truth through the engine, two simpler
    /// methods beside it, or a fortnight of a CDN, or a few in virtual machines, and write
    /// docs/accuracy.md and docs/accuracy.json
    Accuracy {
        /// Play the next N incidents of the design for machines, a minute and a half each, instead
        /// of the simulated ones; 0 writes the report anew from what is on record
        #[arg(long, value_name = "N", conflicts_with_all = ["arguments", "cdn"])]
        machines: Option<usize>,
        /// Play a fortnight of a CDN with so many ISPs instead: 2,000 take 40 minutes
        #[arg(long, value_name = "ISPS", conflicts_with = "arguments")]
        cdn: Option<usize>,
        /// Of the machines
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
        /// Passed on to the simulator; with any, nothing is written
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Feed millions of mutated inputs to each fuzz target (cargo-fuzz, built into the cache)
    Fuzz {
        /// Files of fuzz/fuzz_targets, without .rs [default: all]
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// Inputs for each target
        #[arg(long, default_value_t = fuzz::EXECUTIONS)]
        executions: u64,
        /// none or address
        #[arg(long, default_value = "none")]
        sanitizer: String,
    },
    /// Hold licences, sources and known weaknesses of all dependencies against deny.toml (cargo-deny,
    /// built into the cache)
    Deny {
        /// advisories, bans, licenses or sources [default: all]
        #[arg(value_name = "CHECK")]
        checks: Vec<String>,
    },
    /// Build the daemon for arm64, and load its programs and measure a download on an arm64 kernel
    /// in an emulated machine
    Arm64,
    /// Run one command in a virtual machine
    Vm {
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
        /// A program of this machine to put into /bin, with the libraries it needs (repeatable)
        #[arg(long = "binary", value_name = "PATH")]
        binaries: Vec<PathBuf>,
        /// A file of this machine to put there (repeatable)
        #[arg(long = "file", value_name = "PATH:GUEST_PATH")]
        files: Vec<String>,
        /// Boot systemd, and run the command as a service of it
        #[arg(long)]
        systemd: bool,
        /// Added to the kernel's command line, such as lockdown=confidentiality (repeatable)
        #[arg(long = "kernel-argument", value_name = "WORD")]
        kernel_arguments: Vec<String>,
        /// Seconds after which the machine is switched off
        #[arg(long, default_value_t = 120)]
        timeout_s: u64,
        /// Where the files that the command leaves in /out go
        #[arg(long, value_name = "FOLDER", default_value = "target/vm")]
        out: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { dry_run: true } => setup::dry_run(),
        Task::Setup { dry_run: false } => {
            setup::ensure_all()?;
            println!("Everything is there.");
            Ok(ExitCode::SUCCESS)
        }
        Task::Run {
            scenario,
            routes,
            kernel,
        } => lab::run(&scenario, routes, kernel),
        Task::Video { kernel } => video::run(kernel),
        Task::Test { names } => test::run(&names),
        Task::Conformance { folder, write_docs } => conformance::run(&conformance::Request {
            folder,
            lastmile: None,
            write_docs,
        }),
        Task::Bench {
            subject: bench::Subject::Replay,
            arguments,
            ..
        } => bench::replay(&arguments),
        Task::Bench {
            subject: bench::Subject::Routes,
            arguments,
            ..
        } => bench::routes(&arguments),
        Task::Bench {
            subject: bench::Subject::Engine,
            arguments,
            ..
        } => bench::engine(&arguments),
        Task::Bench {
            subject: bench::Subject::Daemon,
            arguments,
            ..
        } => bench::daemon(&arguments),
        Task::Bench {
            subject: bench::Subject::Packet,
            kernel,
            arguments,
        } => bench::run(kernel, &arguments),
        Task::Accuracy {
            machines: Some(count),
            kernel,
            ..
        } => accuracy::play(count, kernel),
        Task::Accuracy {
            cdn: Some(isps), ..
        } => accuracy::play_cdn(isps),
        Task::Accuracy { arguments, .. } => accuracy::simulate(&arguments),
        Task::Fuzz {
            targets,
            executions,
            sanitizer,
        } => fuzz::run(&targets, executions, &sanitizer),
        Task::Deny { checks } => deny::run(&checks),
        Task::Arm64 => arm64::run(),
        Task::Vm {
            kernel,
            binaries,
            files,
            kernel_arguments,
            systemd,
            timeout_s,
            out,
            command,
        } => vm::command::run(vm::command::Request {
            kernel,
            binaries,
            files,
            kernel_arguments,
            init: if systemd {
                vm::Init::Systemd
            } else {
                vm::Init::Script
            },
            timeout_s,
            out,
            command,
        }),
    }
}
