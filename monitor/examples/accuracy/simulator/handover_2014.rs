//! The dispute of 2014 as M-Lab measured it ("ISP Interconnection and its Impact on Consumer Internet
//! Performance", 2014): an ISP is reached through two transits whose ports into it are full every
//! evening, for weeks, while other networks behind the same transits are fine.
//!
//! The right answer is {transit, isp}: the ports between the two are of both. Never the ISP alone,
//! and never our interconnects.

use std::collections::BTreeSet;

use lastmile::config::Config;
use lastmile::verdict::Segment;

use super::days::{DAYS, WINDOWS_A_DAY, load};
use super::fault::{Effects, Fault, Place, Queue};
use super::incident::{Course, local, ports};
use super::random::Random;
use super::traffic::{self, Sending};
use super::world::{Scale, Topology, World};

/// Hours in which the ports are full, and in which they fill and empty beside them.
const FULL_HOURS: std::ops::Range<f64> = 19.0..23.0;
const FILLING_HOURS: f64 = 1.0;
/// The ISP whose ports are full.
const ISP: usize = 0;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Evenings {
    pub evenings: u64,
    /// In which {transit, isp} was said of the ISP within ten minutes of the ports being full.
    pub answered_in_time: u64,
    /// Windows in which the ports were full, and of these the ones with just that answer about it.
    pub windows: u64,
    pub windows_answered: u64,
    /// Evenings whose incident was called recurrent.
    pub recurrent: u64,
    /// Names of one network, in any window.
    pub names: u64,
    /// Sets about anybody else.
    pub others: u64,
}

/// Plays the two weeks, with the counters of our ports and without.
pub fn play(with_ports: bool, seed: u64) -> Evenings {
    let mut random = Random::new(seed);
    let scale = Scale {
        isps: 4,
        prefixes: 4,
        homes: 4,
    };
    let world = World::new(Topology::TransitOnly, scale, 15.0, 0.0, &mut random);
    let fault = Fault::new(Place::Handover(ISP), Queue::DeepFifo, &mut random);
    // Weeks are learned as the daemon learns them.
    let mut course = Course::with(Config::default());
    let mut evenings = Evenings {
        evenings: DAYS,
        ..Evenings::default()
    };
    let mut answered = BTreeSet::new();
    let mut recurrent = BTreeSet::new();
    for window in 0..DAYS * WINDOWS_A_DAY {
        let (day, minute) = (window / WINDOWS_A_DAY, window % WINDOWS_A_DAY);
        let hour = minute as f64 / 60.0;
        let level = level(hour);
        let load = load(hour);
        let mut observations = Vec::new();
        for (at, home) in world.homes.iter().enumerate() {
            if !random.chance(home.watches * load) {
                continue;
            }
            let mut effects = Effects::default();
            if level > 0.0 && fault.hits(at, home, &world) {
                fault.apply(level, &mut effects);
            }
            let observation = traffic::observe(home, &effects, Sending::Cubic, &mut random);
            observations.push(observation);
        }
        let counters = ports(&world, &[], 0.0, &mut random);
        let counters = with_ports.then_some(&counters);
        let said = course.window(
            observations,
            &local(&[], 0.0),
            counters,
            window as i64,
            false,
        );
        let is_full = level >= 1.0;
        evenings.windows += u64::from(is_full);
        let mut is_answered = false;
        for verdict in said
            .verdicts
            .iter()
            .filter(|verdict| verdict.degraded == Some(true))
        {
            let is_about = verdict.place.isp() == Some(&world.isps[ISP]);
            evenings.names += u64::from(verdict.segments.len() == 1);
            evenings.others += u64::from(!is_about && !verdict.segments.is_empty());
            is_answered |= is_about && verdict.segments == [Segment::Transit, Segment::Isp].into();
        }
        if is_full && is_answered {
            evenings.windows_answered += 1;
            let since = minute - (FULL_HOURS.start * 60.0) as u64;
            if since <= IN_TIME {
                answered.insert(day);
            }
        }
        for incident in said.incidents {
            if incident.recurrent && incident.place.isp() == Some(&world.isps[ISP]) {
                recurrent.insert(day);
            }
        }
    }
    evenings.answered_in_time = answered.len() as u64;
    evenings.recurrent = recurrent.len() as u64;
    evenings
}

/// Ten minutes, in windows.
const IN_TIME: u64 = 10;

/// How full the ports are: 0 to 1.
fn level(hour: f64) -> f64 {
    let before = (FULL_HOURS.start - hour).max(hour - FULL_HOURS.end);
    (1.0 - before.max(0.0) / FILLING_HOURS).max(0.0)
}
