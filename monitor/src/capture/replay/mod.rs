//! Capture files through the same packet code as in the kernel.
//!
//! ```text
//! input     a file or standard input, decompressed                      : bytes
//! pcap      |
//! pcapng    one record after the other, in constant memory              : Record
//! link      what lies before the Ethernet or IP header                  : CapturedPacket
//! merge     several captures, in the order of their times
//! clock     time that goes on, whatever the time stamps say
//! tables    the packet path's tables, bounded
//! stream    packets to records: flows, or with a configuration windows
//! run       all of it, from the command line to standard output
//! ```

mod bytes;
mod clock;
mod file;
mod input;
mod link;
mod merge;
mod packet;
mod pcap;
mod pcapng;
mod progress;
mod record;
mod run;
mod stream;
mod tables;

pub use file::{Capture, CaptureError, CapturedPacket, read};
pub(crate) use input::{BytesRead, open};
pub use link::LinkType;
pub use packet::{Captured, Hook};
pub use run::run;
pub use stream::{Attribution, Stream};
pub use tables::{HostTables, News};
