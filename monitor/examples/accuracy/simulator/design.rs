//! Which incidents are played: written down before any of them is, and the same every time.

use super::fault::Queue;
use super::incident::{Incident, Kind};
use super::random::Random;
use super::traffic::Sending;
use super::world::{Scale, Topology};

/// Kinds of faults and the queues that each may have; what is there more often is more common.
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

/// `count` incidents.
pub fn incidents(count: u64, seed: u64) -> Vec<Incident> {
    let mut random = Random::new(seed);
    (0..count)
        .map(|number| {
            // Every kind equally often, everything else by chance.
            let (kind, queues) = FAULTS[number as usize % FAULTS.len()];
            let mut faults = vec![(kind, random.pick(queues))];
            if kind != Kind::None && random.chance(0.1) {
                let (second, queues) = FAULTS[1 + random.index(FAULTS.len() - 1)];
                faults.push((second, random.pick(queues)));
            }
            let topology = match kind {
                Kind::Transit | Kind::Handover => {
                    random.pick(&[Topology::TransitOnly, Topology::Many])
                }
                _ => random.pick(&Topology::ALL),
            };
            Incident {
                seed: seed.wrapping_mul(1_000_003).wrapping_add(number),
                topology,
                scale: Scale {
                    isps: 2 + random.index(4),
                    prefixes: 4 + random.index(3),
                    homes: 3 + random.index(4),
                },
                base_rtt_ms: random.pick(&[5.0, 20.0, 50.0]),
                sending: random.pick(&[
                    Sending::Cubic,
                    Sending::Cubic,
                    Sending::Bbr,
                    Sending::Paced,
                    Sending::Bulk,
                ]),
                faults,
                ports: random.chance(0.5),
                recurrent: random.chance(0.15),
                unseen: if random.chance(0.2) { 0.1 } else { 0.0 },
                spreads: random.pick(&[0, 0, 1, 3]),
                balanced: if random.chance(0.25) { 0.3 } else { 0.0 },
            }
        })
        .collect()
}
