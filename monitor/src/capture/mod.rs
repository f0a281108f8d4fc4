//! Where flow states come from: the kernel's programs, or a capture file.

use std::sync::Arc;

use monitor_ebpf::flow::FlowState;

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
