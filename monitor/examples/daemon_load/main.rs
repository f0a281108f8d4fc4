//! What the daemon costs beside the packet path: reports it takes in a second on one core, what it
//! and the kernel's table hold, what is left of a transfer's throughput, and what becomes of a flood
//! of short connections.
//!
//! `cargo xtask bench daemon` builds and runs it.

mod hosts;
mod reports;
mod short;
mod transfer;

use std::path::PathBuf;

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
    /// Rounds of transfers, one of each with the daemon
    #[arg(long, default_value_t = 25)]
    rounds: usize,
    /// How long each takes
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// How long short connections are made
    #[arg(long, default_value_t = 30)]
    short_seconds: u64,
}

fn main() -> Result<()> {
    let arguments = &Arguments::parse();
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
        "the end of a window in which all of them did something: {:.1} s, {} records",
        taken.window_s, taken.records
    );
    println!(
        "memory of the daemon, at most: {} MiB for {} flows, {} bytes each",
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
    let measured = transfer::measure(&arguments.lastmile, arguments.rounds, arguments.seconds)
        .context("no transfer could be measured")?;
    let without: Vec<f64> = measured.iter().map(|of| of.without).collect();
    println!(
        "a transfer over veth, {} times {} s each: {:.1} Gbit/s (median)",
        measured.len(),
        arguments.seconds,
        median(&without) * 8.0 / 1e9,
    );
    let with = measured.iter().map(|of| of.with / of.without);
    let again = measured.iter().map(|of| of.again / of.without);
    println!("  with the daemon at the sender: {}", share(with));
    println!("  once more without: {}", share(again));
    short_connections(arguments)
}

fn short_connections(arguments: &Arguments) -> Result<()> {
    let short = short::measure(&arguments.lastmile, arguments.short_seconds)
        .context("short connections could not be measured")?;
    println!(
        "short connections over veth for {} s: {:.2} million a minute without the daemon, {:.2} with",
        arguments.short_seconds,
        short.without / 1e6,
        short.with / 1e6,
    );
    println!(
        "  {} made: {} in the log, which stand for {} ({:.1} %); {} reports lost, {} flows evicted, \
         {} lines dropped; the daemon has {} MiB at most",
        short.made,
        short.measured,
        short.estimated,
        short.estimated as f64 * 100.0 / short.made as f64,
        short.reports_lost,
        short.flows_evicted,
        short.log_lines_dropped,
        short.memory_bytes >> 20
    );
    Ok(())
}

/// The median of some ratios, with quartiles.
fn share(ratios: impl Iterator<Item = f64>) -> String {
    let mut ratios: Vec<f64> = ratios.map(|ratio| ratio * 100.0).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: usize| ratios.get(ratios.len() * share / 4).copied();
    let [low, middle, high] = [1, 2, 3].map(|share| at(share).unwrap_or(f64::NAN));
    format!("{middle:.1} % of that (quartiles {low:.1} and {high:.1} %)")
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
