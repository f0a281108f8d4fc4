//! What was said, held against what was true.
//!
//! A *name* is a degraded verdict whose set holds one segment. A set that holds the truth among
//! others is honest but names nobody: it is neither right nor wrong. Wrong is every name and
//! every set that leaves the truth out, whenever it was said; before a fault there is no truth
//! to say, so there every name and every set is wrong. Where the truth is that several segments
//! cannot be told apart, the set of exactly those is right, and one without any of them is wrong.
//!
//! The *final verdict* about a truth is what most of the last [`FINAL_WINDOWS`] full windows of
//! its time say: one window may be late or thin, but a lucky last one is not enough.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::scenario::Truth;
use crate::verdict::Verdict;

/// So many full windows at the end of a truth's time decide its final verdict.
pub const FINAL_WINDOWS: usize = 3;
/// For so many windows after its end a truth may still be said: a verdict looks back two windows,
/// and players that fell behind catch up.
const SETTLE_WINDOWS: f64 = 2.0;
/// Two times closer than this are the same: clocks are read at different places.
const SAME_TIME_S: f64 = 0.01;

/// A verdict, and when its window began in seconds after the scenario's start.
#[derive(Debug, Clone)]
pub struct Said {
    /// Seconds after the start; negative before.
    pub at_s: f64,
    /// What was said.
    pub verdict: Verdict,
}

/// What became of one truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was true, in words.
    pub truth: String,
    /// The final verdict, in words.
    pub said: String,
    /// Whether that is the truth.
    pub right: bool,
}

/// How the daemon did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// One a truth; one for the whole time when nothing was wrong.
    pub answers: Vec<Answer>,
    /// Everybody who was blamed wrongly, in words, in the order of time.
    pub wrong: Vec<String>,
}

impl Outcome {
    /// Whether the final verdict is the truth and nobody else was blamed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.wrong.is_empty() && self.answers.iter().all(|answer| answer.right)
    }
}

/// The same run in figures, for a table of many.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Whatever was named, each once: those that may have been ...
    pub names_right: BTreeSet<String>,
    /// ... and those that may not.
    pub names_wrong: BTreeSet<String>,
    /// Sets of several segments in all windows; those of them that held the truth; how many segments
    /// were in all of them together.
    pub sets: u64,
    pub sets_right: u64,
    pub set_sizes: u64,
    /// Names in all windows with their confidence, and whether they were right.
    pub stated: Vec<(f64, bool)>,
    /// From the beginning of the truth to the end of the first window that named it, s.
    pub named_after_s: Option<f64>,
}

/// Counts all verdicts of a run.
#[must_use]
pub fn tally(said: &[Said], truths: &[Truth]) -> Tally {
    let mut tally = Tally::default();
    for said in said.iter().filter(|said| blames(&said.verdict)) {
        let verdict = &said.verdict;
        let truth = truths.iter().find(|truth| may_say(said, truth));
        if verdict.segments.len() > 1 {
            tally.sets += 1;
            tally.sets_right += u64::from(truth.is_some());
            tally.set_sizes += verdict.segments.len() as u64;
            continue;
        }
        let names = if truth.is_some() {
            &mut tally.names_right
        } else {
            &mut tally.names_wrong
        };
        names.insert(in_words(verdict));
        let confidence = verdict.confidence.unwrap_or_default();
        tally.stated.push((confidence, truth.is_some()));
        if let Some(truth) = truth {
            let after_s = said.at_s + verdict.window_s - truth.from_s;
            tally.named_after_s.get_or_insert(after_s);
        }
    }
    tally
}

/// Holds all verdicts of a run of `duration_s` seconds against all truths.
#[must_use]
pub fn judge(said: &[Said], truths: &[Truth], duration_s: f64) -> Outcome {
    let answers = if truths.is_empty() {
        vec![answer_nothing(said, duration_s)]
    } else {
        truths.iter().map(|truth| answer(said, truth)).collect()
    };
    let wrong = said
        .iter()
        .filter(|said| blames(&said.verdict))
        .filter(|said| !truths.iter().any(|truth| may_say(said, truth)))
        .map(|said| format!("{} at {:.0} s", in_words(&said.verdict), said.at_s))
        .collect();
    Outcome { answers, wrong }
}

/// Whether the verdict points at anybody.
fn blames(verdict: &Verdict) -> bool {
    verdict.degraded == Some(true) && !verdict.segments.is_empty()
}

/// Whether the verdict names this truth and nothing else.
fn names(verdict: &Verdict, truth: &Truth) -> bool {
    verdict.segments.len() == truth.segments.all().len() && points_at(verdict, truth)
}

/// Whether the verdict's set holds the truth, about the right place. A name must say the place; a
/// set that does not yet say it leaves it open, as it leaves the segment open.
fn points_at(verdict: &Verdict, truth: &Truth) -> bool {
    let open = verdict.segments.len() > 1;
    let agrees = |said: &Option<String>, truth: &Option<toml::Spanned<String>>| match truth {
        Some(truth) => said.as_ref().map_or(open, |said| said == truth.get_ref()),
        None => true,
    };
    blames(verdict)
        && truth
            .segments
            .all()
            .iter()
            .all(|segment| verdict.segments.contains(segment))
        && agrees(&verdict.interconnect, &truth.interconnect)
        && agrees(&verdict.isp, &truth.isp)
        && agrees(&verdict.prefix, &truth.prefix)
}

/// Whether this could be said at its time without wronging anybody.
fn may_say(said: &Said, truth: &Truth) -> bool {
    let verdict = &said.verdict;
    let settled_s = truth.to_s.get_ref() + SETTLE_WINDOWS * verdict.window_s;
    points_at(verdict, truth)
        && said.at_s + verdict.window_s > truth.from_s
        && said.at_s < settled_s
}

fn answer(said: &[Said], truth: &Truth) -> Answer {
    let windows = last_windows(said, truth.from_s, *truth.to_s.get_ref());
    let right = |window: &&Vec<&Said>| window.iter().any(|said| names(&said.verdict, truth));
    let named = windows.iter().filter(right).count();
    Answer {
        truth: truth_in_words(truth),
        said: most_said(&windows),
        right: 2 * named > FINAL_WINDOWS,
    }
}

fn answer_nothing(said: &[Said], duration_s: f64) -> Answer {
    let windows = last_windows(said, 0.0, duration_s);
    let quiet = |window: &&Vec<&Said>| {
        let mut verdicts = window.iter().map(|said| &said.verdict);
        verdicts.all(|verdict| verdict.degraded == Some(false))
    };
    let quiet = windows.iter().filter(quiet).count();
    Answer {
        truth: "nothing wrong".to_owned(),
        said: most_said(&windows),
        right: 2 * quiet > FINAL_WINDOWS,
    }
}

/// The last full windows between two times, each with all that was said about it.
fn last_windows(said: &[Said], from_s: f64, to_s: f64) -> Vec<Vec<&Said>> {
    let mut windows: BTreeMap<i64, Vec<&Said>> = BTreeMap::new();
    for said in said {
        let end_s = said.at_s + said.verdict.window_s;
        if said.at_s >= from_s - SAME_TIME_S && end_s <= to_s + SAME_TIME_S {
            let key = (said.at_s / SAME_TIME_S).round() as i64;
            windows.entry(key).or_default().push(said);
        }
    }
    let from = windows.len().saturating_sub(FINAL_WINDOWS);
    windows.into_values().skip(from).collect()
}

/// What most of the windows say; of several things in one window those that blame somebody.
fn most_said(windows: &[Vec<&Said>]) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for window in windows {
        let mut words: Vec<String> = window
            .iter()
            .filter(|said| said.verdict.degraded == Some(true))
            .map(|said| in_words(&said.verdict))
            .collect();
        words.sort();
        words.dedup();
        let words = match words.as_slice() {
            [] => "nothing wrong".to_owned(),
            words => words.join("; "),
        };
        match counts.iter_mut().find(|(known, _)| *known == words) {
            Some((_, count)) => *count += 1,
            None => counts.push((words, 1)),
        }
    }
    // Of two that are equally frequent the later one.
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map_or_else(|| "no verdict at all".to_owned(), |(words, _)| words)
}

/// A truth in words.
#[must_use]
pub fn truth_in_words(truth: &Truth) -> String {
    let mut words = match truth.segments.all() {
        [one] => one.clone(),
        several => {
            let mut several = several.to_vec();
            several.sort();
            format!("{{{}}}", several.join(", "))
        }
    };
    for part in [&truth.interconnect, &truth.isp, &truth.prefix]
        .into_iter()
        .flatten()
    {
        words.push(' ');
        words.push_str(part.get_ref());
    }
    words
}

/// A verdict in words.
#[must_use]
pub fn in_words(verdict: &Verdict) -> String {
    let place = verdict.place();
    if place.is_empty() || !blames(verdict) {
        return verdict.says();
    }
    format!("{} {place}", verdict.says())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_S: f64 = 5.0;

    /// An interconnect that is full from 25 s to 60 s.
    fn truth() -> Vec<Truth> {
        truths("segment = \"interconnect\"\ninterconnect = \"ix-east\"\nfrom_s = 25\nto_s = 60")
    }

    fn truths(text: &str) -> Vec<Truth> {
        vec![toml::from_str(text).unwrap()]
    }

    fn says(at_s: f64, segments: &[&str], interconnect: &str) -> Said {
        Said {
            at_s,
            verdict: Verdict {
                window_s: WINDOW_S,
                interconnect: (!interconnect.is_empty()).then(|| interconnect.to_owned()),
                degraded: Some(!segments.is_empty()),
                segments: segments.iter().map(|&s| s.to_owned()).collect(),
                ..Verdict::default()
            },
        }
    }

    fn nothing(from_s: f64, to_s: f64) -> Vec<Said> {
        every_window(from_s, to_s, &[], "")
    }

    fn every_window(from_s: f64, to_s: f64, segments: &[&str], interconnect: &str) -> Vec<Said> {
        let count = ((to_s - from_s) / WINDOW_S) as usize;
        let at = |index: usize| from_s + WINDOW_S * index as f64;
        (0..count)
            .map(|index| says(at(index), segments, interconnect))
            .collect()
    }

    fn lead_in_then(segments: &[&str], interconnect: &str) -> Vec<Said> {
        let mut said = nothing(0.0, 35.0);
        said.extend(every_window(35.0, 60.0, segments, interconnect));
        said
    }

    #[test]
    fn the_truth_named_to_the_end_passes() {
        let outcome = judge(&lead_in_then(&["interconnect"], "ix-east"), &truth(), 60.0);
        assert!(outcome.passed(), "{outcome:?}");
        assert_eq!(outcome.answers[0].said, "interconnect ix-east");
    }

    #[test]
    fn the_right_segment_at_the_wrong_place_is_a_wrong_name() {
        let outcome = judge(&lead_in_then(&["interconnect"], "ix-west"), &truth(), 60.0);
        assert!(!outcome.answers[0].right);
        assert_eq!(outcome.wrong.len(), 5);
    }

    #[test]
    fn a_set_that_holds_the_truth_is_neither_right_nor_wrong() {
        let outcome = judge(
            &lead_in_then(&["interconnect", "isp"], "ix-east"),
            &truth(),
            60.0,
        );
        assert!(outcome.wrong.is_empty());
        assert!(!outcome.answers[0].right);
        assert_eq!(outcome.answers[0].said, "{interconnect, isp} ix-east");
    }

    #[test]
    fn of_a_truth_of_two_segments_only_the_set_of_both_is_right() {
        let truth = truths("segment = [\"transit\", \"isp\"]\nfrom_s = 25\nto_s = 60");
        let outcome = |segments: &[&str]| judge(&lead_in_then(segments, ""), &truth, 60.0);
        assert!(outcome(&["isp", "transit"]).passed());
        let wider = outcome(&["transit", "isp", "interconnect"]);
        assert!(wider.wrong.is_empty() && !wider.answers[0].right);
        assert_eq!(outcome(&["isp"]).wrong.len(), 5);
    }

    #[test]
    fn a_name_must_say_its_place_but_a_set_may_leave_it_open() {
        let name = judge(&lead_in_then(&["interconnect"], ""), &truth(), 60.0);
        assert_eq!(name.wrong.len(), 5);
        let set = judge(&lead_in_then(&["interconnect", "isp"], ""), &truth(), 60.0);
        assert!(set.wrong.is_empty());
    }

    #[test]
    fn a_set_that_leaves_the_truth_out_is_wrong() {
        let outcome = judge(
            &lead_in_then(&["transit", "isp"], "ix-east"),
            &truth(),
            60.0,
        );
        assert_eq!(outcome.wrong.len(), 5);
    }

    #[test]
    fn a_name_in_the_lead_in_is_wrong_even_if_it_comes_true_later() {
        let mut said = lead_in_then(&["interconnect"], "ix-east");
        said.push(says(10.0, &["interconnect"], "ix-east"));
        let outcome = judge(&said, &truth(), 60.0);
        assert_eq!(outcome.wrong, ["interconnect ix-east at 10 s"]);
        assert!(!outcome.passed());
    }

    #[test]
    fn a_window_that_reaches_into_the_fault_may_name_it() {
        let mut said = lead_in_then(&["interconnect"], "ix-east");
        said.push(says(22.0, &["interconnect"], "ix-east"));
        assert!(judge(&said, &truth(), 60.0).wrong.is_empty());
    }

    #[test]
    fn somebody_else_blamed_beside_the_truth_is_wrong() {
        let mut said = lead_in_then(&["interconnect"], "ix-east");
        said.push(says(50.0, &["last_mile"], ""));
        let outcome = judge(&said, &truth(), 60.0);
        assert!(outcome.answers[0].right);
        assert!(!outcome.passed());
    }

    #[test]
    fn a_lucky_last_window_is_not_the_final_verdict() {
        let mut said = nothing(0.0, 55.0);
        said.push(says(55.0, &["interconnect"], "ix-east"));
        assert!(!judge(&said, &truth(), 60.0).answers[0].right);
    }

    #[test]
    fn one_silent_window_among_the_last_does_not_undo_the_final_verdict() {
        let mut said = nothing(0.0, 45.0);
        said.push(says(45.0, &["interconnect"], "ix-east"));
        said.push(says(50.0, &["interconnect"], "ix-east"));
        said.push(says(55.0, &[], ""));
        assert!(judge(&said, &truth(), 60.0).passed());
    }

    #[test]
    fn a_window_that_outlasts_the_fault_does_not_decide() {
        let mut said = lead_in_then(&["interconnect"], "ix-east");
        said.extend([
            says(58.0, &[], ""),
            says(59.0, &[], ""),
            says(60.0, &[], ""),
        ]);
        assert!(judge(&said, &truth(), 60.0).passed());
    }

    #[test]
    fn nothing_wrong_must_be_said_not_merely_left_unsaid() {
        assert!(judge(&nothing(0.0, 60.0), &[], 60.0).passed());
        let outcome = judge(&[], &[], 60.0);
        assert!(!outcome.passed());
        assert_eq!(outcome.answers[0].said, "no verdict at all");
    }

    #[test]
    fn any_name_is_wrong_when_nothing_is() {
        let mut said = nothing(0.0, 60.0);
        said.push(says(20.0, &["last_mile"], ""));
        assert_eq!(judge(&said, &[], 60.0).wrong, ["last_mile at 20 s"]);
    }

    #[test]
    fn a_limit_that_is_not_the_network_blames_nobody() {
        let mut said = nothing(0.0, 60.0);
        said[2].verdict.degraded = Some(true);
        said[2].verdict.limits = vec!["sender_limited".to_owned()];
        assert!(judge(&said, &[], 60.0).passed());
    }

    #[test]
    fn a_tally_counts_names_once_and_sets_in_every_window() {
        let mut said = nothing(0.0, 35.0);
        said.extend(every_window(
            35.0,
            45.0,
            &["interconnect", "isp"],
            "ix-east",
        ));
        said.extend(every_window(45.0, 60.0, &["interconnect"], "ix-east"));
        said.push(says(50.0, &["transit", "isp"], "ix-west"));
        said.push(says(50.0, &["last_mile"], ""));
        let tally = tally(&said, &truth());
        assert_eq!((tally.sets, tally.sets_right, tally.set_sizes), (3, 2, 6));
        assert_eq!(Vec::from_iter(tally.names_right), ["interconnect ix-east"]);
        assert_eq!(Vec::from_iter(tally.names_wrong), ["last_mile"]);
        assert_eq!(tally.stated.len(), 4);
        // The window from 45 s to 50 s, of a truth from 25 s on.
        assert_eq!(tally.named_after_s, Some(25.0));
    }

    #[test]
    fn a_fault_that_is_over_may_be_said_while_things_settle_but_not_longer() {
        let truth = truths("segment = \"host\"\nfrom_s = 25\nto_s = 50");
        let mut said = nothing(0.0, 30.0);
        said.extend(every_window(30.0, 60.0, &["host"], ""));
        said.extend(nothing(60.0, 80.0));
        assert!(judge(&said, &truth, 80.0).passed());
        said.push(says(60.0, &["host"], ""));
        assert_eq!(judge(&said, &truth, 80.0).wrong, ["host at 60 s"]);
    }
}
