//! What is usual for one client, within what is usual for its cell.
//!
//! Homes of one prefix have lines of their own: a DSL home behind an interleaver is 15 ms further
//! away than the fibre beside it, every day. Held against the prefix's figures the one would look
//! a little worse than usual for ever, and the queue of the other would hide in the difference.
//! A client's own figures are learned only in windows in which its cell as a whole is as usual,
//! so that what is usual for the cell, the best of its past, keeps watch over a congestion that
//! grows slowly or comes back every evening.

use std::collections::HashMap;
use std::net::IpAddr;

use super::baseline::{Figures, Moments, Usual};

/// Windows from which a client's own figures have a spread to compare with.
const MIN_WINDOWS: u64 = 3;
/// Windows whose weight is kept: a line that was changed becomes usual after as many again.
const MAX_WINDOWS: u64 = 1_000;
/// Clients remembered for a cell: all of a /24.
const MAX_CLIENTS: usize = 256;
/// A client that was away for this part of the baseline's span is a new one.
const FORGOTTEN_AFTER: u64 = 8;
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
#[derive(Clone, Debug, Default)]
pub struct Own {
    clients: HashMap<IpAddr, Memory>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    rtt_p10_us: Moments,
    log_rate: Moments,
    /// The last window that was learned from.
    window: u64,
}

impl Own {
    /// What is usual for the client at `address`, where that is known better than `cell`.
    pub fn usual(&self, address: IpAddr, cell: &Usual) -> Usual {
        let mut usual = *cell;
        if let Some(own) = self.clients.get(&address) {
            if own.rtt_p10_us.count >= MIN_WINDOWS {
                usual.rtt_p10_us = own.rtt_p10_us;
            }
            if own.log_rate.count >= MIN_WINDOWS {
                usual.log_rate = own.log_rate;
            }
        }
        usual
    }

    /// Learns from a window in which the cell was compared with its baseline. `span` is the
    /// baseline's, in windows.
    pub fn note(&mut self, window: u64, clients: &[Lesson], span: u64) {
        self.clients
            .retain(|_, own| window.saturating_sub(own.window) <= span / FORGOTTEN_AFTER);
        let excesses = clients.iter().filter_map(|lesson| lesson.rtt_excess);
        if median(excesses.collect()).is_none_or(|excess| excess >= AS_USUAL) {
            return;
        }
        for lesson in clients {
            let known = self.clients.get(&lesson.address);
            // Whoever is known must be as usual; whoever is new must not be bad.
            let learns = match known {
                Some(own) if own.rtt_p10_us.count >= MIN_WINDOWS => lesson.good,
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
            own.note(window, &[lesson(1, 10.0, -1.2), lesson(2, 22.0, 1.2)], SPAN);
        }
        assert_eq!((usual_ms(&own, 1), usual_ms(&own, 2)), (10.0, 22.0));
        assert_eq!(usual_ms(&own, 3), 16.0, "a new one");
    }

    #[test]
    fn a_window_in_which_the_cell_is_worse_than_usual_teaches_nothing() {
        let mut own = Own::default();
        for window in 0..10 {
            own.note(window, &[lesson(1, 13.0, -0.5), lesson(2, 25.0, 1.8)], SPAN);
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
    fn who_was_away_for_long_is_a_new_client() {
        let mut own = Own::default();
        for window in 0..3 {
            own.note(window, &[lesson(1, 10.0, 0.0)], SPAN);
        }
        assert_eq!(usual_ms(&own, 1), 10.0);
        own.note(SPAN / FORGOTTEN_AFTER + 4, &[], SPAN);
        assert_eq!(usual_ms(&own, 1), 16.0);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut own = Own::default();
        for last in 0..=255 {
            for third in 0..4 {
                let mut one = lesson(last, 10.0, 0.0);
                one.address = [10, 0, third, last].into();
                own.note(1, &[one], SPAN);
            }
        }
        assert_eq!(own.clients.len(), MAX_CLIENTS);
        for window in 0..5_000 {
            own.note(window, &[lesson(0, 10.0, 0.0)], SPAN);
        }
        let kept = own.clients.values().map(|own| own.rtt_p10_us.count).max();
        assert!(kept <= Some(MAX_WINDOWS));
    }
}
