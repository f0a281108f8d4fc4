//! Prefixes from a CSV file that the operator keeps:
//! `prefix,origin_asn,isp,interconnect[,peer_asn[,next_hop]]`.
//!
//! A field may be empty where another source fills it: `isp` is then the name of the AS, the
//! interconnect and the origin come from a routing feed or this host's own routes.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use super::intern::Paths;
use super::{Path, SourceTable};

/// The columns, in any order; the last two may be absent.
const HEADER: &str = "prefix,origin_asn,isp,interconnect[,peer_asn[,next_hop]]";

/// Why a file of prefixes or names was refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{file}: cannot be read: {source}; name an existing file as {key}")]
    Unreadable {
        file: PathBuf,
        /// The configuration's key that names it.
        key: &'static str,
        source: io::Error,
    },
    #[error("{file}:{line}: {message}")]
    Wrong {
        file: PathBuf,
        line: u64,
        message: String,
    },
}

/// Whether another source tells what a file leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// Each row must tell the origin and the way by itself.
    Nothing,
    /// Routing feeds or this host's own routes are configured too.
    Feeds,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) prefix: String,
    #[serde(default)]
    pub(super) origin_asn: String,
    #[serde(default)]
    pub(super) isp: String,
    #[serde(default)]
    pub(super) interconnect: String,
    pub(super) peer_asn: Option<String>,
    pub(super) next_hop: Option<String>,
}

/// Reads a whole file; any wrong line refuses it, so that a half-read table is never used.
pub fn read(file: &std::path::Path, elsewhere: Elsewhere) -> Result<SourceTable, FileError> {
    let text = std::fs::read_to_string(file).map_err(|source| FileError::Unreadable {
        file: file.to_owned(),
        key: "path.prefixes_csv",
        source,
    })?;
    parse(&text, file, elsewhere)
}

/// Reads CSV from `text`; `file` is only named in errors. `#` begins a comment line.
pub fn parse(
    text: &str,
    file: &std::path::Path,
    elsewhere: Elsewhere,
) -> Result<SourceTable, FileError> {
    let wrong = |line: u64, message: String| FileError::Wrong {
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

    let mut table = SourceTable::default();
    let mut paths = Paths::default();
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
        let (prefix, path) = row
            .path(elsewhere)
            .map_err(|message| wrong(line, message))?;
        let path = paths.intern(path);
        if let Some(earlier) = table.insert(prefix, path.clone())
            && earlier != path
        {
            let first = lines.get(&prefix).copied().unwrap_or_default();
            return Err(wrong(line, contradiction(prefix, &earlier, first)));
        }
        lines.insert(prefix, line);
    }
    Ok(table)
}

/// Two rows for one prefix that say different things.
pub(super) fn contradiction(prefix: IpNet, earlier: &Path, line: u64) -> String {
    match &earlier.interconnect {
        Some(name) => {
            format!("{prefix} is already on line {line}, through {name}: a prefix has one way")
        }
        None => format!("{prefix} is already on line {line}: a prefix has one way"),
    }
}

/// The line of a record: the reader's position is where it began to look for it, before any
/// empty lines and comments.
pub(super) fn line_of(position: Option<&csv::Position>, text: &str) -> u64 {
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

pub(super) fn from_csv_error(error: &csv::Error, text: &str, file: &std::path::Path) -> FileError {
    let line = line_of(error.position(), text);
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("{len} fields where the first line has {expected_len}"),
        _ => error.to_string(),
    };
    FileError::Wrong {
        file: file.to_owned(),
        line,
        message,
    }
}

impl Row {
    pub(super) fn path(&self, elsewhere: Elsewhere) -> Result<(IpNet, Path), String> {
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
        let path = Path {
            origin_asn: match filled(&self.origin_asn) {
                Some(text) => Some(asn(text, "origin_asn")?),
                None => None,
            },
            isp: filled(&self.isp).map(Into::into),
            interconnect: filled(&self.interconnect).map(Into::into),
            peer_asn: match self.peer_asn.as_deref().and_then(filled) {
                Some(text) => Some(asn(text, "peer_asn")?),
                None => None,
            },
            next_hop: match self.next_hop.as_deref().and_then(filled) {
                Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
                    format!("`{text}` is no next_hop: write an IP address or leave it empty")
                })?),
                None => None,
            },
            ..Path::default()
        };
        if path.origin_asn.is_none() && path.isp.is_some() {
            return Err(
                "column `origin_asn` is empty: an ISP is known by its AS number".to_owned(),
            );
        }
        if elsewhere == Elsewhere::Nothing {
            for (column, is_known) in [
                ("origin_asn", path.origin_asn.is_some()),
                (
                    "interconnect",
                    path.interconnect.is_some()
                        || path.peer_asn.is_some()
                        || path.next_hop.is_some(),
                ),
            ] {
                if !is_known {
                    return Err(format!(
                        "column `{column}` is empty, and no other source is configured that could \
                         fill it: every prefix needs one"
                    ));
                }
            }
        }
        Ok((prefix, path))
    }
}

fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// An AS number, also as `AS64500`; 0 is reserved (RFC 7607).
pub(super) fn asn(text: &str, column: &str) -> Result<u32, String> {
    text.strip_prefix("AS")
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|&asn| asn != 0)
        .ok_or_else(|| format!("`{text}` is no {column}: write an AS number from 1 to 4294967295"))
}

#[cfg(test)]
mod tests {
    use super::super::Routes;
    use super::*;

    fn read(text: &str) -> Result<Routes, String> {
        Routes::from_csv(text, "p.csv".as_ref()).map_err(|error| error.to_string())
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
        let direct = ["10.0.0.1", "2001:db8::1"].map(|client| {
            let at = table.locate(client.parse().expect("an address"));
            at.expect("known").route.is_direct()
        });
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
                format!("{header}10.0.0.0/24,,x,a\n"),
                "p.csv:2: column `origin_asn` is empty: an ISP is known by its AS number",
            ),
            (
                format!("{header}10.0.0.0/24,,,a\n"),
                "p.csv:2: column `origin_asn` is empty, and no other source",
            ),
            (
                format!("{header}10.0.0.0/24,1,x,\n"),
                "p.csv:2: column `interconnect` is empty, and no other source",
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
        let message = super::read("/nonexistent.csv".as_ref(), Elsewhere::Nothing)
            .expect_err("cannot be read")
            .to_string();
        assert!(
            message.starts_with("/nonexistent.csv: cannot be read: No such file"),
            "{message}"
        );
    }
}
