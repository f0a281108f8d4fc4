//! The configuration: one TOML file, every key optional.
//!
//! `packaging/lastmile.toml` shows every key with its default. A key or value that is wrong is
//! refused with the file, the line, a caret at the place and what would be right.

mod chunks;
mod path;
mod problem;
mod ranges;
mod video;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use chunks::{Chunks, DEFAULT_HD_KBIT_S};
pub use path::{
    Bmp, DEFAULT_HISTORY_DAYS, DEFAULT_PORTS_INTERVAL_S, DEFAULT_STALE_AFTER_S,
    EXPERIMENT_SHARE_MAX, Experiment, History, InterconnectRule, PathSources, PortName, Ports,
};
pub use problem::Problem;
pub use video::Video;

/// Read when no other file is named, if it is there.
pub const DEFAULT_FILE: &str = "/etc/lastmile/lastmile.toml";
/// Plain HTTP and HTTPS: where video servers listen.
pub const DEFAULT_PORTS: [u16; 2] = [80, 443];
/// Every flow is watched.
pub const DEFAULT_SAMPLE_ONE_IN: u32 = 1;
/// Flows kept in the kernel's map: 96 MiB of it at 1.5 KiB a flow (1,448 bytes and the map's own).
pub const DEFAULT_MAX_FLOWS: u32 = 65_536;
/// An LRU map keeps free lists per CPU, so that a small one loses entries that it should hold.
pub const MIN_MAX_FLOWS: u32 = 1_024;
/// One snapshot a flow a second.
pub const DEFAULT_REPORT_INTERVAL_MS: u32 = 1_000;
/// A flow without a packet for this long is closed as `idle`. Above the keep-alive time of the
/// common web servers (75 s), so that a paused player keeps its flow.
pub const DEFAULT_IDLE_S: u32 = 120;
/// One window a minute.
pub const DEFAULT_WINDOW_S: u32 = 60;
/// A day of one-minute windows: a cell seen for less has not shown an off-peak period yet.
pub const DEFAULT_BASELINE_MIN_WINDOWS: u32 = 1_440;
/// One-minute windows of an hour are ranked together, so that one lucky minute is no baseline.
pub const DEFAULT_BASELINE_SLOT_WINDOWS: u32 = 60;
/// The best six hours ...
pub const DEFAULT_BASELINE_BEST_SLOTS: u32 = 6;
/// ... of 14 days.
pub const DEFAULT_BASELINE_SPAN_SLOTS: u32 = 336;
/// Share of false discoveries that is accepted among the clients called bad in one window
/// (Benjamini and Hochberg, "Controlling the false discovery rate", 1995).
pub const DEFAULT_FALSE_DISCOVERY_SHARE: f64 = 0.05;
/// A standing queue below this harms no video. The handshake threshold measured for the project
/// and M-Lab's and TSLP's level-shift thresholds (5 to 10 ms) are of this order.
pub const DEFAULT_RTT_EXCESS_MS: f64 = 5.0;
/// On long paths the RTT varies in proportion to itself.
pub const DEFAULT_RTT_EXCESS_SHARE: f64 = 0.1;
/// One segment in a hundred more than usual: at 1 % a Reno-like flow over 50 ms and 1,460-byte
/// segments is held to about 2.8 Mbit/s (Mathis et al., 1997), below one HD stream.
pub const DEFAULT_LOSS_EXCESS_SHARE: f64 = 0.01;
/// As for loss: a mark has the same effect on the sender (RFC 3168).
pub const DEFAULT_CE_EXCESS_SHARE: f64 = 0.01;
/// Half the usual rate.
pub const DEFAULT_RATE_DROP_SHARE: f64 = 0.5;
/// RTT samples from which a low quantile is worth comparing.
pub const DEFAULT_MIN_RTT_SAMPLES: u32 = 10;
/// Segments from which a share of losses is worth comparing.
pub const DEFAULT_MIN_SEGMENTS: u32 = 100;
/// BlameIt (SIGCOMM 2019) asks for at least 10 RTT samples of a prefix in a window.
pub const DEFAULT_MIN_CHUNKS_PER_PREFIX: u32 = 10;
/// Fewer than three prefixes are no vote of an ISP.
pub const DEFAULT_MIN_PREFIXES_PER_ISP: u32 = 3;
/// BlameIt's tau: a place is at fault when at least 80 % of what crosses it is bad.
pub const DEFAULT_BAD_SHARE: f64 = 0.8;
/// With more than one report in twenty lost a window is not judged.
pub const DEFAULT_MAX_MISSED_SHARE: f64 = 0.05;
/// Where TCP carries less than this share of the video, its flows do not speak for the rest.
pub const DEFAULT_MIN_TCP_SHARE: f64 = 0.3;
/// Our own queue drops one packet in a thousand: TCP is held back by it.
pub const DEFAULT_HOST_DROP_SHARE: f64 = 0.001;
/// Our own queue takes this long to drain: the threshold for a standing queue in the network.
pub const DEFAULT_HOST_BACKLOG_MS: f64 = 5.0;
/// A port counts layer-2 frames but neither preamble nor gap (20 bytes a frame), so that one full
/// of 500-byte packets reads 96 %.
pub const DEFAULT_PORT_FULL_SHARE: f64 = 0.95;
/// Above this, bursts fill a port's queue for a part of the time (Dhamdhere et al., SIGCOMM 2018,
/// find the congested links above it).
pub const DEFAULT_PORT_BUSY_SHARE: f64 = 0.8;
/// One packet in a thousand, as for our own queues.
pub const DEFAULT_PORT_DROP_SHARE: f64 = 0.001;

/// The other side of a dispute answers within a month.
pub const DEFAULT_EVIDENCE_DAYS: u32 = 35;
/// A window of a thousand clients has about 150 kB; this is five days of nothing but trouble.
pub const DEFAULT_EVIDENCE_MAX_MB: u32 = 1_024;
/// The metrics endpoint, for this host alone. The port is in no registry of exporters.
pub const DEFAULT_METRICS_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9_718);

/// Where `lastmile-bpf.service` mounts a BPF file system.
pub const DEFAULT_BPF_DIRECTORY: &str = "/run/lastmile/bpf";

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is watched.
    pub watch: Watch,
    /// The kernel's flow table and its reports.
    pub flows: Flows,
    /// Which flows are video; absent: all that is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<Video>,
    /// The rates that chunks are tested for.
    pub chunks: Chunks,
    /// Where prefixes, ISPs and interconnects come from.
    pub path: PathSources,
    /// The span that is judged at once.
    pub window: Window,
    /// What "as usual" means.
    pub baseline: Baseline,
    /// When something is called bad, and when somebody is named.
    pub verdict: Thresholds,
    /// The log of flows and verdicts.
    pub log: Log,
    /// What verdicts were made of.
    pub evidence: Evidence,
    /// What stays while the daemon is away.
    pub restart: Restart,
    /// For Prometheus.
    pub metrics: Metrics,
    /// For developers.
    pub debug: Debug,
}

/// `[watch]`: which packets are looked at.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// Interfaces by name or pattern (`*` and `?`). Empty: the ones with a default route.
    pub interfaces: Vec<String>,
    /// TCP ports of the video servers. Empty: every port.
    pub ports: Vec<u16>,
    /// Only flows with an address in one of these. Empty: every address.
    pub prefixes: Vec<IpNet>,
    /// Watch one flow in this many, chosen by a hash of its addresses and ports.
    pub sample_one_in: u32,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            ports: DEFAULT_PORTS.to_vec(),
            prefixes: Vec::new(),
            sample_one_in: DEFAULT_SAMPLE_ONE_IN,
        }
    }
}

/// `[flows]`: how many flows, and how often they report.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flows {
    /// Flows the kernel's map holds; the least recently used one makes room.
    pub max: u32,
    /// At most one report a flow in this time, ms.
    pub report_interval_ms: u32,
    /// Silence after which a flow is closed, s.
    pub idle_s: u32,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            max: DEFAULT_MAX_FLOWS,
            report_interval_ms: DEFAULT_REPORT_INTERVAL_MS,
            idle_s: DEFAULT_IDLE_S,
        }
    }
}

/// `[window]`: the span that is judged at once.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// Length in s; windows begin at multiples of it since 1970.
    pub length_s: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            length_s: DEFAULT_WINDOW_S,
        }
    }
}

/// `[baseline]`: what "as usual" means. Windows are collected in slots; the best slots of the
/// span are the baseline of their cell.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Baseline {
    /// Windows in which a cell must have been seen before anything is compared with it.
    pub min_windows: u32,
    /// Windows in one slot.
    pub slot_windows: u32,
    /// Slots, the best ones, that make the baseline.
    pub best_slots: u32,
    /// Slots after which one is forgotten.
    pub span_slots: u32,
}

impl Default for Baseline {
    fn default() -> Self {
        Self {
            min_windows: DEFAULT_BASELINE_MIN_WINDOWS,
            slot_windows: DEFAULT_BASELINE_SLOT_WINDOWS,
            best_slots: DEFAULT_BASELINE_BEST_SLOTS,
            span_slots: DEFAULT_BASELINE_SPAN_SLOTS,
        }
    }
}

/// `[verdict]`: thresholds. Shares are between 0 and 1.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// False discoveries accepted among the clients called bad in one window.
    pub false_discovery_share: f64,
    /// Standing queue over the baseline from which a client is bad, ms ...
    pub rtt_excess_ms: f64,
    /// ... and as a share of the baseline RTT; both must be exceeded.
    pub rtt_excess_share: f64,
    /// Losses over the baseline, as a share of the segments.
    pub loss_excess_share: f64,
    /// CE marks over the baseline, as a share of the segments.
    pub ce_excess_share: f64,
    /// Part of the usual delivered rate that must be missing.
    pub rate_drop_share: f64,
    /// RTT samples a client needs in a window for its RTT to be judged.
    pub min_rtt_samples: u32,
    /// Segments a client needs in a window for its losses and marks to be judged.
    pub min_segments: u32,
    /// Chunks a prefix needs in a window to have a vote; thinner ones are pooled.
    pub min_chunks_per_prefix: u32,
    /// Votes an ISP needs on an interconnect to count as a comparison.
    pub min_prefixes_per_isp: u32,
    /// Share of the votes that must be bad for a place to be at fault.
    pub bad_share: f64,
    /// Lost reports, as a share of all, above which a window is `inconclusive`.
    pub max_missed_share: f64,
    /// Share of the video's bytes that TCP must carry; below it a place is `inconclusive`.
    pub min_tcp_share: f64,
    /// Packets our own queues drop, as a share, from which they count as full ...
    pub host_drop_share: f64,
    /// ... or the time the largest backlog needs to drain, ms.
    pub host_backlog_ms: f64,
    /// Share of its speed or capacity that an interconnect's port sends when it is full.
    pub port_full_share: f64,
    /// Share below which it has room; only between the two can a queue stand there at times.
    pub port_busy_share: f64,
    /// Packets the port drops, as a share of those offered, that matter.
    pub port_drop_share: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            false_discovery_share: DEFAULT_FALSE_DISCOVERY_SHARE,
            rtt_excess_ms: DEFAULT_RTT_EXCESS_MS,
            rtt_excess_share: DEFAULT_RTT_EXCESS_SHARE,
            loss_excess_share: DEFAULT_LOSS_EXCESS_SHARE,
            ce_excess_share: DEFAULT_CE_EXCESS_SHARE,
            rate_drop_share: DEFAULT_RATE_DROP_SHARE,
            min_rtt_samples: DEFAULT_MIN_RTT_SAMPLES,
            min_segments: DEFAULT_MIN_SEGMENTS,
            min_chunks_per_prefix: DEFAULT_MIN_CHUNKS_PER_PREFIX,
            min_prefixes_per_isp: DEFAULT_MIN_PREFIXES_PER_ISP,
            bad_share: DEFAULT_BAD_SHARE,
            max_missed_share: DEFAULT_MAX_MISSED_SHARE,
            min_tcp_share: DEFAULT_MIN_TCP_SHARE,
            host_drop_share: DEFAULT_HOST_DROP_SHARE,
            host_backlog_ms: DEFAULT_HOST_BACKLOG_MS,
            port_full_share: DEFAULT_PORT_FULL_SHARE,
            port_busy_share: DEFAULT_PORT_BUSY_SHARE,
            port_drop_share: DEFAULT_PORT_DROP_SHARE,
        }
    }
}

/// `[log]`: where records go, and how much they say about clients.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `stdout`, or a file by its absolute path.
    pub destination: Destination,
    /// Write whole client addresses instead of their /24 or /48.
    pub full_client_addresses: bool,
    /// How much the daemon says about itself, on stderr.
    pub level: Level,
}

/// Where the records go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// Standard output.
    #[default]
    Stdout,
    /// systemd's journal, by its own protocol.
    Journald,
    /// Appended to this file, which SIGHUP reopens.
    File(PathBuf),
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "stdout" {
            Ok(Self::Stdout)
        } else if text == "journald" {
            Ok(Self::Journald)
        } else if Path::new(&text).is_absolute() {
            Ok(Self::File(text.into()))
        } else {
            Err(format!(
                "`{text}` is no log destination: write \"stdout\", \"journald\" or the absolute path of a file"
            ))
        }
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        match destination {
            Destination::Stdout => "stdout".to_owned(),
            Destination::Journald => "journald".to_owned(),
            Destination::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Only what stops the daemon.
    Error,
    /// What is missed or cannot be done, too.
    Warn,
    /// Start, stop, reload, interfaces.
    #[default]
    Info,
    /// For whoever looks for a mistake.
    Debug,
    /// Everything.
    Trace,
}

/// `[evidence]`: what verdicts were made of, for `lastmile verify` and `lastmile label`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evidence {
    /// Where it is kept, in SQLite. `None`: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// For how long.
    pub days: u32,
    /// At most so much, MiB; then the oldest goes first.
    pub max_mb: u32,
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            file: None,
            days: DEFAULT_EVIDENCE_DAYS,
            max_mb: DEFAULT_EVIDENCE_MAX_MB,
        }
    }
}

/// `[restart]`: what stays in the kernel while the daemon is away.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// A folder on a BPF file system. `None`: [`DEFAULT_BPF_DIRECTORY`] if it is on one.
    pub bpf_directory: Option<PathBuf>,
    /// What is usual, in SQLite. `None`: every run learns it anew.
    pub baselines: Option<PathBuf>,
}

/// `[metrics]`: for Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where `/metrics` and `/healthz` are answered.
    pub listen: Listen,
}

/// An address to listen on, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(pub Option<SocketAddr>);

impl Default for Listen {
    fn default() -> Self {
        Self(Some(DEFAULT_METRICS_LISTEN))
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(Some).map(Self).map_err(|_| {
            format!(
                "`{text}` is no address to listen on: write one with a port, such as \
                 \"{DEFAULT_METRICS_LISTEN}\", or \"off\""
            )
        })
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen
            .0
            .map_or_else(|| "off".to_owned(), |address| address.to_string())
    }
}

/// `[debug]`: for developers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Debug {
    /// Messages of the kernel programs; `off` removes them from the loaded programs.
    pub kernel_log: KernelLog,
}

/// How much the kernel programs say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelLog {
    /// Nothing, and no instruction for it.
    #[default]
    Off,
    /// What goes wrong.
    Warn,
    /// New and closed flows.
    Info,
    /// All there is.
    Debug,
}

impl Config {
    /// Reads and checks `path`. Relative paths inside are taken from its folder.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let text =
            std::fs::read_to_string(path).map_err(|error| Problem::unreadable(path, &error))?;
        let mut config = Self::parse(&text, path)?;
        if let Some(folder) = path.parent() {
            config.path.resolve(folder);
            let services = config
                .video
                .as_mut()
                .and_then(|of| of.services_csv.as_mut());
            if let Some(file) = services {
                *file = folder.join(&file);
            }
        }
        Ok(config)
    }

    /// Reads `path`, or [`DEFAULT_FILE`] if it is there, or takes the defaults. Also says which
    /// file it was, so that it can be read again.
    pub fn find(path: Option<&Path>) -> Result<(Self, Option<PathBuf>), Problem> {
        let default = Path::new(DEFAULT_FILE);
        match path.or_else(|| default.exists().then_some(default)) {
            Some(path) => Ok((Self::load(path)?, Some(path.to_owned()))),
            None => Ok((Self::default(), None)),
        }
    }

    /// Whether what clients say first is read.
    pub fn hears_clients(&self) -> bool {
        self.video.as_ref().is_some_and(|video| video.names)
    }

    /// Parses and checks `text`; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Problem> {
        let config: Self =
            toml::from_str(text).map_err(|error| Problem::from_toml(path, text, &error))?;
        match ranges::mistakes(&config).first() {
            None => Ok(config),
            Some(mistake) => Err(Problem::at_key(path, text, mistake)),
        }
    }
}

#[cfg(test)]
mod tests;
