//! Route experiments: which of this host's own connections are marked, so that the operator's routing
//! sends them another way than the rest.
//!
//! A connection is chosen by a keyed hash when it is accepted, before any data is sent, and nothing
//! that could have to do with how it fares decides: what the two ways do to the same prefixes is
//! then the difference between the ways.

use crate::{flow::FlowKey, observe::Tables, select};

/// What the daemon may change while the program runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Experiment {
    /// Keys the hash, so that nobody outside can choose who is sent elsewhere.
    pub key: u64,
    /// Cookie of the network namespace whose sockets take part (`SO_NETNS_COOKIE`): the program sees
    /// those of every namespace.
    pub namespace: u64,
    /// A connection is sent another way when its hash is below this: 0 for none, `u32::MAX` for
    /// nearly all.
    pub threshold: u32,
    /// Always zero.
    pub reserved: u32,
    pub marking: Marking,
}

/// What makes the operator's routing send packets another way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marking {
    /// `SO_MARK`, by which the packet path knows them too.
    pub mark: u32,
    /// The DSCP in the upper six bits of the traffic class (RFC 2474); 0: none.
    pub traffic_class: u32,
}

/// Whether a connection is sent another way: its handshake came by a device where it is watched, and
/// the hash decides so.
#[inline(always)]
pub fn is_chosen<T: Tables>(tables: &T, experiment: &Experiment, key: &FlowKey) -> bool {
    select::keyed_hash(key, experiment.key) < experiment.threshold
        && (tables.flow(key).is_some() || tables.pending(key).is_some())
}
