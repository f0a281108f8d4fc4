//! How often verdicts are right: simulated incidents with known truth, played through the engine
//! that the daemon runs, and two simpler methods beside it on the same input.

mod report;
mod simulator;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use report::Report;
use simulator::design::Families;
use simulator::grade::Grade;
use simulator::incident::{Incident, Played};
use simulator::{Without, cdn, days, design, grade, handover_2014, incident};

/// The window, counted from the beginning of a fault, whose verdicts are shown.
const LATE: i64 = 7;

/// Plays simulated incidents and prints how often who was right.
#[derive(Clone, Parser)]
struct Arguments {
    /// Incidents to play
    #[arg(long, default_value_t = 2_000)]
    incidents: u64,
    /// ISP-days without a shared fault
    #[arg(long, default_value_t = 1_000)]
    isp_days: u64,
    /// Of the course of chance
    #[arg(long, default_value_t = 3)]
    seed: u64,
    /// Play this one of the incidents alone, and print all that is said of it
    #[arg(long, value_name = "NUMBER")]
    only: Option<u64>,
    /// Play a fortnight of a CDN with so many ISPs instead: 2,000 take 40 minutes
    #[arg(long, value_name = "ISPS")]
    cdn: Option<NonZeroUsize>,
    /// Of the families that thresholds were chosen on, not of those that were held out
    #[arg(long)]
    tuned: bool,
    /// Print every wrong name
    #[arg(long)]
    verbose: bool,
    /// Also play every incident with one kind of evidence taken away
    #[arg(long)]
    ablations: bool,
    /// Write the report there, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the figures there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(number) = arguments.only {
        let incidents =
            design::incidents(arguments.families(), arguments.incidents, arguments.seed);
        let incident = incidents
            .get(usize::try_from(number)?)
            .with_context(|| format!("there is no incident {number}"))?;
        explain(incident);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(isps) = arguments.cdn {
        let fortnight = cdn::play(isps, arguments.seed, |day, so_far| {
            println!("day {day}: {so_far:?}");
        });
        if let Some(path) = &arguments.json {
            write_json(path, &fortnight)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let held_out = arguments.play(arguments.families());
    let mut text = held_out.markdown();
    // The published report has both.
    let tuned = arguments.markdown.as_ref().map(|_| {
        let tuned = Arguments {
            isp_days: 0,
            ablations: false,
            ..arguments.clone()
        }
        .play(Families::Tuned);
        text += &tuned.markdown_in_short();
        tuned
    });
    print!("{text}");
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &arguments.json {
        let figures = serde_json::json!({
            "frozen": design::FROZEN,
            "held_out": held_out.figures(),
            "tuned": tuned.as_ref().map(Report::figures),
        });
        write_json(path, &figures)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_json(path: &Path, figures: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(figures)?;
    std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}

impl Arguments {
    fn families(&self) -> Families {
        match self.tuned {
            true => Families::Tuned,
            false => Families::HeldOut,
        }
    }

    fn play(&self, families: Families) -> Report {
        let mut report = Report::new(self.seed);
        let ablations: &[Without] = if self.ablations {
            &[
                Without::Ports,
                Without::Losses,
                Without::Delay,
                Without::Rate,
            ]
        } else {
            &[]
        };
        let incidents = design::incidents(families, self.incidents, self.seed);
        for (number, incident) in incidents.iter().enumerate() {
            let Some(played) = incident::play(incident, Without::Nothing) else {
                report.skip();
                continue;
            };
            let grade = grade::ours(&played);
            if self.verbose {
                tell(number, incident, &played, &grade);
            }
            report.add(incident, &played, &grade);
            report.add_rival("blame_it", &grade::rival(&played, |said| &said.blame_it));
            report.add_rival("signature", &grade::rival(&played, |said| &said.signature));
            for &without in ablations {
                if let Some(played) = incident::play(incident, without) {
                    report.add_ablation(without, &grade::ours(&played));
                }
            }
        }
        if self.isp_days > 0 {
            report.days = Some(days::play(self.isp_days, self.seed));
            report.handover_2014 = [false, true]
                .map(|ports| handover_2014::play(ports, self.seed))
                .into();
        }
        report
    }
}

/// Prints what was wrong in an incident, and what was said when it had lasted for a while.
fn tell(number: usize, incident: &Incident, played: &Played, grade: &Grade) {
    for name in &grade.wrong {
        println!(
            "wrong: {name}\n  in {number}: {incident:?}\n  {:?}",
            played.faults
        );
    }
    let late = played.said.iter().filter(|said| said.window == LATE);
    for verdict in late.flat_map(|said| &said.verdicts) {
        println!(
            "said: {number} {:?} {:?}: {:?} {:?} {:?}",
            incident.topology, incident.faults, verdict.place, verdict.segments, verdict.limits
        );
    }
    println!(
        "grade: {number} named after {:?}, answered after {:?}, {} of {} sets hold the truth",
        grade.first_right, grade.first_answer, grade.sets_right, grade.sets
    );
}

/// Prints one incident, window by window.
fn explain(incident: &Incident) {
    println!("{incident:#?}");
    let Some(played) = incident::play(incident, Without::Nothing) else {
        println!("its topology has no such place");
        return;
    };
    println!("{:#?}", played.faults);
    for said in &played.said {
        for verdict in &said.verdicts {
            println!(
                "{:>4} {:?} {:?} {:?} {:?} confidence {:.2}",
                said.window,
                verdict.place,
                verdict.segments,
                verdict.limits,
                verdict.inconclusive,
                verdict.confidence
            );
            for item in &verdict.evidence {
                println!(
                    "       {} of {:?}: {:?}, threshold {:?}, {} samples, for {}",
                    item.kind, item.about, item.value, item.threshold, item.samples, item.supports
                );
            }
            for alternative in &verdict.open {
                println!("       open {:?}: {}", alternative.segment, alternative.why);
            }
            for alternative in &verdict.rejected {
                println!("       not {:?}: {}", alternative.segment, alternative.why);
            }
        }
    }
}
