//! Where flow states come from: the kernel's programs, or a capture file.

use std::sync::Arc;

use monitor_ebpf::chunk::ChunkReport;
use monitor_ebpf::flow::{FlowKey, FlowState};
use monitor_ebpf::hello::Piece;
use monitor_ebpf::quic::QuicFlow;

use crate::flow::chunk::Moment;
use crate::recognise::Transport;

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

/// A piece of what a flow's client sent first.
#[derive(Clone, PartialEq, Eq)]
pub struct FirstBytes {
    pub key: FlowKey,
    /// As in the flow's state.
    pub generation: u64,
    pub transport: Transport,
    /// Of the first byte, from the beginning of the client's stream; 0 for a datagram.
    pub offset: u32,
    pub bytes: Vec<u8>,
}

impl From<&Piece> for FirstBytes {
    fn from(piece: &Piece) -> Self {
        let len = (piece.len as usize).min(piece.bytes.len());
        Self {
            key: piece.key,
            generation: piece.generation,
            transport: if piece.transport == monitor_ebpf::hello::QUIC {
                Transport::Quic
            } else {
                Transport::Tcp
            },
            offset: piece.offset,
            bytes: piece.bytes[..len].to_vec(),
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

/// What a client sent is nobody's to read: only how much it is.
impl std::fmt::Debug for FirstBytes {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("FirstBytes")
            .field("transport", &self.transport)
            .field("offset", &self.offset)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// A copy of one QUIC flow's cumulative state.
#[derive(Clone, Copy, Debug)]
pub struct QuicSnapshot {
    pub key: FlowKey,
    pub state: QuicFlow,
}
