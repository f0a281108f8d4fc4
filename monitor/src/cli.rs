//! The command line, and what each command needs before it can start.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::capture::replay::{self, Attribution};
use crate::config::{Config, Problem};
use crate::evidence::command::{self as evidence, Truth};
use crate::export::{Timestamp, jsonl::WriteError, schema};
use crate::path::{FileError, mrt::MrtError};

/// Whose congestion is it? Tells last-mile congestion from peering-point congestion for TCP
/// video flows, with evidence, or says that it cannot tell.
#[derive(Debug, Parser)]
#[command(name = "lastmile", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed at run time, 2 wrong usage or configuration.";

/// Failed at run time.
const FAILED: u8 = 1;
/// Wrong usage or configuration; the service manager does not try again.
const WRONG: u8 = 2;

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch flows and log verdicts until SIGTERM; SIGHUP reads the configuration again,
    /// SIGUSR1 logs the sessions that are not over.
    Run(ConfigFile),
    /// Say what `run` would do, and what is missing for it. Changes nothing.
    Check(ConfigFile),
    /// Remove everything that `run` left in the kernel: programs, flow table, filters.
    ///
    /// With a BPF file system ([restart] in the configuration) programs and flows stay when the
    /// daemon is stopped, for the next one. Run it in the network namespace of the daemon, after
    /// the daemon.
    Detach(ConfigFile),
    /// Read packet captures (pcap, pcapng, also compressed) with the same code as `run`.
    ///
    /// A `close` record for every TCP flow goes to standard output, and a `status` record with
    /// everything that was counted; with --config everything that `run` would have logged, in
    /// capture time. Client addresses are written in full: the capture holds them already.
    ///
    /// Understood are pcap (microseconds and nanoseconds, either byte order) and pcapng, each also
    /// as gzip, xz, zstd or bzip2; the link types Ethernet (also with VLAN, QinQ, PPPoE and MPLS),
    /// raw IP, Linux cooked v1 and v2, BSD loopback, PPP, Cisco HDLC and FDDI. Snapped packets
    /// count with the lengths in their headers.
    ///
    /// Several files are one stream: they are read in the order of their first packets and merged
    /// where they overlap, so a rotated capture may be named in any order. Two captures of the
    /// same packets count them twice, unless one pcapng file holds both as different interfaces.
    ///
    /// Without --config a flow is closed when it has ended, or after the silence that RFC 5382 asks
    /// a NAT to bear (2 h 4 min; 4 min while it opens or closes), and at the end. At most 262144
    /// flows are held at once; beyond that the longest silent ones are closed as `evicted`, and
    /// that is said on standard error.
    ///
    /// A damaged or truncated capture: everything before the damage is reported, the other files
    /// are read whole, the message says which file and at which packet and byte, and the exit
    /// code is 1.
    #[command(after_help = EXIT_CODES)]
    Replay {
        #[command(flatten)]
        config: ConfigFile,
        /// Captures; `-` is standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Say through what an address is or was reached: what the daemon recorded
    /// (path.history.file), and for now also what each configured source says.
    Route {
        #[arg(value_name = "ADDRESS")]
        address: IpAddr,
        /// When: RFC 3339, or "2026-11-17 20:15" in UTC [default: now].
        #[arg(long, value_name = "TIME", value_parser = Timestamp::from_typed)]
        at: Option<Timestamp>,
        /// One JSON object instead of lines to read.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Judge the cell logs of any number of hosts (JSON lines, also compressed) as one site.
    ///
    /// One host is often too thin to tell whose congestion it is. The `cell` records of the same
    /// window are merged over all hosts, and `verdict` and `incident` records go to standard
    /// output. The logs may be named in any order, and in parts as logrotate leaves them: each must
    /// be in the order of its windows. Baselines are learned from the logs alone, so give the days
    /// before the one in question too. All windows must have one length.
    ///
    /// Hosts name clients by pseudonyms of their own, unless log.full_client_addresses is set: one
    /// that several hosts served is several clients.
    ///
    /// Damaged lines are named on standard error and left out; everything else is judged, and the
    /// exit code is 1.
    #[command(after_help = EXIT_CODES)]
    Judge {
        #[command(flatten)]
        config: ConfigFile,
        /// Logs; `-` is standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Recompute a verdict from what was kept of it ([evidence] in the configuration).
    ///
    /// Says whether the same inputs give the same verdict, to the byte; what differs, where it does
    /// (exit code 1).
    #[command(after_help = EXIT_CODES)]
    Verify {
        /// `verdict_id` in the log.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        state: State,
    },
    /// Note what you learned of a verdict later, and report how often names were right.
    #[command(after_help = EXIT_CODES)]
    Label {
        /// `verdict_id` in the log.
        #[arg(
            value_name = "ID",
            required_unless_present = "report",
            requires = "truth"
        )]
        id: Option<String>,
        /// Where it was: `none`, or segments as in the log with commas between them.
        #[arg(value_name = "TRUTH", value_parser = evidence::truth)]
        truth: Option<Truth>,
        /// Print how often names were right, of the verdicts that were labelled.
        #[arg(long, conflicts_with = "id")]
        report: bool,
        #[command(flatten)]
        state: State,
    },
    /// Print the JSON Schema of the log.
    Schema {
        /// Hold each line of these logs to the schema instead.
        #[arg(long, num_args = 1.., value_name = "FILE")]
        check: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct State {
    /// Files of evidence, or folders with an evidence.sqlite [default: evidence.file].
    #[arg(long, num_args = 1.., value_name = "PATH")]
    state: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file [default: /etc/lastmile/lastmile.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lastmile: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

impl Cli {
    fn run(self) -> Result<()> {
        match self.command {
            Command::Run(ConfigFile { config }) => {
                let (config, file) = Config::find(config.as_deref())?;
                crate::daemon::run(config, file)
            }
            Command::Check(ConfigFile { config }) => {
                let (config, file) = Config::find(config.as_deref())?;
                crate::check::run(&config, file.as_deref())
            }
            Command::Detach(ConfigFile { config }) => {
                let wrong = match Config::find(config.as_deref()) {
                    Ok((config, _)) => {
                        println!("{}", crate::daemon::detach(&config)?);
                        return Ok(());
                    }
                    Err(error) => error,
                };
                // Whoever stops a daemon whose configuration is wrong by now wants it gone.
                match crate::daemon::detach_at_default() {
                    Ok(done) => eprintln!("lastmile: {done}"),
                    Err(error) => eprintln!("lastmile: {error:#}"),
                }
                Err(wrong.into())
            }
            Command::Replay {
                config: ConfigFile { config },
                files,
            } => match config {
                Some(file) => replay::run(Config::load(&file)?, Attribution::On, &files),
                None => replay::run(Config::default(), Attribution::Off, &files),
            },
            Command::Judge {
                config: ConfigFile { config },
                files,
            } => {
                let (config, _) = Config::find(config.as_deref())?;
                crate::judge::run(&config, &files)
            }
            Command::Verify { id, state } => {
                let (config, _) = Config::find(state.config.config.as_deref())?;
                evidence::verify(&config, &state.state, &id)
            }
            Command::Label {
                id, truth, state, ..
            } => {
                let (config, _) = Config::find(state.config.config.as_deref())?;
                match id.zip(truth) {
                    None => evidence::report(&config, &state.state),
                    Some((id, truth)) => {
                        let now_us = crate::daemon::unix_now_us();
                        evidence::label(&config, &state.state, &id, &truth, now_us)
                    }
                }
            }
            Command::Route {
                address,
                at,
                json,
                config: ConfigFile { config },
            } => {
                let (config, _) = Config::find(config.as_deref())?;
                crate::route::run(&config, crate::route::Question { address, at }, json)
            }
            Command::Schema { check } if !check.is_empty() => {
                check.iter().try_for_each(|log| check_log(log))
            }
            Command::Schema { .. } => {
                let mut text = serde_json::to_string_pretty(&schema::schema())
                    .context("the schema is no JSON")?;
                text.push('\n');
                io::stdout().lock().write_all(text.as_bytes())?;
                Ok(())
            }
        }
    }
}

/// Holds a log to the schema; stops at the first line that is no record.
fn check_log(path: &Path) -> Result<()> {
    let log = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    for (line, number) in BufReader::new(log).lines().zip(1..) {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        schema::validate_line(&line).with_context(|| format!("{}:{number}", path.display()))?;
    }
    Ok(())
}

/// A mistake in a file of the operator's is his to put right; anything else may pass.
fn exit_code(error: &anyhow::Error) -> u8 {
    let is_configuration = error
        .chain()
        .any(|cause| cause.is::<Problem>() || cause.is::<FileError>() || cause.is::<MrtError>());
    if is_configuration { WRONG } else { FAILED }
}

/// Whoever read our output has had enough (`| head`): not a failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let pipe = cause
            .downcast_ref::<io::Error>()
            .is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe);
        pipe || matches!(cause.downcast_ref(), Some(WriteError::Closed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_file_of_the_operators_is_2_and_anything_else_1() {
        let problem = Config::find(Some("/nonexistent.toml".as_ref())).expect_err("no file");
        let wrapped = anyhow::Error::from(problem).context("cannot start");
        assert_eq!(exit_code(&wrapped), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("no such interface")), 1);
    }

    #[test]
    fn a_log_with_a_line_that_is_no_record_is_refused_with_its_number() {
        let path = std::env::temp_dir().join(format!("lastmile-{}.jsonl", std::process::id()));
        std::fs::write(&path, "{\"type\":\"gossip\"}\n").expect("writable");
        let error = check_log(&path).expect_err("no record");
        std::fs::remove_file(&path).expect("ours");
        let said = format!("{error:#}");
        assert!(
            said.ends_with(
                ".jsonl:1: `gossip` is no record type: flow, session, cell, route, verdict, incident, status"
            ),
            "{said}"
        );
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = anyhow::Error::from(WriteError::Closed).context("cannot write");
        assert!(is_closed_pipe(&gone));
        let pipe = anyhow::Error::from(io::Error::from(ErrorKind::BrokenPipe));
        assert!(is_closed_pipe(&pipe));
        assert!(!is_closed_pipe(&anyhow::anyhow!("no space")));
    }
}
