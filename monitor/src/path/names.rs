//! Names of access networks: from a file `asn,name`, else `AS64501`.

use std::collections::HashMap;
use std::sync::Arc;

use super::csv_file::{FileError, asn, from_csv_error, line_of};

/// ISP names by AS number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IspNames {
    names: HashMap<u32, Arc<str>>,
}

impl IspNames {
    /// Names by AS number.
    pub fn new(names: HashMap<u32, Arc<str>>) -> Self {
        Self { names }
    }

    /// Reads a whole file; any wrong line refuses it.
    pub fn read(file: &std::path::Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(file).map_err(|source| FileError::Unreadable {
            file: file.to_owned(),
            key: "path.isp_names",
            source,
        })?;
        Self::parse(&text, file)
    }

    /// Reads CSV from `text`; `file` is only named in errors. `#` begins a comment line.
    pub fn parse(text: &str, file: &std::path::Path) -> Result<Self, FileError> {
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
            .map_err(|error| from_csv_error(&error, text, file))?;
        if !header.iter().eq(["asn", "name"]) {
            return Err(wrong(1, "the first line must be asn,name".to_owned()));
        }
        let mut names: HashMap<u32, Arc<str>> = HashMap::new();
        let mut record = csv::StringRecord::new();
        while reader
            .read_record(&mut record)
            .map_err(|error| from_csv_error(&error, text, file))?
        {
            let line = line_of(record.position(), text);
            let (number, name) = (&record[0], &record[1]);
            let number = asn(number, "asn").map_err(|message| wrong(line, message))?;
            if name.is_empty() {
                return Err(wrong(line, format!("AS{number} has no name")));
            }
            if let Some(earlier) = names.insert(number, name.into())
                && *earlier != *name
            {
                return Err(wrong(
                    line,
                    format!("AS{number} is called {earlier} already"),
                ));
            }
        }
        Ok(Self { names })
    }

    /// The operator's name, or `AS` and the number.
    pub fn name(&self, asn: u32) -> Arc<str> {
        match self.names.get(&asn) {
            Some(name) => Arc::clone(name),
            None => format!("AS{asn}").into(),
        }
    }

    /// How many names are known.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the file named nobody.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<IspNames, String> {
        IspNames::parse(text, "isps.csv".as_ref()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_is_the_operators_or_the_number() {
        let names = parse("asn,name\n# ours\n64501,Northnet\nAS64502, South \n").expect("right");
        assert_eq!(names.len(), 2);
        assert_eq!(&*names.name(64_501), "Northnet");
        assert_eq!(&*names.name(64_502), "South");
        assert_eq!(&*names.name(64_503), "AS64503");
    }

    #[test]
    fn every_mistake_names_file_and_line() {
        for (text, expected) in [
            ("name,asn\n", "isps.csv:1: the first line must be asn,name"),
            ("asn,name\nx,Y\n", "isps.csv:2: `x` is no asn"),
            ("asn,name\n1,\n", "isps.csv:2: AS1 has no name"),
            (
                "asn,name\n1,A\n\n1,B\n",
                "isps.csv:4: AS1 is called A already",
            ),
            (
                "asn,name\n1,A,B\n",
                "isps.csv:2: 3 fields where the first line has 2",
            ),
        ] {
            let message = parse(text).expect_err("must be refused");
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
