//! Differences, and how much of each is explained.

use std::collections::BTreeMap;

use super::{
    rules::{Metric, Reference, Rule},
    segment::{Direction, Tuple},
};

/// Frames named for each reason, at most.
const FRAMES_NAMED: usize = 5;

/// What a rule explains of one difference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Share {
    /// Ours minus the reference's.
    pub amount: i64,
    /// Segments, or figures, it was tested on.
    pub segments: u64,
    /// The first of their frames.
    pub frames: Vec<u32>,
}

impl Share {
    fn add(&mut self, amount: i64, frame: u32) {
        self.amount += amount;
        self.segments += 1;
        if frame != 0 {
            let place = self.frames.partition_point(|known| *known < frame);
            self.frames.insert(place, frame);
            self.frames.truncate(FRAMES_NAMED);
        }
    }
}

/// One figure of ours that is not the reference's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub tuple: Tuple,
    /// `None`: about both.
    pub direction: Option<Direction>,
    pub start_us: u64,
    pub reference: Reference,
    pub metric: Metric,
    /// `None`: not measured.
    pub ours: Option<i64>,
    pub theirs: Option<i64>,
    pub explained: BTreeMap<Rule, Share>,
    /// Segments that differ and that no rule holds for; their amount is in `unexplained`.
    pub odd: Share,
    /// What ours differs from the definition: always a mistake on one of the two sides.
    pub residual: i64,
}

impl Difference {
    pub fn is_explained(&self) -> bool {
        self.odd.segments == 0 && self.residual == 0
    }
}

/// Adds up one metric of one direction over segments.
#[derive(Debug, Default)]
pub struct Balance {
    pub explained: BTreeMap<Rule, Share>,
    pub odd: Share,
}

impl Balance {
    /// One segment that counts as `ours` here and `theirs` there. `rule` is asked if they differ.
    pub fn segment(
        &mut self,
        frame: u32,
        ours: i64,
        theirs: i64,
        rule: impl FnOnce() -> Option<Rule>,
    ) {
        if ours != theirs {
            self.whole(rule(), ours - theirs, frame);
        }
    }

    /// An amount that has one reason, at a frame (0: at none).
    pub fn whole(&mut self, rule: Option<Rule>, amount: i64, frame: u32) {
        let share = match rule {
            Some(rule) => self.explained.entry(rule).or_default(),
            None => &mut self.odd,
        };
        share.add(amount, frame);
    }

    /// The difference between two totals that segments with these shares add up to; `None` where
    /// there is none and no segment is odd.
    pub fn difference(
        self,
        of: About,
        ours: Option<i64>,
        theirs: Option<i64>,
    ) -> Option<Difference> {
        let explained: i64 = self.explained.values().map(|share| share.amount).sum();
        let total = ours.unwrap_or(0) - theirs.unwrap_or(0);
        let residual = total - explained - self.odd.amount;
        let differs = ours != theirs || residual != 0 || self.odd.segments != 0;
        differs.then_some(Difference {
            tuple: of.tuple,
            direction: of.direction,
            start_us: of.start_us,
            reference: of.reference,
            metric: of.metric,
            ours,
            theirs,
            explained: self.explained,
            odd: self.odd,
            residual,
        })
    }
}

/// What a difference is about.
#[derive(Debug, Clone, Copy)]
pub struct About {
    pub tuple: Tuple,
    pub direction: Option<Direction>,
    pub start_us: u64,
    pub reference: Reference,
    pub metric: Metric,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        let ends = ["192.0.2.1:1", "192.0.2.2:2"].map(|end| end.parse().unwrap());
        About {
            tuple: Tuple::of(ends[0], ends[1]).0,
            direction: None,
            start_us: 0,
            reference: Reference::Tshark,
            metric: Metric::Retransmitted,
        }
    }

    #[test]
    fn a_rule_explains_what_it_holds_for_and_no_more() {
        let mut balance = Balance::default();
        balance.segment(1, 0, 1, || Some(Rule::SynAgain));
        balance.segment(2, 1, 1, || Some(Rule::Waiting));
        let difference = balance.difference(about(), Some(1), Some(2)).unwrap();
        assert!(difference.is_explained());
        assert_eq!(difference.explained.len(), 1);

        // Ours is 5, and nothing says why it is not 1.
        let mut balance = Balance::default();
        balance.segment(1, 0, 1, || Some(Rule::SynAgain));
        let difference = balance.difference(about(), Some(5), Some(2)).unwrap();
        assert!(!difference.is_explained());
        assert_eq!(difference.residual, 4);
    }

    #[test]
    fn two_odd_segments_do_not_make_one_even() {
        let mut balance = Balance::default();
        balance.segment(1, 0, 1, || None);
        balance.segment(2, 1, 0, || None);
        let difference = balance.difference(about(), Some(3), Some(3)).unwrap();
        assert!(!difference.is_explained());
    }

    #[test]
    fn equal_totals_over_segments_that_agree_are_no_difference() {
        assert_eq!(
            Balance::default().difference(about(), Some(3), Some(3)),
            None
        );
    }
}
