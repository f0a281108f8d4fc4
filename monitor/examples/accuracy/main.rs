//! How often verdicts are right: simulated incidents with known truth, played through the engine
//! that the daemon runs, and two simpler methods beside it on the same input.

mod report;
mod simulator;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use report::Report;
use simulator::incident::Incident;
use simulator::{Without, days, design, grade, incident};

/// Plays simulated incidents and prints how often who was right.
#[derive(Parser)]
struct Arguments {
    /// Incidents to play
    #[arg(long, default_value_t = 2_000)]
    incidents: u64,
    /// ISP-days without a shared fault
    #[arg(long, default_value_t = 1_000)]
    isp_days: u64,
    /// Of the course of chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Play this one of the incidents alone, and print all that is said of it
    #[arg(long, value_name = "NUMBER")]
    only: Option<u64>,
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
    let incidents = design::incidents(arguments.incidents, arguments.seed);
    let mut report = Report::new(arguments.seed);
    let ablations: &[Without] = if arguments.ablations {
        &[
            Without::Ports,
            Without::Losses,
            Without::Delay,
            Without::Rate,
        ]
    } else {
        &[]
    };
    if let Some(number) = arguments.only {
        let incident = incidents
            .get(usize::try_from(number)?)
            .with_context(|| format!("there is no incident {number}"))?;
        explain(incident);
        return Ok(ExitCode::SUCCESS);
    }
    for (number, incident) in incidents.iter().enumerate() {
        let Some(played) = incident::play(incident, Without::Nothing) else {
            report.skip();
            continue;
        };
        let grade = grade::ours(&played);
        if arguments.verbose {
            for name in &grade.wrong {
                println!(
                    "wrong: {name}\n  in {number}: {incident:?}\n  {:?}",
                    played.faults
                );
            }
        }
        if arguments.verbose {
            for said in played.said.iter().filter(|said| said.window == 7) {
                let verdicts: Vec<_> = said
                    .verdicts
                    .iter()
                    .map(|v| {
                        (
                            format!("{:?}", v.place)
                                .split(' ')
                                .next()
                                .unwrap_or_default()
                                .to_owned(),
                            v.segments.clone(),
                            v.limits.clone(),
                            v.partial,
                        )
                    })
                    .collect();
                println!(
                    "at7: {number} {:?} ports {} {:?} {:?} {verdicts:?}",
                    incident.topology,
                    incident.ports,
                    incident.sending,
                    played
                        .faults
                        .iter()
                        .map(|f| (f.place, f.queue))
                        .collect::<Vec<_>>()
                );
            }
            println!(
                "grade: {number} {:?} {:?} ports {} recurrent {} unseen {} spreads {} {:?} homes {} named {:?} sets {}/{}",
                incident.faults,
                incident.topology,
                incident.ports,
                incident.recurrent,
                incident.unseen,
                incident.spreads,
                incident.sending,
                incident.scale.prefixes * incident.scale.homes,
                grade.first_right,
                grade.sets_right,
                grade.sets
            );
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
    if arguments.isp_days > 0 {
        report.days(days::play(arguments.isp_days, arguments.seed));
    }
    let text = report.markdown();
    print!("{text}");
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report.figures())?;
        std::fs::write(path, json + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
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
