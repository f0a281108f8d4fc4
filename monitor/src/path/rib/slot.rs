//! One peer's table among the others of a [`Rib`](super::Rib).

use super::super::bmp::{PeerIdentity, RibView};
use super::Teller;
use super::entries::Entry;

/// One table of one peer.
#[derive(Debug)]
pub struct Slot {
    pub router: u32,
    pub identity: PeerIdentity,
    pub view: RibView,
    pub teller: Teller,
    /// Counts the times its peer, or its router, began anew, wrapping: routes told before that
    /// are old.
    pub generation: u8,
    /// Whether `teller` is of this generation.
    pub is_told: bool,
    /// By family.
    pub routes: [usize; 2],
    /// There may be old routes.
    pub has_old: [bool; 2],
    /// Routes older than this generation wait to be taken out of the tree.
    pub purge: [Option<u8>; 2],
}

impl Slot {
    /// What it told so far is old.
    pub fn begin_anew(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.is_told = false;
        for at in 0..2 {
            self.has_old[at] |= self.routes[at] > 0;
        }
    }

    /// What was told before this generation goes.
    pub fn purge(&mut self) {
        self.purge = [Some(self.generation); 2];
    }

    /// Whether an entry of this table outlives the purge that waits.
    pub fn outlives(&self, entry: &Entry, family: usize) -> bool {
        // Generations wrap: ages do not, within far more sessions than can wait.
        let age = |generation| self.generation.wrapping_sub(generation);
        self.purge[family].is_none_or(|oldest| age(entry.generation()) <= age(oldest))
    }
}
