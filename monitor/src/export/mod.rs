//! What leaves the daemon: records of one schema, as JSON lines.

pub mod chunks;
mod journal;
pub mod jsonl;
pub mod metrics;
pub mod record;
pub mod render;
pub mod route;
pub mod schema;
mod time;

pub use record::Record;
pub use time::Timestamp;
