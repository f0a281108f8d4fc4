//! Every program loads into the running kernel and stays within the verifier's budget.

mod support;

use lastmile::capture::live::{Live, PROGRAMS};

/// Half of the verifier's limit of a million: room for the differences between kernels.
const INSTRUCTIONS_MAX: u32 = 500_000;

#[test]
fn every_program_loads_within_half_the_verifiers_budget() {
    if !support::root_or_skip("loading BPF programs") {
        return;
    }
    let mut live = Live::load(&support::small()).expect("the programs load");
    for program in PROGRAMS {
        let instructions = live
            .verified_instructions(program.name)
            .expect("the kernel knows the program")
            .expect("the kernel counts verified instructions (5.16 and later)");
        println!("{}: {instructions} verified instructions", program.name);
        assert!(
            instructions < INSTRUCTIONS_MAX,
            "{} takes {instructions} verified instructions of {INSTRUCTIONS_MAX}",
            program.name
        );
    }
}
