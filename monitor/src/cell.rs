//! The mergeable aggregate: what one prefix did through one interconnect in one window.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::{Arm, Observation, Totals, chunk};
use crate::path::{Location, Route};

/// Which traffic is counted together. The IP version is the prefix's.
///
/// In the order of its fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CellKey {
    pub interconnect: Arc<str>,
    pub isp: Arc<str>,
    pub origin_asn: u32,
    /// The client's /24 or /48, or a longer announced prefix.
    pub prefix: IpNet,
    /// Whether the interconnect hands over to the ISP itself, without a transit network.
    pub direct: bool,
}

impl Ord for CellKey {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most keys that are compared share the very same names.
        let names = |one: &Arc<str>, other: &Arc<str>| {
            if Arc::ptr_eq(one, other) {
                Ordering::Equal
            } else {
                one.cmp(other)
            }
        };
        names(&self.interconnect, &other.interconnect)
            .then_with(|| names(&self.isp, &other.isp))
            .then_with(|| self.origin_asn.cmp(&other.origin_asn))
            .then_with(|| self.prefix.cmp(&other.prefix))
            .then_with(|| self.direct.cmp(&other.direct))
    }
}

impl PartialOrd for CellKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<&Location> for CellKey {
    fn from(location: &Location) -> Self {
        let route = &location.route;
        Self {
            interconnect: Arc::clone(&route.interconnect),
            isp: Arc::clone(&route.isp),
            origin_asn: route.origin_asn,
            prefix: location.unit,
            direct: route.is_direct(),
        }
    }
}

/// One address's part of a cell.
#[derive(Clone, Debug, Default)]
pub struct ClientTotals {
    pub to_client: Totals,
    /// Chunks that were asked for in the window.
    pub chunks: chunk::Figures,
    /// Flows that did something in the window.
    pub observations: u64,
    /// Those of them that a route experiment has sent this way, and those that it has not.
    pub arms: Arms,
    /// How many flows and bytes toward the client these stand for, where not all flows were
    /// admitted: estimates (each flow counts as often as it stands for), and what any share over
    /// all traffic is of. Everything else is of the flows that were measured, because evidence
    /// does not grow by being counted twice.
    pub estimate: Estimate,
    /// Smallest handshake RTT of the flows that began, µs.
    pub handshake_rtt_us: Option<u32>,
}

/// Flows by their part in a route experiment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Arms {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_way: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub default_way: u64,
    /// Those that have sent nothing yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiting: u64,
}

impl Arms {
    pub fn add(&mut self, other: Self) {
        self.other_way += other.other_way;
        self.default_way += other.default_way;
        self.waiting += other.waiting;
    }

    /// Whether no flow has a part in any.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Option<Arm>> for Arms {
    fn from(arm: Option<Arm>) -> Self {
        Self {
            other_way: u64::from(arm == Some(Arm::OtherWay)),
            default_way: u64::from(arm == Some(Arm::DefaultWay)),
            waiting: u64::from(arm == Some(Arm::Waiting)),
        }
    }
}

/// Whether a count is left out where it is written.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What there was, measured or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    pub flows: u64,
    pub bytes: u64,
}

impl Estimate {
    fn add(&mut self, other: Self) {
        self.flows += other.flows;
        self.bytes += other.bytes;
    }
}

/// One prefix through one interconnect in one window.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub clients: BTreeMap<IpAddr, ClientTotals>,
    /// The way its traffic took; the last one where it was rerouted.
    pub route: Option<Arc<Route>>,
    /// Traffic to the prefix took another way in this window: this is a part of the window, or a
    /// mixture.
    pub rerouted: bool,
}

impl Cell {
    /// Adds another host's, or another observation's, part of the same cell.
    pub fn add(&mut self, other: &Self) {
        if other.route.is_some() {
            self.route.clone_from(&other.route);
        }
        self.rerouted |= other.rerouted;
        for (address, theirs) in &other.clients {
            let ours = self.clients.entry(*address).or_default();
            ours.to_client.add(&theirs.to_client);
            ours.chunks.add(&theirs.chunks);
            ours.observations += theirs.observations;
            ours.arms.add(theirs.arms);
            ours.estimate.add(theirs.estimate);
            ours.handshake_rtt_us = ours
                .handshake_rtt_us
                .into_iter()
                .chain(theirs.handshake_rtt_us)
                .min();
        }
    }

    /// Whether a source that its way is known from has gone silent.
    pub fn is_stale(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.stale)
    }

    /// The sum over all clients.
    pub fn totals(&self) -> ClientTotals {
        let mut sum = ClientTotals::default();
        for client in self.clients.values() {
            sum.to_client.add(&client.to_client);
            sum.chunks.add(&client.chunks);
            sum.observations += client.observations;
            sum.arms.add(client.arms);
            sum.estimate.add(client.estimate);
            sum.handshake_rtt_us = sum
                .handshake_rtt_us
                .into_iter()
                .chain(client.handshake_rtt_us)
                .min();
        }
        sum
    }
}

/// The cells of one window, and how many observations had no known route.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    pub cells: BTreeMap<CellKey, Cell>,
    pub observations: u64,
    pub unrouted: u64,
    /// What the interconnects share with others, by their names.
    pub risk_groups: BTreeMap<Arc<str>, Arc<[Arc<str>]>>,
}

impl Cells {
    /// Groups a window's observations.
    pub fn collect(observations: impl IntoIterator<Item = Observation>) -> Self {
        let mut all = Self::default();
        for observation in observations {
            all.observations += 1;
            let Some(location) = &observation.location else {
                all.unrouted += 1;
                continue;
            };
            let route = &location.route;
            if !route.risk_groups.is_empty() {
                all.risk_groups
                    .entry(Arc::clone(&route.interconnect))
                    .or_insert_with(|| Arc::clone(&route.risk_groups));
            }
            let mut part = Cell {
                route: Some(Arc::clone(&location.route)),
                rerouted: observation.rerouted,
                ..Cell::default()
            };
            let stands_for = u64::from(observation.stands_for);
            let estimate = Estimate {
                flows: stands_for,
                bytes: observation.to_client.bytes * stands_for,
            };
            part.clients.insert(
                observation.client,
                ClientTotals {
                    to_client: observation.to_client,
                    chunks: observation.chunks,
                    observations: 1,
                    arms: observation.arm.into(),
                    estimate,
                    handshake_rtt_us: observation.handshake_rtt_us,
                },
            );
            all.cells.entry(location.into()).or_default().add(&part);
        }
        all
    }
}
