//! Two weeks at a time without any shared fault: homes have troubles of their own, load comes and
//! goes with the hour, and crowds come. Nobody's network may be accused.

use lastmile::verdict::Segment;

use super::fault::{Effects, Fault, Place, Queue};
use super::incident::{Course, local, ports};
use super::random::Random;
use super::traffic::{self, Sending};
use super::world::{Scale, Topology, World};

const ISPS: usize = 12;
pub const DAYS: u64 = 14;
pub const WINDOWS_A_DAY: u64 = 24 * 60;
/// A home falls ill in one window of so many.
const ILL_ONE_IN: f64 = 2_000.0;
/// Windows that an illness lasts, at most.
pub const ILL_FOR: usize = 60;
/// What ails it then.
pub const ILLNESSES: [Queue; 5] = [
    Queue::DeepFifo,
    Queue::DeepFifoBbr,
    Queue::FlowQueuing,
    Queue::RandomLoss,
    Queue::Policer,
];

/// What came of it.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Days {
    pub isp_days: u64,
    /// Windows in a row with the same accusation are one.
    pub accusations: u64,
}

/// Plays at least `isp_days`.
pub fn play(isp_days: u64, seed: u64) -> Days {
    let mut days = Days::default();
    let mut round = 0;
    while days.isp_days < isp_days {
        let topology =
            [Topology::Many, Topology::TwoShared, Topology::TransitOnly][round as usize % 3];
        days.accusations += fortnight(topology, seed.wrapping_add(7_777 * (round + 1)));
        days.isp_days += DAYS * ISPS as u64;
        round += 1;
    }
    days
}

/// The share of those who watch at all that do at an hour: a tenth at nine in the morning, nearly all at
/// nine in the evening.
pub fn load(hour: f64) -> f64 {
    0.5 + 0.4 * ((hour - 21.0) / 24.0 * std::f64::consts::TAU).cos()
}

fn fortnight(topology: Topology, seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let scale = Scale {
        isps: ISPS,
        prefixes: 3,
        homes: 3,
    };
    let world = World::new(topology, scale, 15.0, 0.0, &mut random);
    let mut ill: Vec<Option<(Fault, u64)>> = world.homes.iter().map(|_| None).collect();
    let mut course = Course::new();
    let mut accused: Vec<(Segment, Option<std::sync::Arc<str>>)> = Vec::new();
    let mut accusations = 0;
    for window in 0..DAYS * WINDOWS_A_DAY {
        let load = load((window % WINDOWS_A_DAY) as f64 / 60.0);
        let mut observations = Vec::new();
        for (at, home) in world.homes.iter().enumerate() {
            if ill[at].is_some_and(|(_, until)| until <= window) {
                ill[at] = None;
            }
            if ill[at].is_none() && random.chance(1.0 / ILL_ONE_IN) {
                let queue = random.pick(&ILLNESSES);
                let fault = Fault::new(Place::LastMile(at), queue, &mut random);
                ill[at] = Some((fault, window + 1 + random.index(ILL_FOR) as u64));
            }
            if !random.chance(home.watches * load) {
                continue;
            }
            let mut effects = Effects::default();
            // Links are a little fuller in the evening, and nothing waits.
            effects.queue_us.1 += 800.0 * load;
            if let Some((fault, _)) = &ill[at] {
                fault.apply(1.0, &mut effects);
            }
            observations.push(traffic::observe(
                home,
                &effects,
                Sending::Cubic,
                &mut random,
            ));
        }
        let local = local(&[], 0.0);
        let ports = ports(&world, &[], 0.0, &mut random);
        let said = course.window(observations, &local, Some(&ports), window as i64, false);
        let now: Vec<_> = said
            .verdicts
            .iter()
            .filter(|verdict| verdict.degraded == Some(true) && verdict.segments.len() == 1)
            .filter_map(|verdict| {
                let segment = *verdict.segments.first()?;
                matches!(
                    segment,
                    Segment::Interconnect | Segment::Transit | Segment::Isp
                )
                .then(|| {
                    let place = &verdict.place;
                    (segment, place.interconnect().or(place.isp()).cloned())
                })
            })
            .collect();
        accusations += now.iter().filter(|name| !accused.contains(name)).count() as u64;
        accused = now;
    }
    accusations
}
