//! Logs of any number of hosts, read window by window.
//!
//! Each log is in the order of its windows; they are merged by window, so that no more than one
//! window of each is in memory, however long the logs are.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use super::part::Part;
use super::window::Batch;
use crate::capture::replay::{BytesRead, open};
use crate::engine::WindowSpan;
use crate::export::Timestamp;
use crate::export::record::{CellRecord, RouteRecord, VerdictRecord};

/// A cell of 65,536 clients, each with a full histogram, has 30 MB.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// Damaged lines of one log that are named; the others are counted.
const MAX_NAMED: u64 = 10;
/// A day.
const MAX_WINDOW_S: u32 = 86_400;

/// What was wrong, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Each with file and line.
    pub named: Vec<String>,
    pub lines: u64,
}

/// The logs.
pub struct Logs {
    logs: Vec<Log>,
    /// Length of the windows of the first one; others are none of them.
    length_s: Option<u32>,
    /// Start of the window that was handed out last, µs.
    last_us: Option<u64>,
    /// The same record in two files.
    pub repeated: u64,
    damage: Damage,
}

struct Log {
    name: PathBuf,
    lines: Option<BufReader<Box<dyn Read + Send>>>,
    line: u64,
    /// Damaged lines.
    damaged: u64,
    /// Lines that belong to windows.
    of_use: u64,
    next: Option<Line>,
}

/// A line of use.
struct Line {
    number: u64,
    hash: u64,
    start_us: u64,
    length_s: u32,
    item: Item,
    /// What the log told since the line of use before.
    moved: Vec<(IpNet, u64)>,
}

enum Item {
    Cell(Box<Part>),
    Verdict(Box<VerdictRecord>),
}

/// What a line says.
enum Said {
    Line(Box<Line>),
    /// A prefix is reached on another way, since then.
    Moved(IpNet, u64),
    /// Nothing that is judged.
    Nothing,
}

impl Logs {
    /// Opens them all, and reads each up to its first window.
    pub fn open(files: &[PathBuf]) -> Self {
        let mut logs = Self {
            logs: Vec::new(),
            length_s: None,
            last_us: None,
            repeated: 0,
            damage: Damage::default(),
        };
        for name in files {
            match open(name, &BytesRead::default()) {
                Ok(input) => logs.add(name, input.bytes),
                Err(error) => logs
                    .damage
                    .named
                    .push(format!("{}: cannot be opened: {error}", name.display())),
            }
        }
        logs
    }

    /// One more log.
    pub fn add(&mut self, name: &Path, bytes: Box<dyn Read + Send>) {
        let mut log = Log {
            name: name.to_owned(),
            lines: Some(BufReader::new(bytes)),
            line: 0,
            damaged: 0,
            of_use: 0,
            next: None,
        };
        log.advance(&mut self.damage);
        self.logs.push(log);
    }

    /// The next window, with what all logs have of it; `None`: there is none.
    pub fn next_window(&mut self) -> Option<(WindowSpan, Batch)> {
        let length_s = match self.length_s {
            Some(length_s) => length_s,
            // Whichever file is named first: the first window of all, of two the shorter one.
            None => {
                let lines = self.logs.iter().filter_map(|log| log.next.as_ref());
                let (_, length_s) = lines.map(|line| (line.start_us, line.length_s)).min()?;
                *self.length_s.insert(length_s)
            }
        };
        self.drop_misfits(length_s);
        let next = self.logs.iter().filter_map(|log| log.next.as_ref());
        let start_us = next.map(|line| line.start_us).min()?;
        self.last_us = Some(start_us);
        let mut batch = Batch::default();
        let mut seen = HashSet::new();
        for log in &mut self.logs {
            while let Some(line) = log
                .next
                .take_if(|line| line.start_us == start_us && line.length_s == length_s)
            {
                batch.moved.extend(line.moved);
                match line.item {
                    _ if !seen.insert(line.hash) => self.repeated += 1,
                    Item::Cell(part) => batch.cell(*part),
                    Item::Verdict(record) => batch.verdict(*record),
                }
                log.advance(&mut self.damage);
            }
        }
        Some((WindowSpan::at(start_us, length_s), batch))
    }

    /// Passes over lines that are of no window that may come next.
    fn drop_misfits(&mut self, length_s: u32) {
        for log in &mut self.logs {
            while !log.fits(length_s, self.last_us) {
                let Some(line) = log.next.take() else {
                    break;
                };
                let start = Timestamp(line.start_us);
                let why = if line.length_s == length_s {
                    format!("the window of {start} comes after a later one")
                } else {
                    format!(
                        "a window of {} s among windows of {length_s} s: judge it apart",
                        line.length_s
                    )
                };
                log.damaged(line.number, &why, &mut self.damage);
                log.advance(&mut self.damage);
            }
        }
    }

    /// What was wrong, once everything was read.
    pub fn damage(mut self) -> Damage {
        for log in &self.logs {
            let name = log.name.display();
            if log.damaged > MAX_NAMED {
                let more = log.damaged - MAX_NAMED;
                let said = format!("{name}: {more} more lines are left out");
                self.damage.named.push(said);
            }
        }
        self.damage
    }

    /// Logs without a cell or a verdict.
    pub fn empty(&self) -> impl Iterator<Item = &Path> {
        let empty = self.logs.iter().filter(|log| log.of_use == 0);
        empty.map(|log| log.name.as_path())
    }
}

impl Log {
    /// Whether it is at its end, or at a line of the windows that come next.
    fn fits(&self, length_s: u32, last_us: Option<u64>) -> bool {
        self.next.as_ref().is_none_or(|line| {
            line.length_s == length_s && last_us.is_none_or(|last_us| line.start_us > last_us)
        })
    }

    /// Reads up to the next line of use.
    fn advance(&mut self, damage: &mut Damage) {
        let (mut bytes, mut moved) = (Vec::new(), Vec::new());
        while let Some(lines) = &mut self.lines {
            match read_line(lines, &mut bytes) {
                Ok(true) => {}
                Ok(false) => {
                    self.lines = None;
                    return;
                }
                Err(error) => {
                    let name = self.name.display();
                    let said = format!("{name}: cannot be read after line {}: {error}", self.line);
                    damage.named.push(said);
                    self.lines = None;
                    return;
                }
            }
            self.line += 1;
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match line(&bytes, self.line) {
                Ok(Said::Nothing) => {}
                Ok(Said::Moved(prefix, time_us)) => moved.push((prefix, time_us)),
                Ok(Said::Line(line)) => {
                    self.of_use += 1;
                    self.next = Some(Line { moved, ..*line });
                    return;
                }
                Err(why) => self.damaged(self.line, &why, damage),
            }
        }
    }

    fn damaged(&mut self, number: u64, why: &str, damage: &mut Damage) {
        self.damaged += 1;
        damage.lines += 1;
        if self.damaged <= MAX_NAMED {
            let said = format!("{}:{number}: {why}", self.name.display());
            damage.named.push(said);
        }
    }
}

/// Reads a line, of one that is too long only its beginning; `false` at the end.
fn read_line(lines: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<bool> {
    bytes.clear();
    let read = lines
        .by_ref()
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', bytes)?;
    if read as u64 == MAX_LINE_BYTES && bytes.last() != Some(&b'\n') {
        lines.skip_until(b'\n')?;
    }
    Ok(read > 0)
}

fn line(bytes: &[u8], number: u64) -> Result<Said, String> {
    #[derive(Deserialize)]
    struct Head {
        r#type: String,
    }
    let head: Head = parse(bytes)?;
    let (start, length_s, item) = match head.r#type.as_str() {
        "cell" => {
            let record: CellRecord = parse(bytes)?;
            let (start, length_s) = (record.window_start, record.window_s);
            (start, length_s, Item::Cell(Box::new(Part::of(record)?)))
        }
        "verdict" => {
            let record: VerdictRecord = parse(bytes)?;
            let (start, length_s) = (record.window_start, record.window_s);
            (start, length_s, Item::Verdict(Box::new(record)))
        }
        "route" => {
            let record: RouteRecord = parse(bytes)?;
            // Whoever becomes known has not moved.
            let moved = record.prefix.filter(|_| record.before.is_some());
            return Ok(moved.map_or(Said::Nothing, |it| Said::Moved(it, record.time.0)));
        }
        "flow" | "session" | "incident" | "status" => return Ok(Said::Nothing),
        other => return Err(format!("`{other}` is no record type of lastmile/1")),
    };
    let length_us = u64::from(length_s) * 1_000_000;
    if !(1..=MAX_WINDOW_S).contains(&length_s) || start.0 % length_us != 0 {
        return Err(format!("no window of {length_s} s begins at {start}"));
    }
    let mut hasher = DefaultHasher::new();
    bytes.trim_ascii_end().hash(&mut hasher);
    Ok(Said::Line(Box::new(Line {
        number,
        hash: hasher.finish(),
        start_us: start.0,
        length_s,
        item,
        moved: Vec::new(),
    })))
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("no record: {error}"))
}
