//! What verdicts were made of, kept so that they can be recomputed and shown to the other side.
//!
//! Of every window with a verdict that is not "nothing wrong" the inputs of the decision are kept:
//! every client's comparison with what is usual and its standing, what our devices and ports
//! counted, what was missed, and the thresholds. [`Kept::verdicts`] decides again from these alone,
//! and must write the same lines, to the byte.
//!
//! ```text
//! kept      the inputs of one window, and its verdicts as they were logged
//! store     an SQLite file of them, bounded in days and bytes, and of what was learned later
//! precision how often names were right, by what was learned later
//! command   `lastmile verify`, `lastmile label`
//! ```

pub mod command;
mod kept;
pub mod precision;
pub mod store;
#[cfg(test)]
pub(crate) mod tests;

pub use kept::{Kept, KeptVerdict, Unkept};
