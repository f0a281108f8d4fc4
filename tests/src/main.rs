//! `lab`: runs a scenario inside the machine that is its network.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lastmile_lab::daemon::PROGRAM;
use lastmile_lab::guest::{self, Options};
use lastmile_lab::routes::Source;
use lastmile_lab::scenario::Scenario;
use lastmile_lab::video::report::Report;
use lastmile_lab::video::run;

/// Exit status after a run in which the network did not do what the scenario's truth says.
const PROVES_NOTHING: u8 = 3;

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
    /// Play real video among other traffic here, and hold what the daemon says of it against the
    /// web server's log. Needs root and changes the machine's network namespaces and root's SSH
    /// keys: meant for a virtual machine of its own.
    Video {
        /// Folder of an HLS ladder, with its master.m3u8.
        ladder: PathBuf,
        /// Folder for the results.
        #[arg(long, default_value = "/out")]
        out: PathBuf,
        /// Leave root's SSH keys alone: nobody types.
        #[arg(long)]
        no_ssh: bool,
    },
    /// Compare once more what `video` left in a folder.
    VideoReport {
        /// Folder with lastmile.jsonl, access.jsonl and player.jsonl.
        folder: PathBuf,
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
    let done = match Command::parse() {
        Command::Guest {
            scenario,
            out,
            no_daemon,
            routes,
        } => load(&scenario, routes).map(|scenario| {
            let options = Options {
                out,
                daemon: !no_daemon,
            };
            guest::run(&scenario, &options)
        }),
        Command::Video {
            ladder,
            out,
            no_ssh,
        } => Ok(play_video(&ladder, &out, !no_ssh)),
        Command::VideoReport { folder } => Ok(report_video(&folder)),
        Command::Describe { scenario, routes } => load(&scenario, routes).map(|scenario| {
            println!("{}", scenario.description());
            Ok(true)
        }),
    };
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            eprintln!("lab: {error:#}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            if error.is::<guest::ProvesNothing>() {
                ExitCode::from(PROVES_NOTHING)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn load(scenario: &str, routes: Option<Source>) -> Result<Scenario> {
    let scenario = Scenario::load(scenario)?;
    match routes {
        Some(routes) => scenario.with_routes(routes),
        None => Ok(scenario),
    }
}

/// Plays, and says whether all is as good as promised; then once more without the names, of which
/// nothing is promised.
fn play_video(ladder: &Path, out: &Path, ssh: bool) -> Result<bool> {
    let play = |daemon: &str, out: &Path| {
        run::play(&run::Options {
            ladder: ladder.to_owned(),
            program: PROGRAM.into(),
            daemon: daemon.to_owned(),
            ssh,
            out: out.to_owned(),
        })
    };
    let is_good = tell(&Report::new(&play(run::BY_NAME, out)?)?)?;
    let by_behaviour = Report::new(&play(run::BY_BEHAVIOUR, &out.join("behaviour"))?)?;
    println!("\nwhat is video, by its behaviour alone (another run)");
    print!("{}", by_behaviour.recognised);
    Ok(is_good)
}

fn tell(report: &Report) -> Result<bool> {
    print!("{report}");
    println!("what is video, by the names that clients ask for");
    print!("{}", report.recognised);
    let mut shortcomings = report.shortcomings();
    shortcomings.extend(report.misnamed());
    for shortcoming in &shortcomings {
        println!("not as promised: {shortcoming}");
    }
    Ok(shortcomings.is_empty())
}

fn report_video(folder: &Path) -> Result<bool> {
    tell(&Report::new(&run::load(folder)?)?)
}
