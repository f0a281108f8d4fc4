//! What the daemon costs beside the packet path: reports it takes in a second on one core, what it
//! and the kernel's table hold, and what is left of a transfer's throughput.
//!
//! `cargo xtask bench daemon` builds and runs it.

mod reports;
mod transfer;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;

/// Measures what the daemon costs beside the packet path.
#[derive(Parser)]
struct Arguments {
    /// The program whose transfers are measured
    #[arg(long, value_name = "FILE", default_value = "target/release/lastmile")]
    lastmile: PathBuf,
    /// Flows that report
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// Reports of each, after its first
    #[arg(long, default_value_t = 5)]
    reports: u32,
    /// Pairs of transfers, one of each with the daemon
    #[arg(long, default_value_t = 11)]
    pairs: usize,
    /// How long each takes
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let taken = reports::take(arguments.flows, arguments.reports)?;
    println!(
        "reports on one core: {:.0} a second of {} new flows, then {:.0} (medians of {}; lowest {:.0})",
        taken.first,
        arguments.flows,
        median(&taken.later),
        taken.later.len(),
        taken.later.iter().copied().fold(f64::INFINITY, f64::min),
    );
    println!(
        "memory of the daemon: {} MiB for {} flows, {} bytes each",
        taken.memory_bytes >> 20,
        arguments.flows,
        taken.memory_bytes / u64::from(arguments.flows)
    );
    let table = reports::table_bytes(arguments.flows)?;
    println!(
        "the kernel's maps for flows.max = {}: {} MiB, {} bytes a flow",
        arguments.flows,
        table >> 20,
        table / u64::from(arguments.flows)
    );
    let pairs = transfer::pairs(&arguments.lastmile, arguments.pairs, arguments.seconds)
        .context("no transfer could be measured")?;
    let mut ratios: Vec<f64> = pairs.iter().map(|pair| pair.with / pair.without).collect();
    ratios.sort_by(f64::total_cmp);
    let without: Vec<f64> = pairs.iter().map(|pair| pair.without).collect();
    println!(
        "a transfer over veth with the daemon: {:.1} % of its throughput without ({:.1} to {:.1} %, \
         {} pairs of {} s; {:.1} Gbit/s without)",
        median(&ratios) * 100.0,
        ratios.first().copied().unwrap_or(f64::NAN) * 100.0,
        ratios.last().copied().unwrap_or(f64::NAN) * 100.0,
        pairs.len(),
        arguments.seconds,
        median(&without) * 8.0 / 1e9,
    );
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
