//! `lastmile replay`: captures in, flow records (and with a configuration verdicts) out.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{
    input::BytesRead,
    merge::Merged,
    progress::Progress,
    stream::{Attribution, Stream},
};
use crate::{
    config::{Config, Destination},
    export::{
        Record,
        jsonl::{JsonLines, WriteError},
    },
};

/// Reads the captures as one stream in time order, and writes records to standard output. What
/// was wrong with a capture is said at the end; the others are read whole.
pub fn run(config: Config, attribution: Attribution, files: &[PathBuf]) -> Result<()> {
    let mut log = JsonLines::open(&Destination::Stdout)?;
    let bytes_read = BytesRead::default();
    let progress = Progress::new(files, bytes_read.clone());
    let mut stream = Stream::new(config, attribution, |records: &[Record]| {
        progress
            .suspended(|| log.write(records))
            .map_err(anyhow::Error::new)
            .context("cannot write records")
    })?;
    let mut captures = Merged::new(files, bytes_read);
    let result = replay(&mut captures, &mut stream, &progress);
    progress.end();
    match result {
        Err(error) if matches!(error.downcast_ref(), Some(WriteError::Closed)) => return Ok(()),
        other => other?,
    }
    say(&captures, &stream);
    let mut failures = captures.failures();
    let Some(last) = failures.pop() else {
        return Ok(());
    };
    for failure in &failures {
        eprintln!("lastmile: {failure}");
    }
    Err(last.into())
}

fn replay<S: FnMut(&[Record]) -> Result<()>>(
    captures: &mut Merged,
    stream: &mut Stream<S>,
    progress: &Progress,
) -> Result<()> {
    while captures.advance() {
        if let Some(packet) = captures.packet() {
            stream.packet(&packet)?;
        }
        progress.packet();
    }
    stream.finish(&captures.passed_over().counters())
}

/// What was not measured, and why.
fn say<S: FnMut(&[Record]) -> Result<()>>(captures: &Merged, stream: &Stream<S>) {
    for remark in captures.remarks() {
        eprintln!("lastmile: {remark}");
    }
    let clock = stream.clock();
    if clock.steps_back > 0 {
        eprintln!(
            "lastmile: the time stamps step back {} times: times after that are later than them, \
             at the end by {:.3} s",
            clock.steps_back,
            clock.shift_ns() as f64 / 1e9
        );
    }
    if stream.flows_evicted() > 0 {
        eprintln!(
            "lastmile: {} flows were closed early, the longest silent ones, because more were \
             open than are held at once",
            stream.flows_evicted()
        );
    }
}
