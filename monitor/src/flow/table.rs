//! Every flow that is watched: its last state, its window so far, its life so far.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::Arc;

use monitor_ebpf::flow::{FlowKey, FlowState, Half, half_flags};

use super::totals::Reading;
use super::{CloseReason, Observation, Roles, Totals, Vantage};
use crate::capture::Snapshot;
use crate::path::{Location, Routes};

/// One watched flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Keyed by a secret of this process, so that it tells nothing about the addresses.
    pub id: u64,
    pub roles: Roles,
    pub interface: Option<Arc<str>>,
    pub location: Option<Location>,
    /// µs since 1970 UTC.
    pub start_us: u64,
    /// Last packet, µs since 1970 UTC.
    pub last_seen_us: u64,
    /// Whole life, both directions.
    pub to_client: Totals,
    pub to_server: Totals,
    window: [Totals; 2],
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

/// Idle times after which a closed flow is forgotten even if the kernel did not say so.
const FORGOTTEN_AFTER: u64 = 4;

/// All watched flows, by their 5-tuple.
#[derive(Debug, Default)]
pub struct FlowTable {
    flows: HashMap<FlowKey, Box<Flow>>,
    secret: RandomState,
}

impl FlowTable {
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
            if snapshot.state.generation == generation {
                let opened = entry.get_mut().advance(snapshot);
                return Change {
                    replaced: None,
                    opened,
                };
            }
            let flow = entry.remove();
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
        let id = self.secret.hash_one((key, snapshot.state.generation));
        let flow = Box::new(Flow::open(id, snapshot, server_ports, routes));
        self.flows.insert(key, flow);
        Change {
            replaced,
            opened: true,
        }
    }

    /// Forgets a flow. `None` if it was not known, or closed already.
    pub fn remove(&mut self, key: &FlowKey, reason: CloseReason) -> Option<Closed> {
        let flow = self.flows.remove(key).filter(|flow| !flow.is_closed)?;
        // What the packets said is more than that we no longer hear of it.
        let reason = flow.ending().unwrap_or(reason);
        Some(Closed { flow, reason })
    }

    /// Closes flows that ended, or were silent for `idle_us` at `now_us`, each one once.
    pub fn close_finished(&mut self, now_us: u64, idle_us: u64) -> Vec<Closed> {
        self.flows.retain(|_, flow| {
            !flow.is_closed || now_us.saturating_sub(flow.last_seen_us) < FORGOTTEN_AFTER * idle_us
        });
        self.flows
            .values_mut()
            .filter(|flow| {
                !flow.is_closed
                    && (flow.is_over() || now_us.saturating_sub(flow.last_seen_us) >= idle_us)
            })
            .map(|flow| {
                flow.is_closed = true;
                Closed {
                    flow: flow.clone(),
                    reason: flow.ending().unwrap_or(CloseReason::Idle),
                }
            })
            .collect()
    }

    /// One observation for every flow that did something since the last call.
    pub fn take_observations(&mut self) -> Vec<Observation> {
        self.flows
            .values_mut()
            .filter_map(|flow| flow.take_observation())
            .collect()
    }

    /// Finds every client's route again, after the routes changed.
    pub fn relocate(&mut self, routes: &Routes) {
        for flow in self.flows.values_mut() {
            flow.location = routes.locate(flow.roles.client);
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
            location: routes.locate(roles.client),
            start_us: to_unix_us(snapshot, snapshot.state.start_ns),
            last_seen_us: snapshot.time_us,
            to_client: Totals::default(),
            to_server: Totals::default(),
            window: [Totals::default(), Totals::default()],
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
        flow
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

    fn take_observation(&mut self) -> Option<Observation> {
        let [to_client, to_server] = std::mem::take(&mut self.window);
        self.was_active = !to_client.is_empty() || !to_server.is_empty();
        if !self.was_active {
            return None;
        }
        let is_new = std::mem::take(&mut self.is_new);
        if self.roles.vantage == Vantage::Receiver {
            // Our own download: it says nothing about the ways to our clients.
            return None;
        }
        Some(Observation {
            client: self.roles.client,
            location: self.location.clone(),
            to_client,
            to_server,
            handshake_rtt_us: if is_new {
                self.handshake_rtt_us()
            } else {
                None
            },
        })
    }

    /// Whether it did something in the window that ended last.
    pub fn was_active(&self) -> bool {
        self.was_active
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
    fn is_over(&self) -> bool {
        let halves = &self.last.state.halves;
        halves.iter().any(|half| half.has(half_flags::RST))
            || halves.iter().all(|half| half.has(half_flags::FIN))
    }
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
