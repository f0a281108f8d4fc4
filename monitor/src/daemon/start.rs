//! What comes before the first packet.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing_subscriber::{
    Layer as _, Registry,
    filter::LevelFilter,
    layer::SubscriberExt as _,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use super::{
    Daemon, baselines::Baselines, clock::Now, devices::Devices, feeds, feeds::Feeds,
    keeper::Keeper, log, metrics, port_feed::PortFeed, recorder::Recorder, restart, tally::Tally,
};
use crate::{
    config::{Config, Level},
    engine::Pipeline,
    evidence,
    flow::admission::Admissions,
    memory,
    path::{Routes, history::Store},
    recognise::services::Services,
};

/// What changes how much is said on stderr.
static LEVEL: OnceLock<Handle<LevelFilter, Registry>> = OnceLock::new();

/// Messages about ourselves go to stderr; journald adds the time itself.
pub(super) fn say_on_stderr(level: Level) {
    let (filter, handle) = reload::Layer::new(level_filter(level));
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let colours = std::env::var_os("NO_COLOR").is_none()
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
        && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let messages = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colours);
    let messages = if in_journal {
        messages.without_time().boxed()
    } else {
        messages.boxed()
    };
    // An error means that somebody set one before us, in a test: theirs is as good.
    if tracing_subscriber::registry()
        .with(filter)
        .with(messages)
        .try_init()
        .is_ok()
    {
        let _ = LEVEL.set(handle);
    }
}

/// From now on this much is said.
pub(super) fn set_level(level: Level) {
    if let Some(handle) = LEVEL.get() {
        // It fails only where there is no subscriber any more.
        let _ = handle.modify(|filter| *filter = level_filter(level));
    }
}

fn level_filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

impl Daemon {
    /// Reads, opens and attaches everything.
    ///
    /// # Errors
    /// What is wrong, where, and what would be right.
    pub(super) async fn start(config: Config, file: Option<PathBuf>) -> Result<Self> {
        let routes = Arc::new(ArcSwap::from_pointee(feeds::read_once(&config.path)?));
        let history = match &config.path.history.file {
            Some(file) => Some(Store::open(file)?),
            None => None,
        };
        let ports = PortFeed::start(&config.path.ports, routes.load().rules.interconnects());
        let log = log::Log::open(&config.log.destination)?;
        let now = Now::read();
        let baselines = match &config.restart.baselines {
            Some(file) => Some(Baselines::start(file, &config, now.unix_us)?),
            None => None,
        };
        let keeper = match &config.evidence.file {
            Some(file) => Some(Keeper::start(
                evidence::store::Store::open(file)?,
                &config.evidence,
            )?),
            None => None,
        };
        warn_of_memory(&config);
        let mut live = restart::load(&config)?;
        live.watch(&config, now.offset_ns())?;
        live.run_experiment(config.path.experiment.as_ref())?;
        routes.rcu(|routes| Routes {
            experiment_since_us: Now::read().unix_us,
            ..Routes::clone(routes)
        });
        let mut devices = Devices::new()?;
        devices.follow(&mut live, &config.watch.interfaces).await?;
        if devices.len() == 0 {
            bail!(
                "no interface is watched: write watch.interfaces = [\"NAME\"] with one of those \
                 that `ip link` shows"
            );
        }
        devices.forget_others(&live).await?;
        let host = host_name()?;
        let metrics = metrics::Shown::new(now.unix_us, config.window.length_s);
        if let Some(listen) = config.metrics.listen.0
            && let Err(error) = metrics::serve(listen, metrics.clone()).await
        {
            tracing::error!("{error:#}; there are no metrics");
        }
        let feeds = Feeds::start(&config.path, Arc::clone(&routes))?;
        if let Some(address) = feeds.bmp_address() {
            tracing::info!("listening for BMP on {address}");
        }
        let mut pipeline = Pipeline::new(&config, Arc::clone(&routes), &host);
        pipeline.set_services(services(&config)?);
        let recorder = match history {
            None => None,
            Some(store) => {
                pipeline.keep_history();
                let days = config.path.history.days;
                Some(Recorder::start(store, &host, days, now.unix_us)?)
            }
        };
        let baselines = match baselines {
            None => None,
            Some((baselines, learned)) => {
                pipeline.remember(learned);
                Some(baselines)
            }
        };
        if keeper.is_some() {
            pipeline.keep_evidence();
        }
        let admission = live.admission();
        let admissions = Admissions::resumed(admission.halvings, admission.halvings_before);
        let mut daemon = Self {
            pipeline,
            keeper,
            feeds,
            recorder,
            baselines,
            feeds_noted_us: 0,
            routes_from: Instant::now(),
            tally: Tally::new(host, now.unix_us),
            metrics,
            ports,
            config,
            file,
            live,
            devices,
            routes,
            log,
            look_failing: false,
            admitted_one_in: admissions.one_in(),
            admissions,
            removed: HashMap::new(),
            stays: true,
            epoch_offset_ns: now.offset_ns(),
            memory: None,
        };
        daemon.resume()?;
        Ok(daemon)
    }
}

/// Says so where the control group would end this process before its tables are full.
fn warn_of_memory(config: &Config) {
    let (flows, window_s) = (config.flows.max, config.window.length_s);
    let (_, needed) = memory::needed(flows, window_s);
    if let Some(allowed) = memory::allowed().filter(|&allowed| allowed < needed) {
        tracing::warn!(
            "flows.max = {flows} takes up to {} MiB with windows of {window_s} s, and this control \
             group may have {}: raise MemoryMax= of the unit, or lower flows.max",
            needed >> 20,
            allowed >> 20
        );
    }
}

/// The list of video services that the configuration names, or the one that comes with the
/// program.
pub(crate) fn services(config: &Config) -> Result<Services> {
    match config
        .video
        .as_ref()
        .and_then(|of| of.services_csv.as_ref())
    {
        Some(file) => Ok(Services::load(file)?),
        None => Ok(Services::built_in()),
    }
}

fn host_name() -> Result<String> {
    let name = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname"))
        .context("cannot read this host's name")?;
    Ok(name.trim().to_owned())
}
