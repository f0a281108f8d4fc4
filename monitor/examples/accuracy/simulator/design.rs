//! Which incidents are played: written down before any of them is, and the same every time.

use super::fault::Queue;
use super::incident::{Incident, Kind};
use super::random::Random;
use super::traffic::Sending;
use super::world::{Scale, Topology};

/// Thresholds are chosen on some families of incidents, and reported on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Families {
    /// Those that were looked at while rules and thresholds were made.
    Tuned,
    /// Other topologies, queues, round trips and senders, a path that changes, and crowds: what is
    /// reported, with the rules and thresholds of [`FROZEN`].
    HeldOut,
}

/// The commit whose rules and thresholds are reported.
pub const FROZEN: &str = "35dba94";

/// What the incidents of one family are drawn from.
struct Family {
    /// Kinds of faults and the queues that each may have; what is there more often is more common.
    faults: &'static [(Kind, &'static [Queue])],
    topologies: &'static [Topology],
    /// Those that have a transit.
    with_transit: &'static [Topology],
    base_rtts_ms: &'static [f64],
    sendings: &'static [Sending],
    /// How many ISPs there are at least.
    isps: usize,
    /// Part of the incidents in which everybody watches.
    crowds: f64,
}

const TUNED: Family = Family {
    faults: &FAULTS,
    topologies: &Topology::TUNED,
    with_transit: &[Topology::TransitOnly, Topology::Many],
    base_rtts_ms: &[5.0, 20.0, 50.0],
    sendings: &[
        Sending::Cubic,
        Sending::Cubic,
        Sending::Bbr,
        Sending::Paced,
        Sending::Bulk,
    ],
    isps: 2,
    crowds: 0.0,
};

const HELD_OUT: Family = Family {
    faults: &HELD_OUT_FAULTS,
    topologies: &Topology::HELD_OUT,
    with_transit: &[Topology::Remote, Topology::Large],
    base_rtts_ms: &[10.0, 40.0, 100.0],
    sendings: &[Sending::Mixed, Sending::Bbr, Sending::Paced, Sending::Cubic],
    isps: 3,
    crowds: 0.2,
};

const FAULTS: [(Kind, &[Queue]); 17] = [
    (Kind::None, &[Queue::DeepFifo]),
    (Kind::Host, &[Queue::DeepFifo, Queue::ShortTailDrop]),
    (Kind::OwnNetwork, &[Queue::DeepFifo, Queue::ShortTailDrop]),
    (
        Kind::Interconnect,
        &[
            Queue::DeepFifo,
            Queue::DeepFifoBbr,
            Queue::Red,
            Queue::Marks,
        ],
    ),
    (Kind::Interconnect, &[Queue::ShortTailDrop]),
    (Kind::Interconnect, &[Queue::RandomLoss, Queue::Policer]),
    (Kind::BundleMember, &[Queue::DeepFifo, Queue::ShortTailDrop]),
    (Kind::Transit, &[Queue::DeepFifo, Queue::Red]),
    (Kind::Handover, &[Queue::DeepFifo, Queue::ShortTailDrop]),
    (
        Kind::Isp,
        &[Queue::DeepFifo, Queue::Red, Queue::ShortTailDrop],
    ),
    (Kind::AccessNode, &[Queue::DeepFifo, Queue::FlowQueuing]),
    (
        Kind::LastMile,
        &[Queue::DeepFifo, Queue::DeepFifoBbr, Queue::FlowQueuing],
    ),
    (Kind::LastMile, &[Queue::RandomLoss, Queue::Policer]),
    (Kind::Reverse, &[Queue::DeepFifo]),
    (Kind::Proxy, &[Queue::DeepFifo]),
    (Kind::Sender, &[Queue::DeepFifo]),
    (Kind::Receiver, &[Queue::DeepFifo]),
];

const HELD_OUT_FAULTS: [(Kind, &[Queue]); 18] = [
    (Kind::None, &[Queue::DeepFifo]),
    (Kind::PathChange, &[Queue::DeepFifo]),
    (Kind::Host, &[Queue::DeepFifo, Queue::Codel]),
    (Kind::OwnNetwork, &[Queue::Red, Queue::Codel]),
    (Kind::Interconnect, &[Queue::DeepFifoBbr, Queue::Codel]),
    (Kind::Interconnect, &[Queue::ShortTailDrop, Queue::Policer]),
    (Kind::Interconnect, &[Queue::RandomLoss, Queue::Marks]),
    (Kind::BundleMember, &[Queue::Red, Queue::Policer]),
    (Kind::Transit, &[Queue::DeepFifoBbr, Queue::Codel]),
    (Kind::Handover, &[Queue::Red, Queue::Policer]),
    (
        Kind::Isp,
        &[Queue::DeepFifoBbr, Queue::Codel, Queue::Policer],
    ),
    (Kind::AccessNode, &[Queue::Red, Queue::Codel]),
    (Kind::LastMile, &[Queue::Codel, Queue::DeepFifoBbr]),
    (Kind::LastMile, &[Queue::Policer, Queue::Marks]),
    (Kind::Reverse, &[Queue::DeepFifoBbr]),
    (Kind::Proxy, &[Queue::DeepFifo]),
    (Kind::Sender, &[Queue::DeepFifo]),
    (Kind::Receiver, &[Queue::DeepFifo]),
];

/// `count` incidents.
pub fn incidents(families: Families, count: u64, seed: u64) -> Vec<Incident> {
    let of = match families {
        Families::Tuned => TUNED,
        Families::HeldOut => HELD_OUT,
    };
    let mut random = Random::new(seed);
    (0..count)
        .map(|number| {
            // Every kind equally often, everything else by chance.
            let (kind, queues) = of.faults[number as usize % of.faults.len()];
            let mut faults = vec![(kind, random.pick(queues))];
            if kind != Kind::None && random.chance(0.1) {
                let (second, queues) = of.faults[1 + random.index(of.faults.len() - 1)];
                faults.push((second, random.pick(queues)));
            }
            let topology = match kind {
                Kind::Transit | Kind::Handover => random.pick(of.with_transit),
                _ => random.pick(of.topologies),
            };
            Incident {
                seed: seed.wrapping_mul(1_000_003).wrapping_add(number),
                topology,
                scale: Scale {
                    isps: of.isps + random.index(4),
                    prefixes: 4 + random.index(3),
                    homes: 3 + random.index(4),
                },
                base_rtt_ms: random.pick(of.base_rtts_ms),
                sending: random.pick(of.sendings),
                faults,
                ports: random.chance(0.5),
                recurrent: random.chance(0.15),
                unseen: if random.chance(0.2) { 0.1 } else { 0.0 },
                spreads: random.pick(&[0, 0, 1, 3]),
                balanced: if random.chance(0.25) { 0.3 } else { 0.0 },
                crowd: random.chance(of.crowds),
            }
        })
        .collect()
}
