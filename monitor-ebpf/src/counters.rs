//! What the packet path counts, one array an CPU.

/// Why a packet was not tracked. It passes in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NotIp,
    NotTcp,
    /// GRE, IP in IP, VXLAN, GENEVE, GTP-U: may hold TCP, and is not looked into.
    Tunnel,
    /// A part of a datagram: ports and lengths are not all there.
    Fragment,
    /// The frame ends before a header does.
    Truncated,
    /// A length or version field contradicts the rest.
    Malformed,
    /// No port that is watched.
    Port,
    /// No prefix that is watched.
    Prefix,
    /// Not among the sampled flows.
    Sample,
    /// New, while there are more flows than can be measured.
    NotAdmitted,
    /// UDP with port 443 at either end: counted by itself.
    Quic,
}

/// A counter's place in [`Counters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    NotIp,
    NotTcp,
    Tunnel,
    Fragment,
    Truncated,
    Malformed,
    PortNotWatched,
    PrefixNotWatched,
    NotSampled,
    /// Packets of flows that were not admitted.
    NotAdmitted,
    /// Datagrams of QUIC.
    Quic,
    /// Packets of watched flows.
    Watched,
    /// Flows that got a state.
    FlowsCreated,
    /// Flows that had to wait for a state ...
    FlowsPending,
    /// ... and that got one.
    FlowsAdmitted,
    /// States the map refused.
    FlowsRefused,
    /// Flows that ended and whose 5-tuple began anew.
    FlowsReused,
    ReportsSent,
    /// Reports the ring buffer had no room for; the figures are in the next one.
    ReportsLost,
    ChunksSent,
    /// Chunks the ring buffer had no room for.
    ChunksLost,
    QuicFlowsCreated,
    /// Pieces of what clients said first that were handed on ...
    HellosSent,
    /// ... and that were not: no room in the ring buffer, or not all of the payload is there.
    HellosLost,
    /// Packets of flows that the daemon wants no more of.
    PassedOver,
    /// Connections that a route experiment sends another way ...
    SentAnotherWay,
    /// ... and those that it would have, whose socket refused the mark.
    NotMarked,
}

/// How many counters there are.
pub const COUNTERS: usize = Counter::NotMarked as usize + 1;

/// The counters of one CPU, indexed by [`Counter`].
pub type Counters = [u64; COUNTERS];

/// Names for the log and the metrics, in the order of [`Counter`].
pub const COUNTER_NAMES: [&str; COUNTERS] = [
    "packets_not_ip",
    "packets_not_tcp",
    "packets_tunnel",
    "packets_fragment",
    "packets_truncated",
    "packets_malformed",
    "packets_port_not_watched",
    "packets_prefix_not_watched",
    "packets_not_sampled",
    "packets_not_admitted",
    "packets_quic",
    "packets_watched",
    "flows_created",
    "flows_pending",
    "flows_admitted",
    "flows_refused",
    "flows_reused",
    "reports_sent",
    "reports_lost",
    "chunks_sent",
    "chunks_lost",
    "quic_flows_created",
    "hellos_sent",
    "hellos_lost",
    "packets_passed_over",
    "experiment_flows_sent_another_way",
    "experiment_flows_not_marked",
];

impl From<Reason> for Counter {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NotIp => Self::NotIp,
            Reason::NotTcp => Self::NotTcp,
            Reason::Tunnel => Self::Tunnel,
            Reason::Fragment => Self::Fragment,
            Reason::Truncated => Self::Truncated,
            Reason::Malformed => Self::Malformed,
            Reason::Port => Self::PortNotWatched,
            Reason::Prefix => Self::PrefixNotWatched,
            Reason::Sample => Self::NotSampled,
            Reason::NotAdmitted => Self::NotAdmitted,
            Reason::Quic => Self::Quic,
        }
    }
}
