//! Going on where an earlier run ended: the kernel went on counting meanwhile.
//!
//! Counters in the flow table are cumulative, so that nothing about a flow's life is lost. What
//! the earlier run told is not told again: an `open` is in the log for every flow that was seen
//! in a sweep or whose first report was read, and what was observed in a window that was judged belongs to
//! no other window. What a flow did between the last judged window and the new start is in its
//! own record, and in no window; so are the chunks of the earlier run in its records alone.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use monitor_ebpf::flow::FlowState;

use super::{Daemon, clock::Now, devices::remove_filters};
use crate::{
    capture::{
        ChunkNews, Report,
        live::{Hook, InUse, Live, Memory, Pins, is_bpf_file_system},
    },
    config::{Config, DEFAULT_BPF_DIRECTORY},
    flow::Secret,
    netlink::{Device, Netlink, namespace},
};

/// Loads the programs, with the maps of an earlier run where there are such.
pub fn load(config: &Config) -> Result<Live> {
    let options = config.into();
    match Pins::open(config.restart.bpf_directory.as_deref()) {
        Ok(Some(pins)) => Live::load_kept(&options, pins),
        Ok(None) => Live::load(&options),
        // Without a folder of its own this would take the other one's filters away.
        Err(error)
            if config.restart.bpf_directory.is_some()
                || error.is::<InUse>() && Hook::of_this_kernel() == Hook::Clsact =>
        {
            Err(error)
        }
        Err(error) => {
            tracing::warn!("{error:#}; nothing stays when this ends");
            Live::load(&options)
        }
    }
}

/// Removes everything that runs of the daemon left in the kernel: pinned links and maps, and
/// filters, also in other network namespaces. Without a folder that says which devices have filters
/// those of every device here are removed. Says what it removed.
///
/// # Errors
/// When a daemon is running, or something cannot be removed; everything else is gone then.
pub fn detach(config: &Config) -> Result<String> {
    let Some(pins) = Pins::open(config.restart.bpf_directory.as_deref())? else {
        let (filters, failed) = detach_here(|_| true)?;
        return done(format!("{filters} filters removed"), &failed);
    };
    let here = namespace::current()?;
    let (mut filters, mut failed, mut clean) = (0, Vec::new(), BTreeSet::new());
    for (number, devices) in pins.filters_noted()? {
        let noted = |device: &Device| devices.contains(&device.index);
        let removed = if number == here {
            detach_here(noted).map(Some)
        } else {
            namespace::within(number, || detach_here(noted))
        };
        match removed {
            Ok(Some((removed, errors))) => {
                filters += removed;
                if errors.is_empty() {
                    clean.insert(number);
                }
                failed.extend(errors);
            }
            Ok(None) => failed.push(anyhow!(
                "no network namespace that can be found has the number {number}: if it is still \
                 there, so are filters, which go with its devices, or with the next run in it"
            )),
            Err(error) => failed.push(error),
        }
    }
    let links = pins.remove(&clean)?;
    done(
        format!("{links} links and {filters} filters removed"),
        &failed,
    )
}

/// Does the same where nobody can say what is configured, if there is anything at the usual place.
///
/// # Errors
/// As [`detach`].
pub fn detach_at_default() -> Result<String> {
    if is_bpf_file_system(Path::new(DEFAULT_BPF_DIRECTORY)).unwrap_or(false) {
        detach(&Config::default())
    } else {
        Ok("nothing is at the usual place".to_owned())
    }
}

fn done(what: String, failed: &[anyhow::Error]) -> Result<String> {
    if failed.is_empty() {
        return Ok(what);
    }
    let failed: Vec<_> = failed.iter().map(|error| format!("{error:#}")).collect();
    bail!("{what}, but {}", failed.join("; "))
}

/// Removes our filters from those devices of this thread's network namespace: how many, and what
/// could not be done.
fn detach_here(wanted: impl Fn(&Device) -> bool) -> Result<(u64, Vec<anyhow::Error>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    runtime.block_on(async {
        let netlink = Netlink::open()?;
        let mut devices = netlink.devices().await?;
        devices.retain(|device| wanted(device));
        Ok(remove_filters(&netlink, &devices).await)
    })
}

impl Daemon {
    /// Takes over what an earlier run left, and leaves what the next one needs.
    pub(super) fn resume(&mut self) -> Result<()> {
        let Some(mut memory) = self.live.memory()? else {
            return Ok(());
        };
        if memory == Memory::default() {
            memory.secret = Secret::default().0;
        } else {
            self.tally.resume(&memory, &self.live.counters()?);
        }
        self.pipeline.set_secret(Secret(memory.secret));
        self.memory = Some(memory);
        self.leave(|_| ())
    }

    /// Takes over the flows of an earlier run: from `waiting`, the reports that nobody has read,
    /// and from the table.
    pub(super) fn adopt(&mut self, waiting: &[Report]) -> Result<()> {
        let Some(memory) = self.memory.filter(|_| self.live.resumed()) else {
            return self.take(waiting);
        };
        let now = Now::read();
        let waiting_states = waiting.iter().filter_map(|report| match report {
            Report::Flow(state) => Some(**state),
            Report::Chunk(_) => None,
        });
        let mut states: Vec<FlowState> = waiting_states.collect();
        self.tally.reports_received += states.len() as u64;
        let untold: HashSet<_> = states
            .iter()
            .filter(|state| state.first_report_ns == state.last_report_ns)
            .map(|state| (state.key, state.generation))
            .collect();
        self.live.flows(|state| states.push(*state))?;
        let mut records = Vec::new();
        let mut adopted = 0;
        let idle_ns = u64::from(self.config.flows.idle_s) * 1_000_000_000;
        for state in &states {
            let snapshot = self.snapshot(state, now);
            let was_read =
                state.first_report_ns != 0 && !untold.contains(&(state.key, state.generation));
            if state.generation < memory.swept_ns || was_read {
                let observed = state.generation < memory.closed_ns;
                let is_closed = was_closed(state, &memory, idle_ns);
                self.pipeline.adopt(&snapshot, observed, is_closed);
                adopted += 1;
            } else {
                self.pipeline.snapshot(&snapshot, &mut records);
            }
        }
        for report in waiting {
            if let Report::Chunk(report) = report {
                self.pipeline.chunk(&ChunkNews {
                    report: **report,
                    time_us: now.unix_us,
                    read_ns: now.monotonic_ns,
                });
            }
        }
        tracing::info!("{adopted} flows of the last run go on");
        self.write(&records)?;
        self.leave(|memory| memory.swept_ns = now.monotonic_ns)
    }

    /// Changes what the next run will know.
    pub(super) fn leave(&mut self, change: impl FnOnce(&mut Memory)) -> Result<()> {
        let Some(memory) = &mut self.memory else {
            return Ok(());
        };
        change(memory);
        self.tally.leave(memory);
        self.live.remember(memory)
    }
}

/// Whether the `close` of a flow is in the log.
fn was_closed(state: &FlowState, memory: &Memory, idle_ns: u64) -> bool {
    let last_ns = state.last_seen_ns();
    let was_idle = memory.closed_ns.saturating_sub(last_ns) >= idle_ns;
    last_ns < memory.closed_ns && (state.is_over() || was_idle)
}
