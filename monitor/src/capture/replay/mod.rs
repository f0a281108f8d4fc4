//! Capture files through the same packet code as in the kernel.

mod file;
mod packet;
mod tables;

pub use file::{CaptureError, read};
pub use packet::Captured;
pub use tables::HostTables;
