//! A sample of what `cargo xtask accuracy` plays by the thousand.

#[allow(dead_code, reason = "the sample uses a part of the simulator")]
#[path = "../examples/accuracy/simulator/mod.rs"]
mod simulator;

use simulator::design::{self, Families};
use simulator::{Without, grade, incident};

/// Every kind of fault three times.
const INCIDENTS: u64 = 54;

#[test]
fn no_name_is_wrong_in_a_sample_of_the_incidents_and_some_are_right() {
    let mut right = 0;
    let mut wrong = Vec::new();
    for incident in design::incidents(Families::HeldOut, INCIDENTS, 2) {
        let Some(played) = incident::play(&incident, Without::Nothing) else {
            continue;
        };
        let grade = grade::ours(&played);
        right += grade.names_right;
        wrong.extend(
            grade
                .wrong
                .into_iter()
                .map(|name| format!("{name} in {incident:?}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(right >= INCIDENTS / 5, "{right} right names");
}
