//! What a person sees while a scenario runs: one line a change.

use std::collections::BTreeSet;
use std::env;

use crate::judge::{Outcome, Said, in_words};
use crate::proof::{Phase, link_in_words};
use crate::reached::Reached;
use crate::scenario::{Scenario, Traffic};

/// Colours as terminals know them.
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// Writes the run's story to stdout.
#[derive(Debug)]
pub struct Show {
    colour: bool,
    /// When the window of the latest verdict began.
    window_s: Option<f64>,
    /// What was said in that window and in the one before.
    now: BTreeSet<String>,
    before: BTreeSet<String>,
    /// Whether the latest line said that nothing is wrong.
    quiet: bool,
}

impl Show {
    /// In colour unless `NO_COLOR` is set or the terminal is dumb.
    #[must_use]
    pub fn new() -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: !plain,
            window_s: None,
            now: BTreeSet::new(),
            before: BTreeSet::new(),
            quiet: false,
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn line(&self, at_s: f64, text: &str) {
        println!("{} {text}", self.paint(DIM, &format!("{at_s:6.1} s ")));
    }

    /// What is about to happen.
    pub fn opening(&self, scenario: &Scenario, homes: usize, prefixes: usize) {
        println!(
            "{}  {}",
            self.paint(BOLD, scenario.name.get_ref()),
            scenario.about
        );
        println!(
            "{} interconnects, {} ISPs, {prefixes} prefixes, {homes} homes; {:.0} s, windows of {:.0} s",
            scenario.interconnects.len(),
            scenario.isps.len(),
            scenario.duration_s.get_ref(),
            scenario.window_s(),
        );
    }

    /// Something of the lab's own happened.
    pub fn note(&self, at_s: f64, text: &str) {
        self.line(at_s, &self.paint(DIM, text));
    }

    /// A fault begins or ends.
    pub fn fault(&self, at_s: f64, scenario: &Scenario, index: usize, begins: bool) {
        let fault = &scenario.faults[index];
        let place = link_in_words(*fault.fills.get_ref(), fault.name());
        let text = if begins {
            let traffic = match &fault.traffic {
                Traffic::Tcp { flows, .. } => format!("{flows} bulk transfers fill"),
                Traffic::Udp { rate_mbit } => format!("a stream of {rate_mbit} Mbit/s fills"),
                Traffic::Damage { loss_share } => {
                    format!(
                        "{} % of the packets are lost at random:",
                        loss_share * 100.0
                    )
                }
                Traffic::Detour { longer_ms } => format!("{longer_ms} ms longer is now the"),
            };
            format!("-- fault begins: {traffic} {place} --")
        } else {
            format!("-- fault ends: {place} --")
        };
        self.line(at_s, &self.paint(YELLOW, &text));
    }

    /// A prefix takes another way.
    pub fn rerouted(&self, at_s: f64, words: &str) {
        self.line(at_s, &self.paint(YELLOW, &format!("-- {words} --")));
    }

    /// A verdict came; shown if it says something new.
    pub fn verdict(&mut self, at_s: f64, said: &Said) {
        if self.window_s != Some(said.at_s) {
            self.end_window(at_s);
            self.window_s = Some(said.at_s);
            self.before = std::mem::take(&mut self.now);
        }
        if said.verdict.degraded != Some(true) {
            return;
        }
        let words = in_words(&said.verdict);
        self.quiet = false;
        if self.now.insert(words.clone()) && !self.before.contains(&words) {
            let verdict = &said.verdict;
            let mut line = self.paint(BOLD, &words);
            if let Some(confidence) = verdict.confidence {
                line += &format!("  confidence {confidence:.2}");
            }
            if let Some(evidence) = verdict.main_evidence() {
                line += &self.paint(DIM, &format!("  {evidence}"));
            }
            self.line(at_s, &line);
        }
    }

    /// All verdicts of a window are there: if none of them was degraded, nothing is wrong.
    fn end_window(&mut self, at_s: f64) {
        if self.window_s.is_some() && self.now.is_empty() && !self.quiet {
            self.quiet = true;
            self.line(at_s, &self.paint(GREEN, "nothing wrong"));
        }
    }

    /// What the queues and the players say about the truth.
    pub fn proof(&self, phases: &[Phase], viewers: &[String]) {
        println!("\n{}", self.paint(BOLD, "the network, by its own counters"));
        for phase in phases {
            println!("  {:.0} s to {:.0} s", phase.from_s, phase.to_s);
            let mut others = 0;
            for load in &phase.loads {
                let is_full = phase.is_full(load);
                // The busiest of the others is enough.
                others += usize::from(!is_full);
                if is_full || others == 1 {
                    println!(
                        "    {} {}: wait {:.1} ms, {} dropped ({:.2} %), {:.1} Mbit/s",
                        if is_full { "full" } else { "busiest other" },
                        load.label(),
                        load.waiting_ms,
                        load.drops,
                        load.dropped * 100.0,
                        load.mbit
                    );
                }
            }
        }
        println!("{}", self.paint(BOLD, "the viewers"));
        for line in viewers {
            println!("  {line}");
        }
    }

    /// What was true and what was said.
    pub fn outcome(&self, outcome: &Outcome, reached: &Reached) {
        let answers = || outcome.answers.iter().chain(&reached.answers);
        let width = |words: &mut dyn Iterator<Item = usize>| words.max().unwrap_or(0).max(13);
        let true_width = width(&mut answers().map(|a| a.truth.len()));
        let said_width = width(&mut answers().map(|a| a.said.len()));
        println!();
        println!(
            "{}",
            self.paint(
                BOLD,
                &format!(
                    "{:true_width$}  {:said_width$}",
                    "what was true", "what was said"
                )
            )
        );
        for answer in answers() {
            let mark = if answer.right {
                self.paint(GREEN, "right")
            } else {
                self.paint(RED, "not the truth")
            };
            println!(
                "{:true_width$}  {:said_width$}  {mark}",
                answer.truth, answer.said
            );
        }
        if outcome.wrong.is_empty() {
            println!("nobody else was blamed");
        }
        for wrong in &outcome.wrong {
            println!("{} {wrong}", self.paint(RED, "wrongly blamed:"));
        }
        if reached.wrong.is_empty() {
            println!(
                "{} flow records, each with the right interconnect",
                reached.right
            );
        }
        for wrong in &reached.wrong {
            println!("{} {wrong}", self.paint(RED, "wrong route:"));
        }
    }
}

impl Default for Show {
    fn default() -> Self {
        Self::new()
    }
}
