//! Prometheus' view: the counters of the `status` records, and how often each verdict was given.
//!
//! Names and base units as Prometheus wants them: `lastmile_` before every name, `_total` behind
//! every counter. Labels are words of the schema, never a prefix or an address, so that their
//! number is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Record;
use super::record::VerdictRecord;
use crate::verdict::log_name;

/// The content type of [`Metrics::text`] (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of [`Metrics::plain_text`] (Prometheus' own text format).
pub const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Entries of a status record that say how much there is, and not how much there was.
const GAUGES: [&str; 17] = [
    "admitted_one_in",
    "bmp_attribute_bytes",
    "bmp_peers",
    "bmp_routers",
    "bmp_routers_connected",
    "bmp_routers_stale",
    "bmp_routes",
    "fib_routes",
    "fib_stale",
    "flows_live",
    "flows_open",
    "flows_waiting",
    "route_prefixes_bmp",
    "route_prefixes_file",
    "route_prefixes_followed",
    "route_prefixes_mrt",
    "route_sources_stale",
];

/// What was recorded so far.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// By their names in the last `status` record.
    counters: BTreeMap<String, u64>,
    /// Verdicts by what they name.
    verdicts: BTreeMap<String, u64>,
    /// End of the last window, µs since 1970; 0 before the first.
    window_end_us: u64,
    /// Length of that window, s; 0 before the first.
    window_s: u32,
}

impl Metrics {
    /// Takes a record on its way to the log.
    pub fn note(&mut self, record: &Record) {
        match record {
            Record::Status(status) => {
                self.counters.clone_from(&status.counters);
                self.window_end_us = status.time.0;
            }
            Record::Verdict(verdict) => {
                *self.verdicts.entry(outcome(verdict)).or_default() += 1;
                self.window_s = verdict.window_s;
            }
            _ => {}
        }
    }

    /// End and length of the last window, µs since 1970 and s; `None` before the first.
    pub fn last_window(&self) -> Option<(u64, u32)> {
        (self.window_s > 0).then_some((self.window_end_us, self.window_s))
    }

    /// All of it in the text format of OpenMetrics 1.0.
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("lastmile");
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes everything");
        text
    }

    /// The same in Prometheus' own text format, for whoever does not ask for OpenMetrics.
    pub fn plain_text(&self) -> String {
        plain(&self.text())
    }
}

/// OpenMetrics as Prometheus' older text format: there a counter's `_total` is a part of its name,
/// also in what is said about it, and units and the end are not marked.
fn plain(text: &str) -> String {
    let about = |line: &str| {
        let (word, rest) = line.strip_prefix("# ")?.split_once(' ')?;
        let (name, said) = rest.split_once(' ')?;
        Some((word.to_owned(), name.to_owned(), said.to_owned()))
    };
    let counters: BTreeSet<String> = text
        .lines()
        .filter_map(about)
        .filter(|(word, _, said)| word == "TYPE" && said == "counter")
        .map(|(_, name, _)| name)
        .collect();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        match about(line) {
            Some((word, ..)) if word == "UNIT" => continue,
            Some((word, name, said)) if counters.contains(&name) => {
                plain += &format!("# {word} {name}_total {said}");
            }
            _ => plain += line,
        }
        plain.push('\n');
    }
    plain
}

/// What a verdict comes to, in one word of the schema.
fn outcome(verdict: &VerdictRecord) -> String {
    match (verdict.segments.as_slice(), verdict.limits.first()) {
        _ if verdict.inconclusive.is_some() => "inconclusive".to_owned(),
        ([], Some(limit)) => log_name(*limit),
        ([], None) => "none".to_owned(),
        ([segment], _) => log_name(*segment),
        _ => "undecided".to_owned(),
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = ConstGauge::new(1i64);
        let mut metric = encoder.encode_descriptor(
            "build_info",
            "The version that runs; always 1",
            None,
            build.metric_type(),
        )?;
        build.encode(metric.encode_family(&version)?)?;

        let end = ConstGauge::new(self.window_end_us as f64 / 1e6);
        let metric = encoder.encode_descriptor(
            "window_end_timestamp",
            "End of the last window that was judged",
            Some(&Unit::Seconds),
            end.metric_type(),
        )?;
        end.encode(metric)?;

        for (name, value) in &self.counters {
            let help = format!("{name} of the status record");
            if GAUGES.contains(&name.as_str()) {
                let gauge = ConstGauge::new(*value as f64);
                let metric = encoder.encode_descriptor(name, &help, None, gauge.metric_type())?;
                gauge.encode(metric)?;
            } else {
                let counter = ConstCounter::new(*value);
                let metric = encoder.encode_descriptor(name, &help, None, counter.metric_type())?;
                counter.encode(metric)?;
            }
        }

        let counter = ConstCounter::new(0u64);
        let mut metric = encoder.encode_descriptor(
            "verdicts",
            "Verdicts, one or more a window, by what they name",
            None,
            counter.metric_type(),
        )?;
        for (outcome, count) in &self.verdicts {
            let labels = [("outcome", outcome.as_str())];
            ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::record::StatusRecord;

    #[test]
    fn counters_and_gauges_have_the_names_that_prometheus_wants() {
        let mut metrics = Metrics::default();
        let counters = [("flows_live", 3), ("reports_lost", 7)];
        let counters = counters.map(|(name, value)| (name.to_owned(), value));
        metrics.note(&Record::Status(Box::new(StatusRecord::new(
            "h", 1_500_000, 0, counters,
        ))));
        let text = metrics.text();
        for line in [
            "# TYPE lastmile_reports_lost counter",
            "lastmile_reports_lost_total 7",
            "lastmile_flows_live 3.0",
            "lastmile_window_end_timestamp_seconds 1.5",
            concat!(
                "lastmile_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            assert!(text.lines().any(|there| there == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let plain = metrics.plain_text();
        for line in [
            "# TYPE lastmile_reports_lost_total counter",
            "lastmile_reports_lost_total 7",
            "# TYPE lastmile_flows_live gauge",
            "lastmile_flows_live 3.0",
        ] {
            assert!(plain.lines().any(|there| there == line), "{line}\n{plain}");
        }
        assert!(!plain.contains("# EOF") && !plain.contains("# UNIT"));
    }

    /// Every name that a daemon's status has is one that Prometheus' own linter has no word
    /// against.
    #[test]
    fn promtool_has_nothing_to_say() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};

        let mut metrics = Metrics::default();
        let names = monitor_ebpf::counters::COUNTER_NAMES;
        let counters = names.iter().copied().chain(GAUGES).zip(1..);
        let counters = counters.map(|(name, value)| (name.to_owned(), value));
        let status = StatusRecord::new("h", 1_500_000, 0, counters);
        metrics.note(&Record::Status(Box::new(status)));
        let started = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = started else {
            println!(
                "SKIPPED: no promtool (Debian package prometheus; `cargo xtask test` gets it)"
            );
            return;
        };
        let mut stdin = promtool.stdin.take().expect("a pipe");
        let text = metrics.plain_text();
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        let output = promtool.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{text}");
    }
}
