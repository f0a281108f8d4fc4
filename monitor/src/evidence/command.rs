//! `lastmile verify` and `lastmile label`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::kept::{ENGINE, config_hash, differences};
use super::precision::Precision;
use super::store::{FILE_NAME, Found, Label, Store};
use crate::config::Config;
use crate::export::record::VerdictRecord;
use crate::verdict::Segment;

/// The files that are looked in: those that `--state` names (a folder stands for the file in it),
/// else the configuration's.
fn stores(config: &Config, state: &[PathBuf]) -> Result<Vec<Store>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for path in state {
        files.push(if path.is_dir() {
            path.join(FILE_NAME)
        } else {
            path.clone()
        });
    }
    if state.is_empty() {
        files.extend(config.evidence.file.clone());
    }
    if files.is_empty() {
        bail!("nothing is kept: set evidence.file in the configuration, or give --state PATH");
    }
    let mut stores = Vec::new();
    for file in &files {
        match Store::open_existing(file)? {
            Some(store) => stores.push(store),
            None if state.is_empty() => {
                bail!("{}: nothing is kept yet (evidence.file)", file.display())
            }
            None => bail!("{}: there is no such file", file.display()),
        }
    }
    Ok(stores)
}

fn find<'a>(stores: &'a [Store], id: &str) -> Result<(&'a Store, Found)> {
    for store in stores {
        if let Some(found) = store.find(id)? {
            return Ok((store, found));
        }
    }
    let files: Vec<String> = stores
        .iter()
        .map(|store| store.file().display().to_string())
        .collect();
    bail!(
        "no verdict {id} in {}: it is older than what is kept, or was not kept",
        files.join(", ")
    )
}

/// Recomputes a verdict from its inputs, and says whether it is the same to the byte.
///
/// # Errors
/// When it differs, or cannot be read.
pub fn verify(config: &Config, state: &[PathBuf], id: &str) -> Result<()> {
    let stores = stores(config, state)?;
    let (_, Found { line, kept }) = find(&stores, id)?;
    let recomputed = kept.verdicts().into_iter().find(|verdict| verdict.id == id);
    let engine = if kept.engine == ENGINE {
        format!("engine {ENGINE}")
    } else {
        format!("engine {}, recomputed by {ENGINE}", kept.engine)
    };
    let now = if kept.config_hash == config_hash(config) {
        "as it is now"
    } else {
        "another one now"
    };
    let about = format!(
        "{engine}; configuration {} ({now})",
        &kept.config_hash.get(..16).unwrap_or_default()
    );
    match recomputed {
        Some(recomputed) if recomputed.line == line => {
            println!("{id}: equal, {} bytes; {about}", line.len());
            Ok(())
        }
        Some(recomputed) => {
            println!("{id}: differs; {about}");
            for difference in differences(&line, &recomputed.line) {
                println!("  {difference}");
            }
            bail!("{id} is not what its inputs give");
        }
        None => {
            println!("{id}: differs; {about}");
            bail!("the inputs of {id} give no such verdict");
        }
    }
}

/// Records what was learned of a verdict.
///
/// # Errors
/// When there is no such verdict, or the file cannot be written.
pub fn label(
    config: &Config,
    state: &[PathBuf],
    id: &str,
    truth: &Truth,
    now_us: u64,
) -> Result<()> {
    let stores = stores(config, state)?;
    let (store, found) = find(&stores, id)?;
    let verdict: VerdictRecord = serde_json::from_str(&found.line)
        .with_context(|| format!("{}: {id} is no verdict", store.file().display()))?;
    let mut truth = truth.0.clone();
    truth.sort_unstable();
    truth.dedup();
    let label = Label {
        id: id.to_owned(),
        truth,
        said: verdict.segments,
        time_us: now_us,
    };
    store.label(&label)?;
    let right = label.said.iter().any(|it| label.truth.contains(it));
    let what = match (label.said.len(), right) {
        (0, _) => "it named no segment",
        (1, true) => "it was right",
        (1, false) => "it was wrong",
        (_, true) => "the truth was in its set",
        (_, false) => "the truth was not in its set",
    };
    println!("{id}: {what}");
    Ok(())
}

/// Prints how often names were right.
///
/// # Errors
/// When a file cannot be read.
pub fn report(config: &Config, state: &[PathBuf]) -> Result<()> {
    let mut labels = Vec::new();
    for store in stores(config, state)? {
        labels.extend(store.labels()?);
    }
    print!("{}", Precision::of(&labels).report());
    Ok(())
}

/// `none`, or segments with commas between them.
///
/// # Errors
/// What would be right.
pub fn truth(text: &str) -> Result<Truth, String> {
    if text == "none" {
        return Ok(Truth(Vec::new()));
    }
    let segments = text
        .split(',')
        .map(|name| {
            let name = name.trim();
            serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|_| {
                let names: Vec<String> = Segment::ALL.map(crate::verdict::log_name).into();
                format!(
                    "`{name}` is no segment: write `none`, or one or more of {}",
                    names.join(", ")
                )
            })
        })
        .collect::<Result<_, String>>();
    segments.map(Truth)
}

/// Where it was; empty: there was no congestion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth(pub Vec<Segment>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truth_is_none_or_segments() {
        assert_eq!(truth("none"), Ok(Truth(Vec::new())));
        let both = Ok(Truth(vec![Segment::Isp, Segment::Interconnect]));
        assert_eq!(truth("isp, interconnect"), both);
        let said = truth("isp,peering").expect_err("no segment");
        assert!(
            said.contains("`peering` is no segment") && said.contains("last_mile"),
            "{said}"
        );
    }
}
