//! Which way to a prefix is in use.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::super::bmp::RibView;
use super::super::{Family, Path};
use super::best::{self, Candidate};
use super::entries::{Entries, Entry};
use super::{Rib, Way};

/// The best way to a prefix.
pub(super) enum Decided<'a> {
    AsTold(&'a Arc<Path>),
    /// ... with what another table of the same router adds.
    Completed(Path),
}

impl Rib {
    /// The best way to exactly this prefix.
    pub fn best(&self, prefix: &IpNet) -> Option<Arc<Path>> {
        Some(match self.decide(prefix)? {
            Decided::AsTold(path) => Arc::clone(path),
            Decided::Completed(path) => Arc::new(path),
        })
    }

    pub(super) fn decide(&self, prefix: &IpNet) -> Option<Decided<'_>> {
        let entries = self.entries(prefix);
        let best = self.best_of(entries, Family::of(prefix).index())?;
        Some(match self.completed(best, entries) {
            None => Decided::AsTold(&best.path),
            Some(path) => Decided::Completed(path),
        })
    }

    fn entries(&self, prefix: &IpNet) -> &[Entry] {
        match prefix {
            IpNet::V4(prefix) => self.v4.get(prefix),
            IpNet::V6(prefix) => self.v6.get(prefix),
        }
        .map_or(&[], Entries::as_slice)
    }

    /// A Loc-RIB does not tell from which session a way came, and FRR's not even the next hop.
    /// Where the router sends its peers' tables too, they do: as far as all that told the same
    /// way agree. Two sessions with one neighbour are two interconnects, and which of them the
    /// router chose is not guessed.
    fn completed(&self, best: &Entry, entries: &[Entry]) -> Option<Path> {
        let slot = &self.slots[best.slot() as usize];
        if slot.view != RibView::LocRib {
            return None;
        }
        let way = &*best.path;
        let view = |entry: &Entry| self.slots[entry.slot() as usize].view;
        let told = entries.iter().filter(|entry| {
            let path = &entry.path;
            self.slots[entry.slot() as usize].router == slot.router
                && view(entry) != RibView::LocRib
                && path.peer_asn == way.peer_asn
                && path.origin_asn == way.origin_asn
                && path.as_path_middle == way.as_path_middle
                && (way.next_hop.is_none() || path.next_hop == way.next_hop)
        });
        // What policy left is nearer to what is used.
        let nearest = told.clone().map(view).min()?;
        let mut told = told.filter(|entry| view(entry) == nearest);
        let first = &told.next()?.path;
        let (mut peer_address, mut next_hop) = (first.peer_address, first.next_hop);
        for entry in told {
            peer_address = peer_address.filter(|_| entry.path.peer_address == peer_address);
            next_hop = next_hop.filter(|_| entry.path.next_hop == next_hop);
        }
        Some(Path {
            peer_address,
            next_hop: way.next_hop.or(next_hop),
            ..way.clone()
        })
    }

    fn best_of<'a>(&self, entries: &'a [Entry], family: usize) -> Option<&'a Entry> {
        let candidate = |entry: &&'a Entry| {
            let teller = &self.slots[entry.slot() as usize].teller;
            Candidate {
                path: &entry.path,
                peer_address: teller
                    .peer_address
                    .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                path_id: entry.path_id,
            }
        };
        entries
            .iter()
            .filter(|entry| {
                let slot = &self.slots[entry.slot() as usize];
                let router = &self.routers[slot.router as usize];
                router.view[family] == Some(slot.view)
            })
            .max_by(|a, b| best::compare(&candidate(a), &candidate(b)))
    }

    /// Every way to exactly this prefix.
    pub fn ways(&self, prefix: &IpNet) -> Vec<Way> {
        let entries = self.entries(prefix);
        let best = self.best_of(entries, Family::of(prefix).index());
        entries
            .iter()
            .map(|entry| {
                let slot = &self.slots[entry.slot() as usize];
                Way {
                    view: slot.view,
                    path: Arc::clone(&entry.path),
                    is_old: entry.generation() != slot.generation,
                    is_best: best.is_some_and(|best| std::ptr::eq(best, entry)),
                }
            })
            .collect()
    }
}
