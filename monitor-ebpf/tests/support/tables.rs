//! The packet path's tables as hash maps, and what a hook sees of one packet.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{HashMap, HashSet},
};

use monitor_ebpf::{
    admit::{Pending, from_pending},
    chunk::{self, ChunkReport},
    counters::{COUNTERS, Counter, Counters, Reason},
    flow::{Address, FlowKey, FlowState, SocketFigures},
    hello::{PIECE_MAX, Piece},
    observe::{self, Tables as _, observe},
    packet::{Frame as LoadFrame, Header, Link, Parsed},
    quic::QuicFlow,
    select::{Settings, Watch, settings_flags},
    tracker::Clock,
};

use super::packets::Frame;

pub const SECOND_NS: u64 = 1_000_000_000;

/// Everything is watched, what clients say first is handed on, and a flow reports once a second.
pub const SETTINGS: Settings = Settings {
    report_interval_ns: SECOND_NS,
    epoch_ns: 10 * SECOND_NS,
    epoch_offset_ns: 0,
    sample_threshold: u32::MAX,
    flags: settings_flags::HELLOS,
    admission_key: 0,
    halvings: 0,
    halvings_before: 0,
};

/// Ingress of the first device.
pub const HOOK: u32 = 1 << 1;

/// A packet at a hook.
#[derive(Clone, Debug)]
pub struct Seen {
    pub frame: Frame,
    pub time_ns: u64,
    /// What a coarse clock says; the same, where nothing else is said.
    pub coarse_ns: u64,
    pub hook: u32,
    pub departure_ns: u64,
    /// `snd_nxt` of the socket of ours that sends it.
    pub socket_snd_nxt: Option<u32>,
}

impl Seen {
    pub fn new(time_ns: u64, frame: Frame) -> Self {
        Self {
            frame,
            time_ns,
            coarse_ns: time_ns,
            hook: HOOK,
            departure_ns: 0,
            socket_snd_nxt: None,
        }
    }
}

impl LoadFrame for Seen {
    fn load<H: Header>(&self, offset: usize) -> Option<H> {
        self.frame.bytes.load(offset)
    }

    fn load_options(&self, offset: usize, len: usize, options: &mut [u8; 64]) -> bool {
        self.frame.bytes.load_options(offset, len, options)
    }

    fn load_payload(&self, offset: usize, len: usize, payload: &mut [u8; PIECE_MAX]) -> bool {
        self.frame.bytes.load_payload(offset, len, payload)
    }
}

impl Clock for Seen {
    fn precise_ns(&self) -> u64 {
        self.time_ns
    }

    fn coarse_ns(&self) -> u64 {
        self.coarse_ns
    }
}

impl observe::Packet for Seen {
    fn frame_len(&self) -> u32 {
        self.frame.frame_len
    }

    fn gso_size(&self) -> u32 {
        self.frame.gso_size
    }

    fn gso_segs(&self) -> u32 {
        self.frame.gso_segs
    }

    fn hook(&self) -> u32 {
        self.hook
    }

    fn departure_ns(&self) -> u64 {
        self.departure_ns
    }

    fn sent_by_socket(&self) -> bool {
        self.socket_snd_nxt.is_some()
    }

    fn socket_snd_nxt(&self) -> Option<u32> {
        self.socket_snd_nxt
    }

    fn socket_figures(&self, figures: &mut SocketFigures) {
        figures.sightings += 1;
    }
}

/// Flows, reports and counters, to be looked at.
pub struct Tables {
    pub settings: Settings,
    pub ports: HashSet<u16>,
    pub prefix: Option<Address>,
    /// Flows there is room for.
    pub room: usize,
    /// Whether the ring buffer has room.
    pub reports_fit: bool,
    flows: RefCell<HashMap<FlowKey, Box<FlowState>>>,
    pending: RefCell<HashMap<FlowKey, Box<Pending>>>,
    reports: RefCell<Vec<FlowState>>,
    chunks: RefCell<Vec<ChunkReport>>,
    quic_flows: RefCell<HashMap<FlowKey, Box<QuicFlow>>>,
    pieces: RefCell<Vec<Piece>>,
    piece: UnsafeCell<Piece>,
    counters: Cell<Counters>,
    parsed: UnsafeCell<Parsed>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            settings: SETTINGS,
            ports: HashSet::new(),
            prefix: None,
            room: usize::MAX,
            reports_fit: true,
            flows: RefCell::default(),
            pending: RefCell::default(),
            reports: RefCell::default(),
            chunks: RefCell::default(),
            quic_flows: RefCell::default(),
            pieces: RefCell::default(),
            piece: UnsafeCell::new(Piece::EMPTY),
            counters: Cell::new([0; COUNTERS]),
            parsed: UnsafeCell::new(Parsed::EMPTY),
        }
    }
}

impl Tables {
    /// Takes a packet as the programs do, and says why it was not tracked.
    pub fn see(&self, seen: &Seen) -> Result<(), Reason> {
        let link: Link = seen.frame.link;
        let result = observe(seen, link, self);
        if let Err(reason) = result {
            self.count(reason.into());
        }
        result
    }

    pub fn flow_state(&self, key: &FlowKey) -> Option<FlowState> {
        self.flows.borrow().get(key).map(|state| **state)
    }

    /// What the daemon does with a flow of which it wants no more.
    pub fn set_unwanted(&self, key: &FlowKey) {
        if let Some(state) = self.flows.borrow_mut().get_mut(key) {
            state.last_report_ns = FlowState::UNWANTED;
        }
    }

    pub fn flow_states(&self) -> HashMap<FlowKey, FlowState> {
        let flows = self.flows.borrow();
        flows.iter().map(|(key, state)| (*key, **state)).collect()
    }

    pub fn pending_count(&self) -> usize {
        self.pending.borrow().len()
    }

    /// What is known of a flow that waits.
    pub fn pending_state(&self, key: &FlowKey) -> Option<FlowState> {
        let pending = self.pending.borrow();
        pending.get(key).map(|pending| from_pending(key, pending))
    }

    pub fn take_reports(&self) -> Vec<FlowState> {
        self.reports.take()
    }

    pub fn take_chunks(&self) -> Vec<ChunkReport> {
        self.chunks.take()
    }

    /// What clients said first, since the last call.
    pub fn take_pieces(&self) -> Vec<Piece> {
        self.pieces.take()
    }

    pub fn quic_state(&self, key: &FlowKey) -> Option<QuicFlow> {
        self.quic_flows.borrow().get(key).map(|flow| **flow)
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.get()[counter as usize]
    }
}

impl Watch for Tables {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn port_word(&self, index: u32) -> u64 {
        let ports = (0..64).filter(|bit| self.ports.contains(&((index * 64 + bit) as u16)));
        ports.fold(0, |word, bit| word | 1 << bit)
    }

    fn prefix_watched(&self, address: &Address) -> bool {
        self.prefix == Some(*address)
    }
}

impl observe::Tables for Tables {
    fn flow(&self, key: &FlowKey) -> Option<*mut FlowState> {
        let mut flows = self.flows.borrow_mut();
        flows.get_mut(key).map(|state| &raw mut **state)
    }

    fn create(&self, key: &FlowKey) -> Option<*mut FlowState> {
        let mut flows = self.flows.borrow_mut();
        if flows.len() >= self.room {
            return None;
        }
        let state = flows
            .entry(*key)
            .or_insert_with(|| Box::new(FlowState::EMPTY));
        Some(&raw mut **state)
    }

    fn remove(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn pending(&self, key: &FlowKey) -> Option<*mut Pending> {
        let mut pending = self.pending.borrow_mut();
        pending.get_mut(key).map(|pending| &raw mut **pending)
    }

    fn put_pending(&self, key: &FlowKey, pending: &Pending) {
        self.pending.borrow_mut().insert(*key, Box::new(*pending));
    }

    fn remove_pending(&self, key: &FlowKey) {
        self.pending.borrow_mut().remove(key);
    }

    fn quic_flow(&self, key: &FlowKey) -> Option<*mut QuicFlow> {
        let mut flows = self.quic_flows.borrow_mut();
        flows.get_mut(key).map(|flow| &raw mut **flow)
    }

    fn create_quic_flow(&self, key: &FlowKey) -> Option<*mut QuicFlow> {
        let mut flows = self.quic_flows.borrow_mut();
        let flow = flows.entry(*key).or_default();
        Some(&raw mut **flow)
    }

    fn piece(&self) -> Option<*mut Piece> {
        Some(self.piece.get())
    }

    fn hand_on(&self, piece: &Piece, _len: u32) -> bool {
        if self.reports_fit {
            self.pieces.borrow_mut().push(*piece);
        }
        self.reports_fit
    }

    fn parsed(&self) -> Option<*mut Parsed> {
        Some(self.parsed.get())
    }

    fn report(&self, state: &FlowState) -> bool {
        if self.reports_fit {
            self.reports.borrow_mut().push(*state);
        }
        self.reports_fit
    }

    fn chunk(&self, state: &FlowState, direction: usize, end: u32, time_ns: u64) -> bool {
        if self.reports_fit {
            let mut report = ChunkReport::default();
            chunk::describe(&mut report, state, direction, end, time_ns);
            self.chunks.borrow_mut().push(report);
        }
        self.reports_fit
    }

    fn count(&self, counter: Counter) {
        let mut counters = self.counters.get();
        counters[counter as usize] += 1;
        self.counters.set(counters);
    }
}
