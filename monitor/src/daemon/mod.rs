//! `lastmile run`: the only place with a clock, tasks and signals.

mod baselines;
#[cfg(test)]
mod bmp_examples;
mod bmp_sessions;
mod bmp_station;
pub(crate) mod cgroups;
mod clock;
mod devices;
pub(crate) mod feeds;
pub mod fib_feed;
mod files;
mod flows;
mod keeper;
mod log;
mod metrics;
pub mod port_feed;
mod recorder;
mod reload;
mod restart;
mod service_manager;
mod start;
mod tally;

pub use restart::{detach, detach_at_default};

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use monitor_ebpf::flow::FlowKey;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

pub(crate) use self::start::services;
use self::{
    baselines::Baselines,
    clock::{Now, next_boundary},
    devices::Devices,
    feeds::Feeds,
    keeper::Keeper,
    port_feed::PortFeed,
    recorder::Recorder,
    service_manager::notify,
    tally::Tally,
};
use crate::{
    capture::live::{Live, Memory},
    config::Config,
    engine::{Missed, Pipeline},
    export::{Record, jsonl::WriteError},
    flow::admission::Admissions,
    path::Routes,
};

/// How often queues are looked at, devices are listed whatever netlink told, and systemd's
/// watchdog is told that we are alive: a backlog of a second is not overlooked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Flows learn of new routes at most this often: a router's full table comes in thousands of
/// batches, and windows are seconds.
const ROUTES_INTERVAL: Duration = Duration::from_millis(100);
/// ... and less often where it takes long, so that this is at most a tenth of the time.
const ROUTES_SHARE: u32 = 10;

/// Devices are listed at most this often, however much happens to them.
const DEVICES_INTERVAL: Duration = Duration::from_millis(100);

/// How often the history notes how the sources are.
const FEEDS_INTERVAL_US: u64 = 10_000_000;

/// Runs until SIGTERM or SIGINT. `file` is read again on SIGHUP.
pub fn run(config: Config, file: Option<PathBuf>) -> Result<()> {
    start::say_on_stderr(config.log.level);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?
        .block_on(async {
            let mut daemon = Daemon::start(config, file).await?;
            let result = daemon.watch().await;
            daemon.stop();
            match result {
                // Whoever read standard output has had enough: the end, and no failure.
                Err(error) if matches!(error.downcast_ref(), Some(WriteError::Closed)) => Ok(()),
                other => other,
            }
        })
}

struct Daemon {
    config: Config,
    file: Option<PathBuf>,
    live: Live,
    devices: Devices,
    routes: Arc<ArcSwap<Routes>>,
    feeds: Feeds,
    /// `None`: no history is kept.
    recorder: Option<Recorder>,
    /// `None`: what is usual is learned anew by every run.
    baselines: Option<Baselines>,
    /// `None`: what verdicts are made of is not kept.
    keeper: Option<Keeper>,
    /// When the history was last told how the sources are.
    feeds_noted_us: u64,
    /// When flows may learn of new routes again.
    routes_from: Instant,
    pipeline: Pipeline,
    log: log::Log,
    look_failing: bool,
    /// What is kept stays when this ends: not where somebody at a terminal ended it.
    stays: bool,
    tally: Tally,
    metrics: metrics::Shown,
    ports: Option<PortFeed>,
    admissions: Admissions,
    /// One new flow in so many was admitted, at the least, in this window.
    admitted_one_in: u32,
    /// Flows that the last sweep removed, and their generations.
    removed: HashMap<FlowKey, u64>,
    epoch_offset_ns: u64,
    /// What the next run must know, where anything is kept for it.
    memory: Option<Memory>,
}

/// What made the main loop wake up.
enum Event {
    Reports(Result<()>),
    Hellos(Result<()>),
    EndOfWindow,
    Look,
    Devices,
    Routes,
    Reload,
    Sessions,
    Stop(&'static str),
}

impl Daemon {
    async fn watch(&mut self) -> Result<()> {
        let mut reports = self.live.take_reports()?;
        let mut waiting = Vec::new();
        reports.drain(|report| waiting.push(report));
        self.adopt(&waiting)?;
        let mut hellos = self.live.take_hellos()?;
        let mut kernel_log = self.live.take_kernel_log()?;
        let mut looks = interval(LOOK_INTERVAL);
        // Rates are of what came since the last look: a late one makes the next one no shorter.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
        let mut asked = signal(SignalKind::user_defined1()).context("cannot wait for SIGUSR1")?;
        let closed = self.log.closed();
        let devices = self.devices.changed();
        let mut devices_from = Instant::now();
        let mut end_us = self.next_window_end();
        notify(&[NotifyState::Ready]);
        tracing::info!(
            "watching {} interface(s), {} prefixes known; the first window ends in {} s",
            self.devices.len(),
            self.routes.load().len(),
            end_us
                .saturating_sub(Now::read().unix_us)
                .div_ceil(1_000_000)
        );
        loop {
            let (mut taken, mut said) = (Vec::new(), Vec::new());
            let event = tokio::select! {
                result = hellos.next(|piece| said.push(piece)) => Event::Hellos(result),
                result = reports.next(|report| taken.push(report)) => Event::Reports(result),
                () = sleep(until(end_us)) => Event::EndOfWindow,
                _ = looks.tick() => Event::Look,
                () = notified_after(devices_from, &devices) => Event::Devices,
                () = changed_after(self.routes_from, &self.feeds) => Event::Routes,
                result = kernel_log.next() => { result?; continue }
                () = closed.notified() => return Err(WriteError::Closed.into()),
                _ = hangup.recv() => Event::Reload,
                _ = asked.recv() => Event::Sessions,
                _ = terminate.recv() => Event::Stop("SIGTERM"),
                _ = interrupt.recv() => Event::Stop("SIGINT"),
            };
            match event {
                Event::Hellos(result) => {
                    result?;
                    self.hear(&said);
                }
                Event::Reports(result) => {
                    result?;
                    // What clients say first comes before the reports of their flows.
                    hellos.drain(|piece| said.push(piece));
                    self.hear(&said);
                    self.take(&taken)?;
                }
                Event::EndOfWindow => {
                    if Now::read().unix_us >= end_us {
                        hellos.drain(|piece| said.push(piece));
                        self.hear(&said);
                        reports.drain(|report| taken.push(report));
                        self.take(&taken)?;
                        self.look().await;
                        self.end_of_window(end_us)?;
                        end_us = self.next_window_end();
                    }
                }
                Event::Look => {
                    self.look().await;
                    self.find_cgroups();
                    // Where the clock was set back the window ends earlier than planned.
                    end_us = end_us.min(self.next_window_end());
                    self.record();
                    self.admit()?;
                    self.leave(|_| ())?;
                    notify(&[NotifyState::Watchdog]);
                }
                Event::Devices => {
                    self.follow_devices().await;
                    devices_from = Instant::now() + DEVICES_INTERVAL;
                }
                Event::Routes => self.routes_changed()?,
                Event::Reload => {
                    self.reload();
                    end_us = self.next_window_end();
                }
                Event::Sessions => {
                    hellos.drain(|piece| said.push(piece));
                    self.hear(&said);
                    reports.drain(|report| taken.push(report));
                    self.take(&taken)?;
                    self.tell_sessions()?;
                }
                Event::Stop(signal) => {
                    tracing::info!("{signal}: writing what is known");
                    notify(&[NotifyState::Stopping]);
                    hellos.drain(|piece| said.push(piece));
                    self.hear(&said);
                    reports.drain(|report| taken.push(report));
                    self.take(&taken)?;
                    self.stays = signal == "SIGTERM";
                    return Ok(());
                }
            }
        }
    }

    /// Looks at the devices. What cannot be seen now may be seen in a second; that it cannot is
    /// said once.
    async fn look(&mut self) {
        if self.follow_devices().await {
            let result = self.devices.look().await;
            self.say_whether_seen(result);
        }
    }

    /// Attaches to devices that came, and lets go of those that went.
    async fn follow_devices(&mut self) -> bool {
        let patterns = &self.config.watch.interfaces;
        let result = self.devices.follow(&mut self.live, patterns).await;
        let followed = result.is_ok();
        self.say_whether_seen(result);
        followed
    }

    fn say_whether_seen(&mut self, result: Result<()>) {
        match result {
            Ok(()) => self.look_failing = false,
            Err(error) if !self.look_failing => {
                tracing::error!("{error:#}");
                self.look_failing = true;
            }
            Err(_) => {}
        }
    }

    /// Tells the flows which routes changed.
    fn routes_changed(&mut self) -> Result<()> {
        let affected = self.feeds.take_affected();
        let mut records = Vec::new();
        let began = Instant::now();
        let now_us = Now::read().unix_us;
        self.pipeline
            .routes_changed(&affected, now_us, &mut records);
        let pause = ROUTES_INTERVAL.max(began.elapsed() * (ROUTES_SHARE - 1));
        self.routes_from = Instant::now() + pause;
        self.write(&records)
    }

    /// Gives the history what it does not know yet.
    fn record(&mut self) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let now_us = Now::read().unix_us;
        let news = self.pipeline.take_history();
        recorder.record(news, now_us, || self.pipeline.followed(now_us));
        if now_us.abs_diff(self.feeds_noted_us) >= FEEDS_INTERVAL_US {
            self.feeds_noted_us = now_us;
            recorder.feeds(self.feeds.state().feeds, now_us);
        }
    }

    fn status(&mut self, time_us: u64) -> Record {
        let (followed, refused) = self.pipeline.following();
        let (chunks_dropped, sessions_refused) = self.pipeline.chunks_missed();
        let recorded = self.recorder.as_ref().map(Recorder::recorded);
        let recorded = recorded.unwrap_or_default();
        let kept = self.keeper.as_ref().map(Keeper::counts).unwrap_or_default();
        let heard = self.pipeline.heard();
        let others = self.feeds.state().counters.into_iter().chain([
            ("admitted_one_in", u64::from(self.admissions.one_in())),
            ("hellos_named", heard.hellos_named),
            ("hellos_matched", heard.hellos_matched),
            ("hellos_nameless", heard.hellos_nameless),
            ("hellos_not_heard", heard.hellos_not_heard),
            ("route_prefixes_followed", followed),
            ("route_prefixes_not_followed", refused),
            ("history_entries_written", recorded.written),
            ("history_entries_lost", recorded.lost),
            ("history_writes_failed", recorded.failures),
            ("evidence_verdicts_kept", kept.kept),
            ("evidence_verdicts_lost", kept.lost),
            ("evidence_writes_failed", kept.failures),
            ("chunks_without_flow", chunks_dropped),
            ("sessions_refused", sessions_refused),
            (
                "baseline_writes_failed",
                self.baselines.as_ref().map_or(0, Baselines::failures),
            ),
        ]);
        let ports = self.ports.iter().flat_map(PortFeed::status);
        let others = others.chain(ports.collect::<Vec<_>>());
        self.tally.status(
            time_us,
            self.pipeline.flows() as u64,
            self.log.losses(),
            others,
        )
    }

    fn next_window_end(&self) -> u64 {
        let length_us = u64::from(self.config.window.length_s) * 1_000_000;
        next_boundary(Now::read().unix_us, length_us)
    }

    fn end_of_window(&mut self, end_us: u64) -> Result<()> {
        let began = Now::read();
        // Before the table is read: what comes meanwhile is in the next window.
        let counters = self.live.counters()?;
        let mut records = self.sweep()?;
        self.sweep_quic()?;
        let window_us = u64::from(self.config.window.length_s) * 1_000_000;
        let local = self.devices.end_of_window(window_us);
        let one_in_now = self.admissions.one_in();
        let missed = Missed {
            admitted_one_in: std::mem::replace(&mut self.admitted_one_in, one_in_now),
            ..self.tally.end_of_window(&counters, self.log.losses().0)
        };
        let ports = self.ports.as_ref();
        let ports = ports.map(|ports| ports.window(end_us.saturating_sub(window_us), end_us));
        let ports = ports.as_ref();
        records.extend(
            self.pipeline
                .end_of_window(end_us, Some(&local), ports, &missed),
        );
        if let Some(keeper) = &self.keeper {
            let evidence = self.pipeline.take_evidence();
            evidence.into_iter().for_each(|window| keeper.keep(window));
        }
        records.push(self.status(end_us));
        if let Some(baselines) = &mut self.baselines {
            let learned = |since| self.pipeline.learned(since);
            baselines.note(&self.config, end_us, learned);
        }
        self.follow_clock()?;
        self.write(&records)?;
        self.leave(|memory| {
            memory.swept_ns = began.monotonic_ns;
            memory.closed_ns = began.monotonic_ns;
        })
    }

    /// SIGUSR1: a record of each session that is not over.
    fn tell_sessions(&mut self) -> Result<()> {
        let sessions = self.pipeline.current_sessions(Now::read().unix_us);
        tracing::info!("SIGUSR1: {} session(s) are not over", sessions.len());
        self.write(&sessions)
    }

    /// Windows are cut by UTC: where that was set or drifted, epochs move with it.
    fn follow_clock(&mut self) -> Result<()> {
        /// A slip below this changes no minimum's epoch that matters.
        const SLIP_NS: u64 = 1_000_000;
        let offset_ns = Now::read().offset_ns();
        if offset_ns.abs_diff(self.epoch_offset_ns) > SLIP_NS {
            self.live.set_times(&self.config, offset_ns)?;
            self.epoch_offset_ns = offset_ns;
        }
        Ok(())
    }

    /// Hands records to the log. Only a reader that has gone ends the daemon.
    fn write(&mut self, records: &[Record]) -> Result<()> {
        self.metrics.note(records);
        Ok(self.log.write(records)?)
    }

    /// Writes what is known of every flow.
    fn stop(&mut self) {
        let now = Now::read();
        let written = self.sweep().and_then(|mut records| {
            records.extend(self.pipeline.finish(now.unix_us, None));
            // The next run, if there is one, takes the difference from the window before.
            let before = self.tally.clone();
            let lines_dropped = self.log.losses().0;
            self.tally
                .end_of_window(&self.live.counters()?, lines_dropped);
            records.push(self.status(now.unix_us));
            self.write(&records)?;
            self.tally = before;
            self.leave(|memory| memory.swept_ns = now.monotonic_ns)
        });
        let detached = if self.stays {
            Ok(())
        } else {
            self.devices
                .detach()
                .and_then(|()| self.live.keep_nothing())
        };
        let written = written.and(detached);
        self.record();
        if let Some(recorder) = &mut self.recorder {
            recorder.stop();
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.stop();
        }
        if let Some(baselines) = &mut self.baselines {
            let learned = |since| self.pipeline.learned(since);
            baselines.stop(&self.config, now.unix_us, learned);
        }
        if let Err(error) = written {
            tracing::error!("{error:#}");
        }
        self.log.finish();
    }
}

/// Waits until something was notified, and not before `from`.
async fn notified_after(from: Instant, changed: &Notify) {
    sleep_until(from).await;
    changed.notified().await;
}

/// Waits until routes have changed, and not before `from`.
async fn changed_after(from: Instant, feeds: &Feeds) {
    sleep_until(from).await;
    feeds.changed().await;
}

/// Time until `unix_us`.
fn until(unix_us: u64) -> Duration {
    Duration::from_micros(unix_us.saturating_sub(Now::read().unix_us))
}

/// µs since 1970 UTC, for commands.
pub(crate) fn unix_now_us() -> u64 {
    Now::read().unix_us
}
