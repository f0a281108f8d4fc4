//! The packet path on the host: every header, every rule of the tracker, and any bytes at all.

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod chunks;
mod clocks;
mod conversations;
mod handshake;
mod hello;
mod hooks;
mod keys;
mod limits;
mod loss;
mod options;
mod packet;
mod prediction;
mod properties;
mod quic;
mod rtt;
mod select;
mod sequence;
mod strange;
mod timers;
