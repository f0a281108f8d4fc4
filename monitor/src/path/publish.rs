//! Changes of routes, applied so that readers never wait.
//!
//! There are two tables. Readers hold one; a batch of changes goes into the other, and that is
//! handed out. The table that was replaced is brought up to date with the next batch, when its
//! last reader has let go. (Left-right: Ramalhete and Correia, "Left-Right: A Concurrency Control
//! Technique with Wait-Free Population Oblivious Reads", 2013; the readers' counts are `Arc`'s.)

use std::sync::Arc;

use ipnet::IpNet;

use super::rib::Change;
use super::{Path, SourceTable};

/// One prefix whose way is another now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub prefix: IpNet,
    /// `None`: it was not known.
    pub before: Option<Arc<Path>>,
    /// `None`: it is withdrawn.
    pub after: Option<Arc<Path>>,
}

/// Holds both tables.
#[derive(Debug, Default)]
pub struct Publisher {
    current: Arc<SourceTable>,
    spare: Arc<SourceTable>,
    /// What the spare lacks.
    behind: Vec<Change>,
}

impl Publisher {
    /// What readers should hold.
    pub fn current(&self) -> Arc<SourceTable> {
        Arc::clone(&self.current)
    }

    /// Applies a batch and returns what it really changed; then [`Publisher::current`] is another
    /// table. `Err` gives the batch back: some reader still holds the table before the last one.
    pub fn publish(&mut self, batch: Vec<Change>) -> Result<Vec<Changed>, Vec<Change>> {
        if !self.catch_up() {
            return Err(batch);
        }
        let Some(table) = Arc::get_mut(&mut self.spare) else {
            return Err(batch);
        };
        let mut changed = Vec::new();
        for (prefix, after) in &batch {
            let before = match after {
                Some(path) => table.insert(*prefix, Arc::clone(path)),
                None => table.remove(prefix),
            };
            if before != *after {
                changed.push(Changed {
                    prefix: *prefix,
                    before,
                    after: after.clone(),
                });
            }
        }
        std::mem::swap(&mut self.current, &mut self.spare);
        self.behind = batch;
        Ok(changed)
    }

    /// Brings the spare table up to date, where nobody reads it any more; whether it is. Between
    /// batches this makes the next one quicker and frees what is no longer needed.
    pub fn catch_up(&mut self) -> bool {
        if self.behind.is_empty() {
            return true;
        }
        let Some(table) = Arc::get_mut(&mut self.spare) else {
            return false;
        };
        for (prefix, after) in std::mem::take(&mut self.behind) {
            match after {
                Some(path) => {
                    table.insert(prefix, path);
                }
                None => {
                    table.remove(&prefix);
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(peer: u32) -> Option<Arc<Path>> {
        Some(Arc::new(Path {
            peer_asn: Some(peer),
            ..Path::default()
        }))
    }

    #[test]
    fn a_reader_keeps_its_table_and_delays_only_the_next_but_one() {
        let mut publisher = Publisher::default();
        let prefix: IpNet = "10.0.0.0/8".parse().expect("right");
        let changed = publisher.publish(vec![(prefix, through(1))]).expect("free");
        assert_eq!((changed.len(), &changed[0].after), (1, &through(1)));
        let held = publisher.current();
        publisher.publish(vec![(prefix, through(2))]).expect("free");
        assert_eq!(held.get(&prefix), through(1).as_ref());
        assert_eq!(publisher.current().get(&prefix), through(2).as_ref());
        // The spare is the one that is held.
        let refused = publisher.publish(vec![(prefix, None)]).expect_err("held");
        assert_eq!(publisher.current().get(&prefix), through(2).as_ref());
        drop(held);
        let changed = publisher.publish(refused).expect("free again");
        assert_eq!(
            (&changed[0].before, &changed[0].after),
            (&through(2), &None)
        );
        assert!(publisher.current().is_empty());
    }

    proptest! {
        #[test]
        fn both_tables_are_what_one_would_be(
            batches in prop::collection::vec(prop::collection::vec((0u8..16, 0u32..4), 0..8), 1..20),
        ) {
            let mut publisher = Publisher::default();
            let mut model = SourceTable::default();
            for batch in batches {
                let batch: Vec<Change> = batch
                    .into_iter()
                    .map(|(net, peer)| {
                        let prefix = IpNet::new([net, 0, 0, 0].into(), 8).expect("8");
                        (prefix, if peer == 0 { None } else { through(peer) })
                    })
                    .collect();
                for (prefix, after) in &batch {
                    match after {
                        Some(path) => model.insert(*prefix, path.clone()),
                        None => model.remove(prefix),
                    };
                }
                prop_assert!(publisher.publish(batch).is_ok());
                prop_assert!(publisher.current().iter().eq(model.iter()));
                prop_assert!(publisher.catch_up());
                prop_assert!(publisher.spare.iter().eq(model.iter()));
            }
        }
    }
}
