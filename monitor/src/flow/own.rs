//! What is usual for one client, within what is usual for its cell.
//!
//! Homes of one prefix have lines of their own: a DSL home behind an interleaver is 15 ms further
//! away than the fibre beside it, every day. Held against the prefix's figures the one would look
//! a little worse than usual for ever, and the queue of the other would hide in the difference.
//! While nothing is known of the cell, a client's own level is the lowest that it kept for some
//! windows. Later its own figures are learned only in windows in which its cell as a whole is as
//! usual, so that what is usual for the cell, the best of its past, keeps watch over a congestion
//! that grows slowly or comes back every evening.
//!
//! A client that is not known yet is one of its neighbours, and as far away as any of them may be:
//! the cell's best windows may have been those of its nearest homes alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::baseline::{Figures, Moments, Usual};

/// Windows from which a client's own figures have a spread to compare with.
const MIN_WINDOWS: u64 = 3;
/// Windows whose weight is kept: a line that was changed becomes usual after as many again.
const MAX_WINDOWS: u64 = 1_000;
/// Clients remembered for a cell: all of a /24.
const MAX_CLIENTS: usize = 256;
/// A client that was away for this part of the baseline's span is a new one.
const FORGOTTEN_AFTER: u64 = 8;
/// Clients whose levels have a spread.
const MIN_CLIENTS: u64 = 3;
/// RTTs this far apart, µs and as a share, are two levels: what does harm by default.
const LEVEL_US: f64 = 5_000.0;
const LEVEL_SHARE: f64 = 0.1;
/// A cell is as usual when the median client's excess is below this part of what does harm.
const AS_USUAL: f64 = 0.5;

/// One client's window, as it was judged.
#[derive(Clone, Copy, Debug)]
pub struct Lesson {
    pub address: IpAddr,
    pub figures: Figures,
    /// RTT over the usual, as a share of what does harm; `None` where it was not compared.
    pub rtt_excess: Option<f64>,
    pub good: bool,
    pub bad: bool,
}

impl Lesson {
    /// A window before it is judged, or one that cannot be.
    pub fn unjudged(address: IpAddr, figures: Figures) -> Self {
        Self {
            address,
            figures,
            rtt_excess: None,
            good: false,
            bad: false,
        }
    }
}

/// The clients of one cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// In an order, so that the same past always gives the same figures, to the last bit.
    clients: BTreeMap<IpAddr, Memory>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    rtt_p10_us: Moments,
    /// A lower level, until it was kept for long enough.
    lower_us: Moments,
    log_rate: Moments,
    /// The last window that was learned from.
    window: u64,
}

impl Memory {
    /// Learns from a window of which nobody can say whether it was good.
    fn find_level(&mut self, figures: &Figures) {
        self.log_rate.push(figures.log_rate);
        let Some(rtt_us) = figures.rtt_p10_us else {
            return;
        };
        let apart = |level: &Moments| LEVEL_US.max(LEVEL_SHARE * level.mean);
        let level = &self.rtt_p10_us;
        if level.count == 0 || (rtt_us - level.mean).abs() < apart(level) {
            self.rtt_p10_us.push(Some(rtt_us));
        } else if rtt_us < level.mean {
            let lower = &self.lower_us;
            if lower.count > 0 && (rtt_us - lower.mean).abs() >= apart(lower) {
                self.lower_us = Moments::default();
            }
            self.lower_us.push(Some(rtt_us));
            if self.lower_us.count >= MIN_WINDOWS {
                self.rtt_p10_us = std::mem::take(&mut self.lower_us);
            }
        }
    }

    fn is_known(&self) -> bool {
        self.rtt_p10_us.count >= MIN_WINDOWS
    }
}

impl Own {
    /// What is usual for the client at `address`, where that is known better than `cell`.
    pub fn usual(&self, address: IpAddr, cell: &Usual) -> Usual {
        let mut usual = *cell;
        let own = self.clients.get(&address);
        match own.filter(|own| own.is_known()) {
            Some(own) => usual.rtt_p10_us = own.rtt_p10_us,
            None => {
                let mut neighbours = Moments::default();
                for known in self.clients.values().filter(|own| own.is_known()) {
                    neighbours.push(Some(known.rtt_p10_us.mean));
                }
                if neighbours.count >= MIN_CLIENTS {
                    usual.rtt_p10_us = neighbours;
                }
            }
        }
        if let Some(own) = own.filter(|own| own.log_rate.count >= MIN_WINDOWS) {
            usual.log_rate = own.log_rate;
        }
        usual
    }

    /// Learns from a window. `compared`: the cell had a baseline to be compared with. `span` is the
    /// baseline's, in windows.
    pub fn note(&mut self, window: u64, clients: &[Lesson], compared: bool, span: u64) {
        self.clients
            .retain(|_, own| window.saturating_sub(own.window) <= span / FORGOTTEN_AFTER);
        if !compared {
            for lesson in clients {
                let known = self.clients.contains_key(&lesson.address);
                if known || self.clients.len() < MAX_CLIENTS {
                    let own = self.clients.entry(lesson.address).or_default();
                    own.window = window;
                    own.find_level(&lesson.figures);
                }
            }
            return;
        }
        let excesses = clients.iter().filter_map(|lesson| lesson.rtt_excess);
        if median(excesses.collect()).is_none_or(|excess| excess >= AS_USUAL) {
            return;
        }
        for lesson in clients {
            let known = self.clients.get(&lesson.address);
            // Whoever is known must be as usual; whoever is new must not be bad.
            let learns = match known {
                Some(own) if own.is_known() => lesson.good,
                _ => !lesson.bad,
            };
            if !learns || (known.is_none() && self.clients.len() >= MAX_CLIENTS) {
                continue;
            }
            let own = self.clients.entry(lesson.address).or_default();
            own.window = window;
            own.rtt_p10_us.push(lesson.figures.rtt_p10_us);
            own.log_rate.push(lesson.figures.log_rate);
            for moments in [&mut own.rtt_p10_us, &mut own.log_rate] {
                if moments.count > MAX_WINDOWS {
                    moments.halve();
                }
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) {
        (values[middle - 1] + upper) / 2.0
    } else {
        upper
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = 1_000;

    fn lesson(last: u8, rtt_ms: f64, rtt_excess: f64) -> Lesson {
        Lesson {
            address: [10, 0, 0, last].into(),
            figures: Figures {
                rtt_p10_us: Some(rtt_ms * 1_000.0),
                ..Figures::default()
            },
            rtt_excess: Some(rtt_excess),
            good: rtt_excess < 0.5,
            bad: rtt_excess >= 2.0,
        }
    }

    fn cell() -> Usual {
        let mut usual = Usual::default();
        for rtt_us in [10_000.0, 22_000.0, 10_000.0, 22_000.0] {
            usual.rtt_p10_us.push(Some(rtt_us));
        }
        usual
    }

    fn usual_ms(own: &Own, last: u8) -> f64 {
        own.usual([10, 0, 0, last].into(), &cell()).rtt_p10_us.mean / 1_000.0
    }

    #[test]
    fn two_homes_of_a_prefix_are_each_compared_with_themselves() {
        let mut own = Own::default();
        for window in 0..3 {
            assert_eq!(usual_ms(&own, 2), 16.0, "the cell's, at first");
            own.note(
                window,
                &[lesson(1, 10.0, -1.2), lesson(2, 22.0, 1.2)],
                true,
                SPAN,
            );
        }
        assert_eq!((usual_ms(&own, 1), usual_ms(&own, 2)), (10.0, 22.0));
        assert_eq!(usual_ms(&own, 3), 16.0, "a new one");
    }

    #[test]
    fn a_window_in_which_the_cell_is_worse_than_usual_teaches_nothing() {
        let mut own = Own::default();
        for window in 0..10 {
            own.note(
                window,
                &[lesson(1, 13.0, -0.5), lesson(2, 25.0, 1.8)],
                true,
                SPAN,
            );
        }
        assert_eq!(usual_ms(&own, 1), 16.0);
    }

    #[test]
    fn a_line_that_becomes_worse_is_not_learned() {
        let mut own = Own::default();
        let mut window = 0;
        let mut note = |own: &mut Own, rtt_ms, excess| {
            window += 1;
            own.note(
                window,
                &[
                    lesson(1, rtt_ms, excess),
                    lesson(2, 22.0, 0.0),
                    lesson(3, 9.0, 0.0),
                ],
                true,
                SPAN,
            );
        };
        for _ in 0..3 {
            note(&mut own, 10.0, 0.0);
        }
        for _ in 0..9 {
            note(&mut own, 14.0, 0.8);
        }
        assert_eq!(usual_ms(&own, 1), 10.0);
    }

    #[test]
    fn before_the_cell_is_known_a_client_is_known_by_its_lowest_level() {
        let mut own = Own::default();
        let mut window = 0;
        let mut note = |own: &mut Own, rtt_ms: f64| {
            window += 1;
            own.note(window, &[lesson(1, rtt_ms, 0.0)], false, SPAN);
        };
        for rtt_ms in [40.0, 41.0, 42.0, 20.0, 21.0, 41.0] {
            note(&mut own, rtt_ms);
        }
        assert_eq!(usual_ms(&own, 1), 41.0, "two windows may be chance");
        note(&mut own, 22.0);
        note(&mut own, 60.0);
        assert_eq!(usual_ms(&own, 1), 21.0);
    }

    #[test]
    fn a_new_client_may_be_as_far_away_as_its_neighbours() {
        let mut own = Own::default();
        for window in 0..3 {
            let near_and_far = [10.0, 20.0, 30.0].map(|rtt_ms| lesson(rtt_ms as u8, rtt_ms, 0.0));
            own.note(window, &near_and_far, false, SPAN);
        }
        let usual = own.usual([10, 0, 0, 99].into(), &cell()).rtt_p10_us;
        assert_eq!(
            (usual.count, usual.mean, usual.deviation()),
            (3, 20_000.0, 10_000.0)
        );
    }

    #[test]
    fn who_was_away_for_long_is_a_new_client() {
        let mut own = Own::default();
        for window in 0..3 {
            own.note(window, &[lesson(1, 10.0, 0.0)], true, SPAN);
        }
        assert_eq!(usual_ms(&own, 1), 10.0);
        own.note(SPAN / FORGOTTEN_AFTER + 4, &[], true, SPAN);
        assert_eq!(usual_ms(&own, 1), 16.0);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut own = Own::default();
        for last in 0..=255 {
            for third in 0..4 {
                let mut one = lesson(last, 10.0, 0.0);
                one.address = [10, 0, third, last].into();
                own.note(1, &[one], true, SPAN);
            }
        }
        assert_eq!(own.clients.len(), MAX_CLIENTS);
        for window in 0..5_000 {
            own.note(window, &[lesson(0, 10.0, 0.0)], true, SPAN);
        }
        let kept = own.clients.values().map(|own| own.rtt_p10_us.count).max();
        assert!(kept <= Some(MAX_WINDOWS));
    }
}
