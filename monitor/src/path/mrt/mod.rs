//! MRT files (RFC 6396, RFC 8050): dumps of a table, and the updates that follow.
//!
//! [`load`] reads files in their order into one [`SourceTable`](super::SourceTable). Records are
//! read one after the other, so that memory holds the routes and never a file; of dumps that no
//! updates follow only the best way to each prefix is kept. A record that is not understood is
//! counted and stepped over; a dump that ends in the middle of a record refuses the whole load,
//! so that half a table is never used.

mod files;
mod load;
mod records;

pub use files::{Loaded, MrtError, load, read};
pub use load::Counters;
