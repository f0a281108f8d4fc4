//! Incidents in machines: real kernels, queues and congestion control, one incident after the other,
//! over as many days as it takes.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::design::{self, Incident};
use crate::{
    cache::Cache,
    cargo,
    kernel::Kernel,
    lab::{self, Played, Programs, Scenario},
    process::output_of,
    setup,
};

/// What was played so far, one JSON object a line, from the workspace.
const RECORDS: &str = "docs/accuracy-machines.jsonl";
/// Where the scenarios and the results of each go, from the workspace.
const FOLDER: &str = "target/accuracy";

/// One incident that was played.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub incident: usize,
    pub fault: String,
    pub levels: Vec<(String, String)>,
    pub kernel: String,
    /// What judged it: the commit, with `+` where files were changed.
    pub commit: String,
    /// Why it proves nothing: what the kernel's own counters say against the truth. Such a one is
    /// played again.
    pub refused: Vec<String>,
    pub tally: Tally,
}

/// What the lab counted (`lastmile_lab::judge::Tally`).
#[derive(Debug, Serialize, Deserialize)]
pub struct Tally {
    pub names_right: Vec<String>,
    pub names_wrong: Vec<String>,
    pub sets: u64,
    pub sets_right: u64,
    pub set_sizes: u64,
    pub stated: Vec<(f64, bool)>,
    pub named_after_s: Option<f64>,
}

/// All records, as the file has them.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub fn records() -> Result<Vec<Record>> {
    let path = cargo::workspace().join(RECORDS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{}:{}: no record", path.display(), number + 1))
        })
        .collect()
}

/// Plays the next `count` incidents of the design that were not played yet.
///
/// # Errors
/// When one cannot be played at all; what was played before is kept.
pub fn play(count: usize, kernel: Kernel) -> Result<()> {
    let records = records()?;
    let is_played = |incident: &Incident| {
        let mut counting = records.iter().filter(|record| record.refused.is_empty());
        counting.any(|record| record.incident == incident.number)
    };
    let cache = setup::ensure_for_vm(kernel)?;
    let programs = Programs::build()?;
    let commit = commit()?;
    for incident in design::incidents()
        .filter(|incident| !is_played(incident))
        .take(count)
    {
        println!(
            "\n== incident {} of {}: {}, {:?}",
            incident.number,
            design::INCIDENTS,
            incident.fault.name(),
            incident.levels
        );
        let record = play_one(&cache, &incident, &programs, kernel, &commit)?;
        append(&record)?;
    }
    Ok(())
}

fn play_one(
    cache: &Cache,
    incident: &Incident,
    programs: &Programs,
    kernel: Kernel,
    commit: &str,
) -> Result<Record> {
    let name = incident.name();
    let folder = Path::new(FOLDER);
    let scenarios = cargo::workspace().join(folder);
    fs::create_dir_all(&scenarios)
        .with_context(|| format!("cannot create {}", scenarios.display()))?;
    let scenario = Scenario {
        file: scenarios.join(format!("{name}.toml")),
        name,
    };
    fs::write(&scenario.file, incident.scenario())
        .with_context(|| format!("cannot write {}", scenario.file.display()))?;
    let out_dir = folder.join(&scenario.name);
    let played = Played {
        scenario: &scenario,
        routes: None,
        kernel,
    };
    // What the lab thinks of it is in its results; that they are there is what counts.
    lab::play(cache, &played, programs, &out_dir)?;
    let outcome = outcome(&cargo::workspace().join(out_dir).join("outcome.json"))?;
    let refused = serde_json::from_value(outcome["truth_contradicted_by"].clone())
        .context("an outcome without truth_contradicted_by")?;
    let tally =
        serde_json::from_value(outcome["tally"].clone()).context("an outcome without a tally")?;
    Ok(Record {
        incident: incident.number,
        fault: incident.fault.name().to_owned(),
        levels: incident
            .levels
            .iter()
            .map(|(factor, level)| ((*factor).to_owned(), (*level).to_owned()))
            .collect(),
        kernel: kernel.version().to_owned(),
        commit: commit.to_owned(),
        refused,
        tally,
    })
}

fn outcome(path: &PathBuf) -> Result<Value> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("the incident left no {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

fn append(record: &Record) -> Result<()> {
    let path = cargo::workspace().join(RECORDS);
    let refused = || format!("cannot write {}", path.display());
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(refused)?;
    writeln!(file, "{}", serde_json::to_string(record)?).with_context(refused)
}

/// What is checked out.
fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        output_of(command.args(arguments).current_dir(cargo::workspace()))
    };
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    // The records themselves are no part of what judges.
    let changed = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":!docs",
    ])?;
    let mark = if changed.trim().is_empty() { "" } else { "+" };
    Ok(format!("{}{mark}", commit.trim()))
}
