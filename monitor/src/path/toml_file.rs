//! Prefixes from a TOML file that the operator keeps: the columns of the CSV file as keys of
//! `[[prefix]]` tables.

use std::collections::HashMap;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::SourceTable;
use super::csv_file::{Elsewhere, FileError, Row, contradiction};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    prefix: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    prefix: String,
    origin_asn: Option<u32>,
    #[serde(default)]
    isp: String,
    #[serde(default)]
    interconnect: String,
    peer_asn: Option<u32>,
    next_hop: Option<String>,
}

/// Adds a whole file to `table`; anything wrong in it refuses all of it. A prefix that the table
/// has already must say the same.
pub fn read(
    file: &std::path::Path,
    elsewhere: Elsewhere,
    table: &mut SourceTable,
) -> Result<(), FileError> {
    let text = std::fs::read_to_string(file).map_err(|source| FileError::Unreadable {
        file: file.to_owned(),
        key: "path.prefixes_toml",
        source,
    })?;
    parse(&text, file, elsewhere, table)
}

/// Adds TOML from `text`; `file` is only named in errors.
pub fn parse(
    text: &str,
    file: &std::path::Path,
    elsewhere: Elsewhere,
    table: &mut SourceTable,
) -> Result<(), FileError> {
    let wrong = |at: Option<usize>, message: String| FileError::Wrong {
        file: file.to_owned(),
        line: at.map_or(1, |at| line_at(text, at)),
        message,
    };
    let document: Document = toml::from_str(text).map_err(|error| {
        let at = error.span().map(|span| span.start);
        wrong(at, error.message().to_owned())
    })?;
    let mut paths = super::Paths::default();
    let mut lines: HashMap<IpNet, u64> = HashMap::new();
    for entry in &document.prefix {
        let at = entry.span().start;
        let (prefix, path) = Row::from(entry.get_ref())
            .path(elsewhere)
            .map_err(|message| wrong(Some(at), message))?;
        let path = paths.intern(path);
        if let Some(earlier) = table.insert(prefix, path.clone())
            && earlier != path
        {
            let message = match lines.get(&prefix) {
                Some(line) => contradiction(prefix, &earlier, *line),
                None => format!("{prefix} is in path.prefixes_csv too, with other words"),
            };
            return Err(wrong(Some(at), message));
        }
        lines.insert(prefix, line_at(text, at));
    }
    Ok(())
}

impl From<&Entry> for Row {
    fn from(entry: &Entry) -> Self {
        Self {
            prefix: entry.prefix.clone(),
            origin_asn: entry
                .origin_asn
                .map(|asn| asn.to_string())
                .unwrap_or_default(),
            isp: entry.isp.clone(),
            interconnect: entry.interconnect.clone(),
            peer_asn: entry.peer_asn.map(|asn| asn.to_string()),
            next_hop: entry.next_hop.clone(),
        }
    }
}

/// The line of a byte, from 1.
fn line_at(text: &str, at: usize) -> u64 {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SourceTable, String> {
        let mut table = SourceTable::default();
        parse(text, "p.toml".as_ref(), Elsewhere::Nothing, &mut table)
            .map_err(|error| error.to_string())?;
        Ok(table)
    }

    #[test]
    fn it_says_the_same_as_csv() {
        let toml = read(
            "[[prefix]]\nprefix = \"10.0.0.0/8\"\norigin_asn = 64501\nisp = \"x\"\n\
             interconnect = \"a\"\npeer_asn = 64999\nnext_hop = \"192.0.2.1\"\n",
        )
        .expect("right");
        let csv = super::super::csv_file::parse(
            "prefix,origin_asn,isp,interconnect,peer_asn,next_hop\n\
             10.0.0.0/8,64501,x,a,64999,192.0.2.1\n",
            "p.csv".as_ref(),
            Elsewhere::Nothing,
        )
        .expect("right");
        assert!(toml.iter().eq(csv.iter()));
        assert_eq!(toml.len(), 1);
    }

    #[test]
    fn every_mistake_names_file_and_line() {
        let first = "[[prefix]]\nprefix = \"10.0.0.0/8\"\norigin_asn = 1\ninterconnect = \"a\"\n";
        for (text, expected) in [
            (
                format!("{first}speed = 3\n"),
                "p.toml:5: unknown field `speed`, expected one of `prefix`",
            ),
            (
                format!("{first}\n[[prefix]]\nprefix = \"10.0.0.1/8\"\n"),
                "p.toml:6: 10.0.0.1/8 has host bits set",
            ),
            (
                format!(
                    "{first}[[prefix]]\nprefix = \"10.0.0.0/8\"\norigin_asn = 2\ninterconnect = \"a\"\n"
                ),
                "p.toml:5: 10.0.0.0/8 is already on line 1, through a",
            ),
            (
                "[[prefix]]\nprefix = \"10.0.0.0/8\"\norigin_asn = 0\n".to_owned(),
                "p.toml:1: `0` is no origin_asn",
            ),
        ] {
            let message = read(&text).expect_err("must be refused");
            assert!(
                message.starts_with(expected),
                "{message}\nexpected {expected}"
            );
        }
    }
}
