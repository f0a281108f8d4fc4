//! The way to a client: which prefix it is in, whose network that is, and through which
//! interconnect its traffic leaves us.
//!
//! ```text
//! csv_file, toml_file ─┐
//! bmp ──► rib ─────────┼─► SourceTable (one a source) ─┐
//! mrt ─────────────────┘                               ├─► Routes::locate ─► Location
//! fib (this host's own routes) ────────────────────────┤
//! rules (interconnects), names (ISPs) ─────────────────┘
//! ```
//!
//! Each source says what it knows as [`Path`]s in a [`SourceTable`] of its own. [`Routes`] asks
//! each of them for its longest match and merges the answers:
//!
//! * *Who* (origin AS, ISP) comes from the first of file, BMP and MRT that knows it. A default
//!   route tells nobody's origin.
//! * *The way* (interconnect): a file's own word wins; else the rules of the configuration are
//!   tried on the merged attributes (interface and next hop from the kernel's routes where they
//!   are used, BGP attributes from BMP before MRT); else it gets a stable name made of neighbour
//!   and next hop.
//! * Without an origin there is no [`Location`]: an unknown ISP is never blamed.
//!
//! Tables are immutable for their readers: a new [`Routes`] is swapped in, so that readers never
//! wait. Everything here is pure: no clock, socket or task.

mod attributes;
pub mod bmp;
mod csv_file;
mod cursor;
pub mod experiment;
pub mod fib;
pub mod followed;
pub mod history;
mod intern;
pub mod mrt;
mod names;
mod nlri;
pub mod ports;
mod publish;
pub mod rib;
mod route;
mod rules;
mod table;
mod toml_file;
mod update;
mod view;

use std::net::IpAddr;

use ipnet::IpNet;

pub use csv_file::{Elsewhere, FileError};
pub use intern::Paths;
pub use names::IspNames;
pub use nlri::{Family, Nlri};
pub use publish::{Changed, Publisher};
pub use route::{
    Communities, Community, Connectivity, Location, Path, Preference, Route, Source, SourceSet,
};
pub use rules::{Attributes, Interconnect, Rules};
pub use table::SourceTable;
pub use update::{Announced, Told, Update, UpdateError};
pub use view::{KernelRoutes, KernelWay, Routes, SeenFlow};

/// Length of the unit in which IPv4 clients are counted: the longest prefix that is announced
/// globally.
pub const UNIT_LENGTH_V4: u8 = 24;
/// Length of the unit in which IPv6 clients are counted: what a site gets (RFC 6177).
pub const UNIT_LENGTH_V6: u8 = 48;

/// Lengths of the units in which clients are counted, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitLengths {
    /// At most 32.
    pub v4: u8,
    /// At most 128.
    pub v6: u8,
}

impl Default for UnitLengths {
    fn default() -> Self {
        Self {
            v4: UNIT_LENGTH_V4,
            v6: UNIT_LENGTH_V6,
        }
    }
}

impl UnitLengths {
    /// The unit around `address`.
    pub fn around(self, address: IpAddr) -> IpNet {
        let length = match address {
            IpAddr::V4(_) => self.v4.min(32),
            IpAddr::V6(_) => self.v6.min(128),
        };
        IpNet::new(address, length)
            .expect("clamped to the address length")
            .trunc()
    }
}

/// The /24 or /48 around `address`.
pub fn unit(address: IpAddr) -> IpNet {
    UnitLengths::default().around(address)
}
