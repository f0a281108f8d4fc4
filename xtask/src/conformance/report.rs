//! What a run prints, and the tables in docs/measurement.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context, Result};

use super::{
    captures::Capture,
    difference::{Difference, Share},
    rules::{Metric, Reference, Rule},
    run::{Compared, Outcome},
    segment::{Direction, Tuple},
};

/// Where the tables stand, below the root of the repository.
pub const DOCUMENT: &str = "docs/measurement.md";
/// Lines between which they stand.
const BEGIN: &str = "<!-- cargo xtask conformance --write-docs: begin -->";
const END: &str = "<!-- cargo xtask conformance --write-docs: end -->";

/// One capture: a line, and one for each figure that differs.
pub fn lines(capture: &Capture, outcome: &Outcome) -> String {
    let compared = match outcome {
        Outcome::Skipped(reason) => return format!("{}: skipped, {reason}\n", capture.name),
        Outcome::Compared(compared) => compared,
    };
    let mut text = format!(
        "{}: {} segments, {} flows\n",
        capture.name, compared.segments, compared.flows
    );
    for remark in &compared.remarks {
        text.push_str(&format!("  {remark}\n"));
    }
    let mut differences: Vec<&Difference> = compared.differences.iter().collect();
    differences.sort_by_key(|difference| (difference.tuple, difference.start_us));
    let mut before = None;
    for difference in differences {
        let flow = (difference.tuple, difference.start_us);
        if before != Some(flow) {
            let Tuple { low, high } = difference.tuple;
            text.push_str(&format!("  {low} - {high}\n"));
        }
        before = Some(flow);
        text.push_str(&line(difference));
    }
    for unexplained in &compared.unexplained {
        text.push_str(&format!("  UNEXPLAINED: {unexplained}\n"));
    }
    text
}

/// One figure: whose, what, how much, why.
fn line(difference: &Difference) -> String {
    let figure =
        |figure: Option<i64>| figure.map_or("none".to_owned(), |figure| figure.to_string());
    let arrow = match difference.direction {
        Some(Direction::LowToHigh) => "->",
        Some(Direction::HighToLow) => "<-",
        None => "  ",
    };
    let mut text = format!(
        "    {arrow} {}: ours {}, {} {}",
        difference.metric.name(),
        figure(difference.ours),
        difference.reference.name(),
        figure(difference.theirs)
    );
    let frames = |share: &Share| {
        let frames: Vec<_> = share.frames.iter().map(u32::to_string).collect();
        let more = if share.segments > share.frames.len() as u64 {
            ", ..."
        } else {
            ""
        };
        match &frames[..] {
            [] => String::new(),
            [frame] => format!(" (frame {frame})"),
            frames => format!(" (frames {}{more})", frames.join(", ")),
        }
    };
    for (rule, share) in &difference.explained {
        let _ = write!(
            text,
            "; {:+} {}{}",
            share.amount,
            rule.name(),
            frames(share)
        );
    }
    if difference.odd.segments > 0 {
        let odd = &difference.odd;
        let _ = write!(text, "; {:+} UNEXPLAINED{}", odd.amount, frames(odd));
    }
    if difference.residual != 0 {
        let _ = write!(
            text,
            "; {:+} UNEXPLAINED against the definition",
            difference.residual
        );
    }
    text.push('\n');
    text
}

/// Counts of one folder.
#[derive(Debug, Default)]
struct Folder {
    captures: u64,
    segments: u64,
    flows: u64,
    /// By the order of [`Reference::ALL`].
    figures: [u64; 2],
    explained: [u64; 2],
    unexplained: [u64; 2],
    /// Captures that cannot be compared at all.
    broken: u64,
}

impl Folder {
    fn add(&mut self, other: &Self) {
        self.captures += other.captures;
        self.segments += other.segments;
        self.flows += other.flows;
        self.broken += other.broken;
        for reference in 0..Reference::ALL.len() {
            self.figures[reference] += other.figures[reference];
            self.explained[reference] += other.explained[reference];
            self.unexplained[reference] += other.unexplained[reference];
        }
    }
}

/// What a rule explained.
#[derive(Debug, Default)]
struct Use {
    /// Directions of flows.
    directions: BTreeSet<(String, Tuple, u64, Option<Direction>)>,
    segments: u64,
    references: BTreeSet<Reference>,
    metrics: BTreeSet<Metric>,
}

/// Two references that differ about the same figure, and whom we agree with.
#[derive(Debug, Default)]
struct Dispute {
    ours_is: [u64; 2],
    neither: u64,
}

/// Everything that a run found.
#[derive(Debug)]
pub struct Report {
    versions: String,
    folders: BTreeMap<String, Folder>,
    skipped: u64,
    rules: BTreeMap<Rule, Use>,
    disputes: BTreeMap<Metric, Dispute>,
}

impl Report {
    pub fn new(versions: String) -> Self {
        Self {
            versions,
            folders: BTreeMap::new(),
            skipped: 0,
            rules: BTreeMap::new(),
            disputes: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, capture: &Capture, outcome: Outcome) {
        let compared = match outcome {
            Outcome::Skipped(_) => {
                self.skipped += 1;
                return;
            }
            Outcome::Compared(compared) => compared,
        };
        let mut found = Folder {
            captures: 1,
            segments: compared.segments as u64,
            flows: compared.flows as u64,
            figures: compared.figures,
            broken: u64::from(!compared.unexplained.is_empty()),
            ..Folder::default()
        };
        for difference in &compared.differences {
            let reference = difference.reference as usize;
            if difference.is_explained() {
                found.explained[reference] += 1;
            } else {
                found.unexplained[reference] += 1;
            }
            for (rule, share) in &difference.explained {
                let used = self.rules.entry(*rule).or_default();
                used.segments += share.segments;
                used.references.insert(difference.reference);
                used.metrics.insert(difference.metric);
                used.directions.insert((
                    capture.name.clone(),
                    difference.tuple,
                    difference.start_us,
                    difference.direction,
                ));
            }
        }
        self.disputes(&compared);
        let folder = self.folders.entry(capture.folder().to_owned()).or_default();
        folder.add(&found);
    }

    /// A figure that only one reference has otherwise than we do, or both in two ways.
    fn disputes(&mut self, compared: &Compared) {
        if compared.figures[Reference::Tcptrace as usize] == 0 {
            return;
        }
        let mut figures: BTreeMap<_, [Option<&Difference>; 2]> = BTreeMap::new();
        for difference in &compared.differences {
            // tcptrace's times are rounded to tenths of a millisecond.
            if matches!(
                difference.metric,
                Metric::Flows | Metric::HandshakeRtt | Metric::MinimumRtt
            ) {
                continue;
            }
            let figure = (
                difference.tuple,
                difference.start_us,
                difference.direction,
                difference.metric,
            );
            figures.entry(figure).or_default()[difference.reference as usize] = Some(difference);
        }
        for ((_, _, _, metric), both) in figures {
            let dispute = self.disputes.entry(metric).or_default();
            match both {
                [Some(tshark), Some(tcptrace)] if tshark.theirs == tcptrace.theirs => {}
                [Some(tshark), None] if tshark.ours == tshark.theirs => {}
                [None, Some(tcptrace)] if tcptrace.ours == tcptrace.theirs => {}
                [None, Some(_)] => dispute.ours_is[Reference::Tshark as usize] += 1,
                [Some(_), None] => dispute.ours_is[Reference::Tcptrace as usize] += 1,
                _ => dispute.neither += 1,
            }
        }
    }

    fn total(&self) -> Folder {
        let mut total = Folder::default();
        for folder in self.folders.values() {
            total.add(folder);
        }
        total
    }

    pub fn is_explained(&self) -> bool {
        let total = self.total();
        total.unexplained == [0; 2] && total.broken == 0
    }

    /// The closing lines.
    pub fn summary(&self) -> String {
        let total = self.total();
        let mut text = format!(
            "{} captures ({} files skipped), {} segments, {} flows; {}\n",
            total.captures, self.skipped, total.segments, total.flows, self.versions
        );
        for reference in Reference::ALL {
            let index = reference as usize;
            let (explained, unexplained) = (total.explained[index], total.unexplained[index]);
            let _ = writeln!(
                text,
                "{:<8}  {} figures: {} equal, {explained} explained, {unexplained} unexplained",
                reference.name(),
                total.figures[index],
                total.figures[index].saturating_sub(explained + unexplained),
            );
        }
        if total.broken > 0 {
            let _ = writeln!(
                text,
                "{} captures that cannot be compared, unexplained",
                total.broken
            );
        }
        text
    }

    /// The tables of the document.
    fn tables(&self) -> String {
        let mut text = format!("Held against {}.\n\n", self.versions);
        text.push_str(
            "| captures in | files | flows | segments | figures | tshark: equal, explained, \
             unexplained | tcptrace: equal, explained, unexplained |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        let total = self.total();
        let folders = self.folders.iter();
        for (name, folder) in folders
            .map(|(name, folder)| (format!("`{name}/`"), folder))
            .chain([("all".to_owned(), &total)])
        {
            let against = |index: usize| {
                let (explained, unexplained) = (folder.explained[index], folder.unexplained[index]);
                let equal = folder.figures[index].saturating_sub(explained + unexplained);
                format!("{equal}, {explained}, {unexplained}")
            };
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {} | {} |",
                folder.captures,
                folder.flows,
                folder.segments,
                folder.figures[0] + folder.figures[1],
                against(0),
                against(1)
            );
        }
        text.push_str(
            "\nThe rules, with the directions of flows each was needed for, and the segments (or, \
             for times, figures) it was tested on; those without a count are for other captures:\n\n\
             | rule | what differs | who is right | about | directions | segments |\n\
             | --- | --- | --- | --- | --- | --- |\n",
        );
        for rule in Rule::ALL {
            let (name, differs, right) = (rule.name(), rule.differs(), rule.right());
            let _ = match self.rules.get(rule) {
                Some(used) => writeln!(
                    text,
                    "| {name} | {differs} | {right} | {} | {} | {} |",
                    about(used),
                    used.directions.len(),
                    used.segments
                ),
                None => writeln!(text, "| {name} | {differs} | {right} | | | |"),
            };
        }
        text.push_str(
            "\nWhere tshark and tcptrace count differently from each other, ours is (directions of \
             flows):\n\n\
             | figure | as tshark's | as tcptrace's | neither's |\n\
             | --- | --- | --- | --- |\n",
        );
        for (metric, dispute) in &self.disputes {
            let [tshark, tcptrace] = dispute.ours_is;
            let _ = writeln!(
                text,
                "| {} | {tshark} | {tcptrace} | {} |",
                metric.name(),
                dispute.neither
            );
        }
        text
    }

    /// Puts the tables between their marks in the document.
    ///
    /// # Errors
    /// When it cannot be read or written, or has no marks.
    pub fn write_into(&self, path: &Path) -> Result<()> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = replaced(&text, &self.tables())
            .with_context(|| format!("{} has no lines {BEGIN} and {END}", path.display()))?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Which figures a rule was needed for, against whom.
fn about(used: &Use) -> String {
    let references: Vec<_> = used.references.iter().map(|known| known.name()).collect();
    let metrics: Vec<_> = used.metrics.iter().map(|known| known.name()).collect();
    format!("{} ({})", metrics.join("; "), references.join(", "))
}

/// The document with other tables between its marks.
fn replaced(document: &str, tables: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(reference: Reference, ours: i64, theirs: i64) -> Difference {
        let ends = ["192.0.2.1:1", "192.0.2.2:2"].map(|end| end.parse().unwrap());
        let share = Share {
            amount: ours - theirs,
            segments: 1,
            frames: vec![7],
        };
        Difference {
            tuple: Tuple::of(ends[0], ends[1]).0,
            direction: Some(Direction::LowToHigh),
            start_us: 1,
            reference,
            metric: Metric::Retransmitted,
            ours: Some(ours),
            theirs: Some(theirs),
            explained: [(Rule::SynAgain, share)].into(),
            odd: Share::default(),
            residual: 0,
        }
    }

    fn report(differences: Vec<Difference>) -> Report {
        let mut report = Report::new("tshark 4".to_owned());
        let capture = Capture {
            name: "tcp/one.pcap".to_owned(),
            path: "one.pcap".into(),
        };
        let compared = Compared {
            figures: [12, 12],
            differences,
            ..Compared::default()
        };
        report.add(&capture, Outcome::Compared(Box::new(compared)));
        report
    }

    #[test]
    fn one_unexplained_difference_fails_the_run() {
        assert!(report(vec![difference(Reference::Tshark, 0, 1)]).is_explained());
        let mut odd = difference(Reference::Tshark, 0, 1);
        odd.residual = 1;
        let report = report(vec![odd]);
        assert!(!report.is_explained());
        assert!(
            report
                .summary()
                .contains("11 equal, 0 explained, 1 unexplained")
        );
    }

    #[test]
    fn a_dispute_between_the_references_is_counted_with_our_side() {
        let mut report = report(vec![
            difference(Reference::Tshark, 1, 0),
            difference(Reference::Tcptrace, 1, 2),
        ]);
        let dispute = &report.disputes[&Metric::Retransmitted];
        assert_eq!((dispute.ours_is, dispute.neither), ([0, 0], 1));
        let compared = Compared {
            figures: [12, 12],
            differences: vec![difference(Reference::Tshark, 1, 0)],
            ..Compared::default()
        };
        report.disputes(&compared);
        assert_eq!(report.disputes[&Metric::Retransmitted].ours_is, [0, 1]);
    }

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let replaced = replaced(&document, "new\n").unwrap();
        assert_eq!(replaced, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(super::replaced("no marks", "new"), None);
    }

    #[test]
    fn a_line_names_the_reason_its_amount_and_its_frames() {
        let line = line(&difference(Reference::Tshark, 0, 1));
        assert_eq!(
            line,
            "    -> retransmitted: ours 0, tshark 1; -1 SYN again (frame 7)\n"
        );
    }
}
