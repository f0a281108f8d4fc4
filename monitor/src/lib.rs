//! `lastmile`: whose congestion is it?
//!
//! Packets become flow states in the kernel (or in `replay`, by the same code), and from there
//! every stage is a plain value in, plain value out:
//!
//! ```text
//! capture   ring buffer or capture file          -> Snapshot: cumulative state of one flow
//! flow      two snapshots of a flow              -> Observation: its activity in one window
//! recognise first bytes of a client                -> which video service it is
//! path      client address                       -> prefix, ISP, interconnect
//! cell      observations of one prefix           -> mergeable aggregate of one window
//! verdict   cells, baselines, hypotheses         -> whose congestion it is, with evidence
//! export    records                              -> JSON lines
//! ```
//!
//! [`engine`] owns the pure stages in their order. Only `capture::live` knows aya, and only
//! `daemon` knows tasks and the clock: everything else is given data and time as arguments.

pub mod capture;
pub mod cell;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
mod database;
pub mod engine;
pub mod evidence;
pub mod export;
pub mod flow;
pub mod judge;
mod memory;
pub mod netlink;
pub mod path;
pub mod recognise;
pub mod route;
pub mod verdict;
