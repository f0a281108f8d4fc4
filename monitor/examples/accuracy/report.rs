//! The figures, and how they are shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use statrs::distribution::{Beta, ContinuousCDF};

use super::simulator::days::Days;
use super::simulator::design::FROZEN;
use super::simulator::fault::{Place, Queue};
use super::simulator::grade::{Grade, IN_TIME};
use super::simulator::handover_2014::Evenings;
use super::simulator::incident::{Incident, Kind, Played, Without};
use super::simulator::separable::{is_compared, is_separable};

/// What the figures are about.
const INTRODUCTION: &str = "\
# How often verdicts are right

`cargo xtask accuracy` writes this file and accuracy.json.

## Simulated

Networks, faults and TCP's answer to them are models (`monitor/examples/accuracy/simulator/`), what
judges is the engine that the daemon runs, with its default thresholds; only the time in which it
learns what is usual is shorter. Which incidents are played is fixed by `design.rs` before any of
them is: every kind of fault equally often, a tenth with a second fault, and by chance the topology,
RTT, queue, congestion control, whether our ports' counters are known, whether a part of each
prefix's homes is balanced onto another way (25 %), whether the fault was there while the baseline
was learned (15 %), a tenth of the flows unseen (20 %), homes that are reached one after another, and
crowds.

Rules and thresholds were made with one half of the families, the other half was held out: other
topologies (exchanges that share a reseller's port, ISPs that are reached through transits alone, a
network of eight links), queues (CoDel, and others at other places), RTTs, cubic and BBR beside each
other, and ways that become longer inside an ISP, which is no congestion. They were first played with
the rules of commit ed3efa6: 3 of 962 names were wrong, 92 % of the standing queues at interconnects
were named. What that showed was mended in rules that know nothing of families (a way back is
excluded only where three of four prefixes are slowed, clients that limit themselves stay among the
votes, a fault the size of a threshold does not come and go), a reader looked for names that an
absent comparison had passed, and of a way that becomes longer the ISP stays in every set (95.4 % of
the sets held the truth before). They were frozen as commit FROZEN has them. What follows are the
families that were held out, with another course of chance than then; those that rules were made with
are at the end.

An incident lasts 14 windows of 60 s after 30 to learn from. A *name* is a set of one segment at one
place; one that is said in any window, before, during or after, counts, once an incident. It is
right only if that segment is at fault there; during the three windows after an end it may still be
said. Of a fault that crosses several segments no single one is right: a part of a bundle may be
called `interconnect` or `own_network`, the full ports of transits into an ISP `transit`. What a
monitor at the sender can separate at all is in `separable.rs`: an interconnect, for one, where its
port is counted, where several ISPs are behind it, or where the same prefixes take another way too.

These are figures of a model. What real kernels, queues and congestion control make of it stands in
the last part.

";
const HANDOVER_2014: &str = "
`handover-2014`: an ISP is reached through two transits whose ports into it are full from 19 to 23
o'clock for two weeks, while other networks behind the same transits are fine
(`simulator/handover_2014.rs`). The right answer is {transit, isp}, recurrent.

| our ports' counters | evenings with it within 10 minutes | windows with it | evenings called recurrent | names | sets about others |
| --- | --- | --- | --- | --- | --- |
";
const TUNED: &str = "
### The families that thresholds were chosen on

";
/// Names that are this sure must be right this often.
const STATED: f64 = 0.95;

/// Sums over many incidents.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sums {
    pub incidents: u64,
    pub names: u64,
    pub names_wrong: u64,
    /// Incidents of which a right name was said, and within ten minutes.
    pub named: u64,
    pub named_in_time: u64,
    pub sets: u64,
    pub sets_right: u64,
    pub set_sizes: u64,
    pub limits_right: u64,
    pub limits_wrong: u64,
    /// Incidents with a right answer: a name, a limit, or the least set that can be said.
    pub answered: u64,
    /// Names and sets in the windows in which whoever is affected is settled.
    pub answers: u64,
    pub answer_sizes: u64,
    /// Incidents with any of those, and the sum of their mean sizes.
    pub sized: u64,
    pub mean_sizes: f64,
}

impl Sums {
    fn add(&mut self, grade: &Grade) {
        self.incidents += 1;
        self.names += grade.names_right + grade.names_wrong;
        self.names_wrong += grade.names_wrong;
        self.named += u64::from(grade.first_right.is_some());
        self.named_in_time += u64::from(grade.first_right.is_some_and(|after| after <= IN_TIME));
        self.sets += grade.sets;
        self.sets_right += grade.sets_right;
        self.set_sizes += grade.set_sizes;
        self.limits_right += grade.limits_right;
        self.limits_wrong += grade.limits_wrong;
        self.answered += u64::from(grade.first_answer.is_some());
        self.answers += grade.answers;
        self.answer_sizes += grade.answer_sizes;
        if let Some(mean) = share(grade.answer_sizes, grade.answers) {
            self.sized += 1;
            self.mean_sizes += mean;
        }
    }
}

/// What a fault at an interconnect can be told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// A queue stands, and something tells the interconnect from the ISPs behind it: the same ISPs
    /// are reached another way, or the port's own counters are known.
    StandingQueue,
    /// The same with losses alone.
    Losses,
    /// The same with marks alone.
    Marks,
    /// There is nothing to compare with: no counters, no second ISP, no second way.
    Nothing,
}

impl Told {
    fn of(played: &Played, link: usize, queue: Queue) -> Self {
        if !is_compared(played, link, queue) {
            return Self::Nothing;
        }
        match queue {
            Queue::DeepFifo | Queue::DeepFifoBbr | Queue::Red => Self::StandingQueue,
            Queue::Marks => Self::Marks,
            _ => Self::Losses,
        }
    }
}

/// Everything that is reported.
#[derive(Debug, Default)]
pub struct Report {
    seed: u64,
    skipped: u64,
    all: Sums,
    kinds: BTreeMap<Kind, Sums>,
    /// Faults at interconnects alone.
    interconnects: BTreeMap<Told, Sums>,
    /// Single faults that the data can separate from everything else.
    separable: BTreeMap<Kind, Sums>,
    rivals: BTreeMap<&'static str, Sums>,
    ablations: BTreeMap<Without, Sums>,
    stated: Vec<(f64, bool)>,
    pub days: Option<Days>,
    /// Without the counters of our ports, and with them.
    pub handover_2014: Vec<Evenings>,
}

/// What the JSON file holds.
#[derive(Serialize)]
pub struct Figures<'a> {
    seed: u64,
    skipped: u64,
    ours: &'a Sums,
    wrong_share: Option<f64>,
    wrong_share_bound: f64,
    kinds: &'a BTreeMap<Kind, Sums>,
    interconnects: &'a BTreeMap<Told, Sums>,
    separable: &'a BTreeMap<Kind, Sums>,
    rivals: &'a BTreeMap<&'static str, Sums>,
    ablations: &'a BTreeMap<Without, Sums>,
    brier_score: Option<f64>,
    stated_at_095: u64,
    stated_at_095_right: u64,
    without_shared_fault: Option<Days>,
    handover_2014: &'a [Evenings],
}

impl Report {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// An incident that its world has no place for.
    pub fn skip(&mut self) {
        self.skipped += 1;
    }

    pub fn add(&mut self, incident: &Incident, played: &Played, grade: &Grade) {
        self.all.add(grade);
        // With two faults the first decides where it is counted.
        let kind = incident
            .faults
            .first()
            .map_or(Kind::None, |(kind, _)| *kind);
        self.kinds.entry(kind).or_default().add(grade);
        if let [fault] = &played.faults[..]
            && let Place::Interconnect(link) = fault.place
        {
            let told = Told::of(played, link, fault.queue);
            self.interconnects.entry(told).or_default().add(grade);
        }
        if is_separable(played) {
            self.separable.entry(kind).or_default().add(grade);
        }
        self.stated.extend(&grade.stated);
    }

    pub fn add_rival(&mut self, name: &'static str, grade: &Grade) {
        self.rivals.entry(name).or_default().add(grade);
    }

    pub fn add_ablation(&mut self, without: Without, grade: &Grade) {
        self.ablations.entry(without).or_default().add(grade);
    }

    pub fn figures(&self) -> Figures<'_> {
        let (stated, right) = self.stated_at(STATED);
        Figures {
            seed: self.seed,
            skipped: self.skipped,
            ours: &self.all,
            wrong_share: share(self.all.names_wrong, self.all.names),
            wrong_share_bound: upper_bound(self.all.names_wrong, self.all.names),
            kinds: &self.kinds,
            interconnects: &self.interconnects,
            separable: &self.separable,
            rivals: &self.rivals,
            ablations: &self.ablations,
            brier_score: self.brier_score(),
            stated_at_095: stated,
            stated_at_095_right: right,
            without_shared_fault: self.days,
            handover_2014: &self.handover_2014,
        }
    }

    /// Mean over incidents of the mean size of their answers, where the data can separate.
    fn separable_size(&self) -> Option<f64> {
        let sized = self.separable_sum(|sums| sums.sized);
        let sizes: f64 = self.separable.values().map(|sums| sums.mean_sizes).sum();
        (sized > 0).then(|| sizes / sized as f64)
    }

    fn separable_sum(&self, pick: impl Fn(&Sums) -> u64) -> u64 {
        self.separable.values().map(pick).sum()
    }

    fn stated_at(&self, confidence: f64) -> (u64, u64) {
        let sure = self.stated.iter().filter(|(said, _)| *said >= confidence);
        let right = sure.clone().filter(|(_, right)| *right).count();
        (sure.count() as u64, right as u64)
    }

    /// Mean squared distance of confidence and outcome (Brier, 1950).
    fn brier_score(&self) -> Option<f64> {
        let sum: f64 = self
            .stated
            .iter()
            .map(|(said, right)| (said - f64::from(u8::from(*right))).powi(2))
            .sum();
        (!self.stated.is_empty()).then(|| sum / self.stated.len() as f64)
    }

    /// What the families that were tuned on have to be held against.
    pub fn markdown_in_short(&self) -> String {
        let mut text = TUNED.to_owned() + &self.totals();
        self.interconnects(&mut text);
        self.methods(&mut text);
        text
    }

    /// The whole of it.
    pub fn markdown(&self) -> String {
        let mut text = INTRODUCTION.replace("FROZEN", FROZEN) + &self.totals();
        self.places(&mut text);
        self.evenings(&mut text);
        self.interconnects(&mut text);
        self.methods(&mut text);
        text
    }

    fn totals(&self) -> String {
        let mut text = String::new();
        let (stated, right) = self.stated_at(STATED);
        let _ = writeln!(
            text,
            "{} incidents, seed {}; {} more had no place in their topology\n\n\
             | figure | value |\n| --- | --- |\n\
             | wrong names / all names | {} of {} ({}) |\n\
             | exact 95 % bound | {} |\n\
             | sets with the truth in them | {} of {} ({}) |\n\
             | mean size of a set | {} |\n\
             | mean size of an answer (names and sets) where the data can separate, per incident | {} |\n\
             | the same over all answers of all windows, of which an unclear incident has many | {} |\n\
             | incidents with a name among those | {} |\n\
             | names stated at 0.95 or more that were right | {right} of {stated} ({}) |\n\
             | Brier score of names | {} |",
            self.all.incidents,
            self.seed,
            self.skipped,
            self.all.names_wrong,
            self.all.names,
            percent(share(self.all.names_wrong, self.all.names)),
            percent(Some(upper_bound(self.all.names_wrong, self.all.names))),
            self.all.sets_right,
            self.all.sets,
            percent(share(self.all.sets_right, self.all.sets)),
            number(share(self.all.set_sizes, self.all.sets)),
            number(self.separable_size()),
            number(share(
                self.separable_sum(|sums| sums.answer_sizes),
                self.separable_sum(|sums| sums.answers)
            )),
            percent(share(
                self.separable_sum(|sums| sums.named),
                self.separable_sum(|sums| sums.incidents)
            )),
            percent(share(right, stated)),
            number(self.brier_score()),
        );
        if let Some(days) = self.days {
            let _ = writeln!(
                text,
                "| accusations of a shared network where none was at fault | {} in {} ISP-days |",
                days.accusations, days.isp_days
            );
        }
        text
    }

    fn places(&self, text: &mut String) {
        *text += "\n| at fault | incidents | named | within 10 minutes | wrong names | sets | with the truth | mean size | limits, right / wrong |\n\
                 | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for (kind, sums) in &self.kinds {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} / {} |",
                name(kind),
                sums.incidents,
                percent(share(sums.named, sums.incidents)),
                percent(share(sums.named_in_time, sums.incidents)),
                sums.names_wrong,
                sums.sets,
                percent(share(sums.sets_right, sums.sets)),
                number(share(sums.set_sizes, sums.sets)),
                sums.limits_right,
                sums.limits_wrong,
            );
        }
        *text += "\n| the data can separate | incidents | named | within 10 minutes | mean size of an answer, per incident | of all answers |\n\
                 | --- | --- | --- | --- | --- | --- |\n";
        for (kind, sums) in &self.separable {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                name(kind),
                sums.incidents,
                percent(share(sums.named, sums.incidents)),
                percent(share(sums.named_in_time, sums.incidents)),
                number((sums.sized > 0).then(|| sums.mean_sizes / sums.sized as f64)),
                number(share(sums.answer_sizes, sums.answers)),
            );
        }
    }

    fn interconnects(&self, text: &mut String) {
        *text += "\n| interconnect alone at fault, told by | incidents | named | within 10 minutes |\n\
                 | --- | --- | --- | --- |\n";
        for (told, sums) in &self.interconnects {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                name(told),
                sums.incidents,
                percent(share(sums.named, sums.incidents)),
                percent(share(sums.named_in_time, sums.incidents)),
            );
        }
    }

    /// The dispute of 2014.
    fn evenings(&self, text: &mut String) {
        if self.handover_2014.is_empty() {
            return;
        }
        *text += HANDOVER_2014;
        for (evenings, ports) in self.handover_2014.iter().zip(["unknown", "known"]) {
            let _ = writeln!(
                text,
                "| {ports} | {} of {} | {} of {} | {} | {} | {} |",
                evenings.answered_in_time,
                evenings.evenings,
                evenings.windows_answered,
                evenings.windows,
                evenings.recurrent,
                evenings.names,
                evenings.others
            );
        }
    }

    fn methods(&self, text: &mut String) {
        *text += "\n| method | incidents named rightly | wrong names / all names |\n| --- | --- | --- |\n";
        let mut row = |method: &str, sums: &Sums| {
            let _ = writeln!(
                text,
                "| {method} | {} of {} ({}) | {} of {} ({}) |",
                sums.named,
                sums.incidents,
                percent(share(sums.named, sums.incidents)),
                sums.names_wrong,
                sums.names,
                percent(share(sums.names_wrong, sums.names)),
            );
        };
        row("lastmile", &self.all);
        row("BlameIt's passive rules", &self.rivals["blame_it"]);
        row("slow-start signature alone", &self.rivals["signature"]);
        for (without, sums) in &self.ablations {
            row(&format!("lastmile without {}", name(without)), sums);
        }
    }
}

fn name(value: &impl Serialize) -> String {
    lastmile::verdict::log_name(value).replace('_', " ")
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

/// The share that `part` of `of` leaves possible at 95 %, one-sided (Clopper and Pearson, 1934).
fn upper_bound(part: u64, of: u64) -> f64 {
    if part >= of {
        return 1.0;
    }
    Beta::new((part + 1) as f64, (of - part) as f64).map_or(1.0, |beta| beta.inverse_cdf(0.95))
}
