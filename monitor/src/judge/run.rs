//! From the command line to standard output.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::hosts;
use super::logs::Logs;
use super::window::{Batch, Moved};
use crate::config::{Config, Destination};
use crate::engine::WindowSpan;
use crate::engine::judge;
use crate::engine::verdicts::{Beside, Engine};
use crate::export::Record;
use crate::export::jsonl::JsonLines;
use crate::export::render::Context;
use crate::flow::Secret;

/// Judges the cells in these logs; verdicts and incidents go to standard output. What was wrong
/// with a log is said at the end; everything else is judged.
pub fn run(config: &Config, files: &[PathBuf]) -> Result<()> {
    let mut output = JsonLines::open(&Destination::Stdout)?;
    let mut logs = Logs::open(files);
    let mut site = Site::new(config);
    while let Some((window, batch)) = logs.next_window() {
        let records = site.window(&window, batch);
        output.write(&records).context("cannot write records")?;
    }
    output
        .write(&site.finish())
        .context("cannot write records")?;
    for log in logs.empty() {
        eprintln!(
            "lastmile: {}: no cells and no verdicts in it",
            log.display()
        );
    }
    if logs.repeated > 0 {
        eprintln!(
            "lastmile: {} records are in the logs more than once, and were taken once",
            logs.repeated
        );
    }
    let damage = logs.damage();
    for named in &damage.named {
        eprintln!("lastmile: {named}");
    }
    match (damage.named.is_empty(), damage.lines) {
        (true, _) => Ok(()),
        (false, 0) => bail!("not every log could be read to its end; the rest was judged"),
        (false, lines) => bail!("{lines} lines were left out; the rest was judged"),
    }
}

/// The hosts of a site, as one.
pub struct Site<'a> {
    config: &'a Config,
    engine: Engine,
    moved: Moved,
    /// Who and when the last window was of.
    last: Option<(String, u64)>,
}

impl<'a> Site<'a> {
    pub fn new(config: &'a Config) -> Self {
        Self {
            config,
            engine: Engine::default(),
            moved: Moved::default(),
            last: None,
        }
    }

    /// Judges one window. Windows come in order.
    pub fn window(&mut self, window: &WindowSpan, batch: Batch) -> Vec<Record> {
        let mut merged = batch.merge();
        let span = judge::span(&self.config.baseline);
        self.moved.window(&mut merged, window, span);
        let local = merged.local(window);
        let beside = Beside {
            missed: &merged.missed,
            local: local.as_ref(),
            ports: merged.ports.as_ref(),
            coverage: &merged.coverage,
        };
        let mut judgement = self.engine.judge.window(
            &merged.cells,
            window,
            &merged.missed,
            &self.moved,
            self.config,
        );
        let votes = &mut judgement.window.votes;
        let apart = hosts::set_aside(votes, &merged.served, &merged.hosts, window.number);
        let concluded = self
            .engine
            .conclude(judgement, apart, window, &beside, self.config);
        let end_us = window.start_us + u64::from(window.length_s) * 1_000_000;
        let last = self.last.insert((merged.host(), end_us));
        let context = context(last);
        concluded.records(&context, window, &beside).collect()
    }

    /// The incidents that are under way.
    pub fn finish(&self) -> Vec<Record> {
        match &self.last {
            Some(last) => self.engine.open_incidents(&context(last)),
            None => Vec::new(),
        }
    }
}

fn context((host, time_us): &(String, u64)) -> Context<'_> {
    Context {
        host,
        time_us: *time_us,
        full_client_addresses: false,
        ladder: &[],
        // Verdicts and incidents name no clients.
        secret: Secret([0; 2]),
    }
}
