//! The verdict lines of the daemon's log, as far as the lab reads them.

use std::fmt;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Deserialize;

/// One verdict, from one line of the log. Unknown keys are the schema's affair, not the lab's.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Verdict {
    /// When the window it is about began, RFC 3339.
    pub window_start: String,
    /// How long that window is, in seconds.
    pub window_s: f64,
    /// The interconnect it is about, where it is about one.
    pub interconnect: Option<String>,
    /// The ISP it is about, where it is about one.
    pub isp: Option<String>,
    /// The client prefix it is about, where it is about one.
    pub prefix: Option<String>,
    /// Whether anything is worse than it should be.
    pub degraded: Option<bool>,
    /// The segments that remain possible.
    #[serde(default)]
    pub segments: Vec<String>,
    /// What is not the network.
    #[serde(default)]
    pub limits: Vec<String>,
    /// From 0 to 1.
    pub confidence: Option<f64>,
    /// What speaks for it.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
}

/// One piece of a verdict's evidence.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Evidence {
    /// What was measured, with its unit last.
    pub kind: String,
    /// Whom or what it was measured on, where that is not the verdict's own place.
    pub about: Option<String>,
    /// Which segment or limit it speaks for.
    pub supports: Option<String>,
    /// What came out.
    pub value: Option<f64>,
    /// What it was held against.
    pub threshold: Option<f64>,
    /// How many measurements it rests on.
    pub samples: Option<u64>,
}

/// A set of more segments than this says nothing that its size does not say.
const SET_SHOWN_MAX: usize = 3;

impl Verdict {
    /// Reads a line of the log; `None` if it is of another type.
    ///
    /// # Errors
    /// If the line is no JSON object with a `type`, or a verdict without a verdict's fields.
    pub fn from_line(line: &str) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Typed {
            r#type: String,
        }
        let typed: Typed = serde_json::from_str(line)
            .with_context(|| format!("not a line of lastmile's log: {line}"))?;
        if typed.r#type != "verdict" {
            return Ok(None);
        }
        serde_json::from_str(line)
            .map(Some)
            .with_context(|| format!("a verdict that is none: {line}"))
    }

    /// When its window began.
    ///
    /// # Errors
    /// If `window_start` is not RFC 3339.
    pub fn window_begin(&self) -> Result<SystemTime> {
        humantime::parse_rfc3339(&self.window_start)
            .with_context(|| format!("window_start {:?} is no RFC 3339 time", self.window_start))
    }

    /// What it says: the set of segments, or that nothing can be named, or that nothing is wrong.
    #[must_use]
    pub fn says(&self) -> String {
        let mut segments = self.segments.clone();
        segments.sort();
        match (self.degraded == Some(true), segments.as_slice()) {
            (false, _) => "nothing wrong".to_owned(),
            (true, []) if self.limits.is_empty() => "cannot tell".to_owned(),
            (true, []) => self.limits.join(" and "),
            (true, [one]) => one.clone(),
            (true, few) if few.len() <= SET_SHOWN_MAX => format!("{{{}}}", few.join(", ")),
            (true, many) => format!("{{one of {} segments}}", many.len()),
        }
    }

    /// What it is about: interconnect, ISP and prefix, as far as it says.
    #[must_use]
    pub fn place(&self) -> String {
        let parts = [&self.interconnect, &self.isp, &self.prefix];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        parts.join(" ")
    }

    /// The piece of evidence that goes furthest beyond its threshold, among those that support
    /// what is said.
    #[must_use]
    pub fn main_evidence(&self) -> Option<&Evidence> {
        let supports = |evidence: &&Evidence| {
            let what = evidence.supports.as_ref();
            what.is_some_and(|what| self.segments.contains(what) || self.limits.contains(what))
        };
        self.evidence
            .iter()
            .filter(supports)
            .max_by(|a, b| a.excess().total_cmp(&b.excess()))
    }
}

impl Evidence {
    fn excess(&self) -> f64 {
        match (self.value, self.threshold) {
            (Some(value), Some(threshold)) if threshold > 0.0 => value / threshold,
            _ => 0.0,
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit, scale) = readable_unit(&self.kind);
        f.write_str(&name.replace('_', " "))?;
        if let Some(about) = &self.about {
            write!(f, " of {about}")?;
        }
        if let Some(value) = self.value {
            write!(f, " {}{unit}", rounded(value * scale))?;
        }
        if let Some(threshold) = self.threshold {
            write!(f, " (threshold {}{unit}", rounded(threshold * scale))?;
            if let Some(samples) = self.samples {
                write!(f, ", {samples} samples")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// From a field's name with its unit last to words, a unit for people and the factor between.
fn readable_unit(kind: &str) -> (&str, &'static str, f64) {
    let units = [
        ("_us", " ms", 1e-3),
        ("_bps", " Mbit/s", 1e-6),
        ("_share", " %", 100.0),
        ("_ratio", " %", 100.0),
    ];
    for (suffix, unit, scale) in units {
        if let Some(name) = kind.strip_suffix(suffix) {
            return (name, unit, scale);
        }
    }
    (kind, "", 1.0)
}

fn rounded(value: f64) -> String {
    if value.abs() >= 10.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_types_are_passed_over() {
        let line = r#"{"schema":"lastmile/1","type":"flow","flow_id":"1"}"#;
        assert!(Verdict::from_line(line).unwrap().is_none());
    }

    #[test]
    fn a_line_that_is_no_json_is_an_error_that_shows_it() {
        let error = Verdict::from_line("hello").unwrap_err().to_string();
        assert!(error.contains("hello"), "{error}");
    }

    #[test]
    fn evidence_is_told_in_units_people_read() {
        let evidence = Evidence {
            kind: "queue_excess_p50_us".to_owned(),
            about: None,
            supports: None,
            value: Some(71_300.0),
            threshold: Some(5_000.0),
            samples: Some(812),
        };
        assert_eq!(
            evidence.to_string(),
            "queue excess p50 71 ms (threshold 5 ms, 812 samples)"
        );
    }

    #[test]
    fn the_main_evidence_supports_what_is_said_and_exceeds_most() {
        let evidence = |kind: &str, supports: &str, value| Evidence {
            kind: kind.to_owned(),
            about: None,
            supports: Some(supports.to_owned()),
            value: Some(value),
            threshold: Some(1.0),
            samples: None,
        };
        let verdict = Verdict {
            segments: vec!["isp".to_owned()],
            evidence: vec![
                evidence("a", "isp", 2.0),
                evidence("b", "isp", 3.0),
                evidence("c", "host", 9.0),
            ],
            ..Verdict::default()
        };
        assert_eq!(verdict.main_evidence().unwrap().kind, "b");
    }
}
