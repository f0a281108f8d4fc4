//! One window of all hosts, merged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::hosts::Served;
use super::part::Part;
use crate::cell::{Cell, CellKey, Cells};
use crate::engine::judge::Moves;
use crate::engine::{Missed, WindowSpan};
use crate::export::record::{CellWayRecord, VerdictRecord};
use crate::path::ports::{InterconnectPorts, PortWindow};
use crate::path::{Route, Source, SourceSet};
use crate::verdict::coverage::Coverage;
use crate::verdict::{DeviceCounters, LocalCounters};

/// What every host logged of one window, in no order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub cells: Vec<Part>,
    pub hosts: BTreeMap<String, HostWindow>,
    /// Prefixes whose traffic took another way, and when, µs since 1970.
    pub moved: Vec<(IpNet, u64)>,
}

/// What one host logged of a window beside its cells.
#[derive(Clone, Debug, Default)]
pub struct HostWindow {
    missed: Missed,
    unrouted: u64,
    devices: Option<Vec<DeviceCounters>>,
    ports: Option<InterconnectPorts>,
}

impl Batch {
    /// Takes a host's cell.
    pub fn cell(&mut self, part: Part) {
        self.hosts.entry(part.host.clone()).or_default();
        self.cells.push(part);
    }

    /// Takes a host's verdict: of the first one of a window what else was known.
    pub fn verdict(&mut self, record: VerdictRecord) {
        let host = self.hosts.entry(record.host).or_default();
        let Some(inputs) = record.inputs else {
            return;
        };
        // A host that began anew in the middle of a window has two parts of it.
        let missed = &record.missed;
        let sum = &mut host.missed;
        for (sum, more) in [
            (&mut sum.reports_received, inputs.reports_received),
            (&mut sum.reports_lost, missed.reports_lost),
            (&mut sum.flows_evicted, missed.flows_evicted),
            (&mut sum.flows_refused, missed.flows_refused),
            (&mut sum.packets_unparsed, missed.packets_unparsed),
            (&mut sum.chunks_lost, missed.chunks_lost),
            (&mut sum.flows_waiting_evicted, missed.flows_waiting_evicted),
            (&mut sum.log_lines_dropped, missed.log_lines_dropped),
            (&mut host.unrouted, missed.observations_unrouted),
        ] {
            *sum = sum.saturating_add(more);
        }
        sum.admitted_one_in = sum.admitted_one_in.max(missed.admitted_one_in);
        host.devices = both(host.devices.take(), inputs.devices, |mut one, other| {
            one.extend(other);
            one
        });
        host.ports = both(host.ports.take(), inputs.ports, worst);
    }

    /// All hosts' parts as one.
    pub fn merge(self) -> Merged {
        let mut merged = Merged::default();
        let mut ways: BTreeMap<CellKey, BTreeMap<CellWayRecord, u64>> = BTreeMap::new();
        let mut stale: HashSet<CellKey> = HashSet::new();
        let names: Vec<&String> = self.hosts.keys().collect();
        for part in self.cells {
            let acked_bytes = part.acked_bytes();
            merged
                .coverage
                .add(&part.key, part.tcp_bytes, part.quic_bytes);
            if part.clients.is_empty() {
                // What QUIC alone did: nothing to judge.
                continue;
            }
            if part.route_stale {
                stale.insert(part.key.clone());
            }
            *ways
                .entry(part.key.clone())
                .or_default()
                .entry(part.way)
                .or_default() += acked_bytes;
            let cell = merged.cells.cells.entry(part.key).or_default();
            let mut more = Cell {
                rerouted: part.route_changed,
                ..Cell::default()
            };
            let host = names.binary_search(&&part.host).ok();
            for (address, client) in part.clients {
                merged.cells.observations += client.observations;
                let server = merged.served.entry(address).or_insert(host);
                if *server != host {
                    *server = None;
                }
                more.clients.insert(address, client);
            }
            cell.add(&more);
        }
        for (key, ways) in ways {
            // Hosts that reach a prefix on different ways: the one of most of the traffic.
            let most = ways
                .into_iter()
                .reduce(|most, next| if next.1 > most.1 { next } else { most });
            if let (Some((way, _)), Some(cell)) = (most, merged.cells.cells.get_mut(&key)) {
                let route = Arc::new(route(&key, way, stale.contains(&key)));
                if !route.risk_groups.is_empty() {
                    let name = Arc::clone(&route.interconnect);
                    let groups = Arc::clone(&route.risk_groups);
                    merged.cells.risk_groups.entry(name).or_insert(groups);
                }
                cell.route = Some(route);
            }
        }
        let is_one = self.hosts.len() == 1;
        let mut devices = Some(Vec::new());
        let mut ports: Option<InterconnectPorts> = None;
        for (name, host) in self.hosts {
            merged.add_missed(&host);
            let named = |device: DeviceCounters| DeviceCounters {
                interface: if is_one {
                    device.interface
                } else {
                    format!("{name}/{}", device.interface).into()
                },
                ..device
            };
            // A host whose queues were not read may be the one with a full queue.
            devices = devices
                .zip(host.devices)
                .map(|(mut all, its): (Vec<_>, Vec<_>)| {
                    all.extend(its.into_iter().map(named));
                    all
                });
            ports = match (ports, host.ports) {
                (Some(one), Some(other)) => Some(best_known(one, other)),
                (one, other) => one.or(other),
            };
            merged.hosts.push(name);
        }
        merged.devices = devices;
        merged.ports = ports;
        merged.moved = self.moved;
        merged
    }
}

/// What both know; one alone where the other knows nothing.
fn both<T>(one: Option<T>, other: Option<T>, join: impl FnOnce(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(join(one, other)),
        (one, other) => one.or(other),
    }
}

/// Two parts of one window: a port is as full as in the worse of them.
fn worst(mut one: InterconnectPorts, other: InterconnectPorts) -> InterconnectPorts {
    for (name, port) in other.0 {
        let known = one.0.remove(&name);
        let port = both(known, Some(port), PortWindow::worst);
        one.0.extend(port.map(|port| (name, port)));
    }
    one
}

/// Hosts that read the same ports: of each the figures that cover most of the window; of equal
/// ones, those of the first host by name.
fn best_known(mut one: InterconnectPorts, other: InterconnectPorts) -> InterconnectPorts {
    for (name, port) in other.0 {
        let is_better = one
            .0
            .get(&name)
            .is_none_or(|known| port.covered > known.covered);
        if is_better {
            one.0.insert(name, port);
        }
    }
    one
}

fn route(key: &CellKey, way: CellWayRecord, stale: bool) -> Route {
    Route {
        prefix: key.prefix,
        origin_asn: key.origin_asn,
        isp: Arc::clone(&key.isp),
        interconnect: Arc::clone(&key.interconnect),
        peer_asn: way.peer_asn,
        peer_address: None,
        next_hop: way.next_hop,
        router: None,
        interface: way.interface.map(Into::into),
        as_path_middle: way.as_path_middle.into(),
        connectivity: None,
        site: None,
        risk_groups: way.risk_groups.into_iter().map(Into::into).collect(),
        sources: SourceSet {
            who: Source::File,
            way: Source::File,
        },
        stale,
    }
}

/// One window of a site.
#[derive(Debug, Default)]
pub struct Merged {
    pub cells: Cells,
    pub coverage: Coverage,
    pub missed: Missed,
    /// In order.
    pub hosts: Vec<String>,
    pub served: Served,
    devices: Option<Vec<DeviceCounters>>,
    pub ports: Option<InterconnectPorts>,
    moved: Vec<(IpNet, u64)>,
}

impl Merged {
    fn add_missed(&mut self, host: &HostWindow) {
        let (sum, more) = (&mut self.missed, &host.missed);
        for (sum, more) in [
            (&mut sum.reports_received, more.reports_received),
            (&mut sum.reports_lost, more.reports_lost),
            (&mut sum.flows_evicted, more.flows_evicted),
            (&mut sum.flows_refused, more.flows_refused),
            (&mut sum.packets_unparsed, more.packets_unparsed),
            (&mut sum.chunks_lost, more.chunks_lost),
            (&mut sum.flows_waiting_evicted, more.flows_waiting_evicted),
            (&mut sum.log_lines_dropped, more.log_lines_dropped),
            (&mut self.cells.unrouted, host.unrouted),
            (&mut self.cells.observations, host.unrouted),
        ] {
            *sum = sum.saturating_add(more);
        }
        let one_in = &mut self.missed.admitted_one_in;
        *one_in = (*one_in).max(host.missed.admitted_one_in);
    }

    /// What the devices of all hosts counted, where all were read.
    pub fn local(&self, window: &WindowSpan) -> Option<LocalCounters> {
        self.devices.as_ref().map(|devices| LocalCounters {
            devices: devices.clone(),
            window_us: u64::from(window.length_s) * 1_000_000,
        })
    }

    /// Who the verdicts are of.
    pub fn host(&self) -> String {
        /// More would make every line long.
        const NAMED: usize = 3;
        if self.hosts.len() <= NAMED {
            self.hosts.join("+")
        } else {
            format!("{} hosts", self.hosts.len())
        }
    }
}

/// Which prefixes moved, as the logs tell.
#[derive(Debug, Default)]
pub struct Moved {
    /// The window in which a prefix moved last.
    last: HashMap<IpNet, u64>,
    /// Prefixes whose cells say so in the window that is judged.
    now: HashSet<IpNet>,
}

impl Moved {
    /// Takes what a window says, and marks every cell of a prefix that moved: no host's part of it
    /// is a witness.
    pub fn window(&mut self, merged: &mut Merged, window: &WindowSpan, span: u64) {
        let length_us = (u64::from(window.length_s) * 1_000_000).max(1);
        for (prefix, time_us) in &merged.moved {
            let last = self.last.entry(*prefix).or_default();
            *last = (*last).max(time_us / length_us);
        }
        let cells = &mut merged.cells.cells;
        let moved = cells.iter().filter(|(_, cell)| cell.rerouted);
        self.now = moved.map(|(key, _)| key.prefix).collect();
        for prefix in &self.now {
            // It may have been in the window before: the next one's cells tell by themselves.
            let before = window.number.saturating_sub(1);
            let last = self.last.entry(*prefix).or_default();
            *last = (*last).max(before);
        }
        self.last
            .retain(|_, moved| window.number.saturating_sub(*moved) <= span);
        for (key, cell) in cells {
            cell.rerouted |= self.moved_lately(&key.prefix, window.number);
        }
    }
}

impl Moves for Moved {
    fn moved_lately(&self, prefix: &IpNet, window: u64) -> bool {
        let told = self.last.get(prefix);
        self.now.contains(prefix)
            || told.is_some_and(|moved| *moved == window || moved + 1 == window)
    }

    fn has_moved(&self, prefix: &IpNet) -> bool {
        self.last.contains_key(prefix)
    }
}
