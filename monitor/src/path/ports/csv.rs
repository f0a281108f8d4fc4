//! Readings from a CSV file that a poller appends to:
//! `time,interconnect,out_octets,out_drops,out_errors,speed_bps` and optional columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::PortReading;
use crate::export::Timestamp;

/// The columns; those in brackets may be absent, and any order is right.
pub const HEADER: &str = "time,interconnect,out_octets[,out_packets,out_drops,out_errors,in_octets,in_drops,in_errors,speed_bps]";
/// A line is ten numbers and a name; what is longer is no such line.
const MAX_LINE: usize = 4_096;
/// Mistakes that are quoted; more are counted.
const MAX_QUOTED: usize = 3;

type Put = fn(&mut PortReading, u64);

const COLUMNS: [(&str, Put); 8] = [
    ("out_octets", |reading, value| {
        reading.out_octets = Some(value)
    }),
    ("out_packets", |reading, value| {
        reading.out_packets = Some(value)
    }),
    ("out_drops", |reading, value| {
        reading.out_drops = Some(value)
    }),
    ("out_errors", |reading, value| {
        reading.out_errors = Some(value)
    }),
    ("in_octets", |reading, value| {
        reading.in_octets = Some(value)
    }),
    ("in_drops", |reading, value| reading.in_drops = Some(value)),
    ("in_errors", |reading, value| {
        reading.in_errors = Some(value)
    }),
    ("speed_bps", |reading, value| {
        reading.speed_bps = Some(value)
    }),
];

/// What a column holds.
#[derive(Clone, Copy)]
enum Column {
    Time,
    Interconnect,
    Counter(&'static str, Put),
}

/// Reads a file as it grows, piece by piece.
#[derive(Default)]
pub struct Reader {
    columns: Option<Vec<Column>>,
    /// The beginning of a line whose end has not been written yet.
    partial: Vec<u8>,
    skipping: bool,
    /// The line that is skipped was begun before what is read.
    resuming: bool,
    /// Lines read so far.
    lines: u64,
}

/// What a piece of the file held.
#[derive(Debug, Default)]
pub struct Rows {
    /// By interconnect, in the order of the file.
    pub readings: BTreeMap<Arc<str>, Vec<PortReading>>,
    /// Lines that were not understood, and the first of them in words.
    pub wrong: u64,
    pub mistakes: Vec<String>,
}

impl Rows {
    fn mistake(&mut self, line: u64, why: impl FnOnce() -> String) {
        self.wrong += 1;
        if self.mistakes.len() < MAX_QUOTED {
            self.mistakes.push(format!("line {line}: {}", why()));
        }
    }
}

impl Reader {
    /// Takes what was appended. A line counts when its end is there.
    pub fn read(&mut self, bytes: &[u8]) -> Rows {
        let mut rows = Rows::default();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(line);
            self.lines += 1;
            if std::mem::take(&mut self.resuming) {
                self.skipping = false;
                continue;
            }
            if std::mem::take(&mut self.skipping) || whole.len() > MAX_LINE {
                rows.mistake(self.lines, || format!("longer than {MAX_LINE} bytes"));
                continue;
            }
            self.line(&whole, &mut rows);
        }
        if self.partial.len() + rest.len() > MAX_LINE {
            self.skipping = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(rest);
        }
        rows
    }

    /// Passes over the rest of a line that was begun before the part of the file that is read.
    pub fn resume_in_the_middle(&mut self) {
        self.resuming = true;
    }

    fn line(&mut self, line: &[u8], rows: &mut Rows) {
        let number = self.lines;
        let Ok(text) = std::str::from_utf8(line) else {
            rows.mistake(number, || "no UTF-8".to_owned());
            return;
        };
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return;
        }
        let Some(columns) = &self.columns else {
            match header(text) {
                Ok(columns) => self.columns = Some(columns),
                Err(why) => rows.mistake(number, || why),
            }
            return;
        };
        match row(columns, text) {
            Ok((interconnect, reading)) => {
                rows.readings.entry(interconnect).or_default().push(reading);
            }
            Err(why) => rows.mistake(number, || why),
        }
    }
}

fn header(text: &str) -> Result<Vec<Column>, String> {
    let columns: Vec<Column> = text
        .split(',')
        .map(|name| match name.trim() {
            "time" => Ok(Column::Time),
            "interconnect" => Ok(Column::Interconnect),
            name => COLUMNS
                .iter()
                .find(|(known, _)| *known == name)
                .map(|&(name, put)| Column::Counter(name, put))
                .ok_or_else(|| format!("unknown column `{name}`: the first line must be {HEADER}")),
        })
        .collect::<Result<_, _>>()?;
    let has = |wanted: fn(&Column) -> bool| columns.iter().filter(|column| wanted(column)).count();
    let complete = has(|column| matches!(column, Column::Time)) == 1
        && has(|column| matches!(column, Column::Interconnect)) == 1
        && has(|column| matches!(column, Column::Counter("out_octets", _))) == 1;
    if complete {
        Ok(columns)
    } else {
        Err(format!("the first line must be {HEADER}"))
    }
}

fn row(columns: &[Column], text: &str) -> Result<(Arc<str>, PortReading), String> {
    let mut reading = PortReading::default();
    let mut interconnect: Option<Arc<str>> = None;
    let mut fields = text.split(',').map(str::trim);
    for column in columns {
        let field = fields
            .next()
            .ok_or_else(|| format!("fewer fields than the {} columns", columns.len()))?;
        match column {
            Column::Time => reading.time_us = time_us(field)?,
            Column::Interconnect if field.is_empty() => {
                return Err("no interconnect".to_owned());
            }
            Column::Interconnect => interconnect = Some(field.into()),
            Column::Counter(..) if field.is_empty() => {}
            Column::Counter(name, put) => {
                let value = field
                    .parse()
                    .map_err(|_| format!("`{field}` is no {name}: write a whole number"))?;
                put(&mut reading, value);
            }
        }
    }
    if fields.next().is_some() {
        return Err(format!("more fields than the {} columns", columns.len()));
    }
    match interconnect {
        Some(interconnect) => Ok((interconnect, reading)),
        None => Err("no interconnect".to_owned()),
    }
}

/// Seconds since 1970, with a fraction or not, or RFC 3339.
fn time_us(text: &str) -> Result<u64, String> {
    if let Some(seconds) = text
        .parse::<f64>()
        .ok()
        .filter(|it| it.is_finite() && *it >= 0.0)
    {
        return Ok((seconds * 1e6) as u64);
    }
    // A fraction of any length, or none.
    let (whole, fraction) = match text.strip_suffix('Z').map(|text| text.split_once('.')) {
        Some(Some((whole, fraction))) => (whole, fraction),
        _ => (text.trim_end_matches('Z'), ""),
    };
    let micros = fraction.get(..6).unwrap_or(fraction);
    format!("{whole}.{micros:0<6}Z")
        .parse::<Timestamp>()
        .map(|time| time.0)
        .map_err(|_| {
            format!("`{text}` is no time: write seconds since 1970 or 2026-01-31T12:00:00Z")
        })
}
