//! What was said, held against what was true.

use std::collections::BTreeSet;

use lastmile::verdict::{Limit, Segment, Verdict};

use super::fault::{Fault, Place};
use super::incident::{LASTS, Played, Said, recurred};
use super::rivals::Name;
use super::world::World;

/// Windows after the end of a fault in which what was said of it may still be said: a client needs
/// two good windows to be good again, and hysteresis adds one.
pub const GRACE: i64 = 3;
/// Windows from the beginning within which a name must come: ten minutes.
pub const IN_TIME: i64 = 10;
/// A set is held against the truth once whoever is affected is settled.
const SETTLED: i64 = 4;

/// One method's incident.
#[derive(Clone, Debug, Default)]
pub struct Grade {
    pub names_right: u64,
    pub names_wrong: u64,
    /// The windows since the beginning at which the first right name came.
    pub first_right: Option<i64>,
    /// What was named wrongly, for people.
    pub wrong: Vec<String>,
    pub sets: u64,
    pub sets_right: u64,
    pub set_sizes: u64,
    /// `(confidence, right)` of every name in every window.
    pub stated: Vec<(f64, bool)>,
    /// Names and sets once whoever is affected is settled, and how many segments they have.
    pub answers: u64,
    pub answer_sizes: u64,
    /// The windows since the beginning at which the first right answer came: a name, a limit, or the
    /// set that no data can make smaller.
    pub first_answer: Option<i64>,
    /// A limit was named that was not the cause.
    pub limits_wrong: u64,
    pub limits_right: u64,
}

impl Grade {
    /// A right answer, `window` windows after the beginning.
    fn answer(&mut self, window: i64) {
        if window >= 0 {
            self.first_answer.get_or_insert(window);
        }
    }
}

/// Whether what is said in this window may be about a fault that there is, or just was.
fn may_be_right(played: &Played, said: &Said) -> bool {
    let lately = (0..=GRACE).any(|ago| recurred(played.recurrent, said.window - ago));
    lately || (0..LASTS as i64 + GRACE).contains(&said.window)
}

/// Grades what the engine said.
pub fn ours(played: &Played) -> Grade {
    let mut grade = Grade::default();
    let (mut right, mut wrong) = (BTreeSet::new(), BTreeSet::new());
    for said in &played.said {
        let during = may_be_right(played, said);
        for verdict in &said.verdicts {
            if verdict.degraded != Some(true) {
                continue;
            }
            for limit in &verdict.limits {
                let is_right = during
                    && played
                        .faults
                        .iter()
                        .any(|fault| limit_of(fault.place) == Some(*limit));
                if is_right {
                    grade.limits_right += 1;
                    grade.answer(said.window);
                } else {
                    grade.limits_wrong += 1;
                }
            }
            match verdict.segments.len() {
                0 => {}
                1 => {
                    let name = place_of(verdict);
                    let is_right = during && is_right(&played.world, &played.faults, &name);
                    grade.stated.push((verdict.confidence, is_right));
                    if is_right {
                        if said.window >= 0 {
                            grade.first_right.get_or_insert(said.window);
                        }
                        grade.answer(said.window);
                        right.insert(name);
                    } else {
                        wrong.insert(name);
                    }
                }
                _ if during && is_least(played, verdict) => grade.answer(said.window),
                _ => {}
            }
            let is_settled = (SETTLED..LASTS as i64).contains(&said.window);
            match verdict.segments.len() {
                size if size > 0 && is_settled => {
                    grade.answers += 1;
                    grade.answer_sizes += size as u64;
                }
                _ => {}
            }
            match verdict.segments.len() {
                0 | 1 => {}
                size if is_settled => {
                    grade.sets += 1;
                    grade.set_sizes += size as u64;
                    grade.sets_right += u64::from(contains(&played.world, &played.faults, verdict));
                }
                _ => {}
            }
        }
    }
    grade.names_right = right.len() as u64;
    grade.names_wrong = wrong.len() as u64;
    grade.wrong = wrong.iter().map(|name| format!("{name:?}")).collect();
    grade
}

/// Grades what a rival said; both of its words that cover several segments are taken for the right
/// one.
pub fn rival<'a>(played: &'a Played, names: impl Fn(&'a Said) -> &'a [Name]) -> Grade {
    let mut grade = Grade::default();
    let (mut right, mut wrong) = (BTreeSet::new(), BTreeSet::new());
    for said in &played.said {
        let during = may_be_right(played, said);
        for name in names(said) {
            if during && is_right_generously(played, name) {
                if said.window >= 0 {
                    grade.first_right.get_or_insert(said.window);
                }
                right.insert(name.clone());
            } else if said.window >= 0 {
                // While it learns it may say what it likes.
                wrong.insert(name.clone());
            }
        }
    }
    grade.names_right = right.len() as u64;
    grade.names_wrong = wrong.len() as u64;
    grade
}

/// The place of a verdict, with the first of its segments.
pub fn place_of(verdict: &Verdict) -> Name {
    Name {
        segment: *verdict
            .segments
            .first()
            .expect("what is graded has segments"),
        interconnect: verdict.place.interconnect().cloned(),
        isp: verdict.place.isp().cloned(),
        prefix: verdict.place.prefix(),
    }
}

/// The segments that a fault at `place` may be called by.
fn segments_of(place: Place) -> &'static [Segment] {
    match place {
        Place::Host => &[Segment::Host],
        Place::OwnNetwork => &[Segment::OwnNetwork],
        Place::Interconnect(_) => &[Segment::Interconnect],
        Place::BundleMember(..) => &[Segment::Interconnect, Segment::OwnNetwork],
        Place::Transit(_) | Place::Handover(_) => &[Segment::Transit],
        Place::Isp(_) => &[Segment::Isp],
        Place::AccessNode(..) => &[Segment::AccessShared],
        Place::LastMile(_) => &[Segment::LastMile],
        Place::Reverse(_) => &[Segment::ReversePath],
        Place::Proxy(_) => &[Segment::BehindProxy],
        Place::PathChange(..) | Place::Sender | Place::Receiver(_) => &[],
    }
}

fn limit_of(place: Place) -> Option<Limit> {
    match place {
        Place::Sender => Some(Limit::SenderLimited),
        // A middlebox's window is a receiver's to whoever sends.
        Place::Receiver(_) | Place::Proxy(_) => Some(Limit::ReceiverLimited),
        _ => None,
    }
}

/// Whether `name` is about what the fault is at.
fn is_about(world: &World, fault: &Fault, name: &Name) -> bool {
    let interconnect = |at: usize| {
        name.interconnect
            .as_ref()
            .is_none_or(|link| *link == world.interconnects[at].name)
    };
    let isp = |at: usize| name.isp.as_ref().is_none_or(|isp| *isp == world.isps[at]);
    match fault.place {
        Place::Host | Place::OwnNetwork | Place::Sender | Place::Receiver(_) => true,
        Place::Interconnect(at) | Place::BundleMember(at, _) | Place::Transit(at) => {
            interconnect(at)
        }
        Place::Handover(at)
        | Place::Isp(at)
        | Place::Reverse(at)
        | Place::Proxy(at)
        | Place::AccessNode(at, _)
        | Place::PathChange(at, _) => isp(at),
        Place::LastMile(at) => {
            let home = &world.homes[at];
            interconnect(home.interconnect)
                && isp(home.isp)
                && name
                    .prefix
                    .is_none_or(|prefix| prefix == home.location.unit)
        }
    }
}

/// Whether the name is that of a fault that there was.
pub fn is_right(world: &World, faults: &[Fault], name: &Name) -> bool {
    faults.iter().any(|fault| {
        segments_of(fault.place).contains(&name.segment) && is_about(world, fault, name)
    })
}

fn is_right_generously(played: &Played, name: &Name) -> bool {
    is_right(&played.world, &played.faults, name)
        || played.faults.iter().any(|fault| {
            let same_side = match name.segment {
                Segment::Host => matches!(fault.place, Place::Host | Place::OwnNetwork),
                Segment::Interconnect => matches!(
                    fault.place,
                    Place::Interconnect(_)
                        | Place::BundleMember(..)
                        | Place::Transit(_)
                        | Place::Handover(_)
                ),
                Segment::Isp | Segment::LastMile => matches!(
                    fault.place,
                    Place::Isp(_) | Place::AccessNode(..) | Place::LastMile(_)
                ),
                _ => false,
            };
            same_side && is_about(&played.world, fault, name)
        })
}

/// Whether a set is all that can be said of a fault that crosses two segments.
fn is_least(played: &Played, verdict: &Verdict) -> bool {
    let least = |place| match place {
        Place::BundleMember(..) => Some([Segment::OwnNetwork, Segment::Interconnect]),
        Place::Handover(_) => Some([Segment::Transit, Segment::Isp]),
        _ => None,
    };
    played.faults.iter().any(|fault| {
        least(fault.place).is_some_and(|least| verdict.segments == least.into())
            && is_about(&played.world, fault, &place_of(verdict))
    })
}

/// Whether a set has the segment of a fault that reaches the place it is about.
pub fn contains(world: &World, faults: &[Fault], verdict: &Verdict) -> bool {
    faults.iter().any(|fault| {
        // A longer way inside an ISP is a delay of its, though it is nobody's fault.
        let segments = match fault.place {
            Place::PathChange(..) => &[Segment::Isp],
            place => segments_of(place),
        };
        segments
            .iter()
            .any(|segment| verdict.segments.contains(segment))
            && world.homes.iter().enumerate().any(|(at, home)| {
                fault.hits(at, home, world) && verdict.place.contains(&(&home.location).into())
            })
    })
}
