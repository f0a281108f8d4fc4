//! The packet path of `lastmile`: one `no_std` library for the kernel and for `replay`.
//!
//! ```text
//! link     Ethernet or raw IP -> VLAN, QinQ, PPPoE, MPLS
//! packet   IPv4 or IPv6 -> TCP and its options                                  : Segment
//! select   is it watched? ports, prefixes, a sample of the flows
//! admit    which flows get a state, and when
//! tracker  FlowState x Segment x time -> RTT samples, loss classes, timers, slow-start features
//! chunk    requests and the responses they get                                   : Chunk
//! hello    what a client says first, handed on once a flow
//! quic     UDP/443: bytes, Initials, spin bit
//! observe  all of it for one packet, with the tables and the report
//! ```
//!
//! The BPF programs in `main.rs` give these functions a `__sk_buff` and maps; `lastmile replay`
//! gives them a slice and hash maps. They do not know which.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod admit;
pub mod bench;
pub mod chunk;
pub mod counters;
pub mod experiment;
pub mod flow;
pub mod hello;
mod link;
mod loss;
pub mod observe;
pub mod options;
pub mod packet;
pub mod prediction;
pub mod quic;
mod rtt;
mod sack;
pub mod select;
pub mod sequence;
mod timer;
pub mod tracker;
mod verifier;
