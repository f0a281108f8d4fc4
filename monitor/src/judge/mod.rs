//! `lastmile judge`: verdicts from the cell logs of any number of hosts.
//!
//! One host is often too thin: its prefixes have too few clients, its interconnects one ISP each.
//! The engine knows cells only, so it judges those that several hosts logged as it judges one
//! host's.
//!
//! ```text
//! logs      lines of files, window by window over all of them      : Part, VerdictRecord
//! part      one host's cell record, checked                        : Part
//! window    the parts of one window, merged                        : Merged
//! hosts     hosts that are in trouble themselves                     : Verdict
//! run       all of it, from the command line to standard output
//! ```

mod hosts;
mod logs;
mod part;
mod run;
#[cfg(test)]
mod tests;
mod window;

pub use part::stand_in;
pub use run::run;
