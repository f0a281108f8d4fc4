//! The languages that tests are written in: packets, what a hook sees of a connection, and
//! whole connections over a lossy path.

pub mod packets;
pub mod tables;
pub mod traffic;
pub mod wire;
