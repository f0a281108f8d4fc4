//! What a monitor at the sender can tell apart at all, by the design's rules: which comparisons a world
//! offers for a fault.

use std::collections::BTreeSet;

use super::fault::{Fault, Place, Queue};
use super::incident::Played;
use super::world::{Home, World};

/// Prefixes that make a comparison, by the default thresholds.
const MIN_PREFIXES: usize = 3;
/// ISPs from which on it is no chance that all are bad at once.
const MANY_ISPS: usize = 3;
/// Homes besides, without which one that is ill may be the one on a full member of a bundle.
const MIN_HOMES: usize = 14;

/// Whether the data can separate the one fault there was from everything else.
pub fn is_separable(played: &Played) -> bool {
    let [fault] = &played.faults[..] else {
        return false;
    };
    let world = &played.world;
    // A damaged link's port counts nothing, and clears nothing.
    let counted = played.ports && fault.queue != Queue::RandomLoss;
    match fault.place {
        Place::Host | Place::Proxy(_) => true,
        Place::OwnNetwork => {
            played.ports && world.interconnects.len() >= 3 && world.isps.len() >= MANY_ISPS
        }
        Place::Interconnect(link) => is_compared(played, link, fault.queue),
        Place::Transit(link) => {
            let stands = matches!(
                fault.queue,
                Queue::DeepFifo | Queue::DeepFifoBbr | Queue::Red
            );
            // Else what leads to its port may be ours.
            let has_company = !world.interconnects[link].risk_groups.is_empty();
            counted && stands && has_company && isps_behind(world, link).len() >= 2
        }
        Place::Isp(isp) => {
            let mut ways = ways_of(world, isp).into_iter();
            let direct: Vec<usize> = ways
                .by_ref()
                .filter(|&link| world.interconnects[link].transit.is_none())
                .collect();
            let cleared = |&link: &usize| played.ports || isps_behind(world, link).len() >= 2;
            direct.len() >= 2 && direct.iter().all(cleared)
        }
        Place::AccessNode(isp, node) => {
            is_plain(fault)
                && ways_of(world, isp).iter().all(|&link| {
                    let of_isp = |home: &&Home| home.isp == isp && home.interconnect == link;
                    let spared = prefixes(world, |home| of_isp(&home) && home.node != node);
                    world.interconnects[link].transit.is_none() && spared >= MIN_PREFIXES
                })
        }
        Place::LastMile(at) => {
            let link = world.homes[at].interconnect;
            let behind = world.homes.iter().filter(|home| home.interconnect == link);
            is_plain(fault) && behind.count() >= MIN_HOMES
        }
        // A part of a bundle is `interconnect` or `own_network`, the full ports of transits into an
        // ISP `transit` or `isp`; a way back needs one-way delays.
        Place::BundleMember(..) | Place::Handover(_) | Place::Reverse(_) => false,
        Place::PathChange(..) | Place::Sender | Place::Receiver(_) => false,
    }
}

/// Whether there is something that tells a fault at this link from all others: its port's counters,
/// several ISPs behind it, or the same prefixes on another way.
pub fn is_compared(played: &Played, link: usize, queue: Queue) -> bool {
    let world = &played.world;
    if played.ports && queue != Queue::RandomLoss {
        return true;
    }
    // Between our port and another network's trouble only the port itself tells.
    let is_direct = world.interconnects[link].transit.is_none();
    is_direct && (isps_behind(world, link).len() >= 2 || has_twins(world, link))
}

/// Whether a fault does what harms by the default thresholds, and not only to the rate.
fn is_plain(fault: &Fault) -> bool {
    fault.queue != Queue::FlowQueuing
}

/// ISPs with enough prefixes behind a link.
fn isps_behind(world: &World, link: usize) -> Vec<usize> {
    let enough = |&isp: &usize| {
        prefixes(world, |home| home.interconnect == link && home.isp == isp) >= MIN_PREFIXES
    };
    (0..world.isps.len()).filter(enough).collect()
}

/// Links with enough prefixes of an ISP.
fn ways_of(world: &World, isp: usize) -> Vec<usize> {
    let enough = |&link: &usize| {
        prefixes(world, |home| home.interconnect == link && home.isp == isp) >= MIN_PREFIXES
    };
    (0..world.interconnects.len()).filter(enough).collect()
}

/// Whether enough prefixes behind a link have homes on one other link too.
fn has_twins(world: &World, link: usize) -> bool {
    let others = (0..world.interconnects.len()).filter(|&other| other != link);
    let here: BTreeSet<_> = units(world, |home| home.interconnect == link);
    others.into_iter().any(|other| {
        let there = units(world, |home| home.interconnect == other);
        here.intersection(&there).count() >= MIN_PREFIXES
    })
}

fn units(world: &World, holds: impl Fn(&Home) -> bool) -> BTreeSet<ipnet::IpNet> {
    let homes = world.homes.iter().filter(|home| holds(home));
    homes.map(|home| home.location.unit).collect()
}

fn prefixes(world: &World, holds: impl Fn(&Home) -> bool) -> usize {
    units(world, holds).len()
}
