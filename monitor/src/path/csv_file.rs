//! Prefixes from a CSV file that the operator keeps:
//! `prefix,origin_asn,isp,interconnect[,peer_asn[,next_hop]]`.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use super::{PrefixTable, Route};
use crate::config::PathSources;

/// The columns, in any order; the last two may be absent.
const HEADER: &str = "prefix,origin_asn,isp,interconnect[,peer_asn[,next_hop]]";

/// Why a prefix file was refused.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    #[error("{file}: cannot be read: {source}; name an existing file as path.prefixes_csv")]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("{file}:{line}: {message}")]
    Wrong {
        file: PathBuf,
        line: u64,
        message: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prefix: String,
    origin_asn: String,
    isp: String,
    interconnect: String,
    peer_asn: Option<String>,
    next_hop: Option<String>,
}

impl PrefixTable {
    /// Reads the configured sources; without any nothing is known.
    pub fn load(sources: &PathSources) -> Result<Self, CsvError> {
        match &sources.prefixes_csv {
            Some(file) => Self::from_csv_file(file),
            None => Ok(Self::default()),
        }
    }

    /// Reads a whole file; any wrong line refuses it, so that a half-read table is never used.
    pub fn from_csv_file(file: &Path) -> Result<Self, CsvError> {
        let text = std::fs::read_to_string(file).map_err(|source| CsvError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        Self::from_csv(&text, file)
    }

    /// Reads CSV from `text`; `file` is only named in errors. `#` begins a comment line.
    pub fn from_csv(text: &str, file: &Path) -> Result<Self, CsvError> {
        let wrong = |line: u64, message: String| CsvError::Wrong {
            file: file.to_owned(),
            line,
            message,
        };
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .comment(Some(b'#'))
            .from_reader(text.as_bytes());
        let header = reader
            .headers()
            .map_err(|error| from_csv_error(&error, text, file))?
            .clone();
        let known = [
            "prefix",
            "origin_asn",
            "isp",
            "interconnect",
            "peer_asn",
            "next_hop",
        ];
        let unknown = header.iter().find(|column| !known.contains(column));
        let missing = known[..4]
            .iter()
            .find(|name| !header.iter().any(|column| column == **name));
        if let Some(column) = unknown {
            return Err(wrong(
                1,
                format!("unknown column `{column}`: the first line must be {HEADER}"),
            ));
        }
        if let Some(column) = missing {
            return Err(wrong(
                1,
                format!("column `{column}` is missing: the first line must be {HEADER}"),
            ));
        }

        let mut table = Self::default();
        let mut lines: HashMap<IpNet, u64> = HashMap::new();
        let mut record = csv::StringRecord::new();
        while reader
            .read_record(&mut record)
            .map_err(|error| from_csv_error(&error, text, file))?
        {
            let line = line_of(record.position(), text);
            let row: Row = record
                .deserialize(Some(&header))
                .map_err(|error| wrong(line, error.to_string()))?;
            let route = row.route().map_err(|message| wrong(line, message))?;
            let prefix = route.prefix;
            if let Err(earlier) = table.insert(route) {
                let first = lines.get(&prefix).copied().unwrap_or_default();
                return Err(wrong(
                    line,
                    format!(
                        "{prefix} is already on line {first}, through {}: a prefix has one way",
                        earlier.0.interconnect
                    ),
                ));
            }
            lines.insert(prefix, line);
        }
        Ok(table)
    }
}

/// The line of a record: the reader's position is where it began to look for it, before any
/// empty lines and comments.
fn line_of(position: Option<&csv::Position>, text: &str) -> u64 {
    let Some(position) = position else { return 0 };
    let start = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let skipped = text
        .get(start..)
        .unwrap_or_default()
        .lines()
        .take_while(|line| line.trim().is_empty() || line.starts_with('#'))
        .count();
    position.line() + skipped as u64
}

fn from_csv_error(error: &csv::Error, text: &str, file: &Path) -> CsvError {
    let line = line_of(error.position(), text);
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields where the first line has {expected_len}"),
        _ => error.to_string(),
    };
    CsvError::Wrong {
        file: file.to_owned(),
        line,
        message,
    }
}

impl Row {
    fn route(&self) -> Result<Route, String> {
        let prefix: IpNet = self.prefix.parse().map_err(|_| {
            format!(
                "`{}` is no prefix: write one such as 192.0.2.0/24 or 2001:db8::/32",
                self.prefix
            )
        })?;
        if prefix.trunc() != prefix {
            return Err(format!(
                "{prefix} has host bits set: write {}",
                prefix.trunc()
            ));
        }
        for (column, value) in [("isp", &self.isp), ("interconnect", &self.interconnect)] {
            if value.is_empty() {
                return Err(format!(
                    "column `{column}` is empty: every prefix needs a name there"
                ));
            }
        }
        Ok(Route {
            prefix,
            origin_asn: asn(&self.origin_asn, "origin_asn")?,
            isp: self.isp.as_str().into(),
            interconnect: self.interconnect.as_str().into(),
            peer_asn: match filled(self.peer_asn.as_ref()) {
                Some(text) => Some(asn(text, "peer_asn")?),
                None => None,
            },
            next_hop: match filled(self.next_hop.as_ref()) {
                Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
                    format!("`{text}` is no next_hop: write an IP address or leave it empty")
                })?),
                None => None,
            },
        })
    }
}

fn filled(field: Option<&String>) -> Option<&str> {
    field.map(String::as_str).filter(|text| !text.is_empty())
}

/// An AS number, also as `AS64500`; 0 is reserved (RFC 7607).
fn asn(text: &str, column: &str) -> Result<u32, String> {
    text.strip_prefix("AS")
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|&asn| asn != 0)
        .ok_or_else(|| format!("`{text}` is no {column}: write an AS number from 1 to 4294967295"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PrefixTable, String> {
        PrefixTable::from_csv(text, Path::new("p.csv")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_four_columns_are_enough() {
        let table =
            read("prefix,origin_asn,isp,interconnect\n# homes\n10.1.0.0/16, AS64501 ,isp-x,ic-a\n")
                .expect("right");
        let at = table
            .locate("10.1.2.3".parse().expect("an address"))
            .expect("known");
        assert_eq!((&*at.route.isp, at.route.origin_asn), ("isp-x", 64501));
        assert!(at.route.is_direct());
    }

    #[test]
    fn a_neighbour_that_is_not_the_origin_is_transit() {
        let table = read("interconnect,prefix,origin_asn,isp,peer_asn,next_hop\nic-a,2001:db8::/32,64501,isp-x,64999,2001:db8:f::1\nic-b,10.0.0.0/8,64501,isp-x,,\n").expect("right");
        let direct: Vec<bool> = table.routes().map(|route| route.is_direct()).collect();
        assert_eq!(direct, [true, false]);
    }

    #[test]
    fn every_mistake_names_file_line_and_what_would_be_right() {
        let header = "prefix,origin_asn,isp,interconnect\n";
        for (text, expected) in [
            (
                "prefix,asn,isp,interconnect\n".to_owned(),
                "p.csv:1: unknown column `asn`: the first line must be prefix,origin_asn",
            ),
            (
                "prefix,isp,interconnect\n".to_owned(),
                "p.csv:1: column `origin_asn` is missing",
            ),
            (
                format!("{header}10.0.0.1/24,1,x,a\n"),
                "p.csv:2: 10.0.0.1/24 has host bits set: write 10.0.0.0/24",
            ),
            (
                format!("{header}\n# homes\n10.0.0.0,1,x,a\n"),
                "p.csv:4: `10.0.0.0` is no prefix",
            ),
            (
                format!("{header}10.0.0.0/24,0,x,a\n"),
                "p.csv:2: `0` is no origin_asn: write an AS number",
            ),
            (
                format!("{header}10.0.0.0/24,1,,a\n"),
                "p.csv:2: column `isp` is empty",
            ),
            (
                format!("{header}10.0.0.0/24,1,x\n"),
                "p.csv:2: 3 fields where the first line has 4",
            ),
            (
                format!("{header}10.0.0.0/24,1,x,a\n10.0.0.0/24,1,x,b\n"),
                "p.csv:3: 10.0.0.0/24 is already on line 2, through a",
            ),
        ] {
            let message = read(&text).expect_err("must be refused");
            assert!(
                message.starts_with(expected),
                "{message}\nexpected {expected}"
            );
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = PrefixTable::from_csv_file(Path::new("/nonexistent.csv"))
            .expect_err("cannot be read")
            .to_string();
        assert!(
            message.starts_with("/nonexistent.csv: cannot be read: No such file"),
            "{message}"
        );
    }
}
