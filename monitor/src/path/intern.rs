//! One copy of each set of attributes, however many prefixes share it.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Community, Path};

/// Every [`Path`] in use by one source.
#[derive(Debug, Default)]
pub struct Paths {
    known: HashSet<Arc<Path>>,
    bytes: usize,
    /// New ones since the last sweep.
    added: usize,
}

impl Paths {
    /// The one copy of `path`.
    pub fn intern(&mut self, path: Path) -> Arc<Path> {
        if let Some(known) = self.known.get(&path) {
            return Arc::clone(known);
        }
        self.bytes += size(&path);
        self.added += 1;
        let path = Arc::new(path);
        self.known.insert(Arc::clone(&path));
        path
    }

    /// Forgets what nobody else holds, where enough was added since the last time to be worth it.
    pub fn tidy(&mut self) {
        /// Attributes that are kept in vain at most, besides as many as are in use.
        const SLACK: usize = 16_384;
        if self.added > SLACK + self.known.len() / 2 {
            self.sweep();
        }
    }

    /// Forgets what nobody else holds.
    pub fn sweep(&mut self) {
        let bytes = &mut self.bytes;
        self.known.retain(|path| {
            let is_used = Arc::strong_count(path) > 1;
            if !is_used {
                *bytes = bytes.saturating_sub(size(path));
            }
            is_used
        });
        self.added = 0;
    }

    /// How many are known, used or not.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Memory they take, nearly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Memory of one path: itself, what it points to, counts and allocation headers, its place in
/// the set.
fn size(path: &Path) -> usize {
    const OVERHEAD: usize = 64;
    size_of::<Path>()
        + size_of_val::<[u32]>(&path.as_path_middle)
        + size_of_val::<[Community]>(&path.communities)
        + OVERHEAD
}
