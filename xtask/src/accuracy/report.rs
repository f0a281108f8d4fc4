//! What came of the incidents in machines, for docs/accuracy.md and docs/accuracy.json.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::Serialize;
use statrs::distribution::{Beta, ContinuousCDF};

use super::{
    design::{Fault, INCIDENTS},
    machines::Record,
};

/// Names that are this sure must be right this often.
const STATED: f64 = 0.95;

/// Sums over incidents.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    pub incidents: usize,
    pub names: usize,
    pub names_wrong: usize,
    /// Incidents of which a right name was said.
    pub named: usize,
    /// Sets of several segments, a window each; those with the truth; segments in all of them.
    pub sets: u64,
    pub sets_right: u64,
    pub set_sizes: u64,
}

impl Sums {
    fn add(&mut self, record: &Record) {
        let tally = &record.tally;
        self.incidents += 1;
        self.names += tally.names_right.len() + tally.names_wrong.len();
        self.names_wrong += tally.names_wrong.len();
        self.named += usize::from(!tally.names_right.is_empty());
        self.sets += tally.sets;
        self.sets_right += tally.sets_right;
        self.set_sizes += tally.set_sizes;
    }
}

/// Everything that is reported.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Incidents of the design.
    pub planned: usize,
    pub all: Sums,
    pub faults: BTreeMap<String, Sums>,
    /// Every wrong name, with its incident.
    pub wrong: Vec<(usize, String)>,
    /// With 95 % confidence.
    pub wrong_share_bound: f64,
    /// Names said with a confidence of 0.95 and more, a window each; those that were right.
    pub stated_at_095: usize,
    pub stated_at_095_right: usize,
    /// Incidents that the kernel's own counters contradicted, and that were not played again yet.
    pub refused: usize,
    pub commits: BTreeSet<String>,
}

impl Figures {
    /// Of an incident that was played more than once the last counts.
    pub fn new(records: &[Record]) -> Self {
        let last: BTreeMap<usize, &Record> = records
            .iter()
            .map(|record| (record.incident, record))
            .collect();
        let mut figures = Self {
            planned: INCIDENTS,
            ..Self::default()
        };
        for record in last.values() {
            if !record.refused.is_empty() {
                figures.refused += 1;
                continue;
            }
            figures.all.add(record);
            let fault = figures.faults.entry(record.fault.clone()).or_default();
            fault.add(record);
            let wrong = record.tally.names_wrong.iter();
            figures
                .wrong
                .extend(wrong.map(|name| (record.incident, name.clone())));
            let stated = record.tally.stated.iter();
            let sure = stated.filter(|(confidence, _)| *confidence >= STATED);
            figures.stated_at_095 += sure.clone().count();
            figures.stated_at_095_right += sure.filter(|(_, right)| *right).count();
            figures.commits.insert(record.commit.clone());
        }
        figures.wrong_share_bound = upper_bound(figures.all.names_wrong, figures.all.names);
        figures
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "## In machines\n\n\
             `cargo xtask accuracy --machines N` plays the next N of {} incidents, each in a virtual \
             machine with a real kernel's queues and TCP, real web server and players, and the daemon \
             as it is, for 65 s with windows of 5 s. Which they are stands in \
             `xtask/src/accuracy/design.rs`; what came of each in accuracy-machines.jsonl. An \
             incident in which the kernel's counters contradict the truth is played again.\n\n\
             {} of {} were played (by {}), {} more were contradicted.\n\n",
            self.planned,
            self.all.incidents,
            self.planned,
            self.commits
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", "),
            self.refused,
        );
        let _ = write!(
            text,
            "| figure | value |\n| --- | --- |\n\
             | wrong names / all names | {} of {} ({}) |\n\
             | exact 95 % bound | {} |\n\
             | sets with the truth in them | {} of {} ({}) |\n\
             | mean size of a set | {} |\n\
             | names stated at 0.95 or more that were right | {} of {} ({}) |\n\n\
             | at fault | incidents | named | wrong names | sets | with the truth | mean size |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
            self.all.names_wrong,
            self.all.names,
            percent(self.all.names_wrong as u64, self.all.names as u64),
            percent_of(self.wrong_share_bound),
            self.all.sets_right,
            self.all.sets,
            percent(self.all.sets_right, self.all.sets),
            mean(self.all.set_sizes, self.all.sets),
            self.stated_at_095_right,
            self.stated_at_095,
            percent(self.stated_at_095_right as u64, self.stated_at_095 as u64),
        );
        for fault in Fault::ALL {
            let Some(sums) = self.faults.get(fault.name()) else {
                continue;
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                fault.name(),
                sums.incidents,
                percent(sums.named as u64, sums.incidents as u64),
                sums.names_wrong,
                sums.sets,
                percent(sums.sets_right, sums.sets),
                mean(sums.set_sizes, sums.sets),
            );
        }
        for (incident, name) in &self.wrong {
            let _ = writeln!(text, "\nWrong in incident {incident}: {name}.");
        }
        text
    }
}

fn percent(part: u64, of: u64) -> String {
    if of == 0 {
        return "-".to_owned();
    }
    percent_of(part as f64 / of as f64)
}

fn percent_of(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn mean(sum: u64, of: u64) -> String {
    if of == 0 {
        return "-".to_owned();
    }
    format!("{:.2}", sum as f64 / of as f64)
}

/// The share that `part` of `of` leaves possible at 95 %, one-sided (Clopper and Pearson, 1934).
fn upper_bound(part: usize, of: usize) -> f64 {
    if part >= of {
        return 1.0;
    }
    Beta::new((part + 1) as f64, (of - part) as f64).map_or(1.0, |beta| beta.inverse_cdf(0.95))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accuracy::machines::Tally;

    fn record(incident: usize, right: &[&str], wrong: &[&str], refused: &[&str]) -> Record {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Record {
            incident,
            fault: "isp".to_owned(),
            levels: Vec::new(),
            kernel: "6.1".to_owned(),
            commit: "c".to_owned(),
            refused: owned(refused),
            tally: Tally {
                names_right: owned(right),
                names_wrong: owned(wrong),
                sets: 2,
                sets_right: 1,
                set_sizes: 5,
                stated: vec![(0.99, true), (0.5, false)],
                named_after_s: None,
            },
        }
    }

    #[test]
    fn the_last_time_counts_and_what_was_contradicted_does_not() {
        let figures = Figures::new(&[
            record(0, &[], &["host"], &["a queue was empty"]),
            record(0, &["isp"], &[], &[]),
            record(1, &[], &["last_mile"], &[]),
            record(2, &[], &[], &["a queue was empty"]),
        ]);
        assert_eq!(figures.refused, 1);
        assert_eq!(figures.wrong, [(1, "last_mile".to_owned())]);
        let expected = Sums {
            incidents: 2,
            names: 2,
            names_wrong: 1,
            named: 1,
            sets: 4,
            sets_right: 2,
            set_sizes: 10,
        };
        assert_eq!(figures.all, expected);
        assert_eq!(figures.faults["isp"], expected);
        assert_eq!((figures.stated_at_095, figures.stated_at_095_right), (2, 2));
        let text = figures.markdown();
        assert!(
            text.contains("| isp | 2 | 50.0 % | 1 | 4 | 50.0 % | 2.50 |"),
            "{text}"
        );
    }

    #[test]
    fn nothing_wrong_in_three_hundred_leaves_one_percent() {
        assert!((upper_bound(0, 299) - 0.01).abs() < 1e-4);
        assert_eq!(upper_bound(0, 0), 1.0);
    }
}
