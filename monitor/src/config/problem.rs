//! What is wrong with a configuration file, said so that it can be put right.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ranges::Mistake;

/// A configuration that cannot be used. Its `Display` is complete: file, line, the line itself
/// with a caret, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    file: PathBuf,
    message: String,
    excerpt: Option<Excerpt>,
}

/// The place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// Characters marked by the caret.
    width: usize,
    text: String,
}

impl Problem {
    pub(super) fn unreadable(file: &Path, error: &io::Error) -> Self {
        Self {
            file: file.to_owned(),
            message: format!("cannot be read: {error}; name another file with --config FILE"),
            excerpt: None,
        }
    }

    pub(super) fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        Self {
            file: file.to_owned(),
            message: error.message().to_owned(),
            excerpt: error.span().map(|span| Excerpt::new(text, span)),
        }
    }

    /// `mistake` at the place of its value, or of its section where the key is not written.
    pub(super) fn at_key(file: &Path, text: &str, mistake: &Mistake) -> Self {
        let name = mistake.key.join(".");
        Self {
            file: file.to_owned(),
            message: format!("{name} must be {}", mistake.right),
            excerpt: span_of(text, mistake.key).map(|span| Excerpt::new(text, span)),
        }
    }
}

/// Where the value of `key` stands in `text`; the innermost table that is written if it is not.
fn span_of(text: &str, key: &[&str]) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let mut table: &DeTable<'_> = document.get_ref();
    let mut found = None;
    for part in key {
        let value: &Spanned<DeValue<'_>> = match table.get(*part) {
            Some(value) => value,
            None => return found,
        };
        found = Some(value.span());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return found,
        }
    }
    found
}

impl Excerpt {
    fn new(text: &str, span: Range<usize>) -> Self {
        let start = span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = span.end.clamp(start, line_end);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end].chars().count().max(1),
            text: text[line_start..line_end].trim_end().to_owned(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        let Some(at) = &self.excerpt else {
            return write!(f, "{file}: {}", self.message);
        };
        let number = at.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs are kept so that the caret stands under its character in any tab width.
        let indent: String = at
            .text
            .chars()
            .take(at.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        write!(
            f,
            "{file}:{}:{}: {}\n{margin} |\n{number} | {}\n{margin} | {indent}{}",
            at.line,
            at.column,
            self.message,
            at.text,
            "^".repeat(at.width)
        )
    }
}
