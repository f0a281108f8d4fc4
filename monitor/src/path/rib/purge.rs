//! Taking what is old out of a [`Rib`].

use ipnet::IpNet;

use super::super::Family;
use super::Rib;
use super::entries::{Entries, Entry};
use super::slot::Slot;

impl Rib {
    /// Takes the old routes that wait for it out of the tree, all of them in one walk.
    pub(super) fn bury(&mut self) {
        if !std::mem::take(&mut self.has_purge) {
            return;
        }
        let slots = &mut self.slots;
        let [in_v4, in_v6] = [0, 1].map(|at| {
            slots
                .iter()
                .any(|slot| slot.purge[at].is_some() && slot.has_old[at])
        });
        let mut touched = Vec::new();
        let mut empty = Vec::new();
        let mut gone = 0;
        let mut visit = |prefix: IpNet, entries: &mut Entries, at: usize| {
            let stays =
                |slots: &[Slot], known: &Entry| slots[known.slot() as usize].outlives(known, at);
            if entries.as_slice().iter().all(|known| stays(slots, known)) {
                return;
            }
            let is_left = entries.retain(|known| {
                let stays = stays(slots, known);
                if !stays {
                    slots[known.slot() as usize].routes[at] -= 1;
                    gone += 1;
                }
                stays
            });
            touched.push(prefix);
            if !is_left {
                empty.push(prefix);
            }
        };
        if in_v4 {
            for (prefix, entries) in self.v4.iter_mut() {
                visit(prefix.into(), entries, Family::V4.index());
            }
        }
        if in_v6 {
            for (prefix, entries) in self.v6.iter_mut() {
                visit(prefix.into(), entries, Family::V6.index());
            }
        }
        self.routes -= gone;
        for prefix in empty {
            self.take_out(prefix);
        }
        self.touched.extend(touched);

        for (at, slot) in self.slots.iter_mut().enumerate() {
            for family in 0..2 {
                if let Some(oldest) = slot.purge[family].take() {
                    slot.has_old[family] &= oldest != slot.generation;
                }
            }
            let key = (slot.router, slot.identity, slot.view);
            let at = at as u32;
            if !slot.is_told && slot.routes == [0; 2] && self.tables.get(&key) == Some(&at) {
                self.tables.remove(&key);
                self.free.push(at);
            }
        }
    }
}
