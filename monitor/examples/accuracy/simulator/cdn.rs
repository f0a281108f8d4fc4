//! A fortnight at the scale of a CDN: hundreds of interconnects, thousands of ISPs, load that comes
//! and goes with the hour, homes with troubles of their own all the time, and a dozen shared faults a
//! day, some of them at once.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Instant;

use lastmile::config::Config;
use lastmile::verdict::Segment;

use super::days::{DAYS, ILL_FOR, ILLNESSES, WINDOWS_A_DAY, load};
use super::fault::{Effects, Fault, Place, Queue};
use super::grade;
use super::incident::{Course, local, ports};
use super::random::Random;
use super::rivals::Name;
use super::traffic::{self, Sending};
use super::world::{Scale, Topology, World};

/// The first day is learned from.
const FAULTY_DAYS: std::ops::Range<u64> = 1..DAYS;
const FAULTS_A_DAY: usize = 12;
/// Until every prefix has its windows of a baseline, and nobody can be accused.
const LEARNING_DAYS: u64 = 2;
/// Windows that a fault lasts.
const LASTS: std::ops::Range<f64> = 30.0..180.0;
/// Windows in which it grows.
const GROWS_FOR: f64 = 3.0;
/// A name that comes back after so many windows is another one.
const FORGOTTEN_AFTER: u64 = 30;
/// A home falls ill in one window of so many.
const ILL_ONE_IN: f64 = 20_000.0;
const QUEUES: [Queue; 6] = [
    Queue::DeepFifo,
    Queue::DeepFifoBbr,
    Queue::Red,
    Queue::ShortTailDrop,
    Queue::Codel,
    Queue::RandomLoss,
];

/// What came of it.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Fortnight {
    pub interconnects: usize,
    pub isps: usize,
    pub homes: usize,
    pub isp_days: u64,
    pub observations: u64,
    pub verdicts: u64,
    pub faults: u64,
    /// Faults of which a right name was said.
    pub faults_named: u64,
    /// Names, each once for as long as it is said; those that were wrong, and of these the ones that
    /// accuse an interconnect, a transit or an ISP.
    pub names: u64,
    pub names_wrong: u64,
    pub accusations: u64,
    /// Sets, of each window.
    pub sets: u64,
    pub sets_right: u64,
    /// Of the engine and the simulator together, s.
    pub took_s: f64,
}

/// A fault and its time, in windows.
struct Scheduled {
    fault: Fault,
    from: u64,
    to: u64,
    is_named: bool,
}

impl Scheduled {
    fn level(&self, window: u64) -> f64 {
        if !(self.from..self.to).contains(&window) {
            return 0.0;
        }
        ((window - self.from + 1) as f64 / GROWS_FOR).min(1.0)
    }

    fn may_be_said(&self, window: u64) -> bool {
        (self.from..self.to + grade::GRACE as u64).contains(&window)
    }
}

/// Plays it for so many ISPs; `tell` hears of each day.
pub fn play(isps: NonZeroUsize, seed: u64, mut tell: impl FnMut(u64, &Fortnight)) -> Fortnight {
    let (began, isps) = (Instant::now(), isps.get());
    let mut random = Random::new(seed);
    let scale = Scale {
        isps,
        prefixes: 3,
        homes: 2,
    };
    let world = World::new(Topology::Cdn, scale, 15.0, 0.05, &mut random);
    let mut faults = schedule(&world, &mut random);
    let mut ill: BTreeMap<usize, (Fault, u64)> = BTreeMap::new();
    let mut course = Course::with(Config::default());
    // By whether they were right, too: one that is said for too long becomes a wrong one.
    let mut names: BTreeMap<(Name, bool), u64> = BTreeMap::new();
    let mut fortnight = Fortnight {
        interconnects: world.interconnects.len(),
        isps,
        homes: world.homes.len(),
        isp_days: (DAYS - LEARNING_DAYS) * isps as u64,
        faults: faults.len() as u64,
        ..Fortnight::default()
    };
    for window in 0..DAYS * WINDOWS_A_DAY {
        let load = load((window % WINDOWS_A_DAY) as f64 / 60.0);
        let now: Vec<(Fault, f64)> = faults
            .iter()
            .map(|scheduled| (scheduled.fault, scheduled.level(window)))
            .filter(|(_, level)| *level > 0.0)
            .collect();
        ill.retain(|_, (_, until)| *until > window);
        let mut observations = Vec::new();
        for (at, home) in world.homes.iter().enumerate() {
            if random.chance(1.0 / ILL_ONE_IN) {
                let queue = random.pick(&ILLNESSES);
                let fault = Fault::new(Place::LastMile(at), queue, &mut random);
                ill.insert(at, (fault, window + 1 + random.index(ILL_FOR) as u64));
            }
            if !random.chance(home.watches * load) {
                continue;
            }
            let mut effects = Effects::default();
            // Links are a little fuller in the evening, and nothing waits.
            effects.queue_us.1 += 800.0 * load;
            if let Some((fault, _)) = ill.get(&at) {
                fault.apply(1.0, &mut effects);
            }
            for (fault, level) in &now {
                if fault.hits(at, home, &world) {
                    fault.apply(*level, &mut effects);
                }
            }
            let sending = Sending::Mixed.to_home(at);
            observations.push(traffic::observe(home, &effects, sending, &mut random));
        }
        fortnight.observations += observations.len() as u64;
        let full: Vec<Fault> = now.iter().map(|(fault, _)| *fault).collect();
        let counters = ports(&world, &full, 1.0, &mut random);
        let local = local(&[], 0.0);
        let said = course.engine(observations, &local, Some(&counters));
        fortnight.verdicts += said.len() as u64;
        for verdict in said.iter().filter(|it| it.degraded == Some(true)) {
            let ill = ill.values().map(|(fault, _)| *fault);
            let true_now = |scheduled: &&Scheduled| scheduled.may_be_said(window);
            let shared = faults.iter().filter(true_now).map(|it| it.fault);
            let there: Vec<Fault> = shared.chain(ill).collect();
            match verdict.segments.len() {
                0 => {}
                1 => {
                    let name = grade::place_of(verdict);
                    for scheduled in &mut faults {
                        scheduled.is_named |= scheduled.may_be_said(window)
                            && grade::is_right(&world, &[scheduled.fault], &name);
                    }
                    let is_right = grade::is_right(&world, &there, &name);
                    let last = names.insert((name.clone(), is_right), window);
                    if last.is_some_and(|last| last + FORGOTTEN_AFTER >= window) {
                        continue;
                    }
                    fortnight.names += 1;
                    if !is_right {
                        fortnight.names_wrong += 1;
                        fortnight.accusations += u64::from(matches!(
                            name.segment,
                            Segment::Interconnect | Segment::Transit | Segment::Isp
                        ));
                        println!("wrong: window {window}: {name:?}");
                    }
                }
                _ => {
                    fortnight.sets += 1;
                    fortnight.sets_right += u64::from(grade::contains(&world, &there, verdict));
                }
            }
        }
        if (window + 1).is_multiple_of(WINDOWS_A_DAY) {
            fortnight.faults_named = faults.iter().filter(|it| it.is_named).count() as u64;
            fortnight.took_s = began.elapsed().as_secs_f64();
            tell((window + 1) / WINDOWS_A_DAY, &fortnight);
        }
    }
    for Scheduled {
        fault,
        from,
        to,
        is_named,
    } in &faults
    {
        let said = if *is_named { "named" } else { "not named" };
        println!("{said}: {fault:?} from window {from} to {to}");
    }
    fortnight
}

/// When what goes wrong: written down before anything happens.
fn schedule(world: &World, random: &mut Random) -> Vec<Scheduled> {
    let mut all = Vec::new();
    let transits: Vec<usize> = (0..world.interconnects.len())
        .filter(|&at| world.interconnects[at].transit.is_some())
        .collect();
    for day in FAULTY_DAYS {
        for number in 0..FAULTS_A_DAY {
            let link = random.index(world.interconnects.len());
            let isp = random.index(world.isps.len());
            let home = &world.homes[random.index(world.homes.len())];
            let place = match number % FAULTS_A_DAY {
                0..3 => Place::Interconnect(link),
                3..6 => Place::Isp(isp),
                6 | 7 => Place::AccessNode(home.isp, home.node),
                8 => Place::BundleMember(link, random.index(super::world::MEMBERS)),
                9 => Place::Transit(random.pick(&transits)),
                10 => Place::Handover(isp),
                _ => Place::PathChange(home.isp, home.node),
            };
            let queue = random.pick(&QUEUES);
            let lasts = random.between(LASTS.start, LASTS.end) as u64;
            let from = day * WINDOWS_A_DAY + random.index((WINDOWS_A_DAY - lasts) as usize) as u64;
            all.push(Scheduled {
                fault: Fault::new(place, queue, random),
                from,
                to: from + lasts,
                is_named: false,
            });
        }
    }
    all
}
