//! Incidents: what consecutive verdicts about the same place amount to.
//!
//! A verdict is about one window; whoever is called in the night wants to know since when, how
//! much of whose network, and whether it was like this before. The unit that may be wrong is the
//! incident, so it settles on what most of its windows said, and on the larger set where two are
//! as frequent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::finding::{Mechanism, Place, Segment, Verdict};
use super::scene::Vote;
use crate::cell::CellKey;

/// Windows that an incident needs to be told of: one may be chance.
const TOLD_AFTER: u32 = 2;
/// Windows without a verdict about it after which an incident is over: a client needs two good
/// ones to be good again.
const QUIET_WINDOWS: u64 = 3;
/// Incidents remembered to tell recurrent ones from new ones.
const MAX_PAST: usize = 10_000;
/// The same place is in trouble *again* when it was left alone for this long, in windows: an hour
/// of the usual length.
const APART_WINDOWS: u64 = 60;
/// Windows named as evidence; an incident of weeks has more than anybody will read.
const MAX_EVIDENCE: usize = 32;

/// What happened to an incident in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is old enough to be told of.
    Began,
    /// What it settled on, or what it is about, changed.
    Changed,
    /// It is over.
    Ended,
    /// Another incident turned out to be wider and has taken it in.
    Merged { into: u64 },
}

/// How much it affects.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scope {
    /// Prefixes with a vote in its place, and those of them that are bad: in the window with the
    /// most bad ones.
    pub prefixes: u64,
    pub prefixes_bad: u64,
    /// Flows of bad clients in that window.
    pub observations: u64,
}

/// One incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// Counts the incidents of this process.
    pub number: u64,
    pub place: Place,
    /// Number of the first window.
    pub onset: u64,
    /// The last window with a verdict about it.
    pub last: u64,
    /// Windows with a verdict about it.
    pub windows: u32,
    /// How often each set was said.
    said: BTreeMap<BTreeSet<Segment>, u32>,
    pub mechanisms: BTreeSet<Mechanism>,
    /// The confidence of the last verdict that said what it settled on.
    pub confidence: f64,
    pub scope: Scope,
    pub recurrent: bool,
    /// Windows whose verdicts said what it settled on, the last ones.
    evidence: VecDeque<(u64, BTreeSet<Segment>)>,
}

impl Incident {
    /// What most of its windows said; of two sets that were said as often the larger one.
    pub fn settled(&self) -> BTreeSet<Segment> {
        self.said
            .iter()
            .max_by_key(|(set, windows)| (**windows, set.len()))
            .map(|(set, _)| set.clone())
            .unwrap_or_default()
    }

    /// The windows whose verdicts said so, in order.
    pub fn evidence(&self) -> Vec<u64> {
        let settled = self.settled();
        self.evidence
            .iter()
            .filter(|(_, set)| *set == settled)
            .map(|(window, _)| *window)
            .collect()
    }

    fn take(&mut self, verdict: &Verdict, window: u64, scope: Scope) {
        self.windows += u32::from(self.last != window || self.windows == 0);
        self.last = window;
        *self.said.entry(verdict.segments.clone()).or_default() += 1;
        self.mechanisms.extend(&verdict.mechanisms);
        if self.evidence.len() == MAX_EVIDENCE {
            self.evidence.pop_front();
        }
        self.evidence.push_back((window, verdict.segments.clone()));
        if verdict.segments == self.settled() {
            self.confidence = verdict.confidence;
        }
        if scope.prefixes_bad >= self.scope.prefixes_bad {
            self.scope = scope;
        }
    }
}

/// An incident that is over, as far as the next one is concerned.
#[derive(Clone, Debug)]
struct Past {
    place: Place,
    last: u64,
}

/// The incidents under way, and those before.
#[derive(Clone, Debug, Default)]
pub struct Incidents {
    open: Vec<Incident>,
    past: VecDeque<Past>,
    numbers: u64,
}

impl Incidents {
    /// Takes the verdicts of one window, and the votes that they are about. `span` is how many
    /// windows back an incident still makes a later one recurrent.
    pub fn window(
        &mut self,
        verdicts: &[Verdict],
        votes: &[Vote],
        window: u64,
        span: u64,
    ) -> Vec<(News, Incident)> {
        let mut news = Vec::new();
        let mut about: Vec<&Verdict> = verdicts
            .iter()
            .filter(|verdict| verdict.degraded == Some(true) && !verdict.segments.is_empty())
            .collect();
        // The widest first: a narrower one is a part of it only if nobody speaks for the whole.
        about.sort_by_key(|verdict| width(&verdict.place));
        let votes = if about.is_empty() {
            Vec::new()
        } else {
            runs(votes)
        };
        for verdict in about {
            self.take(verdict, &votes, window, span, &mut news);
        }
        self.open.retain(|incident| {
            let over = window.saturating_sub(incident.last) >= QUIET_WINDOWS;
            if over && incident.windows >= TOLD_AFTER {
                news.push((News::Ended, incident.clone()));
                self.past.push_back(Past {
                    place: incident.place.clone(),
                    last: incident.last,
                });
            }
            !over
        });
        while self.past.len() > MAX_PAST
            || self
                .past
                .front()
                .is_some_and(|past| window.saturating_sub(past.last) > span)
        {
            self.past.pop_front();
        }
        news
    }

    /// The end of the process: whatever is under way, as it is.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open
            .iter()
            .filter(|incident| incident.windows >= TOLD_AFTER)
    }

    fn take(
        &mut self,
        verdict: &Verdict,
        votes: &[Run<'_>],
        window: u64,
        span: u64,
        news: &mut Vec<(News, Incident)>,
    ) {
        let scope = scope(&verdict.place, votes, verdict.observations);
        let place = &verdict.place;
        let known = self
            .open
            .iter()
            .position(|incident| incident.place == *place)
            .or_else(|| {
                let part = |incident: &Incident| place.covers(&incident.place);
                self.open.iter().position(part)
            })
            .or_else(|| {
                let whole =
                    |incident: &Incident| incident.place.covers(place) && incident.last != window;
                self.open.iter().position(whole)
            });
        let Some(known) = known else {
            self.numbers += 1;
            let mut incident = Incident {
                number: self.numbers,
                place: place.clone(),
                onset: window,
                last: window,
                windows: 0,
                said: BTreeMap::new(),
                mechanisms: BTreeSet::new(),
                confidence: 0.0,
                scope: Scope::default(),
                recurrent: self.was_here(place, window, span),
                evidence: VecDeque::new(),
            };
            incident.take(verdict, window, scope);
            self.open.push(incident);
            return;
        };
        let incident = &mut self.open[known];
        let before = (incident.settled(), incident.place.clone());
        let was_told = incident.windows >= TOLD_AFTER;
        if place.covers(&incident.place) && *place != incident.place {
            // What was said of a part was not said of the whole.
            incident.place = place.clone();
            incident.said.clear();
            incident.evidence.clear();
        }
        incident.take(verdict, window, scope);
        let incident = incident.clone();
        if incident.windows >= TOLD_AFTER {
            if !was_told {
                news.push((News::Began, incident.clone()));
            } else if before != (incident.settled(), incident.place.clone()) {
                news.push((News::Changed, incident.clone()));
            }
        }
        let into = incident.number;
        self.open.retain(|other| {
            let merged =
                other.number != into && other.last != window && incident.place.covers(&other.place);
            if merged && other.windows >= TOLD_AFTER {
                news.push((News::Merged { into }, other.clone()));
            }
            !merged
        });
    }

    fn was_here(&self, place: &Place, window: u64, span: u64) -> bool {
        self.past.iter().any(|past| {
            let apart = window.saturating_sub(past.last);
            (APART_WINDOWS..=span).contains(&apart)
                && (past.place.covers(place) || place.covers(&past.place))
        })
    }
}

impl Place {
    /// Whether all traffic that crosses `other` crosses this place.
    fn covers(&self, other: &Self) -> bool {
        let same = |a: Option<&std::sync::Arc<str>>, b| a.is_none() || a == b;
        same(self.interconnect(), other.interconnect())
            && same(self.isp(), other.isp())
            && (self.prefix().is_none() || self.prefix() == other.prefix())
    }
}

/// Less is wider.
fn width(place: &Place) -> u8 {
    match place {
        Place::Everything => 0,
        Place::Interconnect(_) => 1,
        Place::Isp { .. } => 2,
        Place::Pair { .. } => 3,
        Place::Prefix { .. } => 4,
    }
}

/// Votes of one interconnect and ISP that follow each other.
struct Run<'a> {
    votes: &'a [Vote],
    bad: u64,
}

fn runs(votes: &[Vote]) -> Vec<Run<'_>> {
    let is_one = |one: &Vote, next: &Vote| {
        one.cell.isp == next.cell.isp && one.cell.interconnect == next.cell.interconnect
    };
    let runs = votes.chunk_by(is_one).map(|votes| Run {
        votes,
        bad: votes.iter().filter(|vote| vote.has_bad()).count() as u64,
    });
    runs.collect()
}

fn scope(place: &Place, runs: &[Run<'_>], observations: u64) -> Scope {
    let mut scope = Scope {
        observations,
        ..Scope::default()
    };
    let is = |wanted: Option<&Arc<str>>, name: &Arc<str>| wanted.is_none_or(|it| it == name);
    for run in runs {
        let Some(CellKey {
            interconnect, isp, ..
        }) = run.votes.first().map(|vote| &vote.cell)
        else {
            continue;
        };
        if !is(place.interconnect(), interconnect) || !is(place.isp(), isp) {
            continue;
        }
        if place.prefix().is_none() {
            scope.prefixes += run.votes.len() as u64;
            scope.prefixes_bad += run.bad;
            continue;
        }
        for vote in run.votes.iter().filter(|vote| place.contains(&vote.cell)) {
            scope.prefixes += 1;
            scope.prefixes_bad += u64::from(vote.has_bad());
        }
    }
    scope
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = 20_000;

    fn pair(interconnect: &str, isp: &str) -> Place {
        Place::Pair {
            interconnect: interconnect.into(),
            isp: isp.into(),
            origin_asn: 1,
        }
    }

    fn verdict(place: Place, segments: &[Segment]) -> Verdict {
        Verdict {
            degraded: Some(true),
            segments: segments.iter().copied().collect(),
            confidence: 0.9,
            ..Verdict::about(place)
        }
    }

    /// The news of each window.
    fn course(incidents: &mut Incidents, windows: &[(u64, Vec<Verdict>)]) -> Vec<Vec<News>> {
        windows
            .iter()
            .map(|(window, verdicts)| {
                incidents
                    .window(verdicts, &[], *window, SPAN)
                    .into_iter()
                    .map(|(news, _)| news)
                    .collect()
            })
            .collect()
    }

    #[test]
    fn an_incident_begins_with_its_second_window_and_ends_after_a_silence() {
        let say = || vec![verdict(pair("a", "x"), &[Segment::Isp])];
        let mut incidents = Incidents::default();
        let windows: Vec<_> = (10..13)
            .map(|at| (at, say()))
            .chain((13..17).map(|at| (at, Vec::new())))
            .collect();
        assert_eq!(
            course(&mut incidents, &windows),
            [
                vec![],
                vec![News::Began],
                vec![],
                vec![],
                vec![],
                vec![News::Ended],
                vec![]
            ]
        );
    }

    #[test]
    fn one_window_is_no_incident() {
        let windows = [
            (10, vec![verdict(pair("a", "x"), &[Segment::Isp])]),
            (11, vec![]),
            (14, vec![]),
        ];
        let mut incidents = Incidents::default();
        assert!(course(&mut incidents, &windows).concat().is_empty());
    }

    #[test]
    fn what_becomes_known_to_be_wider_is_one_incident_since_the_first_onset() {
        let parts = || {
            vec![
                verdict(pair("a", "x"), &[Segment::Isp, Segment::Interconnect]),
                verdict(pair("a", "y"), &[Segment::Isp, Segment::Interconnect]),
            ]
        };
        let whole = || {
            vec![verdict(
                Place::Interconnect("a".into()),
                &[Segment::Interconnect],
            )]
        };
        let mut incidents = Incidents::default();
        let news = course(
            &mut incidents,
            &[(1, parts()), (2, parts()), (3, whole()), (4, whole())],
        );
        assert_eq!(news[1], [News::Began, News::Began]);
        assert_eq!(news[2], [News::Changed, News::Merged { into: 1 }]);
        let open: Vec<_> = incidents.open().collect();
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].onset, 1);
        assert_eq!(open[0].settled(), [Segment::Interconnect].into());
        assert_eq!(open[0].evidence(), [3, 4]);
    }

    #[test]
    fn it_settles_on_what_most_windows_say_and_on_the_larger_set_of_two() {
        let name = || vec![verdict(pair("a", "x"), &[Segment::Isp])];
        let set = || {
            vec![verdict(
                pair("a", "x"),
                &[Segment::Isp, Segment::Interconnect],
            )]
        };
        let mut incidents = Incidents::default();
        course(&mut incidents, &[(1, name()), (2, set())]);
        let settled = |incidents: &Incidents| {
            incidents
                .open()
                .next()
                .map(|incident| incident.settled().len())
        };
        assert_eq!(settled(&incidents), Some(2));
        course(&mut incidents, &[(3, name())]);
        assert_eq!(settled(&incidents), Some(1));
    }

    #[test]
    fn a_part_that_lasts_beside_the_whole_is_another_incident() {
        let both = || {
            vec![
                verdict(pair("b", "x"), &[Segment::Isp]),
                verdict(Place::Interconnect("a".into()), &[Segment::Interconnect]),
            ]
        };
        let mut incidents = Incidents::default();
        course(&mut incidents, &[(1, both()), (2, both())]);
        assert_eq!(incidents.open().count(), 2);
    }

    #[test]
    fn the_same_place_another_day_is_recurrent() {
        let say = || vec![verdict(pair("a", "x"), &[Segment::Isp])];
        let mut incidents = Incidents::default();
        course(
            &mut incidents,
            &[
                (1, say()),
                (2, say()),
                (10, vec![]),
                (1_441, say()),
                (1_442, say()),
            ],
        );
        assert!(incidents.open().all(|incident| incident.recurrent));
        let mut other = Incidents::default();
        course(&mut other, &[(1, say()), (2, say())]);
        assert!(other.open().all(|incident| !incident.recurrent));
    }
}
