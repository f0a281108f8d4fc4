//! A simulated fortnight of a CDN, which takes too long to be played every time.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cargo;

/// What came of the last one, from the workspace.
pub const RECORD: &str = "docs/accuracy-cdn.json";
/// What its part of the report begins with.
pub const HEADING: &str = "\n### A fortnight of a CDN\n";

/// What the simulator counted (`simulator/cdn.rs`).
#[derive(Debug, Serialize, Deserialize)]
pub struct Fortnight {
    interconnects: usize,
    isps: usize,
    homes: usize,
    isp_days: u64,
    observations: u64,
    verdicts: u64,
    faults: u64,
    faults_named: u64,
    names: u64,
    names_wrong: u64,
    accusations: u64,
    sets: u64,
    sets_right: u64,
    took_s: f64,
}

/// The last one; `None`: none was played.
///
/// # Errors
/// When its file cannot be read, or holds something else.
pub fn record() -> Result<Option<Fortnight>> {
    let path = cargo::workspace().join(RECORD);
    if !path.exists() {
        return Ok(None);
    }
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let fortnight = serde_json::from_str(&text)
        .with_context(|| format!("{} is no record of a fortnight", path.display()))?;
    Ok(Some(fortnight))
}

/// Its part of the report.
pub fn markdown(of: &Fortnight) -> String {
    let percent = |part: u64, all: u64| {
        let share = part as f64 / all.max(1) as f64;
        format!("{part} of {all} ({:.2} %)", share * 100.0)
    };
    format!(
        "{HEADING}\n\
         `cargo xtask accuracy --cdn {}` plays 14 days of {} homes in {} ISPs behind {} interconnects, a \
         window a minute, with load that comes and goes with the hour, homes with troubles of their own, \
         and {} shared faults (full queues, losses, longer ways) at places and times that are drawn before \
         (`simulator/cdn.rs`). Every port's counters are known. {} clients' windows in {:.0} minutes.\n\n\
         | figure | value |\n| --- | --- |\n\
         | wrong names / all names | {} |\n\
         | accusations of a shared network that was not at fault | {} in {} ISP-days |\n\
         | shared faults of which a right name was said | {} |\n\
         | sets with the truth in them | {} |\n\
         | verdicts | {} |\n",
        of.isps,
        of.homes,
        of.isps,
        of.interconnects,
        of.faults,
        of.observations,
        of.took_s / 60.0,
        percent(of.names_wrong, of.names),
        of.accusations,
        of.isp_days,
        percent(of.faults_named, of.faults),
        percent(of.sets_right, of.sets),
        of.verdicts,
    )
}
