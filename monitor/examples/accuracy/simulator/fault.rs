//! What can go wrong, where, and what it does to a home.

use super::random::Random;
use super::world::{Home, MEMBERS, World};

/// Where a fault is. Numbers are those of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Host,
    OwnNetwork,
    Interconnect(usize),
    BundleMember(usize, usize),
    /// Inside the transit behind an interconnect, for everybody.
    Transit(usize),
    /// The ports through which transits hand over to one ISP.
    Handover(usize),
    Isp(usize),
    AccessNode(usize, usize),
    LastMile(usize),
    /// The way back from one ISP, whatever the way there.
    Reverse(usize),
    /// A middlebox of one ISP that ends TCP.
    Proxy(usize),
    /// One node's clients are reached by a longer way inside their ISP from now on: no congestion.
    PathChange(usize, usize),
    /// Not the network: the sender holds back.
    Sender,
    /// Not the network: one of the kinds of players does, wherever it is.
    Receiver(usize),
}

/// How it slows the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// A router's short buffer: losses, hardly any delay.
    ShortTailDrop,
    Red,
    /// Kept short by drops (RFC 8289).
    Codel,
    DeepFifo,
    /// Deep, and filled by BBR: it stands at a part of its depth and rarely overflows.
    DeepFifoBbr,
    /// Each flow waits for itself alone: hardly any delay, and a share of the rate.
    FlowQueuing,
    /// No queue: what is over the rate is lost.
    Policer,
    /// A damaged link.
    RandomLoss,
    /// Congestion Experienced instead of losses.
    Marks,
}

/// How much longer another way takes, µs.
const LONGER_US: f64 = 15_000.0;

/// What a home's traffic suffers in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Effects {
    /// Standing queue toward the home: smallest and largest, µs.
    pub queue_us: (f64, f64),
    /// The same on the way back.
    pub back_us: (f64, f64),
    /// Share of the segments.
    pub loss: f64,
    pub marks: f64,
    /// What is left of the way's rate, bit/s; 0: not limited.
    pub rate_bps: f64,
    /// Share of the segments sent into a full receive window.
    pub window_full: f64,
    /// The sender waits between writes: part of the rate.
    pub paced: f64,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub place: Place,
    pub queue: Queue,
    /// Depth of the queue where it has one, µs.
    pub depth_us: f64,
    /// Losses or marks where there are any.
    pub share: f64,
    /// What a flow still gets, bit/s.
    pub rate_bps: f64,
}

impl Fault {
    /// A fault as such places have it.
    pub fn new(place: Place, queue: Queue, random: &mut Random) -> Self {
        let is_access = matches!(place, Place::AccessNode(..) | Place::LastMile(_));
        let depth_us = 1_000.0
            * match queue {
                Queue::ShortTailDrop => random.between(0.5, 5.0),
                Queue::Red => random.between(10.0, 50.0),
                Queue::Codel => random.between(5.0, 10.0),
                Queue::DeepFifo | Queue::DeepFifoBbr if is_access => random.between(30.0, 200.0),
                Queue::DeepFifo | Queue::DeepFifoBbr => random.between(25.0, 120.0),
                Queue::FlowQueuing => 5.0,
                Queue::Policer | Queue::RandomLoss => 0.0,
                Queue::Marks => random.between(1.0, 5.0),
            };
        let share = match queue {
            Queue::DeepFifoBbr => random.between(0.0, 0.005),
            Queue::FlowQueuing => random.between(0.002, 0.015),
            Queue::Codel => random.between(0.003, 0.02),
            Queue::Policer => random.between(0.03, 0.15),
            Queue::Marks => random.between(0.02, 0.2),
            _ => random.between(0.01, 0.05),
        };
        let rate_bps = match queue {
            Queue::RandomLoss => 0.0,
            _ => 1e6 * random.between(0.8, 4.0),
        };
        Self {
            place,
            queue,
            depth_us,
            share,
            rate_bps,
        }
    }

    /// Whether the home's traffic crosses it.
    pub fn hits(&self, at: usize, home: &Home, world: &World) -> bool {
        match self.place {
            Place::Host | Place::OwnNetwork | Place::Sender => true,
            Place::Interconnect(link) | Place::Transit(link) => home.interconnect == link,
            Place::BundleMember(link, member) => {
                home.interconnect == link && home.member == member % MEMBERS
            }
            Place::Handover(isp) => {
                home.isp == isp && world.interconnects[home.interconnect].transit.is_some()
            }
            Place::Isp(isp) | Place::Reverse(isp) | Place::Proxy(isp) => home.isp == isp,
            Place::Receiver(player) => home.player == player,
            Place::AccessNode(isp, node) | Place::PathChange(isp, node) => {
                home.isp == isp && home.node == node
            }
            Place::LastMile(number) => at == number,
        }
    }

    /// What it adds to `effects`, at `level` (0 to 1) of its strength.
    pub fn apply(&self, level: f64, effects: &mut Effects) {
        let slower = |rate: &mut f64, to: f64| {
            // Between untouched and what is left at full strength.
            let to = to / level.max(0.05);
            *rate = if *rate == 0.0 { to } else { rate.min(to) };
        };
        match self.place {
            Place::Sender => {
                effects.paced = 1.0 - 0.7 * level;
                return;
            }
            Place::Receiver(_) | Place::Proxy(_) => {
                effects.window_full = 0.8 * level;
                slower(&mut effects.rate_bps, self.rate_bps);
                return;
            }
            Place::PathChange(..) => {
                effects.queue_us.0 += LONGER_US * level;
                effects.queue_us.1 += LONGER_US * level;
                return;
            }
            Place::Reverse(_) => {
                effects.back_us.0 += self.depth_us * 0.5 * level;
                effects.back_us.1 += self.depth_us * level;
                return;
            }
            _ => {}
        }
        let stands = match self.queue {
            Queue::ShortTailDrop | Queue::FlowQueuing | Queue::Marks => (0.0, 1.0),
            Queue::Red => (0.25, 0.6),
            Queue::Codel => (0.4, 1.0),
            Queue::DeepFifo => (0.6, 1.0),
            Queue::DeepFifoBbr => (0.35, 0.7),
            Queue::Policer | Queue::RandomLoss => (0.0, 0.0),
        };
        effects.queue_us.0 += self.depth_us * stands.0 * level;
        effects.queue_us.1 += self.depth_us * stands.1 * level;
        if self.queue == Queue::Marks {
            effects.marks += self.share * level;
        } else {
            effects.loss += self.share * level;
        }
        if self.rate_bps > 0.0 {
            slower(&mut effects.rate_bps, self.rate_bps);
        }
    }
}
