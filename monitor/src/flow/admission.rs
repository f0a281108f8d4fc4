//! How many of the new flows are admitted when there are more than can be measured.
//!
//! Flows are chosen by a keyed hash, never packets: what is measured of a flow is whole, and each
//! stands for as many as were not admitted in its place (Horvitz and Thompson, "A Generalization
//! of Sampling Without Replacement from a Finite Universe", 1952). Flows that have a state keep
//! it, whatever comes.

/// Reports that the daemon takes in a second.
const MAX_REPORTS: u64 = 200_000;
/// Losing one report in this many, for two seconds in a row, is too much: a window's end alone takes
/// longer than the ring buffer lasts.
const LOST_SHARE: u64 = 100;
const LOST_FOR_S: u32 = 2;
/// At most one new flow in 2^10: what is left of a million new flows a second is a thousand.
pub const MAX_HALVINGS: u32 = 10;
const _: () = assert!(MAX_HALVINGS <= monitor_ebpf::select::HALVINGS_MAX);
/// A tenth of the table stays free: an LRU map of the kernel evicts before it is full.
const FREE_SHARE: u64 = 10;
/// A flow that pauses for so long must still be there: whoever came since takes the place of what
/// was used least recently, which is what has ended only while there is enough of that.
const PAUSE_S: u64 = 60;
/// What would fill the whole table in this time is answered in the same second; slower, two in a row
/// must say so: of few flows a second some come together by chance.
const URGENT_S: u64 = 45;
const FILLS_FOR_S: u32 = 2;
/// So few new flows a second, as a share of the table, are no reason to turn any away.
const PACE_SHARE: u64 = 1_000;
/// Seconds of calm before twice as many are admitted; and before half as many are once more because
/// of reports, which come from flows that have a state already.
const PATIENCE_S: u32 = 30;
/// A flow that is first seen in its midst is admitted as strictly as any was in this time, because
/// it may have been turned away then. Longer than most videos' connections last.
const MEMORY_S: u32 = 600;

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub elapsed_ns: u64,
    /// Flows that got a state.
    pub created: u64,
    /// Reports that were read, and that the ring buffer had no room for.
    pub reports: u64,
    pub reports_lost: u64,
    /// Flows that had begun and not ended at the last window's end, and how many the table holds.
    pub live: u64,
    pub max: u64,
}

impl Load {
    fn per_s(&self, count: u64) -> u64 {
        let a_second = u128::from(count) * 1_000_000_000 / u128::from(self.elapsed_ns.max(1));
        u64::try_from(a_second).unwrap_or(u64::MAX)
    }

    /// What may be live at most.
    fn room(&self) -> u64 {
        self.max - self.max / FREE_SHARE
    }

    /// Whether so many flows a second push out one that pauses.
    fn fills(&self, created: u64) -> bool {
        let coming = created.saturating_mul(PAUSE_S);
        created > self.max / PACE_SHARE && self.live.saturating_add(coming) > self.room()
    }

    /// Whether there is no time to wait for another second.
    fn is_urgent(&self, created: u64) -> bool {
        self.live > self.room() || created.saturating_mul(URGENT_S) > self.max
    }

    fn is_lossy(&self) -> bool {
        self.reports_lost > self.reports / LOST_SHARE
    }

    /// Whether twice as many new flows would be too much neither.
    fn is_light(&self) -> bool {
        let twice = self.per_s(self.created).saturating_mul(2);
        self.reports_lost == 0 && self.per_s(self.reports) < MAX_REPORTS / 2 && !self.fills(twice)
    }
}

/// Decides once a second.
#[derive(Clone, Debug)]
pub struct Admissions {
    halvings: u32,
    calm_s: u32,
    lossy_s: u32,
    filling_s: u32,
    /// Seconds since there were fewer the last time.
    since_step_s: u32,
    /// Seconds since so many halvings were in force; at least [`MEMORY_S`]: they do not matter.
    ago_s: [u32; MAX_HALVINGS as usize + 1],
}

impl Default for Admissions {
    fn default() -> Self {
        Self::resumed(0, 0)
    }
}

impl Admissions {
    /// Goes on where an earlier run ended.
    pub fn resumed(halvings: u32, halvings_before: u32) -> Self {
        let mut admissions = Self {
            halvings: halvings.min(MAX_HALVINGS),
            calm_s: 0,
            lossy_s: 0,
            filling_s: 0,
            since_step_s: PATIENCE_S,
            ago_s: [MEMORY_S; MAX_HALVINGS as usize + 1],
        };
        for held in [halvings, halvings_before] {
            admissions.ago_s[held.min(MAX_HALVINGS) as usize] = 0;
        }
        admissions
    }

    /// One new flow in two to this power is admitted.
    pub fn halvings(&self) -> u32 {
        self.halvings
    }

    /// The same for flows that may have begun in the last ten minutes.
    pub fn halvings_before(&self) -> u32 {
        (0..=MAX_HALVINGS)
            .rev()
            .find(|halvings| self.ago_s[*halvings as usize] < MEMORY_S)
            .unwrap_or(self.halvings)
    }

    /// One new flow in this many is admitted.
    pub fn one_in(&self) -> u32 {
        1 << self.halvings
    }

    /// Takes what happened in a second; whether anything changed.
    pub fn next(&mut self, load: &Load) -> bool {
        let before = (self.halvings, self.halvings_before());
        self.since_step_s = (self.since_step_s + 1).min(PATIENCE_S);
        self.lossy_s = if load.is_lossy() {
            (self.lossy_s + 1).min(LOST_FOR_S)
        } else {
            0
        };
        let reports = self.lossy_s == LOST_FOR_S || load.per_s(load.reports) > MAX_REPORTS;
        let created = load.per_s(load.created);
        self.filling_s = if load.fills(created) {
            (self.filling_s + 1).min(FILLS_FOR_S)
        } else {
            0
        };
        let fills = self.filling_s == FILLS_FOR_S || self.filling_s > 0 && load.is_urgent(created);
        let is_too_much = fills || reports && self.since_step_s == PATIENCE_S;
        if is_too_much {
            self.halvings = (self.halvings + 1).min(MAX_HALVINGS);
            self.calm_s = 0;
            self.since_step_s = 0;
        } else if load.is_light() {
            self.calm_s = (self.calm_s + 1).min(PATIENCE_S);
            if self.calm_s == PATIENCE_S && self.halvings > 0 {
                self.halvings -= 1;
                self.calm_s = 0;
            }
        } else {
            self.calm_s = 0;
        }
        for ago_s in &mut self.ago_s {
            *ago_s = (*ago_s + 1).min(MEMORY_S);
        }
        self.ago_s[self.halvings as usize] = 0;
        (self.halvings, self.halvings_before()) != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Load = Load {
        elapsed_ns: 1_000_000_000,
        created: 10,
        reports: 1_000,
        reports_lost: 0,
        live: 10_000,
        max: 65_536,
    };
    const FLOOD: Load = Load {
        created: 50_000,
        ..QUIET
    };
    const LOST: Load = Load {
        reports_lost: 100,
        ..QUIET
    };

    #[test]
    fn a_flood_halves_every_second_until_the_table_no_longer_fills() {
        let mut admissions = Admissions::default();
        let mut seconds = 0;
        loop {
            let created = FLOOD.created / u64::from(admissions.one_in());
            if !admissions.next(&Load { created, ..FLOOD }) {
                break;
            }
            seconds += 1;
        }
        // 781 flows a second, for a minute, beside the 10,000 that are there: 56,860 of 58,983.
        assert_eq!((seconds, admissions.one_in()), (6, 64));
    }

    #[test]
    fn a_few_that_come_together_are_no_flood() {
        let few = Load {
            created: 18,
            live: 1,
            max: 1_024,
            ..QUIET
        };
        let none = Load { created: 0, ..few };
        let mut admissions = Admissions::default();
        for _ in 0..10 {
            assert!(!admissions.next(&few) && !admissions.next(&none));
        }
        assert!(
            !admissions.next(&few) && admissions.next(&few),
            "two in a row"
        );
        assert_eq!(admissions.one_in(), 2);
    }

    #[test]
    fn after_it_twice_as_many_are_admitted_every_half_minute_until_all_are() {
        let mut admissions = Admissions::default();
        assert!(admissions.next(&FLOOD) && admissions.next(&FLOOD));
        assert_eq!(admissions.one_in(), 4);
        let rates: Vec<u32> = (0..70)
            .map(|_| {
                admissions.next(&QUIET);
                admissions.one_in()
            })
            .collect();
        assert_eq!((rates[28], rates[29], rates[58], rates[59]), (4, 2, 2, 1));
        assert_eq!(rates[69], 1);
    }

    #[test]
    fn what_would_be_too_much_again_at_twice_the_rate_is_not_tried() {
        let mut admissions = Admissions::default();
        let created = 700;
        assert!(admissions.next(&FLOOD));
        // 42,000 more fit into the table, 84,000 do not.
        let load = Load { created, ..QUIET };
        assert!((0..1_000).all(|_| !admissions.next(&load)));
        assert_eq!(admissions.one_in(), 2);
    }

    #[test]
    fn reports_that_are_lost_count_when_they_go_on_and_then_it_takes_time_to_show() {
        let mut admissions = Admissions::default();
        let few = Load {
            reports_lost: 9,
            ..QUIET
        };
        assert!((0..10).all(|_| !admissions.next(&few)));
        // The end of a window.
        assert!(!admissions.next(&LOST) && !admissions.next(&QUIET));
        assert!(!admissions.next(&LOST) && admissions.next(&LOST));
        let changes = (0..PATIENCE_S).filter(|_| admissions.next(&LOST)).count();
        assert_eq!((changes, admissions.one_in()), (1, 4));
    }

    #[test]
    fn a_look_that_comes_late_sees_no_flood() {
        let mut admissions = Admissions::default();
        let late = Load {
            elapsed_ns: 10_000_000_000,
            created: 5_000,
            ..QUIET
        };
        assert!(!admissions.next(&late));
        let in_time = Load {
            created: 5_000,
            ..QUIET
        };
        assert!(admissions.next(&in_time));
    }

    #[test]
    fn who_was_turned_away_is_not_admitted_in_its_midst() {
        let mut admissions = Admissions::default();
        for _ in 0..3 {
            admissions.next(&FLOOD);
        }
        // It is in force until patience ends, and remembered from then on.
        for _ in 0..PATIENCE_S - 1 + MEMORY_S - 1 {
            admissions.next(&QUIET);
            assert_eq!(admissions.halvings_before(), 3);
        }
        assert_eq!(admissions.halvings(), 0);
        // What was in force in between is forgotten in its turn.
        for halvings in [2, 1] {
            assert!(admissions.next(&QUIET));
            for _ in 1..PATIENCE_S {
                assert_eq!(admissions.halvings_before(), halvings);
                assert!(!admissions.next(&QUIET));
            }
        }
        assert!(admissions.next(&QUIET));
        assert_eq!(admissions.halvings_before(), 0);
    }

    #[test]
    fn a_restart_goes_on_with_what_was_in_force() {
        let admissions = Admissions::resumed(2, 5);
        assert_eq!((admissions.one_in(), admissions.halvings_before()), (4, 5));
    }

    #[test]
    fn never_fewer_than_one_in_a_thousand() {
        let mut admissions = Admissions::default();
        for _ in 0..100 {
            admissions.next(&FLOOD);
        }
        assert_eq!(admissions.one_in(), 1 << MAX_HALVINGS);
    }

    #[test]
    fn a_full_table_with_few_new_flows_turns_nobody_away() {
        let mut admissions = Admissions::default();
        let full = Load {
            live: 65_536,
            ..QUIET
        };
        assert!(!admissions.next(&full));
    }

    /// Counting every admitted flow as often as it stands for gives the number of all, whatever
    /// the rates were when they began.
    #[test]
    fn estimates_are_unbiased_over_rates_that_change() {
        use monitor_ebpf::{
            flow::{Address, FlowKey},
            select::{Settings, admitted},
        };
        let flows = 1 << 17;
        let estimates: Vec<f64> = (0..16)
            .map(|key| {
                let estimate = (0..flows).map(|number: u32| {
                    let [_, a, b, c] = number.to_be_bytes();
                    let client = Address::v4([198, a, b, c]);
                    let server = Address::v4([192, 0, 2, 1]);
                    let (flow, _) = FlowKey::new(client, 50_000, server, 443);
                    let settings = Settings {
                        report_interval_ns: 0,
                        epoch_ns: 0,
                        epoch_offset_ns: 0,
                        sample_threshold: u32::MAX,
                        flags: 0,
                        admission_key: key,
                        // Rates come and go while they begin.
                        halvings: number >> 12 & 7,
                        halvings_before: 7,
                    };
                    admitted(&settings, &flow, true).map_or(0, |halvings| 1u64 << halvings)
                });
                estimate.sum::<u64>() as f64 / f64::from(flows)
            })
            .collect();
        let mean = estimates.iter().sum::<f64>() / estimates.len() as f64;
        // Of 2^17 flows in equal parts at rates of 1 to 1/128, one estimate's standard error is
        // 1.6 %, that of 16 is 0.4 %.
        assert!((0.98..1.02).contains(&mean), "{mean}: {estimates:?}");
    }
}
