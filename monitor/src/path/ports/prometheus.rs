//! Readings from a Prometheus that scrapes snmp_exporter (IF-MIB's names) or node_exporter.
//!
//! An instant query for a range (`ifHCOutOctets[90s]`) gives the scraped values with the times at
//! which they were scraped, so that a missing scrape is seen as what it is. An instant vector
//! would carry the time of the query, and the last value for five more minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;

use super::PortReading;

/// What is read: the name of a metric, and where its value goes.
type Put = fn(&mut PortReading, f64);

const METRICS: [(&str, Put); 18] = [
    ("ifHCOutOctets", |reading, value| {
        reading.out_octets = count(value)
    }),
    ("ifHCOutUcastPkts", |reading, value| {
        reading.out_packets = count(value)
    }),
    ("ifOutDiscards", |reading, value| {
        reading.out_drops = count(value)
    }),
    ("ifOutErrors", |reading, value| {
        reading.out_errors = count(value)
    }),
    ("ifHCInOctets", |reading, value| {
        reading.in_octets = count(value)
    }),
    ("ifInDiscards", |reading, value| {
        reading.in_drops = count(value)
    }),
    ("ifInErrors", |reading, value| {
        reading.in_errors = count(value)
    }),
    // Mbit/s; 0 where a port has no speed (a tunnel), or runs below one.
    ("ifHighSpeed", |reading, value| {
        reading.speed_bps = speed(value * 1e6)
    }),
    ("node_network_transmit_bytes_total", |reading, value| {
        reading.out_octets = count(value)
    }),
    ("node_network_transmit_packets_total", |reading, value| {
        reading.out_packets = count(value)
    }),
    ("node_network_transmit_drop_total", |reading, value| {
        reading.out_drops = count(value)
    }),
    ("node_network_transmit_errs_total", |reading, value| {
        reading.out_errors = count(value)
    }),
    ("node_network_receive_bytes_total", |reading, value| {
        reading.in_octets = count(value)
    }),
    ("node_network_receive_drop_total", |reading, value| {
        reading.in_drops = count(value)
    }),
    ("node_network_receive_errs_total", |reading, value| {
        reading.in_errors = count(value)
    }),
    // Bytes/s; -125000 where the driver does not tell.
    ("node_network_speed_bytes", |reading, value| {
        reading.speed_bps = speed(value * 8.0)
    }),
    // Older generators of snmp_exporter add the table's name.
    ("ifXTable_ifHCOutOctets", |reading, value| {
        reading.out_octets = count(value)
    }),
    ("ifXTable_ifHighSpeed", |reading, value| {
        reading.speed_bps = speed(value * 1e6)
    }),
];

/// Labels that may hold a port's name: snmp_exporter's, and node_exporter's.
const INTERFACE_LABELS: [&str; 4] = ["ifName", "ifDescr", "ifAlias", "device"];
/// Labels that may hold the device's: the target, or what relabelling made of it.
const DEVICE_LABELS: [&str; 7] = [
    "instance", "target", "sysName", "hostname", "host", "nodename", "router",
];

/// Values of one port and metric in one answer: a scrape a second for the longest range.
const MAX_VALUES: usize = 4_096;

fn count(value: f64) -> Option<u64> {
    (value.is_finite() && value >= 0.0).then_some(value as u64)
}

fn speed(value: f64) -> Option<u64> {
    count(value).filter(|&speed| speed > 0)
}

/// A port by the names under which Prometheus knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port<'a> {
    pub device: &'a str,
    pub interface: &'a str,
}

/// The PromQL queries that together bring everything about these ports of the last `range_s`
/// seconds: one for each label that may hold their names.
pub fn queries(ports: &[Port<'_>], range_s: u64) -> Vec<String> {
    let mut metrics: Vec<&str> = METRICS.iter().map(|(name, _)| *name).collect();
    metrics.sort_unstable();
    let names: BTreeSet<&str> = ports.iter().map(|port| port.interface).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = names.into_iter().map(escaped).collect();
    INTERFACE_LABELS
        .iter()
        .map(|label| {
            format!(
                "{{__name__=~\"{}\",{label}=~\"{}\"}}[{range_s}s]",
                metrics.join("|"),
                names.join("|")
            )
        })
        .collect()
}

/// `text` as it stands in a PromQL regular expression that matches just that (RE2, which
/// Prometheus anchors), inside of double quotes.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() || matches!(letter, '/' | '_' | '-' | ' ' | ':') {
            escaped.push(letter);
        } else {
            // By its code, so that neither the quotes nor the expression see it.
            let _ = write!(escaped, "\\\\x{{{:x}}}", u32::from(letter));
        }
    }
    escaped
}

/// Why an answer was of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadAnswer {
    #[error("it is not Prometheus's JSON: {0}")]
    NotPrometheus(#[from] serde_json::Error),
    #[error("it says {kind}: {message}")]
    Refused { kind: String, message: String },
    #[error("it holds a {0} where a {1} was asked for")]
    WrongType(String, &'static str),
}

#[derive(Deserialize)]
struct Response {
    status: String,
    data: Option<Body>,
    #[serde(default, rename = "errorType")]
    error_type: String,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    result_type: String,
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

fn body(answer: &str) -> Result<Body, BadAnswer> {
    let response: Response = serde_json::from_str(answer)?;
    match response.data {
        Some(body) if response.status == "success" => Ok(body),
        _ => Err(BadAnswer::Refused {
            kind: response.error_type,
            message: response.error,
        }),
    }
}

/// The answer to the query `time()`: Prometheus's own clock, µs since 1970.
pub fn parse_time(answer: &str) -> Result<u64, BadAnswer> {
    let body = body(answer)?;
    if body.result_type != "scalar" {
        return Err(BadAnswer::WrongType(body.result_type, "scalar"));
    }
    let (_, value): (f64, String) = serde_json::from_value(body.result)?;
    let seconds = value.parse::<f64>().ok().and_then(|it| count(it * 1e6));
    seconds.ok_or(BadAnswer::WrongType(
        "number out of range".to_owned(),
        "time",
    ))
}

/// Everything that answers to [`queries`] said about some ports.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Series by all of their labels: the queries overlap.
    series: BTreeMap<BTreeMap<String, String>, Vec<(f64, String)>>,
}

/// What was found of one port.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// By time, on Prometheus's clock.
    pub readings: Vec<PortReading>,
    /// Metrics of which two series may be the port's, so that none was taken.
    pub ambiguous: BTreeSet<&'static str>,
}

impl Gathered {
    /// Takes one answer.
    pub fn add(&mut self, answer: &str) -> Result<(), BadAnswer> {
        let body = body(answer)?;
        if body.result_type != "matrix" {
            return Err(BadAnswer::WrongType(body.result_type, "matrix"));
        }
        let series: Vec<Series> = serde_json::from_value(body.result)?;
        for Series { metric, mut values } in series {
            values.truncate(MAX_VALUES);
            self.series.insert(metric, values);
        }
        Ok(())
    }

    /// The readings of one port. A metric of which two series match is of nobody: it could be
    /// another port's.
    pub fn of(&self, port: &Port<'_>) -> Found {
        let mut found = Found::default();
        let mut by_time: BTreeMap<u64, PortReading> = BTreeMap::new();
        for (name, put) in METRICS {
            let mut matching = self
                .series
                .iter()
                .filter(|(labels, _)| labels.get("__name__").is_some_and(|it| it == name))
                .filter(|(labels, _)| is_port(labels, port));
            let Some((_, values)) = matching.next() else {
                continue;
            };
            if matching.next().is_some() {
                found.ambiguous.insert(name);
                continue;
            }
            for (seconds, value) in values {
                let time_us = count(seconds * 1e6);
                let (Some(time_us), Ok(value)) = (time_us, value.parse()) else {
                    continue;
                };
                let reading = by_time.entry(time_us).or_default();
                reading.time_us = time_us;
                put(reading, value);
            }
        }
        // A speed may be scraped apart, and holds until it is told again.
        let mut speed_bps = by_time.values().find_map(|reading| reading.speed_bps);
        for reading in by_time.values_mut() {
            speed_bps = reading.speed_bps.or(speed_bps);
            reading.speed_bps = speed_bps;
        }
        found.readings = by_time
            .into_values()
            .filter(|reading| reading.out_octets.is_some())
            .collect();
        found
    }
}

fn is_port(labels: &BTreeMap<String, String>, port: &Port<'_>) -> bool {
    let has = |names: &[&str], holds: &dyn Fn(&str) -> bool| {
        let mut values = names.iter().filter_map(|name| labels.get(*name));
        values.any(|value| holds(value))
    };
    let is_interface = has(&INTERFACE_LABELS, &|value| value == port.interface);
    // In node_exporter's words `device` is the interface.
    let is_node = labels
        .get("__name__")
        .is_some_and(|name| name.starts_with("node_"));
    let in_device_label = !is_node
        && labels
            .get("device")
            .is_some_and(|value| value == port.device);
    let is_device = in_device_label
        || has(&DEVICE_LABELS, &|value| {
            // A target is a host, with a port or without.
            value == port.device
                || value
                    .rsplit_once(':')
                    .is_some_and(|(host, _)| host.trim_matches(['[', ']']) == port.device)
        });
    is_interface && is_device
}
