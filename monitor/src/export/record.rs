//! The log's records, `lastmile/1`. Names are snake_case with the unit last; what is unknown is
//! `null` or absent, never 0. A field's meaning never changes within a schema version.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::chunks::{ChunkRecord, ChunksRecord, SessionRecord};
use crate::cell::Arms;
use crate::engine::video::VideoReason;
use crate::flow::{Arm, CloseReason, Vantage};
use crate::path::ports::{InterconnectPorts, PortWindow};
use crate::path::{Connectivity, Source};
use crate::verdict::{
    Alternative, DeviceCounters, Evidence, Inconclusive, Limit, Mechanism, Segment,
};

/// The schema's version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    #[default]
    #[serde(rename = "lastmile/1")]
    One,
}

/// A type that has one name only, so that a record cannot carry another's.
macro_rules! type_name {
    ($name:ident, $text:literal) => {
        #[doc = concat!("`\"", $text, "\"`")]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
        )]
        pub enum $name {
            #[default]
            #[serde(rename = $text)]
            Name,
        }
    };
}

type_name!(FlowType, "flow");
type_name!(SessionType, "session");
type_name!(CellType, "cell");
type_name!(RouteType, "route");
type_name!(VerdictType, "verdict");
type_name!(IncidentType, "incident");
type_name!(StatusType, "status");

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Record {
    Flow(Box<FlowRecord>),
    Session(Box<SessionRecord>),
    Cell(Box<CellRecord>),
    Route(Box<RouteRecord>),
    Verdict(Box<VerdictRecord>),
    Incident(Box<IncidentRecord>),
    Status(Box<StatusRecord>),
}

impl Record {
    /// Appends the record's line, with its end.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        serde_json::to_writer(&mut *to, self)
            .expect("records have string keys and memory takes every byte");
        to.push(b'\n');
    }
}

/// One flow: when it is first seen, once a window while it does something, and when it ends.
/// Counters are of its whole life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowRecord {
    pub schema: Version,
    pub r#type: FlowType,
    pub time: Timestamp,
    pub host: String,
    pub event: FlowEvent,
    /// 16 hexadecimal digits, keyed by a secret of the process.
    pub flow_id: String,
    pub vantage: Vantage,
    /// An address, or the /24 or /48 around it.
    #[schemars(with = "String")]
    pub client_ip: ClientAddress,
    pub client_port: u16,
    #[schemars(with = "String")]
    pub server_ip: IpAddr,
    pub server_port: u16,
    pub interface: Option<String>,
    pub start_time: Timestamp,
    /// From the first packet to the last one.
    pub duration_us: u64,
    /// With `close` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<CloseReason>,
    pub handshake_rtt_us: Option<u32>,
    /// Handshake RTT over what is usual for the cell; negative: faster.
    pub handshake_excess_us: Option<i64>,
    pub slow_start: Option<SlowStart>,
    /// Whether it carries video; `null`: not known.
    pub video: Option<bool>,
    /// How that is known.
    #[serde(default)]
    pub video_reason: Option<VideoReason>,
    /// How much it behaves like video, 0 to 1; with the reason `behaviour` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video_confidence: Option<f64>,
    /// The video service whose server the client named. The name itself is not kept.
    #[serde(default)]
    pub service: Option<String>,
    pub path: Option<PathRecord>,
    /// Its part in a route experiment, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Arm>,
    pub limited_by: Option<Limit>,
    pub to_client: DirectionRecord,
    pub to_server: DirectionRecord,
    /// How many flows it stands for: itself, and those that were not admitted in its place when
    /// there were more than could be measured.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub stands_for: u32,
    /// Its chunks so far that are over; `null`: there was none.
    #[serde(default)]
    pub chunks: Option<ChunksRecord>,
    /// Those that ended since the flow's last record; at most 32, the latest.
    #[serde(default)]
    pub chunk_list: Vec<ChunkRecord>,
    /// How many more there were.
    #[serde(default)]
    pub chunk_list_omitted: u64,
}

/// What happened to the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlowEvent {
    Open,
    Update,
    Close,
}

/// Slow-start features of the data toward the client (TCP Congestion Signatures, IMC 2017):
/// they tell "we filled the queue" from "it was full", never one place from another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    pub samples: u32,
    pub rtt_min_us: u32,
    pub rtt_max_us: u32,
    /// (max - min) / max of the RTT.
    pub norm_diff: Option<f64>,
    /// Standard deviation / mean of the RTT.
    pub cov: Option<f64>,
}

/// The way to the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathRecord {
    #[schemars(with = "String")]
    pub prefix: IpNet,
    pub origin_asn: u32,
    pub isp: String,
    pub interconnect: String,
    #[schemars(with = "Option<String>")]
    pub next_hop: Option<IpAddr>,
    pub peer_asn: Option<u32>,
}

/// The traffic to clients took another way: what was measured before and after is kept apart,
/// and their prefixes have no vote in this window and the next one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteRecord {
    pub schema: Version,
    pub r#type: RouteType,
    /// When the change came to the flows.
    pub time: Timestamp,
    pub host: String,
    /// The unit of counting: /24 or /48, or a longer announced prefix. `null`: a summary of
    /// `prefixes` changes, because so many came at once; of the ways it has what they share.
    #[schemars(with = "Option<String>")]
    pub prefix: Option<IpNet>,
    /// How many units of counting this is about.
    pub prefixes: u64,
    /// Flows that were open and changed their way.
    pub flows: u64,
    /// `null`: no route was known, or, in a summary, none that they share.
    pub before: Option<WayRecord>,
    /// `null`: no route is known any more, or none that they share.
    pub after: Option<WayRecord>,
    /// Which parts of the way differ; empty where `before` or `after` is `null`.
    pub changed: Vec<WayPart>,
}

/// A part of a way.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WayPart {
    Interconnect,
    OriginAsn,
    Isp,
    PeerAsn,
    NextHop,
    AsPathMiddle,
    Interface,
}

/// Everything known about the way to a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WayRecord {
    pub interconnect: String,
    pub isp: String,
    pub origin_asn: u32,
    /// The announced prefix; `null` in a summary.
    #[schemars(with = "Option<String>")]
    pub announced: Option<IpNet>,
    pub peer_asn: Option<u32>,
    #[schemars(with = "Option<String>")]
    pub peer_address: Option<IpAddr>,
    #[schemars(with = "Option<String>")]
    pub next_hop: Option<IpAddr>,
    /// ASes between the neighbour and the origin, prepending removed.
    pub as_path_middle: Vec<u32>,
    /// The router that told.
    pub router: Option<String>,
    /// Egress interface.
    pub interface: Option<String>,
    pub connectivity: Option<Connectivity>,
    pub site: Option<String>,
    /// Who said whose network it is.
    pub source_of_origin: Source,
    /// Who said through what it is reached.
    pub source_of_way: Source,
    /// A source that it is known from has gone silent.
    pub stale: bool,
}

/// One direction's data. RTT is what this data took to be acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectionRecord {
    /// Payload, retransmissions included.
    pub bytes: u64,
    /// Packets with payload, as captured.
    pub frames: u64,
    /// Wire segments with payload.
    pub segments: u64,
    /// Seen on the wire.
    pub retransmitted_segments: u64,
    /// The socket's own count, SYNs included; `null`: no socket of ours sends this direction.
    pub kernel_retransmits: Option<u64>,
    pub retransmitted_bytes: u64,
    pub spurious_segments: u64,
    pub ce_marked_segments: u64,
    pub lost_downstream_segments: u64,
    pub lost_upstream_segments: u64,
    pub reordered_segments: u64,
    /// Retransmissions by a tail-loss probe (RFC 8985) and by timeout (RFC 6298), as far as the
    /// wire tells them apart; `null`: no ACK was seen, so it does not.
    #[serde(default)]
    pub tail_loss_probes: Option<u64>,
    #[serde(default)]
    pub retransmission_timeouts: Option<u64>,
    /// SYNs or SYN-ACKs sent again; they are in no other count.
    #[serde(default)]
    pub syns_retransmitted: u64,
    /// RTT samples left out because the ACK was delayed.
    #[serde(default)]
    pub delayed_acks: u64,
    /// How long the sender's timestamp clock (RFC 7323) stands still; `null`: not watched for a
    /// second yet, or no timestamps.
    #[serde(default)]
    pub timestamp_granularity_us: Option<u32>,
    pub rtt_samples: u64,
    pub rtt_min_us: Option<u32>,
    /// Within a ninth (11.2 %) of the exact quantile, from 80 µs to 4.2 s.
    pub rtt_p50_us: Option<u32>,
    pub rtt_p95_us: Option<u32>,
    pub rtt_max_us: Option<u32>,
    pub rtt_source: Option<RttSource>,
}

/// Where most of the RTT samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RttSource {
    Socket,
    Sequence,
    Timestamp,
}

/// One prefix through one interconnect in one window: what `judge` merges over hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CellRecord {
    pub schema: Version,
    pub r#type: CellType,
    pub time: Timestamp,
    pub host: String,
    pub window_start: Timestamp,
    pub window_s: u32,
    pub interconnect: String,
    pub isp: String,
    pub origin_asn: u32,
    #[schemars(with = "String")]
    pub prefix: IpNet,
    /// 4 or 6.
    pub ip_version: u8,
    /// Whether the interconnect hands over to the ISP itself.
    pub direct: bool,
    pub observations: u64,
    pub clients: u64,
    /// Clients with enough samples and a baseline.
    pub clients_judged: u64,
    /// Bad in this window and the one before.
    pub clients_bad: u64,
    pub clients_good: u64,
    pub chunks: u64,
    pub busy_us: u64,
    pub acked_bytes: u64,
    pub delivered_bps: Option<u64>,
    pub handshake_rtt_min_us: Option<u32>,
    /// What the RTT's 10 % quantile of a client usually is, on the average.
    pub baseline_rtt_p10_us: Option<u32>,
    pub rtt_p10_us: Option<u32>,
    /// RTT samples by the lower edge of their bin in µs, four bins an octave.
    pub rtt_bins: BTreeMap<u32, u32>,
    pub to_client: DirectionRecord,
    /// The chunks (responses, not busy periods) that were asked for in the window; `null`: none.
    #[serde(default)]
    pub chunk_figures: Option<ChunksRecord>,
    /// Share of the video's bytes toward the clients that TCP carried, and so this cell's figures
    /// are about; the rest is QUIC.
    #[serde(default)]
    pub tcp_share: Option<f64>,
    /// Flows that did something, and bytes toward the clients, those included that were not
    /// admitted when there were more than could be measured: estimates then. Every other figure
    /// is of the flows that were measured.
    #[serde(default)]
    pub estimated_flows: u64,
    #[serde(default)]
    pub estimated_bytes: u64,
    /// `null`: there was none.
    #[serde(default)]
    pub quic: Option<QuicRecord>,
    /// Its traffic took another way in this window or the one before: it votes for nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub route_changed: bool,
    /// A source that its way is known from has gone silent: it votes for nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub route_stale: bool,
    /// Its way: where a part of it differs, it is compared with another past. `null`: not known.
    #[serde(default)]
    pub way: Option<CellWayRecord>,
    /// Each client's part, from which `judge` judges; sorted by `client`.
    #[serde(default)]
    pub client_list: Vec<ClientRecord>,
}

/// The way of a cell's traffic, as far as that is not in the cell itself.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct CellWayRecord {
    pub peer_asn: Option<u32>,
    /// The next hop, or the neighbour's address on the BGP session.
    #[schemars(with = "Option<String>")]
    pub next_hop: Option<IpAddr>,
    pub as_path_middle: Vec<u32>,
    /// Egress interface, where this host's own routes told.
    pub interface: Option<String>,
    /// What its interconnect shares with others.
    pub risk_groups: Vec<String>,
}

/// One client's part of a cell: the figures that are judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientRecord {
    /// 16 hexadecimal digits, keyed by a secret of the process, or the address where addresses are
    /// logged in full.
    pub client: String,
    /// Flows that did something.
    pub observations: u64,
    /// Those of them that have a part in a route experiment.
    #[serde(default, skip_serializing_if = "Arms::are_none")]
    pub arms: Arms,
    pub segments: u64,
    /// Beyond us.
    pub lost_segments: u64,
    pub ce_marked_segments: u64,
    /// Sent into a full receive window.
    pub rwnd_limited_segments: u64,
    pub acked_bytes: u64,
    pub busy_us: u64,
    /// Busy periods that ended.
    pub bursts: u64,
    pub handshake_rtt_min_us: Option<u32>,
    pub rtt_min_us: Option<u32>,
    pub rtt_max_us: Option<u32>,
    /// Sum of the RTT samples, µs.
    pub rtt_sum_us: u64,
    /// As in the cell.
    pub rtt_bins: BTreeMap<u32, u32>,
}

/// What QUIC (UDP/443) did beside the TCP of a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuicRecord {
    /// UDP payload toward the clients.
    pub bytes: u64,
    pub flows: u64,
    /// By service, where the client named one of the list.
    pub services: BTreeMap<String, QuicServiceRecord>,
    /// Round trips seen by the spin bit (RFC 9000, 17.4), of flows that spin.
    pub spin_samples: u64,
    /// Their mean. A pause of the application makes one longer.
    pub spin_rtt_mean_us: Option<u32>,
    /// The shortest in the life of these flows.
    pub spin_rtt_min_us: Option<u32>,
}

/// One service's part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuicServiceRecord {
    pub bytes: u64,
    pub flows: u64,
}

/// Whose congestion it is, in one window, about one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerdictRecord {
    pub schema: Version,
    pub r#type: VerdictType,
    pub time: Timestamp,
    pub host: String,
    pub window_start: Timestamp,
    pub window_s: u32,
    /// `null`: about more than one.
    pub interconnect: Option<String>,
    pub isp: Option<String>,
    pub origin_asn: Option<u32>,
    #[schemars(with = "Option<String>")]
    pub prefix: Option<IpNet>,
    /// `null`: cannot be said, see `inconclusive`.
    pub degraded: Option<bool>,
    pub inconclusive: Option<Inconclusive>,
    /// The set that remains; one name only when one remains.
    pub segments: Vec<Segment>,
    pub mechanisms: Vec<Mechanism>,
    pub limits: Vec<Limit>,
    /// Whether only a part of a bundle is affected.
    pub partial: bool,
    /// 0 to 1.
    pub confidence: f64,
    pub evidence: Vec<Evidence>,
    pub rejected: Vec<Alternative>,
    /// Why each remaining segment cannot be excluded, where it is not supported either.
    pub open: Vec<Alternative>,
    /// Flows it speaks about.
    pub observations: u64,
    /// Share of the video's bytes at this place that TCP carried: of the rest it says nothing.
    #[serde(default)]
    pub tcp_share: Option<f64>,
    pub missed: MissedRecord,
    /// For `lastmile verify` and `lastmile label`: host, start of the window and number in it.
    /// Absent where nothing is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_id: Option<String>,
    /// With the first verdict of a window: what is known of the window beside its cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<InputsRecord>,
}

/// What verdicts are made of beside cells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputsRecord {
    pub reports_received: u64,
    /// What our devices counted; `null`: not read.
    pub devices: Option<Vec<DeviceCounters>>,
    /// What our ports counted, by interconnect; `null`: none is read.
    #[schemars(with = "Option<BTreeMap<String, PortWindow>>")]
    pub ports: Option<InterconnectPorts>,
}

/// Consecutive verdicts about the same place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncidentRecord {
    pub schema: Version,
    pub r#type: IncidentType,
    pub time: Timestamp,
    pub host: String,
    pub event: IncidentEvent,
    /// The start of the process's first window and the incident's number in it.
    pub incident_id: String,
    /// With `merge`: the wider incident that this one is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<String>,
    /// Start of its first window.
    pub onset: Timestamp,
    /// End of its last window; `null`: it lasts.
    pub end: Option<Timestamp>,
    pub window_s: u32,
    /// Windows with a verdict about it.
    pub windows: u32,
    /// `null`: about more than one.
    pub interconnect: Option<String>,
    pub isp: Option<String>,
    pub origin_asn: Option<u32>,
    #[schemars(with = "Option<String>")]
    pub prefix: Option<IpNet>,
    /// What most of its windows said; of two sets said as often, the larger one.
    pub segments: Vec<Segment>,
    /// Every mechanism that was seen.
    pub mechanisms: Vec<Mechanism>,
    /// Of the last verdict that said so.
    pub confidence: f64,
    pub scope: ScopeRecord,
    pub recurrence: Recurrence,
    /// Starts of the windows whose verdicts said what `segments` says; the last ones.
    pub verdicts: Vec<Timestamp>,
}

/// What happened to the incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncidentEvent {
    /// Two windows said so.
    Open,
    /// What it settled on, or what it is about, changed; also at shutdown.
    Update,
    Close,
    /// It is a part of a wider one.
    Merge,
}

/// Whether the place was in trouble before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recurrence {
    /// Not as far as is remembered, which is since the start at most.
    New,
    /// An hour of windows or more ago.
    Recurrent,
}

/// How much an incident affects, in the window in which most was bad.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeRecord {
    /// Prefixes with a vote in its place.
    pub prefixes: u64,
    pub prefixes_bad: u64,
    /// `prefixes_bad` of `prefixes`.
    pub bad_share: Option<f64>,
    /// Flows of clients that were bad.
    pub observations: u64,
}

fn one() -> u32 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(count: &u32) -> bool {
    *count == 1
}

/// What was not seen in a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MissedRecord {
    pub reports_lost: u64,
    pub flows_evicted: u64,
    pub flows_refused: u64,
    pub packets_unparsed: u64,
    /// Chunks that the ring buffer had no room for.
    #[serde(default)]
    pub chunks_lost: u64,
    /// Flows that waited for their second direction, or for the end of their handshake, and made
    /// room for others.
    #[serde(default)]
    pub flows_waiting_evicted: u64,
    /// Lines that are not in this log.
    #[serde(default)]
    pub log_lines_dropped: u64,
    /// Of the flows that began one in this many was measured; 1: all of them. Chosen by a keyed
    /// hash, so that shares and medians stay what they are.
    #[serde(default = "one")]
    pub admitted_one_in: u32,
    /// Flows to clients without a known route.
    pub observations_unrouted: u64,
    /// Clients whose cell is not known long enough.
    pub clients_without_baseline: u64,
    /// Clients with too few samples to be judged.
    pub clients_thin: u64,
    /// Clients whose traffic took another way in this window or the one before.
    #[serde(default)]
    pub clients_route_changed: u64,
    /// Clients whose way is known from a source that has gone silent.
    #[serde(default)]
    pub clients_route_stale: u64,
}

/// Every counter of what was seen, missed, evicted, refused and lost since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusRecord {
    pub schema: Version,
    pub r#type: StatusType,
    pub time: Timestamp,
    pub host: String,
    /// When the daemon started.
    pub start_time: Timestamp,
    /// The engine's version.
    pub version: String,
    /// By name. They only grow, except those that say how many there are now: `flows_live`,
    /// `flows_open`, `route_prefixes_*` and the like.
    pub counters: BTreeMap<String, u64>,
}

/// A client's address, or as much of it as may be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClientAddress {
    Full(IpAddr),
    Truncated(IpNet),
}

impl StatusRecord {
    /// `counters` by their names in the log.
    pub fn new(
        host: &str,
        time_us: u64,
        start_us: u64,
        counters: impl IntoIterator<Item = (String, u64)>,
    ) -> Self {
        Self {
            schema: Version::One,
            r#type: StatusType::Name,
            time: Timestamp(time_us),
            host: host.to_owned(),
            start_time: Timestamp(start_us),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            counters: counters.into_iter().collect(),
        }
    }
}
