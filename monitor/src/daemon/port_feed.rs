//! Reads the counters of our ports, from Prometheus or from a file, beside the event loop.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use tokio::sync::Notify;

use crate::config;
use crate::path::Interconnect;
use crate::path::ports::csv::Reader;
use crate::path::ports::prometheus::{Gathered, Port, parse_time, queries};
use crate::path::ports::{InterconnectPorts, PortHistory, PortReading, PortWindow};

/// A poll is made this long before a multiple of the interval, so that a window that ends there
/// is judged by readings that are as new as can be.
const LEAD: Duration = Duration::from_secs(1);
/// Prometheus answers such queries in milliseconds. One that does not must not pile up polls.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
/// An answer about 1,000 ports is of 2 MiB; what is larger is not what was asked for.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// Scrapes before the last poll that are asked for again: a scrape is only there when it has
/// ended, and an interval of a minute is common.
const OVERLAP_S: u64 = 75;
/// Of a file that is longer than this only the end is read: hours of readings.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// A clock that is off by less is as good as ours, for windows of seconds.
const CLOCK_TOLERANCE_US: i64 = 500_000;

/// A port to read, and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    interconnect: Arc<str>,
    device: Arc<str>,
    interface: Arc<str>,
}

/// Where a history comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    File,
    Prometheus {
        device: Arc<str>,
        interface: Arc<str>,
    },
}

/// What was read so far.
#[derive(Debug, Default)]
struct Readings {
    histories: BTreeMap<(Arc<str>, Origin), PortHistory>,
    capacity_bps: BTreeMap<Arc<str>, u64>,
    /// What the sources' clocks are ahead of ours.
    prometheus_ahead_us: i64,
    file_ahead_us: i64,
    counters: Counters,
}

/// What was read and what went wrong, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub polls: u64,
    pub polls_failed: u64,
    pub readings: u64,
    /// Lines of the file that were not understood.
    pub lines_wrong: u64,
}

/// Reads ports until it is dropped.
pub struct PortFeed {
    readings: Arc<Mutex<Readings>>,
    polled: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for PortFeed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PortFeed {
    /// Begins to read what `settings` name; `None`: nothing is configured. Needs a tokio runtime.
    pub fn start<'a>(
        settings: &config::Ports,
        interconnects: impl IntoIterator<Item = &'a Arc<Interconnect>>,
    ) -> Option<Self> {
        let interconnects: Vec<_> = interconnects.into_iter().collect();
        let mut poller = Poller::new(settings, &interconnects)?;
        let capacity_bps = interconnects.iter().filter_map(|it| {
            let mbit_s = it.capacity_mbit_s?;
            Some((Arc::clone(&it.name), mbit_s.saturating_mul(1_000_000)))
        });
        let readings = Arc::new(Mutex::new(Readings {
            capacity_bps: capacity_bps.collect(),
            ..Readings::default()
        }));
        let interval = Duration::from_secs(u64::from(settings.interval_s.max(1)));
        let shared = Arc::clone(&readings);
        let polled = Arc::new(Notify::new());
        let told = Arc::clone(&polled);
        let task = tokio::spawn(async move {
            loop {
                let into = Arc::clone(&shared);
                let polling = tokio::task::spawn_blocking(move || {
                    poller.poll(&into);
                    poller
                });
                // It only fails when it panics, or when the runtime is going.
                match polling.await {
                    Ok(back) => poller = back,
                    Err(error) => {
                        tracing::error!("the ports' counters are not read any more: {error}");
                        return;
                    }
                }
                told.notify_one();
                tokio::time::sleep(until_next(SystemTime::now(), interval)).await;
            }
        });
        Some(Self {
            readings,
            polled,
            task,
        })
    }

    /// What the ports did in a window, by our clock.
    pub fn window(&self, start_us: u64, end_us: u64) -> InterconnectPorts {
        lock(&self.readings).window(start_us, end_us)
    }

    /// Waits for the end of a poll since the last call.
    pub async fn polled(&self) {
        self.polled.notified().await;
    }

    pub fn counters(&self) -> Counters {
        lock(&self.readings).counters
    }

    /// For the `status` record.
    pub fn status(&self) -> [(&'static str, u64); 4] {
        let counters = self.counters();
        [
            ("port_polls", counters.polls),
            ("port_polls_failed", counters.polls_failed),
            ("port_readings", counters.readings),
            ("port_lines_wrong", counters.lines_wrong),
        ]
    }
}

/// A thread that panicked while it held the lock left whole readings behind.
fn lock(readings: &Mutex<Readings>) -> MutexGuard<'_, Readings> {
    readings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One poll now, for `lastmile check`: what is known of each port afterwards, in words.
pub fn check<'a>(
    settings: &config::Ports,
    interconnects: impl IntoIterator<Item = &'a Arc<Interconnect>>,
) -> Vec<(Arc<str>, String)> {
    let interconnects: Vec<_> = interconnects.into_iter().collect();
    let Some(mut poller) = Poller::new(settings, &interconnects) else {
        return Vec::new();
    };
    let readings = Mutex::new(Readings::default());
    let mut lines: Vec<(Arc<str>, String)> = poller
        .poll_sources(&readings)
        .into_iter()
        .map(|error| ("".into(), format!("{error:#}")))
        .collect();
    let readings = lock(&readings);
    let mut names: Vec<&Arc<str>> = interconnects.iter().map(|it| &it.name).collect();
    names.extend(readings.histories.keys().map(|(name, _)| name));
    names.sort();
    names.dedup();
    let now_us = now_us() as i64;
    for name in names {
        let last = readings
            .histories
            .iter()
            .filter(|((of, _), _)| of == name)
            .filter_map(|((_, origin), history)| {
                let ahead_us = readings.ahead_us(origin);
                history.last_us().map(|last_us| last_us as i64 - ahead_us)
            })
            .max();
        let what = match last {
            Some(last_us) => format!(
                "last reading {:.0} s ago",
                (now_us - last_us).max(0) as f64 / 1e6
            ),
            None => "no counters found: nothing is concluded from its port".to_owned(),
        };
        lines.push((Arc::clone(name), what));
    }
    lines
}

impl Readings {
    fn ahead_us(&self, origin: &Origin) -> i64 {
        match origin {
            Origin::File => self.file_ahead_us,
            Origin::Prometheus { .. } => self.prometheus_ahead_us,
        }
    }

    fn window(&self, start_us: u64, end_us: u64) -> InterconnectPorts {
        let mut by_source: BTreeMap<(&Arc<str>, bool), PortWindow> = BTreeMap::new();
        for ((interconnect, origin), history) in &self.histories {
            let ahead_us = self.ahead_us(origin);
            let window = history.window(
                start_us.saturating_add_signed(ahead_us),
                end_us.saturating_add_signed(ahead_us),
                self.capacity_bps.get(interconnect).copied(),
            );
            let key = (interconnect, *origin == Origin::File);
            let merged = match by_source.remove(&key) {
                Some(other) => other.worst(window),
                None => window,
            };
            by_source.insert(key, merged);
        }
        let mut ports = InterconnectPorts::default();
        for ((interconnect, _), window) in by_source {
            let known = ports.0.entry(Arc::clone(interconnect)).or_default();
            // Two sources about the same port: the one that saw more of the window.
            if window.covered >= known.covered {
                *known = window;
            }
        }
        ports
    }

    fn take(&mut self, interconnect: &Arc<str>, origin: &Origin, readings: Vec<PortReading>) {
        let key = (Arc::clone(interconnect), origin.clone());
        let history = self.histories.entry(key).or_default();
        for reading in readings {
            // What was told before is told again: the polls overlap.
            if history.push(reading).is_ok() {
                self.counters.readings += 1;
            }
        }
    }
}

/// Asks the sources; lives on a thread that may block.
struct Poller {
    prometheus: Option<Prometheus>,
    file: Option<Followed>,
    /// Whether the last poll failed, so that a change is said once.
    failing: bool,
}

impl Poller {
    fn new(settings: &config::Ports, interconnects: &[&Arc<Interconnect>]) -> Option<Self> {
        let wanted: Vec<Wanted> = interconnects
            .iter()
            .filter_map(|interconnect| {
                let (device, interface) = interconnect.port.clone()?;
                Some(Wanted {
                    interconnect: Arc::clone(&interconnect.name),
                    device,
                    interface,
                })
            })
            .collect();
        let prometheus = settings
            .prometheus
            .as_ref()
            .map(|base| Prometheus::new(base, u64::from(settings.interval_s), wanted));
        let file = settings
            .csv
            .as_ref()
            .map(|path| Followed::new(path.clone()));
        (prometheus.is_some() || file.is_some()).then_some(Self {
            prometheus,
            file,
            failing: false,
        })
    }

    fn poll(&mut self, readings: &Mutex<Readings>) {
        let errors = self.poll_sources(readings);
        let mut counted = lock(readings);
        counted.counters.polls += 1;
        if errors.is_empty() {
            if std::mem::take(&mut self.failing) {
                tracing::info!("the ports' counters are read again");
            }
        } else {
            counted.counters.polls_failed += 1;
            if !std::mem::replace(&mut self.failing, true) {
                for error in errors {
                    tracing::warn!("{error:#}; nothing is concluded from ports until then");
                }
            }
        }
    }

    /// Asks every source, and says what went wrong.
    fn poll_sources(&mut self, readings: &Mutex<Readings>) -> Vec<anyhow::Error> {
        let prometheus = self
            .prometheus
            .as_mut()
            .map(|prometheus| prometheus.poll(readings));
        let file = self.file.as_mut().map(|file| file.poll(readings));
        [prometheus, file]
            .into_iter()
            .flatten()
            .filter_map(Result::err)
            .collect()
    }
}

/// A Prometheus server.
struct Prometheus {
    agent: ureq::Agent,
    url: String,
    range_s: u64,
    wanted: Vec<Wanted>,
    /// Ports of which was said that two series match them.
    ambiguous: BTreeSet<(Arc<str>, Arc<str>)>,
    clock_said: bool,
}

impl Prometheus {
    fn new(base: &str, interval_s: u64, wanted: Vec<Wanted>) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_LIMIT))
            .http_status_as_error(false)
            // What answers with another address is not the server that was named.
            .max_redirects(0)
            .proxy(None)
            .build()
            .new_agent();
        Self {
            agent,
            url: format!("{}/api/v1/query", base.trim_end_matches('/')),
            range_s: 2 * interval_s + OVERLAP_S,
            wanted,
            ambiguous: BTreeSet::new(),
            clock_said: false,
        }
    }

    fn poll(&mut self, readings: &Mutex<Readings>) -> Result<()> {
        self.ask_all(readings)
            .with_context(|| format!("cannot read the ports' counters from {}", self.url))
    }

    fn ask_all(&mut self, readings: &Mutex<Readings>) -> Result<()> {
        let before_us = now_us();
        let theirs_us = parse_time(&self.ask("time()")?)?;
        let ours_us = before_us.midpoint(now_us());
        let ahead_us = theirs_us as i64 - ours_us as i64;
        let ports: Vec<Port<'_>> = self
            .wanted
            .iter()
            .map(|wanted| Port {
                device: &wanted.device,
                interface: &wanted.interface,
            })
            .collect();
        let mut gathered = Gathered::default();
        for query in queries(&ports, self.range_s) {
            gathered.add(&self.ask(&query)?)?;
        }
        let mut into = lock(readings);
        if ahead_us.abs() > CLOCK_TOLERANCE_US {
            into.prometheus_ahead_us = ahead_us;
            if !std::mem::replace(&mut self.clock_said, true) {
                tracing::warn!(
                    "the clock of {} is {:.1} s ahead of ours (or behind, if negative); its times are corrected by that",
                    self.url,
                    ahead_us as f64 / 1e6
                );
            }
        } else {
            into.prometheus_ahead_us = 0;
        }
        for (wanted, port) in self.wanted.iter().zip(&ports) {
            let found = gathered.of(port);
            let name = (Arc::clone(&wanted.device), Arc::clone(&wanted.interface));
            if !found.ambiguous.is_empty() && self.ambiguous.insert(name) {
                tracing::warn!(
                    "{} {}: two series match it in Prometheus ({}); none of them is used",
                    wanted.device,
                    wanted.interface,
                    found.ambiguous.into_iter().collect::<Vec<_>>().join(", ")
                );
            }
            let origin = Origin::Prometheus {
                device: Arc::clone(&wanted.device),
                interface: Arc::clone(&wanted.interface),
            };
            into.take(&wanted.interconnect, &origin, found.readings);
        }
        Ok(())
    }

    fn ask(&self, query: &str) -> Result<String> {
        let mut response = self.agent.post(&self.url).send_form([("query", query)])?;
        let status = response.status();
        let answer = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER_BYTES)
            .read_to_string()?;
        // Prometheus says in its body what is wrong with a query.
        let says_why = answer.trim_start().starts_with('{');
        if !status.is_success() && !says_why {
            bail!("it answers {status}");
        }
        Ok(answer)
    }
}

/// A file that grows.
struct Followed {
    path: PathBuf,
    reader: Reader,
    /// Which file it was, and how far it was read.
    inode: u64,
    offset: u64,
}

impl Followed {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            reader: Reader::default(),
            inode: 0,
            offset: 0,
        }
    }

    fn poll(&mut self, readings: &Mutex<Readings>) -> Result<()> {
        let appended = self.appended().with_context(|| {
            format!("cannot read the ports' counters in {}", self.path.display())
        })?;
        let rows = self.reader.read(&appended);
        for mistake in &rows.mistakes {
            tracing::warn!("{}: {mistake}", self.path.display());
        }
        let now_us = now_us() as i64;
        let mut into = lock(readings);
        into.counters.lines_wrong += rows.wrong;
        for (interconnect, mut rows) in rows.readings {
            rows.sort_by_key(|reading| reading.time_us);
            if let Some(last) = rows.last() {
                let ahead_us = last.time_us as i64 - now_us;
                // A row cannot be from the future: its clock is ahead.
                if ahead_us > CLOCK_TOLERANCE_US.max(into.file_ahead_us) {
                    tracing::warn!(
                        "{}: written by a clock that is {:.1} s ahead of ours",
                        self.path.display(),
                        ahead_us as f64 / 1e6
                    );
                    into.file_ahead_us = ahead_us;
                }
            }
            into.take(&interconnect, &Origin::File, rows);
        }
        Ok(())
    }

    /// What the file holds since the last look; another file, or a shorter one, from its
    /// beginning.
    fn appended(&mut self) -> Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        let length = metadata.len();
        if metadata.ino() != self.inode || length < self.offset {
            self.inode = metadata.ino();
            self.offset = 0;
            self.reader = Reader::default();
        }
        let mut bytes = Vec::new();
        if length - self.offset > MAX_FILE_BYTES {
            if self.offset == 0 {
                // The header is at the beginning.
                let mut head = Vec::new();
                file.by_ref().take(MAX_HEAD_BYTES).read_to_end(&mut head)?;
                let end = head.iter().rposition(|&byte| byte == b'\n');
                let Some(end) = end else {
                    bail!("its first line is longer than {MAX_HEAD_BYTES} bytes");
                };
                self.reader.read(head.get(..=end).unwrap_or_default());
            }
            self.reader.resume_in_the_middle();
            self.offset = length - MAX_FILE_BYTES;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        file.take(length - self.offset).read_to_end(&mut bytes)?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }
}

/// The header line is short.
const MAX_HEAD_BYTES: u64 = 4_096;

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// Time until the next poll: [`LEAD`] before a multiple of the interval, or a quarter of a short
/// interval.
fn until_next(now: SystemTime, interval: Duration) -> Duration {
    let lead = LEAD.min(interval / 4);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default() + lead;
    let into = Duration::from_nanos((since.as_nanos() % interval.as_nanos().max(1)) as u64);
    interval - into
}
