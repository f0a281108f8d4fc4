//! The packet path's tables as hash maps, in place of the kernel's maps.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{HashMap, HashSet},
};

use ipnet::IpNet;
use monitor_ebpf::{
    counters::{COUNTERS, Counter, Counters},
    flow::{Address, FlowKey, FlowState},
    observe::{Pending, Tables, from_pending},
    packet::Parsed,
    select::{PORT_WORDS, Settings, Watch},
};

/// Flows without a limit: a capture file ends.
pub struct HostTables {
    settings: Settings,
    ports: Box<[u64; PORT_WORDS]>,
    prefixes: Vec<IpNet>,
    flows: RefCell<HashMap<FlowKey, Box<FlowState>>>,
    pending: RefCell<HashMap<FlowKey, Box<Pending>>>,
    reports: RefCell<Vec<FlowState>>,
    counters: Cell<Counters>,
    parsed: UnsafeCell<Parsed>,
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
            flows: RefCell::default(),
            pending: RefCell::default(),
            reports: RefCell::default(),
            counters: Cell::new([0; COUNTERS]),
            parsed: UnsafeCell::new(Parsed::EMPTY),
        }
    }

    /// Takes the reports made since the last call.
    pub fn take_reports(&self) -> Vec<FlowState> {
        self.reports.take()
    }

    /// What was counted so far, indexed by `Counter`.
    pub fn counters(&self) -> Counters {
        self.counters.get()
    }

    /// Copies of all flow states, those that wait for a second direction included.
    pub fn flows(&self) -> Vec<FlowState> {
        let mut states: Vec<_> = self.flows.borrow().values().map(|state| **state).collect();
        let pending = self.pending.borrow();
        states.extend(
            pending
                .iter()
                .map(|(key, pending)| from_pending(key, pending)),
        );
        states
    }

    /// Removes the flows that have been silent since before `before_ns`, and returns them.
    pub fn take_silent(&self, before_ns: u64) -> Vec<FlowState> {
        let mut silent = Vec::new();
        self.flows.borrow_mut().retain(|_, state| {
            let keep = state.last_seen_ns() >= before_ns;
            if !keep {
                silent.push(**state);
            }
            keep
        });
        self.pending.borrow_mut().retain(|key, pending| {
            let keep = pending.start_ns >= before_ns;
            if !keep {
                silent.push(from_pending(key, pending));
            }
            keep
        });
        silent
    }

    /// The keys of the flows that are there.
    pub fn keys(&self) -> HashSet<FlowKey> {
        self.flows.borrow().keys().copied().collect()
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
        flows.get_mut(key).map(|state| &raw mut **state)
    }

    fn create(&self, key: &FlowKey) -> Option<*mut FlowState> {
        let mut flows = self.flows.borrow_mut();
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

    fn parsed(&self) -> Option<*mut Parsed> {
        Some(self.parsed.get())
    }

    fn report(&self, state: &FlowState) -> bool {
        self.reports.borrow_mut().push(*state);
        true
    }

    fn count(&self, counter: Counter) {
        let mut counters = self.counters.get();
        counters[counter as usize] += 1;
        self.counters.set(counters);
    }
}
