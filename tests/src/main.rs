//! `lab`: runs a scenario inside the machine that is its network.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lastmile_lab::guest::{self, Options};
use lastmile_lab::routes::Source;
use lastmile_lab::scenario::Scenario;

/// Holds lastmile's verdicts against the truth, in a small internet of network namespaces.
#[derive(Parser)]
#[command(name = "lab", version)]
enum Command {
    /// Build the scenario's network here, run it and compare. Needs root and changes the
    /// machine's network namespaces: meant for a virtual machine of its own.
    Guest {
        /// A built-in scenario's name, or the path of a scenario file.
        scenario: String,
        /// Folder for the results.
        #[arg(long, default_value = "/out")]
        out: PathBuf,
        /// Only prove that the network does what the scenario's truth says.
        #[arg(long)]
        no_daemon: bool,
        /// Where the daemon learns the routes from, instead of what the scenario says.
        #[arg(long, value_enum)]
        routes: Option<Source>,
    },
    /// Check a scenario and print its name and duration as one JSON object.
    Describe {
        /// A built-in scenario's name, or the path of a scenario file.
        scenario: String,
        /// Where the daemon learns the routes from, instead of what the scenario says.
        #[arg(long, value_enum)]
        routes: Option<Source>,
    },
}

fn main() -> ExitCode {
    let command = Command::parse();
    let (Command::Guest {
        scenario, routes, ..
    }
    | Command::Describe { scenario, routes }) = &command;
    let loaded = Scenario::load(scenario).and_then(|scenario| match routes {
        Some(routes) => scenario.with_routes(*routes),
        None => Ok(scenario),
    });
    let scenario = match loaded {
        Ok(scenario) => scenario,
        Err(error) => {
            eprintln!("lab: {error:#}");
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Describe { .. } => {
            println!("{}", scenario.description());
            ExitCode::SUCCESS
        }
        Command::Guest { out, no_daemon, .. } => {
            let options = Options {
                out,
                daemon: !no_daemon,
            };
            match guest::run(&scenario, &options) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => {
                    eprintln!("lab: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}
