//! Which video service a server name belongs to: a list of suffixes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use super::host_name;

/// The list that comes with the program; `[video] services_csv` replaces it.
static BUILT_IN: &str = include_str!("../../../packaging/video-services.csv");

/// Longest service name in the log.
const SERVICE_MAX: usize = 64;

/// Video services by the names of their servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    by_suffix: Arc<HashMap<Box<str>, Arc<str>>>,
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("cannot read {path}: {error}")]
    Unreadable { path: String, error: std::io::Error },
    #[error("{path}, line {line}: {problem}")]
    Wrong {
        path: String,
        line: u64,
        problem: String,
    },
}

impl Services {
    /// The list that comes with the program.
    pub fn built_in() -> Self {
        static LIST: LazyLock<Services> = LazyLock::new(|| {
            Services::parse(BUILT_IN, Path::new("packaging/video-services.csv"))
                .expect("a unit test reads it")
        });
        LIST.clone()
    }

    /// Reads the list at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, ListError> {
        let text = std::fs::read_to_string(path).map_err(|error| ListError::Unreadable {
            path: path.display().to_string(),
            error,
        })?;
        Self::parse(&text, path)
    }

    /// Lines of `suffix,service` under that header; `#` begins a comment. `path` is only named
    /// in errors.
    ///
    /// # Errors
    /// When a line is wrong: a suffix that is no host name, no service, a suffix twice.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ListError> {
        let wrong = |line: u64, problem: String| ListError::Wrong {
            path: path.display().to_string(),
            line,
            problem,
        };
        let mut reader = csv::ReaderBuilder::new()
            .comment(Some(b'#'))
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let header = reader
            .headers()
            .map_err(|error| wrong(1, error.to_string()))?;
        if header != ["suffix", "service"][..] {
            return Err(wrong(1, "the header line is suffix,service".to_owned()));
        }
        let mut by_suffix = HashMap::new();
        for row in reader.records() {
            let row = row.map_err(|error| {
                let line = error.position().map_or(0, csv::Position::line);
                wrong(line, error.to_string())
            })?;
            let line = row.position().map_or(0, csv::Position::line);
            let (suffix, service) = (&row[0], &row[1]);
            let suffix = suffix.strip_prefix('.').unwrap_or(suffix);
            let Some(suffix) = host_name(suffix.as_bytes()) else {
                let problem =
                    format!("`{suffix}` is no suffix of a host name, such as cdn.example");
                return Err(wrong(line, problem));
            };
            if service.is_empty() || service.len() > SERVICE_MAX {
                let problem = format!("a service has a name of 1 to {SERVICE_MAX} bytes");
                return Err(wrong(line, problem));
            }
            let service: Arc<str> = service.into();
            if by_suffix.insert(suffix.clone().into(), service).is_some() {
                return Err(wrong(line, format!("{suffix} is in the list twice")));
            }
        }
        Ok(Self {
            by_suffix: Arc::new(by_suffix),
        })
    }

    /// The service of the longest suffix of `name` that is listed, at a dot. `name` is in lower
    /// case.
    pub fn of(&self, name: &str) -> Option<&Arc<str>> {
        let mut rest = name;
        loop {
            if let Some(service) = self.by_suffix.get(rest) {
                return Some(service);
            }
            (_, rest) = rest.split_once('.')?;
        }
    }

    /// How many suffixes there are.
    pub fn len(&self) -> usize {
        self.by_suffix.len()
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.by_suffix.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Services, String> {
        Services::parse(text, Path::new("list.csv")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_longest_suffix_wins_at_a_dot() {
        let list = parse("# ours\nsuffix,service\ncdn.example, One\n.live.cdn.example,Two\n")
            .expect("a list");
        let of = |name| list.of(name).map(|service| &**service);
        assert_eq!(of("cdn.example"), Some("One"));
        assert_eq!(of("a.b.cdn.example"), Some("One"));
        assert_eq!(of("a.live.cdn.example"), Some("Two"));
        assert_eq!(of("notcdn.example"), None);
        assert_eq!(of("example"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, error) in [
            (
                "suffix;service\n",
                "list.csv, line 1: the header line is suffix,service",
            ),
            (
                "suffix,service\na b,X\n",
                "list.csv, line 2: `a b` is no suffix",
            ),
            (
                "suffix,service\na.b,\n",
                "list.csv, line 2: a service has a name",
            ),
            (
                "suffix,service\n\n#\na.b,X\nA.b,Y\n",
                "list.csv, line 5: a.b is in the list twice",
            ),
            ("suffix,service\na.b\n", "list.csv, line 2: "),
        ] {
            let said = parse(text).expect_err(text);
            assert!(said.starts_with(error), "{said}");
        }
    }

    #[test]
    fn the_built_in_list_is_right() {
        let list = Services::built_in();
        assert!(list.len() > 50);
        let service = list.of("rr3---sn-4g5e6nsz.googlevideo.com");
        assert_eq!(service.map(|service| &**service), Some("YouTube"));
        // A web search is no video.
        assert_eq!(list.of("www.google.com"), None);
    }
}
