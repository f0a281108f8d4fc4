//! `lastmile check`: says what `run` would do, and what is missing for it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::capture::live::{Feature, FeatureState, features};
use crate::config::{Config, Destination, Video};
use crate::daemon::fib_feed::LiveFib;
use crate::daemon::port_feed;
use crate::daemon::{self, cgroups, feeds};
use crate::export::Timestamp;
use crate::export::jsonl::JsonLines;
use crate::memory;
use crate::netlink::{Device, Netlink, choose};
use crate::path::Routes;
use crate::path::history::{FeedState, Store};
use crate::recognise::services::Services;

/// Prints what would be watched, known and possible. An error where `run` would fail.
pub fn run(config: &Config, file: Option<&Path>) -> Result<()> {
    // A configuration that names a broken file is broken, before anything is looked at.
    let routes = feeds::read_once(&config.path)?;
    let services = daemon::services(config)?;
    let devices = watched_devices(config)?;
    let features = features();
    let history = History::of(config)?;
    let report = report(config, file, &routes, &history, &devices, &features);
    io::stdout().lock().write_all(report.as_bytes())?;
    let feeds = feeds(config, &routes)?;
    io::stdout().lock().write_all(feeds.as_bytes())?;
    if let Some(video) = &config.video {
        let video = listed_video(video, &services);
        io::stdout().lock().write_all(video.as_bytes())?;
    }

    JsonLines::open(&config.log.destination)?;
    if devices.is_empty() {
        bail!(
            "no interface would be watched: write watch.interfaces = [\"NAME\"] with one of those that `ip link` shows"
        );
    }
    let missing: Vec<&str> = features
        .iter()
        .filter(|feature| feature.state == FeatureState::Missing)
        .map(|feature| feature.name)
        .collect();
    if !missing.is_empty() {
        bail!("`lastmile run` would fail: missing {}", missing.join(", "));
    }
    Ok(())
}

/// What this host's own routes and the ports' counters tell now.
fn feeds(config: &Config, routes: &Routes) -> Result<String> {
    let mut text = String::new();
    if config.path.kernel_routes {
        let live = LiveFib::once()?;
        let _ = writeln!(text, "{:<14} {}", "kernel routes", live.in_words());
    }
    let ports = port_feed::check(&config.path.ports, routes.rules.interconnects());
    for (at, (interconnect, what)) in ports.iter().enumerate() {
        let subject = if at == 0 { "counters" } else { "" };
        let _ = writeln!(text, "{subject:<14} {interconnect}: {what}");
    }
    Ok(text)
}

/// What counts as video.
fn listed_video(video: &Video, services: &Services) -> String {
    let counts = [
        ("port(s)", video.ports.len()),
        ("local address(es)", video.local_addresses.len()),
        ("prefix(es)", video.prefixes.len()),
    ];
    let mut said: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    let groups = cgroups::ids(&video.units).len();
    if !video.units.is_empty() {
        said.push(format!(
            "{} unit(s) with {groups} control group(s) now",
            video.units.len()
        ));
    }
    if video.names {
        said.push(format!("{} suffixes of services", services.len()));
    }
    if video.behaviour {
        said.push("behaviour".to_owned());
    }
    format!("{:<14} {}\n", "video", listed(said.iter(), "nothing"))
}

fn watched_devices(config: &Config) -> Result<Vec<Device>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    runtime.block_on(async {
        let netlink = Netlink::open()?;
        let devices = netlink.devices().await?;
        let default_route = netlink.default_route_devices().await?;
        Ok(choose(&devices, &config.watch.interfaces, &default_route))
    })
}

/// The whole report, one subject a paragraph.
fn report(
    config: &Config,
    file: Option<&Path>,
    routes: &Routes,
    history: &History,
    devices: &[Device],
    features: &[Feature],
) -> String {
    let mut text = String::new();
    let mut line = |subject: &str, what: String| {
        let _ = writeln!(text, "{subject:<14} {what}");
    };
    line(
        "configuration",
        match file {
            Some(file) => file.display().to_string(),
            None => "defaults; no file".to_owned(),
        },
    );
    line(
        "interfaces",
        listed(devices.iter().map(|device| &*device.name), "none"),
    );
    line("ports", listed(config.watch.ports.iter(), "all"));
    line("prefixes", listed(config.watch.prefixes.iter(), "all"));
    line(
        "flows",
        format!(
            "1 in {}, at most {} at once, a report each {} ms",
            config.watch.sample_one_in, config.flows.max, config.flows.report_interval_ms
        ),
    );
    let (kernel, all) = memory::needed(config.flows.max, config.window.length_s);
    line(
        "memory",
        format!(
            "at most {} MiB for so many flows and this window, {} of them in the kernel from the start",
            all >> 20,
            kernel >> 20
        ),
    );
    line("window", format!("{} s", config.window.length_s));
    line(
        "baseline",
        format!(
            "after {} windows ({})",
            config.baseline.min_windows,
            duration(u64::from(config.baseline.min_windows) * u64::from(config.window.length_s))
        ),
    );
    line("routes", known(config, routes));
    for (isp, interconnects) in by_isp(routes) {
        line("", format!("{isp} through {interconnects}"));
    }
    if let Some(listen) = config.path.bmp.listen {
        let allowed = listed(config.path.bmp.allow.iter(), "this host only");
        line("BMP", format!("listens on {listen}, lets in {allowed}"));
    }
    if let Some(experiment) = &config.path.experiment {
        let dscp = experiment.dscp.map(|dscp| format!(" and DSCP {dscp}"));
        line(
            "experiment",
            format!(
                "{} % of the connections, with mark {}{}, through {}",
                experiment.share * 100.0,
                experiment.mark,
                dscp.unwrap_or_default(),
                experiment.interconnect
            ),
        );
    }
    line("history", history.shown(config.path.history.days));
    for (feed, time_us) in &history.feeds {
        line("", shown_feed(feed, Timestamp(*time_us)));
    }
    line(
        "log",
        match &config.log.destination {
            Destination::Stdout => "standard output".to_owned(),
            Destination::Journald => "journald".to_owned(),
            Destination::File(path) => path.display().to_string(),
        },
    );
    for feature in features {
        let state = match feature.state {
            FeatureState::Ok => "ok",
            FeatureState::Reduced => "reduced",
            FeatureState::Missing => "MISSING",
        };
        line(feature.name, format!("{state}: {}", feature.detail));
    }
    text
}

/// What the daemon left in the history's file.
#[derive(Default)]
struct History {
    file: Option<PathBuf>,
    /// `None`: there is no such file yet.
    recorded_until: Option<Timestamp>,
    feeds: Vec<(FeedState, u64)>,
}

impl History {
    fn of(config: &Config) -> Result<Self> {
        let Some(file) = &config.path.history.file else {
            return Ok(Self::default());
        };
        let mut history = Self {
            file: Some(file.clone()),
            ..Self::default()
        };
        if file.exists() {
            let store = Store::open_to_read(file)?;
            history.recorded_until = store.recorded_until()?.map(Timestamp);
            history.feeds = store.feeds()?;
        } else if !file.parent().is_some_and(Path::is_dir) {
            bail!(
                "{}: the folder is not there: name a file in one that may be written as path.history.file",
                file.display()
            );
        }
        Ok(history)
    }

    fn shown(&self, days: u32) -> String {
        match (&self.file, self.recorded_until) {
            (None, _) => "none is kept (set path.history.file)".to_owned(),
            (Some(file), None) => format!("{}, of {days} days, begins with `run`", file.display()),
            (Some(file), Some(until)) => {
                format!("{}, of {days} days, recorded until {until}", file.display())
            }
        }
    }
}

fn shown_feed(feed: &FeedState, at: Timestamp) -> String {
    let mut text = format!("{} {}: {} prefixes", feed.source, feed.name, feed.prefixes);
    if let Some(peers) = feed.peers {
        let _ = write!(text, ", {peers} peers");
    }
    if !feed.detail.is_empty() {
        let _ = write!(text, ", {}", feed.detail);
    }
    if feed.is_stale {
        text.push_str(", STALE");
    }
    let _ = write!(text, ", at {at}");
    text
}

fn known(config: &Config, routes: &Routes) -> String {
    let mut sources: Vec<String> = Vec::new();
    let path = &config.path;
    let files = [&path.prefixes_csv, &path.prefixes_toml];
    sources.extend(
        files
            .into_iter()
            .flatten()
            .map(|file| file.display().to_string()),
    );
    sources.extend(path.mrt.iter().map(|file| file.display().to_string()));
    if let Some(listen) = path.bmp.listen {
        sources.push(format!("BMP on {listen}"));
    }
    if path.kernel_routes {
        sources.push("this host's own routes".to_owned());
    }
    if sources.is_empty() {
        return "none: nobody will be named (set path.prefixes_csv)".to_owned();
    }
    let (mut isps, mut interconnects) = (BTreeSet::new(), BTreeSet::new());
    for route in routes.prefixes().filter_map(|prefix| routes.route(&prefix)) {
        isps.insert(route.isp);
        interconnects.insert(route.interconnect);
    }
    format!(
        "{} prefixes of {} ISPs behind {} interconnects, from {}",
        routes.len(),
        isps.len(),
        interconnects.len(),
        sources.join(", ")
    )
}

/// ISPs shown one by one; more are only counted.
const MAX_ISPS: usize = 10;

/// The first ISPs by name, with their interconnects and the number of prefixes behind each.
fn by_isp(routes: &Routes) -> Vec<(String, String)> {
    let mut ways = std::collections::BTreeMap::new();
    for route in routes.prefixes().filter_map(|prefix| routes.route(&prefix)) {
        let direct = route.is_direct();
        let interconnects: &mut std::collections::BTreeMap<_, usize> =
            ways.entry(route.isp).or_default();
        *interconnects
            .entry((route.interconnect, direct))
            .or_default() += 1;
    }
    ways.into_iter()
        .take(MAX_ISPS)
        .map(|(isp, interconnects)| {
            let interconnects = interconnects.into_iter().map(|((name, direct), prefixes)| {
                let kind = if direct { "direct" } else { "transit" };
                format!("{name} ({kind}, {prefixes} prefixes)")
            });
            (isp.to_string(), listed(interconnects, "nothing"))
        })
        .collect()
}

fn listed(items: impl Iterator<Item = impl ToString>, none: &str) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    if items.is_empty() {
        none.to_owned()
    } else {
        items.join(", ")
    }
}

/// The largest unit that divides a time nicely enough to read.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
