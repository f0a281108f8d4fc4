//! One copy of each set of attributes, however many prefixes share it.

use std::collections::HashSet;
use std::sync::Arc;

use super::Path;

/// Every [`Path`] in use by one source.
#[derive(Debug, Default)]
pub struct Paths {
    known: HashSet<Arc<Path>>,
}

impl Paths {
    /// The one copy of `path`.
    pub fn intern(&mut self, path: Path) -> Arc<Path> {
        if let Some(known) = self.known.get(&path) {
            return Arc::clone(known);
        }
        let path = Arc::new(path);
        self.known.insert(Arc::clone(&path));
        path
    }

    /// Forgets what nobody else holds.
    pub fn sweep(&mut self) {
        self.known.retain(|path| Arc::strong_count(path) > 1);
        self.known.shrink_to(2 * self.known.len());
    }

    /// How many are known, used or not.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
