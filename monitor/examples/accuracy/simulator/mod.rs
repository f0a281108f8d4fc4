//! Simulated networks, faults and traffic; what the engine and two simpler methods make of them.

pub mod cdn;
pub mod days;
pub mod design;
pub mod fault;
pub mod grade;
pub mod handover_2014;
pub mod incident;
pub mod random;
pub mod rivals;
pub mod separable;
pub mod traffic;
pub mod world;

pub use incident::Without;
