//! `cargo xtask conformance`: what `lastmile replay` says of captures, held against tshark and
//! tcptrace, flow by flow.
//!
//! For every capture: [`ours`] is run, [`tshark`] decodes every segment and [`tcptrace`] gives its
//! totals and marks. [`join`] brings together what is about the same flow; [`definition`] works
//! out, from tshark's decoding alone, what each segment counts as by docs/measurement.md.
//! [`against_tshark`] and [`against_tcptrace`] add up where a segment counts otherwise for a
//! reference, and ask the [`rules`] why. A difference that the rules do not add up to is
//! unexplained, and so is one between our figures and the definition.

mod against_tcptrace;
mod against_tshark;
mod captures;
mod definition;
mod difference;
mod join;
mod ours;
pub mod programs;
mod reference_output;
mod report;
mod rtt;
mod rules;
mod run;
mod segment;
mod tcptrace;
#[cfg(test)]
mod testing;
mod tshark;

pub use run::{CAPTURES_VARIABLE, Request, run};
