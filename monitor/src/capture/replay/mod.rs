//! Capture files through the same packet code as in the kernel.

mod file;
mod input;
mod link;
mod packet;
mod run;
mod tables;

pub use file::{CaptureError, read};
pub use packet::Captured;
pub use run::{Attribution, run};
pub use tables::HostTables;
