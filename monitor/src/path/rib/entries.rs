//! The ways to one prefix.

use std::sync::Arc;

use super::super::Path;

/// One peer's way to a prefix.
#[derive(Clone, Debug)]
pub struct Entry {
    tag: u32,
    pub path_id: u32,
    pub path: Arc<Path>,
}

impl Entry {
    /// A way in table `slot` (below 2^24), told in its `generation`.
    pub fn new(slot: u32, generation: u8, path_id: u32, path: Arc<Path>) -> Self {
        Self {
            tag: (slot << 8) | u32::from(generation),
            path_id,
            path,
        }
    }

    pub fn slot(&self) -> u32 {
        self.tag >> 8
    }

    pub fn generation(&self) -> u8 {
        self.tag as u8
    }

    fn is_same_way(&self, other: &Self) -> bool {
        (self.slot(), self.path_id) == (other.slot(), other.path_id)
    }
}

/// All ways to a prefix; nearly always one, so that one takes no allocation.
#[derive(Debug)]
pub enum Entries {
    One(Entry),
    #[expect(clippy::box_collection, reason = "a pointer fits where one entry does")]
    Many(Box<Vec<Entry>>),
}

// A million of them are held.
const _: () = assert!(size_of::<Entries>() == 16);

impl Entries {
    pub fn as_slice(&self) -> &[Entry] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    /// Sets the way of the entry's slot and path; whether there was none.
    pub fn set(&mut self, entry: Entry) -> bool {
        match self {
            Self::One(known) if known.is_same_way(&entry) => {
                *known = entry;
                false
            }
            Self::One(known) => {
                *self = Self::Many(Box::new(vec![known.clone(), entry]));
                true
            }
            Self::Many(entries) => {
                match entries.iter_mut().find(|known| known.is_same_way(&entry)) {
                    Some(known) => {
                        *known = entry;
                        false
                    }
                    None => {
                        entries.push(entry);
                        true
                    }
                }
            }
        }
    }

    /// Keeps what `keep` wants; whether anything is left.
    pub fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) -> bool {
        match self {
            Self::One(entry) => keep(entry),
            Self::Many(entries) => {
                entries.retain(keep);
                match entries.len() {
                    0 => false,
                    1 => {
                        if let Some(entry) = entries.pop() {
                            *self = Self::One(entry);
                        }
                        true
                    }
                    _ => true,
                }
            }
        }
    }
}
