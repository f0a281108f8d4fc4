//! The packet path's tables as hash maps, in place of the kernel's maps.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{HashMap, HashSet},
};

use ipnet::IpNet;
use monitor_ebpf::{
    admit::{Pending, from_pending},
    chunk::{self, ChunkReport},
    counters::{COUNTERS, Counter, Counters},
    flow::{Address, FlowKey, FlowState, half_flags},
    hello::Piece,
    observe::Tables,
    packet::Parsed,
    quic::QuicFlow,
    select::{PORT_WORDS, Settings, Watch},
};

use crate::capture::{FirstBytes, QuicSnapshot};
use crate::flow::CloseReason;

/// A flow's bins of RTT samples hold 16 bits and are read as signed differences: they must be
/// read before more samples than that have come. Half of it, as margin.
const SAMPLES_UNREAD_MAX: u32 = 1 << 14;

/// QUIC flows that are counted at once, as in the kernel: more are not.
const QUIC_FLOWS_MAX: usize = 65_536;

/// The report interval of whoever reads no reports.
pub const NO_REPORTS: u64 = u64::MAX;

/// How long a flow is remembered after its last packet.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// After both sides have finished, or one has aborted.
    pub ended_ns: u64,
    /// While one side has finished, and while only one direction was seen.
    pub transitory_ns: u64,
    pub established_ns: u64,
    /// Whether a packet that comes later begins a new flow in any case. Else the old one goes on
    /// unless [`HostTables::remove_expired`] has removed it.
    pub strict: bool,
}

impl Lifetimes {
    /// As long as the tables.
    pub const UNLIMITED: Self = Self {
        ended_ns: u64::MAX,
        transitory_ns: u64::MAX,
        established_ns: u64::MAX,
        strict: false,
    };

    /// When a flow with this state is over, if nothing more comes.
    fn end_ns(&self, state: &FlowState) -> u64 {
        let [first, second] = &state.halves;
        let has = |flag| (first.has(flag), second.has(flag));
        let lifetime_ns = match (has(half_flags::RST), has(half_flags::FIN)) {
            ((false, false), (false, false)) => self.established_ns,
            ((false, false), (true, false) | (false, true)) => self.transitory_ns,
            _ => self.ended_ns,
        };
        state.last_seen_ns().saturating_add(lifetime_ns)
    }
}

/// A flow that was removed, in its last state.
pub struct Removed {
    what: What,
    /// What happened, where the packets themselves do not say it.
    pub reason: CloseReason,
    /// When, ns.
    pub time_ns: u64,
}

/// What happened to flows besides packets.
pub enum News {
    /// A copy of a state that goes on.
    Report(Box<FlowState>),
    /// A chunk that is over.
    Chunk(Box<ChunkReport>),
    Removed(Removed),
    /// What a client said first.
    Hello(FirstBytes),
}

enum What {
    Flow(Box<Entry>),
    Waiting(FlowKey, Box<Waiting>),
}

struct Entry {
    state: FlowState,
    /// RTT samples of the two halves when the state was read last.
    samples_read: [u32; 2],
}

struct Waiting {
    pending: Pending,
    last_seen_ns: u64,
}

/// Which flow makes room first: the lowest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    goes_on: bool,
    last_seen_ns: u64,
}

/// The packet path's tables on the host.
pub struct HostTables {
    settings: Settings,
    ports: Box<[u64; PORT_WORDS]>,
    prefixes: Vec<IpNet>,
    lifetimes: Lifetimes,
    now_ns: Cell<u64>,
    flows: RefCell<HashMap<FlowKey, Box<Entry>, foldhash::fast::RandomState>>,
    pending: RefCell<HashMap<FlowKey, Box<Waiting>, foldhash::fast::RandomState>>,
    news: RefCell<Vec<News>>,
    quic_flows: RefCell<HashMap<FlowKey, Box<QuicFlow>, foldhash::fast::RandomState>>,
    counters: [Cell<u64>; COUNTERS],
    parsed: UnsafeCell<Parsed>,
    piece: Box<UnsafeCell<Piece>>,
}

impl HostTables {
    /// `ports` and `prefixes` matter where `settings` asks for them.
    pub fn new(settings: Settings, ports: &[u16], prefixes: &[IpNet]) -> Self {
        let mut bitmap = Box::new([0u64; PORT_WORDS]);
        for &port in ports {
            bitmap[usize::from(port) / 64] |= 1 << (port % 64);
        }
        Self {
            settings,
            ports: bitmap,
            prefixes: prefixes.to_vec(),
            lifetimes: Lifetimes::UNLIMITED,
            now_ns: Cell::new(0),
            flows: RefCell::default(),
            pending: RefCell::default(),
            news: RefCell::default(),
            quic_flows: RefCell::default(),
            counters: [const { Cell::new(0) }; COUNTERS],
            parsed: UnsafeCell::new(Parsed::EMPTY),
            piece: Box::new(UnsafeCell::new(Piece::EMPTY)),
        }
    }

    pub fn with_lifetimes(mut self, lifetimes: Lifetimes) -> Self {
        self.lifetimes = lifetimes;
        self
    }

    /// The time of what follows, ns; it never steps back.
    pub fn set_time(&self, now_ns: u64) {
        self.now_ns.set(now_ns);
    }

    /// The time that was set last, ns.
    pub fn time_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Takes what happened since the last call, in its order.
    pub fn take_news(&self) -> Vec<News> {
        self.news.take()
    }

    /// Whether anything happened.
    pub fn has_news(&self) -> bool {
        !self.news.borrow().is_empty()
    }

    /// What was counted so far, indexed by `Counter`.
    pub fn counters(&self) -> Counters {
        std::array::from_fn(|counter| self.counters[counter].get())
    }

    /// How many flows there are, those that wait for a second direction included.
    pub fn len(&self) -> usize {
        self.flows.borrow().len() + self.pending.borrow().len()
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies of all flow states, those that wait for a second direction included.
    pub fn flows(&self) -> Vec<FlowState> {
        let mut states = Vec::with_capacity(self.len());
        self.for_each(|state| states.push(*state));
        let pending = self.pending.borrow();
        states.extend(pending.iter().map(|(key, waiting)| waiting.state(key)));
        states
    }

    /// Reads every flow of which both directions were seen, or enough of one.
    pub fn for_each(&self, mut each: impl FnMut(&FlowState)) {
        for entry in self.flows.borrow_mut().values_mut() {
            entry.samples_read = entry.samples();
            each(&entry.state);
        }
    }

    /// Every QUIC flow, and forgets those that were silent for `idle_ns`.
    pub fn quic_flows(&self, idle_ns: u64) -> Vec<QuicSnapshot> {
        let mut flows = self.quic_flows.borrow_mut();
        let all = flows.iter().map(|(key, flow)| QuicSnapshot {
            key: *key,
            state: **flow,
        });
        let all: Vec<QuicSnapshot> = all.collect();
        let now_ns = self.now_ns.get();
        flows.retain(|_, flow| now_ns.saturating_sub(flow.last_seen_ns()) < idle_ns);
        all
    }

    /// Removes the flows whose lifetime is over.
    pub fn remove_expired(&self) {
        let (now_ns, lifetimes) = (self.now_ns.get(), self.lifetimes);
        self.remove_where(
            |entry| lifetimes.end_ns(&entry.state) <= now_ns,
            |waiting| waiting.end_ns(&lifetimes) <= now_ns,
            CloseReason::Idle,
            |what| what.end_ns(&lifetimes),
        );
    }

    /// Removes the flows that ended at least `linger_ns` ago.
    pub fn remove_ended(&self, linger_ns: u64) {
        let now_ns = self.now_ns.get();
        let gone_ns = |entry: &Entry| entry.state.last_seen_ns().saturating_add(linger_ns);
        self.remove_where(
            |entry| !entry.rank().goes_on && gone_ns(entry) <= now_ns,
            |_| false,
            CloseReason::Idle,
            |what| match what {
                What::Flow(entry) => gone_ns(entry),
                What::Waiting(..) => now_ns,
            },
        );
    }

    /// Removes flows until at most `count` are left: those that have ended, then the longest
    /// silent. How many had not ended.
    pub fn remove_all_but(&self, count: usize) -> u64 {
        let excess = self.len().saturating_sub(count);
        if excess == 0 {
            return 0;
        }
        let mut ranks: Vec<Rank> = {
            let (flows, pending) = (self.flows.borrow(), self.pending.borrow());
            let flows = flows.values().map(|entry| entry.rank());
            flows
                .chain(pending.values().map(|waiting| waiting.rank()))
                .collect()
        };
        let (_, &mut last, _) = ranks.select_nth_unstable(excess - 1);
        let not_ended = Cell::new(0);
        let goes = |rank: Rank| {
            let goes = rank <= last;
            not_ended.set(not_ended.get() + u64::from(goes && rank.goes_on));
            goes
        };
        let now_ns = self.now_ns.get();
        self.remove_where(
            |entry| goes(entry.rank()),
            |waiting| goes(waiting.rank()),
            CloseReason::Evicted,
            |_| now_ns,
        );
        not_ended.get()
    }

    /// Removes every flow, because the capture ends.
    pub fn remove_all(&self) {
        let now_ns = self.now_ns.get();
        self.remove_where(|_| true, |_| true, CloseReason::EndOfCapture, |_| now_ns);
    }

    fn remove_where(
        &self,
        mut flow: impl FnMut(&Entry) -> bool,
        mut waits: impl FnMut(&Waiting) -> bool,
        reason: CloseReason,
        time_ns: impl Fn(&What) -> u64,
    ) {
        let (mut flows, mut pending) = (self.flows.borrow_mut(), self.pending.borrow_mut());
        let flows = flows
            .extract_if(|_, entry| flow(entry))
            .map(|(_, entry)| What::Flow(entry));
        let pending = pending
            .extract_if(|_, waiting| waits(waiting))
            .map(|(key, waiting)| What::Waiting(key, waiting));
        let mut removed: Vec<_> = flows
            .chain(pending)
            .map(|what| Removed {
                reason,
                time_ns: time_ns(&what),
                what,
            })
            .collect();
        // Hash maps have no order, and the same capture should give the same log.
        removed.sort_by_key(|removed| (removed.time_ns, removed.start_ns()));
        let news = removed.into_iter().map(News::Removed);
        self.news.borrow_mut().extend(news);
    }

    fn removed(&self, what: What, reason: CloseReason, time_ns: u64) {
        self.news.borrow_mut().push(News::Removed(Removed {
            what,
            reason,
            time_ns,
        }));
    }

    fn reported(&self, state: &FlowState) {
        let copy = Box::new(*state);
        self.news.borrow_mut().push(News::Report(copy));
    }

    /// The keys of the flows of which both directions were seen, or enough of one.
    pub fn keys(&self) -> HashSet<FlowKey> {
        self.flows.borrow().keys().copied().collect()
    }
}

impl Removed {
    /// The last state.
    pub fn state(&self) -> FlowState {
        match &self.what {
            What::Flow(entry) => entry.state,
            What::Waiting(key, waiting) => waiting.state(key),
        }
    }

    fn start_ns(&self) -> u64 {
        match &self.what {
            What::Flow(entry) => entry.state.start_ns,
            What::Waiting(_, waiting) => waiting.pending.start_ns,
        }
    }
}

impl What {
    fn end_ns(&self, lifetimes: &Lifetimes) -> u64 {
        match self {
            Self::Flow(entry) => lifetimes.end_ns(&entry.state),
            Self::Waiting(_, waiting) => waiting.end_ns(lifetimes),
        }
    }
}

impl Entry {
    fn rank(&self) -> Rank {
        let [first, second] = &self.state.halves;
        let has = |flag| [first.has(flag), second.has(flag)];
        let ended = has(half_flags::RST) != [false; 2] || has(half_flags::FIN) == [true; 2];
        Rank {
            goes_on: !ended,
            last_seen_ns: self.state.last_seen_ns(),
        }
    }

    fn samples(&self) -> [u32; 2] {
        let [first, second] = &self.state.halves;
        [first.rtt_samples, second.rtt_samples]
    }

    fn is_full(&self) -> bool {
        let read = self.samples_read;
        let unread = |half: usize| self.state.halves[half].rtt_samples.wrapping_sub(read[half]);
        unread(0) >= SAMPLES_UNREAD_MAX || unread(1) >= SAMPLES_UNREAD_MAX
    }
}

impl Waiting {
    fn rank(&self) -> Rank {
        Rank {
            goes_on: self.pending.resets == 0,
            last_seen_ns: self.last_seen_ns,
        }
    }

    fn end_ns(&self, lifetimes: &Lifetimes) -> u64 {
        self.last_seen_ns.saturating_add(lifetimes.transitory_ns)
    }

    /// Whether it is an attempt of its own, and not a SYN on its way.
    fn was_answered(&self) -> bool {
        self.pending.answers > 0 || self.pending.resets != 0
    }

    fn state(&self, key: &FlowKey) -> FlowState {
        let mut state = from_pending(key, &self.pending);
        let (own, _) = state.halves_mut(self.pending.direction as usize);
        own.last_seen_ns = own.last_seen_ns.max(self.last_seen_ns);
        state
    }
}

impl Watch for HostTables {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn port_word(&self, index: u32) -> u64 {
        self.ports.get(index as usize).copied().unwrap_or(0)
    }

    fn prefix_watched(&self, address: &Address) -> bool {
        let address = std::net::Ipv6Addr::from(address.octets()).to_canonical();
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }
}

impl Tables for HostTables {
    fn flow(&self, key: &FlowKey) -> Option<*mut FlowState> {
        let mut flows = self.flows.borrow_mut();
        let entry = flows.get_mut(key)?;
        if self.lifetimes.strict {
            let end_ns = self.lifetimes.end_ns(&entry.state);
            if end_ns <= self.now_ns.get() {
                let entry = flows.remove(key)?;
                self.removed(What::Flow(entry), CloseReason::Idle, end_ns);
                return None;
            }
        }
        if entry.is_full() {
            entry.samples_read = entry.samples();
            self.reported(&entry.state);
        }
        Some(&raw mut entry.state)
    }

    fn create(&self, key: &FlowKey) -> Option<*mut FlowState> {
        let mut flows = self.flows.borrow_mut();
        let entry = flows.entry(*key).or_insert_with(|| {
            Box::new(Entry {
                state: FlowState::EMPTY,
                samples_read: [0; 2],
            })
        });
        Some(&raw mut entry.state)
    }

    /// The packet path removes a flow where its 5-tuple begins anew.
    fn remove(&self, key: &FlowKey) {
        if let Some(entry) = self.flows.borrow_mut().remove(key) {
            self.removed(What::Flow(entry), CloseReason::Evicted, self.now_ns.get());
        }
    }

    fn pending(&self, key: &FlowKey) -> Option<*mut Pending> {
        let mut pending = self.pending.borrow_mut();
        let waiting = pending.get_mut(key)?;
        let now_ns = self.now_ns.get();
        let end_ns = waiting.end_ns(&self.lifetimes);
        if self.lifetimes.strict && end_ns <= now_ns {
            let waiting = pending.remove(key)?;
            self.removed(What::Waiting(*key, waiting), CloseReason::Idle, end_ns);
            return None;
        }
        waiting.last_seen_ns = now_ns;
        Some(&raw mut waiting.pending)
    }

    fn put_pending(&self, key: &FlowKey, pending: &Pending) {
        let waiting = Waiting {
            pending: *pending,
            last_seen_ns: self.now_ns.get(),
        };
        let before = self.pending.borrow_mut().insert(*key, Box::new(waiting));
        if let Some(before) = before
            && before.was_answered()
        {
            let now_ns = self.now_ns.get();
            self.removed(What::Waiting(*key, before), CloseReason::Evicted, now_ns);
        }
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
        if flows.len() >= QUIC_FLOWS_MAX {
            return None;
        }
        Some(&raw mut **flows.entry(*key).or_default())
    }

    fn piece(&self) -> Option<*mut Piece> {
        Some(self.piece.get())
    }

    fn hand_on(&self, piece: &Piece, _len: u32) -> bool {
        self.news.borrow_mut().push(News::Hello(piece.into()));
        true
    }

    fn parsed(&self) -> Option<*mut Parsed> {
        Some(self.parsed.get())
    }

    fn report(&self, state: &FlowState) -> bool {
        if self.settings.report_interval_ns != NO_REPORTS {
            self.reported(state);
        }
        true
    }

    fn chunk(&self, state: &FlowState, direction: usize, end: u32, time_ns: u64) -> bool {
        let mut report = Box::<ChunkReport>::default();
        chunk::describe(&mut report, state, direction, end, time_ns);
        self.news.borrow_mut().push(News::Chunk(report));
        true
    }

    fn count(&self, counter: Counter) {
        let count = &self.counters[counter as usize];
        count.set(count.get() + 1);
    }
}
