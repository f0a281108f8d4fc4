//! What hypotheses say, and what a verdict is made of.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cell::CellKey;

/// Where on the way the congestion is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// Our own machine: stack, NIC, server stall.
    Host,
    /// Between our machine and our ports at the edge.
    OwnNetwork,
    /// Our port or link to the neighbour.
    Interconnect,
    /// Other networks between that neighbour and the ISP.
    Transit,
    /// Inside the access ISP, beyond its edge.
    Isp,
    /// One node, cell or BNG: a group of the ISP's prefixes or clients.
    AccessShared,
    /// One access line or home.
    LastMile,
    /// The way back.
    ReversePath,
    /// A middlebox ends TCP; nothing beyond it can be named.
    BehindProxy,
}

impl Segment {
    /// All of them, from us outward.
    pub const ALL: [Self; 9] = [
        Self::Host,
        Self::OwnNetwork,
        Self::Interconnect,
        Self::Transit,
        Self::Isp,
        Self::AccessShared,
        Self::LastMile,
        Self::ReversePath,
        Self::BehindProxy,
    ];
}

/// How a segment slows the traffic.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// Standing delay.
    Queue,
    /// Losses without delay.
    Loss,
    /// Congestion Experienced.
    CeMarks,
    Policer,
    PathChange,
}

/// Who held the flow back, where it was not the network.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The application or its pacing.
    SenderLimited,
    ServerStall,
    /// The receive window.
    ReceiverLimited,
}

/// Why a window, or a place in it, cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Inconclusive {
    /// Nobody was served.
    NoTraffic,
    /// No client's prefix is in the table.
    NoRoute,
    /// Nobody's usual figures are known yet.
    NoBaseline,
    /// Too few chunks, RTT samples or segments.
    TooFewChunks,
    /// Too many reports were lost.
    MissedReports,
    /// Most of the video is QUIC, of which TCP says nothing.
    TcpShare,
    /// Traffic took another way just now: before and after are not compared.
    RouteChanged,
    /// What tells the ways to the clients has gone silent: it is not known through which
    /// interconnects they are reached.
    RouteStale,
}

/// What one hypothesis says about one place.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The comparisons that it needs were made and speak for it.
    Supported(Vec<Evidence>),
    /// It remains possible: a comparison that could exclude it is missing.
    Open(String),
    /// Excluded, and why.
    Rejected(String),
}

/// A figure that speaks for something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What was measured, with its unit last.
    pub kind: String,
    /// Whom or what it was measured on, where that is not the verdict's own place: an ISP, an
    /// interconnect and an ISP, a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The segment or limit it speaks for, or `degraded`.
    pub supports: String,
    pub value: Option<f64>,
    pub threshold: Option<f64>,
    /// How many prefixes, clients, packets stand behind it.
    pub samples: u64,
}

/// An alternative, and why it is excluded or still open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<Segment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    pub why: String,
}

/// What is said about one place in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub place: Place,
    /// `None`: cannot be said.
    pub degraded: Option<bool>,
    pub inconclusive: Option<Inconclusive>,
    /// The set that remains; one name only when one remains.
    pub segments: BTreeSet<Segment>,
    pub mechanisms: BTreeSet<Mechanism>,
    pub limits: BTreeSet<Limit>,
    /// Whether only a part of a bundle is affected.
    pub partial: bool,
    /// From 0 to 1.
    pub confidence: f64,
    pub evidence: Vec<Evidence>,
    pub rejected: Vec<Alternative>,
    /// Why each of several remaining segments cannot be excluded.
    pub open: Vec<Alternative>,
    /// Flows the verdict speaks about.
    pub observations: u64,
}

impl Verdict {
    /// Nothing said yet.
    pub fn about(place: Place) -> Self {
        Self {
            place,
            degraded: None,
            inconclusive: None,
            segments: BTreeSet::new(),
            mechanisms: BTreeSet::new(),
            limits: BTreeSet::new(),
            partial: false,
            confidence: 0.0,
            evidence: Vec::new(),
            rejected: Vec::new(),
            open: Vec::new(),
            observations: 0,
        }
    }
}

/// What a verdict is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// All that we serve.
    Everything,
    /// All that leaves through one interconnect.
    Interconnect(Arc<str>),
    /// One access network, through every interconnect.
    Isp { isp: Arc<str>, origin_asn: u32 },
    /// One access network through one interconnect.
    Pair {
        interconnect: Arc<str>,
        isp: Arc<str>,
        origin_asn: u32,
    },
    /// One prefix through one interconnect.
    Prefix {
        interconnect: Arc<str>,
        isp: Arc<str>,
        origin_asn: u32,
        prefix: IpNet,
    },
}

impl Place {
    pub fn interconnect(&self) -> Option<&Arc<str>> {
        match self {
            Self::Everything | Self::Isp { .. } => None,
            Self::Interconnect(interconnect)
            | Self::Pair { interconnect, .. }
            | Self::Prefix { interconnect, .. } => Some(interconnect),
        }
    }

    pub fn isp(&self) -> Option<&Arc<str>> {
        match self {
            Self::Everything | Self::Interconnect(_) => None,
            Self::Isp { isp, .. } | Self::Pair { isp, .. } | Self::Prefix { isp, .. } => Some(isp),
        }
    }

    pub fn origin_asn(&self) -> Option<u32> {
        match self {
            Self::Everything | Self::Interconnect(_) => None,
            Self::Isp { origin_asn, .. }
            | Self::Pair { origin_asn, .. }
            | Self::Prefix { origin_asn, .. } => Some(*origin_asn),
        }
    }

    /// Whether the traffic of `cell` is part of it.
    pub fn holds(&self, cell: &CellKey) -> bool {
        self.interconnect()
            .is_none_or(|it| *it == cell.interconnect)
            && self.isp().is_none_or(|it| *it == cell.isp)
            && self.prefix().is_none_or(|it| it == cell.prefix)
    }

    pub fn prefix(&self) -> Option<IpNet> {
        match self {
            Self::Prefix { prefix, .. } => Some(*prefix),
            _ => None,
        }
    }
}

/// The name a segment or limit has in the log.
pub fn log_name(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("segments and limits serialize to strings, not {other:?}"),
    }
}
