//! One copy of each set of attributes, however many prefixes share it.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Path;

/// Paths are kept by origin in parts that are swept one at a time: a sweep of all that a full
/// table has takes tens of milliseconds, during which no change would be published.
const PARTS: u32 = 64;
/// A part is swept when a quarter of it, and this many, were added.
const MIN_ADDED: usize = 256;

/// Every [`Path`] in use by one source.
#[derive(Debug)]
pub struct Paths {
    parts: Vec<Part>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Part {
    known: HashSet<Arc<Path>, RandomState>,
    /// New ones since the last sweep.
    added: usize,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Part::default()).collect(),
            bytes: 0,
        }
    }
}

impl Paths {
    /// The one copy of `path`.
    pub fn intern(&mut self, path: Path) -> Arc<Path> {
        let part = &mut self.parts[(path.origin_asn.unwrap_or_default() % PARTS) as usize];
        if let Some(known) = part.known.get(&path) {
            return Arc::clone(known);
        }
        self.bytes += size(&path);
        part.added += 1;
        let path = Arc::new(path);
        part.known.insert(Arc::clone(&path));
        path
    }

    /// Forgets what nobody else holds, where enough was added since the last time to be worth it.
    pub fn tidy(&mut self) {
        for part in &mut self.parts {
            if part.added > MIN_ADDED.max(part.known.len() / 4) {
                self.bytes = self.bytes.saturating_sub(part.sweep());
            }
        }
    }

    /// Forgets what nobody else holds.
    pub fn sweep(&mut self) {
        let gone: usize = self.parts.iter_mut().map(Part::sweep).sum();
        self.bytes = self.bytes.saturating_sub(gone);
    }

    /// How many are known, used or not.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.known.len()).sum()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory they take, nearly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Part {
    /// Bytes that are free now.
    fn sweep(&mut self) -> usize {
        let mut gone = 0;
        self.known.retain(|path| {
            let is_used = Arc::strong_count(path) > 1;
            if !is_used {
                gone += size(path);
            }
            is_used
        });
        self.added = 0;
        gone
    }
}

/// Memory of one path: itself, what it points to, counts and allocation headers, its place in
/// the set.
fn size(path: &Path) -> usize {
    const OVERHEAD: usize = 64;
    size_of::<Path>()
        + size_of_val::<[u32]>(&path.as_path_middle)
        + path.communities.bytes()
        + OVERHEAD
}
