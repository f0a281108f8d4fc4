//! The maps, and [`Tables`] on top of them.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::bpf_ringbuf_output,
    macros::map,
    maps::{Array, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use monitor_ebpf::{
    admit::Pending,
    chunk::{self, ChunkReport},
    counters::{COUNTERS, Counter, Counters},
    experiment::Experiment,
    flow::{Address, FlowKey, FlowState},
    hello::{HEADER_LEN, Piece},
    observe::Tables,
    packet::Parsed,
    quic::QuicFlow,
    select::{PORT_WORDS, Settings, Watch},
};

use super::skb::below_piece_max;

/// Watched flows. The daemon sets the size.
#[map]
static FLOWS: LruHashMap<FlowKey, FlowState> = LruHashMap::with_max_entries(65_536, 0);

/// Flows of which one direction was seen. The daemon sets the size.
#[map]
static PENDING: LruHashMap<FlowKey, Pending> = LruHashMap::with_max_entries(16_384, 0);

/// Copies of flow states for the daemon. The daemon sets the size.
#[map]
static REPORTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

#[map]
static COUNTS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// A bitmap of the watched ports.
#[map]
static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS as u32, 0);

/// Watched prefixes; IPv4 under `::ffff:0:0/96`.
#[map]
static PREFIXES: LpmTrie<[u8; 16], u8> = LpmTrie::with_max_entries(65_536, 1);

/// Where a packet is parsed to.
#[map]
static PARSED: PerCpuArray<Parsed> = PerCpuArray::with_max_entries(1, 0);

/// What a new flow starts from: never written, because a state is too large for the stack.
#[map]
static EMPTY: Array<FlowState> = Array::with_max_entries(1, 0);

/// Flows of QUIC. The daemon sets the size.
#[map]
static QUIC_FLOWS: LruHashMap<FlowKey, QuicFlow> = LruHashMap::with_max_entries(16_384, 0);

/// What clients said first, for the daemon, which sets the size.
#[map]
static HELLOS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Where a piece of it is put together: too large for the stack, and most are a tenth as long.
#[map]
static PIECE: PerCpuArray<Piece> = PerCpuArray::with_max_entries(1, 0);

/// Which connections are sent another way.
#[map]
static EXPERIMENT: Array<Experiment> = Array::with_max_entries(1, 0);

/// The maps, as the packet path sees them.
pub struct Maps;

impl Maps {
    #[inline(always)]
    pub fn experiment(&self) -> Option<&Experiment> {
        EXPERIMENT.get(0)
    }
}

impl Watch for Maps {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn port_word(&self, index: u32) -> u64 {
        match PORTS.get(index) {
            Some(word) => *word,
            None => 0,
        }
    }

    #[inline(always)]
    fn prefix_watched(&self, address: &Address) -> bool {
        PREFIXES.get(Key::new(128, address.octets())).is_some()
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<*mut FlowState> {
        FLOWS.get_ptr_mut(key)
    }

    #[inline(always)]
    fn create(&self, key: &FlowKey) -> Option<*mut FlowState> {
        let empty = EMPTY.get(0)?;
        // EEXIST: another CPU was first, and its entry is as good.
        let _ = FLOWS.insert(key, empty, BPF_NOEXIST.into());
        FLOWS.get_ptr_mut(key)
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey) {
        // ENOENT: another CPU or the daemon was first.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn pending(&self, key: &FlowKey) -> Option<*mut Pending> {
        PENDING.get_ptr_mut(key)
    }

    #[inline(always)]
    fn put_pending(&self, key: &FlowKey, pending: &Pending) {
        // An LRU map makes room; what it pushes out has not become a flow.
        let _ = PENDING.insert(key, pending, 0);
    }

    #[inline(always)]
    fn remove_pending(&self, key: &FlowKey) {
        // ENOENT: another CPU was first.
        let _ = PENDING.remove(key);
    }

    #[inline(always)]
    fn quic_flow(&self, key: &FlowKey) -> Option<*mut QuicFlow> {
        QUIC_FLOWS.get_ptr_mut(key)
    }

    #[inline(always)]
    fn create_quic_flow(&self, key: &FlowKey) -> Option<*mut QuicFlow> {
        // EEXIST: another CPU was first, and its entry is as good.
        let _ = QUIC_FLOWS.insert(key, &QuicFlow::EMPTY, BPF_NOEXIST.into());
        QUIC_FLOWS.get_ptr_mut(key)
    }

    #[inline(always)]
    fn piece(&self) -> Option<*mut Piece> {
        PIECE.get_ptr_mut(0)
    }

    #[inline(always)]
    fn hand_on(&self, piece: &Piece, len: u32) -> bool {
        let size = below_piece_max(u64::from(len)) + HEADER_LEN as u64;
        // SAFETY: the map is a ring buffer, and `size` is at most that of a piece.
        let result = unsafe {
            bpf_ringbuf_output(
                ptr::from_ref(&HELLOS).cast_mut().cast(),
                ptr::from_ref(piece).cast_mut().cast(),
                size,
                0,
            )
        };
        result == 0
    }

    #[inline(always)]
    fn parsed(&self) -> Option<*mut Parsed> {
        PARSED.get_ptr_mut(0)
    }

    #[inline(always)]
    fn report(&self, state: &FlowState) -> bool {
        // SAFETY: the map is a ring buffer, and `state` is a whole map value.
        let result = unsafe {
            bpf_ringbuf_output(
                ptr::from_ref(&REPORTS).cast_mut().cast(),
                ptr::from_ref(state).cast_mut().cast(),
                size_of::<FlowState>() as u64,
                0,
            )
        };
        result == 0
    }

    #[inline(always)]
    fn chunk(&self, state: &FlowState, direction: usize, end: u32, time_ns: u64) -> bool {
        let Some(mut entry) = REPORTS.reserve::<ChunkReport>(0) else {
            return false;
        };
        // SAFETY: as long as a report, and every field is written before anyone reads it.
        let report = unsafe { &mut *entry.as_mut_ptr() };
        chunk::describe(report, state, direction, end, time_ns);
        entry.submit(0);
        true
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        const { assert!(Counter::NotMarked as usize == COUNTERS - 1) };
        if let Some(counts) = COUNTS.get_ptr_mut(0) {
            // SAFETY: this CPU's own entry, and `counter` is below its length.
            unsafe {
                let count = counts.cast::<u64>().add(counter as usize);
                *count = (*count).wrapping_add(1);
            }
        }
    }
}
