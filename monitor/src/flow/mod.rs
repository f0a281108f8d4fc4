//! From cumulative flow states to what one flow did in one window.
//!
//! [`FlowTable`] keeps the last state of every flow, takes differences ([`totals`]), fixes the
//! roles of the two ends ([`roles`]) and yields one [`Observation`] a flow a window.
//! [`admission`] decides how many new flows are measured. [`chunk`] follows the responses in it. [`baseline`] remembers what is usual for a cell, [`own`] for each client in it.

pub mod admission;
pub mod baseline;
pub mod chunk;
pub mod histogram;
pub mod own;
pub mod roles;
pub mod session;
mod table;
pub mod totals;
pub mod transition;

use std::net::IpAddr;

pub use roles::{Roles, Vantage};
pub use table::{Closed, Flow, FlowTable, Rerouted, Secret};
pub use totals::Totals;

use crate::path::Location;

/// Why a flow is no longer watched.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// Both sides, or one and then silence, said they were done.
    Fin,
    /// One side aborted.
    Rst,
    /// No packet for `flows.idle_s`.
    Idle,
    /// The kernel's table needed the room, or the same ports began anew unnoticed.
    Evicted,
    /// The interface it was seen on went away.
    InterfaceGone,
    /// The capture ended.
    EndOfCapture,
}

/// A flow's part in a route experiment.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Sent as it would have been without.
    DefaultWay,
    /// Marked, so that it was sent another way.
    OtherWay,
    /// It has sent nothing yet.
    Waiting,
}

/// One flow's activity in one window.
#[derive(Clone, Debug)]
pub struct Observation {
    /// How many flows it stands for (see [`Flow::stands_for`]).
    pub stands_for: u32,
    pub client: IpAddr,
    /// `None`: no route is known for the client.
    pub location: Option<Location>,
    /// Its part in a route experiment.
    pub arm: Option<Arm>,
    /// The client's traffic took this way for a part of the window only.
    pub rerouted: bool,
    /// Data toward the client and what its ACKs revealed, in this window.
    pub to_client: Totals,
    /// Data from the client, in this window.
    pub to_server: Totals,
    /// The chunks that were asked for in this window.
    pub chunks: chunk::Figures,
    /// The flow's handshake RTT, in the window in which it was first seen, µs.
    pub handshake_rtt_us: Option<u32>,
}
