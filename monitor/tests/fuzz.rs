//! The bodies that `cargo xtask fuzz` runs for millions of inputs, here for seconds: their seeds,
//! every beginning of them, thousands of damaged ones, and bytes that mean nothing.

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "only the fuzzer writes seeds to a folder")]
mod fuzz;
mod support;

use fuzz::Target;
use support::traffic::Dice;

/// Inputs made of seeds, and of nothing: a few seconds without optimisation ...
const DAMAGED: u32 = 6_000;
/// ... or as many damaged seeds of each target as this variable says, where no fuzzer can be built.
const EXECUTIONS_VARIABLE: &str = "LASTMILE_FUZZ_EXECUTIONS";
const RANDOM: u32 = 2_000;

/// Numbers that lengths and counts go wrong at.
const INTERESTING: [u32; 8] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x0004_0000,
    0x7fff_ffff,
    0xffff_ffff,
];

fn run(target: &Target) {
    run_one_in(1, target);
}

/// The same with one in so many of the inputs.
fn run_one_in(thin: u32, target: &Target) {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    for seed in &seeds {
        for len in (0..=seed.len()).step_by(thin as usize) {
            try_one(target, &seed[..len]);
        }
    }
    let mut dice = Dice(1);
    let damaged = match std::env::var(EXECUTIONS_VARIABLE) {
        Ok(count) => count.parse().expect("a number of executions"),
        Err(_) => DAMAGED / thin,
    };
    for _ in 0..damaged {
        let mut input = seeds[dice.below(seeds.len() as u32) as usize].clone();
        for _ in 0..=dice.below(4) {
            damage(&mut input, &seeds, &mut dice);
        }
        try_one(target, &input);
    }
    println!("{}: {damaged} damaged inputs", target.name);
    for _ in 0..RANDOM / thin {
        let len = dice.below(300) as usize;
        let input: Vec<u8> = (0..len).map(|_| dice.next() as u8).collect();
        try_one(target, &input);
    }
}

/// Says which input it was, as `cargo xtask fuzz` would leave it in a file.
fn try_one(target: &Target, input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| (target.run)(input));
    assert!(outcome.is_ok(), "{} fails on {input:02x?}", target.name);
}

/// One of the changes that libFuzzer makes too.
fn damage(input: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len() as u32 + 1) as usize;
    let len = 1 + dice.below(40) as usize;
    let end = input.len().min(at + len);
    match dice.below(6) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => {
            let number = INTERESTING[dice.below(INTERESTING.len() as u32) as usize];
            let octets = if dice.falls(500) {
                number.to_le_bytes()
            } else {
                number.to_be_bytes()
            };
            for (byte, octet) in input[at..].iter_mut().zip(octets) {
                *byte = octet;
            }
        }
        2 => {
            input.drain(at..end);
        }
        3 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        4 => {
            let other = &seeds[dice.below(seeds.len() as u32) as usize];
            let from = dice.below(other.len() as u32 + 1) as usize;
            input.truncate(at);
            input.extend(&other[from..]);
        }
        _ => input.truncate(at),
    }
}

#[test]
fn frames_of_any_bytes_say_what_they_hold_or_why_not() {
    run(&fuzz::PACKET);
}

#[test]
fn any_conversation_leaves_states_that_make_sense() {
    run(&fuzz::TRACKER);
}

#[test]
fn captures_of_any_bytes_are_read_to_their_damage_and_each_flow_ends_once() {
    run(&fuzz::CAPTURE);
}

#[test]
fn captures_of_any_bytes_are_judged_window_by_window() {
    // Each silence of a capture is many windows.
    run_one_in(3, &fuzz::WINDOWS);
}

#[test]
fn bmp_of_any_bytes_leaves_the_table_that_its_messages_make() {
    run(&fuzz::BMP);
}

#[test]
fn mrt_of_any_bytes_leaves_the_table_that_its_records_make() {
    run(&fuzz::MRT);
}

#[test]
fn tls_of_any_bytes_has_a_name_or_none() {
    run(&fuzz::CLIENT_HELLO);
}

#[test]
fn requests_of_any_bytes_have_a_host_or_none() {
    run(&fuzz::HTTP);
}

#[test]
fn quic_of_any_bytes_has_a_name_or_none() {
    run(&fuzz::QUIC);
}
