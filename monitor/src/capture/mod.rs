//! Where flow states come from: the kernel's programs, or a capture file.

use std::sync::Arc;

use monitor_ebpf::chunk::ChunkReport;
use monitor_ebpf::flow::FlowState;

use crate::flow::chunk::Moment;

pub mod live;
pub mod replay;

/// A copy of one flow's cumulative state.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub state: FlowState,
    /// When the copy was made, µs since 1970 UTC (capture time in replay).
    pub time_us: u64,
    /// The same moment on the clock of the state's own times, ns.
    pub read_ns: u64,
    /// The device whose hook owns the flow's data, where that is known.
    pub interface: Option<Arc<str>>,
}

/// A chunk that is over.
#[derive(Clone, Debug)]
pub struct ChunkNews {
    pub report: ChunkReport,
    /// When it was read, as in [`Snapshot`].
    pub time_us: u64,
    pub read_ns: u64,
}

impl ChunkNews {
    /// When it was read, on both clocks.
    pub fn moment(&self) -> Moment {
        Moment {
            unix_us: self.time_us,
            monotonic_ns: self.read_ns,
        }
    }
}

/// What the packet path tells, in its order.
#[derive(Clone, Debug)]
pub enum Report {
    /// A copy of a flow's state.
    Flow(Box<FlowState>),
    /// A chunk that is over.
    Chunk(Box<ChunkReport>),
}
