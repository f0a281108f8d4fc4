//! Every flow that is watched: its last state, its window so far, its life so far.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use monitor_ebpf::flow::{FlowKey, FlowState, Half, LOW_TO_HIGH, half_flags};
use siphasher::sip::SipHasher24;

use super::chunk::{Chunk, Ladder, Ledger, Moment};
use super::totals::Reading;
use super::{Arm, CloseReason, Observation, Roles, Totals, Vantage};
use crate::capture::{ChunkNews, Snapshot};
use crate::path::followed::{Affected, same_way};
use crate::path::{Location, Routes, SeenFlow, UnitLengths};

/// One watched flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Keyed by a [`Secret`], so that it tells nothing about the addresses.
    pub id: u64,
    pub roles: Roles,
    pub interface: Option<Arc<str>>,
    pub location: Option<Location>,
    /// The egress device and the socket's mark by which that was found.
    located_by: (Option<u32>, Option<u32>),
    /// A route experiment has sent it another way.
    is_sent: bool,
    /// Its beginning was heard of when it was there.
    begun_here: bool,
    /// Its part in an experiment: whichever was in force when it first sent something decides.
    part: Option<Arm>,
    /// µs since 1970 UTC.
    pub start_us: u64,
    /// Last packet, µs since 1970 UTC.
    pub last_seen_us: u64,
    /// Whole life, both directions.
    pub to_client: Totals,
    pub to_server: Totals,
    /// The responses of the server.
    pub chunks: Ledger,
    /// The session that it was counted in last.
    pub session: Option<u64>,
    window: [Totals; 2],
    /// What it did in this window before its traffic took another way, once for each way.
    before: Vec<Observation>,
    /// Its traffic took another way in this window.
    rerouted: bool,
    /// Not yet part of any observation.
    is_new: bool,
    /// Did something in the window that ended last.
    was_active: bool,
    /// Reported as closed. It is kept until the kernel forgets it too, because its last state
    /// may be read again.
    is_closed: bool,
    last: Snapshot,
}

/// A flow that ended, and why.
#[derive(Clone, Debug)]
pub struct Closed {
    pub flow: Box<Flow>,
    pub reason: CloseReason,
}

/// What a snapshot changed.
#[derive(Debug, Default)]
pub struct Change {
    /// A flow before this one used the same ports and never said goodbye.
    pub replaced: Option<Closed>,
    /// Whether this is the flow's first report, or the first after it was closed as idle.
    pub opened: bool,
}

/// linux/socket.h
const AF_INET6: u32 = 10;

/// Idle times after which a closed flow is forgotten even if the kernel did not say so.
const FORGOTTEN_AFTER: u64 = 4;

/// Flows that are not known yet and whose chunks are kept: as many as the kernel holds by default.
/// A flow reports within a second or so, if it is not the last chunk of a burst of short ones.
const EARLY_MAX: usize = 65_536;

/// Chunks of a flow that has not reported yet, by their direction.
#[derive(Debug)]
struct Early {
    generation: u64,
    /// When the last one came, µs since 1970.
    time_us: u64,
    ledgers: [Ledger; 2],
}

/// All watched flows, by their 5-tuple.
#[derive(Debug, Default)]
pub struct FlowTable {
    flows: HashMap<FlowKey, Box<Flow>>,
    early: HashMap<FlowKey, Box<Early>>,
    /// Chunks of flows that never reported, or of too many that had not yet.
    chunks_dropped: u64,
    ladder: Ladder,
    /// Every flow by the unit around its client, so that a change of routes finds those it is
    /// about.
    by_client: BTreeMap<IpNet, HashSet<FlowKey>>,
    lengths: UnitLengths,
    secret: Secret,
}

/// Keys the ids of flows.
#[derive(Clone, Copy, Debug)]
pub struct Secret(pub [u64; 2]);

impl Default for Secret {
    /// Random, from the system.
    fn default() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(0), random.hash_one(1)])
    }
}

impl Secret {
    /// SipHash-2-4: a keyed hash that tells nothing about what went in.
    fn id(&self, key: &FlowKey, generation: u64) -> u64 {
        let [first, second] = self.0;
        let mut hasher = SipHasher24::new_with_keys(first, second);
        (key, generation).hash(&mut hasher);
        hasher.finish()
    }

    /// A client's name where its address is not to be told: the same in every window.
    pub fn pseudonym(&self, client: IpAddr) -> u64 {
        let [first, second] = self.0;
        let mut hasher = SipHasher24::new_with_keys(first, second);
        ("client", client).hash(&mut hasher);
        hasher.finish()
    }
}

/// Flows that took another way: what they shared before and share now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rerouted {
    /// The unit in which their clients are counted now.
    pub unit: IpNet,
    pub before: Option<Location>,
    pub after: Option<Location>,
    /// How many of them are open.
    pub flows: u64,
}

impl FlowTable {
    /// No flows yet; clients are found by units of these lengths.
    pub fn new(lengths: UnitLengths) -> Self {
        Self {
            lengths,
            ..Self::default()
        }
    }

    /// Chunks are tested for these rates from now on.
    pub fn set_ladder(&mut self, ladder: Ladder) {
        self.ladder = ladder;
    }

    /// Takes a chunk that is over. A flow that is not known yet gets it when it reports.
    pub fn chunk(&mut self, news: &ChunkNews) {
        let report = &news.report;
        let chunk = Chunk::reported(report, news.moment());
        let direction = report.direction as usize & 1;
        if let Some(flow) = self.flows.get_mut(&report.key)
            && flow.last.state.generation >= report.generation
        {
            if flow.last.state.generation != report.generation {
                self.chunks_dropped += 1;
            } else if direction != flow.roles.client_half {
                flow.chunks.take(&chunk, &self.ladder);
            }
            return;
        }
        if self.early.len() >= EARLY_MAX && !self.early.contains_key(&report.key) {
            self.chunks_dropped += 1;
            return;
        }
        let early = self.early.entry(report.key).or_insert_with(|| {
            Box::new(Early {
                generation: report.generation,
                time_us: news.time_us,
                ledgers: [Ledger::default(), Ledger::default()],
            })
        });
        if early.generation != report.generation {
            early.generation = report.generation;
            early.ledgers = [Ledger::default(), Ledger::default()];
        }
        early.time_us = news.time_us;
        early.ledgers[direction].take(&chunk, &self.ladder);
    }

    /// The chunks under way are the last ones: the daemon stops.
    pub fn end_chunks(&mut self) {
        for flow in self.flows.values_mut() {
            flow.end_chunk(&self.ladder);
        }
    }

    /// Chunks that belong to no flow that was heard of.
    pub fn chunks_dropped(&self) -> u64 {
        self.chunks_dropped
    }

    /// What was listed is in the records: the next ones list what comes from now on.
    pub fn forget_listed(&mut self) {
        for flow in self.flows.values_mut() {
            flow.chunks.forget_recent();
        }
    }

    /// Every flow, closed ones included, for the sessions to take what is new.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Flow> {
        self.flows.values_mut().map(Box::as_mut)
    }

    /// Clients are counted in units of other lengths from now on.
    pub fn set_lengths(&mut self, lengths: UnitLengths) {
        self.lengths = lengths;
        self.by_client.clear();
        for (key, flow) in &self.flows {
            let block = lengths.around(flow.roles.client);
            self.by_client.entry(block).or_default().insert(*key);
        }
    }

    /// Takes one report. `server_ports` and `routes` are only asked at a flow's first report; a
    /// flow that is first heard of after `idle_us` of silence is not worth opening.
    pub fn update(
        &mut self,
        snapshot: &Snapshot,
        idle_us: u64,
        server_ports: &[u16],
        routes: &Routes,
    ) -> Change {
        let key = snapshot.state.key;
        let mut replaced = None;
        if let Entry::Occupied(mut entry) = self.flows.entry(key) {
            let known = &entry.get().last;
            let (generation, read_ns) = (known.state.generation, known.read_ns);
            // A report may be read after the sweep, or the next flow's report, that overtook it.
            if snapshot.state.generation < generation || snapshot.read_ns < read_ns {
                return Change::default();
            }
            if snapshot.state.generation == generation && is_older(&snapshot.state, &known.state) {
                return Change::default();
            }
            if snapshot.state.generation == generation {
                let flow = entry.get_mut();
                let opened = flow.advance(snapshot);
                flow.follow_egress(routes, &self.ladder);
                return Change {
                    replaced: None,
                    opened,
                };
            }
            let mut flow = entry.remove();
            self.forget_client(&key, flow.roles.client);
            flow.end_chunk(&self.ladder);
            let reason = flow.ending().unwrap_or(CloseReason::Evicted);
            replaced = (!flow.is_closed).then_some(Closed { flow, reason });
        }
        let silent_since_us = to_unix_us(snapshot, snapshot.state.last_seen_ns());
        if snapshot.time_us.saturating_sub(silent_since_us) >= idle_us {
            return Change {
                replaced,
                opened: false,
            };
        }
        let mut flow = self.open(snapshot, server_ports, routes);
        if let Some(early) = self.early.remove(&key) {
            if early.generation == snapshot.state.generation {
                let [low, high] = early.ledgers;
                flow.chunks = if flow.roles.client_half == LOW_TO_HIGH {
                    high
                } else {
                    low
                };
            } else {
                self.chunks_dropped += 1;
            }
        }
        self.insert(key, flow);
        Change {
            replaced,
            opened: true,
        }
    }

    /// Takes a flow that an earlier run of the daemon has told about: its `open` is in the log,
    /// and with `observed` also what it did so far is in some observation.
    pub fn adopt(
        &mut self,
        snapshot: &Snapshot,
        observed: bool,
        is_closed: bool,
        server_ports: &[u16],
        routes: &Routes,
    ) {
        let key = snapshot.state.key;
        let generation = snapshot.state.generation;
        let known = self.flows.get(&key).map(|flow| &flow.last.state);
        if known.is_some_and(|known| {
            generation < known.generation
                || generation == known.generation && is_older(&snapshot.state, known)
        }) {
            return;
        }
        let mut flow = self.open(snapshot, server_ports, routes);
        flow.is_closed = is_closed;
        // Who knows what has decided then.
        flow.begun_here = false;
        flow.part = None;
        if observed {
            flow.window = Default::default();
            flow.is_new = false;
        }
        self.insert(key, flow);
    }

    fn open(&self, snapshot: &Snapshot, server_ports: &[u16], routes: &Routes) -> Box<Flow> {
        let key = &snapshot.state.key;
        let id = self.secret.id(key, snapshot.state.generation);
        Box::new(Flow::open(id, snapshot, server_ports, routes))
    }

    fn insert(&mut self, key: FlowKey, flow: Box<Flow>) {
        let client = flow.roles.client;
        if let Some(old) = self.flows.insert(key, flow) {
            self.forget_client(&key, old.roles.client);
        }
        let block = self.lengths.around(client);
        self.by_client.entry(block).or_default().insert(key);
    }

    /// Ids are made with this secret from now on.
    pub fn set_secret(&mut self, secret: Secret) {
        self.secret = secret;
    }

    pub fn secret(&self) -> Secret {
        self.secret
    }

    /// Forgets a flow. `None` if it was not known, or closed already.
    pub fn remove(&mut self, key: &FlowKey, reason: CloseReason) -> Option<Closed> {
        let mut flow = self.flows.remove(key)?;
        self.forget_client(key, flow.roles.client);
        if flow.is_closed {
            return None;
        }
        flow.end_chunk(&self.ladder);
        // What the packets said is more than that we no longer hear of it.
        let reason = flow.ending().unwrap_or(reason);
        Some(Closed { flow, reason })
    }

    /// Closes flows that ended, or were silent for `idle_us` at `now_us`, each one once.
    pub fn close_finished(&mut self, now_us: u64, idle_us: u64) -> Vec<Closed> {
        let forgotten = self.flows.extract_if(|_, flow| {
            flow.is_closed && now_us.saturating_sub(flow.last_seen_us) >= FORGOTTEN_AFTER * idle_us
        });
        let forgotten: Vec<_> = forgotten
            .map(|(key, flow)| (key, flow.roles.client))
            .collect();
        for (key, client) in forgotten {
            self.forget_client(&key, client);
        }
        let early = &mut self.early;
        let forgotten = early.extract_if(|_, of| now_us.saturating_sub(of.time_us) >= idle_us);
        self.chunks_dropped += forgotten.count() as u64;
        let ladder = &self.ladder;
        self.flows
            .values_mut()
            .filter(|flow| {
                !flow.is_closed
                    && (flow.is_over() || now_us.saturating_sub(flow.last_seen_us) >= idle_us)
            })
            .map(|flow| {
                flow.is_closed = true;
                flow.end_chunk(ladder);
                Closed {
                    flow: flow.clone(),
                    reason: flow.ending().unwrap_or(CloseReason::Idle),
                }
            })
            .collect()
    }

    /// One observation for every flow that did something since the last call, and one more for
    /// every way that it left in between; none of flows that do not `count`.
    pub fn take_observations(&mut self, count: impl Fn(&Flow) -> bool) -> Vec<Observation> {
        let mut observations = Vec::new();
        for flow in self.flows.values_mut() {
            let before = observations.len();
            flow.take_observations(&mut observations, &self.ladder);
            if !count(flow) {
                observations.truncate(before);
            }
        }
        observations
    }

    /// Finds the way again of those clients for which it may have changed. What a flow did so far
    /// in this window keeps the way that it took.
    pub fn reroute(&mut self, changed: &Affected, routes: &Routes) -> Vec<Rerouted> {
        let mut rerouted: Vec<Rerouted> = Vec::new();
        let (flows, ladder) = (&mut self.flows, &self.ladder);
        let mut look = |keys: &HashSet<FlowKey>| {
            let first = rerouted.len();
            for key in keys {
                let Some(flow) = flows.get_mut(key) else {
                    continue;
                };
                let after = flow.locate(routes);
                let Some(before) = flow.reroute(after.as_ref(), ladder) else {
                    continue;
                };
                let unit = match &after {
                    Some(location) => location.unit,
                    None => routes.unit_lengths.around(flow.roles.client),
                };
                let open = u64::from(!flow.is_closed);
                match rerouted[first..]
                    .iter_mut()
                    .find(|other| other.unit == unit)
                {
                    Some(other) => other.flows += open,
                    None => rerouted.push(Rerouted {
                        unit,
                        before,
                        after,
                        flows: open,
                    }),
                }
            }
        };
        match changed.spans(self.lengths) {
            None => self.by_client.values().for_each(&mut look),
            Some(spans) => {
                for (first, last) in spans {
                    self.by_client
                        .range(first..=last)
                        .for_each(|(_, keys)| look(keys));
                }
            }
        }
        rerouted
    }

    /// Whether a flow with a client in this unit is remembered.
    pub fn has_client_in(&self, block: &IpNet) -> bool {
        self.by_client.contains_key(block)
    }

    fn forget_client(&mut self, key: &FlowKey, client: IpAddr) {
        let block = self.lengths.around(client);
        if let Some(keys) = self.by_client.get_mut(&block) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_client.remove(&block);
            }
        }
    }

    /// Every flow that is known, closed ones included.
    pub fn keys(&self) -> impl Iterator<Item = &FlowKey> {
        self.flows.keys()
    }

    /// One flow.
    pub fn get(&self, key: &FlowKey) -> Option<&Flow> {
        self.flows.get(key).map(Box::as_ref)
    }

    /// Every flow that is not closed, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows
            .values()
            .filter(|flow| !flow.is_closed)
            .map(Box::as_ref)
    }
}

impl Flow {
    fn open(id: u64, snapshot: &Snapshot, server_ports: &[u16], routes: &Routes) -> Self {
        let roles = Roles::of(&snapshot.state, server_ports);
        let mut flow = Self {
            id,
            roles,
            interface: snapshot.interface.clone(),
            location: None,
            located_by: (None, None),
            is_sent: false,
            begun_here: false,
            part: None,
            start_us: to_unix_us(snapshot, snapshot.state.start_ns),
            last_seen_us: snapshot.time_us,
            to_client: Totals::default(),
            to_server: Totals::default(),
            chunks: Ledger::default(),
            session: None,
            window: [Totals::default(), Totals::default()],
            before: Vec::new(),
            rerouted: false,
            is_new: true,
            was_active: false,
            is_closed: false,
            // The kernel counts from zero at the beginning of a generation.
            last: Snapshot {
                state: FlowState::EMPTY,
                ..snapshot.clone()
            },
        };
        flow.advance(snapshot);
        flow.begun_here = flow.client_half().has(half_flags::SYN);
        flow.location = flow.locate(routes);
        flow
    }

    /// The device through which packets toward the client were seen to leave.
    fn egress(&self) -> Option<u32> {
        const EGRESS: u32 = 1;
        let owner = self.last.state.halves[self.roles.client_half ^ 1].owner;
        (owner & EGRESS != 0).then_some(owner >> 1)
    }

    /// The mark of our socket that sends to the client, once it has sent something.
    fn mark(&self) -> Option<u32> {
        let socket = &self.last.state.socket;
        let sends = self.roles.vantage == Vantage::Sender && socket.sightings > 0;
        sends.then_some(socket.mark)
    }

    /// The same, where an experiment goes by it: elsewhere netfilter's marks, which no socket has,
    /// may decide.
    fn mark_for(&self, routes: &Routes) -> Option<u32> {
        routes.experiment.as_ref().and(self.mark())
    }

    /// Finds the way to the client.
    fn locate(&mut self, routes: &Routes) -> Option<Location> {
        let seen = SeenFlow {
            server: self.roles.server,
            server_port: self.roles.server_port,
            client_port: self.roles.client_port,
            egress: self.egress(),
            mark: self.mark_for(routes),
        };
        self.located_by = (seen.egress, seen.mark);
        self.is_sent = false;
        let mut location = routes.locate_flow(self.roles.client, Some(&seen));
        if let Some(experiment) = routes.experiment_of(Some(&seen)) {
            // Where its device leads there, it must leave by it: else nobody knows where it goes.
            let device = seen.egress.and(self.interface.as_deref());
            location = location.filter(|_| device.is_none_or(|it| experiment.leaves_by(it)));
            let goes_there = |at: &Location| at.route.interconnect == experiment.interconnect.name;
            self.is_sent = location.as_ref().is_some_and(goes_there);
        }
        // One that is sent there no longer, because its route is gone, is in no arm.
        self.part = self
            .part
            .filter(|part| *part != Arm::OtherWay || self.is_sent);
        if matches!(self.part, None | Some(Arm::Waiting)) {
            self.part = self.part_in(routes);
        }
        location
    }

    /// Its part in the experiment that is in force.
    fn part_in(&self, routes: &Routes) -> Option<Arm> {
        let experiment = routes.experiment.as_deref()?;
        let is_divided = experiment.chooses
            && self.begun_here
            && self.start_us >= routes.experiment_since_us
            && self.roles.vantage == Vantage::Sender;
        let refuses_marks = experiment.has_dscp
            && self.roles.client.is_ipv4()
            && self.last.state.socket.family == AF_INET6;
        match self.mark() {
            _ if !is_divided => None,
            None => Some(Arm::Waiting),
            _ if self.is_sent => Some(Arm::OtherWay),
            Some(0) if !refuses_marks => Some(Arm::DefaultWay),
            Some(_) => None,
        }
    }

    /// Of several ways (ECMP) the flow takes the one by the device at which its packets leave,
    /// which may be known only after a while, and may change.
    fn follow_egress(&mut self, routes: &Routes, ladder: &Ladder) {
        let (known_egress, known_mark) = self.located_by;
        let (egress, mark) = (self.egress(), self.mark_for(routes));
        if (egress, mark) == (known_egress, known_mark) {
            return;
        }
        let after = self.locate(routes);
        // A socket is marked when it is accepted: what was before is its handshake.
        let has_begun = known_mark.is_none() && mark.is_some();
        if has_begun || (known_egress.is_none() && mark == known_mark) {
            // It has taken that way from the beginning.
            self.location = after;
        } else {
            self.reroute(after.as_ref(), ladder);
        }
    }

    /// Adds what is new; whether a flow that was closed as idle goes on.
    fn advance(&mut self, snapshot: &Snapshot) -> bool {
        let client = self.roles.client_half;
        let server = client ^ 1;
        let to_client = Totals::between(&reading(&self.last, server), &reading(snapshot, server));
        let to_server = Totals::between(&reading(&self.last, client), &reading(snapshot, client));
        self.to_client.add(&to_client);
        self.to_server.add(&to_server);
        self.window[0].add(&to_client);
        self.window[1].add(&to_server);
        self.last_seen_us = to_unix_us(snapshot, snapshot.state.last_seen_ns());
        self.roles.look_again(&snapshot.state);
        if snapshot.interface.is_some() {
            self.interface.clone_from(&snapshot.interface);
        }
        self.last = snapshot.clone();
        let goes_on =
            self.is_closed && !self.is_over() && !(to_client.is_empty() && to_server.is_empty());
        self.is_closed &= !goes_on;
        goes_on
    }

    /// Takes the way of `after` from now on. `None`: it is the one that it takes already; else
    /// the one that it leaves.
    fn reroute(&mut self, after: Option<&Location>, ladder: &Ladder) -> Option<Option<Location>> {
        let route = |location: Option<&Location>| location.map(|of| Arc::clone(&of.route));
        let (old, new) = (route(self.location.as_ref()), route(after));
        let unit = |location: Option<&Location>| location.map(|of| of.unit);
        if same_way(old.as_deref(), new.as_deref()) && unit(self.location.as_ref()) == unit(after) {
            self.location = after.cloned();
            return None;
        }
        // A way that becomes known was there before: nothing is mixed.
        self.rerouted |= self.location.is_some();
        let so_far = self.observation(ladder);
        self.before.extend(so_far);
        Some(std::mem::replace(&mut self.location, after.cloned()))
    }

    fn take_observations(&mut self, out: &mut Vec<Observation>, ladder: &Ladder) {
        let last = self.observation(ladder);
        self.was_active = last.is_some() || !self.before.is_empty();
        let rerouted = std::mem::take(&mut self.rerouted);
        let all = self.before.drain(..).chain(last);
        if self.roles.vantage != Vantage::Receiver {
            out.extend(all.map(|observation| Observation {
                rerouted,
                ..observation
            }));
        }
        // Our own download says nothing about the ways to our clients.
    }

    /// What it did since the window began, or since it took the way that it takes.
    fn observation(&mut self, ladder: &Ladder) -> Option<Observation> {
        let [mut to_client, to_server] = std::mem::take(&mut self.window);
        if let Some(under_way) = self.chunk_under_way() {
            self.chunks.count_in_window(&under_way, ladder);
        }
        let chunks = self.chunks.take_window();
        if to_client.is_empty() && to_server.is_empty() {
            return None;
        }
        let is_new = std::mem::take(&mut self.is_new);
        let handshake_us = self.client_half().handshake_rtt_us;
        if is_new && self.is_sent && handshake_us > 0 {
            // It is marked when it is accepted: its SYN-ACK took the way of the others.
            to_client.forget_rtt(handshake_us);
        }
        Some(Observation {
            stands_for: self.stands_for(),
            client: self.roles.client,
            location: self.location.clone(),
            arm: self.arm(),
            rerouted: self.rerouted,
            to_client,
            to_server,
            chunks,
            handshake_rtt_us: if is_new && !self.is_sent {
                self.handshake_rtt_us()
            } else {
                None
            },
        })
    }

    /// How many flows it stands for: itself, and those that were not admitted in its place when
    /// there were more than could be measured.
    pub fn stands_for(&self) -> u32 {
        1 << self.last.state.halvings()
    }

    /// Its part in a route experiment, where chance has decided.
    pub fn arm(&self) -> Option<Arm> {
        // What sends without a socket of ours is another namespace's.
        let is_ours = self.part != Some(Arm::Waiting) || self.server_half().bytes == 0;
        self.part.filter(|_| is_ours)
    }

    /// Whether it did something in the window that ended last.
    pub fn was_active(&self) -> bool {
        self.was_active
    }

    /// The chunk that the server's data is in.
    fn chunk_under_way(&self) -> Option<Chunk> {
        let read = Moment {
            unix_us: self.last.time_us,
            monotonic_ns: self.last.read_ns,
        };
        Chunk::under_way(self.server_half(), self.client_half(), read)
    }

    /// Nothing more comes: the chunk under way was the last one.
    pub fn end_chunk(&mut self, ladder: &Ladder) {
        if let Some(last) = self.chunk_under_way() {
            self.chunks.take(&last, ladder);
        }
    }

    /// The last state that was reported.
    pub fn state(&self) -> &FlowState {
        &self.last.state
    }

    /// The half that the client's packets write.
    pub fn client_half(&self) -> &Half {
        &self.last.state.halves[self.roles.client_half]
    }

    /// The half that the server's packets write.
    pub fn server_half(&self) -> &Half {
        &self.last.state.halves[self.roles.client_half ^ 1]
    }

    /// Round trip of the handshake between the two ends, µs. In the middle of the path it is the
    /// sum of what SYN and SYN-ACK took on the two sides.
    pub fn handshake_rtt_us(&self) -> Option<u32> {
        let known = |rtt_us: u32| (rtt_us != 0).then_some(rtt_us);
        let beyond_us = known(self.client_half().handshake_rtt_us);
        let before_us = known(self.server_half().handshake_rtt_us);
        match self.roles.vantage {
            Vantage::Sender => beyond_us,
            Vantage::Receiver => before_us,
            Vantage::Path => Some(beyond_us?.saturating_add(before_us?)),
        }
    }

    /// How the packets say that the flow ended, if they do.
    pub fn ending(&self) -> Option<CloseReason> {
        let halves = &self.last.state.halves;
        if halves.iter().any(|half| half.has(half_flags::RST)) {
            Some(CloseReason::Rst)
        } else if halves.iter().any(|half| half.has(half_flags::FIN)) {
            Some(CloseReason::Fin)
        } else {
            None
        }
    }

    /// Whether nothing more is to come: aborted, or finished by both sides.
    pub fn is_over(&self) -> bool {
        self.last.state.is_over()
    }
}

/// Whether `state` was copied before `known`, of the same flow: a report waits in the ring buffer
/// while the table is read.
fn is_older(state: &FlowState, known: &FlowState) -> bool {
    let counted = |half: &Half| {
        [
            half.last_seen_ns,
            half.bytes,
            half.acked_bytes,
            half.rtt_sum_us,
            half.busy_us,
        ]
    };
    state.halves.iter().zip(&known.halves).any(|(half, known)| {
        counted(half)
            .iter()
            .zip(counted(known))
            .any(|(a, b)| *a < b)
    })
}

/// The halves that describe the data which `sender`'s packets carry.
fn reading(snapshot: &Snapshot, sender: usize) -> Reading<'_> {
    Reading {
        sender: &snapshot.state.halves[sender],
        receiver: &snapshot.state.halves[sender ^ 1],
        read_us: (snapshot.read_ns / 1_000) as u32,
    }
}

/// A time of the state's monotonic clock as µs since 1970.
fn to_unix_us(snapshot: &Snapshot, monotonic_ns: u64) -> u64 {
    let ago_us = snapshot.read_ns.saturating_sub(monotonic_ns) / 1_000;
    snapshot.time_us.saturating_sub(ago_us)
}
